use std::collections::HashMap;
use std::ops::Range;

use vila_engine::ops::{Copy, Fill};
use vila_engine::philox::Stream;
use vila_engine::{Backend, DType, Error, Owner, Result, Tensor};

/// Every tensor starts at a multiple of this many elements: 256 bytes in the narrowest type.
const ALIGN: usize = 128;

/// A parameter of a [`ParamStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `±bound`.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// A tensor as files know it: its name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamPart {
    /// Name on disk.
    pub name: String,
    /// Shape on disk; a matrix has rows `shape[0]` and the product of the rest as columns.
    pub shape: Vec<usize>,
}

impl ParamPart {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a model asks the store for: one tensor of the computation, made of one or more parts that lie side by side.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Name of the fused tensor: the first part's unless [`ParamSpec::fused`] gave one.
    pub name: String,
    /// The parts in order.
    pub parts: Vec<ParamPart>,
    /// Block of the model, for segments: `llm.layers.3`.
    pub segment: String,
    /// Learning-rate group.
    pub group: usize,
    /// Whether weight decay applies: by default to tensors of two or more dimensions.
    pub decay: bool,
    /// How it starts.
    pub init: Init,
}

impl ParamSpec {
    /// One tensor of its own.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        let name = name.into();
        let part = ParamPart { name: name.clone(), shape: shape.to_vec() };
        Self::fused(name, vec![part])
    }

    /// Parts side by side under one name; all are vectors, or matrices of one width.
    pub fn fused(name: impl Into<String>, parts: Vec<ParamPart>) -> Self {
        let decay = parts.iter().any(|part| part.shape.len() > 1);
        ParamSpec { name: name.into(), parts, segment: String::new(), group: 0, decay, init: Init::Zeros }
    }

    /// Sets the segment.
    pub fn segment(self, segment: impl Into<String>) -> Self {
        ParamSpec { segment: segment.into(), ..self }
    }

    /// Sets the initial values.
    pub fn init(self, init: Init) -> Self {
        ParamSpec { init, ..self }
    }

    /// Sets the learning-rate group.
    pub fn group(self, group: usize) -> Self {
        ParamSpec { group, ..self }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.parts.iter().map(ParamPart::len).sum()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows and columns of the fused tensor; a vector is one row.
    fn matrix(&self) -> (usize, usize) {
        match self.parts.first() {
            Some(part) if part.shape.len() > 1 => {
                let cols = part.shape[1..].iter().product::<usize>().max(1);
                (self.len() / cols, cols)
            }
            _ => (1, self.len()),
        }
    }
}

/// Where a trainable part lies in the flat buffers.
#[derive(Clone, Debug)]
pub struct ParamRange {
    /// Name on disk.
    pub name: String,
    /// Shape on disk.
    pub shape: Vec<usize>,
    /// Elements in the flat buffers.
    pub range: Range<usize>,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Learning-rate group.
    pub group: usize,
    /// Block of the model.
    pub segment: String,
    /// The fused tensor it belongs to.
    pub param: ParamId,
}

/// Where a weight lies.
enum Weight {
    /// In one tensor of the store's type.
    Whole(Tensor),
    /// In the device's view of a file, part by part, in the file's types.
    Mapped(Vec<Tensor>),
}

impl Weight {
    /// The tensors that make up the weight, one below the other.
    fn parts(&self) -> &[Tensor] {
        match self {
            Weight::Whole(whole) => std::slice::from_ref(whole),
            Weight::Mapped(parts) => parts,
        }
    }
}

struct Slot {
    spec: ParamSpec,
    weight: Weight,
    grad: Option<Tensor>,
    master: Option<Tensor>,
}

/// Weights by name; the trainable ones flat, with gradients (and f32 masters) at the same offsets.
pub struct ParamStore {
    slots: Vec<Slot>,
    by_name: HashMap<String, ParamId>,
    ranges: Vec<ParamRange>,
    weights: Tensor,
    grads: Tensor,
    masters: Option<Tensor>,
    dtype: DType,
}

