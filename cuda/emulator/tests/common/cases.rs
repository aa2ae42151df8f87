//! The real kernels of `tests/kernels`, each run and compared with a plain computation.
#![allow(dead_code)]

use super::common::*;
use ptx_emulator::{Element, Error, Memory, Module, Options, Report, Swizzle, TensorMap};

/// What a run gave.
pub struct Outcome {
    pub report: Report,
    /// Largest difference from the reference.
    pub error: f64,
    /// All output bytes.
    pub bits: Vec<u8>,
}

fn worst(e: &mut f64, x: f64) {
    if x.is_nan() || x > *e {
        *e = x;
    }
}

fn done(memory: &Memory, report: Report, error: f64, outputs: &[(u64, usize)]) -> Outcome {
    let bits = outputs.iter().flat_map(|(a, n)| memory.read_vec(*a, *n).unwrap()).collect();
    Outcome { report, error, bits }
}

pub fn flash(module: &Module, options: Options, heads: usize, s: usize) -> Result<Outcome, Error> {
    let memory = Memory::new();
    let mut rng = Rng(1);
    let n = heads * s * 64;
    let (q, k, v) = (rng.bf16(n), rng.bf16(n), rng.bf16(n));
    let [dq, dk, dv] = [&q, &k, &v].map(|x| memory.alloc_from(&bytes16(x)).unwrap());
    let (o, lse) = (memory.alloc(n * 2).unwrap(), memory.alloc(heads * s * 4).unwrap());
    let args = [dq.into(), dk.into(), dv.into(), o.into(), lse.into(), (s as i32).into(), 0.125f32.into()];
    let grid = (s.div_ceil(64) as u32, heads as u32);
    let report = module.kernel(&memory, "flash_fwd")?.with(options).launch(grid, 128, 5 * 8192, &args)?;
    let out = words16(&memory.read_vec(o, n * 2).unwrap());
    let mut error = 0.0;
    let at = |x: &[u16], h: usize, r: usize, e: usize| from_bf16(x[(h * s + r) * 64 + e]);
    for h in 0..heads {
        for i in (0..s).step_by(3) {
            let p: Vec<f64> =
                (0..=i).map(|j| (0..64).map(|e| at(&q, h, i, e) * at(&k, h, j, e)).sum::<f64>() * 0.125).collect();
            let m = p.iter().copied().fold(f64::MIN, f64::max);
            let z: f64 = p.iter().map(|x| (x - m).exp()).sum();
            for e in 0..64 {
                let a = (0..=i).map(|j| (p[j] - m).exp() * at(&v, h, j, e)).sum::<f64>() / z;
                worst(&mut error, (at(&out, h, i, e) - a).abs());
            }
        }
    }
    Ok(done(&memory, report, error, &[(o, n * 2), (lse, heads * s * 4)]))
}

pub fn gemm(module: &Module, options: Options, m: usize, n: usize, k: usize) -> Result<Outcome, Error> {
    gemm_with(module, options, m, n, k, 49152)
}

pub fn gemm_with(
    module: &Module,
    options: Options,
    m: usize,
    n: usize,
    k: usize,
    shared: u32,
) -> Result<Outcome, Error> {
    let memory = Memory::new();
    let mut rng = Rng(2);
    let (a, b) = (rng.bf16(m * k), rng.bf16(n * k));
    let (da, db) = (memory.alloc_from(&bytes16(&a)).unwrap(), memory.alloc_from(&bytes16(&b)).unwrap());
    let c = memory.alloc(m * n * 2).unwrap();
    let args = [da.into(), db.into(), c.into(), (m as i32).into(), (n as i32).into(), (k as i32).into()];
    let grid = (n.div_ceil(128) as u32, m.div_ceil(128) as u32);
    let report = module.kernel(&memory, "gemm_bf16")?.with(options).launch(grid, 256, shared, &args)?;
    let out = words16(&memory.read_vec(c, m * n * 2).unwrap());
    let mut error = 0.0;
    for i in (0..m).step_by(1 + m / 100) {
        for j in 0..n {
            let s: f64 = (0..k).map(|q| from_bf16(a[i * k + q]) * from_bf16(b[j * k + q])).sum();
            worst(&mut error, (s - from_bf16(out[i * n + j])).abs() / s.abs().max(1.0));
        }
    }
    Ok(done(&memory, report, error, &[(c, m * n * 2)]))
}

