//! The VILA model: vision tower, projector, Llama; weights, images, tokens, generation.
//!
//! Load a checkpoint directory with [`Vila::load`], prompt it with [`generate`] or score continuations
//! with [`score`]. Training runs [`VilaModel::loss`] on a tape.

// Files are moved, replaced and removed by `vila_files` alone.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod batch;
pub mod config;
pub mod convert;
mod error;
pub mod expert;
mod finite;
mod generate;
pub mod image;
mod llama;
mod llava;
mod loaded;
pub mod lora;
mod pickle;
mod projector;
mod rope;
mod save;
mod score;
mod sentencepiece;
pub mod template;
pub mod tokenizer;
mod tokenizer_json;
pub mod torch_file;
pub mod turns;
mod vila;
mod vision;
mod weight_files;
pub mod weights;
mod zip;

pub use batch::{Document, Images, PackedBatch};
pub use config::VilaConfig;
pub use error::{Error, Result};
pub use generate::{
    Draw, FinishReason, GenerateOptions, Generation, Generator, Parts, Prompt, Token, TokenBatch, Tokens, generate,
    generate_ids,
};
pub use loaded::{Start, StartTower, Vila};
pub use score::{Score, score, score_all, score_ids};
pub use vila::VilaModel;
