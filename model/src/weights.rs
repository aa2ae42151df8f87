//! Weights of a checkpoint directory: names of the public layouts, reading and writing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use vila_autograd::{ParamPart, ParamSpec, ParamStore};
use vila_engine::{Backend, DType, MappedBytes, Tensor};

use crate::config::{Layout, VilaConfig};
use crate::finite::first_not_finite;
use crate::image::ImageProcessor;
use crate::llava::{self, Tower};
use crate::lora;
use crate::torch_file::{self, FileTensor};
use crate::weight_files::WeightFiles;
use crate::{Error, Result};

/// The name that this crate uses for a tensor of a layout: `llm.…`, `vision_tower.vision_model.…`, `mm_projector.layers.…`.
///
/// Old and new `llava-hf` prefixes are taken, and towers with and without `vision_model.` (spec 2.6).
pub fn canonical_name(name: &str) -> String {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = inner.strip_prefix("vision_tower.") {
        return llava::tower_name(rest);
    }
    if let Some(rest) = inner.strip_prefix("multi_modal_projector.") {
        let linear = || {
            let (index, field) = rest.strip_prefix("linear_")?.split_once('.')?;
            let index = index.parse::<usize>().ok()?.checked_sub(1)?.checked_mul(2)?;
            Some(format!("mm_projector.layers.{index}.{field}"))
        };
        return linear().unwrap_or_else(|| format!("mm_projector.{rest}"));
    }
    match name.strip_prefix("model.language_model.") {
        Some(rest) => format!("llm.model.{rest}"),
        None => format!("llm.{}", name.strip_prefix("language_model.").unwrap_or(name)),
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

impl RawTensor {
    /// Index and value of the first element that is NaN or infinite, of a float tensor.
    pub fn first_not_finite(&self) -> Option<(usize, f32)> {
        let width = self.dtype.bitsize() / 8;
        let chunk = FINITE_CHUNK * width.max(1);
        self.data.chunks(chunk).enumerate().find_map(|(place, bytes)| {
            let values = floats(self.dtype, bytes)?;
            let at = first_not_finite(&values)?;
            Some((place * FINITE_CHUNK + at, values[at]))
        })
    }
}

/// Elements that are widened at once to look at them.
const FINITE_CHUNK: usize = 1 << 14;

struct Entry {
    file: usize,
    tensor: FileTensor,
}

/// A mapped file.
struct WeightFile {
    path: PathBuf,
    map: Arc<vila_files::Map>,
}

/// The tensors of a checkpoint directory, by canonical name; files are mapped, not read.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<WeightFile>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens the weight files of a directory: safetensors or files of `torch.save`, single or in shards with an index.
    ///
    /// # Errors
    /// [`Error::Format`] for a file that is damaged, contradicts its index or holds a tensor that another one has, and for
    /// a part of the model that is not there.
    pub fn open(dir: &Path, layout: Layout) -> Result<Self> {
        Self::open_with(dir, layout, llava::is_vision)
    }

    /// As [`Checkpoint::open`]; of a tower that lies beside the model with whatever it came with, tensors that `keep`
    /// accepts by their canonical name.
    pub(crate) fn open_with(dir: &Path, layout: Layout, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let mut checkpoint = Checkpoint { dir: dir.to_path_buf(), files: Vec::new(), entries: BTreeMap::new() };
        match layout {
            Layout::LlavaHf => checkpoint.add_folder(dir, |name| Some(canonical_name(name)))?,
            Layout::Llava => checkpoint.add_llava(dir, keep)?,
            Layout::Vila => {
                checkpoint.add_folder(&dir.join("llm"), |name| Some(format!("llm.{name}")))?;
                checkpoint.add_folder(&dir.join("vision_tower"), |name| Some(llava::tower_name(name)))?;
                checkpoint.add_folder(&dir.join("mm_projector"), |name| Some(llava::projector_name(name)))?;
                for component in [Component::Expert, Component::Lora].into_iter().filter(|part| part.is_in(dir)) {
                    let (folder, name) =
                        (component.folder(), |name: &str| Some(format!("{}.{name}", component.folder())));
                    match component {
                        Component::Lora => drop(checkpoint.add_file(lora::adapter_file(&dir.join(folder))?, &name)?),
                        _ => checkpoint.add_folder(&dir.join(folder), name)?,
                    }
                }
            }
        }
        Ok(checkpoint)
    }

    /// The tensors of one file for which there is a new name.
    pub(crate) fn of_file(path: PathBuf, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut checkpoint = Checkpoint { dir, files: Vec::new(), entries: BTreeMap::new() };
        checkpoint.add_file(path, &rename)?;
        Ok(checkpoint)
    }

    /// Decoder, and what was saved with it; other parts from where LLaVA keeps them.
    fn add_llava(&mut self, dir: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
        self.add_folder(dir, |name| Some(llava::canonical_name(name)))?;
        if !self.has("mm_projector.") {
            let path = llava::projector_file(dir)?;
            let projector = |name: &String| name.starts_with("mm_projector.");
            self.add_file(path, &|name| Some(llava::canonical_name(name)).filter(projector))?;
        }
        if !self.has("vision_tower.") {
            let tower = Tower::of_folder(dir)?;
            self.add_folder(tower.folder()?, |name| Some(llava::tower_name(name)).filter(|name| keep(name)))?;
        }
        Ok(())
    }

    /// The embedding of a tied model whose files hold the head alone is the head.
    #[must_use]
    pub fn tying(mut self, tied: bool) -> Self {
        if tied
            && !self.entries.contains_key(EMBEDDING)
            && let Some(head) = self.entries.remove(HEAD)
        {
            self.entries.insert(EMBEDDING.into(), head);
        }
        self
    }

    fn has(&self, prefix: &str) -> bool {
        self.entries.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    fn add_folder(&mut self, dir: &Path, rename: impl Fn(&str) -> Option<String>) -> Result<()> {
        let files = WeightFiles::find(dir)?;
        let mut names = Vec::with_capacity(files.paths.len());
        for path in &files.paths {
            names.push(self.add_file(path.clone(), &rename)?);
        }
        files.check(&names)
    }

    /// Adds the tensors of a file for which there is a new name; returns their names in the file.
    fn add_file(&mut self, path: PathBuf, rename: &impl Fn(&str) -> Option<String>) -> Result<BTreeSet<String>> {
        let map = vila_files::map(&path).map_err(Error::io(&path))?;
        let tensors = parse(&path, &map)?;
        self.files.push(WeightFile { path, map: Arc::new(map) });
        let mut names = BTreeSet::new();
        for tensor in tensors {
            names.insert(tensor.name.clone());
            let Some(name) = rename(&tensor.name) else { continue };
            self.add(name, Entry { file: self.files.len() - 1, tensor })?;
        }
        Ok(names)
    }

    fn add(&mut self, name: String, entry: Entry) -> Result<()> {
        let (stored, path) = (entry.tensor.name.clone(), self.files[entry.file].path.clone());
        match self.entries.insert(name, entry) {
            None => Ok(()),
            Some(other) => {
                let (file, name) = (self.files[other.file].path.display(), other.tensor.name);
                let problem = format!("holds {stored}, which is the same tensor as {name} in {file}; remove one");
                Err(Error::format(path, problem))
            }
        }
    }

    /// Canonical names and shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.entries.iter().map(|(name, Entry { tensor, .. })| (name.as_str(), tensor.dtype, tensor.shape.as_slice()))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.tensor.shape)
    }

    /// The name of a tensor in its file.
    pub(crate) fn stored_name(&self, name: &str) -> Option<&str> {
        Some(&self.entries.get(name)?.tensor.name)
    }

    /// A tensor as stored.
    pub fn raw(&self, name: &str) -> Option<RawTensor> {
        let (tensor, data) = self.stored(name)?;
        Some(RawTensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data: data.to_vec() })
    }

    /// What a file says about a tensor, and the tensor's mapped bytes.
    pub(crate) fn stored(&self, name: &str) -> Option<(&FileTensor, &[u8])> {
        let Entry { file, tensor } = self.entries.get(name)?;
        Some((tensor, self.files.get(*file)?.map.get(tensor.bytes.clone())?))
    }

    /// Compares names, shapes and types with what a model needs, without reading data.
    ///
    /// # Errors
    /// [`Error::Weights`] lists at once all that is missing or misshapen, and what the decoder or the projector has
    /// beyond the model's parts, because ignoring it would compute something else.
    pub fn check(&self, specs: &[ParamSpec]) -> Result<()> {
        let parts: BTreeMap<&str, &ParamPart> =
            specs.iter().flat_map(|spec| &spec.parts).map(|part| (part.name.as_str(), part)).collect();
        let unused: Vec<&str> =
            self.entries.keys().map(String::as_str).filter(|name| !parts.contains_key(name)).collect();
        let mut problems: Vec<String> = parts.values().filter_map(|part| self.problem(part, &unused)).collect();
        let prefixes = ["llm.model.layers.", "mm_projector.", "visual_expert.", "lora."];
        let computed = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let unknown = unused.iter().filter(|name| computed(name) && !name.ends_with("rotary_emb.inv_freq"));
        problems.extend(unknown.map(|name| format!("  not in the model: {name}")));
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Weights { path: self.dir.clone(), problems: problems.join("\n") })
    }

    /// Frozen parameters of which the device reads the matrices in the files, where it can; the rest is to be
    /// [loaded](Checkpoint::load).
    pub fn mapped_store(&self, backend: &dyn Backend, specs: Vec<ParamSpec>) -> Result<ParamStore> {
        let mapped = |spec: &ParamSpec| spec.parts.iter().map(|part| self.map(backend, part)).collect();
        Ok(ParamStore::mapped(backend, specs, mapped)?)
    }

    /// A matrix where it lies.
    fn map(&self, backend: &dyn Backend, part: &ParamPart) -> Option<Tensor> {
        let Entry { file, tensor } = self.entries.get(&part.name).filter(|entry| entry.tensor.shape == part.shape)?;
        let dtype = match tensor.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return None,
        };
        let (&rows, row_shape) = part.shape.split_first().filter(|(_, row_shape)| !row_shape.is_empty())?;
        let owner: Arc<vila_files::Map> = Arc::clone(&self.files.get(*file)?.map);
        backend.map(MappedBytes::new(owner, tensor.bytes.clone())?, dtype, rows, row_shape.iter().product())
    }

    /// Opens a decoder's directory and a vision tower's, if there is one; of a whole CLIP or SigLIP, only the vision model.
    pub(crate) fn open_parts(llm: &Path, tower: Option<&Path>) -> Result<Self> {
        let mut checkpoint = Checkpoint { dir: llm.to_path_buf(), files: Vec::new(), entries: BTreeMap::new() };
        checkpoint.add_folder(llm, |name| Some(format!("llm.{name}")))?;
        if let Some(tower) = tower {
            checkpoint.add_folder(tower, |name| Some(llava::tower_name(name)).filter(|name| llava::is_vision(name)))?;
        }
        Ok(checkpoint)
    }

    /// Reads every parameter of a store that [`Checkpoint::check`] accepts; returns the tensors that the model does not use, by canonical name.
    ///
    /// # Errors
    /// [`Error::Weights`] for a tensor that is missing or misshapen.
    pub fn load(&self, backend: &dyn Backend, store: &ParamStore) -> Result<BTreeMap<String, RawTensor>> {
        self.load_those(backend, store, |_| true)
    }

    /// As [`Checkpoint::load`], of the parameters that `wanted` accepts.
    pub(crate) fn load_those(
        &self,
        backend: &dyn Backend,
        store: &ParamStore,
        wanted: impl Fn(&ParamSpec) -> bool,
    ) -> Result<BTreeMap<String, RawTensor>> {
        let mut used = BTreeSet::new();
        for id in store.ids().filter(|&id| wanted(store.spec(id))) {
            used.extend(store.spec(id).parts.iter().map(|part| part.name.as_str()));
            if store.is_mapped(id) {
                continue;
            }
            let mut values = Vec::with_capacity(store.spec(id).len());
            for part in &store.spec(id).parts {
                let raw = self.raw(&part.name).filter(|raw| raw.shape == part.shape);
                let part_values = raw.as_ref().and_then(to_f32).ok_or_else(|| Error::Weights {
                    path: self.dir.clone(),
                    problems: format!("  unusable: {}", part.name),
                })?;
                self.check_finite(&part.name, &part_values)?;
                values.extend(part_values);
            }
            store.set(backend, id, &values)?;
        }
        let unused = self.entries.keys().filter(|name| !used.contains(name.as_str()));
        Ok(unused.filter_map(|name| Some((name.clone(), self.raw(name)?))).collect())
    }

    /// That every value of a tensor is a number.
    ///
    /// # Errors
    /// [`Error::NotFiniteWeight`] names the file and the tensor.
    pub(crate) fn check_finite(&self, name: &str, values: &[f32]) -> Result<()> {
        first_not_finite(values).map_or(Ok(()), |at| Err(self.not_finite(name, at, values[at])))
    }

    /// The error for a value of a tensor that is no number.
    pub(crate) fn not_finite(&self, name: &str, index: usize, value: f32) -> Error {
        let entry = self.entries.get(name);
        let path = entry.and_then(|entry| self.files.get(entry.file)).map_or(&self.dir, |file| &file.path);
        let name = entry.map_or(name, |entry| &entry.tensor.name);
        Error::NotFiniteWeight { path: path.clone(), name: name.into(), index, value }
    }

    /// Why the stored tensor cannot be this part of the model.
    fn problem(&self, part: &ParamPart, unused: &[&str]) -> Option<String> {
        let ParamPart { name, shape } = part;
        let Some(Entry { tensor, .. }) = self.entries.get(name) else {
            let hint = nearest(name, unused).map_or(String::new(), |known| format!(" (there is {known})"));
            return Some(format!("  missing: {name} {shape:?}{hint}"));
        };
        if tensor.shape != *shape {
            return Some(format!("  shape of {name}: file {:?}, model {shape:?}", tensor.shape));
        }
        let readable = matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        (!readable).then(|| format!("  type of {name}: {:?}, only F32, F16 and BF16 are read", tensor.dtype))
    }
}

