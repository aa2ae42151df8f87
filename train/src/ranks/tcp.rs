//! Ranks as processes that talk over TCP: every pair has one connection.
//!
//! A message of up to [`SMALL`] bytes goes at once. A longer one is announced first, and its bytes go when the other rank has
//! come to the same call and asks for them: so nothing is read that no collective wants, and heartbeats are never stuck
//! behind a message that waits for a long op.

use std::io::{Error as IoError, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handshake::{CallError, Introduction, Job};
use super::host::{Call, HEARTBEAT, Head, Lost, Message, SILENCE, Size, Transport};
use super::rendezvous::{MeetingPoint, Met, Rendezvous, call, call_first, receive};
use super::secret::SecretSource;
use crate::{Error, Result};

/// How long ranks wait for each other at the start.
const JOIN: Duration = Duration::from_secs(120);
/// Longest message that is sent before it is asked for.
const SMALL: usize = 64 << 10;
/// Frames that a rank may be ahead of this one: a message and a goodbye, with room.
const AHEAD: usize = 8;

/// A process that is to become a rank.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// The job.
    pub job: Job,
    /// Where the job's secret stands.
    pub secret: SecretSource,
    /// Where the ranks meet.
    pub rendezvous: Rendezvous,
}

/// One rank among processes.
pub struct Tcp {
    rank: usize,
    peers: Vec<Option<Peer>>,
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its sender lives.
    Alive,
    /// Who is lost: rank, step, and the reason as text.
    Leaving,
    /// A small message.
    Whole,
    /// A message is there to be asked for.
    Offer,
    /// It is asked for.
    Grant,
    /// Its bytes.
    Body,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Alive, Kind::Leaving, Kind::Whole, Kind::Offer, Kind::Grant, Kind::Body];
}

/// Something that another rank said.
enum Word {
    Leaving(Lost),
    Whole(Head, Vec<u8>),
    Offer(Head),
    Grant(Head),
    Body(Vec<u8>),
}

type Said = std::io::Result<Word>;

struct Peer {
    stream: Arc<Mutex<TcpStream>>,
    words: Receiver<Said>,
    /// The next word, if it was looked at before its time.
    ahead: Option<Said>,
    /// Bytes of the message that was asked for.
    wanted: Arc<AtomicU64>,
    last_step: u64,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its reader and heartbeat hold the connection, too; the other side must hear at once.
        let _ = lock(&self.stream).shutdown(std::net::Shutdown::Both);
    }
}

fn lock(stream: &Mutex<TcpStream>) -> std::sync::MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tcp {
    /// Joins the others; returns when all pairs are connected.
    ///
    /// # Errors
    /// [`Error::Ranks`] if they do not come within two minutes, or are of another job.
    pub fn join(seat: &Seat) -> Result<Self> {
        let Seat { rank, world, rendezvous, .. } = seat;
        let fail = |what: String| Error::Ranks(format!("rank {rank} of {world} at {rendezvous}: {what}"));
        let streams = connect(seat, Instant::now() + JOIN).map_err(|error| match error {
            CallError::Refused(reason) => fail(reason),
            CallError::Failed(error) => fail(format!(
                "{error}; every rank needs the same number of ranks and the same meeting point, reachable from its machine"
            )),
        })?;
        let peers = streams.into_iter().map(|stream| stream.map(Peer::start).transpose());
        let peers = peers.collect::<std::io::Result<_>>().map_err(|error| fail(error.to_string()))?;
        Ok(Tcp { rank: *rank, peers })
    }
}

