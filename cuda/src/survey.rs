//! What this machine offers for CUDA.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::driver::{CublasLt, DeviceInfo, NvidiaLibrary};
use crate::embedded::EMBEDDED;
use crate::kernels;

/// One of NVIDIA's libraries.
#[derive(Clone, Debug)]
pub struct LibraryFacts {
    /// What it is.
    pub name: &'static str,
    /// File and version, or why there is none.
    pub found: std::result::Result<(PathBuf, String), String>,
}

/// Libraries, devices and kernels.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The driver, the compiler and the matrix library.
    pub libraries: [LibraryFacts; 3],
    /// What the driver offers.
    pub devices: Vec<DeviceInfo>,
    /// Where compiled kernels are kept.
    pub kernel_cache: Option<PathBuf>,
    /// Architectures whose machine code is inside the program.
    pub embedded: BTreeSet<&'static str>,
}

/// Looks for everything.
pub fn survey() -> Survey {
    let driver = NvidiaLibrary::open();
    let majors = driver.as_ref().map_or(&[13, 12][..], |driver| driver.majors());
    if driver.is_ok() {
        kernels::use_compiler_majors(majors);
    }
    let dotted = |major: u32, minor: u32| format!("{major}.{minor}");
    let nvrtc = kernels::compiler()
        .map(|nvrtc| (nvrtc.path.clone(), dotted(nvrtc.version.0.unsigned_abs(), nvrtc.version.1.unsigned_abs())));
    let driver_facts = driver.as_ref().map(|driver| (driver.path.clone(), dotted(driver.version.0, driver.version.1)));
    let libraries = [
        LibraryFacts { name: "libcuda", found: driver_facts.map_err(ToString::to_string) },
        LibraryFacts { name: "NVRTC", found: nvrtc.map_err(|error| error.to_string()) },
        LibraryFacts { name: "cuBLASLt", found: CublasLt::find(majors).map_err(|error| error.to_string()) },
    ];
    Survey {
        libraries,
        devices: driver.and_then(NvidiaLibrary::devices).unwrap_or_default(),
        kernel_cache: kernels::cache_directory(),
        embedded: EMBEDDED.iter().map(|entry| entry.arch).collect(),
    }
}
