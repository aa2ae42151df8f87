//! Measures every op by itself, beside peaks measured in the same run.

use std::time::Instant;

use serde_json::{Value, json};
use vila_engine::ops::*;
use vila_engine::{Backend, DType, NO_ROW, Owner, Result, Tensor};

/// Sizes at which ops are measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Name of the preset.
    pub name: &'static str,
    /// Positions of a packed micro-batch.
    pub tokens: usize,
    /// Positions per document.
    pub document: usize,
    /// Width of the decoder.
    pub hidden: usize,
    /// Width of its MLP.
    pub mlp: usize,
    /// Its heads.
    pub heads: HeadShape,
    /// Its vocabulary.
    pub vocab: usize,
    /// Images of a micro-batch.
    pub images: usize,
    /// Side of an image and of a patch.
    pub pixels: (usize, usize),
    /// Width of the vision tower, of its MLP, and its heads.
    pub vision: (usize, usize, usize),
    /// Parameters of one optimizer call.
    pub parameters: usize,
}

/// The sizes of a preset: `toy`, `small`, `7b` (with CLIP-L).
pub fn sizes(name: &str) -> Option<Sizes> {
    let heads = |heads, head_dim| HeadShape { heads, kv_heads: heads, head_dim };
    Some(match name {
        "toy" => Sizes {
            name: "toy",
            tokens: 512,
            document: 128,
            hidden: 96,
            mlp: 256,
            heads: heads(3, 32),
            vocab: 512,
            images: 4,
            pixels: (32, 8),
            vision: (96, 384, 6),
            parameters: 1 << 18,
        },
        "small" => Sizes {
            name: "small",
            tokens: 2048,
            document: 512,
            hidden: 512,
            mlp: 1376,
            heads: heads(8, 64),
            vocab: 8192,
            images: 8,
            pixels: (112, 14),
            vision: (384, 1536, 6),
            parameters: 1 << 22,
        },
        "7b" => Sizes {
            name: "7b",
            tokens: 16_384,
            document: 4096,
            hidden: 4096,
            mlp: 11_008,
            heads: heads(32, 128),
            vocab: 32_000,
            images: 16,
            pixels: (336, 14),
            vision: (1024, 4096, 16),
            parameters: 1 << 28,
        },
        _ => return None,
    })
}

/// Takes an op.
type Visitor<'a> = dyn FnMut(&dyn Op) -> Result<()> + 'a;
/// Calls its argument with the op, operands bound.
type Bound = Box<dyn Fn(&mut Visitor) -> Result<()>>;

/// One op at one size, with operands several times over, so that no cache holds them between runs.
pub struct Case {
    /// The op.
    pub op: &'static str,
    /// Its size in words.
    pub size: String,
    make: Make,
}

/// Binds an op to operands that it makes.
type Make = Box<dyn Fn(&Operands) -> Result<Bound>>;

/// Makes operands on the measured device.
struct Operands<'a> {
    backend: &'a dyn Backend,
    dtype: DType,
    seed: u32,
}

impl Operands<'_> {
    /// Values in [-1, 1): random, since zeros run faster than real data.
    fn random(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let mut state = self.seed.wrapping_mul(0x9E37_79B9).wrapping_add((rows * 31 + cols) as u32) | 1;
        let period = (rows * cols).clamp(1, 1 << 20);
        let values: Vec<f32> = (0..period)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as f32 / 2_147_483_648.0 - 1.0
            })
            .collect();
        let flat = self.backend.alloc(dtype, 1, rows * cols)?;
        let piece = self.backend.upload_f32(1, period, &values)?;
        for start in (0..rows * cols).step_by(period) {
            let end = (start + period).min(rows * cols);
            self.backend.copy(&Copy { x: &piece.slice_cols(0..end - start)?, y: &flat.slice_cols(start..end)? })?;
        }
        flat.reshape(rows, cols)
    }

    fn input(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.random(self.dtype, rows, cols)
    }

    fn output(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.backend.alloc(self.dtype, rows, cols)
    }

    fn f32(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.random(DType::F32, rows, cols)
    }

    fn zeros(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.backend.zeros_for(Owner::Activations, dtype, rows, cols)
    }

    fn indices(&self, len: usize, index: impl Fn(usize) -> u32) -> Result<Tensor> {
        self.backend.upload_u32(&(0..len).map(index).collect::<Vec<_>>())
    }
}

