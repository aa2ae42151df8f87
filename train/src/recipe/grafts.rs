//! What a recipe adds to the decoder: low-rank adapters and visual experts (spec 6.2).

use serde::{Deserialize, Serialize};
use vila_model::VilaConfig;
use vila_model::expert::ExpertConfig;
use vila_model::lora::{LoraConfig, Scaling, Target};

use super::{ModelSpec, Part, Recipe, StageSpec};

/// Low-rank adapters beside the decoder's linear layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// Rank of the products.
    #[serde(default = "rank")]
    pub rank: usize,
    /// The products count `alpha / rank` times.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Probability to drop an input while training.
    #[serde(default = "dropout")]
    pub dropout: f64,
    /// Layers of every block that have one, by the names of the `peft` package; all seven if left out.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
}

fn rank() -> usize {
    64
}

fn alpha() -> f64 {
    16.0
}

fn dropout() -> f64 {
    0.05
}

fn targets() -> Vec<String> {
    Target::ALL.map(|target| target.name().to_string()).to_vec()
}

impl LoraSpec {
    /// Checks it.
    pub(super) fn config(&self) -> Result<LoraConfig, String> {
        let known = || Target::ALL.map(Target::name).join(", ");
        let target = |name: &String| {
            Target::parse(name).ok_or_else(|| format!("`model.lora.targets` has `{name}`; choose from {}", known()))
        };
        let mut targets = self.targets.iter().map(target).collect::<Result<Vec<_>, _>>()?;
        targets.sort();
        targets.dedup();
        if targets.is_empty() || !(1..1 << 16).contains(&self.rank) {
            return Err("`model.lora` needs a target at least, and a `rank` from 1 to 65535".into());
        }
        if !((0.0..1.0).contains(&self.dropout) && self.alpha.is_finite()) {
            return Err("`model.lora` needs a `dropout` in [0, 1) and an `alpha` that is a number".into());
        }
        Ok(LoraConfig {
            rank: self.rank,
            rank_pattern: Default::default(),
            scaling: Scaling { alpha: self.alpha, ..Scaling::default() },
            dropout: self.dropout,
            targets,
        })
    }
}

/// What a stage added to a model's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grafted {
    /// New experts, which must start from the decoder's weights.
    pub expert: bool,
}

impl ModelSpec {
    /// Adds to a configuration what a stage trains and the model does not have yet.
    ///
    /// # Errors
    /// The model has other adapters or experts than the recipe says.
    pub fn graft(&self, config: &mut VilaConfig, stage: &StageSpec) -> Result<Grafted, String> {
        if let (true, Some(spec)) = (stage.train.contains(&Part::Lora), &self.lora) {
            let mut wanted = spec.config()?;
            if let Some(own) = &config.lora {
                // What `peft` can say beyond a recipe stays as it is.
                wanted = LoraConfig { dropout: wanted.dropout, rank_pattern: own.rank_pattern.clone(), ..wanted };
                wanted.scaling.rank_stabilized = own.scaling.rank_stabilized;
                wanted.scaling.alpha_pattern.clone_from(&own.scaling.alpha_pattern);
                if *own != (LoraConfig { dropout: own.dropout, ..wanted.clone() }) {
                    return Err("the checkpoint has adapters of another rank, alpha or targets than `model.lora`; \
                                merge them first (`vila lora merge`), or say the same here"
                        .into());
                }
            }
            config.lora = Some(wanted);
        }
        let mut grafted = Grafted::default();
        if self.visual_expert && stage.train.contains(&Part::Expert) {
            let wanted = ExpertConfig { last_as_text: self.last_image_position_as_text };
            grafted.expert = config.expert.is_none();
            if config.expert.is_some_and(|own| own != wanted) {
                return Err("the checkpoint's experts have another `last_image_position_as_text`".into());
            }
            config.expert = Some(wanted);
        }
        Ok(grafted)
    }
}

impl Recipe {
    /// Whether what stages train of adapters and experts is there.
    pub(super) fn check_grafts(&self) -> Result<(), String> {
        let Some(first) = self.stage.first() else { return Ok(()) };
        self.model.lora.as_ref().map_or(Ok(()), |lora| lora.config().map(drop))?;
        if self.model.last_image_position_as_text && !self.model.visual_expert {
            return Err("`model.last_image_position_as_text` needs `model.visual_expert = true`".into());
        }
        let mut trained = self.model.from.is_some();
        for stage in &self.stage {
            let at = |problem: &str| Err(format!("stage `{}`: {problem}", stage.name));
            if stage.train.contains(&Part::Lora) && self.model.lora.is_none() {
                return at("`train` names lora; say which adapters in [model.lora]");
            }
            if stage.train.contains(&Part::Expert) && !self.model.visual_expert {
                return at("`train` names expert; set `model.visual_expert = true`");
            }
            trained |= stage.train.contains(&Part::Lora);
            if stage.merge_lora && !trained {
                return at("`merge_lora` has nothing to merge: neither this stage nor one before trains lora");
            }
        }
        let trains = |part| self.stage.iter().any(|stage| stage.train.contains(&part));
        let unused =
            [(self.model.lora.is_some(), Part::Lora, "lora"), (self.model.visual_expert, Part::Expert, "expert")];
        match unused.iter().find(|(asked, part, _)| *asked && !trains(*part)) {
            Some((_, _, name)) => Err(format!(
                "`model` asks for {name}, which no stage trains; add \"{name}\" to `train` of one, of `{}` say",
                first.name
            )),
            None => Ok(()),
        }
    }
}
