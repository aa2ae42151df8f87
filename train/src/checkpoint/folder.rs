//! The folder of a run's checkpoints. A checkpoint is the run's own if its name is one that its stages give and it carries the
//! mark of one; whatever else lies there is left alone and never counted.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vila_files::OwnFolder;

use super::manifest::{MANIFEST, Manifest};
use super::write::{Snapshot, Written, flush, write_files};
use super::{STATE, load_state, step_name};
use crate::faults;
use crate::recipe::{CheckpointSpec, Recipe};
use crate::{Error, Result};

const FOLDER: &str = "checkpoints";
const LATEST: &str = "latest";
/// Prefix of directories that are being written,
const PARTIAL: &str = ".partial-";
/// and of those that make room for a new one of the same name.
const DISPLACED: &str = ".displaced-";

#[derive(Clone)]
pub(super) struct Folder {
    out: PathBuf,
    spec: CheckpointSpec,
    stages: Vec<String>,
    recipe_hash: String,
}

impl Folder {
    pub(super) fn new(recipe: &Recipe) -> Self {
        Folder {
            out: recipe.out.clone(),
            spec: recipe.checkpoint.clone(),
            stages: recipe.stage.iter().map(|stage| stage.name.clone()).collect(),
            recipe_hash: recipe.hash().to_string(),
        }
    }

    pub(super) fn all(&self) -> PathBuf {
        self.out.join(FOLDER)
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.all().join(name)
    }

    fn own_out(&self) -> Result<OwnFolder> {
        OwnFolder::create(&self.out).map_err(Error::io(&self.out))
    }

    pub(super) fn own_all(&self) -> Result<OwnFolder> {
        self.own_out()?.folder(FOLDER).map_err(Error::io(self.all()))
    }

    /// Whether a checkpoint of these stages may have this name: `STAGE`, or `STAGE@0000123`.
    fn names(&self, name: &str) -> bool {
        self.stages.iter().any(|stage| {
            let step = name.strip_prefix(stage.as_str());
            step.is_some_and(|step| {
                let digits = step.strip_prefix('@').filter(|digits| digits.parse::<u64>().is_ok());
                step.is_empty() || digits.is_some_and(|digits| *name == step_name(stage, digits.parse().unwrap_or(0)))
            })
        })
    }

    /// Names of this run's checkpoints, whole or not.
    pub(super) fn own(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.list()?.into_iter().filter(|name| self.owns(name)).collect();
        names.sort();
        Ok(names)
    }

    fn owns(&self, name: &str) -> bool {
        let dir = self.dir(name);
        // A state that cannot be read is damage; one of another recipe is another run's.
        let ours = || load_state(&dir).map_or(true, |state| state.recipe_hash == self.recipe_hash);
        self.names(name) && is_checkpoint(&dir) && ours()
    }

