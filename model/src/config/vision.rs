//! The vision tower.

use serde_json::{Value, json};
use vila_engine::ops::GeluKind;

use super::fields::{Fields, layer_count};
use crate::Result;

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

pub(super) fn gelu_kind(fields: &Fields, field: &str, default: &str) -> Result<GeluKind> {
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
