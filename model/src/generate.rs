use std::path::PathBuf;

use vila_autograd::{ParamStore, Tape, Var};
use vila_engine::ops::{Attention, Copy, Sample};
use vila_engine::{Backend, DType, Tensor, ops};

use crate::image::ImageProcessor;
use crate::llama::Stream;
use crate::tokenizer::{Tokenizer, place_images};
use crate::{Document, Error, Images, PackedBatch, Result, Vila, VilaModel};

/// How to choose tokens and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to make.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; otherwise scores are divided by this and a token is drawn.
    pub temperature: f64,
    /// Draws among the likeliest tokens that together reach this probability.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_new_tokens: 128, temperature: 0.0, top_p: 1.0, seed: 0 }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text.
    Stop,
    /// The limit of new tokens or the longest context was reached.
    Length,
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// New tokens, with the end token if the model ended the text, as in transformers.
    pub ids: Vec<u32>,
    /// Their text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}

/// Continues a prompt with images.
///
/// `<image>` in the prompt marks where an image goes; with no mark, images come first.
///
/// # Errors
/// [`Error::Input`] if marks and images differ in number or the prompt exceeds the context; image errors.
pub fn generate(vila: &Vila, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<Generation> {
    vila.parts().generate(prompt, images, options)
}

/// Continues token ids; `pixels` are those of the images at the placeholders ([`vila_engine::NO_ROW`]), in order.
pub fn generate_ids(vila: &Vila, tokens: Vec<u32>, pixels: Vec<f32>, options: &GenerateOptions) -> Result<Generation> {
    vila.parts().generate_ids(tokens, pixels, options)
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
}

impl Parts<'_> {
    /// See [`generate`].
    pub fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<Generation> {
        let prompt = place_images(prompt, images.len())?;
        let tokens = self.tokenizer.encode_prompt(&prompt)?;
        let mut pixels = Vec::new();
        for image in images {
            pixels.extend(self.processor.load(image)?);
        }
        self.generate_ids(tokens, pixels, options)
    }

    /// See [`generate_ids`].
    pub fn generate_ids(&self, tokens: Vec<u32>, pixels: Vec<f32>, options: &GenerateOptions) -> Result<Generation> {
        let config = self.model.config();
        let images = if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) };
        let prompt = PackedBatch::new(&[Document::prompt(tokens)], images, config.tokens_per_image(), 1)?;
        let room = config.llm.max_positions.saturating_sub(prompt.ids.len());
        if room == 0 || prompt.ids.is_empty() {
            return Err(Error::Input(format!(
                "the prompt takes {} positions, the model's context is {}; use fewer images or less text",
                prompt.ids.len(),
                config.llm.max_positions
            )));
        }
        let limit = options.max_new_tokens.min(room);
        let mut generator = Generator::new(self.backend, self.store, self.model, &prompt, prompt.ids.len() + limit)?;
        let mut ids = Vec::new();
        let mut finish = FinishReason::Length;
        while ids.len() < limit {
            let next = generator.sample(options)?;
            let token = self.backend.to_vec::<u32>(&next)?[0];
            ids.push(token);
            if self.stops_at(token) {
                finish = FinishReason::Stop;
                break;
            }
            if ids.len() < limit {
                generator.advance(&next)?;
            }
        }
        let text = self.tokenizer.decode(&ids)?;
        Ok(Generation { ids, text, finish })
    }

    /// Whether a token ends the text.
    fn stops_at(&self, token: u32) -> bool {
        let eos = &self.model.config().llm.eos;
        eos.contains(&token) || (eos.is_empty() && self.tokenizer.eos() == Some(token))
    }
}

/// Continues one document token by token, with cached keys and values. Tokens stay on the device until they are read.
pub struct Generator<'a> {
    backend: &'a dyn Backend,
    model: &'a VilaModel,
    tape: Tape<'a>,
    cache: Cache,
    /// Hidden states of the newest positions.
    hidden: Var<'a>,
    sampled: u64,
}

