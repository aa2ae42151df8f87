//! Tensors on a device, the op vocabulary and the CPU backend.
//!
//! A [`Tensor`] is a two-dimensional view (rows, columns, leading dimension) of storage on a device.
//! A [`Backend`] runs ops on tensors: every op is an argument struct in [`ops`] whose documentation
//! states shapes and formula and whose `check` is shared by all backends. Outputs are tensors that
//! the caller allocated; storage is borrow-checked at run time, so an output that aliases an input
//! is an error and never a race.
//!
//! ```
//! use vila_engine::{Backend, CpuBackend, DType, ops::Linear};
//! let cpu = CpuBackend::fast();
//! let x = cpu.upload_f32(2, 3, &[1., 2., 3., 4., 5., 6.])?;
//! let w = cpu.upload_f32(1, 3, &[1., 0., -1.])?;
//! let y = cpu.alloc(DType::F32, 2, 1)?;
//! cpu.linear(&Linear { x: &x, weight: &w, bias: None, y: &y })?;
//! assert_eq!(y.to_f32()?, [-2., -2.]);
//! # Ok::<(), vila_engine::Error>(())
//! ```

mod backend;
mod cpu;
mod dtype;
mod error;
pub mod ops;
pub mod philox;
mod storage;
mod tensor;

pub use backend::Backend;
pub use cpu::{CpuBackend, DryCpu};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use storage::{ByOwner, MappedBytes, Owner, Storage, StorageStats};
pub use tensor::{Read, Tensor, Write, bytes};

/// Row index that means "no row": [`ops::GatherRows`] writes zeros for it, [`ops::ScatterAddRows`] skips it.
pub const NO_ROW: u32 = u32::MAX;
