//! Images of a corpus: each file is read and decoded once.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use vila_model::image::decode;

use super::super::shard::{ImageBlob, ImageId, ShardError, ShardWriter};
use super::error::Problem;
use crate::stop::{self, Stopped};

/// An image that decodes.
struct Loaded {
    bytes: Vec<u8>,
    width: u32,
    height: u32,
}

/// Which files are in the shard already, and those of the current batch that are not.
#[derive(Default)]
pub(super) struct ImageShelf {
    stored: HashMap<PathBuf, ImageId>,
    batch: HashMap<PathBuf, Result<Loaded, Problem>>,
}

impl ImageShelf {
    /// Reads and checks the files of a batch that are not stored yet, in parallel.
    ///
    /// # Errors
    /// A signal came meanwhile.
    pub(super) fn load<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> Result<(), Stopped> {
        let new: BTreeSet<&Path> = paths.filter(|path| !self.stored.contains_key(*path)).collect();
        let load = |path: &Path| stop::check().map(|()| (path.to_owned(), load(path)));
        self.batch = new.into_par_iter().map(load).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Is every one of these images usable? Stores nothing.
    pub(super) fn check(&self, paths: &[PathBuf]) -> Result<(), Problem> {
        match paths.iter().find_map(|path| self.batch.get(path)?.as_ref().err()) {
            Some(problem) => Err(again(problem)),
            None => Ok(()),
        }
    }

    /// Ids of images that [`ImageShelf::check`] passed; new ones are stored under the names given.
    pub(super) fn store(
        &mut self,
        paths: &[PathBuf],
        names: &[String],
        writer: &mut ShardWriter,
    ) -> Result<Vec<ImageId>, ShardError> {
        let mut ids = Vec::with_capacity(paths.len());
        for (path, name) in paths.iter().zip(names) {
            let id = match (self.stored.get(path), self.batch.get(path)) {
                (Some(&id), _) => id,
                (None, Some(Ok(image))) => {
                    let blob = ImageBlob { bytes: &image.bytes, name, width: image.width, height: image.height };
                    let id = writer.add_image(blob)?;
                    self.stored.insert(path.clone(), id);
                    id
                }
                (None, _) => continue,
            };
            ids.push(id);
        }
        Ok(ids)
    }
}

fn load(path: &Path) -> Result<Loaded, Problem> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Problem::MissingImage(path.to_owned())),
        Err(error) => return Err(Problem::BadImage(format!("image file {} cannot be read: {error}", path.display()))),
    };
    let picture = decode(&bytes, &path.display().to_string()).map_err(|error| Problem::BadImage(error.to_string()))?;
    Ok(Loaded { width: picture.width(), height: picture.height(), bytes })
}

/// The same problem for the next document that uses the same image.
fn again(problem: &Problem) -> Problem {
    match problem {
        Problem::MissingImage(path) => Problem::MissingImage(path.clone()),
        other => Problem::BadImage(other.to_string()),
    }
}
