//! The directory that is converted: configurations as they stand in its files, and its tensors.

use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::{Map, Value};

use super::record::Record;
use crate::config::{Fields, Layout};
use crate::image::ImageProcessor;
use crate::llava::{Tower, image_processor};
use crate::tokenizer::Tokenizer;
use crate::weights::Checkpoint;
use crate::{Result, VilaConfig, VilaModel};

/// Names of the two tables with one row per token.
pub(super) const TABLES: [&str; 2] = ["llm.model.embed_tokens.weight", "llm.lm_head.weight"];

pub(super) struct Source {
    pub(super) dir: PathBuf,
    pub(super) layout: Layout,
    pub(super) config: VilaConfig,
    pub(super) checkpoint: Checkpoint,
    /// Where decoder and tokenizer lie.
    pub(super) text: PathBuf,
    pub(super) tokenizer: Tokenizer,
    /// What the directory's images go through, overrides included.
    pub(super) processor: ImageProcessor,
    /// `config.json`.
    pub(super) root: Map<String, Value>,
    /// The decoder's configuration, without what belongs to the whole model.
    pub(super) llm: Map<String, Value>,
    /// The tower's configuration.
    pub(super) tower: Map<String, Value>,
    pub(super) record: Record,
}

impl Source {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let (config, layout) = VilaConfig::read(dir)?;
        let checkpoint = Checkpoint::open_with(dir, layout, |_| true)?.tying(config.llm.tied);
        checkpoint.check(&VilaModel::specs(&config))?;
        let text = layout.text_folder(dir);
        let tokenizer = Tokenizer::from_file(&text.join("tokenizer.json"))?;
        let (processor, _) = image_processor(dir, layout, &config)?;
        let processor = config.aspect.map_or(processor.clone(), |mode| processor.with_mode(mode));
        let root = Fields::read(&dir.join("config.json"))?;
        let part = |name: &str| -> Result<_> { Ok(root.child(name)?.map(Fields::into_object).unwrap_or_default()) };
        let (llm, tower) = match layout {
            Layout::Vila => (
                Fields::read(&text.join("config.json"))?.into_object(),
                Fields::read(&dir.join("vision_tower/config.json"))?.into_object(),
            ),
            Layout::LlavaHf => (part("text_config")?, part("vision_config")?),
            Layout::Llava => {
                let mut llm = root.clone().into_object();
                llm.retain(|field, _| !is_llava_field(field));
                (llm, Tower::of(dir, &root)?.config()?.into_object())
            }
        };
        let record = Record::read(dir)?;
        let (dir, root) = (dir.to_path_buf(), root.into_object());
        Ok(Source { dir, layout, config, checkpoint, text, tokenizer, processor, root, llm, tower, record })
    }

    /// The configuration's name for the type of a part's weights.
    pub(super) fn dtype(&self, prefix: &str) -> &'static str {
        let mut mine = self.checkpoint.tensors().filter(|(name, ..)| name.starts_with(prefix));
        match mine.next() {
            Some((_, Dtype::F16, _)) => "float16",
            Some((_, Dtype::BF16, _)) => "bfloat16",
            _ => "float32",
        }
    }
}

/// Fields that LLaVA adds to a decoder's configuration.
fn is_llava_field(field: &str) -> bool {
    let starts = ["mm_", "tune_", "freeze_", "unfreeze_", "image_", "vision_", "use_mm_", "llm_cfg"];
    starts.iter().any(|start| field.starts_with(start))
        || ["model_type", "architectures", "bias", "resume_path", "_name_or_path"].contains(&field)
}
