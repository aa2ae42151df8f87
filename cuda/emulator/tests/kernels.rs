//! Real kernels: right answers on ten schedules with all checks, and every planted fault found.

#[path = "common/cases.rs"]
mod cases;
mod common;

use cases::Outcome;
use common::nvrtc;
use ptx_emulator::{Error, FaultKind, Memory, Module, Options};

type Run = fn(&Module, Options) -> Result<Outcome, Error>;

const KERNELS: &[(&str, &str, Run, f64)] = &[
    ("rmsnorm.cu", "compute_80", |m, o| cases::rmsnorm(m, o, 5, 1000), 0.03),
    ("adamw.cu", "compute_80", |m, o| cases::adamw(m, o, 5000), 1e-5),
    ("gemm.cu", "compute_80", |m, o| cases::gemm(m, o, 200, 136, 72), 0.005),
    ("flash.cu", "compute_80", |m, o| cases::flash(m, o, 2, 200), 0.03),
    ("hopper.cu", "compute_90a", |m, o| cases::hopper(m, o, false), 1e-3),
    ("hopper.cu", "compute_90a", |m, o| cases::hopper(m, o, true), 1e-3),
];

fn module(file: &str, arch: &str, defines: &[&str]) -> Option<Module> {
    let ptx = nvrtc()?.kernel(file, arch, defines);
    Some(Module::from_ptx(&ptx).unwrap_or_else(|e| panic!("{file} {defines:?}: {e}")))
}

#[test]
fn ten_schedules_agree_bit_for_bit() {
    for (file, arch, run, tolerance) in KERNELS {
        let Some(m) = module(file, arch, &[]) else { return };
        let mut first = None;
        for seed in 0..10 {
            let threads = if seed % 3 == 2 { 2 } else { 1 };
            let out = run(&m, Options::default().seed(seed).threads(threads))
                .unwrap_or_else(|e| panic!("{file} seed {seed}: {e}"));
            assert!(out.error < *tolerance, "{file} seed {seed}: error {}", out.error);
            assert!(out.report.coverage.ratio() > 0.5, "{file}: {:?}", out.report.coverage.missed_lines());
            assert_eq!(*first.get_or_insert_with(|| out.bits.clone()), out.bits, "{file} seed {seed}");
        }
        let plain = run(&m, Options::fast()).unwrap();
        assert_eq!(first, Some(plain.bits), "{file} plain");
    }
}

/// Line of the first source line with some text, from 1.
fn line_of(file: &str, text: &str) -> u32 {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(file);
    let source = std::fs::read_to_string(path).unwrap();
    source.lines().position(|l| l.contains(text)).unwrap_or_else(|| panic!("{text}")) as u32 + 1
}

