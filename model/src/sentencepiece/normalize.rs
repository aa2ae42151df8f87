//! Text as the model sees it: characters replaced, spaces escaped, and where each byte came from.

use super::charsmap::Charsmap;
use super::proto::NormalizerSpec;
use super::trie::Trie;
use super::{Outcome, SPACE};

/// Normalized text; byte `i` of it was made of `from[i]..to[i]` of the original.
#[derive(Debug, Default)]
pub(super) struct Normalized {
    pub(super) text: String,
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Normalized {
    /// The bytes of the original that made `span`.
    pub(super) fn origin(&self, span: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let start = self.from.get(span.start).copied().unwrap_or_default();
        let end = span.end.checked_sub(1).and_then(|last| self.to.get(last)).copied().unwrap_or(start);
        start..end.max(start)
    }

    fn push(&mut self, text: &str, from: usize, to: usize) {
        self.text.push_str(text);
        self.from.resize(self.text.len(), from);
        self.to.resize(self.text.len(), to);
    }

    fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.from.truncate(length);
        self.to.truncate(length);
    }
}

/// What a model does to text before it looks for pieces.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Option<Charsmap>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    space: &'static str,
    whitespace_as_suffix: bool,
}

impl Normalizer {
    pub(super) fn new(spec: &NormalizerSpec, whitespace_as_suffix: bool) -> Outcome<Self> {
        Ok(Normalizer {
            charsmap: if spec.charsmap.is_empty() { None } else { Some(Charsmap::parse(&spec.charsmap)?) },
            add_dummy_prefix: spec.add_dummy_prefix,
            remove_extra_whitespaces: spec.remove_extra_whitespaces,
            space: if spec.escape_whitespaces { SPACE } else { " " },
            whitespace_as_suffix,
        })
    }

    pub(super) fn disable_dummy_prefix(&mut self) {
        self.add_dummy_prefix = false;
    }

    /// Normalizes; what `symbols` holds stays as it is.
    pub(super) fn normalize(&self, input: &str, symbols: &Trie) -> Normalized {
        let bytes = input.as_bytes();
        let mut out = Normalized::default();
        let mut at = self.leading_spaces(bytes, symbols);
        if at == bytes.len() {
            return out;
        }
        if !self.whitespace_as_suffix && self.add_dummy_prefix {
            out.push(self.space, at, at);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (length, replaced) = self.prefix(rest, symbols);
            let kept = if after_space { replaced.trim_start_matches(' ') } else { replaced };
            for part in kept.split_inclusive(' ') {
                let word = part.strip_suffix(' ');
                out.push(word.unwrap_or(part), at, at + length);
                if word.is_some() {
                    out.push(self.space, at, at + length);
                }
            }
            if !kept.is_empty() {
                after_space = self.remove_extra_whitespaces && kept.ends_with(' ');
            }
            at += length;
        }
        if self.remove_extra_whitespaces {
            let kept = out.text.trim_end_matches(self.space).len();
            at = out.from.get(kept).copied().unwrap_or(at);
            out.truncate(kept);
        }
        if self.whitespace_as_suffix && self.add_dummy_prefix {
            out.push(self.space, at, at);
        }
        out
    }

    /// Length of what becomes spaces at the start of the text, where such are dropped.
    fn leading_spaces(&self, bytes: &[u8], symbols: &Trie) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| self.remove_extra_whitespaces && !rest.is_empty()) {
            let (length, replaced) = self.prefix(rest, symbols);
            if replaced != " " {
                break;
            }
            at += length;
        }
        at
    }

    /// How much of `rest` (not empty) is replaced at once, and by what.
    fn prefix<'a>(&'a self, rest: &'a [u8], symbols: &Trie) -> (usize, &'a str) {
        let text = |length: usize| rest.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        if let Some(length) = symbols.longest(rest) {
            return (length, text(length).unwrap_or_default());
        }
        if let Some(found) = self.charsmap.as_ref().and_then(|map| map.longest(rest)) {
            return found;
        }
        // Only a strange character map can leave the rest of a character: a byte of it counts as one unknown character.
        let length = rest.first().map_or(1, |&byte| char_length(byte));
        text(length).map_or((1, "\u{fffd}"), |text| (length, text))
    }
}

/// Bytes of a character that starts with `byte`.
fn char_length(byte: u8) -> usize {
    match byte {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    }
}
