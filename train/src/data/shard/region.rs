//! A file mapped read-only, checked block by block when first read.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use vila_files::Map;

use super::BLOCK_BYTES;
use super::error::{ShardError, io_at};

/// The bytes of one file of a shard.
pub(super) struct Mapped {
    path: PathBuf,
    map: Map,
}

impl Mapped {
    /// Maps a file that must be `expected` bytes long, as the manifest's `field` demands.
    pub(super) fn open(path: PathBuf, field: &'static str, expected: u64) -> Result<Self, ShardError> {
        let map = match vila_files::map(&path) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ShardError::MissingFile { path }),
            Err(error) => return Err(io_at(&path, "map it into memory")(error)),
        };
        let found = map.len() as u64;
        if found != expected {
            return Err(ShardError::Length { path, field, expected, found });
        }
        Ok(Self { path, map })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// A mapped file with a CRC32C per [`BLOCK_BYTES`].
pub(super) struct CheckedRegion {
    file: Mapped,
    blocks: Vec<Block>,
}

struct Block {
    crc32c: u32,
    good: AtomicBool,
}

impl CheckedRegion {
    /// `checksums` must hold one value per block; the caller has cut them to size.
    pub(super) fn new(file: Mapped, checksums: &[u32]) -> Self {
        let blocks = checksums.iter().map(|&crc32c| Block { crc32c, good: AtomicBool::new(false) }).collect();
        Self { file, blocks }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The bytes of `range`, after checking the blocks they lie in; `None` if the range leaves the file.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Option<&[u8]>, ShardError> {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Ok(None);
        };
        let Some(bytes) = self.file.bytes().get(start..end) else {
            return Ok(None);
        };
        if !bytes.is_empty() {
            for block in start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
                self.check(block)?;
            }
        }
        Ok(Some(bytes))
    }

    /// Checks every block, whether it was read before or not.
    pub(super) fn check_all(&self) -> Result<(), ShardError> {
        (0..self.blocks.len()).try_for_each(|block| self.recheck(block))
    }

    fn check(&self, index: usize) -> Result<(), ShardError> {
        // Relaxed: the flag guards no other memory; at worst two threads check the same block.
        if self.blocks.get(index).is_some_and(|block| block.good.load(Ordering::Relaxed)) {
            return Ok(());
        }
        self.recheck(index)
    }

    fn recheck(&self, index: usize) -> Result<(), ShardError> {
        let start = index * BLOCK_BYTES;
        let end = (start + BLOCK_BYTES).min(self.file.bytes().len());
        let found = crc32c::crc32c(&self.file.bytes()[start..end]);
        match self.blocks.get(index) {
            Some(block) if block.crc32c == found => {
                block.good.store(true, Ordering::Relaxed);
                Ok(())
            }
            block => Err(ShardError::Damaged {
                path: self.path().to_owned(),
                start: start as u64,
                end: end as u64,
                expected: block.map_or(0, |block| block.crc32c),
                found,
            }),
        }
    }
}
