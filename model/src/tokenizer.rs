//! Text to token ids and back, with images among the text.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use vila_engine::NO_ROW;

use crate::sentencepiece::{SentencePiece, Wrap};
use crate::tokenizer_json::{Checked, MOST_BYTES, Start, check_size, put_start};
use crate::turns::{Encode, Span, Turns};
use crate::{Error, Result};

/// What marks an image in a prompt.
pub const IMAGE_MARK: &str = "<image>";

/// A tokenizer read from `tokenizer.json` or from a SentencePiece `tokenizer.model`.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    bytes: Vec<u8>,
    image: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

#[derive(Clone)]
enum Inner {
    Json(Box<Checked>),
    SentencePiece(SentencePiece),
}

impl Inner {
    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Inner::Json(checked) => checked.inner.token_to_id(token),
            Inner::SentencePiece(inner) => inner.token_to_id(token),
        }
    }

    fn ends(&self) -> (Option<u32>, Option<u32>) {
        let id = |names: &[&str]| names.iter().find_map(|name| self.token_to_id(name));
        match self {
            Inner::Json(checked) => {
                let bos = match checked.start {
                    Start::Unsaid => id(&["<s>", "<|begin_of_text|>"]),
                    Start::Nothing => None,
                    Start::Token(token) => Some(token),
                };
                (bos, id(&["</s>", "<|end_of_text|>", "<|im_end|>"]))
            }
            Inner::SentencePiece(inner) => (inner.bos(), inner.eos()),
        }
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a SentencePiece model (a name that ends in `.model`).
    ///
    /// A model alone gives the ids of the `sentencepiece` package. With a `tokenizer_config.json`,
    /// `special_tokens_map.json` or `added_tokens.json` beside it, or where a missing `tokenizer.json` was asked for, it
    /// gives those of transformers' `LlamaTokenizer`: added tokens are found in texts, and `legacy` is respected.
    pub fn from_file(path: &Path) -> Result<Self> {
        let model = path.with_file_name("tokenizer.model");
        if is_model(path) {
            return Self::from_model(path, Wrap::IfConfigured);
        }
        if !path.exists() && model.is_file() {
            return Self::from_model(&model, Wrap::Always);
        }
        Self::from_bytes(vila_files::read(path, MOST_BYTES).map_err(Error::io(path))?, path)?.configured()
    }

    /// Puts the start token in front of texts, or none, as a `tokenizer_config.json` beside the file says.
    fn configured(self) -> Result<Self> {
        let Some(start) = (match &self.inner {
            Inner::Json(_) => ConfiguredStart::read(&self.path.with_file_name("tokenizer_config.json"))?,
            Inner::SentencePiece(_) => None,
        }) else {
            return Ok(self);
        };
        let bos = match start {
            ConfiguredStart::Nothing => None,
            ConfiguredStart::Token(Some(name)) => Some(self.token_id(&name).ok_or_else(|| {
                Error::format(&self.path, format!("lacks {name:?}, which tokenizer_config.json puts in front of texts"))
            })?),
            ConfiguredStart::Token(None) => ["<s>", "<|begin_of_text|>"].iter().find_map(|name| self.token_id(name)),
        };
        if bos == self.bos {
            return Ok(self);
        }
        // Where the file goes without its neighbour, it says the same.
        let mut file: Map<String, Value> = serde_json::from_slice(&self.bytes)
            .map_err(|error| Error::format(&self.path, format!("not a tokenizer.json: {error}")))?;
        let name = bos.and_then(|bos| self.id_to_token(bos));
        put_start(&mut file, name.as_deref().zip(bos));
        Self::from_bytes(Value::Object(file).to_string().into_bytes(), &self.path)
    }

    /// Reads the content of a `tokenizer.json`, or of a SentencePiece model without settings if the name ends in
    /// `.model`; `path` names it in messages.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        if is_model(path) {
            let (inner, json) = SentencePiece::read(&bytes, path, Wrap::Never)?;
            return Ok(Self::new(Inner::SentencePiece(inner), json, path));
        }
        check_size(&bytes, path)?;
        if let Some(inner) = SentencePiece::embedded(&bytes, path)? {
            return Ok(Self::new(Inner::SentencePiece(inner), bytes, path));
        }
        let checked = Checked::read(&bytes, path)?;
        if let Some(hole) = first_hole(&checked.inner) {
            let problem =
                format!("no entry of its vocabulary has the id {hole}, though later ids exist; fetch it again");
            return Err(Error::format(path, problem));
        }
        Ok(Self::new(Inner::Json(Box::new(checked)), bytes, path))
    }

    fn from_model(path: &Path, wrap: Wrap) -> Result<Self> {
        let bytes = vila_files::read(path, MOST_BYTES).map_err(Error::io(path))?;
        let (inner, json) = SentencePiece::read(&bytes, path, wrap)?;
        Ok(Self::new(Inner::SentencePiece(inner), json, path))
    }

    fn new(inner: Inner, bytes: Vec<u8>, path: &Path) -> Self {
        let (bos, eos) = inner.ends();
        Tokenizer { image: inner.token_to_id(IMAGE_MARK), path: path.to_path_buf(), inner, bytes, bos, eos }
    }

    /// Takes the ids that a model's configuration names over those found in the vocabulary. The start token is the
    /// tokenizer's own affair.
    pub fn with_ids(self, eos: Option<u32>, image: Option<u32>) -> Self {
        let image = image.filter(|&id| self.id_to_token(id).as_deref() == Some(IMAGE_MARK)).or(self.image);
        Tokenizer { eos: eos.or(self.eos), image, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token that is put in front of a text, if any is.
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

    /// The entry of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.inner {
            Inner::Json(checked) => checked.inner.id_to_token(id),
            Inner::SentencePiece(inner) => inner.id_to_token(id).map(str::to_string),
        }
    }

    /// Whether the entry stands for a byte of a character that the vocabulary lacks.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.id_to_token(id).is_some_and(|token| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>'))
    }

    /// Number of entries, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.inner {
            Inner::Json(checked) => checked.inner.get_vocab_size(true),
            Inner::SentencePiece(inner) => inner.vocab_size(),
        }
    }

    /// The file's bytes, to copy into a checkpoint; a SentencePiece model as a `tokenizer.json` that holds it.
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
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>> {
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

    fn encode_piece(&self, text: &str, start: usize) -> Result<Vec<Span>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let checked = match &self.inner {
            Inner::Json(checked) => checked,
            Inner::SentencePiece(inner) => {
                let tokens = inner.encode(text).into_iter();
                return Ok(tokens.map(|(id, span)| (id, span.start + start..span.end + start)).collect());
            }
        };
        let encoding = checked.encode(text, &self.path)?;
        let offsets = encoding.get_offsets().iter().map(|&(from, to)| from + start..to + start);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// Ids of a text without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_with_offsets(text)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids of a prompt: the start token, then the text; [`NO_ROW`] where an image goes.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_conversation(text, &[])
    }

    /// Ids of a prompt in which answers begin at the bytes `answers`: exactly the beginning of what would be trained on if the
    /// prompt went on ([`Turns`]).
    pub fn encode_conversation(&self, text: &str, answers: &[usize]) -> Result<Vec<u32>> {
        let spans = Turns::encode(self, text, answers)?.spans;
        Ok(self.bos.into_iter().chain(spans.into_iter().map(|(id, _)| id)).collect())
    }

    /// Whether text is tokenized behind this token as if it stood there alone: an added token.
    pub fn is_added(&self, id: u32) -> bool {
        match &self.inner {
            Inner::Json(checked) => checked.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id),
            Inner::SentencePiece(inner) => inner.is_added(id),
        }
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
        match &self.inner {
            Inner::Json(checked) => checked.decode(ids, skip_special, &self.path),
            Inner::SentencePiece(inner) => Ok(inner.decode(ids, skip_special)),
        }
    }
}

