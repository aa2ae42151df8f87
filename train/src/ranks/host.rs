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

/// Most bytes that a rank says in words: the longest is a recipe with the texts of its prompts.
const MOST_SAID: usize = 16 << 20;

/// Bytes on their way between ranks.
pub type Message = Arc<Vec<u8>>;

/// What ranks can do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// [`Collective::begin_reduce`].
    Reduce,
    /// [`Collective::all_gather`].
    AllGather,
    /// [`Collective::all_reduce`].
    AllReduce,
    /// [`Collective::tell_all`].
    TellAll,
    /// [`Collective::collect`].
    Collect,
}

impl CallKind {
    const NAMES: [(CallKind, &'static str); 5] = [
        (CallKind::Reduce, "reduce"),
        (CallKind::AllGather, "all-gather"),
        (CallKind::AllReduce, "all-reduce"),
        (CallKind::TellAll, "tell-all"),
        (CallKind::Collect, "collect"),
    ];

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// One collective call of a rank; a message is of use in the same call of another rank alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub kind: CallKind,
    /// How many calls this rank has made before.
    pub sequence: u64,
    /// This rank's step in progress.
    pub step: u64,
}

/// How many bytes a call takes from a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// No other number.
    Exactly(usize),
    /// Words.
    AtMost(usize),
}

/// What is said of a message before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sender's call.
    pub call: Call,
    /// Bytes of the message.
    pub len: u64,
}

impl Head {
    /// Bytes of a head.
    pub(super) const BYTES: usize = 32;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Call { kind, sequence, step } = self.call;
        [kind as u64, sequence, step, self.len].map(u64::to_le_bytes).concat()
    }

    /// Nothing if there is no such call.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, _) = *CallKind::NAMES.get(usize::try_from(word(bytes, 0)).ok()?)?;
        Some(Head { call: Call { kind, sequence: word(bytes, 8), step: word(bytes, 16) }, len: word(bytes, 24) })
    }

    /// Whether this rank, in `call`, wants the message of rank `from`.
    ///
    /// # Errors
    /// The ranks are in different calls, or the message has another length than the call needs.
    pub(super) fn check(&self, from: usize, call: &Call, size: Size) -> Result<()> {
        let theirs = self.call;
        if (theirs.kind, theirs.sequence) != (call.kind, call.sequence) {
            return Err(Error::Ranks(format!(
                "rank {from} is in its collective call {} ({}), this rank in its call {} ({}): the ranks do different things",
                theirs.sequence,
                theirs.kind.name(),
                call.sequence,
                call.kind.name()
            )));
        }
        let (fits, wanted) = match size {
            Size::Exactly(bytes) => (self.len == bytes as u64, format!("takes {bytes}")),
            Size::AtMost(bytes) => (self.len <= bytes as u64, format!("takes {bytes} at most")),
        };
        if fits {
            return Ok(());
        }
        let (kind, sequence, len) = (call.kind.name(), call.sequence, self.len);
        Err(Error::Ranks(format!(
            "rank {from} sends {len} bytes to collective call {sequence} ({kind}), which {wanted}"
        )))
    }
}

/// Moves bytes between ranks.
pub trait Transport {
    /// This rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Sends `parts[r]` to rank `r` and returns what each rank sent here, which must be of the same call and have the bytes
    /// that `sizes[r]` allows: another message is refused before it is read.
    ///
    /// # Errors
    /// [`Error::RankLost`] names the rank that went away and its last step; [`Error::Ranks`] one that does something else.
    fn all_to_all(&mut self, call: Call, parts: Vec<Message>, sizes: &[Size]) -> Result<Vec<Message>>;

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

/// Most bytes of a reason that are sent.
const MOST_REASON: usize = 16 << 10;

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
        let reason = &self.reason.as_bytes()[..self.reason.len().min(MOST_REASON)];
        [&(self.rank as u64).to_le_bytes()[..], &self.step.to_le_bytes(), reason].concat()
    }

    /// What another rank's goodbye says.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let reason = plain(&String::from_utf8_lossy(bytes.get(16..).unwrap_or_default()));
        Lost { rank: word(bytes, 0) as usize, step: word(bytes, 8), reason }
    }
}