/// The embedding table and the head, by their canonical names.
const EMBEDDING: &str = "llm.model.embed_tokens.weight";
const HEAD: &str = "llm.lm_head.weight";

/// Whether a head lies beside the embedding that is not a copy of it; then transformers does not tie them, whatever the
/// configuration says.
pub(crate) fn head_of_its_own(open: impl FnOnce() -> Result<Checkpoint>) -> bool {
    let Ok(checkpoint) = open() else { return false };
    let (Some((embedding, table)), Some((head, rows))) = (checkpoint.stored(EMBEDDING), checkpoint.stored(HEAD)) else {
        return false;
    };
    if embedding.dtype == head.dtype {
        table != rows
    } else {
        floats(embedding.dtype, table) != floats(head.dtype, rows)
    }
}

/// Whether the linear layers of a projector were saved with biases; yes where that cannot be seen.
pub(crate) fn projector_has_bias(dir: &Path, layout: Layout) -> bool {
    let Ok(checkpoint) = Checkpoint::open(dir, layout) else { return true };
    let weights = checkpoint.tensors().filter(|(name, _, shape)| name.starts_with("mm_projector.") && shape.len() == 2);
    let mut linear = weights.filter_map(|(name, ..)| name.strip_suffix("weight")).peekable();
    linear.peek().is_none() || linear.any(|layer| checkpoint.entries.contains_key(&format!("{layer}bias")))
}

