//! Which device the program takes, and what it says of one that is not there.

use std::sync::Arc;

use vila_cuda::tuning::tune;
use vila_cuda::{CudaBackend, Emulated, EmulatedOptions, NvidiaLibrary};
use vila_engine::ops::Linear;
use vila_engine::{Backend, DType};

use crate::child::command;

/// Exit code, stdout and stderr of `vila`.
fn vila(arguments: &[&str]) -> (i32, String, String) {
    let output = command(arguments).output().expect("child");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// One small training step.
fn step(device: &[&str]) -> (i32, String, String) {
    let sizes = ["bench", "step", "--seq", "64", "--batch", "1", "--images", "1", "--steps", "1", "--warmup", "0"];
    vila(&[&sizes, device].concat())
}

fn devices() -> usize {
    NvidiaLibrary::open().and_then(|driver| driver.devices()).map_or(0, |devices| devices.len())
}

#[test]
fn the_first_line_names_the_device() {
    let (code, _, stderr) = step(&["--device", "cpu"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.starts_with("device: cpu ("), "{stderr}");
}

#[test]
fn without_cuda_the_default_is_the_cpu() {
    if devices() > 0 {
        return;
    }
    let (code, _, stderr) = step(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.starts_with("device: cpu ("), "{stderr}");
}

#[test]
fn missing_cuda_is_one_paragraph() {
    if devices() > 0 {
        return;
    }
    for device in ["cuda", "cuda:7"] {
        let (code, _, stderr) = step(&["--device", device]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.starts_with(&format!("error: --device {device}: libcuda.so.1 ")), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_device_beyond_the_last_is_named() {
    let count = devices();
    if count > 0 {
        let (code, _, stderr) = step(&["--device", &format!("cuda:{count}")]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(&format!("cuda:{count} does not exist")), "{stderr}");
    }
}

#[test]
fn other_names_are_wrong_usage() {
    for device in ["nonsense", "cuda:", "cuda:-1", "CPU"] {
        let (code, _, stderr) = step(&["--device", device]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.starts_with(&format!("error: --device {device}: there are cpu, ")), "{stderr}");
    }
}

#[test]
fn doctor_names_every_library() {
    let (code, stdout, stderr) = vila(&["doctor"]);
    assert_eq!(code, 0, "{stderr}");
    for expected in ["cpu  ", "cuda", "libcuda ", "NVRTC ", "cuBLASLt ", "kernels kept in "] {
        assert!(stdout.contains(expected), "{expected} is not in\n{stdout}");
    }
    let (code, stdout, stderr) = vila(&["doctor", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let line = stdout.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
    let facts: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(facts["devices"][0], "cpu");
    assert_eq!(facts["cuda"]["devices"].as_array().map(Vec::len), Some(devices()));
    for library in facts["cuda"]["libraries"].as_array().expect("libraries") {
        let found = library["path"].is_string() && library["version"].is_string();
        assert!(found || library["missing"].is_string(), "{library}");
    }
}

#[test]
fn tuning_needs_a_cuda_device() {
    for device in ["cpu", "emulator"] {
        let (code, _, stderr) = vila(&["bench", "tune", "--device", device]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("tuning needs a CUDA device"), "{stderr}");
    }
    assert_eq!(vila(&["bench", "tune", "--device", "nonsense"]).0, 2);
}

#[test]
fn a_backend_knows_its_matrix_products() {
    let cuda = CudaBackend::new(Arc::new(Emulated::new(EmulatedOptions::default()))).expect("backend");
    let tensor = |rows, cols| cuda.zeros(DType::F32, rows, cols).expect("tensor");
    let (x, w, y) = (tensor(3, 5), tensor(7, 5), tensor(3, 7));
    for _ in 0..2 {
        cuda.linear(&Linear { x: &x, weight: &w, bias: None, y: &y }).expect("linear");
    }
    let products = cuda.products();
    assert_eq!(products.len(), 1);
    // Column-major: the transpose of the row-major product.
    assert_eq!((products[0].size, products[0].transposed, products[0].lds), ([7, 3, 5], [true, false], [5, 5, 7]));
    let tuned = tune(cuda.driver(), &products).expect("nothing to choose from");
    assert!(tuned.is_empty());
}

#[test]
fn kernels_are_built_for_known_architectures_only() {
    let (code, _, stderr) = vila(&["kernels", "build", "--arch", "sm_80,volta"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--arch volta"), "{stderr}");
}
