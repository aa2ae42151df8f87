//! Image-text pairs: an object each.

use serde::Deserialize;

use super::super::tokens::IMAGE_MARK;
use super::document::Document;
use super::error::Problem;
use super::media::Names;
use super::mmc4::neutralise;

/// The fields that matter of one record.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    image: Option<Names>,
    images: Option<Names>,
    text: Option<String>,
    caption: Option<String>,
}

/// The image, then its text; all text is learned.
pub(super) fn document(record: Record) -> Result<Document, Problem> {
    let images = Names::of(record.image, record.images)?;
    let text = match (record.text, record.caption) {
        (Some(text), Some(caption)) if text != caption => {
            return Err(Problem::TwoFields { fields: ["text", "caption"] });
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) => return Err(Problem::missing("`text` (or `caption`)")),
    };
    if images.is_empty() {
        return Err(Problem::missing("`image`"));
    }
    if images.len() > 1 {
        return Err(Problem::NotAPair { images: images.len() });
    }
    if text.trim().is_empty() {
        return Err(Problem::Empty);
    }
    Ok(Document::all_trained(format!("{IMAGE_MARK}{}", neutralise(&text)), images))
}
