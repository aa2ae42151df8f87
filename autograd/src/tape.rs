use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use vila_engine::ops::{Add, Copy, Gemm};
use vila_engine::{Backend, DType, Error, Result, Tensor};

use crate::{ParamId, ParamStore};

/// What the backward pass computes again instead of keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// Outputs of norms and activations.
    Cheap,
    /// Whole blocks, from their inputs.
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VarId(usize);

type Rematerialize<'a> = Rc<dyn Fn(&dyn Backend) -> Result<Tensor> + 'a>;

/// A tensor on a tape.
#[derive(Clone)]
pub struct Var<'a> {
    tensor: Tensor,
    id: Option<VarId>,
    remat: Option<Rematerialize<'a>>,
}

impl Var<'_> {
    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether a gradient reaches it.
    pub fn requires_grad(&self) -> bool {
        self.id.is_some()
    }

    pub(crate) fn id(&self) -> Option<VarId> {
        self.id
    }
}

/// A value kept for the backward pass, or how to compute it again.
pub(crate) enum Saved<'a> {
    Kept(Tensor),
    Remat(Rematerialize<'a>),
}

impl Saved<'_> {
    pub(crate) fn get(&self, backend: &dyn Backend) -> Result<Tensor> {
        match self {
            Saved::Kept(tensor) => Ok(tensor.clone()),
            Saved::Remat(compute) => compute(backend),
        }
    }
}

/// The gradient of one recorded op: takes the gradients of its outputs, adds those of its inputs.
type Backward<'a> = Box<dyn FnOnce(&mut Gradients<'a>, Vec<Option<Tensor>>) -> Result<()> + 'a>;

struct Node<'a> {
    outputs: Vec<VarId>,
    params: Vec<ParamId>,
    backward: Backward<'a>,
}

/// Runs ops and records what their gradients need.
pub struct Tape<'a> {
    backend: &'a dyn Backend,
    store: &'a ParamStore,
    recompute: Recompute,
    recording: bool,
    noise: Option<u64>,
    nodes: Vec<Node<'a>>,
    vars: usize,
    leaves: HashMap<VarId, Tensor>,
    on_complete: Option<Box<dyn FnMut(ParamId) + 'a>>,
}

impl<'a> Tape<'a> {
    /// An empty tape that keeps every activation.
    pub fn new(backend: &'a dyn Backend, store: &'a ParamStore) -> Self {
        let (nodes, leaves) = (Vec::new(), HashMap::new());
        let (recompute, recording, noise, on_complete) = (Recompute::None, true, None, None);
        Tape { backend, store, recompute, recording, noise, nodes, vars: 0, leaves, on_complete }
    }

    /// Chooses what the backward pass computes again; no choice changes a bit of the result.
    pub fn recompute(self, recompute: Recompute) -> Self {
        Tape { recompute, ..self }
    }

    /// Lets the model's dropout act, with bits that follow from `seed`; on other tapes it passes everything.
    pub fn noise(self, seed: u64) -> Self {
        Tape { noise: Some(seed), ..self }
    }

    pub(crate) fn noise_seed(&self) -> Option<u64> {
        self.noise
    }

    /// A tape that records nothing, for inference: every value is a constant.
    pub fn inference(backend: &'a dyn Backend, store: &'a ParamStore) -> Self {
        Tape { recording: false, ..Self::new(backend, store) }
    }

    /// Calls `f` in the backward pass as soon as all uses of a parameter have added their gradients.
    pub fn on_complete(self, f: impl FnMut(ParamId) + 'a) -> Self {
        Tape { on_complete: Some(Box::new(f)), ..self }
    }

