//! The data sources of a recipe: shards as they are, raw data ingested once and cached.

use std::path::Path;

use vila_model::tokenizer::Tokenizer;

use crate::data::IngestTokenizer;
use crate::data::ingest::{Format, FormatOptions, IngestOptions, OnError, cache_key, ingest};
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
            let (options, tokenizer) = cached_ingestion(out, name, spec, tokenizer)?;
            if !options.out.exists() {
                let parent = out.join("shards");
                std::fs::create_dir_all(&parent).map_err(Error::io(&parent))?;
                ingest(&options, &tokenizer)?;
            }
            ShardReader::open(&options.out)?
        }
    };
    reader.check_tokenizer(&tokenizer.fingerprint())?;
    Ok(reader)
}

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
        // Raw data that cannot be read has no shard either.
        (None, Some(tokenizer)) => cached_ingestion(out, name, spec, tokenizer).ok().map(|(options, _)| options.out),
        (None, None) => None,
    };
    dir.filter(|dir| dir.exists()).map(|dir| Ok(ShardReader::open(dir)?)).transpose()
}

/// How raw data is ingested, into a folder that the hash of everything decides.
fn cached_ingestion(
    out: &Path,
    name: &str,
    spec: &SourceSpec,
    tokenizer: &Tokenizer,
) -> Result<(IngestOptions, IngestTokenizer)> {
    let mut options = ingest_options(name, spec, out)?;
    let tokenizer = IngestTokenizer::new(tokenizer.clone())?;
    let key = cache_key(&options, &tokenizer)?;
    options.out = out.join("shards").join(format!("{name}-{}", &key[..12]));
    Ok((options, tokenizer))
}

/// The options of a source's ingestion, which are complete but for the folder.
///
/// # Errors
/// Options that do not exist or do not fit the format.
pub(crate) fn ingest_options(name: &str, spec: &SourceSpec, out: &Path) -> Result<IngestOptions> {
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
    Ok(IngestOptions {
        image_root: spec.images.clone(),
        on_error,
        ..IngestOptions::new(format, spec.input.clone(), out)
    })
}
