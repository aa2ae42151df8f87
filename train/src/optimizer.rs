//! AdamW over the flat ranges of a store, its schedule and clipping.

use std::ops::Range;

use vila_autograd::ParamStore;
use vila_engine::ops::{AdamW, GradientGate, SumSquares};
use vila_engine::{Backend, DType, Owner, Tensor};

use crate::recipe::StageSpec;
use crate::{Error, Result};

/// Learning rate over the peak at step `step` (from 0) of `steps`: linear warm-up from 0 over `⌈warmup steps⌉` steps,
/// then half a cosine down to `min_ratio` (spec 4.2).
pub fn schedule(step: u64, steps: u64, warmup: f64, min_ratio: f64) -> f64 {
    let warm = (warmup * steps as f64).ceil() as u64;
    if step < warm {
        return step as f64 / warm as f64;
    }
    let progress = (step - warm) as f64 / (steps - warm).max(1) as f64;
    min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// Neighbouring parameters that one launch can update.
struct Span {
    range: Range<usize>,
    decay: bool,
    group: usize,
}

/// Adam's moments at the offsets of the flat weights, and the number of updates so far. An update waits for nothing: norm,
/// clipping and count stay on the device.
pub struct Optimizer {
    /// First moments, `[1, n]`.
    pub m: Tensor,
    /// Second moments, `[1, n]`.
    pub v: Tensor,
    /// Sum of squares of the newest gradients, `[1]` f64.
    sum: Tensor,
    /// See [`GradientGate`].
    gate: Tensor,
    /// Updates applied, `[1]` u32; decides the bias correction.
    updates: Tensor,
    spans: Vec<Span>,
}

impl Optimizer {
    /// Zero moments for everything in `store` that trains.
    pub fn new(backend: &dyn Backend, store: &ParamStore) -> Result<Self> {
        let n = store.flat_weights().cols();
        let mut spans: Vec<Span> = Vec::new();
        for range in store.ranges() {
            match spans.last_mut() {
                // The gap between two tensors is padding: zeros, which an update leaves zeros.
                Some(span) if span.decay == range.decay && span.group == range.group => {
                    span.range.end = range.range.end
                }
                _ => spans.push(Span { range: range.range.clone(), decay: range.decay, group: range.group }),
            }
        }
        let zeros = |dtype, cols| backend.zeros_for(Owner::Optimizer, dtype, 1, cols);
        Ok(Optimizer {
            m: zeros(DType::F32, n)?,
            v: zeros(DType::F32, n)?,
            sum: zeros(DType::F64, 1)?,
            gate: zeros(DType::F32, 4)?,
            updates: zeros(DType::U32, 1)?,
            spans,
        })
    }

    /// Norm of the gradients of the last update; waits for the device.
    pub fn grad_norm(&self, backend: &dyn Backend) -> Result<f64> {
        Ok(backend.to_vec::<f64>(&self.sum)?[0].sqrt())
    }

    /// Updates applied; waits for the device.
    pub fn updates(&self, backend: &dyn Backend) -> Result<u64> {
        Ok(u64::from(backend.to_vec::<u32>(&self.updates)?[0]))
    }

    /// Goes on after `updates` updates.
    pub fn set_updates(&mut self, backend: &dyn Backend, updates: u64) -> Result<()> {
        let updates = u32::try_from(updates).map_err(|_| Error::Data(format!("{updates} updates are too many")))?;
        Ok(backend.upload(bytemuck::bytes_of(&updates), &self.updates)?)
    }

    /// One update, skipped on the device if the gradients' norm or one of `losses` is not finite; `rate` is the schedule's
    /// share of the peak learning rate.
    pub fn update(
        &mut self,
        backend: &dyn Backend,
        store: &ParamStore,
        stage: &StageSpec,
        rate: f64,
        losses: Option<&Tensor>,
    ) -> Result<()> {
        self.sum = backend.zeros_for(Owner::Optimizer, DType::F64, 1, 1)?;
        backend.sum_squares(&SumSquares { x: store.flat_grads(), sum: &self.sum })?;
        let (gate, updates) = (&self.gate, &self.updates);
        backend.gradient_gate(&GradientGate { sum: &self.sum, losses, clip: stage.clip, gate, updates })?;
        let published = (store.dtype() == DType::BF16).then_some(store.flat_weights());
        for span in &self.spans {
            let cut = |flat: &Tensor| flat.slice_cols(span.range.clone());
            let peak = if span.group == 0 { stage.lr } else { stage.projector_lr.unwrap_or(stage.lr) };
            backend.adamw(&AdamW {
                weights: &cut(store.flat_masters())?,
                m: &cut(&self.m)?,
                v: &cut(&self.v)?,
                grad: &cut(store.flat_grads())?,
                publish: published.map(cut).transpose()?.as_ref(),
                gate,
                updates,
                lr: peak * rate,
                betas: (stage.betas[0], stage.betas[1]),
                eps: stage.eps,
                decay: if span.decay { stage.weight_decay } else { 0.0 },
                seed: 0,
                offset: span.range.start as u64,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::schedule;

    /// Spec 11.2.
    #[test]
    fn schedule_warms_up_and_follows_half_a_cosine() {
        let lr = |step| 1e-3 * schedule(step, 1000, 0.03, 0.0);
        for (step, want) in [(0, 0.0), (15, 5e-4), (30, 1e-3), (515, 5e-4), (1000, 0.0)] {
            assert!((lr(step) - want).abs() < 1e-12, "step {step}: {}", lr(step));
        }
        assert_eq!(schedule(2, 100, 0.03, 0.0), 2.0 / 3.0);
        assert_eq!(schedule(3, 101, 0.03, 0.0), 0.75);
        assert!((schedule(1000, 1000, 0.05, 0.1) - 0.1).abs() < 1e-12);
    }
}