    /// The backend that runs the ops.
    pub fn backend(&self) -> &'a dyn Backend {
        self.backend
    }

    /// The parameters.
    pub fn store(&self) -> &'a ParamStore {
        self.store
    }

    /// A value from outside; its gradient is kept if asked for.
    pub fn input(&mut self, tensor: Tensor, requires_grad: bool) -> Var<'a> {
        let id = (requires_grad && self.recording).then(|| self.new_id());
        Var { tensor, id, remat: None }
    }

    /// Number of recorded ops.
    pub fn recorded(&self) -> usize {
        self.nodes.len()
    }

    fn new_id(&mut self) -> VarId {
        self.vars += 1;
        VarId(self.vars - 1)
    }

    /// An uninitialised tensor of the type of `like`.
    pub(crate) fn alloc_like(&self, like: &Tensor, rows: usize, cols: usize) -> Result<Tensor> {
        self.backend.alloc(like.dtype(), rows, cols)
    }

    /// An uninitialised statistic of an op on `like`.
    pub(crate) fn alloc_stat(&self, like: &Tensor, rows: usize, cols: usize) -> Result<Tensor> {
        self.backend.alloc(vila_engine::ops::stat_dtype(like.dtype()), rows, cols)
    }

    /// Whether an op on these inputs and parameters has a gradient to compute.
    pub(crate) fn records(&self, inputs: &[&Var], params: &[ParamId]) -> bool {
        let trains = || params.iter().any(|&id| self.store.trains(id));
        self.recording && (inputs.iter().any(|var| var.requires_grad()) || trains())
    }

    /// A value that no gradient reaches.
    pub(crate) fn constant(&self, tensor: Tensor) -> Var<'a> {
        Var { tensor, id: None, remat: None }
    }

    /// What to keep of `var` for a backward pass.
    pub(crate) fn save(&self, var: &Var<'a>) -> Saved<'a> {
        match &var.remat {
            Some(remat) if self.recompute >= Recompute::Cheap => Saved::Remat(Rc::clone(remat)),
            _ => Saved::Kept(var.tensor.clone()),
        }
    }

    /// Lets consumers of `var` compute it again instead of keeping it.
    pub(crate) fn cheap(&self, var: Var<'a>, compute: impl Fn(&dyn Backend) -> Result<Tensor> + 'a) -> Var<'a> {
        Var { remat: Some(Rc::new(compute)), ..var }
    }

    /// Records an op with one output.
    pub(crate) fn push(
        &mut self,
        output: Tensor,
        params: Vec<ParamId>,
        backward: impl FnOnce(&mut Gradients<'a>, Tensor) -> Result<()> + 'a,
    ) -> Var<'a> {
        let [var] = self.push_many([output], params, |gradients, mut grads| match grads.pop().flatten() {
            Some(grad) => backward(gradients, grad),
            None => Ok(()),
        });
        var
    }

    /// Records an op with several outputs; some of their gradients may be absent.
    pub(crate) fn push_many<const N: usize>(
        &mut self,
        outputs: [Tensor; N],
        params: Vec<ParamId>,
        backward: impl FnOnce(&mut Gradients<'a>, Vec<Option<Tensor>>) -> Result<()> + 'a,
    ) -> [Var<'a>; N] {
        let vars = outputs.map(|tensor| Var { tensor, id: Some(self.new_id()), remat: None });
        let outputs = vars.iter().filter_map(Var::id).collect();
        self.nodes.push(Node { outputs, params, backward: Box::new(backward) });
        vars
    }

    /// Runs a block of the model; under [`Recompute::Block`] only its inputs are kept, and `f` runs again backwards.
    pub fn block(
        &mut self,
        inputs: &[Var<'a>],
        f: impl Fn(&mut Tape<'a>, &[Var<'a>]) -> Result<Vec<Var<'a>>> + 'a,
    ) -> Result<Vec<Var<'a>>> {
        if self.recompute < Recompute::Block || !self.recording {
            return f(self, inputs);
        }
        // The inner tape shows which outputs have gradients and which parameters are used; its records are dropped.
        let mut inner = self.inner();
        let leaves = inner.adopt(inputs);
        let outputs = f(&mut inner, &leaves)?;
        let params: Vec<ParamId> = inner.nodes.iter().flat_map(|node| node.params.iter().copied()).collect();
        drop(inner);
        let (backend, store, noise) = (self.backend, self.store, self.noise);
        let differentiable: Vec<bool> = outputs.iter().map(Var::requires_grad).collect();
        let tensors: Vec<Tensor> = outputs.into_iter().map(|var| var.tensor).collect();
        let vars: Vec<Var<'a>> = tensors
            .into_iter()
            .zip(&differentiable)
            .map(|(tensor, &grad)| Var { tensor, id: grad.then(|| self.new_id()), remat: None })
            .collect();
        if !differentiable.contains(&true) {
            return Ok(vars);
        }
        let parents = inputs.to_vec();
        let backward = move |gradients: &mut Gradients<'a>, grads: Vec<Option<Tensor>>| {
            let mut again = Tape { noise, ..Tape::new(backend, store) };
            let leaves = again.adopt(&parents);
            let outputs = f(&mut again, &leaves)?;
            let mut grads = grads.into_iter();
            let mut seeds = Vec::new();
            for (output, _) in outputs.iter().zip(&differentiable).filter(|(_, grad)| **grad) {
                if let (Some(grad), Some(id)) = (grads.next().flatten(), output.id) {
                    seeds.push((id, grad));
                }
            }
            let mut slots = again.run(seeds)?;
            for (leaf, parent) in leaves.iter().zip(&parents) {
                if let (Some(grad), Some(parent)) = (leaf.id.and_then(|id| slots.remove(&id)), parent.id) {
                    gradients.add(parent, grad)?;
                }
            }
            Ok(())
        };
        let outputs = vars.iter().filter_map(Var::id).collect();
        self.nodes.push(Node { outputs, params, backward: Box::new(backward) });
        Ok(vars)
    }

    fn inner(&self) -> Tape<'a> {
        Tape { noise: self.noise, ..Tape::new(self.backend, self.store) }
    }

    fn adopt(&mut self, vars: &[Var<'a>]) -> Vec<Var<'a>> {
        vars.iter().map(|var| self.input(var.tensor.clone(), var.requires_grad())).collect()
    }

    /// Walks the tape backwards from outputs and their gradients, and empties it.
    ///
    /// Parameter gradients are added to the store; gradients of inputs are kept for [`Tape::grad`].
    pub fn backward<'v>(&mut self, seeds: impl IntoIterator<Item = (&'v Var<'a>, Tensor)>) -> Result<()>
    where
        'a: 'v,
    {
        let seeds = seeds.into_iter().filter_map(|(var, grad)| Some((var.id?, grad))).collect();
        self.leaves = self.run(seeds)?;
        Ok(())
    }

    /// Walks the tape backwards from a scalar loss.
    pub fn backward_loss(&mut self, loss: &Var<'a>) -> Result<()> {
        let one = self.alloc_like(&loss.tensor, 1, 1)?;
        self.backend.fill(&vila_engine::ops::Fill { y: &one, value: 1.0 })?;
        self.backward([(loss, one)])
    }

    /// The gradient of an input, after [`Tape::backward`].
    pub fn grad(&self, var: &Var<'a>) -> Option<&Tensor> {
        self.leaves.get(&var.id?)
    }

    fn run(&mut self, seeds: Vec<(VarId, Tensor)>) -> Result<HashMap<VarId, Tensor>> {
        let mut uses: HashMap<ParamId, usize> = HashMap::new();
        for param in self.nodes.iter().flat_map(|node| &node.params) {
            *uses.entry(*param).or_default() += 1;
        }
        let mut gradients = Gradients { backend: self.backend, store: self.store, slots: HashMap::new() };
        for (id, grad) in seeds {
            gradients.add(id, grad)?;
        }
        while let Some(node) = self.nodes.pop() {
            let grads: Vec<Option<Tensor>> = node.outputs.iter().map(|id| gradients.slots.remove(id)).collect();
            if grads.iter().any(Option::is_some) {
                (node.backward)(&mut gradients, grads)?;
            }
            for param in node.params {
                if let Some(count) = uses.get_mut(&param) {
                    *count -= 1;
                    if let (0, Some(complete)) = (*count, self.on_complete.as_mut()) {
                        complete(param);
                    }
                }
            }
        }
        Ok(gradients.slots)
    }
}

/// Gradients on their way to the inputs of ops not yet walked.
pub(crate) struct Gradients<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) store: &'a ParamStore,
    slots: HashMap<VarId, Tensor>,
}

