//! A cell's stages, each named by a hash of everything that decides its checkpoint: cells that begin alike share them.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::AblateOptions;
use super::grid::{BASE, Cell};
use super::world::World;
use crate::data::tokens::hex;
use crate::recipe::{CheckpointSpec, ImageSpec, ModelSpec, Part, Recipe, SourceSpec};
use crate::{Error, Result};

/// The stages of a cell under a seed.
pub(super) struct Chain {
    /// The cell's recipe; its paths are relative to the seed's folder.
    pub(super) recipe: Recipe,
    /// By stage.
    pub(super) keys: Vec<String>,
}

impl Chain {
    pub(super) fn new(cell: &Cell, world: &World, options: &AblateOptions) -> Result<Self> {
        let own = cell.sets.iter().map(|set| set.to_string());
        let seed = [format!("seed={}", world.seed)];
        let sets: Vec<String> = seed.into_iter().chain(own).chain(options.sets.clone()).collect();
        let mut recipe = Recipe::parse(BASE, Path::new("recipes/ablate-toy.toml"), Path::new(""), &sets)?;
        widen(&mut recipe, options.size);
        recipe.stage.retain(|stage| !cell.without.contains(&stage.name.as_str()));
        if options.quick {
            recipe.stage.iter_mut().for_each(|stage| stage.steps = stage.steps.div_ceil(2));
        }
        let keys = (1..=recipe.stage.len()).map(|stages| key(&recipe, stages, world)).collect();
        Ok(Chain { recipe, keys })
    }

    /// Folder of a stage, relative to that of the seed.
    pub(super) fn folder(&self, stage: usize) -> PathBuf {
        Path::new("stages").join(format!("{}-{}", self.recipe.stage[stage].name, &self.keys[stage][..12]))
    }

    /// The recipe of one stage alone, to stand in its folder: it goes on from the stage before, on shards.
    pub(super) fn stage_recipe(&self, stage: usize, world: &World) -> Result<String> {
        let mut recipe = self.recipe.clone();
        recipe.out = PathBuf::from(".");
        recipe.stage = vec![self.recipe.stage[stage].clone()];
        drop_unused(&mut recipe);
        recipe.sources.clear();
        for name in recipe.stage[0].data.keys() {
            let spec = &self.recipe.sources[name];
            let shard = Some(world.two_levels_up(&world.shard(name, spec)?));
            recipe.sources.insert(name.clone(), SourceSpec { shard, hold_out: spec.hold_out, ..SourceSpec::default() });
        }
        let below = |path: PathBuf| Path::new("../..").join(path);
        recipe.model = match stage {
            0 => ModelSpec { tokenizer: recipe.model.tokenizer.map(below), ..recipe.model },
            _ => {
                let before = self.folder(stage - 1).join("checkpoints").join(&self.recipe.stage[stage - 1].name);
                let image = ImageSpec::default();
                let (tokenizer, llm, vision, projector) = (None, None, None, None);
                ModelSpec { from: Some(below(before)), tokenizer, llm, vision, projector, image, ..recipe.model }
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

/// SHA-256 of the recipe's first stages with the sources they use, and of what the corpora were made of.
fn key(recipe: &Recipe, stages: usize, world: &World) -> String {
    let mut first = recipe.clone();
    first.stage.truncate(stages);
    drop_unused(&mut first);
    first.sources.retain(|name, _| first.stage.iter().any(|stage| stage.data.contains_key(name)));
    (first.out, first.checkpoint) = (PathBuf::new(), CheckpointSpec::default());
    hex(&Sha256::digest(json!([first, world.identity]).to_string()))
}
