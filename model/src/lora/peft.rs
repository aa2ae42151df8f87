//! Adapter folders of the `peft` package: `adapter_config.json` and `adapter_model.safetensors` or `.bin`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vila_autograd::ParamStore;
use vila_engine::Backend;
use vila_engine::ops::Copy;

use super::{LoraConfig, Place, Places, Product, Scaling, Target, fingerprint};
use crate::config::Fields;
use crate::weights::{self, Checkpoint, to_f32};
use crate::{Error, Result, VilaConfig, llava};

/// Its configuration.
const CONFIG: &str = "adapter_config.json";
/// Names of its weights, in the order of preference.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What LLaVA trains besides the adapters: the projector.
const OTHERS: &str = "non_lora_trainables.bin";
/// Before the fingerprint of the base in `revision`, peft's field for the base's version.
const BASE: &str = "vila-base:";

/// Fields that are read here,
const READ: [&str; 8] =
    ["r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern", "revision"];
/// and those that only tell where an adapter came from, or are details of options that are off.
const TOLD: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "task_type",
];

/// The adapters of a checkpoint's own folder, if it has one.
pub(crate) fn of_checkpoint(dir: &Path) -> Result<Option<LoraConfig>> {
    let path = dir.join("lora").join(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let fields = Fields::read(&path)?;
    let scaling = scaling(&fields)?;
    let names = match fields.get("target_modules") {
        Some(Value::Array(names)) => names.iter().map(|name| name.as_str().and_then(Target::parse)).collect(),
        _ => None,
    };
    let targets: BTreeSet<Target> = names.ok_or_else(|| {
        let known = Target::ALL.map(Target::name).join(", ");
        fields.error("target_modules", format!("must list some of {known}; merge other adapters with --adapter"))
    })?;
    Ok(Some(LoraConfig {
        rank: fields.size_or("r", 8)?,
        rank_pattern: pattern(&fields, "rank_pattern", size)?,
        scaling,
        dropout: fields.number_or("lora_dropout", 0.0)?.clamp(0.0, 1.0),
        targets: targets.into_iter().collect(),
    }))
}

/// Reads how strongly an adapter counts, and refuses by name what is not implemented.
fn scaling(fields: &Fields) -> Result<Scaling> {
    let refuse = |field: &str, value: &Value| {
        let problem = format!("is {value}, which is not implemented; merge the adapter with the peft package");
        Err(fields.error(field, problem))
    };
    for (field, value) in fields.entries() {
        let fine = match field {
            "peft_type" => value == "LORA",
            "bias" => value == "none",
            // These keep the base's weights; others change them.
            "init_lora_weights" => value.is_boolean() || value == "gaussian" || value == "eva" || value == "orthogonal",
            known if READ.contains(&known) || TOLD.contains(&known) => true,
            _ => is_off(value),
        };
        if !fine {
            return refuse(field, value);
        }
    }
    let alpha = fields.number_or("lora_alpha", 8.0)?;
    let rank_stabilized = fields.flag_or("use_rslora", false)?;
    Ok(Scaling { alpha, rank_stabilized, alpha_pattern: pattern(fields, "alpha_pattern", Value::as_f64)? })
}

/// A rank; larger ones are a damaged file.
fn size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|rank| (1..1 << 24).contains(rank))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Values by end of a module's path. peft takes regular expressions; here dots are dots and nothing else is special.
fn pattern<T: PartialEq>(
    fields: &Fields,
    field: &str,
    value_of: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>> {
    let Some(patterns) = fields.child(field)? else { return Ok(BTreeMap::new()) };
    let mut values = BTreeMap::new();
    for (key, value) in patterns.entries() {
        let plain = key.trim_start_matches('^');
        if !plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return Err(patterns.error(key, "is a regular expression; only paths and ends of paths are implemented"));
        }
        let value = value_of(value).ok_or_else(|| patterns.error(key, format!("is {value}, expected a number")))?;
        values.insert(plain.to_string(), value);
    }
    // Which of two that match counts depends on their order in the file, which JSON does not keep.
    for (key, value) in &values {
        let end = |other: &&String| *other != key && other.ends_with(&format!(".{key}"));
        if let Some(other) = values.keys().find(end).filter(|other| values.get(*other) != Some(value)) {
            return Err(patterns.error(key, format!("and {other} say different things of the same module")));
        }
    }
    Ok(values)
}

/// `adapter_config.json` of a model's adapters; `store` holds the base.
///
/// # Errors
/// Those of the device.
pub fn adapter_config(
    backend: &dyn Backend,
    model: &VilaConfig,
    config: &LoraConfig,
    store: &ParamStore,
) -> Result<Value> {
    let layers = (0..model.llm.layers).flat_map(|layer| config.targets.iter().map(move |target| (layer, target)));
    let mut weights: Vec<String> = layers.map(|(layer, t)| format!("llm.{}.weight", t.module(layer))).collect();
    weights.sort();
    let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
    let base = format!("{BASE}{}", fingerprint(backend, store, &weights)?);
    Ok(json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": null,
        "revision": base,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": config.scaling.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": config.scaling.rank_stabilized,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.scaling.alpha_pattern,
        "modules_to_save": null,
        "layers_to_transform": null,
        "layers_pattern": null,
    }))
}

