//! An NVIDIA GPU through the CUDA driver API.
//!
//! Only `libcuda.so.1` is needed to open a device; cuBLASLt is opened with it, NVRTC at the first kernel.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use cudarc::driver::sys;
use libloading::Library;

use super::cublaslt::CublasLt;
use super::{
    Arg, DeviceInfo, DevicePtr, Driver, Error, Event, Function, HostPtr, Launch, Matmul, Result, Span, Stream, Target,
};
use crate::libraries;

/// Static and dynamic shared memory that a block has without being asked for.
const DEFAULT_SHARED: u32 = 48 << 10;
/// Bytes per stream for cuBLASLt, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The driver library: opened once, never closed.
pub struct NvidiaLibrary {
    _library: Library,
    /// Where it was found.
    pub path: PathBuf,
    /// Newest CUDA version that it serves, such as `(13, 0)`.
    pub version: (u32, u32),
}

impl NvidiaLibrary {
    /// Opens `libcuda.so.1` and initialises it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not there or finds no device.
    pub fn open() -> Result<&'static Self> {
        static OPENED: OnceLock<std::result::Result<NvidiaLibrary, String>> = OnceLock::new();
        let opened = OPENED.get_or_init(|| Self::first_open().map_err(|error| error.to_string()));
        opened.as_ref().map_err(|message| Error::Unavailable(message.clone()))
    }

    fn first_open() -> Result<Self> {
        let (names, directories) = (["libcuda.so.1".to_string()], libraries::directories());
        // SAFETY: opening the driver runs only its own constructors.
        let open = |path: &Path| unsafe { Library::new(path) };
        let library = libraries::first(&names, &directories, open).ok_or_else(|| {
            let cure = "it comes with NVIDIA's driver: install that (in a container, start it with --gpus all), or use \
                        --device cpu";
            libraries::missing(&names, "the CUDA driver", &directories, cure)
        })?;
        let path = libraries::file_of("libcuda.so.", Path::new(&names[0]));
        // SAFETY: cudarc finds the library that is open already; it only panics where there is none.
        let status = unsafe { sys::cuInit(0) };
        check("cuInit", status).map_err(|error| {
            Error::Unavailable(format!(
                "{} was found but offers no device: {error}; see whether `nvidia-smi` lists one and whether \
                 CUDA_VISIBLE_DEVICES hides it, or use --device cpu",
                path.display()
            ))
        })?;
        let mut version = 0;
        // SAFETY: writes one int.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        let version = version.unsigned_abs();
        Ok(NvidiaLibrary { _library: library, path, version: (version / 1000, version % 1000 / 10) })
    }

    /// Major versions of NVRTC and cuBLASLt that work with this driver, in order of preference.
    pub fn majors(&self) -> &'static [u32] {
        if self.version.0 >= 13 { &[13, 12] } else { &[12] }
    }

    /// All devices, in the driver's order.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut count = 0;
        // SAFETY: writes one int.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
        (0..count).map(|ordinal| describe(device(ordinal)?)).collect()
    }
}

fn device(ordinal: c_int) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: writes one handle.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal) })?;
    Ok(device)
}

