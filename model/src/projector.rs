use vila_autograd::{Init, ParamId, ParamSpec, ParamStore, Tape, Var};
use vila_engine::ops::{GeluKind, HeadShape};
use vila_engine::{NO_ROW, Result};

use crate::config::{ProjectorConfig, ProjectorKind, VilaConfig};
use crate::vision::{EncoderBlock, Pair, encoder_specs, image_bounds, linear_specs, norm_specs, pair};

const PREFIX: &str = "mm_projector.layers";
const EPS: f64 = 1e-5;

/// Learning-rate group of the projector's parameters.
pub(crate) const GROUP: usize = 1;

/// Names of the projector's parameters (spec 2.5), uniform in `±1/√fan_in` as frameworks do by default.
pub(crate) fn specs(config: &VilaConfig) -> Vec<ParamSpec> {
    let (v, d) = (config.vision.hidden_size, config.llm.hidden_size);
    let linear = |index: &str, cols: usize| {
        let init = Init::Uniform { bound: 1.0 / (cols as f64).sqrt() };
        let mut layer = linear_specs(PREFIX, index, d, cols, init);
        layer[1].init = init;
        layer.into_iter().take(if config.projector.bias { 2 } else { 1 })
    };
    let mut specs: Vec<ParamSpec> = match config.projector.kind {
        ProjectorKind::Linear => linear("", v).collect(),
        ProjectorKind::Mlp { depth } => {
            (0..depth).flat_map(|i| linear(&format!(".{}", 2 * i), if i == 0 { v } else { d })).collect()
        }
        ProjectorKind::Downsample => linear(".1", 4 * v).collect(),
        ProjectorKind::MlpDownsample => {
            let norm = norm_specs(PREFIX, ".1", 4 * v);
            norm.into_iter().chain(linear(".2", 4 * v)).chain(linear(".4", d)).collect()
        }
        ProjectorKind::Transformer { depth } => {
            let blocks = (1..=depth).flat_map(|i| encoder_specs(&format!("{PREFIX}.{i}."), d, 4 * d, depth));
            linear(".0", v).chain(blocks).collect()
        }
    };
    for spec in &mut specs {
        spec.group = GROUP;
        spec.segment = "mm_projector".into();
    }
    specs
}

type LinearIds = (ParamId, Option<ParamId>);

enum Layers {
    Mlp(Vec<LinearIds>),
    Downsample { norm: Option<Pair>, layers: Vec<LinearIds>, transposed: bool },
    Transformer { input: LinearIds, blocks: Vec<EncoderBlock> },
}

/// The projector's parameters in a store.
pub(crate) struct Projector {
    layers: Layers,
    grid: usize,
    tokens: usize,
    width: usize,
}

impl Projector {
    pub(crate) fn new(config: &VilaConfig, store: &ParamStore) -> Option<Self> {
        let ProjectorConfig { kind, .. } = config.projector;
        let linear = |index: &str| {
            Some((store.id(&format!("{PREFIX}{index}.weight"))?, store.id(&format!("{PREFIX}{index}.bias"))))
        };
        let layers = match kind {
            ProjectorKind::Linear => Layers::Mlp(vec![linear("")?]),
            ProjectorKind::Mlp { depth } => {
                Layers::Mlp((0..depth).map(|i| linear(&format!(".{}", 2 * i))).collect::<Option<_>>()?)
            }
            ProjectorKind::Downsample => {
                Layers::Downsample { norm: None, layers: vec![linear(".1")?], transposed: false }
            }
            ProjectorKind::MlpDownsample => Layers::Downsample {
                norm: Some(pair(store, PREFIX, ".1")?),
                layers: vec![linear(".2")?, linear(".4")?],
                transposed: true,
            },
            ProjectorKind::Transformer { depth } => Layers::Transformer {
                input: linear(".0")?,
                blocks: (1..=depth)
                    .map(|i| EncoderBlock::new(store, &format!("{PREFIX}.{i}.")))
                    .collect::<Option<_>>()?,
            },
        };
        let (grid, tokens, width) = (config.vision.grid(), config.vision.tokens(), config.llm.hidden_size);
        Some(Projector { layers, grid, tokens, width })
    }

