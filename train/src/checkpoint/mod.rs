//! Checkpoints of a run: the public three-folder layout plus `trainer/`, written beside the training path, whole or not at
//! all, and checked before they are trusted.

mod manifest;
mod moments;
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

use crate::faults;
use crate::recipe::CheckpointSpec;
use crate::{Error, Result};
use write::{Snapshot, Written, flush, write_files};

pub use manifest::{FileEntry, MANIFEST, Manifest};
pub use moments::load_moments;

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

#[derive(Clone)]
struct Folder {
    out: PathBuf,
    spec: CheckpointSpec,
}

const FOLDER: &str = "checkpoints";
const LATEST: &str = "latest";
/// Prefix of directories that are being written,
const PARTIAL: &str = ".partial-";
/// that make room for a new one of the same name,
const DISPLACED: &str = ".displaced-";
/// and that failed their check; they go when a newer one is whole.
const DAMAGED: &str = ".damaged-";

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checkpoints {
    /// The checkpoints under `out`; clears up after an interrupted save.
    pub fn open(out: &Path, spec: &CheckpointSpec) -> Result<Self> {
        let folder = Folder { out: out.to_path_buf(), spec: spec.clone() };
        fs::create_dir_all(folder.all()).map_err(Error::io(folder.all()))?;
        for path in folder.list()? {
            let name = name_of(&path);
            if name.starts_with(PARTIAL) {
                remove(&path)?;
            } else if let Some(name) = name.strip_prefix(DISPLACED) {
                let target = folder.dir(name);
                if target.exists() { remove(&path)? } else { fs::rename(&path, &target).map_err(Error::io(&target))? }
            }
        }
        Ok(Checkpoints { folder, last: Arc::default(), writing: Mutex::default(), seconds: Arc::default() })
    }

    /// Those of a run whose directory another rank keeps.
    pub(crate) fn elsewhere(out: &Path) -> Self {
        let folder = Folder { out: out.to_path_buf(), spec: CheckpointSpec::default() };
        Checkpoints { folder, last: Arc::default(), writing: Mutex::default(), seconds: Arc::default() }
    }

    /// The directory of a checkpoint.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.dir(name)
    }

    /// The newest checkpoint that is whole, if there is one: `latest` first, then by steps done. Those that are not are
    /// warned of and put aside.
    ///
    /// # Errors
    /// A checkpoint of another version of this program, or one that cannot be read: it is nobody's to put aside.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        for dir in self.folder.candidates()? {
            match check(&dir) {
                Err(error @ (Error::Io { .. } | Error::Version { .. })) => return Err(error),
                Ok(manifest) => {
                    *held(&self.last) = Some(Written { dir: dir.clone(), manifest });
                    return Ok(Some(dir));
                }
                Err(error) => {
                    tracing::warn!("checkpoint {} is damaged and passed over: {error}", dir.display());
                    let aside = self.folder.dir(&format!("{DAMAGED}{}", name_of(&dir)));
                    if aside.exists() {
                        remove(&aside)?;
                    }
                    fs::rename(&dir, &aside).map_err(Error::io(&dir))?;
                }
            }
        }
        Ok(None)
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
            let written = folder
                .write(snapshot, before.as_ref())
                .map_err(|source| Error::Save { name, source: Box::new(source) })?;
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
        let panicked = |_| Error::checkpoint(&self.folder.out, "the thread that saves ended early");
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

impl Folder {
    fn all(&self) -> PathBuf {
        self.out.join(FOLDER)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.all().join(name)
    }

    fn list(&self) -> Result<Vec<PathBuf>> {
        let all = self.all();
        let entries = fs::read_dir(&all).map_err(Error::io(&all))?;
        entries.map(|entry| Ok(entry.map_err(Error::io(&all))?.path())).collect()
    }

