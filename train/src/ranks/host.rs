use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vila_engine::{Backend, DType, Tensor};

use super::Collective;
use crate::{Error, Result};

/// A process says that it lives this often,
pub(super) const HEARTBEAT: Duration = Duration::from_secs(3);
/// and counts as dead after this long without a word.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// Bytes on their way between ranks.
pub type Message = Arc<Vec<u8>>;

/// Moves bytes between ranks.
pub trait Transport {
    /// This rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Sends `parts[r]` to rank `r` and returns what each rank sent here; `step` is the sender's step in progress.
    ///
    /// # Errors
    /// [`Error::RankLost`] names the rank that went away and its last step.
    fn all_to_all(&mut self, step: u64, parts: Vec<Message>) -> Result<Vec<Message>>;

    /// Tells every rank that can still be reached who is lost, in place of a next message.
    fn leave(&mut self, lost: &Lost);

    /// Called every few seconds while there is nothing to send: the time to say that this rank lives, and to look after the
    /// others.
    ///
    /// # Errors
    /// The rank that went away.
    fn idle(&mut self) -> std::result::Result<(), Lost> {
        Ok(())
    }
}

/// A rank that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which.
    pub rank: usize,
    /// The last step of the run that it was seen in, from 1.
    pub step: u64,
    /// How it was noticed.
    pub reason: String,
}

impl Lost {
    /// A goodbye.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&(self.rank as u64).to_le_bytes()[..], &self.step.to_le_bytes(), self.reason.as_bytes()].concat()
    }

    /// What another rank's goodbye says.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let reason = String::from_utf8_lossy(bytes.get(16..).unwrap_or_default()).into_owned();
        Lost { rank: word(bytes, 0) as usize, step: word(bytes, 8), reason }
    }
}

/// Eight bytes of a message as a number; 0 behind its end.
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl From<Lost> for Error {
    fn from(Lost { rank, step, reason }: Lost) -> Self {
        Error::RankLost { rank, step, reason }
    }
}

type Job = Box<dyn FnOnce(&mut dyn Transport) + Send>;

/// Collectives through host memory: a thread of their own moves the bytes and adds, while the backward pass goes on.
pub struct HostCollective {
    rank: usize,
    world: usize,
    step: Arc<AtomicU64>,
    /// Nothing once the thread is to end.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    reductions: Mutex<VecDeque<Reduction>>,
}

/// A reduction under way and where its result goes.
struct Reduction {
    target: Tensor,
    sum: Receiver<Result<Vec<f32>>>,
}

impl HostCollective {
    /// Opens a transport on the thread that will use it.
    ///
    /// # Errors
    /// What `open` returns.
    pub fn new<T: Transport>(open: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        Self::watched(open, drop)
    }

    /// As [`HostCollective::new`]; `on_loss` hears of a rank that went away while nobody here waits for it.
    ///
    /// # Errors
    /// What `open` returns.
    pub fn watched<T: Transport>(
        open: impl FnOnce() -> Result<T> + Send + 'static,
        on_loss: impl FnOnce(Error) + Send + 'static,
    ) -> Result<Self> {
        let (opened, ready) = channel();
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::spawn(move || match open() {
            Ok(mut transport) => {
                if opened.send(Ok((transport.rank(), transport.world()))).is_ok() {
                    serve(&mut transport, &queue, on_loss);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        });
        let (rank, world) = ready.recv().map_err(|_| gone())??;
        let (jobs, thread) = (Some(jobs), Some(thread));
        Ok(HostCollective { rank, world, step: Arc::default(), jobs, thread, reductions: Mutex::default() })
    }

    /// Runs `f` on the transport's thread after everything asked for before.
    fn submit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Transport, u64) -> Result<T> + Send + 'static,
    ) -> Result<Receiver<Result<T>>> {
        let (reply, result) = channel();
        let step = self.step.load(Ordering::Relaxed);
        // Nobody listens any more once a rank has failed.
        let job: Job = Box::new(move |transport| drop(reply.send(f(transport, step))));
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        Ok(result)
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Transport, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.submit(f)?.recv().map_err(|_| gone())?
    }
}

