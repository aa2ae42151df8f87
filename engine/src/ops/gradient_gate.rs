use crate::ops::{indices, same_dtype, shape, vector};
use crate::{DType, Result, Tensor};

/// Decides on the device whether an update is applied and how far its gradient is clipped.
///
/// With `norm = √sum` and `finite` = the norm and all losses are finite: `gate = [scale, norm, finite, 0]`, where `scale` is
/// `clip / norm` if `0 < clip < norm`, else 1, and 0 unless finite; `updates` grows by one if finite.
pub struct GradientGate<'a> {
    /// `[1]` f64: the sum of squares of all gradients.
    pub sum: &'a Tensor,
    /// `[L]` f32: other values that must be finite.
    pub losses: Option<&'a Tensor>,
    /// Largest norm; 0 clips nothing.
    pub clip: f64,
    /// *out* `[1, 4]` f32.
    pub gate: &'a Tensor,
    /// *accumulated* `[1]` u32: updates applied.
    pub updates: &'a Tensor,
}

impl GradientGate<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let op = "gradient_gate";
        vector(op, "sum", self.sum, 1)?;
        same_dtype(op, "sum", self.sum, DType::F64)?;
        if let Some(losses) = self.losses {
            vector(op, "losses", losses, losses.len())?;
            same_dtype(op, "losses", losses, DType::F32)?;
        }
        shape(op, "gate", self.gate, 1, 4)?;
        same_dtype(op, "gate", self.gate, DType::F32)?;
        indices(op, "updates", self.updates, 1)
    }
}