/// The name that shares most with `wanted` at beginning and end, if that is most of it.
fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let shared = |name: &str| {
        let same = |(a, b): &(u8, u8)| a == b;
        let end = wanted.bytes().rev().zip(name.bytes().rev()).take_while(same).count();
        let rest = wanted.len().min(name.len()) - end;
        end + wanted.bytes().zip(name.bytes()).take(rest).take_while(same).count()
    };
    // The bound is for files made to keep a reader busy.
    let scored = names.iter().take(1000).map(|name| (shared(name), *name));
    let near = scored.filter(|(score, name)| 3 * score >= 2 * wanted.len().max(name.len()));
    near.max_by_key(|(score, _)| *score).map(|(_, name)| name)
}

/// Lists the tensors in the content of a weight file: safetensors, or by its name (`.bin`, `.pt`, `.pth`) a file of
/// `torch.save`. Nothing is copied or made by what the file claims.
///
/// # Errors
/// [`Error::Format`] for a file that is damaged or holds something else.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<FileTensor>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("bin" | "pt" | "pth") => torch_file::parse(path, bytes),
        _ => parse_safetensors(bytes).map_err(|problem| {
            Error::format(path, format!("not a whole safetensors file: {problem}; fetch or save it again"))
        }),
    }
}

fn parse_safetensors(bytes: &[u8]) -> std::result::Result<Vec<FileTensor>, String> {
    check_header(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let tensors = file.iter().map(|(name, view)| {
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        FileTensor {
            name: name.to_string(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: start..start + view.data().len(),
        }
    });
    Ok(tensors.collect())
}

/// Refuses what the library does not look at: numbers near 2^64, which it adds up, and names that come twice.
fn check_header(bytes: &[u8]) -> std::result::Result<(), String> {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let header = usize::try_from(length).ok().and_then(|length| bytes.get(8..)?.get(..length));
    let header = header.ok_or_else(|| format!("its header of {length} bytes does not fit the file"))?;
    let (mut quoted, mut escaped, mut digits) = (false, false, 0);
    for &byte in header {
        digits = if !quoted && byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits >= u64::MAX.to_string().len() {
            return Err("its header has a number beyond any file".into());
        }
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
    }
    serde_json::from_slice::<DistinctNames>(header).map(drop).map_err(|error| format!("its header: {error}"))
}

/// A JSON object without a name that comes twice.
struct DistinctNames;

impl<'de> serde::Deserialize<'de> for DistinctNames {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(DistinctNames)
    }
}

impl<'de> serde::de::Visitor<'de> for DistinctNames {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> std::result::Result<Self, M::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
            if let Some(name) = names.replace(name) {
                return Err(serde::de::Error::custom(format!("{name} comes twice")));
            }
        }
        Ok(self)
    }
}

