use rayon::prelude::*;

use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{Gelu, GeluBackward, GeluKind};
use crate::{Result, Tensor};

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044715;
const QUICK: f64 = 1.702;

#[inline(always)]
fn value(kind: GeluKind, x: f32) -> f32 {
    match kind {
        GeluKind::Erf => 0.5 * x * math::erfc(-x * std::f32::consts::FRAC_1_SQRT_2),
        GeluKind::Tanh => 0.5 * x * (1.0 + math::tanh(SQRT_2_OVER_PI as f32 * (x + CUBIC as f32 * x * x * x))),
        GeluKind::Quick => x * math::sigmoid(QUICK as f32 * x),
    }
}

#[inline(always)]
fn slope(kind: GeluKind, x: f32) -> f32 {
    match kind {
        GeluKind::Erf => {
            let density = math::exp(-0.5 * x * x) * (SQRT_2_OVER_PI as f32 * 0.5);
            0.5 * math::erfc(-x * std::f32::consts::FRAC_1_SQRT_2) + x * density
        }
        GeluKind::Tanh => {
            let t = math::tanh(SQRT_2_OVER_PI as f32 * (x + CUBIC as f32 * x * x * x));
            let inner = SQRT_2_OVER_PI as f32 * (1.0 + 3.0 * CUBIC as f32 * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
        }
        GeluKind::Quick => {
            let s = math::sigmoid(QUICK as f32 * x);
            s + QUICK as f32 * x * s * (1.0 - s)
        }
    }
}

/// Runs `f` with the kind as a constant, so that each loop vectorises on its own.
#[inline(always)]
fn per_kind(kind: GeluKind, mut f: impl FnMut(GeluKind)) {
    match kind {
        GeluKind::Erf => f(GeluKind::Erf),
        GeluKind::Tanh => f(GeluKind::Tanh),
        GeluKind::Quick => f(GeluKind::Quick),
    }
}

fn chunks(y: &Tensor, f: impl Fn(usize, &mut [f32]) + Sync) -> Result<()> {
    let (cols, ld) = (y.cols(), y.ld());
    let chunk = chunk_rows(cols);
    y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, y)| {
        for (i, y) in y.chunks_mut(ld).enumerate() {
            f(index * chunk + i, &mut y[..cols]);
        }
    });
    Ok(())
}

pub fn fast(cpu: &CpuBackend, args: &Gelu) -> Result<()> {
    let x = args.x.read::<f32>()?;
    chunks(args.y, |row, y| {
        cpu.arch.dispatch(|| {
            per_kind(args.kind, |kind| {
                for (y, x) in y.iter_mut().zip(x.row(row)) {
                    *y = value(kind, *x);
                }
            });
        });
    })
}

pub fn backward_fast(cpu: &CpuBackend, args: &GeluBackward) -> Result<()> {
    let (dy, x) = (args.dy.read::<f32>()?, args.x.read::<f32>()?);
    chunks(args.dx, |row, dx| {
        cpu.arch.dispatch(|| {
            per_kind(args.kind, |kind| {
                for ((dx, x), dy) in dx.iter_mut().zip(x.row(row)).zip(dy.row(row)) {
                    *dx = dy * slope(kind, *x);
                }
            });
        });
    })
}

pub fn reference(args: &Gelu) -> Result<()> {
    let mut y = Matrix::load(args.x)?;
    for y in y.flat_mut() {
        let x = *y;
        *y = match args.kind {
            GeluKind::Erf => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
            GeluKind::Tanh => 0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + CUBIC * x.powi(3))).tanh()),
            GeluKind::Quick => x / (1.0 + (-QUICK * x).exp()),
        };
    }
    y.store(args.y)
}

pub fn backward_reference(args: &GeluBackward) -> Result<()> {
    let (x, mut dx) = (Matrix::load(args.x)?, Matrix::load(args.dy)?);
    for (dx, &x) in dx.flat_mut().iter_mut().zip(x.flat()) {
        *dx *= match args.kind {
            GeluKind::Erf => {
                0.5 * libm::erfc(-x / std::f64::consts::SQRT_2) + x * (-0.5 * x * x).exp() * SQRT_2_OVER_PI * 0.5
            }
            GeluKind::Tanh => {
                let t = (SQRT_2_OVER_PI * (x + CUBIC * x.powi(3))).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x)
            }
            GeluKind::Quick => {
                let s = 1.0 / (1.0 + (-QUICK * x).exp());
                s + QUICK * x * s * (1.0 - s)
            }
        };
    }
    dx.store(args.dx)
}
