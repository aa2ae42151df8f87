use crate::ops::shape;
use crate::{Result, Tensor};

/// `y = silu(gate) * up`, `silu(z) = z / (1 + exp(-z))` (arXiv 2002.05202), over fused `gate|up` columns.
pub struct Swiglu<'a> {
    /// `[T, 2 F]`.
    pub gate_up: &'a Tensor,
    /// *out* `[T, F]`.
    pub y: &'a Tensor,
}

impl Swiglu<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        shape("swiglu", "gate_up", self.gate_up, self.y.rows(), 2 * self.y.cols())
    }
}

/// Gradient of [`Swiglu`].
pub struct SwigluBackward<'a> {
    /// `[T, F]`.
    pub dy: &'a Tensor,
    /// `[T, 2 F]`.
    pub gate_up: &'a Tensor,
    /// *out* `[T, 2 F]`.
    pub dgate_up: &'a Tensor,
}

impl SwigluBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, f) = self.dy.shape();
        shape("swiglu_backward", "gate_up", self.gate_up, t, 2 * f)?;
        shape("swiglu_backward", "dgate_up", self.dgate_up, t, 2 * f)
    }
}
