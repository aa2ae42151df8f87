//! From PTX text to declarations and statements whose names are not resolved yet.

mod ast;
mod lexer;
mod parser;

pub(crate) use ast::*;
pub(crate) use parser::parse;

/// A text that is not PTX as this crate understands it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}
