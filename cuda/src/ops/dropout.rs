use vila_engine::Result;
use vila_engine::ops::Dropout;

use super::plane::{Plane, THREADS, width};
use crate::CudaBackend;
use crate::backend::{ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "dropout";

pub fn dropout(cuda: &CudaBackend, args: &Dropout) -> Result<()> {
    typed(OP, args.x.dtype(), [("y", Some(args.y))])?;
    let plane = Plane::new(OP, &[args.x, args.y]);
    cuda.launch(
        OP,
        &format!("dropout_{}", suffix(OP, args.x)?),
        plane.blocks(width(args.x.dtype()))?,
        THREADS,
        0,
        &[
            cuda.input(args.x)?,
            ld(args.x),
            cuda.output(args.y)?,
            ld(args.y),
            plane.rows()?,
            plane.cols(),
            Arg::U32((args.p * 4_294_967_296.0) as u32),
            Arg::F32((1.0 / (1.0 - args.p)) as f32),
            Arg::U64(args.seed),
            Arg::U64(args.stream),
        ],
    )
}
