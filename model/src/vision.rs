use vila_autograd::{Init, ParamId, ParamPart, ParamSpec, ParamStore, Tape, Var};
use vila_engine::ops::{ExtractPatches, GeluKind, HeadShape};
use vila_engine::{Result, Tensor};

use crate::config::{VisionConfig, VisionFamily};

const PREFIX: &str = "vision_tower.vision_model.";

/// A linear layer's weight and bias under `{prefix}{name}`.
pub(crate) fn linear_specs(prefix: &str, name: &str, rows: usize, cols: usize, init: Init) -> [ParamSpec; 2] {
    [
        ParamSpec::new(format!("{prefix}{name}.weight"), &[rows, cols]).init(init),
        ParamSpec::new(format!("{prefix}{name}.bias"), &[rows]).init(Init::Zeros),
    ]
}

/// A layer norm's weight and bias under `{prefix}{name}`.
pub(crate) fn norm_specs(prefix: &str, name: &str, width: usize) -> [ParamSpec; 2] {
    [
        ParamSpec::new(format!("{prefix}{name}.weight"), &[width]).init(Init::Ones),
        ParamSpec::new(format!("{prefix}{name}.bias"), &[width]).init(Init::Zeros),
    ]
}

/// Parameters of a pre-norm encoder block under `prefix`; `depth` is the number of blocks.
pub(crate) fn encoder_specs(prefix: &str, width: usize, mlp: usize, depth: usize) -> Vec<ParamSpec> {
    let inner = Init::Normal { std: 0.7 / (width as f64).sqrt() };
    let outward = |fan_in: usize| Init::Normal { std: 0.7 / (fan_in as f64).sqrt() / (2.0 * depth as f64).sqrt() };
    let part = |name: &str, shape: &[usize]| ParamPart { name: format!("{prefix}{name}"), shape: shape.to_vec() };
    let weights = ["q", "k", "v"].map(|name| part(&format!("self_attn.{name}_proj.weight"), &[width, width]));
    let biases = ["q", "k", "v"].map(|name| part(&format!("self_attn.{name}_proj.bias"), &[width]));
    let mut specs = norm_specs(prefix, "layer_norm1", width).to_vec();
    specs.push(ParamSpec::fused(format!("{prefix}qkv.weight"), weights.to_vec()).init(inner));
    specs.push(ParamSpec::fused(format!("{prefix}qkv.bias"), biases.to_vec()));
    specs.extend(linear_specs(prefix, "self_attn.out_proj", width, width, outward(width)));
    specs.extend(norm_specs(prefix, "layer_norm2", width));
    specs.extend(linear_specs(prefix, "mlp.fc1", mlp, width, inner));
    specs.extend(linear_specs(prefix, "mlp.fc2", width, mlp, outward(mlp)));
    specs
}

/// A weight and its bias.
pub(crate) type Pair = (ParamId, ParamId);

pub(crate) fn pair(store: &ParamStore, prefix: &str, name: &str) -> Option<Pair> {
    Some((store.id(&format!("{prefix}{name}.weight"))?, store.id(&format!("{prefix}{name}.bias"))?))
}

/// A pre-norm transformer block with full attention within each image (spec 1.2).
pub(crate) struct EncoderBlock {
    norm1: Pair,
    qkv: Pair,
    out: Pair,
    norm2: Pair,
    fc1: Pair,
    fc2: Pair,
}

impl EncoderBlock {
    pub(crate) fn new(store: &ParamStore, prefix: &str) -> Option<Self> {
        Some(EncoderBlock {
            norm1: pair(store, prefix, "layer_norm1")?,
            qkv: pair(store, prefix, "qkv")?,
            out: pair(store, prefix, "self_attn.out_proj")?,
            norm2: pair(store, prefix, "layer_norm2")?,
            fc1: pair(store, prefix, "mlp.fc1")?,
            fc2: pair(store, prefix, "mlp.fc2")?,
        })
    }

    pub(crate) fn forward<'a>(
        &self,
        tape: &mut Tape<'a>,
        x: &Var<'a>,
        heads: HeadShape,
        cu_seqlens: &Tensor,
        (act, eps): (GeluKind, f64),
    ) -> Result<Var<'a>> {
        let normed = tape.layer_norm(x, self.norm1.0, self.norm1.1, eps)?;
        let qkv = tape.linear(&normed, self.qkv.0, Some(self.qkv.1))?;
        let attended = tape.attention(&qkv, heads, cu_seqlens, false)?;
        let attended = tape.linear(&attended, self.out.0, Some(self.out.1))?;
        let x = tape.add(&attended, x)?;
        let normed = tape.layer_norm(&x, self.norm2.0, self.norm2.1, eps)?;
        let hidden = tape.linear(&normed, self.fc1.0, Some(self.fc1.1))?;
        let hidden = tape.gelu(&hidden, act)?;
        let hidden = tape.linear(&hidden, self.fc2.0, Some(self.fc2.1))?;
        tape.add(&hidden, &x)
    }
}

