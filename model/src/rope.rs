use vila_engine::ops::stat_dtype;
use vila_engine::{Backend, DType, Result, Tensor};

use crate::config::LlamaConfig;

/// Cosines and sines of the rotary embedding by position, `[P, C / 2]` each.
///
/// Frequency `i` is `theta^(-2 i / C)` (arXiv 2104.09864); angles are computed in f64 and rounded once.
pub(crate) struct RopeTables {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

/// Longest table: positions beyond it are refused, not silently wrong.
const MAX_ROWS: usize = 1 << 17;

impl RopeTables {
    pub(crate) fn new(backend: &dyn Backend, config: &LlamaConfig, dtype: DType) -> Result<Self> {
        let (rows, half) = (config.max_positions.min(MAX_ROWS), config.heads.head_dim / 2);
        let mut cos = Vec::with_capacity(rows * half);
        let mut sin = Vec::with_capacity(rows * half);
        let frequencies: Vec<f64> =
            (0..half).map(|i| config.rope_theta.powf(-(i as f64) / half as f64) / config.rope_factor).collect();
        for position in 0..rows {
            for frequency in &frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
        let table = |values: &[f64]| -> Result<Tensor> {
            let tensor = backend.alloc(stat_dtype(dtype), rows, half)?;
            if dtype == DType::F64 {
                tensor.set_f64(values)?;
            } else {
                let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                backend.upload(bytemuck::cast_slice(&values), &tensor)?;
            }
            Ok(tensor)
        };
        Ok(RopeTables { cos: table(&cos)?, sin: table(&sin)? })
    }
}
