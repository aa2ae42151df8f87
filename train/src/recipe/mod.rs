//! A recipe: one TOML file for a whole run. Paths in it are relative to its folder.

mod difference;
#[cfg(test)]
mod fuzz;
mod grafts;
mod names;
mod overrides;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vila_autograd::Recompute;
use vila_engine::DType;

use crate::data::ingest::TooLong;
use crate::{Error, Result};

pub use grafts::{Grafted, LoraSpec};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of initial weights and document order.
    #[serde(default)]
    pub seed: u64,
    /// Folder of the run: checkpoints, metrics, shards.
    pub out: PathBuf,
    /// The model.
    pub model: ModelSpec,
    /// Data sources by name.
    pub sources: BTreeMap<String, SourceSpec>,
    /// Stages in order.
    pub stage: Vec<StageSpec>,
    /// When to save.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
    /// What to do when a step's loss or gradient is not finite.
    #[serde(default)]
    pub on_nonfinite: OnNonFinite,
    /// Most steps of a run that may be skipped; one more stops it.
    #[serde(default = "defaults::max_skipped")]
    pub max_skipped: u64,
    /// What to do when a loss stands out of those before.
    pub loss_spike: Option<LossSpike>,
    /// How ranks share the work.
    #[serde(default)]
    pub ranks: RanksSpec,
    /// How documents are read ahead.
    #[serde(default)]
    pub loader: LoaderSpec,
    /// Prompts that the model continues now and then, for the report.
    pub samples: Option<SamplesSpec>,
    /// See [`Recipe::hash`].
    #[serde(skip)]
    hash: String,
    /// What the hash is of, to say what differs.
    #[serde(skip)]
    written: toml::Table,
}

/// Where the model comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A checkpoint directory to start from; excludes the other fields.
    pub from: Option<PathBuf>,
    /// Directory of a Hugging Face Llama to start from, with a random projector, and the tower of `vision_from` or `vision`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm_from: Option<PathBuf>,
    /// Directory of a CLIP or SigLIP to start from, with `llm_from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_from: Option<PathBuf>,
    /// Which hidden state of that tower becomes features, -2 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_layer: Option<i64>,
    /// `tokenizer.json`, or a SentencePiece `tokenizer.model`.
    pub tokenizer: Option<PathBuf>,
    /// Decoder sizes, for random weights.
    pub llm: Option<LlmSpec>,
    /// Vision tower sizes, for random weights; beside `llm` or `llm_from`.
    pub vision: Option<VisionSpec>,
    /// Projector type.
    pub projector: Option<String>,
    /// Adapters that stages train as `lora`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSpec>,
    /// Weights of their own for positions of images, which stages train as `expert`; they start as copies of the
    /// decoder's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub visual_expert: bool,
    /// Lets the last position of each run of images go through the language weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_image_position_as_text: bool,
    /// How images become pixels.
    #[serde(default)]
    pub image: ImageSpec,
    /// What the backward pass computes again: `none`, `cheap` or `block`.
    #[serde(default)]
    pub recompute: RecomputeSpec,
    /// Type of weights and activations: `f32` or `bf16` (with f32 master weights and gradients).
    #[serde(default)]
    pub precision: PrecisionSpec,
    /// Type of Adam's moments: `f32`, or `bf16` with stochastic rounding.
    #[serde(default)]
    pub moments: PrecisionSpec,
}

/// Type of weights and activations while training; reductions, masters, moments and the loss are f32 in both.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionSpec {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl From<PrecisionSpec> for DType {
    fn from(spec: PrecisionSpec) -> Self {
        match spec {
            PrecisionSpec::F32 => DType::F32,
            PrecisionSpec::Bf16 => DType::BF16,
        }
    }
}

/// See [`Recompute`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RecomputeSpec {
    /// Keep every activation.
    #[default]
    None,
    /// Norms and activations again.
    Cheap,
    /// Whole blocks again.
    Block,
}

impl From<RecomputeSpec> for Recompute {
    fn from(spec: RecomputeSpec) -> Self {
        match spec {
            RecomputeSpec::None => Recompute::None,
            RecomputeSpec::Cheap => Recompute::Cheap,
            RecomputeSpec::Block => Recompute::Block,
        }
    }
}

