//! Image-text pairs: one JSON object a line.

use serde::Deserialize;

use super::super::tokens::IMAGE_MARK;
use super::document::Document;
use super::error::Problem;
use super::mmc4::neutralise;

/// The fields that matter of one line.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    image: String,
    #[serde(alias = "caption")]
    text: String,
}

/// The image, then its text; all text is learned.
pub(super) fn document(record: Record) -> Result<Document, Problem> {
    if record.text.trim().is_empty() {
        return Err(Problem::Empty);
    }
    let text = format!("{IMAGE_MARK}{}", neutralise(&record.text));
    Ok(Document::all_trained(text, vec![record.image]))
}
