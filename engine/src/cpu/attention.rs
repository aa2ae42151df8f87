use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::gemm::{Strided, product};
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, math};
use crate::ops::{Attention, AttentionBackward, HeadShape};
use crate::{Error, Result, Tensor};

const QUERY_BLOCK: usize = 64;
const KEY_BLOCK: usize = 128;

/// Row ranges of the documents, checked to be in order and inside `rows`.
fn documents(op: &'static str, cu_seqlens: &Tensor, rows: usize) -> Result<Vec<Range<usize>>> {
    let bounds = cu_seqlens.to_vec::<u32>()?;
    let ordered = bounds.first().is_none_or(|&first| first == 0) && bounds.is_sorted();
    if !ordered || bounds.last().is_some_and(|&last| last as usize > rows) {
        let message = format!("document boundaries {bounds:?} do not rise from 0 to at most {rows}");
        return Err(Error::Argument { op, message });
    }
    Ok(bounds.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect())
}

/// Keys of a document of `keys` that query `i` of `queries` sees.
fn visible(causal: bool, queries: usize, keys: usize, i: usize) -> usize {
    if causal { (keys + i + 1).saturating_sub(queries) } else { keys }
}

/// The `head`-th group of `width` columns of the rows from `row` on.
fn head_block<'a>(data: &'a [f32], tensor: &Tensor, row: usize, column: usize) -> Strided<'a> {
    Strided::rows(data.get(row * tensor.ld() + column..).unwrap_or(&[]), tensor.ld())
}

pub fn fast(cpu: &CpuBackend, args: &Attention) -> Result<()> {
    let (q, k, v) = (args.q.read::<f32>()?, args.k.read::<f32>()?, args.v.read::<f32>()?);
    let queries = documents("attention", args.cu_seqlens_q, args.q.rows())?;
    let keys = documents("attention", args.cu_seqlens_k, args.k.rows())?;
    let HeadShape { heads, kv_heads, head_dim } = args.shape;
    let tasks: Vec<(usize, usize)> = (0..queries.len()).flat_map(|doc| (0..heads).map(move |h| (doc, h))).collect();
    let results: Vec<(Vec<f32>, Vec<f32>)> = tasks
        .par_iter()
        .map(|&(doc, head)| {
            let (rows, seen) = (queries[doc].clone(), keys[doc].clone());
            let kv_column = head / (heads / kv_heads) * head_dim;
            let forward = HeadForward {
                q: head_block(q.slice(), args.q, rows.start, head * head_dim),
                k: head_block(k.slice(), args.k, seen.start, kv_column),
                v: head_block(v.slice(), args.v, seen.start, kv_column),
                queries: rows.len(),
                keys: seen.len(),
                head_dim,
                scale: args.scale as f32,
                causal: args.causal,
            };
            forward.run(cpu)
        })
        .collect();
    let (mut o, mut lse) = (args.o.write::<f32>()?, args.lse.write::<f32>()?);
    for row in queries.last().map_or(0, |last| last.end)..args.o.rows() {
        o.row_mut(row).fill(0.0);
        lse.row_mut(row).fill(0.0);
    }
    for (&(doc, head), (o_head, lse_head)) in tasks.iter().zip(&results) {
        for (i, row) in queries[doc].clone().enumerate() {
            o.row_mut(row)[head * head_dim..(head + 1) * head_dim]
                .copy_from_slice(&o_head[i * head_dim..(i + 1) * head_dim]);
            lse.row_mut(row)[head] = lse_head[i];
        }
    }
    Ok(())
}

/// One head of one document.
struct HeadForward<'a> {
    q: Strided<'a>,
    k: Strided<'a>,
    v: Strided<'a>,
    queries: usize,
    keys: usize,
    head_dim: usize,
    scale: f32,
    causal: bool,
}

