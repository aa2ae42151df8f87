//! Damaged files of a checkpoint, made whole from another copy or from where they came. Weights that do not train are one file
//! with many names, so a flipped bit there damages every checkpoint at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use vila_files::OwnFolder;
use vila_model::weights::{Component, RawTensor, write_safetensors};

use super::folder::Folder;
use super::manifest::{FileEntry, Manifest};
use super::{check, load_state};
use crate::data::tokens::hex;
use crate::{Error, Result};

/// Makes the weights that a component had when the run began, if it can.
pub type Rebuild<'a> = &'a dyn Fn(Component) -> Result<BTreeMap<String, RawTensor>>;

impl Folder {
    /// Repairs a checkpoint of this run, all of it or nothing.
    ///
    /// # Errors
    /// `error`, if some file has no whole copy.
    pub(super) fn repair(&self, dir: &Path, error: Error, rebuild: Rebuild) -> Result<Manifest> {
        let (Error::Checkpoint { .. }, Ok(manifest), true) = (&error, Manifest::read(dir), self.is_inside(dir)) else {
            return Err(error);
        };
        let damaged: Vec<(&String, &FileEntry)> = manifest.damaged(dir).collect();
        for (name, entry) in &damaged {
            if let Err(why) = self.copy_of(dir, name, entry).or_else(|_| remade(dir, name, entry, rebuild)) {
                tracing::debug!("{name} of {} cannot be repaired: {why}", dir.display());
                return Err(error);
            }
            tracing::warn!("{} was damaged and is repaired", dir.join(name).display());
        }
        if damaged.is_empty() || load_state(dir).is_err() { Err(error) } else { check(dir) }
    }

    fn is_inside(&self, dir: &Path) -> bool {
        self.own().is_ok_and(|names| names.iter().any(|name| self.dir(name) == dir))
    }

    /// Takes a file from another checkpoint that still has it as it was written.
    fn copy_of(&self, dir: &Path, name: &str, entry: &FileEntry) -> io::Result<()> {
        let others = self.own().map_err(io::Error::other)?;
        for other in others.iter().map(|other| self.dir(other)).filter(|other| other != dir) {
            let listed = Manifest::read(&other).is_ok_and(|manifest| manifest.files.get(name) == Some(entry));
            let copied =
                || replace(dir, name, entry, |sink| io::copy(&mut File::open(other.join(name))?, sink).map(drop));
            if listed && copied().is_ok() {
                return Ok(());
            }
        }
        Err(ErrorKind::NotFound.into())
    }
}

/// Writes a component's weights again, as they were when the run began.
fn remade(dir: &Path, name: &str, entry: &FileEntry, rebuild: Rebuild) -> io::Result<()> {
    let component = Component::ALL.into_iter().find(|component| component.file() == name);
    let tensors = rebuild(component.ok_or(ErrorKind::NotFound)?).map_err(io::Error::other)?;
    replace(dir, name, entry, |sink| write_safetensors(&tensors, sink))
}

/// Replaces a file of a checkpoint if what is written is what the manifest lists.
fn replace(
    dir: &Path,
    name: &str,
    entry: &FileEntry,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let path = Path::new(name);
    let mut folder = OwnFolder::open(dir)?;
    for part in path.parent().into_iter().flat_map(Path::components) {
        folder = folder.folder(part.as_os_str())?;
    }
    folder.write_with(path.file_name().ok_or(ErrorKind::InvalidInput)?, |file| {
        let mut sink = Hashing { file, hash: Sha256::new(), bytes: 0 };
        fill(&mut sink)?;
        let written = FileEntry { bytes: sink.bytes, sha256: hex(&sink.hash.finalize()) };
        if written == *entry { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    })
}

struct Hashing<'a> {
    file: &'a mut File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
