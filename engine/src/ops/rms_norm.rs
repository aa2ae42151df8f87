use crate::ops::{shape, vector};
use crate::{Result, Tensor};

/// `s = x + residual; y = s * rstd * weight`, `rstd = 1 / sqrt(mean(s²) + eps)` (arXiv 1910.07467).
pub struct RmsNorm<'a> {
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// `[T, D]`, added to `x` first.
    pub residual: Option<&'a Tensor>,
    /// *out* `[T, D]`: `s`; required with `residual`.
    pub sum: Option<&'a Tensor>,
    /// `[D]`.
    pub weight: &'a Tensor,
    /// Added to the mean square.
    pub eps: f64,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
    /// *out* `[T]`.
    pub rstd: &'a Tensor,
}

impl RmsNorm<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, d) = self.x.shape();
        vector("rms_norm", "weight", self.weight, d)?;
        vector("rms_norm", "rstd", self.rstd, t)?;
        shape("rms_norm", "y", self.y, t, d)?;
        crate::error::ensure(self.residual.is_some() == self.sum.is_some(), "rms_norm", || {
            "residual and sum go together".into()
        })?;
        for (what, tensor) in [("residual", self.residual), ("sum", self.sum)] {
            tensor.map_or(Ok(()), |tensor| shape("rms_norm", what, tensor, t, d))?;
        }
        Ok(())
    }
}

/// Gradient of [`RmsNorm`] with respect to `s`, and to the weight.
///
/// With `g = dy * weight` and `n = s * rstd`: `ds = dsum + rstd (g - n mean(g n))`, `dweight += Σ dy n`.
pub struct RmsNormBackward<'a> {
    /// `[T, D]`.
    pub dy: &'a Tensor,
    /// `[T, D]`: what was normalised.
    pub sum: &'a Tensor,
    /// `[D]`.
    pub weight: &'a Tensor,
    /// `[T]`, from the forward pass.
    pub rstd: &'a Tensor,
    /// `[T, D]`: gradient that reaches `s` past the norm.
    pub dsum: Option<&'a Tensor>,
    /// *out* `[T, D]`.
    pub dx: Option<&'a Tensor>,
    /// *accumulated* `[D]`.
    pub dweight: Option<&'a Tensor>,
}

impl RmsNormBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (t, d) = self.dy.shape();
        let op = "rms_norm_backward";
        shape(op, "sum", self.sum, t, d)?;
        vector(op, "weight", self.weight, d)?;
        vector(op, "rstd", self.rstd, t)?;
        self.dweight.map_or(Ok(()), |dweight| vector(op, "dweight", dweight, d))?;
        for (what, tensor) in [("dsum", self.dsum), ("dx", self.dx)] {
            tensor.map_or(Ok(()), |tensor| shape(op, what, tensor, t, d))?;
        }
        Ok(())
    }
}
