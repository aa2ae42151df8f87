//! Configuration of a VILA model, and the files it is read from and written to.

mod fields;
pub mod keys;
mod llama;
mod projector;
mod vision;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vila_engine::ops::GeluKind;

use crate::Result;
use crate::expert::ExpertConfig;
use crate::image::GeometryMode;
use crate::llava::Tower;
use crate::lora::{self, LoraConfig};
use crate::template::Template;
use crate::weights::{Checkpoint, head_of_its_own, projector_has_bias};

use vision::gelu_kind;

pub(crate) use fields::Fields;
use keys::SettingsFile;
pub use llama::LlamaConfig;
use projector::TokenOrder;
pub use projector::{ProjectorConfig, ProjectorKind};
pub use vision::{VisionConfig, VisionFamily};
/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct VilaConfig {
    /// The decoder.
    pub llm: LlamaConfig,
    /// The encoder.
    pub vision: VisionConfig,
    /// What lies between.
    pub projector: ProjectorConfig,
    /// Id that stands for an image in token sequences of this checkpoint, if it has one.
    pub image_token: Option<u32>,
    /// How images become square, where the checkpoint overrides its image processor (`image_aspect_ratio`).
    pub aspect: Option<GeometryMode>,
    /// Weights of their own for positions of images, if it has them.
    pub expert: Option<ExpertConfig>,
    /// Low-rank adapters beside the decoder's weights, if it has them.
    pub lora: Option<LoraConfig>,
    /// The conversation template that it was trained with, where a checkpoint says so.
    pub template: Option<Template>,
}

/// Key of `config.json` for [`VilaConfig::template`]; other programs pass over it.
pub(crate) const TEMPLATE: &str = "vila_template";

/// How a checkpoint directory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Three folders: `llm/`, `vision_tower/`, `mm_projector/` (spec 2.5).
    Vila,
    /// One folder of transformers' `LlavaForConditionalGeneration` (spec 2.6).
    LlavaHf,
    /// One folder of LLaVA-1.5 or VILA 1.0, with tower and projector inside or beside (spec 2.4).
    Llava,
}

impl std::str::FromStr for Layout {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let all = [Layout::Vila, Layout::Llava, Layout::LlavaHf];
        all.into_iter().find(|layout| layout.name() == name).ok_or_else(|| "expected vila, llava or llava-hf".into())
    }
}

impl Layout {
    /// Where the decoder and its tokenizer lie in a directory.
    pub fn text_folder(self, dir: &Path) -> PathBuf {
        if self == Layout::Vila { dir.join("llm") } else { dir.to_path_buf() }
    }

    /// Its name in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Vila => "vila",
            Layout::LlavaHf => "llava-hf",
            Layout::Llava => "llava",
        }
    }
}

impl VilaConfig {
    /// Reads the configuration of a checkpoint directory.
    pub fn read(dir: &Path) -> Result<(Self, Layout)> {
        let root = Fields::read(&dir.join("config.json"))?;
        let (mut config, layout) = Self::read_layout(dir, &root)?;
        config.llm.read_generation(&layout.text_folder(dir))?;
        config.llm.tied &= !head_of_its_own(|| Checkpoint::open(dir, layout));
        Ok((config, layout))
    }

    /// The configuration of a Hugging Face Llama in a directory, with a vision tower and a projector. No id of the vocabulary
    /// stands for an image unless its tokenizer has one.
    pub(crate) fn of_parts(llm: &Path, vision: VisionConfig, projector: ProjectorConfig) -> Result<Self> {
        let fields = Fields::read_as(&llm.join("config.json"), SettingsFile::Decoder)?;
        let mut decoder = LlamaConfig::from_fields(&fields)?;
        decoder.read_generation(llm)?;
        decoder.tied &= !head_of_its_own(|| Checkpoint::open_parts(llm, None));
        projector
            .kind
            .check(vision.hidden_size, decoder.hidden_size)
            .map_err(|problem| fields.error("hidden_size", format!("does not fit the projector, which {problem}")))?;
        Ok(VilaConfig {
            llm: decoder,
            vision,
            projector,
            image_token: None,
            aspect: None,
            lora: None,
            expert: None,
            template: None,
        })
    }

    /// The configuration of the tower in a directory of a CLIP or SigLIP, whole or its vision model alone.
    pub(crate) fn of_tower(tower: &Path, select_layer: i64) -> Result<VisionConfig> {
        let fields = Fields::read_as(&tower.join("config.json"), SettingsFile::Tower)?;
        let mut vision = VisionConfig::from_fields(&fields, select_layer, true)?;
        vision.drop_class = vision.has_class();
        Ok(vision)
    }

