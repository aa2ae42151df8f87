//! Checkpoints of a run: the public three-folder layout plus `trainer/`, written beside the training path, whole or not at
//! all, and checked before they are trusted.

mod folder;
mod manifest;
mod moments;
mod repair;
mod snapshot;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vila_engine::DType;
use vila_model::VilaConfig;
use vila_model::image::ImageProcessor;
use vila_model::weights::{Component, RawTensor};

use crate::recipe::Recipe;
use crate::{Error, Result};
use folder::Folder;
use write::{Snapshot, Written};

pub(crate) use folder::discard;
pub use manifest::{FileEntry, MANIFEST, Manifest};
pub use moments::load_moments;
pub use repair::Rebuild;

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct TrainerState {
    /// Version of this file.
    pub version: u32,
    /// See [`crate::recipe::Recipe::hash`].
    pub recipe_hash: String,
    /// Index of the stage in progress, or the number of stages when all are done.
    pub stage: usize,
    /// Steps done in that stage.
    pub step: u64,
    /// Steps done in the run.
    pub global_step: u64,
    /// Groups of documents that the stage has drawn: its steps, and those that were passed over.
    pub drawn: u64,
    /// Steps of the run that were tried and skipped.
    pub skipped: u64,
    /// Adam updates applied in that stage.
    pub updates: u64,
    /// Newest losses of the stage, as many as the loss-spike policy looks at.
    pub window: Vec<f64>,
    /// Identity of the stage's shards, see [`crate::loader::StageData::fingerprint`].
    pub data: String,
    /// What the stage has done so far.
    pub progress: StageReport,
    /// Stages that are done.
    pub finished: Vec<StageReport>,
}

/// Where it lies in a checkpoint.
pub const STATE: &str = "trainer/state.json";
/// The current version of [`TrainerState`].
pub const STATE_VERSION: u32 = 2;

impl TrainerState {
    /// A run that has not begun.
    pub fn new(recipe_hash: String) -> Self {
        TrainerState {
            version: STATE_VERSION,
            recipe_hash,
            stage: 0,
            step: 0,
            global_step: 0,
            drawn: 0,
            skipped: 0,
            updates: 0,
            window: Vec::new(),
            data: String::new(),
            progress: StageReport::default(),
            finished: Vec::new(),
        }
    }

    /// The name of the checkpoint that holds it.
    pub fn checkpoint_name(&self) -> Option<String> {
        match (self.step, self.finished.last()) {
            (0, Some(done)) => Some(done.name.clone()),
            (0, None) => None,
            _ => Some(step_name(&self.progress.name, self.global_step)),
        }
    }

    /// Goes on to the next stage.
    pub fn finish_stage(&mut self) {
        self.finished.push(std::mem::take(&mut self.progress));
        (self.stage, self.step, self.drawn, self.updates) = (self.stage + 1, 0, 0, 0);
        self.window.clear();
    }
}

/// What a stage did.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct StageReport {
    /// Name.
    pub name: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Positions of all documents seen.
    pub tokens: u64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Mean loss of the last steps, at most ten.
    pub last_loss: f64,
    /// The losses behind `last_loss`.
    pub recent: Vec<f64>,
    /// Wall time spent, in seconds.
    pub seconds: f64,
}

/// What a checkpoint holds besides the trainer's state; shared by all checkpoints of a run.
pub struct Carried {
    /// The model's configuration.
    pub config: VilaConfig,
    /// Tensors that the model does not use.
    pub extras: BTreeMap<String, RawTensor>,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// How images become pixels.
    pub processor: ImageProcessor,
    /// The resolved recipe, for people.
    pub recipe: String,
}

/// The checkpoints of one run.
pub struct Checkpoints {
    folder: Folder,
    /// The newest one that is whole.
    last: Arc<Mutex<Option<Written>>>,
    writing: Mutex<Option<JoinHandle<Result<()>>>>,
    /// Seconds that the last save took.
    seconds: Arc<Mutex<f64>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checkpoints {
    /// The checkpoints of a recipe's run; clears up after an interrupted save.
    ///
    /// # Errors
    /// Something that this run did not make stands where it would have to write.
    pub fn open(recipe: &Recipe) -> Result<Self> {
        let checkpoints = Self::elsewhere(recipe);
        checkpoints.folder.clear_up()?;
        Ok(checkpoints)
    }

    /// Those of a run whose directory another rank keeps.
    pub(crate) fn elsewhere(recipe: &Recipe) -> Self {
        let folder = Folder::new(recipe);
        Checkpoints { folder, last: Arc::default(), writing: Mutex::default(), seconds: Arc::default() }
    }

    /// The directory of a checkpoint.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.dir(name)
    }

