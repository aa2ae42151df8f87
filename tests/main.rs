//! One binary for all tests that cross crates.

mod attacks;
mod data;
mod golden;
mod gradients;
mod image_processor;
mod op_table;
mod training;
