//! Reading a shard directory.

mod verify;

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::error::{ShardError, io_at};
use super::manifest::{Counts, Manifest};
use super::mask::LossMask;
use super::region::{CheckedRegion, Mapped};
use super::{
    BLOCK_BYTES, CHECKED, CHECKSUMS, IMAGE_INDEX, IMAGE_NAMES, IMAGE_USES, IMAGES, ImageId, ImageRecord, LOSS,
    MANIFEST, SAMPLES, SampleRecord, TOKENIZER, TOKENS,
};
use crate::data::tokens::{IMAGE_PLACEHOLDER, hex};

/// A shard directory mapped into memory. Cheap to open, safe to share between threads.
pub struct ShardReader {
    dir: PathBuf,
    manifest: Manifest,
    tokens: CheckedRegion,
    loss: CheckedRegion,
    samples: CheckedRegion,
    image_uses: CheckedRegion,
    image_index: CheckedRegion,
    image_names: CheckedRegion,
    images: Mapped,
    good_images: Vec<AtomicBool>,
}

/// One document of a shard.
#[derive(Debug, Clone, Copy)]
pub struct SampleView<'a> {
    /// Token ids, [`IMAGE_PLACEHOLDER`] where an image goes.
    pub tokens: &'a [u32],
    /// Which tokens are prediction targets.
    pub loss: LossMask<'a>,
    /// The images in the order of their placeholders.
    pub images: &'a [ImageId],
    /// The record this view came from.
    pub record: SampleRecord,
}

