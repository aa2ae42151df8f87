//! What the backend needs of a device, in the device's own terms.
//!
//! Two implementations that compute, [`Nvidia`](crate::Nvidia) and [`Emulated`](crate::Emulated), and one that only keeps
//! account of memory, [`Dry`](crate::Dry). Everything above (pool, launch
//! geometry, argument order, op code) is one code path for both.

mod cublaslt;
mod dry;
mod emulated;
mod hazard;
mod nvidia;

pub use cublaslt::CublasLt;
pub use dry::Dry;
pub use emulated::{Emulated, EmulatedOptions};
pub use nvidia::{Nvidia, NvidiaLibrary};

use std::ops::Range;

/// Result of a driver call.
pub type Result<T> = std::result::Result<T, Error>;

/// What a driver reports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device has no room; the caller knows who holds what.
    #[error("the device has no {requested} bytes left")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
    },
    /// A library or device is absent: one paragraph that says what was looked for, where, and the cure.
    #[error("{0}")]
    Unavailable(String),
    /// A library call failed.
    #[error("{call} failed: {message}")]
    Call {
        /// The C function.
        call: &'static str,
        /// What the library says.
        message: String,
    },
    /// A kernel source does not compile.
    #[error("kernels/{file}.cu does not compile for {target}:\n{log}")]
    Compile {
        /// Kernel file without extension.
        file: String,
        /// Architecture.
        target: String,
        /// The compiler's log.
        log: String,
    },
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A module has no such kernel.
    #[error("module {module} has no kernel {kernel}")]
    NoKernel {
        /// Module.
        module: String,
        /// Kernel.
        kernel: String,
    },
    /// Device work did something wrong; found by the emulator.
    #[error("{0}")]
    Fault(String),
    /// Two commands touch the same memory without an order between them; found by the emulator.
    #[error("{0}")]
    Hazard(String),
}

/// A device address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// Page-locked host memory of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPtr(pub u64);

/// A queue of commands that run in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u32);

/// A point in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event(pub u32);

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function(pub u32);

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub ptr: DevicePtr,
    /// Number of bytes.
    pub bytes: usize,
}

impl Span {
    /// The addresses.
    pub fn range(self) -> Range<u64> {
        self.ptr.0..self.ptr.0 + self.bytes as u64
    }

    /// Whether two spans share a byte.
    pub fn overlaps(self, other: Span) -> bool {
        let (a, b) = (self.range(), other.range());
        a.start < b.end && b.start < a.end
    }
}

/// What a command does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads.
    Read,
    /// Writes, and may read.
    Write,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer and what the kernel does with the memory there.
    Memory(Span, Access),
    /// A null pointer.
    Null,
    /// `int`.
    I32(i32),
    /// `u32`.
    U32(u32),
    /// `i64`.
    I64(i64),
    /// `u64`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl Arg {
    /// The memory behind a pointer.
    pub fn memory(&self) -> Option<(Span, Access)> {
        match self {
            Arg::Memory(span, access) => Some((*span, *access)),
            _ => None,
        }
    }
}

/// A kernel launch.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// What runs.
    pub function: Function,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Arguments in order.
    pub args: &'a [Arg],
}

/// Element type of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatrixType {
    /// `CUDA_R_32F`.
    F32,
    /// `CUDA_R_16BF`.
    Bf16,
}

impl MatrixType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            MatrixType::F32 => 4,
            MatrixType::Bf16 => 2,
        }
    }
}

/// One operand of [`Matmul`]: column-major, `ld` elements between columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Where.
    pub span: Span,
    /// Type.
    pub dtype: MatrixType,
    /// Leading dimension.
    pub ld: usize,
    /// Whether the operand is used transposed (`CUBLAS_OP_T`); false for `c`.
    pub transposed: bool,
}

/// `c = alpha op(a) op(b) + beta c (+ bias)` in cuBLASLt's terms: column-major, f32 accumulation
/// (`CUBLAS_COMPUTE_32F`, never TF32), no split of `k` across blocks unless `algorithm` says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matmul {
    /// Rows of `c`.
    pub m: usize,
    /// Columns of `c`.
    pub n: usize,
    /// Inner size.
    pub k: usize,
    /// `op(a)` is `m x k`.
    pub a: Matrix,
    /// `op(b)` is `k x n`.
    pub b: Matrix,
    /// `m x n`.
    pub c: Matrix,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old `c`.
    pub beta: f32,
    /// Added to every column (`CUBLASLT_EPILOGUE_BIAS`): `m` elements of the type of `c`.
    pub bias: Option<Span>,
    /// Working memory.
    pub workspace: Option<Span>,
    /// Row of the tuned table; `None` takes the library's first heuristic without split-K.
    pub algorithm: Option<[u64; 8]>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name.
    pub name: String,
    /// Compute capability, such as `(9, 0)`.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of dynamic shared memory that a block can have.
    pub shared_memory: u32,
}

