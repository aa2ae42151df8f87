use crate::ops::{shape, vector};
use crate::{Result, Tensor};

/// `y = x weightᵀ + bias`.
///
/// Row-invariant: a row of `y` has the same bits whatever other rows `x` has.
pub struct Linear<'a> {
    /// `[T, K]`.
    pub x: &'a Tensor,
    /// `[N, K]`; in another type than `x` only where [`crate::Backend::map`] gives tensors.
    pub weight: &'a Tensor,
    /// `[N]`.
    pub bias: Option<&'a Tensor>,
    /// *out* `[T, N]`.
    pub y: &'a Tensor,
}

impl Linear<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        shape("linear", "weight", self.weight, self.weight.rows(), self.x.cols())?;
        shape("linear", "y", self.y, self.x.rows(), self.weight.rows())?;
        self.bias.map_or(Ok(()), |bias| vector("linear", "bias", bias, self.weight.rows()))
    }
}

/// `dbias += column sums of dy`, in a fixed order.
pub struct BiasGrad<'a> {
    /// `[T, N]`.
    pub dy: &'a Tensor,
    /// *accumulated* `[N]`.
    pub dbias: &'a Tensor,
}

impl BiasGrad<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        vector("bias_grad", "dbias", self.dbias, self.dy.cols())
    }
}
