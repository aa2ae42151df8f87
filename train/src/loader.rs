//! From shards to packed micro-batches: one step's documents, packed, with their images, ahead of time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use vila_autograd::{ParamStore, Tape};
use vila_engine::Backend;
use vila_model::batch::expanded_len;
use vila_model::image::ImageProcessor;
use vila_model::{Document, Images, PackedBatch, VilaModel};

use crate::data::shard::{ImageId, ShardReader};
use crate::data::tokens::hex;
use crate::order::{MixtureOrder, Pick};
use crate::packing::{deal, grain, pack};
use crate::recipe::StageSpec;
use crate::{Error, Result};

/// A named shard and how much of it is kept for validation.
pub struct Source {
    /// Name in the recipe.
    pub name: String,
    /// The shard.
    pub reader: Arc<ShardReader>,
    /// Documents at the end that are not trained on.
    pub hold_out: u64,
}

impl Source {
    fn trained(&self) -> u64 {
        self.reader.len().saturating_sub(self.hold_out)
    }
}

/// Sizes that decide how documents are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Positions of one image.
    pub tokens_per_image: usize,
    /// Longest context of the model.
    pub max_positions: usize,
    /// Micro-batches are filled up to a multiple of this; 1 where shapes need not repeat.
    pub align: usize,
    /// Width of the decoder, which says how much attention costs beside the rest.
    pub width: usize,
}

/// Which of a step's micro-batches are made here.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
}

/// One optimizer step's worth of data: numbers of the whole step, micro-batches of one rank.
pub struct Step {
    /// Number of the documents' group in the stage, from 1: what `omit` in a recipe means.
    pub group: u64,
    /// This rank's micro-batches.
    pub batches: Vec<MicroBatch>,
    /// Micro-batches of all ranks.
    pub micro_batches: usize,
    /// Positions of all micro-batches as a device computes them, empty ones included.
    pub positions: u64,
    /// Supervised tokens of all ranks.
    pub supervised: u64,
    /// Positions of all documents.
    pub tokens: u64,
    /// Images of all documents.
    pub images: u64,
    /// The documents in logical order.
    pub picks: Vec<Pick>,
}

/// A micro-batch of a step.
pub struct MicroBatch {
    /// Its place among those of all ranks.
    pub index: usize,
    /// The documents.
    pub batch: PackedBatch,
    /// Sources of the supervised rows: index and number of rows, in the order of the rows.
    pub sources: Vec<(usize, usize)>,
}

/// The data of a stage.
pub struct StageData {
    stage: String,
    sources: Vec<Source>,
    order: MixtureOrder,
    documents: u64,
    capacity: usize,
    omit: Vec<u64>,
    geometry: Geometry,
    share: Share,
    images: ImageStore,
}

impl StageData {
    /// Checks that every document of the stage fits.
    ///
    /// # Errors
    /// [`Error::Data`] names the document that is longer than the capacity or the context, or an empty source.
    pub fn new(
        seed: u64,
        stage: &StageSpec,
        sources: Vec<Source>,
        geometry: Geometry,
        share: Share,
        processor: ImageProcessor,
    ) -> Result<Self> {
        let shares: Vec<(u64, f64)> =
            sources.iter().map(|source| (source.trained(), stage.data[&source.name])).collect();
        for source in &sources {
            check_source(stage, source, geometry)?;
        }
        Ok(StageData {
            stage: stage.name.clone(),
            order: MixtureOrder::new(seed, &shares),
            documents: stage.documents,
            capacity: stage.capacity,
            omit: stage.omit.clone(),
            images: ImageStore::new(processor),
            sources,
            geometry,
            share,
        })
    }

    /// Encodes every image of the sources with a frozen vision tower, so that no step needs to.
    pub fn fill_feature_bank(&mut self, backend: &dyn Backend, model: &VilaModel, store: &ParamStore) -> Result<()> {
        let mut bank = Vec::new();
        for source in &self.sources {
            bank.push(encode_images(source, &self.images.processor, backend, model, store)?);
        }
        self.images.bank = Some(bank);
        Ok(())
    }

    /// For each source its name, and the SHA-256 of the lengths and hashes of its shard's files.
    pub fn source_hashes(&self) -> impl Iterator<Item = (&str, String)> {
        let hash = |source: &Source| hex(&Sha256::digest(format!("{:?}", source.reader.manifest().files)));
        self.sources.iter().map(move |source| (source.name.as_str(), hash(source)))
    }

