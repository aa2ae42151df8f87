use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::tokens::hex;
use crate::{Error, Result};

/// Where a checkpoint's manifest lies in it.
pub const MANIFEST: &str = "trainer/manifest.json";
const VERSION: u32 = 1;

/// What a checkpoint must consist of: written last, checked before the checkpoint is trusted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Manifest {
    version: u32,
    /// Steps done in the run.
    pub global_step: u64,
    /// Folders whose weights did not train in the checkpoint's stage.
    pub frozen: Vec<String>,
    /// Files by path, the manifest itself apart.
    pub files: BTreeMap<String, FileEntry>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct FileEntry {
    /// Its length.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// An empty manifest.
    pub fn new(global_step: u64, frozen: Vec<String>) -> Self {
        Manifest { version: VERSION, global_step, frozen, files: BTreeMap::new() }
    }

    /// Reads the manifest of a checkpoint and compares every file with it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the first file that is missing, cut or changed.
    pub fn verify(dir: &Path) -> Result<Self> {
        let manifest = Self::read(dir)?;
        for (name, entry) in &manifest.files {
            let path = dir.join(name);
            let damaged = |problem: String| Error::checkpoint(&path, problem);
            let found = hash_file(&path).map_err(|error| unreadable(&path, error))?;
            if found.bytes != entry.bytes {
                return Err(damaged(format!("has {} bytes, {} were written", found.bytes, entry.bytes)));
            }
            if found != *entry {
                return Err(damaged("is not what was written (its SHA-256 differs)".into()));
            }
        }
        Ok(manifest)
    }

    /// The files that are missing or are not what was written.
    pub(super) fn damaged<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a String, &'a FileEntry)> {
        self.files.iter().filter(|(name, entry)| hash_file(&dir.join(name)).map_or(true, |found| found != **entry))
    }

    /// Reads the manifest alone.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = vila_files::read(&path, vila_files::MAX_CONFIG).map_err(|error| unreadable(&path, error))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| Error::checkpoint(&path, format!("damaged: {error}")))?;
        if manifest.version != VERSION || manifest.files.is_empty() {
            return Err(Error::checkpoint(&path, format!("is not a manifest of version {VERSION}")));
        }
        Ok(manifest)
    }
}

/// A file that is not there is damage; one that cannot be read may be whole.
fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::checkpoint(path, "is missing"),
        _ => Error::io(path)(error),
    }
}

fn hash_file(path: &Path) -> std::io::Result<FileEntry> {
    let (mut file, mut hash, mut bytes) = (vila_files::open(path)?, Sha256::new(), 0);
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(FileEntry { bytes, sha256: hex(&hash.finalize()) }),
            n => {
                hash.update(&chunk[..n]);
                bytes += n as u64;
            }
        }
    }
}
