//! Checkpoints of a run: the public three-folder layout plus `trainer/`, written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use vila_autograd::ParamStore;
use vila_engine::Backend;
use vila_model::VilaConfig;
use vila_model::weights::{RawTensor, f32_bytes, write_safetensors, write_vila};

use crate::optimizer::Optimizer;
use crate::{Error, Result};

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
    /// Adam updates applied in that stage.
    pub updates: u64,
    /// Identity of the stage's shards, see [`crate::loader::StageData::fingerprint`].
    pub data: String,
    /// What the stage has done so far.
    pub progress: StageReport,
    /// Stages that are done.
    pub finished: Vec<StageReport>,
}

/// The current version of [`TrainerState`].
pub const STATE_VERSION: u32 = 1;

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
    /// `preprocessor_config.json`.
    pub preprocessor: serde_json::Value,
    /// The resolved recipe, for people.
    pub recipe: String,
}

/// The checkpoints of one run.
pub struct Checkpoints {
    out: PathBuf,
    keep: usize,
}

const FOLDER: &str = "checkpoints";
const LATEST: &str = "latest";
/// Prefix of directories that are being written.
const PARTIAL: &str = ".partial-";

impl Checkpoints {
    /// The checkpoints under `out`; removes what an interrupted save left.
    pub fn open(out: &Path, keep: usize) -> Result<Self> {
        let folder = out.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if name_of(&path).starts_with(PARTIAL) {
                fs::remove_dir_all(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(Checkpoints { out: out.to_path_buf(), keep })
    }

    /// The directory of a checkpoint.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.out.join(FOLDER).join(name)
    }

    /// The newest checkpoint, if there is one.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        let link = self.out.join(LATEST);
        match fs::read_link(&link) {
            Ok(target) => Ok(Some(self.out.join(target))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&link)(error)),
        }
    }

    /// Writes a checkpoint under a temporary name, flushes it, renames it and lets `latest` point to it.
    pub fn save(
        &self,
        name: &str,
        backend: &dyn Backend,
        carried: &Carried,
        store: &ParamStore,
        optimizer: &Optimizer,
        state: &TrainerState,
    ) -> Result<PathBuf> {
        let (partial, target) = (self.dir(&format!("{PARTIAL}{name}")), self.dir(name));
        for stale in [&partial, &target] {
            if stale.exists() {
                fs::remove_dir_all(stale).map_err(Error::io(stale))?;
            }
        }
        let trainer = partial.join("trainer");
        fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        let Carried { config, extras, tokenizer, preprocessor, recipe } = carried;
        write_vila(&partial, backend, config, store, extras, tokenizer, preprocessor)?;
        write_safetensors(&trainer.join("moments.safetensors"), &moments(backend, store, optimizer)?)?;
        let state_path = trainer.join("state.json");
        let text = serde_json::to_string_pretty(state).map_err(|e| Error::checkpoint(&state_path, e.to_string()))?;
        fs::write(&state_path, text + "\n").map_err(Error::io(&state_path))?;
        let recipe_path = trainer.join("recipe.toml");
        fs::write(&recipe_path, recipe).map_err(Error::io(&recipe_path))?;
        flush(&partial)?;
        fs::rename(&partial, &target).map_err(Error::io(&target))?;
        flush_folder(&self.out.join(FOLDER))?;
        self.point_latest(name)?;
        self.prune(name)?;
        Ok(target)
    }

    fn point_latest(&self, name: &str) -> Result<()> {
        let (link, next) = (self.out.join(LATEST), self.out.join(".latest.next"));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&next)(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(Path::new(FOLDER).join(name), &next).map_err(Error::io(&next))?;
        fs::rename(&next, &link).map_err(Error::io(&link))?;
        flush_folder(&self.out)
    }

    /// Removes all but the newest checkpoints inside stages; those at stage ends stay.
    fn prune(&self, newest: &str) -> Result<()> {
        let folder = self.out.join(FOLDER);
        let mut inside: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            let name = name_of(&path);
            if let (true, Some((_, step))) = (name != newest, name.rsplit_once("@"))
                && let Ok(step) = step.parse()
            {
                inside.push((step, path));
            }
        }
        inside.sort();
        let surplus = (inside.len() + 1).saturating_sub(self.keep.max(1));
        for (_, path) in inside.into_iter().take(surplus) {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        Ok(())
    }
}

/// Name of a checkpoint inside a stage, by steps done in the run.
pub fn step_name(stage: &str, global_step: u64) -> String {
    format!("{stage}@{global_step:07}")
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn moments(backend: &dyn Backend, store: &ParamStore, optimizer: &Optimizer) -> Result<BTreeMap<String, RawTensor>> {
    let mut tensors = BTreeMap::new();
    for (kind, flat) in [("m", &optimizer.m), ("v", &optimizer.v)] {
        let values = backend.to_vec::<f32>(flat)?;
        for range in store.ranges() {
            let data = f32_bytes(&values[range.range.clone()]);
            tensors.insert(
                format!("{kind}.{}", range.name),
                RawTensor { dtype: Dtype::F32, shape: range.shape.clone(), data },
            );
        }
    }
    Ok(tensors)
}

/// Reads moments back into an optimizer of the same layout.
pub fn load_moments(dir: &Path, backend: &dyn Backend, store: &ParamStore, optimizer: &mut Optimizer) -> Result<()> {
    let path = dir.join("trainer/moments.safetensors");
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::checkpoint(&path, format!("damaged: {error}; remove this checkpoint and resume from an older one"))
    })?;
    for (kind, flat) in [("m", &optimizer.m), ("v", &optimizer.v)] {
        let mut values = vec![0.0f32; flat.cols()];
        for range in store.ranges() {
            let name = format!("{kind}.{}", range.name);
            let view = file.tensor(&name).map_err(|error| Error::checkpoint(&path, format!("{name}: {error}")))?;
            if view.dtype() != Dtype::F32 || view.shape() != range.shape {
                return Err(Error::checkpoint(&path, format!("{name} has another type or shape than the model")));
            }
            let words = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            values[range.range.clone()].iter_mut().zip(words).for_each(|(value, word)| *value = word);
        }
        backend.upload(bytemuck::cast_slice(&values), flat)?;
    }
    Ok(())
}

/// Reads a checkpoint's trainer state.
pub fn load_state(dir: &Path) -> Result<TrainerState> {
    let path = dir.join("trainer/state.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let state: TrainerState = serde_json::from_str(&text).map_err(|error| {
        Error::checkpoint(&path, format!("damaged: {error}; remove this checkpoint and resume from an older one"))
    })?;
    if state.version != STATE_VERSION {
        let problem = format!("has version {}, this program writes version {STATE_VERSION}", state.version);
        return Err(Error::checkpoint(&path, problem));
    }
    Ok(state)
}

/// Flushes every file below a folder, then the folders.
fn flush(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            flush(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
        }
    }
    flush_folder(folder)
}

fn flush_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io(folder))
}
