//! How transformers' `LlamaTokenizer` wraps a model: added tokens, and where the space in front of a text goes.

use std::collections::HashMap;
use std::ops::Range;

use super::SPACE;
use super::processor::Processor;
use super::trie::Trie;

/// An entry beyond, or marked in, the model's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    /// Takes the spaces before it.
    pub(super) lstrip: bool,
    /// Takes the spaces after it.
    pub(super) rstrip: bool,
    /// Left out of decoded text on request.
    pub(super) special: bool,
    /// Has a role: `bos_token` and so on, or `additional_special_tokens`.
    pub(super) named: bool,
}

/// The settings of a `LlamaTokenizer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Every text between added tokens gets the space that the model puts in front; otherwise only the whole text.
    pub(super) legacy: bool,
    pub(super) add_prefix_space: bool,
    /// Texts begin with the start token.
    pub(super) add_bos: bool,
    pub(super) unk: String,
    pub(super) bos: String,
    pub(super) eos: String,
    pub(super) added: Vec<AddedToken>,
}

/// Added tokens over a model.
#[derive(Debug)]
pub(super) struct Llama {
    settings: Settings,
    /// Contents of added tokens, with their indices.
    trie: Trie,
    /// Indices of added tokens.
    by_id: HashMap<u32, usize>,
    by_content: HashMap<String, usize>,
    /// Number of tokens that the text of the unknown token becomes.
    unk_tokens: usize,
}

/// A part of a text.
struct Segment {
    span: Range<usize>,
    /// Index of the added token that it is.
    added: Option<usize>,
}

