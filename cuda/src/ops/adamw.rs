use vila_engine::ops::AdamW;
use vila_engine::{DType, Result};

use crate::CudaBackend;
use crate::backend::{double, suffix, typed};
use crate::driver::Arg;

const OP: &str = "adamw";
const THREADS: usize = 256;

pub fn update(cuda: &CudaBackend, args: &AdamW) -> Result<()> {
    typed(OP, DType::F32, [("weights", Some(args.weights)), ("grad", Some(args.grad)), ("gate", Some(args.gate))])?;
    let kernel = format!("adamw_{}", suffix(OP, args.m)?);
    let (n, group) = (args.weights.len(), 16 / args.m.dtype().size());
    let groups = if n == 0 { 0 } else { (args.offset % group as u64) as usize + n }.div_ceil(group);
    let resident = 4 * cuda.driver().info().multiprocessors as usize;
    cuda.launch(
        OP,
        &kernel,
        groups.div_ceil(THREADS).min(resident),
        THREADS as u32,
        0,
        &[
            cuda.output(args.weights)?,
            cuda.input(args.grad)?,
            cuda.output(args.m)?,
            cuda.output(args.v)?,
            cuda.optional_output(args.publish)?,
            cuda.input(args.gate)?,
            cuda.input(args.updates)?,
            double(args.lr),
            double(args.betas.0),
            double(args.betas.1),
            Arg::F32((1.0 - args.lr * args.decay) as f32),
            Arg::F32(args.eps as f32),
            Arg::U64(args.seed),
            Arg::U64(args.offset),
            Arg::I64(n as i64),
        ],
    )
}
