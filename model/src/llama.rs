use vila_autograd::{Init, LowRank, ParamId, ParamPart, ParamSpec, ParamStore, Tape, Var};
use vila_engine::{Result, Tensor};

use crate::config::{LlamaConfig, VilaConfig};
use crate::expert::{Expert, Routing, routed};
use crate::lora::{self, Target};
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

/// A linear layer with the adapters beside it.
pub(crate) struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
    adapters: Vec<LowRank>,
}

impl Linear {
    pub(crate) fn new(store: &ParamStore, stem: &str) -> Option<Self> {
        let (weight, bias) = (store.id(&format!("{stem}.weight"))?, store.id(&format!("{stem}.bias")));
        Some(Linear { weight, bias, adapters: Vec::new() })
    }

    pub(crate) fn forward<'a>(&self, tape: &mut Tape<'a>, x: &Var<'a>) -> Result<Var<'a>> {
        let y = tape.linear(x, self.weight, self.bias)?;
        self.adapters.iter().try_fold(y, |y, adapter| tape.low_rank(y, x, adapter))
    }
}

struct Layer {
    input_norm: ParamId,
    qkv: Linear,
    o: Linear,
    post_norm: ParamId,
    gate_up: Linear,
    down: Linear,
    expert: Option<Expert>,
}

impl Layer {
    fn new(config: &VilaConfig, store: &ParamStore, layer: usize) -> Option<Self> {
        let prefix = format!("llm.model.layers.{layer}.");
        let norm = |name: &str| store.id(&format!("{prefix}{name}.weight"));
        let linear = |stem: &str, targets: &[Target]| {
            let adapters = lora::adapters(config, store, layer, targets)?;
            Some(Linear { adapters, ..Linear::new(store, &format!("{prefix}{stem}"))? })
        };
        Some(Layer {
            input_norm: norm("input_layernorm")?,
            qkv: linear("qkv", &[Target::Q, Target::K, Target::V])?,
            o: linear("self_attn.o_proj", &[Target::O])?,
            post_norm: norm("post_attention_layernorm")?,
            gate_up: linear("gate_up", &[Target::Gate, Target::Up])?,
            down: linear("mlp.down_proj", &[Target::Down])?,
            expert: match config.expert {
                Some(_) => Some(Expert::new(store, layer)?),
                None => None,
            },
        })
    }

    fn qkv<'a>(&self, tape: &mut Tape<'a>, x: &Var<'a>, routing: Option<&Routing>) -> Result<Var<'a>> {
        let Some(expert) = &self.expert else { return self.qkv.forward(tape, x) };
        routed(tape, x, routing, |tape, x| self.qkv.forward(tape, x), |tape, x| expert.qkv.forward(tape, x))
    }

    fn mlp<'a>(&self, tape: &mut Tape<'a>, x: &Var<'a>, routing: Option<&Routing>) -> Result<Var<'a>> {
        let Some(expert) = &self.expert else { return mlp(tape, x, &self.gate_up, &self.down) };
        let base = |tape: &mut Tape<'a>, x: &Var<'a>| mlp(tape, x, &self.gate_up, &self.down);
        routed(tape, x, routing, base, |tape, x| mlp(tape, x, &expert.gate_up, &expert.down))
    }
}

fn mlp<'a>(tape: &mut Tape<'a>, x: &Var<'a>, gate_up: &Linear, down: &Linear) -> Result<Var<'a>> {
    let gate_up = gate_up.forward(tape, x)?;
    let hidden = tape.swiglu(&gate_up)?;
    down.forward(tape, &hidden)
}

/// What a block must know of the rows that it computes.
#[derive(Clone)]
pub(crate) struct Rows {
    /// `[T]`: positions.
    pub(crate) positions: Tensor,
    /// Which of them go through the experts, if any do.
    pub(crate) routing: Option<Routing>,
}

/// The residual stream between blocks: what was summed, and the last branch's output not yet added.
pub(crate) struct Stream<'a> {
    pub(crate) sum: Var<'a>,
    pub(crate) pending: Option<Var<'a>>,
}

impl Llama {
    pub(crate) fn new(config: &VilaConfig, tables: RopeTables, store: &ParamStore) -> Option<Self> {
        let id = |name: &str| store.id(&format!("llm.{name}.weight"));
        let layers =
            (0..config.llm.layers).map(|layer| Layer::new(config, store, layer)).collect::<Option<Vec<_>>>()?;
        let embed = id("model.embed_tokens")?;
        let head = if config.llm.tied { embed } else { id("lm_head")? };
        Some(Llama { tables, embed, head, norm: id("model.norm")?, layers, config: config.llm.clone() })
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
        Rows { positions, routing }: &Rows,
        attend: impl FnOnce(&mut Tape<'a>, &Var<'a>) -> Result<Var<'a>>,
    ) -> Result<Stream<'a>> {
        let (layer, heads, routing) = (&self.layers[index], self.config.heads, routing.as_ref());
        let (sum, normed) = self.norm(tape, stream, layer.input_norm)?;
        let qkv = layer.qkv(tape, &normed, routing)?;
        let tables = (&self.tables.cos, &self.tables.sin);
        let qkv = tape.rope(qkv, heads.heads + heads.kv_heads, heads.head_dim, tables, positions)?;
        let attended = attend(tape, &qkv)?;
        let attended = layer.o.forward(tape, &attended)?;
        let (sum, normed) = self.norm(tape, Stream { sum, pending: Some(attended) }, layer.post_norm)?;
        let pending = Some(layer.mlp(tape, &normed, routing)?);
        Ok(Stream { sum, pending })
    }

    /// The final norm: hidden states that the head reads, `[T, D]`.
    pub(crate) fn finish<'a>(&self, tape: &mut Tape<'a>, stream: Stream<'a>) -> Result<Var<'a>> {
        Ok(self.norm(tape, stream, self.norm)?.1)
    }
}
