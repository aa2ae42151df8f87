//! What ingestion needs of a tokenizer.

use std::ops::Range;

/// Stands for one image in a stored token sequence; no vocabulary has this id.
pub const IMAGE_PLACEHOLDER: u32 = vila_engine::NO_ROW;

pub use vila_model::tokenizer::IMAGE_MARK;

/// A token id and the bytes of the text it stands for.
pub type Span = (u32, Range<usize>);

/// Text could not be tokenised.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer refused the text: {0}")]
pub struct TokenizeError(pub String);

/// A tokenizer as ingestion sees it.
pub trait Tokenize: Sync {
    /// Id of the token that begins every document, where there is one.
    fn bos(&self) -> Option<u32>;

    /// Id of the token that ends a document.
    fn eos(&self) -> u32;

    /// Id of `<image>`, if the tokenizer knows it as a token of its own.
    fn image_token(&self) -> Option<u32>;

    /// Whether text is tokenised behind this token as if it stood there alone: an added token.
    fn is_added(&self, _token: u32) -> bool {
        false
    }

    /// Tokens of `text` with the byte ranges they cover. No token is added at either end; special tokens written out
    /// in the text become their ids.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError>;

    /// A hash of everything that decides the ids; shards remember it.
    fn fingerprint(&self) -> String;

    /// The `tokenizer.json` itself, to be stored in the shard so that it can be shown as text later.
    fn definition(&self) -> Option<&[u8]> {
        None
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
