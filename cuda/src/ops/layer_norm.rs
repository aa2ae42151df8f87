use vila_engine::ops::{LayerNorm, LayerNormBackward};
use vila_engine::{DType, Result};

use super::column_sums::Partial;
use super::optional_ld;
use crate::CudaBackend;
use crate::backend::{int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "layer_norm";
const THREADS: u32 = 256;

pub fn forward(cuda: &CudaBackend, args: &LayerNorm) -> Result<()> {
    let operands = [("weight", Some(args.weight)), ("bias", Some(args.bias)), ("y", Some(args.y))];
    typed(OP, args.x.dtype(), operands)?;
    typed(OP, DType::F32, [("mean", Some(args.mean)), ("rstd", Some(args.rstd))])?;
    cuda.launch(
        OP,
        &format!("layer_norm_{}", suffix(OP, args.x)?),
        args.x.rows(),
        THREADS,
        0,
        &[
            cuda.input(args.x)?,
            ld(args.x),
            cuda.input(args.weight)?,
            cuda.input(args.bias)?,
            Arg::F32(args.eps as f32),
            cuda.output(args.y)?,
            ld(args.y),
            cuda.output(args.mean)?,
            cuda.output(args.rstd)?,
            int(OP, args.x.cols())?,
        ],
    )
}

/// Blocks per multiprocessor of the backward pass.
const BLOCKS: usize = 3;

pub fn backward(cuda: &CudaBackend, args: &LayerNormBackward) -> Result<()> {
    let op = "layer_norm_backward";
    typed(op, args.dy.dtype(), [("x", Some(args.x)), ("weight", Some(args.weight)), ("dx", args.dx)])?;
    typed(op, DType::F32, [("mean", Some(args.mean)), ("rstd", Some(args.rstd))])?;
    let (rows, cols) = args.dy.shape();
    if args.dy.is_empty() || (args.dx.is_none() && args.dweight.is_none() && args.dbias.is_none()) {
        return Ok(());
    }
    let chunk = rows.div_ceil(BLOCKS * cuda.multiprocessors());
    let chunks = rows.div_ceil(chunk);
    let (dweights, dbiases) = (Partial::new(cuda, chunks, cols)?, Partial::new(cuda, chunks, cols)?);
    cuda.launch(
        OP,
        &format!("layer_norm_backward_{}", suffix(op, args.dy)?),
        chunks,
        THREADS,
        0,
        &[
            cuda.input(args.dy)?,
            ld(args.dy),
            cuda.input(args.x)?,
            ld(args.x),
            cuda.input(args.weight)?,
            cuda.input(args.mean)?,
            cuda.input(args.rstd)?,
            cuda.optional_output(args.dx)?,
            optional_ld(args.dx),
            cuda.output(&dweights.rows)?,
            cuda.output(&dbiases.rows)?,
            ld(&dweights.rows),
            int(op, rows)?,
            int(op, cols)?,
            int(op, chunk)?,
        ],
    )?;
    args.dweight.map_or(Ok(()), |dweight| dweights.add_to(cuda, dweight))?;
    args.dbias.map_or(Ok(()), |dbias| dbiases.add_to(cuda, dbias))
}
