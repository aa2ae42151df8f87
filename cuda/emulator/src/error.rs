//! Everything that can go wrong, typed.

pub use crate::parse::ParseError;
use crate::types::Space;
use std::fmt;

/// Any error of this crate.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The text is not PTX that this crate understands.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The launch itself is wrong.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The kernel did something wrong.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
}

impl Error {
    /// The fault of a kernel, if it is one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Error::Fault(f) => Some(f),
            _ => None,
        }
    }
}

/// A wrong use of device memory by the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum MemoryError {
    /// Nothing is allocated there.
    #[error("address {address:#x} is not allocated")]
    NotAllocated { address: u64 },
    /// It was, but no longer.
    #[error("address {address:#x} was freed")]
    Freed { address: u64 },
    /// Freed for the second time.
    #[error("address {address:#x} was freed before")]
    DoubleFree { address: u64 },
    /// Past the end of an allocation.
    #[error("{bytes} bytes at {address:#x} reach past the allocation of {len} bytes at {base:#x}")]
    OutOfBounds { address: u64, bytes: u64, base: u64, len: u64 },
    /// The limit given to [`Memory::with_limit`](crate::Memory::with_limit).
    #[error("out of memory: {requested} bytes requested, {used} of {limit} used")]
    OutOfMemory { requested: u64, used: u64, limit: u64 },
}

/// A launch that cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum LaunchError {
    /// The module has no such kernel.
    #[error("no kernel `{name}`; there are: {known}")]
    NoKernel { name: String, known: String },
    /// A grid or block dimension is zero or too large.
    #[error("{kernel}: {what} of {x}x{y}x{z} is not possible (a block has 1 to 1024 threads)")]
    Dimensions { kernel: String, what: &'static str, x: u32, y: u32, z: u32 },
    /// More threads than `__launch_bounds__` allows, or other than required.
    #[error("{kernel}: {threads} threads per block, but it was compiled for {bound}")]
    LaunchBounds { kernel: String, threads: u32, bound: u32 },
    /// Wrong number of arguments.
    #[error("{kernel}: {given} arguments given, {expected} expected")]
    ArgumentCount { kernel: String, given: usize, expected: usize },
    /// Wrong size of an argument.
    #[error("{kernel}: argument {index} has {given} bytes, {expected} expected")]
    ArgumentSize { kernel: String, index: usize, given: usize, expected: usize },
    /// More shared memory than a block can have.
    #[error("{kernel}: {requested} bytes of shared memory, at most {limit}")]
    SharedMemory { kernel: String, requested: u64, limit: u64 },
    /// The machine would need more host memory than the options allow.
    #[error("{kernel}: a block needs {requested} bytes of host memory, the limit is {limit}")]
    HostMemory { kernel: String, requested: u64, limit: u64 },
}

/// A place in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// File as the compiler knows it; empty without line information.
    pub file: String,
    /// Line of the kernel's own file, innermost if functions were inlined; 0 without line information.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// Where the inlined function was called, innermost first: file and line.
    pub inlined_at: Vec<(String, u32)>,
    /// The place itself where that is in another file, as in a header: file and line.
    pub inner: Option<(String, u32)>,
    /// Line in the PTX text.
    pub ptx_line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "PTX line {}", self.ptx_line);
        }
        write!(f, "{}:{}", self.file, self.line)?;
        for (file, line) in &self.inlined_at {
            write!(f, " (inlined at {file}:{line})")?;
        }
        if let Some((file, line)) = &self.inner {
            write!(f, " (in {file}:{line})")?;
        }
        Ok(())
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A read-modify-write.
    Atomic,
    /// A copy that has not arrived yet.
    AsyncWrite,
    /// A read by the asynchronous proxy (wgmma, bulk copies).
    AsyncRead,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Atomic => "atomic",
            AccessKind::AsyncWrite => "asynchronous write",
            AccessKind::AsyncRead => "asynchronous read",
        })
    }
}

/// One of the two accesses of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// Block.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp; `None` if several lanes did the same.
    pub lane: Option<u32>,
    /// Where in the source.
    pub location: Location,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{} by block ({x},{y},{z}) warp {}", self.kind, self.warp)?;
        match self.lane {
            Some(l) => write!(f, " lane {l}")?,
            None => write!(f, " (several lanes)")?,
        }
        write!(f, " at {}", self.location)
    }
}

