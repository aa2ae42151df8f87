use crate::{Error, Result};

/// How to choose tokens and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to make.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; otherwise scores are divided by this and a token is drawn.
    pub temperature: f64,
    /// Draws among this many likeliest tokens (and those as likely as the last of them); 0 for all.
    pub top_k: usize,
    /// Draws among the likeliest tokens that together reach this probability.
    pub top_p: f64,
    /// Divides the positive scores of tokens that the prompt or the answer has, and multiplies the negative ones
    /// (arXiv 1909.05858, section 4.1); 1 for no penalty.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// That every value is in its domain.
    ///
    /// # Errors
    /// [`Error::Input`] names the first that is not.
    pub fn check(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let problems = [
            (self.temperature < 0.0 || !self.temperature.is_finite(), "temperature must be a number from 0"),
            (!(self.top_p > 0.0 && self.top_p <= 1.0), "top_p must be above 0 and at most 1"),
            (!positive(self.repetition_penalty), "repetition_penalty must be a positive number; 1 does nothing"),
            (self.stop.iter().any(String::is_empty), "a stop text is empty; leave it out"),
        ];
        match problems.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, problem)) => Err(Error::Input(problem.into())),
            None => Ok(()),
        }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text, or a stop text appeared.
    Stop,
    /// The limit of new tokens or the longest context was reached.
    Length,
}

impl FinishReason {
    /// `stop` or `length`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// New tokens, with the end token if the model ended the text, as in transformers.
    pub ids: Vec<u32>,
    /// Their text, without special tokens, up to a stop text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}
