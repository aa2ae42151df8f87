//! Configuration of a VILA model, and the files it is read from and written to.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use vila_engine::ops::{GeluKind, HeadShape};

use crate::expert::ExpertConfig;
use crate::image::GeometryMode;
use crate::llava::Tower;
use crate::lora::{self, LoraConfig};
use crate::weights::projector_has_bias;
use crate::{Error, Result};

/// A JSON object with its file, for messages.
#[derive(Clone)]
pub(crate) struct Fields {
    path: PathBuf,
    prefix: String,
    object: Map<String, Value>,
}

impl Fields {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::format(path, format!("not valid JSON: {error}; restore the file")))?;
        Self::from_value(path, value).ok_or_else(|| Error::format(path, "expected a JSON object at the top level"))
    }

    /// A value that stands for a part of the file `path`, if it is an object.
    pub(crate) fn from_value(path: &Path, value: Value) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Fields { path: path.to_path_buf(), prefix: String::new(), object }),
            _ => None,
        }
    }

    pub(crate) fn into_object(self) -> Map<String, Value> {
        self.object
    }

    /// The same object without a field.
    fn without(&self, field: &str) -> Self {
        let mut rest = self.clone();
        rest.object.remove(field);
        rest
    }

    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::Config { path: self.path.clone(), field: format!("{}{field}", self.prefix), problem: problem.into() }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.object.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn child(&self, field: &str) -> Result<Option<Fields>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                let prefix = format!("{}{field}.", self.prefix);
                Ok(Some(Fields { path: self.path.clone(), prefix, object: object.clone() }))
            }
            Some(_) => Err(self.error(field, "must be an object")),
        }
    }

    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(field) else { return Ok(default) };
        // Larger values are a damaged file, not a model; they would only overflow later.
        match value.as_u64() {
            Some(value) if value > 0 && value < 1 << 24 => Ok(value as usize),
            _ => Err(self.error(field, format!("is {value}, expected a positive integer"))),
        }
    }

    pub(crate) fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.error(field, format!("is {value}, expected a number"))),
        }
    }

    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.error(field, format!("is {value}, expected true or false")))
            }
        }
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.error(field, format!("is {value}, expected a string"))),
        }
    }

    fn token_ids(&self, field: &str) -> Vec<u32> {
        match self.get(field) {
            Some(Value::Array(ids)) => {
                ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect()
            }
            _ => self.token_id(field).into_iter().collect(),
        }
    }

    fn token_id(&self, field: &str) -> Option<u32> {
        self.get(field).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
    }
}

