//! The run-time compiler for tests of the kernels; fetched once.

#[path = "../cuda/emulator/tests/common/fetch.rs"]
mod fetch;

use std::sync::Arc;

use vila_cuda::kernels;
use vila_engine::Backend;

/// Whether kernels can be compiled here. With `CI=true` a missing compiler is a failure, else the test says that it is skipped.
pub fn available() -> bool {
    if on_hardware() {
        return true;
    }
    static FOUND: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let library = fetch::workspace().join("target/nvrtc/nvidia/cu13/lib");
        if !library.join("libnvrtc.so.13").exists() {
            fetch::fetch()?;
        }
        kernels::use_cache_in(fetch::workspace().join("target/kernels"));
        kernels::use_compiler_in(&library).map(|_| ()).map_err(|error| error.to_string())
    });
    if let Err(error) = found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "NVRTC {} is not here: {error}", fetch::VERSION);
        eprintln!("SKIPPED: NVRTC {} is not here ({error}); unpack the wheel into target/nvrtc", fetch::VERSION);
    }
    found.is_ok()
}

/// Whether `VILA_TEST_DEVICE` names a real device, whose machine brings its own compiler.
pub fn on_hardware() -> bool {
    let name = std::env::var("VILA_TEST_DEVICE").unwrap_or_default();
    let known = ["", "cpu", "emulator"].contains(&name.as_str()) || name.starts_with("cuda");
    assert!(known, "VILA_TEST_DEVICE: there is no device `{name}`; there are cpu, cuda[:N] and emulator");
    name.starts_with("cuda")
}

/// The device that `VILA_TEST_DEVICE` names (`cuda`, say), or the emulated one; nothing where kernels cannot be compiled.
pub fn device() -> Option<Arc<dyn Backend>> {
    let name = std::env::var("VILA_TEST_DEVICE").unwrap_or("emulator".into());
    if name == "emulator" && !available() {
        return None;
    }
    Some(vila_train::open_device(Some(&name)).unwrap_or_else(|error| panic!("{error}")).backend)
}