/// Sizes of a decoder with random weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmSpec {
    /// Width.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; as many as query heads if left out.
    pub kv_heads: Option<usize>,
    /// Longest context.
    #[serde(default = "defaults::max_positions")]
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "defaults::rope_theta")]
    pub rope_theta: f64,
    /// Whether head and embedding share one table.
    #[serde(default)]
    pub tied: bool,
}

/// Sizes of a vision tower with random weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSpec {
    /// `clip` or `siglip`.
    pub family: FamilySpec,
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Side of the image in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Which hidden state becomes features.
    #[serde(default = "defaults::select_layer")]
    pub select_layer: i64,
}

/// See [`VisionFamily`](vila_model::config::VisionFamily).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FamilySpec {
    /// Class token, norm before the blocks.
    Clip,
    /// Neither.
    Siglip,
}

/// How images become pixels.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// `pad`, `square` or `resize`; the tower's own if left out.
    pub mode: Option<String>,
    /// Mean per channel; the tower family's if left out.
    pub mean: Option<[f32; 3]>,
    /// Deviation per channel; the tower family's if left out.
    pub std: Option<[f32; 3]>,
}

/// A shard directory, or raw data and how to ingest it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// A shard directory; excludes the other fields but `hold_out`, `too_long` and `max_tokens`.
    pub shard: Option<PathBuf>,
    /// `mmc4`, `pairs`, `llava` or `text`.
    pub format: Option<String>,
    /// Raw files.
    #[serde(default)]
    pub input: Vec<PathBuf>,
    /// Folder of the images.
    pub images: Option<PathBuf>,
    /// Conversation template (llava).
    pub template: Option<String>,
    /// System prompt in place of the template's own; empty for none (llava).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// `native`, `images-first` or `pairs` (mmc4).
    pub layout: Option<String>,
    /// `all_text` or `image_following_text_only` (mmc4).
    pub loss_scope: Option<String>,
    /// Images kept per document, 0 for all (mmc4).
    pub max_images: Option<usize>,
    /// `stop` or `skip`.
    pub on_error: Option<String>,
    /// Whether images may lie outside their folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub images_anywhere: bool,
    /// What becomes of documents that are longer than the model's context, the stage's `capacity` or `max_tokens`; cut if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_long: Option<TooLong>,
    /// Most positions of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Documents at the end that are never trained on and serve for validation.
    #[serde(default)]
    pub hold_out: u64,
}

/// What to do when a step's loss or gradient is not finite; the weights are untouched either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// Stop the run.
    #[default]
    Stop,
    /// Go on as if the step's documents were not there.
    Skip,
}

/// What to do when a loss stands out: when it is `z` standard deviations above the mean of the last `window` losses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSpike {
    /// Losses of the stage to compare with; nothing stands out before there are as many.
    #[serde(default = "defaults::window")]
    pub window: usize,
    /// Standard deviations.
    #[serde(default = "defaults::z")]
    pub z: f64,
    /// What to do.
    #[serde(default)]
    pub action: SpikeAction,
}

/// See [`LossSpike`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpikeAction {
    /// Say so.
    #[default]
    Warn,
    /// Go on as if the step's documents were not there. The loss is read before each update, which waits for the device.
    Skip,
}

/// How ranks share the work. Nothing in it but `bucket` changes a bit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RanksSpec {
    /// ZeRO-1: each rank keeps and updates its own part of the optimizer's state.
    pub zero: bool,
    /// Send gradients while the backward pass still runs.
    pub overlap: bool,
    /// Parameters whose gradients travel together, at least.
    pub bucket: usize,
}

impl Default for RanksSpec {
    fn default() -> Self {
        RanksSpec { zero: true, overlap: true, bucket: 4 << 20 }
    }
}

/// How documents are read ahead; changes nothing but speed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderSpec {
    /// Threads that prepare steps; 0 prepares each when it is needed.
    pub workers: usize,
}

impl Default for LoaderSpec {
    fn default() -> Self {
        LoaderSpec { workers: 1 }
    }
}

