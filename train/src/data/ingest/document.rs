//! A document between its source format and its tokens.

use std::ops::Range;

use super::error::Problem;

/// One training document: text with an `<image>` mark for each image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The text, without the tokens that begin and end a document.
    pub text: String,
    /// Byte ranges of `text` whose tokens are prediction targets, in order; each begins where a prompt would end. Image
    /// marks inside are not.
    pub trained: Vec<Range<usize>>,
    /// What follows the text.
    pub end: DocumentEnd,
    /// Image files in the order of their marks, as the source names them.
    pub images: Vec<String>,
}

/// What follows the text of a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DocumentEnd {
    /// Nothing: the text contains its own end.
    #[default]
    Open,
    /// The end-of-sequence token, given.
    Closed,
    /// The end-of-sequence token, to be predicted.
    ClosedAndTrained,
}

/// What became of a record.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Its documents, or why they cannot be used.
    pub(super) documents: Vec<Result<Document, Problem>>,
    /// What was left out without being a fault: the keys under which it is counted.
    pub(super) notes: Vec<&'static str>,
}

impl From<Document> for Parsed {
    fn from(document: Document) -> Self {
        Self { documents: vec![Ok(document)], notes: Vec::new() }
    }
}

impl Document {
    /// A document whose whole text and end are learned.
    pub fn all_trained(text: String, images: Vec<String>) -> Self {
        let whole = 0..text.len();
        Self { text, trained: vec![whole], end: DocumentEnd::ClosedAndTrained, images }
    }
}
