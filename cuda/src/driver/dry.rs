//! A device that only keeps account of its memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    DeviceInfo, DevicePtr, Driver, Error, Event, Function, HostPtr, Launch, Matmul, Result, Span, Stream, Target,
};

/// Bytes that it has: far above any device, far below an overflow.
const MEMORY: usize = 1 << 50;
/// What addresses are multiples of.
const ALIGNMENT: usize = 512;

/// Memory has addresses and no bytes, commands are dropped: a backend on it goes through pool, workspaces and launch geometry as
/// on the device that it stands for, and [`memory`](vila_engine::Backend::memory) tells what that device would hold.
pub struct Dry {
    name: &'static str,
    info: DeviceInfo,
    target: Target,
    exact: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// End of the highest address that was handed out.
    end: usize,
    sizes: HashMap<u64, usize>,
}

impl Dry {
    /// Stands for a device with that many multiprocessors, which decide about working memory; H100 and H200 have 132.
    pub fn new(multiprocessors: u32) -> Self {
        let info = DeviceInfo {
            name: "dry run".into(),
            capability: (9, 0),
            multiprocessors,
            memory: MEMORY as u64,
            shared_memory: 227 * 1024,
        };
        Dry { name: "cuda", info, target: Target::Cubin("sm_90a".into()), exact: false, state: Mutex::default() }
    }

    /// Stands for `driver`.
    pub fn like(driver: &dyn Driver) -> Self {
        let (name, info, target) = (driver.name(), driver.info().clone(), driver.target());
        Dry { name, info, target, exact: driver.exact_allocations(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for Dry {
    fn name(&self) -> &'static str {
        self.name
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn target(&self) -> Target {
        self.target.clone()
    }

    fn exact_allocations(&self) -> bool {
        self.exact
    }

    fn runs_kernels(&self) -> bool {
        false
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let mut state = self.lock();
        if bytes > MEMORY - state.used || state.end > usize::MAX / 2 {
            return Err(Error::OutOfMemory { requested: bytes });
        }
        let ptr = state.end.next_multiple_of(ALIGNMENT).max(ALIGNMENT) as u64;
        state.end = ptr as usize + bytes;
        state.used += bytes;
        state.sizes.insert(ptr, bytes);
        Ok(DevicePtr(ptr))
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        let mut state = self.lock();
        let bytes = state.sizes.remove(&ptr.0);
        state.used -= bytes.ok_or_else(|| Error::Fault(format!("{:#x} is no allocation", ptr.0)))?;
        Ok(())
    }

    fn alloc_host(&self, _: usize) -> Result<HostPtr> {
        Ok(HostPtr(0))
    }

    fn free_host(&self, _: HostPtr) -> Result<()> {
        Ok(())
    }

    fn write_host(&self, _: HostPtr, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read_host(&self, _: HostPtr, _: usize, _: &mut [u8]) -> Result<()> {
        Err(Error::Unavailable("a dry run has no values".into()))
    }

    fn stream(&self) -> Result<Stream> {
        Ok(Stream(0))
    }

    fn event(&self) -> Result<Event> {
        Ok(Event(0))
    }

    fn record(&self, _: Event, _: Stream) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _: Stream, _: Event) -> Result<()> {
        Ok(())
    }

    fn is_done(&self, _: Event) -> Result<bool> {
        Ok(true)
    }

    fn synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn synchronize_event(&self, _: Event) -> Result<()> {
        Ok(())
    }

    fn copy_to_device(&self, _: Stream, _: HostPtr, _: usize, _: Span) -> Result<()> {
        Ok(())
    }

    fn copy_to_host(&self, _: Stream, _: Span, _: HostPtr, _: usize) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: Stream, _: Span, _: Span) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _: Stream, _: Span, _: u8) -> Result<()> {
        Ok(())
    }

    fn load(&self, _: &str, _: &[u8], _: &str) -> Result<Function> {
        Ok(Function(0))
    }

    fn launch(&self, _: Stream, _: &Launch) -> Result<()> {
        Ok(())
    }

    fn matmul(&self, _: Stream, _: &Matmul) -> Result<()> {
        Ok(())
    }

    fn elapsed_ms(&self, _: Event, _: Event) -> Result<f32> {
        Ok(0.0)
    }
}
