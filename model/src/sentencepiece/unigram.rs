//! The unigram model: the most probable cut, found as SentencePiece (0.2.2 and later) finds it, in f32.

use super::proto::PieceKind;
use super::trie::Trie;
use super::vocab::{Span, Vocab};

/// What a character without a piece costs beyond the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Beyond this score a path starts from zero again, so that long texts keep their precision.
const RESET: f32 = 100_000.0;

/// The pieces' trie and their worst score.
#[derive(Debug)]
pub(super) struct Unigram {
    trie: Trie,
    lowest: f32,
}

/// The best cut that ends at some byte.
#[derive(Clone, Copy)]
struct Best {
    id: u32,
    score: f32,
    start: Option<usize>,
}

impl Unigram {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let normal = vocab.pieces().iter().filter(|piece| piece.kind == PieceKind::Normal);
        Unigram { trie: Trie::new(vocab.searched()), lowest: normal.map(|piece| piece.score).fold(f32::MAX, f32::min) }
    }

    /// Cuts normalized text into pieces.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str) -> Vec<Span> {
        let mut best = vec![Best { id: vocab.unknown(), score: 0.0, start: None }; text.len() + 1];
        let mut reached = 0;
        for (start, character) in text.char_indices() {
            // Cuts so far end in `start..=reached`.
            let here = reset(&mut best[start..=reached.max(start)]);
            let mut single = false;
            for (length, id) in self.trie.prefixes(&text.as_bytes()[start..]) {
                let Some(score) = score(vocab, id, length) else { continue };
                reached = reached.max(start + length);
                better(&mut best[start + length], start, id, score + here);
                single |= length == character.len_utf8();
            }
            if !single {
                let end = start + character.len_utf8();
                reached = reached.max(end);
                better(&mut best[end], start, vocab.unknown(), (self.lowest - UNKNOWN_PENALTY) + here);
            }
        }
        backtrack(&best)
    }
}

/// User-defined pieces beat all others, whose scores are logarithms; of two such cuts the one with fewer wins.
fn score(vocab: &Vocab, id: u32, length: usize) -> Option<f32> {
    let piece = vocab.piece(id)?;
    match piece.kind {
        PieceKind::Unused => None,
        PieceKind::UserDefined => Some((0.1 * (length as f64 - 1.0)) as f32),
        _ => Some(piece.score),
    }
}

/// The score of the first of `best`, moved to zero with all others if it is large.
fn reset(best: &mut [Best]) -> f32 {
    let score = best.first().map_or(0.0, |first| first.score);
    if score.abs() <= RESET {
        return score;
    }
    let moved = best.iter_mut().enumerate().filter(|(i, b)| *i == 0 || b.start.is_some());
    moved.for_each(|(_, b)| b.score -= score);
    0.0
}

fn better(best: &mut Best, start: usize, id: u32, score: f32) {
    if best.start.is_none() || score > best.score {
        *best = Best { id, score, start: Some(start) };
    }
}

fn backtrack(best: &[Best]) -> Vec<Span> {
    let mut pieces = Vec::new();
    let mut end = best.len().saturating_sub(1);
    while let Some(Best { id, start: Some(start), .. }) = best.get(end).copied() {
        pieces.push((start..end, id));
        end = start;
    }
    pieces.reverse();
    pieces
}
