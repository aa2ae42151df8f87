//! What ingestion needs of a tokenizer.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Stands for one image in a stored token sequence; no vocabulary has this id.
pub const IMAGE_PLACEHOLDER: u32 = u32::MAX;

/// Marks the place of an image in text.
pub const IMAGE_MARK: &str = "<image>";

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

/// A `tokenizer.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerFileError {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}; give the path of a tokenizer.json", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error("{}: not a tokenizer: {reason}; it must be a tokenizer.json of the `tokenizers` library", path.display())]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// The vocabulary has no end-of-sequence token.
    #[error("{}: the vocabulary has no `</s>`; add it as a special token", path.display())]
    NoEos {
        /// Path of the file.
        path: PathBuf,
    },
}

/// A `tokenizer.json` with the Llama names of the special tokens: `<s>`, `</s>` and, optionally, `<image>`.
pub struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: u32,
    image: Option<u32>,
    definition: Vec<u8>,
}

impl JsonTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file is missing, is not a tokenizer, or has no `</s>`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerFileError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| TokenizerFileError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(bytes, path)
    }

    /// Reads the content of a `tokenizer.json`; `path` names it in errors.
    ///
    /// # Errors
    /// It is not a tokenizer, or has no `</s>`.
    pub fn from_bytes(definition: Vec<u8>, path: &Path) -> Result<Self, TokenizerFileError> {
        let inner = tokenizers::Tokenizer::from_bytes(&definition)
            .map_err(|error| TokenizerFileError::Parse { path: path.to_owned(), reason: error.to_string() })?;
        let eos = inner.token_to_id("</s>").ok_or_else(|| TokenizerFileError::NoEos { path: path.to_owned() })?;
        let image =
            inner.get_added_tokens_decoder().iter().find(|(_, token)| token.content == IMAGE_MARK).map(|(&id, _)| id);
        Ok(Self { bos: inner.token_to_id("<s>"), eos, image, definition, inner })
    }

    /// The text of some tokens, special tokens written out.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizeError> {
        self.inner.decode(tokens, false).map_err(|error| TokenizeError(error.to_string()))
    }

    /// The wrapped tokenizer.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// The fingerprint of a tokenizer file: SHA-256 of its bytes, in hexadecimal.
pub fn fingerprint_of(tokenizer_json: &[u8]) -> String {
    hex(&Sha256::digest(tokenizer_json))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Tokenize for JsonTokenizer {
    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn eos(&self) -> u32 {
        self.eos
    }

    fn image_token(&self) -> Option<u32> {
        self.image
    }

    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        let encoding = self.inner.encode(text, false).map_err(|error| TokenizeError(error.to_string()))?;
        let spans = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(spans.map(|(&id, &(start, end))| (id, start..end)).collect())
    }

    fn fingerprint(&self) -> String {
        fingerprint_of(&self.definition)
    }

    fn definition(&self) -> Option<&[u8]> {
        Some(&self.definition)
    }
}