    /// Directories that may be whole checkpoints, the best first.
    fn candidates(&self) -> Result<Vec<PathBuf>> {
        let link = self.out.join(LATEST);
        let latest = match fs::read_link(&link) {
            Ok(target) => Some(self.out.join(target)).filter(|dir| dir.is_dir()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(&link)(error)),
        };
        let others = self.list()?.into_iter().filter(|path| !name_of(path).starts_with('.') && path.is_dir());
        let step = |dir: &PathBuf| Manifest::read(dir).map_or(0, |manifest| manifest.global_step);
        let mut others: Vec<PathBuf> = others.filter(|dir| Some(dir) != latest.as_ref()).collect();
        others.sort_by_cached_key(|dir| std::cmp::Reverse(step(dir)));
        Ok(latest.into_iter().chain(others).collect())
    }

    /// Writes a checkpoint under a temporary name, flushes it, renames it and lets `latest` point to it.
    fn write(&self, snapshot: Snapshot, before: Option<&Written>) -> Result<Written> {
        let pass = |point| faults::pass(point).map_err(Error::io(self.all()));
        pass(faults::SAVE_BEGIN)?;
        let name = snapshot.name.clone();
        let [partial, displaced] = [PARTIAL, DISPLACED].map(|prefix| self.dir(&format!("{prefix}{name}")));
        let dir = self.dir(&name);
        let finish = || -> Result<Written> {
            let manifest = write_files(&partial, snapshot, before)?;
            if dir.exists() {
                pass(faults::SAVE_DISPLACE)?;
                fs::rename(&dir, &displaced).map_err(Error::io(&displaced))?;
            }
            pass(faults::SAVE_RENAME)?;
            fs::rename(&partial, &dir).map_err(Error::io(&dir))?;
            flush(&self.all())?;
            Ok(Written { dir: dir.clone(), manifest })
        };
        let written = finish().inspect_err(|_| {
            // A full disk has room again, and what was displaced is back.
            let _ = fs::remove_dir_all(&partial);
            let _ = if dir.exists() { Ok(()) } else { fs::rename(&displaced, &dir) };
        })?;
        pass(faults::SAVE_LATEST)?;
        self.point_latest(&name)?;
        if displaced.exists() {
            remove(&displaced)?;
        }
        self.prune(&name)?;
        pass(faults::SAVE_DONE)?;
        Ok(written)
    }

    fn point_latest(&self, name: &str) -> Result<()> {
        let (link, next) = (self.out.join(LATEST), self.out.join(".latest.next"));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(&next)(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(Path::new(FOLDER).join(name), &next).map_err(Error::io(&next))?;
        fs::rename(&next, &link).map_err(Error::io(&link))?;
        flush(&self.out)
    }

    /// Removes all but the newest checkpoints inside stages; those at stage ends and the permanent ones stay.
    fn prune(&self, newest: &str) -> Result<()> {
        let mut inside: Vec<(u64, PathBuf)> = Vec::new();
        let permanent = |step: u64| self.spec.permanent > 0 && step.is_multiple_of(self.spec.permanent);
        for path in self.list()? {
            let name = name_of(&path);
            if name.starts_with(DAMAGED) {
                remove(&path)?;
            } else if let (true, Some((_, step))) = (name != newest, name.rsplit_once('@'))
                && let Ok(step) = step.parse()
                && !permanent(step)
            {
                inside.push((step, path));
            }
        }
        inside.sort();
        let surplus = (inside.len() + 1).saturating_sub(self.spec.keep.max(1));
        for (_, path) in inside.into_iter().take(surplus) {
            faults::pass(faults::SAVE_PRUNE).map_err(Error::io(&path))?;
            remove(&path)?;
        }
        Ok(())
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

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).map_err(Error::io(dir))
}

/// Name of a checkpoint inside a stage, by steps done in the run.
pub fn step_name(stage: &str, global_step: u64) -> String {
    format!("{stage}@{global_step:07}")
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Reads a checkpoint's trainer state.
pub fn load_state(dir: &Path) -> Result<TrainerState> {
    let path = dir.join("trainer/state.json");
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
