//! What a recipe needs before it runs: memory by owner for each recompute policy, FLOPs, hours.
//!
//! Nothing is estimated by formula: the model, the tape and the optimizer run on a device that keeps account of memory and
//! computes nothing ([`vila_engine::DryCpu`], or `vila_cuda::Dry` below the real CUDA backend).

mod content;
mod dry;
mod ledger;

use std::path::Path;
use std::sync::Arc;

use vila_autograd::{ParamSpec, Recompute};
use vila_engine::DType;
use vila_model::tokenizer::Tokenizer;
use vila_model::{VilaConfig, VilaModel};

pub use content::{Content, Document, Mix};
pub use dry::{DryDevice, PARTS, Policy, StepEstimate, dry_stage_start, dry_step};
pub use ledger::Holding;

use crate::data::shard::ShardReader;
use crate::packing::grain;
use crate::recipe::{Recipe, StageSpec, TokenIds};
use crate::sources::find_source;
use crate::{Error, Result};

/// Every recompute policy, in the order of [`StagePlan::policies`].
pub const POLICIES: [(Recompute, &str); 3] =
    [(Recompute::None, "none"), (Recompute::Cheap, "cheap"), (Recompute::Block, "block")];

/// Where the numbers of documents come from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Assume {
    /// Records of shards that are there, else the means of the formats.
    #[default]
    Nothing,
    /// The means of the formats.
    Formats,
    /// Documents like this one.
    Document(Document),
}

/// What to plan for.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// The device.
    pub device: DryDevice,
    /// Bytes that it has, if it matters.
    pub memory: Option<u64>,
    /// Devices; Adam's moments are split among them.
    pub ranks: u64,
    /// What the documents are.
    pub assume: Assume,
    /// Size of the vocabulary where the recipe's tokenizer is not there.
    pub vocab: usize,
}

/// A recipe's needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of the model.
    pub config: VilaConfig,
    /// Type of weights and activations.
    pub dtype: DType,
    /// Parameters by part: tower, projector, decoder.
    pub parameters: [u64; 3],
    /// Stages in order.
    pub stages: Vec<StagePlan>,
}

/// A stage's needs.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// The stage.
    pub stage: StageSpec,
    /// Its micro-batches.
    pub content: Content,
    /// Most bytes held while the stage begins.
    pub start: u64,
    /// By recompute policy.
    pub policies: Vec<PolicyPlan>,
}

/// What a stage sees in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Documents.
    pub documents: u64,
    /// Images.
    pub images: f64,
    /// Positions of documents.
    pub positions: f64,
    /// Supervised tokens.
    pub supervised: f64,
}

impl StagePlan {
    /// What the stage sees in all, from the mean of its micro-batches.
    pub fn totals(&self) -> Totals {
        let batches = self.stage.steps as f64 * self.content.micro_batches;
        let Mix { positions, images, supervised, .. } = self.content.mean;
        Totals {
            documents: self.stage.steps.saturating_mul(self.stage.documents),
            images: batches * images,
            positions: batches * positions,
            supervised: batches * supervised,
        }
    }
}

/// A stage's needs under one recompute policy.
#[derive(Clone, Debug)]
pub struct PolicyPlan {
    /// `none`, `cheap` or `block`.
    pub name: &'static str,
    /// Bytes at the peak, in the order of [`PARTS`].
    pub parts: [u64; PARTS.len()],
    /// Activations at the peak by the op that wrote them, the largest first.
    pub activations: Vec<(&'static str, Holding)>,
    /// Bytes at the peak if moments are split among the ranks, with what the process takes besides.
    pub total: u64,
    /// Whether that and the stage's begin fit the device, if its memory was given.
    pub fits: Option<bool>,
    /// Largest capacity that fits, a multiple of 128; nothing if none does.
    pub largest_capacity: Option<usize>,
    /// FLOPs of matrix products per step.
    pub flops: StepFlops,
}

/// FLOPs of matrix products in a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepFlops {
    /// Forward.
    pub forward: f64,
    /// Backward.
    pub backward: f64,
    /// Forward again, for the backward pass.
    pub recompute: f64,
}

impl StepFlops {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.forward + self.backward + self.recompute
    }
}

