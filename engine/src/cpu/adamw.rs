use half::bf16;
use rayon::prelude::*;

use crate::cpu::CpuBackend;
use crate::cpu::matrix::Matrix;
use crate::error::ensure;
use crate::ops::AdamW;
use crate::{DType, Result, Tensor, philox};

const CHUNK: usize = 1 << 14;

/// Factor of the gradient and number of the update; `None` if the gate is shut.
fn gate(args: &AdamW) -> Result<Option<(f32, u32)>> {
    let gate = args.gate.to_vec::<f32>()?;
    if gate[2] == 0.0 {
        return Ok(None);
    }
    let update = args.updates.to_vec::<u32>()?[0];
    ensure(update > 0, "adamw", || "the first update has number 1".into())?;
    Ok(Some((gate[0], update)))
}

/// `1 - βᵗ` for both moments.
fn corrections(args: &AdamW, update: u32) -> (f64, f64) {
    let t = i32::try_from(update).unwrap_or(i32::MAX);
    (1.0 - args.betas.0.powi(t), 1.0 - args.betas.1.powi(t))
}

/// Random bits of an element's two moments.
fn random_halves(args: &AdamW, update: u32, index: usize) -> [u32; 2] {
    let element = args.offset + index as u64;
    let word = philox::words(args.seed, u64::from(update), element / 4)[(element % 4) as usize];
    [word & 0xFFFF, word >> 16]
}

fn stochastic_bf16(x: f32, random: u32) -> bf16 {
    if x.is_finite() { bf16::from_bits(((x.to_bits() + random) >> 16) as u16) } else { bf16::from_f32(x) }
}

/// What an update needs besides its range, in f32.
struct Factors {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    scale: f32,
    rate: f32,
    root: f32,
    keep: f32,
    eps: f32,
}

impl Factors {
    fn new(args: &AdamW, scale: f32, update: u32) -> Self {
        let (correction1, correction2) = corrections(args, update);
        Factors {
            beta1: args.betas.0 as f32,
            beta2: args.betas.1 as f32,
            // From the f64 betas: 1 - f32(0.999) differs from 0.001 in the fifth digit.
            rest1: (1.0 - args.betas.0) as f32,
            rest2: (1.0 - args.betas.1) as f32,
            scale,
            rate: (args.lr / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            keep: (1.0 - args.lr * args.decay) as f32,
            eps: args.eps as f32,
        }
    }

    #[inline(always)]
    fn apply(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
        for ((w, (m, v)), g) in w.iter_mut().zip(m.iter_mut().zip(v.iter_mut())).zip(grad) {
            let g = g * self.scale;
            *m = self.beta1 * *m + self.rest1 * g;
            *v = self.beta2 * *v + self.rest2 * g * g;
            *w = *w * self.keep - self.rate * *m / (v.sqrt() * self.root + self.eps);
        }
    }
}

pub fn fast(cpu: &CpuBackend, args: &AdamW) -> Result<()> {
    let Some((scale, update)) = gate(args)? else { return Ok(()) };
    let factors = Factors::new(args, scale, update);
    let (mut w, grad) = (args.weights.write::<f32>()?, args.grad.read::<f32>()?);
    let chunks = w.slice_mut().par_chunks_mut(CHUNK).zip(grad.slice().par_chunks(CHUNK));
    if args.m.dtype() == DType::BF16 {
        let (mut m, mut v) = (args.m.write::<bf16>()?, args.v.write::<bf16>()?);
        let moments = m.slice_mut().par_chunks_mut(CHUNK).zip(v.slice_mut().par_chunks_mut(CHUNK));
        chunks.zip(moments).enumerate().for_each(|(chunk, ((w, grad), (m, v)))| {
            let wide = |narrow: &[bf16]| narrow.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let (mut wide_m, mut wide_v) = (wide(m), wide(v));
            cpu.arch.dispatch(|| factors.apply(w, &mut wide_m, &mut wide_v, grad));
            for i in 0..w.len() {
                let random = random_halves(args, update, chunk * CHUNK + i);
                (m[i], v[i]) = (stochastic_bf16(wide_m[i], random[0]), stochastic_bf16(wide_v[i], random[1]));
            }
        });
    } else {
        let (mut m, mut v) = (args.m.write::<f32>()?, args.v.write::<f32>()?);
        let moments = m.slice_mut().par_chunks_mut(CHUNK).zip(v.slice_mut().par_chunks_mut(CHUNK));
        chunks.zip(moments).for_each(|((w, grad), (m, v))| cpu.arch.dispatch(|| factors.apply(w, m, v, grad)));
    }
    let Some(publish) = args.publish else { return Ok(()) };
    let mut publish = publish.write::<bf16>()?;
    let chunks = publish.slice_mut().par_chunks_mut(CHUNK).zip(w.slice_mut().par_chunks(CHUNK));
    chunks.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, &from)| *to = bf16::from_f32(from)));
    Ok(())
}

pub fn reference(args: &AdamW) -> Result<()> {
    let Some((scale, update)) = gate(args)? else { return Ok(()) };
    let (mut w, mut m, mut v) = (Matrix::load(args.weights)?, Matrix::load(args.m)?, Matrix::load(args.v)?);
    let grad = Matrix::load(args.grad)?;
    let (correction1, correction2) = corrections(args, update);
    for i in 0..w.flat().len() {
        let g = f64::from(scale) * grad.flat()[i];
        m.flat_mut()[i] = args.betas.0 * m.flat()[i] + (1.0 - args.betas.0) * g;
        v.flat_mut()[i] = args.betas.1 * v.flat()[i] + (1.0 - args.betas.1) * g * g;
        let update = (m.flat()[i] / correction1) / ((v.flat()[i] / correction2).sqrt() + args.eps);
        w.flat_mut()[i] -= args.lr * (args.decay * w.flat()[i] + update);
    }
    w.store(args.weights)?;
    store_moment(args, args.m, &m, update, 0)?;
    store_moment(args, args.v, &v, update, 1)?;
    // From the master as it is kept, so that weights can be made again from a checkpoint's masters.
    args.publish.map_or(Ok(()), |publish| Matrix::load(args.weights)?.store(publish))
}

fn store_moment(args: &AdamW, to: &Tensor, moment: &Matrix, update: u32, half: usize) -> Result<()> {
    if to.dtype() != DType::BF16 {
        return moment.store(to);
    }
    let values = moment.flat().iter().enumerate();
    let rounded = values.map(|(i, &x)| stochastic_bf16(x as f32, random_halves(args, update, i)[half]));
    to.set(&rounded.collect::<Vec<_>>())
}
