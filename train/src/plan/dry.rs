//! A training step, and what comes before it, without memory and arithmetic.

use std::sync::Arc;

use vila_autograd::{ParamSpec, ParamStore, Recompute, Tape, Var};
use vila_engine::ops::Copy;
use vila_engine::{Backend, ByOwner, DType, DryCpu, Owner};
use vila_model::{PackedBatch, VilaConfig, VilaModel};

use super::ledger::{Holding, Ledger};
use crate::Result;
use crate::optimizer::{Optimizer, Sharing};
use crate::ranks::{Partition, Solo};
use crate::recipe::StageSpec;

/// The device that a dry run stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryDevice {
    /// The CPU backend's fast path.
    Cpu,
    /// A GPU with the 132 multiprocessors of H100 and H200.
    Cuda,
    /// The emulated device.
    Emulator,
}

impl DryDevice {
    /// `cpu`, `cuda` or `emulator`; nothing for other names.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "cpu" => Some(DryDevice::Cpu),
            "emulator" => Some(DryDevice::Emulator),
            name if name == "cuda" || name.starts_with("cuda:") => Some(DryDevice::Cuda),
            _ => None,
        }
    }

    /// Bytes that a process takes besides tensors: the driver's context and the libraries' working memory.
    pub fn overhead(self) -> u64 {
        if self == DryDevice::Cuda { 1 << 30 } else { 0 }
    }

    /// A fresh backend.
    ///
    /// # Errors
    /// This build is without CUDA.
    pub fn open(self) -> Result<Arc<dyn Backend>> {
        match self {
            DryDevice::Cpu => Ok(Arc::new(DryCpu::default())),
            #[cfg(feature = "cuda")]
            DryDevice::Cuda => open(vila_cuda::Dry::new(132)),
            #[cfg(feature = "cuda")]
            DryDevice::Emulator => open(vila_cuda::Dry::like(&vila_cuda::Emulated::new(Default::default()))),
            #[cfg(not(feature = "cuda"))]
            _ => Err(crate::Error::Data("this build is without CUDA; plan with --device cpu".into())),
        }
    }
}

#[cfg(feature = "cuda")]
fn open(device: vila_cuda::Dry) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(vila_cuda::CudaBackend::new(Arc::new(device))?))
}

/// What a training step holds and computes.
#[derive(Clone, Debug)]
pub struct StepEstimate {
    /// Bytes in use by owner at the moment when most are: what [`Backend::memory`] tells after a real step. Blocks that the
    /// pool keeps for reuse come on top; it gives them back when memory runs out.
    pub held_at_peak: ByOwner,
    /// Of the weights, bytes of f32 masters.
    pub masters: usize,
    /// Activations at that moment by the op that wrote them, the largest first.
    pub activations: Vec<(&'static str, Holding)>,
    /// FLOPs of matrix products forward.
    pub forward: f64,
    /// FLOPs of matrix products backward, with what is computed again.
    pub backward: f64,
}

/// How numbers are kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Weights and activations.
    pub dtype: DType,
    /// Adam's moments.
    pub moments: DType,
    /// What is computed again instead of kept.
    pub recompute: Recompute,
}

/// Runs one micro-batch and the update through the real model, tape and optimizer on a device that only counts.
///
/// # Errors
/// A batch that the model refuses, or sizes beyond counting.
pub fn dry_step(
    device: DryDevice,
    config: &VilaConfig,
    Policy { dtype, moments, recompute }: Policy,
    stage: &StageSpec,
    batch: &PackedBatch,
) -> Result<StepEstimate> {
    let ledger = Ledger::new(device.open()?);
    let trains = |spec: &ParamSpec| stage.trains(&spec.name);
    let store = ParamStore::unset(&ledger, VilaModel::specs(config), dtype, trains)?;
    let model = VilaModel::new(&ledger, config, &store)?;
    let partition = Partition::new(&store, 1, usize::MAX);
    let sharing = Sharing { partition, rank: 0, zero: false, moments, seed: 0 };
    let mut optimizer = Optimizer::shared(&ledger, &store, sharing)?;
    store.zero_grads(&ledger)?;
    let losses = ledger.zeros(DType::F32, 1, 1)?;
    let mut tape = Tape::new(&ledger, &store).recompute(recompute).noise(0);
    let root = model.loss(&mut tape, batch, 1.0)?;
    // The loss head computes its gradients with the loss.
    let head = 2.0 * batch.targets.len() as f64 * (config.llm.vocab_size * config.llm.hidden_size) as f64;
    let head_gradients = [root.as_ref().is_some_and(Var::requires_grad), trains_head(config, &store)];
    let forward = ledger.flops() - head * head_gradients.into_iter().filter(|&needed| needed).count() as f64;
    if let Some(root) = &root {
        tape.backward_loss(root)?;
        ledger.copy(&Copy { x: root.tensor(), y: &losses })?;
    }
    drop((tape, root));
    optimizer.update(&ledger, &store, stage, 1.0, Some(&losses), &Solo)?;
    let masters = if dtype == DType::BF16 { ledger.bytes(store.flat_masters()) } else { 0 };
    Ok(StepEstimate {
        held_at_peak: ledger.memory().held_at_peak,
        masters,
        activations: ledger.at_peak(),
        forward,
        backward: ledger.flops() - forward,
    })
}

fn trains_head(config: &VilaConfig, store: &ParamStore) -> bool {
    let name = if config.llm.tied { "llm.model.embed_tokens.weight" } else { "llm.lm_head.weight" };
    store.id(name).is_some_and(|id| store.trains(id))
}

/// Images that the feature bank encodes at once.
const BANK_CHUNK: usize = 256;

/// Most bytes held while a stage begins: the weights of the stage before are copied to where this one trains, and the images
/// of a feature bank are encoded.
///
/// # Errors
/// As [`dry_step`].
pub fn dry_stage_start(
    device: DryDevice,
    config: &VilaConfig,
    dtype: DType,
    before: Option<&StageSpec>,
    stage: &StageSpec,
) -> Result<usize> {
    let backend = device.open()?;
    let backend = &*backend;
    let trained = |spec: &ParamSpec| before.is_some_and(|before| before.trains(&spec.name));
    let store = ParamStore::unset(backend, VilaModel::specs(config), dtype, trained)?;
    let store = store.with_trainable(backend, |spec| stage.trains(&spec.name))?;
    if stage.feature_bank {
        let model = VilaModel::new(backend, config, &store)?;
        model.unset_features(&mut Tape::inference(backend, &store), BANK_CHUNK)?;
    }
    Ok(backend.memory().held_at_peak.total())
}

/// Bytes of an estimate by part of the plan, in the order of [`PARTS`].
pub(super) fn parts(estimate: &StepEstimate) -> [u64; PARTS.len()] {
    let held = |owner| estimate.held_at_peak.of(owner) as u64;
    let masters = estimate.masters as u64;
    let weights = held(Owner::Weights).saturating_sub(masters);
    [weights, masters, held(Owner::Gradients), held(Owner::Optimizer), held(Owner::Activations), held(Owner::Workspace)]
}

/// What a plan's memory is made of.
pub const PARTS: [&str; 6] = ["weights", "masters", "gradients", "moments", "activations", "workspace"];
