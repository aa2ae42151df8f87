//! What can go wrong with an image file or with a processor configuration.

use std::io;
use std::path::PathBuf;

use super::decode::ImageFormat;

/// An image that cannot be used. Every variant carries the name the caller gave it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read at all.
    #[error("image {name}: cannot be read: {source}")]
    Read {
        /// Name of the image.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("image {name}: the file is empty; fetch or write it again")]
    Empty {
        /// Name of the image.
        name: String,
    },
    /// The first bytes belong to none of the formats that are read.
    #[error(
        "image {name}: not a PNG, JPEG, GIF or WebP file (it starts with {start}); the content decides, not the file name: convert it to \
         one of these formats"
    )]
    UnknownFormat {
        /// Name of the image.
        name: String,
        /// The first bytes, in hexadecimal.
        start: String,
    },
    /// The file ends before its own structure says it should.
    #[error("image {name}: the {format} file is cut short after {bytes} bytes ({missing}); fetch or copy it again")]
    Truncated {
        /// Name of the image.
        name: String,
        /// Format given by the first bytes.
        format: ImageFormat,
        /// Length of what there is.
        bytes: usize,
        /// What should have followed.
        missing: &'static str,
    },
    /// The file is complete but its content contradicts itself.
    #[error("image {name}: the {format} file is damaged: {reason}; replace it or remove it from the data")]
    Corrupt {
        /// Name of the image.
        name: String,
        /// Format given by the first bytes.
        format: ImageFormat,
        /// What the decoder said.
        reason: String,
    },
    /// More pixels than a decoder should be trusted with.
    #[error(
        "image {name}: {width} x {height} pixels are more than the limit of {limit}; this may be a decompression bomb: scale the image \
         down if it is genuine"
    )]
    TooLarge {
        /// Name of the image.
        name: String,
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Largest accepted product of the two.
        limit: u64,
    },
}

/// A `preprocessor_config.json` that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}; a vision tower needs its preprocessor_config.json", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("{file}: not valid JSON: {source}; restore the file from where the model came from")]
    Json {
        /// Name of the file.
        file: String,
        /// Where and why the parser stopped.
        source: serde_json::Error,
    },
    /// A field is absent, has the wrong type, or asks for something that is not supported.
    #[error("{file}: field `{field}`: {problem}; {cure}")]
    Field {
        /// Name of the file.
        file: String,
        /// Dotted path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        cure: &'static str,
    },
}
