use std::sync::Arc;

use vila_engine::{Backend, CpuBackend};

/// A device that was opened.
pub struct Device {
    /// Runs ops.
    pub backend: Arc<dyn Backend>,
    /// Which device it is, and why it is not a better one, in one line.
    pub label: String,
}

/// Why a device was not opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No device has such a name.
    #[error("--device {0}: there are {choices}", choices = CHOICES)]
    Unknown(String),
    /// This machine does not have it: one paragraph that says what was looked for, where, and the cure.
    #[error("--device {name}: {reason}")]
    Unavailable {
        /// As asked.
        name: String,
        /// The paragraph.
        reason: String,
    },
}

#[cfg(feature = "cuda")]
const CHOICES: &str = "cpu, cuda, cuda:N and emulator";
#[cfg(not(feature = "cuda"))]
const CHOICES: &str = "cpu; this build is without CUDA";

/// Opens the device that `--device` names: `cpu`, `cuda`, `cuda:N` or `emulator`; without a name, CUDA if it is usable, else
/// the CPU. On CUDA, matrix products take their algorithms from the table that `VILA_GEMM_TABLE` names, if it does.
///
/// # Errors
/// [`DeviceError::Unknown`] for another name; [`DeviceError::Unavailable`] says what is missing.
pub fn open_device(name: Option<&str>) -> Result<Device, DeviceError> {
    let Some(name) = name else { return Ok(best()) };
    if name == "cpu" {
        return Ok(cpu());
    }
    #[cfg(feature = "cuda")]
    {
        let unavailable = |reason: String| DeviceError::Unavailable { name: name.into(), reason };
        if name == "emulator" {
            return cuda::emulator().map_err(unavailable);
        }
        if let Some(ordinal) = ordinal(name) {
            return cuda::open(ordinal).map_err(unavailable);
        }
    }
    Err(DeviceError::Unknown(name.into()))
}

fn cpu() -> Device {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = CpuBackend::fast();
    Device { label: format!("{} ({threads} threads)", backend.name()), backend: Arc::new(backend) }
}

#[cfg(not(feature = "cuda"))]
fn best() -> Device {
    cpu()
}

/// A machine without a driver or a GPU is nothing to talk about; a GPU that cannot be used is.
#[cfg(feature = "cuda")]
fn best() -> Device {
    if !vila_cuda::NvidiaLibrary::open().and_then(|driver| driver.devices()).is_ok_and(|devices| !devices.is_empty()) {
        return cpu();
    }
    cuda::open(0).unwrap_or_else(|reason| {
        let Device { backend, label } = cpu();
        Device { backend, label: format!("{label}, because cuda:0 cannot be used: {reason}") }
    })
}

/// `cuda` is `cuda:0`.
#[cfg(feature = "cuda")]
pub(crate) fn ordinal(name: &str) -> Option<u32> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':').filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()))?.parse().ok(),
    }
}

#[cfg(feature = "cuda")]
pub(crate) mod cuda {
    use std::sync::Arc;

    use vila_cuda::{CudaBackend, Driver, Emulated, EmulatedOptions, Nvidia, kernels};

    use super::Device;
    use crate::gemm_table::GemmTable;

    pub fn open(ordinal: u32) -> Result<Device, String> {
        let driver = driver(ordinal)?;
        let table = match std::env::var_os("VILA_GEMM_TABLE").filter(|path| !path.is_empty()) {
            Some(path) => Some(GemmTable::read(path.as_ref(), &driver)?),
            None => None,
        };
        let mut label = label(ordinal, &driver);
        let mut backend = CudaBackend::new(driver).map_err(|error| error.to_string())?;
        if let Some((table, hash)) = table {
            label.push_str(&format!(", gemm table {hash}"));
            backend = backend.with_table(table, &hash);
        }
        Ok(Device { backend: Arc::new(backend), label })
    }

    /// A device on which all kernels can run.
    pub fn driver(ordinal: u32) -> Result<Arc<Nvidia>, String> {
        let driver = Nvidia::open(ordinal).map_err(|error| error.to_string())?;
        kernels::ready(&driver.target()).map_err(|error| error.to_string())?;
        Ok(Arc::new(driver))
    }

    pub fn label(ordinal: u32, driver: &Nvidia) -> String {
        let info = driver.info();
        let gib = info.memory as f64 / (1u64 << 30) as f64;
        format!("cuda:{ordinal} ({}, {}, {gib:.0} GiB)", info.name, driver.target().arch())
    }

    pub fn emulator() -> Result<Device, String> {
        let options = EmulatedOptions::default();
        let driver = Emulated::new(options);
        kernels::ready(&driver.target()).map_err(|error| error.to_string())?;
        let backend = CudaBackend::new(Arc::new(driver)).map_err(|error| error.to_string())?;
        Ok(Device { backend: Arc::new(backend), label: format!("emulator ({} threads)", options.threads) })
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::ordinal;

    #[test]
    fn ordinals_are_plain_numbers() {
        assert_eq!(["cuda", "cuda:0", "cuda:12"].map(ordinal), [Some(0), Some(0), Some(12)]);
        assert_eq!(["cuda:", "cuda:+1", "cuda:x", "cuda1", "gpu"].map(ordinal), [None; 5]);
    }
}
