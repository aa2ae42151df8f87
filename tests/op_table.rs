//! Every op of the vocabulary, on every backend and in every type, against the f64 reference.

use half::bf16;
use vila_engine::ops::*;
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, Error, NO_ROW, Result, Tensor};

/// Makes operands of one element type from values that every type up to f32 (or bf16) represents alike.
pub struct Case<'a> {
    pub backend: &'a dyn Backend,
    pub dtype: DType,
    pub coarse: bool,
    pub random: Stream,
    pub size: usize,
    /// What views are part of: no op may write around a view.
    wholes: Vec<Tensor>,
}

impl<'a> Case<'a> {
    pub fn new(backend: &'a dyn Backend, dtype: DType, coarse: bool, random: Stream, size: usize) -> Self {
        Case { backend, dtype, coarse, random, size, wholes: Vec::new() }
    }

    fn rows(&self) -> usize {
        [1, 7, 8, 37, 130, 0, 9][self.size]
    }

    fn cols(&self) -> usize {
        [5, 7, 32, 56, 96, 6, 1][self.size]
    }

    /// Shapes of ops that work on whole rows: also rows that no block keeps in registers, and several of them per block.
    fn wide_rows(&self) -> (usize, usize) {
        match self.size {
            1 => (13, 4_250),
            2 => (13, 8_456),
            _ => (self.rows(), self.cols()),
        }
    }

    /// Images, and patches of each.
    fn images(&self) -> (usize, usize) {
        if self.rows() == 0 { (0, 4) } else { (3, self.rows()) }
    }

    fn scaled(&mut self, rows: usize, cols: usize, scale: f64) -> Tensor {
        let values: Vec<f64> = (0..rows * cols)
            .map(|_| {
                let x = (scale * self.random.normal()) as f32;
                f64::from(if self.coarse { half::bf16::from_f32(x).to_f32() } else { x })
            })
            .collect();
        let tensor = self.backend.alloc(self.dtype, rows, cols).expect("alloc");
        self.set(&tensor, &values).expect("set");
        tensor
    }

    /// Elements of a tensor on any device.
    fn values(&self, tensor: &Tensor) -> Result<Vec<f64>> {
        match tensor.dtype() {
            DType::F64 => self.backend.to_vec::<f64>(tensor),
            DType::F32 => self.backend.to_vec::<f32>(tensor).map(|x| x.into_iter().map(f64::from).collect()),
            DType::BF16 => self.backend.to_vec::<bf16>(tensor).map(|x| x.into_iter().map(bf16::to_f64).collect()),
            _ => self.backend.to_vec::<u32>(tensor).map(|x| x.into_iter().map(f64::from).collect()),
        }
    }

    /// Overwrites a contiguous tensor on any device.
    fn set(&self, tensor: &Tensor, values: &[f64]) -> Result<()> {
        let host = self.on_host(tensor.dtype(), tensor.rows(), tensor.cols(), values)?;
        self.backend.upload(&CpuBackend::reference().download(&host)?, tensor)
    }

    fn on_host(&self, dtype: DType, rows: usize, cols: usize, values: &[f64]) -> Result<Tensor> {
        let host = CpuBackend::reference().alloc(dtype, rows, cols)?;
        host.set_f64(values).map(|()| host)
    }

    /// A copy in host memory.
    fn to_host(&self, tensor: &Tensor) -> Result<Tensor> {
        self.on_host(tensor.dtype(), tensor.rows(), tensor.cols(), &self.values(tensor)?)
    }

    fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        self.scaled(rows, cols, 1.0)
    }

    /// Columns in the middle of a wider tensor, whose rows start on 16 bytes in some cases; in one case some of them do.
    fn view(&mut self, rows: usize, cols: usize) -> Tensor {
        self.scaled_view(rows, cols, 1.0)
    }

    fn scaled_view(&mut self, rows: usize, cols: usize, scale: f64) -> Tensor {
        let aligned = if self.size == 3 { self.random.below(2) == 0 } else { self.size.is_multiple_of(2) };
        let (before, after) = if aligned { (16, 16 + cols.next_multiple_of(16) - cols) } else { (3, 2) };
        let whole = self.scaled(rows, before + cols + after, scale);
        self.wholes.push(whole.clone());
        whole.slice_cols(before..before + cols).expect("view")
    }

    /// Columns of a wider tensor, whose rows start on 16 bytes if `wide` and `cols` allow.
    fn columns(&mut self, rows: usize, cols: usize, wide: bool, scale: f64) -> Tensor {
        let (before, after) = if wide { (16, 16) } else { (3, 2) };
        self.scaled(rows, before + cols + after, scale).slice_cols(before..before + cols).expect("view")
    }

    fn out(&self, rows: usize, cols: usize) -> Tensor {
        self.backend.alloc(self.dtype, rows, cols).expect("alloc")
    }

    /// f32 (f64) memory for statistics.
    fn stat(&self, rows: usize, cols: usize) -> Tensor {
        self.backend.zeros(stat_dtype(self.dtype), rows, cols).expect("alloc")
    }

    /// Tensors of the type of statistics.
    fn in_stat_type<R>(&mut self, make: impl FnOnce(&mut Self) -> R) -> R {
        let dtype = self.dtype;
        self.dtype = stat_dtype(dtype);
        let made = make(self);
        self.dtype = dtype;
        made
    }

    fn indices(&mut self, len: usize, below: usize, holes: bool) -> Tensor {
        let values: Vec<u32> = (0..len)
            .map(|_| if holes && self.random.below(5) == 0 { NO_ROW } else { self.random.below(below) as u32 })
            .collect();
        self.backend.upload_u32(&values).expect("indices")
    }

    fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut values: Vec<u32> = (0..len as u32).collect();
        self.random.shuffle(&mut values);
        values
    }

    fn u32(&self, values: &[u32]) -> Tensor {
        self.backend.upload_u32(values).expect("u32")
    }
}

