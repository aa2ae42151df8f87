use rayon::prelude::*;

use crate::cpu::matrix::{Matrix, load_indices};
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{GatherRows, ScatterAddRows, ScatterRows};
use crate::{NO_ROW, Result};

pub fn gather_fast(_: &CpuBackend, args: &GatherRows) -> Result<()> {
    let index = load_indices("gather_rows", args.index, args.table.rows(), true)?;
    let table = args.table.read::<f32>()?;
    let (cols, ld) = (args.y.cols(), args.y.ld());
    let chunk = chunk_rows(cols);
    args.y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).zip(index.par_chunks(chunk)).for_each(
        |(y, index)| {
            for (y, &row) in y.chunks_mut(ld).zip(index) {
                if row == NO_ROW { y[..cols].fill(0.0) } else { y[..cols].copy_from_slice(table.row(row as usize)) }
            }
        },
    );
    Ok(())
}

pub fn gather_reference(args: &GatherRows) -> Result<()> {
    let table = Matrix::load(args.table)?;
    let index = load_indices("gather_rows", args.index, table.rows, true)?;
    let mut y = Matrix::zeros(index.len(), table.cols);
    for (i, &row) in index.iter().enumerate().filter(|(_, row)| **row != NO_ROW) {
        y.row_mut(i).copy_from_slice(table.row(row as usize));
    }
    y.store(args.y)
}

pub fn scatter_fast(_: &CpuBackend, args: &ScatterRows) -> Result<()> {
    let index = load_indices("scatter_rows", args.index, args.y.rows(), false)?;
    let x = args.x.read::<f32>()?;
    let mut y = args.y.write::<f32>()?;
    for (i, &row) in index.iter().enumerate() {
        y.row_mut(row as usize).copy_from_slice(x.row(i));
    }
    Ok(())
}

pub fn scatter_reference(args: &ScatterRows) -> Result<()> {
    let (x, mut y) = (Matrix::load(args.x)?, Matrix::load(args.y)?);
    for (i, &row) in load_indices("scatter_rows", args.index, y.rows, false)?.iter().enumerate() {
        y.row_mut(row as usize).copy_from_slice(x.row(i));
    }
    y.store(args.y)
}

pub fn scatter_add_fast(cpu: &CpuBackend, args: &ScatterAddRows) -> Result<()> {
    let index = load_indices("scatter_add_rows", args.index, args.y.rows(), true)?;
    let x = args.x.read::<f32>()?;
    let mut y = args.y.write::<f32>()?;
    cpu.arch.dispatch(|| {
        for (i, &row) in index.iter().enumerate().filter(|(_, row)| **row != NO_ROW) {
            math::add_assign(y.row_mut(row as usize), x.row(i));
        }
    });
    Ok(())
}

pub fn scatter_add_reference(args: &ScatterAddRows) -> Result<()> {
    let (x, mut y) = (Matrix::load(args.x)?, Matrix::load(args.y)?);
    let index = load_indices("scatter_add_rows", args.index, y.rows, true)?;
    for (i, &row) in index.iter().enumerate().filter(|(_, row)| **row != NO_ROW) {
        for (y, x) in y.row_mut(row as usize).iter_mut().zip(x.row(i)) {
            *y += x;
        }
    }
    y.store(args.y)
}
