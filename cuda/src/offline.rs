//! What the compiler says about every kernel, without a device: registers, spills, shared memory, occupancy, and whether
//! each file keeps the budget in its header comment:
//!
//! `// budget: registers N, blocks M[, shared K KiB]`
//!
//! `N` is the most registers of any of its kernels, `M` the fewest blocks that must fit one multiprocessor, `K` the
//! dynamic shared memory of the largest instance.
//!
//! Registers are chosen by the compiler, so budgets hold for one version of it, [`COMPILER`]. What another version does
//! differently is noted and no fault, as long as nothing spills and every kernel fits.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::driver::{Result, Target};
use crate::kernels::{self, Source};

/// Version of the compiler that budgets and `docs/kernels.md` are of.
pub const COMPILER: (i32, i32) = (13, 0);

/// What one multiprocessor offers.
struct Architecture {
    name: &'static str,
    shared: u32,
    /// Most shared memory of a block.
    block_shared: u32,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "sm_80", shared: 164 << 10, block_shared: 163 << 10 },
    Architecture { name: "sm_90a", shared: 228 << 10, block_shared: 227 << 10 },
];

/// The same for both.
const REGISTERS: u32 = 64 << 10;
const WARPS: u32 = 64;
const BLOCKS: u32 = 32;
/// Kept by the system in each block.
const RESERVED_SHARED: u32 = 1 << 10;

/// Kernels that may spill or keep a stack frame, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// What ptxas says about a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Per thread.
    pub registers: u32,
    /// Bytes.
    pub spill_stores: u32,
    /// Bytes.
    pub spill_loads: u32,
    /// Bytes.
    pub stack: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Barriers.
    pub barriers: u32,
}

/// `__launch_bounds__` of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Threads per block.
    pub threads: u32,
    /// Blocks per multiprocessor; 0 if not given.
    pub blocks: u32,
}

/// What a file's header comment allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most registers per thread.
    pub registers: u32,
    /// Fewest blocks per multiprocessor.
    pub blocks: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// A kernel on one architecture.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Name.
    pub kernel: String,
    /// Its launch bounds.
    pub bounds: Bounds,
    /// What it uses on `sm_80` and on `sm_90a`, and how many blocks fit one multiprocessor.
    pub usage: [(Usage, u32); 2],
}

/// One file.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Without extension.
    pub name: String,
    /// First sentence of its header comment.
    pub purpose: String,
    /// From its header comment.
    pub budget: Option<Budget>,
    /// Its kernels.
    pub instances: Vec<Instance>,
}

/// All files.
#[derive(Clone, Debug)]
pub struct Report {
    /// Version of the compiler.
    pub compiler: (i32, i32),
    /// In the order of [`kernels::sources`].
    pub files: Vec<FileReport>,
    /// What must not be, one sentence each.
    pub problems: Vec<String>,
    /// Where a compiler other than [`COMPILER`] exceeds a budget or warns, one sentence each.
    pub notes: Vec<String>,
}

/// What is wrong: with the sources, or only by the measure of [`COMPILER`].
#[derive(Default)]
struct Findings {
    faults: Vec<String>,
    differences: Vec<String>,
}

/// Compiles and checks every source.
///
/// # Errors
/// No compiler; a source that does not compile.
pub fn check() -> Result<Report> {
    check_sources(&kernels::sources())
}

