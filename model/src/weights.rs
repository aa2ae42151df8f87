//! Weights in safetensors files: names of the public layouts, reading and writing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use vila_autograd::{ParamPart, ParamSpec, ParamStore};
use vila_engine::Backend;

use crate::config::{Fields, Layout, VilaConfig};
use crate::{Error, Result};

/// The name that this crate uses for a tensor of a layout: `llm.…`, `vision_tower.vision_model.…`, `mm_projector.layers.…`.
///
/// Old and new `llava-hf` prefixes are taken, and towers with and without `vision_model.` (spec 2.6).
pub fn canonical_name(name: &str) -> String {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = inner.strip_prefix("vision_tower.") {
        return format!("vision_tower.vision_model.{}", rest.strip_prefix("vision_model.").unwrap_or(rest));
    }
    if let Some(rest) = inner.strip_prefix("multi_modal_projector.linear_")
        && let Some((index, field)) = rest.split_once('.')
        && let Some(index) = index.parse::<usize>().ok().and_then(|index| index.checked_sub(1))
    {
        return format!("mm_projector.layers.{}.{field}", 2 * index);
    }
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("llm.model.{rest}");
    }
    match name.strip_prefix("language_model.").unwrap_or(name) {
        rest if rest.starts_with("model.") || rest.starts_with("lm_head.") => format!("llm.{rest}"),
        _ => name.to_string(),
    }
}

/// A tensor as its file holds it.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Little-endian elements in row order.
    pub data: Vec<u8>,
}

struct Entry {
    file: usize,
    bytes: Range<usize>,
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// The tensors of a checkpoint directory, by canonical name; files are mapped, not read.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens the weight files of a directory.
    pub fn open(dir: &Path, layout: Layout) -> Result<Self> {
        let mut checkpoint = Checkpoint { dir: dir.to_path_buf(), files: Vec::new(), entries: BTreeMap::new() };
        match layout {
            Layout::LlavaHf => checkpoint.add_folder(dir, canonical_name)?,
            Layout::Vila => {
                checkpoint.add_folder(&dir.join("llm"), |name| format!("llm.{name}"))?;
                checkpoint
                    .add_folder(&dir.join("vision_tower"), |name| canonical_name(&format!("vision_tower.{name}")))?;
                checkpoint.add_folder(&dir.join("mm_projector"), |name| format!("mm_projector.{name}"))?;
            }
        }
        Ok(checkpoint)
    }

    fn add_folder(&mut self, dir: &Path, rename: impl Fn(&str) -> String) -> Result<()> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() || !index.exists() {
            return self.add_file(single, &rename);
        }
        let map = Fields::read(&index)?;
        let map = map.child("weight_map")?.ok_or_else(|| map.error("weight_map", "is missing"))?;
        let mut shards: Vec<String> = Vec::new();
        for (name, shard) in map.entries() {
            let shard = shard.as_str().filter(|shard| Path::new(shard).components().count() == 1 && *shard != "..");
            let shard = shard.ok_or_else(|| map.error(name, "must name a file of the same folder"))?;
            if !shards.iter().any(|known| known == shard) {
                shards.push(shard.to_string());
            }
        }
        shards.into_iter().try_for_each(|shard| self.add_file(dir.join(shard), &rename))
    }

    fn add_file(&mut self, path: PathBuf, rename: &impl Fn(&str) -> String) -> Result<()> {
        let file = std::fs::File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: the map is read-only; weight files are replaced by renaming, never changed in place, so the pages
        // stay as they were opened.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        for (name, view) in parse(&path, &map)?.iter() {
            let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
            let entry = Entry {
                bytes: start..start + view.data().len(),
                file: self.files.len(),
                name: name.to_string(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
            };
            if let Some(other) = self.entries.insert(rename(name), entry) {
                let problem = format!("holds {name}, which is the same tensor as {}; remove one", other.name);
                return Err(Error::format(&path, problem));
            }
        }
        self.files.push(map);
        Ok(())
    }

    /// Canonical names and shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.dtype, entry.shape.as_slice()))
    }

    /// A tensor as stored.
    pub fn raw(&self, name: &str) -> Option<RawTensor> {
        let entry = self.entries.get(name)?;
        let data = self.files[entry.file][entry.bytes.clone()].to_vec();
        Some(RawTensor { dtype: entry.dtype, shape: entry.shape.clone(), data })
    }

    /// Compares names, shapes and types with what a model needs, without reading data.
    ///
    /// # Errors
    /// [`Error::Weights`] lists at once all that is missing or misshapen, and what the decoder or the projector has
    /// beyond the model's parts, because ignoring it would compute something else.
    pub fn check(&self, specs: &[ParamSpec]) -> Result<()> {
        let parts: BTreeMap<&str, &ParamPart> =
            specs.iter().flat_map(|spec| &spec.parts).map(|part| (part.name.as_str(), part)).collect();
        let mut problems = Vec::new();
        for (name, part) in &parts {
            match self.entries.get(*name) {
                None => problems.push(format!("  missing: {name} {:?}{}", part.shape, self.hint(name))),
                Some(entry) if entry.shape != part.shape => {
                    problems.push(format!("  shape of {name}: file {:?}, model {:?}", entry.shape, part.shape));
                }
                Some(entry) if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
                    problems.push(format!("  type of {name}: {:?}, only F32, F16 and BF16 are read", entry.dtype));
                }
                Some(_) => {}
            }
        }
        let computed = |name: &str| name.starts_with("llm.model.layers.") || name.starts_with("mm_projector.");
        let unknown = self.entries.keys().filter(|name| computed(name) && !parts.contains_key(name.as_str()));
        problems.extend(
            unknown
                .filter(|name| !name.ends_with("rotary_emb.inv_freq"))
                .map(|name| format!("  not in the model: {name}")),
        );
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Weights { path: self.dir.clone(), problems: problems.join("\n") })
    }

    /// Reads every parameter of a store that [`Checkpoint::check`] accepts; returns the tensors that the model does not use, by canonical name.
    ///
    /// # Errors
    /// [`Error::Weights`] for a tensor that is missing or misshapen.
    pub fn load(&self, backend: &dyn Backend, store: &ParamStore) -> Result<BTreeMap<String, RawTensor>> {
        let mut used = BTreeSet::new();
        for id in store.ids() {
            let mut values = Vec::with_capacity(store.spec(id).len());
            for part in &store.spec(id).parts {
                let raw = self.raw(&part.name).filter(|raw| raw.shape == part.shape);
                let part_values = raw.as_ref().and_then(to_f32).ok_or_else(|| Error::Weights {
                    path: self.dir.clone(),
                    problems: format!("  unusable: {}", part.name),
                })?;
                values.extend(part_values);
                used.insert(part.name.as_str());
            }
            store.set(backend, id, &values)?;
        }
        let unused = self.entries.keys().filter(|name| !used.contains(name.as_str()));
        Ok(unused.filter_map(|name| Some((name.clone(), self.raw(name)?))).collect())
    }

    /// The present tensor with the same last parts, for a message.
    fn hint(&self, name: &str) -> String {
        let tail = |name: &str| name.rsplit('.').take(3).map(str::to_string).collect::<Vec<_>>();
        let similar = self.entries.keys().find(|known| tail(known) == tail(name));
        similar.map_or(String::new(), |known| format!(" (there is {known})"))
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| Error::format(path, format!("not a whole safetensors file: {error}; fetch or save it again")))
}