/// One warp of a deadlocked block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Warp in the block.
    pub warp: u32,
    /// Lanes that wait there, as a bit mask.
    pub lanes: u32,
    /// What they wait for; `exited` if for nothing.
    pub what: String,
    /// Where.
    pub location: Location,
}

impl fmt::Display for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warp {} (lanes {:#010x}) {} at {}", self.warp, self.lanes, self.what, self.location)
    }
}

/// Kinds of faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FaultKind {
    /// An access outside of what is allocated.
    #[error("{kind} of {bytes} bytes out of bounds in {space} memory at {address:#x}: {detail}")]
    OutOfBounds { kind: AccessKind, space: Space, address: u64, bytes: u64, detail: String },
    /// An access to memory that was freed.
    #[error("{kind} of {bytes} bytes at {address:#x}, which was freed")]
    UseAfterFree { kind: AccessKind, address: u64, bytes: u64 },
    /// A write to constant memory.
    #[error("write to read-only memory at {address:#x}")]
    ReadOnly { address: u64 },
    /// An address that is no multiple of the access.
    #[error("misaligned {kind} of {bytes} bytes in {space} memory at {address:#x}")]
    Misaligned { kind: AccessKind, space: Space, address: u64, bytes: u64 },
    /// A register that nothing has written.
    #[error("read of uninitialised register {register}")]
    UninitialisedRegister { register: String },
    /// Shared memory that nothing has written.
    #[error("{kind} of uninitialised shared memory at offset {offset}")]
    UninitialisedShared { kind: AccessKind, offset: u64 },
    /// Two accesses without an order between them, at least one of them a write.
    #[error("race in {space} memory at {address:#x}: {second}; and {first}")]
    Race { space: Space, address: u64, first: Box<Access>, second: Box<Access> },
    /// Shared memory that an asynchronous copy is still writing.
    #[error("{kind} at shared offset {offset}: an asynchronous copy there is in flight: {copy}")]
    AsyncInFlight { kind: AccessKind, offset: u64, copy: Box<Access> },
    /// Shared memory read by the asynchronous proxy without `fence.proxy.async` after the write.
    #[error("asynchronous read at shared offset {offset} without fence.proxy.async after: {write}")]
    MissingProxyFence { offset: u64, write: Box<Access> },
    /// A wgmma accumulator or operand register used before `wgmma.wait_group`.
    #[error("register {register} belongs to a wgmma that is in flight: wgmma.wait_group is missing")]
    AccumulatorInFlight { register: String },
    /// `wgmma` without a `wgmma.fence` before.
    #[error("wgmma without wgmma.fence before it")]
    MissingWgmmaFence,
    /// A collective or aligned instruction that lanes of its mask do not execute.
    #[error(
        "{what} in divergent code: lanes {missing:#010x} of mask {mask:#010x} do not take part (active: {active:#010x})"
    )]
    Divergent { what: String, mask: u32, active: u32, missing: u32 },
    /// Nobody can go on.
    #[error("deadlock: {}", list(.waiting))]
    Deadlock { waiting: Vec<Waiter> },
    /// More instructions than the budget.
    #[error("instruction budget of {budget} exceeded")]
    Budget { budget: u64 },
    /// A wrong use of an mbarrier.
    #[error("mbarrier at shared offset {offset}: {what}")]
    Mbarrier { offset: u64, what: String },
    /// A tensor map, matrix descriptor or copy size that the hardware refuses.
    #[error("{0}")]
    Invalid(String),
    /// `trap`.
    #[error("trap")]
    Trap,
    /// A device-side `assert`.
    #[error("assertion failed: {0}")]
    Assertion(String),
    /// Calls nest deeper than the machine allows.
    #[error("call stack overflow")]
    StackOverflow,
    /// A call through a pointer that is no function.
    #[error("call of {address:#x}, which is no function")]
    BadCall { address: u64 },
}

fn list(w: &[Waiter]) -> String {
    w.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Something a kernel did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: {location}: block ({},{},{}) warp {warp} lane {lane}: {kind}", .block[0], .block[1], .block[2])]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Kernel that was launched.
    pub kernel: String,
    /// Source line.
    pub location: Location,
    /// Block.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp.
    pub lane: u32,
}
