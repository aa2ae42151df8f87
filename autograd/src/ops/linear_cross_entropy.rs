use vila_engine::ops::{Fill, LinearCrossEntropy};
use vila_engine::{Result, Tensor};

use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// Output head and cross-entropy over supervised rows: `scale Σ loss_i` as a `[1, 1]` root of the tape.
    ///
    /// `hidden` is `[S, D]`, `targets` `[S]` u32; `row_loss`, `[S]`, receives the unscaled losses. The gradient is computed with the loss, chunk by chunk, so the
    /// upstream gradient must be one: start the backward pass here, with [`Tape::backward_loss`]. Keeps `dhidden`.
    pub fn linear_cross_entropy(
        &mut self,
        hidden: &Var<'a>,
        weight: ParamId,
        targets: &Tensor,
        scale: f64,
        row_loss: Option<&Tensor>,
    ) -> Result<Var<'a>> {
        let loss = self.alloc_stat(hidden.tensor(), 1, 1)?;
        self.backend().fill(&Fill { y: &loss, value: 0.0 })?;
        let (rows, cols) = hidden.tensor().shape();
        let dhidden = hidden.id().map(|_| self.alloc_like(hidden.tensor(), rows, cols)).transpose()?;
        let args = LinearCrossEntropy {
            hidden: hidden.tensor(),
            weight: self.store().weight(weight)?,
            targets,
            scale,
            loss: &loss,
            row_loss,
            dhidden: dhidden.as_ref(),
            dweight: if self.records(&[], &[weight]) { self.store().grad(weight) } else { None },
        };
        self.backend().linear_cross_entropy(&args)?;
        if !self.records(&[hidden], &[weight]) {
            return Ok(self.constant(loss));
        }
        let target = hidden.id();
        Ok(self.push(loss, vec![weight], move |gradients, _| {
            target.zip(dhidden).map_or(Ok(()), |(id, grad)| gradients.add(id, grad))
        }))
    }
}
