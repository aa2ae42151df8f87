use crate::ops::{shape, vector};
use crate::{Result, Tensor};

/// `y += x`.
pub struct Add<'a> {
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// *accumulated* `[T, D]`.
    pub y: &'a Tensor,
}

impl Add<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        shape("add", "x", self.x, self.y.rows(), self.y.cols())
    }
}

/// `y = x`, converted to the type of `y`.
pub struct Copy<'a> {
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
}

impl Copy<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        shape("copy", "x", self.x, self.y.rows(), self.y.cols())
    }
}

/// `y = factor y`.
pub struct Scale<'a> {
    /// *in place* `[T, D]`.
    pub y: &'a Tensor,
    /// The factor.
    pub factor: f64,
}

/// `y = value` everywhere.
pub struct Fill<'a> {
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
    /// The value.
    pub value: f64,
}

/// `sum += Σ x²`, in a fixed order; not finite if any element is not.
pub struct SumSquares<'a> {
    /// `[T, D]`, contiguous.
    pub x: &'a Tensor,
    /// *accumulated* `[1]`, f64.
    pub sum: &'a Tensor,
}

impl SumSquares<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        vector("sum_squares", "x", self.x, self.x.len())?;
        vector("sum_squares", "sum", self.sum, 1)?;
        crate::ops::same_dtype("sum_squares", "sum", self.sum, crate::DType::F64)
    }
}
