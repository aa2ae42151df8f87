//! Ingestion itself: batches of records in parallel, stored in the order of the source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::super::shard::{Counts, Manifest, Sample, ShardError, ShardMeta, ShardWriter, SourceFile};
use super::super::tokens::{Tokenize, hex};
use super::document::{Document, Parsed};
use super::encode::{Encoded, encode_document};
use super::error::{IngestError, Offender, Place, Problem};
use super::images::{ImageFolder, ImageShelf, Stamp};
use super::options::{Format, IngestOptions, OnError, TooLong};
use super::{llava, media, mmc4, pairs, text};
use crate::records::{self, RawRecord, RecordReader, RecordsError};
use crate::stop;

/// Records parsed and tokenised together.
const BATCH: usize = 512;
/// Bytes of records after which a batch is full.
const BATCH_BYTES: usize = 64 << 20;

/// Key under which documents that lost their end are counted.
pub(crate) const CUT: &str = "cut_to_max_tokens";

/// Whether a key counts documents that lost a part, rather than records or documents that were left out.
pub(crate) fn is_partial(reason: &str) -> bool {
    reason == CUT || reason.ends_with("_dropped")
}

/// What came of an ingestion.
#[derive(Debug, Clone)]
pub struct IngestReport {
    /// Records read.
    pub records: u64,
    /// What the shard holds.
    pub counts: Counts,
    /// Records left out and documents cut, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Records and documents that could not be used, in order.
    pub offenders: Vec<Offender>,
    /// The shard's manifest.
    pub manifest: Manifest,
}

