use vila_engine::Result;
use vila_engine::ops::{Gelu, GeluBackward, GeluKind};

use super::plane::{Plane, THREADS, width};
use crate::CudaBackend;
use crate::backend::{ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "gelu";

pub fn forward(cuda: &CudaBackend, args: &Gelu) -> Result<()> {
    typed(OP, args.x.dtype(), [("y", Some(args.y))])?;
    let plane = Plane::new(OP, &[args.x, args.y]);
    cuda.launch(
        OP,
        &format!("gelu_{}", suffix(OP, args.x)?),
        plane.blocks(width(args.x.dtype()))?,
        THREADS,
        0,
        &[
            kind(args.kind),
            cuda.input(args.x)?,
            ld(args.x),
            cuda.output(args.y)?,
            ld(args.y),
            plane.rows()?,
            plane.cols(),
        ],
    )
}

pub fn backward(cuda: &CudaBackend, args: &GeluBackward) -> Result<()> {
    typed("gelu_backward", args.dy.dtype(), [("x", Some(args.x)), ("dx", Some(args.dx))])?;
    let plane = Plane::new("gelu_backward", &[args.dy, args.x, args.dx]);
    cuda.launch(
        OP,
        &format!("gelu_backward_{}", suffix(OP, args.dy)?),
        plane.blocks(width(args.dy.dtype()))?,
        THREADS,
        0,
        &[
            kind(args.kind),
            cuda.input(args.dy)?,
            ld(args.dy),
            cuda.input(args.x)?,
            ld(args.x),
            cuda.output(args.dx)?,
            ld(args.dx),
            plane.rows()?,
            plane.cols(),
        ],
    )
}

/// `Kind` of `gelu.cu`.
fn kind(kind: GeluKind) -> Arg {
    Arg::I32(match kind {
        GeluKind::Erf => 0,
        GeluKind::Tanh => 1,
        GeluKind::Quick => 2,
    })
}
