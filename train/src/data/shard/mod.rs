//! The shard directory: documents as token ids with a loss mask, and their images, ready to be mapped into memory.
//!
//! [`ShardWriter`] builds one under a temporary name and renames it when it is complete. [`ShardReader`] maps it
//! read-only and checks what it reads the first time it reads it, so opening a large shard costs nothing and a
//! damaged one is never trained on. `docs/formats.md` specifies the files.

mod error;
mod manifest;
mod mask;
mod reader;
mod region;
mod writer;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use bytemuck::{Pod, Zeroable};

pub use error::ShardError;
pub use manifest::{Counts, FORMAT, FileEntry, Manifest, SourceFile, VERSION};
pub use mask::LossMask;
pub use reader::{SampleView, ShardReader};
pub use writer::{ImageBlob, Sample, ShardMeta, ShardWriter};

#[cfg(target_endian = "big")]
compile_error!("shards are little-endian and are mapped without conversion");

/// Bytes covered by one checksum.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// Token ids, u32 each.
pub const TOKENS: &str = "tokens.bin";
/// One bit per token: is it a prediction target?
pub const LOSS: &str = "loss.bin";
/// One [`SampleRecord`] per document.
pub const SAMPLES: &str = "samples.bin";
/// The image ids of all documents one after the other, u32 each.
pub const IMAGE_USES: &str = "image_uses.bin";
/// One [`ImageRecord`] per distinct image.
pub const IMAGE_INDEX: &str = "image_index.bin";
/// The names of the images one after the other, UTF-8.
pub const IMAGE_NAMES: &str = "image_names.bin";
/// The encoded images one after the other, exactly as they were found.
pub const IMAGES: &str = "images.bin";
/// CRC32C of every block of the six index files, in the order of [`CHECKED`].
pub const CHECKSUMS: &str = "checksums.bin";
/// The tokenizer, where the writer knew it: for showing documents as text.
pub const TOKENIZER: &str = "tokenizer.json";
/// The files with block checksums. Images have a checksum each instead.
pub const CHECKED: [&str; 6] = [TOKENS, LOSS, SAMPLES, IMAGE_USES, IMAGE_INDEX, IMAGE_NAMES];

/// Index of a distinct image within its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct ImageId(pub u32);

/// One document, as stored in `samples.bin` (40 bytes, little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SampleRecord {
    /// Index of the first token in `tokens.bin` (in tokens) and in `loss.bin` (in bits).
    pub token_offset: u64,
    /// Index of the first image in `image_uses.bin` (in entries).
    pub image_offset: u64,
    /// Line (or array element) of the source the document came from, counted from 1.
    pub source_line: u64,
    /// Number of tokens, each image counting as one.
    pub token_count: u32,
    /// Number of images.
    pub image_count: u32,
    /// Number of tokens that are prediction targets.
    pub target_count: u32,
    /// Index into the manifest's `sources`.
    pub source: u32,
}

/// One distinct image, as stored in `image_index.bin` (40 bytes, little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ImageRecord {
    /// Offset in `images.bin` in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Offset of the name in `image_names.bin` in bytes.
    pub name_offset: u64,
    /// Length of the name in bytes.
    pub name_length: u32,
    /// CRC32C of the encoded bytes.
    pub crc32c: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}