fn case(op: &'static str, size: String, make: impl Fn(&Operands) -> Result<Bound> + 'static) -> Case {
    Case { op, size, make: Box::new(make) }
}

/// All ops at the sizes of a preset.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let mut cases = decoder_cases(sizes);
    cases.extend(vision_cases(sizes));
    cases.extend(loss_and_update_cases(sizes));
    cases
}

fn product(op: &'static str, m: usize, n: usize, k: usize) -> Case {
    case(op, format!("[{m}, {k}] x [{n}, {k}]T"), move |o| {
        let (x, weight, y) = (o.input(m, k)?, o.input(n, k)?, o.output(m, n)?);
        Ok(Box::new(move |f| f(&Linear { x: &x, weight: &weight, bias: None, y: &y })))
    })
}

fn attention_cases(op: &'static str, tokens: usize, document: usize, shape: HeadShape, causal: bool) -> [Case; 2] {
    let words = if causal { "causal" } else { "full" };
    let size = format!("{tokens} tokens of {document}, {} heads of {}, {words}", shape.heads, shape.head_dim);
    let bounds = move |o: &Operands| o.indices(tokens / document + 1, |i| (i * document) as u32);
    let scale = 1.0 / (shape.head_dim as f64).sqrt();
    let forward = case(op, size.clone(), move |o| {
        let (qkv, cu_seqlens) = (o.input(tokens, shape.qkv_cols())?, bounds(o)?);
        let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
        let (q, k) = (qkv.slice_cols(0..q_end)?, qkv.slice_cols(q_end..k_end)?);
        let v = qkv.slice_cols(k_end..shape.qkv_cols())?;
        let (out, lse) = (o.output(tokens, q_end)?, o.f32(tokens, shape.heads)?);
        Ok(Box::new(move |f| {
            f(&Attention {
                q: &q,
                k: &k,
                v: &v,
                cu_seqlens_q: &cu_seqlens,
                cu_seqlens_k: &cu_seqlens,
                shape,
                scale,
                causal,
                o: &out,
                lse: &lse,
            })
        }))
    });
    let backward = case("attention_backward", size, move |o| {
        let (qkv, cu_seqlens) = (o.input(tokens, shape.qkv_cols())?, bounds(o)?);
        let (out, lse) = (o.input(tokens, shape.q_cols())?, o.f32(tokens, shape.heads)?);
        let (d_o, dqkv) = (o.input(tokens, shape.q_cols())?, o.output(tokens, shape.qkv_cols())?);
        Ok(Box::new(move |f| {
            f(&AttentionBackward {
                qkv: &qkv,
                cu_seqlens: &cu_seqlens,
                shape,
                scale,
                causal,
                o: &out,
                lse: &lse,
                d_o: &d_o,
                dqkv: &dqkv,
            })
        }))
    });
    [forward, backward]
}

