use std::path::PathBuf;

use vila_engine::NO_ROW;

use crate::tokenizer::{Tokenizer, place_images};
use crate::{Document, Error, Images, PackedBatch, Result, Vila};

/// Log-likelihood of a continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Sum over the continuation's tokens, natural logarithm.
    pub logprob: f64,
    /// Whether greedy generation would give exactly these tokens.
    pub greedy: bool,
    /// The continuation's tokens.
    pub tokens: Vec<u32>,
    /// One value per token.
    pub token_logprobs: Vec<f64>,
}

/// Scores `continuation` after `prompt`: both are tokenized together, with the start token, and then divided.
///
/// As in lm-evaluation-harness, blanks at the prompt's end belong to the continuation, and the continuation's tokens are
/// those after as many as the prompt alone has. If none are left, because the two melt into one token, it is that token.
///
/// # Errors
/// As [`crate::generate`]; [`Error::Input`] for a continuation without tokens or with an image.
pub fn score(vila: &Vila, prompt: &str, continuation: &str, images: &[PathBuf]) -> Result<Score> {
    let Divided { prompt, tokens } = Divided::new(&vila.tokenizer, &place_images(prompt, images.len())?, continuation)?;
    score_pixels(vila, prompt, tokens, &load(vila, images)?)
}

/// Scores the ids `continuation` after the ids `prompt`; `pixels` are those of the images at the placeholders
/// ([`vila_engine::NO_ROW`]), in order.
///
/// # Errors
/// As [`score`].
pub fn score_ids(vila: &Vila, prompt: Vec<u32>, continuation: Vec<u32>, pixels: Vec<f32>) -> Result<Score> {
    let images = if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) };
    let Divided { prompt, tokens } = Divided { prompt, tokens: continuation }.checked()?;
    score_pixels(vila, prompt, tokens, &images)
}

/// Scores each of several continuations; those of one token each share one pass over the prompt.
///
/// # Errors
/// As [`score`].
pub fn score_all(vila: &Vila, prompt: &str, continuations: &[String], images: &[PathBuf]) -> Result<Vec<Score>> {
    let text = place_images(prompt, images.len())?;
    let divide = |continuation: &String| Divided::new(&vila.tokenizer, &text, continuation);
    let divided: Vec<Divided> = continuations.iter().map(divide).collect::<Result<_>>()?;
    let images = load(vila, images)?;
    match divided.first() {
        Some(first) if divided.iter().all(|one| one.tokens.len() == 1 && one.prompt == first.prompt) => {
            let logits = predictions(vila, &first.prompt, &first.tokens, &images)?;
            divided.into_iter().map(|one| scored(one.tokens, &logits)).collect()
        }
        _ => divided.into_iter().map(|one| score_pixels(vila, one.prompt, one.tokens, &images)).collect(),
    }
}

/// The tokens of a prompt with its continuation, divided.
struct Divided {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

impl Divided {
    fn new(tokenizer: &Tokenizer, prompt: &str, continuation: &str) -> Result<Self> {
        let given = prompt.trim_end();
        let whole = tokenizer.encode_with_offsets(&format!("{prompt}{continuation}"))?;
        let alone = tokenizer.encode(given)?;
        let length = match alone.len() {
            length if length < whole.len() => length,
            _ => whole.iter().take_while(|(_, span)| span.end <= given.len()).count(),
        };
        let mut prompt: Vec<u32> = tokenizer.bos().into_iter().chain(whole.into_iter().map(|(id, _)| id)).collect();
        let tokens = prompt.split_off(length + usize::from(tokenizer.bos().is_some()));
        Divided { prompt, tokens }.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.prompt.is_empty() {
            return Err(Error::Input("a continuation needs a token before it; give a prompt".into()));
        }
        if self.tokens.is_empty() || self.tokens.contains(&NO_ROW) {
            return Err(Error::Input(
                "a continuation needs at least one token and no <image>; move images to the prompt".into(),
            ));
        }
        Ok(self)
    }
}

fn score_pixels(vila: &Vila, prompt: Vec<u32>, tokens: Vec<u32>, images: &Images) -> Result<Score> {
    let logits = predictions(vila, &prompt, &tokens, images)?;
    scored(tokens, &logits)
}

fn load(vila: &Vila, images: &[PathBuf]) -> Result<Images> {
    let pixels = vila.load_images(images)?;
    Ok(if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) })
}

/// Scores of the whole vocabulary for each token of a continuation, from the row before it.
fn predictions(vila: &Vila, prompt: &[u32], tokens: &[u32], images: &Images) -> Result<Vec<Vec<f32>>> {
    let document = Document::prompt([prompt, tokens].concat());
    let batch = PackedBatch::new(&[document], images.clone(), vila.config.tokens_per_image(), 1)?;
    let mut tape = vila.tape();
    let hidden = vila.model.hidden(&mut tape, &batch)?;
    let rows = hidden.tensor().rows();
    let predicting = hidden.tensor().slice_rows(rows - tokens.len() - 1..rows - 1)?;
    let predicting = tape.input(predicting, false);
    let logits = vila.model.logits(&mut tape, &predicting)?;
    let what = |row: usize| format!("the scores of token {} of the continuation", row + 1);
    let (vocab, logits) = (logits.cols(), vila.parts().finite_scores(&logits, what, Some(&batch))?);
    Ok(logits.chunks(vocab.max(1)).map(<[f32]>::to_vec).collect())
}

fn scored(tokens: Vec<u32>, logits: &[Vec<f32>]) -> Result<Score> {
    let mut result = Score { logprob: 0.0, greedy: true, tokens, token_logprobs: Vec::new() };
    for (&token, logits) in result.tokens.iter().zip(logits) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        let wanted = logits.get(token as usize).copied().ok_or_else(|| {
            Error::Input(format!(
                "token {token} is outside the model's vocabulary of {}; use the model's own tokenizer",
                logits.len()
            ))
        })?;
        result.token_logprobs.push(f64::from(wanted - max) - total.ln());
        result.greedy &= argmax(logits) == token;
    }
    result.logprob = result.token_logprobs.iter().sum();
    Ok(result)
}

/// The likeliest token, the first among equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best: Option<usize> = None;
    for (token, &score) in logits.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|best| score > logits[best]) {
            best = Some(token);
        }
    }
    best.unwrap_or(0) as u32
}
