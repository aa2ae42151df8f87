//! Ranks with a GPU each: tensors go from device to device, words over another collective.

use std::sync::Arc;

use vila_cuda::nccl::{self, Communicator};
use vila_engine::{Backend, DType, Tensor};

use super::{Collective, HostCollective};
use crate::{Error, Result};

/// Tensors over NCCL, whose order of sums is its own: bits depend on NCCL's version and topology, not on rank order.
pub struct NcclCollective {
    devices: Communicator,
    host: HostCollective,
}

fn cut(x: &Tensor, cuts: &[usize]) -> Result<Vec<Tensor>> {
    Ok(cuts.windows(2).map(|cut| x.slice_cols(cut[0]..cut[1])).collect::<vila_engine::Result<_>>()?)
}

impl NcclCollective {
    /// Whether this rank could use NCCL.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(backend: &dyn Backend) -> Result<()> {
        let problem = |problem: String| Error::Ranks(problem);
        if !backend.name().starts_with("cuda") {
            return Err(problem(format!("NCCL needs --device cuda, this rank's device is {}", backend.name())));
        }
        nccl::version().map(drop).map_err(|error| problem(error.to_string()))
    }

    /// Joins the ranks of `host`, over which the communicator's id travels.
    ///
    /// # Errors
    /// Whatever NCCL reports.
    pub fn new(host: HostCollective, backend: &dyn Backend) -> Result<Self> {
        let join = || {
            let id = if host.rank() == 0 { nccl::unique_id() } else { Ok(Vec::new()) };
            let id = host.hear_first(id.map_err(|error| Error::Ranks(error.to_string()))?)?;
            let anything = backend.alloc(DType::F32, 1, 1)?;
            Ok(Communicator::new(&anything, &id, host.rank(), host.world())?)
        };
        match join() {
            Ok(devices) => Ok(NcclCollective { devices, host }),
            Err(error) => {
                host.leave(&error);
                Err(error)
            }
        }
    }
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world(&self) -> usize {
        self.host.world()
    }

    fn at_step(&self, step: u64) {
        self.host.at_step(step);
    }

    fn leave(&self, error: &Error) {
        self.host.leave(error);
        self.devices.abort();
    }

    fn waits_for_device(&self) -> bool {
        false
    }

    fn begin_reduce(&self, _: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        Ok(self.devices.reduce(&cut(x, cuts)?, self.rank())?)
    }

    fn finish_reduce(&self, _: &dyn Backend) -> Result<()> {
        Ok(self.devices.finish()?)
    }

    fn all_gather(&self, _: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        Ok(self.devices.broadcast(&cut(x, cuts)?)?)
    }

    fn all_reduce(&self, _: &dyn Backend, x: &Tensor) -> Result<()> {
        Ok(self.devices.all_reduce(x)?)
    }

    fn tell_all(&self, mine: Vec<u8>) -> Result<Vec<Arc<Vec<u8>>>> {
        self.host.tell_all(mine)
    }

    fn collect(&self, mine: Vec<u8>, sizes: &[usize]) -> Result<Vec<Arc<Vec<u8>>>> {
        self.host.collect(mine, sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::nccl;

    #[test]
    fn the_library_answers_or_what_is_missing_is_said() {
        match nccl::version() {
            Ok(version) => {
                assert_eq!((version.split('.').count(), nccl::unique_id().map_or(0, |id| id.len())), (3, 128))
            }
            Err(error) => assert!(error.to_string().starts_with("libnccl.so.2 "), "{error}"),
        }
    }
}
