//! Building a shard directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vila_files::NewFolder;

use super::error::{ShardError, io_at};
use super::manifest::{Counts, FORMAT, FileEntry, Manifest, SourceFile, VERSION};
use super::{
    BLOCK_BYTES, CHECKED, CHECKSUMS, IMAGE_INDEX, IMAGE_NAMES, IMAGE_USES, IMAGES, ImageId, ImageRecord, LOSS,
    MANIFEST, SAMPLES, SampleRecord, TOKENIZER, TOKENS,
};
use crate::data::tokens::{IMAGE_PLACEHOLDER, hex};

/// What is known about a shard before its first document.
#[derive(Debug, Clone, Default)]
pub struct ShardMeta {
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// The `tokenizer.json`, to be stored beside the documents.
    pub tokenizer_json: Option<Vec<u8>>,
    /// The files the documents come from; [`Sample::source`] is an index into them.
    pub sources: Vec<SourceFile>,
    /// The options that decide the content.
    pub options: Value,
}

/// An encoded image to be stored.
#[derive(Debug, Clone, Copy)]
pub struct ImageBlob<'a> {
    /// The file's bytes, unchanged.
    pub bytes: &'a [u8],
    /// Name for messages.
    pub name: &'a str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// A document to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Token ids, with [`IMAGE_PLACEHOLDER`] where an image goes.
    pub tokens: &'a [u32],
    /// For each token, whether it is a prediction target.
    pub loss: &'a [bool],
    /// The images, in the order of their placeholders.
    pub images: &'a [ImageId],
    /// Index into [`ShardMeta::sources`].
    pub source: u32,
    /// Line or element number in the source, counted from 1.
    pub source_line: u64,
}

/// Writes a shard under a temporary name; [`ShardWriter::finish`] makes it appear. Dropped unfinished, it leaves
/// nothing.
pub struct ShardWriter {
    target: PathBuf,
    folder: NewFolder,
    meta: ShardMeta,
    counts: Counts,
    skipped: BTreeMap<String, u64>,
    largest_token: Option<u32>,
    files: Files,
    pending_bits: u8,
    by_content: HashMap<[u8; 32], ImageId>,
}

struct Files {
    tokens: TrackedFile,
    loss: TrackedFile,
    samples: TrackedFile,
    image_uses: TrackedFile,
    image_index: TrackedFile,
    image_names: TrackedFile,
    images: TrackedFile,
}

impl ShardWriter {
    /// Begins the shard that will be `dir`.
    ///
    /// # Errors
    /// `dir` exists, or its parent cannot be written. What interrupted writers of `dir` left is removed.
    pub fn create(dir: impl AsRef<Path>, meta: ShardMeta) -> Result<Self, ShardError> {
        let target = dir.as_ref().to_owned();
        if target.symlink_metadata().is_ok() {
            return Err(ShardError::Exists { path: target });
        }
        let folder = NewFolder::begin(&target).map_err(io_at(&target, "begin it"))?;
        let open = |name| TrackedFile::create(folder.path().join(name));
        let files = Files {
            tokens: open(TOKENS)?,
            loss: open(LOSS)?,
            samples: open(SAMPLES)?,
            image_uses: open(IMAGE_USES)?,
            image_index: open(IMAGE_INDEX)?,
            image_names: open(IMAGE_NAMES)?,
            images: open(IMAGES)?,
        };
        Ok(Self {
            target,
            folder,
            meta,
            counts: Counts::default(),
            skipped: BTreeMap::new(),
            largest_token: None,
            files,
            pending_bits: 0,
            by_content: HashMap::new(),
        })
    }

    /// What has been written so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Adds to the number of documents left out (or cut) for `reason`.
    pub fn note_skipped(&mut self, reason: &str, documents: u64) {
        if documents > 0 {
            *self.skipped.entry(reason.to_owned()).or_default() += documents;
        }
    }

    /// Says what the source of that index was, once it is read.
    pub fn set_source(&mut self, index: u32, source: SourceFile) {
        if let Some(slot) = self.meta.sources.get_mut(index as usize) {
            *slot = source;
        }
    }

    /// Gives the shard another final name in the same folder.
    pub(crate) fn rename(&mut self, target: &Path) {
        self.target = target.to_owned();
        self.folder.rename(target.file_name().unwrap_or_default());
    }

