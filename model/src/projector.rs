use vila_autograd::{Init, ParamId, ParamSpec, ParamStore, Tape, Var};
use vila_engine::ops::{GeluKind, HeadShape};
use vila_engine::{NO_ROW, Result};

use crate::config::{ProjectorKind, VilaConfig};
use crate::vision::{EncoderBlock, Pair, encoder_specs, image_bounds, linear_specs, norm_specs, pair};

const PREFIX: &str = "mm_projector.layers";
const EPS: f64 = 1e-5;

/// Learning-rate group of the projector's parameters.
pub(crate) const GROUP: usize = 1;

/// One of a projector's layers; they are numbered from 0 in the names of its parameters.
enum Step {
    /// Merges `side x side` neighbours.
    Merge { side: usize, transposed: bool },
    /// Layer norm.
    Norm { width: usize },
    /// Linear layer, with a bias unless the configuration says without.
    Linear { rows: usize, cols: usize },
    /// Exact GELU.
    Gelu,
    /// Pre-norm transformer block over the patches of an image.
    Block { width: usize, depth: usize },
}

/// The layers of a projector (spec 1.4).
fn steps(config: &VilaConfig) -> Vec<Step> {
    let (v, d) = (config.vision.hidden_size, config.llm.hidden_size);
    let linear = |cols, rows| Step::Linear { rows, cols };
    let merge = |side, transposed| Step::Merge { side, transposed };
    let mlp_downsample = |transposed| {
        vec![merge(2, transposed), Step::Norm { width: 4 * v }, linear(4 * v, d), Step::Gelu, linear(d, d)]
    };
    match config.projector.kind {
        ProjectorKind::Identity => vec![],
        ProjectorKind::Linear => vec![linear(v, d)],
        ProjectorKind::Mlp { depth } => {
            let deeper = (1..depth).flat_map(|_| [Step::Gelu, linear(d, d)]);
            std::iter::once(linear(v, d)).chain(deeper).collect()
        }
        ProjectorKind::Downsample => vec![merge(2, false), linear(4 * v, d)],
        // Released weights expect tokens column by column.
        ProjectorKind::MlpDownsample => mlp_downsample(true),
        ProjectorKind::MlpDownsample2x2Fix => mlp_downsample(false),
        ProjectorKind::MlpDownsample3x3Fix => {
            let narrow = [merge(3, false), Step::Norm { width: 9 * v }, linear(9 * v, 3 * v), Step::Gelu];
            let widen = [Step::Norm { width: 3 * v }, linear(3 * v, d), Step::Gelu, linear(d, d)];
            narrow.into_iter().chain(widen).collect()
        }
        ProjectorKind::Transformer { depth, width, .. } => {
            let width = width.unwrap_or(d);
            let blocks = (0..depth).map(|_| Step::Block { width, depth });
            let out = (width != d).then(|| linear(width, d));
            std::iter::once(linear(v, width)).chain(blocks).chain(out).collect()
        }
    }
}

/// What stands in names for a layer: a single linear layer has no number.
fn label(config: &VilaConfig, index: usize) -> String {
    if config.projector.kind == ProjectorKind::Linear { String::new() } else { format!(".{index}") }
}

/// Names of the projector's parameters (spec 2.5); linear layers are uniform in `±1/√fan_in` as frameworks do by
/// default.
pub(crate) fn specs(config: &VilaConfig) -> Vec<ParamSpec> {
    let specs_of = |(index, step): (usize, &Step)| match *step {
        Step::Merge { .. } | Step::Gelu => vec![],
        Step::Norm { width } => norm_specs(PREFIX, &label(config, index), width).to_vec(),
        Step::Linear { rows, cols } => {
            let init = Init::Uniform { bound: 1.0 / (cols as f64).sqrt() };
            let mut layer = linear_specs(PREFIX, &label(config, index), rows, cols, init);
            layer[1].init = init;
            layer.into_iter().take(if config.projector.bias { 2 } else { 1 }).collect()
        }
        Step::Block { width, depth } => encoder_specs(&block_prefix(index), width, 4 * width, depth),
    };
    let mut specs: Vec<ParamSpec> = steps(config).iter().enumerate().flat_map(specs_of).collect();
    for spec in &mut specs {
        spec.group = GROUP;
        spec.segment = "mm_projector".into();
    }
    specs
}

fn block_prefix(index: usize) -> String {
    format!("{PREFIX}.{index}.")
}

enum Layer {
    Merge { side: usize, transposed: bool },
    Norm(Pair),
    Linear(ParamId, Option<ParamId>),
    Gelu,
    Block(EncoderBlock, HeadShape),
}

