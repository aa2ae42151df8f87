use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};

use bytemuck::{Pod, Zeroable};

use crate::{Error, Result};

/// One cache line, so that host buffers are aligned for every vector width.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Memory that tensors view: a host buffer or a device's own.
pub enum Storage {
    /// Host memory, borrow-checked at run time.
    Host(HostBuffer),
    /// Host memory that is only read.
    Mapped(MappedBytes),
    /// Memory of another backend, which downcasts it.
    Device(Box<dyn Any + Send + Sync>),
}

/// Bytes that somebody else owns and nobody changes: a part of a mapped file.
#[derive(Clone)]
pub struct MappedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl MappedBytes {
    /// The bytes `range` of `owner`; nothing if it has fewer.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(MappedBytes { owner, range })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

/// A pooled host buffer. Dropping it returns the memory to its pool.
pub struct HostBuffer {
    pub(crate) lines: RwLock<Vec<Line>>,
    owner: Owner,
    pool: Arc<HostPool>,
}

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Parameters, masters included.
    Weights,
    /// Gradients of parameters.
    Gradients,
    /// Moments and the like.
    Optimizer,
    /// Whatever a forward or backward pass makes.
    Activations,
    /// Working memory inside of ops.
    Workspace,
}

impl Owner {
    /// All owners, in the order of [`ByOwner`].
    pub const ALL: [Owner; 5] =
        [Owner::Weights, Owner::Gradients, Owner::Optimizer, Owner::Activations, Owner::Workspace];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        ["weights", "gradients", "optimizer", "activations", "workspace"][self as usize]
    }
}

/// Bytes for each owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByOwner(pub [usize; Owner::ALL.len()]);

impl ByOwner {
    /// Bytes of one owner.
    pub fn of(&self, owner: Owner) -> usize {
        self.0[owner as usize]
    }

    /// Bytes of all owners.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

impl std::fmt::Display for ByOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, owner) in Owner::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{} {:.1} MiB", owner.name(), self.of(owner) as f64 / f64::from(1 << 20))?;
        }
        Ok(())
    }
}

/// Bytes held by a backend's allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// Bytes of live buffers.
    pub in_use: usize,
    /// Largest `in_use` so far.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub cached: usize,
    /// Who holds `in_use`.
    pub held: ByOwner,
    /// Who held `peak`.
    pub held_at_peak: ByOwner,
}

impl StorageStats {
    /// Counts a buffer that was handed out.
    pub fn take(&mut self, bytes: usize, owner: Owner) {
        self.in_use += bytes;
        self.held.0[owner as usize] += bytes;
        if self.in_use > self.peak {
            self.peak = self.in_use;
            self.held_at_peak = self.held;
        }
    }

    /// Counts a buffer that came back.
    pub fn give(&mut self, bytes: usize, owner: Owner) {
        self.in_use -= bytes;
        self.held.0[owner as usize] -= bytes;
    }
}

/// Caches freed host buffers by size, because fresh pages cost more than most ops.
#[derive(Default)]
pub(crate) struct HostPool {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    free: HashMap<usize, Vec<Vec<Line>>>,
    stats: StorageStats,
}

/// Bytes that buffers of no substance may have in all: far above any machine, far below an overflow.
const MOST_COUNTED: usize = 1 << 50;

/// A buffer that is counted as if it were there.
pub(crate) struct Phantom {
    size: usize,
    owner: Owner,
    pool: Arc<HostPool>,
}

impl Drop for Phantom {
    fn drop(&mut self) {
        lock(&self.pool.state).stats.give(self.size, self.owner);
    }
}

/// Rounds up to an eighth of the next power of two, so that similar sizes share buffers.
fn size_class(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 8).max(1);
    lines.div_ceil(step) * step
}

/// Lines of a buffer for that many bytes.
fn lines_for(bytes: usize) -> usize {
    size_class(bytes.div_ceil(size_of::<Line>()).max(1))
}

impl HostPool {
    /// Counts a buffer of the size that [`HostPool::alloc`] would take.
    pub(crate) fn count(self: &Arc<Self>, bytes: usize, owner: Owner) -> Result<Phantom> {
        let size = lines_for(bytes) * size_of::<Line>();
        let mut state = lock(&self.state);
        if size > MOST_COUNTED - state.stats.in_use {
            let (in_use, held) = (state.stats.in_use, state.stats.held.to_string());
            return Err(Error::OutOfMemory { requested: bytes, in_use, held });
        }
        state.stats.take(size, owner);
        Ok(Phantom { size, owner, pool: Arc::clone(self) })
    }

    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize, owner: Owner) -> Result<HostBuffer> {
        let lines = lines_for(bytes);
        let size = lines * size_of::<Line>();
        let reused = {
            let mut state = lock(&self.state);
            state.stats.take(size, owner);
            let reused = state.free.get_mut(&lines).and_then(Vec::pop);
            if reused.is_some() {
                state.stats.cached -= size;
            }
            reused
        };
        let lines = match reused {
            Some(lines) => lines,
            None => fresh(lines).ok_or_else(|| {
                lock(&self.state).stats.give(size, owner);
                let stats = self.stats();
                Error::OutOfMemory { requested: bytes, in_use: stats.in_use, held: stats.held.to_string() }
            })?,
        };
        Ok(HostBuffer { lines: RwLock::new(lines), owner, pool: Arc::clone(self) })
    }

    pub(crate) fn stats(&self) -> StorageStats {
        lock(&self.state).stats
    }
}

fn fresh(lines: usize) -> Option<Vec<Line>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(lines).ok()?;
    buffer.resize(lines, Line::zeroed());
    Some(buffer)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let lines = std::mem::take(self.lines.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        let size = lines.len() * size_of::<Line>();
        let mut state = lock(&self.pool.state);
        state.stats.give(size, self.owner);
        state.stats.cached += size;
        state.free.entry(lines.len()).or_default().push(lines);
    }
}
