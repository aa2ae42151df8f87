//! The single-folder layout of LLaVA-1.5 and VILA 1.0 (spec 2.4): names, and where tower and projector are kept.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::{Fields, Layout, VilaConfig, VisionConfig, VisionFamily};
use crate::image::{GeometryMode, ImageProcessor};
use crate::{Error, Result};

/// The name that this crate uses for a tensor of the layout.
///
/// Wrappers of training libraries (`base_model.model.`, one more `model.`) are taken off.
pub(crate) fn canonical_name(name: &str) -> String {
    let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
    let wrapped = |rest: &&str| ["model.", "lm_head.", "mm_projector."].iter().any(|start| rest.starts_with(start));
    let inner = inner.strip_prefix("model.").filter(wrapped).unwrap_or(inner);
    let part = inner.strip_prefix("model.").unwrap_or(inner);
    if let Some(rest) = part.strip_prefix("mm_projector.") {
        return projector_name(rest);
    }
    if let Some(rest) = part.strip_prefix("vision_tower.") {
        return tower_name(rest.strip_prefix("vision_tower.").unwrap_or(rest));
    }
    format!("llm.{inner}")
}

/// The canonical name of a projector's tensor: `0.weight` and `layers.0.weight` are the same.
pub(crate) fn projector_name(name: &str) -> String {
    format!("mm_projector.layers.{}", name.strip_prefix("layers.").unwrap_or(name))
}

/// The canonical name of a tensor in a tower's own folder; some versions leave out `vision_model.`.
pub(crate) fn tower_name(name: &str) -> String {
    let inner = name.strip_prefix("vision_model.").unwrap_or(name);
    let vision = ["embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.", "head."];
    match vision.iter().any(|part| inner.starts_with(part)) {
        true => format!("{VISION}{inner}"),
        // The tower's text model, and what else its folder holds.
        false => format!("vision_tower.{name}"),
    }
}

/// Whether a canonical name is that of a part of the vision model.
pub(crate) fn is_vision(name: &str) -> bool {
    name.starts_with(VISION)
}

const VISION: &str = "vision_tower.vision_model.";

/// The projector's own file, where it was not saved with the decoder.
pub(crate) fn projector_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("mm_projector.bin");
    if path.is_file() {
        return Ok(path);
    }
    let problem = format!("holds no mm_projector tensors; looked also for {}: put the projector there", path.display());
    Err(Error::format(dir, problem))
}

/// The vision tower that a folder's configuration names.
pub(crate) struct Tower {
    config: PathBuf,
    /// The value of `mm_vision_tower`: a name on a hub or a path.
    name: String,
    /// Where it may lie.
    candidates: Vec<PathBuf>,
}

impl Tower {
    pub(crate) fn of_folder(dir: &Path) -> Result<Self> {
        Self::of(dir, &Fields::read(&dir.join("config.json"))?)
    }

    pub(crate) fn of(dir: &Path, root: &Fields) -> Result<Self> {
        let name = match root.text("mm_vision_tower")? {
            Some(name) => Some(name),
            None => root.text("vision_tower")?,
        };
        let name = name.ok_or_else(|| root.error("mm_vision_tower", "is missing; it must name the vision tower"))?;
        // A name on a hub may lie beside the checkpoint under its last part.
        let beside = Path::new(name).file_name().map(|last| [dir.join(last), dir.join("..").join(last)]);
        let mut candidates = vec![dir.join("vision_tower"), dir.join(name)];
        candidates.extend(beside.into_iter().flatten());
        candidates.dedup();
        Ok(Tower { config: dir.join("config.json"), name: name.to_string(), candidates })
    }

    fn found(&self) -> Option<&Path> {
        self.candidates.iter().map(PathBuf::as_path).find(|dir| dir.join("config.json").is_file())
    }

    /// Its folder.
    ///
    /// # Errors
    /// [`Error::Format`] says where it was looked for.
    pub(crate) fn folder(&self) -> Result<&Path> {
        self.found().ok_or_else(|| {
            let looked: Vec<String> = self.candidates.iter().map(|dir| format!("  {}", dir.display())).collect();
            let problem = format!(
                "names the vision tower {:?}, whose folder is not there; put it (config.json, preprocessor_config.json and, \
                 unless its weights were saved with the model, model.safetensors) at one of these paths:\n{}",
                self.name,
                looked.join("\n")
            );
            Error::format(&self.config, problem)
        })
    }

