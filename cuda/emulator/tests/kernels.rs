//! Real kernels: right answers on ten schedules with all checks, and every planted fault found.

#[path = "common/cases.rs"]
mod cases;
mod common;

use cases::Outcome;
use common::nvrtc;
use ptx_emulator::{Error, FaultKind, Module, Options};

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
