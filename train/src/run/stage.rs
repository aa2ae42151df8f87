use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::SIGTERM;
use vila_autograd::{ParamStore, Tape};
use vila_engine::ops::{Copy, Fill};
use vila_engine::{Backend, DType, Tensor, philox};
use vila_files::OwnFolder;
use vila_model::VilaModel;
use vila_model::weights::Component;

use super::guard::Guard;
use super::log::{Log, memory, note};
use super::session::{Session, stage_seed};
use super::{RunOptions, samples};
use crate::checkpoint::{Checkpoints, StageReport, TrainerState, load_moments, step_name};
use crate::faults::{self, Action};
use crate::loader::{MicroBatch, Share, StageData, Step, Steps};
use crate::metrics::{SourceLoss, StepMetrics, WallMetrics};
use crate::optimizer::{Optimizer, Sharing, schedule};
use crate::order::digest;
use crate::profile::{self, Profiler};
use crate::ranks::{Collective, Facts, GradientExchange, Partition, agree_on};
use crate::recipe::{Recipe, StageSpec};
use crate::{Error, Result};

/// Runs one stage as one rank.
pub(super) struct StageRunner<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) stage: &'a StageSpec,
    pub(super) checkpoints: &'a Checkpoints,
    pub(super) options: &'a RunOptions,
    pub(super) profiler: Option<&'a Profiler>,
    pub(super) collective: &'a dyn Collective,
    pub(super) share: Share,
}

/// What a step is about to become.
pub(super) struct Tried {
    /// Stage and step, for messages.
    pub(super) place: String,
    /// Group of documents.
    pub(super) group: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

/// Model and optimizer of a stage.
struct Training<'a> {
    backend: &'a dyn Backend,
    store: &'a ParamStore,
    model: &'a VilaModel,
    optimizer: Optimizer,
}

/// A stage under way.
struct Course<'a> {
    training: Training<'a>,
    data: &'a StageData,
    guard: Guard<'a>,
    held_out: Option<Step>,
    log: Option<Log>,
    /// The step from which this process runs the stage.
    resumed_at: u64,
    /// The longest step so far.
    longest: Duration,
    /// Seconds that the last save held up the run.
    saving: f64,
    save_due: bool,
}

/// The losses of a step: what each micro-batch of all ranks adds to the mean, `[micro_batches, 1]`, and those of this rank's
/// supervised rows.
struct Losses {
    by_batch: Tensor,
    by_row: Vec<Tensor>,
}

/// While it lives, a wait for the device is an error in debug builds: nothing inside a step may need one.
struct NoWaiting<'a>(&'a dyn Backend);

impl<'a> NoWaiting<'a> {
    fn new(backend: &'a dyn Backend, waits: bool) -> Self {
        backend.allow_waiting(waits || !cfg!(debug_assertions));
        NoWaiting(backend)
    }
}

impl Drop for NoWaiting<'_> {
    fn drop(&mut self) {
        self.0.allow_waiting(true);
    }
}

