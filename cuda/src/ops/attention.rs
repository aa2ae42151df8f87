use vila_engine::ops::{Attention, AttentionBackward, HeadShape};
use vila_engine::{DType, Error, Result, Tensor};

use crate::CudaBackend;
use crate::backend::{extent, int, ld, suffix, typed};
use crate::driver::Arg;

const OP: &str = "attention";
const BACKWARD: &str = "attention_backward";

/// Head widths for which there are tensor core instances; narrower heads are padded with zeros in shared memory.
const INSTANCES: [usize; 6] = [16, 32, 64, 80, 96, 128];

/// Keys per query from which on a step of generation is worth two launches, and the fewest that a block gets.
const DECODE_KEYS: usize = 64;

fn instance(op: &'static str, head_dim: usize) -> Result<usize> {
    let fits = INSTANCES.into_iter().find(|&instance| head_dim <= instance);
    fits.ok_or_else(|| Error::Argument { op, message: format!("no BF16 kernel for heads of {head_dim} columns") })
}

/// Number of documents between boundaries.
fn documents(cu_seqlens: &Tensor) -> usize {
    cu_seqlens.len().saturating_sub(1)
}

/// Tiles of `size` rows that a batch can have at most: each document ends with a part of one, as do the rows after the last.
fn tiles(rows: usize, size: usize, documents: usize) -> usize {
    rows.div_ceil(size) + documents + 1
}

/// Bytes of `rows` rows in shared memory: `Tile` of `device.cuh`.
fn tile_bytes(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 8) * 2
}

fn group(shape: HeadShape) -> usize {
    shape.heads / shape.kv_heads
}

fn causal(causal: bool) -> Arg {
    Arg::I32(i32::from(causal))
}

pub fn forward(cuda: &CudaBackend, args: &Attention) -> Result<()> {
    let dtype = args.q.dtype();
    typed(OP, dtype, [("k", Some(args.k)), ("v", Some(args.v)), ("o", Some(args.o))])?;
    typed(OP, DType::F32, [("lse", Some(args.lse))])?;
    let suffix = suffix(OP, args.q)?;
    let (shape, rows, documents) = (args.shape, args.q.rows(), documents(args.cu_seqlens_q));
    if rows == 0 {
        return Ok(());
    }
    extent(OP, rows * shape.heads)?;
    let mut operands = vec![
        cuda.input(args.q)?,
        ld(args.q),
        cuda.input(args.k)?,
        ld(args.k),
        cuda.input(args.v)?,
        ld(args.v),
        cuda.input(args.cu_seqlens_q)?,
        cuda.input(args.cu_seqlens_k)?,
        int(OP, documents)?,
        int(OP, rows)?,
        int(OP, args.k.rows())?,
        int(OP, shape.heads)?,
        int(OP, group(shape))?,
        int(OP, shape.head_dim)?,
        Arg::F32(args.scale as f32),
        causal(args.causal),
    ];
    let outputs = [cuda.output(args.o)?, ld(args.o), cuda.output(args.lse)?, ld(args.lse)];
    if rows <= documents && args.k.rows() >= DECODE_KEYS * rows && shape.head_dim <= 128 {
        return decode(cuda, args, operands, &outputs);
    }
    operands.extend(outputs);
    if dtype == DType::F32 {
        let warps = rows * shape.heads;
        return cuda.launch("attention_plain", "attention_plain_f32", warps.div_ceil(4), 128, 0, &operands);
    }
    if args.scale.is_nan() || args.scale <= 0.0 {
        let message = format!("the factor of the scores must be positive, not {}", args.scale);
        return Err(Error::Argument { op: OP, message });
    }
    let d = instance(OP, shape.head_dim)?;
    let (queries, keys, stages) = (128, 64, 2);
    let threads = if d > 80 { 256 } else { 128 };
    let shared = tile_bytes(queries, d) + 2 * stages * tile_bytes(keys, d);
    let grid = tiles(rows, queries, documents) * shape.heads;
    cuda.launch(OP, &format!("attention_d{d}_{suffix}"), grid, threads, shared, &operands)
}

