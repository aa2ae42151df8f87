//! Every op of the vocabulary: the fast path and the bf16 policy against the f64 reference.

use vila_engine::ops::*;
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, NO_ROW, Result, Tensor};

/// Makes operands of one element type from values that every type up to f32 (or bf16) represents alike.
struct Case<'a> {
    backend: &'a dyn Backend,
    dtype: DType,
    coarse: bool,
    random: Stream,
    size: usize,
}

impl Case<'_> {
    fn rows(&self) -> usize {
        [1, 7, 8, 37, 130][self.size]
    }

    fn cols(&self) -> usize {
        [5, 6, 32, 50, 96][self.size]
    }

    fn scaled(&mut self, rows: usize, cols: usize, scale: f64) -> Tensor {
        let values: Vec<f64> = (0..rows * cols)
            .map(|_| {
                let x = (scale * self.random.normal()) as f32;
                f64::from(if self.coarse { half::bf16::from_f32(x).to_f32() } else { x })
            })
            .collect();
        let tensor = self.backend.alloc(self.dtype, rows, cols).expect("alloc");
        tensor.set_f64(&values).expect("set");
        tensor
    }

    fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        self.scaled(rows, cols, 1.0)
    }

    /// Columns in the middle of a wider tensor.
    fn view(&mut self, rows: usize, cols: usize) -> Tensor {
        self.tensor(rows, cols + 5).slice_cols(3..3 + cols).expect("view")
    }

    fn out(&self, rows: usize, cols: usize) -> Tensor {
        self.backend.alloc(self.dtype, rows, cols).expect("alloc")
    }

    /// f32 (f64) memory for statistics.
    fn stat(&self, rows: usize, cols: usize) -> Tensor {
        self.backend.zeros(stat_dtype(self.dtype), rows, cols).expect("alloc")
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

    /// Boundaries with documents of length 0 and 1 among them.
    fn documents(&mut self, rows: usize) -> Vec<u32> {
        let mut bounds = vec![0, 0];
        while bounds[bounds.len() - 1] < rows as u32 {
            let step = [1, 3, 17, 70, 200][self.random.below(5)];
            bounds.push((bounds[bounds.len() - 1] + step).min(rows as u32));
        }
        bounds
    }

    fn u32(&self, values: &[u32]) -> Tensor {
        self.backend.upload_u32(values).expect("u32")
    }
}

type Row = (&'static str, fn(&mut Case) -> Result<Vec<Tensor>>);

fn heads(c: &Case) -> HeadShape {
    let (heads, kv_heads) = [(1, 1), (4, 2), (2, 2), (3, 1), (6, 2)][c.size];
    HeadShape { heads, kv_heads, head_dim: [2, 8, 32, 6, 64][c.size] }
}

fn norm_stats(x: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let values = x.to_f64().expect("values");
    let rows = values.chunks(x.cols());
    rows.map(|row| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (mean, 1.0 / (variance + 1e-5).sqrt())
    })
    .unzip()
}

