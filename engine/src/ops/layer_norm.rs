use crate::ops::{shape, vector};
use crate::{Result, Tensor};

/// `y = (x - mean) * rstd * weight + bias`, `rstd = 1 / sqrt(var + eps)` with the biased variance (arXiv 1607.06450).
pub struct LayerNorm<'a> {
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// `[D]`.
    pub weight: &'a Tensor,
    /// `[D]`.
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
    /// *out* `[T]`.
    pub mean: &'a Tensor,
    /// *out* `[T]`.
    pub rstd: &'a Tensor,
}

impl LayerNorm<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, d) = self.x.shape();
        vector("layer_norm", "weight", self.weight, d)?;
        vector("layer_norm", "bias", self.bias, d)?;
        vector("layer_norm", "mean", self.mean, t)?;
        vector("layer_norm", "rstd", self.rstd, t)?;
        shape("layer_norm", "y", self.y, t, d)
    }
}

/// Gradient of [`LayerNorm`]: with `g = dy * weight` and `n = (x - mean) * rstd`,
/// `dx = rstd (g - mean(g) - n mean(g n))`, `dweight += Σ dy n`, `dbias += Σ dy`.
pub struct LayerNormBackward<'a> {
    /// `[T, D]`.
    pub dy: &'a Tensor,
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// `[D]`.
    pub weight: &'a Tensor,
    /// `[T]`, from the forward pass.
    pub mean: &'a Tensor,
    /// `[T]`, from the forward pass.
    pub rstd: &'a Tensor,
    /// *out* `[T, D]`.
    pub dx: Option<&'a Tensor>,
    /// *accumulated* `[D]`.
    pub dweight: Option<&'a Tensor>,
    /// *accumulated* `[D]`.
    pub dbias: Option<&'a Tensor>,
}

impl LayerNormBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, d) = self.dy.shape();
        let op = "layer_norm_backward";
        shape(op, "x", self.x, t, d)?;
        vector(op, "weight", self.weight, d)?;
        vector(op, "mean", self.mean, t)?;
        vector(op, "rstd", self.rstd, t)?;
        self.dx.map_or(Ok(()), |dx| shape(op, "dx", dx, t, d))?;
        for (what, tensor) in [("dweight", self.dweight), ("dbias", self.dbias)] {
            tensor.map_or(Ok(()), |tensor| vector(op, what, tensor, d))?;
        }
        Ok(())
    }
}
