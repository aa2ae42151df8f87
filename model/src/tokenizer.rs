//! Text to token ids and back, with images among the text.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vila_engine::NO_ROW;

use crate::{Error, Result};

/// What marks an image in a prompt.
pub const IMAGE_MARK: &str = "<image>";

/// A tokenizer read from `tokenizer.json`.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bytes: Vec<u8>,
    image: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_bytes(std::fs::read(path).map_err(Error::io(path))?, path)
    }

    /// Reads the content of a `tokenizer.json`; `path` names it in messages.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| Error::format(path, format!("not a tokenizer.json: {error}")))?;
        let id = |names: &[&str]| names.iter().find_map(|name| inner.token_to_id(name));
        let (bos, eos) = (id(&["<s>", "<|begin_of_text|>"]), id(&["</s>", "<|end_of_text|>", "<|im_end|>"]));
        Ok(Tokenizer { image: id(&[IMAGE_MARK]), path: path.to_path_buf(), inner, bytes, bos, eos })
    }

    /// Takes the ids that a model's configuration names over those found in the vocabulary.
    pub fn with_ids(self, bos: Option<u32>, eos: Option<u32>, image: Option<u32>) -> Self {
        let image = image.filter(|&id| self.inner.id_to_token(id).as_deref() == Some(IMAGE_MARK)).or(self.image);
        Tokenizer { bos: bos.or(self.bos), eos: eos.or(self.eos), image, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token that starts a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The vocabulary's own image token.
    pub fn image_token(&self) -> Option<u32> {
        self.image
    }

    /// The id of an entry.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of entries, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The file's bytes, to copy into a checkpoint.
    pub fn file_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Ids and byte ranges of the text's tokens; no special token is added, an image mark is one [`NO_ROW`].
    ///
    /// A vocabulary with an `<image>` token reads the whole text at once, as transformers does; otherwise the pieces
    /// between marks are tokenized one by one (spec 1.6).
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        if let Some(image) = self.image {
            let mut tokens = self.encode_piece(text, 0)?;
            tokens.iter_mut().filter(|(id, _)| *id == image).for_each(|(id, _)| *id = NO_ROW);
            return Ok(tokens);
        }
        let (mut tokens, mut start) = (Vec::new(), 0);
        for (i, piece) in text.split(IMAGE_MARK).enumerate() {
            if i > 0 {
                tokens.push((NO_ROW, start - IMAGE_MARK.len()..start));
            }
            tokens.extend(self.encode_piece(piece, start)?);
            start += piece.len() + IMAGE_MARK.len();
        }
        Ok(tokens)
    }

    fn encode_piece(&self, text: &str, start: usize) -> Result<Vec<(u32, Range<usize>)>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| Error::format(&self.path, format!("cannot tokenize {text:?}: {error}")))?;
        let offsets = encoding.get_offsets().iter().map(|&(from, to)| from + start..to + start);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// Ids of a text without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_with_offsets(text)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids of a prompt: the start token, then the text; [`NO_ROW`] where an image goes.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.bos.into_iter().chain(self.encode(text)?).collect())
    }

    /// The text of ids; special tokens are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, true)
    }

    /// The text of ids, special tokens written out.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, false)
    }

    fn decode_with(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Error::format(&self.path, format!("cannot decode {ids:?}: {error}")))
    }
}

/// Puts image marks in front of a prompt that has none.
pub fn place_images(prompt: &str, images: usize) -> Result<String> {
    match prompt.matches(IMAGE_MARK).count() {
        0 if images > 0 => Ok(format!("{IMAGE_MARK}\n").repeat(images) + prompt),
        marks if marks == images => Ok(prompt.to_string()),
        marks => Err(Error::Input(format!(
            "the prompt has {marks} {IMAGE_MARK} marks, but {images} images were given; give one image per mark"
        ))),
    }
}
