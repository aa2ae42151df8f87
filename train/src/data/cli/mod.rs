//! What `vila data ingest|info|verify|show` prints, apart from parsing its arguments.
//!
//! Each command has a machine-readable form (a JSON value) and a text for people made from the same facts.

mod html;
mod info;
mod show;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};
use vila_model::image::decode;
use vila_model::tokenizer::Tokenizer;

use super::ingest::IngestReport;
use super::shard::{ImageId, ShardError, ShardReader, TOKENIZER};

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
    /// An image of the shard is no picture of its size.
    #[error("{}: image {image}: {problem}; the shard is inconsistent: rebuild it with `vila data ingest`", dir.display())]
    Picture {
        /// The shard.
        dir: PathBuf,
        /// Number of the image, counted from 0.
        image: u32,
        /// What is wrong with it.
        problem: String,
    },
    /// A token is in no vocabulary.
    #[error(
        "{}: document {document} has the token {token}, which is not in the shard's tokenizer.json; rebuild it with `vila data ingest`",
        dir.display()
    )]
    Token {
        /// The shard.
        dir: PathBuf,
        /// Number of the document, counted from 0.
        document: u64,
        /// The token.
        token: u32,
    },
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
    (0..reader.counts().images).into_par_iter().try_for_each(|index| check_picture(&reader, ImageId(index as u32)))?;
    check_vocabulary(&reader)?;
    let bytes: u64 = reader.manifest().files.values().map(|file| file.bytes).sum();
    Ok(json!({ "dir": dir.to_string_lossy(), "intact": true, "bytes": bytes, "counts": reader.counts() }))
}

/// An image must be a whole picture of the size on record.
fn check_picture(reader: &ShardReader, image: ImageId) -> Result<(), DataError> {
    let (record, bytes) = (reader.image_record(image)?, reader.image(image)?);
    let fault = |problem: String| DataError::Picture { dir: reader.dir().to_owned(), image: image.0, problem };
    let picture = decode(bytes, reader.image_name(image)?).map_err(|error| fault(error.to_string()))?;
    if picture.dimensions() == (record.width, record.height) {
        return Ok(());
    }
    let (width, height) = picture.dimensions();
    Err(fault(format!("has {width} x {height} pixels, its record says {} x {}", record.width, record.height)))
}

/// Every token must be one of the tokenizer that is stored with the documents.
fn check_vocabulary(reader: &ShardReader) -> Result<(), DataError> {
    let Some(tokenizer) = stored_tokenizer(reader)? else { return Ok(()) };
    match reader.token_from(tokenizer.vocab_size())? {
        Some((document, token)) if tokenizer.id_to_token(token).is_none() => {
            Err(DataError::Token { dir: reader.dir().to_owned(), document, token })
        }
        _ => Ok(()),
    }
}

fn stored_tokenizer(reader: &ShardReader) -> Result<Option<Tokenizer>, DataError> {
    let path = reader.dir().join(TOKENIZER);
    let tokenizer = reader.tokenizer_json()?.map(|definition| Tokenizer::from_bytes(definition, &path));
    tokenizer.transpose().map_err(DataError::Tokenizer)
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