const TABLE: &[Row] = &[
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
        let (dy, dbias) = (c.view(c.rows(), c.cols()), c.tensor(1, c.cols()));
        c.backend.bias_grad(&BiasGrad { dy: &dy, dbias: &dbias })?;
        Ok(vec![dbias])
    }),
    ("rms_norm", |c| {
        let (rows, cols) = (c.rows(), c.cols());
        let (x, residual, weight) = (c.view(rows, cols), c.tensor(rows, cols), c.tensor(1, cols));
        let (sum, y, z, rstd) = (c.out(rows, cols), c.out(rows, cols), c.out(rows, cols), c.stat(rows, 1));
        let eps = 1e-5;
        let base = RmsNorm { x: &x, residual: None, sum: None, weight: &weight, eps, y: &z, rstd: &rstd };
        c.backend.rms_norm(&base)?;
        c.backend.rms_norm(&RmsNorm { residual: Some(&residual), sum: Some(&sum), y: &y, ..base })?;
        Ok(vec![sum, y, z, rstd])
    }),
    ("rms_norm_backward", |c| {
        let (rows, cols) = (c.rows(), c.cols());
        let (dy, sum, weight, dsum) =
            (c.tensor(rows, cols), c.view(rows, cols), c.tensor(1, cols), c.tensor(rows, cols));
        let (rstd, dx, dweight) = (c.stat(rows, 1), c.out(rows, cols), c.tensor(1, cols));
        rstd.set_f64(&norm_stats(&sum).1)?;
        c.backend.rms_norm_backward(&RmsNormBackward {
            dy: &dy,
            sum: &sum,
            weight: &weight,
            rstd: &rstd,
            dsum: Some(&dsum),
            dx: Some(&dx),
            dweight: Some(&dweight),
        })?;
        Ok(vec![dx, dweight])
    }),
    ("layer_norm", |c| {
        let (rows, cols) = (c.rows(), c.cols());
        let (x, weight, bias) = (c.view(rows, cols), c.tensor(1, cols), c.tensor(1, cols));
        let (y, mean, rstd) = (c.out(rows, cols), c.stat(rows, 1), c.stat(rows, 1));
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
        let (rows, cols) = (c.rows(), c.cols());
        let (dy, x, weight) = (c.tensor(rows, cols), c.view(rows, cols), c.tensor(1, cols));
        let (mean, rstd, dx) = (c.stat(rows, 1), c.stat(rows, 1), c.out(rows, cols));
        let (dweight, dbias) = (c.tensor(1, cols), c.tensor(1, cols));
        let (means, rstds) = norm_stats(&x);
        mean.set_f64(&means)?;
        rstd.set_f64(&rstds)?;
        c.backend.layer_norm_backward(&LayerNormBackward {
            dy: &dy,
            x: &x,
            weight: &weight,
            mean: &mean,
            rstd: &rstd,
            dx: Some(&dx),
            dweight: Some(&dweight),
            dbias: Some(&dbias),
        })?;
        Ok(vec![dx, dweight, dbias])
    }),
    ("rope", |c| {
        let (rows, shape) = (c.rows(), heads(c));
        let (cos, sin) = (c.tensor(20, shape.head_dim / 2), c.tensor(20, shape.head_dim / 2));
        let positions = c.indices(rows, 20, false);
        let mut out = Vec::new();
        for inverse in [false, true] {
            let x = c.tensor(rows, shape.qkv_cols());
            let (heads, head_dim) = (shape.heads + shape.kv_heads, shape.head_dim);
            c.backend.rope(&Rope { x: &x, heads, head_dim, cos: &cos, sin: &sin, positions: &positions, inverse })?;
            out.push(x);
        }
        Ok(out)
    }),
    ("attention", |c| {
        let (rows, shape) = (c.rows() * 2, heads(c));
        let mut out = Vec::new();
        for (causal, spread) in [(true, 1.0), (false, 1.0), (true, 30.0)] {
            let (q, k, v) =
                (c.scaled(rows, shape.q_cols(), spread), c.view(rows, shape.kv_cols()), c.view(rows, shape.kv_cols()));
            let cu_seqlens = c.documents(rows);
            let bounds = c.u32(&cu_seqlens);
            let (o, lse) = (c.out(rows, shape.q_cols()), c.stat(rows, shape.heads));
            c.backend.attention(&Attention {
                q: &q,
                k: &k,
                v: &v,
                cu_seqlens_q: &bounds,
                cu_seqlens_k: &bounds,
                shape,
                scale: 1.0 / (shape.head_dim as f64).sqrt(),
                causal,
                o: &o,
                lse: &lse,
            })?;
            out.extend([o, lse]);
        }
        // Fewer queries than keys, as in generation with a cache.
        let (q, k, v) = (c.tensor(3, shape.q_cols()), c.tensor(300, shape.kv_cols()), c.tensor(300, shape.kv_cols()));
        let (o, lse) = (c.out(3, shape.q_cols()), c.stat(3, shape.heads));
        let (cu_seqlens_q, cu_seqlens_k) = (c.u32(&[0, 1, 3]), c.u32(&[0, 50, 300]));
        c.backend.attention(&Attention {
            q: &q,
            k: &k,
            v: &v,
            cu_seqlens_q: &cu_seqlens_q,
            cu_seqlens_k: &cu_seqlens_k,
            shape,
            scale: 0.3,
            causal: true,
            o: &o,
            lse: &lse,
        })?;
        out.extend([o, lse]);
        Ok(out)
    }),
    ("attention_backward", |c| {
        let (rows, shape) = (c.rows() * 2, heads(c));
        let mut out = Vec::new();
        for causal in [true, false] {
            let (qkv, d_o, cu_seqlens) =
                (c.tensor(rows, shape.qkv_cols()), c.view(rows, shape.q_cols()), c.documents(rows));
            let cu_seqlens = c.u32(&cu_seqlens);
            let (o, lse) = (c.out(rows, shape.q_cols()), c.stat(rows, shape.heads));
            let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
            let scale = 1.0 / (shape.head_dim as f64).sqrt();
            // The statistics come from the reference for both, so that only the backward pass is compared.
            CpuBackend::reference().attention(&Attention {
                q: &qkv.slice_cols(0..q_end)?,
                k: &qkv.slice_cols(q_end..k_end)?,
                v: &qkv.slice_cols(k_end..shape.qkv_cols())?,
                cu_seqlens_q: &cu_seqlens,
                cu_seqlens_k: &cu_seqlens,
                shape,
                scale,
                causal,
                o: &o,
                lse: &lse,
            })?;
            let dqkv = c.out(rows, shape.qkv_cols());
            c.backend.attention_backward(&AttentionBackward {
                qkv: &qkv,
                cu_seqlens: &cu_seqlens,
                shape,
                scale,
                causal,
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
        let (gate_up, y) = (c.scaled(c.rows(), 2 * c.cols(), 4.0), c.out(c.rows(), c.cols()));
        c.backend.swiglu(&Swiglu { gate_up: &gate_up, y: &y })?;
        Ok(vec![y])
    }),
    ("swiglu_backward", |c| {
        let (gate_up, dy) = (c.scaled(c.rows(), 2 * c.cols(), 4.0), c.view(c.rows(), c.cols()));
        let dgate_up = c.out(c.rows(), 2 * c.cols());
        c.backend.swiglu_backward(&SwigluBackward { dy: &dy, gate_up: &gate_up, dgate_up: &dgate_up })?;
        Ok(vec![dgate_up])
    }),
    ("gelu", |c| {
        [GeluKind::Erf, GeluKind::Tanh, GeluKind::Quick]
            .map(|kind| {
                let (x, y) = (c.scaled(c.rows(), c.cols(), 3.0), c.out(c.rows(), c.cols()));
                c.backend.gelu(&Gelu { kind, x: &x, y: &y }).map(|()| y)
            })
            .into_iter()
            .collect()
    }),
    ("gelu_backward", |c| {
        [GeluKind::Erf, GeluKind::Tanh, GeluKind::Quick]
            .map(|kind| {
                let (x, dy, dx) =
                    (c.scaled(c.rows(), c.cols(), 3.0), c.tensor(c.rows(), c.cols()), c.out(c.rows(), c.cols()));
                c.backend.gelu_backward(&GeluBackward { kind, dy: &dy, x: &x, dx: &dx }).map(|()| dx)
            })
            .into_iter()
            .collect()
    }),
    ("gather_rows", |c| {
        let (table, index, y) = (c.view(11, c.cols()), c.indices(c.rows(), 11, true), c.out(c.rows(), c.cols()));
        c.backend.gather_rows(&GatherRows { table: &table, index: &index, y: &y })?;
        Ok(vec![y])
    }),
    ("scatter_rows", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.tensor(c.rows() + 4, c.cols()));
        let index = c.permutation(c.rows() + 4);
        let index = c.u32(&index[..c.rows()]);
        c.backend.scatter_rows(&ScatterRows { x: &x, index: &index, y: &y })?;
        Ok(vec![y])
    }),
    ("scatter_add_rows", |c| {
        let (x, index, y) = (c.view(c.rows(), c.cols()), c.indices(c.rows(), 5, true), c.tensor(5, c.cols()));
        c.backend.scatter_add_rows(&ScatterAddRows { x: &x, index: &index, y: &y })?;
        Ok(vec![y])
    }),
    ("vision_embed", |c| {
        let mut out = Vec::new();
        for has_class in [true, false] {
            let (patches, class) = (c.view(3 * c.rows(), c.cols()), c.tensor(1, c.cols()));
            let positions = c.tensor(c.rows() + usize::from(has_class), c.cols());
            let y = c.out(3 * positions.rows(), c.cols());
            let class = has_class.then_some(&class);
            c.backend.vision_embed(&VisionEmbed { patches: &patches, class, positions: &positions, y: &y })?;
            out.push(y);
        }
        Ok(out)
    }),
    ("vision_embed_backward", |c| {
        let mut out = Vec::new();
        for has_class in [true, false] {
            let rows_per_image = c.rows() + usize::from(has_class);
            let (dy, dclass) = (c.view(3 * rows_per_image, c.cols()), c.tensor(1, c.cols()));
            let (dpatches, dpositions) = (c.out(3 * c.rows(), c.cols()), c.tensor(rows_per_image, c.cols()));
            c.backend.vision_embed_backward(&VisionEmbedBackward {
                dy: &dy,
                dpatches: Some(&dpatches),
                dclass: has_class.then_some(&dclass),
                dpositions: Some(&dpositions),
                rows_per_image,
                has_class,
            })?;
            out.extend([dpatches, dclass, dpositions]);
        }
        Ok(out)
    }),
    ("extract_patches", |c| {
        let (size, patch) = [(2, 2), (7, 3), (8, 2), (28, 7), (32, 8)][c.size];
        let grid = size / patch;
        let (pixels, y) = (c.tensor(3, 3 * size * size), c.out(3 * grid * grid, 3 * patch * patch));
        c.backend.extract_patches(&ExtractPatches { pixels: &pixels, size, patch, y: &y })?;
        Ok(vec![y])
    }),
    ("linear_cross_entropy", |c| {
        let (rows, cols, vocab) = (c.rows() * 3, c.cols(), c.rows() + 10);
        let mut out = Vec::new();
        for spread in [1.0, 20.0] {
            let (hidden, weight) = (c.scaled(rows, cols, spread), c.tensor(vocab, cols));
            let (targets, loss) = (c.indices(rows, vocab, false), c.stat(1, 1));
            let (row_loss, dhidden, dweight) = (c.stat(rows, 1), c.out(rows, cols), c.tensor(vocab, cols));
            c.backend.linear_cross_entropy(&LinearCrossEntropy {
                hidden: &hidden,
                weight: &weight,
                targets: &targets,
                scale: 1.0 / rows as f64,
                loss: &loss,
                row_loss: Some(&row_loss),
                dhidden: Some(&dhidden),
                dweight: Some(&dweight),
            })?;
            out.extend([loss, row_loss, dhidden, dweight]);
        }
        Ok(out)
    }),
    ("dropout", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.out(c.rows(), c.cols()));
        c.backend.dropout(&Dropout { x: &x, p: 0.3, seed: 5, stream: 1 << 40, y: &y })?;
        Ok(vec![y])
    }),
    ("add", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.view(c.rows(), c.cols()));
        c.backend.add(&Add { x: &x, y: &y })?;
        Ok(vec![y])
    }),
    ("copy", |c| {
        let (x, y) = (c.view(c.rows(), c.cols()), c.view(c.rows(), c.cols()));
        c.backend.copy(&Copy { x: &x, y: &y })?;
        Ok(vec![y])
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
        let (x, sum) = (c.tensor(c.rows() * 100, c.cols()), c.backend.zeros(DType::F64, 1, 1)?);
        c.backend.sum_squares(&SumSquares { x: &x, sum: &sum })?;
        Ok(vec![sum])
    }),
    ("adamw", |c| {
        let n = c.rows() * c.cols();
        let (weights, m, v, grad) = (c.tensor(1, n), c.tensor(1, n), c.tensor(1, n), c.tensor(1, n));
        v.set_f64(&v.to_f64()?.iter().map(|x| x * x).collect::<Vec<_>>())?;
        c.backend.adamw(&AdamW {
            weights: &weights,
            m: &m,
            v: &v,
            grad: &grad,
            grad_scale: 0.5,
            lr: 1e-2,
            betas: (0.9, 0.98),
            eps: 1e-8,
            decay: 0.1,
            step: 3,
        })?;
        Ok(vec![weights, m, v])
    }),
];

