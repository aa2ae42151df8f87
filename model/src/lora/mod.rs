//! Low-rank adapters of the decoder's linear layers (LoRA, spec 6.2): `W x + scale B A dropout(x)`, the base frozen.
//!
//! A checkpoint with a folder `lora/` computes with its adapters; the folder is one of the `peft` package. Adapters of
//! other folders are merged into the weights with [`Adapter::merge`].

mod peft;

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use sha2::{Digest, Sha256};
use vila_autograd::{Init, LowRank, ParamId, ParamPart, ParamSpec, ParamStore};
use vila_engine::ops::{Copy, Gemm};
use vila_engine::{Backend, DType, Tensor};

use crate::config::LlamaConfig;
use crate::{Error, Result, Vila, VilaConfig};

pub use peft::{Adapter, adapter_config};
pub(crate) use peft::{adapter_file, of_checkpoint};

/// What the names of the adapters' parameters start with: the folder that they are saved in.
const PREFIX: &str = "lora.";

/// A linear layer of a decoder block that can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output of the attention.
    O,
    /// Gate of the MLP.
    Gate,
    /// What the gate lets through.
    Up,
    /// Output of the MLP.
    Down,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 7] = [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// The name that `peft` knows it by: `q_proj`.
    pub fn name(self) -> &'static str {
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][self as usize]
    }

    /// The target of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Its path in the decoder: `model.layers.3.self_attn.q_proj`.
    fn module(self, layer: usize) -> String {
        let part = if self <= Target::O { "self_attn" } else { "mlp" };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// Rows and columns of its weight.
    fn shape(self, llm: &LlamaConfig) -> (usize, usize) {
        let (d, f, q, kv) = (llm.hidden_size, llm.intermediate_size, llm.heads.q_cols(), llm.heads.kv_cols());
        match self {
            Target::Q => (q, d),
            Target::K | Target::V => (kv, d),
            Target::O => (d, q),
            Target::Gate | Target::Up => (f, d),
            Target::Down => (d, f),
        }
    }

    /// Targets whose weights lie before this one's in the same fused tensor.
    fn before(self) -> &'static [Target] {
        match self {
            Target::K => &[Target::Q],
            Target::V => &[Target::Q, Target::K],
            Target::Up => &[Target::Gate],
            _ => &[],
        }
    }
}

/// How strongly an adapter counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scaling {
    /// Numerator.
    pub alpha: f64,
    /// Whether the denominator is the root of the rank instead of the rank (rsLoRA).
    pub rank_stabilized: bool,
    /// Other numerators, by end of a module's path.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Scaling {
    fn of(&self, module: &str, rank: usize) -> f64 {
        let alpha = matching(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let rank = rank as f64;
        alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// The value of the key that is a module's path or an end of it.
fn matching<T: std::marker::Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let ends = |key: &str| module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    patterns.iter().find(|(key, _)| ends(key)).map(|(_, value)| *value)
}

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of the products.
    pub rank: usize,
    /// Other ranks, by end of a module's path.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Their factor.
    pub scaling: Scaling,
    /// Probability to drop an input while training.
    pub dropout: f64,
    /// Which layers of every block have one, in the order of [`Target::ALL`].
    pub targets: Vec<Target>,
}

impl LoraConfig {
    fn rank(&self, module: &str) -> usize {
        matching(&self.rank_pattern, module).unwrap_or(self.rank)
    }
}

/// Names of an adapter's two parameters.
fn names(module: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|matrix| format!("{PREFIX}base_model.model.{module}.{matrix}.weight"))
}

/// Parameters of the adapters: `A` uniform in `±1/√fan_in` as frameworks do by default, `B` zero, so that they add
/// nothing.
pub(crate) fn specs(config: &VilaConfig) -> Vec<ParamSpec> {
    let Some(lora) = &config.lora else { return Vec::new() };
    let adapter = |layer: usize, target: Target| {
        let (module, (rows, cols)) = (target.module(layer), target.shape(&config.llm));
        let (rank, [down, up]) = (lora.rank(&module), names(&module));
        let uniform = Init::Uniform { bound: 1.0 / (cols as f64).sqrt() };
        let specs = [ParamSpec::new(down, &[rank, cols]).init(uniform), ParamSpec::new(up, &[rows, rank])];
        specs.map(|spec| spec.segment(format!("lora.layers.{layer}")))
    };
    let blocks = (0..config.llm.layers).flat_map(|layer| lora.targets.iter().map(move |target| (layer, *target)));
    blocks.flat_map(|(layer, target)| adapter(layer, target)).collect()
}

/// The adapters of those layers of a block that lie in one fused tensor.
pub(crate) fn adapters(
    config: &VilaConfig,
    store: &ParamStore,
    layer: usize,
    fused: &[Target],
) -> Option<Vec<LowRank>> {
    let Some(lora) = &config.lora else { return Some(Vec::new()) };
    let rows = |target: &Target| target.shape(&config.llm).0;
    let adapter = |target: Target| {
        let module = target.module(layer);
        let [down, up] = names(&module);
        let start: usize = target.before().iter().map(rows).sum();
        Some(LowRank {
            down: store.id(&down)?,
            up: store.id(&up)?,
            cols: start..start + rows(&target),
            scale: lora.scaling.of(&module, lora.rank(&module)),
            dropout: lora.dropout,
            stream: (layer * Target::ALL.len() + target as usize) as u64,
        })
    };
    fused.iter().filter(|target| lora.targets.contains(target)).map(|target| adapter(*target)).collect()
}

