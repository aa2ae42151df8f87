use rayon::prelude::*;

use crate::cpu::gemm::{Strided, product};
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{BiasGrad, Linear};
use crate::{Result, Tensor};

/// Below this many rows the `gemm` crate picks other kernels for `cols` columns, whose sums differ in their last bits.
fn min_rows(cols: usize) -> usize {
    if cols > 64 { 8 } else { 264_usize.div_ceil(cols.max(1)).max(72) }
}

/// To how many rows fewer are filled up; nothing if there are enough.
pub fn padded_rows(args: &Linear) -> Option<usize> {
    let (rows, padded) = (args.x.rows(), min_rows(args.y.cols()));
    (rows > 0 && rows < padded).then_some(padded)
}

pub fn fast(cpu: &CpuBackend, args: &Linear) -> Result<()> {
    let rows = args.x.rows();
    let Some(padded) = padded_rows(args) else { return rows_product(args) };
    let (x, y) = (cpu.scratch(padded, args.x.cols())?, cpu.scratch(padded, args.y.cols())?);
    copy_rows(args.x, &x, rows)?;
    rows_product(&Linear { x: &x, y: &y, ..*args })?;
    copy_rows(&y, args.y, rows)
}

/// Copies the first `rows` rows and zeroes those that follow in `to`.
fn copy_rows(from: &Tensor, to: &Tensor, rows: usize) -> Result<()> {
    let from = from.read::<f32>()?;
    let mut target = to.write::<f32>()?;
    for row in 0..to.rows() {
        if row < rows { target.row_mut(row).copy_from_slice(from.row(row)) } else { target.row_mut(row).fill(0.0) }
    }
    Ok(())
}

fn rows_product(args: &Linear) -> Result<()> {
    let (x, weight) = (args.x.read::<f32>()?, args.weight.read::<f32>()?);
    let mut y = args.y.write::<f32>()?;
    if let Some(bias) = args.bias {
        let bias = bias.read::<f32>()?;
        for row in 0..args.y.rows() {
            y.row_mut(row).copy_from_slice(bias.slice());
        }
    }
    let beta = if args.bias.is_some() { 1.0 } else { 0.0 };
    let dims = (args.x.rows(), args.weight.rows(), args.x.cols());
    let weight = Strided::rows(weight.slice(), args.weight.ld()).transposed();
    product(true, dims, 1.0, Strided::rows(x.slice(), args.x.ld()), weight, beta, y.slice_mut(), args.y.ld());
    Ok(())
}

pub fn reference(args: &Linear) -> Result<()> {
    let (x, weight) = (Matrix::load(args.x)?, Matrix::load(args.weight)?);
    let bias = args.bias.map(Matrix::load).transpose()?;
    let mut y = Matrix::zeros(x.rows, weight.rows);
    for i in 0..x.rows {
        for j in 0..weight.rows {
            let product: f64 = x.row(i).iter().zip(weight.row(j)).map(|(x, w)| x * w).sum();
            y[(i, j)] = product + bias.as_ref().map_or(0.0, |bias| bias.flat()[j]);
        }
    }
    y.store(args.y)
}

pub fn bias_grad_fast(cpu: &CpuBackend, args: &BiasGrad) -> Result<()> {
    let dy = args.dy.read::<f32>()?;
    let (rows, cols) = args.dy.shape();
    let [total] = column_sums(cpu, rows, cols, |row, [total]| math::add_assign(total, dy.row(row)));
    math::add_assign(args.dbias.write::<f32>()?.slice_mut(), &total);
    Ok(())
}

/// Sums `N` vectors over rows: each chunk of rows in order, then the chunks in order.
pub fn column_sums<const N: usize>(
    cpu: &CpuBackend,
    rows: usize,
    cols: usize,
    add_row: impl Fn(usize, &mut [Vec<f32>; N]) + Sync,
) -> [Vec<f32>; N] {
    let chunk = chunk_rows(cols);
    let partials: Vec<[Vec<f32>; N]> = (0..rows.div_ceil(chunk))
        .into_par_iter()
        .map(|index| {
            let mut sums = std::array::from_fn(|_| vec![0.0; cols]);
            cpu.arch.dispatch(|| {
                for row in index * chunk..rows.min((index + 1) * chunk) {
                    add_row(row, &mut sums);
                }
            });
            sums
        })
        .collect();
    let mut total = std::array::from_fn(|_| vec![0.0; cols]);
    for partial in &partials {
        for (total, partial) in total.iter_mut().zip(partial) {
            math::add_assign(total, partial);
        }
    }
    total
}

pub fn bias_grad_reference(args: &BiasGrad) -> Result<()> {
    let dy = Matrix::load(args.dy)?;
    let mut dbias = Matrix::load(args.dbias)?;
    for i in 0..dy.rows {
        for (sum, x) in dbias.flat_mut().iter_mut().zip(dy.row(i)) {
            *sum += x;
        }
    }
    dbias.store(args.dbias)
}
