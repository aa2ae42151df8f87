//! NVIDIA's libraries, looked for at run time.

use std::path::{Path, PathBuf};

use crate::driver::Error;

/// Declares `Api`, the functions of a C library that are called.
macro_rules! api {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal: fn($($arg:ty),* $(,)?) -> $result:ty;)*) => {
        /// The functions that are called, with the signatures of the library's header.
        struct Api {
            $($name: unsafe extern "C" fn($($arg),*) -> $result,)*
        }

        impl Api {
            fn look_up(library: &libloading::Library) -> std::result::Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of the header, and the library is kept as long as the pointers.
                unsafe { Ok(Api { $($name: *library.get($symbol)?,)* }) }
            }
        }
    };
}
pub(crate) use api;

/// Directories in which CUDA libraries are looked for before the system's own search, most specific first.
pub fn directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for variable in ["VILA_CUDA_LIBRARIES", "LD_LIBRARY_PATH"] {
        let paths = std::env::var_os(variable).unwrap_or_default();
        directories.extend(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        directories.extend(std::env::var_os(variable).map(|root| PathBuf::from(root).join("lib64")));
    }
    directories.push("/usr/local/cuda/lib64".into());
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(root) = std::env::var_os(variable) {
            directories.extend(wheel_directories(&PathBuf::from(root).join("lib")));
        }
    }
    directories
}

/// Where NVIDIA's Python packages put their libraries.
fn wheel_directories(lib: &Path) -> Vec<PathBuf> {
    let pythons = std::fs::read_dir(lib).into_iter().flatten().flatten().map(|entry| entry.path());
    let packages = pythons.map(|python| python.join("site-packages/nvidia"));
    packages
        .flat_map(|nvidia| ["cu13/lib", "cuda_nvrtc/lib", "cublas/lib", "nccl/lib"].map(|lib| nvidia.join(lib)))
        .collect()
}

/// Opens the first of `names` that `open` accepts: from `directories` by full path, then by the system's search.
pub(crate) fn first<T, E>(
    names: &[String],
    directories: &[PathBuf],
    open: impl Fn(&Path) -> std::result::Result<T, E>,
) -> Option<T> {
    names.iter().find_map(|name| {
        let mut files = directories.iter().map(|directory| directory.join(name)).filter(|file| file.exists());
        files.find_map(|file| open(&file).ok()).or_else(|| open(Path::new(name)).ok())
    })
}

/// The paragraph about a library that is not there.
pub(crate) fn missing(names: &[String], what: &str, directories: &[PathBuf], cure: &str) -> Error {
    let places: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
    Error::Unavailable(format!(
        "{} ({what}) was not found in {} nor by the system's library search; {cure}",
        names.join(" or "),
        places.join(", ")
    ))
}

/// The file behind an opened library whose name starts with `stem`, such as `libcuda.so.`; `path` if the system does not say.
pub(crate) fn file_of(stem: &str, path: &Path) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let mut named = files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem)));
    named.next().unwrap_or(path).to_path_buf()
}