/// At most one query per document on average, and many keys each: the keys are split among blocks.
fn decode(cuda: &CudaBackend, args: &Attention, mut operands: Vec<Arg>, outputs: &[Arg]) -> Result<()> {
    let (suffix, shape, rows) = (suffix(OP, args.q)?, args.shape, args.q.rows());
    // Enough blocks to fill the device several times over, as long as each has keys to read.
    let blocks = rows * shape.kv_heads * group(shape).div_ceil(4);
    let wanted = 4 * cuda.driver().info().multiprocessors as usize;
    let splits = wanted.div_ceil(blocks).clamp(1, args.k.rows() / rows / DECODE_KEYS);
    let partial = cuda.workspace(DType::F32, rows * shape.heads, splits * (2 + shape.head_dim))?;
    operands.extend([int(OP, splits)?, cuda.output(&partial)?]);
    let kernel = format!("attention_decode_d{}_{suffix}", if shape.head_dim <= 64 { 64 } else { 128 });
    cuda.launch("attention_decode", &kernel, blocks * splits, 128, 0, &operands)?;
    let mut operands = vec![
        cuda.input(&partial)?,
        int(OP, splits)?,
        cuda.input(args.cu_seqlens_q)?,
        int(OP, documents(args.cu_seqlens_q))?,
        int(OP, rows)?,
        int(OP, shape.heads)?,
        int(OP, shape.head_dim)?,
    ];
    operands.extend_from_slice(outputs);
    let kernel = format!("attention_combine_{suffix}");
    cuda.launch("attention_decode", &kernel, (rows * shape.heads).div_ceil(4), 128, 0, &operands)
}

pub fn backward(cuda: &CudaBackend, args: &AttentionBackward) -> Result<()> {
    let dtype = args.qkv.dtype();
    typed(BACKWARD, dtype, [("o", Some(args.o)), ("do", Some(args.d_o)), ("dqkv", Some(args.dqkv))])?;
    typed(BACKWARD, DType::F32, [("lse", Some(args.lse))])?;
    let suffix = suffix(BACKWARD, args.qkv)?;
    let (shape, rows, documents) = (args.shape, args.qkv.rows(), documents(args.cu_seqlens));
    if rows == 0 {
        return Ok(());
    }
    extent(BACKWARD, rows * shape.heads)?;
    let statistics = cuda.workspace(DType::F32, shape.heads, 2 * rows)?;
    cuda.launch(
        BACKWARD,
        &format!("attention_delta_{suffix}"),
        (rows * shape.heads).div_ceil(128 / 8),
        128,
        0,
        &[
            cuda.input(args.o)?,
            ld(args.o),
            cuda.input(args.d_o)?,
            ld(args.d_o),
            cuda.input(args.lse)?,
            ld(args.lse),
            int(BACKWARD, rows)?,
            int(BACKWARD, shape.heads)?,
            int(BACKWARD, shape.head_dim)?,
            cuda.output(&statistics)?,
        ],
    )?;
    let operands = [
        cuda.input(args.qkv)?,
        ld(args.qkv),
        cuda.input(args.cu_seqlens)?,
        int(BACKWARD, documents)?,
        int(BACKWARD, rows)?,
        int(BACKWARD, shape.heads)?,
        int(BACKWARD, group(shape))?,
        int(BACKWARD, shape.head_dim)?,
        Arg::F32(args.scale as f32),
        causal(args.causal),
        cuda.input(&statistics)?,
        cuda.input(args.d_o)?,
        ld(args.d_o),
        cuda.output(args.dqkv)?,
        ld(args.dqkv),
    ];
    for (part, by_key, heads) in [("dq", false, shape.heads), ("dkdv", true, shape.kv_heads)] {
        if dtype == DType::F32 {
            let kernel = format!("attention_plain_{part}_f32");
            cuda.launch("attention_plain", &kernel, (rows * heads).div_ceil(4), 128, 0, &operands)?;
            continue;
        }
        let d = instance(BACKWARD, shape.head_dim)?;
        let tile = GradientTile::new(d, by_key);
        let grid = tiles(rows, tile.own, documents) * heads;
        let kernel = format!("attention_{part}_d{d}_{suffix}");
        cuda.launch(BACKWARD, &kernel, grid, 128, tile.shared_bytes(d), &operands)?;
    }
    Ok(())
}

/// `Shared` of `attention_backward.cu`.
struct GradientTile {
    own: usize,
    other: usize,
}

impl GradientTile {
    fn new(d: usize, by_key: bool) -> Self {
        match by_key {
            true if d <= 32 => GradientTile { own: 128, other: 32 },
            true => GradientTile { own: 64, other: if d > 96 { 32 } else { 64 } },
            false if d <= 80 => GradientTile { own: 128, other: 32 },
            false => GradientTile { own: 64, other: 64 },
        }
    }

    fn shared_bytes(&self, d: usize) -> usize {
        let (stages, statistics) = (2, 8 * self.other);
        2 * tile_bytes(self.own, d) + stages * (2 * tile_bytes(self.other, d) + statistics)
    }
}
