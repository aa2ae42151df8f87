//! Options and arguments of a launch.

/// Which faults are looked for. Bounds are always known; with `bounds` off, reads outside give zero and writes outside
/// are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Accesses outside of allocations, shared variables and arguments.
    pub bounds: bool,
    /// Accesses at addresses that are no multiple of their size.
    pub alignment: bool,
    /// Registers read before they are written.
    pub registers: bool,
    /// Shared memory read before it is written.
    pub shared_init: bool,
    /// Races in shared memory, between threads of a block.
    pub shared_races: bool,
    /// Races in global memory, between blocks.
    pub global_races: bool,
    /// Collectives and aligned barriers in divergent code.
    pub divergence: bool,
    /// Barriers of blocks in which threads have exited before. The hardware lets that pass.
    pub exited: bool,
    /// `fence.proxy.async` between writes to shared memory and asynchronous reads of them.
    pub proxy_fences: bool,
    /// wgmma registers used before their group was waited for, and `wgmma.fence`.
    pub wgmma: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Checks = Checks {
        bounds: true,
        alignment: true,
        registers: true,
        shared_init: true,
        shared_races: true,
        global_races: true,
        divergence: true,
        exited: true,
        proxy_fences: true,
        wgmma: true,
    };

    /// Only what is free: bounds and alignment. This is the fast mode.
    pub const NONE: Checks = Checks {
        bounds: true,
        alignment: true,
        registers: false,
        shared_init: false,
        shared_races: false,
        global_races: false,
        divergence: false,
        exited: false,
        proxy_fences: false,
        wgmma: false,
    };

    /// Does anything ask for the slow mode?
    pub(crate) fn slow(&self) -> bool {
        self.registers || self.shared_init || self.shared_races || self.global_races || self.proxy_fences || self.wgmma
    }
}

impl Default for Checks {
    fn default() -> Self {
        Checks::ALL
    }
}

/// How a kernel is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is checked.
    pub checks: Checks,
    /// Permutes the order in which the warps of a block run, and where they give way; 0 is round robin.
    pub seed: u64,
    /// Threads of the host to run blocks on.
    pub threads: usize,
    /// Warp instructions after which a launch is given up.
    pub budget: u64,
    /// Bytes of host memory that the registers, local and shared memory of one block may take.
    pub host_memory: u64,
    /// Bytes of shared memory that a block may have; 227 KiB as on sm_90.
    pub shared_memory: u64,
    /// Bytes of local memory that a thread may have, over all nested calls.
    pub stack: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: Checks::ALL,
            seed: 0,
            threads: 1,
            budget: 2_000_000_000,
            host_memory: 1 << 30,
            shared_memory: 227 * 1024,
            stack: 512 * 1024,
        }
    }
}

impl Options {
    /// Without the checks that cost time.
    pub fn fast() -> Self {
        Options { checks: Checks::NONE, ..Options::default() }
    }

    /// The same with another seed.
    pub fn seed(self, seed: u64) -> Self {
        Options { seed, ..self }
    }

    /// The same with another number of threads.
    pub fn threads(self, threads: usize) -> Self {
        Options { threads, ..self }
    }

    /// The same with another instruction budget.
    pub fn budget(self, budget: u64) -> Self {
        Options { budget, ..self }
    }
}

/// Sizes of a grid or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dim3 {
    /// Innermost.
    pub x: u32,
    /// Middle.
    pub y: u32,
    /// Outermost.
    pub z: u32,
}

impl From<u32> for Dim3 {
    fn from(x: u32) -> Self {
        Dim3 { x, y: 1, z: 1 }
    }
}

impl From<(u32, u32)> for Dim3 {
    fn from((x, y): (u32, u32)) -> Self {
        Dim3 { x, y, z: 1 }
    }
}

impl From<(u32, u32, u32)> for Dim3 {
    fn from((x, y, z): (u32, u32, u32)) -> Self {
        Dim3 { x, y, z }
    }
}

impl From<[u32; 3]> for Dim3 {
    fn from([x, y, z]: [u32; 3]) -> Self {
        Dim3 { x, y, z }
    }
}

/// One argument of a kernel: its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg(pub Vec<u8>);

macro_rules! arg_from {
    ($($t:ty),*) => {$(
        impl From<$t> for Arg {
            fn from(v: $t) -> Arg {
                Arg(v.to_le_bytes().to_vec())
            }
        }
    )*};
}

arg_from!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl From<&[u8]> for Arg {
    /// A structure passed by value.
    fn from(v: &[u8]) -> Arg {
        Arg(v.to_vec())
    }
}

impl From<crate::TensorMap> for Arg {
    fn from(m: crate::TensorMap) -> Arg {
        Arg(m.encode().to_vec())
    }
}

impl From<&crate::TensorMap> for Arg {
    fn from(m: &crate::TensorMap) -> Arg {
        Arg(m.encode().to_vec())
    }
}
