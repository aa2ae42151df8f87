//! What `vila data ingest|info|verify|show` prints, apart from parsing its arguments.
//!
//! Each command has a machine-readable form (a JSON value) and a text for people made from the same facts.

mod html;
mod info;
mod show;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ingest::IngestReport;
use super::shard::{ShardError, ShardReader};

pub(crate) use html::{base64, escape};
pub use info::{info, info_text};
pub use show::{Shown, show};

/// Offenders listed by name in the text of a report; the JSON has all of them.
const LISTED_OFFENDERS: usize = 20;

/// A data command failed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The shard is at fault.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The tokenizer stored in the shard is at fault.
    #[error(transparent)]
    Tokenizer(vila_model::Error),
    /// The tokenizer cannot decode what the shard holds.
    #[error("{}: tokens cannot be shown as text: {source}; run `vila data verify` on the shard", dir.display())]
    Decode {
        /// The shard.
        dir: PathBuf,
        /// What the tokenizer said.
        source: vila_model::Error,
    },
    /// The page could not be written.
    #[error("{}: cannot write the page: {source}; choose another file with --html", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Checks every hash, checksum, record and reference of a shard.
///
/// # Errors
/// The first fault found.
pub fn verify(dir: &Path) -> Result<Value, DataError> {
    let reader = ShardReader::open(dir)?;
    reader.verify()?;
    let bytes: u64 = reader.manifest().files.values().map(|file| file.bytes).sum();
    Ok(json!({ "dir": dir.to_string_lossy(), "intact": true, "bytes": bytes, "counts": reader.counts() }))
}

/// The report of an ingestion as JSON.
pub fn ingest_json(report: &IngestReport) -> Value {
    json!({
        "records": report.records,
        "counts": report.counts,
        "skipped": report.skipped,
        "offenders": report.offenders,
        "tokenizer": report.manifest.tokenizer,
    })
}

/// The report of an ingestion for people.
pub fn ingest_text(report: &IngestReport) -> String {
    let counts = &report.counts;
    let mut text = format!(
        "{} records -> {} documents, {} tokens ({} learned), {} images ({} distinct)\n",
        report.records, counts.samples, counts.tokens, counts.targets, counts.image_uses, counts.images
    );
    for (reason, count) in &report.skipped {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {count} x {}", reason.replace('_', " "));
    }
    for offender in report.offenders.iter().take(LISTED_OFFENDERS) {
        let _ = writeln!(text, "  passed over: {}: {}", offender.place, offender.message);
    }
    if let more @ 1.. = report.offenders.len().saturating_sub(LISTED_OFFENDERS) {
        let _ = writeln!(text, "  ... and {more} more");
    }
    text
}