fn decoder_cases(sizes: &Sizes) -> Vec<Case> {
    let &Sizes { tokens, document, hidden, mlp, heads, vocab, .. } = sizes;
    let rows = format!("[{tokens}, {hidden}]");
    let mut cases = vec![
        case("rms_norm", format!("{rows} with residual"), move |o| {
            let (x, residual, weight) = (o.input(tokens, hidden)?, o.input(tokens, hidden)?, o.input(1, hidden)?);
            let (sum, y, rstd) = (o.output(tokens, hidden)?, o.output(tokens, hidden)?, o.f32(tokens, 1)?);
            Ok(Box::new(move |f| {
                f(&RmsNorm {
                    x: &x,
                    residual: Some(&residual),
                    sum: Some(&sum),
                    weight: &weight,
                    eps: 1e-5,
                    y: &y,
                    rstd: &rstd,
                })
            }))
        }),
        case("rms_norm_backward", format!("{rows} with residual"), move |o| {
            let (dy, sum, dsum) = (o.input(tokens, hidden)?, o.input(tokens, hidden)?, o.input(tokens, hidden)?);
            let (weight, rstd) = (o.input(1, hidden)?, o.f32(tokens, 1)?);
            let (dx, dweight) = (o.output(tokens, hidden)?, o.f32(1, hidden)?);
            Ok(Box::new(move |f| {
                f(&RmsNormBackward {
                    dy: &dy,
                    sum: &sum,
                    weight: &weight,
                    rstd: &rstd,
                    dsum: Some(&dsum),
                    dx: Some(&dx),
                    dweight: Some(&dweight),
                })
            }))
        }),
        case("rope", format!("[{tokens}, {}]", heads.qkv_cols()), move |o| {
            let x = o.input(tokens, heads.qkv_cols())?;
            let (cos, sin) = (o.f32(document, heads.head_dim / 2)?, o.f32(document, heads.head_dim / 2)?);
            let positions = o.indices(tokens, |i| (i % document) as u32)?;
            Ok(Box::new(move |f| {
                f(&Rope {
                    x: &x,
                    heads: heads.heads + heads.kv_heads,
                    head_dim: heads.head_dim,
                    cos: &cos,
                    sin: &sin,
                    positions: &positions,
                    inverse: false,
                })
            }))
        }),
        case("swiglu", format!("[{tokens}, 2 x {mlp}]"), move |o| {
            let (gate_up, y) = (o.input(tokens, 2 * mlp)?, o.output(tokens, mlp)?);
            Ok(Box::new(move |f| f(&Swiglu { gate_up: &gate_up, y: &y })))
        }),
        case("swiglu_backward", format!("[{tokens}, 2 x {mlp}]"), move |o| {
            let (dy, gate_up, dgate_up) =
                (o.input(tokens, mlp)?, o.input(tokens, 2 * mlp)?, o.output(tokens, 2 * mlp)?);
            Ok(Box::new(move |f| f(&SwigluBackward { dy: &dy, gate_up: &gate_up, dgate_up: &dgate_up })))
        }),
        case("gather_rows", format!("{tokens} of [{vocab}, {hidden}]"), move |o| {
            let (table, y) = (o.input(vocab, hidden)?, o.output(tokens, hidden)?);
            let index = o.indices(tokens, |i| ((i * 7919) % vocab) as u32)?;
            Ok(Box::new(move |f| f(&GatherRows { table: &table, index: &index, y: &y })))
        }),
        case("scatter_add_rows", format!("{tokens} into [{vocab}, {hidden}]"), move |o| {
            let (x, y) = (o.input(tokens, hidden)?, o.f32(vocab, hidden)?);
            let index = o.indices(tokens, |i| if i % 9 == 0 { NO_ROW } else { ((i * i) % vocab) as u32 })?;
            Ok(Box::new(move |f| f(&ScatterAddRows { x: &x, index: &index, y: &y })))
        }),
        case("scatter_rows", format!("{} into {rows}", tokens / 4), move |o| {
            let (x, y) = (o.input(tokens / 4, hidden)?, o.input(tokens, hidden)?);
            let index = o.indices(tokens / 4, |i| (i * 4) as u32)?;
            Ok(Box::new(move |f| f(&ScatterRows { x: &x, index: &index, y: &y })))
        }),
        case("add", rows.clone(), move |o| {
            let (x, y) = (o.input(tokens, hidden)?, o.input(tokens, hidden)?);
            Ok(Box::new(move |f| f(&Add { x: &x, y: &y })))
        }),
        case("dropout", rows, move |o| {
            let (x, y) = (o.input(tokens, hidden)?, o.output(tokens, hidden)?);
            Ok(Box::new(move |f| f(&Dropout { x: &x, p: 0.1, seed: 1, stream: 2, y: &y })))
        }),
        product("linear", tokens, heads.qkv_cols(), hidden),
        product("linear", tokens, 2 * mlp, hidden),
        product("linear", tokens, hidden, mlp),
        case("gemm", format!("[{tokens}, {mlp}]T x [{tokens}, {hidden}], accumulated in f32"), move |o| {
            let (a, b, c) = (o.input(tokens, mlp)?, o.input(tokens, hidden)?, o.f32(mlp, hidden)?);
            Ok(Box::new(move |f| {
                f(&Gemm { a: &a, trans_a: true, b: &b, trans_b: false, c: &c, alpha: 1.0, beta: 1.0 })
            }))
        }),
    ];
    cases.extend(attention_cases("attention", tokens, document, heads, true));
    cases
}