    /// Stores an image, or finds the one with the same bytes.
    ///
    /// # Errors
    /// The disk refuses, or there are more than 2^32 - 1 distinct images.
    pub fn add_image(&mut self, image: ImageBlob<'_>) -> Result<ImageId, ShardError> {
        let content: [u8; 32] = Sha256::digest(image.bytes).into();
        if let Some(&known) = self.by_content.get(&content) {
            return Ok(known);
        }
        let id = ImageId(self.narrow(self.counts.images, "more than 2^32 - 1 distinct images")?);
        let record = ImageRecord {
            offset: self.counts.image_bytes,
            length: image.bytes.len() as u64,
            name_offset: self.counts.name_bytes,
            name_length: self.narrow(image.name.len() as u64, "an image name of more than 4 GiB")?,
            crc32c: crc32c::crc32c(image.bytes),
            width: image.width,
            height: image.height,
        };
        self.files.images.write(image.bytes)?;
        self.files.image_names.write(image.name.as_bytes())?;
        self.files.image_index.write(bytemuck::bytes_of(&record))?;
        self.counts.images += 1;
        self.counts.image_bytes += record.length;
        self.counts.name_bytes += u64::from(record.name_length);
        self.by_content.insert(content, id);
        Ok(id)
    }

    /// Appends a document.
    ///
    /// # Errors
    /// The sample contradicts itself (see [`ShardError::BadSample`]), or the disk refuses.
    pub fn push(&mut self, sample: &Sample<'_>) -> Result<(), ShardError> {
        let targets = self.check(sample)?;
        let record = SampleRecord {
            token_offset: self.counts.tokens,
            image_offset: self.counts.image_uses,
            source_line: sample.source_line,
            token_count: self.narrow(sample.tokens.len() as u64, "more than 2^32 - 1 tokens")?,
            image_count: self.narrow(sample.images.len() as u64, "more than 2^32 - 1 images")?,
            target_count: self.narrow(targets, "more than 2^32 - 1 targets")?,
            source: sample.source,
        };
        self.files.tokens.write(bytemuck::cast_slice(sample.tokens))?;
        self.files.image_uses.write(bytemuck::cast_slice(sample.images))?;
        self.files.samples.write(bytemuck::bytes_of(&record))?;
        self.write_bits(sample.loss)?;
        let largest = sample.tokens.iter().copied().filter(|&token| token != IMAGE_PLACEHOLDER).max();
        self.largest_token = self.largest_token.max(largest);
        self.counts.samples += 1;
        self.counts.targets += targets;
        self.counts.image_uses += u64::from(record.image_count);
        Ok(())
    }

    /// Number of targets of a possible sample.
    fn check(&self, sample: &Sample<'_>) -> Result<u64, ShardError> {
        let placeholders = sample.tokens.iter().filter(|&&token| token == IMAGE_PLACEHOLDER).count();
        let problem = if sample.tokens.is_empty() {
            "it has no tokens".to_owned()
        } else if sample.loss.len() != sample.tokens.len() {
            format!("{} loss bits for {} tokens", sample.loss.len(), sample.tokens.len())
        } else if placeholders != sample.images.len() {
            format!("{placeholders} image placeholders for {} images", sample.images.len())
        } else if sample.tokens.iter().zip(sample.loss).any(|(&token, &target)| target && token == IMAGE_PLACEHOLDER) {
            "an image is marked as a prediction target".to_owned()
        } else if sample.images.iter().any(|image| u64::from(image.0) >= self.counts.images) {
            "it uses an image that was never added".to_owned()
        } else if sample.source as usize >= self.meta.sources.len() {
            format!("source {} of {}", sample.source, self.meta.sources.len())
        } else {
            return Ok(sample.loss.iter().filter(|&&target| target).count() as u64);
        };
        Err(ShardError::BadSample { index: self.counts.samples, problem })
    }

    fn narrow(&self, value: u64, problem: &str) -> Result<u32, ShardError> {
        u32::try_from(value)
            .map_err(|_| ShardError::BadSample { index: self.counts.samples, problem: problem.to_owned() })
    }

