//! Ingestion itself: batches of records in parallel, stored in the order of the source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::super::shard::{Counts, Manifest, Sample, ShardMeta, ShardWriter, SourceFile};
use super::super::tokens::{Tokenize, hex};
use super::document::Document;
use super::encode::{Encoded, encode_document};
use super::error::{IngestError, Offender, Place, Problem};
use super::images::ImageShelf;
use super::options::{Format, IngestOptions, OnError};
use super::source::{RawRecord, RecordReader, describe};
use super::{llava, mmc4, pairs, text};
use crate::stop;

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

/// The key of a cached ingestion: SHA-256 over the content of the input files, the options and the tokenizer's
/// fingerprint.
///
/// The content of image files is not part of it; give images a new name, or their records a new id, when they change.
///
/// # Errors
/// An input file cannot be read.
pub fn cache_key(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<String, IngestError> {
    let mut hash = Sha256::new();
    for input in &options.inputs {
        hash.update(describe(input)?.sha256);
        hash.update(image_root(options, input).as_os_str().as_encoded_bytes());
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
/// The first record that cannot be used (unless such records are to be skipped), unreadable inputs, nothing usable at
/// all, or a shard that cannot be written. On error no shard appears.
pub fn ingest(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<IngestReport, IngestError> {
    options.check()?;
    check_template_end(&options.format, tokenizer)?;
    let sources = options.inputs.iter().map(|input| describe(input)).collect::<Result<Vec<SourceFile>, _>>()?;
    let meta = ShardMeta {
        tokenizer: tokenizer.fingerprint(),
        tokenizer_json: tokenizer.definition().map(<[u8]>::to_vec),
        sources,
        options: options.to_json(),
    };
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

/// A template that ends answers with a special token needs a tokenizer that agrees.
fn check_template_end(format: &Format, tokenizer: &dyn Tokenize) -> Result<(), IngestError> {
    let Format::Llava { template } = format else { return Ok(()) };
    let Some(end) = template.end_token() else { return Ok(()) };
    let tokens = tokenizer.encode_with_offsets(end).unwrap_or_default();
    let whole = |(token, span): &(u32, std::ops::Range<usize>)| *token == tokenizer.eos() || *span == (0..end.len());
    match tokens.last().is_some_and(whole) {
        true => Ok(()),
        false => Err(IngestError::TemplateEnd { template: template.name(), end }),
    }
}

/// Folder of an input's images.
fn image_root(options: &IngestOptions, input: &Path) -> PathBuf {
    let beside = input.parent().unwrap_or(Path::new("")).to_owned();
    match (&options.image_root, &options.format) {
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
        let prepare = |record| stop::check().map(|()| prepare(record, options, tokenizer, root));
        let prepared: Vec<Result<Vec<Ready>, Problem>> = batch.par_iter().map(prepare).collect::<Result<_, _>>()?;
        let ready = prepared.iter().flatten().flatten();
        self.shelf.load(ready.flat_map(|document| &document.paths).map(PathBuf::as_path))?;
        for (record, prepared) in batch.iter().zip(prepared) {
            let usable = prepared.and_then(|documents| {
                documents.iter().try_for_each(|document| self.shelf.check(&document.paths))?;
                Ok(documents)
            });
            match usable {
                Ok(documents) => self.store(source, record.line, &documents)?,
                Err(problem) => self.offend(Place { file: input.to_owned(), line: record.line }, problem)?,
            }
        }
        Ok(())
    }

    fn store(&mut self, source: u32, line: u64, documents: &[Ready]) -> Result<(), IngestError> {
        if documents.is_empty() {
            self.writer.note_skipped(WITHOUT_IMAGES, 1);
        }
        for document in documents {
            let images = self.shelf.store(&document.paths, &document.names, &mut self.writer)?;
            let Encoded { tokens, loss, .. } = &document.encoded;
            self.writer.push(&Sample { tokens, loss, images: &images, source, source_line: line })?;
            self.writer.note_skipped(CUT, u64::from(document.encoded.cut));
        }
        Ok(())
    }

    fn offend(&mut self, place: Place, problem: Problem) -> Result<(), IngestError> {
        match self.options.on_error {
            OnError::Stop => Err(IngestError::Record { place, problem }),
            OnError::Skip => {
                self.writer.note_skipped(problem.kind(), 1);
                self.offenders.push(Offender { place, kind: problem.kind(), message: problem.to_string() });
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<IngestReport, IngestError> {
        let counts = self.writer.counts();
        if counts.samples == 0 {
            let inputs: Vec<_> = self.options.inputs.iter().map(|input| input.display().to_string()).collect();
            return Err(IngestError::Nothing { inputs: inputs.join(", "), skipped: self.records });
        }
        let manifest = self.writer.finish()?;
        Ok(IngestReport {
            records: self.records,
            counts,
            skipped: manifest.skipped.clone(),
            offenders: self.offenders,
            manifest,
        })
    }
}

/// Parses and tokenises one record.
fn prepare(
    record: &RawRecord,
    options: &IngestOptions,
    tokenizer: &dyn Tokenize,
    root: &Path,
) -> Result<Vec<Ready>, Problem> {
    let documents = parse(record, &options.format)?;
    let ready = documents.into_iter().map(|document| {
        let encoded = encode_document(tokenizer, &document, options.max_tokens)?;
        let mut names = document.images;
        names.truncate(encoded.images);
        let paths = names.iter().map(|name| root.join(name)).collect();
        Ok(Ready { encoded, names, paths })
    });
    ready.collect()
}

fn parse(record: &RawRecord, format: &Format) -> Result<Vec<Document>, Problem> {
    match *format {
        Format::Mmc4 { layout, loss_scope, max_images } => {
            mmc4::documents(json(record)?, mmc4::Rules { layout, loss_scope, max_images })
        }
        Format::Pairs => Ok(vec![pairs::document(json(record)?)?]),
        Format::Llava { ref template } => Ok(vec![llava::document(json(record)?, template)?]),
        Format::Text => Ok(vec![text::document(json(record)?)?]),
    }
}

fn json<T: DeserializeOwned>(record: &RawRecord) -> Result<T, Problem> {
    Ok(serde_json::from_slice(&record.json)?)
}