/// Plans a recipe; `path` names it in messages.
///
/// # Errors
/// Sizes beyond counting, a checkpoint or shard that cannot be read, documents that do not fit.
pub fn plan(recipe: &Recipe, path: &Path, options: &PlanOptions) -> Result<Plan> {
    let (config, tokenizer) = model(recipe, path, options.vocab)?;
    check_sizes(&config).map_err(|problem| Error::recipe(path, problem))?;
    let specs = VilaModel::specs(&config);
    let count = |prefix: &str| {
        let part = specs.iter().filter(|spec| spec.name.starts_with(prefix));
        part.map(|spec| spec.len() as u64).sum()
    };
    let parameters = ["vision_tower.", "mm_projector.", "llm."].map(count);
    let dtype: DType = recipe.model.precision.into();
    let mut before = recipe.stage.first().filter(|_| recipe.model.reads_weights());
    let mut stages = Vec::new();
    let base = config.clone();
    let mut config = config;
    for stage in &recipe.stage {
        recipe.model.graft(&mut config, stage).map_err(|problem| Error::recipe(path, problem))?;
        let documents = documents(recipe, stage, tokenizer.as_ref(), options.assume)?;
        let content = documents.content(stage, &config, recipe.seed)?;
        let start = dry_stage_start(options.device, &config, dtype, before, stage)? as u64;
        let planner = Planner {
            config: &config,
            dtype,
            moments: recipe.model.moments.into(),
            stage,
            documents: &documents,
            seed: recipe.seed,
            start: start.saturating_add(options.device.overhead()),
            options,
        };
        stages.push(StagePlan { stage: stage.clone(), policies: planner.policies(&content)?, content, start });
        before = Some(stage);
    }
    Ok(Plan { config: base, dtype, parameters, stages })
}

/// The configuration, and the tokenizer if it is there: weights are not read.
fn model(recipe: &Recipe, path: &Path, vocab: usize) -> Result<(VilaConfig, Option<Tokenizer>)> {
    if let Some(from) = &recipe.model.from {
        let (config, _) = VilaConfig::read(from)?;
        let files = [from.join("llm/tokenizer.json"), from.join("tokenizer.json")];
        let tokenizer = files.iter().find(|file| file.exists()).map(|file| Tokenizer::from_file(file));
        return Ok((config, tokenizer.transpose()?));
    }
    if let Some(parts) = recipe.parts(path)? {
        let own = parts.llm.join("tokenizer.json");
        let file = parts.tokenizer.unwrap_or(&own);
        let there = file.exists() || file.with_file_name("tokenizer.model").exists();
        return Ok((parts.config()?, there.then(|| Tokenizer::from_file(file)).transpose()?));
    }
    let file = recipe.model.tokenizer.as_ref().filter(|file| file.exists());
    let tokenizer = file.map(|file| Tokenizer::from_file(file)).transpose()?;
    let vocab = tokenizer.as_ref().map_or(vocab, Tokenizer::vocab_size);
    let (config, _) = recipe.random_model(path, vocab, TokenIds { bos: None, eos: None, image: None })?;
    Ok((config, tokenizer))
}

/// Bounds within which everything can be counted; real models are far below.
fn check_sizes(config: &VilaConfig) -> std::result::Result<(), String> {
    let product = |sizes: &[usize]| sizes.iter().map(|&size| size as f64).product::<f64>();
    let (llm, vision) = (&config.llm, &config.vision);
    let block = |width, mlp| 4.0 * product(&[width, width]) + 3.0 * product(&[width, mlp]);
    let patches = product(&[config.vision.grid(), config.vision.grid()]);
    let parameters = llm.layers as f64 * block(llm.hidden_size, llm.intermediate_size)
        + vision.layers as f64 * block(vision.hidden_size, vision.intermediate_size)
        + 2.0 * product(&[llm.vocab_size, llm.hidden_size])
        + product(&[4, vision.hidden_size, llm.hidden_size])
        + vision.hidden_size as f64 * (patches + 3.0 * product(&[vision.patch_size, vision.patch_size]));
    let problem = [
        (llm.layers.max(vision.layers) > 4096, "more than 4096 layers"),
        (parameters > 1e14, "more than 1e14 parameters"),
        (product(&[llm.max_positions.min(1 << 17), llm.heads.head_dim]) > 1e9, "heads that are too wide"),
    ];
    match problem.into_iter().find(|(beyond, _)| *beyond) {
        Some((_, problem)) => Err(format!("`model` has {problem}: it cannot be planned")),
        None => Ok(()),
    }
}

/// What the documents of a stage are taken from.
enum Documents {
    Like(Document),
    Records(Vec<(Arc<ShardReader>, u64, f64)>),
}

impl Documents {
    fn content(&self, stage: &StageSpec, config: &VilaConfig, seed: u64) -> Result<Content> {
        match self {
            Documents::Like(document) => Content::assumed(stage, *document, config),
            Documents::Records(shards) => Content::of_records(stage, shards, config, seed),
        }
    }
}

