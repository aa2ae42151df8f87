//! Small faults: each is found with its kind, line, warp and lane; without the fault there is no alarm.

#[path = "common/cases.rs"]
mod cases;
mod common;

use common::nvrtc;
use ptx_emulator::{Arg, Checks, Error, FaultKind, LaunchError, Memory, Module, Options};

type Test = fn(&FaultKind) -> bool;

/// Kernel, blocks, threads, kind, warp and lane.
const CASES: &[(&str, u32, u32, Test, u32, u32)] = &[
    ("misaligned", 1, 1, |k| matches!(k, FaultKind::Misaligned { bytes: 16, .. }), 0, 0),
    ("shared_past", 1, 32, |k| matches!(k, FaultKind::OutOfBounds { bytes: 4, .. }), 0, 31),
    ("conditional_barrier", 1, 128, |k| matches!(k, FaultKind::Deadlock { waiting } if waiting.len() == 4), 0, 0),
    ("half_warp_barrier", 1, 64, |k| matches!(k, FaultKind::Divergent { missing: 0xffff_0000, .. }), 0, 0),
    ("two_barriers", 1, 64, |k| matches!(k, FaultKind::Deadlock { waiting } if waiting.len() == 2), 0, 0),
    ("register_unset", 1, 1, |k| matches!(k, FaultKind::UninitialisedRegister { .. }), 0, 0),
    ("write_write", 1, 64, |k| matches!(k, FaultKind::Race { first, .. } if first.lane == Some(0)), 0, 1),
    ("blocks_race", 2, 32, |k| matches!(k, FaultKind::Race { first, second, .. } if first.block != second.block), 0, 0),
    ("blocks_read", 3, 1, |k| matches!(k, FaultKind::Race { .. }), 0, 0),
    ("no_syncwarp", 1, 32, |k| matches!(k, FaultKind::Race { .. }), 0, 0),
    ("reissued", 1, 32, |k| matches!(k, FaultKind::Race { .. }), 0, 0),
    ("histogram", 1, 32, |k| matches!(k, FaultKind::Race { .. }), 0, 16),
    ("no_proxy_fence", 1, 32, |k| matches!(k, FaultKind::MissingProxyFence { .. }), 0, 0),
    ("last_block", 4, 32, |k| matches!(k, FaultKind::Race { .. }), 0, 0),
    ("never_arrives", 1, 32, |k| matches!(k, FaultKind::Deadlock { .. }), 0, 0),
    ("no_init", 1, 32, |k| matches!(k, FaultKind::Mbarrier { .. }), 0, 0),
    ("device_assert", 1, 32, |k| matches!(k, FaultKind::Trap), 0, 5),
];

fn launch(module: &Module, name: &str, blocks: u32, threads: u32, options: Options) -> Result<(), Error> {
    let memory = Memory::new();
    let mut words = vec![0u32; 640];
    words[5] = 12345;
    words[40] = 1;
    let p = memory.alloc_from(&common::bytes32(&words)).unwrap();
    module.kernel(&memory, name)?.with(options).launch(blocks, threads, 0, &[p.into()]).map(|_| ())
}

