//! The vocabulary of a model, with the package's rules of what is looked up where.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::proto::{Piece, PieceKind};
use super::trie::Trie;
use super::{Fault, Outcome};

/// A part of the normalized text and its piece.
pub(super) type Span = (Range<usize>, u32);

/// Bytes that no piece may have.
const LONGEST: usize = 8000;

/// Pieces by id and by text.
#[derive(Debug)]
pub(super) struct Vocab {
    pieces: Vec<Piece>,
    /// Pieces that text is cut into.
    searched: HashMap<Arc<str>, u32>,
    /// Pieces that text never becomes: control symbols, the unknown piece, bytes.
    reserved: HashMap<Arc<str>, u32>,
    /// User-defined symbols, which are found before anything else.
    symbols: Trie,
    unknown: u32,
    bytes: Option<Vec<u32>>,
}

impl Vocab {
    pub(super) fn new(mut pieces: Vec<Piece>, byte_fallback: bool) -> Outcome<Self> {
        let (mut searched, mut reserved) = (HashMap::new(), HashMap::new());
        let mut unknown = None;
        let mut bytes = vec![None; 256];
        for (id, piece) in (0u32..).zip(&mut pieces) {
            if &*piece.text == "\0" && (byte_fallback || piece.kind == PieceKind::Unused) {
                // Some converters write it beside `<0x00>`; the package does not look for it.
                piece.kind = PieceKind::Unused;
                continue;
            }
            check_text(id, piece)?;
            let kept = match piece.kind {
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => &mut searched,
                PieceKind::Unknown | PieceKind::Control | PieceKind::Byte => &mut reserved,
            };
            if let Some(first) = kept.insert(Arc::clone(&piece.text), id) {
                let problem = format!("{:?} occurs twice, as {first} and {id}: train the model again", piece.text);
                return Err(Fault::new("pieces", problem));
            }
            match piece.kind {
                PieceKind::Unknown => {
                    if let Some(first) = unknown.replace(id) {
                        let problem = format!("has two unknown pieces, {first} and {id}; a model has one");
                        return Err(Fault::new("pieces.type", problem));
                    }
                }
                PieceKind::Byte => {
                    let slot = byte_of(&piece.text).and_then(|byte| bytes.get_mut(usize::from(byte)));
                    let Some(slot) = slot.filter(|_| byte_fallback) else { return Err(stray_byte(id, piece)) };
                    *slot = Some(id);
                }
                _ => {}
            }
        }
        let Some(unknown) = unknown.or(byte_fallback.then_some(u32::MAX)) else {
            return Err(Fault::new("pieces", "has no unknown piece (type 2); train the model again"));
        };
        let symbols = (0u32..).zip(&pieces).filter(|(_, piece)| piece.kind == PieceKind::UserDefined);
        let symbols = Trie::new(symbols.map(|(id, piece)| (&*piece.text, id)));
        let bytes = if byte_fallback { Some(all_bytes(bytes)?) } else { None };
        Ok(Vocab { pieces, searched, reserved, symbols, unknown, bytes })
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn piece(&self, id: u32) -> Option<&Piece> {
        usize::try_from(id).ok().and_then(|id| self.pieces.get(id))
    }

    pub(super) fn kind(&self, id: u32) -> Option<PieceKind> {
        Some(self.piece(id)?.kind)
    }

    /// The unknown piece; no piece's id in a model that has all bytes instead.
    pub(super) fn unknown(&self) -> u32 {
        self.unknown
    }

    pub(super) fn is_unknown(&self, id: u32) -> bool {
        id == self.unknown
    }

    pub(super) fn symbols(&self) -> &Trie {
        &self.symbols
    }

    /// The pieces that text is cut into, in no order.
    pub(super) fn searched(&self) -> impl Iterator<Item = (&str, u32)> {
        self.searched.iter().map(|(text, &id)| (&**text, id))
    }

    /// The id of a piece, whatever its kind.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.reserved.get(text).or_else(|| self.searched.get(text)).copied()
    }

    /// The piece that text is cut into, the unknown piece for others.
    pub(super) fn cut(&self, text: &str) -> u32 {
        self.searched.get(text).copied().unwrap_or(self.unknown)
    }

    /// A piece that two neighbours may become, and its score.
    pub(super) fn merged(&self, text: &str) -> Option<(u32, f32)> {
        let id = *self.searched.get(text)?;
        Some((id, self.piece(id)?.score))
    }

    pub(super) fn is_unused(&self, id: u32) -> bool {
        self.kind(id) == Some(PieceKind::Unused)
    }

    /// The pieces of bytes, if the model has them.
    pub(super) fn bytes(&self) -> Option<&[u32]> {
        self.bytes.as_deref()
    }

    /// Characters of a text, user-defined symbols whole; the flag says which are such.
    pub(super) fn characters<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Range<usize>, bool)> + 'a {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = text.get(at..)?;
            let symbol = self.symbols.longest(rest.as_bytes());
            let length = symbol.or_else(|| rest.chars().next().map(char::len_utf8))?;
            at += length;
            Some((at - length..at, symbol.is_some()))
        })
    }
}

fn check_text(id: u32, piece: &Piece) -> Outcome<()> {
    if piece.text.is_empty() {
        return Err(Fault::new("pieces.piece", format!("of entry {id} is empty; the file is damaged: fetch it again")));
    }
    if piece.text.len() >= LONGEST {
        let problem = format!("of entry {id} has {} bytes; the package takes less than {LONGEST}", piece.text.len());
        return Err(Fault::new("pieces.piece", problem));
    }
    if piece.text.contains('\0') {
        let problem = format!("of entry {id} has a zero byte, which ends strings in the package: train without it");
        return Err(Fault::new("pieces.piece", problem));
    }
    Ok(())
}

fn stray_byte(id: u32, piece: &Piece) -> Fault {
    let problem = format!("{:?} of entry {id} is marked as a byte, but is none or `byte_fallback` is off", piece.text);
    Fault::new("pieces.piece", problem)
}

/// The byte that a piece such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = digits.len() == 2 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    u8::from_str_radix(digits, 16).ok().filter(|_| upper)
}

fn all_bytes(bytes: Vec<Option<u32>>) -> Outcome<Vec<u32>> {
    let missing = bytes.iter().position(Option::is_none);
    if let Some(byte) = missing {
        let problem = format!("lacks <0x{byte:02X}>, but `byte_fallback` needs all 256 bytes: train the model again");
        return Err(Fault::new("pieces", problem));
    }
    Ok(bytes.into_iter().flatten().collect())
}
