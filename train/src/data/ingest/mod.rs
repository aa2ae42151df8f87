//! From corpora in public formats to a shard.
//!
//! Each format turns one record into [`document::Document`]s: text with `<image>` marks, the byte ranges that are
//! learned, and the files of the images. Everything after that is common: tokens of which every prompt is the beginning,
//! the loss mask, strict decoding of every image, and the order of the source.

mod document;
mod encode;
mod error;
#[cfg(test)]
mod fuzz;
mod images;
mod llava;
mod media;
mod mmc4;
mod options;
mod pairs;
mod run;
mod text;

pub use document::{Document, DocumentEnd};
pub(crate) use encode::fitting;
pub use encode::{Encoded, encode_document};
pub(crate) use error::{CUT_LEAVES_NO_ANSWER, TOO_LONG};
pub use error::{IngestError, Offender, Place, Problem};
pub use options::{Format, FormatOptions, IngestOptions, Layout, LossScope, OnError, OptionError, TokenLimit, TooLong};
pub use run::{IngestReport, cache_key, ingest, ingest_cached};
pub(crate) use run::{cached, is_partial};