#[inline(always)]
fn skip_rows(block: Strided<'_>, rows: usize) -> Strided<'_> {
    Strided { data: &block.data[rows * block.row_stride..], ..block }
}

impl HeadForward<'_> {
    /// Output `[queries, head_dim]` and log-sum-exp, by online softmax over key blocks (arXiv 2205.14135, algorithm 1).
    ///
    /// Key blocks start at the document's first key and every sum has a fixed order, so a query's result has the same bits
    /// whatever other queries are computed with it: decoding from a cache repeats the whole pass exactly.
    fn run(&self, cpu: &CpuBackend) -> (Vec<f32>, Vec<f32>) {
        let d = self.head_dim;
        let mut o = vec![0.0; self.queries * d];
        let mut lse = vec![f32::NEG_INFINITY; self.queries];
        let mut scores = vec![0.0; QUERY_BLOCK * KEY_BLOCK];
        let mut keys = vec![0.0; d * KEY_BLOCK];
        for first in (0..self.queries).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(self.queries - first);
            let o = &mut o[first * d..(first + rows) * d];
            let (mut max, mut total) = ([f32::NEG_INFINITY; QUERY_BLOCK], [0.0; QUERY_BLOCK]);
            let limit = visible(self.causal, self.queries, self.keys, first + rows - 1);
            for key in (0..limit).step_by(KEY_BLOCK) {
                let cols = KEY_BLOCK.min(limit - key);
                transpose(skip_rows(self.k, key), cols, d, self.scale, &mut keys);
                scores[..rows * KEY_BLOCK].fill(0.0);
                let (q, k) = (skip_rows(self.q, first), Strided::rows(&keys, KEY_BLOCK));
                let dims = (rows, cols.next_multiple_of(TILE_COLS), d);
                cpu.arch.dispatch(AddProduct { dims, a: q, b: k, c: &mut scores, ldc: KEY_BLOCK });
                cpu.arch.dispatch(|| {
                    for i in 0..rows {
                        let seen = visible(self.causal, self.queries, self.keys, first + i).saturating_sub(key);
                        let row = &mut scores[i * KEY_BLOCK..][..cols];
                        let correction = softmax_block(row, seen.min(cols), &mut max[i], &mut total[i]);
                        if correction != 1.0 {
                            o[i * d..(i + 1) * d].iter_mut().for_each(|o| *o *= correction);
                        }
                    }
                });
                let (p, v) = (Strided::rows(&scores, KEY_BLOCK), skip_rows(self.v, key));
                cpu.arch.dispatch(AddProduct { dims: (rows, d, cols), a: p, b: v, c: o, ldc: d });
            }
            for i in 0..rows {
                if total[i] > 0.0 {
                    o[i * d..(i + 1) * d].iter_mut().for_each(|o| *o /= total[i]);
                    lse[first + i] = max[i] + total[i].ln();
                }
            }
        }
        (o, lse)
    }
}

/// Rows and columns of a product that stay in registers together.
const TILE_ROWS: usize = 4;
const TILE_COLS: usize = 16;

/// `cᵀ[column][row] = scale · block[row][column]`, with rows of `KEY_BLOCK`.
fn transpose(block: Strided, rows: usize, columns: usize, scale: f32, transposed: &mut [f32]) {
    for row in 0..rows {
        let values = &block.data[row * block.row_stride..][..columns];
        for (column, value) in values.iter().enumerate() {
            transposed[column * KEY_BLOCK + row] = scale * value;
        }
    }
}

/// `c += a b` for `dims` `(m, n, k)` and matrices with unit column stride; each element adds its terms one by one, in order.
struct AddProduct<'a> {
    dims: (usize, usize, usize),
    a: Strided<'a>,
    b: Strided<'a>,
    c: &'a mut [f32],
    ldc: usize,
}

impl pulp::WithSimd for AddProduct<'_> {
    type Output = ();

    // A closure of this size would not be inlined, and so not be vectorised; a fused multiply-add would be a call.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let AddProduct { dims: (m, n, k), a, b, c, ldc } = self;
        for i in (0..m).step_by(TILE_ROWS) {
            let (a, c) = (skip_rows(a, i), &mut c[i * ldc..]);
            match m - i {
                1 => row_tiles::<1>((n, k), a, b, c, ldc),
                2 => row_tiles::<2>((n, k), a, b, c, ldc),
                3 => row_tiles::<3>((n, k), a, b, c, ldc),
                _ => row_tiles::<TILE_ROWS>((n, k), a, b, c, ldc),
            }
        }
    }
}

#[inline(always)]
fn row_tiles<const M: usize>((n, k): (usize, usize), a: Strided, b: Strided, c: &mut [f32], ldc: usize) {
    let whole = n / TILE_COLS * TILE_COLS;
    for j in (0..whole).step_by(TILE_COLS) {
        tile::<M, TILE_COLS>(k, a, b, c, ldc, j);
    }
    for j in whole..n {
        tile::<M, 1>(k, a, b, c, ldc, j);
    }
}

