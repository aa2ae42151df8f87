//! Evaluation on published benchmarks.
//!
//! * [`metrics`] computes a metric from prediction and reference files alone.

pub(crate) mod files;
pub mod metrics;
pub(crate) mod python;
pub(crate) mod table;