impl Llama {
    pub(super) fn new(settings: Settings, processor: &Processor) -> Self {
        let keys = (0u32..).zip(&settings.added).map(|(index, token)| (token.content.as_str(), index));
        let indexed = || settings.added.iter().enumerate();
        Llama {
            trie: Trie::new(keys),
            by_id: indexed().map(|(index, token)| (token.id, index)).collect(),
            by_content: indexed().map(|(index, token)| (token.content.clone(), index)).collect(),
            unk_tokens: processor.encode(&settings.unk).len(),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn by_content(&self, content: &str) -> Option<&AddedToken> {
        self.settings.added.get(*self.by_content.get(content)?)
    }

    pub(super) fn by_id(&self, id: u32) -> Option<&AddedToken> {
        self.settings.added.get(*self.by_id.get(&id)?)
    }

    pub(super) fn encode(&self, processor: &Processor, text: &str) -> Vec<(u32, Range<usize>)> {
        if self.settings.legacy || text.is_empty() {
            return self.encode_segments(processor, text);
        }
        let (prefixed, origin) = prefixed(text, self.settings.add_prefix_space);
        let mut tokens = self.encode_segments(processor, &prefixed);
        // The space in front of the text goes again where a special token starts it.
        if let [(first, _), (second, at), ..] = tokens.as_slice()
            && processor.vocab().find(SPACE) == Some(*first)
            && self.by_id(*second).is_some_and(|token| token.named && prefixed.get(at.clone()) == Some(&token.content))
        {
            tokens.remove(0);
        }
        let place = |at: usize| origin.get(at).copied().unwrap_or(text.len());
        tokens.into_iter().map(|(id, span)| (id, place(span.start)..place(span.end))).collect()
    }

    fn encode_segments(&self, processor: &Processor, text: &str) -> Vec<(u32, Range<usize>)> {
        let mut tokens = Vec::new();
        for segment in self.segments(text) {
            match segment.added.and_then(|index| self.settings.added.get(index)) {
                Some(token) => tokens.push((token.id, segment.span)),
                None => {
                    let part = text.get(segment.span.clone()).unwrap_or_default();
                    tokens.extend(
                        self.encode_part(processor, part)
                            .into_iter()
                            .map(|(id, span)| (id, span.start + segment.span.start..span.end + segment.span.start)),
                    );
                }
            }
        }
        tokens
    }

    /// A part that starts with a space is encoded behind the unknown token's text, so that the space is not dropped.
    fn encode_part(&self, processor: &Processor, part: &str) -> Vec<(u32, Range<usize>)> {
        if part.is_empty() {
            return Vec::new();
        }
        if self.settings.legacy || !part.starts_with([' ', '\u{2581}']) {
            return processor.encode(part);
        }
        let front = &self.settings.unk;
        let mut tokens = processor.encode(&format!("{front}{part}"));
        if tokens.len() >= self.unk_tokens {
            tokens.drain(..self.unk_tokens);
        }
        let shift = |at: usize| at.saturating_sub(front.len());
        tokens.into_iter().map(|(id, span)| (id, shift(span.start)..shift(span.end))).collect()
    }

    /// Cuts a text at its added tokens, the longest of those that start at one place.
    fn segments(&self, text: &str) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let Some((length, index)) = self.trie.prefixes(rest.as_bytes()).last() else {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            segments.push(Segment { span: start..at, added: None });
            segments.push(Segment { span: at..at + length, added: usize::try_from(index).ok() });
            at += length;
            start = at;
        }
        segments.push(Segment { span: start..text.len(), added: None });
        self.strip(text, &mut segments);
        segments
    }

    /// Texts stand at even places, added tokens between them.
    fn strip(&self, text: &str, segments: &mut [Segment]) {
        for at in 0..segments.len() {
            let Some(token) = segments.get(at).and_then(|s| s.added).and_then(|index| self.settings.added.get(index))
            else {
                continue;
            };
            if let Some(right) = segments.get_mut(at + 1).filter(|_| token.rstrip) {
                let part = text.get(right.span.clone()).unwrap_or_default();
                right.span.start += part.len() - part.trim_start_matches(is_python_space).len();
            }
            if let Some(left) = at.checked_sub(1).and_then(|i| segments.get_mut(i)).filter(|_| token.lstrip) {
                let part = text.get(left.span.clone()).unwrap_or_default();
                left.span.end = left.span.start + part.trim_end_matches(is_python_space).len();
            }
        }
    }

    pub(super) fn decode(&self, processor: &Processor, ids: &[u32], skip_special: bool) -> String {
        let hidden = |id: u32| self.by_id(id).is_some_and(|token| skip_special && (token.special || token.named));
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !hidden(id)).collect();
        let mut text = String::new();
        // Pieces since the last added token; the space in front of the text is at the start of a run without such.
        let (mut run, mut fresh, mut after_named) = (processor.decoder(), true, false);
        for (index, &id) in ids.iter().enumerate() {
            if let Some(token) = self.by_id(id) {
                if token.named && !after_named && index > 0 && self.settings.legacy {
                    run.push_text(" ");
                }
                text.push_str(&std::mem::replace(&mut run, processor.decoder()).finish());
                text.push_str(&token.content);
                (fresh, after_named) = (!token.named, token.named);
                continue;
            }
            let stripped = processor.vocab().piece(id).and_then(|piece| piece.text.strip_prefix(SPACE));
            match stripped.filter(|_| fresh && self.settings.add_prefix_space) {
                Some(rest) => run.push_text(rest),
                None => run.push(id),
            }
            (fresh, after_named) = (false, false);
        }
        text + &run.finish()
    }
}

/// The text as the newer mode reads it, and where each byte of it comes from.
fn prefixed(text: &str, add_prefix_space: bool) -> (String, Vec<usize>) {
    let mut origin = Vec::with_capacity(text.len() + SPACE.len() + 1);
    let mut out = String::with_capacity(text.len() + SPACE.len());
    if add_prefix_space {
        out.push_str(SPACE);
        origin.resize(SPACE.len(), 0);
    }
    for (at, character) in text.char_indices() {
        out.push(if character == '\u{2581}' { ' ' } else { character });
        origin.resize(out.len(), at);
    }
    origin.push(text.len());
    (out, origin)
}

/// What Python's `str.strip` takes away.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}
