//! From shards to packed micro-batches: one step's documents, packed, with their images, ahead of time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vila_autograd::{ParamStore, Tape};
use vila_engine::Backend;
use vila_model::batch::expanded_len;
use vila_model::image::ImageProcessor;
use vila_model::template::Template;
use vila_model::{Document, Images, PackedBatch, VilaModel};

use crate::data::ingest::{self, TokenLimit, TooLong};
use crate::data::shard::{ImageId, SampleView, ShardReader};
use crate::data::tokens::{IMAGE_PLACEHOLDER, hex};
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
    /// What becomes of documents that are too long.
    pub too_long: TooLong,
    /// Most positions of a document, if the source has a limit of its own.
    pub max_tokens: Option<usize>,
}

/// What a stage has of a source, and what it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSummary {
    /// Documents that are there to be trained on or held out.
    pub documents: u64,
    /// Records and documents that were left out, by reason: at ingestion, or because they are too long for the stage.
    #[serde(default)]
    pub skipped: BTreeMap<String, u64>,
    /// Documents that lost a part, by reason.
    #[serde(default)]
    pub cut: BTreeMap<String, u64>,
}

impl SourceSummary {
    fn of(reader: &ShardReader) -> Self {
        let skipped = reader.manifest().skipped.clone();
        let (cut, skipped) = skipped.into_iter().partition(|(reason, _)| ingest::is_partial(reason));
        SourceSummary { documents: reader.len(), skipped, cut }
    }

    /// Whether every record is there as it was.
    pub fn is_whole(&self) -> bool {
        self.skipped.is_empty() && self.cut.is_empty()
    }

    fn skip(&mut self, reason: &str) {
        self.documents -= 1;
        *self.skipped.entry(reason.into()).or_default() += 1;
    }
}

impl fmt::Display for SourceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |reasons: &BTreeMap<String, u64>| {
            let each = reasons.iter().map(|(reason, count)| format!("{}: {count}", reason.replace('_', " ")));
            let total: u64 = reasons.values().sum();
            (total, if total == 0 { String::new() } else { format!(" ({})", each.collect::<Vec<_>>().join(", ")) })
        };
        let ((skipped, why), (cut, how)) = (list(&self.skipped), list(&self.cut));
        write!(f, "{} documents, {skipped} records skipped{why}, {cut} cut{how}", self.documents)
    }
}

/// A source as a stage uses it: documents that are too long are cut or left out.
///
/// They are cut when they are read, not when they are ingested, so that a shard depends neither on the model's context nor on the
/// number of positions that an image takes, and serves stages with other capacities.
struct Fitted {
    source: Source,
    /// Most positions of a document.
    limit: TokenLimit,
    /// The shard's numbers of the documents that are used, if not all are.
    used: Option<Vec<u64>>,
    /// How many of them are trained on.
    trained: u64,
    summary: SourceSummary,
}

/// What of a document is used.
struct Shape {
    length: usize,
    tokens: usize,
    images: usize,
    supervised: usize,
}

impl Fitted {
    fn new(stage: &StageSpec, source: Source, geometry: Geometry) -> Result<Self> {
        let most = [Some(geometry.max_positions), Some(stage.capacity), source.max_tokens].into_iter().flatten().min();
        let limit = TokenLimit { tokens: most.unwrap_or(0), per_image: geometry.tokens_per_image };
        let summary = SourceSummary::of(&source.reader);
        let mut fitted = Fitted { source, limit, used: None, trained: 0, summary };
        check_token_ids(stage, &fitted.source, geometry)?;
        let reader = Arc::clone(&fitted.source.reader);
        let trained = reader.len().saturating_sub(fitted.source.hold_out);
        for document in 0..reader.len() {
            let left_out = fitted.left_out(stage, document)?;
            match (left_out, &mut fitted.used) {
                (None, None) => {}
                (None, Some(used)) => used.push(document),
                (Some(reason), used) => {
                    used.get_or_insert_with(|| (0..document).collect());
                    fitted.summary.skip(reason);
                }
            }
            if document < trained && left_out.is_none() {
                fitted.trained += 1;
            }
        }
        if fitted.trained == 0 {
            return Err(Error::Data(format!(
                "stage {}: source {} holds out {} of its documents ({}); nothing is left to train on",
                stage.name, fitted.source.name, fitted.source.hold_out, fitted.summary
            )));
        }
        Ok(fitted)
    }

