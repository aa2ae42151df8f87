use crate::ops::{indices, same_dtype, shape, vector};
use crate::{DType, Error, Result, Tensor};

/// One fused AdamW update of a flat range (arXiv 1711.05101, as PyTorch's `AdamW`), or none if the gate is shut.
///
/// With `g = gate[0] grad` and `t = updates`: `m = β₁ m + (1 - β₁) g`, `v = β₂ v + (1 - β₂) g²`,
/// `w = w - lr (decay w + (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + eps))`, with `m` and `v` before they are rounded.
///
/// Moments in bf16 are rounded stochastically: the f32 value plus a random number below one unit of the last kept bit,
/// truncated; infinities and NaN stay. Element `e` of the flat buffer takes the low half of word `e` of the Philox stream
/// `(seed, t)` for `m` and the high half for `v`, so that bits do not depend on how a buffer is cut into ranges.
pub struct AdamW<'a> {
    /// *in place* `[N]`: the weights that are updated (f32 master weights under a bf16 policy).
    pub weights: &'a Tensor,
    /// *in place* `[N]`, the type of the weights or bf16.
    pub m: &'a Tensor,
    /// *in place* `[N]`, the type of `m`.
    pub v: &'a Tensor,
    /// `[N]`.
    pub grad: &'a Tensor,
    /// *out* `[N]` bf16: the new weights, rounded to nearest.
    pub publish: Option<&'a Tensor>,
    /// `[1, 4]` f32, see [`GradientGate`](crate::ops::GradientGate): factor of the gradient, and whether anything changes.
    pub gate: &'a Tensor,
    /// `[1]` u32: number of this update, from 1.
    pub updates: &'a Tensor,
    /// Learning rate.
    pub lr: f64,
    /// `(β₁, β₂)`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Seed of the rounding.
    pub seed: u64,
    /// Index of the range's first element in the flat buffer.
    pub offset: u64,
}

impl AdamW<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("adamw", self.weights.len());
        vector(op, "weights", self.weights, n)?;
        vector(op, "m", self.m, n)?;
        vector(op, "v", self.v, n)?;
        vector(op, "grad", self.grad, n)?;
        if self.m.dtype() != DType::BF16 {
            same_dtype(op, "m", self.m, self.weights.dtype())?;
        }
        if self.v.dtype() != self.m.dtype() {
            return Err(Error::DType { op, what: "v", expected: "the type of m", got: self.v.dtype() });
        }
        if let Some(publish) = self.publish {
            vector(op, "publish", publish, n)?;
            if publish.dtype() != DType::BF16 {
                return Err(Error::DType { op, what: "publish", expected: "BF16", got: publish.dtype() });
            }
        }
        shape(op, "gate", self.gate, 1, 4)?;
        indices(op, "updates", self.updates, 1)
    }
}