/// The projector's parameters in a store.
pub(crate) struct Projector {
    layers: Vec<Layer>,
    grid: usize,
    tokens: usize,
}

impl Projector {
    pub(crate) fn new(config: &VilaConfig, store: &ParamStore) -> Option<Self> {
        let layer = |(index, step): (usize, &Step)| {
            let label = label(config, index);
            Some(match *step {
                Step::Merge { side, transposed } => Layer::Merge { side, transposed },
                Step::Norm { .. } => Layer::Norm(pair(store, PREFIX, &label)?),
                Step::Linear { .. } => {
                    let id = |field: &str| store.id(&format!("{PREFIX}{label}.{field}"));
                    Layer::Linear(id("weight")?, id("bias"))
                }
                Step::Gelu => Layer::Gelu,
                Step::Block { width, .. } => {
                    let heads = config.projector.kind.heads(width);
                    let shape = HeadShape { heads, kv_heads: heads, head_dim: width / heads };
                    Layer::Block(EncoderBlock::new(store, &block_prefix(index))?, shape)
                }
            })
        };
        let layers = steps(config).iter().enumerate().map(layer).collect::<Option<_>>()?;
        Some(Projector { layers, grid: config.vision.grid(), tokens: config.vision.tokens() })
    }

    /// `[images * tokens, d_v] -> [images * tokens per image, D]`.
    pub(crate) fn forward<'a>(&'a self, tape: &mut Tape<'a>, features: &Var<'a>) -> Result<Var<'a>> {
        let images = features.tensor().rows() / self.tokens.max(1);
        let mut x = features.clone();
        for layer in &self.layers {
            x = match layer {
                Layer::Merge { side, transposed } => self.merge(tape, &x, images, *side, *transposed)?,
                Layer::Norm((weight, bias)) => tape.layer_norm(&x, *weight, *bias, EPS)?,
                Layer::Linear(weight, bias) => tape.linear(&x, *weight, *bias)?,
                Layer::Gelu => tape.gelu(&x, GeluKind::Erf)?,
                Layer::Block(block, shape) => {
                    let cu_seqlens = image_bounds(tape, images, self.tokens)?;
                    block.forward(tape, &x, *shape, &cu_seqlens, (GeluKind::Erf, EPS))?
                }
            };
        }
        Ok(x)
    }

    /// Merges neighbours into rows of `side² d_v`; a grid that does not divide is padded with zeros at the bottom and
    /// the right.
    fn merge<'a>(
        &self,
        tape: &mut Tape<'a>,
        features: &Var<'a>,
        images: usize,
        side: usize,
        transposed: bool,
    ) -> Result<Var<'a>> {
        let order = merge_order(self.grid, side, transposed);
        // A class token that was kept stands in front of the grid and is not merged.
        let skip = self.tokens.saturating_sub(self.grid * self.grid);
        let index: Vec<u32> = (0..images)
            .flat_map(|image| {
                let first = (image * self.tokens + skip) as u32;
                order.iter().map(move |&row| if row == NO_ROW { NO_ROW } else { first + row })
            })
            .collect();
        let rows = tape.gather_rows(features, &tape.backend().upload_u32(&index)?)?;
        let (total, width) = rows.tensor().shape();
        tape.reshape(&rows, total / (side * side), side * side * width)
    }
}

/// Source patches of each merged token, in row-major order within it: of 2x2, (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1,
/// 2j+1).
///
/// Tokens follow in row-major order, or column by column as released `mlp_downsample` weights expect (spec 1.4).
fn merge_order(grid: usize, side: usize, transposed: bool) -> Vec<u32> {
    let merged = grid.div_ceil(side);
    let cell = |row: usize, col: usize| if row < grid && col < grid { (row * grid + col) as u32 } else { NO_ROW };
    (0..merged * merged)
        .flat_map(|token| {
            let (i, j) = if transposed { (token % merged, token / merged) } else { (token / merged, token % merged) };
            (0..side * side).map(move |k| cell(side * i + k / side, side * j + k % side))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec 11.5.
    #[test]
    fn merged_tokens_follow_the_public_order() {
        let transposed = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15];
        assert_eq!(merge_order(4, 2, true), transposed);
        assert_eq!(merge_order(4, 2, false)[4..12], [2, 3, 6, 7, 8, 9, 12, 13]);
        assert_eq!(
            merge_order(3, 2, false),
            [0, 1, 3, 4, 2, NO_ROW, 5, NO_ROW, 6, 7, NO_ROW, NO_ROW, 8, NO_ROW, NO_ROW, NO_ROW]
        );
        // Nine to one, and what is missing at the right.
        assert_eq!(merge_order(4, 3, false)[..12], [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, NO_ROW, NO_ROW]);
    }
}
