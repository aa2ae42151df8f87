//! Plain text: one JSON object a line.

use serde::Deserialize;
use serde::de::Error;

use super::document::Document;
use super::error::Problem;
use super::mmc4::neutralise;

/// The fields that matter of one line; one of the two must be there.
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
        _ => return Err(serde_json::Error::custom("one of `text` and `text_list` is needed").into()),
    };
    if text.trim().is_empty() {
        return Err(Problem::Empty);
    }
    Ok(Document::all_trained(neutralise(&text), Vec::new()))
}
