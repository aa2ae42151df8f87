use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vila_files::{NewFolder, OwnFolder};

use crate::{Error, Result};

/// Says what a corpus was made of.
const IDENTITY: &str = "identity.json";
/// Lists what was written, a path a line, so that exactly that can be removed.
const FILES: &str = "files.txt";

/// The folder of the corpora of one seed: there whole or not at all.
pub(crate) struct WorldFolder {
    pub(crate) dir: PathBuf,
    /// What the corpora are made of.
    pub(crate) identity: String,
}

/// What stands in the place of the corpora.
pub(crate) enum WorldState {
    /// Nothing.
    Absent,
    /// These corpora.
    Same,
    /// Corpora of another seed or other digits.
    Other,
}

impl WorldFolder {
    /// What is there.
    ///
    /// # Errors
    /// A folder that holds no corpora.
    pub(crate) fn state(&self) -> Result<WorldState> {
        let marker = self.dir.join(IDENTITY);
        match vila_files::read_to_string(&marker, vila_files::MAX_CONFIG) {
            Ok(found) if found == self.identity => Ok(WorldState::Same),
            Ok(_) => Ok(WorldState::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::symlink_metadata(&self.dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(WorldState::Absent),
                _ => Err(self.refused(
                    "is there already and holds no corpora of this program; move it, or choose another --out",
                )),
            },
            Err(error) => Err(Error::io(&marker)(error)),
        }
    }

    /// Writes the corpora by `fill`, which is told where.
    pub(crate) fn write(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = NewFolder::begin(&self.dir).map_err(Error::io(&self.dir))?;
        fill(folder.path())?;
        let mut files = Vec::new();
        list(folder.path(), Path::new(""), &mut files).map_err(Error::io(&self.dir))?;
        let own = OwnFolder::open(folder.path()).map_err(Error::io(&self.dir))?;
        own.write(FILES, (files.join("\n") + "\n").as_bytes())
            .and_then(|()| own.write(IDENTITY, self.identity.as_bytes()))
            .and_then(|()| folder.commit())
            .map_err(Error::io(&self.dir))
    }

    /// Removes what [`WorldFolder::write`] wrote.
    ///
    /// # Errors
    /// There are other files among it, which stay.
    pub(crate) fn remove(&self) -> Result<()> {
        let listed = vila_files::read_to_string(&self.dir.join(FILES), vila_files::MAX_CONFIG);
        let listed = listed.map_err(Error::io(self.dir.join(FILES)))?;
        let files: Vec<&Path> = listed.lines().chain([FILES, IDENTITY]).map(Path::new).collect();
        let parent = vila_files::parent_of(&self.dir);
        let gone = OwnFolder::open(parent)
            .and_then(|parent| parent.remove_listed(self.dir.file_name().unwrap_or_default(), &files));
        match gone.map_err(Error::io(&self.dir))? {
            true => Ok(()),
            false => {
                Err(self.refused("holds files that this program did not write; move them, and run the command again"))
            }
        }
    }

    fn refused(&self, problem: &str) -> Error {
        Error::OutputDirectory { path: self.dir.clone(), problem: problem.into() }
    }
}

/// Paths of all files below `root`, relative to it.
fn list(root: &Path, below: &Path, files: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
