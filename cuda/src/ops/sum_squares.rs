use vila_engine::ops::SumSquares;
use vila_engine::{DType, Result};

use crate::CudaBackend;
use crate::backend::{int, suffix};
use crate::driver::Arg;

const OP: &str = "sum_squares";
const THREADS: usize = 256;
/// A function of the size alone, as the order of the sum must be.
const MOST_BLOCKS: usize = 1024;

pub fn sum_squares(cuda: &CudaBackend, args: &SumSquares) -> Result<()> {
    let kernel = format!("sum_squares_{}", suffix(OP, args.x)?);
    let per_block = THREADS * 16 * (16 / args.x.dtype().size());
    let blocks = args.x.len().div_ceil(per_block).min(MOST_BLOCKS);
    let partial = cuda.workspace(DType::F64, 1, blocks)?;
    let n = Arg::I64(args.x.len() as i64);
    cuda.launch(OP, &kernel, blocks, THREADS as u32, 0, &[cuda.input(args.x)?, n, cuda.output(&partial)?])?;
    let total = [cuda.input(&partial)?, int(OP, blocks)?, cuda.output(args.sum)?];
    cuda.launch(OP, "sum_squares_total", usize::from(blocks > 0), THREADS as u32, 0, &total)
}
