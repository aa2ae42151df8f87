//! The training loop: stages, steps, saving, stopping and resuming.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use vila_autograd::{ParamSpec, ParamStore, Tape};
use vila_engine::ops::Copy;
use vila_engine::{Backend, DType, Tensor};
use vila_model::image::ImageProcessor;
use vila_model::tokenizer::Tokenizer;
use vila_model::{Vila, VilaModel};

use crate::checkpoint::{
    Carried, Checkpoints, STATE_VERSION, StageReport, TrainerState, load_moments, load_state, step_name,
};
use crate::data::shard::ShardReader;
use crate::loader::{Geometry, Source, StageData, Step};
use crate::metrics::{MetricsFile, StepMetrics, WallMetrics};
use crate::optimizer::{Optimizer, schedule};
use crate::profile::{self, Profiler};
use crate::progress::Progress;
use crate::recipe::{Recipe, StageSpec, TokenIds};
use crate::sources::open_source;
use crate::{Error, Result};

/// How to run.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Discard what the output directory holds of an earlier run.
    pub restart: bool,
    /// Set from outside to the number of a signal: the run saves and stops after the step in progress.
    pub stop: Arc<AtomicUsize>,
    /// Steps of each stage whose ops are measured, after a first one; see [`crate::profile`].
    pub profile: u64,
}

impl RunOptions {
    /// Fails with [`Error::Interrupted`] once a signal has come, where stopping loses nothing.
    pub fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Error::Interrupted(signal)),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// All finished stages.
    pub stages: Vec<StageReport>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// The signal that stopped the run, if one did.
    pub stopped_by: Option<usize>,
}

/// Runs or resumes a recipe; `path` names it in messages.
///
/// # Errors
/// Everything that can be wrong with recipe, data, model or disk; [`Error::NotFinite`] in place of an update that would
/// spoil the weights. What was saved before stays usable.
pub fn train(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>, options: &RunOptions) -> Result<RunReport> {
    let profiler = (options.profile > 0).then(|| Arc::new(Profiler::new(Arc::clone(&backend))));
    let backend = profiler.clone().map_or(backend, |profiler| profiler as Arc<dyn Backend>);
    let hash = recipe.hash().to_string();
    std::fs::create_dir_all(&recipe.out).map_err(Error::io(&recipe.out))?;
    let _lock = lock(&recipe.out)?;
    if options.restart {
        // What cannot run must not cost the old run its files.
        let session = Session::start(recipe, path, Arc::clone(&backend))?;
        stage_data(recipe, 0, &session)?;
        discard(&recipe.out)?;
    }
    let checkpoints = Checkpoints::open(&recipe.out, recipe.checkpoint.keep)?;
    let latest = checkpoints.latest()?;
    let resumed = latest.as_deref().map(load_state).transpose()?;
    check_claim(&recipe.out, &hash, resumed.as_ref())?;
    let stage = recipe.stage.get(resumed.as_ref().map_or(0, |state| state.stage));
    let mut session = match &latest {
        Some(dir) => Session::load(dir, backend, recipe, stage)?,
        None => Session::start(recipe, path, backend)?,
    };
    let mut state = resumed.unwrap_or_else(|| TrainerState {
        version: STATE_VERSION,
        recipe_hash: hash,
        stage: 0,
        step: 0,
        global_step: 0,
        updates: 0,
        data: String::new(),
        progress: StageReport::default(),
        finished: Vec::new(),
    });
    let mut newest = latest;
    while state.stage < recipe.stage.len() {
        let (stage, profiler) = (&recipe.stage[state.stage], profiler.as_deref());
        let runner = StageRunner { recipe, stage, checkpoints: &checkpoints, options, profiler };
        let (dir, stopped) = runner.run(&mut session, &mut state, newest.as_deref())?;
        newest = Some(dir.clone());
        if let Some(signal) = stopped {
            return Ok(RunReport { stages: state.finished, checkpoint: dir, stopped_by: Some(signal) });
        }
    }
    let checkpoint = newest.ok_or_else(|| Error::Data("the recipe has no stage".into()))?;
    Ok(RunReport { stages: state.finished, checkpoint, stopped_by: None })
}

