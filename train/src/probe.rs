//! The alignment probe (spec 9, the paper's Figure 3): how similar visual and textual states are, layer by layer.
//!
//! States are those of the residual stream at image and at text positions of the same document. Each finds its most similar
//! partner of the other kind; the mean cosine similarity is the (Chamfer) alignment. A maximum over more partners is larger
//! by chance alone, so the same numbers are taken with the images of another document, and of the mean states.

use std::path::Path;

use rayon::prelude::*;
use vila_autograd::Tape;
use vila_engine::NO_ROW;
use vila_engine::philox::Stream;
use vila_model::{Document, Images, PackedBatch, Vila};

use crate::data::shard::ShardReader;
use crate::report::chart::{Chart, Look, Scale, Series};
use crate::report::page::{document, drawn};
use crate::report::series::Point;
use crate::{Error, Result};

/// Which documents and states are looked at.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Documents, the last of the shard that qualify: `hold_out` keeps those at the end out of training.
    pub documents: usize,
    /// Text tokens that a document needs, besides an image.
    pub min_text: usize,
    /// Most states of each kind in a document; more are drawn from.
    pub most_states: usize,
    /// Documents whose states are put together before partners are looked for.
    pub pool: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        ProbeOptions { documents: 256, min_text: 16, most_states: 1024, pool: 1, seed: 0 }
    }
}

/// A mean over documents and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 for a single value.
    pub error: f64,
}

impl Mean {
    /// Of values; 0 without any.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let error = if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Mean { mean, error }
    }
}

/// What one layer shows: 0 is what the decoder reads, `i` the output of block `i`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Alignment {
    /// The layer.
    pub layer: usize,
    /// Documents.
    pub documents: usize,
    /// Mean of both directions: the symmetric Chamfer similarity.
    pub symmetric: Mean,
    /// Of visual states, each with its most similar textual one.
    pub visual_to_text: Mean,
    /// Of textual states, each with its most similar visual one.
    pub text_to_visual: Mean,
    /// `symmetric` with the visual states of the document (or pool) before; none without one.
    pub shuffled: Option<Mean>,
    /// Cosine of the mean visual and the mean textual state.
    pub pooled: Mean,
    /// `pooled` with the visual states of the document (or pool) before.
    pub pooled_shuffled: Option<Mean>,
}

/// Unit vectors of one width, side by side.
#[derive(Clone, Default)]
pub struct States {
    width: usize,
    values: Vec<f32>,
}

impl States {
    /// Rows of `width` values, each scaled to length 1; rows of zeros stay.
    pub fn new(width: usize, mut values: Vec<f32>) -> Self {
        values.chunks_mut(width.max(1)).for_each(normalise);
        States { width: width.max(1), values }
    }

