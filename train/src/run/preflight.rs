//! What is looked at before the first step: all that the stages to come will read. Names and folders first, which costs
//! nothing; then every document of every source, so that no fault waits for the last stage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use vila_engine::DType;
use vila_model::tokenizer::place_images;
use vila_model::{VilaConfig, VilaModel};

use super::session::{Session, stage_data};
use crate::checkpoint::TrainerState;
use crate::data::shard::{ImageId, ShardReader};
use crate::data::tokens::IMAGE_PLACEHOLDER;
use crate::loader::{Share, Source, StageData};
use crate::recipe::{Part, Recipe, SamplesSpec, SourceSpec, StageSpec};
use crate::sources::{ingest_options, open_source};
use crate::{Error, Result};

/// Looks at names, files and folders of the stages from `first` on, without reading data.
///
/// # Errors
/// [`Error::Stage`] names stage and source.
pub(super) fn check_names(recipe: &Recipe, first: usize) -> Result<()> {
    for stage in recipe.stage.iter().skip(first) {
        for name in stage.data.keys() {
            let spec = &recipe.sources[name];
            // What the options lack is said with the source's name.
            let options = spec.shard.is_some().then_some(Ok(()));
            options.unwrap_or_else(|| ingest_options(name, spec).map(drop)).map_err(in_stage(stage))?;
            check_paths(spec).map_err(of_source(stage, name))?;
        }
    }
    let prompts = recipe.samples.iter().flat_map(|samples| &samples.prompts);
    prompts.flat_map(|prompt| &prompt.images).try_for_each(|image| check_file(image)).map_err(in_samples)
}

fn check_paths(spec: &SourceSpec) -> Result<()> {
    if let Some(dir) = &spec.shard {
        return ShardReader::open(dir).map(drop).map_err(Error::from);
    }
    spec.input.iter().try_for_each(|input| check_file(input))?;
    let Some(folder) = &spec.images else { return Ok(()) };
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::Data(format!("`images` is {}, which is a file; name the folder", folder.display()))),
        Err(error) => Err(Error::io(folder)(error)),
    }
}

fn check_file(path: &Path) -> Result<()> {
    vila_files::open(path).map(drop).map_err(Error::io(path))
}

/// Opens the data of all stages that `state` has left, in order, and as rank 0 looks through it; raw data is ingested.
///
/// # Errors
/// [`Error::Stage`] names stage and source; [`Error::Data`] says why a stage could not learn from its documents.
pub(super) fn open_stages(
    recipe: &Recipe,
    session: &Session,
    state: &TrainerState,
    share: Share,
) -> Result<Vec<StageData>> {
    let looks = share.rank == 0;
    let mut config = session.carried.config.clone();
    let mut opened = BTreeMap::new();
    let mut all = Vec::new();
    if let (true, Some(samples)) = (looks, &recipe.samples) {
        check_samples(samples, session).map_err(in_samples)?;
    }
    for (index, stage) in recipe.stage.iter().enumerate().skip(state.stage) {
        check_parts(recipe, stage, &mut config).map_err(in_stage(stage))?;
        for name in stage.data.keys() {
            if !opened.contains_key(name.as_str()) {
                let look = || Opened::new(recipe, name, session, looks);
                opened.insert(name.as_str(), look().map_err(of_source(stage, name))?);
            }
        }
        let parts: Vec<(&str, &Opened)> =
            stage.data.keys().map(|name| (name.as_str(), &opened[name.as_str()])).collect();
        let sources = parts.iter().map(|(name, opened)| opened.source(recipe, name)).collect();
        if looks {
            check_learning(recipe, stage, &parts)?;
        }
        let data = stage_data(recipe, index, session, sources, share)?;
        if looks && parts.iter().any(|(_, opened)| opened.survey.silent > 0) {
            let (drawn, done) = if index == state.stage { (state.drawn, state.step) } else { (0, 0) };
            data.check_supervised(drawn, stage.steps.saturating_sub(done))?;
        }
        all.push(data);
    }
    Ok(all)
}

