use vila_engine::Result;
use vila_engine::ops::{VisionEmbed, VisionEmbedBackward};

use super::plane::{THREADS, blocks, width};
use super::{optional_ld, suffixes};
use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "vision_embed";

pub fn forward(cuda: &CudaBackend, args: &VisionEmbed) -> Result<()> {
    let operands = [("class", args.class), ("positions", Some(args.positions)), ("y", Some(args.y))];
    typed(OP, args.patches.dtype(), operands)?;
    let (rows, cols) = args.y.shape();
    cuda.launch(
        OP,
        &format!("vision_embed_{}", suffix(OP, args.y)?),
        blocks(OP, rows, cols.div_ceil(width(args.y.dtype())))?,
        THREADS,
        0,
        &[
            cuda.input(args.patches)?,
            ld(args.patches),
            cuda.optional_input(args.class)?,
            cuda.input(args.positions)?,
            ld(args.positions),
            int(OP, args.positions.rows())?,
            cuda.output(args.y)?,
            ld(args.y),
            Arg::U32(extent(OP, rows)?),
            int(OP, cols)?,
        ],
    )
}

pub fn backward(cuda: &CudaBackend, args: &VisionEmbedBackward) -> Result<()> {
    let op = "vision_embed_backward";
    let (rows, cols) = args.dy.shape();
    typed(op, args.dy.dtype(), [("dpatches", args.dpatches)])?;
    // Without gradients to accumulate, their type does not matter.
    let accumulated = args.dpositions.or(args.dclass).unwrap_or(args.dy);
    typed(op, accumulated.dtype(), [("dclass", args.dclass)])?;
    let blocks = blocks(op, args.rows_per_image, cols.div_ceil(width(args.dy.dtype())))?;
    cuda.launch(
        OP,
        &format!("vision_embed_backward_{}", suffixes(op, args.dy, accumulated)?),
        if rows == 0 { 0 } else { blocks },
        THREADS,
        0,
        &[
            cuda.input(args.dy)?,
            ld(args.dy),
            int(op, rows / args.rows_per_image)?,
            int(op, args.rows_per_image)?,
            int(op, usize::from(args.has_class))?,
            cuda.optional_output(args.dpatches)?,
            optional_ld(args.dpatches),
            cuda.optional_output(args.dclass)?,
            cuda.optional_output(args.dpositions)?,
            optional_ld(args.dpositions),
            int(op, cols)?,
        ],
    )
}