    /// Why a document is not used, if it is not; counts those that are cut.
    fn left_out(&mut self, stage: &StageSpec, document: u64) -> Result<Option<&'static str>> {
        let reader = &self.source.reader;
        let record = reader.record(document)?;
        let (tokens, images) = (record.token_count as usize, record.image_count as usize);
        let length = expanded_len(tokens, images, self.limit.per_image);
        if length <= self.limit.tokens {
            return Ok(None);
        }
        match self.source.too_long {
            TooLong::Skip => return Ok(Some(ingest::TOO_LONG)),
            TooLong::Stop => {
                return Err(Error::Data(format!(
                    "stage {}: document {document} of source {} ({}) takes {length} positions with its {images} images of {}; {} \
                     are allowed by the model's context (max_positions), the stage's `capacity` and the source's `max_tokens`: raise \
                     the smallest, or set too_long = \"cut\" or \"skip\" for the source",
                    stage.name,
                    self.source.name,
                    reader.origin(&record),
                    self.limit.per_image,
                    self.limit.tokens
                )));
            }
            TooLong::Cut => {}
        }
        let shape = self.cut(&reader.sample(document)?);
        if shape.supervised == 0 && record.target_count > 0 {
            return Ok(Some(ingest::CUT_LEAVES_NO_ANSWER));
        }
        *self.summary.cut.entry(CUT_TO_FIT.into()).or_default() += 1;
        Ok(None)
    }

    /// The shard's number of a document that is used.
    fn number(&self, document: u64) -> u64 {
        let used = self.used.as_ref().and_then(|used| used.get(document as usize));
        used.copied().unwrap_or(document)
    }

    /// How many documents are used.
    fn len(&self) -> u64 {
        self.summary.documents
    }

    fn shape(&self, document: u64) -> Result<Shape> {
        let (reader, number) = (&self.source.reader, self.number(document));
        let record = reader.record(number)?;
        let (tokens, images) = (record.token_count as usize, record.image_count as usize);
        let length = expanded_len(tokens, images, self.limit.per_image);
        if length > self.limit.tokens {
            return Ok(self.cut(&reader.sample(number)?));
        }
        Ok(Shape { length, tokens, images, supervised: record.target_count as usize })
    }

    /// What fits of a document.
    fn cut(&self, sample: &SampleView) -> Shape {
        let tokens = ingest::fitting(sample.tokens, self.limit);
        let images = sample.tokens[..tokens].iter().filter(|&&token| token == IMAGE_PLACEHOLDER).count();
        let supervised = sample.loss.iter().take(tokens).filter(|&supervised| supervised).count();
        Shape { length: expanded_len(tokens, images, self.limit.per_image), tokens, images, supervised }
    }

    /// The documents that are not trained on.
    fn held_out(&self) -> Range<u64> {
        self.trained..self.len()
    }
}

/// Key under which documents are counted that a stage cuts.
const CUT_TO_FIT: &str = "cut_to_fit";

/// Refuses token ids that the model has no embedding for.
fn check_token_ids(stage: &StageSpec, source: &Source, geometry: Geometry) -> Result<()> {
    let Some((document, token)) = source.reader.token_from(geometry.vocabulary)? else { return Ok(()) };
    let record = source.reader.record(document)?;
    Err(Error::Data(format!(
        "stage {}: document {document} of source {} ({}) has the token {token}, the model's embedding has {} rows; use the tokenizer \
         that belongs to the model, or a model whose embedding was enlarged for this one",
        stage.name,
        source.name,
        source.reader.origin(&record),
        geometry.vocabulary
    )))
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
    /// Rows of the embedding.
    pub vocabulary: usize,
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
    sources: Vec<Fitted>,
    order: MixtureOrder,
    documents: u64,
    capacity: usize,
    omit: Vec<u64>,
    geometry: Geometry,
    share: Share,
    images: ImageStore,
}

