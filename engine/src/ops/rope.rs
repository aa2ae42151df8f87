use crate::error::ensure;
use crate::ops::{indices, shape};
use crate::{Result, Tensor};

/// Rotary position embedding in place, half-split layout (arXiv 2104.09864; element `i` pairs with `i + C/2`).
///
/// `x[i], x[i + C/2] = x[i] cos - x[i + C/2] sin, x[i + C/2] cos + x[i] sin` at the row's position;
/// `inverse` rotates back, which is the gradient.
pub struct Rope<'a> {
    /// *in place* `[T, ≥ heads * C]`: the first `heads * C` columns are rotated.
    pub x: &'a Tensor,
    /// How many heads of width `C` are rotated.
    pub heads: usize,
    /// `C`, even.
    pub head_dim: usize,
    /// `[P, C / 2]` in the type of statistics: cosines by position.
    pub cos: &'a Tensor,
    /// `[P, C / 2]` in the type of statistics: sines by position.
    pub sin: &'a Tensor,
    /// `[T]` u32, each below `P`.
    pub positions: &'a Tensor,
    /// Rotate by the negative angle.
    pub inverse: bool,
}

impl Rope<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        ensure(self.head_dim.is_multiple_of(2) && self.heads * self.head_dim <= self.x.cols(), "rope", || {
            format!("{} heads of width {} do not fit {} columns", self.heads, self.head_dim, self.x.cols())
        })?;
        shape("rope", "cos", self.cos, self.cos.rows(), self.head_dim / 2)?;
        shape("rope", "sin", self.sin, self.cos.rows(), self.head_dim / 2)?;
        indices("rope", "positions", self.positions, self.x.rows())
    }
}
