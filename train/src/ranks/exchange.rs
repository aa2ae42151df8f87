use std::cell::RefCell;
use std::collections::HashMap;

use vila_autograd::{ParamId, ParamStore};
use vila_engine::Backend;

use super::{Collective, Partition};
use crate::Result;

/// Sends a step's gradients bucket by bucket while the backward pass still runs.
///
/// Buckets go in the order of the partition on every rank, each as soon as it and all before it are complete. A parameter is
/// complete when all its uses have added: for a tied table that is after the embedding, not after the head.
pub struct GradientExchange<'a> {
    backend: &'a dyn Backend,
    store: &'a ParamStore,
    collective: &'a dyn Collective,
    partition: &'a Partition,
    state: RefCell<State>,
}

struct State {
    bucket_of: HashMap<ParamId, usize>,
    /// Parameters of each bucket that are not complete.
    missing: Vec<usize>,
    next: usize,
    failed: Result<()>,
}

impl<'a> GradientExchange<'a> {
    /// An exchange of the gradients in `store`.
    pub fn new(
        backend: &'a dyn Backend,
        store: &'a ParamStore,
        collective: &'a dyn Collective,
        partition: &'a Partition,
    ) -> Self {
        let buckets = partition.buckets.iter().enumerate();
        let bucket_of = buckets.flat_map(|(index, bucket)| bucket.params.iter().map(move |&id| (id, index))).collect();
        let missing = partition.buckets.iter().map(|bucket| bucket.params.len()).collect();
        let state = State { bucket_of, missing, next: 0, failed: Ok(()) };
        GradientExchange { backend, store, collective, partition, state: RefCell::new(state) }
    }

    /// Notes that nothing will be added to a parameter's gradient any more in this step.
    pub fn complete(&self, param: ParamId) {
        let mut state = self.state.borrow_mut();
        if let Some(&bucket) = state.bucket_of.get(&param) {
            state.missing[bucket] = state.missing[bucket].saturating_sub(1);
        }
        while state.failed.is_ok() && state.missing.get(state.next) == Some(&0) {
            state.failed = self.send(state.next);
            state.next += 1;
        }
    }

    fn send(&self, bucket: usize) -> Result<()> {
        let bucket = &self.partition.buckets[bucket];
        let grads = self.store.flat_grads().slice_cols(bucket.range.clone())?;
        self.collective.begin_reduce(self.backend, &grads, &bucket.cuts)
    }

    /// Sends what is left and waits until this rank's pieces hold the sums.
    pub fn finish(self) -> Result<()> {
        std::mem::replace(&mut self.state.borrow_mut().failed, Ok(()))?;
        let next = self.state.borrow().next;
        (next..self.partition.buckets.len()).try_for_each(|bucket| self.send(bucket))?;
        self.collective.finish_reduce(self.backend)
    }
}