    fn rows(&self) -> std::slice::Chunks<'_, f32> {
        self.values.chunks(self.width)
    }

    fn extend(&mut self, other: &States) {
        self.width = other.width;
        self.values.extend_from_slice(&other.values);
    }

    /// Mean over the rows of the cosine similarity to the most similar row of `others`.
    pub fn nearest(&self, others: &States) -> f64 {
        let best = |row: &[f32]| others.rows().map(|other| dot(row, other)).fold(f32::NEG_INFINITY, f32::max);
        let rows: Vec<&[f32]> = self.rows().collect();
        let best: Vec<f32> = rows.par_iter().map(|row| best(row)).collect();
        best.iter().map(|&best| f64::from(best)).sum::<f64>() / best.len().max(1) as f64
    }

    fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.width];
        self.rows().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        normalise(&mut mean);
        mean
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn normalise(row: &mut [f32]) {
    let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// States of one document, or of several, by layer: visual, textual.
type Layers = Vec<(States, States)>;

/// Values of one layer, one per document.
#[derive(Default)]
struct Column {
    visual_to_text: Vec<f64>,
    text_to_visual: Vec<f64>,
    shuffled: Vec<f64>,
    pooled: Vec<f64>,
    pooled_shuffled: Vec<f64>,
}

/// Runs the probe on the last documents of a shard that qualify.
///
/// # Errors
/// A damaged shard, one of another tokenizer, documents that are too long for the model, or none that qualifies.
pub fn probe(vila: &Vila, shard: &ShardReader, options: &ProbeOptions) -> Result<Vec<Alignment>> {
    shard.check_tokenizer(&vila.tokenizer.fingerprint())?;
    let chosen = choose(vila, shard, options)?;
    if chosen.is_empty() {
        return Err(Error::Data(format!(
            "{}: no document has an image and {} text tokens; choose another shard, or ask for fewer tokens",
            shard.dir().display(),
            options.min_text
        )));
    }
    let mut columns: Vec<Column> = Vec::new();
    let mut before: Option<Layers> = None;
    for group in chosen.chunks(options.pool.max(1)) {
        let mut pooled = Layers::new();
        for &index in group {
            let states = layer_states(vila, shard, index, options)?;
            pooled.resize_with(states.len(), Default::default);
            for (all, (visual, text)) in pooled.iter_mut().zip(&states) {
                all.0.extend(visual);
                all.1.extend(text);
            }
        }
        columns.resize_with(pooled.len(), Column::default);
        for (layer, (column, (visual, text))) in columns.iter_mut().zip(&pooled).enumerate() {
            column.visual_to_text.push(visual.nearest(text));
            column.text_to_visual.push(text.nearest(visual));
            column.pooled.push(f64::from(dot(&visual.mean(), &text.mean())));
            if let Some((other, _)) = before.as_ref().and_then(|before| before.get(layer)) {
                column.shuffled.push((other.nearest(text) + text.nearest(other)) / 2.0);
                column.pooled_shuffled.push(f64::from(dot(&other.mean(), &text.mean())));
            }
        }
        before = Some(pooled);
    }
    Ok(columns.iter().enumerate().map(|(layer, column)| column.summary(layer, chosen.len())).collect())
}

impl Column {
    fn summary(&self, layer: usize, documents: usize) -> Alignment {
        let both = self.visual_to_text.iter().zip(&self.text_to_visual);
        let symmetric: Vec<f64> = both.map(|(a, b)| (a + b) / 2.0).collect();
        let control = |values: &[f64]| (!values.is_empty()).then(|| Mean::of(values));
        Alignment {
            layer,
            documents,
            symmetric: Mean::of(&symmetric),
            visual_to_text: Mean::of(&self.visual_to_text),
            text_to_visual: Mean::of(&self.text_to_visual),
            shuffled: control(&self.shuffled),
            pooled: Mean::of(&self.pooled),
            pooled_shuffled: control(&self.pooled_shuffled),
        }
    }
}

/// Whether a token is text, and not the mark of a begin, an end or an image.
fn is_text(vila: &Vila, token: u32) -> bool {
    let llm = &vila.config.llm;
    let special = [llm.bos, vila.tokenizer.bos(), vila.tokenizer.eos()];
    token != NO_ROW && !special.contains(&Some(token)) && !llm.eos.contains(&token)
}

/// The last documents with an image and enough text, in the shard's order.
fn choose(vila: &Vila, shard: &ShardReader, options: &ProbeOptions) -> Result<Vec<u64>> {
    let mut chosen = Vec::new();
    for index in (0..shard.len()).rev() {
        if chosen.len() == options.documents {
            break;
        }
        let sample = shard.sample(index)?;
        let text = sample.tokens.iter().filter(|&&token| is_text(vila, token)).count();
        if !sample.images.is_empty() && text >= options.min_text.max(1) {
            chosen.push(index);
        }
    }
    chosen.reverse();
    Ok(chosen)
}

fn layer_states(vila: &Vila, shard: &ShardReader, index: u64, options: &ProbeOptions) -> Result<Layers> {
    let sample = shard.sample(index)?;
    let mut pixels = Vec::new();
    for &image in sample.images {
        pixels.extend(vila.processor.decode_and_process(shard.image(image)?, shard.image_name(image)?)?);
    }
    let document = Document::prompt(sample.tokens.to_vec());
    let batch = PackedBatch::new(&[document], Images::Pixels(pixels), vila.config.tokens_per_image(), 1)?;
    let mut tape = Tape::inference(vila.backend(), &vila.store);
    let layers = vila.model.layer_states(&mut tape, &batch)?;
    let text: Vec<u32> = (0..).zip(&batch.ids).filter(|(_, id)| is_text(vila, **id)).map(|(row, _)| row).collect();
    let draw = |kind: u64, rows: &[u32]| {
        let mut rows = rows.to_vec();
        if rows.len() > options.most_states {
            Stream::new(options.seed, 2 * index + kind).shuffle(&mut rows);
            rows.truncate(options.most_states);
        }
        rows
    };
    let (visual, text) = (draw(0, &batch.image_slots), draw(1, &text));
    let width = vila.config.llm.hidden_size;
    let take = |layer: &[f32], rows: &[u32]| {
        let rows = rows.iter().filter_map(|&row| layer.get(row as usize * width..(row as usize + 1) * width));
        States::new(width, rows.flatten().copied().collect())
    };
    Ok(layers.iter().map(|layer| (take(layer, &visual), take(layer, &text))).collect())
}

/// The columns of spec 9, then standard errors and controls. `config` names the model.
pub fn csv(config: &str, layers: &[Alignment]) -> String {
    let config = if config.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", config.replace('"', "\"\""))
    } else {
        config.to_string()
    };
    let mut text = String::from(
        "layer,c_sym,c_v2t,c_t2v,n_docs,config,se_sym,se_v2t,se_t2v,c_sym_shuffled,cosine_of_means,cosine_of_means_shuffled\n",
    );
    for layer in layers {
        let Alignment { symmetric: sym, visual_to_text: v2t, text_to_visual: t2v, .. } = layer;
        let control = |value: Option<Mean>| value.map_or(String::new(), |value| format!("{:.6}", value.mean));
        text += &format!(
            "{},{:.6},{:.6},{:.6},{},{config},{:.6},{:.6},{:.6},{},{:.6},{}\n",
            layer.layer,
            sym.mean,
            v2t.mean,
            t2v.mean,
            layer.documents,
            sym.error,
            v2t.error,
            t2v.error,
            control(layer.shuffled),
            layer.pooled.mean,
            control(layer.pooled_shuffled)
        );
    }
    text
}