    /// SHA-256 over the names, lengths and hashes of the shards behind the stage, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for source in &self.sources {
            hash.update(format!("{} {} {:?}", source.name, source.hold_out, source.reader.manifest().files));
        }
        hex(&hash.finalize())
    }

    /// Names of the sources, in the order of their indices.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| source.name.as_str())
    }

    /// The data of group `index` of the stage, from 0.
    ///
    /// # Errors
    /// Damaged shards, undecodable images, or a step without supervised token, which names its documents.
    pub fn step(&self, index: u64) -> Result<Step> {
        let picks = self.order.range(index * self.documents, self.documents);
        let mut step = self.pack(&picks)?;
        step.group = index + 1;
        if step.supervised == 0 {
            return Err(Error::Data(format!(
                "stage {}, step {group} (as groups of documents count): none of its {} documents has a supervised token ({}); raise `documents`, add {group} to \
                 the stage's `omit`, or check the loss masks with `vila data show`",
                self.stage,
                picks.len(),
                self.describe(&picks)?,
                group = index + 1
            )));
        }
        Ok(step)
    }

    /// The documents kept for validation, packed; nothing if there are none.
    pub fn held_out(&self) -> Result<Option<Step>> {
        let range = |source: &Source| -> Range<u64> { source.trained()..source.reader.len() };
        let picks: Vec<Pick> = self
            .sources
            .iter()
            .enumerate()
            .flat_map(|(index, source)| range(source).map(move |document| Pick { source: index, document, epoch: 0 }))
            .collect();
        if picks.is_empty() { Ok(None) } else { self.pack(&picks).map(Some) }
    }

    fn pack(&self, picks: &[Pick]) -> Result<Step> {
        let record = |pick: &Pick| self.sources[pick.source].reader.record(pick.document);
        let records = picks.iter().map(record).collect::<std::result::Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = records
            .iter()
            .map(|record| self.geometry.length(record.token_count as usize, record.image_count as usize))
            .collect();
        let bins = pack(&lengths, self.capacity);
        let cost = |bin: &Vec<usize>| bin.iter().map(|&i| self.geometry.cost(lengths[i])).sum();
        let used = |bin: &Vec<usize>| bin.iter().map(|&i| lengths[i]).sum::<usize>();
        let padded = |bin: &Vec<usize>| used(bin).next_multiple_of(grain(self.capacity));
        let ranks = deal(&bins.iter().map(cost).collect::<Vec<u64>>(), self.share.world);
        let mut step = Step {
            group: 0,
            batches: Vec::new(),
            micro_batches: bins.len(),
            positions: bins.iter().map(padded).sum::<usize>() as u64,
            supervised: records.iter().map(|record| u64::from(record.target_count)).sum(),
            tokens: lengths.iter().sum::<usize>() as u64,
            images: records.iter().map(|record| u64::from(record.image_count)).sum(),
            picks: picks.to_vec(),
        };
        for (index, bin) in bins.iter().enumerate().filter(|&(index, _)| ranks[index] == self.share.rank) {
            let picks: Vec<Pick> = bin.iter().map(|&i| picks[i]).collect();
            step.batches.push(self.micro_batch(index, &picks)?);
        }
        Ok(step)
    }

    fn micro_batch(&self, index: usize, picks: &[Pick]) -> Result<MicroBatch> {
        let (mut documents, mut images, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for pick in picks {
            let sample = self.sources[pick.source].reader.sample(pick.document)?;
            let supervised: Vec<bool> = sample.loss.iter().collect();
            sources.push((pick.source, supervised.iter().filter(|&&supervised| supervised).count()));
            documents.push(Document { tokens: sample.tokens.to_vec(), supervised });
            images.extend(sample.images.iter().map(|&image| (pick.source, image)));
        }
        let pixels = self.images.get(&self.sources, &images)?;
        let batch = PackedBatch::new(&documents, pixels, self.geometry.tokens_per_image, self.geometry.align)?;
        Ok(MicroBatch { index, batch, sources })
    }

    /// Where documents come from, for messages: at most eight of them.
    pub fn describe(&self, picks: &[Pick]) -> Result<String> {
        let mut names = Vec::new();
        for pick in picks.iter().take(8) {
            let source = &self.sources[pick.source];
            let record = source.reader.record(pick.document)?;
            names.push(format!("{} document {} from {}", source.name, pick.document, source.reader.origin(&record)));
        }
        if picks.len() > names.len() {
            names.push(format!("and {} more", picks.len() - names.len()));
        }
        Ok(names.join("; "))
    }

    /// `count` steps from the `start`-th group on, without those left out, made by threads of `scope` while others are used.
    pub fn prefetch<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        start: u64,
        count: u64,
        workers: usize,
    ) -> Steps<'scope> {
        let groups = (start..).filter(|group| !self.omit.contains(&(group + 1))).take(count as usize);
        let ahead = (0..workers).map(|worker| {
            // The receiver goes away when the run stops early.
            let (sender, receiver) = sync_channel(1);
            let groups = groups.clone().skip(worker).step_by(workers);
            scope.spawn(move || groups.map(|group| self.step(group)).try_for_each(|s| sender.send(s).map_err(drop)));
            receiver
        });
        Steps { ahead: ahead.collect(), next: 0, alone: Box::new(groups.map(|group| self.step(group))) }
    }
}

/// Steps in order, whoever makes them.
pub struct Steps<'a> {
    ahead: Vec<Receiver<Result<Step>>>,
    next: usize,
    /// Makes them when there is no worker.
    alone: Box<dyn Iterator<Item = Result<Step>> + 'a>,
}