fn vision_cases(sizes: &Sizes) -> Vec<Case> {
    let &Sizes { images, pixels: (size, patch), vision: (width, mlp, heads), .. } = sizes;
    let patches = (size / patch).pow(2);
    let (per_image, rows) = (patches + 1, images * (patches + 1));
    let shape = HeadShape { heads, kv_heads: heads, head_dim: width / heads };
    let mut cases = vec![
        case("extract_patches", format!("{images} images of {size}, patches of {patch}"), move |o| {
            let (pixels, y) = (o.input(images, 3 * size * size)?, o.output(images * patches, 3 * patch * patch)?);
            Ok(Box::new(move |f| f(&ExtractPatches { pixels: &pixels, size, patch, y: &y })))
        }),
        case("vision_embed", format!("{images} images, [{per_image}, {width}]"), move |o| {
            let (patches, class) = (o.input(images * patches, width)?, o.input(1, width)?);
            let (positions, y) = (o.input(per_image, width)?, o.output(rows, width)?);
            Ok(Box::new(move |f| {
                f(&VisionEmbed { patches: &patches, class: Some(&class), positions: &positions, y: &y })
            }))
        }),
        case("vision_embed_backward", format!("{images} images, [{per_image}, {width}]"), move |o| {
            let (dy, dpatches) = (o.input(rows, width)?, o.output(images * patches, width)?);
            let (dclass, dpositions) = (o.f32(1, width)?, o.f32(per_image, width)?);
            Ok(Box::new(move |f| {
                f(&VisionEmbedBackward {
                    dy: &dy,
                    dpatches: Some(&dpatches),
                    dclass: Some(&dclass),
                    dpositions: Some(&dpositions),
                    rows_per_image: per_image,
                    has_class: true,
                })
            }))
        }),
        case("layer_norm", format!("[{rows}, {width}]"), move |o| {
            let (x, weight, bias) = (o.input(rows, width)?, o.input(1, width)?, o.input(1, width)?);
            let (y, mean, rstd) = (o.output(rows, width)?, o.f32(rows, 1)?, o.f32(rows, 1)?);
            Ok(Box::new(move |f| {
                f(&LayerNorm { x: &x, weight: &weight, bias: &bias, eps: 1e-5, y: &y, mean: &mean, rstd: &rstd })
            }))
        }),
        case("layer_norm_backward", format!("[{rows}, {width}]"), move |o| {
            let (dy, x, weight) = (o.input(rows, width)?, o.input(rows, width)?, o.input(1, width)?);
            let (mean, rstd, dx) = (o.f32(rows, 1)?, o.f32(rows, 1)?, o.output(rows, width)?);
            let (dweight, dbias) = (o.f32(1, width)?, o.f32(1, width)?);
            Ok(Box::new(move |f| {
                f(&LayerNormBackward {
                    dy: &dy,
                    x: &x,
                    weight: &weight,
                    mean: &mean,
                    rstd: &rstd,
                    dx: Some(&dx),
                    dweight: Some(&dweight),
                    dbias: Some(&dbias),
                })
            }))
        }),
        case("gelu", format!("[{rows}, {mlp}] quick"), move |o| {
            let (x, y) = (o.input(rows, mlp)?, o.output(rows, mlp)?);
            Ok(Box::new(move |f| f(&Gelu { kind: GeluKind::Quick, x: &x, y: &y })))
        }),
        case("gelu_backward", format!("[{rows}, {mlp}] quick"), move |o| {
            let (dy, x, dx) = (o.input(rows, mlp)?, o.input(rows, mlp)?, o.output(rows, mlp)?);
            Ok(Box::new(move |f| f(&GeluBackward { kind: GeluKind::Quick, dy: &dy, x: &x, dx: &dx })))
        }),
        case("bias_grad", format!("[{rows}, {mlp}]"), move |o| {
            let (dy, dbias) = (o.input(rows, mlp)?, o.f32(1, mlp)?);
            Ok(Box::new(move |f| f(&BiasGrad { dy: &dy, dbias: &dbias })))
        }),
        product("linear", rows, mlp, width),
    ];
    cases.extend(attention_cases("attention", rows, per_image, shape, false));
    cases
}

