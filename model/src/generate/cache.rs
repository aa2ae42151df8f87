use std::ops::Range;

use vila_autograd::{ParamStore, Tape, Var};
use vila_engine::ops::{Attention, Copy, GatherRows, Sample};
use vila_engine::{Backend, DType, Tensor, ops};

use super::GenerateOptions;
use crate::llama::{Rows, Stream};
use crate::{PackedBatch, Result, VilaModel};

/// Continues documents side by side, token by token, with cached keys and values. Tokens stay on the device until they are
/// read; each document's results have the same bits as when it is alone.
pub struct Generator<'a> {
    backend: &'a dyn Backend,
    model: &'a VilaModel,
    tape: Tape<'a>,
    caches: Vec<Cache>,
    /// Hidden states of each document's newest position.
    hidden: Var<'a>,
    steps: u64,
}

impl<'a> Generator<'a> {
    /// Runs the documents of `prompts`; `capacities` are the most positions of each, its prompt included.
    pub fn new(
        backend: &'a dyn Backend,
        store: &'a ParamStore,
        model: &'a VilaModel,
        prompts: &PackedBatch,
        capacities: &[usize],
    ) -> Result<Self> {
        let mut tape = Tape::inference(backend, store);
        let cache = |&capacity: &usize| Cache::new(backend, model, store.dtype(), capacity);
        let mut caches: Vec<Cache> = capacities.iter().map(cache).collect::<Result<_>>()?;
        let embedded = model.embed(&mut tape, prompts)?;
        let documents: Vec<Range<usize>> =
            prompts.cu_seqlens.windows(2).map(|ends| ends[0] as usize..ends[1] as usize).collect();
        let rows = model.rows(backend, prompts)?;
        let states = extend(&mut caches, model, &mut tape, embedded, &rows, &documents)?;
        let last: Vec<u32> = prompts.cu_seqlens.iter().skip(1).map(|end| end.saturating_sub(1)).collect();
        let hidden = select_rows(&mut tape, &states, &last)?;
        Ok(Generator { backend, model, tape, caches, hidden, steps: 0 })
    }

    /// Scores of the next token of each document: `[documents, V]`.
    pub fn logits(&mut self) -> Result<Tensor> {
        self.model.logits(&mut self.tape, &self.hidden)
    }

    /// Chooses the next token of each document, `[documents]` u32, by temperature and top-p alone.
    pub fn sample(&mut self, options: &GenerateOptions) -> Result<Tensor> {
        let logits = self.logits()?;
        self.choose(&logits, options, &vec![options.seed; logits.rows()])
    }

    /// [`Generator::sample`] from scores that may have been changed, with a seed for each document, whose draw does not
    /// depend on the others.
    pub fn choose(&mut self, logits: &Tensor, options: &GenerateOptions, seeds: &[u64]) -> Result<Tensor> {
        let out = self.backend.alloc(DType::U32, logits.rows(), 1)?;
        let draw = |rows: Range<usize>, seed: u64| -> Result<()> {
            let (logits, out) = (logits.slice_rows(rows.clone())?, out.slice_rows(rows)?);
            let GenerateOptions { temperature, top_p, .. } = *options;
            Ok(self.backend.sample(&Sample {
                logits: &logits,
                temperature,
                top_p,
                seed,
                index: self.steps,
                out: &out,
            })?)
        };
        if options.temperature > 0.0 {
            (0..logits.rows()).zip(seeds).try_for_each(|(row, &seed)| draw(row..row + 1, seed))?;
        } else {
            draw(0..logits.rows(), options.seed)?;
        }
        self.steps += 1;
        Ok(out)
    }

