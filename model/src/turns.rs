//! Tokens of a text whose beginnings are prompts: of what was trained, a prompt is always the exact beginning.
//!
//! Tokens may reach over the place where a prompt ends and its answer begins: `]` and `(` may be one token `](`. A model that is asked
//! sees the prompt alone and cannot continue with half a token. So the tokens before such a place are those of the text
//! before it. Where the tokens of the whole text begin with them, which is nearly always, nothing changes; elsewhere the
//! answer is tokenized by itself.

use std::ops::Range;

/// A token and the bytes that it stands for.
pub type Span = (u32, Range<usize>);

/// Bytes before the last cut that are tokenized again for what follows, at most.
const LOOK_BACK: usize = 4096;

/// Texts in front of an answer that is tokenized by itself, so that it does not count as the start of a text.
const FRONTS: [&str; 3] = ["\n", "a", ":"];

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// All tokens.
    pub spans: Vec<Span>,
    /// For each cut, the number of tokens before it.
    pub starts: Vec<usize>,
}

/// How texts become tokens.
pub trait Encode {
    /// Why a text cannot be tokenized.
    type Error;

    /// The tokens of a text by itself.
    ///
    /// # Errors
    /// The tokenizer's.
    fn encode(&self, text: &str) -> Result<Vec<Span>, Self::Error>;

    /// Whether a token is an image or an added token: text is tokenized after it as if it stood there alone.
    fn parts_text(&self, id: u32) -> bool;
}

impl Turns {
    /// Tokenizes `text`; `cuts` are the bytes where prompts end, in order and between characters.
    ///
    /// The tokens before a cut depend on the text before it and the cuts before it alone.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn encode<E: Encode>(encoder: &E, text: &str, cuts: &[usize]) -> Result<Self, E::Error> {
        let mut turns = Turns::default();
        let mut at = 0;
        for &cut in cuts {
            turns.extend(encoder, text, at, cut)?;
            turns.starts.push(turns.spans.len());
            at = cut;
        }
        turns.extend(encoder, text, at, text.len())?;
        Ok(turns)
    }

    /// Adds the tokens of `text[at..end]` to those of `text[..at]`.
    fn extend<E: Encode>(&mut self, encoder: &E, text: &str, at: usize, end: usize) -> Result<(), E::Error> {
        if let Some((kept, front)) = self.anchor(encoder, at)
            && let Some(whole) = after(encoder, &text[front.clone()], &text[front.end..end], front.end)?
        {
            let known = &self.spans[kept..];
            if known.len() <= whole.len() && same_ids(known, &whole[..known.len()]) {
                self.spans.truncate(kept);
                self.spans.extend(whole);
                return Ok(());
            }
        }
        self.spans.extend(alone(encoder, &text[at..end], at)?);
        Ok(())
    }

    /// The last token near `at` behind which texts begin, and the number of tokens up to it; or the start of everything.
    fn anchor<E: Encode>(&self, encoder: &E, at: usize) -> Option<(usize, Range<usize>)> {
        let near = self.spans.iter().enumerate().rev();
        let mut near = near.take_while(|(_, (_, span))| at.saturating_sub(span.end) <= LOOK_BACK);
        let found = near.find(|(_, (id, span))| encoder.parts_text(*id) && !span.is_empty());
        match found {
            Some((index, (_, span))) => Some((index + 1, span.clone())),
            None => (at <= LOOK_BACK || self.spans.is_empty()).then_some((0, 0..0)),
        }
    }
}

/// The tokens of `text` right after `front`, unless one belongs to both; `start` is where the text lies.
fn after<E: Encode>(encoder: &E, front: &str, text: &str, start: usize) -> Result<Option<Vec<Span>>, E::Error> {
    let mut spans = encoder.encode(&format!("{front}{text}"))?;
    let own = spans.split_off(spans.iter().take_while(|(_, span)| span.start < front.len()).count());
    let parted = spans.last().is_none_or(|(_, span)| span.end <= front.len());
    let place = |at: usize| at.saturating_sub(front.len()) + start;
    Ok(parted.then(|| own.into_iter().map(|(id, span)| (id, place(span.start)..place(span.end))).collect()))
}

/// The tokens of an answer that may not touch what is before it.
fn alone<E: Encode>(encoder: &E, text: &str, start: usize) -> Result<Vec<Span>, E::Error> {
    for front in FRONTS {
        if let Some(own) = after(encoder, front, text, start)? {
            return Ok(own);
        }
    }
    Ok(after(encoder, "", text, start)?.unwrap_or_default())
}

fn same_ids(left: &[Span], right: &[Span]) -> bool {
    left.iter().zip(right).all(|((a, _), (b, _))| a == b)
}
