//! The data sources of a recipe: shards as they are, raw data ingested once and cached.

use std::path::{Path, PathBuf};

use vila_files::OwnFolder;
use vila_model::tokenizer::Tokenizer;

use crate::data::IngestTokenizer;
use crate::data::ingest::{Format, FormatOptions, IngestOptions, OnError, cache_key, cached, ingest_cached};
use crate::data::shard::ShardReader;
use crate::recipe::SourceSpec;
use crate::{Error, Result};

/// Opens a source's shard; raw data is ingested under `out/shards` first unless the same was before.
///
/// # Errors
/// Options that do not fit, unusable raw data, damaged shards, a shard made with another tokenizer.
pub fn open_source(out: &Path, name: &str, spec: &SourceSpec, tokenizer: &Tokenizer) -> Result<ShardReader> {
    let reader = match &spec.shard {
        Some(dir) => ShardReader::open(dir)?,
        None => {
            let options = ingest_options(name, spec)?;
            let folder = out.join(SHARDS);
            OwnFolder::create(out).and_then(|out| out.folder(SHARDS)).map_err(Error::io(&folder))?;
            ShardReader::open(ingest_cached(&options, &folder, name, &IngestTokenizer::new(tokenizer.clone())?)?)?
        }
    };
    reader.check_tokenizer(&tokenizer.fingerprint())?;
    Ok(reader)
}

/// Folder of the shards that a run makes, below its own.
pub(crate) const SHARDS: &str = "shards";

/// As [`open_source`], if the shard is there already: nothing is ingested.
///
/// # Errors
/// As [`open_source`], for a shard that is there.
pub fn find_source(
    out: &Path,
    name: &str,
    spec: &SourceSpec,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<ShardReader>> {
    let dir = match (&spec.shard, tokenizer) {
        (Some(dir), _) => Some(dir.clone()),
        (None, Some(tokenizer)) => {
            let options = ingest_options(name, spec)?;
            // Raw data that cannot be read has no shard either.
            let key = cache_key(&options, &IngestTokenizer::new(tokenizer.clone())?).ok();
            key.map(|key| cached(&out.join(SHARDS), name, &key))
        }
        (None, None) => None,
    };
    dir.filter(|dir| dir.exists()).map(|dir| Ok(ShardReader::open(dir)?)).transpose()
}

/// How raw data is ingested, into a folder that is still open. Lengths are no part of it: they are a matter of the stage that
/// reads the shard.
///
/// # Errors
/// Options that do not exist or do not fit the format.
pub(crate) fn ingest_options(name: &str, spec: &SourceSpec) -> Result<IngestOptions> {
    let explain = |problem: String| Error::Data(format!("source `{name}`: {problem}"));
    let format_options = FormatOptions {
        template: spec.template.as_deref(),
        system: spec.system.as_deref(),
        layout: spec.layout.as_deref(),
        loss_scope: spec.loss_scope.as_deref(),
        max_images: spec.max_images,
    };
    let format = spec.format.as_deref().ok_or_else(|| explain("`format` is missing".into()))?;
    let format = Format::parse(format, &format_options).map_err(|error| explain(error.to_string()))?;
    let on_error = spec.on_error.as_deref().map_or(Ok(OnError::default()), str::parse);
    let on_error = on_error.map_err(|error: crate::data::ingest::OptionError| explain(error.to_string()))?;
    let is_pipe = |input: &&PathBuf| input.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
    if let Some(pipe) = spec.input.iter().find(is_pipe) {
        return Err(explain(format!(
            "{} is no regular file; a recipe reads its sources more than once",
            pipe.display()
        )));
    }
    Ok(IngestOptions {
        images_anywhere: spec.images_anywhere,
        image_root: spec.images.clone(),
        on_error,
        ..IngestOptions::new(format, spec.input.clone(), "")
    })
}