impl StageData {
    /// Holds every document of the stage to the capacity and the context.
    ///
    /// # Errors
    /// [`Error::Data`] names a document that is longer where that is to stop the run, or that has a token that the model does
    /// not know, or an empty source.
    pub fn new(
        seed: u64,
        stage: &StageSpec,
        sources: Vec<Source>,
        geometry: Geometry,
        ranks: Share,
        processor: ImageProcessor,
    ) -> Result<Self> {
        let fit = |source| Fitted::new(stage, source, geometry);
        let sources = sources.into_iter().map(fit).collect::<Result<Vec<_>>>()?;
        let share = |fitted: &Fitted| (fitted.trained, stage.data[&fitted.source.name]);
        let shares: Vec<(u64, f64)> = sources.iter().map(share).collect();
        Ok(StageData {
            stage: stage.name.clone(),
            order: MixtureOrder::new(seed, &shares),
            documents: stage.documents,
            capacity: stage.capacity,
            omit: stage.omit.clone(),
            images: ImageStore::new(processor),
            sources,
            geometry,
            share: ranks,
        })
    }

    /// Encodes every image of the sources with a frozen vision tower, so that no step needs to.
    pub fn fill_feature_bank(&mut self, backend: &dyn Backend, model: &VilaModel, store: &ParamStore) -> Result<()> {
        let mut bank = Vec::new();
        for Fitted { source, .. } in &self.sources {
            bank.push(encode_images(source, &self.images.processor, backend, model, store)?);
        }
        self.images.bank = Some(bank);
        Ok(())
    }

    /// For each source its name, and the SHA-256 of the lengths and hashes of its shard's files.
    pub fn source_hashes(&self) -> impl Iterator<Item = (&str, String)> {
        let hash = |source: &Source| hex(&Sha256::digest(format!("{:?}", source.reader.manifest().files)));
        self.sources.iter().map(move |Fitted { source, .. }| (source.name.as_str(), hash(source)))
    }

