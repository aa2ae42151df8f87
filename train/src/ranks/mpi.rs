//! Ranks as processes of one MPI job.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::request::{Request, StaticScope};
use mpi::topology::{Process, SimpleCommunicator};
use mpi::traits::{Communicator, Destination, MatchedReceiveVec, Source};

use super::host::{Call, HEARTBEAT, Head, Lost, Message, SILENCE, Size, Transport};
use crate::{Error, Result};

/// Tags: call and length of a message,
const HEAD: i32 = 1;
/// its bytes in pieces,
const PIECE: i32 = 2;
/// and words out of turn: nothing says that the sender lives, anything else is a goodbye.
const WORD: i32 = 3;
/// Bytes of a piece: MPI counts in `int`, and between two pieces a rank can say and hear that it lives.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces to one rank that are under way at a time.
const WINDOW: usize = 4;
/// How long a goodbye may wait for being heard.
const GOODBYE: Duration = Duration::from_secs(5);

/// One rank of an MPI job; everything runs on the thread that joined.
pub struct Mpi {
    /// Nothing once a rank is lost: finalising would wait for it.
    universe: Option<Universe>,
    world: SimpleCommunicator,
    rank: usize,
    peers: Vec<Peer>,
    /// Heartbeats and goodbyes on their way.
    words: Vec<Sending>,
    beat: Instant,
    polled: Instant,
    lost: Option<Lost>,
}

struct Peer {
    heard: Instant,
    last_step: u64,
}

/// Bytes that MPI reads until the request is done.
struct Sending {
    request: Option<Request<'static, [u8]>>,
    bytes: Message,
}

impl Sending {
    fn start(bytes: &Message, range: Range<usize>, send: impl FnOnce(&'static [u8]) -> Request<'static, [u8]>) -> Self {
        let part: *const [u8] = &bytes[range];
        // SAFETY: what is behind the `Arc` never changes, and it lives as long as the request: it is kept beside it, and
        // leaked with it.
        let request = send(unsafe { &*part });
        Sending { request: Some(request), bytes: Arc::clone(bytes) }
    }

    fn is_done(&mut self) -> bool {
        match self.request.take().map(Request::test) {
            Some(Err(request)) => {
                self.request = Some(request);
                false
            }
            _ => true,
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // A lost rank never takes it, and MPI may read it for as long as the process lives.
            std::mem::forget((request, Arc::clone(&self.bytes)));
        }
    }
}

/// A message to one rank.
struct Outgoing {
    bytes: Message,
    posted: usize,
    flying: VecDeque<Sending>,
}

impl Outgoing {
    fn start(to: &Process, call: Call, bytes: Message) -> Self {
        let head = Arc::new(Head { call, len: bytes.len() as u64 }.to_bytes());
        let sending = Sending::start(&head, 0..head.len(), |head| to.immediate_send_with_tag(StaticScope, head, HEAD));
        Outgoing { bytes, posted: 0, flying: VecDeque::from([sending]) }
    }

    /// Whether MPI is done with all of it.
    fn advance(&mut self, to: &Process) -> bool {
        while self.flying.front_mut().is_some_and(Sending::is_done) {
            self.flying.pop_front();
        }
        while self.flying.len() < WINDOW && self.posted < self.bytes.len() {
            let piece = self.posted..(self.posted + PIECE_BYTES).min(self.bytes.len());
            self.posted = piece.end;
            let send = |bytes| to.immediate_send_with_tag(StaticScope, bytes, PIECE);
            self.flying.push_back(Sending::start(&self.bytes, piece, send));
        }
        self.flying.is_empty()
    }
}

/// A message from one rank.
#[derive(Default)]
struct Incoming {
    /// What is said of it, once that came.
    head: Option<Head>,
    bytes: Vec<u8>,
}

impl Incoming {
    fn is_whole(&self) -> bool {
        self.head.is_some_and(|head| self.bytes.len() as u64 >= head.len)
    }