/// Eight bytes of a message as a number; 0 behind its end.
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A text of another process as one line without control characters, which a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => vec![' '],
        c if c.is_control() => c.escape_default().collect(),
        c => vec![c],
    };
    text.trim_end().chars().flat_map(shown).collect()
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
    step: AtomicU64,
    calls: AtomicU64,
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
        Ok(HostCollective {
            rank,
            world,
            step: AtomicU64::default(),
            calls: AtomicU64::default(),
            jobs,
            thread,
            reductions: Mutex::default(),
        })
    }

    /// Runs `f` on the transport's thread after everything asked for before.
    fn submit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Transport) -> Result<T> + Send + 'static,
    ) -> Result<Receiver<Result<T>>> {
        let (reply, result) = channel();
        // Nobody listens any more once a rank has failed.
        let job: Job = Box::new(move |transport| drop(reply.send(f(transport))));
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        Ok(result)
    }

    /// Begins the next collective call, and hands what came to `then`.
    fn begin<T: Send + 'static>(
        &self,
        kind: CallKind,
        parts: Vec<Message>,
        sizes: Vec<Size>,
        then: impl FnOnce(Vec<Message>) -> T + Send + 'static,
    ) -> Result<Receiver<Result<T>>> {
        let sequence = self.calls.fetch_add(1, Ordering::Relaxed);
        let call = Call { kind, sequence, step: self.step.load(Ordering::Relaxed) };
        self.submit(move |transport| Ok(then(transport.all_to_all(call, parts, &sizes)?)))
    }

    fn exchange(&self, kind: CallKind, parts: Vec<Message>, sizes: Vec<Size>) -> Result<Vec<Message>> {
        wait(self.begin(kind, parts, sizes, |all| all)?)
    }

    /// Sends the same bytes to every rank.
    fn broadcast(&self, kind: CallKind, mine: Vec<u8>, sizes: Vec<Size>) -> Result<Vec<Message>> {
        let mine = Arc::new(mine);
        self.exchange(kind, (0..self.world).map(|_| Arc::clone(&mine)).collect(), sizes)
    }
}

fn wait<T>(result: Receiver<Result<T>>) -> Result<T> {
    result.recv().map_err(|_| gone())?
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
        let said = self.submit(move |transport| {
            transport.leave(&lost);
            Ok(())
        });
        let _ = said.and_then(wait);
    }

    fn waits_for_device(&self) -> bool {
        true
    }

    fn begin_reduce(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        let parts = cuts.windows(2).map(|cut| Ok(Arc::new(backend.download(&x.slice_cols(cut[0]..cut[1])?)?)));
        let parts = parts.collect::<Result<Vec<Message>>>()?;
        let own = Size::Exactly((cuts[self.rank + 1] - cuts[self.rank]) * x.dtype().size());
        let sum = self.begin(CallKind::Reduce, parts, vec![own; self.world], |all| sum(&all))?;
        let target = x.slice_cols(cuts[self.rank]..cuts[self.rank + 1])?;
        self.reductions.lock().unwrap_or_else(PoisonError::into_inner).push_back(Reduction { target, sum });
        Ok(())
    }

    fn finish_reduce(&self, backend: &dyn Backend) -> Result<()> {
        let begun = std::mem::take(&mut *self.reductions.lock().unwrap_or_else(PoisonError::into_inner));
        for Reduction { target, sum } in begun {
            let sum = wait(sum)?;
            backend.upload(bytemuck::cast_slice(&sum), &target)?;
        }
        Ok(())
    }

    fn all_gather(&self, backend: &dyn Backend, x: &Tensor, cuts: &[usize]) -> Result<()> {
        let piece = |rank: usize| x.slice_cols(cuts[rank]..cuts[rank + 1]);
        let sizes = cuts.windows(2).map(|cut| Size::Exactly((cut[1] - cut[0]) * x.dtype().size())).collect();
        let all = self.broadcast(CallKind::AllGather, backend.download(&piece(self.rank)?)?, sizes)?;
        for (rank, bytes) in all.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
            backend.upload(bytes, &piece(rank)?)?;
        }
        Ok(())
    }

    fn all_reduce(&self, backend: &dyn Backend, x: &Tensor) -> Result<()> {
        let mine = backend.download(x)?;
        let sizes = vec![Size::Exactly(mine.len()); self.world];
        let all = self.broadcast(CallKind::AllReduce, mine, sizes)?;
        if x.dtype() == DType::F64 {
            Ok(backend.upload(bytemuck::cast_slice(&sum::<f64>(&all)), x)?)
        } else {
            Ok(backend.upload(bytemuck::cast_slice(&sum::<f32>(&all)), x)?)
        }
    }

    fn tell_all(&self, mine: Vec<u8>) -> Result<Vec<Message>> {
        self.broadcast(CallKind::TellAll, mine, vec![Size::AtMost(MOST_SAID); self.world])
    }

    fn collect(&self, mine: Vec<u8>, sizes: &[usize]) -> Result<Vec<Message>> {
        let mut parts = vec![Message::default(); self.world];
        parts[0] = Arc::new(mine);
        let wanted = |&size: &usize| Size::Exactly(if self.rank == 0 { size } else { 0 });
        let mut all = self.exchange(CallKind::Collect, parts, sizes.iter().map(wanted).collect())?;
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
