//! The image processor: one configuration, from a file to normalised planes.

use std::path::Path;

use image::RgbImage;
use serde_json::Value;

use super::decode::decode;
use super::error::{ImageError, ProcessorError};
use super::geometry::{GeometryMode, centre_crop, check_size, pad_to_square, shortest_edge_size};
use super::processor_config;
use super::resample::{Window, resize_bicubic, resize_bicubic_window};

/// Mean and standard deviation per channel, on the scale of the rescaled pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStats {
    /// Mean of red, green, blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green, blue.
    pub std: [f32; 3],
}

impl ChannelStats {
    /// The statistics of OpenAI's CLIP.
    pub const CLIP: Self =
        Self { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_6, 0.275_777_1] };
    /// The statistics of SigLIP.
    pub const SIGLIP: Self = Self { mean: [0.5; 3], std: [0.5; 3] };
}

/// The size that a picture gets before its centre is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    /// The picture keeps its size.
    Never,
    /// New length of the shorter edge; the longer one follows.
    ShortestEdge(u32),
    /// Both edges: the picture is distorted.
    Exactly {
        /// New width.
        width: u32,
        /// New height.
        height: u32,
    },
}

/// What the configuration itself does to a picture, before any mode override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Resize, then crop the centre.
    Crop {
        /// The size before the crop.
        resize: Resize,
        /// Side of the square that is cut.
        side: u32,
    },
    /// Resize straight to a square.
    Exact {
        /// Side of the square.
        side: u32,
    },
}

/// Turns pictures into what a vision tower reads: `[3, size, size]` planes of `(x * rescale - mean) / std`.
///
/// Read from and written to `preprocessor_config.json` in the dialects of CLIP and SigLIP.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    pub(super) fit: Fit,
    pub(super) mode: GeometryMode,
    pub(super) rescale: Option<f64>,
    pub(super) stats: ChannelStats,
    pub(super) normalize: bool,
}

impl ImageProcessor {
    /// The CLIP processor at `side` pixels: shorter edge to `side`, centre crop, CLIP statistics.
    pub fn clip(side: u32) -> Self {
        Self {
            fit: Fit::Crop { resize: Resize::ShortestEdge(side), side },
            mode: GeometryMode::Square,
            rescale: Some(1.0 / 255.0),
            stats: ChannelStats::CLIP,
            normalize: true,
        }
    }

    /// The SigLIP processor at `side` pixels: direct resize, mean and deviation 0.5.
    pub fn siglip(side: u32) -> Self {
        Self { fit: Fit::Exact { side }, mode: GeometryMode::Resize, stats: ChannelStats::SIGLIP, ..Self::clip(side) }
    }

    /// The same processor with other channel statistics.
    #[must_use]
    pub fn with_stats(self, stats: ChannelStats) -> Self {
        Self { stats, ..self }
    }

    /// The same processor with the aspect ratio dealt with as `mode` says, whatever its file says.
    #[must_use]
    pub fn with_mode(self, mode: GeometryMode) -> Self {
        Self { mode, ..self }
    }

    /// The same processor with what its own file does, for readers that are told of the mode elsewhere.
    #[must_use]
    pub fn without_mode(self) -> Self {
        match self.fit {
            Fit::Crop { .. } => self.with_mode(GeometryMode::Square),
            Fit::Exact { .. } => self.with_mode(GeometryMode::Resize),
        }
    }

