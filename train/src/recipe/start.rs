//! Where a run's model comes from: a checkpoint, directories of its parts, or sizes for random weights.

use std::path::Path;

use vila_model::Start;
use vila_model::config::{ProjectorConfig, ProjectorKind};
use vila_model::image::{GeometryMode, ImageProcessor};

use super::{ImageSpec, ModelSpec, Recipe, defaults};
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
        let parts = self.llm_from.is_some() || self.vision_from.is_some() || self.select_layer.is_some();
        let image = mode.is_some() || mean.is_some() || std.is_some();
        let fine = match (self.from.is_some(), parts) {
            (true, parts) => !(parts || sizes || image || self.tokenizer.is_some() || self.projector.is_some()),
            (false, true) => self.llm_from.is_some() && self.vision_from.is_some() && !sizes,
            (false, false) => self.llm.is_some() && self.vision.is_some() && self.tokenizer.is_some(),
        };
        let ways = "`model` needs either `from` alone (a checkpoint directory), or `llm_from` and `vision_from` (directories \
                    of a Llama and of a CLIP or SigLIP; with `projector`, `select_layer`, `tokenizer` and `image`, if they \
                    are not the usual ones), or `tokenizer`, `llm` and `vision` sizes";
        if fine { Ok(()) } else { Err(ways.into()) }
    }
}

impl Recipe {
    /// The parts from which the model is put together, if the recipe names any.
    ///
    /// # Errors
    /// A projector that is not known.
    pub fn parts(&self, path: &Path) -> Result<Option<Start<'_>>> {
        let (Some(llm), Some(tower)) = (&self.model.llm_from, &self.model.vision_from) else { return Ok(None) };
        Ok(Some(Start {
            llm,
            tower,
            tokenizer: self.model.tokenizer.as_deref(),
            select_layer: self.model.select_layer.unwrap_or_else(defaults::select_layer),
            projector: ProjectorConfig { kind: self.model.projector_kind(path)?, bias: true },
            seed: self.seed,
        }))
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
