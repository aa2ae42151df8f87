use crate::ops::{indices, shape, vector};
use crate::{Result, Tensor};

/// Output head and cross-entropy on supervised rows, in chunks, fused with the gradient; logits are never stored whole.
///
/// `loss += scale Σ_i (logsumexp(logits_i) - logits_i[target_i])`, `logits = hidden weightᵀ`.
///
/// A row whose target is [`NO_ROW`](crate::NO_ROW) has no loss and no gradient (its hidden values must be finite), so that
/// the number of rows can be fixed.
pub struct LinearCrossEntropy<'a> {
    /// `[S, D]`.
    pub hidden: &'a Tensor,
    /// `[V, D]`.
    pub weight: &'a Tensor,
    /// `[S]` u32, below `V`, or [`NO_ROW`](crate::NO_ROW).
    pub targets: &'a Tensor,
    /// Factor of the sum and of its gradient: one over the step's supervised tokens.
    pub scale: f64,
    /// *accumulated* `[1]`.
    pub loss: &'a Tensor,
    /// *out* `[S]`: the unscaled loss of each row.
    pub row_loss: Option<&'a Tensor>,
    /// *out* `[S, D]`.
    pub dhidden: Option<&'a Tensor>,
    /// *accumulated* `[V, D]`.
    pub dweight: Option<&'a Tensor>,
}

impl LinearCrossEntropy<'_> {
    /// Rows per chunk.
    pub const CHUNK: usize = 128;

    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (op, (s, d)) = ("linear_cross_entropy", self.hidden.shape());
        shape(op, "weight", self.weight, self.weight.rows(), d)?;
        indices(op, "targets", self.targets, s)?;
        vector(op, "loss", self.loss, 1)?;
        self.row_loss.map_or(Ok(()), |x| vector(op, "row_loss", x, s))?;
        self.dhidden.map_or(Ok(()), |x| shape(op, "dhidden", x, s, d))?;
        self.dweight.map_or(Ok(()), |x| shape(op, "dweight", x, self.weight.rows(), d))
    }
}
