//! One launcher file per op: checks types, chooses the instance and the grid, passes arguments in order.

pub mod adamw;
pub mod attention;
pub mod column_sums;
pub mod dropout;
pub mod elementwise;
pub mod extract_patches;
pub mod gelu;
pub mod gemm;
pub mod gradient_gate;
pub mod layer_norm;
pub mod linear_cross_entropy;
pub mod plane;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod sum_squares;
pub mod swiglu;
pub mod vision_embed;

use vila_engine::{Result, Tensor};

use crate::backend::{ld, suffix};
use crate::driver::Arg;

/// Names of the ops that report wrong indices; a kernel passes its position, from 1.
const FAULT_NAMES: [&str; 6] =
    ["unknown op", "rope", "gather_rows", "scatter_rows", "scatter_add_rows", "linear_cross_entropy"];

pub fn fault_name(op: u32) -> &'static str {
    FAULT_NAMES.get(op as usize).copied().unwrap_or(FAULT_NAMES[0])
}

/// What a kernel passes to `report` for an op.
fn fault_number(op: &str) -> Arg {
    Arg::U32(FAULT_NAMES.iter().position(|name| *name == op).unwrap_or(0) as u32)
}

/// The leading dimension of an operand that may be absent.
fn optional_ld(tensor: Option<&Tensor>) -> Arg {
    tensor.map_or(Arg::I64(0), ld)
}

/// The suffix of an instance for operands of one type and accumulated ones of another.
fn suffixes(op: &'static str, x: &Tensor, y: &Tensor) -> Result<String> {
    Ok(format!("{}_{}", suffix(op, x)?, suffix(op, y)?))
}