    /// Whether [`ImageProcessor::to_json`] says all of it. A picture that is squashed, resized once more and then cut
    /// needs a mode beside the file.
    pub fn is_whole_in_json(&self) -> bool {
        let settled = |resize, side| match resize {
            Resize::Never => true,
            Resize::ShortestEdge(edge) => edge == side,
            Resize::Exactly { width, height } => (width, height) == (side, side),
        };
        match (self.mode, self.fit) {
            (GeometryMode::Resize, Fit::Crop { resize, side }) => settled(resize, side),
            _ => true,
        }
    }

    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// The file is missing, is not JSON, or asks for something unsupported; the field is named.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ProcessorError> {
        let path = path.as_ref();
        let text = vila_files::read_to_string(path, vila_files::MAX_CONFIG)
            .map_err(|source| ProcessorError::Read { path: path.to_owned(), source })?;
        let file = path.display().to_string();
        let config =
            serde_json::from_str(&text).map_err(|source| ProcessorError::Json { file: file.clone(), source })?;
        Self::from_json(&config, &file)
    }

    /// Reads the content of a `preprocessor_config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// As [`ImageProcessor::from_file`].
    pub fn from_json(config: &Value, file: &str) -> Result<Self, ProcessorError> {
        processor_config::read(config, file)
    }

    /// The content of a `preprocessor_config.json` that reads back as this processor, if it
    /// [is whole](ImageProcessor::is_whole_in_json).
    pub fn to_json(&self) -> Value {
        processor_config::write(self)
    }

    /// Side of the square output in pixels.
    pub fn size(&self) -> usize {
        self.side() as usize
    }

    /// How the aspect ratio is dealt with.
    pub fn mode(&self) -> GeometryMode {
        self.mode
    }

    /// The channel statistics.
    pub fn stats(&self) -> ChannelStats {
        self.stats
    }

    /// Colour of the canvas in [`GeometryMode::Pad`]: the mean, truncated to a byte.
    pub fn fill(&self) -> [u8; 3] {
        self.stats.mean.map(|mean| (f64::from(mean) * 255.0) as u8)
    }

    fn side(&self) -> u32 {
        match self.fit {
            Fit::Crop { side, .. } | Fit::Exact { side } => side,
        }
    }

    /// The picture as 8-bit RGB, `size` x `size` pixels: everything up to, and without, the normalisation.
    pub fn geometry(&self, picture: &RgbImage) -> RgbImage {
        let side = self.side();
        match (self.mode, self.fit) {
            (GeometryMode::Pad, _) => self.fitted(&pad_to_square(picture, self.fill())),
            (GeometryMode::Resize, Fit::Crop { .. }) => self.fitted(&resize_bicubic(picture, side, side)),
            _ => self.fitted(picture),
        }
    }

    fn fitted(&self, picture: &RgbImage) -> RgbImage {
        match self.fit {
            Fit::Exact { side } => resize_bicubic(picture, side, side),
            Fit::Crop { resize, side } => match resize {
                Resize::Never => centre_crop(picture, side),
                Resize::ShortestEdge(short) => {
                    resize_and_crop(picture, shortest_edge_size(picture.dimensions(), short), side)
                }
                Resize::Exactly { width, height } => resize_and_crop(picture, (width, height), side),
            },
        }
    }

    /// The picture as `3 * size * size` normalised values: red plane, green plane, blue plane, rows from the top.
    pub fn process(&self, picture: &RgbImage) -> Vec<f32> {
        let fitted = self.geometry(picture);
        let tables = [0, 1, 2].map(|channel| self.table(channel));
        let plane = self.size() * self.size();
        let mut values = vec![0.0; 3 * plane];
        let (red, rest) = values.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in fitted.pixels().zip(planes) {
            *red = tables[0][usize::from(pixel.0[0])];
            *green = tables[1][usize::from(pixel.0[1])];
            *blue = tables[2][usize::from(pixel.0[2])];
        }
        values
    }

    /// The normalised value of each of the 256 levels of one channel.
    fn table(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.stats.mean[channel], self.stats.std[channel]);
        std::array::from_fn(|level| {
            let scaled = self.rescale.map_or(level as f32, |factor| (level as f64 * factor) as f32);
            if self.normalize { (scaled - mean) / std } else { scaled }
        })
    }

    /// Decodes an encoded image and processes it; `name` appears in errors.
    ///
    /// # Errors
    /// As [`decode`], and as [`check_size`] in [`GeometryMode::Pad`].
    pub fn decode_and_process(&self, bytes: &[u8], name: &str) -> Result<Vec<f32>, ImageError> {
        let picture = decode(bytes, name)?;
        if self.mode == GeometryMode::Pad {
            check_size(picture.width(), picture.height(), name)?;
        }
        Ok(self.process(&picture))
    }

    /// Reads, decodes and processes an image file.
    ///
    /// # Errors
    /// The file cannot be read, or as [`decode`].
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Vec<f32>, ImageError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match vila_files::read(path, vila_files::MAX_IMAGE) {
            Ok(bytes) => self.decode_and_process(&bytes, &name),
            Err(source) => Err(ImageError::Read { name, source }),
        }
    }
}

/// Resizes and cuts the central `side` x `side` pixels; only what is kept is computed.
fn resize_and_crop(picture: &RgbImage, (width, height): (u32, u32), side: u32) -> RgbImage {
    let window = Window {
        x: width.saturating_sub(side) / 2,
        y: height.saturating_sub(side) / 2,
        width: side.min(width),
        height: side.min(height),
    };
    let kept = resize_bicubic_window(picture, (width, height), window);
    if kept.dimensions() == (side, side) { kept } else { centre_crop(&kept, side) }
}
