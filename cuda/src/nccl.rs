//! Collectives between devices by NVIDIA's NCCL, opened by name. Sums are in NCCL's own order.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::nccl::sys::{ncclComm, ncclDataType_t as Type, ncclRedOp_t, ncclUniqueId};
use libloading::Library;
use vila_engine::{DType, Tensor};

use crate::driver::{Driver, Error, Event, Result, Stream};
use crate::{Block, engine_error, libraries};

type Comm = *mut ncclComm;
type Address = *mut c_void;

libraries::api! {
    version = b"ncclGetVersion\0": fn(*mut c_int) -> c_int;
    text = b"ncclGetErrorString\0": fn(c_int) -> *const c_char;
    id = b"ncclGetUniqueId\0": fn(*mut ncclUniqueId) -> c_int;
    init = b"ncclCommInitRank\0": fn(*mut Comm, c_int, ncclUniqueId, c_int) -> c_int;
    destroy = b"ncclCommDestroy\0": fn(Comm) -> c_int;
    abort = b"ncclCommAbort\0": fn(Comm) -> c_int;
    start = b"ncclGroupStart\0": fn() -> c_int;
    end = b"ncclGroupEnd\0": fn() -> c_int;
    reduce = b"ncclReduce\0": fn(Address, Address, usize, c_int, c_int, c_int, Comm, Address) -> c_int;
    broadcast = b"ncclBroadcast\0": fn(Address, Address, usize, c_int, c_int, Comm, Address) -> c_int;
    all_reduce = b"ncclAllReduce\0": fn(Address, Address, usize, c_int, c_int, Comm, Address) -> c_int;
}

impl Api {
    /// Of a library that is opened once and never closed.
    fn get() -> Result<&'static Self> {
        static OPENED: OnceLock<Option<(Api, Library)>> = OnceLock::new();
        let (names, directories) = (["libnccl.so.2".to_string()], libraries::directories());
        let open = |path: &Path| -> std::result::Result<_, libloading::Error> {
            // SAFETY: opening the library runs only its own constructors.
            let library = unsafe { Library::new(path) }?;
            Ok((Api::look_up(&library)?, library))
        };
        let opened = OPENED.get_or_init(|| libraries::first(&names, &directories, open)).as_ref();
        opened.map(|(api, _)| api).ok_or_else(|| {
            let cure = "install NVIDIA's package libnccl2 or the Python package nvidia-nccl-cu12 (nvidia-nccl-cu13 for CUDA \
                        13), and set VILA_CUDA_LIBRARIES to the folder that holds it";
            libraries::missing(&names, "NVIDIA's collectives", &directories, cure)
        })
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<()> {
        // SAFETY: gives a static string for any number.
        let text = || unsafe { CStr::from_ptr((self.text)(status)) }.to_string_lossy().into_owned();
        if status == 0 { Ok(()) } else { Err(Error::Call { call, message: format!("{} ({status})", text()) }) }
    }
}

