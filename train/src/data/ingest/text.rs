//! Plain text: an object each.

use serde::Deserialize;

use super::document::Document;
use super::error::Problem;
use super::mmc4::neutralise;

/// The fields that matter of one record; one of the two must be there.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    text: Option<String>,
    text_list: Option<Vec<String>>,
}

/// The text, or the sentences joined by spaces; all of it is learned.
pub(super) fn document(record: Record) -> Result<Document, Problem> {
    let text = match (record.text, record.text_list) {
        (Some(text), None) => text,
        (None, Some(sentences)) => sentences.join(" "),
        (Some(_), Some(_)) => return Err(Problem::TwoFields { fields: ["text", "text_list"] }),
        (None, None) => return Err(Problem::missing("`text` (or `text_list`)")),
    };
    if text.trim().is_empty() {
        return Err(Problem::Empty);
    }
    Ok(Document::all_trained(neutralise(&text), Vec::new()))
}
