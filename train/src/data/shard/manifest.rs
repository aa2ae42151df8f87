//! `manifest.json`: what a shard contains, where it came from, and the hashes of its files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::{ShardError, io_at};
use super::{IMAGE_INDEX, IMAGE_NAMES, IMAGE_USES, IMAGES, ImageRecord, LOSS, MANIFEST, SAMPLES, SampleRecord, TOKENS};
use crate::data::tokens::hex;

/// What a shard's manifest calls itself.
pub const FORMAT: &str = "vila-shard";
/// The version this program writes and reads.
pub const VERSION: u64 = 1;

/// Field that holds the hash of all others.
const SEAL: &str = "seal";

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`VERSION`].
    pub version: u64,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// How much of everything there is.
    pub counts: Counts,
    /// The files the documents came from, in order.
    pub sources: Vec<SourceFile>,
    /// The ingest options that decided the content.
    pub options: Value,
    /// What was left out or cut, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// The largest token id that is no image, if there is a token; shards of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_token: Option<u32>,
    /// Length and hash of every other file.
    pub files: BTreeMap<String, FileEntry>,
}

/// How much a shard holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents.
    pub samples: u64,
    /// Tokens, each image counting as one.
    pub tokens: u64,
    /// Tokens that are prediction targets.
    pub targets: u64,
    /// Images over all documents.
    pub image_uses: u64,
    /// Distinct images.
    pub images: u64,
    /// Bytes of distinct encoded images.
    pub image_bytes: u64,
    /// Bytes of image names.
    pub name_bytes: u64,
}

impl Counts {
    /// Length in bytes that each counted file must have, and the field that says so; `None` if the numbers are absurd.
    pub(super) fn lengths(&self) -> Option<[(&'static str, &'static str, u64); 7]> {
        Some([
            (TOKENS, "counts.tokens", self.tokens.checked_mul(4)?),
            (LOSS, "counts.tokens", self.tokens.div_ceil(8)),
            (SAMPLES, "counts.samples", self.samples.checked_mul(size_of::<SampleRecord>() as u64)?),
            (IMAGE_USES, "counts.image_uses", self.image_uses.checked_mul(4)?),
            (IMAGE_INDEX, "counts.images", self.images.checked_mul(size_of::<ImageRecord>() as u64)?),
            (IMAGE_NAMES, "counts.name_bytes", self.name_bytes),
            (IMAGES, "counts.image_bytes", self.image_bytes),
        ])
    }
}

/// A file that documents came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path as given to the ingester.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// A file of the shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks the manifest of a shard directory.
    pub(super) fn read(dir: &Path) -> Result<Self, ShardError> {
        let path = dir.join(MANIFEST);
        let fault = |field: &str, problem: String| ShardError::Manifest {
            path: path.clone(),
            field: field.to_owned(),
            problem,
        };
        let bytes = match vila_files::read(&path, vila_files::MAX_CONFIG) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ShardError::NotAShard { dir: dir.to_owned() });
            }
            Err(error) => return Err(io_at(&path, "read it")(error)),
        };
        let mut content: Value =
            serde_json::from_slice(&bytes).map_err(|error| fault("(whole file)", format!("is not JSON: {error}")))?;
        match content.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            other => {
                let found = other.unwrap_or("(absent)").to_owned();
                return Err(ShardError::ForeignFormat { path, found });
            }
        }
        match content.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(found) => return Err(ShardError::ForeignVersion { path, found }),
            None => return Err(fault("version", "is not a number".to_owned())),
        }
        let sealed = content.as_object_mut().and_then(|fields| fields.shift_remove(SEAL));
        if sealed.as_ref().and_then(Value::as_str) != Some(seal_of(&content).as_str()) {
            return Err(fault(
                SEAL,
                "does not match the other fields: the manifest was changed after it was written".to_owned(),
            ));
        }
        serde_json::from_value(content).map_err(|error| fault("(structure)", error.to_string()))
    }

    /// The bytes of `manifest.json`.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut content = serde_json::to_value(self)?;
        let seal = seal_of(&content);
        if let Some(fields) = content.as_object_mut() {
            fields.insert(SEAL.to_owned(), Value::String(seal));
        }
        let mut bytes = serde_json::to_vec_pretty(&content)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// SHA-256 of the compact JSON text of everything but the seal.
fn seal_of(content: &Value) -> String {
    hex(&Sha256::digest(content.to_string()))
}