/// Prompts that the model continues now and then: `samples.jsonl` and the report show them over time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplesSpec {
    /// Steps between them; the end of a stage always has some.
    pub every: u64,
    /// Most tokens of each.
    #[serde(default = "defaults::max_new_tokens")]
    pub max_new_tokens: usize,
    /// The prompts.
    pub prompts: Vec<SamplePrompt>,
}

/// A prompt; `<image>` marks where an image goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplePrompt {
    /// The text.
    pub text: String,
    /// Image files.
    #[serde(default)]
    pub images: Vec<PathBuf>,
}

/// Parts of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The vision tower.
    Vision,
    /// The projector.
    Projector,
    /// The decoder with embeddings and head.
    Llm,
    /// The decoder's low-rank adapters.
    Lora,
    /// The visual experts.
    Expert,
}

impl Part {
    /// Whether a parameter of that name belongs to the part.
    pub fn owns(self, name: &str) -> bool {
        name.starts_with(match self {
            Part::Vision => "vision_tower.",
            Part::Projector => "mm_projector.",
            Part::Llm => "llm.",
            Part::Lora => "lora.",
            Part::Expert => "visual_expert.",
        })
    }

    /// As recipes name it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Vision => "vision",
            Part::Projector => "projector",
            Part::Llm => "llm",
            Part::Lora => "lora",
            Part::Expert => "expert",
        }
    }
}

/// One stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// Name, unique in the recipe.
    pub name: String,
    /// Parts that train.
    pub train: Vec<Part>,
    /// Sources and their shares of the documents.
    pub data: BTreeMap<String, f64>,
    /// Optimizer steps.
    pub steps: u64,
    /// Documents per step.
    pub documents: u64,
    /// Positions per micro-batch; no document may be longer.
    pub capacity: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Peak learning rate of the projector, if it differs.
    pub projector_lr: Option<f64>,
    /// Share of the steps that warm up.
    #[serde(default = "defaults::warmup")]
    pub warmup: f64,
    /// Learning rate at the end over the peak.
    #[serde(default)]
    pub min_lr_ratio: f64,
    /// Adam's β₁ and β₂.
    #[serde(default = "defaults::betas")]
    pub betas: [f64; 2],
    /// Adam's ε.
    #[serde(default = "defaults::eps")]
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest gradient norm; 0 for no limit.
    #[serde(default = "defaults::clip")]
    pub clip: f64,
    /// Steps between validations; 0 for none.
    #[serde(default)]
    pub validate_every: u64,
    /// Encode every image once before the stage: possible while the vision tower is frozen.
    #[serde(default)]
    pub feature_bank: bool,
    /// At the end, add the adapters to the weights beside them and start them anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge_lora: bool,
    /// Groups of documents to leave out, by the numbers that messages give them; the steps after draw the next ones.
    #[serde(default)]
    pub omit: Vec<u64>,
}

impl StageSpec {
    /// Whether a parameter of that name trains.
    pub fn trains(&self, name: &str) -> bool {
        self.train.iter().any(|part| part.owns(name))
    }

    /// Whether the vision tower trains.
    pub fn trains_vision(&self) -> bool {
        self.train.contains(&Part::Vision)
    }
}

/// When to save.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Steps between checkpoints; 0 for stage ends alone.
    #[serde(default = "defaults::every")]
    pub every: u64,
    /// Checkpoints to keep besides those at stage ends.
    #[serde(default = "defaults::keep")]
    pub keep: usize,
    /// Checkpoints at multiples of this many steps of the run stay, too; 0 for none.
    #[serde(default)]
    pub permanent: u64,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec { every: defaults::every(), keep: defaults::keep(), permanent: 0 }
    }
}

