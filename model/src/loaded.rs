use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vila_autograd::{ParamSpec, ParamStore, Tape};
use vila_engine::{Backend, DType};

use crate::config::Layout;
use crate::generate::Parts;
use crate::image::ImageProcessor;
use crate::llava::image_processor;
use crate::tokenizer::Tokenizer;
use crate::weights::{Checkpoint, RawTensor};
use crate::{Result, VilaConfig, VilaModel};

/// A checkpoint directory, loaded: everything that inference needs.
pub struct Vila {
    /// Where it came from.
    pub dir: PathBuf,
    /// How the directory is laid out.
    pub layout: Layout,
    /// The configuration.
    pub config: VilaConfig,
    /// The weights.
    pub store: ParamStore,
    /// The computation.
    pub model: VilaModel,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Files to pixels.
    pub processor: ImageProcessor,
    /// Tensors of the files that the model does not use, by canonical name.
    pub extras: BTreeMap<String, RawTensor>,
    pub(crate) backend: Arc<dyn Backend>,
}

impl Vila {
    /// Loads a directory of a known layout onto a device, frozen, for f32 activations.
    ///
    /// A device that can read them there computes with matrices where they lie in the mapped files, in the files' type, so
    /// that opening a model takes no memory; others get f32 copies.
    pub fn load(dir: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        Self::open(dir, backend, |checkpoint, backend, specs| checkpoint.mapped_store(backend, specs))
    }

    /// Loads with weights of type `dtype`; those parameters that `trains` accepts get gradients.
    pub fn load_with(
        dir: &Path,
        backend: Arc<dyn Backend>,
        dtype: DType,
        trains: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Self> {
        Self::open(dir, backend, |_, backend, specs| Ok(ParamStore::unset(backend, specs, dtype, trains)?))
    }

    fn open(
        dir: &Path,
        backend: Arc<dyn Backend>,
        store: impl FnOnce(&Checkpoint, &dyn Backend, Vec<ParamSpec>) -> Result<ParamStore>,
    ) -> Result<Self> {
        let (config, layout) = VilaConfig::read(dir)?;
        let text = if layout == Layout::Vila { dir.join("llm") } else { dir.to_path_buf() };
        let tokenizer = Tokenizer::from_file(&text.join("tokenizer.json"))?.with_ids(
            config.llm.bos,
            config.llm.eos.first().copied(),
            config.image_token,
        );
        let (processor, path) = image_processor(dir, layout, &config)?;
        let processor = match config.aspect {
            Some(mode) => processor.with_mode(mode),
            None => processor,
        };
        if processor.size() != config.vision.image_size {
            return Err(crate::Error::Config {
                path,
                field: "size".into(),
                problem: format!(
                    "makes images of {} pixels, the vision tower takes {}",
                    processor.size(),
                    config.vision.image_size
                ),
            });
        }
        let (checkpoint, specs) = (Checkpoint::open(dir, layout)?, VilaModel::specs(&config));
        // Before anything is allocated: a configuration may claim any size.
        checkpoint.check(&specs)?;
        let store = store(&checkpoint, &*backend, specs)?;
        let mut extras = checkpoint.load(&*backend, &store)?;
        if config.llm.tied {
            // The head is the embedding; a stored copy would not follow it.
            extras.remove("llm.lm_head.weight");
        }
        let model = VilaModel::new(&*backend, &config, &store)?;
        Ok(Vila { dir: dir.to_path_buf(), layout, config, store, model, tokenizer, processor, extras, backend })
    }

    /// The device.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What generation needs.
    pub fn parts(&self) -> Parts<'_> {
        let Vila { store, model, tokenizer, processor, .. } = self;
        Parts { backend: &*self.backend, store, model, tokenizer, processor }
    }

    /// A tape for inference over the weights.
    pub(crate) fn tape(&self) -> Tape<'_> {
        Tape::inference(&*self.backend, &self.store)
    }

    /// Decodes and normalises image files: `3 * size * size` values each.
    pub fn load_images(&self, paths: &[PathBuf]) -> Result<Vec<f32>> {
        let mut pixels = Vec::new();
        for path in paths {
            pixels.extend(self.processor.load(path)?);
        }
        Ok(pixels)
    }
}
