//! `preprocessor_config.json`, in the dialects of CLIP and SigLIP.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::ProcessorError;
use super::geometry::GeometryMode;
use super::processor::{ChannelStats, Fit, ImageProcessor, Resize};
use crate::config::keys::SettingsFile;

/// Pillow's number for the bicubic filter.
const BICUBIC: u64 = 3;
/// Larger sides are a mistake in the file, not an image tower.
const MAX_SIDE: u64 = 16_384;

/// The processors of transformers that are read, each with its own defaults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Crops unless told otherwise, never pads.
    Clip,
    /// Neither crops nor pads.
    Siglip,
    /// As CLIP's, with `do_pad`.
    Llava,
    /// The file does not say; it must say the rest.
    Unnamed,
}

/// The side of the crop that a file of CLIP's processor leaves out.
const USUAL_CROP: u32 = 224;

impl Family {
    fn of(config: &Fields<'_>) -> Result<Self, ProcessorError> {
        let named = |key| Some((key, config.get(key)?));
        let Some((key, value)) = named("image_processor_type").or_else(|| named("feature_extractor_type")) else {
            return Ok(Self::Unnamed);
        };
        let name = value.as_str().unwrap_or_default();
        let plain = ["Fast", "Pil"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        match plain {
            "CLIPImageProcessor" | "CLIPFeatureExtractor" => Ok(Self::Clip),
            "SiglipImageProcessor" => Ok(Self::Siglip),
            "LlavaImageProcessor" => Ok(Self::Llava),
            _ => Err(config.error(
                key,
                format!("is {value}, which is not implemented"),
                "use CLIPImageProcessor, SiglipImageProcessor or LlavaImageProcessor",
            )),
        }
    }

    fn stats(self) -> Option<ChannelStats> {
        match self {
            Self::Clip | Self::Llava => Some(ChannelStats::CLIP),
            Self::Siglip => Some(ChannelStats::SIGLIP),
            Self::Unnamed => None,
        }
    }
}

pub(super) fn read(config: &Value, file: &str) -> Result<ImageProcessor, ProcessorError> {
    let Some(map) = config.as_object() else {
        return Err(Fields::error_in(file, "(whole file)", "is not a JSON object", RESTORE));
    };
    let fields = Fields { map, file };
    let entries = map.iter().map(|(key, value)| (key.as_str(), value));
    SettingsFile::Preprocessor.check(Path::new(file), entries).map_err(|(key, problem)| ProcessorError::Field {
        file: file.to_owned(),
        field: key.to_owned(),
        problem,
        cure: "remove it if the images were processed without it",
    })?;
    let family = Family::of(&fields)?;
    fields.check_filter()?;
    let resizes = fields.flag("do_resize")?.unwrap_or(true);
    let crops = match (family, fields.flag("do_center_crop")?) {
        (Family::Siglip, _) => false,
        (Family::Unnamed, flag) => flag.unwrap_or(map.contains_key("crop_size")),
        (Family::Clip | Family::Llava, flag) => flag.unwrap_or(true),
    };
    let fit = if crops { fields.cropping(resizes, family)? } else { fields.exact(resizes, family)? };
    let pads = fields.flag("do_pad")?.unwrap_or(false) && matches!(family, Family::Llava | Family::Unnamed);
    let rescale = match fields.flag("do_rescale")?.unwrap_or(true) {
        true => Some(fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0)),
        false => None,
    };
    let normalize = fields.flag("do_normalize")?.unwrap_or(true);
    let stats = fields.stats(family.stats(), normalize)?;
    let mode = match (pads, fit) {
        (true, _) => GeometryMode::Pad,
        (false, Fit::Crop { .. }) => GeometryMode::Square,
        (false, Fit::Exact { .. }) => GeometryMode::Resize,
    };
    Ok(ImageProcessor { fit, mode, rescale, stats, normalize })
}

