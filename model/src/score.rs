use std::path::PathBuf;

use crate::tokenizer::place_images;
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

/// Scores `continuation` after `prompt`: the prompt is tokenized with its start token, the continuation without.
///
/// # Errors
/// As [`crate::generate`]; [`Error::Input`] for a continuation without tokens or with an image.
pub fn score(vila: &Vila, prompt: &str, continuation: &str, images: &[PathBuf]) -> Result<Score> {
    let (prompt, tokens) = (prompt_tokens(vila, prompt, images)?, continuation_tokens(vila, continuation)?);
    let logits = predictions(vila, prompt, &tokens, &load(vila, images)?)?;
    scored(tokens, &logits)
}

/// Scores each of several continuations; those of one token each share one pass over the prompt.
///
/// # Errors
/// As [`score`].
pub fn score_all(vila: &Vila, prompt: &str, continuations: &[String], images: &[PathBuf]) -> Result<Vec<Score>> {
    let tokens: Vec<Vec<u32>> =
        continuations.iter().map(|text| continuation_tokens(vila, text)).collect::<Result<_>>()?;
    let (prompt, images) = (prompt_tokens(vila, prompt, images)?, load(vila, images)?);
    match tokens.first() {
        Some(first) if tokens.iter().all(|tokens| tokens.len() == 1) => {
            let logits = predictions(vila, prompt, first, &images)?;
            tokens.into_iter().map(|tokens| scored(tokens, &logits)).collect()
        }
        _ => {
            let each = |tokens: Vec<u32>| scored(tokens.clone(), &predictions(vila, prompt.clone(), &tokens, &images)?);
            tokens.into_iter().map(each).collect()
        }
    }
}

fn prompt_tokens(vila: &Vila, prompt: &str, images: &[PathBuf]) -> Result<Vec<u32>> {
    let prompt = vila.tokenizer.encode_prompt(&place_images(prompt, images.len())?)?;
    if prompt.is_empty() {
        return Err(Error::Input("a continuation needs a token before it; give a prompt".into()));
    }
    Ok(prompt)
}

fn continuation_tokens(vila: &Vila, continuation: &str) -> Result<Vec<u32>> {
    let tokens = vila.tokenizer.encode(continuation)?;
    if tokens.is_empty() || tokens.contains(&vila_engine::NO_ROW) {
        return Err(Error::Input(
            "a continuation needs at least one token and no <image>; move images to the prompt".into(),
        ));
    }
    Ok(tokens)
}

fn load(vila: &Vila, images: &[PathBuf]) -> Result<Images> {
    let pixels = vila.load_images(images)?;
    Ok(if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) })
}

/// Scores of the whole vocabulary for each token of a continuation, from the row before it.
fn predictions(vila: &Vila, prompt: Vec<u32>, tokens: &[u32], images: &Images) -> Result<Vec<Vec<f32>>> {
    let document = Document::prompt([&prompt[..], tokens].concat());
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
