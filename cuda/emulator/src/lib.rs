#![doc = include_str!("../README.md")]

mod cfg;
mod coverage;
mod decode;
mod error;
mod float;
mod isa;
mod launch;
mod machine;
mod memory;
mod module;
mod parse;
mod tensor_map;
mod types;

pub use coverage::{BlockCoverage, Coverage, FunctionCoverage};
pub use decode::Unsupported;
pub use error::{Access, AccessKind, Error, Fault, FaultKind, LaunchError, Location, MemoryError, ParseError, Waiter};
pub use launch::{Arg, Checks, Dim3, Options};
pub use machine::Report;
pub use memory::Memory;
pub use module::{EntrySummary, Kernel, Module, Variable};
pub use tensor_map::{Element, Swizzle, TensorMap, TensorMapError};
pub use types::{Space, Ty};

/// Opcodes that are understood, each with its types and forms.
pub fn supported_instructions() -> &'static [(&'static str, &'static str)] {
    decode::SUPPORTED
}