/// As [`check`], for other sources.
///
/// # Errors
/// As [`check`].
pub fn check_sources(sources: &[Source]) -> Result<Report> {
    let nvrtc = kernels::compiler()?;
    let mut report = Report { compiler: nvrtc.version, files: Vec::new(), problems: Vec::new(), notes: Vec::new() };
    for source in sources {
        let ptx = kernels::compile(source, &Target::Ptx("compute_80".into()))?;
        let bounds = launch_bounds(&String::from_utf8_lossy(&ptx));
        let mut logs = Vec::new();
        for architecture in &ARCHITECTURES {
            let target = Target::Cubin(architecture.name.into());
            logs.push(kernels::compiler_log(source, &target)?);
        }
        report.add(source, &bounds, &[&logs[0], &logs[1]]);
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, source: &Source, bounds: &BTreeMap<String, Bounds>, logs: &[&str; 2]) {
        let file = &source.name;
        let mut found = Findings::default();
        for (architecture, log) in ARCHITECTURES.iter().zip(logs) {
            for line in warnings(log) {
                found.differences.push(format!("{file} on {}: {line}", architecture.name));
            }
        }
        let budget = budget(&source.text);
        if budget.is_none() {
            found.faults.push(format!(
                "{file}: its header comment has no line `// budget: registers N, blocks M[, shared K KiB]`"
            ));
        }
        let usages = logs.map(usages);
        let mut instances = Vec::new();
        for (kernel, &bounds) in bounds {
            if bounds.threads == 0 || bounds.blocks == 0 {
                found.faults.push(format!("{kernel}: __launch_bounds__ must give threads and blocks"));
            }
            let on = |index: usize| {
                let usage = usages[index].get(kernel).cloned().unwrap_or_default();
                let dynamic = budget.map_or(0, |budget| budget.shared);
                let blocks =
                    resident_blocks(&ARCHITECTURES[index], bounds.threads, usage.registers, usage.shared + dynamic);
                (usage, blocks)
            };
            let instance = Instance { kernel: kernel.clone(), bounds, usage: [on(0), on(1)] };
            check_instance(&instance, budget, &mut found);
            instances.push(instance);
        }
        let differences = if self.compiler == COMPILER { &mut self.problems } else { &mut self.notes };
        differences.extend(found.differences);
        self.problems.extend(found.faults);
        self.files.push(FileReport { name: file.clone(), purpose: purpose(&source.text), budget, instances });
    }

    /// The page `docs/kernels.md`.
    pub fn markdown(&self) -> String {
        let (major, minor) = self.compiler;
        let mut page = format!(
            "# Kernels\n\n\
             What the compiler (NVRTC {major}.{minor}) makes of `cuda/kernels/*.cu` for A100 (sm_80) and H100 (sm_90a): registers per \
             thread,\nstatic shared memory in bytes, and how many blocks and warps fit one multiprocessor when each has the dynamic shared\n\
             memory of the budget, which is that of the largest instance: more may fit of smaller ones. No kernel spills registers or\n\
             keeps a stack frame. Nothing here was measured on a device. Written by\n\n\
             ```\ncargo run -p vila-train -- kernels check --markdown docs/kernels.md\n```\n"
        );
        for file in &self.files {
            let budget = file.budget.map_or("none".into(), |budget| {
                let shared = match budget.shared {
                    0 => String::new(),
                    bytes => format!(", {} KiB of dynamic shared memory", bytes >> 10),
                };
                format!("at most {} registers, at least {} blocks{shared}", budget.registers, budget.blocks)
            });
            let _ = write!(
                page,
                "\n## {}\n\n{}\nBudget: {budget}.\n\n\
                 | kernel | threads | sm_80 registers | shared | blocks (warps) | sm_90a registers | shared | blocks (warps) |\n\
                 |---|---|---|---|---|---|---|---|\n",
                file.name, file.purpose
            );
            for Instance { kernel, bounds, usage } in &file.instances {
                let _ = write!(page, "| `{kernel}` | {} |", bounds.threads);
                for (usage, blocks) in usage {
                    let warps = blocks * bounds.threads.div_ceil(32);
                    let _ = write!(page, " {} | {} | {blocks} ({warps}) |", usage.registers, usage.shared);
                }
                page.push('\n');
            }
        }
        for (kernel, reason) in EXCEPTIONS {
            let _ = write!(page, "\n`{kernel}` may use local memory: {reason}.\n");
        }
        page
    }
}

fn check_instance(instance: &Instance, budget: Option<Budget>, found: &mut Findings) {
    let kernel = &instance.kernel;
    for (architecture, (usage, blocks)) in ARCHITECTURES.iter().zip(&instance.usage) {
        let name = architecture.name;
        let Usage { registers, spill_stores, spill_loads, stack, .. } = *usage;
        if registers == 0 {
            found.faults.push(format!("{kernel} on {name}: the compiler's log does not mention it"));
        }
        if spill_stores + spill_loads + stack > 0 && !EXCEPTIONS.iter().any(|exception| exception.0 == kernel) {
            found.faults.push(format!(
                "{kernel} on {name}: {spill_stores} bytes of spill stores, {spill_loads} of spill loads, {stack} of stack frame"
            ));
        }
        if *blocks == 0 && instance.bounds.threads > 0 {
            found.faults.push(format!("{kernel} on {name}: not one block fits a multiprocessor"));
        }
        let Some(budget) = budget else { continue };
        if registers > budget.registers {
            found
                .differences
                .push(format!("{kernel} on {name}: {registers} registers, its budget is {}", budget.registers));
        }
        if *blocks > 0 && *blocks < budget.blocks {
            found.differences.push(format!(
                "{kernel} on {name}: {blocks} blocks fit one multiprocessor, its budget asks for {}",
                budget.blocks
            ));
        }
    }
}