/// A directory belongs to the recipe that made its first step there.
fn check_claim(out: &Path, hash: &str, resumed: Option<&TrainerState>) -> Result<()> {
    let path = out.join(CLAIM);
    let claimed = match std::fs::read_to_string(&path) {
        Ok(owner) => Some(owner.trim().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io(&path)(error)),
    };
    match resumed.map(|state| state.recipe_hash.clone()).or(claimed) {
        Some(owner) if owner != hash => Err(Error::OutputDirectory {
            path: out.to_path_buf(),
            problem: format!(
                "holds a run of another recipe (hash {}, this one is {}); choose another `out`, or --restart to discard it",
                owner.get(..12).unwrap_or(&owner),
                hash.get(..12).unwrap_or(hash)
            ),
        }),
        _ => Ok(()),
    }
}

/// Holds the hash of the recipe that a directory belongs to.
const CLAIM: &str = "recipe.hash";

/// Keeps other processes out of a run's directory until it is dropped.
fn lock(out: &Path) -> Result<std::fs::File> {
    let path = out.join(".lock");
    let file = std::fs::File::create(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::OutputDirectory {
            path: out.to_path_buf(),
            problem: "another process is running there; wait for it, or choose another `out`".into(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io(&path)(error)),
    }
}

/// Removes a run's files, and nothing else, from its output directory.
pub(crate) fn discard(out: &Path) -> Result<()> {
    for name in ["latest", CLAIM, "metrics.jsonl", "checkpoints", "profile"] {
        let path = out.join(name);
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The model of a run between stages.
struct Session {
    backend: Arc<dyn Backend>,
    carried: Carried,
    store: Option<ParamStore>,
    tokenizer: Tokenizer,
    processor: ImageProcessor,
}

impl Session {
    fn start(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        if let Some(from) = &recipe.model.from {
            return Self::load(from, backend, recipe, recipe.stage.first());
        }
        let file =
            recipe.model.tokenizer.as_ref().ok_or_else(|| Error::recipe(path, "`model.tokenizer` is missing"))?;
        let tokenizer = Tokenizer::from_file(file)?;
        let ids = TokenIds { bos: tokenizer.bos(), eos: tokenizer.eos(), image: tokenizer.image_token() };
        let (config, processor) = recipe.random_model(path, tokenizer.vocab_size(), ids)?;
        let dtype = recipe.model.precision.into();
        let store = ParamStore::new(&*backend, VilaModel::specs(&config), dtype, recipe.seed, |_| false)?;
        let carried = Carried {
            config,
            extras: BTreeMap::new(),
            tokenizer: tokenizer.file_bytes().to_vec(),
            preprocessor: processor.to_json(),
            recipe: printed(recipe),
        };
        Ok(Session { backend, carried, store: Some(store), tokenizer, processor })
    }

    /// What `stage` trains keeps its f32 values as master weights.
    fn load(dir: &Path, backend: Arc<dyn Backend>, recipe: &Recipe, stage: Option<&StageSpec>) -> Result<Self> {
        let trains = |spec: &ParamSpec| stage.is_some_and(|stage| stage.trains(&spec.name));
        let vila = Vila::load_with(dir, Arc::clone(&backend), recipe.model.precision.into(), trains)?;
        let carried = Carried {
            config: vila.config,
            extras: vila.extras,
            tokenizer: vila.tokenizer.file_bytes().to_vec(),
            preprocessor: vila.processor.to_json(),
            recipe: printed(recipe),
        };
        Ok(Session { backend, carried, store: Some(vila.store), tokenizer: vila.tokenizer, processor: vila.processor })
    }

    /// The weights with another choice of what trains.
    fn retrain(&mut self, stage: &StageSpec) -> Result<()> {
        let store = self.store.take().ok_or_else(|| Error::Data("the weights are gone after a failed stage".into()))?;
        self.store = Some(store.with_trainable(&*self.backend, |spec| stage.trains(&spec.name))?);
        Ok(())
    }
}

fn printed(recipe: &Recipe) -> String {
    toml::to_string_pretty(recipe).unwrap_or_default()
}

/// Checks a recipe and builds everything but weights and steps: sources are ingested, documents checked.
///
/// Returns one line per stage.
pub fn dry_run(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>) -> Result<Vec<String>> {
    let session = Session::start(recipe, path, backend)?;
    recipe
        .stage
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let data = stage_data(recipe, index, &session)?;
            let first = data.step(0)?;
            Ok(format!(
                "{}: {} steps of {} documents; the first step has {} tokens, {} supervised, {} images in {} micro-batches",
                stage.name,
                stage.steps,
                stage.documents,
                first.tokens,
                first.supervised,
                first.images,
                first.batches.len()
            ))
        })
        .collect()
}

/// Multiplies the stage index into seeds, so that stages draw different orders.
const STAGE_SEED: u64 = 0x9E37_79B9_7F4A_7C15;

fn stage_data(recipe: &Recipe, index: usize, session: &Session) -> Result<StageData> {
    let stage = &recipe.stage[index];
    let mut sources = Vec::new();
    for name in stage.data.keys() {
        let spec = &recipe.sources[name];
        let reader: ShardReader = open_source(&recipe.out, name, spec, &session.tokenizer)?;
        sources.push(Source { name: name.clone(), reader: Arc::new(reader), hold_out: spec.hold_out });
    }
    let geometry = Geometry {
        tokens_per_image: session.carried.config.tokens_per_image(),
        max_positions: session.carried.config.llm.max_positions,
        align: if session.backend.needs_fixed_shapes() { stage.capacity } else { 1 },
    };
    let seed = recipe.seed ^ STAGE_SEED.wrapping_mul(index as u64 + 1);
    StageData::new(seed, stage, sources, geometry, session.processor.clone())
}

struct StageRunner<'a> {
    recipe: &'a Recipe,
    stage: &'a StageSpec,
    checkpoints: &'a Checkpoints,
    options: &'a RunOptions,
    profiler: Option<&'a Profiler>,
}

