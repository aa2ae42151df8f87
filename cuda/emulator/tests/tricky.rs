//! Correct kernels that a careless checker would complain about.

mod common;

use common::{nvrtc, words32};
use ptx_emulator::{Memory, Module, Options};

#[test]
fn no_false_alarms() {
    let Some(nvrtc) = nvrtc() else { return };
    let ptx = nvrtc.kernel("tricky.cu", "compute_90a", &[]);
    let module = Module::from_ptx(&ptx).unwrap_or_else(|e| panic!("{e}"));
    let mut failed = Vec::new();
    for name in module.kernels() {
        let (grid, block) = match name {
            "look_back" => (8u32, 32u32),
            "partial_masks" | "lane_split_pipeline" => (1, 32),
            "bytes_side_by_side" => (1, 256),
            "each_lane_arrives" => (1, 96),
            _ => (1, 64),
        };
        for seed in 0..10 {
            // Variables of a module keep their values between launches.
            let module = Module::from_ptx(&ptx).unwrap();
            let memory = Memory::new();
            let words: Vec<u32> = (0..2048u32).map(|i| i.wrapping_sub(1024)).collect();
            let out = memory.alloc_from(&common::bytes32(&words)).unwrap();
            let options = Options::default().seed(seed).threads(1 + seed as usize % 2).budget(2_000_000);
            if let Err(e) = module.kernel(&memory, name).unwrap().with(options).launch(grid, block, 0, &[out.into()]) {
                failed.push(format!("{name} seed {seed}: {e}"));
                break;
            }
            let n = (grid * block) as usize;
            let got = words32(&memory.read_vec(out, n * 4).unwrap());
            if got.iter().any(|x| *x != 1) {
                failed.push(format!("{name} seed {seed}: {got:?}"));
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