/// Llama-2 style decoder (spec 1.5).
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Width `D`.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads of the attention.
    pub heads: HeadShape,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Positions are divided by this (linear rope scaling).
    pub rope_factor: f64,
    /// Longest context.
    pub max_positions: usize,
    /// Whether head and embedding share one table.
    pub tied: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Token that starts a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl LlamaConfig {
    pub(crate) fn from_fields(fields: &Fields) -> Result<Self> {
        if let Some(kind) = fields.text("model_type")?.filter(|kind| *kind != "llama") {
            return Err(fields.error("model_type", format!("is {kind}, only llama decoders are implemented")));
        }
        if let Some(act) = fields.text("hidden_act")?.filter(|act| *act != "silu") {
            return Err(fields.error("hidden_act", format!("is {act}, only silu is implemented")));
        }
        // Public files leave out what equals the Hugging Face default.
        let size = |field: &str, default| fields.size_or(field, default);
        let (hidden, heads) = (size("hidden_size", 4096)?, size("num_attention_heads", 32)?);
        let head_dim = fields.size_or("head_dim", (hidden / heads).max(1))?;
        if !head_dim.is_multiple_of(2) {
            return Err(fields.error("head_dim", format!("is {head_dim}, rotary embeddings need an even number")));
        }
        let kv_heads = fields.size_or("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                fields.error("num_key_value_heads", format!("is {kv_heads}, which does not divide {heads} heads"))
            );
        }
        let rope = fields.child("rope_parameters")?.or(fields.child("rope_scaling")?);
        let (theta, factor) = match &rope {
            None => (None, 1.0),
            Some(rope) => {
                let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
                let factor = match kind {
                    "default" => 1.0,
                    "linear" => rope.number_or("factor", 1.0)?,
                    _ => {
                        return Err(
                            rope.error("rope_type", format!("is {kind}, only default and linear are implemented"))
                        );
                    }
                };
                (rope.get("rope_theta").and_then(Value::as_f64), factor)
            }
        };
        let rope_theta = theta.map_or_else(|| fields.number_or("rope_theta", 10_000.0), Ok)?;
        if !(rope_theta > 0.0 && factor > 0.0) {
            return Err(fields.error("rope_theta", "and the rope scaling factor must be positive"));
        }
        Ok(LlamaConfig {
            vocab_size: size("vocab_size", 32_000)?,
            hidden_size: hidden,
            intermediate_size: size("intermediate_size", 11_008)?,
            layers: layer_count(fields, 32)?,
            heads: HeadShape { heads, kv_heads, head_dim },
            rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_factor: factor,
            max_positions: size("max_position_embeddings", 2048)?,
            tied: fields.flag_or("tie_word_embeddings", false)?,
            attention_bias: fields.flag_or("attention_bias", false)?,
            mlp_bias: fields.flag_or("mlp_bias", false)?,
            bos: fields.token_id("bos_token_id"),
            eos: match fields.object.contains_key("eos_token_id") {
                true => fields.token_ids("eos_token_id"),
                false => vec![2],
            },
        })
    }

    /// Takes the ends of texts from the generation settings in the decoder's folder, where there are any.
    fn read_generation(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join("generation_config.json");
        if path.exists() {
            let generation = Fields::read(&path)?;
            self.bos = self.bos.or(generation.token_id("bos_token_id"));
            let stops = generation.token_ids("eos_token_id");
            if !stops.is_empty() {
                self.eos = stops;
            }
        }
        Ok(())
    }

    /// `config.json` of a Hugging Face Llama.
    pub fn to_json(&self) -> Value {
        let scaling = if self.rope_factor == 1.0 {
            Value::Null
        } else {
            json!({"type": "linear", "rope_type": "linear", "factor": self.rope_factor})
        };
        let eos = if self.eos.len() == 1 { json!(self.eos[0]) } else { json!(self.eos) };
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads.heads,
            "num_key_value_heads": self.heads.kv_heads,
            "head_dim": self.heads.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_positions,
            "model_max_length": self.max_positions,
            "tokenizer_model_max_length": self.max_positions,
            "tokenizer_padding_side": "right",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": self.tied,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
            "torch_dtype": "float32",
        })
    }
}

/// The two families of vision towers (spec 1.2 and 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionFamily {
    /// Class token, layer norm before the blocks, patch projection without bias.
    Clip,
    /// No class token, no norm before the blocks, patch projection with bias.
    Siglip,
}

/// A vision transformer and which of its states become features.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// CLIP or SigLIP.
    pub family: VisionFamily,
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks in the checkpoint.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of the image in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Activation of the MLP.
    pub act: GeluKind,
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// Which hidden state is used: -2 is the output of the last block but one.
    pub select_layer: i64,
    /// Whether the first row is dropped: the class token, or what stands in its place in a `llava-hf` SigLIP.
    pub drop_class: bool,
}

/// Number of blocks; a larger one is a damaged file.
fn layer_count(fields: &Fields, default: usize) -> Result<usize> {
    let layers = fields.size_or("num_hidden_layers", default)?;
    if layers <= 1024 {
        Ok(layers)
    } else {
        Err(fields.error("num_hidden_layers", format!("is {layers}, at most 1024")))
    }
}

fn gelu_kind(fields: &Fields, field: &str, default: &str) -> Result<GeluKind> {
    match fields.text(field)?.unwrap_or(default) {
        "quick_gelu" => Ok(GeluKind::Quick),
        "gelu" => Ok(GeluKind::Erf),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(GeluKind::Tanh),
        act => Err(fields.error(field, format!("is {act}; implemented are quick_gelu, gelu and gelu_pytorch_tanh"))),
    }
}

