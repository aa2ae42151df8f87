//! The files that evaluations write into their folder. A list beside them says which they are; others of the same name are
//! somebody's and stay.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::whole_file::write_whole;
use crate::{Error, Result};

const LIST: &str = ".written";

/// The folder of an evaluation.
pub(super) struct Results<'a> {
    out: &'a Path,
    own: BTreeSet<String>,
}

impl<'a> Results<'a> {
    pub(super) fn open(out: &'a Path) -> Result<Self> {
        let list = out.join(LIST);
        let own = match vila_files::read_to_string(&list, vila_files::MAX_CONFIG) {
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            own => own.map_err(Error::io(&list))?.lines().map(str::to_owned).collect(),
        };
        Ok(Results { out, own })
    }

    /// Writes files by name.
    ///
    /// # Errors
    /// A file of somebody's has one of the names; nothing is written then.
    pub(super) fn write(&mut self, files: &[(String, Vec<u8>)]) -> Result<Vec<PathBuf>> {
        let same =
            |path: &Path, bytes: &[u8]| vila_files::read(path, bytes.len() as u64).is_ok_and(|found| found == *bytes);
        let changed = files.iter().filter(|(name, bytes)| !same(&self.out.join(name), bytes));
        let changed: Vec<&(String, Vec<u8>)> = changed.collect();
        for (name, _) in &changed {
            let path = self.out.join(name);
            if !self.own.contains(name) && std::fs::symlink_metadata(&path).is_ok() {
                let problem = "is there already, and no evaluation wrote it; move it, and the same command goes on";
                return Err(Error::OutputDirectory { path, problem: problem.into() });
            }
        }
        if !changed.is_empty() {
            self.own.extend(changed.iter().map(|(name, _)| name.clone()));
            let list: String = self.own.iter().map(|name| format!("{name}\n")).collect();
            write_whole(&self.out.join(LIST), list.as_bytes())?;
        }
        for (name, bytes) in changed {
            let path = self.out.join(name);
            let folder = path.parent().unwrap_or(self.out);
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
            write_whole(&path, bytes)?;
        }
        Ok(files.iter().map(|(name, _)| self.out.join(name)).collect())
    }
}
