//! What the micro-batches of a stage hold: from the records of its shards, or assumed.

use std::sync::Arc;

use vila_engine::NO_ROW;
use vila_engine::ops::LinearCrossEntropy;
use vila_model::batch::expanded_len;
use vila_model::{Images, PackedBatch, VilaConfig};

use crate::data::shard::ShardReader;
use crate::order::MixtureOrder;
use crate::packing::pack;
use crate::recipe::{Recipe, SourceSpec, StageSpec};
use crate::{Error, Result};

/// Images and text tokens of a mean document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Document {
    /// Images.
    pub images: f64,
    /// Text tokens.
    pub text: f64,
}

/// A micro-batch in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mix {
    /// Positions of documents.
    pub positions: f64,
    /// Images.
    pub images: f64,
    /// Supervised tokens.
    pub supervised: f64,
    /// Length of documents that have as many pairs of positions in all as the real ones.
    pub document: f64,
}

/// What the steps of a stage hold.
#[derive(Clone, Debug)]
pub struct Content {
    /// Micro-batches per step.
    pub micro_batches: f64,
    /// Their mean.
    pub mean: Mix,
    /// The most of everything that a micro-batch holds.
    pub most: Mix,
    /// Where the numbers come from.
    pub from: String,
}

/// Steps whose records are read.
const SAMPLED_STEPS: u64 = 32;

/// Shards behind the sources of a stage that are there already.
pub type Shards = Vec<(Arc<ShardReader>, u64, f64)>;

impl Content {
    /// Packs records of up to 32 steps, spread over the stage, as training does. `shards` are readers, documents held out,
    /// and shares.
    ///
    /// # Errors
    /// Damaged records, or a source without documents.
    pub fn of_records(stage: &StageSpec, shards: &Shards, config: &VilaConfig, seed: u64) -> Result<Self> {
        let lengths: Vec<(u64, f64)> =
            shards.iter().map(|(reader, held_out, share)| (reader.len().saturating_sub(*held_out), *share)).collect();
        if lengths.iter().any(|(length, _)| *length == 0) {
            return Err(Error::Data(format!("stage {}: a source has no document to train on", stage.name)));
        }
        let order = MixtureOrder::new(seed, &lengths);
        let steps = stage.steps.min(SAMPLED_STEPS);
        let (mut batches, mut most) = (Vec::new(), Mix::default());
        for sample in 0..steps {
            let index = sample * stage.steps / steps;
            let mut records = Vec::new();
            for pick in order.range(index * stage.documents, stage.documents) {
                records.push(shards[pick.source].0.record(pick.document)?);
            }
            // Training cuts what is longer, or leaves it out.
            let limit = stage.capacity.min(config.llm.max_positions);
            let length = |i: usize| {
                let record = &records[i];
                let (tokens, images) = (record.token_count as usize, record.image_count as usize);
                expanded_len(tokens, images, config.tokens_per_image()).min(limit)
            };
            let lengths: Vec<usize> = (0..records.len()).map(length).collect();
            for bin in pack(&lengths, stage.capacity) {
                let sum = |of: &dyn Fn(usize) -> f64| bin.iter().map(|&i| of(i)).sum::<f64>();
                let positions = sum(&|i| lengths[i] as f64);
                let mix = Mix {
                    positions,
                    images: sum(&|i| f64::from(records[i].image_count)),
                    supervised: sum(&|i| f64::from(records[i].target_count)),
                    document: sum(&|i| (lengths[i] as f64).powi(2)) / positions.max(1.0),
                };
                most = most.with(mix, f64::max);
                batches.push(mix);
            }
        }
        let count = batches.len().max(1) as f64;
        let sum = batches.into_iter().fold(Mix::default(), |sum, mix| sum.with(mix, |a, b| a + b));
        let mean = sum.with(sum, |sum, _| sum / count);
        let from = format!("records of {steps} steps");
        Ok(Content { micro_batches: count / steps as f64, mean, most, from })
    }

