//! Ranks as processes that talk over TCP: every pair has one connection.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::host::{HEARTBEAT, Lost, Message, SILENCE, Transport};
use crate::{Error, Result};

/// How ranks find rank 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// It listens there.
    Address {
        /// Name or address of its machine.
        host: String,
        /// Its port.
        port: u16,
    },
    /// It writes its address into this file, which all ranks see.
    File(PathBuf),
}

impl std::fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rendezvous::Address { host, port } => write!(f, "{host}:{port}"),
            Rendezvous::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How long ranks wait for each other at the start.
const JOIN: Duration = Duration::from_secs(120);
const MAGIC: u64 = u64::from_le_bytes(*b"vilaRNK1");
/// Longest message, so that a foreign program cannot make us allocate without bound.
const LONGEST: u64 = 1 << 36;
/// The step number of a frame that only says that its sender lives,
const ALIVE: u64 = u64::MAX;
/// and of one that says who is lost: rank, step, and the reason as text.
const LEAVING: u64 = u64::MAX - 1;

/// One rank among processes.
pub struct Tcp {
    rank: usize,
    peers: Vec<Option<Peer>>,
}

/// A step and a message of it.
type Frame = std::io::Result<(u64, Vec<u8>)>;

struct Peer {
    stream: Arc<Mutex<TcpStream>>,
    frames: Receiver<Frame>,
    /// The next frame, if it was looked at before its time.
    ahead: Option<Frame>,
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
    /// [`Error::Ranks`] if they do not come within two minutes, or are of another run.
    pub fn join(rank: usize, world: usize, rendezvous: &Rendezvous) -> Result<Self> {
        let fail = |what: String| Error::Ranks(format!("rank {rank} of {world} at {rendezvous}: {what}"));
        let deadline = Instant::now() + JOIN;
        let streams = connect(rank, world, rendezvous, deadline).map_err(|error| {
            fail(format!(
                "{error}; every rank needs the same number of ranks and the same meeting point, reachable from its machine"
            ))
        })?;
        let peers = streams.into_iter().map(|stream| stream.map(Peer::start).transpose());
        let peers = peers.collect::<std::io::Result<_>>().map_err(|error| fail(error.to_string()))?;
        Ok(Tcp { rank, peers })
    }
}

impl Peer {
    fn start(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut incoming = stream.try_clone()?;
        let stream = Arc::new(Mutex::new(stream));
        let (frames, received) = channel();
        std::thread::spawn(move || read_frames(&mut incoming, &frames));
        let beating = Arc::downgrade(&stream);
        std::thread::spawn(move || {
            while let Some(stream) = beating.upgrade() {
                if write_frame(&mut lock(&stream), ALIVE, &[]).is_err() {
                    return;
                }
                drop(stream);
                std::thread::sleep(HEARTBEAT);
            }
        });
        Ok(Peer { stream, frames: received, ahead: None, last_step: 0 })
    }

    /// The next frame, waited for.
    fn take(&mut self) -> Frame {
        let aborted = |_| Err(std::io::ErrorKind::ConnectionAborted.into());
        self.ahead.take().unwrap_or_else(|| self.frames.recv().unwrap_or_else(aborted))
    }

    /// The next frame, if it is there already; it stays the next.
    fn look(&mut self) -> Option<&Frame> {
        if self.ahead.is_none() {
            self.ahead = match self.frames.try_recv() {
                Ok(frame) => Some(frame),
                Err(TryRecvError::Disconnected) => Some(Err(std::io::ErrorKind::ConnectionAborted.into())),
                Err(TryRecvError::Empty) => None,
            };
        }
        self.ahead.as_ref()
    }
}

fn read_frames(stream: &mut TcpStream, frames: &Sender<Frame>) {
    loop {
        let frame = read_frame(stream);
        if matches!(frame, Ok((ALIVE, _))) {
            continue;
        }
        let ended = frame.is_err();
        if frames.send(frame).is_err() || ended {
            return;
        }
    }
}

