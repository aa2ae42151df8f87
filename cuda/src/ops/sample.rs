use vila_engine::Result;
use vila_engine::ops::Sample;

use crate::CudaBackend;
use crate::backend::{double, int, ld, suffix};
use crate::driver::Arg;

const OP: &str = "sample";

pub fn sample(cuda: &CudaBackend, args: &Sample) -> Result<()> {
    let kernel = format!("sample_{}", suffix(OP, args.logits)?);
    let inverse_temperature = if args.temperature <= 0.0 { 0.0 } else { 1.0 / args.temperature };
    let operands = [
        cuda.input(args.logits)?,
        ld(args.logits),
        int(OP, args.logits.cols())?,
        Arg::F32(inverse_temperature as f32),
        double(args.top_p),
        Arg::U64(args.seed),
        Arg::U64(args.index),
        cuda.output(args.out)?,
    ];
    cuda.launch(OP, &kernel, args.logits.rows(), 512, 0, &operands)
}
