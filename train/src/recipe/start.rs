//! Where a run's model comes from: a checkpoint, directories of its parts, or sizes for random weights.

use std::path::Path;

use vila_engine::ops::{GeluKind, HeadShape};
use vila_model::config::{LlamaConfig, ProjectorConfig, ProjectorKind, VisionConfig, VisionFamily};
use vila_model::image::{GeometryMode, ImageProcessor};
use vila_model::{Start, StartTower, VilaConfig};

use super::{FamilySpec, ImageSpec, ModelSpec, Recipe, TokenIds, VisionSpec, defaults};
use crate::{Error, Result};

impl ModelSpec {
    /// Whether the weights are read, so that those which the first stage trains have gradients from the beginning.
    pub fn reads_weights(&self) -> bool {
        self.from.is_some() || self.llm_from.is_some()
    }

    /// The kind of projector.
    pub(super) fn projector_kind(&self, path: &Path) -> Result<ProjectorKind> {
        let name = self.projector.as_deref().unwrap_or("linear");
        ProjectorKind::parse(name).ok_or_else(|| {
            Error::recipe(path, format!("`model.projector` is {name}; implemented are {}", ProjectorKind::NAMES))
        })
    }

    /// Says what is missing, or what contradicts the rest.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let ImageSpec { mode, mean, std } = &self.image;
        let sizes = self.llm.is_some() || self.vision.is_some();
        let tower = self.vision_from.is_some() || self.select_layer.is_some();
        let parts = self.llm_from.is_some() || tower;
        let image = mode.is_some() || mean.is_some() || std.is_some();
        let fine = match (self.from.is_some(), parts) {
            (true, parts) => !(parts || sizes || image || self.tokenizer.is_some() || self.projector.is_some()),
            (false, true) if self.vision.is_some() => self.llm_from.is_some() && self.llm.is_none() && !tower,
            (false, true) => self.llm_from.is_some() && self.vision_from.is_some() && self.llm.is_none(),
            (false, false) => self.llm.is_some() && self.vision.is_some() && self.tokenizer.is_some(),
        };
        let ways = "`model` needs either `from` alone (a checkpoint directory), or `llm_from` and `vision_from` (directories \
                    of a Llama and of a CLIP or SigLIP; with `projector`, `select_layer`, `tokenizer` and `image`, if they \
                    are not the usual ones), or `llm_from` and `vision` sizes, or `tokenizer`, `llm` and `vision` sizes";
        if fine { Ok(()) } else { Err(ways.into()) }
    }
}