impl<'a> Generator<'a> {
    /// Runs the prompt; `capacity` is the most positions, prompt included.
    pub fn new(
        backend: &'a dyn Backend,
        store: &'a ParamStore,
        model: &'a VilaModel,
        prompt: &PackedBatch,
        capacity: usize,
    ) -> Result<Self> {
        let mut tape = Tape::inference(backend, store);
        let mut cache = Cache::new(backend, model, store.dtype(), capacity)?;
        let embedded = model.embed(&mut tape, prompt)?;
        let hidden = cache.extend(model, &mut tape, embedded)?;
        Ok(Generator { backend, model, tape, cache, hidden, sampled: 0 })
    }

    /// Chooses the next token: `[1]` u32.
    pub fn sample(&mut self, options: &GenerateOptions) -> Result<Tensor> {
        let rows = self.hidden.tensor().rows();
        let last = self.tape.input(self.hidden.tensor().slice_rows(rows - 1..rows)?, false);
        let logits = self.model.logits(&mut self.tape, &last)?;
        let out = self.backend.alloc(DType::U32, 1, 1)?;
        self.backend.sample(&Sample {
            logits: &logits,
            temperature: options.temperature,
            top_p: options.top_p,
            seed: options.seed,
            index: self.sampled,
            out: &out,
        })?;
        self.sampled += 1;
        Ok(out)
    }

    /// Runs one more position; fails beyond the capacity.
    pub fn advance(&mut self, token: &Tensor) -> Result<()> {
        let embedded = self.tape.embedding(self.model.llm.embed, token)?;
        self.hidden = self.cache.extend(self.model, &mut self.tape, embedded)?;
        Ok(())
    }
}

/// Keys and values of all positions so far, per layer.
struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
}

impl Cache {
    fn new(backend: &dyn Backend, model: &VilaModel, dtype: DType, capacity: usize) -> Result<Self> {
        let cols = model.llm.config.heads.kv_cols();
        let layer = |_| -> Result<(Tensor, Tensor)> {
            Ok((backend.alloc(dtype, capacity, cols)?, backend.alloc(dtype, capacity, cols)?))
        };
        Ok(Cache { layers: (0..model.llm.layers()).map(layer).collect::<Result<_>>()?, len: 0 })
    }

    /// Runs new positions (`[t, D]` embeddings) through the decoder; returns their hidden states.
    fn extend<'a>(&mut self, model: &'a VilaModel, tape: &mut Tape<'a>, embedded: Var<'a>) -> Result<Var<'a>> {
        let llm = &model.llm;
        let (start, rows) = (self.len, embedded.tensor().rows());
        let end = start + rows;
        let backend = tape.backend();
        let positions = backend.upload_u32(&(start as u32..end as u32).collect::<Vec<_>>())?;
        let cu_seqlens_q = backend.upload_u32(&[0, rows as u32])?;
        let cu_seqlens_k = backend.upload_u32(&[0, end as u32])?;
        let shape = llm.config.heads;
        let mut stream = Stream { sum: embedded, pending: None };
        for (layer, (keys, values)) in self.layers.iter().enumerate() {
            stream = llm.block(tape, layer, stream, &positions, |tape, qkv| {
                let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
                let qkv = qkv.tensor();
                backend.copy(&Copy { x: &qkv.slice_cols(q_end..k_end)?, y: &keys.slice_rows(start..end)? })?;
                let new_values = qkv.slice_cols(k_end..shape.qkv_cols())?;
                backend.copy(&Copy { x: &new_values, y: &values.slice_rows(start..end)? })?;
                let o = backend.alloc(qkv.dtype(), rows, shape.q_cols())?;
                let lse = backend.alloc(ops::stat_dtype(qkv.dtype()), rows, shape.heads)?;
                backend.attention(&Attention {
                    q: &qkv.slice_cols(0..q_end)?,
                    k: &keys.slice_rows(0..end)?,
                    v: &values.slice_rows(0..end)?,
                    cu_seqlens_q: &cu_seqlens_q,
                    cu_seqlens_k: &cu_seqlens_k,
                    shape,
                    scale: 1.0 / (shape.head_dim as f64).sqrt(),
                    causal: true,
                    o: &o,
                    lse: &lse,
                })?;
                Ok(tape.input(o, false))
            })?;
        }
        self.len = end;
        Ok(llm.finish(tape, stream)?)
    }
}