/// Elements of a float tensor, if its type is one that is read.
pub fn to_f32(raw: &RawTensor) -> Option<Vec<f32>> {
    floats(raw.dtype, &raw.data)
}

/// As [`to_f32`], for elements that lie elsewhere.
pub(crate) fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    match dtype {
        Dtype::F32 => Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::F16 => Some(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        Dtype::BF16 => Some(data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
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

/// Writes a safetensors file into `sink`.
pub fn write_safetensors(tensors: &BTreeMap<String, RawTensor>, sink: &mut dyn Write) -> std::io::Result<()> {
    let views = tensors.iter().map(|(name, raw)| TensorView {
        name,
        dtype: raw.dtype,
        shape: &raw.shape,
        data: [&raw.data, &[]],
    });
    write_views(views.collect(), sink)
}

/// A tensor to write, whose bytes lie elsewhere, in two parts.
pub(crate) struct TensorView<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) data: [&'a [u8]; 2],
}

impl TensorView<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.data.iter().map(|part| part.len()).sum()
    }
}

/// Writes a safetensors file into `sink`: widest elements first, then by name, so that every tensor is aligned.
pub(crate) fn write_views(mut views: Vec<TensorView<'_>>, sink: &mut dyn Write) -> std::io::Result<()> {
    views.sort_by_key(|view| (std::cmp::Reverse(view.dtype.bitsize()), view.name));
    let mut header = serde_json::Map::from_iter([("__metadata__".into(), serde_json::json!({"format": "pt"}))]);
    let mut at = 0;
    for view in &views {
        let end = at + view.bytes();
        let fields = serde_json::json!({"dtype": view.dtype, "shape": view.shape, "data_offsets": [at, end]});
        header.insert(view.name.to_string(), fields);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    sink.write_all(&(header.len() as u64).to_le_bytes())?;
    sink.write_all(&header)?;
    views.iter().flat_map(|view| view.data).try_for_each(|part| sink.write_all(part))
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
    /// The visual experts, where there are any.
    Expert,
    /// The low-rank adapters, where there are any: a folder of the `peft` package.
    Lora,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 5] =
        [Component::Llm, Component::Vision, Component::Projector, Component::Expert, Component::Lora];

    /// Its folder.
    pub fn folder(self) -> &'static str {
        ["llm", "vision_tower", "mm_projector", "visual_expert", "lora"][self as usize]
    }

    /// The file of its weights, inside a checkpoint.
    pub fn file(self) -> String {
        let name = if self == Component::Lora { "adapter_model" } else { "model" };
        format!("{}/{name}.safetensors", self.folder())
    }

    /// Whether there are models without it; the others' folders are there even if they hold no weight.
    pub fn is_optional(self) -> bool {
        matches!(self, Component::Expert | Component::Lora)
    }

    /// Whether a checkpoint has a folder for it.
    fn is_in(self, dir: &Path) -> bool {
        dir.join(self.folder()).is_dir()
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
pub fn vila_files(config: &VilaConfig, tokenizer: &[u8], processor: &ImageProcessor) -> Vec<(&'static str, Vec<u8>)> {
    let json = |value: &serde_json::Value| format!("{value:#}\n").into_bytes();
    // The processor's file says what the tower's own class does; the mode stands beside it, as VILA reads it.
    let root = VilaConfig { aspect: Some(processor.mode()), ..config.clone() }.to_json();
    vec![
        ("config.json", json(&root)),
        ("llm/config.json", json(&config.llm.to_json())),
        ("llm/tokenizer.json", tokenizer.to_vec()),
        ("vision_tower/config.json", json(&config.vision.to_json())),
        ("vision_tower/preprocessor_config.json", json(&processor.clone().without_mode().to_json())),
        ("mm_projector/config.json", json(&config.projector_json())),
    ]
}