    fn list(&self) -> Result<Vec<String>> {
        let all = self.all();
        let entries = match fs::read_dir(&all) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io(&all))?,
        };
        let names = entries.map(|entry| Ok(entry.map_err(Error::io(&all))?.file_name().into_string().ok()));
        Ok(names.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Finishes or takes back what an interrupted save left, and refuses what is in the way of the next one.
    pub(super) fn clear_up(&self) -> Result<()> {
        let all = self.own_all()?;
        for name in self.list()? {
            let path = self.dir(&name);
            if let Some(of) = name.strip_prefix(PARTIAL).filter(|of| self.names(of)) {
                tracing::debug!("removes {of}, which was not written to its end");
                all.remove_tree(&name).map_err(Error::io(&path))?;
            } else if let Some(of) = name.strip_prefix(DISPLACED).filter(|of| self.names(of)) {
                match all.has(of) {
                    true => drop(remove(&all, &name)?),
                    false => all.rename(&name, of).map_err(Error::io(&path))?,
                }
            }
        }
        for stage in &self.stages {
            if fs::symlink_metadata(self.dir(stage)).is_ok() && !self.owns(stage) {
                let problem = format!(
                    "is not a checkpoint of this run, but stage `{stage}` would be saved there; move it, rename the stage, or \
                     choose another `out`"
                );
                return Err(Error::OutputDirectory { path: self.dir(stage), problem });
            }
        }
        self.adopt_latest()
    }

    /// A run that was copied without links has a folder in the place of `latest`: the checkpoint itself.
    fn adopt_latest(&self) -> Result<()> {
        let latest = self.out.join(LATEST);
        match fs::symlink_metadata(&latest) {
            Ok(found) if !found.is_symlink() => {}
            _ => return Ok(()),
        }
        let state = load_state(&latest).ok().filter(|state| state.recipe_hash == self.recipe_hash);
        let Some(name) = state.and_then(|state| state.checkpoint_name()).filter(|name| self.names(name)) else {
            let problem = "stands where the run keeps a link to its newest checkpoint, and is no checkpoint of this run; move it, \
                           or choose another `out`";
            return Err(Error::OutputDirectory { path: latest, problem: problem.into() });
        };
        let (out, all) = (self.own_out()?, self.own_all()?);
        if !all.has(&name) {
            out.move_to(LATEST, &all, &name).map_err(Error::io(&latest))?;
        } else if Manifest::read(&latest)? != Manifest::read(&self.dir(&name))? || !remove(&out, LATEST)? {
            let problem = format!(
                "is a copy of {FOLDER}/{name} with other content; keep one of the two, and the same command continues from it"
            );
            return Err(Error::OutputDirectory { path: latest, problem });
        }
        self.point_latest(&name)
    }

    /// Directories that may be whole checkpoints of this run, the best first.
    pub(super) fn candidates(&self) -> Result<Vec<PathBuf>> {
        let mut own: Vec<PathBuf> = self.own()?.iter().map(|name| self.dir(name)).collect();
        own.sort_by_cached_key(|dir| std::cmp::Reverse(Manifest::read(dir).map_or(0, |manifest| manifest.global_step)));
        let link = self.out.join(LATEST);
        let Ok(target) = fs::canonicalize(&link) else { return Ok(own) };
        let of_this_run = load_state(&target).is_ok_and(|state| state.recipe_hash == self.recipe_hash);
        match own.iter().position(|dir| fs::canonicalize(dir).is_ok_and(|dir| dir == target)) {
            Some(place) => {
                let latest = own.remove(place);
                own.insert(0, latest);
            }
            // Read, never changed: it is not in the run's folder.
            None if of_this_run => own.insert(0, target),
            None => {
                let target = target.display();
                tracing::warn!(
                    "{} points to {target}, which is no checkpoint of this run; it is ignored",
                    link.display()
                );
            }
        }
        Ok(own)
    }

    /// Writes a checkpoint under a temporary name, flushes it, renames it and lets `latest` point to it.
    pub(super) fn write(&self, snapshot: Snapshot, before: Option<&Written>) -> Result<Written> {
        let pass = |point| faults::pass(point).map_err(Error::io(self.all()));
        pass(faults::SAVE_BEGIN)?;
        let (all, name) = (self.own_all()?, snapshot.name.clone());
        let [partial, displaced] = [PARTIAL, DISPLACED].map(|prefix| format!("{prefix}{name}"));
        let dir = self.dir(&name);
        let finish = || -> Result<Written> {
            let manifest = write_files(&self.dir(&partial), snapshot, before)?;
            if all.has(&name) {
                pass(faults::SAVE_DISPLACE)?;
                self.check_own(&name)?;
                all.rename(&name, &displaced).map_err(Error::io(&dir))?;
            }
            pass(faults::SAVE_RENAME)?;
            all.rename(&partial, &name).map_err(Error::io(&dir))?;
            flush(&self.all())?;
            Ok(Written { dir: dir.clone(), manifest })
        };
        let written = finish().inspect_err(|_| {
            // A full disk has room again, and what was displaced is back.
            let _ = all.remove_tree(&partial);
            let _ = if all.has(&name) { Ok(()) } else { all.rename(&displaced, &name) };
        })?;
        pass(faults::SAVE_LATEST)?;
        self.point_latest(&name)?;
        remove(&all, &displaced)?;
        self.prune(&name)?;
        pass(faults::SAVE_DONE)?;
        Ok(written)
    }

    fn check_own(&self, name: &str) -> Result<()> {
        if self.owns(name) {
            let dir = self.dir(name);
            return foreign_file(&dir)?.map_or(Ok(()), |path| Err(in_the_way(path)));
        }
        let problem = "is not a checkpoint of this run, and a checkpoint of this name is due; move it, and the same command continues";
        Err(Error::OutputDirectory { path: self.dir(name), problem: problem.into() })
    }

    fn point_latest(&self, name: &str) -> Result<()> {
        let link = self.out.join(LATEST);
        self.own_out()?.point(LATEST, &Path::new(FOLDER).join(name)).map_err(Error::io(&link))?;
        flush(&self.out)
    }

    /// Removes all but the newest of the run's checkpoints inside stages; those at stage ends and the permanent ones stay.
    fn prune(&self, newest: &str) -> Result<()> {
        let permanent = |step: u64| self.spec.permanent > 0 && step.is_multiple_of(self.spec.permanent);
        let step_of = |name: &String| name.rsplit_once('@').and_then(|(_, step)| step.parse::<u64>().ok());
        let others = self.own()?.into_iter().filter(|name| name != newest);
        let mut inside: Vec<(u64, String)> = others.filter_map(|name| Some((step_of(&name)?, name))).collect();
        inside.retain(|(step, _)| !permanent(*step));
        inside.sort();
        let surplus = (inside.len() + 1).saturating_sub(self.spec.keep.max(1));
        let all = self.own_all()?;
        for (_, name) in inside.into_iter().take(surplus) {
            faults::pass(faults::SAVE_PRUNE).map_err(Error::io(self.dir(&name)))?;
            remove(&all, &name)?;
        }
        Ok(())
    }
}

