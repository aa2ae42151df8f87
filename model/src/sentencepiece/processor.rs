//! What the `sentencepiece` package computes: ids of a text, text of ids.

use std::ops::Range;

use super::normalize::Normalizer;
use super::proto::{ModelKind, ModelProto, PieceKind};
use super::trie::Trie;
use super::unigram::Unigram;
use super::vocab::{Span, Vocab, byte_of};
use super::{Outcome, SPACE, bpe};

/// A model, ready to run.
#[derive(Debug)]
pub(super) struct Processor {
    vocab: Vocab,
    kind: Cutter,
    normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    /// Whether one space, or all of them, go from the start of decoded text.
    strips_one: bool,
    strips_all: bool,
    unknown_surface: String,
    bos: Option<u32>,
    eos: Option<u32>,
}

#[derive(Debug)]
enum Cutter {
    Unigram(Unigram),
    Bpe,
    Word,
    Char,
}

impl Processor {
    pub(super) fn new(model: ModelProto) -> Outcome<Self> {
        let ModelProto { pieces, trainer, normalizer: spec, denormalizer } = model;
        let vocab = Vocab::new(pieces, trainer.byte_fallback)?;
        let control = |text: &str| vocab.find(text).filter(|&id| vocab.kind(id) == Some(PieceKind::Control));
        let denormalizer = denormalizer.filter(|spec| !spec.charsmap.is_empty());
        Ok(Processor {
            bos: control(&trainer.bos_piece),
            eos: control(&trainer.eos_piece),
            kind: match trainer.kind {
                ModelKind::Unigram => Cutter::Unigram(Unigram::new(&vocab)),
                ModelKind::Bpe => Cutter::Bpe,
                ModelKind::Word => Cutter::Word,
                ModelKind::Char => Cutter::Char,
            },
            normalizer: Normalizer::new(&spec, trainer.whitespace_as_suffix)?,
            denormalizer: denormalizer.map(|spec| Normalizer::new(&spec, false)).transpose()?,
            strips_one: spec.add_dummy_prefix,
            strips_all: spec.remove_extra_whitespaces,
            unknown_surface: trainer.unk_surface,
            vocab,
        })
    }

    /// Adds no space in front of a text any more.
    pub(super) fn without_dummy_prefix(mut self) -> Self {
        self.normalizer.disable_dummy_prefix();
        self.strips_one = false;
        self
    }

    pub(super) fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    pub(super) fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub(super) fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Ids, and the bytes of the text that each was made of.
    pub(super) fn encode(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let normalized = self.normalizer.normalize(text, self.vocab.symbols());
        let mut tokens: Vec<(u32, Range<usize>)> = Vec::new();
        let mut after_unknown = false;
        for (span, id) in self.cut(&normalized.text) {
            let origin = normalized.origin(&span);
            let unknown = self.vocab.is_unknown(id);
            match (self.vocab.bytes(), tokens.last_mut()) {
                (Some(bytes), _) if unknown => {
                    let surface = normalized.text.as_bytes().get(span).unwrap_or_default();
                    let ids = surface.iter().filter_map(|&byte| bytes.get(usize::from(byte)));
                    tokens.extend(ids.map(|&id| (id, origin.clone())));
                }
                (_, Some((_, last))) if unknown && after_unknown => last.end = origin.end,
                _ => tokens.push((id, origin)),
            }
            after_unknown = unknown;
        }
        tokens
    }

    fn cut(&self, text: &str) -> Vec<Span> {
        let known = |span: Range<usize>| {
            let id = self.vocab.cut(text.get(span.clone()).unwrap_or_default());
            (span, if self.vocab.is_unused(id) { self.vocab.unknown() } else { id })
        };
        match &self.kind {
            Cutter::Unigram(unigram) => unigram.encode(&self.vocab, text),
            Cutter::Bpe => bpe::encode(&self.vocab, text),
            Cutter::Word => words(text).map(known).collect(),
            Cutter::Char => self.vocab.characters(text).map(|(span, _)| known(span)).collect(),
        }
    }

    /// Starts a text.
    pub(super) fn decoder(&self) -> Decoder<'_> {
        Decoder { processor: self, text: String::new(), bytes: Vec::new(), at_start: true }
    }
}

/// Text that grows by pieces.
pub(super) struct Decoder<'a> {
    processor: &'a Processor,
    text: String,
    /// Byte pieces that may become one character.
    bytes: Vec<u8>,
    at_start: bool,
}

impl Decoder<'_> {
    /// Adds a piece; control symbols have no text, unknown ids neither.
    pub(super) fn push(&mut self, id: u32) {
        let Some(piece) = self.processor.vocab.piece(id) else { return };
        match piece.kind {
            PieceKind::Byte => self.bytes.extend(byte_of(&piece.text)),
            PieceKind::Control => self.flush(),
            PieceKind::Unknown => {
                let surface = &self.processor.unknown_surface;
                self.append(|_, text| {
                    text.push_str(surface);
                    false
                });
            }
            _ => self.push_text(&piece.text),
        }
    }

    /// Adds the text of a piece.
    pub(super) fn push_text(&mut self, piece: &str) {
        let Processor { strips_one, strips_all, .. } = *self.processor;
        self.append(|at_start, text| {
            let rest = if at_start && (strips_one || strips_all) { piece.strip_prefix(SPACE) } else { None };
            text.push_str(&rest.unwrap_or(piece).replace(SPACE, " "));
            rest.is_some() && !strips_all
        });
    }

    /// `add` hears whether the text still starts, and says whether it took the space that starts it.
    fn append(&mut self, add: impl FnOnce(bool, &mut String) -> bool) {
        self.flush();
        self.at_start &= self.text.is_empty();
        let stripped = add(self.at_start, &mut self.text);
        self.at_start &= !stripped;
    }

    /// Bytes that are no UTF-8 become U+FFFD one by one.
    fn flush(&mut self) {
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let length = (1..=4).find(|&length| rest.get(..length).is_some_and(|b| std::str::from_utf8(b).is_ok()));
            let (character, after) = rest.split_at_checked(length.unwrap_or(1)).unwrap_or((rest, &[]));
            self.text.push_str(std::str::from_utf8(character).unwrap_or("\u{fffd}"));
            rest = after;
        }
        self.bytes.clear();
    }

    pub(super) fn finish(mut self) -> String {
        self.flush();
        match &self.processor.denormalizer {
            Some(denormalizer) => denormalizer.normalize(&self.text, &Trie::default()).text,
            None => self.text,
        }
    }
}

/// Words with the space before them.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest.get(first..).and_then(|tail| tail.find(SPACE)).map_or(rest.len(), |at| at + first);
        start += length;
        Some(start - length..start)
    })
}
