//! From CUDA C++ through NVRTC to the emulator: `cargo run -p ptx-emulator --example saxpy`.

#[path = "../tests/common/mod.rs"]
mod common;

use ptx_emulator::{Memory, Module, Options};

const SOURCE: &str = r#"
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = a * x[i] + y[i];   // one too many
}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(nvrtc) = common::nvrtc() else { return Ok(()) };
    let memory = Memory::new();
    let n = 1000usize;
    let x = memory.alloc_from(&common::bytes_f32(&vec![1.5; n]))?;
    let y = memory.alloc_from(&common::bytes_f32(&vec![0.25; n]))?;
    let args = [2f32.into(), x.into(), y.into(), (n as i32).into()];
    let wrong = Module::from_ptx(&nvrtc.compile("saxpy.cu", SOURCE, "compute_80", &[])?)?;
    if let Err(e) = wrong.kernel(&memory, "saxpy")?.launch(8, 128, 0, &args) {
        println!("found: {e}");
    }
    let right = Module::from_ptx(&nvrtc.compile("saxpy.cu", &SOURCE.replace("<=", "<"), "compute_80", &[])?)?;
    memory.write(y, &common::bytes_f32(&vec![0.25; n]))?;
    let report = right.kernel(&memory, "saxpy")?.with(Options::default().threads(2)).launch(8, 128, 0, &args)?;
    let out = common::floats(&memory.read_vec(y, n * 4)?);
    assert!(out.iter().all(|v| *v == 3.25));
    println!(
        "right: {} thread instructions, {:.0}% of the blocks",
        report.thread_instructions,
        report.coverage.ratio() * 100.0
    );
    Ok(())
}