impl Encode for Tokenizer {
    type Error = Error;

    fn encode(&self, text: &str) -> Result<Vec<Span>> {
        self.encode_with_offsets(text)
    }

    fn parts_text(&self, id: u32) -> bool {
        id == NO_ROW || self.is_added(id)
    }
}

/// What a `tokenizer_config.json` puts in front of texts.
enum ConfiguredStart {
    Nothing,
    /// A token by its name, or the vocabulary's usual one.
    Token(Option<String>),
}

impl ConfiguredStart {
    /// Reads `add_bos_token`; classes for Llama's kind of model put a start token unless told otherwise. None where the file
    /// is missing or leaves it to the tokenizer.
    fn read(path: &Path) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let text = vila_files::read(path, vila_files::MAX_CONFIG).map_err(Error::io(path))?;
        let config: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::format(path, format!("is not JSON ({error}); save the tokenizer again")))?;
        let class = config["tokenizer_class"].as_str().unwrap_or_default();
        let puts = match &config["add_bos_token"] {
            Value::Bool(puts) => *puts,
            Value::Null if ["LlamaTokenizer", "LlamaTokenizerFast"].contains(&class) => true,
            Value::Null => return Ok(None),
            other => {
                let problem = format!("is {other}; set it to true or false");
                return Err(Error::Config { path: path.into(), field: "add_bos_token".into(), problem });
            }
        };
        let token = &config["bos_token"];
        let name = token.as_str().or_else(|| token["content"].as_str());
        Ok(Some(if puts { ConfiguredStart::Token(name.map(str::to_string)) } else { ConfiguredStart::Nothing }))
    }
}

/// The first id below the largest of the model's vocabulary that nothing has, not even an added token.
fn first_hole(tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
    let largest = tokenizer.get_vocab(false).into_values().max()?;
    let mut ids: Vec<u32> = tokenizer.get_vocab(true).into_values().collect();
    ids.sort_unstable();
    ids.dedup();
    let (hole, _) = (0u32..).zip(ids).find(|(expected, id)| expected != id)?;
    (hole < largest).then_some(hole)
}

fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "model")
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