    /// SHA-256 over the names, lengths and hashes of the shards behind the stage, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for Fitted { source, used, .. } in &self.sources {
            hash.update(format!("{} {} {:?}", source.name, source.hold_out, source.reader.manifest().files));
            if let Some(used) = used {
                hash.update(bytemuck::cast_slice::<u64, u8>(used));
            }
        }
        hex(&hash.finalize())
    }

    /// Names of the sources, in the order of their indices.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|fitted| fitted.source.name.as_str())
    }

    /// The sources of which something is missing.
    pub fn left_out(&self) -> BTreeMap<String, SourceSummary> {
        let missing = self.summaries().filter(|(_, summary)| !summary.is_whole());
        missing.map(|(name, summary)| (name.to_string(), summary.clone())).collect()
    }

    /// What the stage has of each source.
    pub fn summaries(&self) -> impl Iterator<Item = (&str, &SourceSummary)> {
        self.sources.iter().map(|fitted| (fitted.source.name.as_str(), &fitted.summary))
    }

    /// Sources of conversations, and their templates. Captions (`plain`) show no question: nobody talks like that.
    pub(crate) fn templates(&self) -> Vec<(&str, Template)> {
        let template = |source: &Source| {
            let options = &source.reader.manifest().options;
            let text = |key: &str| options.get(key).and_then(serde_json::Value::as_str);
            let template = Template::named(text("template")?).ok().filter(|template| !template.is_plain())?;
            Some(match text("system") {
                Some(system) => template.with_system(system),
                None => template,
            })
        };
        self.sources
            .iter()
            .filter_map(|Fitted { source, .. }| Some((source.name.as_str(), template(source)?)))
            .collect()
    }

    /// The data of group `index` of the stage, from 0.
    ///
    /// # Errors
    /// Damaged shards, undecodable images, or a step without supervised token, which names its documents.
    pub fn step(&self, index: u64) -> Result<Step> {
        let picks = self.order.range(index * self.documents, self.documents);
        let mut step = self.pack(&picks)?;
        step.group = index + 1;
        if step.supervised == 0 { Err(self.unsupervised(index, &picks)?) } else { Ok(step) }
    }

    fn unsupervised(&self, index: u64, picks: &[Pick]) -> Result<Error> {
        Ok(Error::Data(format!(
            "stage {}, step {group} (as groups of documents count): none of its {} documents has a supervised token ({}); raise \
             `documents`, add {group} to the stage's `omit`, or check the loss masks with `vila data show`",
            self.stage,
            picks.len(),
            self.describe(picks)?,
            group = index + 1
        )))
    }

    /// Looks for a step without supervised token among those that `count` steps from the `start`-th group on will take.
    ///
    /// # Errors
    /// [`Error::Data`] names the first and its documents.
    pub fn check_supervised(&self, start: u64, count: u64) -> Result<()> {
        for index in self.groups(start, count) {
            let picks = self.order.range(index * self.documents, self.documents);
            let supervised = |pick: &Pick| Ok(self.sources[pick.source].shape(pick.document)?.supervised);
            let counts = picks.iter().map(supervised).collect::<Result<Vec<usize>>>()?;
            if counts.iter().all(|&count| count == 0) {
                return Err(self.unsupervised(index, &picks)?);
            }
        }
        Ok(())
    }

    /// `count` groups from the `start`-th on, without those left out.
    fn groups(&self, start: u64, count: u64) -> impl Iterator<Item = u64> + Clone {
        (start..).filter(|group| !self.omit.contains(&(group + 1))).take(count as usize)
    }

    /// The documents kept for validation, packed; nothing if there are none.
    pub fn held_out(&self) -> Result<Option<Step>> {
        let picks: Vec<Pick> = self
            .sources
            .iter()
            .enumerate()
            .flat_map(|(index, source)| {
                source.held_out().map(move |document| Pick { source: index, document, epoch: 0 })
            })
            .collect();
        if picks.is_empty() { Ok(None) } else { self.pack(&picks).map(Some) }
    }

    fn pack(&self, picks: &[Pick]) -> Result<Step> {
        let shape = |pick: &Pick| self.sources[pick.source].shape(pick.document);
        let shapes = picks.iter().map(shape).collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = shapes.iter().map(|shape| shape.length).collect();
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
            supervised: shapes.iter().map(|shape| shape.supervised as u64).sum(),
            tokens: lengths.iter().sum::<usize>() as u64,
            images: shapes.iter().map(|shape| shape.images as u64).sum(),
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
            let fitted = &self.sources[pick.source];
            let sample = fitted.source.reader.sample(fitted.number(pick.document))?;
            let shape = fitted.cut(&sample);
            let supervised: Vec<bool> = sample.loss.iter().take(shape.tokens).collect();
            sources.push((pick.source, supervised.iter().filter(|&&supervised| supervised).count()));
            documents.push(Document { tokens: sample.tokens[..shape.tokens].to_vec(), supervised });
            images.extend(sample.images.iter().take(shape.images).map(|&image| (pick.source, image)));
        }
        let pixels = self.images.get(&self.sources, &images)?;
        let batch = PackedBatch::new(&documents, pixels, self.geometry.tokens_per_image, self.geometry.align)?;
        Ok(MicroBatch { index, batch, sources })
    }

    /// Where documents come from, for messages: at most eight of them.
    pub fn describe(&self, picks: &[Pick]) -> Result<String> {
        let mut names = Vec::new();
        for pick in picks.iter().take(8) {
            let fitted = &self.sources[pick.source];
            let (source, document) = (&fitted.source, fitted.number(pick.document));
            let record = source.reader.record(document)?;
            names.push(format!("{} document {document} from {}", source.name, source.reader.origin(&record)));
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
        let groups = self.groups(start, count);
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
    /// Work on a document, up to a factor: a decoder does 6 width multiplications a position for each that attention does a
    /// pair of positions.
    fn cost(&self, length: usize) -> u64 {
        (length as u64).saturating_mul(6 * self.width as u64 + length as u64)
    }
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

    fn get(&self, sources: &[Fitted], wanted: &[ImageRef]) -> Result<Images> {
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

    fn pixels(&self, sources: &[Fitted], image: ImageRef) -> Result<Arc<[f32]>> {
        let cache = || self.pixels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pixels) = cache().get(&image) {
            return Ok(Arc::clone(pixels));
        }
        let pixels: Arc<[f32]> = decode(&sources[image.0].source, image.1, &self.processor)?.into();
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
