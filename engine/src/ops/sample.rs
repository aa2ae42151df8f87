use crate::ops::indices;
use crate::{Result, Tensor};

/// Chooses one token per row.
///
/// At `temperature` 0 the likeliest token, the first among equals; NaN never wins. Else weights are
/// `exp((x - max) / temperature)`, and the likeliest tokens (the first among equals) are kept while those before weigh less
/// than `top_p` of the total, at least one. Row `t` draws `u` = uniform number `index + t` of stream `(seed, 0)`, and takes
/// the first kept token *in order of id* whose weight, with those before it, exceeds `u` of what is kept.
pub struct Sample<'a> {
    /// `[T, V]`.
    pub logits: &'a Tensor,
    /// Divides the logits.
    pub temperature: f64,
    /// Probability that the kept tokens reach together.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Number of the first row's draw.
    pub index: u64,
    /// *out* `[T]` u32.
    pub out: &'a Tensor,
}

impl Sample<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        indices("sample", "out", self.out, self.logits.rows())?;
        crate::error::ensure(self.logits.cols() > 0, "sample", || "there is no token to choose from".into())
    }
}
