//! `preprocessor_config.json`, in the dialects of CLIP and SigLIP.

use serde_json::{Map, Value, json};

use super::error::ProcessorError;
use super::geometry::GeometryMode;
use super::processor::{ChannelStats, Fit, ImageProcessor};

/// Pillow's number for the bicubic filter.
const BICUBIC: u64 = 3;
/// Larger sides are a mistake in the file, not an image tower.
const MAX_SIDE: u64 = 16_384;

/// The defaults of a family of processors, for keys a file leaves out.
struct Family {
    crops: bool,
    stats: Option<ChannelStats>,
}

impl Family {
    fn of(config: &Fields<'_>) -> Self {
        let kind = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find_map(|key| config.map.get(key)?.as_str())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if kind.contains("siglip") {
            Self { crops: false, stats: Some(ChannelStats::SIGLIP) }
        } else if kind.contains("clip") || kind.contains("llava") {
            Self { crops: true, stats: Some(ChannelStats::CLIP) }
        } else {
            Self { crops: config.map.contains_key("crop_size"), stats: None }
        }
    }
}

pub(super) fn read(config: &Value, file: &str) -> Result<ImageProcessor, ProcessorError> {
    let Some(map) = config.as_object() else {
        return Err(Fields::error_in(file, "(whole file)", "is not a JSON object", RESTORE));
    };
    let fields = Fields { map, file };
    let family = Family::of(&fields);
    fields.check_filter()?;
    let resizes = fields.flag("do_resize")?.unwrap_or(true);
    let crops = fields.flag("do_center_crop")?.unwrap_or(family.crops);
    let fit = if crops { fields.cropping(resizes)? } else { fields.exact(resizes)? };
    let pads = fields.flag("do_pad")?.unwrap_or(false);
    let rescale = match fields.flag("do_rescale")?.unwrap_or(true) {
        true => Some(fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0)),
        false => None,
    };
    let normalize = fields.flag("do_normalize")?.unwrap_or(true);
    let stats = fields.stats(family.stats, normalize)?;
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
    // A mode other than the file's own is written as the fit that gives it; `do_pad` is the public name of the padding.
    let fit = match (processor.mode, processor.fit) {
        (GeometryMode::Square, Fit::Exact { side }) => Fit::Crop { shortest_edge: Some(side), side },
        (GeometryMode::Resize, Fit::Crop { side, .. }) => Fit::Exact { side },
        (_, fit) => fit,
    };
    match fit {
        Fit::Crop { shortest_edge, side } => {
            put("image_processor_type", json!("CLIPImageProcessor"));
            put("do_resize", json!(shortest_edge.is_some()));
            put("size", json!({ "shortest_edge": shortest_edge.unwrap_or(side) }));
            put("do_center_crop", json!(true));
            put("crop_size", json!({ "height": side, "width": side }));
        }
        Fit::Exact { side } => {
            put("image_processor_type", json!("SiglipImageProcessor"));
            put("do_resize", json!(true));
            put("size", json!({ "height": side, "width": side }));
            put("do_center_crop", json!(false));
        }
    }
    if processor.mode == GeometryMode::Pad {
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
    fn error_in(file: &str, field: &'static str, problem: impl Into<String>, cure: &'static str) -> ProcessorError {
        ProcessorError::Field { file: file.to_owned(), field, problem: problem.into(), cure }
    }

    fn error(&self, field: &'static str, problem: impl Into<String>, cure: &'static str) -> ProcessorError {
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

    fn cropping(&self, resizes: bool) -> Result<Fit, ProcessorError> {
        let side = match self.get("crop_size") {
            Some(value) => self.square("crop_size", value)?,
            None => self.edge("size")?,
        };
        let shortest_edge = match resizes {
            true => Some(self.edge("size")?),
            false => None,
        };
        Ok(Fit::Crop { shortest_edge, side })
    }

    fn exact(&self, resizes: bool) -> Result<Fit, ProcessorError> {
        if !resizes {
            return Err(self.error(
                "do_resize",
                "is false without a centre crop, so images would keep any size",
                "set one of the two",
            ));
        }
        let value = self.get("size").ok_or_else(|| self.missing("size"))?;
        if value.get("shortest_edge").is_some() {
            return Err(self.error(
                "size.shortest_edge",
                "without do_center_crop leaves images that are not square",
                "set do_center_crop and crop_size, or give size.height and size.width",
            ));
        }
        Ok(Fit::Exact { side: self.square("size", value)? })
    }

    /// `{"shortest_edge": n}`, `{"height": n, "width": n}` or a bare `n`, as the length of the shorter edge.
    fn edge(&self, field: &'static str) -> Result<u32, ProcessorError> {
        let value = self.get(field).ok_or_else(|| self.missing(field))?;
        match value.get("shortest_edge") {
            Some(edge) if value.get("longest_edge").is_none() => self.side(field, edge),
            Some(_) => Err(self.error("size.longest_edge", "is not supported", "give size.shortest_edge alone")),
            None => self.square(field, value),
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
