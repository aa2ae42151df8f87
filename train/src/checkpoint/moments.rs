use std::path::Path;

use safetensors::Dtype;
use vila_autograd::{ParamRange, ParamStore};
use vila_engine::{Backend, DType};
use vila_model::weights::RawTensor;

use super::snapshot::Tensors;
use crate::optimizer::{Moments, Optimizer};
use crate::{Error, Result};

const KINDS: [&str; 2] = ["m", "v"];

fn dtype_of(dtype: DType) -> Dtype {
    if dtype == DType::BF16 { Dtype::BF16 } else { Dtype::F32 }
}

/// Cuts flat moments into a tensor for each parameter.
pub(super) fn moments(store: &ParamStore, moments: Moments) -> Tensors {
    let mut tensors = Tensors::new();
    for (kind, bytes) in KINDS.into_iter().zip(&moments.bytes) {
        for range in store.ranges() {
            let data = bytes[place(range, moments.dtype)].to_vec();
            let raw = RawTensor { dtype: dtype_of(moments.dtype), shape: range.shape.clone(), data };
            tensors.insert(format!("{kind}.{}", range.name), raw);
        }
    }
    tensors
}

fn place(range: &ParamRange, dtype: DType) -> std::ops::Range<usize> {
    range.range.start * dtype.size()..range.range.end * dtype.size()
}

/// Reads moments back into an optimizer for the same parameters, on however many ranks.
pub fn load_moments(dir: &Path, backend: &dyn Backend, store: &ParamStore, optimizer: &mut Optimizer) -> Result<()> {
    let path = dir.join("trainer/moments.safetensors");
    let bytes = vila_files::map(&path).map_err(Error::io(&path))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::checkpoint(&path, format!("damaged: {error}; remove this checkpoint and resume from an older one"))
    })?;
    let dtype = optimizer.moment_dtype();
    let len = store.flat_grads().cols() * dtype.size();
    let mut moments = Moments { dtype, bytes: [vec![0; len], vec![0; len]] };
    for (kind, flat) in KINDS.into_iter().zip(&mut moments.bytes) {
        for range in store.ranges() {
            let name = format!("{kind}.{}", range.name);
            let view = file.tensor(&name).map_err(|error| Error::checkpoint(&path, format!("{name}: {error}")))?;
            if view.dtype() != dtype_of(dtype) || view.shape() != range.shape {
                return Err(Error::checkpoint(&path, format!("{name} has another type or shape than the model")));
            }
            flat[place(range, dtype)].copy_from_slice(view.data());
        }
    }
    optimizer.set_moments(backend, &moments)
}
