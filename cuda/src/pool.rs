//! Device memory, cached in the order of a stream: a freed block serves later work of its stream at once, and of other
//! streams after an event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vila_engine::{Owner, Storage, StorageStats, Tensor};

use crate::driver::{DevicePtr, Driver, Error, Event, Result, Span, Stream};

/// Blocks are multiples of this, so that every tensor starts on 256 bytes.
const GRAIN: usize = 512;
/// Blocks of hundreds of MiB are few and long-lived: rounding them further would waste more than sharing saves.
const LARGEST_GRAIN: usize = 64 << 20;

/// A caching allocator of one device.
pub struct Pool {
    driver: Arc<dyn Driver>,
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: BTreeMap<usize, Vec<Free>>,
    spare_events: Vec<Event>,
    stats: StorageStats,
}

struct Free {
    ptr: DevicePtr,
    /// Ends of other streams' work on the block.
    events: Vec<Event>,
}

/// A piece of device memory; dropping it returns it to its pool.
pub struct Block {
    span: Span,
    size: usize,
    owner: Owner,
    other_streams: Mutex<Vec<Stream>>,
    pool: Arc<Pool>,
}

impl Block {
    /// The block behind a device's tensor, and where in it the tensor lies.
    ///
    /// # Errors
    /// [`vila_engine::Error::ForeignDevice`] for memory that is not from a pool.
    pub fn of(tensor: &Tensor) -> vila_engine::Result<(&Block, Span)> {
        let foreign = vila_engine::Error::ForeignDevice("cuda");
        let Storage::Device(storage) = &**tensor.storage() else { return Err(foreign) };
        let block = storage.downcast_ref::<Block>().ok_or(foreign)?;
        let range = tensor.byte_range();
        Ok((block, Span { ptr: block.span.ptr.offset(range.start), bytes: range.len() }))
    }

    /// The asked bytes.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The pool it comes from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Says that work on another stream uses the block, so that it is not handed out again before that is over.
    pub fn used_on(&self, stream: Stream) {
        let mut streams = self.other_streams.lock().unwrap_or_else(PoisonError::into_inner);
        if stream != self.pool.stream && !streams.contains(&stream) {
            streams.push(stream);
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let streams = std::mem::take(self.other_streams.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.pool.release(self.span, self.size, self.owner, &streams);
    }
}

impl Pool {
    /// A pool whose blocks serve work on `stream`.
    pub fn new(driver: Arc<dyn Driver>, stream: Stream) -> Arc<Self> {
        Arc::new(Pool { driver, stream, state: Mutex::default() })
    }

    /// The device.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The stream whose work the blocks serve.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes memory. What it holds is unspecified.
    ///
    /// # Errors
    /// [`vila_engine::Error::OutOfMemory`] after giving all cached blocks back did not help.
    pub fn alloc(self: &Arc<Self>, bytes: usize, owner: Owner) -> std::result::Result<Block, vila_engine::Error> {
        let size = self.block_size(bytes);
        let taken = self.lock().free.get_mut(&size).and_then(Vec::pop);
        let ptr = match taken {
            Some(free) => self.reuse(free, size),
            None => self.fresh(size),
        };
        let ptr = ptr.map_err(|error| self.explain(error, bytes))?;
        self.lock().stats.take(size, owner);
        let span = Span { ptr, bytes };
        let block = Block { span, size, owner, other_streams: Mutex::default(), pool: Arc::clone(self) };
        self.driver.acquired(self.stream, Span { ptr, bytes: size }).map_err(|error| self.explain(error, bytes))?;
        Ok(block)
    }

    /// A multiple of an eighth of the next power of two, so that similar sizes share blocks.
    fn block_size(&self, bytes: usize) -> usize {
        if self.driver.exact_allocations() {
            return bytes.max(1);
        }
        let grain = (bytes.next_power_of_two() / 8).clamp(GRAIN, LARGEST_GRAIN);
        bytes.max(1).next_multiple_of(grain)
    }

    fn reuse(&self, free: Free, size: usize) -> Result<DevicePtr> {
        for &event in &free.events {
            self.driver.wait(self.stream, event)?;
        }
        let mut state = self.lock();
        state.stats.cached -= size;
        state.spare_events.extend(free.events);
        Ok(free.ptr)
    }

    fn fresh(&self, size: usize) -> Result<DevicePtr> {
        match self.driver.alloc(size) {
            Err(Error::OutOfMemory { .. }) => {
                self.trim()?;
                self.driver.alloc(size)
            }
            result => result,
        }
    }

    /// Gives all cached blocks back to the device.
    ///
    /// # Errors
    /// Whatever the device's pending work reports.
    pub fn trim(&self) -> Result<()> {
        let free = std::mem::take(&mut self.lock().free);
        if free.is_empty() {
            return Ok(());
        }
        self.driver.synchronize(self.stream)?;
        for (size, blocks) in free {
            for block in blocks {
                block.events.iter().try_for_each(|&event| self.driver.synchronize_event(event))?;
                self.driver.free(block.ptr)?;
                let mut state = self.lock();
                state.stats.cached -= size;
                state.spare_events.extend(block.events);
            }
        }
        Ok(())
    }

    fn release(&self, span: Span, size: usize, owner: Owner, streams: &[Stream]) {
        let mut events = Vec::new();
        for &stream in streams {
            let spare = self.lock().spare_events.pop();
            let event = spare.map_or_else(|| self.driver.event(), Ok);
            match event.and_then(|event| self.driver.record(event, stream).map(|()| event)) {
                Ok(event) => events.push(event),
                // Without its event the block would be handed out too early: it is lost instead.
                Err(error) => return tracing::warn!("{} bytes of device memory are lost: {error}", span.bytes),
            }
        }
        self.driver.released(Span { ptr: span.ptr, bytes: size });
        let mut state = self.lock();
        state.stats.give(size, owner);
        state.stats.cached += size;
        state.free.entry(size).or_default().push(Free { ptr: span.ptr, events });
    }

    /// Bytes held, and by whom.
    pub fn stats(&self) -> StorageStats {
        self.lock().stats
    }

    fn explain(&self, error: Error, requested: usize) -> vila_engine::Error {
        match error {
            Error::OutOfMemory { .. } => {
                let stats = self.stats();
                vila_engine::Error::OutOfMemory { requested, in_use: stats.in_use, held: stats.held.to_string() }
            }
            other => crate::engine_error("alloc", other),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.trim() {
            tracing::warn!("device memory is not given back: {error}");
        }
    }
}
