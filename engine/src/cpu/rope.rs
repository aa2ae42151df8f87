use rayon::prelude::*;

use crate::Result;
use crate::cpu::matrix::{Matrix, load_indices};
use crate::cpu::{CpuBackend, chunk_rows};
use crate::ops::Rope;

pub fn fast(cpu: &CpuBackend, args: &Rope) -> Result<()> {
    let positions = load_indices("rope", args.positions, args.cos.rows(), false)?;
    let (cos, sin) = (args.cos.read::<f32>()?, args.sin.read::<f32>()?);
    let (ld, cols, half) = (args.x.ld(), args.heads * args.head_dim, args.head_dim / 2);
    let (chunk, sign) = (chunk_rows(cols), if args.inverse { -1.0f32 } else { 1.0 });
    args.x.write::<f32>()?.slice_mut().par_chunks_mut(ld * chunk).enumerate().for_each(|(index, x)| {
        cpu.arch.dispatch(|| {
            for (i, x) in x.chunks_mut(ld).enumerate() {
                let position = positions[index * chunk + i] as usize;
                let (cos, sin) = (cos.row(position), sin.row(position));
                for head in x[..cols].chunks_exact_mut(2 * half) {
                    let (low, high) = head.split_at_mut(half);
                    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                        let s = s * sign;
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            }
        });
    });
    Ok(())
}

pub fn reference(args: &Rope) -> Result<()> {
    let positions = load_indices("rope", args.positions, args.cos.rows(), false)?;
    let (mut x, cos, sin) = (Matrix::load(args.x)?, Matrix::load(args.cos)?, Matrix::load(args.sin)?);
    let half = args.head_dim / 2;
    for (i, &position) in positions.iter().enumerate() {
        for head in 0..args.heads {
            for j in 0..half {
                let (low, high) = (head * args.head_dim + j, head * args.head_dim + half + j);
                let c = cos[(position as usize, j)];
                let s = if args.inverse { -sin[(position as usize, j)] } else { sin[(position as usize, j)] };
                let (a, b) = (x[(i, low)], x[(i, high)]);
                x[(i, low)] = a * c - b * s;
                x[(i, high)] = b * c + a * s;
            }
        }
    }
    x.store(args.x)
}