/// The form of code that a driver loads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Machine code for `sm_90a` and the like.
    Cubin(String),
    /// PTX with line information for `compute_80` and the like.
    Ptx(String),
}

impl Target {
    /// The architecture as the compiler names it.
    pub fn arch(&self) -> &str {
        match self {
            Target::Cubin(arch) | Target::Ptx(arch) => arch,
        }
    }
}

/// A device with its memory, streams and libraries.
///
/// Commands (`copy_*`, `fill`, `launch`, `matmul`, `record`, `wait`) are enqueued on a stream and may run any time until
/// the stream is synchronised; they run in order within a stream, and without any order between streams but that of events.
pub trait Driver: Send + Sync {
    /// Short name: `cuda` or `emulator`.
    fn name(&self) -> &'static str;
    /// What the device is.
    fn info(&self) -> &DeviceInfo;
    /// What [`Driver::load`] takes.
    fn target(&self) -> Target;
    /// Whether each allocation should have the asked size exactly, so that every access past its end is found.
    fn exact_allocations(&self) -> bool {
        false
    }

    /// Whether kernels run; where they do not, none is compiled.
    fn runs_kernels(&self) -> bool {
        true
    }

    /// Takes device memory, at once.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;
    /// Gives device memory back; all work that uses it must be over.
    fn free(&self, ptr: DevicePtr) -> Result<()>;
    /// Says that the pool handed out a block to work on `stream`: what it held is gone.
    fn acquired(&self, stream: Stream, span: Span) -> Result<()> {
        let _ = (stream, span);
        Ok(())
    }
    /// Says that a block is back in the pool: nobody may touch it until it is acquired again.
    fn released(&self, span: Span) {
        let _ = span;
    }

    /// Takes page-locked host memory.
    fn alloc_host(&self, bytes: usize) -> Result<HostPtr>;
    /// Gives host memory back; copies that use it must be over.
    fn free_host(&self, host: HostPtr) -> Result<()>;
    /// Writes host memory, at once.
    fn write_host(&self, host: HostPtr, offset: usize, bytes: &[u8]) -> Result<()>;
    /// Reads host memory, at once.
    fn read_host(&self, host: HostPtr, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// The handle of a stream for NVIDIA's other libraries; makes the device's context the calling thread's.
    fn native(&self, stream: Stream) -> Result<*mut std::ffi::c_void> {
        let _ = stream;
        Err(Error::Unavailable(format!("the device is no NVIDIA GPU, but {}", self.name())))
    }

    /// A new stream.
    fn stream(&self) -> Result<Stream>;
    /// A new event.
    fn event(&self) -> Result<Event>;
    /// A new event for [`Driver::elapsed_ms`]; others may not keep the time.
    fn timer(&self) -> Result<Event> {
        self.event()
    }
    /// Marks the present end of a stream.
    fn record(&self, event: Event, stream: Stream) -> Result<()>;
    /// Later commands of `stream` run after what `event` marks.
    fn wait(&self, stream: Stream, event: Event) -> Result<()>;
    /// Whether what `event` marks is over.
    fn is_done(&self, event: Event) -> Result<bool>;
    /// The host waits for a stream.
    fn synchronize(&self, stream: Stream) -> Result<()>;
    /// The host waits for what `event` marks.
    fn synchronize_event(&self, event: Event) -> Result<()>;

    /// Host to device.
    fn copy_to_device(&self, stream: Stream, host: HostPtr, offset: usize, to: Span) -> Result<()>;
    /// Device to host.
    fn copy_to_host(&self, stream: Stream, from: Span, host: HostPtr, offset: usize) -> Result<()>;
    /// Device to device; the spans have the same size.
    fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<()>;
    /// Sets every byte.
    fn fill(&self, stream: Stream, span: Span, byte: u8) -> Result<()>;

    /// Loads code and looks up a kernel in it. `module` names the code for errors and for caching.
    fn load(&self, module: &str, code: &[u8], kernel: &str) -> Result<Function>;
    /// Enqueues a kernel.
    fn launch(&self, stream: Stream, launch: &Launch) -> Result<()>;
    /// Enqueues a matrix product.
    fn matmul(&self, stream: Stream, matmul: &Matmul) -> Result<()>;
    /// At most `most` ways to compute a product, for [`Matmul::algorithm`], the library's favourite first; none where
    /// there is no choice.
    fn algorithms(&self, matmul: &Matmul, most: usize) -> Result<Vec<[u64; 8]>> {
        let _ = (matmul, most);
        Ok(Vec::new())
    }
    /// Milliseconds between two recorded [timers](Driver::timer), both over.
    fn elapsed_ms(&self, start: Event, end: Event) -> Result<f32>;
}
