use rayon::prelude::*;

use crate::Result;
use crate::cpu::linear::column_sums;
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{LayerNorm, LayerNormBackward};

pub fn fast(cpu: &CpuBackend, args: &LayerNorm) -> Result<()> {
    let (x, weight, bias) = (args.x.read::<f32>()?, args.weight.read::<f32>()?, args.bias.read::<f32>()?);
    let (mut y, mut mean, mut rstd) = (args.y.write::<f32>()?, args.mean.write::<f32>()?, args.rstd.write::<f32>()?);
    let (cols, ld, eps) = (args.x.cols(), args.y.ld(), args.eps as f32);
    let (weight, bias, chunk) = (weight.slice(), bias.slice(), chunk_rows(cols));
    let stats = mean.slice_mut().par_chunks_mut(chunk).zip(rstd.slice_mut().par_chunks_mut(chunk));
    y.slice_mut().par_chunks_mut(ld * chunk).zip(stats).enumerate().for_each(|(index, (y, (mean, rstd)))| {
        cpu.arch.dispatch(|| {
            for (i, (y, (mean, rstd))) in y.chunks_mut(ld).zip(mean.iter_mut().zip(rstd)).enumerate() {
                let (x, y) = (x.row(index * chunk + i), &mut y[..cols]);
                let center = math::sum(x) / cols as f32;
                for (y, x) in y.iter_mut().zip(x) {
                    *y = x - center;
                }
                let scale = 1.0 / (math::dot(y, y) / cols as f32 + eps).sqrt();
                (*mean, *rstd) = (center, scale);
                for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
                    *y = *y * scale * w + b;
                }
            }
        });
    });
    Ok(())
}

pub fn backward_fast(cpu: &CpuBackend, args: &LayerNormBackward) -> Result<()> {
    let (dy, x, weight) = (args.dy.read::<f32>()?, args.x.read::<f32>()?, args.weight.read::<f32>()?);
    let (mean, rstd) = (args.mean.read::<f32>()?, args.rstd.read::<f32>()?);
    let (rows, cols) = args.dy.shape();
    let (weight, mean, rstd) = (weight.slice(), mean.slice(), rstd.slice());
    if let Some(dx) = args.dx {
        let (ld, chunk) = (dx.ld(), chunk_rows(cols));
        dx.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, dx)| {
            cpu.arch.dispatch(|| {
                for (i, dx) in dx.chunks_mut(ld).enumerate() {
                    let row = index * chunk + i;
                    let (dy, x, dx) = (dy.row(row), x.row(row), &mut dx[..cols]);
                    let (center, scale) = (mean[row], rstd[row]);
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w;
                    }
                    let mean_g = math::sum(dx) / cols as f32;
                    let mean_gn = (math::dot(dx, x) - center * mean_g * cols as f32) * scale / cols as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = scale * (*dx - mean_g - (x - center) * scale * mean_gn);
                    }
                }
            });
        });
    }
    if args.dweight.is_none() && args.dbias.is_none() {
        return Ok(());
    }
    let [dweight, dbias] = column_sums(cpu, rows, cols, |row, [dweight, dbias]| {
        let (center, scale) = (mean[row], rstd[row]);
        let sums = dweight.iter_mut().zip(dbias.iter_mut());
        for ((dw, db), (dy, x)) in sums.zip(dy.row(row).iter().zip(x.row(row))) {
            *dw += dy * (x - center) * scale;
            *db += dy;
        }
    });
    for (target, total) in [(args.dweight, dweight), (args.dbias, dbias)] {
        if let Some(target) = target {
            math::add_assign(target.write::<f32>()?.slice_mut(), &total);
        }
    }
    Ok(())
}

pub fn reference(args: &LayerNorm) -> Result<()> {
    let (x, weight, bias) = (Matrix::load(args.x)?, Matrix::load(args.weight)?, Matrix::load(args.bias)?);
    let mut y = Matrix::zeros(x.rows, x.cols);
    let (mut means, mut rstds) = (vec![0.0; x.rows], vec![0.0; x.rows]);
    for i in 0..x.rows {
        let mean = x.row(i).iter().sum::<f64>() / x.cols as f64;
        let variance = x.row(i).iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.cols as f64;
        let rstd = 1.0 / (variance + args.eps).sqrt();
        (means[i], rstds[i]) = (mean, rstd);
        for j in 0..x.cols {
            y[(i, j)] = (x[(i, j)] - mean) * rstd * weight.flat()[j] + bias.flat()[j];
        }
    }
    y.store(args.y)?;
    args.mean.set_f64(&means)?;
    args.rstd.set_f64(&rstds)
}

pub fn backward_reference(args: &LayerNormBackward) -> Result<()> {
    let (dy, x, weight) = (Matrix::load(args.dy)?, Matrix::load(args.x)?, Matrix::load(args.weight)?);
    let (mean, rstd) = (Matrix::load(args.mean)?, Matrix::load(args.rstd)?);
    let n = |i: usize, j: usize| (x[(i, j)] - mean.flat()[i]) * rstd.flat()[i];
    let width = dy.cols as f64;
    if let Some(out) = args.dx {
        let mut dx = Matrix::zeros(dy.rows, dy.cols);
        for i in 0..dy.rows {
            let g = |j: usize| dy[(i, j)] * weight.flat()[j];
            let mean_g = (0..dy.cols).map(g).sum::<f64>() / width;
            let mean_gn = (0..dy.cols).map(|j| g(j) * n(i, j)).sum::<f64>() / width;
            for j in 0..dy.cols {
                dx[(i, j)] = rstd.flat()[i] * (g(j) - mean_g - n(i, j) * mean_gn);
            }
        }
        dx.store(out)?;
    }
    for (out, with_n) in [(args.dweight, true), (args.dbias, false)] {
        let Some(out) = out else { continue };
        let mut total = Matrix::load(out)?;
        for i in 0..dy.rows {
            for j in 0..dy.cols {
                total.flat_mut()[j] += dy[(i, j)] * if with_n { n(i, j) } else { 1.0 };
            }
        }
        total.store(out)?;
    }
    Ok(())
}