impl Recipe {
    /// The parts from which the model is put together, if the recipe names any.
    ///
    /// # Errors
    /// A projector that is not known.
    pub fn parts(&self, path: &Path) -> Result<Option<Start<'_>>> {
        let Some(llm) = &self.model.llm_from else { return Ok(None) };
        let tower = match (&self.model.vision_from, &self.model.vision) {
            (Some(dir), _) => {
                let select_layer = self.model.select_layer.unwrap_or_else(defaults::select_layer);
                StartTower::Folder { dir, select_layer }
            }
            (None, Some(vision)) => {
                let (config, processor) = self.random_tower(path, vision)?;
                StartTower::Random { config, processor }
            }
            (None, None) => return Ok(None),
        };
        let projector = ProjectorConfig { kind: self.model.projector_kind(path)?, bias: true };
        Ok(Some(Start { llm, tower, tokenizer: self.model.tokenizer.as_deref(), projector, seed: self.seed }))
    }

    /// The configuration and image processor of a model with random weights.
    pub fn random_model(&self, path: &Path, vocab_size: usize, ids: TokenIds) -> Result<(VilaConfig, ImageProcessor)> {
        let (Some(llm), Some(tower)) = (&self.model.llm, &self.model.vision) else {
            return Err(Error::recipe(path, "`model.llm` and `model.vision` are missing"));
        };
        let kv_heads = llm.kv_heads.unwrap_or(llm.heads);
        let sound = divides(llm.heads, llm.hidden_size)
            && divides(kv_heads, llm.heads)
            && (llm.hidden_size / llm.heads).is_multiple_of(2)
            && are_sizes(&[llm.hidden_size, llm.intermediate_size, llm.layers, llm.max_positions]);
        if !sound {
            let rule = "heads must divide hidden_size with an even quotient, kv_heads divide heads, and every size be positive";
            return Err(Error::recipe(path, format!("`model.llm`: {rule}")));
        }
        let (vision, processor) = self.random_tower(path, tower)?;
        let kind = self.model.projector_kind(path)?;
        kind.check(vision.hidden_size, llm.hidden_size)
            .map_err(|problem| Error::recipe(path, format!("`model.projector` {problem}")))?;
        let llm = LlamaConfig {
            vocab_size,
            hidden_size: llm.hidden_size,
            intermediate_size: llm.intermediate_size,
            layers: llm.layers,
            heads: HeadShape { heads: llm.heads, kv_heads, head_dim: llm.hidden_size / llm.heads },
            rms_norm_eps: 1e-5,
            rope_theta: llm.rope_theta,
            rope_factor: 1.0,
            max_positions: llm.max_positions,
            tied: llm.tied,
            attention_bias: false,
            mlp_bias: false,
            bos: ids.bos,
            eos: ids.eos.into_iter().collect(),
        };
        let projector = ProjectorConfig { kind, bias: true };
        let config = VilaConfig {
            llm,
            vision,
            projector,
            image_token: ids.image,
            aspect: None,
            expert: None,
            lora: None,
            template: None,
        };
        Ok((config, processor))
    }

    fn random_tower(&self, path: &Path, vision: &VisionSpec) -> Result<(VisionConfig, ImageProcessor)> {
        let sound = divides(vision.heads, vision.hidden_size)
            && divides(vision.patch_size, vision.image_size)
            && are_sizes(&[vision.hidden_size, vision.intermediate_size, vision.layers, vision.image_size]);
        if !sound {
            let rule = "heads must divide hidden_size, patch_size divide image_size, and every size be positive";
            return Err(Error::recipe(path, format!("`model.vision`: {rule}")));
        }
        let (family, act, eps) = match vision.family {
            FamilySpec::Clip => (VisionFamily::Clip, GeluKind::Quick, 1e-5),
            FamilySpec::Siglip => (VisionFamily::Siglip, GeluKind::Tanh, 1e-6),
        };
        let config = VisionConfig {
            family,
            hidden_size: vision.hidden_size,
            intermediate_size: vision.intermediate_size,
            layers: vision.layers,
            heads: vision.heads,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            act,
            eps,
            select_layer: vision.select_layer,
            drop_class: family == VisionFamily::Clip,
        };
        if config.blocks_used().is_none() {
            let problem = format!("`model.vision.select_layer` {} names no state", vision.select_layer);
            return Err(Error::recipe(path, problem));
        }
        let processor = self.adjusted(path, config.usual_processor())?;
        Ok((config, processor))
    }

    /// The image processor with what `model.image` says otherwise.
    pub(crate) fn adjusted(&self, path: &Path, processor: ImageProcessor) -> Result<ImageProcessor> {
        let ImageSpec { mode, mean, std } = &self.model.image;
        let mut stats = processor.stats();
        (stats.mean, stats.std) = (mean.unwrap_or(stats.mean), std.unwrap_or(stats.std));
        let processor = processor.with_stats(stats);
        let Some(mode) = mode else { return Ok(processor) };
        let mode: GeometryMode =
            mode.parse().map_err(|error| Error::recipe(path, format!("`model.image.mode`: {error}")))?;
        Ok(processor.with_mode(mode))
    }
}

fn divides(n: usize, of: usize) -> bool {
    n > 0 && of.is_multiple_of(n)
}

fn are_sizes(sizes: &[usize]) -> bool {
    sizes.iter().all(|&size| size > 0 && size < 1 << 20)
}