/// One stream for every other rank. Rank 0 listens at the meeting point and tells everybody everybody's address; then each
/// rank calls all those between 0 and itself.
fn connect(seat: &Seat, deadline: Instant) -> std::result::Result<Vec<Option<TcpStream>>, CallError> {
    let Seat { rank, world, ref job, ref secret, ref rendezvous } = *seat;
    let own = |port: u16| Introduction { rank, world, job: job.clone(), port };
    let mut streams: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
    if rank == 0 {
        let MeetingPoint { listener, secret, notice: _notice } = MeetingPoint::open(rendezvous, secret)?;
        let arrivals = receive(listener, &own(0), &secret, deadline)?;
        let addresses: Vec<SocketAddr> = arrivals.iter().map(|arrival| arrival.address).collect();
        let addresses = serde_json::to_vec(&addresses).map_err(IoError::from)?;
        for mut arrival in arrivals {
            arrival.stream.write_all(&(addresses.len() as u64).to_le_bytes())?;
            arrival.stream.write_all(&addresses)?;
            streams[arrival.rank] = Some(arrival.stream);
        }
        return Ok(streams);
    }
    let Met { mut first, listener, secret } = call_first(rendezvous, secret, own, deadline)?;
    let addresses = read_addresses(&mut first, world, deadline)?;
    streams[0] = Some(first);
    let own = own(listener.local_addr()?.port());
    for (peer, address) in (1..rank).zip(addresses) {
        streams[peer] = Some(call(address, &secret, &own, deadline)?);
    }
    for arrival in receive(listener, &own, &secret, deadline)? {
        streams[arrival.rank] = Some(arrival.stream);
    }
    Ok(streams)
}

/// Where the ranks from 1 on listen, as rank 0 saw them.
fn read_addresses(first: &mut TcpStream, world: usize, deadline: Instant) -> std::io::Result<Vec<SocketAddr>> {
    // Rank 0 speaks when the last rank has come.
    first.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now()).max(HEARTBEAT)))?;
    let mut len = [0; 8];
    first.read_exact(&mut len).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => IoError::new(error.kind(), "rank 0 gave up"),
        _ => error,
    })?;
    let bytes = read_bytes(first, u64::from_le_bytes(len), world.saturating_mul(MOST_ADDRESS))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Most bytes of an address as text.
const MOST_ADDRESS: usize = 128;

