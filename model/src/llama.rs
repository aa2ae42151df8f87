use vila_autograd::{Init, ParamId, ParamPart, ParamSpec, ParamStore, Tape, Var};
use vila_engine::{Result, Tensor};

use crate::config::LlamaConfig;
use crate::rope::RopeTables;

/// Names of the decoder's parameters, in model order, under `llm.` (spec 2.1).
///
/// Random weights: linear layers normal with deviation `0.7 / √fan_in`, those that write to the
/// residual stream divided by `√(2 layers)`, embeddings 0.5 so that tokens and projected images start
/// at a similar size.
pub(crate) fn specs(config: &LlamaConfig) -> Vec<ParamSpec> {
    let (d, f, heads) = (config.hidden_size, config.intermediate_size, config.heads);
    let mut specs = vec![
        ParamSpec::new("llm.model.embed_tokens.weight", &[config.vocab_size, d])
            .init(Init::Normal { std: 0.5 })
            .segment("llm.embed_tokens"),
    ];
    let inner = Init::Normal { std: 0.7 / (d as f64).sqrt() };
    let depth = (2.0 * config.layers as f64).sqrt();
    let outward = |fan_in: usize| Init::Normal { std: 0.7 / (fan_in as f64).sqrt() / depth };
    for layer in 0..config.layers {
        let prefix = format!("llm.model.layers.{layer}.");
        let part = |name: &str, shape: &[usize]| ParamPart { name: format!("{prefix}{name}"), shape: shape.to_vec() };
        let segment = format!("llm.layers.{layer}");
        let mut add = |spec: ParamSpec, init| specs.push(spec.init(init).segment(&segment));
        let norm = |name: &str| ParamSpec::new(format!("{prefix}{name}.weight"), &[d]);
        let (q, kv) = (heads.q_cols(), heads.kv_cols());
        let projections = [("q", q), ("k", kv), ("v", kv)];
        add(norm("input_layernorm"), Init::Ones);
        let parts = projections.map(|(name, rows)| part(&format!("self_attn.{name}_proj.weight"), &[rows, d]));
        add(ParamSpec::fused(format!("{prefix}qkv.weight"), parts.to_vec()), inner);
        add(ParamSpec::new(format!("{prefix}self_attn.o_proj.weight"), &[d, q]), outward(q));
        if config.attention_bias {
            let parts = projections.map(|(name, rows)| part(&format!("self_attn.{name}_proj.bias"), &[rows]));
            add(ParamSpec::fused(format!("{prefix}qkv.bias"), parts.to_vec()), Init::Zeros);
            add(ParamSpec::new(format!("{prefix}self_attn.o_proj.bias"), &[d]), Init::Zeros);
        }
        add(norm("post_attention_layernorm"), Init::Ones);
        let parts = ["gate", "up"].map(|name| part(&format!("mlp.{name}_proj.weight"), &[f, d]));
        add(ParamSpec::fused(format!("{prefix}gate_up.weight"), parts.to_vec()), inner);
        add(ParamSpec::new(format!("{prefix}mlp.down_proj.weight"), &[d, f]), outward(f));
        if config.mlp_bias {
            let parts = ["gate", "up"].map(|name| part(&format!("mlp.{name}_proj.bias"), &[f]));
            add(ParamSpec::fused(format!("{prefix}gate_up.bias"), parts.to_vec()), Init::Zeros);
            add(ParamSpec::new(format!("{prefix}mlp.down_proj.bias"), &[d]), Init::Zeros);
        }
    }
    specs.push(ParamSpec::new("llm.model.norm.weight", &[d]).init(Init::Ones).segment("llm.head"));
    if !config.tied {
        specs.push(ParamSpec::new("llm.lm_head.weight", &[config.vocab_size, d]).init(inner).segment("llm.head"));
    }
    specs
}