mod defaults {
    pub(super) fn max_positions() -> usize {
        4096
    }
    pub(super) fn rope_theta() -> f64 {
        10_000.0
    }
    pub(super) fn select_layer() -> i64 {
        -2
    }
    pub(super) fn warmup() -> f64 {
        0.03
    }
    pub(super) fn betas() -> [f64; 2] {
        [0.9, 0.999]
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
    pub(super) fn clip() -> f64 {
        1.0
    }
    pub(super) fn every() -> u64 {
        500
    }
    pub(super) fn keep() -> usize {
        2
    }
    pub(super) fn max_skipped() -> u64 {
        10
    }
    pub(super) fn window() -> usize {
        100
    }
    pub(super) fn z() -> f64 {
        6.0
    }
    pub(super) fn max_new_tokens() -> usize {
        32
    }
}

impl Recipe {
    /// Reads a recipe and applies `key=value` overrides such as `stage.sft.lr=1e-5`.
    ///
    /// # Errors
    /// [`Error::Recipe`] names the file, the line or key, and for unknown keys the nearest known one.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        let text = vila_files::read_to_string(path, vila_files::MAX_CONFIG).map_err(Error::io(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, path, folder, sets)
    }

    /// Reads a recipe from text; `path` names it in messages, its relative paths start at `folder`.
    pub fn parse(text: &str, path: &Path, folder: &Path, sets: &[String]) -> Result<Self> {
        let explain = |error: toml::de::Error| Error::recipe(path, overrides::explain(&error));
        // The plain parse first: its errors carry line numbers, those after overrides cannot.
        let mut recipe: Recipe = toml::from_str(text).map_err(explain)?;
        if !sets.is_empty() {
            let mut table: toml::Table = toml::from_str(text).map_err(explain)?;
            sets.iter().try_for_each(|set| overrides::apply(&mut table, set)).map_err(|e| Error::recipe(path, e))?;
            recipe = table.try_into().map_err(explain)?;
        }
        (recipe.hash, recipe.written) = (recipe.identity(), recipe.essentials());
        recipe.change_paths(|path| *path = folder.join(&path));
        recipe.check().map_err(|problem| Error::recipe(path, problem))?;
        Ok(recipe)
    }

    pub(crate) fn change_paths(&mut self, mut change: impl FnMut(&mut PathBuf)) {
        change(&mut self.out);
        let ModelSpec { from, llm_from, vision_from, tokenizer, .. } = &mut self.model;
        [from, llm_from, vision_from, tokenizer].into_iter().flatten().for_each(&mut change);
        for source in self.sources.values_mut() {
            source.input.iter_mut().for_each(&mut change);
            [&mut source.shard, &mut source.images].into_iter().flatten().for_each(&mut change);
        }
        let prompts = self.samples.iter_mut().flat_map(|samples| &mut samples.prompts);
        prompts.flat_map(|prompt| &mut prompt.images).for_each(change);
    }

