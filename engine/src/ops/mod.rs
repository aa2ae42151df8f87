//! The op vocabulary: one argument struct per op, with its shapes, formula and shape check.
//!
//! Notation: `T` tokens or rows, `D` model width, `H` query heads, `G` key/value heads, `C` head
//! width. Outputs are marked *out*; outputs marked *accumulated* are added to. Float operands of one
//! op share a type unless said otherwise; statistics (`rstd`, `mean`, `lse`) and losses are f32, or
//! f64 when the operands are; accumulated gradients of parameters are either.

mod adamw;
mod attention;
mod cost;
mod dropout;
mod elementwise;
mod extract_patches;
mod gelu;
mod gemm;
mod gradient_gate;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod vision_embed;

pub use adamw::AdamW;
pub use attention::{Attention, AttentionBackward, HeadShape};
pub use cost::{Cost, Op};
pub use dropout::Dropout;
pub use elementwise::{Add, Copy, Fill, Scale, SumSquares};
pub use extract_patches::ExtractPatches;
pub use gelu::{Gelu, GeluBackward, GeluKind};
pub use gemm::Gemm;
pub use gradient_gate::GradientGate;
pub use layer_norm::{LayerNorm, LayerNormBackward};
pub use linear::{BiasGrad, Linear};
pub use linear_cross_entropy::LinearCrossEntropy;
pub use rms_norm::{RmsNorm, RmsNormBackward};
pub use rope::Rope;
pub use rows::{GatherRows, ScatterAddRows, ScatterRows};
pub use sample::Sample;
pub use swiglu::{Swiglu, SwigluBackward};
pub use vision_embed::{VisionEmbed, VisionEmbedBackward};

use crate::{DType, Error, Result, Tensor};

/// The element type of the statistics that an op keeps for operands of type `dtype`.
pub fn stat_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

pub(crate) fn shape(op: &'static str, what: &'static str, tensor: &Tensor, rows: usize, cols: usize) -> Result<()> {
    if tensor.shape() == (rows, cols) {
        Ok(())
    } else {
        Err(Error::Shape { op, what, expected: (rows, cols), got: tensor.shape() })
    }
}

/// A vector operand may be a row or a column; it must be contiguous.
pub(crate) fn vector(op: &'static str, what: &'static str, tensor: &Tensor, len: usize) -> Result<()> {
    if tensor.len() == len && tensor.is_contiguous() {
        Ok(())
    } else {
        Err(Error::Shape { op, what, expected: (1, len), got: tensor.shape() })
    }
}

pub(crate) fn indices(op: &'static str, what: &'static str, tensor: &Tensor, len: usize) -> Result<()> {
    vector(op, what, tensor, len)?;
    if tensor.dtype() == DType::U32 {
        Ok(())
    } else {
        Err(Error::DType { op, what, expected: "U32", got: tensor.dtype() })
    }
}

pub(crate) fn same_dtype(op: &'static str, what: &'static str, tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() == dtype {
        Ok(())
    } else {
        Err(Error::DType { op, what, expected: "the type of the op's first operand", got: tensor.dtype() })
    }
}