#[test]
fn small_faults() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = include_str!("kernels/broken.cu");
    let module = Module::from_ptx(&nvrtc.kernel("broken.cu", "compute_90a", &[])).unwrap();
    let mut failed = Vec::new();
    for (name, blocks, threads, kind, warp, lane) in CASES {
        let mark = format!("// FAULT {name}");
        let line = source.lines().position(|l| l.ends_with(&mark)).unwrap_or_else(|| panic!("{mark}")) as u32 + 1;
        match launch(&module, name, *blocks, *threads, Options::default()) {
            Err(Error::Fault(f)) => {
                eprintln!("{f}");
                if !kind(&f.kind) || f.location.line != line || (f.warp, f.lane) != (*warp, *lane) || f.kernel != *name
                {
                    failed.push(format!("{name}: line {line} warp {warp} lane {lane} expected: {f}"));
                }
            }
            Err(e) => failed.push(format!("{name}: {e}")),
            Ok(()) => failed.push(format!("{name}: not found")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn mended_kernels_raise_no_alarm() {
    let Some(nvrtc) = nvrtc() else { return };
    let module = Module::from_ptx(&nvrtc.kernel("broken.cu", "compute_90a", &["FIXED"])).unwrap();
    for (name, blocks) in
        [("no_syncwarp", 1), ("reissued", 1), ("histogram", 1), ("no_proxy_fence", 1), ("last_block", 4)]
    {
        for seed in 0..10 {
            let options = Options::default().seed(seed).threads(1 + seed as usize % 2);
            launch(&module, name, blocks, 32, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn checks_can_be_switched_off() {
    let Some(nvrtc) = nvrtc() else { return };
    let module = Module::from_ptx(&nvrtc.kernel("broken.cu", "compute_90a", &[])).unwrap();
    let off = |checks: Checks| Options { checks, ..Options::default() };
    let all = Checks::ALL;
    for (name, blocks, threads, checks) in [
        ("misaligned", 1, 1, Checks { alignment: false, ..all }),
        ("shared_past", 1, 32, Checks { bounds: false, ..all }),
        ("conditional_barrier", 1, 128, Checks { exited: false, ..all }),
        ("register_unset", 1, 1, Checks { registers: false, ..all }),
        ("write_write", 1, 64, Checks { shared_races: false, ..all }),
        ("blocks_race", 2, 32, Checks { global_races: false, ..all }),
        ("no_syncwarp", 1, 32, Checks { shared_races: false, ..all }),
        ("no_proxy_fence", 1, 32, Checks { proxy_fences: false, ..all }),
        ("histogram", 1, 32, Checks::NONE),
    ] {
        launch(&module, name, blocks, threads, off(checks)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn wrong_launches() {
    let Some(nvrtc) = nvrtc() else { return };
    let module = Module::from_ptx(&nvrtc.kernel("broken.cu", "compute_90a", &[])).unwrap();
    let memory = Memory::new();
    let p = memory.alloc(160).unwrap();
    let run = |args: &[Arg], threads: u32| module.kernel(&memory, "write_past").unwrap().launch(1, threads, 0, args);
    assert!(run(&[p.into(), 32i32.into()], 32).is_ok());
    let e = run(&[p.into(), 40i32.into()], 64).unwrap_err();
    let f = e.fault().unwrap();
    assert_eq!((f.warp, f.lane), (1, 8), "{e}");
    assert!(matches!(&f.kind, FaultKind::OutOfBounds { bytes: 4, .. }), "{e}");
    let launch_error = |r: Result<_, Error>| match r.map(|_: ptx_emulator::Report| ()) {
        Err(Error::Launch(e)) => e,
        r => panic!("{r:?}"),
    };
    assert!(matches!(launch_error(run(&[p.into()], 32)), LaunchError::ArgumentCount { given: 1, expected: 2, .. }));
    assert!(matches!(
        launch_error(run(&[p.into(), 1u64.into()], 32)),
        LaunchError::ArgumentSize { index: 1, given: 8, expected: 4, .. }
    ));
    assert!(matches!(launch_error(run(&[p.into(), 1i32.into()], 2000)), LaunchError::Dimensions { .. }));
    assert!(module.kernel(&memory, "nothing").is_err());
    memory.free(p).unwrap();
    let e = run(&[p.into(), 1i32.into()], 32).unwrap_err();
    assert!(matches!(e.fault().unwrap().kind, FaultKind::UseAfterFree { .. }), "{e}");
    // Too little dynamic shared memory.
    let gemm = Module::from_ptx(&nvrtc.kernel("gemm.cu", "compute_80", &[])).unwrap();
    let Err(e) = cases::gemm_with(&gemm, Options::default(), 200, 136, 72, 49152 - 16) else { panic!("not found") };
    assert!(matches!(e.fault().unwrap().kind, FaultKind::OutOfBounds { .. }), "{e}");
    let Err(e) = cases::gemm_with(&gemm, Options::default(), 200, 136, 72, 1 << 20) else { panic!("not found") };
    assert!(matches!(e, Error::Launch(LaunchError::SharedMemory { .. })), "{e}");
}