impl Steps<'_> {
    /// Takes the next step.
    pub fn take(&mut self) -> Result<Step> {
        let ended = || Error::Data("the data loader ended early".into());
        if self.ahead.is_empty() {
            return self.alone.next().ok_or_else(ended)?;
        }
        let worker = self.next % self.ahead.len();
        self.next += 1;
        self.ahead[worker].recv().map_err(|_| ended())?
    }
}

impl Geometry {
    fn length(&self, tokens: usize, images: usize) -> usize {
        expanded_len(tokens, images, self.tokens_per_image)
    }

    /// Work on a document, up to a factor: a decoder does 6 width multiplications a position for each that attention does a
    /// pair of positions.
    fn cost(&self, length: usize) -> u64 {
        (length as u64).saturating_mul(6 * self.width as u64 + length as u64)
    }
}

fn check_source(stage: &StageSpec, source: &Source, geometry: Geometry) -> Result<()> {
    if source.trained() == 0 {
        return Err(Error::Data(format!(
            "stage {}: source {} has {} documents and holds out {}; nothing is left to train on",
            stage.name,
            source.name,
            source.reader.len(),
            source.hold_out
        )));
    }
    for document in 0..source.reader.len() {
        let record = source.reader.record(document)?;
        let (tokens, images) = (record.token_count as usize, record.image_count as usize);
        let length = geometry.length(tokens, images);
        let (limit, what) = if geometry.max_positions < stage.capacity {
            (geometry.max_positions, "the model's context (max_positions)")
        } else {
            (stage.capacity, "the micro-batch (`capacity`)")
        };
        if length > limit {
            return Err(Error::Data(format!(
                "stage {}: document {document} of source {} ({}) takes {length} positions with its {images} images of {}, \
                 {what} has {limit}; raise it, or ingest with fewer images or a token limit",
                stage.name,
                source.name,
                source.reader.origin(&record),
                geometry.tokens_per_image
            )));
        }
    }
    Ok(())
}

/// An image of a source.
type ImageRef = (usize, ImageId);

/// Most bytes of decoded pixels that are kept.
const PIXEL_CACHE: usize = 1 << 30;

struct ImageStore {
    processor: ImageProcessor,
    pixels: Mutex<HashMap<ImageRef, Arc<[f32]>>>,
    bank: Option<Vec<FeatureBank>>,
}

/// Outputs of the vision tower for every image of a source.
struct FeatureBank {
    features: Vec<f32>,
    per_image: usize,
}

impl ImageStore {
    fn new(processor: ImageProcessor) -> Self {
        ImageStore { processor, pixels: Mutex::default(), bank: None }
    }

    fn get(&self, sources: &[Source], wanted: &[ImageRef]) -> Result<Images> {
        if wanted.is_empty() {
            return Ok(Images::None);
        }
        if let Some(bank) = &self.bank {
            let features = wanted.iter().flat_map(|&(source, image)| {
                let bank = &bank[source];
                &bank.features[image.0 as usize * bank.per_image..][..bank.per_image]
            });
            return Ok(Images::Features(features.copied().collect()));
        }
        let mut pixels = Vec::new();
        for &image in wanted {
            pixels.extend_from_slice(&self.pixels(sources, image)?);
        }
        Ok(Images::Pixels(pixels))
    }

    fn pixels(&self, sources: &[Source], image: ImageRef) -> Result<Arc<[f32]>> {
        let cache = || self.pixels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pixels) = cache().get(&image) {
            return Ok(Arc::clone(pixels));
        }
        let pixels: Arc<[f32]> = decode(&sources[image.0], image.1, &self.processor)?.into();
        let mut cache = cache();
        if (cache.len() + 1) * pixels.len() * size_of::<f32>() <= PIXEL_CACHE {
            cache.insert(image, Arc::clone(&pixels));
        }
        Ok(pixels)
    }
}

fn decode(source: &Source, image: ImageId, processor: &ImageProcessor) -> Result<Vec<f32>> {
    let name = source.reader.image_name(image)?;
    Ok(processor.decode_and_process(source.reader.image(image)?, name)?)
}

/// Images encoded at once.
const ENCODE_CHUNK: usize = 256;

fn encode_images(
    source: &Source,
    processor: &ImageProcessor,
    backend: &dyn Backend,
    model: &VilaModel,
    store: &ParamStore,
) -> Result<FeatureBank> {
    let per_image = model.config().vision.tokens() * model.config().vision.hidden_size;
    let images = source.reader.counts().images as u32;
    let mut features = Vec::with_capacity(images as usize * per_image);
    for start in (0..images).step_by(ENCODE_CHUNK) {
        let chunk = start..images.min(start + ENCODE_CHUNK as u32);
        let pixels: Vec<Vec<f32>> =
            chunk.into_par_iter().map(|image| decode(source, ImageId(image), processor)).collect::<Result<_>>()?;
        let mut tape = Tape::inference(backend, store);
        let encoded = model.vision_features(&mut tape, &pixels.concat())?;
        features.extend(backend.to_f32(encoded.tensor())?);
    }
    Ok(FeatureBank { features, per_image })
}