pub type Row = (&'static str, fn(&mut Case) -> Result<Vec<Tensor>>);

/// What a comma-separated `list` names of the rows `all`, or all rows without a list. A name that no row has is refused:
/// a typo would test nothing and pass.
pub fn named(list: Option<&str>, all: &'static [Row]) -> std::result::Result<Vec<&'static Row>, String> {
    let Some(list) = list else { return Ok(all.iter().collect()) };
    let row = |name: &str| {
        let known = || all.iter().map(|row| row.0).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|row| row.0 == name.trim());
        found.ok_or_else(|| format!("no row of the op table is named `{name}`; there are {}", known()))
    };
    list.split(',').map(row).collect()
}

#[test]
fn an_op_with_a_typo_is_refused() {
    assert_eq!(named(None, TABLE).expect("all").len(), TABLE.len());
    assert_eq!(
        named(Some("gemm, sample"), TABLE).expect("rows").iter().map(|row| row.0).collect::<Vec<_>>(),
        ["gemm", "sample"]
    );
    for typo in ["gem", "gemm,", "", "sample,attn"] {
        let message = named(Some(typo), TABLE).expect_err(typo);
        assert!(message.contains("no row of the op table") && message.contains("rms_norm"), "{message}");
    }
}

fn heads(c: &Case) -> HeadShape {
    let (heads, kv_heads) = [(1, 1), (4, 2), (2, 2), (3, 1), (6, 2), (2, 1), (1, 1)][c.size];
    HeadShape { heads, kv_heads, head_dim: [2, 8, 32, 6, 64, 4, 16][c.size] }
}

/// One call of attention.
struct AttentionCall {
    /// Query heads, key heads, head width.
    heads: (usize, usize, usize),
    /// Query rows; those after the last boundary belong to no document.
    rows: usize,
    queries: &'static [u32],
    keys: &'static [u32],
    causal: bool,
    spread: f64,
    /// Whether rows start on 16 bytes.
    wide: bool,
}

impl AttentionCall {
    fn shape(&self) -> HeadShape {
        let (heads, kv_heads, head_dim) = self.heads;
        HeadShape { heads, kv_heads, head_dim }
    }

    /// A call of self-attention has the same rows on both sides, others two keys more than are in use.
    fn key_rows(&self) -> usize {
        if self.queries == self.keys { self.rows } else { self.keys[self.keys.len() - 1] as usize + 2 }
    }

    fn within(heads: (usize, usize, usize), rows: usize, bounds: &'static [u32], causal: bool) -> Self {
        Self { heads, rows, queries: bounds, keys: bounds, causal, spread: 1.0, wide: heads.2.is_multiple_of(8) }
    }

    fn across(heads: (usize, usize, usize), queries: &'static [u32], keys: &'static [u32], causal: bool) -> Self {
        let rows = queries[queries.len() - 1] as usize;
        Self { queries, keys, ..Self::within(heads, rows, queries, causal) }
    }
}

/// Every head width that has a kernel of its own and odd ones between, all ratios of heads; documents that are empty, of one
/// row, off the tiles and longer than several; rows that see nothing; one query over many keys.
fn attention_calls(size: usize) -> Vec<AttentionCall> {
    use AttentionCall as Call;
    match size {
        0 => vec![
            Call::within((1, 1, 2), 2, &[0, 0, 1, 2], true),
            Call::within((3, 1, 16), 165, &[0, 1, 1, 140, 160], true),
            Call::within((2, 2, 10), 70, &[0, 70], false),
            Call::within((1, 1, 30), 75, &[0, 5, 75], false),
            Call { spread: 30.0, ..Call::within((2, 2, 32), 140, &[0, 140], true) },
            Call::within((1, 1, 3), 41, &MANY, true),
        ],
        1 => vec![
            Call::within((2, 1, 72), 141, &[0, 137, 141], true),
            Call { wide: false, ..Call::within((1, 1, 80), 70, &[0, 3, 70], false) },
            Call { wide: true, ..Call::within((2, 1, 90), 69, &[0, 69], false) },
            Call { rows: 3, ..Call::across((4, 1, 50), &[0, 1, 1, 2], &[0, 80, 80, 210], true) },
        ],
        2 => vec![
            Call { spread: 30.0, ..Call::within((1, 1, 96), 140, &[0, 17, 140], true) },
            Call::across((2, 1, 20), &[0, 40, 45, 110], &[0, 10, 75, 75], true),
            Call::across((8, 2, 128), &[0, 1, 2], &[0, 50, 300], true),
            Call::across((1, 1, 100), &[0, 0, 1], &[0, 30, 250], false),
            // Fewer queries than keys, and not one for each document.
            Call::across((6, 1, 64), &[0, 2, 2, 3], &[0, 300, 310, 310], true),
            Call::across((3, 3, 6), &[0, 1, 3], &[0, 50, 300], true),
        ],
        3 => vec![
            Call { spread: 8.0, ..Call::within((4, 2, 64), 155, &[0, 0, 1, 136, 150], true) },
            Call { wide: false, ..Call::within((1, 1, 62), 70, &[0, 70], false) },
            Call::across((3, 1, 64), &[0, 90, 97], &[0, 40, 170], true),
            Call::across((2, 1, 40), &[0, 1, 2, 3], &[0, 640, 640, 700], true),
            Call { wide: false, ..Call::across((5, 1, 128), &[0, 1], &[0, 170], false) },
        ],
        _ => vec![
            Call::within((1, 1, 64), 330, &[0, 330], true),
            Call::within((2, 1, 128), 150, &[0, 131, 140, 150], true),
            Call::within((1, 1, 113), 66, &[0, 66], false),
        ],
    }
}

/// More documents than a warp has lanes.
const MANY: [u32; 41] = {
    let mut bounds = [0; 41];
    let mut document = 0;
    while document < 40 {
        bounds[document + 1] = bounds[document] + document as u32 % 3;
        document += 1;
    }
    bounds
};

fn norm_stats(c: &Case, x: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let values = c.values(x)?;
    let rows = values.chunks(x.cols());
    Ok(rows
        .map(|row| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
            (mean, 1.0 / (variance + 1e-5).sqrt())
        })
        .unzip())
}