fn loss_and_update_cases(sizes: &Sizes) -> Vec<Case> {
    let &Sizes { tokens, hidden, vocab, parameters, .. } = sizes;
    let rows = tokens / 4;
    vec![
        case("linear_cross_entropy", format!("[{rows}, {hidden}] x [{vocab}, {hidden}]T"), move |o| {
            let (x, weight) = (o.input(rows, hidden)?, o.input(vocab, hidden)?);
            let targets = o.indices(rows, |i| ((i * 31) % vocab) as u32)?;
            let (loss, dhidden) = (o.zeros(DType::F32, 1, 1)?, o.output(rows, hidden)?);
            let dweight = o.f32(vocab, hidden)?;
            Ok(Box::new(move |f| {
                f(&LinearCrossEntropy {
                    hidden: &x,
                    weight: &weight,
                    targets: &targets,
                    scale: 1.0 / rows as f64,
                    loss: &loss,
                    row_loss: None,
                    dhidden: Some(&dhidden),
                    dweight: Some(&dweight),
                })
            }))
        }),
        case("sum_squares", format!("{parameters} f32"), move |o| {
            let (x, sum) = (o.f32(1, parameters)?, o.zeros(DType::F64, 1, 1)?);
            Ok(Box::new(move |f| f(&SumSquares { x: &x, sum: &sum })))
        }),
        case("gradient_gate", "1 sum".into(), move |o| {
            let (sum, gate) = (o.zeros(DType::F64, 1, 1)?, o.zeros(DType::F32, 1, 4)?);
            let updates = o.zeros(DType::U32, 1, 1)?;
            Ok(Box::new(move |f| {
                f(&GradientGate { sum: &sum, losses: None, clip: 1.0, gate: &gate, updates: &updates })
            }))
        }),
        case("adamw", format!("{parameters} f32, published in bf16"), move |o| {
            let (weights, grad) = (o.f32(1, parameters)?, o.f32(1, parameters)?);
            let (m, v) = (o.f32(1, parameters)?, o.zeros(DType::F32, 1, parameters)?);
            let publish = o.zeros(DType::BF16, 1, parameters)?;
            let gate = o.backend.upload_f32(1, 4, &[1.0, 1.0, 1.0, 0.0])?;
            let updates = o.indices(1, |_| 1)?;
            Ok(Box::new(move |f| {
                f(&AdamW {
                    weights: &weights,
                    m: &m,
                    v: &v,
                    grad: &grad,
                    publish: Some(&publish),
                    gate: &gate,
                    updates: &updates,
                    lr: 1e-5,
                    betas: (0.9, 0.999),
                    eps: 1e-8,
                    decay: 0.0,
                    seed: 0,
                    offset: 0,
                })
            }))
        }),
        case("sample", format!("[1, {vocab}], top-p 0.9"), move |o| {
            let (logits, out) = (o.input(1, vocab)?, o.indices(1, |_| 0)?);
            Ok(Box::new(move |f| {
                f(&Sample { logits: &logits, temperature: 1.0, top_p: 0.9, seed: 0, index: 0, out: &out })
            }))
        }),
        case("copy", format!("{parameters} f32 to bf16"), move |o| {
            let (x, y) = (o.f32(1, parameters)?, o.zeros(DType::BF16, 1, parameters)?);
            Ok(Box::new(move |f| f(&Copy { x: &x, y: &y })))
        }),
        case("fill", format!("{parameters} f32"), move |o| {
            let y = o.f32(1, parameters)?;
            Ok(Box::new(move |f| f(&Fill { y: &y, value: 0.0 })))
        }),
        case("scale", format!("{parameters} f32"), move |o| {
            let y = o.f32(1, parameters)?;
            Ok(Box::new(move |f| f(&Scale { y: &y, factor: 1.0 })))
        }),
    ]
}

