use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vila_model::weights::{RawTensor, write_safetensors};

use super::manifest::{FileEntry, MANIFEST, Manifest};
use crate::data::tokens::hex;
use crate::faults::{self, Action};
use crate::{Error, Result};

/// What a file of a checkpoint holds.
pub(super) enum Content {
    /// Bytes.
    Bytes(Vec<u8>),
    /// A safetensors file.
    Tensors(BTreeMap<String, RawTensor>),
    /// The same as the file at that path in the checkpoint before: its weights did not change.
    Unchanged,
}

/// A checkpoint in host memory: nothing in it refers to the device any more.
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) global_step: u64,
    pub(super) frozen: Vec<String>,
    pub(super) files: Vec<(String, Content)>,
}

/// A checkpoint on disk, as the next one may refer to it.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) dir: PathBuf,
    pub(super) manifest: Manifest,
}

/// Writes and flushes the files of a snapshot into `partial`, the manifest last.
pub(super) fn write_files(partial: &Path, snapshot: Snapshot, before: Option<&Written>) -> Result<Manifest> {
    let mut manifest = Manifest::new(snapshot.global_step, snapshot.frozen);
    for (name, content) in snapshot.files {
        let path = partial.join(&name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let entry = match content {
            Content::Bytes(bytes) => write(&path, |file| file.write_all(&bytes))?,
            Content::Tensors(tensors) => {
                check_finite(&path, &tensors)?;
                write(&path, |file| write_safetensors(&tensors, file))?
            }
            Content::Unchanged => link(&name, &path, before)?,
        };
        manifest.files.insert(name, entry);
    }
    let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::checkpoint(partial, error.to_string()))?;
    write(&partial.join(MANIFEST), |file| file.write_all(&bytes))?;
    flush_folders(partial)?;
    Ok(manifest)
}

/// A checkpoint with a value that is no number must not take the place of whole ones.
fn check_finite(path: &Path, tensors: &BTreeMap<String, RawTensor>) -> Result<()> {
    match tensors.iter().find_map(|(name, raw)| Some((name, raw.first_not_finite()?))) {
        None => Ok(()),
        Some((name, (index, value))) => Err(Error::NotFinite(format!(
            "{}: tensor {name} holds {value} (element {index}), so this checkpoint is not written and those before it stay; go on \
             from them with a lower learning rate",
            path.display()
        ))),
    }
}

/// A second name for the file before; a copy where the file system has no such thing.
fn link(name: &str, path: &Path, before: Option<&Written>) -> Result<FileEntry> {
    let missing = || Error::checkpoint(path, "no checkpoint before has these weights");
    let before = before.ok_or_else(missing)?;
    let (from, entry) = (before.dir.join(name), before.manifest.files.get(name).ok_or_else(missing)?);
    vila_files::link(&from, path).map_err(Error::io(&from))?;
    Ok(entry.clone())
}

fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<FileEntry> {
    let run = || -> io::Result<FileEntry> {
        let mut sink = BufWriter::with_capacity(1 << 20, HashingFile::create(path)?);
        fill(&mut sink)?;
        sink.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
    };
    run().map_err(Error::io(path))
}

/// A file that hashes what it is given.
struct HashingFile {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashingFile {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(HashingFile { file: vila_files::create(path)?, hash: Sha256::new(), bytes: 0 })
    }

    fn finish(self) -> io::Result<FileEntry> {
        faults::pass(faults::SAVE_FLUSH)?;
        self.file.sync_all()?;
        Ok(FileEntry { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = faults::hit(faults::SAVE_WRITE);
        if matches!(fault, Some(Action::Kill | Action::NoSpace)) {
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return if fault == Some(Action::Kill) { faults::die() } else { Err(faults::no_space()) };
        }
        self.file.write_all(bytes)?;
        if let (Some(Action::Damage), Some(&byte)) = (fault, bytes.get(bytes.len() / 2)) {
            self.file.seek(SeekFrom::Current(-((bytes.len() - bytes.len() / 2) as i64)))?;
            self.file.write_all(&[byte ^ 0x10])?;
            self.file.seek(SeekFrom::End(0))?;
        }
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn flush_folders(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            flush_folders(&path)?;
        }
    }
    flush(folder)
}

/// Makes the contents of a file, or the names in a folder, survive a power failure.
pub(super) fn flush(path: &Path) -> Result<()> {
    faults::pass(faults::SAVE_FLUSH).map_err(Error::io(path))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_with_nan_is_not_written() {
        let raw = |values: [f32; 2]| RawTensor {
            dtype: safetensors::Dtype::F32,
            shape: vec![2],
            data: vila_model::weights::f32_bytes(&values),
        };
        let path = Path::new("llm/model.safetensors");
        let tensors =
            |values| BTreeMap::from([("fine".to_string(), raw([1.0, f32::MAX])), ("other".into(), raw(values))]);
        assert!(check_finite(path, &tensors([0.0, -1.0])).is_ok());
        let said = check_finite(path, &tensors([0.0, f32::NAN])).expect_err("NaN").to_string();
        assert!(said.contains("llm/model.safetensors: tensor other holds NaN (element 1)"), "{said}");
    }
}
