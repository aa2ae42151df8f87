//! Train.
pub mod data;
pub mod toy;
