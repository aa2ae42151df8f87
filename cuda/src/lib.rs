//! The CUDA backend: hand-written kernels over a small driver trait.
//!
//! [`CudaBackend`] implements [`vila_engine::Backend`] with the kernels in `kernels/`. It runs on any [`Driver`]: the
//! NVIDIA driver, opened at run time, or the emulated device, which executes the same compiled kernels on the CPU and
//! checks every access.

// Files are moved, replaced and removed by `vila_files` alone.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod backend;
mod driver;
mod embedded;
pub mod kernels;
pub mod libraries;
pub mod manifest;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod nvrtc;
pub mod offline;
mod ops;
mod pool;
mod staging;
mod survey;
pub mod tuning;

pub use backend::CudaBackend;
pub use driver::{
    Access, Arg, CublasLt, DeviceInfo, DevicePtr, Driver, Dry, Emulated, EmulatedOptions, Error, Event, Function,
    HostPtr, Launch, Matmul, Matrix, MatrixType, Nvidia, NvidiaLibrary, Result, Span, Stream, Target,
};
pub use pool::{Block, Pool};
pub use survey::{LibraryFacts, Survey, survey};

/// A driver's error as an op's.
pub(crate) fn engine_error(op: &'static str, error: Error) -> vila_engine::Error {
    vila_engine::Error::Device { op, message: error.to_string() }
}