impl VisionConfig {
    pub(crate) fn from_fields(fields: &Fields, select_layer: i64, drop_class: bool) -> Result<Self> {
        let fields = &fields.child("vision_config")?.unwrap_or_else(|| fields.clone());
        let family = match fields.text("model_type")?.unwrap_or("clip_vision_model") {
            "clip_vision_model" | "clip" => VisionFamily::Clip,
            "siglip_vision_model" | "siglip" => VisionFamily::Siglip,
            other => {
                let problem = format!("is {other}; implemented are clip_vision_model and siglip_vision_model");
                return Err(fields.error("model_type", problem));
            }
        };
        let (act, eps, patch) = match family {
            VisionFamily::Clip => ("quick_gelu", 1e-5, 32),
            VisionFamily::Siglip => ("gelu_pytorch_tanh", 1e-6, 16),
        };
        let size = |field: &str, default| fields.size_or(field, default);
        let config = VisionConfig {
            family,
            hidden_size: size("hidden_size", 768)?,
            intermediate_size: size("intermediate_size", 3072)?,
            layers: layer_count(fields, 12)?,
            heads: size("num_attention_heads", 12)?,
            image_size: size("image_size", 224)?,
            patch_size: size("patch_size", patch)?,
            act: gelu_kind(fields, "hidden_act", act)?,
            eps: fields.number_or("layer_norm_eps", eps)?,
            select_layer,
            drop_class,
        };
        if fields.size_or("num_channels", 3)? != 3 {
            return Err(fields.error("num_channels", "must be 3"));
        }
        if !config.hidden_size.is_multiple_of(config.heads) {
            return Err(
                fields.error("num_attention_heads", format!("does not divide the width {}", config.hidden_size))
            );
        }
        if config.patch_size > config.image_size {
            return Err(fields.error("patch_size", format!("is larger than the image ({})", config.image_size)));
        }
        if config.blocks_used().is_none() {
            let problem = format!("{select_layer} names no hidden state of {} blocks", config.layers);
            return Err(fields.error("num_hidden_layers", problem));
        }
        Ok(config)
    }

    /// How many blocks run to reach the selected state; the list of states starts with the input of the first block.
    pub fn blocks_used(&self) -> Option<usize> {
        let states = self.layers as i64 + 1;
        let index = if self.select_layer < 0 { states + self.select_layer } else { self.select_layer };
        usize::try_from(index).ok().filter(|&index| index <= self.layers)
    }

    /// Patches along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Whether the sequence starts with a class token.
    pub fn has_class(&self) -> bool {
        self.family == VisionFamily::Clip
    }

    /// Rows of features per image.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + usize::from(self.has_class()) - usize::from(self.drop_class)
    }

    /// `config.json` of the Hugging Face tower.
    pub fn to_json(&self) -> Value {
        let (model_type, architecture) = match self.family {
            VisionFamily::Clip => ("clip_vision_model", "CLIPVisionModel"),
            VisionFamily::Siglip => ("siglip_vision_model", "SiglipVisionModel"),
        };
        let act = match self.act {
            GeluKind::Quick => "quick_gelu",
            GeluKind::Erf => "gelu",
            GeluKind::Tanh => "gelu_pytorch_tanh",
        };
        json!({
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_act": act,
            "layer_norm_eps": self.eps,
            "torch_dtype": "float32",
        })
    }
}

/// What lies between vision tower and LLM (spec 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectorKind {
    /// Nothing: the tower is as wide as the decoder.
    Identity,
    /// One linear layer.
    Linear,
    /// `k` linear layers with GELU between: `mlp2x_gelu`.
    Mlp {
        /// Number of linear layers.
        depth: usize,
    },
    /// 2x2 neighbours side by side, then one linear layer (the paper's Table 7).
    Downsample,
    /// 2x2 neighbours, layer norm and two linear layers; token order transposed, as in released weights.
    MlpDownsample,
    /// The same with tokens in row-major order.
    MlpDownsample2x2Fix,
    /// 3x3 neighbours, then layer norms and three linear layers.
    MlpDownsample3x3Fix,
    /// One linear layer and pre-norm transformer blocks over the patches (the paper's Table 1).
    Transformer {
        /// Number of blocks.
        depth: usize,
        /// Their width, if it is not the decoder's; then one more linear layer follows.
        width: Option<usize>,
        /// Their heads; about 128 wide if left out.
        heads: Option<usize>,
    },
}