/// The key of a cached ingestion: SHA-256 over the content of the input files, the names, sizes and times of the images that
/// they name (or that there are none), the options and the tokenizer's fingerprint.
///
/// # Errors
/// An input file cannot be read.
pub fn cache_key(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<String, IngestError> {
    let mut key = KeyOf::new(options, tokenizer);
    for input in &options.inputs {
        let folder = ImageFolder::new(image_root(options, input), options.images_anywhere);
        let mut reader = RecordReader::open(input)?;
        while let Some(batch) = next_batch(&mut reader)? {
            stop::check()?;
            let named = |record: &RawRecord| references(parse(record, &options.format).as_ref().ok(), &folder);
            batch.par_iter().map(named).collect::<Vec<_>>().iter().for_each(|named| key.images(named));
        }
        key.source(&source_file(input, &reader), &image_root(options, input));
    }
    Ok(key.finish())
}

/// Ingests corpora of one format into a new shard directory.
///
/// # Errors
/// The first record that cannot be used (unless such records are to be skipped), unreadable inputs, nothing usable at
/// all, or a shard that cannot be written. On error no shard appears.
pub fn ingest(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Result<IngestReport, IngestError> {
    Run::over(options, tokenizer)?.finish()
}

/// The shard `NAME-KEY` in `folder`, made if it is not there; `options.out` is not used.
///
/// # Errors
/// Those of [`ingest`]; an input that cannot be read twice.
pub fn ingest_cached(
    options: &IngestOptions,
    folder: &Path,
    name: &str,
    tokenizer: &dyn Tokenize,
) -> Result<PathBuf, IngestError> {
    let out = cached(folder, name, &cache_key(options, tokenizer)?);
    if out.exists() {
        return Ok(out);
    }
    let options = IngestOptions { out, ..options.clone() };
    let mut run = Run::over(&options, tokenizer)?;
    // What was read may have changed since its key was computed.
    let out = cached(folder, name, &run.key());
    run.writer.rename(&out);
    match run.finish() {
        // Another process was faster.
        Err(IngestError::Shard(ShardError::Exists { .. })) | Ok(_) => Ok(out),
        Err(error) => Err(error),
    }
}

/// Where the shard of that key lies.
pub(crate) fn cached(folder: &Path, name: &str, key: &str) -> PathBuf {
    folder.join(format!("{name}-{}", key.get(..12).unwrap_or(key)))
}

/// What a cached shard is made from, as a hash.
#[derive(Clone)]
struct KeyOf {
    hash: Sha256,
    images: Sha256,
}

impl KeyOf {
    fn new(options: &IngestOptions, tokenizer: &dyn Tokenize) -> Self {
        let mut hash = Sha256::new();
        hash.update(options.to_json().to_string());
        hash.update([0]);
        hash.update(tokenizer.fingerprint());
        Self { hash, images: Sha256::new() }
    }

    fn images(&mut self, named: &[(PathBuf, Stamp)]) {
        for (path, stamp) in named {
            self.images.update(path.as_os_str().as_encoded_bytes());
            self.images.update([0]);
            stamp.add_to(&mut self.images);
        }
    }

    /// Ends an input.
    fn source(&mut self, source: &SourceFile, root: &Path) {
        self.hash.update(&source.sha256);
        self.hash.update(root.as_os_str().as_encoded_bytes());
        self.hash.update([0]);
        self.hash.update(self.images.finalize_reset());
    }

    fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

/// The images that the documents of a record name.
fn references(parsed: Option<&Parsed>, folder: &ImageFolder) -> Vec<(PathBuf, Stamp)> {
    let documents = parsed.into_iter().flat_map(|parsed| parsed.documents.iter().flatten());
    let paths = documents.flat_map(|document| &document.images).map(|name| folder.path(name));
    paths.map(|path| (path.clone(), Stamp::of(&path))).collect()
}

/// An input as it was read.
fn source_file(path: &Path, reader: &RecordReader) -> SourceFile {
    let (bytes, sha256) = reader.described();
    SourceFile { path: path.to_string_lossy().into_owned(), bytes, sha256 }
}

fn exists(path: &Path) -> Result<(), IngestError> {
    let unreadable = |error| IngestError::Source { path: path.to_owned(), source: vila_files::explain(error) };
    std::fs::metadata(path).map(drop).map_err(unreadable)
}

fn next_batch(reader: &mut RecordReader) -> Result<Option<Vec<RawRecord>>, IngestError> {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Some(record) = reader.next_record()?
    {
        bytes += record.json.len();
        batch.push(record);
    }
    Ok((!batch.is_empty()).then_some(batch))
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
    key: KeyOf,
    records: u64,
    offenders: Vec<Offender>,
}

/// A record's documents, ready to be stored.
struct Prepared {
    documents: Vec<Result<Ready, Problem>>,
    notes: Vec<&'static str>,
    /// The images that it names, used or not.
    named: Vec<(PathBuf, Stamp)>,
}

/// A document ready to be stored.
struct Ready {
    encoded: Encoded,
    names: Vec<String>,
    paths: Vec<PathBuf>,
}

impl<'a> Run<'a> {
    /// Reads all inputs.
    fn over(options: &'a IngestOptions, tokenizer: &'a dyn Tokenize) -> Result<Self, IngestError> {
        options.check()?;
        check_template_end(&options.format, tokenizer)?;
        let unread =
            |path: &PathBuf| SourceFile { path: path.to_string_lossy().into_owned(), bytes: 0, sha256: String::new() };
        // A path that is wrong should not cost the work on those before it.
        options.inputs.iter().try_for_each(|input| exists(input))?;
        let meta = ShardMeta {
            tokenizer: tokenizer.fingerprint(),
            tokenizer_json: tokenizer.definition().map(<[u8]>::to_vec),
            sources: options.inputs.iter().map(unread).collect(),
            options: options.to_json(),
        };
        let mut run = Run {
            options,
            tokenizer,
            writer: ShardWriter::create(&options.out, meta)?,
            shelf: ImageShelf::default(),
            key: KeyOf::new(options, tokenizer),
            records: 0,
            offenders: Vec::new(),
        };
        for (index, input) in options.inputs.iter().enumerate() {
            run.file(index as u32, input)?;
        }
        Ok(run)
    }

    /// The key of what was read.
    fn key(&self) -> String {
        self.key.clone().finish()
    }

    fn file(&mut self, source: u32, input: &Path) -> Result<(), IngestError> {
        let mut reader = RecordReader::open(input)?;
        let root = image_root(self.options, input);
        let folder = ImageFolder::new(root.clone(), self.options.images_anywhere);
        while let Some(batch) = next_batch(&mut reader)? {
            self.records += batch.len() as u64;
            self.batch(source, input, &folder, &batch)?;
        }
        let read = source_file(input, &reader);
        self.key.source(&read, &root);
        self.writer.set_source(source, read);
        Ok(())
    }

    fn batch(
        &mut self,
        source: u32,
        input: &Path,
        folder: &ImageFolder,
        batch: &[RawRecord],
    ) -> Result<(), IngestError> {
        let (options, tokenizer) = (self.options, self.tokenizer);
        let prepare = |record| stop::check().map(|()| prepare(record, options, tokenizer, folder));
        let prepared: Vec<Result<Prepared, Problem>> = batch.par_iter().map(prepare).collect::<Result<_, _>>()?;
        let ready = prepared.iter().flatten().flat_map(|prepared| prepared.documents.iter().flatten());
        self.shelf.load(ready.flat_map(|document| &document.paths).map(PathBuf::as_path), folder)?;
        for (record, prepared) in batch.iter().zip(prepared) {
            let place = || Place { file: input.to_owned(), line: record.line };
            let Prepared { documents, notes, named } = match prepared {
                Ok(prepared) => prepared,
                Err(problem) => {
                    self.offend(place(), problem)?;
                    continue;
                }
            };
            self.key.images(&named);
            notes.into_iter().for_each(|note| self.writer.note_skipped(note, 1));
            for document in documents {
                let usable = document.and_then(|document| self.shelf.check(&document.paths).map(|()| document));
                match usable {
                    Ok(document) => self.store(source, record.line, &document)?,
                    Err(problem) => self.offend(place(), problem)?,
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, source: u32, line: u64, document: &Ready) -> Result<(), IngestError> {
        let images = self.shelf.store(&document.paths, &document.names, &mut self.writer)?;
        let Encoded { tokens, loss, .. } = &document.encoded;
        self.writer.push(&Sample { tokens, loss, images: &images, source, source_line: line })?;
        self.writer.note_skipped(CUT, u64::from(document.encoded.cut));
        Ok(())
    }

    fn offend(&mut self, place: Place, problem: Problem) -> Result<(), IngestError> {
        match (&problem, self.options.on_error) {
            (Problem::TooLong { .. }, _) if self.options.too_long == TooLong::Stop => {
                return Err(IngestError::TooLong { place, problem });
            }
            // Nothing is wrong with these: `too_long` says what becomes of them.
            (Problem::TooLong { .. } | Problem::CutLeavesNoAnswer { .. }, _) | (_, OnError::Skip) => {}
            (_, OnError::Stop) => return Err(IngestError::Record { place, problem }),
        }
        self.writer.note_skipped(problem.kind(), 1);
        self.offenders.push(Offender { place, kind: problem.kind(), message: problem.to_string() });
        Ok(())
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
    folder: &ImageFolder,
) -> Result<Prepared, Problem> {
    let parsed = parse(record, &options.format)?;
    let named = references(Some(&parsed), folder);
    let ready = |document: Document| {
        let encoded = encode_document(tokenizer, &document, options.max_tokens, options.too_long)?;
        let mut names = document.images;
        names.truncate(encoded.images);
        let paths = names.iter().map(|name| folder.path(name)).collect();
        Ok(Ready { encoded, names, paths })
    };
    let documents = parsed.documents.into_iter().map(|document| document.and_then(ready)).collect();
    Ok(Prepared { documents, notes: parsed.notes, named })
}

fn parse(record: &RawRecord, format: &Format) -> Result<Parsed, Problem> {
    let reads: &[&str] = match format {
        Format::Pairs | Format::Llava { .. } => &["image", "images"],
        Format::Mmc4 { .. } | Format::Text => &[],
    };
    media::check(&record.json, format.name(), reads)?;
    let parsed = match *format {
        Format::Mmc4 { layout, loss_scope, max_images } => {
            json(record).and_then(|read| mmc4::parse(read, mmc4::Rules { layout, loss_scope, max_images }))
        }
        Format::Pairs => json(record).and_then(pairs::document).map(Parsed::from),
        Format::Llava { ref template } => json(record).and_then(|read| llava::parse(read, template)),
        Format::Text => json(record).and_then(text::document).map(Parsed::from),
    };
    parsed.map_err(|problem| match (&problem, records::wrapped(&record.json)) {
        (Problem::Json(_), Some(wrapped)) => wrapped.into(),
        _ => problem,
    })
}

fn json<T: DeserializeOwned>(record: &RawRecord) -> Result<T, Problem> {
    Ok(records::parse(&record.json)?)
}

impl From<RecordsError> for IngestError {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Unreadable { path, source } => Self::Source { path, source },
            RecordsError::Form { path, problem } => Self::Form { path, problem },
        }
    }
}