pub const TABLE: &[Row] = &[
    ("gemm", |c| {
        let (m, n, k) = (c.rows(), c.cols(), c.rows() + 3);
        let mut out = Vec::new();
        for (trans_a, trans_b, beta) in [(false, false, 0.0), (true, false, 1.0), (false, true, 0.5), (true, true, 0.0)]
        {
            let a = if trans_a { c.view(k, m) } else { c.view(m, k) };
            let b = if trans_b { c.view(n, k) } else { c.view(k, n) };
            let y = if beta == 0.0 { c.out(m, n) } else { c.tensor(m, n) };
            c.backend.gemm(&Gemm { a: &a, trans_a, b: &b, trans_b, c: &y, alpha: 0.7, beta })?;
            out.push(y);
        }
        Ok(out)
    }),
    ("linear", |c| {
        let (x, weight, bias) =
            (c.view(c.rows(), c.cols()), c.tensor(c.cols() + 1, c.cols()), c.tensor(1, c.cols() + 1));
        let (y, z) = (c.out(c.rows(), c.cols() + 1), c.out(c.rows(), c.cols() + 1));
        c.backend.linear(&Linear { x: &x, weight: &weight, bias: Some(&bias), y: &y })?;
        c.backend.linear(&Linear { x: &x, weight: &weight, bias: None, y: &z })?;
        Ok(vec![y, z])
    }),
    ("bias_grad", |c| {
        // Gradients of parameters are wider than activations in training.
        let (rows, cols) = c.wide_rows();
        let dbiases = [c.tensor(1, cols), c.in_stat_type(|c| c.tensor(1, cols))];
        for dbias in &dbiases {
            let dy = c.view(rows, cols);
            c.backend.bias_grad(&BiasGrad { dy: &dy, dbias })?;
        }
        Ok(dbiases.into())
    }),
    ("rms_norm", |c| {
        let (rows, cols) = c.wide_rows();
        let (x, residual, weight) = (c.view(rows, cols), c.view(rows, cols), c.tensor(1, cols));
        let (sum, y, z, rstd) = (c.view(rows, cols), c.view(rows, cols), c.out(rows, cols), c.stat(rows, 1));
        let eps = 1e-5;
        let base = RmsNorm { x: &x, residual: None, sum: None, weight: &weight, eps, y: &z, rstd: &rstd };
        c.backend.rms_norm(&base)?;
        c.backend.rms_norm(&RmsNorm { residual: Some(&residual), sum: Some(&sum), y: &y, ..base })?;
        Ok(vec![sum, y, z, rstd])
    }),
    ("rms_norm_backward", |c| {
        let (rows, cols) = c.wide_rows();
        let (dy, sum, weight, dsum) = (c.view(rows, cols), c.view(rows, cols), c.tensor(1, cols), c.view(rows, cols));
        let (rstd, dx, dz) = (c.stat(rows, 1), c.view(rows, cols), c.out(rows, cols));
        let (dweight, wide_dweight) = (c.tensor(1, cols), c.in_stat_type(|c| c.tensor(1, cols)));
        c.set(&rstd, &norm_stats(c, &sum)?.1)?;
        let base =
            RmsNormBackward { dy: &dy, sum: &sum, weight: &weight, rstd: &rstd, dsum: None, dx: None, dweight: None };
        c.backend.rms_norm_backward(&RmsNormBackward {
            dsum: Some(&dsum),
            dx: Some(&dx),
            dweight: Some(&wide_dweight),
            ..base
        })?;
        c.backend.rms_norm_backward(&RmsNormBackward { dx: Some(&dz), ..base })?;
        c.backend.rms_norm_backward(&RmsNormBackward { dweight: Some(&dweight), ..base })?;
        Ok(vec![dx, dz, dweight, wide_dweight])
    }),
    ("layer_norm", |c| {
        let (rows, cols) = c.wide_rows();
        let (x, weight, bias) = (c.view(rows, cols), c.tensor(1, cols), c.tensor(1, cols));
        let (y, mean, rstd) = (c.view(rows, cols), c.stat(rows, 1), c.stat(rows, 1));
        c.backend.layer_norm(&LayerNorm {
            x: &x,
            weight: &weight,
            bias: &bias,
            eps: 1e-5,
            y: &y,
            mean: &mean,
            rstd: &rstd,
        })?;
        Ok(vec![y, mean, rstd])
    }),
    ("layer_norm_backward", |c| {
        let (rows, cols) = c.wide_rows();
        let (dy, x, weight) = (c.view(rows, cols), c.view(rows, cols), c.tensor(1, cols));
        let (mean, rstd, dx, dz) = (c.stat(rows, 1), c.stat(rows, 1), c.view(rows, cols), c.out(rows, cols));
        let (dweight, dbias) = (c.tensor(1, cols), c.tensor(1, cols));
        let (wide_dweight, wide_dbias) = c.in_stat_type(|c| (c.tensor(1, cols), c.tensor(1, cols)));
        let (means, rstds) = norm_stats(c, &x)?;
        c.set(&mean, &means)?;
        c.set(&rstd, &rstds)?;
        let base = LayerNormBackward {
            dy: &dy,
            x: &x,
            weight: &weight,
            mean: &mean,
            rstd: &rstd,
            dx: None,
            dweight: None,
            dbias: None,
        };
        c.backend.layer_norm_backward(&LayerNormBackward {
            dx: Some(&dx),
            dweight: Some(&wide_dweight),
            dbias: Some(&wide_dbias),
            ..base
        })?;
        c.backend.layer_norm_backward(&LayerNormBackward { dx: Some(&dz), ..base })?;
        c.backend.layer_norm_backward(&LayerNormBackward { dweight: Some(&dweight), dbias: Some(&dbias), ..base })?;
        Ok(vec![dx, dz, dweight, dbias, wide_dweight, wide_dbias])
    }),
    ("rope", |c| {
        let (rows, shape) = (c.rows(), HeadShape { head_dim: [2, 22, 32, 6, 64, 4, 16][c.size], ..heads(c) });
        let (cos, sin) = c.in_stat_type(|c| (c.view(20, shape.head_dim / 2), c.tensor(20, shape.head_dim / 2)));
        let positions = c.indices(rows, 20, false);
        let mut out = Vec::new();
        for inverse in [false, true] {
            let x = c.view(rows, shape.qkv_cols());
            let (heads, head_dim) = (shape.heads + shape.kv_heads, shape.head_dim);
            c.backend.rope(&Rope { x: &x, heads, head_dim, cos: &cos, sin: &sin, positions: &positions, inverse })?;
            out.push(x);
        }
        Ok(out)
    }),
    ("attention", |c| {
        let mut out = Vec::new();
        for call in attention_calls(c.size) {
            let shape = call.shape();
            let q = c.columns(call.rows, shape.q_cols(), call.wide, call.spread);
            let k = c.columns(call.key_rows(), shape.kv_cols(), call.wide, 1.0);
            let v = c.columns(call.key_rows(), shape.kv_cols(), call.wide, 1.0);
            let (o, lse) = (c.out(call.rows, shape.q_cols()), c.stat(call.rows, shape.heads));
            c.backend.attention(&Attention {
                q: &q,
                k: &k,
                v: &v,
                cu_seqlens_q: &c.u32(call.queries),
                cu_seqlens_k: &c.u32(call.keys),
                shape,
                scale: 1.0 / (shape.head_dim as f64).sqrt(),
                causal: call.causal,
                o: &o,
                lse: &lse,
            })?;
            out.extend([o, lse]);
        }
        Ok(out)
    }),
    ("attention_backward", |c| {
        let mut out = Vec::new();
        for call in attention_calls(c.size).iter().filter(|call| call.queries == call.keys) {
            let (rows, shape) = (call.rows, call.shape());
            let before = if call.wide { 16 } else { 3 };
            // Larger scores than these cost f32 more digits than the tolerance leaves.
            let spread = call.spread.min(16.0).sqrt();
            let whole = c.scaled(rows, before + shape.qkv_cols() + before, spread);
            let qkv = whole.slice_cols(before..before + shape.qkv_cols())?;
            let d_o = c.columns(rows, shape.q_cols(), call.wide, 1.0);
            let (o, lse) = (c.out(rows, shape.q_cols()), c.stat(rows, shape.heads));
            let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
            let scale = 1.0 / (shape.head_dim as f64).sqrt();
            // The statistics come from the reference for both, so that only the backward pass is compared.
            let host_qkv = c.to_host(&whole)?.slice_cols(before..before + shape.qkv_cols())?;
            let (host_o, host_lse) = (c.to_host(&o)?, c.to_host(&lse)?);
            let bounds = CpuBackend::reference().upload_u32(call.queries)?;
            CpuBackend::reference().attention(&Attention {
                q: &host_qkv.slice_cols(0..q_end)?,
                k: &host_qkv.slice_cols(q_end..k_end)?,
                v: &host_qkv.slice_cols(k_end..shape.qkv_cols())?,
                cu_seqlens_q: &bounds,
                cu_seqlens_k: &bounds,
                shape,
                scale,
                causal: call.causal,
                o: &host_o,
                lse: &host_lse,
            })?;
            c.set(&o, &host_o.to_f64()?)?;
            c.set(&lse, &host_lse.to_f64()?)?;
            let dqkv = c.out(rows, shape.qkv_cols());
            c.backend.attention_backward(&AttentionBackward {
                qkv: &qkv,
                cu_seqlens: &c.u32(call.queries),
                shape,
                scale,
                causal: call.causal,
                o: &o,
                lse: &lse,
                d_o: &d_o,
                dqkv: &dqkv,
            })?;
            out.push(dqkv);
        }
        Ok(out)
    }),
    ("swiglu", |c| {
        let (gate_up, y) = (c.scaled_view(c.rows(), 2 * c.cols(), 4.0), c.view(c.rows(), c.cols()));
        c.backend.swiglu(&Swiglu { gate_up: &gate_up, y: &y })?;
        Ok(vec![y])
    }),
    ("swiglu_backward", |c| {
        let (gate_up, dy) = (c.scaled_view(c.rows(), 2 * c.cols(), 4.0), c.view(c.rows(), c.cols()));
        let dgate_up = c.view(c.rows(), 2 * c.cols());
        c.backend.swiglu_backward(&SwigluBackward { dy: &dy, gate_up: &gate_up, dgate_up: &dgate_up })?;
        Ok(vec![dgate_up])
    }),
    ("gelu", |c| {
        [GeluKind::Erf, GeluKind::Tanh, GeluKind::Quick]
            .map(|kind| {
                let (x, y) = (c.scaled_view(c.rows(), c.cols(), 3.0), c.view(c.rows(), c.cols()));
                c.backend.gelu(&Gelu { kind, x: &x, y: &y }).map(|()| y)
            })
            .into_iter()
            .collect()
    }),
    ("gelu_backward", |c| {
        [GeluKind::Erf, GeluKind::Tanh, GeluKind::Quick]
            .map(|kind| {
                let (x, dy, dx) =
                    (c.scaled_view(c.rows(), c.cols(), 3.0), c.tensor(c.rows(), c.cols()), c.view(c.rows(), c.cols()));
                c.backend.gelu_backward(&GeluBackward { kind, dy: &dy, x: &x, dx: &dx }).map(|()| dx)
            })
            .into_iter()
            .collect()
    }),
    ("gather_rows", |c| {
        let (table, index, y) = (c.view(11, c.cols()), c.indices(c.rows(), 11, true), c.view(c.rows(), c.cols()));
        c.backend.gather_rows(&GatherRows { table: &table, index: &index, y: &y })?;
        Ok(vec![y])
    }),
    ("scatter_rows", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.view(c.rows() + 4, c.cols()));
        let index = c.permutation(c.rows() + 4);
        let index = c.u32(&index[..c.rows()]);
        c.backend.scatter_rows(&ScatterRows { x: &x, index: &index, y: &y })?;
        Ok(vec![y])
    }),
    ("scatter_add_rows", |c| {
        let (x, index) = (c.view(c.rows(), c.cols()), c.indices(c.rows(), 5, true));
        let (y, wide) = (c.view(5, c.cols()), c.in_stat_type(|c| c.view(5, c.cols())));
        for y in [&y, &wide] {
            c.backend.scatter_add_rows(&ScatterAddRows { x: &x, index: &index, y })?;
        }
        // A common index among many.
        let rows = if c.size == 1 { 1_100 } else { 0 };
        let values: Vec<u32> = (0..rows).map(|i| if i % 7 == 3 { i % 4 } else { 2 }).collect();
        let (x, index) = (c.tensor(values.len(), 3), c.u32(&values));
        let (common, wide_common) = (c.tensor(5, 3), c.in_stat_type(|c| c.tensor(5, 3)));
        for y in [&common, &wide_common] {
            c.backend.scatter_add_rows(&ScatterAddRows { x: &x, index: &index, y })?;
        }
        Ok(vec![y, wide, common, wide_common])
    }),
    ("vision_embed", |c| {
        let mut out = Vec::new();
        for has_class in [true, false] {
            let (images, patches) = c.images();
            let positions = c.tensor(patches + usize::from(has_class), c.cols());
            let (patches, class) = (c.view(images * patches, c.cols()), c.tensor(1, c.cols()));
            let y = c.view(images * positions.rows(), c.cols());
            let class = has_class.then_some(&class);
            c.backend.vision_embed(&VisionEmbed { patches: &patches, class, positions: &positions, y: &y })?;
            out.push(y);
        }
        Ok(out)
    }),
    ("vision_embed_backward", |c| {
        let mut out = Vec::new();
        for has_class in [true, false] {
            let (images, patches) = c.images();
            let rows_per_image = patches + usize::from(has_class);
            let (dy, dclass) = (c.view(images * rows_per_image, c.cols()), c.tensor(1, c.cols()));
            let (dpatches, dpositions) = (c.view(images * patches, c.cols()), c.view(rows_per_image, c.cols()));
            c.backend.vision_embed_backward(&VisionEmbedBackward {
                dy: &dy,
                dpatches: Some(&dpatches),
                dclass: has_class.then_some(&dclass),
                dpositions: Some(&dpositions),
                rows_per_image,
                has_class,
            })?;
            out.extend([dpatches, dclass, dpositions]);
            // Gradients of parameters are wider than activations in training, and not everything trains.
            let (dclass, dpositions) = c.in_stat_type(|c| (c.tensor(1, c.cols()), c.tensor(rows_per_image, c.cols())));
            let part = VisionEmbedBackward {
                dy: &dy,
                dpatches: None,
                dclass: has_class.then_some(&dclass),
                dpositions: None,
                rows_per_image,
                has_class,
            };
            c.backend.vision_embed_backward(&VisionEmbedBackward { dpositions: Some(&dpositions), ..part })?;
            let dpatches = c.view(images * patches, c.cols());
            c.backend.vision_embed_backward(&VisionEmbedBackward { dpatches: Some(&dpatches), ..part })?;
            out.extend([dpatches, dclass, dpositions]);
        }
        Ok(out)
    }),
    ("extract_patches", |c| {
        let (size, patch) = [(2, 2), (7, 3), (8, 2), (28, 7), (32, 8), (3, 1), (5, 5)][c.size];
        let grid = size / patch;
        let (pixels, y) =
            (c.tensor(c.images().0, 3 * size * size), c.out(c.images().0 * grid * grid, 3 * patch * patch));
        c.backend.extract_patches(&ExtractPatches { pixels: &pixels, size, patch, y: &y })?;
        Ok(vec![y])
    }),
    ("linear_cross_entropy", |c| {
        // Also a vocabulary that no thread holds, and more rows than a chunk has.
        let (rows, cols, vocab) =
            [(3, 5, 11), (5, 6, 2_501), (24, 32, 18), (111, 50, 47), (1_100, 8, 13), (0, 6, 10), (9, 1, 19)][c.size];
        let mut out = Vec::new();
        for (spread, masked) in
            [(1.0, false), (20.0, true), (80.0, true)].into_iter().take(if c.size == 4 { 1 } else { 3 })
        {
            let (hidden, weight) = (c.scaled(rows, cols, spread), c.tensor(vocab, cols));
            let (targets, loss) = (c.indices(rows, vocab, masked), c.stat(1, 1));
            let (row_loss, dhidden, dweight) = (c.stat(rows, 1), c.out(rows, cols), c.tensor(vocab, cols));
            let base = LinearCrossEntropy {
                hidden: &hidden,
                weight: &weight,
                targets: &targets,
                scale: 1.0 / rows.max(1) as f64,
                loss: &loss,
                row_loss: None,
                dhidden: None,
                dweight: None,
            };
            c.backend.linear_cross_entropy(&base)?;
            c.backend.linear_cross_entropy(&LinearCrossEntropy {
                row_loss: Some(&row_loss),
                dhidden: Some(&dhidden),
                dweight: Some(&dweight),
                ..base
            })?;
            let wrong = c.u32(&vec![vocab as u32; rows]);
            let lost = c.stat(1, 1);
            let run = c.backend.linear_cross_entropy(&LinearCrossEntropy { targets: &wrong, loss: &lost, ..base });
            // A device finds it later.
            match run.and_then(|()| c.values(&lost)) {
                Err(Error::Index { op: "linear_cross_entropy", index, rows, .. }) => {
                    out.push(c.u32(&[index, rows as u32]))
                }
                other => other.map(|_| out.push(c.u32(&[0, 0])))?,
            }
            out.extend([loss, row_loss, dhidden, dweight]);
        }
        Ok(out)
    }),
    ("dropout", |c| {
        let (x, y, z) = (c.view(c.rows(), c.cols()), c.view(c.rows(), c.cols()), c.out(c.rows(), c.cols()));
        c.backend.dropout(&Dropout { x: &x, p: 0.3, seed: 5, stream: 1 << 40, y: &y })?;
        let packed = c.tensor(c.rows(), c.cols());
        c.backend.dropout(&Dropout { x: &packed, p: 0.3, seed: 5, stream: 1 << 40, y: &z })?;
        Ok(vec![y, z])
    }),
    ("add", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.view(c.rows(), c.cols()));
        c.backend.add(&Add { x: &x, y: &y })?;
        Ok(vec![y])
    }),
    ("copy", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.view(c.rows(), c.cols()));
        c.backend.copy(&Copy { x: &x, y: &y })?;
        let (widened, back) = (c.in_stat_type(|c| c.view(c.rows(), c.cols())), c.view(c.rows(), c.cols()));
        c.backend.copy(&Copy { x: &x, y: &widened })?;
        c.backend.copy(&Copy { x: &widened, y: &back })?;
        Ok(vec![y, widened, back])
    }),
    ("scale", |c| {
        let y = c.view(c.rows(), c.cols());
        c.backend.scale(&Scale { y: &y, factor: -1.5 })?;
        Ok(vec![y])
    }),
    ("fill", |c| {
        let y = c.view(c.rows(), c.cols());
        c.backend.fill(&Fill { y: &y, value: 2.5 })?;
        Ok(vec![y])
    }),
    ("sum_squares", |c| {
        let n = [5, 600, 5_000, 30_000, 1_100_003, 0, 9][c.size];
        let middle = n.min(700);
        let (sum, unaligned) = (c.backend.zeros(DType::F64, 1, 1)?, c.backend.zeros(DType::F64, 1, 1)?);
        let (x, infinite) = (c.tensor(1, n), c.backend.zeros(DType::F64, 1, 1)?);
        c.backend.sum_squares(&SumSquares { x: &x, sum: &sum })?;
        c.backend.sum_squares(&SumSquares { x: &x.slice_cols(n.saturating_sub(5)..n)?, sum: &sum })?;
        c.backend.sum_squares(&SumSquares { x: &x.slice_cols(middle - n.min(13)..middle)?, sum: &unaligned })?;
        let y = c.tensor(1, 7);
        c.set(&y, &[1.0, 2.0, f64::INFINITY, 3.0, 4.0, 5.0, 6.0])?;
        c.backend.sum_squares(&SumSquares { x: &y, sum: &infinite })?;
        Ok(vec![sum, unaligned, infinite])
    }),
    ("gradient_gate", |c| {
        let mut out = Vec::new();
        let (updates, nan) = (c.u32(&[7]), f32::NAN);
        let long = vec![0.5; 100];
        let cases: [(f64, f64, Option<&[f32]>); 8] = [
            (9.0, 1.0, None),
            (9.0, 0.0, Some(&[1.0, 2.0])),
            (9.0, 5.0, Some(&long)),
            (0.0, 1.0, None),
            (1e60, 1.0, None),
            (f64::INFINITY, 1.0, None),
            (9.0, 1.0, Some(&[0.5, nan])),
            (9.0, 1.0, Some(&[f32::INFINITY, 0.5, 0.5])),
        ];
        for (sum, clip, losses) in cases {
            let (gate, old) = (c.backend.alloc(DType::F32, 1, 4)?, c.backend.alloc(DType::F64, 1, 1)?);
            c.set(&old, &[sum])?;
            let losses = losses.map(|losses| c.backend.upload_f32(losses.len(), 1, losses)).transpose()?;
            let losses = losses.as_ref();
            c.backend.gradient_gate(&GradientGate { sum: &old, losses, clip, gate: &gate, updates: &updates })?;
            out.extend([gate, c.u32(&c.backend.to_vec::<u32>(&updates)?)]);
        }
        Ok(out)
    }),
    ("adamw", |c| {
        let n = [3, 42, 260, 1_850, 17_011, 4, 9][c.size];
        let start = if c.size.is_multiple_of(2) { 0 } else { 3 };
        let values = |c: &mut Case| c.tensor(1, n);
        let (w, m, v, g) = (values(c), values(c), values(c), values(c));
        let (weights, grad) = (c.stat(1, n), c.stat(1, n));
        c.set(&weights, &c.values(&w)?)?;
        c.set(&grad, &c.values(&g)?)?;
        c.set(&v, &c.values(&v)?.iter().map(|x| x * x).collect::<Vec<_>>())?;
        let publish = c.backend.zeros(DType::BF16, 1, n)?;
        let shut = c.backend.upload_f32(1, 4, &[0.0, f32::INFINITY, 0.0, 0.0])?;
        let (gate, updates) = (c.backend.upload_f32(1, 4, &[0.5, 2.0, 1.0, 0.0])?, c.u32(&[5]));
        let [weights_cut, m_cut, v_cut, grad_cut, publish_cut] =
            [&weights, &m, &v, &grad, &publish].map(|whole| whole.slice_cols(start..n).expect("range"));
        let base = AdamW {
            weights: &weights_cut,
            m: &m_cut,
            v: &v_cut,
            grad: &grad_cut,
            publish: Some(&publish_cut),
            gate: &gate,
            updates: &updates,
            lr: 1e-2,
            betas: (0.9, 0.98),
            eps: 1e-8,
            decay: 0.1,
            seed: 3,
            offset: start as u64,
        };
        c.backend.adamw(&base)?;
        c.backend.adamw(&AdamW { gate: &shut, ..base })?;
        c.backend.adamw(&AdamW { publish: None, ..base })?;
        // Moments in bf16 whose values before rounding are exact: the same bits everywhere.
        let on_grid = |c: &mut Case, steps: f64| -> Result<Vec<f64>> {
            let values = c.tensor(1, n);
            Ok(c.values(&values)?
                .iter()
                .map(|x| (steps * x).round() / steps)
                .map(|x: f64| x.clamp(-2.5, 2.5))
                .collect())
        };
        let moment = || c.backend.zeros(DType::BF16, 1, n);
        let (exact_m, exact_v, coarse_grad) = (moment()?, moment()?, c.stat(1, n));
        let (old_m, old_v, new_grad) = (on_grid(c, 8.0)?, on_grid(c, 8.0)?, on_grid(c, 256.0)?);
        c.set(&exact_m, &old_m)?;
        c.set(&exact_v, &old_v.iter().map(|x| x * x).collect::<Vec<_>>())?;
        c.set(&coarse_grad, &new_grad)?;
        let many = c.u32(&[3_000_000]);
        c.backend.adamw(&AdamW {
            weights: &weights,
            m: &exact_m,
            v: &exact_v,
            grad: &coarse_grad,
            publish: None,
            updates: &many,
            betas: (0.5, 0.75),
            seed: 1 << 40,
            offset: (1 << 34) + start as u64,
            ..base
        })?;
        let bits = |moment: &Tensor| -> Result<Tensor> {
            let bits: Vec<u32> =
                c.backend.to_vec::<bf16>(moment)?.into_iter().map(|x| u32::from(x.to_bits())).collect();
            Ok(c.u32(&bits))
        };
        Ok(vec![bits(&exact_m)?, bits(&exact_v)?, weights, m, v, publish])
    }),
    ("sample", |c| {
        let (rows, vocab) = [(1, 1), (3, 2_600), (4, 17), (5, 90), (9, 200), (0, 6), (9, 1)][c.size];
        let mut out = Vec::new();
        for (temperature, top_p, grid) in [
            (0.0, 1.0, 2.0),
            (0.7, 0.9, 1e-6),
            (1.0, 1.0, 1e-6),
            (1.3, 0.5, 0.5),
            (0.9, 0.8, 1.0),
            (1.0, 0.0, 2.0),
            (50.0, 1.0, 4.0),
        ] {
            // Coarse scores tie; the last row has a score that is no number, and one that is infinitely low.
            let logits = c.scaled(rows, vocab, 3.0);
            let mut values: Vec<f64> =
                c.values(&logits)?.iter().map(|x| if grid < 1e-3 { *x } else { (x / grid).round() * grid }).collect();
            if rows > 0 && vocab > 2 {
                values[(rows - 1) * vocab] = f64::NAN;
                values[rows * vocab - 2] = f64::NEG_INFINITY;
                // Zeros of either sign are alike; here they are the highest.
                let zeros = values.iter_mut().filter(|x| **x == 0.0).enumerate();
                zeros.for_each(|(index, zero)| *zero = if index % 2 == 0 { -0.0 } else { 0.0 });
                if temperature == 0.0 {
                    values.iter_mut().filter(|x| **x > 0.0).for_each(|x| *x = -*x);
                }
            }
            c.set(&logits, &values)?;
            let draws = c.backend.alloc(DType::U32, rows, 1)?;
            c.backend.sample(&Sample { logits: &logits, temperature, top_p, seed: 11, index: 5, out: &draws })?;
            out.push(draws);
        }
        Ok(out)
    }),
];

