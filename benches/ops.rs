//! CPU ops at the sizes of the toy run and of the `small` preset: `cargo bench -p vila-benches`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vila_engine::ops::{Attention, AttentionBackward, HeadShape, Linear, LinearCrossEntropy, RmsNorm, Swiglu};
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, Result, Tensor};

struct Sizes {
    name: &'static str,
    tokens: usize,
    width: usize,
    mlp: usize,
    heads: usize,
    document: usize,
    vocab: usize,
}

const SIZES: [Sizes; 2] = [
    Sizes { name: "toy", tokens: 1024, width: 96, mlp: 256, heads: 3, document: 46, vocab: 200 },
    Sizes { name: "small", tokens: 2048, width: 512, mlp: 1376, heads: 8, document: 256, vocab: 8192 },
];

fn random(cpu: &CpuBackend, rows: usize, cols: usize) -> Result<Tensor> {
    let mut stream = Stream::new(rows as u64, cols as u64);
    cpu.upload_f32(rows, cols, &(0..rows * cols).map(|_| stream.normal() as f32).collect::<Vec<_>>())
}

fn bench_sizes(criterion: &mut Criterion, sizes: &Sizes) -> Result<()> {
    let cpu = &CpuBackend::fast();
    let &Sizes { tokens, width, mlp, heads, document, vocab, .. } = sizes;
    let mut group = criterion.benchmark_group(sizes.name);
    let flops = |n: usize| Throughput::Elements(n as u64);
    let out = |cols: usize| cpu.alloc(DType::F32, tokens, cols);
    let x = random(cpu, tokens, width)?;

    let (weight, y) = (random(cpu, 2 * mlp, width)?, out(2 * mlp)?);
    group.throughput(flops(2 * tokens * width * 2 * mlp));
    group.bench_function("linear", |b| {
        b.iter(|| cpu.linear(&Linear { x: black_box(&x), weight: &weight, bias: None, y: &y }))
    });

    let hidden = out(mlp)?;
    group.throughput(Throughput::Bytes((tokens * mlp * 12) as u64));
    group.bench_function("swiglu", |b| b.iter(|| cpu.swiglu(&Swiglu { gate_up: black_box(&y), y: &hidden })));

    let (scale, normed, rstd) = (random(cpu, 1, width)?, out(width)?, out(1)?);
    group.throughput(Throughput::Bytes((tokens * width * 8) as u64));
    let norm = RmsNorm { x: &x, residual: None, sum: None, weight: &scale, eps: 1e-5, y: &normed, rstd: &rstd };
    group.bench_function("rms_norm", |b| b.iter(|| cpu.rms_norm(black_box(&norm))));

    let shape = HeadShape { heads, kv_heads: heads, head_dim: width / heads };
    let qkv = random(cpu, tokens, shape.qkv_cols())?;
    let bounds: Vec<u32> = (0..tokens as u32).step_by(document).chain([tokens as u32]).collect();
    let cu_seqlens = cpu.upload_u32(&bounds)?;
    let (o, lse, dqkv) = (out(width)?, out(heads)?, out(shape.qkv_cols())?);
    let forward = Attention {
        q: &qkv.slice_cols(0..width)?,
        k: &qkv.slice_cols(width..2 * width)?,
        v: &qkv.slice_cols(2 * width..3 * width)?,
        cu_seqlens_q: &cu_seqlens,
        cu_seqlens_k: &cu_seqlens,
        shape,
        scale: 0.2,
        causal: true,
        o: &o,
        lse: &lse,
    };
    group.throughput(flops(2 * tokens * document * width));
    group.bench_function("attention", |b| b.iter(|| cpu.attention(black_box(&forward))));
    let backward = AttentionBackward {
        qkv: &qkv,
        cu_seqlens: &cu_seqlens,
        shape,
        scale: 0.2,
        causal: true,
        o: &o,
        lse: &lse,
        d_o: &x,
        dqkv: &dqkv,
    };
    group.throughput(flops(5 * tokens * document * width));
    group.bench_function("attention_backward", |b| b.iter(|| cpu.attention_backward(black_box(&backward))));

    let rows = tokens / 2;
    let (hidden, head) = (random(cpu, rows, width)?, random(cpu, vocab, width)?);
    let targets = cpu.upload_u32(&(0..rows as u32).map(|i| i % vocab as u32).collect::<Vec<_>>())?;
    let (loss, dhidden) = (cpu.zeros(DType::F32, 1, 1)?, random(cpu, rows, width)?);
    let dweight = cpu.zeros(DType::F32, vocab, width)?;
    let loss_head = LinearCrossEntropy {
        hidden: &hidden,
        weight: &head,
        targets: &targets,
        scale: 1.0,
        loss: &loss,
        row_loss: None,
        dhidden: Some(&dhidden),
        dweight: Some(&dweight),
    };
    group.throughput(flops(6 * rows * width * vocab));
    group.bench_function("linear_cross_entropy", |b| b.iter(|| cpu.linear_cross_entropy(black_box(&loss_head))));
    Ok(())
}

fn ops(criterion: &mut Criterion) {
    for sizes in &SIZES {
        bench_sizes(criterion, sizes).unwrap_or_else(|error| panic!("{}: {error}", sizes.name));
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
