use crate::ops::shape;
use crate::{Result, Tensor};

/// The three forms of the Gaussian error linear unit (arXiv 1606.08415).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// `x Φ(x)`.
    Erf,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    Tanh,
    /// `x sigmoid(1.702 x)`, CLIP's `quick_gelu`.
    Quick,
}

/// `y = gelu(x)`.
pub struct Gelu<'a> {
    /// Which form.
    pub kind: GeluKind,
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
}

impl Gelu<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        shape("gelu", "y", self.y, self.x.rows(), self.x.cols())
    }
}

/// `dx = dy gelu'(x)`.
pub struct GeluBackward<'a> {
    /// Which form.
    pub kind: GeluKind,
    /// `[T, D]`.
    pub dy: &'a Tensor,
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// *out* `[T, D]`.
    pub dx: &'a Tensor,
}

impl GeluBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, d) = self.dy.shape();
        shape("gelu_backward", "x", self.x, t, d)?;
        shape("gelu_backward", "dx", self.dx, t, d)
    }
}
