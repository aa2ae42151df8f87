//! Ranks that train one model together: each has the whole model, takes its share of a step's micro-batches, and owns a
//! piece of the optimizer's state (ZeRO-1).
//!
//! A step's gradient is the sum of the ranks' gradients *in rank order*, and its norm the sum over pieces in rank order, so
//! that bits depend on the number of ranks and nothing else: not on the transport, not on overlap, not on who was faster.

mod agreement;
mod environment;
mod exchange;
mod handshake;
mod host;
mod join;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod partition;
mod rendezvous;
mod secret;
mod tcp;
mod threads;

use std::sync::Arc;

use vila_engine::{Backend, Tensor};

use crate::{Error, Result};

pub use agreement::{Facts, agree_on};
pub use environment::{Launch, MOST_RANKS, Meeting, TensorsOverNccl, batch_script_note, launch, most_threads};
pub use exchange::GradientExchange;
pub use handshake::Job;
pub use host::HostCollective;
pub use join::{Joined, join};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::NcclCollective;
pub use partition::{Bucket, Partition};
pub use rendezvous::Rendezvous;
pub use secret::{Secret, SecretSource};
pub use tcp::{Seat, Tcp};
pub use threads::threads;

/// What ranks do together. Every rank calls the same functions in the same order.
pub trait Collective: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Names the step in progress, for the messages of others if this rank goes away.
    fn at_step(&self, step: u64);

    /// Says goodbye because of an error, so that the others can name who failed, and why.
    fn leave(&self, error: &Error) {
        let _ = error;
    }

    /// Whether tensors go through host memory, so that a collective call waits for the device.
    fn waits_for_device(&self) -> bool;

    /// Starts to replace this rank's piece of `x` by the sum over ranks; `cuts[r]..cuts[r + 1]` are the columns of rank `r`.
    ///
    /// `x` is `[1, n]` f32 and must not change before [`Collective::finish_reduce`]; the other pieces are left as they are.
    fn begin_reduce(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()>;

    /// Ends every reduction begun since the last call.
    fn finish_reduce(&self, backend: &dyn Backend) -> Result<()>;

    /// Gives every rank's piece of `x`, `[1, n]` of any type, to all ranks.
    fn all_gather(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()>;

    /// Replaces a small f32 or f64 tensor by its sum over ranks.
    fn all_reduce(&self, backend: &dyn Backend, x: &Tensor) -> Result<()>;

    /// What every rank says, in rank order; keep it small.
    fn tell_all(&self, mine: Vec<u8>) -> Result<Vec<Arc<Vec<u8>>>>;

    /// What every rank sends, heard by rank 0 alone; nothing elsewhere. `sizes[r]` is the number of bytes of rank `r`.
    fn collect(&self, mine: Vec<u8>, sizes: &[usize]) -> Result<Vec<Arc<Vec<u8>>>>;

    /// The largest of the ranks' numbers; also a barrier.
    fn agree(&self, mine: u64) -> Result<u64> {
        let all = self.tell_all(mine.to_le_bytes().to_vec())?;
        let number = |bytes: &Arc<Vec<u8>>| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(all.iter().map(number).max().unwrap_or(mine))
    }

    /// What rank 0 says.
    fn hear_first(&self, mine: Vec<u8>) -> Result<Arc<Vec<u8>>> {
        let mine = if self.rank() == 0 { mine } else { Vec::new() };
        Ok(self.tell_all(mine)?.swap_remove(0))
    }
}

/// A run of one rank.
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn at_step(&self, _: u64) {}

    fn waits_for_device(&self) -> bool {
        false
    }

    fn begin_reduce(&self, _: &dyn Backend, _: &Tensor, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn finish_reduce(&self, _: &dyn Backend) -> Result<()> {
        Ok(())
    }

    fn all_gather(&self, _: &dyn Backend, _: &Tensor, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn all_reduce(&self, _: &dyn Backend, _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn tell_all(&self, mine: Vec<u8>) -> Result<Vec<Arc<Vec<u8>>>> {
        Ok(vec![Arc::new(mine)])
    }

    fn collect(&self, mine: Vec<u8>, _: &[usize]) -> Result<Vec<Arc<Vec<u8>>>> {
        self.tell_all(mine)
    }
}