    /// Its configuration: from its folder, else what is known of the public towers.
    pub(crate) fn config(&self) -> Result<Fields> {
        match (self.found(), self.known()) {
            (None, Some(known)) => Ok(known),
            _ => Fields::read(&self.folder()?.join("config.json")),
        }
    }

    /// Sizes of the public towers (spec 1.2, 1.3), for checkpoints that hold the tower but not its configuration.
    fn known(&self) -> Option<Fields> {
        let clip = |image: usize| {
            json!({"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                   "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": image, "patch_size": 14})
        };
        let config = match Path::new(&self.name).file_name()?.to_str()? {
            "clip-vit-large-patch14" => clip(224),
            "clip-vit-large-patch14-336" => clip(336),
            "siglip-so400m-patch14-384" => {
                json!({"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                       "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14})
            }
            _ => return None,
        };
        Fields::from_value(&self.config, config)
    }
}

/// The image processor of a checkpoint directory, and the file that describes it.
pub(crate) fn image_processor(dir: &Path, layout: Layout, config: &VilaConfig) -> Result<(ImageProcessor, PathBuf)> {
    let dir = match layout {
        Layout::Vila => {
            let (processor, path) = tower_processor(&dir.join("vision_tower"))?;
            check_squash(config, &path)?;
            return Ok((
                if pads_by_file(dir, &path)? { processor.with_mode(GeometryMode::Pad) } else { processor },
                path,
            ));
        }
        Layout::LlavaHf => dir.to_path_buf(),
        Layout::Llava if dir.join(PREPROCESSOR).is_file() => dir.to_path_buf(),
        Layout::Llava => {
            let tower = Tower::of_folder(dir)?;
            if tower.found().is_none() && tower.known().is_some() {
                return Ok((config.vision.usual_processor(), dir.join("config.json")));
            }
            tower.folder()?.to_path_buf()
        }
    };
    let (processor, path) = tower_processor(&dir)?;
    if layout == Layout::Llava {
        check_squash(config, &path)?;
    }
    Ok((processor, path))
}

/// CLIP's processor knows a crop, 224 pixels unless told otherwise, even where it does not cut; `resize` squashes to that.
fn check_squash(config: &VilaConfig, preprocessor: &Path) -> Result<()> {
    let file = Fields::read(preprocessor)?;
    let clip = file.text("image_processor_type")?.is_some_and(|name| name.starts_with("CLIP"));
    if config.aspect != Some(GeometryMode::Resize) || !clip || file.flag_or("do_center_crop", true)? {
        return Ok(());
    }
    let problem =
        "is false beside `image_aspect_ratio: resize`, which squashes to crop_size; set image_aspect_ratio to square";
    Err(file.error("do_center_crop", problem))
}

/// Whether a folder of an earlier version of this program pads: it said so by `do_pad` beside the tower, whatever class it
/// named there, and wrote `null` for the mode.
fn pads_by_file(dir: &Path, preprocessor: &Path) -> Result<bool> {
    let root = Fields::read(&dir.join("config.json"))?.into_object();
    if root.get("image_aspect_ratio") != Some(&Value::Null) {
        return Ok(false);
    }
    Fields::read(preprocessor)?.flag_or("do_pad", false)
}

/// The image processor that a folder describes, and the file.
pub(crate) fn tower_processor(dir: &Path) -> Result<(ImageProcessor, PathBuf)> {
    let (own, whole) = (dir.join(PREPROCESSOR), dir.join("processor_config.json"));
    // Newer versions of transformers keep it with the rest of the processor.
    if !own.is_file() && whole.is_file() {
        let fields = Fields::read(&whole)?;
        if let Some(part) = fields.get("image_processor") {
            return Ok((ImageProcessor::from_json(part, &format!("{} (image_processor)", whole.display()))?, whole));
        }
    }
    Ok((ImageProcessor::from_file(&own)?, own))
}

const PREPROCESSOR: &str = "preprocessor_config.json";

impl VisionConfig {
    /// How images become pixels for public towers of this family and size.
    pub fn usual_processor(&self) -> ImageProcessor {
        // Sizes in configurations are far below 2^32.
        let side = u32::try_from(self.image_size).unwrap_or(u32::MAX);
        match self.family {
            VisionFamily::Clip => ImageProcessor::clip(side),
            VisionFamily::Siglip => ImageProcessor::siglip(side),
        }
    }
}
