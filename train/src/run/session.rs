use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use vila_autograd::{ParamSpec, ParamStore};
use vila_engine::Backend;
use vila_model::image::ImageProcessor;
use vila_model::tokenizer::Tokenizer;
use vila_model::{Parts, Vila, VilaModel};

use crate::checkpoint::Carried;
use crate::loader::{Geometry, Share, Source, StageData};
use crate::packing::grain;
use crate::ranks::Facts;
use crate::recipe::{Recipe, StageSpec, TokenIds};
use crate::say::say;
use crate::{Error, Result};

/// The model of a run between stages.
pub(super) struct Session {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) carried: Carried,
    pub(super) store: Option<ParamStore>,
    pub(super) tokenizer: Tokenizer,
    pub(super) processor: ImageProcessor,
}

impl Session {
    pub(super) fn start(recipe: &Recipe, path: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        if let Some(from) = &recipe.model.from {
            return Self::load(from, backend, recipe, recipe.stage.first());
        }
        if let Some(parts) = recipe.parts(path)? {
            let trains = |spec: &ParamSpec| recipe.stage.first().is_some_and(|stage| stage.trains(&spec.name));
            let mut vila = Vila::start(&parts, backend, recipe.model.precision.into(), trains)?;
            vila.processor = recipe.adjusted(path, vila.processor)?;
            return Ok(Self::of(vila, recipe));
        }
        let file =
            recipe.model.tokenizer.as_ref().ok_or_else(|| Error::recipe(path, "`model.tokenizer` is missing"))?;
        let tokenizer = Tokenizer::from_file(file)?;
        let ids = TokenIds { bos: tokenizer.bos(), eos: tokenizer.eos(), image: tokenizer.image_token() };
        let (config, processor) = recipe.random_model(path, tokenizer.vocab_size(), ids)?;
        let dtype = recipe.model.precision.into();
        let store = ParamStore::new(&*backend, VilaModel::specs(&config), dtype, recipe.seed, |_| false)?;
        let carried = Carried {
            config,
            extras: BTreeMap::new(),
            tokenizer: tokenizer.file_bytes().to_vec(),
            processor: processor.clone(),
            recipe: printed(recipe),
        };
        Ok(Session { backend, carried, store: Some(store), tokenizer, processor })
    }

    /// What `stage` trains keeps its f32 values as master weights.
    pub(super) fn load(
        dir: &Path,
        backend: Arc<dyn Backend>,
        recipe: &Recipe,
        stage: Option<&StageSpec>,
    ) -> Result<Self> {
        let trains = |spec: &ParamSpec| stage.is_some_and(|stage| stage.trains(&spec.name));
        Ok(Self::of(Vila::load_with(dir, backend, recipe.model.precision.into(), trains)?, recipe))
    }

    fn of(vila: Vila, recipe: &Recipe) -> Self {
        let backend = vila.shared_backend();
        let carried = Carried {
            config: vila.config,
            extras: vila.extras,
            tokenizer: vila.tokenizer.file_bytes().to_vec(),
            processor: vila.processor.clone(),
            recipe: printed(recipe),
        };
        Session { backend, carried, store: Some(vila.store), tokenizer: vila.tokenizer, processor: vila.processor }
    }

    /// The weights with what a stage adds to them, and with another choice of what trains.
    pub(super) fn retrain(&mut self, recipe: &Recipe, stage: &StageSpec) -> Result<()> {
        let place = |problem: String| Error::Data(format!("stage {}: {problem}", stage.name));
        let grafted = recipe.model.graft(&mut self.carried.config, stage).map_err(place)?;
        let store = self.store.take().ok_or_else(|| Error::Data("the weights are gone after a failed stage".into()))?;
        let (backend, specs) = (&*self.backend, VilaModel::specs(&self.carried.config));
        let store = store.with_specs(backend, specs, recipe.seed, |spec| stage.trains(&spec.name))?;
        if store.ranges().is_empty() {
            return Err(place("`train` names nothing that has weights (an identity projector has none)".into()));
        }
        if grafted.expert {
            vila_model::expert::copy_from_base(backend, &store)?;
        }
        self.store = Some(store);
        Ok(())
    }