/// Number of size classes of a case.
pub const SIZES: usize = 7;

/// One output tensor; integers must agree exactly.
pub struct Output {
    pub values: Vec<f64>,
    pub exact: bool,
}

/// Outputs of one row on one backend.
pub fn run(backend: &dyn Backend, dtype: DType, coarse: bool, size: usize, row: &Row) -> Result<Vec<Output>> {
    let mut case = Case::new(backend, dtype, coarse, Stream::new(7, size as u64), size);
    let outputs = (row.1)(&mut case)?;
    let output = |tensor: &Tensor| Ok(Output { values: case.values(tensor)?, exact: tensor.dtype() == DType::U32 });
    outputs.iter().chain(&case.wholes).map(output).collect()
}

/// What the f64 reference makes of the operands that a backend gets in `dtype`.
pub fn expected(dtype: DType, size: usize, row: &Row) -> Vec<Output> {
    let outputs = run(&CpuBackend::reference(), DType::F64, dtype == DType::BF16, size, row);
    outputs.unwrap_or_else(|error| panic!("{} case {size}: {error}", row.0))
}

/// Largest relative error of a tensor for a type.
pub fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::BF16 { 1e-2 } else { 1e-5 }
}

/// ||a - b|| / ||b|| within the tolerance, and no element off by more than eight of it in units of the largest.
pub fn agree(got: &[Output], want: &[Output], tolerance: f64) -> std::result::Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} outputs instead of {}", got.len(), want.len()));
    }
    for (output, (got, want)) in got.iter().zip(want).enumerate() {
        let tolerance = if want.exact { 0.0 } else { tolerance };
        let (got, want) = (&got.values, &want.values);
        if got.len() != want.len() {
            return Err(format!("output {output} has {} elements instead of {}", got.len(), want.len()));
        }
        let differences = || got.iter().zip(want).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
        let finite = || want.iter().filter(|x| x.is_finite());
        let norm: f64 = finite().map(|x| x * x).sum();
        let error = (differences().map(|d| d * d).sum::<f64>() / norm.max(1e-300)).sqrt();
        let bound = 8.0 * tolerance * finite().fold(0.0, |max: f64, x| max.max(x.abs()));
        let at = differences().position(|d| d.is_nan() || d > bound);
        if error.is_nan() || error > tolerance {
            return Err(format!("output {output}: relative error {error:e}"));
        }
        if let Some(at) = at {
            return Err(format!("output {output} element {at}: {} instead of {}", got[at], want[at]));
        }
    }
    Ok(())
}

