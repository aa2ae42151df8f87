//! The toy world: real handwritten digits, written out as ordinary corpora in the public formats.
//!
//! 1,797 digits by 13 people, of which the last 400 are held out, become interleaved documents, image-text pairs,
//! conversations and text; a word-level tokenizer is trained on them, and evaluation files ask about the held-out
//! digits. The files are ingested by the same code as any other corpus, so a run on them exercises the whole program
//! in minutes.
//!
//! Everything is a function of the seed: document `i` of a file depends on nothing but the seed, the file and `i`.

mod augment;
mod corpus;
mod digits;
mod documents;
mod error;
mod evaluation;
mod folder;
mod rng;
mod sentences;
mod tokenizer;
mod words;

pub use corpus::{CorpusOptions, CorpusReport, write_corpus, write_worded_text};
pub use digits::{Digits, HELD_OUT, TRAIN, Tile};
pub use error::ToyError;
pub(crate) use folder::{WorldFolder, WorldState};
pub use rng::Rng;
pub use tokenizer::train_tokenizer;
