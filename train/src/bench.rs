//! Measures a training step on random weights and random documents, with the sizes of `benches/peers/torch_train_step.py`.

pub mod kernels;

use std::sync::Arc;
use std::time::Instant;

use vila_autograd::{Init, ParamSpec, ParamStore, Recompute, Tape};
use vila_engine::ops::{Copy, Fill, GeluKind, HeadShape, LinearCrossEntropy};
use vila_engine::philox::Stream;
use vila_engine::{Backend, ByOwner, DType, NO_ROW};
use vila_model::config::{LlamaConfig, ProjectorConfig, ProjectorKind, VisionConfig, VisionFamily};
use vila_model::{Document, GenerateOptions, Generator, Images, PackedBatch, VilaConfig, VilaModel};

use crate::optimizer::Optimizer;
use crate::plan::{DryDevice, Policy, StepEstimate, dry_step};
use crate::profile::{Profiler, Record};
use crate::ranks::Solo;
use crate::recipe::{Part, StageSpec};
use crate::{Error, Result};

/// Sizes of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Positions per document.
    pub seq: usize,
    /// Documents per step.
    pub batch: usize,
    /// Images per document.
    pub images: usize,
}

/// What a measurement gave.
#[derive(Clone, Debug)]
pub struct StepTimes {
    /// Seconds of each step, sorted.
    pub seconds: Vec<f64>,
    /// Loss of the last step.
    pub loss: f64,
    /// Model FLOPs of one step: 6 per LLM and projector parameter and token, causal attention at half, 2 per vision parameter and patch.
    pub model_flops: f64,
    /// Who held how many bytes at the moment when most were held.
    pub held_at_peak: ByOwner,
    /// The ops of one more step, each waited for.
    pub ops: Vec<Record>,
}

/// How a step is computed.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// Type of weights and activations.
    pub dtype: DType,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Steps before measuring.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
}

impl StepTimes {
    /// Median seconds per step.
    pub fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The configuration of a preset: `toy`, `small`, `1b` or `7b`.
pub fn preset(name: &str) -> Option<VilaConfig> {
    // Vision: width, MLP, layers, heads, image, patch. Decoder: width, MLP, layers, heads, vocabulary.
    let (vision, llm) = match name {
        "toy" => ([96, 384, 4, 4, 32, 8], [128, 352, 4, 4, 1024]),
        "small" => ([384, 1536, 6, 6, 112, 14], [512, 1376, 8, 8, 8192]),
        "1b" => ([1024, 4096, 24, 16, 336, 14], [2048, 5504, 22, 16, 32_000]),
        "7b" => ([1024, 4096, 24, 16, 336, 14], [4096, 11_008, 32, 32, 32_000]),
        _ => return None,
    };
    let [hidden_size, intermediate_size, layers, heads, image_size, patch_size] = vision;
    let vision = VisionConfig {
        family: VisionFamily::Clip,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        image_size,
        patch_size,
        act: GeluKind::Quick,
        eps: 1e-5,
        select_layer: -2,
        drop_class: true,
    };
    let [hidden_size, intermediate_size, layers, heads, vocab_size] = llm;
    let llm = LlamaConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads: HeadShape { heads, kv_heads: heads, head_dim: hidden_size / heads },
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_factor: 1.0,
        max_positions: 4096,
        tied: false,
        attention_bias: false,
        mlp_bias: false,
        bos: Some(1),
        eos: vec![2],
    };
    let projector = ProjectorConfig { kind: ProjectorKind::Mlp { depth: 2 }, bias: true };
    Some(VilaConfig {
        llm,
        vision,
        projector,
        image_token: None,
        aspect: None,
        expert: None,
        lora: None,
        template: None,
    })
}

