//! Who holds what: a backend that writes down allocations and work of another one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vila_engine::ops::Op;
use vila_engine::{Backend, DType, Error, Owner, Result, Storage, StorageStats, Tensor};

use crate::profile::observe_ops;

/// Activations that one op wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Live tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Name under which activations stand that came from the host.
const INPUTS: &str = "inputs";

/// Passes everything on to another backend, and remembers which op wrote each live tensor first, and all FLOPs.
pub(super) struct Ledger {
    inner: Arc<dyn Backend>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By address of the storage.
    live: HashMap<usize, Entry>,
    flops: f64,
    peak: usize,
    at_peak: BTreeMap<&'static str, Holding>,
}

struct Entry {
    storage: Weak<Storage>,
    bytes: usize,
    owner: Owner,
    op: &'static str,
    /// Values of indices, which boundaries of documents are.
    indices: Vec<u32>,
}

impl Ledger {
    pub(super) fn new(inner: Arc<dyn Backend>) -> Self {
        Ledger { inner, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// FLOPs of matrix products so far.
    pub(super) fn flops(&self) -> f64 {
        self.lock().flops
    }

    /// Bytes that the memory behind a tensor takes.
    pub(super) fn bytes(&self, tensor: &Tensor) -> usize {
        self.lock().live.get(&key(tensor)).map_or(0, |entry| entry.bytes)
    }

    /// Activations at the moment when most bytes were held, by the op that wrote them first; the largest first.
    pub(super) fn at_peak(&self) -> Vec<(&'static str, Holding)> {
        let mut held: Vec<_> = self.lock().at_peak.clone().into_iter().collect();
        held.sort_by_key(|(_, holding)| std::cmp::Reverse(holding.bytes));
        held
    }

    fn observe(&self, args: &dyn Op) -> Result<()> {
        let cost = args.cost(&|boundaries| self.indices(boundaries))?;
        args.run(&*self.inner)?;
        let mut state = self.lock();
        state.flops += cost.flops;
        for output in args.outputs() {
            if let Some(entry) = state.live.get_mut(&key(output))
                && [INPUTS, "fill", "copy"].contains(&entry.op)
            {
                entry.op = args.name();
            }
        }
        state.note_peak(&self.inner.memory());
        Ok(())
    }

    fn indices(&self, tensor: &Tensor) -> Result<Vec<u32>> {
        let state = self.lock();
        let known = state.live.get(&key(tensor)).map(|entry| entry.indices.clone());
        known.ok_or_else(|| Error::Argument { op: "plan", message: "boundaries of unknown documents".into() })
    }

    fn allocate(&self, owner: Owner, take: impl FnOnce(&dyn Backend) -> Result<Tensor>) -> Result<Tensor> {
        let held = |stats: &StorageStats| stats.held.of(owner);
        let before = held(&self.inner.memory());
        let tensor = take(&*self.inner)?;
        let stats = self.inner.memory();
        let entry = Entry {
            storage: Arc::downgrade(tensor.storage()),
            bytes: held(&stats).saturating_sub(before),
            owner,
            op: INPUTS,
            indices: Vec::new(),
        };
        let mut state = self.lock();
        state.live.insert(key(&tensor), entry);
        state.note_peak(&stats);
        Ok(tensor)
    }
}

fn key(tensor: &Tensor) -> usize {
    Arc::as_ptr(tensor.storage()).addr()
}

impl State {
    fn note_peak(&mut self, stats: &StorageStats) {
        if stats.peak <= self.peak {
            return;
        }
        self.peak = stats.peak;
        self.live.retain(|_, entry| entry.storage.strong_count() > 0);
        self.at_peak.clear();
        for entry in self.live.values().filter(|entry| entry.owner == Owner::Activations) {
            let holding = self.at_peak.entry(entry.op).or_default();
            holding.tensors += 1;
            holding.bytes += entry.bytes as u64;
        }
    }
}

impl Backend for Ledger {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn needs_fixed_shapes(&self) -> bool {
        self.inner.needs_fixed_shapes()
    }

    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }

    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.allocate(owner, |inner| inner.alloc_for(owner, dtype, rows, cols))
    }

    fn zeros_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.allocate(owner, |inner| inner.zeros_for(owner, dtype, rows, cols))
    }

    fn memory(&self) -> StorageStats {
        self.inner.memory()
    }

    fn upload(&self, bytes: &[u8], to: &Tensor) -> Result<()> {
        if let (DType::U32, Some(entry)) = (to.dtype(), self.lock().live.get_mut(&key(to))) {
            entry.indices = bytemuck::allocation::pod_collect_to_vec(bytes);
        }
        self.inner.upload(bytes, to)
    }

    fn download(&self, from: &Tensor) -> Result<Vec<u8>> {
        self.inner.download(from)
    }

    observe_ops!();
}
