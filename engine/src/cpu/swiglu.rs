use rayon::prelude::*;

use crate::Result;
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, chunk_rows, math};
use crate::ops::{Swiglu, SwigluBackward};

pub fn fast(cpu: &CpuBackend, args: &Swiglu) -> Result<()> {
    let gate_up = args.gate_up.read::<f32>()?;
    let (f, ld) = (args.y.cols(), args.y.ld());
    let chunk = chunk_rows(2 * f);
    args.y.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, y)| {
        cpu.arch.dispatch(|| {
            for (i, y) in y.chunks_mut(ld).enumerate() {
                let (gate, up) = gate_up.row(index * chunk + i).split_at(f);
                for ((y, g), u) in y[..f].iter_mut().zip(gate).zip(up) {
                    *y = g * math::sigmoid(*g) * u;
                }
            }
        });
    });
    Ok(())
}

pub fn backward_fast(cpu: &CpuBackend, args: &SwigluBackward) -> Result<()> {
    let (dy, gate_up) = (args.dy.read::<f32>()?, args.gate_up.read::<f32>()?);
    let (f, ld) = (args.dy.cols(), args.dgate_up.ld());
    let chunk = chunk_rows(2 * f);
    args.dgate_up.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, out)| {
        cpu.arch.dispatch(|| {
            for (i, out) in out.chunks_mut(ld).enumerate() {
                let row = index * chunk + i;
                let (gate, up) = gate_up.row(row).split_at(f);
                let (dgate, dup) = out[..2 * f].split_at_mut(f);
                for (((dg, du), (g, u)), dy) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up)).zip(dy.row(row)) {
                    let s = math::sigmoid(*g);
                    *dg = dy * u * s * (1.0 + g * (1.0 - s));
                    *du = dy * g * s;
                }
            }
        });
    });
    Ok(())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn reference(args: &Swiglu) -> Result<()> {
    let gate_up = Matrix::load(args.gate_up)?;
    let f = args.y.cols();
    let mut y = Matrix::zeros(gate_up.rows, f);
    for i in 0..y.rows {
        for j in 0..f {
            let gate = gate_up[(i, j)];
            y[(i, j)] = gate * sigmoid(gate) * gate_up[(i, f + j)];
        }
    }
    y.store(args.y)
}

pub fn backward_reference(args: &SwigluBackward) -> Result<()> {
    let (dy, gate_up) = (Matrix::load(args.dy)?, Matrix::load(args.gate_up)?);
    let mut out = Matrix::zeros(dy.rows, 2 * dy.cols);
    for i in 0..dy.rows {
        for j in 0..dy.cols {
            let (gate, up) = (gate_up[(i, j)], gate_up[(i, dy.cols + j)]);
            let s = sigmoid(gate);
            out[(i, j)] = dy[(i, j)] * up * (s + gate * s * (1.0 - s));
            out[(i, dy.cols + j)] = dy[(i, j)] * gate * s;
        }
    }
    out.store(args.dgate_up)
}
