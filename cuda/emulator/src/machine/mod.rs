//! Runs the blocks of a grid.

mod access;
pub(crate) mod alu;
mod async_copy;
mod block;
mod calls;
mod clocks;
mod collective;
mod exec;
mod global;
mod lanes;
mod mbarrier;
mod mma;
mod shared;
mod sync;
mod tma;
mod trip;
mod warp;
mod wgmma;

use crate::coverage::{BlockCoverage, Coverage, FunctionCoverage};
use crate::error::{Access, Error, Fault, FaultKind, Location};
use crate::isa::{Code, Inst, Op};
use crate::launch::Options;
use crate::memory::Mapping;
use crate::module::Inner;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use trip::{Cause, Earlier, Site, Trip};

/// Windows of the generic address space.
pub(crate) mod address {
    pub(crate) const SHARED: u64 = 0x5000_0000_0000;
    pub(crate) const LOCAL: u64 = 0x5100_0000_0000;
    pub(crate) const PARAM: u64 = 0x5200_0000_0000;
    pub(crate) const FUNCTION: u64 = 0x5300_0000_0000;
    /// Size of each.
    pub(crate) const WINDOW: u64 = 1 << 32;
}

/// Everything that the blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub module: &'a Inner,
    pub function: usize,
    pub code: &'a Code,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: usize,
    pub params: Vec<u8>,
    pub shared_size: usize,
    pub shared_ranges: Vec<(u32, u32)>,
    pub dynamic_shared: u32,
    pub total_shared: u32,
    pub granule: u32,
    pub options: &'a Options,
    pub mapping: Mapping,
    pub shadows: Vec<global::Shadow>,
    pub releases: global::Releases,
    /// For read-modify-writes on device memory.
    pub locks: Vec<Mutex<()>>,
    pub budget: AtomicU64,
    pub stop: AtomicBool,
    /// Executed basic blocks by function.
    pub coverage: Vec<Vec<AtomicBool>>,
    pub warp_instructions: AtomicU64,
    pub thread_instructions: AtomicU64,
}

impl<'a> Launch<'a> {
    pub(crate) fn code_of(&self, function: usize) -> &'a Code {
        match self.module.codes.get(function) {
            Some(Some(c)) => c,
            _ => self.code,
        }
    }

    /// Where an instruction is in the source.
    pub(crate) fn location(&self, site: Site) -> Location {
        let at = self.module.sites.partition_point(|s| *s <= site).saturating_sub(1);
        let pc = site.saturating_sub(self.module.sites.get(at).copied().unwrap_or(0)) as usize;
        match self.code_of(at).insts.get(pc) {
            Some(i) => self.module.location(i.location, i.line),
            None => Location::default(),
        }
    }

    fn coordinates(&self, block: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        let (x, y) = (x.max(1), y.max(1));
        [(block % x) as u32, (block / x % y) as u32, (block / x / y) as u32]
    }

    fn access(&self, e: &Earlier, block: u64) -> Box<Access> {
        Box::new(Access {
            kind: e.kind,
            block: self.coordinates(e.block.unwrap_or(block)),
            warp: e.warp as u32,
            lane: e.thread.map(|t| t as u32 % 32),
            location: self.location(e.site),
        })
    }

    pub(crate) fn fault(&self, trip: Trip, block: u64, warp: usize, lane: usize, site: Site) -> Fault {
        let location = self.location(site);
        let coordinates = self.coordinates(block);
        let (warp, lane) = (warp as u32, lane as u32);
        let kind = match *trip.0 {
            Cause::Fault(k) => k,
            Cause::Race { shared, address, kind, earlier } => FaultKind::Race {
                space: if shared { crate::types::Space::Shared } else { crate::types::Space::Global },
                address,
                first: self.access(&earlier, block),
                second: Box::new(Access {
                    kind,
                    block: coordinates,
                    warp,
                    lane: Some(lane),
                    location: location.clone(),
                }),
            },
            Cause::InFlight { offset, kind, earlier } => {
                FaultKind::AsyncInFlight { kind, offset, copy: self.access(&earlier, block) }
            }
            Cause::ProxyFence { offset, earlier } => {
                FaultKind::MissingProxyFence { offset, write: self.access(&earlier, block) }
            }
        };
        Fault { kind, kernel: self.code.name.clone(), location, block: coordinates, warp, lane }
    }

    fn coverage(&self) -> Coverage {
        let mut functions: Vec<FunctionCoverage> = Vec::new();
        for (i, executed) in self.coverage.iter().enumerate() {
            if executed.is_empty() {
                continue;
            }
            let code = self.code_of(i);
            // Every function ends with a return of the decoder's own, which nothing reaches after one in the source.
            let ends = |x: &Inst| matches!(x.op, Op::Ret | Op::Exit) && x.guard.is_none();
            let own = match code.insts.as_slice() {
                [.., last, _] if ends(last) => 1,
                _ => 0,
            };
            let blocks = code.insts[..code.insts.len() - own]
                .iter()
                .filter(|x| x.leader)
                .zip(executed)
                .map(|(x, e)| BlockCoverage {
                    executed: e.load(Relaxed),
                    ptx_line: x.line,
                    line: self.module.location(x.location, x.line).line,
                })
                .collect();
            let f = FunctionCoverage { function: code.name.clone(), blocks };
            if i == self.function { functions.insert(0, f) } else { functions.push(f) }
        }
        Coverage { functions }
    }
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Instructions issued, each for up to 32 lanes.
    pub warp_instructions: u64,
    /// Instructions times active lanes.
    pub thread_instructions: u64,
    /// Executed basic blocks.
    pub coverage: Coverage,
}

/// Runs all blocks of a grid on the threads that the options ask for.
pub(crate) fn run(launch: &Launch<'_>) -> Result<Report, Error> {
    let blocks: u64 = launch.grid.iter().map(|x| u64::from(*x)).product();
    let next = AtomicU64::new(0);
    // The fault of the first block counts, whichever thread ends first.
    let first: Mutex<Option<(u64, Box<Fault>)>> = Mutex::new(None);
    let worker = || {
        let mut machine = block::Block::new(launch);
        loop {
            let b = next.fetch_add(1, Relaxed);
            if b >= blocks || launch.stop.load(Relaxed) {
                break;
            }
            if let Err(fault) = machine.run(b) {
                let mut f = first.lock().unwrap_or_else(|e| e.into_inner());
                if f.as_ref().is_none_or(|x| b < x.0) {
                    *f = Some((b, fault));
                }
                launch.stop.store(true, Relaxed);
            }
        }
        launch.warp_instructions.fetch_add(machine.warp_instructions, Relaxed);
        launch.thread_instructions.fetch_add(machine.thread_instructions, Relaxed);
    };
    let threads = (launch.options.threads.max(1) as u64).min(blocks);
    if threads <= 1 {
        worker();
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(worker);
            }
        });
    }
    match first.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, fault)) => Err(Error::Fault(fault)),
        None => Ok(Report {
            warp_instructions: launch.warp_instructions.load(Relaxed),
            thread_instructions: launch.thread_instructions.load(Relaxed),
            coverage: launch.coverage(),
        }),
    }
}

/// Marks for an allocation.
pub(crate) fn shadow(len: u64, granule: u32) -> global::Shadow {
    global::Shadow::new(len, granule)
}