fn run(backend: &CpuBackend, dtype: DType, coarse: bool, size: usize, row: &Row) -> Vec<Vec<f64>> {
    let mut case = Case { backend, dtype, coarse, random: Stream::new(7, size as u64), size };
    let outputs = (row.1)(&mut case).unwrap_or_else(|error| panic!("{} case {size}: {error}", row.0));
    outputs.iter().map(|tensor| tensor.to_f64().expect("floats")).collect()
}

fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let difference: f64 = got.iter().zip(want).map(|(a, b)| if a == b { 0.0 } else { (a - b).powi(2) }).sum();
    let norm: f64 = want.iter().filter(|x| x.is_finite()).map(|x| x * x).sum();
    (difference / norm.max(1e-300)).sqrt()
}

fn compare(backend: &CpuBackend, dtype: DType, tolerance: f64) {
    for row in TABLE {
        for size in 0..5 {
            let want = run(&CpuBackend::reference(), DType::F64, dtype == DType::BF16, size, row);
            let got = run(backend, dtype, dtype == DType::BF16, size, row);
            for (output, (got, want)) in got.iter().zip(&want).enumerate() {
                let error = relative_error(got, want);
                assert!(error <= tolerance, "{} case {size} output {output}: relative error {error:e}", row.0);
            }
        }
    }
}

#[test]
fn fast_path_agrees_with_the_reference() {
    compare(&CpuBackend::fast(), DType::F32, 1e-5);
}

#[test]
fn reference_in_f32_agrees_with_f64() {
    compare(&CpuBackend::reference(), DType::F32, 1e-5);
}

#[test]
fn bf16_policy_agrees_with_f64() {
    compare(&CpuBackend::fast(), DType::BF16, 1e-2);
}

#[test]
fn every_op_of_the_backend_has_a_row() {
    let source = include_str!("../engine/src/backend.rs");
    let ops = source.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.split_once("(&self, args: &"));
    let ops: Vec<&str> = ops.map(|(name, _)| name).collect();
    let rows: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
    assert!(ops.len() > 20, "the parser of the trait found only {ops:?}");
    assert_eq!(ops.iter().filter(|op| !rows.contains(op)).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn linear_is_row_invariant() {
    let cpu = CpuBackend::fast();
    for (k, n) in [(96, 288), (256, 96), (48, 200), (33, 7), (100, 1), (1000, 64), (512, 1376)] {
        let mut case = Case { backend: &cpu, dtype: DType::F32, coarse: false, random: Stream::new(1, 2), size: 0 };
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