    /// Takes the next part if it has come; a message that `call` does not want is refused before its bytes are read.
    fn advance(&mut self, rank: usize, from: &Process, call: &Call, size: Size) -> Result<bool> {
        let tag = if self.head.is_none() { HEAD } else { PIECE };
        // A message that was announced is on its way, so the wait for its bytes is short.
        let Some(announced) = from.immediate_matched_probe_with_tag(tag) else { return Ok(false) };
        let (part, _) = announced.matched_receive_vec::<u8>();
        if self.head.is_some() {
            self.bytes.extend_from_slice(&part);
            return Ok(true);
        }
        let head = Head::from_bytes(&part).ok_or_else(|| {
            Error::Ranks(format!("rank {rank} talks in another way; every rank needs the same program"))
        })?;
        head.check(rank, call, size)?;
        self.bytes.reserve_exact(head.len as usize);
        self.head = Some(head);
        Ok(true)
    }
}

impl Mpi {
    /// Joins the job that this process was started in; once in a process, on the thread that will use it.
    ///
    /// # Errors
    /// [`Error::Ranks`] if MPI knows of another rank or number of ranks than the launcher said.
    pub fn join(rank: usize, world: usize) -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or_else(|| Error::Ranks("MPI is in use already in this process".into()))?;
        let communicator = universe.world();
        let found = (communicator.rank() as usize, communicator.size() as usize);
        if found != (rank, world) {
            return Err(Error::Ranks(format!(
                "MPI says that this is rank {} of {}, its launcher that it is rank {rank} of {world}: start it with the mpirun \
                 (or srun --mpi) of the MPI that the program was built with, or set VILA_TRANSPORT=tcp",
                found.0, found.1
            )));
        }
        let now = Instant::now();
        let peers = (0..world).map(|_| Peer { heard: now, last_step: 0 }).collect();
        let (words, beat) = (Vec::new(), now);
        Ok(Mpi { universe: Some(universe), world: communicator, rank, peers, words, beat, polled: now, lost: None })
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.peers.len()).filter(move |&other| other != rank)
    }

    /// Says that this rank lives, hears goodbyes, and notices silence.
    fn poll(&mut self) -> std::result::Result<(), Lost> {
        let now = Instant::now();
        if now - self.polled > SILENCE / 2 {
            // Whoever was not listening cannot say that others were silent.
            self.peers.iter_mut().for_each(|peer| peer.heard = now);
        }
        self.polled = now;
        self.words.retain_mut(|word| !word.is_done());
        if now - self.beat >= HEARTBEAT {
            self.beat = now;
            for rank in self.others() {
                let to = self.world.process_at_rank(rank as i32);
                let send = |bytes| to.immediate_send_with_tag(StaticScope, bytes, WORD);
                self.words.push(Sending::start(&Message::default(), 0..0, send));
            }
        }
        while let Some(said) = self.hear() {
            if let (_, Some(lost)) = said {
                return Err(lost);
            }
            self.peers[said.0].heard = now;
        }
        match self.others().find(|&rank| now - self.peers[rank].heard > SILENCE) {
            Some(rank) => {
                let reason = format!("no word from it for {} s", SILENCE.as_secs());
                Err(Lost { rank, step: self.peers[rank].last_step, reason })
            }
            None => Ok(()),
        }
    }

    /// The next word out of turn, if one has come: who said it, and who is gone if it is a goodbye.
    fn hear(&self) -> Option<(usize, Option<Lost>)> {
        let announced = self.world.any_process().immediate_matched_probe_with_tag(WORD)?;
        let (bytes, status) = announced.matched_receive_vec::<u8>();
        Some((status.source_rank() as usize, (!bytes.is_empty()).then(|| Lost::from_bytes(&bytes))))
    }

    /// As [`Mpi::poll`]; what was found once is found again.
    fn look(&mut self) -> std::result::Result<(), Lost> {
        if self.lost.is_none() {
            self.lost = self.poll().err();
        }
        self.lost.clone().map_or(Ok(()), Err)
    }

    /// Sends and receives until all is through.
    fn exchange(&mut self, call: Call, parts: &[Message], sizes: &[Size]) -> Result<Vec<Incoming>> {
        let world = SimpleCommunicator::world();
        let process = |rank: usize| world.process_at_rank(rank as i32);
        let mut outgoing: Vec<(usize, Outgoing)> =
            self.others().map(|rank| (rank, Outgoing::start(&process(rank), call, Arc::clone(&parts[rank])))).collect();
        let mut incoming: Vec<Incoming> = parts.iter().map(|_| Incoming::default()).collect();
        let mut tries = 0;
        loop {
            self.look()?;
            outgoing.retain_mut(|(rank, outgoing)| !outgoing.advance(&process(*rank)));
            let mut came = false;
            for rank in self.others().filter(|&rank| !incoming[rank].is_whole()).collect::<Vec<_>>() {
                while !incoming[rank].is_whole() && incoming[rank].advance(rank, &process(rank), &call, sizes[rank])? {
                    (came, self.peers[rank].heard) = (true, Instant::now());
                }
            }
            if outgoing.is_empty() && self.others().all(|rank| incoming[rank].is_whole()) {
                return Ok(incoming);
            }
            tries = if came { 0 } else { tries + 1 };
            rest(tries);
        }
    }
}

/// A core that has nothing to do is left to the others, who may compute on it.
fn rest(tries: u32) {
    match tries {
        0..100 => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_micros(100)),
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.peers.len()
    }

    fn all_to_all(&mut self, call: Call, parts: Vec<Message>, sizes: &[Size]) -> Result<Vec<Message>> {
        let incoming = self.exchange(call, &parts, sizes)?;
        let mut received = parts;
        for ((rank, Incoming { head, bytes }), slot) in incoming.into_iter().enumerate().zip(&mut received) {
            if let Some(head) = head {
                self.peers[rank].last_step = head.call.step;
                *slot = Arc::new(bytes);
            }
        }
        Ok(received)
    }

    fn leave(&mut self, lost: &Lost) {
        let bytes = Arc::new(lost.to_bytes());
        for rank in self.others().filter(|&rank| rank != lost.rank) {
            let to = self.world.process_at_rank(rank as i32);
            // Done when the other rank has heard it: this process's end makes mpirun kill the others.
            let send = |bytes| to.immediate_synchronous_send_with_tag(StaticScope, bytes, WORD);
            self.words.push(Sending::start(&bytes, 0..bytes.len(), send));
        }
        let deadline = Instant::now() + GOODBYE;
        while !self.words.is_empty() && Instant::now() < deadline {
            // Others may be leaving, too.
            while self.hear().is_some() {}
            self.words.retain_mut(|word| !word.is_done());
            rest(u32::MAX);
        }
        self.lost.get_or_insert_with(|| lost.clone());
    }

    fn idle(&mut self) -> std::result::Result<(), Lost> {
        self.look()
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.words.retain_mut(|word| !word.is_done());
        if self.lost.is_some() {
            std::mem::forget(self.universe.take());
        }
    }
}