/// Exactly `len` bytes, refused before they are read if they are more than `most`.
fn read_bytes(stream: &mut impl Read, len: u64, most: usize) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|len| *len <= most);
    let len = len.ok_or_else(|| IoError::new(ErrorKind::InvalidData, "it sent more than was asked for"))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| IoError::from(ErrorKind::OutOfMemory))?;
    stream.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() == len { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

impl Peer {
    fn start(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut incoming = stream.try_clone()?;
        let stream = Arc::new(Mutex::new(stream));
        let (said, words) = sync_channel(AHEAD);
        let wanted = Arc::new(AtomicU64::new(0));
        let asked = Arc::clone(&wanted);
        std::thread::Builder::new().spawn(move || read_words(&mut incoming, &asked, &said))?;
        let beating = Arc::downgrade(&stream);
        std::thread::Builder::new().spawn(move || {
            while let Some(stream) = beating.upgrade() {
                if write_frame(&stream, Kind::Alive, &[], &[]).is_err() {
                    return;
                }
                drop(stream);
                std::thread::sleep(HEARTBEAT);
            }
        })?;
        Ok(Peer { stream, words, ahead: None, wanted, last_step: 0 })
    }

    /// The next word, waited for until another rank has failed.
    fn take(&mut self, stop: &AtomicBool) -> Said {
        if let Some(word) = self.ahead.take() {
            return word;
        }
        while !stop.load(Ordering::Relaxed) {
            match self.words.recv_timeout(Duration::from_millis(100)) {
                Ok(word) => return word,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ErrorKind::ConnectionAborted.into()),
            }
        }
        Err(ErrorKind::Interrupted.into())
    }

    /// The next word, if it is there already; it stays the next.
    fn look(&mut self) -> Option<&Said> {
        if self.ahead.is_none() {
            self.ahead = match self.words.try_recv() {
                Ok(word) => Some(word),
                Err(TryRecvError::Disconnected) => Some(Err(ErrorKind::ConnectionAborted.into())),
                Err(TryRecvError::Empty) => None,
            };
        }
        self.ahead.as_ref()
    }

    /// Sends a message and receives one.
    fn exchange(&mut self, rank: usize, call: &Call, part: &[u8], size: Size, stop: &AtomicBool) -> Result<Message> {
        let own = Head { call: *call, len: part.len() as u64 };
        let (head, small) = (own.to_bytes(), part.len() <= SMALL);
        let begun = if small { self.send(Kind::Whole, &head, part) } else { self.send(Kind::Offer, &head, &[]) };
        let (mut sent, mut received) = (small, None);
        if let Err(error) = begun {
            return Err(self.lost(rank, &error, stop));
        }
        while !sent || received.is_none() {
            match self.take(stop) {
                Err(error) => return Err(self.lost(rank, &error, stop)),
                Ok(Word::Leaving(lost)) => return Err(lost.into()),
                Ok(Word::Whole(theirs, bytes)) if received.is_none() => {
                    self.last_step = theirs.call.step;
                    theirs.check(rank, call, size)?;
                    received = Some(Arc::new(bytes));
                }
                Ok(Word::Offer(theirs)) if received.is_none() => {
                    self.last_step = theirs.call.step;
                    theirs.check(rank, call, size)?;
                    self.wanted.store(theirs.len, Ordering::Release);
                    self.send(Kind::Grant, &theirs.to_bytes(), &[]).map_err(|error| self.lost(rank, &error, stop))?;
                }
                Ok(Word::Body(bytes)) if received.is_none() => received = Some(Arc::new(bytes)),
                Ok(Word::Grant(asked)) if !sent && asked == own => {
                    self.send(Kind::Body, &head, part).map_err(|error| self.lost(rank, &error, stop))?;
                    sent = true;
                }
                // As from a rank that is in another call already.
                Ok(_) => return Err(Error::Ranks(format!("rank {rank} sends what nobody asked for"))),
            }
        }
        received.ok_or_else(|| Error::Ranks(format!("rank {rank} sends nothing")))
    }

    fn send(&self, kind: Kind, head: &[u8], bytes: &[u8]) -> std::io::Result<()> {
        write_frame(&self.stream, kind, head, bytes)
    }

    /// Why the rank is lost. A goodbye that came says more than a message that could not be sent.
    fn lost(&mut self, rank: usize, error: &IoError, stop: &AtomicBool) -> Error {
        while error.kind() == ErrorKind::BrokenPipe || error.kind() == ErrorKind::ConnectionReset {
            match self.take(stop) {
                Ok(Word::Leaving(lost)) => return lost.into(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Lost { rank, step: self.last_step, reason: reason(error) }.into()
    }
}

/// Sends heads of frames, and bytes after them, in one piece where they are few.
fn write_frame(stream: &Mutex<TcpStream>, kind: Kind, head: &[u8], bytes: &[u8]) -> std::io::Result<()> {
    let mut front = [&(kind as u64).to_le_bytes()[..], head].concat();
    if kind == Kind::Leaving {
        front.extend((bytes.len() as u64).to_le_bytes());
    }
    let mut stream = lock(stream);
    if bytes.len() <= SMALL {
        front.extend_from_slice(bytes);
        return stream.write_all(&front);
    }
    stream.write_all(&front)?;
    stream.write_all(bytes)
}

fn read_words(stream: &mut TcpStream, wanted: &AtomicU64, said: &SyncSender<Said>) {
    loop {
        let word = match read_word(stream, wanted) {
            Ok(None) => continue,
            Ok(Some(word)) => Ok(word),
            Err(error) => Err(error),
        };
        let over = word.is_err();
        if said.send(word).is_err() || over {
            return;
        }
    }
}

/// The next word; nothing if the sender only says that it lives.
fn read_word(stream: &mut TcpStream, wanted: &AtomicU64) -> std::io::Result<Option<Word>> {
    let unknown = || IoError::new(ErrorKind::InvalidData, "it talks in another way");
    let number = read_u64(stream)?;
    let kind = usize::try_from(number).ok().and_then(|kind| Kind::ALL.get(kind).copied()).ok_or_else(unknown)?;
    match kind {
        Kind::Alive => return Ok(None),
        Kind::Leaving => {
            let len = read_u64(stream)?;
            return Ok(Some(Word::Leaving(Lost::from_bytes(&read_bytes(stream, len, SMALL)?))));
        }
        _ => {}
    }
    let mut head = [0; Head::BYTES];
    stream.read_exact(&mut head)?;
    let head = Head::from_bytes(&head).ok_or_else(unknown)?;
    Ok(Some(match kind {
        Kind::Whole => Word::Whole(head, read_bytes(stream, head.len, SMALL)?),
        Kind::Body => Word::Body(read_bytes(stream, head.len, wanted.swap(0, Ordering::Acquire) as usize)?),
        Kind::Grant => Word::Grant(head),
        _ => Word::Offer(head),
    }))
}

fn read_u64(stream: &mut TcpStream) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Transport for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.peers.len()
    }

    fn all_to_all(&mut self, call: Call, parts: Vec<Message>, sizes: &[Size]) -> Result<Vec<Message>> {
        // The first failure ends the waiting for the other ranks, and is the one to report.
        let (stop, failure) = (AtomicBool::new(false), Mutex::new(None));
        let exchange = |rank: usize, peer: &mut Option<Peer>, part: &Message, size: Size| {
            let Some(peer) = peer else { return Arc::clone(part) };
            peer.exchange(rank, &call, part, size, &stop).unwrap_or_else(|error| {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
                Message::default()
            })
        };
        let received = std::thread::scope(|scope| {
            let exchange = &exchange;
            let peers = self.peers.iter_mut().zip(&parts).zip(sizes).enumerate();
            let threads =
                peers.map(|(rank, ((peer, part), &size))| scope.spawn(move || exchange(rank, peer, part, size)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(received), Err)
    }

    fn leave(&mut self, lost: &Lost) {
        let bytes = lost.to_bytes();
        for peer in self.peers.iter().flatten() {
            // Whoever is gone needs no goodbye.
            let _ = peer.send(Kind::Leaving, &[], &bytes);
        }
    }

    fn idle(&mut self) -> std::result::Result<(), Lost> {
        for (rank, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            let step = peer.last_step;
            match peer.look() {
                Some(Err(error)) => return Err(Lost { rank, step, reason: reason(error) }),
                Some(Ok(Word::Leaving(lost))) => return Err(lost.clone()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn reason(error: &IoError) -> String {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => format!("no word from it for {} s", SILENCE.as_secs()),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => "its process closed the connection".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::path::PathBuf;

    use vila_engine::{Backend, CpuBackend, DType, Tensor};

    use super::*;
    use crate::ranks::{Collective, HostCollective, Secret};

    const LOCAL: &str = "127.0.0.1";

    fn job(out: &str) -> Job {
        Job { launch: "torchrun TORCHELASTIC_RUN_ID=none".into(), out: out.into(), recipe: "0123456789abcdef".into() }
    }

    fn secret(text: &str) -> SecretSource {
        SecretSource::Variable(Secret::new(text, "test").expect("long enough"))
    }

    fn free_port() -> u16 {
        TcpListener::bind((LOCAL, 0)).and_then(|listener| listener.local_addr()).expect("port").port()
    }

    fn seat(rank: usize, world: usize, port: u16) -> Seat {
        let rendezvous = Rendezvous::Address { host: LOCAL.into(), port, listen: None };
        Seat { rank, world, job: job("/runs/a"), secret: secret("correct horse battery"), rendezvous }
    }

    /// What each seat's process ends with, in seconds at most.
    fn joined(seats: Vec<Seat>) -> Vec<std::result::Result<HostCollective, String>> {
        let join = |seat: Seat| HostCollective::new(move || Tcp::join(&seat)).map_err(|error| error.to_string());
        std::thread::scope(|scope| {
            let ranks: Vec<_> = seats.into_iter().map(|seat| scope.spawn(move || join(seat))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("rank")).collect()
        })
    }

    fn together(world: usize) -> Vec<HostCollective> {
        let port = free_port();
        let ranks = joined((0..world).map(|rank| seat(rank, world, port)).collect());
        ranks.into_iter().map(|rank| rank.expect("joined")).collect()
    }

    fn refused(seats: Vec<Seat>) -> Vec<String> {
        joined(seats).into_iter().map(|rank| rank.err().unwrap_or_default()).collect()
    }

    /// Runs `f` on every rank at once.
    fn each<T: Send>(ranks: &[HostCollective], f: impl Fn(&HostCollective) -> T + Sync) -> Vec<T> {
        let f = &f;
        std::thread::scope(|scope| {
            let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || f(rank))).collect();
            threads.into_iter().map(|thread| thread.join().expect("rank")).collect()
        })
    }

    fn filled(cpu: &CpuBackend, len: usize, value: f32) -> Tensor {
        let x = cpu.zeros(DType::F32, 1, len).expect("tensor");
        cpu.upload(bytemuck::cast_slice(&vec![value; len]), &x).expect("upload");
        x
    }

    #[test]
    fn small_and_large_messages_arrive_between_all_ranks() {
        let ranks = together(3);
        for len in [3, 100_000] {
            let sums = each(&ranks, |rank| {
                let cpu = CpuBackend::fast();
                let x = filled(&cpu, len, 1.0 + rank.rank() as f32);
                rank.all_reduce(&cpu, &x).expect("sum");
                let cuts = [0, 1, 2, len];
                rank.begin_reduce(&cpu, &x, &cuts).expect("begun");
                rank.finish_reduce(&cpu).expect("sums");
                rank.all_gather(&cpu, &x, &cuts).expect("gathered");
                (&cpu as &dyn Backend).to_vec::<f32>(&x).expect("values")
            });
            assert!(sums.iter().all(|sum| sum.iter().all(|value| *value == 18.0) && sum.len() == len));
            let said = each(&ranks, |rank| rank.tell_all(vec![rank.rank() as u8; len]).expect("words"));
            assert!(said.iter().all(|said| said.iter().enumerate().all(|(at, bytes)| **bytes == vec![at as u8; len])));
        }
    }

    #[test]
    fn strangers_end_no_run_and_hold_up_no_join() {
        let port = free_port();
        let start = Instant::now();
        let first = std::thread::spawn(move || joined(vec![seat(0, 2, port)]).pop());
        let call = || {
            for _ in 0..200 {
                match TcpStream::connect((LOCAL, port)) {
                    Ok(stream) => return stream,
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
            panic!("rank 0 does not listen")
        };
        let silent: Vec<TcpStream> = (0..45).map(|_| call()).collect();
        for words in [&b"vilaRNK1"[..], b"vilaRNK2", &[0; 200], &[255; 5000], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stranger = call();
            let _ = stranger.write_all(words);
            let _ = stranger.shutdown(Shutdown::Write);
        }
        // One that says how long its introduction is, and a proof that it cannot have.
        let mut liar = call();
        let _ = liar.write_all(&[&b"vilaRNK2"[..], &[7; 32], &[9; 32], &u64::MAX.to_le_bytes()].concat());
        let second = joined(vec![seat(1, 2, port)]).pop().expect("a rank");
        let first = first.join().expect("rank 0").expect("a rank");
        let ranks = [first.expect("rank 0 joined"), second.expect("rank 1 joined")];
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert_eq!(each(&ranks, |rank| rank.agree(rank.rank() as u64).expect("number")), [1, 1]);
        drop(silent);
    }

    #[test]
    fn a_stranger_takes_no_place() {
        let port = free_port();
        let mut stranger = seat(1, 2, port);
        stranger.secret = secret("another secret, as long");
        let first = std::thread::spawn(move || joined(vec![seat(0, 2, port)]).pop());
        let said = refused(vec![stranger]).remove(0);
        assert!(said.contains("does not know this job's secret") && said.contains("VILA_JOB_SECRET"), "{said}");
        // The place is free for the rank itself.
        assert!(joined(vec![seat(1, 2, port)]).remove(0).is_ok());
        assert!(first.join().expect("rank 0").expect("a rank").is_ok());
    }

    #[test]
    fn a_stranger_in_the_place_of_rank_0_is_told_nothing() {
        let listener = TcpListener::bind((LOCAL, 0)).expect("stranger");
        let port = listener.local_addr().expect("address").port();
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut heard = vec![0; 40];
            stream.read_exact(&mut heard).expect("nonce");
            stream.write_all(&[&b"vilaRNK2"[..], &[1; 32]].concat()).expect("nonce");
            let mut introduction = vec![0; 32];
            stream.read_exact(&mut introduction).expect("proof");
            // Not the proof of a rank.
            stream.write_all(&[3; 40]).expect("lie");
            heard.extend(introduction);
            heard
        });
        let rendezvous = Rendezvous::Address { host: LOCAL.into(), port, listen: None };
        let own = |port| Introduction { rank: 1, world: 2, job: job("/runs/a"), port };
        let deadline = Instant::now() + Duration::from_millis(500);
        let Err(error) = call_first(&rendezvous, &secret("correct horse battery"), own, deadline) else {
            panic!("a stranger became rank 0")
        };
        let heard = heard.join().expect("stranger");
        assert!(!heard.windows(7).any(|window| window == b"correct"), "the secret itself was sent");
        assert!(!error.to_string().is_empty());
    }

    #[test]
    fn ranks_of_two_jobs_refuse_each_other_with_both_names() {
        let port = free_port();
        let mut other = seat(1, 2, port);
        other.job = Job { recipe: "fedcba9876543210".into(), ..job("/runs/b") };
        let start = Instant::now();
        let said = refused(vec![seat(0, 2, port), other]);
        for text in &said {
            assert!(text.contains("/runs/a") && text.contains("/runs/b"), "{text}");
            assert!(text.contains("0123456789ab") && text.contains("fedcba987654"), "{text}");
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    #[test]
    fn another_number_of_ranks_is_said_at_once() {
        let port = free_port();
        let start = Instant::now();
        let said = refused(vec![seat(0, 2, port), seat(1, 3, port)]);
        assert!(said.iter().all(|text| text.contains("rank 1 expects 3 ranks, rank 0 expects 2")), "{said:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }

    #[test]
    fn listeners_are_at_the_address_that_ranks_need_alone() {
        let port = free_port();
        let point =
            MeetingPoint::open(&seat(0, 2, port).rendezvous, &secret("correct horse battery")).expect("listens");
        let address = point.listener.local_addr().expect("address");
        assert_eq!((address.ip().to_string().as_str(), address.port()), (LOCAL, port));
        let own = Introduction { rank: 0, world: 2, job: job("/runs/a"), port: 0 };
        let rank1 = seat(1, 2, port);
        std::thread::scope(|scope| {
            let called = scope.spawn(|| {
                let own = |port| Introduction { rank: 1, world: 2, job: job("/runs/a"), port };
                call_first(&rank1.rendezvous, &rank1.secret, own, Instant::now() + JOIN)
            });
            let secret = point.secret.clone();
            receive(point.listener, &own, &secret, Instant::now() + JOIN).expect("rank 1");
            let Ok(met) = called.join().expect("rank 1") else { panic!("not let in") };
            assert!(met.listener.local_addr().expect("address").ip().is_loopback());
        });
        let foreign = Rendezvous::Address { host: "192.0.2.1".into(), port, listen: None };
        let error = MeetingPoint::open(&foreign, &secret("correct horse battery")).err().expect("no such address");
        assert!(error.to_string().contains("no address of this machine"), "{error}");
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("vila-tcp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("scratch");
        dir
    }

    #[test]
    fn a_rendezvous_file_carries_a_secret_and_goes_again() {
        let dir = scratch("file");
        let path = dir.join("meeting");
        // As `mktemp` leaves it, or an earlier run.
        for before in [None, Some(""), Some("vila-rendezvous\n127.0.0.1:1\n0123456789abcdef0123\n")] {
            if let Some(text) = before {
                super::super::secret::create_private(&path, text).expect("file");
            }
            let seats = (0..2).map(|rank| Seat {
                rendezvous: Rendezvous::File { path: path.clone(), listen: Some(LOCAL.into()) },
                secret: SecretSource::Home(None),
                ..seat(rank, 2, 0)
            });
            let ranks: Vec<_> = joined(seats.collect()).into_iter().map(|rank| rank.expect("joined")).collect();
            assert_eq!(each(&ranks, |rank| rank.agree(5).expect("number")), [5, 5]);
            assert_eq!(std::fs::read_dir(&dir).expect("folder").count(), 0, "after {before:?}");
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_rendezvous_file_with_garbage_is_said_at_once_and_kept() {
        use std::os::unix::fs::PermissionsExt;

        let dir = scratch("garbage");
        let path = dir.join("notes");
        let (open, closed) = (0o644, 0o600);
        let foreign = "vila-rendezvous\n127.0.0.1:1\n0123456789abcdef0123\n";
        for (text, mode) in
            [("my notes\n", closed), ("\u{1b}[31m\n", closed), ("127.0.0.1:99999\n", closed), (foreign, open)]
        {
            std::fs::write(&path, text).expect("file");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("mode");
            for rank in [0, 1] {
                let rendezvous = Rendezvous::File { path: path.clone(), listen: Some(LOCAL.into()) };
                let start = Instant::now();
                let said = refused(vec![Seat { rendezvous, secret: SecretSource::Home(None), ..seat(rank, 2, 0) }]);
                assert!(said[0].contains("notes") && !said[0].contains('\u{1b}'), "{said:?}");
                assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            }
            assert_eq!(std::fs::read_to_string(&path).expect("kept"), text);
        }
        assert_eq!(std::fs::read_dir(&dir).expect("folder").count(), 1);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn ranks_in_different_calls_are_named() {
        let ranks = together(2);
        let errors = each(&ranks, |rank| {
            let cpu = CpuBackend::fast();
            rank.agree(0).expect("the same call");
            let x = filled(&cpu, 50_000, 1.0);
            let done = if rank.rank() == 0 { rank.all_reduce(&cpu, &x) } else { rank.tell_all(vec![1]).map(drop) };
            let error = done.expect_err("different calls");
            rank.leave(&error);
            error.to_string()
        });
        assert!(errors[0].contains("rank 1 is in its collective call 1 (tell-all)"), "{errors:?}");
        assert!(errors[1].contains("rank 0 is in its collective call 1 (all-reduce)"), "{errors:?}");
    }

    /// A connection whose other end says what a rank would not.
    fn lying_peer() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind((LOCAL, 0)).expect("listener");
        let liar = TcpStream::connect(listener.local_addr().expect("address")).expect("call");
        let (stream, _) = listener.accept().expect("accepted");
        (Tcp { rank: 0, peers: vec![None, Some(Peer::start(stream).expect("peer"))] }, liar)
    }

    #[test]
    fn a_message_longer_than_its_collective_expects_is_refused_before_it_is_read() {
        use crate::ranks::host::CallKind;

        let call = Call { kind: CallKind::TellAll, sequence: 0, step: 0 };
        let long = Head { call, len: 3 << 30 };
        let frames = [
            (Kind::Offer, "sends 3221225472 bytes to collective call 0 (tell-all), which takes 8"),
            (Kind::Whole, "more than was asked for"),
            (Kind::Body, "more than was asked for"),
        ];
        for (kind, problem) in frames {
            let (mut tcp, liar) = lying_peer();
            write_frame(&Mutex::new(liar.try_clone().expect("clone")), kind, &long.to_bytes(), &[]).expect("frame");
            let parts = vec![Message::default(); 2];
            let error = tcp.all_to_all(call, parts, &[Size::AtMost(8); 2]).expect_err("too long").to_string();
            assert!(error.contains(problem), "{kind:?}: {error}");
        }
    }

    #[test]
    fn text_from_the_wire_has_no_control_characters() {
        let (mut tcp, liar) = lying_peer();
        let lost = Lost { rank: 1, step: 3, reason: "\u{1b}]0;owned\u{7}\nfailed".into() };
        write_frame(&Mutex::new(liar), Kind::Leaving, &[], &lost.to_bytes()).expect("goodbye");
        let call = Call { kind: crate::ranks::host::CallKind::TellAll, sequence: 0, step: 0 };
        let error = tcp.all_to_all(call, vec![Message::default(); 2], &[Size::AtMost(8); 2]).expect_err("gone");
        let text = error.to_string();
        assert!(text.contains("failed") && !text.chars().any(char::is_control), "{text}");
    }
}
