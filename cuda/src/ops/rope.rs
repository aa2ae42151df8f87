use vila_engine::ops::Rope;
use vila_engine::{DType, Result};

use super::fault_number;
use super::plane::{THREADS, blocks, width};
use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "rope";

pub fn rope(cuda: &CudaBackend, args: &Rope) -> Result<()> {
    typed(OP, DType::F32, [("cos", Some(args.cos)), ("sin", Some(args.sin))])?;
    let (rows, half) = (args.x.rows(), args.head_dim / 2);
    cuda.launch(
        OP,
        &format!("rope_{}", suffix(OP, args.x)?),
        blocks(OP, rows, args.heads * half.div_ceil(width(args.x.dtype())))?,
        THREADS,
        0,
        &[
            cuda.output(args.x)?,
            ld(args.x),
            cuda.input(args.cos)?,
            ld(args.cos),
            cuda.input(args.sin)?,
            ld(args.sin),
            cuda.input(args.positions)?,
            Arg::U32(extent(OP, args.cos.rows())?),
            Arg::U32(extent(OP, rows)?),
            int(OP, args.heads)?,
            int(OP, half)?,
            Arg::F32(if args.inverse { -1.0 } else { 1.0 }),
            cuda.index_fault(),
            fault_number(OP),
        ],
    )
}
