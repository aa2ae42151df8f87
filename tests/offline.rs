//! What the compiler makes of the kernels: budgets, and the page that lists them.

use vila_cuda::kernels::Source;
use vila_cuda::offline;

use crate::nvrtc;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kernels.md");
const CURE: &str = "run `cargo run -p vila-train -- kernels check --markdown docs/kernels.md`, without a CUDA toolkit with \
                    VILA_CUDA_LIBRARIES=target/nvrtc/nvidia/cu13/lib";

#[test]
fn kernels_keep_their_budgets() {
    if !nvrtc::available() {
        return;
    }
    let report = offline::check().expect("compiles");
    assert!(report.problems.is_empty(), "{}", report.problems.join("\n"));
    // A machine with a device brings a compiler of its own.
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let current = report.compiler != offline::COMPILER || page == report.markdown();
    assert!(current, "docs/kernels.md is not of these sources: {CURE}");
}

#[test]
fn spills_are_noticed() {
    if !nvrtc::available() {
        return;
    }
    let text = "// Keeps too much.\n// budget: registers 32, blocks 2\n#include \"device.cuh\"\n\
        KERNEL(1024, 2) hoard(float* x) {\n\
            float kept[64];\n\
            for (int i = 0; i < 64; ++i) kept[i] = x[i * threadIdx.x];\n\
            for (int j = 0; j < 100; ++j)\n\
                for (int i = 0; i < 64; ++i) kept[i] = kept[i] * kept[(i + 7) % 64] + x[j];\n\
            for (int i = 0; i < 64; ++i) x[i + threadIdx.x * 64] = kept[i];\n\
        }\n";
    let source = Source { name: "hoard".into(), text: text.into() };
    let report = offline::check_sources(&[source]).expect("compiles");
    for arch in ["sm_80", "sm_90a"] {
        let noticed =
            |problem: &String| problem.starts_with(&format!("hoard on {arch}: ")) && problem.contains("spill");
        assert!(report.problems.iter().any(noticed), "{:?}", report.problems);
    }
}
