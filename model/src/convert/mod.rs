//! Conversion of a checkpoint directory to another layout.
//!
//! Tensors are copied as they are stored, from mapped files, those that the model does not use included. What the new
//! layout has no place for (names that other versions write, fields of other programs) is kept in a file of its own, so
//! that the way back gives the same tensors under the same names.

mod configs;
mod names;
mod record;
mod shards;
mod source;
mod text;
mod vocabulary;

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::Value;
use vila_files::NewFolder;

use crate::config::Layout;
use crate::{Error, Result};
use shards::Folders;
use source::Source;

/// Bytes of a weight file above which a folder's tensors are spread over several.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Layout of the directory that was read.
    pub from: Layout,
    /// Layout of the directory that was written.
    pub to: Layout,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensors.
    pub bytes: u64,
    /// Weight files.
    pub files: usize,
    /// Rows that embedding and head gained, or lost if negative.
    pub rows: i64,
}

/// Writes the checkpoint directory `from` as `to` in another layout (or the same, with other shards), whole or not at all.
///
/// # Errors
/// A source that is incomplete or damaged, a layout that cannot express the model ([`Error::Config`] says why), a
/// destination that is there already.
pub fn convert(from: &Path, to: &Path, layout: Layout, shard_bytes: u64) -> Result<Conversion> {
    check_destination(from, to)?;
    let source = Source::read(from)?;
    configs::check(&source, layout)?;
    let vocabulary = vocabulary::plan(&source, layout)?;
    let folders = Folders::plan(&source, &vocabulary, layout)?;
    let folder = NewFolder::begin(to).map_err(Error::io(to))?;
    let files = write(folder.path(), &source, &vocabulary, &folders, layout, shard_bytes)?;
    folder.commit().map_err(Error::io(to))?;
    Ok(Conversion {
        from: source.layout,
        to: layout,
        tensors: folders.tensors(),
        bytes: folders.bytes(),
        files,
        rows: vocabulary.rows,
    })
}

/// Writes everything; returns the number of weight files.
fn write(
    partial: &Path,
    source: &Source,
    vocabulary: &vocabulary::Change,
    folders: &Folders<'_>,
    layout: Layout,
    shard_bytes: u64,
) -> Result<usize> {
    let files = folders.write(partial, shard_bytes)?;
    let record = source.record.after(source, folders, layout);
    let configs = configs::files(source, vocabulary, layout);
    let texts = text::files(source, vocabulary, layout)?;
    for (name, content) in configs.into_iter().chain(texts).chain([(record::FILE.to_string(), record.to_bytes())]) {
        write_file(&partial.join(name), |file| file.write_all(&content))?;
    }
    Ok(files)
}

/// Creates and flushes a file.
fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let run = || {
        let mut sink = std::io::BufWriter::with_capacity(1 << 20, vila_files::create(path)?);
        fill(&mut sink)?;
        sink.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    run().map_err(Error::io(path))
}

fn check_destination(from: &Path, to: &Path) -> Result<()> {
    let parent = vila_files::parent_of(to);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let (from, parent) =
        (from.canonicalize().map_err(Error::io(from))?, parent.canonicalize().map_err(Error::io(parent))?);
    if parent.starts_with(&from) {
        return Err(Error::format(to, "lies inside the directory that is converted; choose another place"));
    }
    match fs::read_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(to)(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::format(to, "is not empty; name a new directory, or remove what is there")),
        },
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
