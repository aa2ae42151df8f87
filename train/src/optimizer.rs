//! AdamW over the flat ranges of a store, its schedule and clipping.

use std::ops::Range;

use vila_autograd::ParamStore;
use vila_engine::ops::{AdamW, GradientGate, SumSquares};
use vila_engine::{Backend, DType, Owner, Tensor};

use crate::ranks::{Collective, Partition};
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
#[derive(Clone)]
struct Span {
    range: Range<usize>,
    decay: bool,
    group: usize,
}

/// The spans of everything that trains.
fn spans(store: &ParamStore) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for range in store.ranges() {
        match spans.last_mut() {
            // The gap between two tensors is padding: zeros, which an update leaves zeros.
            Some(span) if span.decay == range.decay && span.group == range.group => span.range.end = range.range.end,
            _ => spans.push(Span { range: range.range.clone(), decay: range.decay, group: range.group }),
        }
    }
    spans
}

/// Elements whose moments this rank keeps, and where they lie in its own buffers.
struct Piece {
    flat: Range<usize>,
    own: usize,
}

/// How an optimizer's state is shared among ranks, and kept.
pub struct Sharing {
    /// What is whose.
    pub partition: Partition,
    /// This rank.
    pub rank: usize,
    /// ZeRO-1: each rank keeps and updates its own pieces, instead of all doing all of it.
    pub zero: bool,
    /// Element type of the moments: f32, or bf16 with stochastic rounding.
    pub moments: DType,
    /// Seed of that rounding.
    pub seed: u64,
}

/// Adam's moments at the offsets of the flat weights, in host memory.
pub struct Moments {
    /// Element type.
    pub dtype: DType,
    /// First and second moments, in native byte order.
    pub bytes: [Vec<u8>; 2],
}

/// Adam's moments, and the number of updates so far. An update waits for nothing: norm, clipping and count stay on the
/// device.
///
/// With ZeRO-1 a rank keeps moments for its own pieces of the partition, updates those, and hears the others' weights.
pub struct Optimizer {
    sharing: Sharing,
    pieces: Vec<Piece>,
    /// First moments of the pieces, `[1, own]`.
    m: Tensor,
    /// Second moments of the pieces, `[1, own]`.
    v: Tensor,
    /// Sum of squares of the newest gradients, `[1]` f64.
    sum: Tensor,
    /// See [`GradientGate`].
    gate: Tensor,
    /// Updates applied, `[1]` u32; decides the bias correction.
    updates: Tensor,
    spans: Vec<Span>,
}

impl Optimizer {
    /// Zero moments, in f32, for everything in `store` that trains: an optimizer that shares with nobody.
    pub fn new(backend: &dyn Backend, store: &ParamStore) -> Result<Self> {
        let partition = Partition::new(store, 1, usize::MAX);
        Self::shared(backend, store, Sharing { partition, rank: 0, zero: false, moments: DType::F32, seed: 0 })
    }

    /// Zero moments for what one rank of many updates.
    pub fn shared(backend: &dyn Backend, store: &ParamStore, sharing: Sharing) -> Result<Self> {
        let everything = 0..store.flat_weights().cols();
        let owned: Vec<Range<usize>> =
            if sharing.zero { sharing.partition.pieces(sharing.rank).collect() } else { vec![everything] };
        let (mut pieces, mut own) = (Vec::new(), 0);
        for flat in owned {
            pieces.push(Piece { flat: flat.clone(), own });
            own += flat.len();
        }
        let zeros = |dtype, cols| backend.zeros_for(Owner::Optimizer, dtype, 1, cols);
        Ok(Optimizer {
            m: zeros(sharing.moments, own)?,
            v: zeros(sharing.moments, own)?,
            sharing,
            pieces,
            sum: zeros(DType::F64, 1)?,
            gate: zeros(DType::F32, 4)?,
            updates: zeros(DType::U32, 1)?,
            spans: spans(store),
        })
    }

    /// How the parameters are dealt to ranks.
    pub fn partition(&self) -> &Partition {
        &self.sharing.partition
    }

    /// Element type of the moments.
    pub fn moment_dtype(&self) -> DType {
        self.sharing.moments
    }

    /// Gives all ranks what each alone has up to date: f32 masters of bf16 weights. Every rank calls it.
    pub fn gather_masters(&self, backend: &dyn Backend, store: &ParamStore, collective: &dyn Collective) -> Result<()> {
        let stale = self.sharing.zero && store.dtype() == DType::BF16;
        if stale { self.gather(backend, store.flat_masters(), collective) } else { Ok(()) }
    }

