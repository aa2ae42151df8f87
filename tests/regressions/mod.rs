//! A test for each mended fault, named after it.

mod data;
mod files;
mod limits;
mod prompts;
mod ranks;
mod settings;
mod small;
mod startup;