fn compare(backend: &CpuBackend, dtype: DType) {
    for row in TABLE {
        for size in 0..SIZES {
            let got = run(backend, dtype, dtype == DType::BF16, size, row).unwrap_or_else(|e| panic!("{}: {e}", row.0));
            agree(&got, &expected(dtype, size, row), tolerance(dtype))
                .unwrap_or_else(|error| panic!("{} {dtype:?} case {size}: {error}", row.0));
        }
    }
}

#[test]
fn fast_path_agrees_with_the_reference() {
    compare(&CpuBackend::fast(), DType::F32);
}

#[test]
fn reference_in_f32_agrees_with_f64() {
    compare(&CpuBackend::reference(), DType::F32);
}

#[test]
fn bf16_policy_agrees_with_f64() {
    compare(&CpuBackend::fast(), DType::BF16);
}

type WrongIndex = (&'static str, fn(&mut Case) -> Result<Vec<f64>>);

/// Operands with index 6 for 6 rows at position 1: the op, and its output read back.
const WRONG_INDEX: &[WrongIndex] = &[
    ("rope", |c| {
        let (x, positions) = (c.tensor(3, 8), c.u32(&[5, 6, 0]));
        let (cos, sin) = c.in_stat_type(|c| (c.tensor(6, 4), c.tensor(6, 4)));
        let rope = Rope { x: &x, heads: 1, head_dim: 8, cos: &cos, sin: &sin, positions: &positions, inverse: false };
        c.backend.rope(&rope).and_then(|()| c.values(&x))
    }),
    ("gather_rows", |c| {
        let (table, index, y) = (c.tensor(6, 8), c.u32(&[5, 6, 0]), c.out(3, 8));
        c.backend.gather_rows(&GatherRows { table: &table, index: &index, y: &y }).and_then(|()| c.values(&y))
    }),
    ("scatter_rows", |c| {
        let (x, index, y) = (c.tensor(3, 8), c.u32(&[5, 6, 0]), c.tensor(6, 8));
        c.backend.scatter_rows(&ScatterRows { x: &x, index: &index, y: &y }).and_then(|()| c.values(&y))
    }),
    ("scatter_add_rows", |c| {
        let (x, index, y) = (c.tensor(3, 8), c.u32(&[5, 6, 0]), c.in_stat_type(|c| c.tensor(6, 8)));
        c.backend.scatter_add_rows(&ScatterAddRows { x: &x, index: &index, y: &y }).and_then(|()| c.values(&y))
    }),
];

/// That an op with indices names a wrong one, at the latest when a result is read.
pub fn check_wrong_index(backend: &dyn Backend, dtype: DType, row: &Row) {
    for (_, run) in WRONG_INDEX.iter().filter(|wrong| wrong.0 == row.0) {
        match run(&mut Case::new(backend, dtype, true, Stream::new(3, 0), 1)) {
            Err(vila_engine::Error::Index { op, at: 1, index: 6, rows: 6 }) if op == row.0 => {}
            other => panic!("{} {dtype:?}: {other:?}", row.0),
        }
    }
}

#[test]
fn wrong_indices_are_errors() {
    for row in TABLE {
        check_wrong_index(&CpuBackend::fast(), DType::F32, row);
        check_wrong_index(&CpuBackend::reference(), DType::BF16, row);
    }
}

#[test]
fn every_op_of_the_backend_has_a_row() {
    let source = include_str!("../engine/src/backend.rs");
    let ops = source.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.split_once("(&self, args: &"));
    let ops: Vec<&str> = ops.map(|(name, _)| name).collect();
    let rows: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
    assert!(ops.len() > 20, "the parser of the trait found only {ops:?}");
    assert_eq!(ops.iter().filter(|op| !rows.contains(op)).collect::<Vec<_>>(), Vec::<&&str>::new());
    let measured = vila_train::bench::kernels::cases(&vila_train::bench::kernels::sizes("toy").expect("preset"));
    let unmeasured: Vec<_> = ops.iter().filter(|op| !measured.iter().any(|case| case.op == **op)).collect();
    assert!(unmeasured.is_empty(), "not in `vila bench kernels`: {unmeasured:?}");
}