    /// Appends loss bits; a started byte waits in `pending_bits` for the next document.
    fn write_bits(&mut self, loss: &[bool]) -> Result<(), ShardError> {
        let mut full = Vec::with_capacity(loss.len() / 8 + 1);
        for &target in loss {
            let position = self.counts.tokens % 8;
            self.pending_bits |= u8::from(target) << position;
            self.counts.tokens += 1;
            if position == 7 {
                full.push(std::mem::take(&mut self.pending_bits));
            }
        }
        self.files.loss.write(&full)
    }

    /// Writes the manifest, forces everything to disk and gives the directory its name.
    ///
    /// # Errors
    /// The disk refuses, or the directory has come into being meanwhile.
    pub fn finish(mut self) -> Result<Manifest, ShardError> {
        if !self.counts.tokens.is_multiple_of(8) {
            self.files.loss.write(&[self.pending_bits])?;
        }
        let files = self.close_files()?;
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            tokenizer: std::mem::take(&mut self.meta.tokenizer),
            counts: self.counts,
            sources: std::mem::take(&mut self.meta.sources),
            options: self.meta.options.take(),
            skipped: std::mem::take(&mut self.skipped),
            largest_token: self.largest_token,
            files,
        };
        let path = self.folder.path().join(MANIFEST);
        let bytes = manifest.to_bytes().map_err(|error| ShardError::Manifest {
            path: path.clone(),
            field: "(whole file)".to_owned(),
            problem: error.to_string(),
        })?;
        let mut file = vila_files::create(&path).map_err(io_at(&path, "create it"))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io_at(&path, "write it"))?;
        self.folder.commit().map_err(|source| match source.kind() {
            // Another writer was faster.
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => ShardError::Exists { path: self.target.clone() },
            _ => io_at(&self.target, "give the finished shard its name")(source),
        })?;
        Ok(manifest)
    }

    /// Completes all data files and writes their checksums.
    fn close_files(&mut self) -> Result<BTreeMap<String, FileEntry>, ShardError> {
        let files = &mut self.files;
        let checked = [
            &mut files.tokens,
            &mut files.loss,
            &mut files.samples,
            &mut files.image_uses,
            &mut files.image_index,
            &mut files.image_names,
        ];
        let mut entries = BTreeMap::new();
        let mut checksums = TrackedFile::create(self.folder.path().join(CHECKSUMS))?;
        for (name, file) in CHECKED.into_iter().zip(checked) {
            let (entry, blocks) = file.close()?;
            checksums.write(bytemuck::cast_slice(&blocks))?;
            entries.insert(name.to_owned(), entry);
        }
        if let Some(json) = &self.meta.tokenizer_json {
            let mut tokenizer = TrackedFile::create(self.folder.path().join(TOKENIZER))?;
            tokenizer.write(json)?;
            entries.insert(TOKENIZER.to_owned(), tokenizer.close()?.0);
        }
        entries.insert(IMAGES.to_owned(), files.images.close()?.0);
        entries.insert(CHECKSUMS.to_owned(), checksums.close()?.0);
        Ok(entries)
    }
}

/// A file that knows its length, its hash and the checksum of each of its blocks.
struct TrackedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    blocks: Vec<u32>,
    open_block: u32,
}

impl TrackedFile {
    fn create(path: PathBuf) -> Result<Self, ShardError> {
        let file = vila_files::create(&path).map_err(io_at(&path, "create it"))?;
        let file = BufWriter::with_capacity(BLOCK_BYTES, file);
        Ok(Self { path, file, hash: Sha256::new(), bytes: 0, blocks: Vec::new(), open_block: 0 })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), ShardError> {
        self.file.write_all(bytes).map_err(io_at(&self.path, "write it"))?;
        self.hash.update(bytes);
        while !bytes.is_empty() {
            let filled = (self.bytes % BLOCK_BYTES as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - filled));
            self.open_block = crc32c::crc32c_append(self.open_block, now);
            self.bytes += now.len() as u64;
            if filled + now.len() == BLOCK_BYTES {
                self.blocks.push(std::mem::take(&mut self.open_block));
            }
            bytes = later;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(FileEntry, Vec<u32>), ShardError> {
        if !self.bytes.is_multiple_of(BLOCK_BYTES as u64) {
            self.blocks.push(std::mem::take(&mut self.open_block));
        }
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(io_at(&self.path, "write it"))?;
        let sha256 = hex(&self.hash.finalize_reset());
        Ok((FileEntry { bytes: self.bytes, sha256 }, std::mem::take(&mut self.blocks)))
    }
}