/// What a broken variant has to give.
enum Expect {
    /// A fault of this kind, at the source line that holds the text.
    Fault(fn(&FaultKind) -> bool, &'static str),
    /// No fault, but wrong numbers.
    Wrong,
}

fn race(k: &FaultKind) -> bool {
    matches!(k, FaultKind::Race { .. })
}

fn flying(k: &FaultKind) -> bool {
    matches!(k, FaultKind::AsyncInFlight { .. })
}

fn out_of_bounds(k: &FaultKind) -> bool {
    matches!(k, FaultKind::OutOfBounds { .. })
}

fn uninitialised(k: &FaultKind) -> bool {
    matches!(k, FaultKind::UninitialisedShared { .. } | FaultKind::Race { .. })
}

#[test]
fn planted_faults_are_found_with_their_line() {
    use Expect::{Fault, Wrong};
    let cases: &[(usize, &str, Expect)] = &[
        (0, "BUG_RMS_SYNC", Fault(uninitialised, "s += red[i]")),
        (0, "BUG_RMS_OOB", Fault(out_of_bounds, "uint4 q = xr[i], k")),
        (2, "BUG_GEMM_WAIT", Fault(flying, "ldsm_x4(a[i]")),
        (2, "BUG_GEMM_NOWAIT", Fault(flying, "ldsm_x4(a[i]")),
        (2, "BUG_GEMM_SYNC", Fault(|k| race(k) || flying(k), "ldsm_x4(a[i]")),
        (2, "BUG_GEMM_OOB", Fault(out_of_bounds, "cp_async16(s")),
        (2, "BUG_GEMM_FRAG", Wrong),
        (3, "BUG_FLASH_WAITK", Fault(flying, "ldsm_x4(")),
        (3, "BUG_FLASH_WAITV", Fault(flying, "ldsm_x4_t(b")),
        (3, "BUG_FLASH_SYNCV", Fault(|k| race(k) || flying(k), "ldsm_x4_t(b")),
        (3, "BUG_FLASH_MASK", Wrong),
        (3, "BUG_FLASH_FRAG", Wrong),
        (
            3,
            "BUG_FLASH_DIVSHFL",
            Fault(|k| matches!(k, FaultKind::Divergent { .. }), "__shfl_xor_sync(0xffffffffu, sum[h], 1)"),
        ),
        (3, "BUG_FLASH_OOB", Fault(out_of_bounds, "*reinterpret_cast<u32*>(o + base")),
        (
            4,
            "BUG_HOP_EMPTY",
            Fault(|k| race(k) || flying(k) || matches!(k, FaultKind::Mbarrier { .. }), "mbar_expect(full"),
        ),
        (4, "BUG_HOP_FULL", Fault(|k| uninitialised(k) || flying(k), "wgmma_m64n64k16<0, TB>(d")),
        (4, "BUG_HOP_DESC", Wrong),
        (4, "BUG_HOP_EARLY", Fault(|k| race(k) || flying(k), "")),
        (4, "BUG_HOP_WAIT", Fault(|k| matches!(k, FaultKind::AccumulatorInFlight { .. }), "")),
    ];
    let mut failed = Vec::new();
    for (kernel, define, expect) in cases {
        let (file, arch, run, tolerance) = KERNELS[*kernel];
        let Some(m) = module(file, arch, &[define]) else { return };
        // One schedule is enough.
        let result = run(&m, Options::default());
        match (expect, result) {
            (Wrong, Ok(out)) if out.error > tolerance || out.error.is_nan() => {}
            (Fault(kind, text), Err(Error::Fault(f))) => {
                let right = if text.is_empty() { f.location.line } else { line_of(file, text) };
                eprintln!("{define}: {f}");
                if !kind(&f.kind) || f.location.line.abs_diff(right) > u32::from(define.ends_with("GEMM_OOB")) {
                    failed.push(format!("{define}: line {right} expected: {f}"));
                }
            }
            (_, Ok(out)) => failed.push(format!("{define}: not found, error {}", out.error)),
            (_, Err(e)) => failed.push(format!("{define}: {e}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Source, kernel (of `ordinary.cu`: name, blocks, threads and elements), edit, expected error and its line.
type Edit = (&'static str, &'static str, &'static str, Target, Expect);

enum Target {
    Real(usize),
    Ordinary(&'static str, u32, u32, i32),
    /// Of `tricky.cu`: one warp.
    Tricky(&'static str),
}

#[test]
fn small_edits_of_real_kernels_are_found() {
    use Expect::{Fault, Wrong};
    use Target::{Ordinary, Real, Tricky};
    let misaligned: fn(&FaultKind) -> bool = |k| matches!(k, FaultKind::Misaligned { .. });
    let deadlock: fn(&FaultKind) -> bool = |k| matches!(k, FaultKind::Deadlock { .. });
    let edits: &[Edit] = &[
        // An index one too far; the last warp's is outside.
        (
            "rmsnorm.cu",
            "red[threadIdx.x / 32] = s",
            "red[threadIdx.x / 32 + 1] = s",
            Real(0),
            Fault(out_of_bounds, "if (threadIdx.x % 32 == 0) red"),
        ),
        (
            "ordinary.cu",
            "s[l + 256] = g",
            "s[l + 257] = g",
            Ordinary("stencil", 4, 256, 1000),
            Fault(out_of_bounds, "s[l + 256] = g"),
        ),
        // Copies that no group holds, or waits that leave one group too many.
        ("gemm.cu", "    cp_async_commit();", "    ;", Real(2), Fault(flying, "ldsm_x4(a[i]")),
        ("gemm.cu", "load(0); load(1);", "load(0);", Real(2), Fault(|k| flying(k) || uninitialised(k), "ldsm_x4(a[i]")),
        // Vectors at half of their alignment.
        (
            "rmsnorm.cu",
            "(x + (u64)blockIdx.x * d)",
            "(x + (u64)blockIdx.x * d + 4)",
            Real(0),
            Fault(misaligned, "uint4 q = xr[i]; u32 u[4]"),
        ),
        (
            "gemm.cu",
            "ch = t % 4, kk = s * 32 + ch * 8;",
            "ch = t % 4, kk = s * 32 + ch * 8 + 4;",
            Real(2),
            Fault(misaligned, "cp_async16(sa"),
        ),
        // Transactions: too few bytes, too many, one more arrival, the wrong phase.
        (
            "hopper.cu",
            "mbar_expect(full + st * 8, 16384)",
            "mbar_expect(full + st * 8, 8192)",
            Real(4),
            Fault(|k| flying(k) || uninitialised(k) || matches!(k, FaultKind::Mbarrier { .. }), ""),
        ),
        (
            "hopper.cu",
            "mbar_expect(full + st * 8, 16384)",
            "mbar_expect(full + st * 8, 16400)",
            Real(4),
            Fault(deadlock, ""),
        ),
        ("hopper.cu", "mbar_init(empty + i * 8, 4)", "mbar_init(empty + i * 8, 5)", Real(4), Fault(deadlock, "")),
        (
            "hopper.cu",
            "mbar_wait(full + st * 8, s / 2 & 1)",
            "mbar_wait(full + st * 8, s / 2 & 1 ^ 1)",
            Real(4),
            Fault(|k| flying(k) || uninitialised(k), "wgmma_m64n64k16<0, TB>(d"),
        ),
        (
            "hopper.cu",
            "    wgmma_fence();",
            "    ;",
            Real(4),
            Fault(|k| matches!(k, FaultKind::MissingWgmmaFence), "wgmma_m64n64k16<0, TB>(d"),
        ),
        (
            "hopper.cu",
            "tma_load_2d(sa + st * 8192, ta",
            "tma_load_2d(sa + st * 8192 + 64, ta",
            Real(4),
            Fault(misaligned, "tma_load_2d(sa"),
        ),
        (
            "hopper.cu",
            "da = desc_sw128(sa + st * 8192 + kk * 32, 16, 1024);\n      u64 db",
            "da = desc_sw128(sa + st * 8192 + (kk ^ 1) * 32, 16, 1024);\n      u64 db",
            Real(4),
            Wrong,
        ),
        // Atomics as plain updates, in shared and in device memory.
        (
            "ordinary.cu",
            "atomicAdd(&h[(u32)in[i] % 64], 1u);",
            "h[(u32)in[i] % 64]++;",
            Ordinary("histogram", 3, 128, 1000),
            Fault(race, "atomicAdd(&h[(u32)in[i] % 64]"),
        ),
        (
            "ordinary.cu",
            "atomicAdd((u32*)out + threadIdx.x, h[threadIdx.x])",
            "out[threadIdx.x] += h[threadIdx.x]",
            Ordinary("histogram", 3, 128, 1000),
            Fault(race, "atomicAdd((u32*)out + threadIdx.x"),
        ),
        (
            "ordinary.cu",
            "last = atomicAdd(&arrived, 1u) == gridDim.x - 1;",
            "last = arrived++ == gridDim.x - 1;",
            Ordinary("last_block_sum", 4, 256, 1000),
            Fault(race, "last = atomicAdd"),
        ),
        (
            "ordinary.cu",
            "    __threadfence();\n    last",
            "    ;\n    last",
            Ordinary("last_block_sum", 4, 256, 1000),
            Fault(race, "r += ((volatile int*)out)"),
        ),
        // Barriers left out.
        (
            "ordinary.cu",
            "    from = 1 - from;\n    __syncthreads();",
            "    from = 1 - from;\n    ;",
            Ordinary("scan_block", 1, 256, 256),
            Fault(uninitialised, "s[1 - from][t] ="),
        ),
        (
            "ordinary.cu",
            "out[t + 64] = s[t + 64];",
            "out[t + 65] = s[t + 65];",
            Ordinary("sort_pairs", 1, 64, 101),
            Wrong,
        ),
        (
            "ordinary.cu",
            "__shfl_up_sync(0xffffffffu, v, d); if (lane - d >= head)",
            "__shfl_up_sync(0xffff7fffu, v, d); if (lane - d >= head)",
            Ordinary("segmented_scan", 8, 128, 1000),
            Fault(|k| !matches!(k, FaultKind::Race { .. }), "__shfl_up_sync(0xffffffffu, v, d); if (lane - d >= head)"),
        ),
        // Lanes of a warp without __syncwarp.
        (
            "tricky.cu",
            "mbar_init(smem_u32(&bar), 1);\n  __syncwarp();\n  if (t == 31)",
            "mbar_init(smem_u32(&bar), 1);\n  ;\n  if (t == 31)",
            Tricky("lane_split_pipeline"),
            Fault(|k| race(k) || matches!(k, FaultKind::Mbarrier { .. }), ""),
        ),
    ];
    let Some(nvrtc) = nvrtc() else { return };
    let mut failed = Vec::new();
    for (file, from, to, target, expect) in edits {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(file);
        let source = std::fs::read_to_string(path).unwrap();
        assert!(source.contains(from), "{file}: {from}");
        let build = |text: &str, arch: &str| Module::from_ptx(&nvrtc.compile(file, text, arch, &[]).unwrap()).unwrap();
        let edited = source.replacen(from, to, 1);
        let result = match target {
            Real(i) => {
                let (_, arch, run, tolerance) = KERNELS[*i];
                run(&build(&edited, arch), Options::default()).map(|o| o.error > tolerance || o.error.is_nan())
            }
            Tricky(name) => {
                let memory = Memory::new();
                let out = memory.alloc(128).unwrap();
                let module = build(&edited, "compute_90a");
                module.kernel(&memory, name).and_then(|k| k.launch(1, 32, 0, &[out.into()])).map(|_| false)
            }
            Ordinary(name, blocks, threads, n) => {
                let run = |text: &str| {
                    let memory = Memory::new();
                    let mut rng = common::Rng(5);
                    let words: Vec<u32> = (0..1000).map(|_| rng.bits() as u32).collect();
                    let input = memory.alloc_from(&common::bytes32(&words)).unwrap();
                    let output = memory.alloc_from(&[0; 4096]).unwrap();
                    let module = build(text, "compute_80");
                    let args = [input.into(), output.into(), (*n).into()];
                    module.kernel(&memory, name)?.launch(*blocks, *threads, 0, &args)?;
                    Ok::<_, Error>(memory.read_vec(output, 4096).unwrap())
                };
                run(&edited).map(|bytes| bytes != run(&source).unwrap())
            }
        };
        match (expect, result) {
            (Wrong, Ok(true)) => {}
            (Fault(kind, text), Err(Error::Fault(f))) => {
                eprintln!("{to}: {f}");
                let right = if text.is_empty() { f.location.line } else { line_of(file, text) };
                // An access of the asynchronous engine is named by the thread that issued it.
                let named = match &f.kind {
                    FaultKind::AsyncInFlight { copy, .. } => copy.warp < if *file == "hopper.cu" { 5 } else { 8 },
                    _ => true,
                };
                if !kind(&f.kind) || f.location.line != right || !named {
                    failed.push(format!("{file}: {to}: line {right} expected: {f}"));
                }
            }
            (_, Ok(wrong)) => failed.push(format!("{file}: {to}: not found, result differs: {wrong}")),
            (_, Err(e)) => failed.push(format!("{file}: {to}: {e}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