impl ProjectorKind {
    /// Reads the public name. Transformers are `transformer`, or with more blocks, another width or heads than usual,
    /// `transformer2x_512w_4h`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(ProjectorKind::Identity),
            "linear" => Some(ProjectorKind::Linear),
            "downsample" => Some(ProjectorKind::Downsample),
            "mlp_downsample" => Some(ProjectorKind::MlpDownsample),
            "mlp_downsample_2x2_fix" => Some(ProjectorKind::MlpDownsample2x2Fix),
            "mlp_downsample_3x3_fix" => Some(ProjectorKind::MlpDownsample3x3Fix),
            _ => match name.strip_prefix("transformer") {
                Some(options) => Self::parse_transformer(options),
                None => {
                    let depth = name.strip_prefix("mlp")?.strip_suffix("x_gelu")?.parse().ok()?;
                    (1..=64).contains(&depth).then_some(ProjectorKind::Mlp { depth })
                }
            },
        }
    }

    fn parse_transformer(options: &str) -> Option<Self> {
        let (mut depth, mut width, mut heads) = (1, None, None);
        for option in options.split('_').filter(|option| !option.is_empty()) {
            let (number, unit) = option.split_at_checked(option.len() - 1)?;
            let number = number.parse().ok().filter(|number| (1..1 << 20).contains(number))?;
            match unit {
                "x" => depth = number,
                "w" => width = Some(number),
                "h" => heads = Some(number),
                _ => return None,
            }
        }
        (depth <= 64).then_some(ProjectorKind::Transformer { depth, width, heads })
    }

    /// The public name.
    pub fn name(self) -> String {
        match self {
            ProjectorKind::Identity => "identity".into(),
            ProjectorKind::Linear => "linear".into(),
            ProjectorKind::Mlp { depth } => format!("mlp{depth}x_gelu"),
            ProjectorKind::Downsample => "downsample".into(),
            ProjectorKind::MlpDownsample => "mlp_downsample".into(),
            ProjectorKind::MlpDownsample2x2Fix => "mlp_downsample_2x2_fix".into(),
            ProjectorKind::MlpDownsample3x3Fix => "mlp_downsample_3x3_fix".into(),
            ProjectorKind::Transformer { depth, width, heads } => {
                let depth = if depth > 1 { format!("{depth}x") } else { String::new() };
                let option = |number: Option<usize>, unit| number.map_or(String::new(), |n| format!("_{n}{unit}"));
                format!("transformer{depth}{}{}", option(width, 'w'), option(heads, 'h'))
            }
        }
    }

    /// Names that [`ProjectorKind::parse`] takes, for messages.
    pub const NAMES: &'static str = "linear, mlp2x_gelu, identity, downsample, mlp_downsample, mlp_downsample_2x2_fix, \
                                     mlp_downsample_3x3_fix, transformer, transformer2x_512w_4h";

    /// How many patches along a side become one token.
    fn merged_side(self) -> usize {
        match self {
            ProjectorKind::Downsample | ProjectorKind::MlpDownsample | ProjectorKind::MlpDownsample2x2Fix => 2,
            ProjectorKind::MlpDownsample3x3Fix => 3,
            _ => 1,
        }
    }

    /// Heads of a transformer's blocks of that width.
    pub(crate) fn heads(self, width: usize) -> usize {
        let usual = || (1..=(width / 128).max(1)).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1);
        match self {
            ProjectorKind::Transformer { heads: Some(heads), .. } => heads,
            _ => usual(),
        }
    }

    /// Whether it fits between a tower and a decoder of these widths; says what is wrong.
    pub fn check(self, vision: usize, llm: usize) -> std::result::Result<(), String> {
        match self {
            ProjectorKind::Identity if vision != llm => {
                Err(format!("is identity, which cannot make features of {vision} as wide as the decoder ({llm})"))
            }
            ProjectorKind::Transformer { width, heads: Some(heads), .. }
                if !width.unwrap_or(llm).is_multiple_of(heads) =>
            {
                Err(format!("has {heads} heads, which do not divide the width {}", width.unwrap_or(llm)))
            }
            _ => Ok(()),
        }
    }
}