/// The file of an adapter's weights.
pub(crate) fn adapter_file(dir: &Path) -> Result<PathBuf> {
    WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        Error::format(dir, format!("has no adapter weights; one of these must be there: {}", WEIGHTS.join(", ")))
    })
}

/// A folder that `peft` or LLaVA wrote, opened to be merged.
pub struct Adapter {
    dir: PathBuf,
    scaling: Scaling,
    base: Option<String>,
    /// By the name of the weight and the name of the matrix.
    pairs: Checkpoint,
    others: Option<Checkpoint>,
}

impl Adapter {
    /// Opens an adapter's folder.
    ///
    /// # Errors
    /// [`Error::Config`] names a field that is missing, wrong or an option that is not implemented; [`Error::Format`]
    /// for a folder without weights or a damaged file.
    pub fn open(dir: &Path) -> Result<Self> {
        let fields = Fields::read(&dir.join(CONFIG))?;
        let base = fields.text("revision")?.and_then(|revision| revision.strip_prefix(BASE)).map(str::to_string);
        let others = Some(dir.join(OTHERS)).filter(|path| path.is_file());
        let others = others.map(|path| Checkpoint::of_file(path, |name| Some(canonical(name)))).transpose()?;
        let pairs = Checkpoint::of_file(adapter_file(dir)?, |name| Some(matrix_name(name)))?;
        Ok(Adapter { dir: dir.to_path_buf(), scaling: scaling(&fields)?, base, pairs, others })
    }

    /// Adds the adapter to a model's weights, which are then what they would compute together.
    ///
    /// # Errors
    /// [`Error::Adapter`] lists everything that does not fit, [`Error::Format`] names a tensor of an unusable type;
    /// either before any weight changes.
    pub fn merge(&self, backend: &dyn Backend, store: &ParamStore) -> Result<()> {
        let places = Places::new(store);
        let pairs = self.pairs(&places)?;
        let weights: Vec<&str> = pairs.iter().map(|(weight, _)| *weight).collect();
        if let Some(base) = &self.base
            && fingerprint(backend, store, &weights)? != *base
        {
            let problem = "was made for other weights of the same shapes; give the model that it was trained on";
            self.fail(vec![format!("  {CONFIG} says that it {problem}")])?;
        }
        let product = |weight: &str| -> Result<Product> {
            let (down, up) = (self.values(backend, weight, DOWN)?, self.values(backend, weight, UP)?);
            Ok(Product { scale: self.scaling.of(self.module(weight), down.rows()), down, up })
        };
        let products = weights.iter().map(|weight| product(weight)).collect::<Result<Vec<_>>>()?;
        let others = self.others.iter().flat_map(|file| file.tensors().map(move |(name, ..)| (file, name)));
        let others = others.filter_map(|(file, name)| Some((places.get(name)?, self.read(file, name))));
        let others = others.map(|(place, values)| Ok((place, values?))).collect::<Result<Vec<_>>>()?;
        for ((_, place), product) in pairs.iter().zip(products) {
            place.edit(backend, store, |weight| product.add_to(backend, weight))?;
        }
        for (place, values) in others {
            place.edit(backend, store, |target| {
                backend.copy(&Copy { x: &backend.upload_f32(target.rows(), target.cols(), &values)?, y: target })
            })?;
        }
        Ok(())
    }