    fn read_layout(dir: &Path, root: &Fields) -> Result<(Self, Layout)> {
        if dir.join("llm").is_dir() || root.get("llm_cfg").is_some() {
            return Ok((Self::read_vila(dir, root)?, Layout::Vila));
        }
        match root.text("model_type")? {
            Some("llava") if root.get("mm_vision_tower").is_none() && root.get("mm_projector_type").is_none() => {
                Ok((Self::read_llava_hf(root)?, Layout::LlavaHf))
            }
            Some("llava" | "llava_llama") => Ok((Self::read_llava(dir, root)?, Layout::Llava)),
            other => {
                let problem = format!(
                    "is {}; this program reads VILA folders (with llm/, vision_tower/, mm_projector/), LLaVA-1.5 folders \
                     and llava-hf folders",
                    other.unwrap_or("missing")
                );
                Err(root.error("model_type", problem))
            }
        }
    }

    fn read_vila(dir: &Path, root: &Fields) -> Result<Self> {
        let root = &root.clone().known_as(SettingsFile::Vila)?;
        let llm = Fields::read_as(&dir.join("llm/config.json"), SettingsFile::Decoder)?;
        let vision = Fields::read_as(&dir.join("vision_tower/config.json"), SettingsFile::Tower)?;
        let projector = Fields::read_as(&dir.join("mm_projector/config.json"), SettingsFile::Projector)?;
        let mut config = Self::from_parts((dir, Layout::Vila), root, &llm, &vision, &projector)?;
        config.lora = lora::of_checkpoint(dir)?;
        if let Some(expert) = root.child("visual_expert")? {
            config.expert = Some(ExpertConfig { last_as_text: expert.flag_or("last_as_text", false)? });
        }
        Ok(config)
    }

    /// One file describes all but the tower.
    fn read_llava(dir: &Path, root: &Fields) -> Result<Self> {
        let root = &root.clone().known_as(SettingsFile::Llava)?;
        let vision = Tower::of(dir, root)?.config()?.known_as(SettingsFile::Tower)?;
        // The type names the whole model, the other fields are those of its decoder.
        Self::from_parts((dir, Layout::Llava), root, &root.without("model_type"), &vision, root)
    }

    fn from_parts(
        (dir, layout): (&Path, Layout),
        root: &Fields,
        llm: &Fields,
        vision: &Fields,
        projector: &Fields,
    ) -> Result<Self> {
        let select_layer = match root.get("mm_vision_select_layer") {
            None => -2,
            Some(value) => value.as_i64().ok_or_else(|| root.error("mm_vision_select_layer", "must be an integer"))?,
        };
        let drop_class = match root.text("mm_vision_select_feature")?.unwrap_or("patch") {
            // The first row, whatever it is: of a tower without class token, a patch.
            "patch" => true,
            "cls_patch" => false,
            other => {
                return Err(root.error("mm_vision_select_feature", format!("is {other}, expected patch or cls_patch")));
            }
        };
        let name = projector.text("mm_projector_type")?.unwrap_or("linear");
        let mut kind = ProjectorKind::parse(name).ok_or_else(|| {
            projector.error("mm_projector_type", format!("is {name}; implemented are {}", ProjectorKind::NAMES))
        })?;
        if kind == ProjectorKind::MlpDownsample && TokenOrder::of(root, projector, llm)? == TokenOrder::Rows {
            kind = ProjectorKind::MlpDownsample2x2Fix;
        }
        let vision = VisionConfig::from_fields(vision, select_layer, drop_class)?;
        check_multimodal(root, &vision)?;
        if kind.merged_side() > 1 && vision.tokens() != vision.grid() * vision.grid() {
            let (feature, rows) = (if drop_class { "patch" } else { "cls_patch" }, vision.tokens());
            let problem =
                format!("is {feature}, which leaves {rows} features of this tower; {name} merges a whole square");
            return Err(root.error("mm_vision_select_feature", problem));
        }
        let llm = LlamaConfig::from_fields(llm)?;
        kind.check(vision.hidden_size, llm.hidden_size)
            .map_err(|problem| projector.error("mm_projector_type", problem))?;
        Ok(VilaConfig {
            llm,
            vision,
            projector: ProjectorConfig {
                kind,
                // Other programs have no name for it.
                bias: match projector.get("bias") {
                    Some(_) => projector.flag_or("bias", true)?,
                    None => projector_has_bias(dir, layout),
                },
            },
            image_token: root.token_id("image_token_id"),
            aspect: match root.text("image_aspect_ratio")? {
                None => None,
                Some(name) => Some(name.parse().map_err(|_| {
                    root.error("image_aspect_ratio", format!("is {name}; implemented are pad, square and resize"))
                })?),
            },
            expert: None,
            lora: None,
            template: read_template(root)?,
        })
    }

