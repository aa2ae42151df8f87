//! Training data: corpora in public formats are ingested once into shard directories, which training then maps into
//! memory.
//!
//! * [`ingest`] reads MMC4, image-text pairs, LLaVA conversations and plain text, tokenises them and stores documents
//!   with a loss mask. Each image is one placeholder token, so a shard does not depend on resolution or projector.
//! * [`shard`] is the directory on disk; `docs/formats.md` specifies every byte.
//! * [`template`] renders conversations.
//! * [`cli`] is what `vila data ...` prints.

pub mod cli;
pub mod ingest;
pub mod shard;
pub mod tokens;
mod vila_tokenizer;

pub use vila_model::template;
pub use vila_tokenizer::IngestTokenizer;