/// Lines that are neither information nor empty, but for spills, which are counted per kernel.
fn warnings(log: &str) -> Vec<&str> {
    let spills = |line: &str| line.contains("spilled to local memory");
    let bad = |line: &str| line.contains("warning") || line.contains("Potential Performance Loss");
    log.lines().map(str::trim).filter(|line| bad(line) && !spills(line)).collect()
}

/// Per kernel, from `--ptxas-options=-v`.
fn usages(log: &str) -> BTreeMap<String, Usage> {
    let mut usages: BTreeMap<String, Usage> = BTreeMap::new();
    let mut kernel = String::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_string();
        } else if line.contains("spill stores") && !line.contains("warning") {
            // Functions that are not inlined have lines of their own, after their kernel's: they count as part of it.
            let usage = usages.entry(kernel.clone()).or_default();
            usage.stack += before(line, " bytes stack frame");
            usage.spill_stores += before(line, " bytes spill stores");
            usage.spill_loads += before(line, " bytes spill loads");
        } else if line.contains(": Used ") {
            let usage = usages.entry(kernel.clone()).or_default();
            usage.registers = before(line, " registers");
            usage.barriers = before(line, " barriers");
            usage.shared = before(line, " bytes smem");
        }
    }
    usages
}

/// The number before `unit`; 0 if the line has none.
fn before(line: &str, unit: &str) -> u32 {
    let number = line.split_once(unit).and_then(|(before, _)| before.rsplit([' ', ',']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Per kernel, from PTX.
fn launch_bounds(ptx: &str) -> BTreeMap<String, Bounds> {
    let mut bounds: BTreeMap<String, Bounds> = BTreeMap::new();
    let mut kernel = None;
    for line in ptx.lines() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            let name = rest.split(['(', ' ']).next().unwrap_or_default().to_string();
            bounds.entry(name.clone()).or_default();
            kernel = Some(name);
        } else if let Some(current) = kernel.as_ref().and_then(|name| bounds.get_mut(name)) {
            if let Some(threads) = line.trim().strip_prefix(".maxntid ") {
                current.threads = threads.split(',').filter_map(|n| n.trim().parse::<u32>().ok()).product();
            } else if let Some(blocks) = line.trim().strip_prefix(".minnctapersm ") {
                current.blocks = blocks.trim().parse().unwrap_or(0);
            } else if line.starts_with('{') {
                kernel = None;
            }
        }
    }
    bounds
}

/// How many blocks fit one multiprocessor, by NVIDIA's rules for handing out registers and shared memory.
fn resident_blocks(architecture: &Architecture, threads: u32, registers: u32, shared: u32) -> u32 {
    if threads == 0 || shared > architecture.block_shared {
        return 0;
    }
    let warps = threads.div_ceil(32);
    // Registers are handed out to a warp by 256, to warps by four.
    let warp_registers = (registers.max(1) * 32).next_multiple_of(256);
    let by_registers = REGISTERS / warp_registers / 4 * 4 / warps;
    let by_shared = architecture.shared / (shared + RESERVED_SHARED).next_multiple_of(128);
    BLOCKS.min(WARPS / warps).min(by_registers).min(by_shared)
}

fn budget(text: &str) -> Option<Budget> {
    let line =
        text.lines().take_while(|line| line.starts_with("//")).find_map(|line| line.strip_prefix("// budget:"))?;
    let mut budget = Budget { registers: 0, blocks: 0, shared: 0 };
    for part in line.split(',') {
        match part.split_whitespace().collect::<Vec<_>>()[..] {
            ["registers", n] => budget.registers = n.parse().ok()?,
            ["blocks", n] => budget.blocks = n.parse().ok()?,
            ["shared", n, "KiB"] => budget.shared = n.parse::<u32>().ok()?.checked_mul(1024)?,
            _ => return None,
        }
    }
    (budget.registers > 0 && budget.blocks > 0).then_some(budget)
}

/// The header comment up to its first empty line or the launch shape.
fn purpose(text: &str) -> String {
    let comment = text.lines().map_while(|line| line.strip_prefix("//")).map(str::trim);
    let first =
        comment.take_while(|line| !line.is_empty() && !line.starts_with("Launch:") && !line.starts_with("budget:"));
    first.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas warning : Registers are spilled to local memory in function 'b', 1564 bytes spill stores, 1588 bytes spill loads
ptxas info    : 24 bytes gmem, 48 bytes cmem[4]
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 32 bytes smem, 444 bytes cmem[0]
ptxas info    : Compile time = 85.357 ms
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
ptxas         .     720 bytes stack frame, 1564 bytes spill stores, 1588 bytes spill loads
ptxas info    : Used 32 registers, 720 bytes cumulative stack size, 1200 bytes smem, 360 bytes cmem[0]
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function 'b'
";

    const PTX: &str = ".visible .entry a(\n\t.param .u64 a_param_0\n)\n.maxntid 256, 1, 1\n.minnctapersm 4\n{\n}\n\
                       .visible .entry b(\n)\n.maxntid 16, 8, 1\n{\n}\n";

    fn source(text: &str) -> Source {
        Source { name: "file".into(), text: text.into() }
    }

    #[test]
    fn logs_are_understood() {
        let usages = usages(LOG);
        assert_eq!(usages["a"], Usage { registers: 64, shared: 32, barriers: 1, ..Usage::default() });
        let b = Usage { registers: 32, shared: 1200, stack: 720, spill_stores: 1564, spill_loads: 1588, barriers: 0 };
        assert_eq!(usages["b"], b);
        assert_eq!(warnings(LOG).len(), 1);
        let bounds = launch_bounds(PTX);
        assert_eq!(bounds["a"], Bounds { threads: 256, blocks: 4 });
        assert_eq!(bounds["b"], Bounds { threads: 128, blocks: 0 });
    }

    #[test]
    fn budgets_are_read_strictly() {
        let read = |line: &str| budget(&format!("// What it does.\n{line}\n#include \"device.cuh\"\n"));
        let expected = Budget { registers: 128, blocks: 2, shared: 48 << 10 };
        assert_eq!(read("// budget: registers 128, blocks 2, shared 48 KiB"), Some(expected));
        assert_eq!(read("// budget: registers 128, blocks 2"), Some(Budget { shared: 0, ..expected }));
        assert_eq!(read("// budget: registers 128"), None);
        assert_eq!(read("// budget: registers many, blocks 2"), None);
        assert_eq!(read("// registers 128, blocks 2"), None);
    }

    #[test]
    fn occupancy_follows_the_scarcest_resource() {
        let [a100, h100] = &ARCHITECTURES;
        // 64 x 32 = 2,048 registers per warp, 32 warps.
        assert_eq!(resident_blocks(a100, 256, 64, 32), 4);
        assert_eq!(resident_blocks(a100, 256, 32, 0), 8);
        assert_eq!(resident_blocks(a100, 32, 16, 0), 32);
        assert_eq!(resident_blocks(a100, 128, 255, 0), 2);
        assert_eq!(resident_blocks(a100, 128, 128, 64 << 10), 2);
        assert_eq!(resident_blocks(h100, 128, 128, 64 << 10), 3);
        assert_eq!(resident_blocks(a100, 128, 128, 200 << 10), 0);
        assert_eq!(resident_blocks(h100, 128, 128, 200 << 10), 1);
    }

    /// A file that does everything wrong, as a compiler of that version sees it.
    fn checked(compiler: (i32, i32)) -> Report {
        let mut report = Report { compiler, files: Vec::new(), problems: Vec::new(), notes: Vec::new() };
        report.add(&source("// Text.\n// budget: registers 48, blocks 5\n"), &launch_bounds(PTX), &[LOG, LOG]);
        report.add(&source("// Text.\n"), &BTreeMap::new(), &["", ""]);
        report
    }

    #[test]
    fn every_kind_of_problem_is_reported() {
        let problems = checked(COMPILER).problems.join("\n");
        for expected in [
            "file on sm_90a: ptxas info    : (C7510) Potential Performance Loss",
            "b: __launch_bounds__ must give threads and blocks",
            "a on sm_80: 64 registers, its budget is 48",
            "a on sm_80: 4 blocks fit one multiprocessor, its budget asks for 5",
            "b on sm_80: 1564 bytes of spill stores, 1588 of spill loads, 720 of stack frame",
            "file: its header comment has no line",
        ] {
            assert!(problems.contains(expected), "{expected} is not in\n{problems}");
        }
    }

    #[test]
    fn budgets_belong_to_their_compiler() {
        let (own, other) = (checked(COMPILER), checked((13, 2)));
        assert_eq!((own.notes.len(), own.problems.len()), (0, other.problems.len() + other.notes.len()));
        let (problems, notes) = (other.problems.join("\n"), other.notes.join("\n"));
        for fault in ["of stack frame", "__launch_bounds__", "no line `// budget"] {
            assert!(problems.contains(fault), "{fault} is not in\n{problems}");
        }
        for difference in ["Potential Performance Loss", "its budget is 48", "its budget asks for 5"] {
            assert!(notes.contains(difference) && !problems.contains(difference), "{difference} is not in\n{notes}");
        }
    }
}
