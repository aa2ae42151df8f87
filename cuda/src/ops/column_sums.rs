//! Sums over rows in a fixed order, in two steps: of chunks of rows, then of the chunks.

use vila_engine::ops::BiasGrad;
use vila_engine::{DType, Result, Tensor};

use super::suffixes;
use crate::CudaBackend;
use crate::backend::{int, ld};
use crate::driver::Arg;

const FILE: &str = "column_sums";
const THREADS: u32 = 256;

/// Rows of a chunk below which its block's warps have too little to do.
const MIN_CHUNK: usize = 32;

pub fn bias_grad(cuda: &CudaBackend, args: &BiasGrad) -> Result<()> {
    let (rows, cols) = args.dy.shape();
    if args.dy.is_empty() {
        return Ok(());
    }
    let chunks = (4 * cuda.multiprocessors() / tiles(args.dy)).max(1);
    let chunk = rows.div_ceil(chunks).max(MIN_CHUNK);
    let partial = Partial::new(cuda, rows.div_ceil(chunk), cols)?;
    column_sums(cuda, args.dy, chunk, &partial.rows, false)?;
    partial.add_to(cuda, args.dbias)
}

/// What each chunk of rows adds to a vector.
pub struct Partial {
    /// `[chunks, D]`, each row on 16 bytes.
    pub rows: Tensor,
}

impl Partial {
    pub fn new(cuda: &CudaBackend, chunks: usize, cols: usize) -> Result<Self> {
        let rows = cuda.workspace(DType::F32, chunks, cols.next_multiple_of(4))?.slice_cols(0..cols)?;
        Ok(Partial { rows })
    }

    /// Adds the chunks, in order, to `vector`.
    pub fn add_to(&self, cuda: &CudaBackend, vector: &Tensor) -> Result<()> {
        column_sums(cuda, &self.rows, self.rows.rows(), vector, true)
    }
}

/// Columns of blocks: a lane takes 16 bytes of a row.
fn tiles(x: &Tensor) -> usize {
    x.cols().div_ceil(32 * super::plane::width(x.dtype()))
}

fn column_sums(cuda: &CudaBackend, x: &Tensor, chunk: usize, y: &Tensor, add: bool) -> Result<()> {
    let (rows, cols) = x.shape();
    cuda.launch(
        FILE,
        &format!("column_sums_{}", suffixes(FILE, x, y)?),
        (tiles(x), rows.div_ceil(chunk)),
        THREADS,
        0,
        &[
            cuda.input(x)?,
            ld(x),
            int(FILE, rows)?,
            int(FILE, cols)?,
            int(FILE, chunk)?,
            cuda.output(y)?,
            ld(y),
            Arg::I32(i32::from(add)),
        ],
    )
}
