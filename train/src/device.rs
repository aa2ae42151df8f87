use std::sync::Arc;

use vila_engine::{Backend, CpuBackend};

/// Opens the device that `--device` names; without a name, the CPU.
///
/// # Errors
/// A paragraph that says what was asked for and what there is.
pub fn open_device(name: Option<&str>) -> Result<Arc<dyn Backend>, String> {
    match name {
        None | Some("cpu") => Ok(Arc::new(CpuBackend::fast())),
        Some(name) => Err(format!("--device {name}: this build runs on `cpu` only; leave --device out or name cpu")),
    }
}