/// Elements of a float tensor, if its type is one that is read.
pub fn to_f32(raw: &RawTensor) -> Option<Vec<f32>> {
    match raw.dtype {
        Dtype::F32 => Some(raw.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::F16 => Some(raw.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        Dtype::BF16 => Some(raw.data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        _ => None,
    }
}

/// Little-endian bytes of f32 values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    #[cfg(target_endian = "big")]
    return values.iter().flat_map(|value| value.to_le_bytes()).collect();
    #[cfg(target_endian = "little")]
    bytemuck::cast_slice(values).to_vec()
}

/// Writes a safetensors file into `sink`: widest elements first, then by name, so that every tensor is aligned.
pub fn write_safetensors(tensors: &BTreeMap<String, RawTensor>, sink: &mut dyn Write) -> std::io::Result<()> {
    let mut order: Vec<(&String, &RawTensor)> = tensors.iter().collect();
    order.sort_by_key(|(name, raw)| (std::cmp::Reverse(raw.dtype.bitsize()), *name));
    let mut header = serde_json::Map::from_iter([("__metadata__".into(), serde_json::json!({"format": "pt"}))]);
    let mut at = 0;
    for (name, raw) in &order {
        let end = at + raw.data.len();
        let fields = serde_json::json!({"dtype": raw.dtype, "shape": raw.shape, "data_offsets": [at, end]});
        header.insert((*name).clone(), fields);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    sink.write_all(&(header.len() as u64).to_le_bytes())?;
    sink.write_all(&header)?;
    order.into_iter().try_for_each(|(_, raw)| sink.write_all(&raw.data))
}

/// A folder of the three-folder layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The decoder with embeddings and head.
    Llm,
    /// The vision tower.
    Vision,
    /// The projector.
    Projector,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 3] = [Component::Llm, Component::Vision, Component::Projector];

    /// Its folder.
    pub fn folder(self) -> &'static str {
        ["llm", "vision_tower", "mm_projector"][self as usize]
    }

    /// The name inside its folder of a tensor that it owns.
    pub fn local_name(self, canonical: &str) -> Option<&str> {
        canonical.strip_prefix(self.folder())?.strip_prefix('.')
    }

    /// Its tensors, weights as f32, by the names inside its folder; `extras` are tensors that the model does not use.
    pub fn tensors(
        self,
        backend: &dyn Backend,
        store: &ParamStore,
        extras: &BTreeMap<String, RawTensor>,
    ) -> Result<BTreeMap<String, RawTensor>> {
        let extras = extras.iter().filter_map(|(name, raw)| Some((self.local_name(name)?.to_string(), raw.clone())));
        let mut tensors: BTreeMap<String, RawTensor> = extras.collect();
        let mine = |part: &ParamPart| self.local_name(&part.name).is_some();
        for id in store.ids().filter(|&id| store.spec(id).parts.iter().any(mine)) {
            for (part, values) in store.export(backend, id)? {
                let raw = RawTensor { dtype: Dtype::F32, shape: part.shape, data: f32_bytes(&values) };
                tensors.insert(self.local_name(&part.name).unwrap_or(&part.name).to_string(), raw);
            }
        }
        Ok(tensors)
    }
}

/// Everything of the public three-folder layout (spec 2.5) that is no weight: paths inside the directory, and contents.
pub fn vila_files(
    config: &VilaConfig,
    tokenizer: &[u8],
    preprocessor: &serde_json::Value,
) -> Vec<(&'static str, Vec<u8>)> {
    let json = |value: &serde_json::Value| format!("{value:#}\n").into_bytes();
    vec![
        ("config.json", json(&config.to_json())),
        ("llm/config.json", json(&config.llm.to_json())),
        ("llm/tokenizer.json", tokenizer.to_vec()),
        ("vision_tower/config.json", json(&config.vision.to_json())),
        ("vision_tower/preprocessor_config.json", json(preprocessor)),
        ("mm_projector/config.json", json(&config.projector_json())),
    ]
}
