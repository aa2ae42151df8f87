use std::sync::Arc;

use vila_engine::ops::{Gemm, LinearCrossEntropy};
use vila_engine::{Backend, DType, Result, Tensor};

use crate::CudaBackend;
use crate::backend::{double, int, ld, suffix, typed};
use crate::driver::Arg;
use crate::ops::fault_number;

const OP: &str = "linear_cross_entropy";
const THREADS: u32 = 512;
/// Rows per chunk: enough for products near their peak.
const CHUNK: usize = 8 * LinearCrossEntropy::CHUNK;

pub fn linear_cross_entropy(cuda: &CudaBackend, args: &LinearCrossEntropy) -> Result<()> {
    let (rows, vocab, dtype) = (args.hidden.rows(), args.weight.rows(), args.hidden.dtype());
    typed(OP, dtype, [("weight", Some(args.weight)), ("dhidden", args.dhidden)])?;
    typed(OP, DType::F32, [("loss", Some(args.loss)), ("row_loss", args.row_loss)])?;
    let kernel = format!("linear_cross_entropy_{}", suffix(OP, args.hidden)?);
    if rows == 0 {
        return Ok(());
    }
    let own = if args.row_loss.is_none() { Some(cuda.workspace(DType::F32, rows, 1)?) } else { None };
    let Some(row_loss) = args.row_loss.or(own.as_ref()) else { return Ok(()) };
    // Whole packs, so that rows of either type start on 16 bytes.
    let width = vocab.next_multiple_of(4);
    let logits = cuda.workspace(DType::F32, rows.min(CHUNK), width)?;
    let gradients = in_place(&logits, dtype, width);
    for start in (0..rows).step_by(CHUNK) {
        let range = start..rows.min(start + CHUNK);
        let hidden = args.hidden.slice_rows(range.clone())?;
        let padded = logits.slice_rows(0..range.len())?;
        let (logits, gradients) = (padded.slice_cols(0..vocab)?, gradients.slice_rows(0..range.len())?);
        let gradients = gradients.slice_cols(0..vocab)?;
        let product = |a: &Tensor, trans_a, b: &Tensor, trans_b, c: &Tensor, beta| {
            cuda.gemm(&Gemm { a, trans_a, b, trans_b, c, alpha: 1.0, beta })
        };
        product(&hidden, false, args.weight, true, &logits, 0.0)?;
        let operands = [
            cuda.output(&padded)?,
            ld(&padded),
            cuda.input(args.targets)?,
            Arg::F32(args.scale as f32),
            Arg::I32(i32::from(args.dhidden.is_some() || args.dweight.is_some())),
            cuda.output(row_loss)?,
            int(OP, start)?,
            int(OP, vocab)?,
            cuda.index_fault(),
            fault_number(OP),
        ];
        cuda.launch(OP, &kernel, range.len(), THREADS, 0, &operands)?;
        if let Some(dhidden) = args.dhidden {
            product(&gradients, false, args.weight, false, &dhidden.slice_rows(range)?, 0.0)?;
        }
        if let Some(dweight) = args.dweight {
            product(&gradients, true, &hidden, false, dweight, 1.0)?;
        }
    }
    let total = [cuda.input(row_loss)?, int(OP, rows)?, double(args.scale), cuda.output(args.loss)?];
    cuda.launch(OP, "linear_cross_entropy_total", 1, THREADS, 0, &total)
}

/// The memory of f32 logits as rows of gradients of another type, each at the start of its logits.
fn in_place(logits: &Tensor, dtype: DType, width: usize) -> Tensor {
    let storage = Arc::clone(logits.storage());
    Tensor::from_storage(storage, dtype, logits.rows(), width * logits.dtype().size() / dtype.size())
}
