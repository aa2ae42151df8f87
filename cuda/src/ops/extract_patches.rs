use vila_engine::Result;
use vila_engine::ops::ExtractPatches;

use super::plane::{THREADS, blocks};
use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "extract_patches";

pub fn extract_patches(cuda: &CudaBackend, args: &ExtractPatches) -> Result<()> {
    typed(OP, args.pixels.dtype(), [("y", Some(args.y))])?;
    let (rows, cols) = args.y.shape();
    cuda.launch(
        OP,
        &format!("extract_patches_{}", suffix(OP, args.y)?),
        blocks(OP, rows, cols)?,
        THREADS,
        0,
        &[
            cuda.input(args.pixels)?,
            ld(args.pixels),
            int(OP, args.size)?,
            int(OP, args.patch)?,
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(OP, rows)?),
        ],
    )
}