fn write_frame(stream: &mut TcpStream, step: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&step.to_le_bytes());
    head[8..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

fn read_u64(stream: &mut TcpStream) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_frame(stream: &mut TcpStream) -> Frame {
    let (step, len) = (read_u64(stream)?, read_u64(stream)?);
    if len > LONGEST {
        return Err(std::io::Error::other(format!("a message of {len} bytes")));
    }
    let mut bytes = Vec::new();
    Read::take(stream, len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok((step, bytes)) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

impl Transport for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.peers.len()
    }

    fn all_to_all(&mut self, step: u64, parts: Vec<Message>) -> Result<Vec<Message>> {
        let sent: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
            let sending = self.peers.iter().zip(&parts).map(|(peer, part)| {
                let stream = peer.as_ref().map(|peer| Arc::clone(&peer.stream));
                scope.spawn(move || stream.map_or(Ok(()), |stream| write_frame(&mut lock(&stream), step, part)))
            });
            let sending: Vec<_> = sending.collect();
            sending.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
        });
        let mut received = Vec::with_capacity(parts.len());
        for (rank, (peer, (mine, sent))) in self.peers.iter_mut().zip(parts.into_iter().zip(sent)).enumerate() {
            let Some(peer) = peer else {
                received.push(mine);
                continue;
            };
            let frame = peer.take();
            // A goodbye that came says more than a message that could not be sent.
            let said = frame.and_then(|frame| if frame.0 == LEAVING { Ok(frame) } else { sent.map(|()| frame) });
            let (step, bytes) = said.map_err(|error| Lost { rank, step: peer.last_step, reason: reason(&error) })?;
            if step == LEAVING {
                return Err(Lost::from_bytes(&bytes).into());
            }
            peer.last_step = step;
            received.push(Arc::new(bytes));
        }
        Ok(received)
    }

    fn leave(&mut self, lost: &Lost) {
        let bytes = lost.to_bytes();
        for peer in self.peers.iter().flatten() {
            // Whoever is gone needs no goodbye.
            let _ = write_frame(&mut lock(&peer.stream), LEAVING, &bytes);
        }
    }

    fn idle(&mut self) -> std::result::Result<(), Lost> {
        for (rank, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            let step = peer.last_step;
            match peer.look() {
                Some(Err(error)) => return Err(Lost { rank, step, reason: reason(error) }),
                Some(Ok((LEAVING, bytes))) => return Err(Lost::from_bytes(bytes)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => format!("no word from it for {} s", SILENCE.as_secs()),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => "its process closed the connection".into(),
        _ => error.to_string(),
    }
}

/// One stream for every other rank. Rank 0 listens at the meeting point and tells everybody everybody's address; then each
/// rank calls all those between 0 and itself.
fn connect(
    rank: usize,
    world: usize,
    rendezvous: &Rendezvous,
    deadline: Instant,
) -> std::io::Result<Vec<Option<TcpStream>>> {
    let mut streams: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
    if rank == 0 {
        let listener = meet(rendezvous)?;
        let mut addresses = vec![String::new(); world];
        while streams.iter().flatten().count() + 1 < world {
            let (mut stream, from) = accept(&listener, deadline)?;
            let Some(peer) = greet(&mut stream, world, &streams)? else { continue };
            let port = read_u64(&mut stream)?;
            addresses[peer] = SocketAddr::new(from.ip(), u16::try_from(port).unwrap_or(0)).to_string();
            streams[peer] = Some(stream);
        }
        for stream in streams.iter_mut().flatten() {
            write_frame(stream, 0, addresses.join(" ").as_bytes())?;
        }
        if let Rendezvous::File(path) = rendezvous {
            // Everybody has read it; a later run must not meet this one.
            let _ = std::fs::remove_file(path);
        }
        return Ok(streams);
    }
    let mut first = call(|| meeting_point(rendezvous), deadline)?;
    let listener = TcpListener::bind((IpAddr::from([0, 0, 0, 0]), 0))?;
    introduce(&mut first, rank, world)?;
    first.write_all(&u64::from(listener.local_addr()?.port()).to_le_bytes())?;
    first.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1))))?;
    let (_, addresses) = read_frame(&mut first)?;
    let addresses = String::from_utf8_lossy(&addresses).into_owned();
    let addresses: Vec<&str> = addresses.split(' ').collect();
    streams[0] = Some(first);
    for (peer, slot) in streams.iter_mut().enumerate().take(rank).skip(1) {
        let address = addresses.get(peer).copied().unwrap_or_default();
        let mut stream = call(|| address.to_socket_addrs().map(Iterator::collect), deadline)?;
        introduce(&mut stream, rank, world)?;
        *slot = Some(stream);
    }
    while streams.iter().flatten().count() + 1 < world {
        let (mut stream, _) = accept(&listener, deadline)?;
        if let Some(peer) = greet(&mut stream, world, &streams)? {
            streams[peer] = Some(stream);
        }
    }
    Ok(streams)
}

fn introduce(stream: &mut TcpStream, rank: usize, world: usize) -> std::io::Result<()> {
    [MAGIC, world as u64, rank as u64].iter().try_for_each(|word| stream.write_all(&word.to_le_bytes()))
}

/// The rank of a caller, who must be of this run and new; nothing if another program called.
fn greet(stream: &mut TcpStream, world: usize, known: &[Option<TcpStream>]) -> std::io::Result<Option<usize>> {
    stream.set_read_timeout(Some(HEARTBEAT))?;
    if read_u64(stream).unwrap_or_default() != MAGIC {
        return Ok(None);
    }
    let (theirs, rank) = (read_u64(stream)?, read_u64(stream)? as usize);
    if theirs != world as u64 {
        return Err(std::io::Error::other(format!("rank {rank} expects {theirs} ranks")));
    }
    match known.get(rank) {
        Some(None) if rank > 0 => Ok(Some(rank)),
        _ => Err(std::io::Error::other(format!("two processes say that they are rank {rank}"))),
    }
}

fn meet(rendezvous: &Rendezvous) -> std::io::Result<TcpListener> {
    let any = IpAddr::from([0, 0, 0, 0]);
    match rendezvous {
        Rendezvous::Address { port, .. } => TcpListener::bind((any, *port)),
        Rendezvous::File(path) => {
            let listener = TcpListener::bind((any, 0))?;
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
            let next = path.with_extension("next");
            std::fs::write(&next, format!("{host}:{}", listener.local_addr()?.port()))?;
            std::fs::rename(&next, path)?;
            Ok(listener)
        }
    }
}

fn meeting_point(rendezvous: &Rendezvous) -> std::io::Result<Vec<SocketAddr>> {
    match rendezvous {
        Rendezvous::Address { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
        Rendezvous::File(path) => Ok(std::fs::read_to_string(path)?.trim().to_socket_addrs()?.collect()),
    }
}

/// Connects to the first address that answers, until the deadline.
fn call(addresses: impl Fn() -> std::io::Result<Vec<SocketAddr>>, deadline: Instant) -> std::io::Result<TcpStream> {
    loop {
        let tried = addresses().and_then(|addresses| {
            let refused = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
            let connect = |address: &SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(5));
            addresses.iter().map(connect).reduce(|first, next| first.or(next)).unwrap_or(Err(refused))
        });
        match tried {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            connected => return connected,
        }
    }
}

fn accept(listener: &TcpListener, deadline: Instant) -> std::io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                return Ok((stream, from));
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "not all ranks came within two minutes"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
