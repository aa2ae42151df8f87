//! Which files of a folder hold its weights, and whether they agree with the folder's index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::config::Fields;
use crate::{Error, Result};

/// Names under which libraries save weights, in the order of preference; an index names shards.
const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const INDEX: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Lines in an error about an index; a foreign index would name thousands.
const MAX_LINES: usize = 20;

/// The weight files of a folder.
pub(crate) struct WeightFiles {
    pub(crate) paths: Vec<PathBuf>,
    index: Option<Index>,
}

struct Index {
    path: PathBuf,
    /// Position in the list of files, by tensor.
    shard: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// Finds the weight files of a folder.
    ///
    /// # Errors
    /// [`Error::Format`] if there are none or the index names files that are not there, [`Error::Config`] if it names
    /// files elsewhere.
    pub(crate) fn find(dir: &Path) -> Result<Self> {
        for (single, index) in SINGLE.into_iter().zip(INDEX) {
            let (single, index) = (dir.join(single), dir.join(index));
            if single.is_file() {
                return Ok(WeightFiles { paths: vec![single], index: None });
            }
            if index.is_file() {
                return Self::from_index(dir, index);
            }
        }
        let names = [SINGLE, INDEX].concat().join(", ");
        Err(Error::format(dir, format!("has no weights; one of these must be there: {names}")))
    }

    fn from_index(dir: &Path, path: PathBuf) -> Result<Self> {
        let root = Fields::read(&path)?;
        let map = root.child("weight_map")?.ok_or_else(|| root.error("weight_map", "is missing"))?;
        let mut listed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, shard) in map.entries() {
            let shard = shard.as_str().filter(|shard| is_file_name(shard));
            let shard = shard.ok_or_else(|| map.error(tensor, "must name a file of the same folder"))?;
            listed.entry(shard).or_default().insert(tensor);
        }
        let paths: Vec<PathBuf> = listed.keys().map(|shard| dir.join(shard)).collect();
        let missing = paths.iter().filter(|path| !path.is_file()).map(|path| format!("  {}", path.display()));
        fail(&path, "names files that are not there; fetch them or the whole folder again", missing.collect())?;
        if paths.is_empty() {
            return Err(root.error("weight_map", "names no file"));
        }
        let tensors = listed.into_values().enumerate();
        let shard = tensors.flat_map(|(file, names)| names.into_iter().map(move |name| (name.to_string(), file)));
        Ok(WeightFiles { paths, index: Some(Index { path, shard: shard.collect() }) })
    }

    /// Compares the index, if there is one, with the tensors that each file really holds.
    ///
    /// # Errors
    /// [`Error::Format`] lists the tensors that are not where the index says.
    pub(crate) fn check(&self, names: &[BTreeSet<String>]) -> Result<()> {
        let Some(index) = &self.index else { return Ok(()) };
        let holds = |file: usize, name: &str| names.get(file).is_some_and(|names| names.contains(name));
        let label = |file: usize| self.paths.get(file).and_then(|path| path.file_name()).unwrap_or_default().display();
        let wrong = index.shard.iter().filter(|(name, file)| !holds(**file, name)).map(|(name, file)| {
            let real = (0..names.len()).find(|&other| holds(other, name));
            let real = real.map_or("nowhere".to_string(), |other| format!("in {}", label(other)));
            format!("  {name}: listed in {}, is {real}", label(*file))
        });
        fail(&index.path, "does not fit its files; fetch the folder again", wrong.collect())
    }
}

fn fail(path: &Path, problem: &str, mut lines: Vec<String>) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    Err(Error::format(path, format!("{problem}:\n{}", lines.join("\n"))))
}

/// Whether a name is a plain one: a downloaded index must not lead out of its folder.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain && !name.contains(['/', '\\', '\0'])
}
