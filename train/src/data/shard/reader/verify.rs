//! Everything that `docs/formats.md` says of a shard, checked.

use std::collections::BTreeSet;
use std::fs;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    CHECKED, CHECKSUMS, IMAGE_PLACEHOLDER, IMAGES, ImageId, MANIFEST, SampleRecord, ShardError, ShardReader, TOKENIZER,
    hash_file, io_at,
};

/// Totals of the sample records so far.
#[derive(Default)]
struct Totals {
    tokens: u64,
    uses: u64,
    targets: u64,
    /// Source and line of the document before.
    origin: (u32, u64),
}

impl ShardReader {
    /// Reads everything and checks every hash, checksum, record and cross reference.
    ///
    /// # Errors
    /// The first fault found.
    pub fn verify(&self) -> Result<(), ShardError> {
        for region in [&self.tokens, &self.loss, &self.samples, &self.image_uses, &self.image_index, &self.image_names]
        {
            region.check_all()?;
        }
        self.check_files()?;
        self.check_images()?;
        (0..self.len()).into_par_iter().try_for_each(|index| self.sample(index).map(drop))?;
        self.check_records()?;
        self.check_spare_bits()?;
        self.check_largest_token()?;
        self.manifest.files.par_iter().try_for_each(|(name, entry)| {
            let path = self.dir.join(name);
            let found = hash_file(&path)?;
            if found == entry.sha256 {
                return Ok(());
            }
            Err(ShardError::Hash { path, expected: entry.sha256.clone(), found })
        })
    }

