//! How ranks find each other, and let in nobody else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use vila_files::OwnFolder;

use super::handshake::{CallError, Caller, Introduction, introduce};
use super::host::plain;
use super::secret::{Secret, SecretSource, create_private, read_private};
use crate::say::say;

/// How ranks find rank 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// It listens there.
    Address {
        /// Name or address of its machine.
        host: String,
        /// Its port.
        port: u16,
        /// Where it listens, if that is not `host`.
        listen: Option<String>,
    },
    /// It writes its address into a file that all ranks see.
    File {
        /// The file.
        path: PathBuf,
        /// Where it listens; at the address of its machine's name if left out.
        listen: Option<String>,
    },
}

impl std::fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rendezvous::Address { host, port, .. } => write!(f, "{host}:{port}"),
            Rendezvous::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// How long a rank waits for those of its own job once one of another has come in their place.
const GRACE: Duration = Duration::from_secs(10);
/// Connections at a time that have not said yet who they are; one more ends the oldest.
const MOST_PENDING: usize = 128;

/// Where rank 0 waits for the others.
pub(super) struct MeetingPoint {
    pub(super) listener: TcpListener,
    pub(super) secret: Secret,
    /// Keeps the file there that tells of it.
    pub(super) notice: Option<Notice>,
}

impl MeetingPoint {
    /// Listens at the address that the others will call, and at no other.
    pub(super) fn open(rendezvous: &Rendezvous, source: &SecretSource) -> Result<Self> {
        match rendezvous {
            Rendezvous::Address { host, port, listen } => {
                let listener = listen_at(listen.as_deref().unwrap_or(host), *port)?;
                let secret = source.read().map_err(Error::other)?;
                Ok(MeetingPoint { listener, secret, notice: None })
            }
            Rendezvous::File { path, listen } => {
                Notice::check_place(path)?;
                let name = || vila_files::read_to_string(Path::new("/proc/sys/kernel/hostname"), 1 << 10);
                let host = listen.clone().or_else(|| name().ok()).map(|name| name.trim().to_string());
                let listener = listen_at(host.as_deref().filter(|host| !host.is_empty()).unwrap_or("localhost"), 0)?;
                let (secret, own) = match source {
                    SecretSource::Home(_) => (Secret::random()?, true),
                    given => (given.read().map_err(Error::other)?, false),
                };
                let address = listener.local_addr()?;
                if address.ip().is_unspecified() {
                    let problem =
                        "beside VILA_RENDEZVOUS, VILA_LISTEN must be an address that the other ranks can call";
                    return Err(Error::new(ErrorKind::InvalidInput, problem));
                }
                let words = Words { address, secret: own.then(|| secret.clone()) };
                let notice = Some(Notice::post(path, &words)?);
                Ok(MeetingPoint { listener, secret, notice })
            }
        }
    }
}

fn listen_at(host: &str, port: u16) -> Result<TcpListener> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|error| unknown(host, &error))?.collect();
    TcpListener::bind(&addresses[..]).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Error::new(
            error.kind(),
            format!("port {port} of {host} is taken, perhaps by another job; give this one another MASTER_PORT or VILA_PORT"),
        ),
        ErrorKind::AddrNotAvailable => Error::new(
            error.kind(),
            format!("{host} is no address of this machine, where rank 0 runs; set MASTER_ADDR to one, or VILA_LISTEN to where it is to listen"),
        ),
        _ => Error::new(error.kind(), format!("listening at {host}, port {port}: {error}")),
    })
}

fn unknown(host: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("the address of `{}` is not known: {error}", plain(host)))
}

/// What a rendezvous file says.
struct Words {
    address: SocketAddr,
    /// The job's secret, unless ranks have it from elsewhere.
    secret: Option<Secret>,
}

/// First line of a rendezvous file.
const TITLE: &str = "vila-rendezvous";

impl Words {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let address = lines.next().filter(|title| *title == TITLE).and_then(|_| lines.next()?.parse().ok())?;
        let secret = lines.next().map(|line| Secret::new(line, TITLE)).transpose().ok()?;
        Some(Words { address, secret })
    }

    fn text(&self) -> String {
        let secret = self.secret.as_ref().map_or(String::new(), |secret| format!("{}\n", secret.text()));
        format!("{TITLE}\n{}\n{secret}", self.address)
    }
}

/// A rendezvous file of this process; it goes with it.
pub(super) struct Notice {
    path: PathBuf,
    text: String,
}

impl Notice {
    /// Only what an earlier run left may be replaced.
    fn check_place(path: &Path) -> Result<()> {
        let found = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let replaceable =
            found.is_file() && (found.len() == 0 || read_private(path).is_ok_and(|text| Words::parse(&text).is_some()));
        if replaceable { Ok(()) } else { Err(not_ours(path)) }
    }