#[inline(always)]
fn tile<const M: usize, const N: usize>(k: usize, a: Strided, b: Strided, c: &mut [f32], ldc: usize, j: usize) {
    let mut sums: [[f32; N]; M] = std::array::from_fn(|i| std::array::from_fn(|l| c[i * ldc + j + l]));
    for p in 0..k {
        let b: &[f32] = &b.data[p * b.row_stride + j..][..N];
        for (i, sums) in sums.iter_mut().enumerate() {
            let a = a.data[i * a.row_stride + p];
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        c[i * ldc + j..][..N].copy_from_slice(sums);
    }
}

/// Turns scores into unnormalised probabilities; the first `seen` count. Returns the factor of what was summed before.
#[inline(always)]
fn softmax_block(row: &mut [f32], seen: usize, max: &mut f32, total: &mut f32) -> f32 {
    let (live, masked) = row.split_at_mut(seen);
    masked.fill(0.0);
    if live.is_empty() {
        return 1.0;
    }
    let new_max = max.max(math::max(live));
    let correction = if *max == new_max || *total == 0.0 { 1.0 } else { math::exp(*max - new_max) };
    for p in live.iter_mut() {
        *p = math::exp(*p - new_max);
    }
    *total = *total * correction + math::sum(live);
    *max = new_max;
    correction
}

pub fn backward_fast(cpu: &CpuBackend, args: &AttentionBackward) -> Result<()> {
    let (qkv, o, d_o) = (args.qkv.read::<f32>()?, args.o.read::<f32>()?, args.d_o.read::<f32>()?);
    let lse = args.lse.read::<f32>()?;
    let docs = documents("attention_backward", args.cu_seqlens, args.qkv.rows())?;
    let shape = args.shape;
    let (d, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let tasks: Vec<(usize, usize)> =
        (0..docs.len()).flat_map(|doc| (0..shape.kv_heads).map(move |g| (doc, g))).collect();
    let results: Vec<GroupGrad> = tasks
        .par_iter()
        .map(|&(doc, g)| {
            let rows = docs[doc].clone();
            let block = |column| head_block(qkv.slice(), args.qkv, rows.start, column);
            let mut grad = GroupGrad::new(rows.len(), d, group);
            for member in 0..group {
                let head = g * group + member;
                let dot = |row| math::dot(&o.row(row)[head * d..][..d], &d_o.row(row)[head * d..][..d]);
                let delta: Vec<f32> = cpu.arch.dispatch(|| rows.clone().map(dot).collect());
                let lse: Vec<f32> = rows.clone().map(|row| lse.row(row)[head]).collect();
                let backward = HeadBackward {
                    q: block(head * d),
                    k: block(shape.q_cols() + g * d),
                    v: block(shape.q_cols() + shape.kv_cols() + g * d),
                    d_o: head_block(d_o.slice(), args.d_o, rows.start, head * d),
                    lse: &lse,
                    delta: &delta,
                    head_dim: d,
                    scale: args.scale as f32,
                    causal: args.causal,
                };
                backward.run(cpu, member, &mut grad);
            }
            grad
        })
        .collect();
    let mut dqkv = args.dqkv.write::<f32>()?;
    for row in docs.last().map_or(0, |last| last.end)..args.dqkv.rows() {
        dqkv.row_mut(row).fill(0.0);
    }
    for (&(doc, g), grad) in tasks.iter().zip(&results) {
        for (i, row) in docs[doc].clone().enumerate() {
            let target = dqkv.row_mut(row);
            target[g * group * d..(g + 1) * group * d].copy_from_slice(&grad.dq[i * group * d..(i + 1) * group * d]);
            target[shape.q_cols() + g * d..][..d].copy_from_slice(&grad.dk[i * d..(i + 1) * d]);
            target[shape.q_cols() + shape.kv_cols() + g * d..][..d].copy_from_slice(&grad.dv[i * d..(i + 1) * d]);
        }
    }
    Ok(())
}

/// Gradients of one document's key head and of the query heads that read it.
struct GroupGrad {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    q_ld: usize,
}

impl GroupGrad {
    fn new(rows: usize, head_dim: usize, group: usize) -> Self {
        let q_ld = group * head_dim;
        GroupGrad { dq: vec![0.0; rows * q_ld], dk: vec![0.0; rows * head_dim], dv: vec![0.0; rows * head_dim], q_ld }
    }
}

struct HeadBackward<'a> {
    q: Strided<'a>,
    k: Strided<'a>,
    v: Strided<'a>,
    d_o: Strided<'a>,
    lse: &'a [f32],
    delta: &'a [f32],
    head_dim: usize,
    scale: f32,
    causal: bool,
}

impl HeadBackward<'_> {
    fn run(&self, cpu: &CpuBackend, member: usize, grad: &mut GroupGrad) {
        let (d, tokens) = (self.head_dim, self.lse.len());
        let mut p = vec![0.0; QUERY_BLOCK * KEY_BLOCK];
        let mut ds = vec![0.0; QUERY_BLOCK * KEY_BLOCK];
        for first in (0..tokens).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(tokens - first);
            let (q, d_o) = (skip_rows(self.q, first), skip_rows(self.d_o, first));
            let limit = visible(self.causal, tokens, tokens, first + rows - 1);
            for key in (0..limit).step_by(KEY_BLOCK) {
                let cols = KEY_BLOCK.min(limit - key);
                let (k, v) = (skip_rows(self.k, key), skip_rows(self.v, key));
                product(false, (rows, cols, d), self.scale, q, k.transposed(), 0.0, &mut p, cols);
                product(false, (rows, cols, d), 1.0, d_o, v.transposed(), 0.0, &mut ds, cols);
                cpu.arch.dispatch(|| {
                    for i in 0..rows {
                        let seen = visible(self.causal, tokens, tokens, first + i).saturating_sub(key).min(cols);
                        let (lse, delta) = (self.lse[first + i], self.delta[first + i]);
                        let (p, ds) = (&mut p[i * cols..(i + 1) * cols], &mut ds[i * cols..(i + 1) * cols]);
                        for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
                            *p = math::exp(*p - lse);
                            *ds = *p * (*ds - delta);
                        }
                        p[seen..].fill(0.0);
                        ds[seen..].fill(0.0);
                    }
                });
                let (p, ds) = (Strided::rows(&p, cols), Strided::rows(&ds, cols));
                product(false, (cols, d, rows), 1.0, p.transposed(), d_o, 1.0, &mut grad.dv[key * d..], d);
                product(false, (cols, d, rows), self.scale, ds.transposed(), q, 1.0, &mut grad.dk[key * d..], d);
                let dq = &mut grad.dq[first * grad.q_ld + member * d..];
                product(false, (rows, d, cols), self.scale, ds, k, 1.0, dq, grad.q_ld);
            }
        }
    }
}