/// What a stage trains must be there once its adapters and experts are.
fn check_parts(recipe: &Recipe, stage: &StageSpec, config: &mut VilaConfig) -> Result<()> {
    recipe.model.graft(config, stage).map_err(Error::Data)?;
    if VilaModel::specs(config).iter().any(|spec| stage.trains(&spec.name)) {
        return Ok(());
    }
    Err(Error::Data("`train` names nothing that has weights (an identity projector has none)".into()))
}

/// A source, and what its documents are like.
struct Opened {
    reader: Arc<ShardReader>,
    survey: Survey,
}

impl Opened {
    fn new(recipe: &Recipe, name: &str, session: &Session, looks: bool) -> Result<Self> {
        let spec = &recipe.sources[name];
        let reader = open_source(&recipe.out, name, spec, &session.tokenizer)?;
        let rows = session.carried.config.llm.vocab_size;
        let survey = if looks { Survey::of(&reader, spec.hold_out, rows)? } else { Survey::default() };
        Ok(Opened { reader: Arc::new(reader), survey })
    }

    fn source(&self, recipe: &Recipe, name: &str) -> Source {
        let spec = &recipe.sources[name];
        Source {
            name: name.into(),
            reader: Arc::clone(&self.reader),
            hold_out: spec.hold_out,
            too_long: spec.too_long.unwrap_or_default(),
            max_tokens: spec.max_tokens,
        }
    }

    /// A document for a message.
    fn first_document(&self) -> Result<String> {
        Ok(self.reader.origin(&self.reader.record(0)?))
    }
}

/// What the documents of a source are like; all but the last count those that are trained on.
#[derive(Clone, Copy, Debug, Default)]
struct Survey {
    trained: u64,
    /// Documents without a supervised token.
    silent: u64,
    /// Documents in which a supervised token comes after an image, so that the image's features get a gradient.
    visual: u64,
}

/// Most bytes of encoded images whose checksums are looked at before the first step; of more, each is when it is read.
const CHECKED_IMAGES: u64 = 4 << 30;

impl Survey {
    /// Reads every document; the first fault in their order is the one that is told.
    fn of(reader: &ShardReader, hold_out: u64, rows: usize) -> Result<Self> {
        let trained = reader.len().saturating_sub(hold_out);
        if trained == 0 {
            return Err(Error::Data(format!(
                "has {} documents and `hold_out` keeps {hold_out}, nothing is left to train on; lower `hold_out`",
                reader.len()
            )));
        }
        let documents = (0..reader.len()).into_par_iter();
        let survey = documents
            .map(|index| Ok(Survey::of_document(reader, index, rows)?.only_if(index < trained)))
            .reduce(|| Ok(Survey::default()), |a: Result<Survey>, b| Ok(a?.and(b?)))?;
        if reader.counts().image_bytes <= CHECKED_IMAGES {
            let images = (0..reader.counts().images as u32).into_par_iter();
            images.try_for_each(|image| reader.image(ImageId(image)).map(drop))?;
        }
        Ok(survey)
    }

    fn of_document(reader: &ShardReader, index: u64, rows: usize) -> Result<Self> {
        let sample = reader.sample(index)?;
        if let Some(token) = sample.tokens.iter().find(|&&token| token != IMAGE_PLACEHOLDER && token as usize >= rows) {
            return Err(Error::Data(format!(
                "document {index} ({}) has the token {token}, the model's embedding has {rows} rows; use the tokenizer that \
                 belongs to the model, and ingest the data with it",
                reader.origin(&sample.record)
            )));
        }
        let image = sample.tokens.iter().position(|&token| token == IMAGE_PLACEHOLDER);
        let learned = (0..sample.loss.len()).rev().find(|&token| sample.loss.get(token));
        Ok(Survey {
            trained: 1,
            silent: u64::from(learned.is_none()),
            visual: u64::from(image.zip(learned).is_some_and(|(image, learned)| image < learned)),
        })
    }

    fn only_if(self, counts: bool) -> Self {
        if counts { self } else { Survey::default() }
    }

    fn and(self, other: Self) -> Self {
        Survey {
            trained: self.trained + other.trained,
            silent: self.silent + other.silent,
            visual: self.visual + other.visual,
        }
    }
}