    fn post(path: &Path, words: &Words) -> Result<Self> {
        let (folder, name) = (folder_of(path)?, path.file_name().ok_or_else(|| not_ours(path))?);
        let next = format!(".{}.{}", name.to_string_lossy(), std::process::id());
        let text = words.text();
        create_private(&folder.path().join(&next), &text).map_err(vila_files::explain)?;
        folder.replace(next, name)?;
        Ok(Notice { path: path.into(), text })
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Everybody has read it, or never will; a later run must not meet this one.
        if read_private(&self.path).is_ok_and(|text| text == self.text) {
            let name = self.path.file_name().unwrap_or_default();
            let _ = folder_of(&self.path).and_then(|folder| folder.remove_file(name));
        }
    }
}

fn folder_of(path: &Path) -> Result<OwnFolder> {
    OwnFolder::open(vila_files::parent_of(path))
}

fn not_ours(path: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!(
            "{} is not a rendezvous file that this user alone can read; let VILA_RENDEZVOUS name a file that is not there yet",
            path.display()
        ),
    )
}

/// A rank that rank 0 has let in.
pub(super) struct Met {
    /// Talks to rank 0.
    pub(super) first: TcpStream,
    /// Hears ranks above this one, who reach it as rank 0 does.
    pub(super) listener: TcpListener,
    pub(super) secret: Secret,
}

/// Calls rank 0 until it answers; `own` says who calls, with the port that it listens at.
pub(super) fn call_first(
    rendezvous: &Rendezvous,
    source: &SecretSource,
    own: impl Fn(u16) -> Introduction,
    deadline: Instant,
) -> std::result::Result<Met, CallError> {
    let given = match (rendezvous, source) {
        (Rendezvous::File { .. }, SecretSource::Home(_)) => None,
        _ => Some(source.read().map_err(|error| CallError::Refused(error.to_string()))?),
    };
    until(deadline, || {
        let (addresses, posted) = find_first(rendezvous)?;
        let secret =
            given.clone().or(posted).ok_or_else(|| CallError::Refused("the rendezvous file has no secret".into()))?;
        let mut first = connect(&addresses)?;
        let listener = TcpListener::bind((first.local_addr()?.ip(), 0))?;
        introduce(&mut first, &secret, &own(listener.local_addr()?.port()), deadline)?;
        Ok(Met { first, listener, secret })
    })
}

/// Addresses of rank 0, and the secret where it stands beside them.
fn find_first(rendezvous: &Rendezvous) -> std::result::Result<(Vec<SocketAddr>, Option<Secret>), CallError> {
    match rendezvous {
        Rendezvous::Address { host, port, .. } => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|error| unknown(host, &error))?;
            Ok((addresses.collect(), None))
        }
        Rendezvous::File { path, .. } => {
            let words = read_notice(path)?;
            Ok((vec![words.address], words.secret))
        }
    }
}

/// Calls a rank whose address is known.
pub(super) fn call(
    address: SocketAddr,
    secret: &Secret,
    own: &Introduction,
    deadline: Instant,
) -> std::result::Result<TcpStream, CallError> {
    until(deadline, || {
        let mut stream = connect(&[address])?;
        introduce(&mut stream, secret, own, deadline)?;
        Ok(stream)
    })
}

