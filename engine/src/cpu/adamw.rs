use rayon::prelude::*;

use crate::Result;
use crate::cpu::CpuBackend;
use crate::cpu::matrix::Matrix;
use crate::ops::AdamW;

const CHUNK: usize = 1 << 14;

/// `1 - βᵗ` for both moments.
fn corrections(args: &AdamW) -> (f64, f64) {
    let t = i32::try_from(args.step).unwrap_or(i32::MAX);
    (1.0 - args.betas.0.powi(t), 1.0 - args.betas.1.powi(t))
}

pub fn fast(cpu: &CpuBackend, args: &AdamW) -> Result<()> {
    let grad = args.grad.read::<f32>()?;
    let (mut w, mut m, mut v) = (args.weights.write::<f32>()?, args.m.write::<f32>()?, args.v.write::<f32>()?);
    let (b1, b2) = (args.betas.0 as f32, args.betas.1 as f32);
    // From the f64 betas: 1 - f32(0.999) differs from 0.001 in the fifth digit.
    let (c1, c2) = ((1.0 - args.betas.0) as f32, (1.0 - args.betas.1) as f32);
    let (correction1, correction2) = corrections(args);
    let (rate, root) = ((args.lr / correction1) as f32, (1.0 / correction2.sqrt()) as f32);
    let (keep, eps, scale) = ((1.0 - args.lr * args.decay) as f32, args.eps as f32, args.grad_scale as f32);
    let moments = m.slice_mut().par_chunks_mut(CHUNK).zip(v.slice_mut().par_chunks_mut(CHUNK));
    let chunks = w.slice_mut().par_chunks_mut(CHUNK).zip(moments).zip(grad.slice().par_chunks(CHUNK));
    chunks.for_each(|((w, (m, v)), grad)| {
        cpu.arch.dispatch(|| {
            for ((w, (m, v)), g) in w.iter_mut().zip(m.iter_mut().zip(v.iter_mut())).zip(grad) {
                let g = g * scale;
                *m = b1 * *m + c1 * g;
                *v = b2 * *v + c2 * g * g;
                *w = *w * keep - rate * *m / (v.sqrt() * root + eps);
            }
        });
    });
    Ok(())
}

pub fn reference(args: &AdamW) -> Result<()> {
    let (mut w, mut m, mut v) = (Matrix::load(args.weights)?, Matrix::load(args.m)?, Matrix::load(args.v)?);
    let grad = Matrix::load(args.grad)?;
    let (correction1, correction2) = corrections(args);
    for i in 0..w.flat().len() {
        let g = args.grad_scale * grad.flat()[i];
        m.flat_mut()[i] = args.betas.0 * m.flat()[i] + (1.0 - args.betas.0) * g;
        v.flat_mut()[i] = args.betas.1 * v.flat()[i] + (1.0 - args.betas.1) * g * g;
        let update = (m.flat()[i] / correction1) / ((v.flat()[i] / correction2).sqrt() + args.eps);
        w.flat_mut()[i] -= args.lr * (args.decay * w.flat()[i] + update);
    }
    w.store(args.weights)?;
    m.store(args.m)?;
    v.store(args.v)
}