/// The version of the library, such as 2.27.3, without using a device.
///
/// # Errors
/// [`Error::Unavailable`] says what was looked for and where.
pub fn version() -> Result<String> {
    let (nccl, mut version) = (Api::get()?, 0);
    // SAFETY: writes one int.
    nccl.check("ncclGetVersion", unsafe { (nccl.version)(&mut version) })?;
    Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// What all ranks of a new communicator must know.
///
/// # Errors
/// Whatever NCCL reports.
pub fn unique_id() -> Result<Vec<u8>> {
    let (nccl, mut id) = (Api::get()?, ncclUniqueId { internal: [0; 128] });
    // SAFETY: writes one id.
    nccl.check("ncclGetUniqueId", unsafe { (nccl.id)(&mut id) })?;
    Ok(id.internal.map(|byte| byte as u8).to_vec())
}

/// One rank's device among the devices of all ranks. Work is enqueued on a stream of its own.
pub struct Communicator {
    nccl: &'static Api,
    comm: AtomicPtr<ncclComm>,
    driver: Arc<dyn Driver>,
    compute: Stream,
    stream: Stream,
    ready: Event,
    done: Event,
}

impl Communicator {
    /// Joins with the device on which `tensor` lies; waits until all ranks have.
    ///
    /// # Errors
    /// Whatever NCCL reports; another device than an NVIDIA GPU.
    pub fn new(tensor: &Tensor, id: &[u8], rank: usize, world: usize) -> vila_engine::Result<Self> {
        let pool = Block::of(tensor)?.0.pool();
        let (driver, compute) = (Arc::clone(pool.driver()), pool.stream());
        let join = || {
            let (nccl, mut comm) = (Api::get()?, null_mut());
            let (stream, ready, done) = (driver.stream()?, driver.event()?, driver.event()?);
            driver.native(stream)?;
            let mut unique = ncclUniqueId { internal: [0; 128] };
            unique.internal.iter_mut().zip(id).for_each(|(to, from)| *to = *from as c_char);
            // SAFETY: writes one handle; `native` has made the device's context current.
            let status = unsafe { (nccl.init)(&mut comm, world as c_int, unique, rank as c_int) };
            nccl.check("ncclCommInitRank", status)?;
            Ok(Communicator { nccl, comm: comm.into(), driver: Arc::clone(&driver), compute, stream, ready, done })
        };
        join().map_err(|error| engine_error("nccl", error))
    }

    /// Sums `pieces[r]`, f32, onto rank `r`; the other ranks' stay as they are. [`Communicator::finish`] must follow.
    pub fn reduce(&self, pieces: &[Tensor], mine: usize) -> vila_engine::Result<()> {
        self.enqueue("ncclReduce", pieces, |root, at, tensor, comm, stream| {
            let to = if root == mine { at } else { null_mut() };
            let (f32s, sum) = (Type::ncclFloat32 as c_int, ncclRedOp_t::ncclSum as c_int);
            // SAFETY: as `enqueue` says; only the root's memory is written.
            unsafe { (self.nccl.reduce)(at, to, tensor.len(), f32s, sum, root as c_int, comm, stream) }
        })
    }

    /// Gives rank `r`'s `pieces[r]`, of any type, to all.
    pub fn broadcast(&self, pieces: &[Tensor]) -> vila_engine::Result<()> {
        self.enqueue("ncclBroadcast", pieces, |root, at, tensor, comm, stream| {
            let (bytes, kind) = (tensor.len() * tensor.dtype().size(), Type::ncclUint8 as c_int);
            // SAFETY: as `enqueue` says.
            unsafe { (self.nccl.broadcast)(at, at, bytes, kind, root as c_int, comm, stream) }
        })?;
        self.finish()
    }

    /// Replaces `x`, f32 or f64, by its sum.
    pub fn all_reduce(&self, x: &Tensor) -> vila_engine::Result<()> {
        let kind = if x.dtype() == DType::F64 { Type::ncclFloat64 } else { Type::ncclFloat32 } as c_int;
        self.enqueue("ncclAllReduce", std::slice::from_ref(x), |_, at, tensor, comm, stream| {
            // SAFETY: as `enqueue` says.
            unsafe { (self.nccl.all_reduce)(at, at, tensor.len(), kind, ncclRedOp_t::ncclSum as c_int, comm, stream) }
        })?;
        self.finish()
    }

    /// One group of calls, after what the compute stream has to do so far. Addresses are those of whole tensors, which the
    /// pool keeps until the communication stream is through.
    fn enqueue(
        &self,
        name: &'static str,
        tensors: &[Tensor],
        call: impl Fn(usize, Address, &Tensor, Comm, Address) -> c_int,
    ) -> vila_engine::Result<()> {
        let fail = |error| engine_error(name, error);
        let (nccl, comm) = (self.nccl, self.comm.load(Ordering::Relaxed));
        if comm.is_null() {
            return Err(fail(Error::Unavailable("the communicator was given up".into())));
        }
        self.driver
            .record(self.ready, self.compute)
            .and_then(|()| self.driver.wait(self.stream, self.ready))
            .map_err(fail)?;
        let stream = self.driver.native(self.stream).map_err(fail)?;
        // SAFETY: takes nothing; ended below on every way.
        nccl.check(name, unsafe { (nccl.start)() }).map_err(fail)?;
        let called =
            tensors.iter().enumerate().filter(|(_, tensor)| !tensor.is_empty()).try_for_each(|(root, tensor)| {
                let (block, span) = Block::of(tensor)?;
                block.used_on(self.stream);
                nccl.check(name, call(root, span.ptr.0 as Address, tensor, comm, stream)).map_err(fail)
            });
        // SAFETY: as above.
        let ended = nccl.check(name, unsafe { (nccl.end)() }).map_err(fail);
        called.and(ended)
    }

    /// Later work of the device's ops comes after all that was enqueued here.
    pub fn finish(&self) -> vila_engine::Result<()> {
        let waits = self.driver.record(self.done, self.stream).and_then(|()| self.driver.wait(self.compute, self.done));
        waits.map_err(|error| engine_error("nccl", error))
    }

    /// Gives up what waits for a rank that is gone.
    pub fn abort(&self) {
        self.close(self.nccl.abort);
    }

    fn close(&self, how: unsafe extern "C" fn(Comm) -> c_int) {
        let comm = self.comm.swap(null_mut(), Ordering::Relaxed);
        if !comm.is_null() && self.driver.native(self.stream).is_ok() {
            // SAFETY: created by the library, and taken by nobody else.
            unsafe { how(comm) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.close(self.nccl.destroy);
    }
}