    /// Does the manifest list the files that are there, and no others, at their lengths?
    fn check_files(&self) -> Result<(), ShardError> {
        let mut known: BTreeSet<&str> = CHECKED.into_iter().chain([IMAGES, CHECKSUMS]).collect();
        if let Some(name) = known.iter().find(|name| !self.manifest.files.contains_key(**name)) {
            return Err(self.manifest_fault("files", format!("does not list {name}")));
        }
        known.insert(TOKENIZER);
        for (name, entry) in &self.manifest.files {
            if !known.contains(name.as_str()) {
                return Err(
                    self.manifest_fault("files", format!("lists `{}`, which no shard has", name.escape_debug()))
                );
            }
            let path = self.dir.join(name);
            let found = match fs::metadata(&path) {
                Ok(data) => data.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(ShardError::MissingFile { path });
                }
                Err(error) => return Err(io_at(&path, "read its length")(error)),
            };
            if found != entry.bytes {
                return Err(ShardError::Length { path, field: "files", expected: entry.bytes, found });
            }
        }
        let listed = |name: &str| name == MANIFEST || self.manifest.files.contains_key(name);
        for entry in fs::read_dir(&self.dir).map_err(io_at(&self.dir, "list it"))? {
            let name = entry.map_err(io_at(&self.dir, "list it"))?.file_name();
            if !name.to_str().is_some_and(listed) {
                let name = name.to_string_lossy().escape_debug().to_string();
                return Err(self.manifest_fault("files", format!("does not list `{name}`, which is in the directory")));
            }
        }
        match self.manifest.files.get(TOKENIZER) {
            Some(entry) if entry.sha256 != self.manifest.tokenizer => {
                Err(self.manifest_fault("tokenizer", "is not the SHA-256 of tokenizer.json".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Are images and names whole, one after the other, and no image there twice?
    fn check_images(&self) -> Result<(), ShardError> {
        let hashes = (0..self.manifest.counts.images).into_par_iter().map(|index| {
            let image = ImageId(index as u32);
            let record = self.image_record(image)?;
            let bytes = self.image_bytes(image, &record)?;
            self.check_image(&record, bytes)?;
            self.image_name(image)?;
            Ok(<[u8; 32]>::from(Sha256::digest(bytes)))
        });
        let hashes = hashes.collect::<Result<Vec<_>, ShardError>>()?;
        let (mut bytes, mut names, mut seen) = (0, 0, BTreeSet::new());
        for (index, hash) in (0..).zip(hashes) {
            let record = self.image_record(ImageId(index))?;
            let fault =
                |field, problem: &str| Err(self.fault(&self.image_index, index.into(), field, problem.to_owned()));
            if record.offset != bytes {
                return fault("offset", "does not follow the image before");
            }
            if record.name_offset != names {
                return fault("name_offset", "does not follow the name before");
            }
            if record.length == 0 {
                return fault("length", "is 0");
            }
            if record.width == 0 || record.height == 0 {
                return fault("width", "or height is 0");
            }
            if !seen.insert(hash) {
                return fault("offset", "points to an image that is there before; each is stored once");
            }
            bytes += record.length;
            names += u64::from(record.name_length);
        }
        let counts = &self.manifest.counts;
        self.check_total("counts.image_bytes", counts.image_bytes, bytes)?;
        self.check_total("counts.name_bytes", counts.name_bytes, names)
    }

    /// Do the records follow each other without gap or overlap, in the order of their sources, and add up to the totals?
    fn check_records(&self) -> Result<(), ShardError> {
        let mut totals = Totals::default();
        for index in 0..self.len() {
            let record = self.record(index)?;
            self.check_record(index, &record, &totals)?;
            totals.tokens += u64::from(record.token_count);
            totals.uses += u64::from(record.image_count);
            totals.targets += u64::from(record.target_count);
            totals.origin = (record.source, record.source_line);
        }
        let counts = &self.manifest.counts;
        self.check_total("counts.tokens", counts.tokens, totals.tokens)?;
        self.check_total("counts.image_uses", counts.image_uses, totals.uses)?;
        self.check_total("counts.targets", counts.targets, totals.targets)
    }

    fn check_record(&self, index: u64, record: &SampleRecord, before: &Totals) -> Result<(), ShardError> {
        let fault = |field, problem: &str| Err(self.fault(&self.samples, index, field, problem.to_owned()));
        if record.token_offset != before.tokens {
            return fault("token_offset", "does not follow the record before");
        }
        if record.image_offset != before.uses {
            return fault("image_offset", "does not follow the record before");
        }
        if record.source_line == 0 {
            return fault("source_line", "is 0; lines count from 1");
        }
        if (record.source, record.source_line) < before.origin {
            return fault("source_line", "lies before that of the document before");
        }
        Ok(())
    }

    /// Are the bits after the last token 0?
    fn check_spare_bits(&self) -> Result<(), ShardError> {
        let tokens = self.manifest.counts.tokens;
        let spare = (8 - tokens % 8) % 8;
        let last = (tokens / 8)..tokens.div_ceil(8);
        let byte = self.loss.read(last)?.and_then(|bytes| bytes.first().copied()).unwrap_or(0);
        if spare > 0 && byte >> (8 - spare) != 0 {
            return Err(self.fault(&self.loss, tokens, "bit", "is set, but there is no such token".to_owned()));
        }
        Ok(())
    }

    fn check_largest_token(&self) -> Result<(), ShardError> {
        let Some(said) = self.manifest.largest_token else { return Ok(()) };
        let largest = (0..self.len()).into_par_iter().map(|index| {
            let tokens = self.sample(index)?.tokens.iter().copied();
            Ok(tokens.filter(|&token| token != IMAGE_PLACEHOLDER).max())
        });
        let largest = largest.try_reduce(|| None, |a, b| Ok(a.max(b)))?;
        match largest == Some(said) {
            true => Ok(()),
            false => Err(self.manifest_fault("largest_token", format!("is {said}, the tokens have {largest:?}"))),
        }
    }

    fn check_total(&self, field: &str, recorded: u64, found: u64) -> Result<(), ShardError> {
        match recorded == found {
            true => Ok(()),
            false => Err(self.manifest_fault(field, format!("is {recorded}, the records add up to {found}"))),
        }
    }

    fn manifest_fault(&self, field: &str, problem: String) -> ShardError {
        ShardError::Manifest { path: self.dir.join(MANIFEST), field: field.to_owned(), problem }
    }
}
