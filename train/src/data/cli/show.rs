//! `vila data show`: a few documents as they will be trained on.

use std::path::Path;

use vila_model::tokenizer::Tokenizer;

use super::super::shard::{ImageId, SampleView, ShardReader};
use super::super::tokens::IMAGE_PLACEHOLDER;
use super::{DataError, html, stored_tokenizer};

/// Some documents of a shard, ready to be looked at.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The documents as text: `<image:file>` for an image, `[[..]]` around what is learned.
    pub text: String,
    /// How many documents there are in it.
    pub documents: usize,
}

/// A stretch of a document.
pub(super) enum Piece {
    /// Text, and whether it is learned.
    Text { text: String, learned: bool },
    /// An image.
    Image(ImageId),
}

/// Shows `count` random documents, in the order in which they are stored; `html` additionally writes them, with their
/// images, as one self-contained page.
///
/// # Errors
/// The shard is damaged, or the page cannot be written.
pub fn show(dir: &Path, count: usize, seed: u64, html: Option<&Path>) -> Result<Shown, DataError> {
    let reader = ShardReader::open(dir)?;
    let tokenizer = stored_tokenizer(&reader)?;
    let mut documents = Vec::new();
    for index in choose(reader.len(), count, seed) {
        let view = reader.sample(index)?;
        let pieces =
            pieces(&view, tokenizer.as_ref()).map_err(|source| DataError::Decode { dir: dir.to_owned(), source })?;
        documents.push((index, view, pieces));
    }
    if let Some(path) = html {
        let page = html::page(&reader, &documents)?;
        html::write(path, &page).map_err(|source| DataError::Page { path: path.to_owned(), source })?;
    }
    let mut text = String::new();
    for (index, view, pieces) in &documents {
        let record = &view.record;
        text.push_str(&format!(
            "--- document {index} ({}): {} tokens, {} learned, {} images\n",
            reader.origin(record),
            record.token_count,
            record.target_count,
            record.image_count
        ));
        for piece in pieces {
            match piece {
                Piece::Text { text: words, learned: false } => text.push_str(words),
                Piece::Text { text: words, learned: true } => text.push_str(&format!("[[{words}]]")),
                Piece::Image(image) => text.push_str(&format!("<image:{}>", reader.image_name(*image)?)),
            }
        }
        text.push('\n');
    }
    Ok(Shown { text, documents: documents.len() })
}

/// `count` different indices below `len`, in rising order, as the seed decides.
fn choose(len: u64, count: usize, seed: u64) -> Vec<u64> {
    let count = (count as u64).min(len) as usize;
    if count as u64 * 2 >= len {
        return (0..len).take(count).collect();
    }
    let mut state = seed;
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < count {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chosen.insert((z ^ (z >> 31)) % len);
    }
    chosen.into_iter().collect()
}

/// Cuts a document where images stand and where learning begins or ends.
fn pieces(view: &SampleView<'_>, tokenizer: Option<&Tokenizer>) -> Result<Vec<Piece>, vila_model::Error> {
    let mut pieces = Vec::new();
    let mut images = view.images.iter();
    let mut words = Words { tokenizer, before: Vec::new() };
    let mut start = 0;
    while start < view.tokens.len() {
        if view.tokens[start] == IMAGE_PLACEHOLDER {
            pieces.extend(images.next().map(|&image| Piece::Image(image)));
            start += 1;
            continue;
        }
        let learned = view.loss.get(start);
        let same = |&index: &usize| view.tokens[index] != IMAGE_PLACEHOLDER && view.loss.get(index) == learned;
        let end = start + (start..view.tokens.len()).take_while(same).count();
        pieces.push(Piece::Text { text: words.next(&view.tokens[start..end])?, learned });
        start = end;
    }
    Ok(pieces)
}

/// Decodes a document piece by piece, so that the pieces joined are the text of the whole.
struct Words<'a> {
    tokenizer: Option<&'a Tokenizer>,
    /// The last tokens of the pieces before, which may decide how the next one begins.
    before: Vec<u32>,
}

/// How many tokens before a piece are decoded with it: more than a character of byte tokens has. All of them would make the
/// work grow with the square of a document's turns.
const CONTEXT: usize = 16;

impl Words<'_> {
    fn next(&mut self, tokens: &[u32]) -> Result<String, vila_model::Error> {
        let Some(tokenizer) = self.tokenizer else {
            return Ok(tokens.iter().map(|token| format!("{token} ")).collect());
        };
        let before = tokenizer.decode_all(&self.before)?;
        self.before.extend(tokens);
        let text = tokenizer.decode_all(&self.before)?;
        self.before.drain(..self.before.len().saturating_sub(CONTEXT));
        match text.strip_prefix(&before) {
            Some(new) => Ok(new.to_owned()),
            None => tokenizer.decode_all(tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn choices_are_distinct_sorted_and_seeded() {
        let chosen = choose(1_000, 50, 1);
        assert!(chosen.len() == 50 && chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[49] < 1_000);
        assert_ne!(chosen, choose(1_000, 50, 2));
        assert_eq!(choose(3, 9, 0), [0, 1, 2]);
        assert!(choose(0, 9, 0).is_empty());
    }
}
