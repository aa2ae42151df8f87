use crate::error::ensure;
use crate::ops::shape;
use crate::{Result, Tensor};

/// Zeroes elements with probability `p` and scales the others by `1 / (1 - p)` (arXiv 1207.0580).
///
/// Element `i` (row-major) is dropped if the `i`-th Philox word of `(seed, stream)` is below `p 2³²`, so the
/// gradient is the same op applied to `dy`.
pub struct Dropout<'a> {
    /// `[T, D]`.
    pub x: &'a Tensor,
    /// Probability of zero, in `[0, 1)`.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Distinguishes updates and places in the model.
    pub stream: u64,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
}

impl Dropout<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        ensure((0.0..1.0).contains(&self.p), "dropout", || format!("p is {}, not in [0, 1)", self.p))?;
        shape("dropout", "y", self.y, self.x.rows(), self.x.cols())
    }
}
