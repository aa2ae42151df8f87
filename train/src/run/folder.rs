//! The folder of a run. What the program writes there has fixed names; whatever else lies there is somebody's and stays.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use vila_files::OwnFolder;

use super::samples;
use crate::metrics::{METRICS, lines_of_run, step_of};
use crate::sources::SHARDS;
use crate::{Error, Result, checkpoint, profile, report, tensorboard};

/// Holds the hash of the recipe that a folder belongs to.
pub(super) const CLAIM: &str = "recipe.hash";
/// Most digits of a recipe's hash.
const HASH: u64 = 64;
const LOCK: &str = ".lock";

/// A run's folder that no other process uses meanwhile.
pub(crate) struct RunFolder {
    own: OwnFolder,
    _lock: File,
}

impl RunFolder {
    /// Opens and locks a folder, and creates it where there is none.
    ///
    /// # Errors
    /// Another process uses it; something that the program did not make stands where it writes.
    pub(crate) fn open(out: &Path) -> Result<Self> {
        let own = OwnFolder::create(out).map_err(Error::io(out))?;
        let lock = own.lock(LOCK).map_err(Error::io(out.join(LOCK)))?.ok_or_else(|| {
            let problem = "another process is running there; wait for it, or choose another `out`".into();
            Error::OutputDirectory { path: out.to_path_buf(), problem }
        })?;
        // Before anything is read or computed: a link among these would be found at the first save only.
        for name in ["checkpoints", SHARDS, tensorboard::FOLDER, profile::FOLDER] {
            if fs::symlink_metadata(out.join(name)).is_ok() {
                own.folder(name).map_err(Error::io(out.join(name)))?;
            }
        }
        Ok(RunFolder { own, _lock: lock })
    }

    /// The recipe hash of the run that was here.
    pub(crate) fn claim(&self) -> Result<Option<String>> {
        let path = self.own.path().join(CLAIM);
        let foreign = || {
            let problem = "is not what a run writes under this name; move it, or choose another `out`".into();
            Error::OutputDirectory { path: path.clone(), problem }
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.map_err(Error::io(&path))?.is_file().then_some(()).ok_or_else(foreign)?,
        }
        let claim = vila_files::read_to_string(&path, HASH + 1).map_err(|_| foreign())?;
        let claim = claim.trim_end_matches('\n');
        let is_hash = (16..=HASH).contains(&(claim.len() as u64)) && claim.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash { Ok(Some(claim.to_string())) } else { Err(foreign()) }
    }

    /// Refuses files of others under the names that a run appends to: a run that made a step has left its claim.
    pub(crate) fn check_free(&self) -> Result<()> {
        if self.claim()?.is_some() {
            return Ok(());
        }
        for name in [METRICS, samples::FILE] {
            let path = self.own.path().join(name);
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file() || found.len() > 0) {
                let problem = "was there before the run, which writes a file of this name (no recipe.hash says that a run was here); \
                     move it, or choose another `out`";
                return Err(Error::OutputDirectory { path, problem: problem.into() });
            }
        }
        Ok(())
    }

    /// Removes what the run that was here wrote, and nothing else; shards stay, because a run finds those it can use.
    pub(crate) fn discard(&self) -> Result<()> {
        let Some(claim) = self.claim()? else { return Ok(()) };
        let at = |name: &str| Error::io(self.own.path().join(name));
        lines_of_run(&self.own.path().join(METRICS), step_of)?;
        lines_of_run(&self.own.path().join(samples::FILE), samples::step_of)?;
        checkpoint::discard(&self.own, &claim)?;
        self.remove_made(tensorboard::FOLDER, |_, name| tensorboard::is_own_name(name))?;
        self.remove_made(profile::FOLDER, |depth, name| depth == 1 && profile::FILES.contains(&name))?;
        if report::is_page(&self.own.path().join(report::FILE)) {
            self.own.remove_file(report::FILE).map_err(at(report::FILE))?;
        }
        for name in [METRICS, samples::FILE, CLAIM] {
            self.own.remove_file(name).map_err(at(name))?;
        }
        Ok(())
    }

    /// Removes the files below a folder that `made` knows by depth and name, and the folders that this leaves empty.
    fn remove_made(&self, folder: &str, made: impl Fn(usize, &str) -> bool) -> Result<()> {
        let root = self.own.path().join(folder);
        if !self.own.has(folder) {
            return Ok(());
        }
        let mut files = Vec::new();
        let mut folders = vec![(0, root.clone())];
        while let Some((depth, folder)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let entry = entry.map_err(Error::io(&folder))?;
                let (kind, name) = (entry.file_type().map_err(Error::io(&folder))?, entry.file_name());
                if kind.is_dir() && depth == 0 {
                    folders.push((1, entry.path()));
                } else if kind.is_file() && name.to_str().is_some_and(|name| made(depth, name)) {
                    files.push(entry.path());
                }
            }
        }
        let below: Vec<&Path> = files.iter().filter_map(|file| file.strip_prefix(&root).ok()).collect();
        self.own.remove_listed(folder, &below).map_err(Error::io(&root))?;
        Ok(())
    }
}