/// Runs `warmup` steps, then measures `steps`: frozen tower, projector and decoder trained by AdamW.
///
/// # Errors
/// [`Error::Data`] if the images do not fit the sequence.
pub fn bench_step(
    backend: &Arc<dyn Backend>,
    config: &VilaConfig,
    shape: StepShape,
    options: StepOptions,
) -> Result<StepTimes> {
    let profiler = Profiler::new(Arc::clone(backend));
    let backend: &dyn Backend = &profiler;
    let patches = config.tokens_per_image();
    if shape.images * patches >= shape.seq {
        return Err(Error::Data(format!("{} images of {patches} positions do not fit {}", shape.images, shape.seq)));
    }
    let stage = stage();
    let store = random_store(backend, config, options.dtype, |spec| stage.trains(&spec.name))?;
    let model = VilaModel::new(backend, config, &store)?;
    let mut optimizer = Optimizer::new(backend, &store)?;
    let align = if backend.needs_fixed_shapes() { LinearCrossEntropy::CHUNK } else { 1 };
    let batches: Vec<PackedBatch> =
        (0..4).map(|seed| random_batch(config, shape, align, seed)).collect::<Result<_>>()?;
    let mut step = |index: usize| -> Result<f64> {
        let batch = &batches[index % batches.len()];
        store.zero_grads(backend)?;
        let mut tape = Tape::new(backend, &store).recompute(options.recompute);
        let mut last = None;
        let scale = 1.0 / batch.supervised().max(1) as f64;
        if let Some(root) = model.loss(&mut tape, batch, scale)? {
            tape.backward_loss(&root)?;
            last = Some(root.tensor().clone());
        }
        optimizer.update(backend, &store, &stage, 1.0, None, &Solo)?;
        // Reading the loss and the norm ends the step, as in training.
        let loss = last.map_or(Ok(0.0), |loss| backend.to_vec::<f32>(&loss).map(|loss| f64::from(loss[0])))?;
        optimizer.grad_norm(backend)?;
        Ok(loss)
    };
    let (mut seconds, mut loss) = (Vec::new(), 0.0);
    for index in 0..options.warmup + options.steps {
        let start = Instant::now();
        loss = step(index)?;
        if index >= options.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    profiler.start();
    step(options.warmup + options.steps)?;
    let ops = profiler.stop().unwrap_or_default();
    let held_at_peak = backend.memory().held_at_peak;
    Ok(StepTimes { seconds, loss, model_flops: model_flops(config, shape), held_at_peak, ops })
}

/// What [`bench_step`] should hold at its peak.
///
/// # Errors
/// As [`bench_step`].
pub fn planned_step(
    device: DryDevice,
    config: &VilaConfig,
    shape: StepShape,
    options: StepOptions,
) -> Result<StepEstimate> {
    let align = if device == DryDevice::Cpu { 1 } else { LinearCrossEntropy::CHUNK };
    let batch = random_batch(config, shape, align, 0)?;
    let policy = Policy { dtype: options.dtype, moments: DType::F32, recompute: options.recompute };
    dry_step(device, config, policy, &stage(), &batch)
}

/// Parameters beyond which initial values are repeated pieces of one random table.
const MANY: usize = 20_000_000;

/// Random weights; for large models made on the device, since drawing billions of numbers on the host takes minutes.
fn random_store(
    backend: &dyn Backend,
    config: &VilaConfig,
    dtype: DType,
    trains: impl Fn(&ParamSpec) -> bool,
) -> Result<ParamStore> {
    let specs = VilaModel::specs(config);
    if specs.iter().map(ParamSpec::len).sum::<usize>() < MANY {
        return Ok(ParamStore::new(backend, specs, dtype, 0, trains)?);
    }
    let store = ParamStore::unset(backend, specs, dtype, trains)?;
    let mut random = Stream::new(0, 0);
    let table: Vec<f32> = (0..1 << 20).map(|_| (0.02 * random.normal()) as f32).collect();
    let table = backend.upload_f32(1, table.len(), &table)?;
    for id in store.ids() {
        let weight = store.weight(id)?.reshape(1, store.weight(id)?.len())?;
        if store.spec(id).init == Init::Ones {
            backend.fill(&Fill { y: &weight, value: 1.0 })?;
            continue;
        }
        for start in (0..weight.cols()).step_by(table.cols()) {
            let end = weight.cols().min(start + table.cols());
            backend.copy(&Copy { x: &table.slice_cols(0..end - start)?, y: &weight.slice_cols(start..end)? })?;
        }
    }
    if dtype == DType::BF16 {
        backend.copy(&Copy { x: store.flat_weights(), y: store.flat_masters() })?;
    }
    Ok(store)
}

/// Tokens per second of generation, one document at a time.
///
/// # Errors
/// A context that the model does not have.
pub fn bench_decode(
    backend: &Arc<dyn Backend>,
    config: &VilaConfig,
    dtype: DType,
    context: usize,
    tokens: usize,
) -> Result<DecodeTimes> {
    let backend: &dyn Backend = &**backend;
    if context == 0 || context + tokens > config.llm.max_positions {
        let limit = config.llm.max_positions;
        return Err(Error::Data(format!("a context of {context} and {tokens} tokens do not fit {limit} positions")));
    }
    let store = random_store(backend, config, dtype, |_| false)?;
    let model = VilaModel::new(backend, config, &store)?;
    let mut random = Stream::new(0, 1);
    let prompt = (0..context).map(|_| random.below(config.llm.vocab_size) as u32).collect();
    let prompt = PackedBatch::new(&[Document::prompt(prompt)], Images::None, config.tokens_per_image(), 1)?;
    let options = GenerateOptions::default();
    let run = |tokens: usize| -> Result<(f64, f64)> {
        let start = Instant::now();
        let mut generator = Generator::new(backend, &store, &model, &prompt, &[context + tokens])?;
        backend.synchronize()?;
        let prefill = start.elapsed().as_secs_f64();
        for _ in 0..tokens {
            let token = generator.sample(&options)?;
            // As when text is streamed: every token is read.
            backend.to_vec::<u32>(&token)?;
            generator.advance(&token)?;
        }
        backend.synchronize()?;
        Ok((prefill, start.elapsed().as_secs_f64() - prefill))
    };
    run(1)?;
    let (prefill, seconds) = run(tokens)?;
    let specs = VilaModel::specs(config);
    let weights = specs.iter().filter(|spec| spec.name.starts_with("llm.")).map(ParamSpec::len);
    Ok(DecodeTimes {
        prefill,
        tokens_per_second: tokens as f64 / seconds,
        weight_bytes: weights.sum::<usize>() * dtype.size(),
    })
}

/// What a measurement of generation gave.
#[derive(Clone, Copy, Debug)]
pub struct DecodeTimes {
    /// Seconds until the prompt was read.
    pub prefill: f64,
    /// Tokens per second after it.
    pub tokens_per_second: f64,
    /// Bytes of weights, which every token reads once.
    pub weight_bytes: usize,
}

fn stage() -> StageSpec {
    StageSpec {
        name: "bench".into(),
        train: vec![Part::Projector, Part::Llm],
        data: Default::default(),
        steps: 1,
        documents: 1,
        capacity: 1,
        lr: 1e-5,
        projector_lr: None,
        warmup: 0.0,
        min_lr_ratio: 0.0,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        clip: 1.0,
        validate_every: 0,
        merge_lora: false,
        feature_bank: false,
        omit: Vec::new(),
    }
}

fn random_batch(config: &VilaConfig, shape: StepShape, align: usize, seed: u64) -> Result<PackedBatch> {
    let mut random = Stream::new(seed, 0);
    let patches = config.tokens_per_image();
    let gap = shape.seq / shape.images.max(1);
    let documents: Vec<Document> = (0..shape.batch)
        .map(|_| {
            let mut document = Document::default();
            for position in 0..shape.seq {
                let image = position / gap;
                if image < shape.images && position - image * gap < patches {
                    if position == image * gap {
                        document.tokens.push(NO_ROW);
                        document.supervised.push(false);
                    }
                } else {
                    document.tokens.push(5 + random.below(config.llm.vocab_size - 7) as u32);
                    document.supervised.push(position > 0);
                }
            }
            document
        })
        .collect();
    let pixels = shape.batch * shape.images * 3 * config.vision.image_size.pow(2);
    let images = match pixels {
        0 => Images::None,
        count => Images::Pixels((0..count).map(|_| random.normal() as f32).collect()),
    };
    Ok(PackedBatch::new(&documents, images, patches, align)?)
}

fn model_flops(config: &VilaConfig, shape: StepShape) -> f64 {
    let count = |prefix: &str| -> f64 {
        let specs = VilaModel::specs(config);
        let counted = specs.iter().filter(|spec| spec.name.starts_with(prefix) && !spec.name.contains("embed_tokens"));
        counted.map(|spec| spec.len() as f64).sum()
    };
    let tokens = (shape.batch * shape.seq) as f64;
    let attention = 6.0 * (config.llm.layers * config.llm.hidden_size * shape.seq) as f64 * tokens;
    let patches = (config.vision.tokens() + 1) * shape.batch * shape.images;
    6.0 * (count("llm.") + count("mm_projector.")) * tokens + attention + 2.0 * count("vision_tower.") * patches as f64
}
