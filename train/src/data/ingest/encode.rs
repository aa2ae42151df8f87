//! A document's tokens, and which of them are learned.

use vila_model::turns::{Encode, Turns};

use super::super::tokens::{IMAGE_MARK, IMAGE_PLACEHOLDER, Span, Tokenize, TokenizeError};
use super::document::{Document, DocumentEnd};
use super::error::Problem;
use super::options::{TokenLimit, TooLong};

/// A document as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, [`IMAGE_PLACEHOLDER`] where an image goes.
    pub tokens: Vec<u32>,
    /// For each token, whether it is a prediction target.
    pub loss: Vec<bool>,
    /// Number of images kept.
    pub images: usize,
    /// Whether the document was longer than the limit and lost its end.
    pub cut: bool,
}

/// Tokenises a document.
///
/// Trained ranges begin where prompts end, and the tokens before them are those of the prompt. A token is a target if it
/// comes after them and begins before the range's end; the token that begins the document and images never are.
///
/// # Errors
/// The tokenizer fails, marks and images disagree, there is no text or nothing to learn, or the document is too long and is
/// not to be cut.
pub fn encode_document(
    tokenizer: &dyn Tokenize,
    document: &Document,
    limit: Option<TokenLimit>,
    too_long: TooLong,
) -> Result<Encoded, Problem> {
    let cuts: Vec<usize> = document.trained.iter().map(|trained| trained.start).collect();
    let Turns { spans, starts } = Turns::encode(&WithImages(tokenizer), &document.text, &cuts)?;
    let marks = spans.iter().filter(|(token, _)| *token == IMAGE_PLACEHOLDER).count();
    if marks != document.images.len() {
        return Err(Problem::CountMismatch { marks, images: document.images.len() });
    }
    if marks == spans.len() {
        return Err(Problem::Empty);
    }
    let mut encoded = Encoded { images: marks, ..Encoded::default() };
    if let Some(bos) = tokenizer.bos() {
        encoded.push(bos, false);
    }
    let first = encoded.tokens.len();
    spans.iter().for_each(|(token, _)| encoded.push(*token, false));
    for (trained, start) in document.trained.iter().zip(starts) {
        let targets = spans.iter().zip(&mut encoded.loss[first..]).skip(start);
        let targets = targets.take_while(|((_, span), _)| span.start < trained.end);
        targets.for_each(|((token, _), target)| *target = *token != IMAGE_PLACEHOLDER);
    }
    match document.end {
        DocumentEnd::Open => {}
        DocumentEnd::Closed => encoded.push(tokenizer.eos(), false),
        DocumentEnd::ClosedAndTrained => encoded.push(tokenizer.eos(), true),
    }
    if let Some(limit) = limit {
        encoded.fit(limit, too_long)?;
    }
    // Nothing stands before the first token that could predict it.
    if let Some(first) = encoded.loss.first_mut() {
        *first = false;
    }
    if encoded.loss.contains(&true) { Ok(encoded) } else { Err(Problem::NoTarget) }
}

impl Encoded {
    fn push(&mut self, token: u32, target: bool) {
        self.tokens.push(token);
        self.loss.push(target);
    }

    /// Holds a document to its limit.
    fn fit(&mut self, limit: TokenLimit, too_long: TooLong) -> Result<(), Problem> {
        let kept = fitting(&self.tokens, limit);
        if kept == self.tokens.len() {
            return Ok(());
        }
        let length = self.tokens.len() + self.images * limit.per_image - self.images;
        let learns = self.loss.iter().take(kept).skip(1).any(|&target| target);
        match too_long {
            TooLong::Cut if !self.loss.contains(&true) => Err(Problem::NoTarget),
            TooLong::Cut if !learns => Err(Problem::CutLeavesNoAnswer { length, limit: limit.tokens }),
            TooLong::Skip | TooLong::Stop => Err(Problem::TooLong { length, limit: limit.tokens }),
            TooLong::Cut => {
                self.cut = true;
                self.tokens.truncate(kept);
                self.loss.truncate(kept);
                self.images = self.tokens.iter().filter(|&&token| token == IMAGE_PLACEHOLDER).count();
                Ok(())
            }
        }
    }
}

/// A tokenizer for which image marks become placeholders.
struct WithImages<'a>(&'a dyn Tokenize);

impl Encode for WithImages<'_> {
    type Error = TokenizeError;

    fn encode(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        encode_with_images(self.0, text)
    }

    fn parts_text(&self, id: u32) -> bool {
        id == IMAGE_PLACEHOLDER || self.0.is_added(id)
    }
}

/// How many tokens fit; an image that does not fit whole does not.
pub(crate) fn fitting(tokens: &[u32], limit: TokenLimit) -> usize {
    let mut length = 0usize;
    let fits = |token: &&u32| {
        length = length.saturating_add(if **token == IMAGE_PLACEHOLDER { limit.per_image } else { 1 });
        length <= limit.tokens
    };
    tokens.iter().take_while(fits).count()
}

/// Tokens of a text in which image marks become placeholders.
///
/// A tokenizer that knows the mark sees the whole text, as Hugging Face processors do it; otherwise each piece
/// between marks is tokenised by itself, as the original code does it.
fn encode_with_images(tokenizer: &dyn Tokenize, text: &str) -> Result<Vec<Span>, TokenizeError> {
    if let Some(image) = tokenizer.image_token() {
        let mut spans = tokenizer.encode_with_offsets(text)?;
        for (token, _) in spans.iter_mut().filter(|(token, _)| *token == image) {
            *token = IMAGE_PLACEHOLDER;
        }
        return Ok(spans);
    }
    let mut spans = Vec::new();
    let mut start = 0;
    for (index, chunk) in text.split(IMAGE_MARK).enumerate() {
        if index > 0 {
            spans.push((IMAGE_PLACEHOLDER, start..start + IMAGE_MARK.len()));
            start += IMAGE_MARK.len();
        }
        if !chunk.is_empty() {
            let encoded = tokenizer.encode_with_offsets(chunk)?;
            spans.extend(encoded.into_iter().map(|(token, range)| (token, range.start + start..range.end + start)));
        }
        start += chunk.len();
    }
    Ok(spans)
}
