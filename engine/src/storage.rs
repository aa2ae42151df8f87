use std::any::Any;
use std::collections::HashMap;
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
    /// Memory of another backend, which downcasts it.
    Device(Box<dyn Any + Send + Sync>),
}

/// A pooled host buffer. Dropping it returns the memory to its pool.
pub struct HostBuffer {
    pub(crate) lines: RwLock<Vec<Line>>,
    pool: Arc<HostPool>,
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

/// Rounds up to an eighth of the next power of two, so that similar sizes share buffers.
fn size_class(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 8).max(1);
    lines.div_ceil(step) * step
}

impl HostPool {
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<HostBuffer> {
        let lines = size_class(bytes.div_ceil(size_of::<Line>()).max(1));
        let size = lines * size_of::<Line>();
        let reused = {
            let mut state = lock(&self.state);
            state.stats.in_use += size;
            state.stats.peak = state.stats.peak.max(state.stats.in_use);
            let reused = state.free.get_mut(&lines).and_then(Vec::pop);
            if reused.is_some() {
                state.stats.cached -= size;
            }
            reused
        };
        let lines = match reused {
            Some(lines) => lines,
            None => fresh(lines).inspect_err(|_| lock(&self.state).stats.in_use -= size)?,
        };
        Ok(HostBuffer { lines: RwLock::new(lines), pool: Arc::clone(self) })
    }

    pub(crate) fn stats(&self) -> StorageStats {
        lock(&self.state).stats
    }
}

fn fresh(lines: usize) -> Result<Vec<Line>> {
    let mut buffer = Vec::new();
    let requested = lines * size_of::<Line>();
    buffer.try_reserve_exact(lines).map_err(|_| Error::OutOfMemory { requested, in_use: 0 })?;
    buffer.resize(lines, Line::zeroed());
    Ok(buffer)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let lines = std::mem::take(self.lines.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        let size = lines.len() * size_of::<Line>();
        let mut state = lock(&self.pool.state);
        state.stats.in_use -= size;
        state.stats.cached += size;
        state.free.entry(lines.len()).or_default().push(lines);
    }
}
