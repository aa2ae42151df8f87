//! AdamW over the flat ranges of a store, its schedule and clipping.

use std::ops::Range;

use vila_autograd::ParamStore;
use vila_engine::ops::{AdamW, SumSquares};
use vila_engine::{Backend, DType, Tensor};

use crate::Result;
use crate::recipe::StageSpec;

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

/// Adam's moments at the offsets of the flat weights, and the number of updates so far.
pub struct Optimizer {
    /// First moments, `[1, n]`.
    pub m: Tensor,
    /// Second moments, `[1, n]`.
    pub v: Tensor,
    /// Updates applied; decides the bias correction.
    pub updates: u64,
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
        Ok(Optimizer { m: backend.zeros(DType::F32, 1, n)?, v: backend.zeros(DType::F32, 1, n)?, updates: 0, spans })
    }

    /// Norm of all gradients.
    pub fn grad_norm(&self, backend: &dyn Backend, store: &ParamStore) -> Result<f64> {
        let sum = backend.zeros(DType::F64, 1, 1)?;
        backend.sum_squares(&SumSquares { x: store.flat_grads(), sum: &sum })?;
        Ok(backend.to_vec::<f64>(&sum)?[0].sqrt())
    }

    /// One update with gradients of norm `grad_norm`; `rate` is the schedule's share of the peak learning rate.
    pub fn update(
        &mut self,
        backend: &dyn Backend,
        store: &ParamStore,
        stage: &StageSpec,
        rate: f64,
        grad_norm: f64,
    ) -> Result<()> {
        self.updates += 1;
        let grad_scale = if stage.clip > 0.0 && grad_norm > stage.clip { stage.clip / grad_norm } else { 1.0 };
        for span in &self.spans {
            let cut = |flat: &Tensor| flat.slice_cols(span.range.clone());
            let peak = if span.group == 0 { stage.lr } else { stage.projector_lr.unwrap_or(stage.lr) };
            backend.adamw(&AdamW {
                weights: &cut(store.flat_masters())?,
                m: &cut(&self.m)?,
                v: &cut(&self.v)?,
                grad: &cut(store.flat_grads())?,
                grad_scale,
                lr: peak * rate,
                betas: (stage.betas[0], stage.betas[1]),
                eps: stage.eps,
                decay: if span.decay { stage.weight_decay } else { 0.0 },
                step: self.updates,
            })?;
        }
        Ok(store.publish_masters(backend)?)
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