pub(super) fn write(processor: &ImageProcessor) -> Value {
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    let fit = match (processor.mode, processor.fit) {
        // A squashed picture is as large as the crop.
        (GeometryMode::Resize, Fit::Crop { side, .. }) => Fit::Exact { side },
        (_, fit) => fit,
    };
    let pads = processor.mode == GeometryMode::Pad;
    put(
        "image_processor_type",
        json!(match fit {
            // The only one that pads to a square.
            _ if pads => "LlavaImageProcessor",
            Fit::Crop { .. } => "CLIPImageProcessor",
            Fit::Exact { .. } => "SiglipImageProcessor",
        }),
    );
    match fit {
        Fit::Crop { resize, side } => {
            put("do_resize", json!(resize != Resize::Never));
            put(
                "size",
                match resize {
                    Resize::Never => json!({ "shortest_edge": side }),
                    Resize::ShortestEdge(edge) => json!({ "shortest_edge": edge }),
                    Resize::Exactly { width, height } => json!({ "height": height, "width": width }),
                },
            );
            put("do_center_crop", json!(true));
            put("crop_size", json!({ "height": side, "width": side }));
        }
        Fit::Exact { side } => {
            put("do_resize", json!(true));
            put("size", json!({ "height": side, "width": side }));
            put("do_center_crop", json!(false));
        }
    }
    if pads {
        put("do_pad", json!(true));
    }
    put("resample", json!(BICUBIC));
    put("do_rescale", json!(processor.rescale.is_some()));
    put("rescale_factor", json!(processor.rescale.unwrap_or(1.0 / 255.0)));
    put("do_normalize", json!(processor.normalize));
    put("image_mean", shortest_decimals(processor.stats.mean));
    put("image_std", shortest_decimals(processor.stats.std));
    put("do_convert_rgb", json!(true));
    Value::Object(config)
}

/// Writes `0.3`, not the 17 digits of the same f32 seen as f64.
fn shortest_decimals(values: [f32; 3]) -> Value {
    values.map(|value| value.to_string().parse::<f64>().unwrap_or(f64::from(value))).to_vec().into()
}

const RESTORE: &str = "restore the file from where the model came from";

/// The top level of one file.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    file: &'a str,
}