fn describe(device: sys::CUdevice) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute: Attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: writes one int.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(value.unsigned_abs())
    };
    let mut name = [0 as c_char; 256];
    // SAFETY: writes at most the length that it is told, with a final NUL.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device) })?;
    let name: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    let mut memory = 0;
    // SAFETY: writes one size.
    check("cuDeviceTotalMem_v2", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    Ok(DeviceInfo {
        name: String::from_utf8_lossy(&name).into_owned(),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

fn check(call: &'static str, status: sys::CUresult) -> Result<()> {
    if status == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: gives a string that lives as long as the driver, or leaves null.
    let known = unsafe { sys::cuGetErrorString(status, &mut text) } == sys::CUresult::CUDA_SUCCESS && !text.is_null();
    // SAFETY: not null, and NUL-terminated by the driver.
    let text = if known { unsafe { CStr::from_ptr(text) }.to_string_lossy() } else { "no description".into() };
    Err(Error::Call { call, message: format!("{text} ({status:?})") })
}

fn fault(message: impl Into<String>) -> Error {
    Error::Fault(message.into())
}

/// The name of the architecture of machine code for a device; from Hopper on with its own instructions (`a`).
fn architecture((major, minor): (u32, u32)) -> String {
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

/// The device's primary context, shared with other users in the process.
struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: a context may be current to any number of threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    fn retain(device: sys::CUdevice) -> Result<Arc<Self>> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle; released on drop.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) })?;
        Ok(Arc::new(Context { device, handle }))
    }

    /// Makes this the calling thread's context.
    fn enter(&self) -> Result<()> {
        // SAFETY: retained for as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.handle) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `retain`.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A handle of the driver that is destroyed in its context.
struct Owned<T: Copy> {
    handle: T,
    destroy: unsafe fn(T) -> sys::CUresult,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used from any thread in which their context is current.
unsafe impl<T: Copy> Send for Owned<T> {}
// SAFETY: as above; the driver locks by itself.
unsafe impl<T: Copy> Sync for Owned<T> {}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created in this context and destroyed nowhere else.
            unsafe { (self.destroy)(self.handle) };
        }
    }
}

struct Kernel {
    handle: sys::CUfunction,
    static_shared: u32,
    /// Bytes of dynamic shared memory that were asked for so far.
    granted: Mutex<u32>,
}

impl Kernel {
    fn grant(&self, bytes: u32) -> Result<()> {
        let mut granted = lock(&self.granted);
        if *granted < bytes {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the kernel's module lives as long as the driver.
            check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes as c_int) })?;
            *granted = bytes;
        }
        Ok(())
    }
}

// SAFETY: as for `Owned`; the module that holds the kernel lives as long as the driver.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

struct HostBuffer {
    memory: Owned<*mut c_void>,
    bytes: usize,
}

impl HostBuffer {
    /// The address of `bytes` at `offset`.
    fn at(&self, offset: usize, bytes: usize) -> Result<*mut u8> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(fault(format!("{bytes} bytes at {offset} of a host buffer of {}", self.bytes)));
        }
        // SAFETY: inside the buffer, as just checked.
        Ok(unsafe { self.memory.handle.cast::<u8>().add(offset) })
    }
}

/// An NVIDIA GPU. Fields are in the order in which they must go.
pub struct Nvidia {
    kernels: RwLock<Vec<Arc<Kernel>>>,
    modules: Mutex<HashMap<String, Owned<sys::CUmodule>>>,
    hosts: Mutex<HashMap<u64, Arc<Mutex<HostBuffer>>>>,
    events: RwLock<Vec<Owned<sys::CUevent>>>,
    workspaces: Mutex<HashMap<Stream, Owned<sys::CUdeviceptr>>>,
    blas: CublasLt,
    streams: RwLock<Vec<Owned<sys::CUstream>>>,
    context: Arc<Context>,
    info: DeviceInfo,
}

impl Nvidia {
    /// Opens device `ordinal` in the driver's order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] says which library or device is missing and what to do.
    pub fn open(ordinal: u32) -> Result<Self> {
        let library = NvidiaLibrary::open()?;
        let devices = library.devices()?;
        let info = devices.get(ordinal as usize).cloned().ok_or_else(|| {
            let list: Vec<String> =
                devices.iter().enumerate().map(|(index, device)| format!("cuda:{index} {}", device.name)).collect();
            Error::Unavailable(format!(
                "cuda:{ordinal} does not exist: the driver offers {}; choose one of these, and see whether \
                 CUDA_VISIBLE_DEVICES hides others",
                if list.is_empty() { "no device".into() } else { list.join(", ") }
            ))
        })?;
        if info.capability < (8, 0) {
            let (major, minor) = info.capability;
            return Err(Error::Unavailable(format!(
                "cuda:{ordinal} {} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer: choose \
                 another device, or use --device cpu",
                info.name
            )));
        }
        crate::kernels::use_compiler_majors(library.majors());
        let context = Context::retain(device(ordinal as c_int)?)?;
        context.enter()?;
        let blas = CublasLt::open(library.majors())?;
        Ok(Nvidia {
            kernels: RwLock::default(),
            modules: Mutex::default(),
            hosts: Mutex::default(),
            events: RwLock::default(),
            workspaces: Mutex::default(),
            blas,
            streams: RwLock::default(),
            context,
            info,
        })
    }