/// A curve over layers.
pub(crate) fn curve(name: &str, color: usize, look: Look, values: impl Iterator<Item = (usize, f64)>) -> Series {
    let points = values.map(|(layer, y)| Point { x: layer as f64, y, part: 0 }).collect();
    Series { name: name.into(), points, look, color }
}

/// A page with the curves of one model.
pub fn page(config: &str, layers: &[Alignment]) -> String {
    type Pick = fn(&Alignment) -> Option<f64>;
    let curves: [(&str, Look, Pick); 6] = [
        ("symmetric", Look::Dots, |layer| Some(layer.symmetric.mean)),
        ("visual to text", Look::Line, |layer| Some(layer.visual_to_text.mean)),
        ("text to visual", Look::Line, |layer| Some(layer.text_to_visual.mean)),
        ("symmetric, shuffled", Look::Line, |layer| Some(layer.shuffled?.mean)),
        ("of means", Look::Line, |layer| Some(layer.pooled.mean)),
        ("of means, shuffled", Look::Line, |layer| Some(layer.pooled_shuffled?.mean)),
    ];
    let series = curves.iter().enumerate().map(|(color, (name, look, pick))| {
        curve(name, color, *look, layers.iter().filter_map(|layer| Some((layer.layer, pick(layer)?))))
    });
    let chart =
        Chart { over: "layer", unit: "cosine".into(), scale: Scale::Linear, series: series.collect(), marks: vec![] };
    let title = crate::data::cli::escape(config);
    let documents = layers.first().map_or(0, |layer| layer.documents);
    let note = format!(
        "Mean over {documents} documents. Layer 0 is what the decoder reads. Shuffled: the images of another document; \
         what is above it is alignment within documents."
    );
    let last = layers.last().map_or(0.0, |layer| layer.layer as f64);
    let figure = drawn("Similarity of visual and textual states", &note, &chart, (0.0, last), &[]);
    let body = format!("<h1>{title}</h1>\n<p class=\"facts\">alignment probe</p>\n{figure}");
    document(&format!("{title} · VILA probe"), &body)
}

/// Writes `probe.csv` and `probe.html` into `out`.
///
/// # Errors
/// The disk refuses.
pub fn write(out: &Path, config: &str, layers: &[Alignment]) -> Result<()> {
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    for (name, text) in [("probe.csv", csv(config, layers)), ("probe.html", page(config, layers))] {
        crate::whole_file::write_whole(&out.join(name), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_by_hand() {
        let visual = States::new(2, vec![2.0, 0.0, 0.0, 3.0]);
        let text = States::new(2, vec![1.0, 1.0, 5.0, 0.0, 0.0, 0.0]);
        let half = f64::from(0.5f32.sqrt());
        assert!((visual.nearest(&text) - (1.0 + half) / 2.0).abs() < 1e-6);
        // A state of zeros is similar to nothing.
        assert!((text.nearest(&visual) - (half + 1.0 + 0.0) / 3.0).abs() < 1e-6);
        assert_eq!(Mean::of(&[1.0, 3.0]), Mean { mean: 2.0, error: 1.0 });
        assert_eq!(Mean::of(&[4.0]).error, 0.0);
    }

    #[test]
    fn names_with_commas_are_quoted() {
        let layer = Alignment {
            layer: 3,
            documents: 2,
            symmetric: Mean { mean: 0.5, error: 0.25 },
            visual_to_text: Mean::default(),
            text_to_visual: Mean::default(),
            shuffled: None,
            pooled: Mean::default(),
            pooled_shuffled: None,
        };
        let csv = csv("a, \"b\"", &[layer]);
        assert!(csv.starts_with("layer,c_sym,c_v2t,c_t2v,n_docs,config,"));
        assert!(csv.contains("\n3,0.500000,0.000000,0.000000,2,\"a, \"\"b\"\"\",0.250000,"), "{csv}");
    }
}
