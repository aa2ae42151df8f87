//! Strict decoding of an encoded image to 8-bit RGB.

use std::fmt;
use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::{LimitErrorKind, UnsupportedErrorKind};
use image::{DynamicImage, ImageDecoder, Limits, RgbImage};

use super::complete;
use super::error::ImageError;
use super::gif;
use super::jpeg;

/// Largest accepted number of pixels, the bound at which Pillow refuses an image as a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Room for the decoded pixels at up to 16 bits and four channels, and for the decoder's own tables.
const MAX_ALLOCATION: u64 = MAX_PIXELS * 8 + (64 << 20);

/// A format this module reads, recognised by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// Portable Network Graphics.
    Png,
    /// JPEG, baseline or progressive.
    Jpeg,
    /// Graphics Interchange Format; the first frame is taken.
    Gif,
    /// WebP, lossy or lossless; the first frame is taken.
    WebP,
}

impl ImageFormat {
    /// The format announced by the first bytes of a file, whatever the file is called.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// The registered media type, for example `image/png`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
        })
    }
}

/// Decodes a whole image file to RGB, as `open(..).convert("RGB")` of Pillow 12 does.
///
/// Transparency is dropped, not composited; palettes and greyscale are expanded; CMYK JPEG is read in the inverted
/// form that Adobe writes; EXIF orientation is ignored; an animation yields its first frame. `name` appears in every
/// error.
///
/// # Errors
/// A file that is empty, of another format, cut short, damaged, or larger than [`MAX_PIXELS`].
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty { name: name.to_owned() });
    }
    let format = ImageFormat::of(bytes)
        .ok_or_else(|| ImageError::UnknownFormat { name: name.to_owned(), start: hex_start(bytes) })?;
    complete::check(format, bytes).map_err(|missing| ImageError::Truncated {
        name: name.to_owned(),
        format,
        bytes: bytes.len(),
        missing,
    })?;
    let decoding = Decoding { name, format };
    match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, decoding),
        ImageFormat::Png => {
            let limits = decoding.limits();
            decoding.through(PngDecoder::with_limits(Cursor::new(bytes), limits))
        }
        ImageFormat::Gif => gif::decode(bytes, decoding),
        ImageFormat::WebP => decoding.through(WebPDecoder::new(Cursor::new(bytes))),
    }
}

fn hex_start(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// One decode in progress: what its errors must say.
#[derive(Clone, Copy)]
pub(super) struct Decoding<'a> {
    name: &'a str,
    format: ImageFormat,
}

impl Decoding<'_> {
    pub(super) fn corrupt(self, reason: impl fmt::Display) -> ImageError {
        ImageError::Corrupt { name: self.name.to_owned(), format: self.format, reason: reason.to_string() }
    }

    pub(super) fn check_size(self, width: u64, height: u64) -> Result<(), ImageError> {
        if width.saturating_mul(height) > MAX_PIXELS {
            return Err(ImageError::TooLarge { name: self.name.to_owned(), width, height, limit: MAX_PIXELS });
        }
        if width == 0 || height == 0 {
            return Err(self.corrupt(format_args!("its size is {width} x {height} pixels")));
        }
        Ok(())
    }

    fn limits(self) -> Limits {
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_ALLOCATION);
        limits
    }

    pub(super) fn through<D: ImageDecoder>(self, opened: image::ImageResult<D>) -> Result<RgbImage, ImageError> {
        let mut decoder = opened.map_err(|error| self.library(error))?;
        let (width, height) = decoder.dimensions();
        self.check_size(u64::from(width), u64::from(height))?;
        decoder.set_limits(self.limits()).map_err(|error| self.library(error))?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(|error| self.library(error))?;
        Ok(to_rgb8(decoded))
    }

    fn library(self, error: image::ImageError) -> ImageError {
        match error {
            image::ImageError::Unsupported(unsupported) => match unsupported.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => {
                    self.corrupt(format_args!("it uses {feature}, which is not supported"))
                }
                _ => self.corrupt(unsupported),
            },
            image::ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory) => {
                self.corrupt("decoding it would need more memory than its size justifies")
            }
            other => self.corrupt(other),
        }
    }
}

/// Drops alpha, repeats grey, and keeps the high byte of 16-bit samples. Those of plain grey saturate instead, as in
/// Pillow 12, so that almost every such picture turns white.
fn to_rgb8(decoded: DynamicImage) -> RgbImage {
    let high = |sample: u16| (sample >> 8) as u8;
    match decoded {
        DynamicImage::ImageLuma16(grey) => map_pixels(&grey, |p| [p.0[0].min(255) as u8; 3]),
        DynamicImage::ImageLumaA16(grey) => map_pixels(&grey, |p| [high(p.0[0]); 3]),
        DynamicImage::ImageRgb16(rgb) => map_pixels(&rgb, |p| [high(p.0[0]), high(p.0[1]), high(p.0[2])]),
        DynamicImage::ImageRgba16(rgb) => map_pixels(&rgb, |p| [high(p.0[0]), high(p.0[1]), high(p.0[2])]),
        other => other.into_rgb8(),
    }
}

fn map_pixels<P, C>(source: &image::ImageBuffer<P, C>, rgb: impl Fn(&P) -> [u8; 3]) -> RgbImage
where
    P: image::Pixel,
    C: std::ops::Deref<Target = [P::Subpixel]>,
{
    RgbImage::from_fn(source.width(), source.height(), |x, y| image::Rgb(rgb(source.get_pixel(x, y))))
}
