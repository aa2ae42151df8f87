use vila_engine::Result;
use vila_engine::ops::{Swiglu, SwigluBackward};

use super::plane::{THREADS, blocks, width};
use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "swiglu";

pub fn forward(cuda: &CudaBackend, args: &Swiglu) -> Result<()> {
    typed(OP, args.y.dtype(), [("gate_up", Some(args.gate_up))])?;
    let (rows, cols) = args.y.shape();
    cuda.launch(
        OP,
        &format!("swiglu_{}", suffix(OP, args.y)?),
        blocks(OP, rows, cols.div_ceil(width(args.y.dtype())))?,
        THREADS,
        0,
        &[
            cuda.input(args.gate_up)?,
            ld(args.gate_up),
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(OP, rows)?),
            int(OP, cols)?,
        ],
    )
}

pub fn backward(cuda: &CudaBackend, args: &SwigluBackward) -> Result<()> {
    typed("swiglu_backward", args.dy.dtype(), [("gate_up", Some(args.gate_up)), ("dgate_up", Some(args.dgate_up))])?;
    let (rows, cols) = args.dy.shape();
    cuda.launch(
        OP,
        &format!("swiglu_backward_{}", suffix(OP, args.dy)?),
        blocks(OP, rows, cols.div_ceil(width(args.dy.dtype())))?,
        THREADS,
        0,
        &[
            cuda.input(args.dy)?,
            ld(args.dy),
            cuda.input(args.gate_up)?,
            ld(args.gate_up),
            cuda.output(args.dgate_up)?,
            ld(args.dgate_up),
            Arg::U32(extent(OP, rows)?),
            int(OP, cols)?,
        ],
    )
}
