//! Continuing prompts with images: token by token, several at a time.

mod cache;
mod options;
mod scores;
mod text;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

pub use cache::Generator;
pub use options::{FinishReason, GenerateOptions, Generation};
use text::TextStream;
use vila_autograd::ParamStore;
use vila_engine::{Backend, NO_ROW, philox};

use crate::image::ImageProcessor;
use crate::tokenizer::{Tokenizer, place_images};
use crate::{Document, Error, Images, PackedBatch, Result, Vila, VilaModel};

/// A text to continue. `<image>` marks where an image goes; with no mark, images come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Image files, in the order of the marks.
    pub images: Vec<PathBuf>,
    /// Bytes of the text at which earlier answers begin ([`crate::template::Rendered::trained`]).
    pub answers: Vec<usize>,
    /// Which random numbers choose its tokens.
    pub draw: Draw,
}

/// Random numbers of one answer. Those of two draws are independent; those of one are the same in every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// Which prompt: a line of a file, a turn of a conversation.
    pub prompt: u64,
    /// Which answer to that prompt.
    pub sample: u64,
}

impl Draw {
    /// The seed of its numbers: the first draw has the seed that is given.
    fn seed(self, seed: u64) -> u64 {
        if self == Draw::default() {
            return seed;
        }
        let [low, high, ..] = philox::words(seed, self.prompt, self.sample);
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Continues a prompt with images to the end.
///
/// # Errors
/// As [`Vila::generate`].
pub fn generate(vila: &Vila, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<Generation> {
    vila.parts().generate(prompt, images, options)
}

/// Continues token ids; `pixels` are those of the images at the placeholders ([`vila_engine::NO_ROW`]), in order.
pub fn generate_ids(vila: &Vila, tokens: Vec<u32>, pixels: Vec<f32>, options: &GenerateOptions) -> Result<Generation> {
    vila.parts().generate_ids(tokens, pixels, options)
}

impl Vila {
    /// Continues a prompt with images; iterate over the result for tokens as they are made, or
    /// [finish](Tokens::finish) it for the whole text.
    ///
    /// `<image>` in the prompt marks where an image goes; with no mark, images come first.
    ///
    /// # Errors
    /// [`Error::Input`] if marks and images differ in number, the prompt exceeds the context or an option its domain;
    /// image errors.
    pub fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<Tokens<'_>> {
        self.stream(&Prompt { text: prompt.to_string(), images: images.to_vec(), ..Prompt::default() }, options)
    }

    /// As [`Vila::generate`], with the prompt's own random numbers.
    ///
    /// # Errors
    /// As [`Vila::generate`].
    pub fn stream(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<Tokens<'_>> {
        let batch = self.parts().start(std::slice::from_ref(prompt), options)?;
        Ok(Tokens { batch, ready: VecDeque::new() })
    }
}

/// What generation needs: of a loaded model, or of one that is being trained.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The device.
    pub backend: &'a dyn Backend,
    /// The weights.
    pub store: &'a ParamStore,
    /// The computation.
    pub model: &'a VilaModel,
    /// Text to ids and back.
    pub tokenizer: &'a Tokenizer,
    /// Files to pixels.
    pub processor: &'a ImageProcessor,
    /// Where the weights come from, for messages.
    pub dir: Option<&'a Path>,
}

impl<'a> Parts<'a> {
    /// See [`generate`].
    pub fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<Generation> {
        let prompt = Prompt { text: prompt.to_string(), images: images.to_vec(), ..Prompt::default() };
        single(self.start(&[prompt], options)?.finish()?)
    }

    /// See [`generate_ids`].
    pub fn generate_ids(&self, tokens: Vec<u32>, pixels: Vec<f32>, options: &GenerateOptions) -> Result<Generation> {
        single(TokenBatch::new(*self, vec![(tokens, Draw::default())], pixels, options)?.finish()?)
    }

    /// Continues several prompts side by side, each exactly as if it were alone.
    ///
    /// # Errors
    /// As [`Vila::generate`].
    pub fn start(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<TokenBatch<'a>> {
        let (mut documents, mut pixels) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let text = place_images(&prompt.text, prompt.images.len())?;
            let moved = text.len() - prompt.text.len();
            let answers: Vec<usize> = prompt.answers.iter().map(|answer| answer + moved).collect();
            documents.push((self.tokenizer.encode_conversation(&text, &answers)?, prompt.draw));
            for image in &prompt.images {
                pixels.extend(self.processor.load(image)?);
            }
        }
        TokenBatch::new(*self, documents, pixels, options)
    }

