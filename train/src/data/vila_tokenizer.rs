use std::path::Path;

use vila_model::tokenizer::Tokenizer;

use super::tokens::{Span, Tokenize, TokenizeError, TokenizerFileError};

/// A model's tokenizer as ingestion sees it: one that can end documents.
pub struct IngestTokenizer<'a> {
    inner: &'a Tokenizer,
    eos: u32,
}

impl<'a> IngestTokenizer<'a> {
    /// Wraps a tokenizer; `path` names it in the error.
    ///
    /// # Errors
    /// The vocabulary has no end-of-sequence token.
    pub fn new(inner: &'a Tokenizer, path: &Path) -> Result<Self, TokenizerFileError> {
        let eos = inner.eos().ok_or_else(|| TokenizerFileError::NoEos { path: path.to_owned() })?;
        Ok(IngestTokenizer { inner, eos })
    }
}

impl Tokenize for IngestTokenizer<'_> {
    fn bos(&self) -> Option<u32> {
        self.inner.bos()
    }

    fn eos(&self) -> u32 {
        self.eos
    }

    fn image_token(&self) -> Option<u32> {
        self.inner.image_token()
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
