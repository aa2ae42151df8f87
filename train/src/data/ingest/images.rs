//! Images of a corpus: each file is read and decoded once.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use vila_files::MAX_IMAGE;
use vila_model::image::{ImageError, check_size, decode};

use super::super::shard::{ImageBlob, ImageId, ShardError, ShardWriter};
use super::error::{IngestError, Problem};
use crate::stop;

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
    /// The system refused to read one, which is nothing about its record; a signal came meanwhile.
    pub(super) fn load<'a>(
        &mut self,
        paths: impl Iterator<Item = &'a Path>,
        folder: &ImageFolder,
    ) -> Result<(), IngestError> {
        let new: BTreeSet<&Path> = paths.filter(|path| !self.stored.contains_key(*path)).collect();
        let load = |path: &Path| {
            stop::check()?;
            match load(path, folder) {
                Ok(image) => Ok((path.to_owned(), Ok(image))),
                Err(Fault::Record(problem)) => Ok((path.to_owned(), Err(problem))),
                Err(Fault::System(source)) => Err(IngestError::Image { path: path.to_owned(), source }),
            }
        };
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

/// Where the images of an input lie.
pub(super) struct ImageFolder {
    root: PathBuf,
    /// The folder without links; nothing if images may lie anywhere.
    bounds: Option<PathBuf>,
}

impl ImageFolder {
    pub(super) fn new(root: PathBuf, anywhere: bool) -> Self {
        // A folder that is not there has no images, each of which will be missed.
        let real = fs::canonicalize(if root.as_os_str().is_empty() { Path::new(".") } else { &root });
        let bounds = (!anywhere).then(|| real.unwrap_or_else(|_| root.clone()));
        Self { root, bounds }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Refuses a file outside the folder.
    fn check(&self, path: &Path) -> Result<(), Fault> {
        let Some(bounds) = &self.bounds else { return Ok(()) };
        let name = path.strip_prefix(&self.root).ok();
        let below = name
            .is_some_and(|name| name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)));
        if below && fs::canonicalize(path).map_err(|error| fault(path, error))?.starts_with(bounds) {
            return Ok(());
        }
        Err(Fault::Record(Problem::BadImage(format!(
            "image file {} lies outside the image folder {}; name a folder that holds it (--images, or `images` in a recipe), or \
             allow such files with --images-anywhere (`images_anywhere = true`)",
            path.display(),
            bounds.display()
        ))))
    }
}

/// What is known of a file without reading it; another stamp means that it may be another image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<[i64; 5]>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let times =
            |data: fs::Metadata| [data.size() as i64, data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
        Self(fs::metadata(path).ok().map(times))
    }

    pub(super) fn add_to(self, hash: &mut Sha256) {
        hash.update([u8::from(self.0.is_some())]);
        self.0.into_iter().flatten().for_each(|number| hash.update(number.to_le_bytes()));
    }
}

/// Why an image cannot be had.
enum Fault {
    /// The data is at fault.
    Record(Problem),
    /// The system is.
    System(io::Error),
}

/// What an error of the operating system says about the data: it names a file that is not there, or is no file. Everything else,
/// too many open files among it, says nothing.
fn fault(path: &Path, error: io::Error) -> Fault {
    // ENXIO, ENODEV, ELOOP: a socket, a device without driver, a link to itself.
    const NO_FILE: [i32; 3] = [6, 19, 40];
    let special = error.raw_os_error().is_some_and(|code| NO_FILE.contains(&code));
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Fault::Record(Problem::MissingImage(path.to_owned())),
        ErrorKind::InvalidInput
        | ErrorKind::IsADirectory
        | ErrorKind::FileTooLarge
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidData => Fault::Record(Problem::BadImage(format!("image file {} {error}", path.display()))),
        _ if special => Fault::Record(Problem::BadImage(format!("image file {} is no regular file", path.display()))),
        _ => Fault::System(error),
    }
}

fn load(path: &Path, folder: &ImageFolder) -> Result<Loaded, Fault> {
    folder.check(path)?;
    let bytes = vila_files::read(path, MAX_IMAGE).map_err(|error| fault(path, error))?;
    let name = path.display().to_string();
    let bad = |error: ImageError| Fault::Record(Problem::BadImage(error.to_string()));
    let picture = decode(&bytes, &name).map_err(bad)?;
    check_size(picture.width(), picture.height(), &name).map_err(bad)?;
    Ok(Loaded { width: picture.width(), height: picture.height(), bytes })
}

/// The same problem for the next document that uses the same image.
fn again(problem: &Problem) -> Problem {
    match problem {
        Problem::MissingImage(path) => Problem::MissingImage(path.clone()),
        other => Problem::BadImage(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_no_fault_of_a_record() {
        let of = |code: i32| fault(Path::new("f"), vila_files::explain(io::Error::from_raw_os_error(code)));
        // EACCES, EMFILE, ENFILE, EIO, ENOMEM, ESTALE.
        for code in [13, 24, 23, 5, 12, 116] {
            assert!(matches!(of(code), Fault::System(_)), "{code}");
        }
        // ENOENT, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP, ENXIO, ENODEV.
        for code in [2, 20, 21, 36, 40, 6, 19] {
            assert!(matches!(of(code), Fault::Record(_)), "{code}");
        }
    }
}