    fn check(&self) -> std::result::Result<(), String> {
        let ensure = |fine: bool, problem: String| if fine { Ok(()) } else { Err(problem) };
        self.model.check()?;
        for (name, source) in &self.sources {
            let raw = source.format.is_some() && !source.input.is_empty();
            let options = [
                &source.format,
                &source.template,
                &source.system,
                &source.layout,
                &source.loss_scope,
                &source.on_error,
            ];
            let ready = source.shard.is_some()
                && source.input.is_empty()
                && options.iter().all(|option| option.is_none())
                && source.images.is_none()
                && source.max_images.is_none()
                && !source.images_anywhere;
            let fine = if source.shard.is_some() { ready } else { raw };
            ensure(
                fine,
                format!(
                    "source `{name}` needs either `shard` alone (with `hold_out`, `too_long`, `max_tokens`), or `format` and `input`"
                ),
            )?;
            names::check("source", name)?;
            ensure(
                source.max_tokens.is_none_or(|most| most > 1),
                format!("source `{name}`: `max_tokens` leaves no room for text; raise it, or leave it out"),
            )?;
        }
        ensure(!self.stage.is_empty(), "there is no [[stage]]".into())?;
        self.check_grafts()?;
        let spike = self.loss_spike.as_ref();
        ensure(
            spike.is_none_or(|spike| spike.window >= 2 && spike.window <= 1 << 20 && spike.z > 0.0),
            "`loss_spike` needs a `window` from 2 to 1048576 and a positive `z`".into(),
        )?;
        ensure(self.ranks.bucket > 0, "`ranks.bucket` must be positive".into())?;
        ensure(self.loader.workers <= 256, "`loader.workers` may be 256 at most".into())?;
        ensure(
            self.samples.as_ref().is_none_or(|samples| samples.every > 0 && samples.max_new_tokens > 0),
            "`samples.every` and `samples.max_new_tokens` must be positive".into(),
        )?;
        for (i, stage) in self.stage.iter().enumerate() {
            let at = |field: &str| format!("stage `{}`: `{field}`", stage.name);
            ensure(!self.stage[..i].iter().any(|other| other.name == stage.name), at("name") + " is used twice")?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let named = !stage.name.is_empty() && stage.name.chars().all(plain);
            ensure(named, at("name") + " may have letters, digits, - and _ only")?;
            ensure(!stage.train.is_empty(), at("train") + " is empty; name vision, projector, llm, lora or expert")?;
            ensure(stage.steps > 0 && stage.documents > 0, at("steps") + " and `documents` must be positive")?;
            ensure(stage.capacity > 0, at("capacity") + " must be positive")?;
            ensure(stage.lr >= 0.0 && stage.lr.is_finite(), at("lr") + " must be a number from 0")?;
            ensure((0.0..=1.0).contains(&stage.warmup), at("warmup") + " must be between 0 and 1")?;
            let rates = [stage.projector_lr.unwrap_or(0.0), stage.weight_decay, stage.clip];
            ensure(
                rates.iter().all(|rate| *rate >= 0.0 && rate.is_finite()),
                at("projector_lr") + ", `weight_decay` and `clip` must be numbers from 0",
            )?;
            ensure((0.0..=1.0).contains(&stage.min_lr_ratio), at("min_lr_ratio") + " must be between 0 and 1")?;
            let betas = stage.betas.iter().all(|beta| (0.0..1.0).contains(beta));
            ensure(
                betas && stage.eps > 0.0 && stage.eps.is_finite(),
                at("betas") + " must be in [0, 1), `eps` positive",
            )?;
            ensure(
                stage.steps < 1 << 32 && stage.documents < 1 << 24,
                at("steps") + " or `documents` is beyond all bounds",
            )?;
            ensure(!stage.data.is_empty(), at("data") + " names no source")?;
            ensure(
                !(stage.feature_bank && stage.trains_vision()),
                at("feature_bank") + " needs a frozen vision tower; take `vision` out of `train`",
            )?;
            for (name, weight) in &stage.data {
                let known: Vec<&str> = self.sources.keys().map(String::as_str).collect();
                let hint = overrides::nearest(name, &known);
                ensure(
                    known.contains(&name.as_str()),
                    at("data") + &format!(" names the unknown source `{name}`{hint}"),
                )?;
                ensure(
                    *weight > 0.0 && weight.is_finite(),
                    at("data") + &format!(": the share of `{name}` must be positive"),
                )?;
            }
        }
        Ok(())
    }

    /// SHA-256 of everything that decides the run's results, in hexadecimal; paths count as they are written. What a person
    /// may change to go on after a stop does not count: when to save, what to do about bad steps and documents, how ranks and
    /// loader work.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    fn identity(&self) -> String {
        let json = serde_json::to_vec(&self.neutral()).unwrap_or_default();
        crate::data::tokens::hex(&Sha256::digest(json))
    }

    /// The keys behind the hash.
    fn essentials(&self) -> toml::Table {
        toml::Table::try_from(self.neutral()).unwrap_or_default()
    }

    /// The recipe with defaults in place of what does not count.
    fn neutral(&self) -> Recipe {
        let mut recipe = self.clone();
        recipe.out = PathBuf::new();
        recipe.checkpoint = CheckpointSpec::default();
        (recipe.ranks, recipe.loader, recipe.samples) = (RanksSpec::default(), LoaderSpec::default(), None);
        (recipe.on_nonfinite, recipe.max_skipped, recipe.loss_spike) = (OnNonFinite::Stop, 0, None);
        recipe.stage.iter_mut().for_each(|stage| stage.omit.clear());
        recipe
    }
}

/// Special tokens of a vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct TokenIds {
    /// Starts a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Marks an image.
    pub image: Option<u32>,
}