    /// Runs one more position of each document; fails beyond its capacity.
    pub fn advance(&mut self, tokens: &Tensor) -> Result<()> {
        let embedded = self.tape.embedding(self.model.llm.embed, tokens)?;
        let documents: Vec<Range<usize>> = (0..self.caches.len()).map(|row| row..row + 1).collect();
        let positions: Vec<u32> = self.caches.iter().map(|cache| cache.len as u32).collect();
        let rows = Rows { positions: self.backend.upload_u32(&positions)?, routing: None };
        self.hidden = extend(&mut self.caches, self.model, &mut self.tape, embedded, &rows, &documents)?;
        Ok(())
    }

    /// Goes on with the documents that `keep` says, in order, and frees the others' memory; before [`Generator::advance`].
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.caches.retain(|_| keep.next().copied().unwrap_or(false));
    }
}

/// Rows of a value, as a new one.
fn select_rows<'a>(tape: &mut Tape<'a>, x: &Var<'a>, rows: &[u32]) -> Result<Var<'a>> {
    let (backend, x) = (tape.backend(), x.tensor());
    let index = backend.upload_u32(rows)?;
    let y = backend.alloc(x.dtype(), rows.len(), x.cols())?;
    backend.gather_rows(&GatherRows { table: x, index: &index, y: &y })?;
    Ok(tape.input(y, false))
}

/// Keys and values of a document's positions so far, per layer.
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
}

/// Runs new positions (`[T, D]` embeddings, of which `documents` are each document's) through the decoder; returns their
/// hidden states.
fn extend<'a>(
    caches: &mut [Cache],
    model: &'a VilaModel,
    tape: &mut Tape<'a>,
    embedded: Var<'a>,
    rows: &Rows,
    documents: &[Range<usize>],
) -> Result<Var<'a>> {
    let (llm, backend) = (&model.llm, tape.backend());
    let places = caches.iter().zip(documents).map(|(cache, rows)| cache.len..cache.len + rows.len());
    let bounds = |place: Range<usize>| -> Result<[Tensor; 2]> {
        let ends = [place.len() as u32, place.end as u32];
        Ok([backend.upload_u32(&[0, ends[0]])?, backend.upload_u32(&[0, ends[1]])?])
    };
    let bounds: Vec<[Tensor; 2]> = places.map(bounds).collect::<Result<_>>()?;
    let shape = llm.config.heads;
    let mut stream = Stream { sum: embedded, pending: None };
    for layer in 0..llm.layers() {
        stream = llm.block(tape, layer, stream, rows, |tape, qkv| {
            let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
            let all = qkv.tensor();
            let o = backend.alloc(all.dtype(), all.rows(), shape.q_cols())?;
            let lse = backend.alloc(ops::stat_dtype(all.dtype()), all.rows(), shape.heads)?;
            for ((cache, rows), [cu_seqlens_q, cu_seqlens_k]) in caches.iter().zip(documents).zip(&bounds) {
                let ((keys, values), qkv) = (&cache.layers[layer], all.slice_rows(rows.clone())?);
                let place = cache.len..cache.len + rows.len();
                backend.copy(&Copy { x: &qkv.slice_cols(q_end..k_end)?, y: &keys.slice_rows(place.clone())? })?;
                let new_values = qkv.slice_cols(k_end..shape.qkv_cols())?;
                backend.copy(&Copy { x: &new_values, y: &values.slice_rows(place.clone())? })?;
                backend.attention(&Attention {
                    q: &qkv.slice_cols(0..q_end)?,
                    k: &keys.slice_rows(0..place.end)?,
                    v: &values.slice_rows(0..place.end)?,
                    cu_seqlens_q,
                    cu_seqlens_k,
                    shape,
                    scale: 1.0 / (shape.head_dim as f64).sqrt(),
                    causal: true,
                    o: &o.slice_rows(rows.clone())?,
                    lse: &lse.slice_rows(rows.clone())?,
                })?;
            }
            Ok(tape.input(o, false))
        })?;
    }
    for (cache, rows) in caches.iter_mut().zip(documents) {
        cache.len += rows.len();
    }
    Ok(llm.finish(tape, stream)?)
}