    /// `[images * tokens, d_v] -> [images * tokens per image, D]`.
    pub(crate) fn forward<'a>(&'a self, tape: &mut Tape<'a>, features: &Var<'a>) -> Result<Var<'a>> {
        match &self.layers {
            Layers::Mlp(layers) => mlp(tape, features.clone(), layers),
            Layers::Downsample { norm, layers, transposed } => {
                let mut x = self.space_to_channel(tape, features, *transposed)?;
                if let Some((weight, bias)) = *norm {
                    x = tape.layer_norm(&x, weight, bias, EPS)?;
                }
                mlp(tape, x, layers)
            }
            Layers::Transformer { input, blocks } => {
                let mut x = tape.linear(features, input.0, input.1)?;
                // Heads about 128 wide that divide the width.
                let heads = (1..=(self.width / 128).max(1)).rev().find(|h| self.width.is_multiple_of(*h)).unwrap_or(1);
                let shape = HeadShape { heads, kv_heads: heads, head_dim: self.width / heads };
                let cu_seqlens = image_bounds(tape, x.tensor().rows() / self.tokens, self.tokens)?;
                for block in blocks {
                    x = block.forward(tape, &x, shape, &cu_seqlens, (GeluKind::Erf, EPS))?;
                }
                Ok(x)
            }
        }
    }

    /// Merges 2x2 neighbours into rows of `4 d_v`; an odd grid is padded with zeros at the bottom and the right.
    fn space_to_channel<'a>(&self, tape: &mut Tape<'a>, features: &Var<'a>, transposed: bool) -> Result<Var<'a>> {
        let images = features.tensor().rows() / self.tokens;
        let order = merge_order(self.grid, transposed);
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
        tape.reshape(&rows, total / 4, 4 * width)
    }
}

/// Source patches of each merged token, four by four: (2i, 2j), (2i, 2j+1), (2i+1, 2j), (2i+1, 2j+1).
///
/// Tokens follow in row-major order, or column by column as released `mlp_downsample` weights expect (spec 1.4).
fn merge_order(grid: usize, transposed: bool) -> Vec<u32> {
    let half = grid.div_ceil(2);
    let cell = |row: usize, col: usize| if row < grid && col < grid { (row * grid + col) as u32 } else { NO_ROW };
    (0..half * half)
        .flat_map(|token| {
            let (i, j) = if transposed { (token % half, token / half) } else { (token / half, token % half) };
            [cell(2 * i, 2 * j), cell(2 * i, 2 * j + 1), cell(2 * i + 1, 2 * j), cell(2 * i + 1, 2 * j + 1)]
        })
        .collect()
}

fn mlp<'a>(tape: &mut Tape<'a>, x: Var<'a>, layers: &[LinearIds]) -> Result<Var<'a>> {
    let mut x = x;
    for (i, &(weight, bias)) in layers.iter().enumerate() {
        if i > 0 {
            x = tape.gelu(&x, GeluKind::Erf)?;
        }
        x = tape.linear(&x, weight, bias)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec 11.5.
    #[test]
    fn merged_tokens_follow_the_public_order() {
        let transposed = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15];
        assert_eq!(merge_order(4, true), transposed);
        assert_eq!(merge_order(4, false)[4..12], [2, 3, 6, 7, 8, 9, 12, 13]);
        assert_eq!(
            merge_order(3, false),
            [0, 1, 3, 4, 2, NO_ROW, 5, NO_ROW, 6, 7, NO_ROW, NO_ROW, 8, NO_ROW, NO_ROW, NO_ROW]
        );
    }
}
