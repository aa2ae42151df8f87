//! SentencePiece models (`tokenizer.model`) without the package: the same ids.
//!
//! Text is normalized and cut here, not by the `tokenizers` crate: that one sums scores in other precision, breaks
//! ties of merges by rank and finds user-defined symbols before normalization, so it gives other ids for some texts.
//! Alone, a model does what the `sentencepiece` package does. With a `tokenizer_config.json`,
//! `special_tokens_map.json` or `added_tokens.json` beside it, it does what transformers' `LlamaTokenizer` does.

mod base64;
mod bpe;
mod charsmap;
mod export;
mod llama;
mod normalize;
mod processor;
mod proto;
mod settings;
mod trie;
mod unigram;
mod vocab;
mod wire;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub(crate) use export::EMBEDDED;
use llama::{Llama, Settings};
use processor::Processor;
use proto::ModelProto;
use serde_json::Value;

use crate::{Error, Result};

/// What stands for a space in pieces.
const SPACE: &str = "\u{2581}";

/// What is wrong with a model, and where.
#[derive(Debug)]
struct Fault {
    field: &'static str,
    problem: String,
}

impl Fault {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Fault { field, problem: problem.into() }
    }

    fn at(self, path: &Path) -> Error {
        Error::Config { path: path.to_path_buf(), field: self.field.into(), problem: self.problem }
    }
}

type Outcome<T> = std::result::Result<T, Fault>;

/// Bytes of the longest replacement of a character map in base64, as a `tokenizer.json` has it; or what is wrong with it.
pub(crate) fn longest_replacement(map: &str) -> std::result::Result<usize, String> {
    let bytes = base64::decode(map).ok_or("is no base64; fetch the file again")?;
    let map = charsmap::Charsmap::parse(&bytes).map_err(|fault| fault.problem)?;
    Ok(map.longest_replacement())
}

/// Whether a file begins with lines of a token in base64 and its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').take(3).collect();
    let is_entry = |line: &&[u8]| {
        let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
        let (token, rank) = (words.next().and_then(base64::decode), words.next());
        token.is_some_and(|token| !token.is_empty()) && rank.is_some_and(|rank| rank.trim_end().parse::<u32>().is_ok())
    };
    lines.len() == 3 && lines.iter().take(2).all(is_entry)
}

/// How a model is wrapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrap {
    /// As a `LlamaTokenizer` if the directory has settings for it.
    IfConfigured,
    /// As a `LlamaTokenizer`, with its usual settings where the directory has none.
    Always,
    /// Not at all.
    Never,
}

/// A SentencePiece model and how it is used.
#[derive(Clone)]
pub(crate) struct SentencePiece {
    processor: Arc<Processor>,
    llama: Option<Arc<Llama>>,
}

impl SentencePiece {
    /// Reads a model's bytes; `path` names it in messages and says where settings lie. Also returns the
    /// `tokenizer.json` that holds all of it.
    pub(crate) fn read(bytes: &[u8], path: &Path, wrap: Wrap) -> Result<(Self, Vec<u8>)> {
        if is_tiktoken(bytes) {
            let problem = "is Meta's own file of Llama 3 (tiktoken), no SentencePiece model; use the tokenizer.json of the same \
                           model's Hugging Face folder";
            return Err(Error::format(path, problem));
        }
        let model = ModelProto::parse(bytes).map_err(|fault| fault.at(path))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let wrapped = wrap == Wrap::Always || wrap == Wrap::IfConfigured && settings::present(dir);
        let processor = Processor::new(model).map_err(|fault| fault.at(path))?;
        let settings = if wrapped { Some(settings::read(dir, processor.vocab())?) } else { None };
        // The processor took the model apart.
        let model = ModelProto::parse(bytes).map_err(|fault| fault.at(path))?;
        let json = export::tokenizer_json(&model, settings.as_ref(), bytes).to_string().into_bytes();
        Ok((Self::assemble(processor, settings), json))
    }

    /// Reads the model inside a `tokenizer.json`; none if there is none.
    pub(crate) fn embedded(json: &[u8], path: &Path) -> Result<Option<Self>> {
        if !json.windows(export::EMBEDDED.len()).any(|window| window == export::EMBEDDED.as_bytes()) {
            return Ok(None);
        }
        let Ok(Value::Object(file)) = serde_json::from_slice::<Value>(json) else { return Ok(None) };
        let Some(kept) = file.get("model").and_then(|model| model.get(export::EMBEDDED)) else { return Ok(None) };
        let damaged = |field: &'static str| {
            move || Fault::new(field, "is damaged; convert the SentencePiece model again, or remove the field").at(path)
        };
        let text = kept.get("model").and_then(Value::as_str);
        let bytes = text.and_then(base64::decode).ok_or_else(damaged("model.vila_sentencepiece.model"))?;
        let model = ModelProto::parse(&bytes).map_err(|fault| fault.at(path))?;
        let settings = match kept.get("llama") {
            None | Some(Value::Null) => None,
            Some(value) => Some(settings::from_json(value).ok_or_else(damaged("model.vila_sentencepiece.llama"))?),
        };
        Ok(Some(Self::assemble(Processor::new(model).map_err(|fault| fault.at(path))?, settings)))
    }

    fn assemble(processor: Processor, settings: Option<Settings>) -> Self {
        let processor = match &settings {
            Some(settings) if !settings.legacy => processor.without_dummy_prefix(),
            _ => processor,
        };
        let llama = settings.map(|settings| Arc::new(Llama::new(settings, &processor)));
        SentencePiece { processor: Arc::new(processor), llama }
    }

    pub(crate) fn bos(&self) -> Option<u32> {
        match &self.llama {
            Some(llama) if !llama.settings().add_bos => None,
            Some(llama) => llama.by_content(&llama.settings().bos).map(|token| token.id),
            None => self.processor.bos(),
        }
    }

    pub(crate) fn eos(&self) -> Option<u32> {
        match &self.llama {
            Some(llama) => llama.by_content(&llama.settings().eos).map(|token| token.id),
            None => self.processor.eos(),
        }
    }

    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.llama.as_ref().is_some_and(|llama| llama.by_id(id).is_some())
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        let added = self.llama.as_ref().and_then(|llama| llama.by_content(token)).map(|token| token.id);
        added.or_else(|| self.processor.vocab().find(token))
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<&str> {
        let added = self.llama.as_ref().and_then(|llama| llama.by_id(id)).map(|token| token.content.as_str());
        added.or_else(|| self.processor.vocab().piece(id).map(|piece| &*piece.text))
    }

    /// One more than the largest id.
    pub(crate) fn vocab_size(&self) -> usize {
        let added = self.llama.iter().flat_map(|llama| &llama.settings().added).map(|token| token.id as usize + 1);
        added.max().unwrap_or(0).max(self.processor.vocab().pieces().len())
    }

    pub(crate) fn encode(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        match &self.llama {
            Some(llama) => llama.encode(&self.processor, text),
            None => self.processor.encode(text),
        }
    }

    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        if let Some(llama) = &self.llama {
            return llama.decode(&self.processor, ids, skip_special);
        }
        let mut decoder = self.processor.decoder();
        for &id in ids {
            match self.processor.vocab().piece(id) {
                Some(piece) if !skip_special && piece.kind == proto::PieceKind::Control => {
                    decoder.push_text(&piece.text);
                }
                _ => decoder.push(id),
            }
        }
        decoder.finish()
    }
}