/// The decoder's parameters in a store.
pub(crate) struct Llama {
    pub(crate) config: LlamaConfig,
    pub(crate) tables: RopeTables,
    pub(crate) embed: ParamId,
    pub(crate) head: ParamId,
    norm: ParamId,
    layers: Vec<Layer>,
}

struct Layer {
    input_norm: ParamId,
    qkv: (ParamId, Option<ParamId>),
    o: (ParamId, Option<ParamId>),
    post_norm: ParamId,
    gate_up: (ParamId, Option<ParamId>),
    down: (ParamId, Option<ParamId>),
}

/// The residual stream between blocks: what was summed, and the last branch's output not yet added.
pub(crate) struct Stream<'a> {
    pub(crate) sum: Var<'a>,
    pub(crate) pending: Option<Var<'a>>,
}

impl Llama {
    pub(crate) fn new(config: LlamaConfig, tables: RopeTables, store: &ParamStore) -> Option<Self> {
        let id = |name: &str| store.id(&format!("llm.{name}"));
        let layers = (0..config.layers)
            .map(|layer| {
                let name = |name: &str| id(&format!("model.layers.{layer}.{name}"));
                let linear = |stem: &str| Some((name(&format!("{stem}.weight"))?, name(&format!("{stem}.bias"))));
                Some(Layer {
                    input_norm: name("input_layernorm.weight")?,
                    qkv: linear("qkv")?,
                    o: linear("self_attn.o_proj")?,
                    post_norm: name("post_attention_layernorm.weight")?,
                    gate_up: linear("gate_up")?,
                    down: linear("mlp.down_proj")?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let embed = id("model.embed_tokens.weight")?;
        let head = if config.tied { embed } else { id("lm_head.weight")? };
        Some(Llama { tables, embed, head, norm: id("model.norm.weight")?, layers, config })
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    fn norm<'a>(&self, tape: &mut Tape<'a>, stream: Stream<'a>, weight: ParamId) -> Result<(Var<'a>, Var<'a>)> {
        let eps = self.config.rms_norm_eps;
        match stream.pending {
            Some(pending) => tape.rms_norm_residual(&pending, &stream.sum, weight, eps),
            None => Ok((stream.sum.clone(), tape.rms_norm(&stream.sum, weight, eps)?)),
        }
    }

    /// One block; `attend` turns rotated `q|k|v` columns into attention outputs.
    pub(crate) fn block<'a>(
        &self,
        tape: &mut Tape<'a>,
        index: usize,
        stream: Stream<'a>,
        positions: &Tensor,
        attend: impl FnOnce(&mut Tape<'a>, &Var<'a>) -> Result<Var<'a>>,
    ) -> Result<Stream<'a>> {
        let layer = &self.layers[index];
        let heads = self.config.heads;
        let (sum, normed) = self.norm(tape, stream, layer.input_norm)?;
        let qkv = tape.linear(&normed, layer.qkv.0, layer.qkv.1)?;
        let tables = (&self.tables.cos, &self.tables.sin);
        let qkv = tape.rope(qkv, heads.heads + heads.kv_heads, heads.head_dim, tables, positions)?;
        let attended = attend(tape, &qkv)?;
        let attended = tape.linear(&attended, layer.o.0, layer.o.1)?;
        let (sum, normed) = self.norm(tape, Stream { sum, pending: Some(attended) }, layer.post_norm)?;
        let gate_up = tape.linear(&normed, layer.gate_up.0, layer.gate_up.1)?;
        let hidden = tape.swiglu(&gate_up)?;
        let pending = Some(tape.linear(&hidden, layer.down.0, layer.down.1)?);
        Ok(Stream { sum, pending })
    }

    /// The final norm: hidden states that the head reads, `[T, D]`.
    pub(crate) fn finish<'a>(&self, tape: &mut Tape<'a>, stream: Stream<'a>) -> Result<Var<'a>> {
        Ok(self.norm(tape, stream, self.norm)?.1)
    }
}
