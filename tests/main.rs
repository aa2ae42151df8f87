//! One binary for all tests that cross crates.

mod ablate;
mod attacks;
mod child;
mod cuda;
mod data;
mod device;
mod device_run;
mod faults;
mod golden;
mod gradients;
mod hazards;
mod image_processor;
mod memory;
mod mutations;
mod nvrtc;
mod offline;
mod op_table;
mod packing;
mod plan;
mod prompting;
mod probe;
mod ranks;
mod recipes;
mod report;
mod templates;
mod training;