pub fn rmsnorm(module: &Module, options: Options, rows: usize, d: usize) -> Result<Outcome, Error> {
    let memory = Memory::new();
    let mut rng = Rng(3);
    let (x, w) = (rng.bf16(rows * d), rng.bf16(d));
    let (dx, dw) = (memory.alloc_from(&bytes16(&x)).unwrap(), memory.alloc_from(&bytes16(&w)).unwrap());
    let (y, r) = (memory.alloc(rows * d * 2).unwrap(), memory.alloc(rows * 4).unwrap());
    let args = [dx.into(), dw.into(), y.into(), r.into(), (d as i32).into(), 1e-5f32.into()];
    let report = module.kernel(&memory, "rmsnorm_fwd")?.with(options).launch(rows as u32, 256, 0, &args)?;
    let out = words16(&memory.read_vec(y, rows * d * 2).unwrap());
    let mut error = 0.0;
    for i in 0..rows {
        let s: f64 = x[i * d..][..d].iter().map(|v| from_bf16(*v).powi(2)).sum();
        let q = 1.0 / (s / d as f64 + 1e-5).sqrt();
        for j in 0..d {
            worst(&mut error, (from_bf16(out[i * d + j]) - from_bf16(x[i * d + j]) * q * from_bf16(w[j])).abs());
        }
    }
    Ok(done(&memory, report, error, &[(y, rows * d * 2), (r, rows * 4)]))
}

pub fn adamw(module: &Module, options: Options, n: usize) -> Result<Outcome, Error> {
    let memory = Memory::new();
    let mut rng = Rng(4);
    let g = rng.bf16(n);
    let p: Vec<f32> = (0..n).map(|_| rng.real()).collect();
    let zeros = vec![0u8; n * 4];
    let dp = memory.alloc_from(&bytes_f32(&p)).unwrap();
    let (dm, dv) = (memory.alloc_from(&zeros).unwrap(), memory.alloc_from(&zeros).unwrap());
    let (pb, dg) = (memory.alloc(n * 2).unwrap(), memory.alloc_from(&bytes16(&g)).unwrap());
    let mut args = vec![dp.into(), pb.into(), dg.into(), dm.into(), dv.into(), (n as i32).into()];
    args.extend([0.01f32, 0.9, 0.95, 1e-8, 0.1, 10.0, 20.0].map(Into::into));
    let report = module.kernel(&memory, "adamw")?.with(options).launch(n.div_ceil(1024) as u32, 256, 0, &args)?;
    let out = floats(&memory.read_vec(dp, n * 4).unwrap());
    let mut error = 0.0;
    for i in 0..n {
        let (gg, p0) = (from_bf16(g[i]), f64::from(p[i]));
        let e = p0 - 0.01 * ((gg * 0.1 * 10.0) / ((gg * gg * 0.05 * 20.0).sqrt() + 1e-8) + 0.1 * p0);
        worst(&mut error, (e - f64::from(out[i])).abs());
    }
    Ok(done(&memory, report, error, &[(dp, n * 4), (dm, n * 4), (dv, n * 4), (pb, n * 2)]))
}

pub fn hopper(module: &Module, options: Options, transposed: bool) -> Result<Outcome, Error> {
    let memory = Memory::new();
    let mut rng = Rng(5);
    let k = 320usize;
    let (a, b) = (rng.bf16(64 * k), rng.bf16(64 * k));
    let (da, db) = (memory.alloc_from(&bytes16(&a)).unwrap(), memory.alloc_from(&bytes16(&b)).unwrap());
    let c = memory.alloc(64 * 64 * 4).unwrap();
    let map = |address, w: usize, h: usize| {
        TensorMap::new(address, Element::Bf16, &[w as u64, h as u64], &[64, 64], Swizzle::B128).unwrap()
    };
    let tb = if transposed { map(db, 64, k) } else { map(db, k, 64) };
    let args = [map(da, k, 64).into(), tb.into(), c.into(), (k as i32).into()];
    let name = if transposed { "hopper_nn" } else { "hopper_nt" };
    let report = module.kernel(&memory, name)?.with(options).launch(1, 160, 32768 + 32, &args)?;
    let out = floats(&memory.read_vec(c, 64 * 64 * 4).unwrap());
    let mut error = 0.0;
    for i in 0..64 {
        for j in 0..64 {
            let y = |q: usize| from_bf16(if transposed { b[q * 64 + j] } else { b[j * k + q] });
            let s: f64 = (0..k).map(|q| from_bf16(a[i * k + q]) * y(q)).sum();
            worst(&mut error, (s - f64::from(out[i * 64 + j])).abs());
        }
    }
    Ok(done(&memory, report, error, &[(c, 64 * 64 * 4)]))
}