    /// Tokens that end the text: the model's own, and stop texts that are one token, which the text may not show.
    fn ends(&self, options: &GenerateOptions) -> Vec<u32> {
        let eos = &self.model.config().llm.eos;
        let own = if eos.is_empty() { self.tokenizer.eos().into_iter().collect() } else { eos.clone() };
        own.into_iter().chain(options.stop.iter().filter_map(|stop| self.tokenizer.token_id(stop))).collect()
    }

    /// Tokens of a prompt as transformers counts them: an image is the token that stands for it, if there is one.
    fn history(&self, prompt: Vec<u32>) -> Vec<u32> {
        let image = self.model.config().image_token.or(self.tokenizer.image_token());
        prompt.into_iter().filter_map(|token| if token == NO_ROW { image } else { Some(token) }).collect()
    }
}

fn single(generations: Vec<Generation>) -> Result<Generation> {
    generations.into_iter().next().ok_or_else(|| Error::Input("there is no prompt".into()))
}

/// A new token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which of the prompts.
    pub prompt: usize,
    /// Its id.
    pub id: u32,
    /// Text that is settled with it: may be empty, while a character or a stop text is not whole. All of a prompt's pieces
    /// together are its answer.
    pub text: String,
    /// Why the answer ends here, if it does.
    pub finish: Option<FinishReason>,
}

/// Prompts being continued side by side: an iterator over steps, each a new token of every prompt that has not ended.
pub struct TokenBatch<'a> {
    parts: Parts<'a>,
    options: GenerateOptions,
    generator: Option<Generator<'a>>,
    /// What the first scores are computed from.
    packed: Option<PackedBatch>,
    members: Vec<Member>,
    ends: Vec<u32>,
    /// Prompts that go on.
    live: Vec<usize>,
    /// Tokens of the last step of those that went on.
    last: Vec<u32>,
}

/// One prompt.
struct Member {
    /// The prompt's tokens.
    prompt: Vec<u32>,
    /// Of its draws.
    seed: u64,
    answer: TextStream,
    limit: usize,
    finish: FinishReason,
}

