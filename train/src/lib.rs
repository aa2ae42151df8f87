//! Training a VILA model: data, recipes, the loop, checkpoints, evaluation and the `vila` command line.

// Files are moved, replaced and removed by `vila_files` alone.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]
// Lines go through `say`, which keeps those of several ranks apart.
#![warn(clippy::print_stderr)]

pub mod ablate;
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod data;
mod device;
mod error;
pub mod evaluate;
pub mod evaluation;
pub mod faults;
#[cfg(feature = "cuda")]
pub mod gemm_table;
pub mod loader;
pub mod metrics;
pub mod optimizer;
pub mod order;
pub mod packing;
pub mod plan;
pub mod probe;
pub mod profile;
pub mod progress;
pub mod quickstart;
pub mod ranks;
pub mod recipe;
mod records;
pub mod report;
pub mod run;
mod say;
pub mod sources;
pub mod stop;
pub mod tensorboard;
pub mod toy;
mod whole_file;

pub use device::{Device, DeviceError, open_device};
pub use error::{Error, Result};