/// One measured op.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The op.
    pub op: &'static str,
    /// Its size in words.
    pub size: String,
    /// Median seconds of one run.
    pub seconds: f64,
    /// Least work of one run.
    pub cost: Cost,
}

impl Measured {
    /// Bytes per second at least moved.
    pub fn bandwidth(&self) -> f64 {
        self.cost.bytes / self.seconds
    }

    /// Floating-point operations per second.
    pub fn rate(&self) -> f64 {
        self.cost.flops / self.seconds
    }

    /// Share of the measured peak that limits the op, the larger of the two.
    pub fn share(&self, peaks: &Peaks) -> f64 {
        (self.bandwidth() / peaks.bandwidth).max(self.rate() / peaks.rate)
    }

    /// For `--json`.
    pub fn to_json(&self, peaks: &Peaks) -> Value {
        json!({
            "op": self.op, "size": self.size, "ms": self.seconds * 1e3, "gb_per_s": self.bandwidth() / 1e9,
            "gflop_per_s": self.rate() / 1e9, "share_of_peak": self.share(peaks),
        })
    }
}

/// The best that this device did in this run.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Bytes per second of a large copy, reads and writes counted.
    pub bandwidth: f64,
    /// Floating-point operations per second of a large product.
    pub rate: f64,
}

/// Measures for about `seconds` per case.
pub struct Bench<'a> {
    /// What runs the ops.
    pub backend: &'a dyn Backend,
    /// Type of activations.
    pub dtype: DType,
    /// Time for each case.
    pub seconds: f64,
}

/// Bytes that are certainly no longer in a cache when operands come round again.
const ROTATION: f64 = 256e6;
/// Most copies of a case's operands.
const MOST_SETS: usize = 8;

impl Bench<'_> {
    /// Median time of a case.
    ///
    /// # Errors
    /// Whatever the op reports.
    pub fn measure(&self, case: &Case) -> Result<Measured> {
        let operands = |seed| Operands { backend: self.backend, dtype: self.dtype, seed };
        let mut sets = vec![(case.make)(&operands(0))?];
        let mut cost = Cost::default();
        sets[0](&mut |op| {
            cost = op.cost(&|bounds| self.backend.to_vec::<u32>(bounds))?;
            op.run(self.backend)
        })?;
        let wanted = if cost.bytes > 0.0 { (ROTATION / cost.bytes).ceil() as usize + 1 } else { 1 };
        for seed in 1..wanted.min(MOST_SETS) {
            sets.push((case.make)(&operands(seed as u32))?);
        }
        let mut next = 0;
        let mut batch = |runs: usize| -> Result<f64> {
            self.backend.synchronize()?;
            let start = Instant::now();
            for _ in 0..runs {
                sets[next % sets.len()](&mut |op| op.run(self.backend))?;
                next += 1;
            }
            self.backend.synchronize()?;
            Ok(start.elapsed().as_secs_f64() / runs as f64)
        };
        batch(2)?;
        // Batches are long enough that enqueueing and waiting do not count.
        let runs = ((self.seconds / 10.0 / batch(1)?.max(1e-7)) as usize).clamp(1, 1000);
        let mut times = (0..9).map(|_| batch(runs)).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(Measured { op: case.op, size: case.size.clone(), seconds: times[times.len() / 2], cost })
    }

    /// A large copy and a large product.
    ///
    /// # Errors
    /// Whatever the ops report.
    pub fn peaks(&self, sizes: &Sizes) -> Result<Peaks> {
        let elements = sizes.parameters;
        let copy = case("copy", format!("{elements} f32"), move |o| {
            let (x, y) = (o.f32(1, elements)?, o.f32(1, elements)?);
            Ok(Box::new(move |f| f(&Copy { x: &x, y: &y })))
        });
        let side = if sizes.name == "7b" { 8192 } else { 1024 };
        Ok(Peaks {
            bandwidth: self.measure(&copy)?.bandwidth(),
            rate: self.measure(&product("linear", side, side, side))?.rate(),
        })
    }
}