impl ParamStore {
    /// Allocates and initialises the parameters; those that `trains` accepts lie in the flat buffers, in order.
    ///
    /// Weights have type `dtype`. Gradients are f32 (f64 for f64 weights); bf16 weights get f32 masters.
    /// Initial values depend on `seed` and the part's name only.
    pub fn new(
        backend: &dyn Backend,
        specs: Vec<ParamSpec>,
        dtype: DType,
        seed: u64,
        trains: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Self> {
        let store = Self::layout(backend, specs, dtype, trains, |_| None)?;
        store.ids().try_for_each(|id| store.initialize(backend, id, seed))?;
        Ok(store)
    }

    /// Frozen f32 parameters without initial values, except that the matrices of `mapped` stay where they are.
    ///
    /// `mapped` gives the tensors of a parameter's parts, in any float type, or nothing for one that is to be
    /// [set](ParamStore::set).
    pub fn mapped(
        backend: &dyn Backend,
        specs: Vec<ParamSpec>,
        mapped: impl Fn(&ParamSpec) -> Option<Vec<Tensor>>,
    ) -> Result<Self> {
        Self::layout(backend, specs, DType::F32, |_| false, mapped)
    }

    /// Allocates the parameters without initial values, to be [set](ParamStore::set) one by one.
    pub fn unset(
        backend: &dyn Backend,
        specs: Vec<ParamSpec>,
        dtype: DType,
        trains: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Self> {
        Self::layout(backend, specs, dtype, trains, |_| None)
    }

    fn layout(
        backend: &dyn Backend,
        specs: Vec<ParamSpec>,
        dtype: DType,
        trains: impl Fn(&ParamSpec) -> bool,
        mapped: impl Fn(&ParamSpec) -> Option<Vec<Tensor>>,
    ) -> Result<Self> {
        let aligned = |len: usize| len.next_multiple_of(ALIGN);
        let total: usize = specs.iter().filter(|spec| trains(spec)).map(|spec| aligned(spec.len())).sum();
        let grad_dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let weights = backend.zeros_for(Owner::Weights, dtype, 1, total)?;
        let grads = backend.zeros_for(Owner::Gradients, grad_dtype, 1, total)?;
        let masters =
            if dtype == DType::BF16 { Some(backend.zeros_for(Owner::Weights, DType::F32, 1, total)?) } else { None };
        let (mut slots, mut ranges, mut offset) = (Vec::new(), Vec::new(), 0);
        for (index, spec) in specs.into_iter().enumerate() {
            let (rows, cols) = spec.matrix();
            if !trains(&spec) {
                let weight = match mapped(&spec) {
                    Some(parts) => Weight::Mapped(parts),
                    None => Weight::Whole(backend.alloc_for(Owner::Weights, dtype, rows, cols)?),
                };
                slots.push(Slot { weight, grad: None, master: None, spec });
                continue;
            }
            let view = |flat: &Tensor| flat.slice_cols(offset..offset + rows * cols)?.reshape(rows, cols);
            let mut start = offset;
            for part in &spec.parts {
                let range = start..start + part.len();
                start = range.end;
                ranges.push(ParamRange {
                    name: part.name.clone(),
                    shape: part.shape.clone(),
                    range,
                    decay: spec.decay,
                    group: spec.group,
                    segment: spec.segment.clone(),
                    param: ParamId(index),
                });
            }
            let master = masters.as_ref().map(view).transpose()?;
            slots.push(Slot {
                weight: Weight::Whole(view(&weights)?),
                grad: Some(view(&grads)?),
                master,
                spec: spec.clone(),
            });
            offset += aligned(spec.len());
        }
        let names = slots.iter().enumerate();
        let by_name = names.map(|(index, slot)| (slot.spec.name.clone(), ParamId(index))).collect();
        Ok(ParamStore { slots, by_name, ranges, weights, grads, masters, dtype })
    }

    /// The same weights with another choice of what trains; gradients start at zero.
    pub fn with_trainable(self, backend: &dyn Backend, trains: impl Fn(&ParamSpec) -> bool) -> Result<Self> {
        let specs = self.slots.iter().map(|slot| slot.spec.clone()).collect();
        self.with_specs(backend, specs, 0, trains)
    }

    /// The weights of another list of parameters: those that were there stay what they are, new ones start from `seed`
    /// as in [`ParamStore::new`]. Gradients start at zero.
    pub fn with_specs(
        self,
        backend: &dyn Backend,
        specs: Vec<ParamSpec>,
        seed: u64,
        trains: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Self> {
        let same =
            |(slot, spec): (&Slot, &ParamSpec)| slot.spec.name == spec.name && trains(spec) == slot.grad.is_some();
        if self.slots.len() == specs.len() && self.slots.iter().zip(&specs).all(same) {
            self.zero_grads(backend)?;
            return Ok(self);
        }
        let ParamStore { mut slots, by_name, dtype, grads, .. } = self;
        // Both choices' weights exist for a moment; the old gradients need not.
        slots.iter_mut().for_each(|slot| slot.grad = None);
        drop(grads);
        let store = Self::layout(backend, specs, dtype, trains, |_| None)?;
        for (id, new) in store.ids().zip(&store.slots) {
            match by_name.get(&new.spec.name).and_then(|old| slots.get(old.0)) {
                None => store.initialize(backend, id, seed)?,
                Some(old) => new.targets().try_for_each(|target| old.copy_to(backend, target))?,
            }
        }
        Ok(store)
    }

    /// Element type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The parameter of that (fused) name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// All parameters in model order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.slots.len()).map(ParamId)
    }

    /// What the model asked for.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.slots[id.0].spec
    }

    /// The weight as one tensor; vectors are one row.
    ///
    /// # Errors
    /// [`Error::Argument`] for one that lies in a file in several parts.
    pub fn weight(&self, id: ParamId) -> Result<&Tensor> {
        match self.weight_parts(id) {
            [whole] => Ok(whole),
            parts => {
                let name = &self.slots[id.0].spec.name;
                let message = format!("{name} lies in a file in {} parts; only `linear` takes it", parts.len());
                Err(Error::Argument { op: "weight", message })
            }
        }
    }

    /// The tensors that make up the weight, one below the other: a single one, except in a [mapped](ParamStore::mapped)
    /// store.
    pub fn weight_parts(&self, id: ParamId) -> &[Tensor] {
        self.slots[id.0].weight.parts()
    }

    /// Whether the weight lies in a file.
    pub fn is_mapped(&self, id: ParamId) -> bool {
        matches!(self.slots[id.0].weight, Weight::Mapped(_))
    }

    /// The gradient, if the parameter trains.
    pub fn grad(&self, id: ParamId) -> Option<&Tensor> {
        self.slots[id.0].grad.as_ref()
    }

    /// Whether the parameter trains.
    pub fn trains(&self, id: ParamId) -> bool {
        self.slots[id.0].grad.is_some()
    }

    /// Trainable parts in the order of their offsets.
    pub fn ranges(&self) -> &[ParamRange] {
        &self.ranges
    }

    /// All trainable weights, `[1, n]`.
    pub fn flat_weights(&self) -> &Tensor {
        &self.weights
    }

    /// All gradients, `[1, n]`.
    pub fn flat_grads(&self) -> &Tensor {
        &self.grads
    }

    /// What the optimizer updates, `[1, n]`: f32 masters of bf16 weights, else the weights.
    pub fn flat_masters(&self) -> &Tensor {
        self.masters.as_ref().unwrap_or(&self.weights)
    }

    /// Sets all gradients to zero.
    pub fn zero_grads(&self, backend: &dyn Backend) -> Result<()> {
        backend.fill(&Fill { y: &self.grads, value: 0.0 })
    }

    /// Overwrites a parameter: the values of its parts one after another.
    pub fn set(&self, backend: &dyn Backend, id: ParamId, values: &[f32]) -> Result<()> {
        let spec = self.spec(id);
        if values.len() != spec.len() {
            let message = format!("{} takes {} values, got {}", spec.name, spec.len(), values.len());
            return Err(Error::Argument { op: "set", message });
        }
        let (rows, cols) = spec.matrix();
        self.slots[id.0].take(backend, &backend.upload_f32(rows, cols, values)?)
    }

    /// Gives a parameter its initial values.
    pub fn initialize(&self, backend: &dyn Backend, id: ParamId, seed: u64) -> Result<()> {
        let spec = self.spec(id);
        let mut values = Vec::with_capacity(spec.len());
        spec.parts.iter().for_each(|part| initial(spec.init, part, seed, &mut values));
        self.set(backend, id, &values)
    }

    /// A copy of a parameter in f32 (of its master where there is one): `[rows, cols]`.
    pub fn values(&self, backend: &dyn Backend, id: ParamId) -> Result<Tensor> {
        let slot = &self.slots[id.0];
        let (rows, cols) = slot.spec.matrix();
        let values = backend.alloc(DType::F32, rows, cols)?;
        slot.copy_to(backend, &values)?;
        Ok(values)
    }

    /// Changes a parameter by what `f` does to its [values](ParamStore::values).
    pub fn edit(&self, backend: &dyn Backend, id: ParamId, f: impl FnOnce(&Tensor) -> Result<()>) -> Result<()> {
        let values = self.values(backend, id)?;
        f(&values)?;
        self.slots[id.0].take(backend, &values)
    }

    /// Every part with its weight as f32 (the master where there is one), in model order.
    pub fn export(&self, backend: &dyn Backend, id: ParamId) -> Result<Vec<(ParamPart, Vec<f32>)>> {
        let values = backend.to_vec::<f32>(&self.values(backend, id)?)?;
        let mut rest = values.as_slice();
        Ok(self
            .spec(id)
            .parts
            .iter()
            .map(|part| {
                let (mine, others) = rest.split_at(part.len());
                rest = others;
                (part.clone(), mine.to_vec())
            })
            .collect())
    }
}

impl Slot {
    /// What an update writes: the weight and its master.
    fn targets(&self) -> impl Iterator<Item = &Tensor> {
        self.weight.parts().iter().chain(&self.master)
    }

    /// Overwrites weight and master.
    fn take(&self, backend: &dyn Backend, values: &Tensor) -> Result<()> {
        self.targets().try_for_each(|target| backend.copy(&Copy { x: values, y: target }))
    }

    /// Copies the weight, from its master where there is one.
    fn copy_to(&self, backend: &dyn Backend, y: &Tensor) -> Result<()> {
        let parts = self.master.as_ref().map_or_else(|| self.weight.parts(), std::slice::from_ref);
        let mut row = 0;
        for x in parts {
            backend.copy(&Copy { x, y: &y.slice_rows(row..row + x.rows())? })?;
            row += x.rows();
        }
        Ok(())
    }
}

/// FNV-1a, so that initial values follow the name and not the layout.
fn name_stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn initial(init: Init, part: &ParamPart, seed: u64, values: &mut Vec<f32>) {
    let mut random = Stream::new(seed, name_stream(&part.name));
    values.extend((0..part.len()).map(|_| match init {
        Init::Zeros => 0.0,
        Init::Ones => 1.0,
        Init::Normal { std } => (std * random.normal()) as f32,
        Init::Uniform { bound } => (bound * (2.0 * random.uniform() - 1.0)) as f32,
    }));
}