impl<'a> TokenBatch<'a> {
    fn new(
        parts: Parts<'a>,
        prompts: Vec<(Vec<u32>, Draw)>,
        pixels: Vec<f32>,
        options: &GenerateOptions,
    ) -> Result<Self> {
        options.check()?;
        let config = parts.model.config();
        let images = if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) };
        let documents: Vec<Document> = prompts.iter().map(|(tokens, _)| Document::prompt(tokens.clone())).collect();
        let packed = PackedBatch::new(&documents, images, config.tokens_per_image(), 1)?;
        let (mut members, mut capacities) = (Vec::new(), Vec::new());
        for ((prompt, draw), ends) in prompts.into_iter().zip(packed.cu_seqlens.windows(2)) {
            let positions = (ends[1] - ends[0]) as usize;
            let room = config.llm.max_positions.saturating_sub(positions);
            if room == 0 || positions == 0 {
                return Err(Error::Input(format!(
                    "the prompt takes {positions} positions, the model's context is {}; use fewer images or less text",
                    config.llm.max_positions
                )));
            }
            let limit = options.max_new_tokens.min(room);
            capacities.push(positions + limit);
            let answer = TextStream::new(options.stop.clone());
            let (prompt, seed) = (parts.history(prompt), draw.seed(options.seed));
            members.push(Member { prompt, seed, answer, limit, finish: FinishReason::Length });
        }
        let any = options.max_new_tokens > 0 && !members.is_empty();
        let Parts { backend, store, model, .. } = parts;
        let generator = any.then(|| Generator::new(backend, store, model, &packed, &capacities)).transpose()?;
        let live = if any { (0..members.len()).collect() } else { Vec::new() };
        let ends = parts.ends(options);
        let (options, packed) = (options.clone(), Some(packed));
        Ok(TokenBatch { parts, options, generator, packed, members, ends, live, last: Vec::new() })
    }

    /// Runs what is left; the answers in the order of the prompts.
    pub fn finish(mut self) -> Result<Vec<Generation>> {
        for step in &mut self {
            step?;
        }
        let generation = |member: Member| {
            let (ids, text) = member.answer.into_parts();
            Generation { ids, text, finish: member.finish }
        };
        Ok(self.members.into_iter().map(generation).collect())
    }

    fn step(&mut self) -> Result<Vec<Token>> {
        let Some(generator) = &mut self.generator else { return Ok(Vec::new()) };
        let backend = self.parts.backend;
        if !self.last.is_empty() {
            generator.advance(&backend.upload_u32(&self.last)?)?;
        }
        let mut logits = generator.logits()?;
        let (rows, cols) = logits.shape();
        let what = |row: usize| {
            let prompt = self.live[row];
            format!("the scores of token {} after prompt {}", self.members[prompt].answer.ids().len() + 1, prompt + 1)
        };
        let mut values = self.parts.finite_scores(&logits, what, self.packed.take().as_ref())?;
        if scores::changes(&self.options) {
            for (scores, &index) in values.chunks_mut(cols.max(1)).zip(&self.live) {
                let member = &self.members[index];
                let history: Vec<u32> = member.prompt.iter().chain(member.answer.ids()).copied().collect();
                scores::change(scores, &history, &self.options);
            }
            logits = backend.upload_f32(rows, cols, &values)?;
        }
        let seeds: Vec<u64> = self.live.iter().map(|&index| self.members[index].seed).collect();
        let chosen = generator.choose(&logits, &self.options, &seeds)?;
        let chosen = backend.to_vec::<u32>(&chosen)?;
        let tokens: Vec<Token> = self
            .live
            .iter()
            .zip(chosen)
            .map(|(&prompt, id)| self.members[prompt].take(prompt, id, self.ends.contains(&id), self.parts.tokenizer))
            .collect::<Result<_>>()?;
        let keep: Vec<bool> = tokens.iter().map(|token| token.finish.is_none()).collect();
        self.live = tokens.iter().filter(|token| token.finish.is_none()).map(|token| token.prompt).collect();
        self.last = tokens.iter().filter(|token| token.finish.is_none()).map(|token| token.id).collect();
        generator.retain(&keep);
        Ok(tokens)
    }
}

impl Member {
    fn take(&mut self, prompt: usize, id: u32, ends: bool, tokenizer: &Tokenizer) -> Result<Token> {
        let stopped = self.answer.push(id, tokenizer.is_byte(id), |ids| tokenizer.decode(ids))? || ends;
        let full = self.answer.ids().len() >= self.limit;
        if stopped {
            self.finish = FinishReason::Stop;
        }
        let ended = stopped || full;
        let text = if ended { self.answer.rest() } else { self.answer.settled() };
        Ok(Token { prompt, id, text, finish: ended.then_some(self.finish) })
    }
}

impl Iterator for TokenBatch<'_> {
    type Item = Result<Vec<Token>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.live.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.live.clear();
        }
        Some(step)
    }
}

/// A prompt being continued: an iterator over its new tokens.
pub struct Tokens<'a> {
    batch: TokenBatch<'a>,
    ready: VecDeque<Token>,
}

impl Tokens<'_> {
    /// Runs what is left and returns the whole answer.
    pub fn finish(self) -> Result<Generation> {
        single(self.batch.finish()?)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            match self.batch.next()? {
                Ok(step) => self.ready.extend(step),
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use vila_engine::CpuBackend;

    use super::*;

    #[test]
    fn a_penalty_counts_the_image_token_where_the_model_has_one() {
        let history = |layout: &str| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/layouts").join(layout);
            let vila = Vila::load_mapped(&dir, Arc::new(CpuBackend::fast())).expect("load");
            vila.parts().history(vec![1, NO_ROW, 5, NO_ROW])
        };
        assert_eq!(history("llava-hf"), [1, 511, 5, 511]);
        assert_eq!(history("cases/bias-base/vila"), [1, 5]);
    }

    #[test]
    fn draws_have_seeds_of_their_own_and_the_first_that_which_is_given() {
        let seed = |prompt, sample| Draw { prompt, sample }.seed(7);
        let seeds = [seed(0, 0), seed(0, 1), seed(1, 0), seed(1, 1), seed(2, 0)];
        assert_eq!(seeds[0], 7);
        assert!(seeds.iter().enumerate().all(|(index, seed)| !seeds[..index].contains(seed)), "{seeds:?}");
    }
}
