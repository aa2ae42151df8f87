use rayon::prelude::*;

use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows};
use crate::ops::Dropout;
use crate::{Result, philox};

/// Words below this drop their element.
fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

fn keeps(args: &Dropout, element: usize) -> bool {
    philox::words(args.seed, args.stream, element as u64 / 4)[element % 4] >= threshold(args.p)
}

pub fn fast(_: &CpuBackend, args: &Dropout) -> Result<()> {
    let x = args.x.read::<f32>()?;
    let (cols, ld) = (args.y.cols(), args.y.ld());
    let (chunk, scale) = (chunk_rows(cols), (1.0 / (1.0 - args.p)) as f32);
    args.y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, y)| {
        for (i, y) in y.chunks_mut(ld).enumerate() {
            let row = index * chunk + i;
            for (col, (y, x)) in y[..cols].iter_mut().zip(x.row(row)).enumerate() {
                *y = if keeps(args, row * cols + col) { x * scale } else { 0.0 };
            }
        }
    });
    Ok(())
}

pub fn reference(args: &Dropout) -> Result<()> {
    let mut y = Matrix::load(args.x)?;
    for (element, y) in y.flat_mut().iter_mut().enumerate() {
        *y = if keeps(args, element) { *y / (1.0 - args.p) } else { 0.0 };
    }
    y.store(args.y)
}
