//! The tape's nodes: one file per op, each with the list of what it keeps.

mod add;
mod attention;
mod dropout;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod low_rank;
mod rms_norm;
mod rope;
mod rows;
mod swiglu;
mod vision_embed;

pub use low_rank::LowRank;
