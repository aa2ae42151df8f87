use vila_engine::Result;
use vila_engine::ops::{Add, Copy, Fill, Scale};

use super::plane::{Plane, THREADS, width};
use super::suffixes;
use crate::CudaBackend;
use crate::backend::{ld, suffix, typed};
use crate::driver::Arg;

const FILE: &str = "elementwise";

pub fn copy(cuda: &CudaBackend, args: &Copy) -> Result<()> {
    let kernel = format!("copy_{}", suffixes("copy", args.x, args.y)?);
    let plane = Plane::new("copy", &[args.x, args.y]);
    let blocks = plane.blocks(width(args.x.dtype()).max(width(args.y.dtype())))?;
    let operands = [cuda.input(args.x)?, ld(args.x), cuda.output(args.y)?, ld(args.y), plane.rows()?, plane.cols()];
    cuda.launch(FILE, &kernel, blocks, THREADS, 0, &operands)
}

pub fn add(cuda: &CudaBackend, args: &Add) -> Result<()> {
    typed("add", args.y.dtype(), [("x", Some(args.x))])?;
    let kernel = format!("add_{}", suffix("add", args.y)?);
    let plane = Plane::new("add", &[args.x, args.y]);
    let operands = [cuda.input(args.x)?, ld(args.x), cuda.output(args.y)?, ld(args.y), plane.rows()?, plane.cols()];
    cuda.launch(FILE, &kernel, plane.blocks(width(args.y.dtype()))?, THREADS, 0, &operands)
}

pub fn scale(cuda: &CudaBackend, args: &Scale) -> Result<()> {
    let kernel = format!("scale_{}", suffix("scale", args.y)?);
    let plane = Plane::new("scale", &[args.y]);
    let factor = Arg::F32(args.factor as f32);
    let operands = [cuda.output(args.y)?, ld(args.y), factor, plane.rows()?, plane.cols()];
    cuda.launch(FILE, &kernel, plane.blocks(width(args.y.dtype()))?, THREADS, 0, &operands)
}

pub fn fill(cuda: &CudaBackend, args: &Fill) -> Result<()> {
    let kernel = format!("fill_{}", suffix("fill", args.y)?);
    let plane = Plane::new("fill", &[args.y]);
    let value = Arg::F32(args.value as f32);
    let operands = [cuda.output(args.y)?, ld(args.y), value, plane.rows()?, plane.cols()];
    cuda.launch(FILE, &kernel, plane.blocks(width(args.y.dtype()))?, THREADS, 0, &operands)
}
