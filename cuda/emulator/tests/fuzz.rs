//! Mutated PTX: no panic, no hang, no memory beyond a bound. Runs for PTX_EMULATOR_FUZZ_SECONDS (5 if unset; CI: 60).

mod common;

use common::Rng;
use ptx_emulator::{Arg, Memory, Module, Options};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counts what is allocated.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(used, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that one mutant may take, at most.
const BOUND: usize = 1 << 30;
/// Time that one mutant may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const SEED_TEXT: &str = include_str!("ptx/mixed.ptx");

fn corpus() -> Vec<String> {
    let mut out = vec![SEED_TEXT.to_string()];
    if let Some(nvrtc) = common::nvrtc() {
        for (file, arch) in [
            ("rmsnorm.cu", "compute_80"),
            ("flash.cu", "compute_80"),
            ("hopper.cu", "compute_90a"),
            ("ordinary.cu", "compute_80"),
            ("ordinary.cu", "compute_100a"),
        ] {
            out.push(nvrtc.kernel(file, arch, &[]));
        }
    }
    out
}

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "31",
    "32",
    "33",
    "64",
    "255",
    "4096",
    "65536",
    "2147483647",
    "4294967295",
    "99999999999",
    "0x7fffffffffffffff",
];

fn mutate(text: &str, pool: &[String], rng: &mut Rng) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(lines.len() as u64) as usize;
        let line = lines[at].clone();
        match rng.below(9) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, line),
            2 => {
                let other: Vec<&str> = pool[rng.below(pool.len() as u64) as usize].lines().collect();
                lines.insert(at, other[rng.below(other.len() as u64) as usize].to_string());
            }
            3 => {
                let to = rng.below(lines.len() as u64) as usize;
                lines.swap(at, to);
            }
            4 => {
                // A number becomes another.
                let digits: Vec<usize> = line.char_indices().filter(|c| c.1.is_ascii_digit()).map(|c| c.0).collect();
                if let Some(&i) = digits.get(rng.below(digits.len().max(1) as u64) as usize) {
                    lines[at].replace_range(i..=i, NUMBERS[rng.below(NUMBERS.len() as u64) as usize]);
                }
            }
            5 => {
                // A modifier goes, or another line's comes.
                let mut parts: Vec<&str> = line.split('.').collect();
                let i = rng.below(parts.len() as u64) as usize;
                let other = lines[rng.below(lines.len() as u64) as usize].clone();
                let theirs: Vec<&str> = other.split('.').collect();
                if rng.below(2) == 0 {
                    parts.remove(i);
                } else {
                    parts[i] = theirs[rng.below(theirs.len() as u64) as usize];
                }
                lines[at] = parts.join(".");
            }
            6 => {
                // Two operands change places.
                let mut parts: Vec<&str> = line.split(',').collect();
                let (i, j) = (rng.below(parts.len() as u64) as usize, rng.below(parts.len() as u64) as usize);
                parts.swap(i, j);
                lines[at] = parts.join(",");
            }
            7 => {
                let keep: String = line.chars().take(rng.below(line.chars().count() as u64 + 1) as usize).collect();
                lines[at] = keep;
            }
            _ => {
                let bytes: Vec<char> = line.chars().collect();
                if !bytes.is_empty() {
                    let i = rng.below(bytes.len() as u64) as usize;
                    let c = char::from_u32(rng.below(128) as u32).unwrap_or('x');
                    lines[at] = bytes.iter().enumerate().map(|(k, b)| if k == i { c } else { *b }).collect();
                }
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

fn run(text: &str, rng: &mut Rng) -> usize {
    let _ = Module::survey(text);
    let Ok(module) = Module::from_ptx(text) else { return 0 };
    let memory = Memory::new();
    let buffer = memory.alloc(4096).unwrap();
    let mut launches = 0;
    for name in module.kernels().into_iter().take(30) {
        let options = Options {
            budget: 20_000,
            host_memory: 64 << 20,
            seed: rng.below(3),
            threads: 1 + rng.below(2) as usize,
            ..if rng.below(2) == 0 { Options::default() } else { Options::fast() }
        };
        let kernel = module.kernel(&memory, name).unwrap().with(options);
        let args: Vec<Arg> = kernel
            .params()
            .iter()
            .map(|n| match n {
                8 => Arg::from(buffer + rng.below(2) * rng.below(4096)),
                4 => Arg::from([0u32, 1, 7, 64, 1000, u32::MAX][rng.below(6) as usize]),
                n => Arg(vec![rng.bits() as u8; *n]),
            })
            .collect();
        let block = [1u32, 32, 64, 160, 256][rng.below(5) as usize];
        let shared = [0u32, 64, 16384, 49152][rng.below(4) as usize];
        let _ = kernel.launch(1 + rng.below(2) as u32, block, shared, &args);
        launches += 1;
    }
    launches
}

#[test]
fn mutants_do_no_harm() {
    let seconds = std::env::var("PTX_EMULATOR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let seed = std::env::var("PTX_EMULATOR_FUZZ_SEED").ok().and_then(|s| s.parse().ok());
    let pool = corpus();
    let start = Instant::now();
    let (mut mutants, mut launches) = (0u64, 0usize);
    while start.elapsed() < Duration::from_secs(seconds) {
        let this =
            seed.unwrap_or(mutants.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(start.elapsed().subsec_nanos())));
        let mut rng = Rng(this);
        let text = mutate(&pool[rng.below(pool.len() as u64) as usize], &pool, &mut rng);
        let began = Instant::now();
        let before = USED.load(Relaxed);
        PEAK.store(before, Relaxed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&text, &mut rng)));
        let report = |what: &str| {
            let path = std::env::temp_dir().join("ptx-emulator-mutant.ptx");
            let _ = std::fs::write(&path, &text);
            panic!("{what}; PTX_EMULATOR_FUZZ_SEED={this}, text in {}", path.display());
        };
        match result {
            Ok(n) => launches += n,
            Err(_) => report("panic"),
        }
        if began.elapsed() > PATIENCE {
            report("hang");
        }
        if PEAK.load(Relaxed).saturating_sub(before) > BOUND {
            report("too much memory");
        }
        mutants += 1;
    }
    eprintln!("{mutants} mutants, {launches} launches in {seconds} s");
}

#[test]
fn endless_loop_ends_with_the_budget() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry spin() {\nL: bra L;\n}";
    let memory = Memory::new();
    let module = Module::from_ptx(text).unwrap();
    for options in [Options::default(), Options::fast()] {
        let kernel = module.kernel(&memory, "spin").unwrap().with(options.budget(100_000));
        let e = kernel.launch(4, 64, 0, &[]).unwrap_err();
        assert!(matches!(e.fault().unwrap().kind, ptx_emulator::FaultKind::Budget { budget: 100_000 }), "{e}");
    }
}