impl ShardReader {
    /// Opens a shard: reads the manifest, checks that every file is there at full length, and maps the files.
    ///
    /// # Errors
    /// See [`ShardError`]; the content itself is checked when it is first read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ShardError> {
        let dir = dir.as_ref().to_owned();
        let manifest = Manifest::read(&dir)?;
        let absurd = |field: &str| ShardError::Manifest {
            path: dir.join(MANIFEST),
            field: field.to_owned(),
            problem: "is impossibly large".to_owned(),
        };
        let lengths = manifest.counts.lengths().ok_or_else(|| absurd("counts"))?;
        let mapped = |name: &str| {
            let (file, field, bytes) = lengths.iter().find(|(file, ..)| *file == name).ok_or_else(|| absurd(name))?;
            Mapped::open(dir.join(file), field, *bytes)
        };
        let [tokens, loss, samples, image_uses, image_index, image_names] =
            [TOKENS, LOSS, SAMPLES, IMAGE_USES, IMAGE_INDEX, IMAGE_NAMES].map(mapped);
        let (tokens, loss, samples) = (tokens?, loss?, samples?);
        let (image_uses, image_index, image_names) = (image_uses?, image_index?, image_names?);
        let images = mapped(IMAGES)?;
        // After the files they cover, so that a file of the wrong length is named itself.
        let checksums = Checksums::read(&dir, &manifest, &lengths)?;
        let checked = |file: Mapped, name: &str| CheckedRegion::new(file, checksums.of(name));
        Ok(Self {
            tokens: checked(tokens, TOKENS),
            loss: checked(loss, LOSS),
            samples: checked(samples, SAMPLES),
            image_uses: checked(image_uses, IMAGE_USES),
            image_index: checked(image_index, IMAGE_INDEX),
            image_names: checked(image_names, IMAGE_NAMES),
            images,
            good_images: (0..manifest.counts.images).map(|_| AtomicBool::new(false)).collect(),
            dir,
            manifest,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How much the shard holds.
    pub fn counts(&self) -> Counts {
        self.manifest.counts
    }

    /// Number of documents.
    pub fn len(&self) -> u64 {
        self.manifest.counts.samples
    }

    /// Has the shard no documents?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses a shard that another tokenizer made.
    ///
    /// # Errors
    /// [`ShardError::Tokenizer`].
    pub fn check_tokenizer(&self, fingerprint: &str) -> Result<(), ShardError> {
        if self.manifest.tokenizer == fingerprint {
            return Ok(());
        }
        Err(ShardError::Tokenizer {
            path: self.dir.join(MANIFEST),
            shard: self.manifest.tokenizer.clone(),
            model: fingerprint.to_owned(),
        })
    }

    /// The `tokenizer.json` stored with the documents, if there is one.
    ///
    /// # Errors
    /// It is missing although the manifest lists it, or it is damaged.
    pub fn tokenizer_json(&self) -> Result<Option<Vec<u8>>, ShardError> {
        let Some(entry) = self.manifest.files.get(TOKENIZER) else {
            return Ok(None);
        };
        let path = self.dir.join(TOKENIZER);
        let found = hash_file(&path)?;
        if found != entry.sha256 {
            return Err(ShardError::Hash { path, expected: entry.sha256.clone(), found });
        }
        fs::read(&path).map(Some).map_err(io_at(&path, "read it"))
    }

    /// The record of document `index`: lengths and counts without touching its tokens.
    ///
    /// # Errors
    /// There is no such document, or its record is damaged or points outside the shard.
    pub fn record(&self, index: u64) -> Result<SampleRecord, ShardError> {
        let record: SampleRecord = self.entry(&self.samples, "sample", index, self.len())?;
        let counts = &self.manifest.counts;
        let fault = |field, problem: &str| self.fault(&self.samples, index, field, problem.to_owned());
        if record.token_count == 0 {
            return Err(fault("token_count", "is 0"));
        }
        if end_of(record.token_offset, record.token_count) > counts.tokens {
            return Err(fault("token_offset", "leaves tokens.bin"));
        }
        if end_of(record.image_offset, record.image_count) > counts.image_uses {
            return Err(fault("image_offset", "leaves image_uses.bin"));
        }
        if record.target_count > record.token_count {
            return Err(fault("target_count", "is more than the tokens"));
        }
        if record.source as usize >= self.manifest.sources.len() {
            return Err(fault("source", "is not in the manifest"));
        }
        Ok(record)
    }

    /// Document `index`.
    ///
    /// # Errors
    /// As [`ShardReader::record`], and if tokens, loss bits and images do not agree with the record.
    pub fn sample(&self, index: u64) -> Result<SampleView<'_>, ShardError> {
        let record = self.record(index)?;
        let outside = |field| self.fault(&self.samples, index, field, "leaves its file".to_owned());
        let token_end = end_of(record.token_offset, record.token_count);
        let tokens: &[u32] = self
            .tokens
            .read(record.token_offset * 4..token_end * 4)?
            .and_then(entries)
            .ok_or_else(|| outside("token_offset"))?;
        let images: &[ImageId] = self
            .image_uses
            .read(record.image_offset * 4..end_of(record.image_offset, record.image_count) * 4)?
            .and_then(entries)
            .ok_or_else(|| outside("image_offset"))?;
        let loss = self
            .loss
            .read(record.token_offset / 8..token_end.div_ceil(8))?
            .and_then(|bytes| LossMask::new(bytes, (record.token_offset % 8) as usize, tokens.len()))
            .ok_or_else(|| outside("token_offset"))?;
        let view = SampleView { tokens, loss, images, record };
        self.check_sample(index, &view)?;
        Ok(view)
    }

    fn check_sample(&self, index: u64, view: &SampleView<'_>) -> Result<(), ShardError> {
        let fault = |field, problem| Err(self.fault(&self.samples, index, field, problem));
        let placeholders = view.tokens.iter().filter(|&&token| token == IMAGE_PLACEHOLDER).count();
        if placeholders != view.images.len() {
            return fault(
                "image_count",
                format!("is {}, the tokens have {placeholders} placeholders", view.images.len()),
            );
        }
        let targets = view.loss.count();
        if targets != view.record.target_count as usize {
            return fault("target_count", format!("is {}, {targets} loss bits are set", view.record.target_count));
        }
        let learned = |(token, target): (&u32, bool)| target && *token == IMAGE_PLACEHOLDER;
        if view.tokens.iter().zip(view.loss.iter()).any(learned) {
            return fault("target_count", "counts an image, which is never a target".to_owned());
        }
        match view.images.iter().find(|image| u64::from(image.0) >= self.manifest.counts.images) {
            Some(image) => {
                fault("images", format!("image {} of {} does not exist", image.0, self.manifest.counts.images))
            }
            None => Ok(()),
        }
    }

    /// The record of an image: its size in bytes and pixels.
    ///
    /// # Errors
    /// There is no such image, or its record is damaged or points outside the shard.
    pub fn image_record(&self, image: ImageId) -> Result<ImageRecord, ShardError> {
        let index = u64::from(image.0);
        let record: ImageRecord = self.entry(&self.image_index, "image", index, self.manifest.counts.images)?;
        let fits = |offset: u64, length: u64, limit: u64| offset.checked_add(length).is_some_and(|end| end <= limit);
        if !fits(record.offset, record.length, self.manifest.counts.image_bytes) {
            return Err(self.fault(&self.image_index, index, "offset", "leaves images.bin".to_owned()));
        }
        if !fits(record.name_offset, record.name_length.into(), self.manifest.counts.name_bytes) {
            return Err(self.fault(&self.image_index, index, "name_offset", "leaves image_names.bin".to_owned()));
        }
        Ok(record)
    }

    /// The encoded bytes of an image, as they were found.
    ///
    /// # Errors
    /// As [`ShardReader::image_record`], and if the bytes do not match their checksum.
    pub fn image(&self, image: ImageId) -> Result<&[u8], ShardError> {
        let record = self.image_record(image)?;
        let bytes = self.image_bytes(image, &record)?;
        let good = self.good_images.get(image.0 as usize);
        if good.is_some_and(|good| good.load(Ordering::Relaxed)) {
            return Ok(bytes);
        }
        self.check_image(&record, bytes)?;
        if let Some(good) = good {
            good.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    fn image_bytes(&self, image: ImageId, record: &ImageRecord) -> Result<&[u8], ShardError> {
        let start = record.offset as usize;
        self.images
            .bytes()
            .get(start..start + record.length as usize)
            .ok_or_else(|| self.fault(&self.image_index, image.0.into(), "offset", "leaves images.bin".to_owned()))
    }

    fn check_image(&self, record: &ImageRecord, bytes: &[u8]) -> Result<(), ShardError> {
        let found = crc32c::crc32c(bytes);
        if found == record.crc32c {
            return Ok(());
        }
        Err(ShardError::Damaged {
            path: self.images.path().to_owned(),
            start: record.offset,
            end: record.offset + record.length,
            expected: record.crc32c,
            found,
        })
    }

    /// The name an image had where it came from.
    ///
    /// # Errors
    /// As [`ShardReader::image_record`], and if the name is not UTF-8.
    pub fn image_name(&self, image: ImageId) -> Result<&str, ShardError> {
        let record = self.image_record(image)?;
        let range = record.name_offset..record.name_offset + u64::from(record.name_length);
        self.image_names
            .read(range)?
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or_else(|| self.fault(&self.image_names, image.0.into(), "name", "is not UTF-8".to_owned()))
    }

    /// The first document with a token of at least `bound` that is no image, and that token.
    ///
    /// # Errors
    /// Damaged records or tokens.
    pub fn token_from(&self, bound: usize) -> Result<Option<(u64, u32)>, ShardError> {
        if self.manifest.largest_token.is_some_and(|largest| (largest as usize) < bound) {
            return Ok(None);
        }
        let beyond = |token: &u32| *token as usize >= bound && *token != IMAGE_PLACEHOLDER;
        let found = (0..self.len()).into_par_iter().map(|index| {
            let token = self.sample(index)?.tokens.iter().copied().find(beyond);
            Ok(token.map(|token| (index, token)))
        });
        found.find_first(|found: &Result<_, ShardError>| !matches!(found, Ok(None))).unwrap_or(Ok(None))
    }

    /// Where a document came from: file and line.
    pub fn origin(&self, record: &SampleRecord) -> String {
        let source = self.manifest.sources.get(record.source as usize).map_or("unknown source", |source| &source.path);
        format!("{source}:{}", record.source_line)
    }

    /// Record `index` of a file of fixed-size records.
    fn entry<T: bytemuck::Pod>(
        &self,
        file: &CheckedRegion,
        what: &'static str,
        index: u64,
        count: u64,
    ) -> Result<T, ShardError> {
        if index >= count {
            return Err(ShardError::OutOfRange { dir: self.dir.clone(), what, index, count });
        }
        let size = size_of::<T>() as u64;
        match file.read(index * size..(index + 1) * size)? {
            Some(bytes) => Ok(bytemuck::pod_read_unaligned(bytes)),
            None => Err(self.fault(file, index, "offset", "leaves its file".to_owned())),
        }
    }

    fn fault(&self, file: &CheckedRegion, index: u64, field: &'static str, problem: String) -> ShardError {
        ShardError::Record { path: file.path().to_owned(), index, field, problem }
    }
}

/// Bytes as entries of a fixed size. No bytes are no entries, wherever they lie.
fn entries<T: bytemuck::Pod>(bytes: &[u8]) -> Option<&[T]> {
    if bytes.is_empty() { Some(&[]) } else { bytemuck::try_cast_slice(bytes).ok() }
}

/// End of a run of entries; saturates, so that an absurd offset is beyond every limit.
fn end_of(offset: u64, count: u32) -> u64 {
    offset.saturating_add(u64::from(count))
}

fn hash_file(path: &Path) -> Result<String, ShardError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ShardError::MissingFile { path: path.to_owned() });
        }
        Err(error) => return Err(io_at(path, "open it")(error)),
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut buffer).map_err(io_at(path, "read it"))? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// The content of `checksums.bin` and which part of it belongs to which file.
struct Checksums {
    values: Vec<u32>,
    ranges: Vec<(&'static str, Range<usize>)>,
}

impl Checksums {
    fn read(
        dir: &Path,
        manifest: &Manifest,
        lengths: &[(&'static str, &'static str, u64)],
    ) -> Result<Self, ShardError> {
        let mut ranges = Vec::with_capacity(CHECKED.len());
        let mut blocks = 0;
        for name in CHECKED {
            let bytes = lengths.iter().find(|(file, ..)| *file == name).map_or(0, |&(.., bytes)| bytes);
            let count = bytes.div_ceil(BLOCK_BYTES as u64) as usize;
            ranges.push((name, blocks..blocks + count));
            blocks += count;
        }
        let file = Mapped::open(dir.join(CHECKSUMS), "counts", blocks as u64 * 4)?;
        let expected = manifest.files.get(CHECKSUMS).map(|entry| entry.sha256.clone()).unwrap_or_default();
        let found = hex(&Sha256::digest(file.bytes()));
        if found != expected {
            return Err(ShardError::Hash { path: file.path().to_owned(), expected, found });
        }
        let words = file.bytes().chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        Ok(Self { values: words.collect(), ranges })
    }

    fn of(&self, name: &str) -> &[u32] {
        let range = self.ranges.iter().find(|(file, _)| *file == name).map(|(_, range)| range.clone());
        range.and_then(|range| self.values.get(range)).unwrap_or_default()
    }
}
