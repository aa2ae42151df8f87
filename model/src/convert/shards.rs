//! Which tensor goes into which folder under which name, and the weight files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::source::Source;
use super::vocabulary::Change;
use super::{json_bytes, names, write_file};
use crate::config::Layout;
use crate::weights::{TensorView, write_views};
use crate::{Error, Result};

/// A tensor of the new directory.
struct Tensor<'a> {
    /// Canonical name in the source.
    before: &'a str,
    /// Name in the source's file.
    stored: &'a str,
    /// Name in the new file.
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: [&'a [u8]; 2],
}

impl Tensor<'_> {
    fn view(&self) -> TensorView<'_> {
        TensorView { name: &self.name, dtype: self.dtype, shape: &self.shape, data: self.data }
    }
}

/// The new directory's tensors by folder.
pub(super) struct Folders<'a> {
    folders: BTreeMap<&'static str, Vec<Tensor<'a>>>,
    /// From canonical names in the source to those in the new directory.
    renamed: BTreeMap<&'a str, String>,
}

impl<'a> Folders<'a> {
    pub(super) fn plan(source: &'a Source, vocabulary: &'a Change, layout: Layout) -> Result<Self> {
        let (mut folders, mut renamed) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        let mut taken = BTreeMap::new();
        for (before, dtype, shape) in source.checkpoint.tensors() {
            let Some((stored, data)) = source.checkpoint.stored(before) else { continue };
            let (folder, usual) = names::usual(layout, before);
            let kept = match source.layout == layout {
                true => Some(stored.name.as_str()),
                false => source.record.of(layout).and_then(|entry| entry.names.get(before)?.as_str()),
            };
            let after = names::read(layout, folder, &usual);
            let kept = kept.filter(|kept| names::read(layout, folder, kept) == after);
            let name = kept.map_or(usual, str::to_string);
            if let Some(other) = taken.insert((folder, name.clone()), before) {
                let problem = format!("holds {before} and {other}, which are both {name} in this layout; remove one");
                return Err(Error::format(&source.dir, problem));
            }
            let (shape, data) = vocabulary.resized(before, shape, data);
            folders.entry(folder).or_default().push(Tensor { before, stored: &stored.name, name, dtype, shape, data });
            renamed.insert(before, after);
        }
        Ok(Folders { folders, renamed })
    }

    pub(super) fn tensors(&self) -> usize {
        self.renamed.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.folders.values().flatten().map(|tensor| tensor.view().bytes() as u64).sum()
    }

    /// The new canonical name of a tensor.
    pub(super) fn renamed(&self, before: &str) -> Option<&str> {
        self.renamed.get(before).map(String::as_str)
    }

    /// Names in the source's files that a conversion back to its layout would write otherwise, by new canonical name.
    pub(super) fn unusual_names(&self, layout: Layout) -> Map<String, Value> {
        let tensors = self.folders.values().flatten();
        let unusual = tensors.filter_map(|tensor| {
            let after = self.renamed(tensor.before)?;
            let (folder, usual) = names::usual(layout, after);
            // Tensors from folders beside the model have names of their own.
            let readable = names::read(layout, folder, tensor.stored) == tensor.before;
            (readable && usual != tensor.stored).then(|| (after.to_string(), json!(tensor.stored)))
        });
        unusual.collect()
    }

    /// Writes all weight files under `root`; returns their number.
    pub(super) fn write(&self, root: &Path, shard_bytes: u64) -> Result<usize> {
        let mut files = 0;
        for (folder, tensors) in &self.folders {
            files += write_folder(&root.join(folder), tensors, shard_bytes)?;
        }
        Ok(files)
    }
}

fn write_folder(dir: &Path, tensors: &[Tensor<'_>], shard_bytes: u64) -> Result<usize> {
    let mut shards: Vec<Vec<&Tensor<'_>>> = vec![Vec::new()];
    let mut filled = 0u64;
    for tensor in tensors {
        let bytes = tensor.view().bytes() as u64;
        if filled > 0 && filled.saturating_add(bytes) > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    let count = shards.len();
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let views = shard.iter().map(|tensor| tensor.view()).collect();
        write_file(&dir.join(&file), |sink| write_views(views, sink))?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
    }
    if count > 1 {
        let total: u64 = tensors.iter().map(|tensor| tensor.view().bytes() as u64).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_file(&dir.join("model.safetensors.index.json"), |sink| sink.write_all(&json_bytes(&index)))?;
    }
    Ok(count)
}
