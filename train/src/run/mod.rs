//! The training loop: stages, steps, saving, stopping and resuming, on one rank or many.

pub(crate) mod folder;
mod guard;
mod log;
mod preflight;
mod samples;
mod session;
mod stage;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use vila_engine::Backend;

use crate::checkpoint::{Checkpoints, StageReport, TrainerState, load_state};
use crate::loader::Share;
use crate::profile::Profiler;
use crate::ranks::{Collective, Facts, Solo, agree_on, threads};
use crate::recipe::Recipe;
use crate::{Error, Result};
use folder::RunFolder;
use session::Session;
use stage::StageRunner;

/// How to run.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Discard what the output directory holds of an earlier run.
    pub restart: bool,
    /// Set from outside to the number of a signal: the run saves and stops after the step in progress.
    pub stop: Arc<AtomicUsize>,
    /// When the run must be over: it saves and stops in time, as if by SIGTERM.
    pub deadline: Option<Instant>,
    /// Steps of each stage whose ops are measured, after a first one; see [`crate::profile`].
    pub profile: u64,
    /// Show no progress: the caller tells of it.
    pub quiet: bool,
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

/// Runs or resumes a recipe on one device; `path` names it in messages.
///
/// # Errors
/// Everything that can be wrong with recipe, data, model or disk; [`Error::NotFinite`] in place of an update that would
/// spoil the weights. What was saved before stays usable.
pub fn train(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>, options: &RunOptions) -> Result<RunReport> {
    train_as(recipe, path, backend, options, &Solo)
}

/// Runs or resumes a recipe on ranks that are threads of this process, one for each backend.
///
/// # Errors
/// Those of [`train`], of the first rank that failed by itself.
pub fn train_on(
    recipe: &Recipe,
    path: &Path,
    backends: Vec<Arc<dyn Backend>>,
    options: &RunOptions,
) -> Result<RunReport> {
    if let [backend] = &backends[..] {
        return train(recipe, path, Arc::clone(backend), options);
    }
    let collectives = threads(backends.len())?;
    let results: Vec<Result<RunReport>> = std::thread::scope(|scope| {
        let ranks = backends
            .into_iter()
            .zip(collectives)
            .map(|(backend, collective)| scope.spawn(move || train_as(recipe, path, backend, options, &collective)));
        let ranks: Vec<_> = ranks.collect();
        let panicked = |_| Err(Error::Ranks("a rank's thread ended early".into()));
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(panicked)).collect()
    });
    let (done, mut failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    // The others only report that one.
    let own = failed.iter().position(|result| !matches!(result, Err(Error::RankLost { .. })));
    match failed.is_empty() {
        false => failed.swap_remove(own.unwrap_or(0)),
        true => done.into_iter().next().unwrap_or_else(|| Err(Error::Ranks("there is no rank".into()))),
    }
}

/// Runs or resumes a recipe as one rank of many; rank 0 keeps the run's directory.
///
/// # Errors
/// Those of [`train`]; [`Error::RankLost`] if another rank went away.
pub fn train_as(
    recipe: &Recipe,
    path: &Path,
    backend: Arc<dyn Backend>,
    options: &RunOptions,
    collective: &dyn Collective,
) -> Result<RunReport> {
    let result = run(recipe, path, backend, options, collective);
    if let Err(error) = &result {
        collective.leave(error);
    }
    result
}