/// Probabilities of one query row over the keys it sees, and the log-sum-exp of its scores.
fn probabilities(scores: &[f64]) -> (Vec<f64>, f64) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = if scores.is_empty() { max } else { max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln() };
    (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub fn reference(args: &Attention) -> Result<()> {
    let (q, k, v) = (Matrix::load(args.q)?, Matrix::load(args.k)?, Matrix::load(args.v)?);
    let queries = documents("attention", args.cu_seqlens_q, q.rows)?;
    let keys = documents("attention", args.cu_seqlens_k, k.rows)?;
    let HeadShape { heads, kv_heads, head_dim: d } = args.shape;
    let (mut o, mut lse) = (Matrix::zeros(q.rows, heads * d), Matrix::zeros(q.rows, heads));
    for (queries, keys) in queries.iter().zip(&keys) {
        for (i, row) in queries.clone().enumerate() {
            let seen = keys.start..keys.start + visible(args.causal, queries.len(), keys.len(), i);
            for head in 0..heads {
                let kv = head / (heads / kv_heads) * d;
                let query = &q.row(row)[head * d..(head + 1) * d];
                let scores: Vec<f64> =
                    seen.clone().map(|key| args.scale * dot(query, &k.row(key)[kv..kv + d])).collect();
                let (p, row_lse) = probabilities(&scores);
                lse[(row, head)] = row_lse;
                for (p, key) in p.iter().zip(seen.clone()) {
                    for c in 0..d {
                        o[(row, head * d + c)] += p * v[(key, kv + c)];
                    }
                }
            }
        }
    }
    o.store(args.o)?;
    lse.store(args.lse)
}

pub fn backward_reference(args: &AttentionBackward) -> Result<()> {
    let (qkv, d_o) = (Matrix::load(args.qkv)?, Matrix::load(args.d_o)?);
    let docs = documents("attention_backward", args.cu_seqlens, qkv.rows)?;
    let HeadShape { heads, kv_heads, head_dim: d } = args.shape;
    let mut dqkv = Matrix::zeros(qkv.rows, qkv.cols);
    for doc in &docs {
        for (i, row) in doc.clone().enumerate() {
            let seen = doc.start..doc.start + visible(args.causal, doc.len(), doc.len(), i);
            for head in 0..heads {
                let q = head * d;
                let k = args.shape.q_cols() + head / (heads / kv_heads) * d;
                let v = k + args.shape.kv_cols();
                let query = &qkv.row(row)[q..q + d];
                let scores: Vec<f64> =
                    seen.clone().map(|key| args.scale * dot(query, &qkv.row(key)[k..k + d])).collect();
                let (p, _) = probabilities(&scores);
                let grad = &d_o.row(row)[q..q + d];
                let dp: Vec<f64> = seen.clone().map(|key| dot(grad, &qkv.row(key)[v..v + d])).collect();
                let delta = dot(&p, &dp);
                for ((p, dp), key) in p.iter().zip(&dp).zip(seen.clone()) {
                    let ds = args.scale * p * (dp - delta);
                    for c in 0..d {
                        dqkv[(key, v + c)] += p * grad[c];
                        dqkv[(key, k + c)] += ds * query[c];
                        dqkv[(row, q + c)] += ds * qkv[(key, k + c)];
                    }
                }
            }
        }
    }
    dqkv.store(args.dqkv)
}