    /// Full micro-batches of documents like `document`, all of whose text is supervised.
    ///
    /// # Errors
    /// An image that is larger than capacity or context.
    pub fn assumed(stage: &StageSpec, document: Document, config: &VilaConfig) -> Result<Self> {
        let limit = stage.capacity.min(config.llm.max_positions) as f64;
        let per_image = config.tokens_per_image() as f64;
        if document.images > 0.0 && per_image >= limit {
            let problem = format!("an image takes {per_image} positions, a document has {limit} at most");
            return Err(Error::Data(format!("stage {}: {problem}; raise `capacity`", stage.name)));
        }
        // Longer documents lose images first, as in the paper's loader.
        let images = document.images.min(((limit - 1.0) / per_image.max(1.0)).floor());
        let text = document.text.clamp(1.0, limit - images * per_image);
        let (length, capacity) = (images * per_image + text, stage.capacity as f64);
        let full = Mix {
            positions: capacity,
            images: capacity / length * images,
            supervised: capacity / length * text,
            document: length,
        };
        let micro_batches = (stage.documents as f64 * length / capacity).ceil();
        let from = format!("assumed full, documents of {images:.2} images and {text:.0} text tokens");
        Ok(Content { micro_batches, mean: full, most: full, from })
    }
}

impl Mix {
    fn with(self, other: Mix, f: impl Fn(f64, f64) -> f64) -> Mix {
        Mix {
            positions: f(self.positions, other.positions),
            images: f(self.images, other.images),
            supervised: f(self.supervised, other.supervised),
            document: f(self.document, other.document),
        }
    }

    /// A micro-batch without values: `align` as in [`PackedBatch::new`].
    pub fn batch(&self, config: &VilaConfig, align: usize, encoded: bool) -> PackedBatch {
        let whole = |x: f64| x.ceil().max(0.0) as usize;
        let per_image = config.tokens_per_image();
        let positions = whole(self.positions).max(1);
        let total = positions.next_multiple_of(align.max(1));
        let images = whole(self.images).min(positions / per_image.max(1));
        let mut supervised = whole(self.supervised).min(positions);
        if align > 1 {
            supervised = supervised.next_multiple_of(LinearCrossEntropy::CHUNK);
        }
        let document = whole(self.document).clamp(1, config.llm.max_positions);
        let mut cu_seqlens: Vec<u32> = (0..positions).step_by(document).map(|start| start as u32).collect();
        cu_seqlens.push(positions as u32);
        if total > positions {
            cu_seqlens.push(total as u32);
        }
        PackedBatch {
            ids: vec![NO_ROW; total],
            positions: vec![0; total],
            cu_seqlens,
            image_slots: (0..images * per_image).map(|row| row as u32).collect(),
            supervised_rows: vec![0; supervised],
            targets: vec![0; supervised],
            images: if images > 0 { Images::Unset { images, encoded } } else { Images::None },
        }
    }
}

/// The mean document of a stage whose shards are not there, by the formats of its sources: the paper's means for `mmc4` (4
/// images, 122.5 text tokens each) and `pairs` (1 image, 22.7 text tokens), one image and 256 tokens for `llava`, 512 tokens
/// of `text`; a shard that is missing counts as `mmc4`.
pub fn mean_document(recipe: &Recipe, stage: &StageSpec) -> Document {
    let of = |source: Option<&SourceSpec>| match source.and_then(|source| source.format.as_deref()) {
        Some("text") => (0.0, 512.0),
        Some("pairs") => (1.0, 22.7),
        Some("llava") => (1.0, 256.0),
        _ => (4.0, 490.0),
    };
    let shares: f64 = stage.data.values().sum();
    let (images, text) = stage.data.iter().fold((0.0, 0.0), |(images, text), (name, share)| {
        let mean = of(recipe.sources.get(name));
        (images + share / shares * mean.0, text + share / shares * mean.1)
    });
    Document { images, text }
}