/// Adds the model's own adapters to the weights that they stand beside, and starts them anew, so that they add nothing.
///
/// # Errors
/// Those of the device, or a store of another configuration.
pub fn merge(backend: &dyn Backend, config: &VilaConfig, store: &ParamStore, seed: u64) -> Result<()> {
    let Some(lora) = &config.lora else { return Ok(()) };
    let foreign = || Error::Input("the parameter store has no adapters".into());
    let places = Places::new(store);
    for (layer, target) in (0..config.llm.layers).flat_map(|layer| lora.targets.iter().map(move |t| (layer, *t))) {
        let module = target.module(layer);
        let place = places.get(&format!("llm.{module}.weight")).ok_or_else(foreign)?;
        let [down, up] = names(&module).map(|name| store.id(&name));
        let (down, up) = (down.ok_or_else(foreign)?, up.ok_or_else(foreign)?);
        let product = Product {
            down: store.values(backend, down)?,
            up: store.values(backend, up)?,
            scale: lora.scaling.of(&module, lora.rank(&module)),
        };
        place.edit(backend, store, |weight| product.add_to(backend, weight))?;
        [down, up].into_iter().try_for_each(|id| store.initialize(backend, id, seed))?;
    }
    Ok(())
}

impl Vila {
    fn check_in_memory(&self) -> Result<()> {
        if self.store.ids().any(|id| self.store.is_mapped(id)) {
            let problem = "adapters change weights, which stay in their files; use `Vila::load_in_memory`";
            return Err(Error::Input(problem.into()));
        }
        Ok(())
    }

    /// Adds a folder's adapter to the weights, see [`Adapter::merge`].
    ///
    /// # Errors
    /// Those of [`Adapter::open`] and [`Adapter::merge`]; [`Error::Input`] for a model whose weights stay in their files
    /// ([`Vila::load_mapped`]): use [`Vila::load_in_memory`].
    pub fn merge_adapter(&self, dir: &Path) -> Result<()> {
        self.check_in_memory()?;
        Adapter::open(dir)?.merge(self.backend(), &self.store)
    }

    /// Adds the checkpoint's own adapters to the weights; what is saved has none.
    ///
    /// # Errors
    /// Those of the device; [`Error::Input`] as for [`Vila::merge_adapter`].
    pub fn merge_own_adapters(&mut self) -> Result<()> {
        self.check_in_memory()?;
        merge(&*self.backend, &self.config, &self.store, 0)?;
        self.config.lora = None;
        Ok(())
    }
}

/// What an adapter adds to a weight, in f32.
struct Product {
    down: Tensor,
    up: Tensor,
    scale: f64,
}

impl Product {
    fn add_to(&self, backend: &dyn Backend, weight: &Tensor) -> vila_engine::Result<()> {
        let Product { down, up, scale } = self;
        backend.gemm(&Gemm { a: up, trans_a: false, b: down, trans_b: false, c: weight, alpha: *scale, beta: 1.0 })
    }
}

/// Where the tensors of files lie in a store.
struct Places<'a>(BTreeMap<&'a str, Place<'a>>);

/// A part of a parameter: rows of a matrix, columns of a vector.
#[derive(Clone)]
struct Place<'a> {
    id: ParamId,
    part: &'a ParamPart,
    /// Elements before it in the fused tensor.
    start: usize,
}

impl<'a> Places<'a> {
    fn new(store: &'a ParamStore) -> Self {
        let places = store.ids().flat_map(|id| {
            store.spec(id).parts.iter().scan(0, move |at, part| {
                let start = *at;
                *at += part.len();
                Some((part.name.as_str(), Place { id, part, start }))
            })
        });
        Places(places.collect())
    }

    fn get(&self, name: &str) -> Option<&Place<'a>> {
        self.0.get(name)
    }
}

impl Place<'_> {
    fn view(&self, fused: &Tensor) -> vila_engine::Result<Tensor> {
        let (start, end) = (self.start, self.start + self.part.len());
        if self.part.shape.len() < 2 {
            return fused.slice_cols(start..end);
        }
        let cols = fused.cols().max(1);
        fused.slice_rows(start / cols..end / cols)
    }

    fn edit(
        &self,
        backend: &dyn Backend,
        store: &ParamStore,
        f: impl FnOnce(&Tensor) -> vila_engine::Result<()>,
    ) -> vila_engine::Result<()> {
        store.edit(backend, self.id, |fused| f(&self.view(fused)?))
    }
}

/// Identifies the base that adapters were made for: names, shapes and first rows of the adapted weights, at the
/// precision of bf16, so that the same weights in another type are the same base.
fn fingerprint(backend: &dyn Backend, store: &ParamStore, weights: &[&str]) -> Result<String> {
    let (places, mut hash) = (Places::new(store), Sha256::new());
    for place in weights.iter().filter_map(|name| places.get(name)) {
        let weight = place.view(store.weight(place.id)?)?;
        let row = backend.alloc(DType::F32, 1, weight.cols())?;
        backend.copy(&Copy { x: &weight.slice_rows(0..1)?, y: &row })?;
        hash.update(format!("{} {:?}\n", place.part.name, place.part.shape));
        backend.to_vec::<f32>(&row)?.iter().for_each(|&x| hash.update(bf16::from_f32(x).to_le_bytes()));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
