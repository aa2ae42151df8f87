//! Launches whose threads take 16 bytes of a row each: `place` in `device.cuh`.

use vila_engine::{DType, Error, Result, Tensor};

use crate::backend::extent;
use crate::driver::Arg;

pub const THREADS: u32 = 256;

/// Elements that a thread takes.
pub fn width(dtype: DType) -> usize {
    16 / dtype.size()
}

/// Blocks for `rows` rows of `packs` threads each.
pub fn blocks(op: &'static str, rows: usize, packs: usize) -> Result<usize> {
    let threads = rows.checked_mul(packs).filter(|&n| n <= (u32::MAX - THREADS) as usize);
    let threads = threads.ok_or_else(|| Error::Argument { op, message: "more elements than a launch takes".into() })?;
    Ok(threads.div_ceil(THREADS as usize))
}

/// Rows and columns of an op that treats all elements alike: one long row if all operands are contiguous.
pub struct Plane {
    op: &'static str,
    rows: usize,
    cols: usize,
}

impl Plane {
    pub fn new(op: &'static str, operands: &[&Tensor]) -> Self {
        let tensor = operands[0];
        if operands.iter().all(|tensor| tensor.is_contiguous()) {
            return Plane { op, rows: 1, cols: tensor.len() };
        }
        Plane { op, rows: tensor.rows(), cols: tensor.cols() }
    }

    /// Blocks if a thread takes `width` elements.
    pub fn blocks(&self, width: usize) -> Result<usize> {
        blocks(self.op, self.rows, self.cols.div_ceil(width))
    }

    pub fn rows(&self) -> Result<Arg> {
        Ok(Arg::U32(extent(self.op, self.rows)?))
    }

    pub fn cols(&self) -> Arg {
        Arg::I64(self.cols as i64)
    }
}