/// A folder, no link, with the mark of a checkpoint.
pub(super) fn is_checkpoint(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir())
        && [MANIFEST, STATE].iter().any(|mark| dir.join(mark).is_file())
}

/// What a checkpoint consists of: the files that its manifest lists, and the manifest last.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let listed = Manifest::read(dir).map(|manifest| manifest.files.into_keys().collect::<Vec<_>>());
    let listed = listed.unwrap_or_else(|_| LISTED.map(str::to_string).to_vec());
    listed.iter().map(PathBuf::from).chain([MANIFEST.into()]).collect()
}

/// Removes a checkpoint, unless there are other files in it: then it stays as it is, and that is said.
fn remove(folder: &OwnFolder, name: &str) -> Result<bool> {
    let dir = folder.path().join(name);
    if !folder.has(name) {
        return Ok(true);
    }
    if let Some(path) = foreign_file(&dir)? {
        tracing::warn!(
            "checkpoint {} is not removed, because this program did not write {}",
            dir.display(),
            path.display()
        );
        return Ok(false);
    }
    let files = files_of(&dir);
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    folder.remove_listed(name, &files).map_err(Error::io(&dir))
}

fn in_the_way(path: PathBuf) -> Error {
    let problem = "lies in a checkpoint that is to be replaced or discarded, and this program did not write it; move it, and the \
                   same command goes on";
    Error::OutputDirectory { path, problem: problem.into() }
}

/// The first file in a checkpoint that is no part of it.
fn foreign_file(dir: &Path) -> Result<Option<PathBuf>> {
    let (own, mut folders) = (files_of(dir), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            let path = entry.path();
            if entry.file_type().map_err(Error::io(&path))?.is_dir() {
                folders.push(path);
            } else if !own.iter().any(|file| dir.join(file) == path) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// What a checkpoint may consist of, for one whose manifest cannot be read.
const LISTED: [&str; 15] = [
    "config.json",
    "llm/config.json",
    "llm/model.safetensors",
    "llm/tokenizer.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
    "vision_tower/model.safetensors",
    "mm_projector/config.json",
    "mm_projector/model.safetensors",
    "visual_expert/model.safetensors",
    "lora/adapter_config.json",
    "lora/adapter_model.safetensors",
    "trainer/moments.safetensors",
    "trainer/state.json",
    "trainer/recipe.toml",
];

/// Removes the checkpoints of the run with this recipe hash, whole or not, and the link to the newest.
///
/// # Errors
/// There are other files in one of them, and nothing is removed; the disk refuses.
pub(crate) fn discard(out: &OwnFolder, recipe_hash: &str) -> Result<()> {
    let at = |name: &str| Error::io(out.path().join(name));
    let latest = out.path().join(LATEST);
    let mut checkpoints: Vec<(OwnFolder, String)> = Vec::new();
    if is_checkpoint(&latest) && belongs(&latest, None, recipe_hash) {
        checkpoints.push((out.clone(), LATEST.into()));
    }
    if out.has(FOLDER) {
        let all = out.folder(FOLDER).map_err(at(FOLDER))?;
        for entry in fs::read_dir(all.path()).map_err(Error::io(all.path()))? {
            let Ok(file) = entry.map_err(Error::io(all.path()))?.file_name().into_string() else { continue };
            let (path, name) = (all.path().join(&file), file.strip_prefix(DISPLACED).unwrap_or(&file));
            if is_checkpoint(&path) && belongs(&path, Some(name), recipe_hash) {
                checkpoints.push((all.clone(), file));
            }
        }
    }
    for (folder, name) in &checkpoints {
        if let Some(path) = foreign_file(&folder.path().join(name))? {
            return Err(in_the_way(path));
        }
    }
    if fs::read_link(&latest).is_ok_and(|target| target.starts_with(FOLDER)) {
        out.remove_link(LATEST).map_err(at(LATEST))?;
    }
    checkpoints.iter().try_for_each(|(folder, name)| remove(folder, name).map(drop))
}

/// Whether a checkpoint is of the run with that hash and has the name that the run gave it. The state is read loosely, because
/// that of another version counts, too; where it cannot be read, the manifest decides by the step.
fn belongs(dir: &Path, name: Option<&str>, recipe_hash: &str) -> bool {
    let state =
        fs::read(dir.join(STATE)).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let Some(state) = state else {
        let step = Manifest::read(dir).map(|manifest| manifest.global_step);
        let inside = name.and_then(|name| name.rsplit_once('@'));
        return step.is_ok_and(|step| inside.is_some_and(|(stage, _)| name == Some(&step_name(stage, step))));
    };
    let done = state["finished"].as_array().and_then(|done| done.last()).and_then(|done| done["name"].as_str());
    let inside =
        step_name(state["progress"]["name"].as_str().unwrap_or_default(), state["global_step"].as_u64().unwrap_or(0));
    state["recipe_hash"] == recipe_hash && name.is_none_or(|name| Some(name) == done || name == inside)
}
