use vila_engine::Result;
use vila_engine::ops::GradientGate;

use crate::CudaBackend;
use crate::backend::{double, int};

const OP: &str = "gradient_gate";

pub fn gate(cuda: &CudaBackend, args: &GradientGate) -> Result<()> {
    let operands = [
        cuda.input(args.sum)?,
        cuda.optional_input(args.losses)?,
        int(OP, args.losses.map_or(0, |losses| losses.len()))?,
        double(args.clip),
        cuda.output(args.gate)?,
        cuda.output(args.updates)?,
    ];
    cuda.launch(OP, "gradient_gate", 1, 32, 0, &operands)
}