fn documents(recipe: &Recipe, stage: &StageSpec, tokenizer: Option<&Tokenizer>, assume: Assume) -> Result<Documents> {
    if stage.capacity > MOST_POSITIONS {
        return Err(Error::Data(format!("stage {}: `capacity` is above {MOST_POSITIONS}", stage.name)));
    }
    if let Assume::Document(document) = assume {
        return Ok(Documents::Like(document));
    }
    let mut shards = Vec::new();
    for (name, share) in &stage.data {
        let spec = &recipe.sources[name];
        let found = if assume == Assume::Nothing { find_source(&recipe.out, name, spec, tokenizer)? } else { None };
        if let Some(reader) = found {
            shards.push((Arc::new(reader), spec.hold_out, *share));
        }
    }
    if shards.len() == stage.data.len() {
        return Ok(Documents::Records(shards));
    }
    Ok(Documents::Like(content::mean_document(recipe, stage)))
}

/// Longest micro-batch that is planned.
const MOST_POSITIONS: usize = 1 << 20;
/// What a largest capacity is a multiple of.
const CAPACITY_STEP: usize = 128;

/// Dry runs of one stage.
struct Planner<'a> {
    config: &'a VilaConfig,
    dtype: DType,
    moments: DType,
    stage: &'a StageSpec,
    documents: &'a Documents,
    seed: u64,
    /// Bytes of a process while the stage begins.
    start: u64,
    options: &'a PlanOptions,
}

impl Planner<'_> {
    fn policies(&self, content: &Content) -> Result<Vec<PolicyPlan>> {
        let mut without = None;
        let mut policies = Vec::new();
        for (recompute, name) in POLICIES {
            let heaviest = self.step(recompute, content.most, self.stage.capacity)?;
            let mean = self.step(recompute, content.mean, self.stage.capacity)?;
            let backward = *without.get_or_insert(mean.backward);
            let flops = StepFlops {
                forward: content.micro_batches * mean.forward,
                backward: content.micro_batches * backward,
                recompute: content.micro_batches * (mean.backward - backward).max(0.0),
            };
            let total = self.total(&heaviest);
            policies.push(PolicyPlan {
                name,
                parts: dry::parts(&heaviest),
                total,
                fits: self.options.memory.map(|memory| self.fits(total, memory)),
                largest_capacity: match self.options.memory {
                    Some(memory) => self.largest_capacity(recompute, memory)?,
                    None => None,
                },
                activations: heaviest.activations,
                flops,
            });
        }
        Ok(policies)
    }

    fn step(&self, recompute: Recompute, mix: Mix, capacity: usize) -> Result<StepEstimate> {
        let align = if self.options.device == DryDevice::Cpu { 1 } else { grain(capacity) };
        let batch = mix.batch(self.config, align, self.stage.feature_bank);
        let policy = Policy { dtype: self.dtype, moments: self.moments, recompute };
        dry_step(self.options.device, self.config, policy, self.stage, &batch)
    }

    /// Bytes of a process at the peak, moments split among the ranks.
    fn total(&self, estimate: &StepEstimate) -> u64 {
        let parts = dry::parts(estimate);
        let moments = parts[3];
        parts.iter().sum::<u64>() - moments
            + moments.div_ceil(self.options.ranks.max(1))
            + self.options.device.overhead()
    }

    /// Whether a step that takes `total` bytes at its peak, and the stage's begin, have room.
    fn fits(&self, total: u64, memory: u64) -> bool {
        total.max(self.start) <= memory
    }

    /// Whether a step of full micro-batches of that capacity and the stage's begin fit; nothing where a document is longer.
    fn fits_at(&self, recompute: Recompute, capacity: usize, memory: u64) -> Result<Option<bool>> {
        let stage = StageSpec { capacity, ..self.stage.clone() };
        let Ok(content) = self.documents.content(&stage, self.config, self.seed) else { return Ok(None) };
        let estimate = self.step(recompute, content.most, capacity)?;
        Ok(Some(self.fits(self.total(&estimate), memory)))
    }

    fn largest_capacity(&self, recompute: Recompute, memory: u64) -> Result<Option<usize>> {
        if self.start > memory {
            return Ok(None);
        }
        let fits = |units: usize| self.fits_at(recompute, units * CAPACITY_STEP, memory);
        let (mut low, mut high) = (0, (self.stage.capacity / CAPACITY_STEP).max(1));
        // What is too short for a document is below the answer, too.
        while high < MOST_POSITIONS / CAPACITY_STEP && fits(high)? != Some(false) {
            (low, high) = (high, (2 * high).min(MOST_POSITIONS / CAPACITY_STEP));
        }
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle)? == Some(false) { high = middle } else { low = middle }
        }
        Ok((low > 0 && fits(low)? == Some(true)).then_some(low * CAPACITY_STEP))
    }
}

/// Parameters that a stage trains.
pub fn trained_parameters(config: &VilaConfig, stage: &StageSpec) -> u64 {
    let specs = VilaModel::specs(config);
    specs.iter().filter(|spec: &&ParamSpec| stage.trains(&spec.name)).map(|spec| spec.len() as u64).sum()
}