    fn read_llava_hf(root: &Fields) -> Result<Self> {
        let root = &root.clone().known_as(SettingsFile::LlavaHf)?;
        let section = |name: &str| root.child(name)?.ok_or_else(|| root.error(name, "is missing"));
        let select_layer = match root.get("vision_feature_layer") {
            None => -2,
            // A list stands for the states side by side.
            Some(Value::Array(layers)) if layers.len() != 1 => {
                return Err(root.error("vision_feature_layer", "names several states, one is implemented"));
            }
            Some(value) => {
                let layer = value.get(0).unwrap_or(value).as_i64();
                layer.ok_or_else(|| root.error("vision_feature_layer", "must be one integer"))?
            }
        };
        let drop_class = match root.text("vision_feature_select_strategy")?.unwrap_or("default") {
            "default" => true,
            "full" => false,
            other => {
                return Err(
                    root.error("vision_feature_select_strategy", format!("is {other}, expected default or full"))
                );
            }
        };
        if gelu_kind(root, "projector_hidden_act", "gelu")? != GeluKind::Erf {
            return Err(root.error("projector_hidden_act", "must be gelu"));
        }
        let mut text = section("text_config")?.known_as(SettingsFile::Decoder)?;
        let vision = section("vision_config")?.known_as(SettingsFile::Tower)?;
        // The flag stands at the top level in some versions and beside the sizes in others, whose own is then the default.
        if root.flag_or("tie_word_embeddings", false)? {
            text.object.insert("tie_word_embeddings".into(), true.into());
        }
        Ok(VilaConfig {
            llm: LlamaConfig::from_fields(&text)?,
            vision: VisionConfig::from_fields(&vision, select_layer, drop_class)?,
            projector: ProjectorConfig {
                kind: ProjectorKind::Mlp { depth: 2 },
                bias: root.flag_or("multimodal_projector_bias", true)?,
            },
            image_token: root.token_id("image_token_index").or(root.token_id("image_token_id")),
            aspect: None,
            expert: None,
            lora: None,
            template: read_template(root)?,
        })
    }

    /// Feature rows that one image takes in the token stream.
    pub fn tokens_per_image(&self) -> usize {
        match self.projector.kind.merged_side() {
            1 => self.vision.tokens(),
            side => self.vision.grid().div_ceil(side).pow(2),
        }
    }

    /// Root `config.json` of the three-folder layout.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "model_type": "llava_llama",
            "architectures": ["LlavaLlamaModel"],
            "llm_cfg": "llm",
            "vision_tower_cfg": "vision_tower",
            "mm_projector_cfg": "mm_projector",
            "hidden_size": self.llm.hidden_size,
            "mm_hidden_size": self.vision.hidden_size,
            "mm_vision_select_layer": self.vision.select_layer,
            "mm_vision_select_feature": if self.vision.drop_class { "patch" } else { "cls_patch" },
            "mm_use_im_start_end": false,
            "mm_use_im_patch_token": false,
            "image_token_id": self.image_token,
            "image_aspect_ratio": self.aspect.map(GeometryMode::name),
            "model_dtype": "torch.float32",
        });
        if let Some(ExpertConfig { last_as_text }) = self.expert {
            json["visual_expert"] = json!({"last_as_text": last_as_text});
        }
        if let Some(template) = &self.template {
            json[TEMPLATE] = template_json(template);
        }
        json
    }

    /// `config.json` of `mm_projector/`.
    pub fn projector_json(&self) -> Value {
        json!({
            "model_type": "v2l_projector",
            "mm_projector_type": self.projector.kind.name(),
            "bias": self.projector.bias,
            "token_order": self.projector.kind.token_order(),
        })
    }
}

/// A template by its name, with a system prompt of its own if it has one.
pub(crate) fn template_json(template: &Template) -> Value {
    json!({"name": template.name(), "system": template.own_system()})
}

fn read_template(root: &Fields) -> Result<Option<Template>> {
    let Some(fields) = root.child(TEMPLATE)? else { return Ok(None) };
    let name = fields.text("name")?.ok_or_else(|| fields.error("name", "is missing; remove the whole key"))?;
    let template = Template::named(name).map_err(|error| fields.error("name", format!("is not known: {error}")))?;
    Ok(Some(match fields.text("system")? {
        Some(system) => template.with_system(system),
        None => template,
    }))
}

/// Refuses what would change the features of an image, and has no place in the configuration.
fn check_multimodal(root: &Fields, vision: &VisionConfig) -> Result<()> {
    if root.get("dynamic_s2").is_some_and(|value| value != false) {
        return Err(root.error("dynamic_s2", "asks for tiles of several scales, which are not implemented"));
    }
    if let Some(encoder) =
        root.get("image_encoder").map(Value::to_string).filter(|name| !name.contains("BasicImageEncoder"))
    {
        return Err(root.error("image_encoder", format!("is {encoder}, only BasicImageEncoder is implemented")));
    }
    if root.get("image_encoder").is_some() {
        tracing::warn!(
            "{}: programs of this version of VILA put a line break after every image; write it in the prompt, after <image>",
            root.path().display()
        );
    }
    if let Some(kind) = root.text("mm_patch_merge_type")?.filter(|kind| *kind != "flat") {
        return Err(root.error("mm_patch_merge_type", format!("is {kind}, only flat is implemented")));
    }
    let resolution = root.get("vision_resolution").and_then(Value::as_i64).filter(|&side| side != -1);
    if let Some(side) = resolution.filter(|&side| usize::try_from(side) != Ok(vision.image_size)) {
        let problem = format!(
            "is {side}, but the tower takes {}; other resolutions than the tower's own are not implemented",
            vision.image_size
        );
        return Err(root.error("vision_resolution", problem));
    }
    Ok(())
}
