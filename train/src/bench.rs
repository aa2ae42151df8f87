//! Measures a training step on random weights and random documents, with the sizes of `benches/peers/torch_train_step.py`.

use std::sync::Arc;
use std::time::Instant;

use vila_autograd::{ParamSpec, ParamStore, Tape};
use vila_engine::ops::{GeluKind, HeadShape};
use vila_engine::philox::Stream;
use vila_engine::{Backend, DType, NO_ROW};
use vila_model::config::{LlamaConfig, ProjectorConfig, ProjectorKind, VisionConfig, VisionFamily};
use vila_model::{Document, Images, PackedBatch, VilaConfig, VilaModel};

use crate::optimizer::Optimizer;
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
    /// Largest number of bytes held.
    pub peak_bytes: usize,
}

impl StepTimes {
    /// Median seconds per step.
    pub fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The configuration of a preset: `toy` or `small`.
pub fn preset(name: &str) -> Option<VilaConfig> {
    // Vision: width, MLP, layers, heads, image, patch. Decoder: width, MLP, layers, heads, vocabulary.
    let (vision, llm) = match name {
        "toy" => ([96, 384, 4, 4, 32, 8], [128, 352, 4, 4, 1024]),
        "small" => ([384, 1536, 6, 6, 112, 14], [512, 1376, 8, 8, 8192]),
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
    Some(VilaConfig { llm, vision, projector, image_token: None, aspect: None })
}

/// Runs `warmup` steps, then measures `steps`: frozen tower, projector and decoder trained by AdamW.
///
/// # Errors
/// [`Error::Data`] if the images do not fit the sequence.
pub fn bench_step(
    backend: &Arc<dyn Backend>,
    config: &VilaConfig,
    shape: StepShape,
    warmup: usize,
    steps: usize,
) -> Result<StepTimes> {
    let backend = &**backend;
    let patches = config.tokens_per_image();
    if shape.images * patches >= shape.seq {
        return Err(Error::Data(format!("{} images of {patches} positions do not fit {}", shape.images, shape.seq)));
    }
    let stage = stage();
    let trains = |spec: &ParamSpec| stage.trains(&spec.name);
    let store = ParamStore::new(backend, VilaModel::specs(config), DType::F32, 0, trains)?;
    let model = VilaModel::new(backend, config, &store)?;
    let mut optimizer = Optimizer::new(backend, &store)?;
    let batches: Vec<PackedBatch> = (0..4).map(|seed| random_batch(config, shape, seed)).collect::<Result<_>>()?;
    let (mut seconds, mut loss) = (Vec::new(), 0.0);
    for index in 0..warmup + steps {
        let start = Instant::now();
        let batch = &batches[index % batches.len()];
        store.zero_grads(backend)?;
        let mut tape = Tape::new(backend, &store);
        let scale = 1.0 / batch.targets.len().max(1) as f64;
        if let Some(root) = model.loss(&mut tape, batch, scale)? {
            tape.backward_loss(&root)?;
            loss = f64::from(backend.to_vec::<f32>(root.tensor())?[0]);
        }
        let norm = optimizer.grad_norm(backend, &store)?;
        optimizer.update(backend, &store, &stage, 1.0, norm)?;
        if index >= warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(StepTimes { seconds, loss, model_flops: model_flops(config, shape), peak_bytes: backend.memory().peak })
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
        feature_bank: false,
    }
}

fn random_batch(config: &VilaConfig, shape: StepShape, seed: u64) -> Result<PackedBatch> {
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
    Ok(PackedBatch::new(&documents, images, patches, 1)?)
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
