use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vila_autograd::{ParamSpec, ParamStore, Tape};
use vila_engine::{Backend, DType};

use crate::config::{Layout, ProjectorConfig, VisionConfig};
use crate::generate::Parts;
use crate::image::ImageProcessor;
use crate::llava::{image_processor, tower_processor};
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

/// Weights in f32 that are worth their memory, because computing with them there is faster.
const IN_MEMORY: usize = 1 << 30;

/// The parts of a model that has not been trained as a whole yet.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Directory of a Hugging Face Llama.
    pub llm: &'a Path,
    /// Where the vision tower comes from.
    pub tower: StartTower<'a>,
    /// The tokenizer's file, if it is not that of the decoder's directory.
    pub tokenizer: Option<&'a Path>,
    /// What lies between; its values are random.
    pub projector: ProjectorConfig,
    /// Seed of random values.
    pub seed: u64,
}

/// The vision tower of a model that has not been trained as a whole yet.
#[derive(Clone, Debug)]
pub enum StartTower<'a> {
    /// Trained before.
    Folder {
        /// Directory of a CLIP or SigLIP, whole or its vision model alone.
        dir: &'a Path,
        /// Which hidden state becomes features.
        select_layer: i64,
    },
    /// Of random values.
    Random {
        /// Its sizes.
        config: VisionConfig,
        /// How images become its pixels.
        processor: ImageProcessor,
    },
}

impl Start<'_> {
    /// The configuration; of the vocabulary, only its size is known.
    ///
    /// # Errors
    /// As [`VilaConfig::read`]; also a projector that does not fit.
    pub fn config(&self) -> Result<VilaConfig> {
        let vision = match &self.tower {
            StartTower::Folder { dir, select_layer } => VilaConfig::of_tower(dir, *select_layer)?,
            StartTower::Random { config, .. } => config.clone(),
        };
        VilaConfig::of_parts(self.llm, vision, self.projector)
    }
}

fn check_size(processor: &ImageProcessor, config: &VilaConfig, path: PathBuf) -> Result<()> {
    let (made, taken) = (processor.size(), config.vision.image_size);
    if made == taken {
        return Ok(());
    }
    let problem = format!("makes images of {made} pixels, the vision tower takes {taken}");
    Err(crate::Error::Config { path, field: "size".into(), problem })
}

impl Vila {
    /// Loads a directory of a known layout onto a device, frozen, for f32 activations: as [`Vila::load_in_memory`] if the
    /// weights take a gibibyte at most, else as [`Vila::load_mapped`].
    pub fn load(dir: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        Self::open(dir, backend, |checkpoint, backend, specs| {
            let bytes = specs.iter().map(|spec| size_of::<f32>() * spec.len()).sum::<usize>();
            if bytes > IN_MEMORY {
                return checkpoint.mapped_store(backend, specs);
            }
            Ok(ParamStore::unset(backend, specs, DType::F32, |_| false)?)
        })
    }

    /// Loads a directory so that opening it takes no memory: a device that can read them there computes with matrices where
    /// they lie in the mapped files, in the files' type. Others get f32 copies.
    pub fn load_mapped(dir: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        Self::open(dir, backend, |checkpoint, backend, specs| checkpoint.mapped_store(backend, specs))
    }

    /// Loads a directory as [`Vila::load`] does, with all weights in the device's memory in f32, where they may be changed.
    pub fn load_in_memory(dir: &Path, backend: Arc<dyn Backend>) -> Result<Self> {
        Self::load_with(dir, backend, DType::F32, |_| false)
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
        let tokenizer = Tokenizer::from_file(&layout.text_folder(dir).join("tokenizer.json"))?;
        let (processor, path) = image_processor(dir, layout, &config)?;
        check_size(&processor, &config, path)?;
        let (checkpoint, specs) = (Checkpoint::open(dir, layout)?.tying(config.llm.tied), VilaModel::specs(&config));
        // Before anything is allocated: a configuration may claim any size.
        checkpoint.check(&specs)?;
        let store = store(&checkpoint, &*backend, specs)?;
        let extras = checkpoint.load(&*backend, &store)?;
        Self::bind(dir, layout, config, (tokenizer, processor), (store, extras), backend)
    }

    /// Puts a model together from its parts.
    ///
    /// # Errors
    /// As [`Vila::load_with`].
    pub fn start(
        start: &Start<'_>,
        backend: Arc<dyn Backend>,
        dtype: DType,
        trains: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Self> {
        let mut config = start.config()?;
        let tokenizer = Tokenizer::from_file(start.tokenizer.unwrap_or(&start.llm.join("tokenizer.json")))?;
        config.image_token = tokenizer.image_token();
        let (tower, processor) = match &start.tower {
            StartTower::Folder { dir, .. } => {
                let (processor, path) = tower_processor(dir)?;
                check_size(&processor, &config, path)?;
                (Some(*dir), processor)
            }
            StartTower::Random { processor, .. } => (None, processor.clone()),
        };
        let checkpoint = Checkpoint::open_parts(start.llm, tower)?.tying(config.llm.tied);
        let specs = VilaModel::specs(&config);
        let random = |spec: &ParamSpec| match spec.name.split('.').next() {
            Some("mm_projector") => true,
            Some("vision_tower") => tower.is_none(),
            _ => false,
        };
        checkpoint.check(&specs.iter().filter(|spec| !random(spec)).cloned().collect::<Vec<_>>())?;
        let store = ParamStore::unset(&*backend, specs, dtype, trains)?;
        let random_ids = store.ids().filter(|&id| random(store.spec(id)));
        random_ids.into_iter().try_for_each(|id| store.initialize(&*backend, id, start.seed))?;
        let extras = checkpoint.load_those(&*backend, &store, |spec| !random(spec))?;
        Self::bind(start.llm, Layout::Vila, config, (tokenizer, processor), (store, extras), backend)
    }

    fn bind(
        dir: &Path,
        layout: Layout,
        config: VilaConfig,
        (tokenizer, processor): (Tokenizer, ImageProcessor),
        (store, mut extras): (ParamStore, BTreeMap<String, RawTensor>),
        backend: Arc<dyn Backend>,
    ) -> Result<Self> {
        if config.llm.tied {
            // The head is the embedding; a stored copy would not follow it.
            extras.remove("llm.lm_head.weight");
        }
        let tokenizer = tokenizer.with_ids(config.llm.eos.first().copied(), config.image_token);
        let processor = match config.aspect {
            Some(mode) => processor.with_mode(mode),
            None => processor,
        };
        let model = VilaModel::new(&*backend, &config, &store)?;
        Ok(Vila { dir: dir.to_path_buf(), layout, config, store, model, tokenizer, processor, extras, backend })
    }

    /// The device.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The device, to use it beyond this model.
    pub fn shared_backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    /// What generation needs.
    pub fn parts(&self) -> Parts<'_> {
        let Vila { store, model, tokenizer, processor, .. } = self;
        Parts { backend: &*self.backend, store, model, tokenizer, processor, dir: Some(&self.dir) }
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