impl Fields<'_> {
    fn error_in(file: &str, field: &str, problem: impl Into<String>, cure: &'static str) -> ProcessorError {
        ProcessorError::Field { file: file.to_owned(), field: field.to_owned(), problem: problem.into(), cure }
    }

    fn error(&self, field: &str, problem: impl Into<String>, cure: &'static str) -> ProcessorError {
        Self::error_in(self.file, field, problem, cure)
    }

    /// The value of a key; an explicit null counts as absent, as it does for the Hugging Face readers.
    fn get(&self, field: &'static str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, ProcessorError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.error(field, format!("is {other}, not true or false"), RESTORE)),
        }
    }

    fn number(&self, field: &'static str) -> Result<Option<f64>, ProcessorError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(self.error(field, format!("is {value}, not a positive number"), RESTORE)),
            },
        }
    }

    fn check_filter(&self) -> Result<(), ProcessorError> {
        match self.get("resample") {
            None => Ok(()),
            Some(value) if value.as_u64() == Some(BICUBIC) => Ok(()),
            Some(value) => Err(self.error(
                "resample",
                format!("filter {value} is not supported"),
                "only 3 (bicubic) is; the public CLIP and SigLIP towers use it",
            )),
        }
    }

    fn cropping(&self, resizes: bool, family: Family) -> Result<Fit, ProcessorError> {
        let resize = match resizes {
            true => self.resize()?,
            false => Resize::Never,
        };
        let side = match (self.get("crop_size"), family) {
            (Some(value), _) => self.square("crop_size", value)?,
            (None, Family::Clip | Family::Llava) => USUAL_CROP,
            (None, Family::Siglip | Family::Unnamed) => return Err(self.missing("crop_size")),
        };
        Ok(Fit::Crop { resize, side })
    }

    fn exact(&self, resizes: bool, family: Family) -> Result<Fit, ProcessorError> {
        if !resizes {
            return Err(self.error(
                "do_resize",
                "is false without a centre crop, so images would keep any size",
                "set one of the two",
            ));
        }
        let value = self.get("size").ok_or_else(|| self.missing("size"))?;
        // A bare number is the shorter edge to the classes of transformers.
        if value.get("shortest_edge").is_some() || (value.is_number() && family != Family::Unnamed) {
            return Err(self.error(
                "size.shortest_edge",
                "without do_center_crop leaves images that are not square",
                "set do_center_crop and crop_size, or give size.height and size.width",
            ));
        }
        Ok(Fit::Exact { side: self.square("size", value)? })
    }

    /// `{"shortest_edge": n}` or a bare `n` for the shorter edge, `{"height": n, "width": m}` for both.
    fn resize(&self) -> Result<Resize, ProcessorError> {
        let value = self.get("size").ok_or_else(|| self.missing("size"))?;
        match (value.get("shortest_edge"), value.get("height"), value.get("width")) {
            (Some(edge), ..) if value.get("longest_edge").is_none_or(Value::is_null) => {
                Ok(Resize::ShortestEdge(self.side("size", edge)?))
            }
            (Some(_), ..) => Err(self.error("size.longest_edge", "is not supported", "give size.shortest_edge alone")),
            (None, Some(height), Some(width)) => {
                Ok(Resize::Exactly { width: self.side("size", width)?, height: self.side("size", height)? })
            }
            _ if value.is_u64() => Ok(Resize::ShortestEdge(self.side("size", value)?)),
            _ => Err(self.error("size", format!("is {value}"), "give shortest_edge, or height and width")),
        }
    }

    /// `{"height": n, "width": n}` or a bare `n`.
    fn square(&self, field: &'static str, value: &Value) -> Result<u32, ProcessorError> {
        if value.is_u64() {
            return self.side(field, value);
        }
        match (value.get("height"), value.get("width")) {
            (Some(height), Some(width)) if height == width => self.side(field, height),
            (Some(height), Some(width)) => {
                Err(self.error(field, format!("is {width} x {height}"), "only square inputs are supported"))
            }
            _ => Err(self.error(field, format!("is {value}"), "give a number, or height and width")),
        }
    }

    fn side(&self, field: &'static str, value: &Value) -> Result<u32, ProcessorError> {
        match value.as_u64() {
            Some(side @ 1..=MAX_SIDE) => Ok(side as u32),
            _ => Err(self.error(field, format!("is {value}"), "give a whole number of pixels from 1 to 16384")),
        }
    }

    fn stats(&self, family: Option<ChannelStats>, needed: bool) -> Result<ChannelStats, ProcessorError> {
        let fallback = family.or((!needed).then_some(ChannelStats { mean: [0.0; 3], std: [1.0; 3] }));
        let mean = self.triple("image_mean", fallback.map(|stats| stats.mean))?;
        let std = self.triple("image_std", fallback.map(|stats| stats.std))?;
        if std.iter().any(|&deviation| deviation <= 0.0) {
            return Err(self.error("image_std", format!("is {std:?}"), "every channel must be above 0"));
        }
        Ok(ChannelStats { mean, std })
    }

    fn triple(&self, field: &'static str, fallback: Option<[f32; 3]>) -> Result<[f32; 3], ProcessorError> {
        let Some(value) = self.get(field) else {
            return fallback.ok_or_else(|| self.missing(field));
        };
        let numbers: Option<Vec<f32>> = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_f64().map(|number| number as f32)).collect());
        numbers
            .and_then(|numbers| <[f32; 3]>::try_from(numbers).ok())
            .filter(|triple| triple.iter().all(|number| number.is_finite()))
            .ok_or_else(|| self.error(field, format!("is {value}, not three numbers"), RESTORE))
    }

    fn missing(&self, field: &'static str) -> ProcessorError {
        self.error(field, "is missing", RESTORE)
    }
}
