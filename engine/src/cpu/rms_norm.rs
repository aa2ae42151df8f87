use rayon::prelude::*;

use crate::cpu::linear::column_sums;
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{RmsNorm, RmsNormBackward};
use crate::{Result, Tensor};

pub fn fast(cpu: &CpuBackend, args: &RmsNorm) -> Result<()> {
    if let (Some(residual), Some(sum)) = (args.residual, args.sum) {
        add_rows(args.x, residual, sum)?;
        return norm_rows(cpu, args, sum);
    }
    norm_rows(cpu, args, args.x)
}

fn add_rows(x: &Tensor, residual: &Tensor, sum: &Tensor) -> Result<()> {
    let (x, residual) = (x.read::<f32>()?, residual.read::<f32>()?);
    let ld = sum.ld();
    let cols = sum.cols();
    sum.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk_rows(cols)).enumerate().for_each(|(chunk, target)| {
        for (i, target) in target.chunks_mut(ld).enumerate() {
            let row = chunk * chunk_rows(cols) + i;
            for ((s, a), b) in target[..cols].iter_mut().zip(x.row(row)).zip(residual.row(row)) {
                *s = a + b;
            }
        }
    });
    Ok(())
}

fn norm_rows(cpu: &CpuBackend, args: &RmsNorm, sum: &Tensor) -> Result<()> {
    let (sum, weight) = (sum.read::<f32>()?, args.weight.read::<f32>()?);
    let (mut y, mut rstd) = (args.y.write::<f32>()?, args.rstd.write::<f32>()?);
    let (cols, ld, eps) = (args.x.cols(), args.y.ld(), args.eps as f32);
    let (weight, chunk) = (weight.slice(), chunk_rows(cols));
    let chunks = y.slice_mut().par_chunks_mut(ld * chunk).zip(rstd.slice_mut().par_chunks_mut(chunk));
    chunks.enumerate().for_each(|(index, (y, rstd))| {
        cpu.arch.dispatch(|| {
            for (i, (y, rstd)) in y.chunks_mut(ld).zip(rstd).enumerate() {
                let s = sum.row(index * chunk + i);
                let scale = 1.0 / (math::dot(s, s) / cols as f32 + eps).sqrt();
                *rstd = scale;
                for ((y, s), w) in y[..cols].iter_mut().zip(s).zip(weight) {
                    *y = s * scale * w;
                }
            }
        });
    });
    Ok(())
}

pub fn backward_fast(cpu: &CpuBackend, args: &RmsNormBackward) -> Result<()> {
    let (dy, sum) = (args.dy.read::<f32>()?, args.sum.read::<f32>()?);
    let (weight, rstd) = (args.weight.read::<f32>()?, args.rstd.read::<f32>()?);
    let (rows, cols) = args.dy.shape();
    let (weight, rstd) = (weight.slice(), rstd.slice());
    if let Some(dx) = args.dx {
        let dsum = args.dsum.map(Tensor::read::<f32>).transpose()?;
        let (ld, chunk) = (dx.ld(), chunk_rows(cols));
        dx.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, dx)| {
            cpu.arch.dispatch(|| {
                for (i, dx) in dx.chunks_mut(ld).enumerate() {
                    let row = index * chunk + i;
                    let (dy, s, scale, dx) = (dy.row(row), sum.row(row), rstd[row], &mut dx[..cols]);
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w;
                    }
                    let mean = math::dot(dx, s) * scale / cols as f32;
                    for (dx, s) in dx.iter_mut().zip(s) {
                        *dx = scale * (*dx - s * scale * mean);
                    }
                    if let Some(dsum) = &dsum {
                        math::add_assign(dx, dsum.row(row));
                    }
                }
            });
        });
    }
    if let Some(dweight) = args.dweight {
        let [total] = column_sums(cpu, rows, cols, |row, [total]| {
            let scale = rstd[row];
            for ((t, dy), s) in total.iter_mut().zip(dy.row(row)).zip(sum.row(row)) {
                *t += dy * s * scale;
            }
        });
        math::add_assign(dweight.write::<f32>()?.slice_mut(), &total);
    }
    Ok(())
}

pub fn reference(args: &RmsNorm) -> Result<()> {
    let mut s = Matrix::load(args.x)?;
    if let (Some(residual), Some(sum)) = (args.residual, args.sum) {
        for (s, r) in s.flat_mut().iter_mut().zip(Matrix::load(residual)?.flat()) {
            *s += r;
        }
        s.store(sum)?;
        // What is normalised is what was stored, rounded to its type.
        s = Matrix::load(sum)?;
    }
    let weight = Matrix::load(args.weight)?;
    let (mut y, mut rstd) = (Matrix::zeros(s.rows, s.cols), Matrix::zeros(s.rows, 1));
    for i in 0..s.rows {
        let mean_square = s.row(i).iter().map(|x| x * x).sum::<f64>() / s.cols as f64;
        rstd[(i, 0)] = 1.0 / (mean_square + args.eps).sqrt();
        for j in 0..s.cols {
            y[(i, j)] = s[(i, j)] * rstd[(i, 0)] * weight.flat()[j];
        }
    }
    y.store(args.y)?;
    args.rstd.set_f64(rstd.flat())
}

pub fn backward_reference(args: &RmsNormBackward) -> Result<()> {
    let (dy, s, weight) = (Matrix::load(args.dy)?, Matrix::load(args.sum)?, Matrix::load(args.weight)?);
    let rstd = Matrix::load(args.rstd)?;
    let n = |i: usize, j: usize| s[(i, j)] * rstd.flat()[i];
    if let Some(out) = args.dx {
        let mut dx = args.dsum.map_or(Ok(Matrix::zeros(dy.rows, dy.cols)), Matrix::load)?;
        for i in 0..dy.rows {
            let g = |j: usize| dy[(i, j)] * weight.flat()[j];
            let mean = (0..dy.cols).map(|j| g(j) * n(i, j)).sum::<f64>() / dy.cols as f64;
            for j in 0..dy.cols {
                dx[(i, j)] += rstd.flat()[i] * (g(j) - n(i, j) * mean);
            }
        }
        dx.store(out)?;
    }
    if let Some(out) = args.dweight {
        let mut dweight = Matrix::load(out)?;
        for i in 0..dy.rows {
            for j in 0..dy.cols {
                dweight.flat_mut()[j] += dy[(i, j)] * n(i, j);
            }
        }
        dweight.store(out)?;
    }
    Ok(())
}