    /// Takes the conversation template of the source with the largest share, the first among equals, which checkpoints
    /// name from now on; `aloud` says so where sources have several.
    pub(super) fn learn_template(&mut self, stage: &StageSpec, data: &StageData, aloud: bool) {
        let share = |source: &str| stage.data.get(source).copied().unwrap_or(0.0);
        let mut templates = data.templates();
        templates.sort_by(|(one, _), (other, _)| share(other).total_cmp(&share(one)));
        let Some((source, template)) = templates.first().cloned() else { return };
        if aloud && templates.iter().any(|(_, other)| *other != template) {
            say(format_args!(
                "stage {}: its sources have several conversation templates; `chat` and `eval` will use that of `{source}` \
                 ({}) unless --template names another",
                stage.name,
                template.name()
            ));
        }
        self.carried.config.template = Some(template);
    }

    /// What ranks must have alike of a model that each has read by itself: checksums of its files and of every weight.
    pub(super) fn facts(&self) -> Result<Facts> {
        let Carried { config, tokenizer, processor, .. } = &self.carried;
        let sum = |bytes: &[u8]| format!("{:08x}", crc32c::crc32c(bytes));
        let mut facts = Facts::new()
            .with("a model configuration, whose checksum", sum(format!("{config:?}").as_bytes()))
            .with("a tokenizer, whose checksum", sum(tokenizer))
            .with("image settings, whose checksum", sum(format!("{processor:?}").as_bytes()));
        let store = self.weights()?;
        for id in store.ids() {
            let parts = store.weight_parts(id).iter().map(|part| Ok(sum(&self.backend.download(part)?)));
            let sums = parts.collect::<Result<Vec<_>>>()?.join(" ");
            facts = facts.with(format!("weights {}, whose checksum", store.spec(id).name), sums);
        }
        Ok(facts)
    }

    pub(super) fn weights(&self) -> Result<&ParamStore> {
        self.store.as_ref().ok_or_else(|| Error::Data("the weights are gone after a failed stage".into()))
    }

    /// What generation needs of the model in training.
    pub(super) fn parts<'a>(&'a self, model: &'a VilaModel) -> Result<Parts<'a>> {
        let (store, tokenizer, processor) = (self.weights()?, &self.tokenizer, &self.processor);
        Ok(Parts { backend: &*self.backend, store, model, tokenizer, processor, dir: None })
    }
}

fn printed(recipe: &Recipe) -> String {
    // TOML has no place for bytes that are not text.
    let mut recipe = recipe.clone();
    recipe.change_paths(|path| *path = path.to_string_lossy().into_owned().into());
    toml::to_string_pretty(&recipe).unwrap_or_default()
}

/// Multiplies the stage index into seeds, so that stages draw different orders.
const STAGE_SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Seed of everything random in a stage.
pub(super) fn stage_seed(recipe: &Recipe, index: usize) -> u64 {
    recipe.seed ^ STAGE_SEED.wrapping_mul(index as u64 + 1)
}

/// The data of a stage, of which this rank makes its share.
pub(super) fn stage_data(
    recipe: &Recipe,
    index: usize,
    session: &Session,
    sources: Vec<Source>,
    share: Share,
) -> Result<StageData> {
    let stage = &recipe.stage[index];
    let geometry = Geometry {
        tokens_per_image: session.carried.config.tokens_per_image(),
        max_positions: session.carried.config.llm.max_positions,
        align: if session.backend.needs_fixed_shapes() { grain(stage.capacity) } else { 1 },
        vocabulary: session.carried.config.llm.vocab_size,
        width: session.carried.config.llm.hidden_size,
    };
    StageData::new(stage_seed(recipe, index), stage, sources, geometry, share, session.processor.clone())
}