fn run(
    recipe: &Recipe,
    path: &Path,
    backend: Arc<dyn Backend>,
    options: &RunOptions,
    collective: &dyn Collective,
) -> Result<RunReport> {
    if collective.world() > 1 {
        agree_on(collective, &Facts::recipe(recipe)?.with("device", backend.name()))?;
    }
    let profiler = (options.profile > 0).then(|| Arc::new(Profiler::new(Arc::clone(&backend))));
    let backend = profiler.clone().map_or(backend, |profiler| profiler as Arc<dyn Backend>);
    let share = Share { rank: collective.rank(), world: collective.world() };
    let first = share.rank == 0;
    if first {
        preflight::warn_of_cost(recipe, backend.name());
    }
    // What is wrong with a new run's names leaves no trace of it.
    if first && (options.restart || !recipe.out.exists()) {
        preflight::check_names(recipe, 0)?;
    }
    // Rank 0 alone touches the directory; the others wait for what it found.
    let kept = if first { Some(open(recipe, path, &backend, options)?) } else { None };
    let found = kept.as_ref().and_then(|kept| kept.newest.clone());
    let said = found.as_ref().map_or(Vec::new(), |dir| dir.as_os_str().as_encoded_bytes().to_vec());
    let said = collective.hear_first(said)?;
    let newest = (!said.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&said)));
    let resumed = newest.as_deref().map(load_state).transpose()?;
    let mut state = resumed.unwrap_or_else(|| TrainerState::new(recipe.hash().to_string()));
    if first {
        preflight::check_names(recipe, state.stage)?;
    }
    let stage = recipe.stage.get(state.stage);
    let mut session = match &newest {
        Some(dir) => Session::load(dir, backend, recipe, stage)?,
        None => Session::start(recipe, path, backend)?,
    };
    if share.world > 1 {
        agree_on(collective, &session.facts()?)?;
    }
    let open = || preflight::open_stages(recipe, &session, &state, share);
    // Rank 0 ingests what was not yet; the others find it done.
    let data = if first { Some(open()?) } else { None };
    collective.agree(0)?;
    let data = data.map_or_else(open, Ok)?;
    let nothing = Checkpoints::elsewhere(recipe);
    let checkpoints = kept.as_ref().map_or(&nothing, |kept| &kept.checkpoints);
    let (mut newest, mut stopped_by) = (newest, None);
    for (stage, data) in recipe.stage.iter().skip(state.stage).zip(data) {
        let profiler = profiler.as_deref();
        let runner = StageRunner { recipe, stage, checkpoints, options, profiler, collective, share };
        let (name, stopped) = runner.run(&mut session, &mut state, data, newest.as_deref())?;
        newest = Some(checkpoints.dir(&name));
        stopped_by = stopped;
        if stopped.is_some() {
            break;
        }
    }
    checkpoints.finish()?;
    // Nobody leaves before the last checkpoint is whole.
    collective.agree(0)?;
    let checkpoint = newest.ok_or_else(|| Error::Data("the recipe has no stage".into()))?;
    Ok(RunReport { stages: state.finished, checkpoint, stopped_by })
}

/// A run's directory, held.
struct Kept {
    checkpoints: Checkpoints,
    newest: Option<PathBuf>,
    _folder: RunFolder,
}

fn open(recipe: &Recipe, path: &Path, backend: &Arc<dyn Backend>, options: &RunOptions) -> Result<Kept> {
    let folder = RunFolder::open(&recipe.out)?;
    let alone = Share { rank: 0, world: 1 };
    let start = || Session::start(recipe, path, Arc::clone(backend));
    if options.restart {
        // What cannot run must not cost the old run its files.
        let session = start()?;
        preflight::open_stages(recipe, &session, &TrainerState::new(String::new()), alone)?;
        folder.discard()?;
    }
    folder.check_free()?;
    check_claim(recipe, &folder)?;
    let checkpoints = Checkpoints::open(recipe)?;
    let newest = checkpoints.newest(&|component| {
        let session = start()?;
        Ok(component.tensors(&*session.backend, session.weights()?, &session.carried.extras)?)
    })?;
    Ok(Kept { checkpoints, newest, _folder: folder })
}

/// A directory belongs to the recipe that made its first step there.
fn check_claim(recipe: &Recipe, folder: &RunFolder) -> Result<()> {
    match folder.claim()? {
        Some(owner) if owner != recipe.hash() => {
            let newest = Some(recipe.out.join("latest")).filter(|latest| latest.exists());
            let problem = recipe.of_another_run(&owner, newest.as_deref());
            Err(Error::OutputDirectory { path: recipe.out.clone(), problem })
        }
        _ => Ok(()),
    }
}

/// Checks a recipe and builds everything but weights and steps: sources are ingested, documents checked.
///
/// Returns one line per stage.
pub fn dry_run(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>) -> Result<Vec<String>> {
    preflight::check_names(recipe, 0)?;
    preflight::warn_of_cost(recipe, backend.name());
    let session = Session::start(recipe, path, backend)?;
    let (state, alone) = (TrainerState::new(String::new()), Share { rank: 0, world: 1 });
    let data = preflight::open_stages(recipe, &session, &state, alone)?;
    recipe
        .stage
        .iter()
        .zip(data)
        .map(|(stage, data)| {
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
