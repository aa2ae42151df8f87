use vila_engine::Result;
use vila_engine::ops::{GatherRows, ScatterAddRows, ScatterRows};

use super::plane::{THREADS, blocks, width};
use super::{fault_number, suffixes};
use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const FILE: &str = "rows";

pub fn gather(cuda: &CudaBackend, args: &GatherRows) -> Result<()> {
    let op = "gather_rows";
    typed(op, args.y.dtype(), [("table", Some(args.table))])?;
    let (rows, cols) = args.y.shape();
    cuda.launch(
        FILE,
        &format!("gather_rows_{}", suffix(op, args.y)?),
        blocks(op, rows, cols.div_ceil(width(args.y.dtype())))?,
        THREADS,
        0,
        &[
            cuda.input(args.table)?,
            ld(args.table),
            Arg::U32(extent(op, args.table.rows())?),
            cuda.input(args.index)?,
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(op, rows)?),
            int(op, cols)?,
            cuda.index_fault(),
            fault_number(op),
        ],
    )
}

pub fn scatter(cuda: &CudaBackend, args: &ScatterRows) -> Result<()> {
    let op = "scatter_rows";
    let (rows, cols) = args.x.shape();
    cuda.launch(
        FILE,
        &format!("scatter_rows_{}", suffix(op, args.x)?),
        blocks(op, rows, cols.div_ceil(width(args.x.dtype())))?,
        THREADS,
        0,
        &[
            cuda.input(args.x)?,
            ld(args.x),
            Arg::U32(extent(op, rows)?),
            cuda.input(args.index)?,
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(op, args.y.rows())?),
            int(op, cols)?,
            cuda.index_fault(),
            fault_number(op),
        ],
    )
}

pub fn scatter_add(cuda: &CudaBackend, args: &ScatterAddRows) -> Result<()> {
    let op = "scatter_add_rows";
    let (rows, cols) = args.x.shape();
    cuda.launch(
        op,
        &format!("scatter_add_rows_{}", suffixes(op, args.x, args.y)?),
        if cols == 0 { 0 } else { rows },
        256,
        0,
        &[
            cuda.input(args.x)?,
            ld(args.x),
            Arg::U32(extent(op, rows)?),
            cuda.input(args.index)?,
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(op, args.y.rows())?),
            int(op, cols)?,
            cuda.index_fault(),
            fault_number(op),
        ],
    )
}