/// A stage whose documents move nothing of what it trains would run to its end in vain.
fn check_learning(recipe: &Recipe, stage: &StageSpec, sources: &[(&str, &Opened)]) -> Result<()> {
    let first = |(name, opened): &(&str, &Opened)| Ok(format!("{name} document 0 from {}", opened.first_document()?));
    if stage.validate_every > 0 && stage.data.keys().all(|name| recipe.sources[name].hold_out == 0) {
        tracing::warn!("stage {}: `validate_every` does nothing, since no source of it has a `hold_out`", stage.name);
    }
    let shown = || sources.iter().map(first).collect::<Result<Vec<String>>>().map(|shown| shown.join("; "));
    if sources.iter().all(|(_, opened)| opened.survey.silent == opened.survey.trained) {
        return Err(Error::Data(format!(
            "stage {}, step 1: no document of its sources has a supervised token ({}), so that nothing can be learned; choose a \
             `template` or `loss_scope` that leaves something to learn, or check the loss masks with `vila data show`",
            stage.name,
            shown()?
        )));
    }
    if sources.iter().any(|(_, opened)| opened.survey.visual > 0) {
        return Ok(());
    }
    let visual: Vec<&str> = stage.train.iter().filter(|part| part.needs_images()).map(|part| part.name()).collect();
    if visual.len() == stage.train.len() {
        return Err(Error::Data(format!(
            "stage {}: `train` names {} alone, which only images move, and no document of its sources has a supervised token \
             after an image ({}); add a source with images, or train something else",
            stage.name,
            visual.join(", "),
            shown()?
        )));
    }
    if !visual.is_empty() {
        let parts = visual.join(", ");
        tracing::warn!(
            "stage {}: its sources have no image before a supervised token, so {parts} will not move",
            stage.name
        );
    }
    Ok(())
}

/// The prompts that the model will continue now and then must be such that it can.
fn check_samples(samples: &SamplesSpec, session: &Session) -> Result<()> {
    let config = &session.carried.config;
    for prompt in &samples.prompts {
        prompt.images.iter().try_for_each(|image| session.processor.load(image).map(drop))?;
        let tokens = session.tokenizer.encode_prompt(&place_images(&prompt.text, prompt.images.len())?)?;
        let images = prompt.images.len();
        let length = vila_model::batch::expanded_len(tokens.len(), images, config.tokens_per_image());
        if length == 0 || length >= config.llm.max_positions {
            return Err(Error::Data(format!(
                "the prompt {:?} takes {length} positions, the model's context is {}; give another text or fewer images",
                prompt.text, config.llm.max_positions
            )));
        }
    }
    Ok(())
}

/// Says what a choice costs that is correct and slow.
pub(super) fn warn_of_cost(recipe: &Recipe, device: &str) {
    if DType::from(recipe.model.precision) == DType::BF16 && device == "cpu" {
        tracing::warn!(
            "`model.precision = \"bf16\"` without a GPU computes with the slow reference arithmetic, many times slower than \
             f32, and is good for small checks alone; leave `precision` out to train on the CPU"
        );
    }
}

impl Part {
    /// Whether nothing but an image can give it a gradient.
    fn needs_images(self) -> bool {
        matches!(self, Part::Vision | Part::Projector | Part::Expert)
    }
}

fn in_samples(error: Error) -> Error {
    Error::Data(format!("[samples]: {error}"))
}

fn in_stage(stage: &StageSpec) -> impl FnOnce(Error) -> Error {
    let stage = stage.name.clone();
    |error| match error {
        Error::Interrupted(signal) => Error::Interrupted(signal),
        source => Error::Stage { stage, source: Box::new(source) },
    }
}

fn of_source(stage: &StageSpec, name: &str) -> impl FnOnce(Error) -> Error {
    let (name, outer) = (name.to_string(), in_stage(stage));
    |error| match error {
        Error::Interrupted(signal) => Error::Interrupted(signal),
        source => outer(Error::Source { name, source: Box::new(source) }),
    }
}
