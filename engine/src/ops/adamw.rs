use crate::ops::vector;
use crate::{Result, Tensor};

/// One fused AdamW update of a flat range (arXiv 1711.05101, as PyTorch's `AdamW`).
///
/// With `g = grad_scale grad`: `m = β₁ m + (1 - β₁) g`, `v = β₂ v + (1 - β₂) g²`,
/// `w = w - lr (decay w + (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + eps))`.
pub struct AdamW<'a> {
    /// *in place* `[N]`: the weights that are updated (f32 master weights under a bf16 policy).
    pub weights: &'a Tensor,
    /// *in place* `[N]`.
    pub m: &'a Tensor,
    /// *in place* `[N]`.
    pub v: &'a Tensor,
    /// `[N]`.
    pub grad: &'a Tensor,
    /// Factor of the gradient, from clipping.
    pub grad_scale: f64,
    /// Learning rate.
    pub lr: f64,
    /// `(β₁, β₂)`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

impl AdamW<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let n = self.weights.len();
        vector("adamw", "weights", self.weights, n)?;
        vector("adamw", "m", self.m, n)?;
        vector("adamw", "v", self.v, n)?;
        vector("adamw", "grad", self.grad, n)?;
        crate::error::ensure(self.step > 0, "adamw", || "the first update has step 1".into())
    }
}
