//! A cell's stages, each named by a hash of everything that decides its checkpoint: cells that begin alike share them.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::AblateOptions;
use super::grid::{BASE, Cell};
use super::world::World;
use crate::data::tokens::hex;
use crate::recipe::{CheckpointSpec, ImageSpec, ModelSpec, Part, Recipe, SourceSpec, StageSpec};
use crate::{Error, Result};

/// The stages of a cell under a seed.
pub(super) struct Chain {
    /// The cell's recipe; its paths are relative to the seed's folder.
    pub(super) recipe: Recipe,
    /// By stage.
    pub(super) keys: Vec<String>,
    /// How many stages at the beginning train the LLM on text alone. They run beside the tower and the projector of the base,
    /// which they do not look at, so that cells with others share them.
    blind: usize,
    base: ModelSpec,
}

impl Chain {
    pub(super) fn new(cell: &Cell, world: &World, options: &AblateOptions) -> Result<Self> {
        let parse = |own: &[&str]| {
            let own = own.iter().map(|set| set.to_string());
            let seed = [format!("seed={}", world.seed)];
            let sets: Vec<String> = seed.into_iter().chain(own).chain(options.sets.clone()).collect();
            let mut recipe = Recipe::parse(BASE, Path::new("recipes/ablate-toy.toml"), Path::new(""), &sets)?;
            widen(&mut recipe, options.size);
            Ok::<_, Error>(recipe)
        };
        let (mut recipe, base) = (parse(cell.sets)?, parse(&[])?.model);
        recipe.stage.retain(|stage| !cell.without.contains(&stage.name.as_str()));
        if options.quick {
            recipe.stage.iter_mut().for_each(|stage| stage.steps = stage.steps.div_ceil(2));
        }
        let sources = &recipe.sources;
        let is_text = |name: &String| sources.get(name).and_then(|spec| spec.format.as_deref()) == Some("text");
        let is_blind = |stage: &StageSpec| stage.train == [Part::Llm] && stage.data.keys().all(is_text);
        let blind = recipe.stage.iter().take_while(|stage| is_blind(stage)).count();
        let mut chain = Chain { recipe, keys: Vec::new(), blind, base };
        chain.keys = (0..chain.recipe.stage.len()).map(|stage| chain.key(stage, world)).collect();
        Ok(chain)
    }

    /// The recipe of a stage and those before it.
    fn until(&self, stage: usize) -> Recipe {
        let mut recipe = self.recipe.clone();
        recipe.stage.truncate(stage + 1);
        if stage < self.blind {
            let ModelSpec { vision, projector, image, .. } = self.base.clone();
            recipe.model = ModelSpec { vision, projector, image, ..recipe.model };
        }
        recipe.sources.retain(|name, _| recipe.stage.iter().any(|stage| stage.data.contains_key(name)));
        recipe
    }

    /// SHA-256 of what [`Chain::until`] gives, and of what the corpora were made of.
    fn key(&self, stage: usize, world: &World) -> String {
        let mut first = self.until(stage);
        drop_unused(&mut first);
        (first.out, first.checkpoint) = (PathBuf::new(), CheckpointSpec::default());
        hex(&Sha256::digest(json!([first, world.identity]).to_string()))
    }

    /// Folder of a stage, relative to that of the seed.
    pub(super) fn folder(&self, stage: usize) -> PathBuf {
        Path::new("stages").join(format!("{}-{}", self.recipe.stage[stage].name, &self.keys[stage][..12]))
    }

    /// The recipe of one stage alone, to stand in its folder: it goes on from the stage before, on shards.
    pub(super) fn stage_recipe(&self, stage: usize, world: &World) -> Result<String> {
        let mut recipe = self.until(stage);
        recipe.out = PathBuf::from(".");
        recipe.stage.drain(..stage);
        drop_unused(&mut recipe);
        recipe.sources.clear();
        for name in recipe.stage[0].data.keys() {
            let spec = &self.recipe.sources[name];
            let shard = Some(world.two_levels_up(&world.shard(name, spec)?));
            recipe.sources.insert(name.clone(), SourceSpec { shard, hold_out: spec.hold_out, ..SourceSpec::default() });
        }
        let below = |path: PathBuf| Path::new("../..").join(path);
        let before = |stage: usize| {
            let name = &self.recipe.stage[stage].name;
            below(self.folder(stage).join("checkpoints").join(name))
        };
        let (tokenizer, llm) = (None, None);
        recipe.model = match stage.checked_sub(1) {
            None => ModelSpec { tokenizer: recipe.model.tokenizer.map(below), ..recipe.model },
            Some(last) if last + 1 == self.blind => {
                ModelSpec { llm_from: Some(before(last).join("llm")), tokenizer, llm, ..recipe.model }
            }
            Some(last) => {
                let (vision, projector, image) = (None, None, ImageSpec::default());
                ModelSpec { from: Some(before(last)), tokenizer, llm, vision, projector, image, ..recipe.model }
            }
        };
        toml::to_string(&recipe).map_err(|error| Error::Data(format!("a stage's recipe cannot be written: {error}")))
    }
}

/// Drops what the model would have beside its weights and no stage trains.
fn drop_unused(recipe: &mut Recipe) {
    let trains = |part| recipe.stage.iter().any(|stage| stage.train.contains(&part));
    let (lora, expert) = (trains(Part::Lora), trains(Part::Expert));
    recipe.model.lora = recipe.model.lora.take().filter(|_| lora);
    recipe.model.visual_expert &= expert;
}

/// Makes the models `size` times as wide, with as many more heads; wider layers take smaller steps.
fn widen(recipe: &mut Recipe, size: usize) {
    let models =
        recipe.model.llm.iter_mut().map(|llm| [&mut llm.hidden_size, &mut llm.intermediate_size, &mut llm.heads]);
    models.flatten().for_each(|value| *value *= size);
    let towers = recipe.model.vision.iter_mut();
    let towers = towers.map(|tower| [&mut tower.hidden_size, &mut tower.intermediate_size, &mut tower.heads]);
    towers.flatten().for_each(|value| *value *= size);
    recipe.stage.iter_mut().for_each(|stage| stage.lr /= size as f64);
}