impl StageRunner<'_> {
    /// Runs the rest of a stage; returns the name of the newest checkpoint and the signal that stopped it.
    pub(super) fn run(
        &self,
        session: &mut Session,
        state: &mut TrainerState,
        mut data: StageData,
        resume_from: Option<&Path>,
    ) -> Result<(String, Option<usize>)> {
        session.retrain(self.recipe, self.stage)?;
        session.learn_template(self.stage, &data, self.first());
        let backend = Arc::clone(&session.backend);
        let backend = &*backend;
        let store = session.weights()?;
        let model = VilaModel::new(backend, &session.carried.config, store)?;
        let hashes = data.source_hashes().fold(Facts::new(), |facts, (name, hash)| {
            facts.with(format!("the data of sources.{name}, whose hash"), hash)
        });
        agree_on(self.collective, &hashes)?;
        if self.stage.feature_bank {
            data.fill_feature_bank(backend, &model, store)?;
        }
        let mut training = Training {
            backend,
            store,
            model: &model,
            optimizer: Optimizer::shared(backend, store, self.sharing(store))?,
        };
        self.check_data(&data, state)?;
        if let (true, Some(dir)) = (state.step > 0, resume_from) {
            load_moments(dir, backend, store, &mut training.optimizer)?;
            training.optimizer.set_updates(backend, state.updates)?;
        } else {
            state.progress = StageReport { name: self.stage.name.clone(), ..StageReport::default() };
        }
        let course = Course {
            held_out: if self.stage.validate_every > 0 { data.held_out()? } else { None },
            log: self.first().then(|| Log::open(self, state, &data)).transpose()?,
            guard: Guard::new(self.recipe),
            training,
            data: &data,
            resumed_at: state.step,
            longest: Duration::ZERO,
            saving: 0.0,
            save_due: false,
        };
        std::thread::scope(|scope| {
            let spare = if course.guard.skips() { self.recipe.max_skipped + 1 } else { 0 };
            let most = self.stage.steps - state.step + spare;
            let steps = data.prefetch(scope, state.drawn, most, self.recipe.loader.workers);
            self.follow(course, steps, session, state)
        })
    }

    /// Step after step to the end of the stage, or to a signal.
    fn follow(
        &self,
        mut course: Course,
        mut steps: Steps,
        session: &Session,
        state: &mut TrainerState,
    ) -> Result<(String, Option<usize>)> {
        while state.step < self.stage.steps {
            self.profile(state.step - course.resumed_at)?;
            self.collective.at_step(state.global_step + 1);
            let signal = self.step(&mut course, &mut steps, session, state)?;
            if state.step == self.stage.steps {
                break;
            }
            // A save that is still being written holds up nothing: the next waits for a later step.
            let due = course.save_due && self.collective.agree(u64::from(self.checkpoints.busy()))? == 0;
            if signal != 0 || due {
                let start = Instant::now();
                let name = step_name(&self.stage.name, state.global_step);
                self.save(&name, session, &course, state)?;
                if signal != 0 {
                    return Ok((name, Some(signal)));
                }
                (course.save_due, course.saving) = (false, start.elapsed().as_secs_f64());
            }
        }
        self.profile(1 + self.options.profile)?;
        if self.stage.merge_lora {
            self.merge_lora(session, &course.training)?;
        }
        state.finish_stage();
        self.save(&self.stage.name, session, &course, state)?;
        let signal = self.collective.agree(self.options.stop.load(Ordering::Relaxed) as u64)? as usize;
        let stopped = signal != 0 && state.stage < self.recipe.stage.len();
        Ok((self.stage.name.clone(), stopped.then_some(signal)))
    }

    /// Adds the adapters to the weights beside them, which no longer are those that were saved.
    fn merge_lora(&self, session: &Session, training: &Training) -> Result<()> {
        let Training { backend, store, .. } = *training;
        training.optimizer.gather_masters(backend, store, self.collective)?;
        vila_model::lora::merge(backend, &session.carried.config, store, self.recipe.seed)?;
        self.checkpoints.forget(Component::Llm)
    }

    /// One step: its update, and what is measured and written after it. Returns the signal to stop by, or 0.
    fn step(
        &self,
        course: &mut Course,
        steps: &mut Steps,
        session: &Session,
        state: &mut TrainerState,
    ) -> Result<usize> {
        let start = Instant::now();
        let step = steps.take()?;
        let waited = start.elapsed().as_secs_f64();
        let rate = schedule(state.step, self.stage.steps, self.stage.warmup, self.stage.min_lr_ratio);
        let (tried, losses, skipped) = self.try_step(course, &step, state, rate)?;
        state.drawn = step.group;
        if skipped.is_none() {
            if let Some(reason) = course.guard.spike(state, tried.loss) {
                tracing::warn!("{}: {reason}. Documents: {}", tried.place, course.data.describe(&step.picks)?);
            }
            course.guard.note(state, tried.loss);
            state.step += 1;
            state.global_step += 1;
        }
        let (signal, loss_by_source) = self.meet(course, &step, &losses, start.elapsed())?;
        let due = |every: u64| {
            let reached = state.step.is_multiple_of(every.max(1)) || state.step == self.stage.steps;
            skipped.is_none() && every > 0 && reached
        };
        let validation_loss = match &course.held_out {
            Some(held_out) if due(self.stage.validate_every) => self.validate(&course.training, held_out)?,
            _ => None,
        };
        course.save_due |= due(self.recipe.checkpoint.every);
        let sample_due = due(self.recipe.samples.as_ref().map_or(0, |samples| samples.every));
        course.longest = course.longest.max(start.elapsed());
        let seconds = start.elapsed().as_secs_f64();
        if skipped.is_none() {
            note(&mut state.progress, tried.loss, step.tokens, seconds);
        }
        let passed_over = u64::from(skipped.is_some());
        let line = StepMetrics {
            stage: self.stage.name.clone(),
            step: state.step + passed_over,
            global_step: state.global_step + passed_over,
            loss: tried.loss,
            loss_by_source,
            grad_norm: tried.grad_norm,
            lr: self.stage.lr * rate,
            documents: step.picks.len() as u64,
            order: digest(&step.picks),
            tokens: step.tokens,
            supervised: step.supervised,
            images: step.images,
            micro_batches: step.micro_batches,
            packing: step.tokens as f64 / step.positions.max(1) as f64,
            validation_loss,
            left_out: if state.step + passed_over == 1 { course.data.left_out() } else { BTreeMap::new() },
            skipped,
        };
        let wall = WallMetrics {
            seconds,
            waited,
            tokens_per_second: step.tokens as f64 / seconds,
            memory: memory(course.training.backend),
            saving: std::mem::take(&mut course.saving),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64()),
        };
        if let Some(log) = &mut course.log {
            log.write(self, state, &line, &wall)?;
            if let (true, Some(spec)) = (sample_due, &self.recipe.samples) {
                let parts = session.parts(course.training.model)?;
                samples::write(&self.recipe.out, spec, parts, &self.stage.name, state)?;
            }
        }
        Ok(signal)
    }

    fn first(&self) -> bool {
        self.share.rank == 0
    }

    fn sharing(&self, store: &ParamStore) -> Sharing {
        let Share { rank, world } = self.share;
        let ranks = &self.recipe.ranks;
        let bucket = if world == 1 { usize::MAX } else { ranks.bucket };
        Sharing {
            partition: Partition::new(store, world, bucket),
            rank,
            zero: ranks.zero && world > 1,
            moments: self.recipe.model.moments.into(),
            seed: self.recipe.seed,
        }
    }

    /// Computes a step and, unless something speaks against it, applies its update; returns why it was passed over.
    fn try_step(
        &self,
        course: &mut Course,
        step: &Step,
        state: &mut TrainerState,
        rate: f64,
    ) -> Result<(Tried, Losses, Option<String>)> {
        let Course { training, guard, data, .. } = course;
        let Training { backend, store, .. } = *training;
        let no_waiting = NoWaiting::new(backend, self.collective.waits_for_device() || guard.looks_first());
        let losses = self.forward_backward(training, step)?;
        let mut tried = Tried {
            place: format!("stage {}, step {} (group {})", self.stage.name, state.step + 1, step.group),
            group: step.group,
            loss: f64::NAN,
            grad_norm: f64::NAN,
        };
        let total = |losses: &Losses| -> Result<f64> {
            Ok(backend.to_vec::<f32>(&losses.by_batch)?.into_iter().map(f64::from).sum())
        };
        if guard.looks_first() {
            tried.loss = total(&losses)?;
            if let Some(reason) = guard.spike(state, tried.loss) {
                guard.skip(state, &tried, &reason, &data.describe(&step.picks)?)?;
                return Ok((tried, losses, Some(reason)));
            }
        }
        let optimizer = &mut training.optimizer;
        optimizer.update(backend, store, self.stage, rate, Some(&losses.by_batch), self.collective)?;
        drop(no_waiting);
        // All that the host waits for in a step.
        tried.loss = total(&losses)?;
        tried.grad_norm = optimizer.grad_norm(backend)?;
        if tried.loss.is_finite() && tried.grad_norm.is_finite() {
            return Ok((tried, losses, None));
        }
        let documents = data.describe(&step.picks)?;
        let reason = guard.not_finite(&tried, &documents)?;
        guard.skip(state, &tried, &reason, &documents)?;
        Ok((tried, losses, Some(reason)))
    }

    /// The gradients of a step, summed over ranks in this rank's pieces, and its losses.
    fn forward_backward(&self, training: &Training, step: &Step) -> Result<Losses> {
        let Training { backend, store, model, .. } = *training;
        store.zero_grads(backend)?;
        let scale = 1.0 / step.supervised as f64;
        let by_batch = backend.zeros(DType::F32, step.micro_batches, 1)?;
        let mut by_row = Vec::with_capacity(step.batches.len());
        let exchange = GradientExchange::new(backend, store, self.collective, training.optimizer.partition());
        for (done, MicroBatch { index, batch, .. }) in step.batches.iter().enumerate() {
            let recompute = self.recipe.model.recompute.into();
            let mut tape = Tape::new(backend, store).recompute(recompute).noise(self.noise(step, *index));
            if self.recipe.ranks.overlap && done + 1 == step.batches.len() {
                tape = tape.on_complete(|param| exchange.complete(param));
            }
            let rows = backend.alloc(DType::F32, batch.targets.len(), 1)?;
            if let Some(root) = model.loss_by_row(&mut tape, batch, scale, Some(&rows))? {
                tape.backward_loss(&root)?;
                backend.copy(&Copy { x: root.tensor(), y: &by_batch.slice_rows(*index..index + 1)? })?;
            }
            by_row.push(rows);
        }
        match if self.first() { faults::hit(faults::STEP_LOSS) } else { None } {
            Some(Action::Nan) => backend.fill(&Fill { y: &by_batch, value: f64::NAN })?,
            Some(Action::Spike) => backend.fill(&Fill { y: &by_batch, value: 1e6 })?,
            Some(Action::Kill) => faults::die(),
            _ => {}
        }
        exchange.finish()?;
        self.collective.all_reduce(backend, &by_batch)?;
        Ok(Losses { by_batch, by_row })
    }

    /// Seed of the dropout in a micro-batch: the same on any number of ranks, and after a stop.
    fn noise(&self, step: &Step, batch: usize) -> u64 {
        let stage = self.recipe.stage.iter().position(|stage| stage.name == self.stage.name);
        // The documents' order draws from the seed itself.
        let seed = !stage_seed(self.recipe, stage.unwrap_or(0));
        let [low, high, ..] = philox::words(seed, step.group, batch as u64);
        u64::from(high) << 32 | u64::from(low)
    }

    /// What all ranks tell each other at the end of a step: a signal to stop by, and the losses of their rows.
    fn meet(
        &self,
        course: &Course,
        step: &Step,
        losses: &Losses,
        elapsed: Duration,
    ) -> Result<(usize, BTreeMap<String, SourceLoss>)> {
        let training = &course.training;
        let names: Vec<&str> = course.data.source_names().collect();
        let mut words = vec![0.0; 1 + 2 * names.len()];
        words[0] = self.signal(training, course.longest.max(elapsed)) as f64;
        for (rows, micro) in losses.by_row.iter().zip(&step.batches) {
            let rows = training.backend.to_vec::<f32>(rows)?;
            let mut rows = rows.iter();
            for &(source, count) in &micro.sources {
                words[1 + 2 * source] += rows.by_ref().take(count).map(|&loss| f64::from(loss)).sum::<f64>();
                words[2 + 2 * source] += count as f64;
            }
        }
        let all = self.collective.tell_all(bytemuck::cast_slice(&words).to_vec())?;
        let mut sums = vec![0.0; words.len()];
        let mut signal = 0;
        for bytes in &all {
            let theirs = bytemuck::allocation::pod_collect_to_vec::<u8, f64>(bytes);
            signal = signal.max(theirs.first().copied().unwrap_or_default() as usize);
            sums.iter_mut().zip(theirs).for_each(|(sum, word)| *sum += word);
        }
        let by_source = names.into_iter().zip(sums[1..].chunks_exact(2)).filter(|(_, sums)| sums[1] > 0.0);
        let by_source = by_source
            .map(|(name, sums)| (name.into(), SourceLoss { loss: sums[0] / sums[1], supervised: sums[1] as u64 }));
        Ok((signal, by_source.collect()))
    }

    /// The signal to stop by, if there is one; running out of time counts as SIGTERM.
    fn signal(&self, training: &Training, longest: Duration) -> usize {
        let signal = self.options.stop.load(Ordering::Relaxed);
        let Some(deadline) = self.options.deadline else { return signal };
        // As if the disk wrote 200 MB a second, until a save was seen.
        let bytes = training.store.flat_weights().cols() as f64 * 12.0;
        let save = if self.checkpoints.last_seconds() > 0.0 { self.checkpoints.last_seconds() } else { bytes / 2e8 };
        let needed = 2 * longest + Duration::from_secs_f64(2.0 * save + 0.5);
        if signal == 0 && Instant::now() + needed >= deadline { SIGTERM as usize } else { signal }
    }

    fn save(&self, name: &str, session: &Session, course: &Course, state: &mut TrainerState) -> Result<()> {
        let Training { backend, store, optimizer, .. } = &course.training;
        if state.step > 0 {
            state.updates = optimizer.updates(*backend)?;
        }
        // The lines of the steps that the checkpoint contains must not be lost behind it.
        course.log.as_ref().map_or(Ok(()), |log| log.metrics.flush())?;
        self.checkpoints.save(name, *backend, &session.carried, store, optimizer, state, self.collective)
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
        if let (Some(records), true) = (profiler.stop(), self.first()) {
            let folder = OwnFolder::create(&self.recipe.out)
                .and_then(|out| out.folder(profile::FOLDER)?.folder(&self.stage.name))
                .map_err(Error::io(self.recipe.out.join(profile::FOLDER).join(&self.stage.name)))?;
            profile::write(&records, folder.path())?;
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

    /// Mean loss of held-out documents, of which every rank takes its share; nothing if no token of them is supervised.
    fn validate(&self, training: &Training, held_out: &Step) -> Result<Option<f64>> {
        if held_out.supervised == 0 {
            return Ok(None);
        }
        let Training { backend, store, model, .. } = *training;
        let mut loss = 0.0f64;
        for MicroBatch { batch, .. } in &held_out.batches {
            let mut tape = Tape::inference(backend, store);
            if let Some(root) = model.loss(&mut tape, batch, 1.0 / held_out.supervised as f64)? {
                loss += f64::from(backend.to_vec::<f32>(root.tensor())?[0]);
            }
        }
        let all = self.collective.tell_all(loss.to_le_bytes().to_vec())?;
        Ok(Some(all.iter().filter_map(|bytes| bytes.first_chunk()).map(|bytes| f64::from_le_bytes(*bytes)).sum()))
    }
}