    /// The matrix library.
    pub fn blas(&self) -> &CublasLt {
        &self.blas
    }

    fn owned<T: Copy>(&self, handle: T, destroy: unsafe fn(T) -> sys::CUresult) -> Owned<T> {
        Owned { handle, destroy, context: Arc::clone(&self.context) }
    }

    fn on(&self, stream: Stream) -> Result<sys::CUstream> {
        self.context.enter()?;
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(stream.0 as usize).map(|stream| stream.handle).ok_or_else(|| fault("unknown stream"))
    }

    fn at(&self, event: Event) -> Result<sys::CUevent> {
        self.context.enter()?;
        let events = self.events.read().unwrap_or_else(PoisonError::into_inner);
        events.get(event.0 as usize).map(|event| event.handle).ok_or_else(|| fault("unknown event"))
    }

    fn host(&self, host: HostPtr) -> Result<Arc<Mutex<HostBuffer>>> {
        lock(&self.hosts).get(&host.0).cloned().ok_or_else(|| fault("unknown host buffer"))
    }

    fn new_event(&self, flags: sys::CUevent_flags) -> Result<Event> {
        self.context.enter()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags as u32) })?;
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        events.push(self.owned(event, sys::cuEventDestroy_v2));
        Ok(Event(events.len() as u32 - 1))
    }

    /// cuBLASLt's memory for products on a stream: streams run side by side, so each has its own.
    fn workspace(&self, stream: Stream) -> Result<Span> {
        let mut workspaces = lock(&self.workspaces);
        if let Some(workspace) = workspaces.get(&stream) {
            return Ok(Span { ptr: DevicePtr(workspace.handle), bytes: WORKSPACE });
        }
        let ptr = self.alloc(WORKSPACE)?;
        workspaces.insert(stream, self.owned(ptr.0, sys::cuMemFree_v2));
        Ok(Span { ptr, bytes: WORKSPACE })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        let streams = self.streams.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.context.enter().is_ok() {
            for stream in streams {
                // SAFETY: still alive; whatever the work did wrong was somebody's to read before.
                unsafe { sys::cuStreamSynchronize(stream.handle) };
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The argument's bytes, first byte lowest.
fn bits(arg: &Arg) -> u64 {
    match *arg {
        Arg::Memory(span, _) => span.ptr.0,
        Arg::Null => 0,
        Arg::I32(x) => u64::from(x as u32),
        Arg::U32(x) => u64::from(x),
        Arg::I64(x) => x as u64,
        Arg::U64(x) => x,
        Arg::F32(x) => u64::from(x.to_bits()),
    }
}

impl Driver for Nvidia {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn target(&self) -> Target {
        Target::Cubin(architecture(self.info.capability))
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.context.enter()?;
        let mut ptr = 0;
        // SAFETY: writes one address.
        let status = unsafe { sys::cuMemAlloc_v2(&mut ptr, bytes.max(1)) };
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { requested: bytes });
        }
        check("cuMemAlloc_v2", status).map(|()| DevicePtr(ptr))
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        self.context.enter()?;
        // SAFETY: an address that is not from `alloc` is an error of the driver, and work that still runs is waited for.
        check("cuMemFree_v2", unsafe { sys::cuMemFree_v2(ptr.0) })
    }

    fn alloc_host(&self, bytes: usize) -> Result<HostPtr> {
        self.context.enter()?;
        let mut memory = std::ptr::null_mut();
        // SAFETY: writes one address.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut memory, bytes.max(1), 0) })?;
        let host = HostPtr(memory as u64);
        // SAFETY: the buffer has this size; Rust must not read memory that nobody wrote.
        unsafe { memory.cast::<u8>().write_bytes(0, bytes) };
        let buffer = HostBuffer { memory: self.owned(memory, sys::cuMemFreeHost), bytes };
        lock(&self.hosts).insert(host.0, Arc::new(Mutex::new(buffer)));
        Ok(host)
    }

    fn free_host(&self, host: HostPtr) -> Result<()> {
        lock(&self.hosts).remove(&host.0).map(drop).ok_or_else(|| fault("unknown host buffer"))
    }

    fn write_host(&self, host: HostPtr, offset: usize, bytes: &[u8]) -> Result<()> {
        let buffer = self.host(host)?;
        let buffer = lock(&buffer);
        // SAFETY: inside the buffer, which is locked; `bytes` cannot overlap memory that Rust never lends out.
        unsafe { buffer.at(offset, bytes.len())?.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read_host(&self, host: HostPtr, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let buffer = self.host(host)?;
        let buffer = lock(&buffer);
        // SAFETY: as for writing.
        unsafe { buffer.at(offset, bytes.len())?.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn native(&self, stream: Stream) -> Result<*mut c_void> {
        Ok(self.on(stream)?.cast())
    }

    fn stream(&self) -> Result<Stream> {
        self.context.enter()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        streams.push(self.owned(stream, sys::cuStreamDestroy_v2));
        Ok(Stream(streams.len() as u32 - 1))
    }

    fn event(&self) -> Result<Event> {
        self.new_event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn timer(&self) -> Result<Event> {
        self.new_event(sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        // SAFETY: both live as long as the driver.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.at(event)?, self.on(stream)?) })
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        // SAFETY: both live as long as the driver.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.on(stream)?, self.at(event)?, 0) })
    }

    fn is_done(&self, event: Event) -> Result<bool> {
        // SAFETY: lives as long as the driver.
        match unsafe { sys::cuEventQuery(self.at(event)?) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => check("cuEventQuery", status).map(|()| true),
        }
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        // SAFETY: lives as long as the driver.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.on(stream)?) })
    }

    fn synchronize_event(&self, event: Event) -> Result<()> {
        // SAFETY: lives as long as the driver.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.at(event)?) })
    }

    fn copy_to_device(&self, stream: Stream, host: HostPtr, offset: usize, to: Span) -> Result<()> {
        if to.bytes == 0 {
            return Ok(());
        }
        let (stream, buffer) = (self.on(stream)?, self.host(host)?);
        let from = lock(&buffer).at(offset, to.bytes)?;
        // SAFETY: the host side is checked; the caller keeps both sides until the copy is over.
        check("cuMemcpyHtoDAsync_v2", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.ptr.0, from.cast_const().cast(), to.bytes, stream)
        })
    }

    fn copy_to_host(&self, stream: Stream, from: Span, host: HostPtr, offset: usize) -> Result<()> {
        if from.bytes == 0 {
            return Ok(());
        }
        let (stream, buffer) = (self.on(stream)?, self.host(host)?);
        let to = lock(&buffer).at(offset, from.bytes)?;
        // SAFETY: as for the other direction.
        check("cuMemcpyDtoHAsync_v2", unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from.ptr.0, from.bytes, stream) })
    }

    fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<()> {
        if from.bytes != to.bytes {
            return Err(fault(format!("a copy of {} bytes to {}", from.bytes, to.bytes)));
        }
        if to.bytes == 0 {
            return Ok(());
        }
        let stream = self.on(stream)?;
        // SAFETY: device memory that the caller keeps until the copy is over.
        check("cuMemcpyDtoDAsync_v2", unsafe { sys::cuMemcpyDtoDAsync_v2(to.ptr.0, from.ptr.0, to.bytes, stream) })
    }

    fn fill(&self, stream: Stream, span: Span, byte: u8) -> Result<()> {
        if span.bytes == 0 {
            return Ok(());
        }
        let stream = self.on(stream)?;
        // SAFETY: device memory that the caller keeps until the fill is over.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(span.ptr.0, byte, span.bytes, stream) })
    }

    fn load(&self, module: &str, code: &[u8], kernel: &str) -> Result<Function> {
        self.context.enter()?;
        let missing = || Error::NoKernel { module: module.into(), kernel: kernel.into() };
        let name = CString::new(kernel).map_err(|_| missing())?;
        let mut modules = lock(&self.modules);
        if !modules.contains_key(module) {
            let mut loaded = std::ptr::null_mut();
            // SAFETY: `code` is a whole cubin of the compiler or of the cache, which checks its hash.
            check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut loaded, code.as_ptr().cast()) })?;
            modules.insert(module.to_string(), self.owned(loaded, sys::cuModuleUnload));
        }
        let loaded = modules.get(module).ok_or_else(missing)?.handle;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module lives as long as the driver; writes one handle.
        let status = unsafe { sys::cuModuleGetFunction(&mut handle, loaded, name.as_ptr()) };
        if status == sys::CUresult::CUDA_ERROR_NOT_FOUND {
            return Err(missing());
        }
        check("cuModuleGetFunction", status)?;
        let mut static_shared = 0;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: writes one int.
        check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut static_shared, attribute, handle) })?;
        let loaded = Kernel { handle, static_shared: static_shared.unsigned_abs(), granted: Mutex::new(0) };
        let mut kernels = self.kernels.write().unwrap_or_else(PoisonError::into_inner);
        kernels.push(Arc::new(loaded));
        Ok(Function(kernels.len() as u32 - 1))
    }

    fn launch(&self, stream: Stream, launch: &Launch) -> Result<()> {
        let stream = self.on(stream)?;
        let kernels = self.kernels.read().unwrap_or_else(PoisonError::into_inner);
        let kernel = kernels.get(launch.function.0 as usize).ok_or_else(|| fault("unknown function"))?;
        if kernel.static_shared + launch.shared > DEFAULT_SHARED {
            kernel.grant(launch.shared)?;
        }
        let values: Vec<u64> = launch.args.iter().map(bits).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter().map(|value| std::ptr::from_ref(value).cast_mut().cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: one pointer per argument, each to eight bytes of which the driver copies as many as the argument has
        // before it returns; `ops` passes arguments as the kernel declares them, which the emulator checks.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                kernel.handle,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                launch.shared,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }

    fn matmul(&self, stream: Stream, matmul: &Matmul) -> Result<()> {
        let workspace = matmul.workspace.map_or_else(|| self.workspace(stream), Ok)?;
        self.blas.matmul(self.on(stream)?.cast(), matmul, workspace)
    }

    fn algorithms(&self, matmul: &Matmul, most: usize) -> Result<Vec<[u64; 8]>> {
        self.context.enter()?;
        self.blas.algorithms(matmul, matmul.workspace.map_or(WORKSPACE, |span| span.bytes), most)
    }

    fn elapsed_ms(&self, start: Event, end: Event) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: both live as long as the driver; writes one float.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime(&mut milliseconds, self.at(start)?, self.at(end)?)
        })?;
        Ok(milliseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Access;

    #[test]
    fn architectures_have_the_compilers_names() {
        let names = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)].map(architecture);
        assert_eq!(names, ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"]);
    }

    #[test]
    fn arguments_start_at_their_lowest_byte() {
        let span = Span { ptr: DevicePtr(0x7f00_1234_5678), bytes: 4 };
        assert_eq!(bits(&Arg::Memory(span, Access::Read)), 0x7f00_1234_5678);
        assert_eq!(bits(&Arg::I32(-2)).to_le_bytes()[..4], (-2i32).to_le_bytes());
        assert_eq!(bits(&Arg::I64(-2)).to_le_bytes(), (-2i64).to_le_bytes());
        assert_eq!(bits(&Arg::F32(1.5)).to_le_bytes()[..4], 1.5f32.to_le_bytes());
    }
}
