use std::path::Path;

use vila_model::tokenizer::Tokenizer;

use super::tokens::{Span, Tokenize, TokenizeError};

/// A model's tokenizer as ingestion sees it: one that can end documents.
pub struct IngestTokenizer {
    inner: Tokenizer,
    eos: u32,
}

impl IngestTokenizer {
    /// Wraps a tokenizer.
    ///
    /// # Errors
    /// The vocabulary has no end-of-sequence token.
    pub fn new(inner: Tokenizer) -> Result<Self, vila_model::Error> {
        let eos = inner.eos().ok_or_else(|| vila_model::Error::Format {
            path: inner.path().to_owned(),
            problem: "the vocabulary has no `</s>`; add it as a special token".into(),
        })?;
        Ok(IngestTokenizer { inner, eos })
    }

    /// The wrapped tokenizer.
    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file is missing, is not a tokenizer, or has no `</s>`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, vila_model::Error> {
        Self::new(Tokenizer::from_file(path.as_ref())?)
    }
}

impl Tokenize for IngestTokenizer {
    fn bos(&self) -> Option<u32> {
        self.inner.bos()
    }

    fn eos(&self) -> u32 {
        self.eos
    }

    fn image_token(&self) -> Option<u32> {
        self.inner.image_token()
    }

    fn is_added(&self, token: u32) -> bool {
        self.inner.is_added(token)
    }

    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        self.inner.encode_with_offsets(text).map_err(|error| TokenizeError(error.to_string()))
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }

    fn definition(&self) -> Option<&[u8]> {
        Some(self.inner.file_bytes())
    }
}
