use rayon::prelude::*;

use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::dtype::bf16_from_f64;
use crate::ops::{Add, Copy, Fill, Scale, SumSquares};
use crate::{DType, Element, Error, Result};

pub fn add_fast(cpu: &CpuBackend, args: &Add) -> Result<()> {
    let x = args.x.read::<f32>()?;
    let (cols, ld) = (args.y.cols(), args.y.ld());
    let chunk = chunk_rows(cols);
    args.y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, y)| {
        cpu.arch.dispatch(|| {
            for (i, y) in y.chunks_mut(ld).enumerate() {
                math::add_assign(&mut y[..cols], x.row(index * chunk + i));
            }
        });
    });
    Ok(())
}

pub fn add_reference(args: &Add) -> Result<()> {
    let (x, mut y) = (Matrix::load(args.x)?, Matrix::load(args.y)?);
    y.flat_mut().iter_mut().zip(x.flat()).for_each(|(y, x)| *y += x);
    y.store(args.y)
}

pub fn copy_fast(_: &CpuBackend, args: &Copy) -> Result<()> {
    let x = args.x.read::<f32>()?;
    let (cols, ld) = (args.y.cols(), args.y.ld());
    let chunk = chunk_rows(cols);
    args.y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, y)| {
        for (i, y) in y.chunks_mut(ld).enumerate() {
            y[..cols].copy_from_slice(x.row(index * chunk + i));
        }
    });
    Ok(())
}

pub fn copy_reference(args: &Copy) -> Result<()> {
    args.y.set_f64(&args.x.to_f64()?)
}

pub fn scale(args: &Scale) -> Result<()> {
    match args.y.dtype() {
        DType::F32 => {
            for x in args.y.write::<f32>()?.rows_mut() {
                x.iter_mut().for_each(|x| *x *= args.factor as f32);
            }
            Ok(())
        }
        _ => args.y.set_f64(&args.y.to_f64()?.iter().map(|x| x * args.factor).collect::<Vec<_>>()),
    }
}

pub fn fill(args: &Fill) -> Result<()> {
    fn all<T: Element>(args: &Fill, value: T) -> Result<()> {
        args.y.write::<T>()?.rows_mut().for_each(|row| row.fill(value));
        Ok(())
    }
    match args.y.dtype() {
        DType::F64 => all(args, args.value),
        DType::F32 => all(args, args.value as f32),
        DType::BF16 => all(args, bf16_from_f64(args.value)),
        got => Err(Error::DType { op: "fill", what: "y", expected: "a float type", got }),
    }
}

/// Elements per partial sum.
const SUM_CHUNK: usize = 1 << 14;

pub fn sum_squares_fast(cpu: &CpuBackend, args: &SumSquares) -> Result<()> {
    let x = args.x.read::<f32>()?;
    let partial = |chunk: &[f32]| {
        cpu.arch.dispatch(|| {
            let mut lanes = [0.0f64; 8];
            let chunks = chunk.chunks_exact(8);
            let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(x) * f64::from(x);
                }
            }
            lanes.iter().sum::<f64>() + rest
        })
    };
    let partials: Vec<f64> = x.slice().par_chunks(SUM_CHUNK).map(partial).collect();
    args.sum.write::<f64>()?.slice_mut()[0] += partials.iter().sum::<f64>();
    Ok(())
}

pub fn sum_squares_reference(args: &SumSquares) -> Result<()> {
    let total: f64 = args.x.to_f64()?.iter().map(|x| x * x).sum();
    args.sum.set_f64(&[args.sum.to_f64()?[0] + total])
}