    fn gather(&self, backend: &dyn Backend, flat: &Tensor, collective: &dyn Collective) -> Result<()> {
        self.partition().buckets.iter().try_for_each(|bucket| {
            collective.all_gather(backend, &flat.slice_cols(bucket.range.clone())?, &bucket.cuts)
        })
    }

    /// Both moments of everything that trains, on rank 0; empty elsewhere. Every rank calls it.
    pub fn moments(&self, backend: &dyn Backend, collective: &dyn Collective) -> Result<Moments> {
        let bytes = [self.whole(backend, &self.m, collective)?, self.whole(backend, &self.v, collective)?];
        Ok(Moments { dtype: self.sharing.moments, bytes })
    }

    fn whole(&self, backend: &dyn Backend, moment: &Tensor, collective: &dyn Collective) -> Result<Vec<u8>> {
        if !self.sharing.zero {
            return if collective.rank() == 0 { Ok(backend.download(moment)?) } else { Ok(Vec::new()) };
        }
        let (mut whole, mut own, size) = (Vec::new(), 0, self.sharing.moments.size());
        for bucket in &self.partition().buckets {
            let len = bucket.piece(self.sharing.rank).len();
            let mine = backend.download(&moment.slice_cols(own..own + len)?)?;
            own += len;
            let sizes: Vec<usize> = bucket.cuts.windows(2).map(|cut| (cut[1] - cut[0]) * size).collect();
            for (rank, bytes) in collective.collect(mine, &sizes)?.iter().enumerate() {
                let piece = bucket.piece(rank);
                whole.resize(whole.len().max(piece.end * size), 0);
                whole[piece.start * size..piece.end * size].copy_from_slice(bytes);
            }
        }
        Ok(whole)
    }

    /// Takes this rank's share of the moments of everything that trains.
    pub fn set_moments(&mut self, backend: &dyn Backend, moments: &Moments) -> Result<()> {
        let size = moments.dtype.size();
        for piece in &self.pieces {
            for (moment, bytes) in [&self.m, &self.v].into_iter().zip(&moments.bytes) {
                let target = moment.slice_cols(piece.own..piece.own + piece.flat.len())?;
                backend.upload(&bytes[piece.flat.start * size..piece.flat.end * size], &target)?;
            }
        }
        Ok(())
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
    /// share of the peak learning rate. This rank's pieces of the gradients must hold the sums over ranks, and every rank
    /// must pass the same `losses`.
    pub fn update(
        &mut self,
        backend: &dyn Backend,
        store: &ParamStore,
        stage: &StageSpec,
        rate: f64,
        losses: Option<&Tensor>,
        collective: &dyn Collective,
    ) -> Result<()> {
        self.sum = backend.zeros_for(Owner::Optimizer, DType::F64, 1, 1)?;
        for piece in self.partition().pieces(self.sharing.rank) {
            backend.sum_squares(&SumSquares { x: &store.flat_grads().slice_cols(piece)?, sum: &self.sum })?;
        }
        collective.all_reduce(backend, &self.sum)?;
        if !self.sharing.zero {
            self.gather(backend, store.flat_grads(), collective)?;
        }
        let (gate, updates) = (&self.gate, &self.updates);
        backend.gradient_gate(&GradientGate { sum: &self.sum, losses, clip: stage.clip, gate, updates })?;
        let published = (store.dtype() == DType::BF16).then_some(store.flat_weights());
        for (span, own) in self.pieces.iter().flat_map(|piece| self.spans.iter().filter_map(|span| piece.meet(span))) {
            let cut = |flat: &Tensor| flat.slice_cols(span.range.clone());
            let cut_own = |moment: &Tensor| moment.slice_cols(own..own + span.range.len());
            let peak = if span.group == 0 { stage.lr } else { stage.projector_lr.unwrap_or(stage.lr) };
            backend.adamw(&AdamW {
                weights: &cut(store.flat_masters())?,
                m: &cut_own(&self.m)?,
                v: &cut_own(&self.v)?,
                grad: &cut(store.flat_grads())?,
                publish: published.map(cut).transpose()?.as_ref(),
                gate,
                updates,
                lr: peak * rate,
                betas: (stage.betas[0], stage.betas[1]),
                eps: stage.eps,
                decay: if span.decay { stage.weight_decay } else { 0.0 },
                seed: self.sharing.seed,
                offset: span.range.start as u64,
            })?;
        }
        if self.sharing.zero { self.gather(backend, store.flat_weights(), collective) } else { Ok(()) }
    }
}

impl Piece {
    /// What it has of a span, and where that starts in its own buffers.
    fn meet(&self, span: &Span) -> Option<(Span, usize)> {
        let range = self.flat.start.max(span.range.start)..self.flat.end.min(span.range.end);
        (!range.is_empty()).then(|| (Span { range: range.clone(), ..*span }, self.own + range.start - self.flat.start))
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
