//! One error for each way a shard can lie.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::VERSION;

/// A shard that cannot be written, or must not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The directory to write exists.
    #[error("{}: exists already; remove it or choose another output directory", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is no shard here.
    #[error("{}: no shard here (no manifest.json); build it with `vila data ingest`", dir.display())]
    NotAShard {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that the manifest lists is absent.
    #[error("{}: the file is missing; copy the shard again or rebuild it with `vila data ingest`", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The manifest is not a manifest.
    #[error("{}: field `{field}`: {problem}; rebuild the shard with `vila data ingest`", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The field at fault.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The manifest belongs to another kind of data.
    #[error("{}: field `format`: is `{found}`, not `vila-shard`; this is not a shard: check the path", path.display())]
    ForeignFormat {
        /// The manifest.
        path: PathBuf,
        /// What it calls itself.
        found: String,
    },
    /// The shard was written by another version of this program.
    #[error(
        "{}: field `version`: is {found}, this program reads {VERSION}; rebuild the shard with `vila data ingest` or use the program that wrote it",
        path.display()
    )]
    ForeignVersion {
        /// The manifest.
        path: PathBuf,
        /// The version found.
        found: u64,
    },
    /// A file has another length than the counts in the manifest demand.
    #[error(
        "{}: is {found} bytes long, field `{field}` of the manifest demands {expected}; it was cut short or exchanged: copy the shard again or rebuild it",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// The manifest's field that decides the length.
        field: &'static str,
        /// Length it must have.
        expected: u64,
        /// Length it has.
        found: u64,
    },
    /// A block's content does not match its checksum.
    #[error(
        "{}: bytes {start} to {end} are damaged (checksum {found:08x}, expected {expected:08x}); copy the shard again or rebuild it",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// First byte of the block.
        start: u64,
        /// First byte after the block.
        end: u64,
        /// CRC32C on record.
        expected: u32,
        /// CRC32C of what is there.
        found: u32,
    },
    /// A whole file does not match its hash.
    #[error("{}: SHA-256 is {found}, the manifest records {expected}; copy the shard again or rebuild it", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash on record.
        expected: String,
        /// Hash of what is there.
        found: String,
    },
    /// A record points outside its file or contradicts another.
    #[error("{}: record {index}, field `{field}`: {problem}; the shard is inconsistent: rebuild it with `vila data ingest`", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Number of the record, counted from 0.
        index: u64,
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller asked for a sample or an image that does not exist.
    #[error("{}: there is no {what} {index}, only {count}; check the index", dir.display())]
    OutOfRange {
        /// The shard.
        dir: PathBuf,
        /// `sample` or `image`.
        what: &'static str,
        /// What was asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// The shard was tokenised with another tokenizer.
    #[error(
        "{}: field `tokenizer`: the shard was made with tokenizer {}, the model has {}; ingest the data again with the model's tokenizer",
        path.display(), short(shard), short(model)
    )]
    Tokenizer {
        /// The manifest.
        path: PathBuf,
        /// Fingerprint in the shard.
        shard: String,
        /// Fingerprint of the model's tokenizer.
        model: String,
    },
    /// A sample handed to the writer is impossible.
    #[error("sample {index}: {problem}; this is a mistake of the program that writes the shard")]
    BadSample {
        /// Number of the sample, counted from 0.
        index: u64,
        /// What is wrong with it.
        problem: String,
    },
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// Attaches path and action to an I/O error.
pub(super) fn io_at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> ShardError {
    let path = path.to_owned();
    move |source| ShardError::Io { path, action, source: vila_files::explain(source) }
}