#[test]
fn linear_is_row_invariant() {
    let cpu = CpuBackend::fast();
    for (k, n) in [(96, 288), (256, 96), (48, 200), (33, 7), (100, 1), (1000, 64), (512, 1376)] {
        let mut case = Case::new(&cpu, DType::F32, false, Stream::new(1, 2), 0);
        let (x, weight) = (case.tensor(300, k), case.tensor(n, k));
        let whole = cpu.alloc(DType::F32, 300, n).expect("alloc");
        cpu.linear(&Linear { x: &x, weight: &weight, bias: None, y: &whole }).expect("linear");
        let whole = whole.to_f32().expect("values");
        for (start, rows) in [(0, 1), (5, 3), (17, 8), (100, 13), (3, 64), (0, 299), (40, 128)] {
            let part = cpu.alloc(DType::F32, rows, n).expect("alloc");
            let x = x.slice_rows(start..start + rows).expect("rows");
            cpu.linear(&Linear { x: &x, weight: &weight, bias: None, y: &part }).expect("linear");
            assert_eq!(
                part.to_f32().expect("values"),
                whole[start * n..(start + rows) * n],
                "{rows} rows of [{k}, {n}]"
            );
        }
    }
}

#[test]
fn an_output_that_aliases_an_input_is_an_error() {
    let cpu = CpuBackend::fast();
    let x = cpu.upload_f32(2, 4, &[1.0; 8]).expect("tensor");
    let error = cpu.swiglu(&Swiglu { gate_up: &x, y: &x.slice_cols(0..2).expect("view") }).expect_err("aliased");
    assert!(matches!(error, vila_engine::Error::Aliased), "{error}");
}