/// Boundaries of `images` sequences of `length` rows.
pub(crate) fn image_bounds(tape: &Tape, images: usize, length: usize) -> Result<Tensor> {
    tape.backend().upload_u32(&(0..=images).map(|image| (image * length) as u32).collect::<Vec<_>>())
}

/// Names of the tower's parameters up to the selected state (spec 2.2, 2.3).
pub(crate) fn specs(config: &VisionConfig) -> Vec<ParamSpec> {
    let (width, patch) = (config.hidden_size, config.patch_size);
    let fan_in = 3 * patch * patch;
    let embeddings = format!("{PREFIX}embeddings.");
    let init = Init::Normal { std: 0.7 / (fan_in as f64).sqrt() };
    let mut specs = Vec::new();
    if config.has_class() {
        let class = ParamSpec::new(format!("{embeddings}class_embedding"), &[width]).init(Init::Normal { std: 0.3 });
        // Neither a bias nor a norm's weight: transformers decays it.
        specs.push(ParamSpec { decay: true, ..class });
    }
    specs.push(ParamSpec::new(format!("{embeddings}patch_embedding.weight"), &[width, 3, patch, patch]).init(init));
    if config.family == VisionFamily::Siglip {
        specs.push(ParamSpec::new(format!("{embeddings}patch_embedding.bias"), &[width]));
    }
    let rows = config.grid() * config.grid() + usize::from(config.has_class());
    let positions = ParamSpec::new(format!("{embeddings}position_embedding.weight"), &[rows, width]);
    specs.push(positions.init(Init::Normal { std: 0.3 }));
    if config.family == VisionFamily::Clip {
        specs.extend(norm_specs(PREFIX, "pre_layrnorm", width));
    }
    specs.iter_mut().for_each(|spec| spec.segment = "vision_tower.embeddings".into());
    for layer in 0..config.blocks_used().unwrap_or(0) {
        let blocks = encoder_specs(&layer_prefix(layer), width, config.intermediate_size, config.layers);
        specs.extend(blocks.into_iter().map(|spec| spec.segment(format!("vision_tower.layers.{layer}"))));
    }
    specs
}

fn layer_prefix(layer: usize) -> String {
    format!("{PREFIX}encoder.layers.{layer}.")
}

/// The vision tower's parameters in a store.
pub(crate) struct VisionTower {
    config: VisionConfig,
    class: Option<ParamId>,
    patches: (ParamId, Option<ParamId>),
    positions: ParamId,
    pre_norm: Option<Pair>,
    blocks: Vec<EncoderBlock>,
}

impl VisionTower {
    pub(crate) fn new(config: VisionConfig, store: &ParamStore) -> Option<Self> {
        let id = |name: &str| store.id(&format!("{PREFIX}{name}"));
        let blocks = (0..config.blocks_used()?)
            .map(|layer| EncoderBlock::new(store, &layer_prefix(layer)))
            .collect::<Option<Vec<_>>>()?;
        Some(VisionTower {
            class: id("embeddings.class_embedding"),
            patches: (id("embeddings.patch_embedding.weight")?, id("embeddings.patch_embedding.bias")),
            positions: id("embeddings.position_embedding.weight")?,
            pre_norm: pair(store, PREFIX, "pre_layrnorm"),
            blocks,
            config,
        })
    }

    /// Features of normalised pixels `[images, 3 * size * size]`: `[images * tokens, width]`.
    pub(crate) fn forward<'a>(&'a self, tape: &mut Tape<'a>, pixels: &Tensor) -> Result<Var<'a>> {
        let config = &self.config;
        let (images, grid) = (pixels.rows(), config.grid());
        let patches =
            tape.backend().alloc(pixels.dtype(), images * grid * grid, 3 * config.patch_size * config.patch_size)?;
        let (size, patch) = (config.image_size, config.patch_size);
        tape.backend().extract_patches(&ExtractPatches { pixels, size, patch, y: &patches })?;
        let patches = tape.input(patches, false);
        let x = tape.linear(&patches, self.patches.0, self.patches.1)?;
        let mut x = tape.vision_embed(&x, self.class, self.positions)?;
        if let Some((weight, bias)) = self.pre_norm {
            x = tape.layer_norm(&x, weight, bias, config.eps)?;
        }
        let length = grid * grid + usize::from(config.has_class());
        let heads =
            HeadShape { heads: config.heads, kv_heads: config.heads, head_dim: config.hidden_size / config.heads };
        let cu_seqlens = image_bounds(tape, images, length)?;
        for block in &self.blocks {
            let bounds = cu_seqlens.clone();
            let run = move |tape: &mut Tape<'a>, x: &[Var<'a>]| {
                Ok(vec![block.forward(tape, &x[0], heads, &bounds, (self.config.act, self.config.eps))?])
            };
            x = tape.block(&[x], run)?.swap_remove(0);
        }
        if config.drop_class {
            let rows: Vec<u32> = (0..(images * length) as u32).filter(|row| row % length as u32 != 0).collect();
            x = tape.gather_rows(&x, &tape.backend().upload_u32(&rows)?)?;
        }
        Ok(x)
    }
}