    /// The newest checkpoint that is whole, if there is one: `latest` first, then by steps done. Damaged files are repaired from
    /// another copy or by `rebuild`, which makes the weights that a component had when the run began; a checkpoint that stays
    /// damaged is warned of, passed over and left as it is.
    ///
    /// # Errors
    /// A checkpoint of another version of this program, or one that cannot be read. There are checkpoints, but none is whole:
    /// a run does not start again by itself.
    pub fn newest(&self, rebuild: Rebuild) -> Result<Option<PathBuf>> {
        let mut damaged = Vec::new();
        for dir in self.folder.candidates()? {
            match check(&dir).or_else(|error| self.folder.repair(&dir, error, rebuild)) {
                Err(error @ (Error::Io { .. } | Error::Version { .. })) => return Err(error),
                Ok(manifest) => {
                    *held(&self.last) = Some(Written { dir: dir.clone(), manifest });
                    return Ok(Some(dir));
                }
                Err(error) => {
                    tracing::warn!("checkpoint {} is damaged and passed over: {error}", dir.display());
                    damaged.push(error.to_string());
                }
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let problem = format!(
            "no checkpoint of the run is whole, and none was changed or removed: {}. Restore these files from a backup, or \
             begin again with --restart, which discards them",
            damaged.join("; ")
        );
        Err(Error::OutputDirectory { path: self.folder.all(), problem })
    }

    /// Whether a save is under way.
    pub fn busy(&self) -> bool {
        held(&self.writing).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Seconds that the last save took.
    pub fn last_seconds(&self) -> f64 {
        *held(&self.seconds)
    }

    /// Whether the newest checkpoint holds the weights that a component, frozen now, has now.
    fn has(&self, component: Component, dtype: DType) -> bool {
        let weights = component.file();
        // Freezing rounds bf16 weights, so those saved while they trained are others.
        held(&self.last).as_ref().is_some_and(|last| {
            let same = dtype != DType::BF16 || last.manifest.frozen.iter().any(|frozen| frozen == component.folder());
            same && last.manifest.files.contains_key(&weights)
        })
    }

    /// Lets no later checkpoint share a frozen component's weights with those before: they have changed.
    ///
    /// # Errors
    /// Those of the save before, which it waits for.
    pub fn forget(&self, component: Component) -> Result<()> {
        self.finish()?;
        if let Some(last) = held(&self.last).as_mut() {
            last.manifest.files.remove(&component.file());
        }
        Ok(())
    }

    /// Starts to write a snapshot; waits for the save before.
    fn begin(&self, snapshot: Snapshot) -> Result<()> {
        self.finish()?;
        let (folder, last, seconds) = (self.folder.clone(), Arc::clone(&self.last), Arc::clone(&self.seconds));
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
            let (start, name) = (Instant::now(), snapshot.name.clone());
            let before = held(&last).clone();
            let written = folder.write(snapshot, before.as_ref()).map_err(|source| Error::save(name, source))?;
            *held(&last) = Some(written);
            *held(&seconds) = start.elapsed().as_secs_f64();
            Ok(())
        });
        *held(&self.writing) = Some(thread.map_err(Error::io(self.folder.all()))?);
        Ok(())
    }

    /// Waits for the save under way.
    ///
    /// # Errors
    /// [`Error::Save`] if it failed; the checkpoints before are untouched.
    pub fn finish(&self) -> Result<()> {
        let thread = held(&self.writing).take();
        let panicked = |_| Error::checkpoint(self.folder.all(), "the thread that saves ended early");
        thread.map_or(Ok(()), |thread| thread.join().map_err(panicked)?)
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!("{error}");
        }
    }
}

/// Whether a checkpoint is whole. One without a manifest may be of an earlier version, which had none.
fn check(dir: &Path) -> Result<Manifest> {
    let manifest = Manifest::verify(dir);
    match load_state(dir) {
        Err(error @ Error::Version { .. }) if manifest.is_ok() || !dir.join(MANIFEST).exists() => Err(error),
        state => manifest.and_then(|manifest| state.map(|_| manifest)),
    }
}

/// Name of a checkpoint inside a stage, by steps done in the run.
pub fn step_name(stage: &str, global_step: u64) -> String {
    format!("{stage}@{global_step:07}")
}

/// Reads a checkpoint's trainer state.
pub fn load_state(dir: &Path) -> Result<TrainerState> {
    let path = dir.join(STATE);
    let text = match fs::read_to_string(&path) {
        // Bytes that are no text, and a file that is not there, are damage.
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            return Err(Error::io(&path)(error));
        }
        text => text.map_err(|error| Error::checkpoint(&path, format!("damaged: {error}")))?,
    };
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Error::checkpoint(&path, format!("damaged: {error}")))?;
    let version = value["version"].as_u64().unwrap_or_default();
    if version != u64::from(STATE_VERSION) {
        return Err(Error::Version { path, version, own: STATE_VERSION });
    }
    serde_json::from_value(value).map_err(|error| Error::checkpoint(&path, format!("damaged: {error}")))
}
