//! Ingestion itself: batches of records in parallel, stored in the order of the source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::super::shard::{Counts, Manifest, Sample, ShardMeta, ShardWriter, SourceFile};
use super::super::template::Template;
use super::super::tokens::{Tokenize, hex};
use super::document::Document;
use super::encode::{Encoded, encode_document};
use super::error::{IngestError, Offender, Place, Problem};
use super::images::ImageShelf;
use super::options::{Format, IngestOptions, OnError};
use super::source::{RawRecord, RecordReader, describe};
use super::{llava, mmc4, pairs, text};

/// Records parsed and tokenised together.
const BATCH: usize = 512;

/// Key under which documents without images are counted.
const WITHOUT_IMAGES: &str = "without_images";
/// Key under which documents that lost their end are counted.
const CUT: &str = "cut_to_max_tokens";

/// What came of an ingestion.
#[derive(Debug, Clone)]
pub struct IngestReport {
    /// Records read.
    pub records: u64,
    /// What the shard holds.
    pub counts: Counts,
    /// Records left out and documents cut, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Records that could not be used (under [`OnError::Skip`]), in order.
    pub offenders: Vec<Offender>,
    /// The shard's manifest.
    pub manifest: Manifest,
}

/// The key of a cached ingestion: SHA-256 over the content of the input files, the options and the tokenizer's fingerprint.
///
/// The content of image files is not part of it; give images a new name, or their records a new id, when they change.
///
/// # Errors
/// An input file cannot be read.
pub fn cache_key(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<String, IngestError> {
    let mut hash = Sha256::new();
    for input in &options.inputs {
        hash.update(describe(input)?.sha256);
        hash.update(image_root(options, input).to_string_lossy().as_bytes());
        hash.update([0]);
    }
    hash.update(options.to_json().to_string());
    hash.update([0]);
    hash.update(tokenizer.fingerprint());
    Ok(hex(&hash.finalize()))
}

/// Ingests corpora of one format into a new shard directory.
///
/// # Errors
/// The first record that cannot be used (unless such records are to be skipped), unreadable inputs, nothing usable at all, or a shard
/// that cannot be written. On error no shard appears.
pub fn ingest(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<IngestReport, IngestError> {
    options.check()?;
    check_template_end(options.format, tokenizer)?;
    let sources = options.inputs.iter().map(|input| describe(input)).collect::<Result<Vec<SourceFile>, _>>()?;
    let meta = ShardMeta { tokenizer: tokenizer.fingerprint(), sources, options: options.to_json() };
    let mut run = Run {
        options,
        tokenizer,
        writer: ShardWriter::create(&options.out, meta)?,
        shelf: ImageShelf::default(),
        records: 0,
        offenders: Vec::new(),
    };
    for (index, input) in options.inputs.iter().enumerate() {
        run.file(index as u32, input)?;
    }
    run.finish()
}

/// A template that ends answers with `</s>` needs a tokenizer that agrees.
fn check_template_end(format: Format, tokenizer: &dyn Tokenize) -> Result<(), IngestError> {
    let Format::Llava { template } = format else { return Ok(()) };
    let end = tokenizer.encode_with_offsets("</s>").unwrap_or_default();
    let known = matches!(end.last(), Some((token, _)) if *token == tokenizer.eos());
    if template.ends_answers() && !known {
        return Err(IngestError::TemplateEnd { template: Template::name(template) });
    }
    Ok(())
}

/// Folder of an input's images.
fn image_root(options: &IngestOptions, input: &Path) -> PathBuf {
    let beside = input.parent().unwrap_or(Path::new("")).to_owned();
    match (&options.image_root, options.format) {
        (Some(root), _) => root.clone(),
        (None, Format::Mmc4 { .. }) => beside.join("images"),
        (None, _) => beside,
    }
}

struct Run<'a> {
    options: &'a IngestOptions,
    tokenizer: &'a dyn Tokenize,
    writer: ShardWriter,
    shelf: ImageShelf,
    records: u64,
    offenders: Vec<Offender>,
}

/// A document ready to be stored.
struct Ready {
    encoded: Encoded,
    names: Vec<String>,
    paths: Vec<PathBuf>,
}

impl Run<'_> {
    fn file(&mut self, source: u32, input: &Path) -> Result<(), IngestError> {
        let root = image_root(self.options, input);
        let mut reader = RecordReader::open(input)?;
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH
                && let Some(record) = reader.next_record()?
            {
                batch.push(record);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.records += batch.len() as u64;
            self.batch(source, input, &root, &batch)?;
        }
    }

    fn batch(&mut self, source: u32, input: &Path, root: &Path, batch: &[RawRecord]) -> Result<(), IngestError> {
        let (options, tokenizer) = (self.options, self.tokenizer);
        let prepared: Vec<Result<Vec<Ready>, Problem>> =
            batch.par_iter().map(|record| prepare(record, options, tokenizer, root)).collect();
        let ready = prepared.iter().flatten().flatten();
        self.shelf.load(ready.flat_map(|document| &document.paths).map(PathBuf::as_path));
        for (record, prepared) in batch.iter().zip(prepared) {
            if let Err(problem) = prepared.and_then(|documents| self.usable(documents)).map(|documents| self.store(source, record.line, &documents)).transpose_store()? {
                self.offend(Place { file: input.to_owned(), line: record.line }, problem)?;
            }
        }
        Ok(())
    }
}