/// Tries again while it fails, but for refusals.
fn until<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> std::result::Result<T, CallError>,
) -> std::result::Result<T, CallError> {
    loop {
        match attempt() {
            Err(CallError::Failed(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

fn connect(addresses: &[SocketAddr]) -> Result<TcpStream> {
    let unreachable = Error::from(ErrorKind::AddrNotAvailable);
    let connect = |address: &SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(5));
    let stream = addresses.iter().map(connect).reduce(|first, next| first.or(next)).unwrap_or(Err(unreachable))?;
    // A port that nobody listens at may be given to the very call that is for it.
    if stream.local_addr()? == stream.peer_addr()? { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(stream) }
}

/// What a rendezvous file says. It may not be there yet; something else in its place will not become one.
fn read_notice(path: &Path) -> std::result::Result<Words, CallError> {
    let text = read_private(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => CallError::Failed(Error::new(error.kind(), format!("{} is not there", path.display()))),
        _ => CallError::Refused(format!("{}: {error}", path.display())),
    })?;
    match Words::parse(&text) {
        Some(words) => Ok(words),
        None if text.is_empty() => Err(CallError::Failed(Error::other(format!("{} is empty", path.display())))),
        None => Err(CallError::Refused(not_ours(path).to_string())),
    }
}

/// A rank that came, and where it listens itself.
pub(super) struct Arrival {
    pub(super) rank: usize,
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
}

/// Waits for all ranks above this one. Callers say who they are each on a thread of its own, so that none holds up another;
/// whoever is no rank of this job is dropped.
pub(super) fn receive(
    listener: TcpListener,
    own: &Introduction,
    secret: &Secret,
    deadline: Instant,
) -> Result<Vec<Arrival>> {
    let mut reception = Reception::open(listener, secret.clone())?;
    let mut came: BTreeMap<usize, Arrival> = BTreeMap::new();
    let (mut deadline, mut other_job) = (deadline, None);
    while own.rank + 1 + came.len() < own.world {
        if Instant::now() >= deadline {
            let missing = (own.rank + 1..own.world).filter(|rank| !came.contains_key(rank));
            return Err(Error::new(ErrorKind::TimedOut, reception.complaint(missing, other_job)));
        }
        let Some(caller) = reception.next() else { continue };
        let theirs = &caller.introduction;
        if let Some(reason) = own.refusal_of(theirs) {
            let same_job = theirs.job.is(&own.job);
            caller.refuse(secret, &reason);
            if same_job {
                return Err(Error::other(reason));
            }
            say(format_args!("{reason}; this rank waits for its own for another {} s", GRACE.as_secs()));
            deadline = deadline.min(Instant::now() + GRACE);
            other_job = Some(reason);
            continue;
        }
        let rank = theirs.rank;
        if rank <= own.rank || rank >= own.world || came.contains_key(&rank) {
            let reason = format!("two processes say that they are rank {rank}; the second is refused");
            say(&reason);
            caller.refuse(secret, &reason);
            continue;
        }
        let port = theirs.port;
        let seen = caller.stream.peer_addr();
        // A rank that is gone again may come again.
        if let (Ok(seen), Ok(stream)) = (seen, caller.welcome(secret)) {
            came.insert(rank, Arrival { rank, stream, address: SocketAddr::new(seen.ip(), port) });
        }
    }
    if let Some(strangers) = reception.strangers() {
        say(strangers);
    }
    Ok(came.into_values().collect())
}

/// What became of a connection.
type Heard = (u64, std::result::Result<Caller, String>);

/// Hears many callers at a time.
struct Reception {
    listener: TcpListener,
    secret: Arc<Secret>,
    /// Connections that have not said yet who they are, with their numbers, from the oldest.
    pending: VecDeque<(u64, TcpStream)>,
    accepted: u64,
    heard: Receiver<Heard>,
    tell: Sender<Heard>,
    strangers: usize,
    /// What was wrong with the last one.
    last: String,
}

impl Reception {
    fn open(listener: TcpListener, secret: Secret) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let (tell, heard) = channel();
        let (pending, secret) = (VecDeque::new(), Arc::new(secret));
        Ok(Reception { listener, secret, pending, accepted: 0, heard, tell, strangers: 0, last: String::new() })
    }

    /// The next caller who knows the secret; nothing if there was none for a moment.
    fn next(&mut self) -> Option<Caller> {
        // An error is of one connection (or of too many), never of the listener.
        for (stream, from) in std::iter::from_fn(|| self.listener.accept().ok()).take(MOST_PENDING).collect::<Vec<_>>()
        {
            self.hear(stream, from);
        }
        let (number, said) = self.heard.recv_timeout(Duration::from_millis(5)).ok()?;
        self.pending.retain(|(pending, _)| *pending != number);
        said.map_err(|problem| {
            self.strangers += 1;
            self.last = problem;
        })
        .ok()
    }

    fn hear(&mut self, stream: TcpStream, from: SocketAddr) {
        if self.pending.len() >= MOST_PENDING
            && let Some((_, oldest)) = self.pending.pop_front()
        {
            // Its thread reads the end.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let number = self.accepted;
        self.accepted += 1;
        let Ok(held) = stream.set_nonblocking(false).and_then(|()| stream.try_clone()) else { return };
        let (secret, tell) = (Arc::clone(&self.secret), self.tell.clone());
        let hear = move || {
            let caller = Caller::hear(stream, &secret).map_err(|error| format!("{}: {error}", from.ip()));
            // Nobody listens any more once all ranks are there.
            let _ = tell.send((number, caller));
        };
        if std::thread::Builder::new().spawn(hear).is_ok() {
            self.pending.push_back((number, held));
        }
    }

    /// How many came that are no ranks, if any did.
    fn strangers(&self) -> Option<String> {
        let count = self.strangers + self.pending.len();
        let last = if self.last.is_empty() { String::new() } else { format!(" (the last from {})", self.last) };
        (count > 0).then(|| format!("connections of no rank of this job, which were dropped: {count}{last}"))
    }

    fn complaint(&self, missing: impl Iterator<Item = usize>, other_job: Option<String>) -> String {
        let missing: Vec<String> = missing.map(|rank| rank.to_string()).collect();
        let more = if missing.len() > 8 { format!(" and {} more", missing.len() - 8) } else { String::new() };
        let mut text = format!("rank {}{more} did not come", missing[..missing.len().min(8)].join(", "));
        if let Ok(address) = self.listener.local_addr() {
            let reach = if address.ip().is_loopback() {
                ", which only this machine reaches (VILA_LISTEN gives another)"
            } else {
                ""
            };
            text += &format!(" to {address}{reach}");
        }
        text += &self.strangers().map_or(String::new(), |strangers| format!("; {strangers}"));
        other_job.map_or(text.clone(), |reason| format!("{reason}; {text}"))
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        // Their threads read the end.
        self.pending.iter().for_each(|(_, stream)| drop(stream.shutdown(Shutdown::Both)));
    }
}
