use rayon::prelude::*;

use crate::cpu::matrix::{Matrix, load_indices};
use crate::cpu::{CpuBackend, chunk_rows, gemm, linear, math};
use crate::ops::{Gemm, Linear, LinearCrossEntropy};
use crate::{NO_ROW, Result, Tensor};

const OP: &str = "linear_cross_entropy";

pub fn fast(cpu: &CpuBackend, args: &LinearCrossEntropy) -> Result<()> {
    let (rows, vocab) = (args.hidden.rows(), args.weight.rows());
    let targets = load_indices(OP, args.targets, vocab, true)?;
    let logits = cpu.scratch(LinearCrossEntropy::CHUNK.min(rows), vocab)?;
    let mut row_loss = vec![0.0; rows];
    for start in (0..rows).step_by(LinearCrossEntropy::CHUNK) {
        let range = start..rows.min(start + LinearCrossEntropy::CHUNK);
        let (hidden, logits) = (args.hidden.slice_rows(range.clone())?, logits.slice_rows(0..range.len())?);
        linear::fast(cpu, &Linear { x: &hidden, weight: args.weight, bias: None, y: &logits })?;
        loss_and_gradient(cpu, &logits, &targets[range.clone()], args.scale as f32, &mut row_loss[range.clone()])?;
        let product = |trans_a, b: &Tensor, c: &Tensor, beta| {
            gemm::fast(cpu, &Gemm { a: &logits, trans_a, b, trans_b: false, c, alpha: 1.0, beta })
        };
        if let Some(dhidden) = args.dhidden {
            product(false, args.weight, &dhidden.slice_rows(range)?, 0.0)?;
        }
        if let Some(dweight) = args.dweight {
            product(true, &hidden, dweight, 1.0)?;
        }
    }
    let total: f64 = row_loss.iter().map(|&loss| f64::from(loss)).sum();
    args.loss.write::<f32>()?.slice_mut()[0] += (total * args.scale) as f32;
    args.row_loss.map_or(Ok(()), |out| out.set(&row_loss))
}

/// Replaces logits by `scale (softmax - one_hot(target))`.
fn loss_and_gradient(cpu: &CpuBackend, logits: &Tensor, targets: &[u32], scale: f32, losses: &mut [f32]) -> Result<()> {
    let vocab = logits.cols();
    let chunk = chunk_rows(vocab);
    let mut logits = logits.write::<f32>()?;
    let chunks = logits.slice_mut().par_chunks_mut(vocab * chunk);
    chunks.zip(targets.par_chunks(chunk)).zip(losses.par_chunks_mut(chunk)).for_each(|((logits, targets), losses)| {
        cpu.arch.dispatch(|| {
            for ((row, &target), loss) in logits.chunks_mut(vocab).zip(targets).zip(losses) {
                if target == NO_ROW {
                    row.fill(0.0);
                    *loss = 0.0;
                    continue;
                }
                let (max, wanted) = (math::max(row), row[target as usize]);
                for x in row.iter_mut() {
                    *x = math::exp(*x - max);
                }
                let total = math::sum(row);
                *loss = max + total.ln() - wanted;
                let factor = scale / total;
                for x in row.iter_mut() {
                    *x *= factor;
                }
                row[target as usize] -= scale;
            }
        });
    });
    Ok(())
}

pub fn reference(args: &LinearCrossEntropy) -> Result<()> {
    let (hidden, weight) = (Matrix::load(args.hidden)?, Matrix::load(args.weight)?);
    let targets = load_indices(OP, args.targets, weight.rows, true)?;
    let mut row_loss = Matrix::zeros(hidden.rows, 1);
    let mut dlogits = Matrix::zeros(hidden.rows, weight.rows);
    for (i, &target) in targets.iter().enumerate().filter(|(_, target)| **target != NO_ROW) {
        let logit = |v: usize| hidden.row(i).iter().zip(weight.row(v)).map(|(h, w)| h * w).sum::<f64>();
        let logits: Vec<f64> = (0..weight.rows).map(logit).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        row_loss[(i, 0)] = lse - logits[target as usize];
        for (v, x) in logits.iter().enumerate() {
            let one_hot = if v == target as usize { 1.0 } else { 0.0 };
            dlogits[(i, v)] = args.scale * ((x - lse).exp() - one_hot);
        }
    }
    let loss = args.loss.to_f64()?[0] + args.scale * row_loss.flat().iter().sum::<f64>();
    args.loss.set_f64(&[loss])?;
    args.row_loss.map_or(Ok(()), |out| out.set_f64(row_loss.flat()))?;
    if let Some(out) = args.dhidden {
        let mut dhidden = Matrix::zeros(hidden.rows, hidden.cols);
        for i in 0..hidden.rows {
            for v in 0..weight.rows {
                for c in 0..hidden.cols {
                    dhidden[(i, c)] += dlogits[(i, v)] * weight[(v, c)];
                }
            }
        }
        dhidden.store(out)?;
    }
    if let Some(out) = args.dweight {
        let mut dweight = Matrix::load(out)?;
        for i in 0..hidden.rows {
            for v in 0..weight.rows {
                for c in 0..hidden.cols {
                    dweight[(v, c)] += dlogits[(i, v)] * hidden[(i, c)];
                }
            }
        }
        dweight.store(out)?;
    }
    Ok(())
}