/// A projector and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Which one.
    pub kind: ProjectorKind,
    /// Whether linear layers have biases.
    pub bias: bool,
}

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
}

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
        Ok((config, layout))
    }

    /// The configuration of a Hugging Face Llama in a directory, with a vision tower and a projector. No id of the vocabulary
    /// stands for an image unless its tokenizer has one.
    pub(crate) fn of_parts(llm: &Path, vision: VisionConfig, projector: ProjectorConfig) -> Result<Self> {
        let fields = Fields::read(&llm.join("config.json"))?;
        let mut decoder = LlamaConfig::from_fields(&fields)?;
        decoder.read_generation(llm)?;
        projector
            .kind
            .check(vision.hidden_size, decoder.hidden_size)
            .map_err(|problem| fields.error("hidden_size", format!("does not fit the projector, which {problem}")))?;
        Ok(VilaConfig { llm: decoder, vision, projector, image_token: None, aspect: None, lora: None, expert: None })
    }

    /// The configuration of the tower in a directory of a CLIP or SigLIP, whole or its vision model alone.
    pub(crate) fn of_tower(tower: &Path, select_layer: i64) -> Result<VisionConfig> {
        let mut vision = VisionConfig::from_fields(&Fields::read(&tower.join("config.json"))?, select_layer, true)?;
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
        let llm = Fields::read(&dir.join("llm/config.json"))?;
        let vision = Fields::read(&dir.join("vision_tower/config.json"))?;
        let projector = Fields::read(&dir.join("mm_projector/config.json"))?;
        let mut config = Self::from_parts((dir, Layout::Vila), root, &llm, &vision, &projector)?;
        config.lora = lora::of_checkpoint(dir)?;
        if let Some(expert) = root.child("visual_expert")? {
            config.expert = Some(ExpertConfig { last_as_text: expert.flag_or("last_as_text", false)? });
        }
        Ok(config)
    }

    /// One file describes all but the tower.
    fn read_llava(dir: &Path, root: &Fields) -> Result<Self> {
        let vision = Tower::of(dir, root)?.config()?;
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
        let drop_class = root.text("mm_vision_select_feature")? != Some("cls_patch");
        let name = projector.text("mm_projector_type")?.unwrap_or("linear");
        let kind = ProjectorKind::parse(name).ok_or_else(|| {
            projector.error("mm_projector_type", format!("is {name}; implemented are {}", ProjectorKind::NAMES))
        })?;
        let mut vision = VisionConfig::from_fields(vision, select_layer, drop_class)?;
        // `patch` on a tower without class token would drop a real patch (spec 1.3).
        vision.drop_class &= vision.has_class();
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
        })
    }

    fn read_llava_hf(root: &Fields) -> Result<Self> {
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
        let mut text = section("text_config")?;
        // The flag stands at the top level in some versions and beside the sizes in others, whose own is then the default.
        if root.flag_or("tie_word_embeddings", false)? {
            text.object.insert("tie_word_embeddings".into(), true.into());
        }
        Ok(VilaConfig {
            llm: LlamaConfig::from_fields(&text)?,
            vision: VisionConfig::from_fields(&section("vision_config")?, select_layer, drop_class)?,
            projector: ProjectorConfig {
                kind: ProjectorKind::Mlp { depth: 2 },
                bias: root.flag_or("multimodal_projector_bias", true)?,
            },
            image_token: root.token_id("image_token_index").or(root.token_id("image_token_id")),
            aspect: None,
            expert: None,
            lora: None,
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
        json
    }

    /// `config.json` of `mm_projector/`.
    pub fn projector_json(&self) -> Value {
        json!({
            "model_type": "v2l_projector",
            "mm_projector_type": self.projector.kind.name(),
            "bias": self.projector.bias,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_projectors_are_read_as_they_are_written() {
        let names = "linear, mlp3x_gelu, identity, downsample, mlp_downsample, mlp_downsample_2x2_fix, \
                     mlp_downsample_3x3_fix, transformer, transformer2x, transformer_64w, transformer3x_512w_4h";
        for name in names.split(", ") {
            assert_eq!(ProjectorKind::parse(name).map(ProjectorKind::name).as_deref(), Some(name));
        }
        for name in
            ["mlp0x_gelu", "mlpx_gelu", "transformer0x", "transformer2y", "transformer99x", "transformer_w", "é"]
        {
            assert_eq!(ProjectorKind::parse(name), None, "{name}");
        }
        assert_eq!(ProjectorKind::parse("transformer2é"), None);
        let odd = ProjectorKind::Transformer { depth: 1, width: None, heads: Some(3) };
        assert!(odd.check(16, 32).is_err() && odd.check(16, 33).is_ok());
        assert!(ProjectorKind::Identity.check(16, 32).is_err());
    }
}
