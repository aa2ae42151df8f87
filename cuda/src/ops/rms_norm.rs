use vila_engine::ops::{RmsNorm, RmsNormBackward};
use vila_engine::{DType, Result};

use super::column_sums::Partial;
use super::optional_ld;
use crate::CudaBackend;
use crate::backend::{int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "rms_norm";
const THREADS: u32 = 256;

pub fn forward(cuda: &CudaBackend, args: &RmsNorm) -> Result<()> {
    let operands = [("residual", args.residual), ("sum", args.sum), ("weight", Some(args.weight)), ("y", Some(args.y))];
    typed(OP, args.x.dtype(), operands)?;
    typed(OP, DType::F32, [("rstd", Some(args.rstd))])?;
    cuda.launch(
        OP,
        &format!("rms_norm_{}", suffix(OP, args.x)?),
        args.x.rows(),
        THREADS,
        0,
        &[
            cuda.input(args.x)?,
            ld(args.x),
            cuda.optional_input(args.residual)?,
            optional_ld(args.residual),
            cuda.optional_output(args.sum)?,
            optional_ld(args.sum),
            cuda.input(args.weight)?,
            Arg::F32(args.eps as f32),
            cuda.output(args.y)?,
            ld(args.y),
            cuda.output(args.rstd)?,
            int(OP, args.x.cols())?,
        ],
    )
}

/// Blocks per multiprocessor of the backward pass.
const BLOCKS: usize = 3;

pub fn backward(cuda: &CudaBackend, args: &RmsNormBackward) -> Result<()> {
    let op = "rms_norm_backward";
    let operands = [("sum", Some(args.sum)), ("weight", Some(args.weight)), ("dsum", args.dsum), ("dx", args.dx)];
    typed(op, args.dy.dtype(), operands)?;
    typed(op, DType::F32, [("rstd", Some(args.rstd))])?;
    let (rows, cols) = args.dy.shape();
    if args.dy.is_empty() || (args.dx.is_none() && args.dweight.is_none()) {
        return Ok(());
    }
    let chunk = rows.div_ceil(BLOCKS * cuda.multiprocessors());
    let partial = Partial::new(cuda, rows.div_ceil(chunk), cols)?;
    cuda.launch(
        OP,
        &format!("rms_norm_backward_{}", suffix(op, args.dy)?),
        partial.rows.rows(),
        THREADS,
        0,
        &[
            cuda.input(args.dy)?,
            ld(args.dy),
            cuda.input(args.sum)?,
            ld(args.sum),
            cuda.input(args.weight)?,
            cuda.input(args.rstd)?,
            cuda.optional_input(args.dsum)?,
            optional_ld(args.dsum),
            cuda.optional_output(args.dx)?,
            optional_ld(args.dx),
            cuda.output(&partial.rows)?,
            ld(&partial.rows),
            int(op, rows)?,
            int(op, cols)?,
            int(op, chunk)?,
        ],
    )?;
    args.dweight.map_or(Ok(()), |dweight| partial.add_to(cuda, dweight))
}