/// Whether nobody else views the tensor's memory.
fn exclusive(tensor: &Tensor) -> bool {
    Arc::strong_count(tensor.storage()) == 1
}

impl<'a> Gradients<'a> {
    /// The first gradient of a value is taken over, later ones are added, in the order of the walk.
    pub(crate) fn add(&mut self, id: VarId, grad: Tensor) -> Result<()> {
        let Some(sum) = self.slots.remove(&id) else {
            self.slots.insert(id, grad);
            return Ok(());
        };
        let sum = self.owned(sum)?;
        self.backend.add(&Add { x: &grad, y: &sum })?;
        self.slots.insert(id, sum);
        Ok(())
    }

    /// The tensor itself if nobody else views its memory, else a copy: safe to change in place.
    pub(crate) fn owned(&self, tensor: Tensor) -> Result<Tensor> {
        if exclusive(&tensor) {
            return Ok(tensor);
        }
        let copy = self.backend.alloc(tensor.dtype(), tensor.rows(), tensor.cols())?;
        self.backend.copy(&Copy { x: &tensor, y: &copy })?;
        Ok(copy)
    }

    pub(crate) fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.backend.alloc(dtype, rows, cols)
    }

    /// Adds `a b` to the gradient of `id`: in place if there is one already.
    pub(crate) fn add_product(&mut self, id: VarId, a: &Tensor, b: &Tensor) -> Result<()> {
        let backend = self.backend;
        let product =
            |c: &Tensor, beta| backend.gemm(&Gemm { a, trans_a: false, b, trans_b: false, c, alpha: 1.0, beta });
        match self.slots.get(&id) {
            Some(sum) if exclusive(sum) => product(sum, 1.0),
            _ => {
                let grad = self.alloc(a.dtype(), a.rows(), b.cols())?;
                product(&grad, 0.0)?;
                self.add(id, grad)
            }
        }
    }

    /// The gradient buffer of a parameter that trains.
    pub(crate) fn param(&self, id: ParamId) -> Option<Tensor> {
        self.store.grad(id).cloned()
    }
}

/// The error of an op that was given a parameter of the wrong kind.
pub(crate) fn argument(op: &'static str, message: impl Into<String>) -> Error {
    Error::Argument { op, message: message.into() }
}