impl Drop for HostCollective {
    fn drop(&mut self) {
        // The transport must have closed before the process ends: MPI counts another end as a crash.
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Does what is asked until nobody can ask any more.
fn serve(transport: &mut dyn Transport, queue: &Receiver<Job>, on_loss: impl FnOnce(Error)) {
    let mut on_loss = Some(on_loss);
    loop {
        match queue.recv_timeout(HEARTBEAT) {
            Ok(job) => job(transport),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(lost) = transport.idle()
                    && let Some(on_loss) = on_loss.take()
                {
                    on_loss(lost.into());
                }
            }
        }
    }
}

fn gone() -> Error {
    Error::Ranks("the thread that talks to the other ranks ended early".into())
}

impl Collective for HostCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn at_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    fn leave(&self, error: &Error) {
        let (rank, step) = (self.rank, self.step.load(Ordering::Relaxed));
        let lost = match error {
            // The one that was lost first is the one to name.
            Error::RankLost { rank, step, reason } => Lost { rank: *rank, step: *step, reason: reason.clone() },
            own => Lost { rank, step, reason: own.to_string() },
        };
        // Its answer makes sure that the goodbye is out before this process ends.
        let _ = self.call(move |transport, _| {
            transport.leave(&lost);
            Ok(())
        });
    }

    fn waits_for_device(&self) -> bool {
        true
    }

    fn begin_reduce(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        let parts = cuts.windows(2).map(|cut| Ok(Arc::new(backend.download(&x.slice_cols(cut[0]..cut[1])?)?)));
        let parts = parts.collect::<Result<Vec<Message>>>()?;
        let sum = self.submit(|transport, step| Ok(sum(&transport.all_to_all(step, parts)?)))?;
        let target = x.slice_cols(cuts[self.rank]..cuts[self.rank + 1])?;
        self.reductions.lock().unwrap_or_else(PoisonError::into_inner).push_back(Reduction { target, sum });
        Ok(())
    }

    fn finish_reduce(&self, backend: &dyn Backend) -> Result<()> {
        let begun = std::mem::take(&mut *self.reductions.lock().unwrap_or_else(PoisonError::into_inner));
        for Reduction { target, sum } in begun {
            let sum = sum.recv().map_err(|_| gone())??;
            backend.upload(bytemuck::cast_slice(&sum), &target)?;
        }
        Ok(())
    }

    fn all_gather(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        let piece = |rank: usize| x.slice_cols(cuts[rank]..cuts[rank + 1]);
        let all = self.tell_all(backend.download(&piece(self.rank)?)?)?;
        for (rank, bytes) in all.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
            backend.upload(bytes, &piece(rank)?)?;
        }
        Ok(())
    }

    fn all_reduce(&self, backend: &dyn Backend, x: &Tensor) -> Result<()> {
        let all = self.tell_all(backend.download(x)?)?;
        if x.dtype() == DType::F64 {
            Ok(backend.upload(bytemuck::cast_slice(&sum::<f64>(&all)), x)?)
        } else {
            Ok(backend.upload(bytemuck::cast_slice(&sum::<f32>(&all)), x)?)
        }
    }

    fn tell_all(&self, mine: Vec<u8>) -> Result<Vec<Message>> {
        let mine = Arc::new(mine);
        self.call(move |transport, step| {
            let parts = vec![mine; transport.world()];
            transport.all_to_all(step, parts)
        })
    }

    fn collect(&self, mine: Vec<u8>) -> Result<Vec<Message>> {
        let mut all = self.call(move |transport, step| {
            let mut parts = vec![Message::default(); transport.world()];
            parts[0] = Arc::new(mine);
            transport.all_to_all(step, parts)
        })?;
        all.truncate(if self.rank == 0 { self.world } else { 0 });
        Ok(all)
    }
}

/// Elementwise, in rank order.
fn sum<T: bytemuck::Pod + std::ops::AddAssign>(parts: &[Message]) -> Vec<T> {
    let values = |part: &Message| bytemuck::allocation::pod_collect_to_vec::<u8, T>(part);
    let mut parts = parts.iter();
    let mut sum = parts.next().map(values).unwrap_or_default();
    parts.for_each(|part| sum.iter_mut().zip(values(part)).for_each(|(sum, value)| *sum += value));
    sum
}
