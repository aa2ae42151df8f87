//! The decoder.

use std::path::Path;

use serde_json::{Value, json};
use vila_engine::ops::HeadShape;

use super::fields::{Fields, layer_count};
use super::keys::SettingsFile;
use crate::Result;

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

/// Base and divisor of the rotary frequencies. As in transformers, `rope_scaling` takes the place of `rope_parameters` with
/// all that it says.
fn rope(fields: &Fields) -> Result<(f64, f64)> {
    let scaling = fields.child("rope_scaling")?.filter(|scaling| scaling.entries().next().is_some());
    let rope = match scaling {
        Some(scaling) => Some(scaling),
        None => fields.child("rope_parameters")?,
    };
    let top = fields.number_or("rope_theta", 10_000.0)?;
    let (theta, factor) = match &rope {
        None => (top, 1.0),
        Some(rope) => {
            let kind = match rope.text("rope_type")? {
                Some(kind) => kind,
                None => rope.text("type")?.unwrap_or("default"),
            };
            let factor = match kind {
                "default" => 1.0,
                "linear" if rope.get("factor").is_none() => return Err(rope.error("factor", "is missing")),
                "linear" => rope.number_or("factor", 1.0)?,
                _ => {
                    return Err(rope.error("rope_type", format!("is {kind}, only default and linear are implemented")));
                }
            };
            (rope.number_or("rope_theta", top)?, factor)
        }
    };
    for whose in [Some(fields), rope.as_ref()].into_iter().flatten() {
        let part = whose.number_or("partial_rotary_factor", 1.0)?;
        if part != 1.0 {
            return Err(whose.error("partial_rotary_factor", format!("is {part}, only 1 is implemented")));
        }
    }
    if !(theta > 0.0 && factor > 0.0) {
        return Err(fields.error("rope_theta", "and the rope scaling factor must be positive"));
    }
    Ok((theta, factor))
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
        let (rope_theta, rope_factor) = rope(fields)?;
        Ok(LlamaConfig {
            vocab_size: size("vocab_size", 32_000)?,
            hidden_size: hidden,
            intermediate_size: size("intermediate_size", 11_008)?,
            layers: layer_count(fields, 32)?,
            heads: HeadShape { heads, kv_heads, head_dim },
            rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_factor,
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
    pub(super) fn read_generation(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join("generation_config.json");
        if path.exists() {
            let generation = Fields::read_as(&path, SettingsFile::Generation)?;
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
