//! How two ranks convince each other, over a new connection, that they are of one job.
//!
//! Each side sends a nonce, and each proves that it knows the job's secret by an HMAC over both nonces and what it says of
//! itself. Nothing that a stranger sends is longer than [`LONGEST`], waits for longer than [`PATIENCE`], or ends a run.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::host::plain;
use super::secret::{NONCE, PROOF, Secret, nonce};

const MAGIC: [u8; 8] = *b"vilaRNK2";
/// Most bytes that a rank says of itself.
const LONGEST: usize = 16 << 10;
/// How long a caller may take to say who it is.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a job is known by: two jobs that meet at one address must not take each other's ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What its launcher calls it.
    pub launch: String,
    /// Its folder.
    pub out: String,
    /// Hash of its recipe; ranks of one job whose recipes differ are told which key does.
    pub recipe: String,
}

impl Job {
    pub(super) fn is(&self, other: &Job) -> bool {
        (&self.launch, &self.out) == (&other.launch, &other.out)
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hash: String = self.recipe.chars().take(12).collect();
        write!(f, "the job `{}` (folder {}, recipe {})", plain(&self.launch), plain(&self.out), plain(&hash))
    }
}

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) job: Job,
    /// Where it listens to ranks above it.
    pub(super) port: u16,
}

impl Introduction {
    /// Why a caller is not the rank that it says it is, if it is not.
    pub(super) fn refusal_of(&self, caller: &Introduction) -> Option<String> {
        let (own, other) = (self, caller);
        if !own.job.is(&other.job) {
            return Some(format!(
                "rank {} of {} called rank {} of {}: every job needs a port of its own, and all ranks of one the same folder",
                other.rank, other.job, own.rank, own.job
            ));
        }
        (own.world != other.world).then(|| {
            format!("rank {} expects {} ranks, rank {} expects {}", other.rank, other.world, own.rank, own.world)
        })
    }
}

/// What a rank answers to a caller who knows the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Welcome,
    Refused(String),
}

/// A caller who knows the secret, and waits for an answer.
pub(super) struct Caller {
    pub(super) stream: TcpStream,
    pub(super) introduction: Introduction,
    nonces: [[u8; NONCE]; 2],
}

impl Caller {
    /// Hears who calls.
    ///
    /// # Errors
    /// The caller is no rank: it is silent, talks in another way, or does not know the secret.
    pub(super) fn hear(mut stream: TcpStream, secret: &Secret) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        stream.set_write_timeout(Some(PATIENCE))?;
        let theirs = read_nonce(&mut stream, deadline)?;
        let own = nonce()?;
        stream.write_all(&[&MAGIC[..], &own].concat())?;
        let nonces = [theirs, own];
        let Some(introduction) = read_proven(&mut stream, secret, b"caller", &nonces, deadline)? else {
            // Tells a rank with another secret that waiting is of no use.
            let _ = stream.write_all(&[0; PROOF + 8]);
            return Err(Error::new(ErrorKind::PermissionDenied, "does not know the job's secret"));
        };
        Ok(Caller { stream, introduction, nonces })
    }

    /// Takes the caller as a rank.
    pub(super) fn welcome(mut self, secret: &Secret) -> Result<TcpStream> {
        write_proven(&mut self.stream, secret, b"listener", &self.nonces, &Answer::Welcome)?;
        Ok(self.stream)
    }

    /// Tells the caller why it is not wanted.
    pub(super) fn refuse(mut self, secret: &Secret, reason: &str) {
        let answer = Answer::Refused(reason.into());
        // Whoever is gone already needs no reason.
        let _ = write_proven(&mut self.stream, secret, b"listener", &self.nonces, &answer);
    }
}

/// Why a call led to no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The rank may not be there yet, or something else is in its place.
    #[error(transparent)]
    Failed(#[from] Error),
    /// A rank answered, and will not let this one in.
    #[error("{0}")]
    Refused(String),
}

/// Introduces this rank to the one that listens at the other end.
pub(super) fn introduce(
    stream: &mut TcpStream,
    secret: &Secret,
    own: &Introduction,
    deadline: Instant,
) -> std::result::Result<(), CallError> {
    let first = nonce()?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[&MAGIC[..], &first].concat())?;
    let second = read_nonce(stream, deadline.min(Instant::now() + PATIENCE))?;
    let nonces = [first, second];
    write_proven(stream, secret, b"caller", &nonces, own)?;
    // Not before the listener has taken it is this rank known, so another try would be a second one.
    match read_proven(stream, secret, b"listener", &nonces, deadline)? {
        Some(Answer::Welcome) => Ok(()),
        Some(Answer::Refused(reason)) => Err(CallError::Refused(plain(&reason))),
        None => Err(CallError::Refused(format!(
            "the program that listens there does not know this job's secret; every rank needs the same one: {}",
            super::secret::CURE
        ))),
    }
}

fn read_nonce(stream: &mut TcpStream, deadline: Instant) -> Result<[u8; NONCE]> {
    let mut magic = [0; MAGIC.len()];
    read_until(stream, &mut magic, deadline)?;
    if magic != MAGIC {
        return Err(Error::new(ErrorKind::InvalidData, "is no rank of this version of vila"));
    }
    let mut nonce = [0; NONCE];
    read_until(stream, &mut nonce, deadline)?;
    Ok(nonce)
}

fn write_proven(
    stream: &mut TcpStream,
    secret: &Secret,
    role: &[u8],
    nonces: &[[u8; NONCE]; 2],
    value: &impl Serialize,
) -> Result<()> {
    let bytes = serde_json::to_vec(value)?;
    if bytes.len() > LONGEST {
        return Err(Error::new(ErrorKind::InvalidInput, "the names of job and folder are too long"));
    }
    let proof = secret.proof(&[role, &nonces[0], &nonces[1], &bytes]);
    stream.write_all(&[&proof[..], &(bytes.len() as u64).to_le_bytes(), &bytes].concat())
}

/// Nothing if the other side does not know the secret.
fn read_proven<T: DeserializeOwned>(
    stream: &mut TcpStream,
    secret: &Secret,
    role: &[u8],
    nonces: &[[u8; NONCE]; 2],
    deadline: Instant,
) -> Result<Option<T>> {
    let (mut proof, mut len) = ([0; PROOF], [0; 8]);
    read_until(stream, &mut proof, deadline)?;
    read_until(stream, &mut len, deadline)?;
    let len = u64::from_le_bytes(len);
    if len > LONGEST as u64 {
        return Err(Error::new(ErrorKind::InvalidData, "is no rank of this version of vila"));
    }
    let mut bytes = vec![0; len as usize];
    read_until(stream, &mut bytes, deadline)?;
    if !secret.proves(&[role, &nonces[0], &nonces[1], &bytes], &proof) {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Fills `bytes` before the deadline, however slowly they come.
fn read_until(stream: &mut TcpStream, bytes: &mut [u8], deadline: Instant) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
