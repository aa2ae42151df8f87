//! The corpora of one seed, and the shards made of them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use vila_model::tokenizer::Tokenizer;

use super::AblateOptions;
use crate::data::tokens::hex;
use crate::recipe::SourceSpec;
use crate::sources::open_source;
use crate::toy::{CorpusOptions, Digits, WorldFolder, WorldState, train_tokenizer, write_corpus, write_worded_text};
use crate::{Error, Result};

/// The folder of a seed.
pub(super) struct World {
    pub(super) dir: PathBuf,
    pub(super) seed: u64,
    /// What the corpora were made of.
    pub(super) identity: String,
    tokenizer: Tokenizer,
    ingesting: Mutex<()>,
}

impl World {
    /// Writes the corpora of a seed, unless they are there.
    pub(super) fn open(options: &AblateOptions, seed: u64) -> Result<Self> {
        let dir = options.out.join(format!("seed-{seed}"));
        let digits = Digits::embedded()?;
        let sizes = CorpusOptions { seed, ..options.corpus.clone() };
        let made_of = json!({"digits": hex(digits.fingerprint()), "options": sizes, "worded": options.worded});
        let identity = format!("{made_of:#}\n");
        let (corpus, folder) =
            (dir.join("corpus"), WorldFolder { dir: dir.join("corpus"), identity: identity.clone() });
        match folder.state()? {
            WorldState::Same => {}
            WorldState::Other => {
                let problem = "holds other corpora; choose another --out, or remove it".to_string();
                return Err(Error::OutputDirectory { path: dir, problem });
            }
            WorldState::Absent => folder.write(|corpus| {
                let written = write_corpus(&digits, &sizes, corpus)?;
                write_worded_text(&digits, &sizes, options.worded, corpus)?;
                Ok(train_tokenizer(&written.text_files, corpus.join("tokenizer.json"))?)
            })?,
        }
        let tokenizer = Tokenizer::from_file(&corpus.join("tokenizer.json"))?;
        Ok(World { dir, seed, identity, tokenizer, ingesting: Mutex::new(()) })
    }

    /// The shard of a source whose paths are relative to the seed's folder; one cell at a time makes what is not there.
    pub(super) fn shard(&self, name: &str, spec: &SourceSpec) -> Result<PathBuf> {
        let _one = self.ingesting.lock().unwrap_or_else(PoisonError::into_inner);
        let input = spec.input.iter().map(|path| self.dir.join(path)).collect();
        let images = spec.images.as_ref().map(|path| self.dir.join(path));
        let spec = SourceSpec { input, images, ..spec.clone() };
        Ok(open_source(&self.dir, name, &spec, &self.tokenizer)?.dir().to_path_buf())
    }

    /// The questions about held-out digits.
    pub(super) fn questions(&self, task: &str) -> PathBuf {
        self.dir.join("corpus/eval").join(format!("{task}.jsonl"))
    }

    /// `path` of this folder as seen from a folder two levels below it.
    pub(super) fn two_levels_up(&self, path: &Path) -> PathBuf {
        Path::new("../..").join(path.strip_prefix(&self.dir).unwrap_or(path))
    }
}
