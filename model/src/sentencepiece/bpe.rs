//! Byte-pair encoding as SentencePiece does it: the best-scoring adjacent pair first, the leftmost of equals.
//!
//! Scores are in total order, as in the package since 0.2.2: a negative zero lies below zero.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::vocab::{Span, Vocab};

/// How often a merge is undone in a row; the package stops there too.
const DEEPEST: usize = 100;

/// A part of the text and its neighbours; an empty one has been merged into the one before it.
struct Symbol {
    previous: Option<usize>,
    next: Option<usize>,
    frozen: bool,
    span: Range<usize>,
}

struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// Cuts normalized text into pieces.
pub(super) fn encode(vocab: &Vocab, text: &str) -> Vec<Span> {
    let mut merger =
        Merger { vocab, text, symbols: symbols(vocab, text), agenda: BinaryHeap::new(), unused: HashMap::new() };
    for right in 1..merger.symbols.len() {
        merger.consider(Some(right - 1), Some(right));
    }
    while let Some(pair) = merger.agenda.pop() {
        merger.merge(&pair);
    }
    merger.pieces()
}

fn symbols(vocab: &Vocab, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::new();
    for (span, frozen) in vocab.characters(text) {
        let index = symbols.len();
        if let Some(last) = symbols.last_mut() {
            last.next = Some(index);
        }
        symbols.push(Symbol { previous: index.checked_sub(1), next: None, frozen, span });
    }
    symbols
}

struct Merger<'a> {
    vocab: &'a Vocab,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// Merges through pieces that must not come out, and what they were made of.
    unused: HashMap<&'a str, (Range<usize>, Range<usize>)>,
}

impl<'a> Merger<'a> {
    /// Puts two neighbours on the agenda if their union is a piece.
    fn consider(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (Some(first), Some(second)) = (self.symbols.get(left), self.symbols.get(right)) else { return };
        if first.frozen || second.frozen {
            return;
        }
        let Some(union) = self.text.get(first.span.start..second.span.end) else { return };
        let Some((id, score)) = self.vocab.merged(union) else { return };
        self.agenda.push(Pair { score, left, right, length: union.len() });
        if self.vocab.is_unused(id) {
            self.unused.insert(union, (first.span.clone(), second.span.clone()));
        }
    }

    fn merge(&mut self, pair: &Pair) {
        let Ok([left, right]) = self.symbols.get_disjoint_mut([pair.left, pair.right]) else { return };
        let stale = left.span.is_empty() || right.span.is_empty();
        if stale || left.span.len() + right.span.len() != pair.length {
            return;
        }
        left.span.end = right.span.end;
        left.next = right.next;
        right.span = right.span.end..right.span.end;
        let (previous, next) = (left.previous, left.next);
        if let Some(next) = next.and_then(|next| self.symbols.get_mut(next)) {
            next.previous = Some(pair.left);
        }
        self.consider(previous, Some(pair.left));
        self.consider(Some(pair.left), next);
    }

    fn pieces(&self) -> Vec<Span> {
        let mut pieces = Vec::new();
        let whole = self.symbols.iter().filter(|symbol| !symbol.span.is_empty());
        let mut open: Vec<(Range<usize>, usize)> = whole.map(|symbol| (symbol.span.clone(), 0)).collect();
        open.reverse();
        while let Some((span, depth)) = open.pop() {
            let text = self.text.get(span.clone()).unwrap_or_default();
            let id = self.vocab.cut(text);
            if depth > DEEPEST || !self.vocab.is_unused(id) {
                pieces.push((span, id));
            } else if let Some((left, right)) = self.unused.get(text) {
                open.extend([(right.clone(), depth + 1), (left.clone(), depth + 1)]);
            } else {
                pieces.push((span, self.vocab.unknown()));
            }
        }
        pieces
    }
}