/// While it lives, a wait for the device is an error in debug builds: nothing inside a step may need one.
struct NoWaiting<'a>(&'a dyn Backend);

impl<'a> NoWaiting<'a> {
    fn new(backend: &'a dyn Backend) -> Self {
        backend.allow_waiting(!cfg!(debug_assertions));
        NoWaiting(backend)
    }
}

impl Drop for NoWaiting<'_> {
    fn drop(&mut self) {
        self.0.allow_waiting(true);
    }
}

/// Losses behind a stage's `last_loss`.
const RECENT: usize = 10;

impl StageRunner<'_> {
    /// Runs the rest of a stage; returns the newest checkpoint and the signal that stopped it.
    fn run(
        &self,
        session: &mut Session,
        state: &mut TrainerState,
        resume_from: Option<&Path>,
    ) -> Result<(PathBuf, Option<usize>)> {
        session.retrain(self.stage)?;
        let backend = Arc::clone(&session.backend);
        let backend = &*backend;
        let Some(store) = &session.store else { return Err(Error::Data("the weights are gone".into())) };
        let model = VilaModel::new(backend, &session.carried.config, store)?;
        let mut data = stage_data(self.recipe, state.stage, session)?;
        if self.stage.feature_bank {
            data.fill_feature_bank(backend, &model, store)?;
        }
        let mut optimizer = Optimizer::new(backend, store)?;
        self.check_data(&data, state)?;
        if let (true, Some(dir)) = (state.step > 0, resume_from) {
            load_moments(dir, backend, store, &mut optimizer)?;
            optimizer.set_updates(backend, state.updates)?;
        } else {
            state.progress = StageReport { name: self.stage.name.clone(), ..StageReport::default() };
        }
        let held_out = if self.stage.validate_every > 0 { data.held_out()? } else { None };
        let mut metrics = MetricsFile::open(&self.recipe.out, state.global_step)?;
        let mut progress = Progress::new(&self.stage.name, state.step, self.stage.steps);
        let save = |name: &str, optimizer: &Optimizer, state: &TrainerState| {
            self.checkpoints.save(name, backend, &session.carried, store, optimizer, state)
        };
        let data = &data;
        std::thread::scope(|scope| -> Result<(PathBuf, Option<usize>)> {
            let (steps, resumed_at) = (data.prefetch(scope, state.step, self.stage.steps), state.step);
            while state.step < self.stage.steps {
                self.profile(state.step - resumed_at)?;
                let start = Instant::now();
                let step = steps.recv().map_err(|_| Error::Data("the data loader ended early".into()))??;
                let waited = start.elapsed().as_secs_f64();
                let no_waiting = NoWaiting::new(backend);
                let losses = self.forward_backward(backend, store, &model, &step)?;
                let rate = schedule(state.step, self.stage.steps, self.stage.warmup, self.stage.min_lr_ratio);
                optimizer.update(backend, store, self.stage, rate, Some(&losses))?;
                drop(no_waiting);
                // All that the host waits for in a step.
                let loss = backend.to_vec::<f32>(&losses)?.into_iter().map(f64::from).sum::<f64>();
                let grad_norm = optimizer.grad_norm(backend)?;
                if !loss.is_finite() || !grad_norm.is_finite() {
                    return Err(self.not_finite(data, &step, state, loss, grad_norm));
                }
                state.step += 1;
                state.global_step += 1;
                let last = state.step == self.stage.steps;
                let due = |every: u64| every > 0 && (state.step.is_multiple_of(every) || last);
                let validation_loss = match &held_out {
                    Some(held_out) if due(self.stage.validate_every) => {
                        Some(validate(backend, store, &model, held_out)?)
                    }
                    _ => None,
                };
                let seconds = start.elapsed().as_secs_f64();
                note(&mut state.progress, loss, step.tokens, seconds);
                let line = StepMetrics {
                    stage: self.stage.name.clone(),
                    step: state.step,
                    global_step: state.global_step,
                    loss,
                    grad_norm,
                    lr: self.stage.lr * rate,
                    documents: step.picks.len() as u64,
                    tokens: step.tokens,
                    supervised: step.supervised,
                    images: step.images,
                    micro_batches: step.batches.len(),
                    validation_loss,
                };
                let speed = step.tokens as f64 / seconds;
                let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
                if state.global_step == 1 {
                    let path = self.recipe.out.join(CLAIM);
                    std::fs::write(&path, format!("{}\n", self.recipe.hash())).map_err(Error::io(&path))?;
                }
                metrics.write(&line, &WallMetrics { seconds, waited, tokens_per_second: speed, time })?;
                progress.show(state.step, state.progress.last_loss, speed);
                if last {
                    break;
                }
                let signal = self.options.stop.load(Ordering::Relaxed);
                let every = self.recipe.checkpoint.every;
                if signal != 0 || (every > 0 && state.step.is_multiple_of(every)) {
                    state.updates = optimizer.updates(backend)?;
                    let dir = save(&step_name(&self.stage.name, state.global_step), &optimizer, state)?;
                    if signal != 0 {
                        return Ok((dir, Some(signal)));
                    }
                }
            }
            self.profile(1 + self.options.profile)?;
            state.finished.push(std::mem::take(&mut state.progress));
            (state.stage, state.step, state.updates) = (state.stage + 1, 0, 0);
            let dir = save(&self.stage.name, &optimizer, state)?;
            let signal = self.options.stop.load(Ordering::Relaxed);
            Ok((dir, (signal != 0 && state.stage < self.recipe.stage.len()).then_some(signal)))
        })
    }

    /// Measures the steps after the first one of a stage; writes what was found when they are over.
    fn profile(&self, steps_run: u64) -> Result<()> {
        let Some(profiler) = self.profiler else { return Ok(()) };
        if steps_run == 1 {
            profiler.start();
        }
        if steps_run != 1 + self.options.profile {
            return Ok(());
        }
        if let Some(records) = profiler.stop() {
            let folder = self.recipe.out.join("profile").join(&self.stage.name);
            std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            profile::write(&records, &folder)?;
        }
        Ok(())
    }

    /// A stage that goes on must see the documents it began with.
    fn check_data(&self, data: &StageData, state: &mut TrainerState) -> Result<()> {
        let fingerprint = data.fingerprint();
        if state.step > 0 && state.data != fingerprint {
            return Err(Error::OutputDirectory {
                path: self.recipe.out.clone(),
                problem: format!(
                    "stage {} began with other data than its sources hold now; restore them, or --restart",
                    self.stage.name
                ),
            });
        }
        state.data = fingerprint;
        Ok(())
    }

    /// The gradients of a step, and what each micro-batch adds to the mean loss of its supervised tokens: `[batches, 1]`.
    fn forward_backward(
        &self,
        backend: &dyn Backend,
        store: &ParamStore,
        model: &VilaModel,
        step: &Step,
    ) -> Result<Tensor> {
        store.zero_grads(backend)?;
        let scale = 1.0 / step.supervised as f64;
        let losses = backend.zeros(DType::F32, step.batches.len(), 1)?;
        for (index, batch) in step.batches.iter().enumerate() {
            let mut tape = Tape::new(backend, store).recompute(self.recipe.model.recompute.into());
            if let Some(root) = model.loss(&mut tape, batch, scale)? {
                tape.backward_loss(&root)?;
                backend.copy(&Copy { x: root.tensor(), y: &losses.slice_rows(index..index + 1)? })?;
            }
        }
        Ok(losses)
    }

    fn not_finite(&self, data: &StageData, step: &Step, state: &TrainerState, loss: f64, grad_norm: f64) -> Error {
        let documents = data.describe(&step.picks).unwrap_or_else(|error| error.to_string());
        Error::NotFinite(format!(
            "stage {}, step {}: loss {loss}, gradient norm {grad_norm}; stopped before the update, the last checkpoint is \
             untouched. Documents of the step: {documents}. Lower the learning rate, or check these documents with \
             `vila data show`",
            self.stage.name,
            state.step + 1
        ))
    }
}

fn note(report: &mut StageReport, loss: f64, tokens: u64, seconds: f64) {
    if report.steps == 0 {
        report.first_loss = loss;
    }
    let mut recent: VecDeque<f64> = std::mem::take(&mut report.recent).into();
    recent.push_back(loss);
    if recent.len() > RECENT {
        recent.pop_front();
    }
    report.last_loss = recent.iter().sum::<f64>() / recent.len() as f64;
    report.recent = recent.into();
    report.steps += 1;
    report.tokens += tokens;
    report.seconds += seconds;
}

/// Mean loss of held-out documents.
fn validate(backend: &dyn Backend, store: &ParamStore, model: &VilaModel, held_out: &Step) -> Result<f64> {
    let mut loss = 0.0;
    for batch in &held_out.batches {
        let mut tape = Tape::inference(backend, store);
        if let Some(root) = model.loss(&mut tape, batch, 1.0 / held_out.supervised.max(1) as f64)? {
            loss += f64::from(backend.to_vec::<f32>(root.tensor())?[0]);
        }
    }
    Ok(loss)
}