    /// The weights that the adapter adds to.
    fn pairs<'a>(&self, places: &Places<'a>) -> Result<Vec<(&str, Place<'a>)>> {
        let (mut pairs, mut problems) = (Vec::new(), Vec::new());
        for (name, _, shape) in self.pairs.tensors() {
            let partner = |weight: &str| self.pairs.shape(&format!("{weight}{DOWN}")).is_some();
            match (name.strip_suffix(DOWN), name.strip_suffix(UP)) {
                (Some(weight), _) => match self.fits(weight, shape, places.get(weight)) {
                    Ok(place) => pairs.push((weight, place)),
                    Err(problem) => problems.push(format!("  {weight}: {problem}")),
                },
                (None, Some(weight)) if partner(weight) => {}
                _ => problems.push(format!("  {name}: not a matrix of an adapter, or without its partner")),
            }
        }
        for (name, _, shape) in self.others.iter().flat_map(Checkpoint::tensors) {
            if places.get(name).is_none_or(|place| place.part.shape != shape) {
                problems.push(format!("  {name} {shape:?} of {OTHERS}: the model has no such tensor"));
            }
        }
        if pairs.is_empty() && problems.is_empty() {
            problems.push("  its weights hold no adapter".into());
        }
        self.fail(problems)?;
        Ok(pairs)
    }

    /// Where the product of a pair goes.
    fn fits<'a>(
        &self,
        weight: &str,
        down: &[usize],
        place: Option<&Place<'a>>,
    ) -> std::result::Result<Place<'a>, String> {
        let place = place.ok_or("the model has no such weight")?;
        let up = self.pairs.shape(&format!("{weight}{UP}")).ok_or("has lora_A and no lora_B")?;
        match (down, up, &place.part.shape[..]) {
            (&[rank, k], &[n, other], &[rows, cols]) if rank == other && rank > 0 && (n, k) == (rows, cols) => {
                Ok(place.clone())
            }
            (_, _, shape) => Err(format!("lora_A is {down:?} and lora_B {up:?}, the model's weight is {shape:?}")),
        }
    }

    /// The path by which peft knows the layer of a weight.
    fn module<'a>(&'a self, weight: &'a str) -> &'a str {
        let stored = self.pairs.stored_name(&format!("{weight}{DOWN}")).unwrap_or(weight);
        let module = stored.split_once(DOWN).map_or(stored, |(module, _)| module);
        module.strip_prefix("base_model.model.").unwrap_or(module)
    }

    fn values(&self, backend: &dyn Backend, weight: &str, matrix: &str) -> Result<vila_engine::Tensor> {
        let name = format!("{weight}{matrix}");
        let values = self.read(&self.pairs, &name)?;
        let rows = self.pairs.shape(&name).and_then(|shape| shape.first()).copied().unwrap_or(1);
        Ok(backend.upload_f32(rows, values.len() / rows.max(1), &values)?)
    }

    fn read(&self, file: &Checkpoint, name: &str) -> Result<Vec<f32>> {
        let raw = file.raw(name);
        let values = raw.as_ref().and_then(to_f32).ok_or_else(|| {
            Error::format(&self.dir, format!("{name} is not of type F32, F16 or BF16; save the adapter in one of them"))
        })?;
        file.check_finite(name, &values)?;
        Ok(values)
    }

    fn fail(&self, problems: Vec<String>) -> Result<()> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Adapter { path: self.dir.clone(), problems: problems.join("\n") })
    }
}

const DOWN: &str = ".lora_A";
const UP: &str = ".lora_B";

/// The name of the weight that a matrix belongs to, and the name of the matrix: `llm.….q_proj.weight.lora_A`.
fn matrix_name(name: &str) -> String {
    for matrix in [DOWN, UP] {
        for end in [".weight", ".default.weight"] {
            if let Some(module) = name.strip_suffix(end).and_then(|rest| rest.strip_suffix(matrix)) {
                return format!("{}{matrix}", canonical(&format!("{module}.weight")));
            }
        }
    }
    name.to_string()
}

/// The canonical name of a tensor of the base, whatever wraps it.
fn canonical(name: &str) -> String {
    let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
    if inner.starts_with("llm.") {
        return inner.to_string();
    }
    if inner.contains("language_model.") || inner.contains("multi_modal_projector.") {
        return weights::canonical_name(inner);
    }
    llava::canonical_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_find_their_weights_under_every_prefix() {
        let wanted = "llm.model.layers.3.self_attn.q_proj.weight.lora_A";
        for inner in ["model.layers", "language_model.model.layers", "model.language_model.layers", "llm.model.layers"]
        {
            let name = format!("base_model.model.{inner}.3.self_attn.q_proj.lora_A");
            assert_eq!(matrix_name(&format!("{name}.weight")), wanted);
            assert_eq!(matrix_name(&format!("{name}.default.weight")), wanted);
        }
        assert_eq!(canonical("base_model.model.model.mm_projector.0.weight"), "mm_projector.layers.0.weight");
    }

    #[test]
    fn options_that_are_not_implemented_are_refused_by_name() {
        let read = |extra: Value| {
            let mut config = json!({"peft_type": "LORA", "r": 4, "bias": "none", "use_dora": false});
            if let (Some(config), Value::Object(extra)) = (config.as_object_mut(), extra) {
                config.extend(extra);
            }
            scaling(&Fields::from_value(Path::new(CONFIG), config).expect("object"))
        };
        assert!(
            read(json!({"modules_to_save": null, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}))
                .is_ok()
        );
        for (field, value) in [
            ("use_dora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("fan_in_fan_out", json!(true)),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa")),
            ("peft_type", json!("IA3")),
            ("an_option_of_tomorrow", json!(1)),
        ] {
            let mut extra = json!({});
            extra[field] = value;
            let error = read(extra).expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
        let error = read(json!({"alpha_pattern": {".*q_proj": 2}})).expect_err("regular expression").to_string();
        assert!(error.contains("q_proj"), "{error}");
        assert!(read(json!({"alpha_pattern": {"q_proj": 2, "self_attn.q_proj": 3}})).is_err());
    }
}
