//! Evaluation on published benchmarks.
//!
//! * [`metrics`] computes a metric from prediction and reference files alone.
//! * [`tasks`] says how each benchmark is read, asked, scored and submitted.
//! * [`few_shot`] builds prompts with demonstrations.
//! * [`harness`] runs a task on a model.

pub mod few_shot;
pub mod files;
pub mod harness;
pub mod metrics;
pub(crate) mod python;
mod results;
pub(crate) mod table;
pub mod tasks;
pub(crate) mod xlsx;
