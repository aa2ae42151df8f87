//! The secret by which the ranks of a job know each other.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes of what proves that a rank knows the secret.
pub(super) const PROOF: usize = 32;
/// Bytes that are new for every connection.
pub(super) const NONCE: usize = 32;
/// Fewest characters of a secret.
const SHORTEST: usize = 16;
/// Most bytes of a file with a secret.
const MOST: u64 = 4096;
/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// What all ranks of a job know and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A secret of at least 16 characters; blanks around them do not count.
    ///
    /// # Errors
    /// It is shorter; `place` says where it stands.
    pub fn new(text: &str, place: &str) -> Result<Self> {
        let text = text.trim();
        let count = text.chars().count();
        if count < SHORTEST {
            return Err(Error::Ranks(format!(
                "{place} has {count} characters; a job's secret needs {SHORTEST} or more"
            )));
        }
        Ok(Secret(text.into()))
    }

    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        Ok(Secret(crate::data::tokens::hex(&nonce()?)))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// HMAC-SHA256 of the parts, each with its length before it.
    pub(super) fn proof(&self, parts: &[&[u8]]) -> [u8; PROOF] {
        let framed = parts.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes()[..], part].concat());
        hmac(self.0.as_bytes(), &framed.collect::<Vec<u8>>())
    }

    /// Whether `proof` is that of the parts, in a time that says nothing about where they differ.
    pub(super) fn proves(&self, parts: &[&[u8]], proof: &[u8; PROOF]) -> bool {
        self.proof(parts).iter().zip(proof).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; PROOF] {
    let mut block = [0; BLOCK];
    let key = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block[..key.len()].copy_from_slice(&key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

pub(super) fn nonce() -> std::io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Where a job's secret stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In `VILA_JOB_SECRET`.
    Variable(Secret),
    /// In the file that `VILA_JOB_SECRET_FILE` names.
    File(PathBuf),
    /// In a file in the user's home, made when it is first needed; nothing if there is no home.
    Home(Option<PathBuf>),
}

impl SecretSource {
    /// What the environment says.
    ///
    /// # Errors
    /// The secret is too short.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(text) = set("VILA_JOB_SECRET") {
            return Ok(SecretSource::Variable(Secret::new(&text, "VILA_JOB_SECRET")?));
        }
        if let Some(path) = set("VILA_JOB_SECRET_FILE") {
            return Ok(SecretSource::File(path.into()));
        }
        let settings = set("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || set("HOME").map(|home| Path::new(&home).join(".config"));
        Ok(SecretSource::Home(settings.or_else(home).map(|dir| dir.join("vila").join("job-secret"))))
    }

    /// The secret itself.
    ///
    /// # Errors
    /// Its file is missing, too short, or open to other users.
    pub fn read(&self) -> Result<Secret> {
        match self {
            SecretSource::Variable(secret) => Ok(secret.clone()),
            SecretSource::File(path) => {
                let text = read_private(path).map_err(|problem| named("VILA_JOB_SECRET_FILE", path, problem))?;
                Secret::new(&text, &path.display().to_string())
            }
            SecretSource::Home(Some(path)) => {
                let text =
                    read_or_make(path).map_err(|problem| named("the secret of this user's jobs", path, problem))?;
                Secret::new(&text, &path.display().to_string())
            }
            SecretSource::Home(None) => Err(Error::Ranks(format!(
                "this user has no home folder that could keep the secret by which ranks know each other; {CURE}"
            ))),
        }
    }
}

/// What to do without a secret.
pub(super) const CURE: &str = "set VILA_JOB_SECRET to the same 16 or more random characters for every rank, or VILA_JOB_SECRET_FILE to a file with them";

fn named(what: &str, path: &Path, problem: std::io::Error) -> Error {
    Error::Ranks(format!("{what} ({}): {problem}; {CURE}", path.display()))
}

/// The text of a small file that this user alone can read or change.
pub(super) fn read_private(path: &Path) -> std::io::Result<String> {
    let file = vila_files::open(path)?;
    let found = file.metadata()?;
    // Whoever owns this process owns its folder in /proc, too.
    let user = std::fs::metadata("/proc/self").map_or(found.uid(), |own| own.uid());
    if found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(std::io::Error::new(
            ErrorKind::PermissionDenied,
            format!("other users can read or change it (mode {:o}); `chmod 600` it", found.mode() & 0o777),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    // Bytes that are no text are no secret and no address either.
    match bytes.len() as u64 <= MOST {
        true => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        false => Err(std::io::Error::new(ErrorKind::InvalidData, format!("is longer than {MOST} bytes"))),
    }
}

/// Creates a file that this user alone can read.
pub(super) fn create_private(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// The text of the file at `path`, which gets a new secret if it is not there.
fn read_or_make(path: &Path) -> std::io::Result<String> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match create_private(path, &format!("{}\n", Secret::random()?.text())) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Another rank may have made it, and not have written it yet.
    for _ in 0..100 {
        let text = read_private(path)?;
        if !text.is_empty() {
            return Ok(text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(std::io::Error::new(ErrorKind::InvalidData, "is empty; remove it, and the next run makes a new one"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("vila-secret-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("scratch");
        dir
    }

    /// RFC 4231, cases 2 and 6.
    #[test]
    fn proofs_are_those_of_the_standard() {
        let hex = |bytes: [u8; PROOF]| crate::data::tokens::hex(&bytes);
        let short = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex(short), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(long), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
        let secret = Secret::new("0123456789abcdef", "test").expect("long enough");
        let proof = secret.proof(&[b"ab", b"c"]);
        assert!(secret.proves(&[b"ab", b"c"], &proof) && !secret.proves(&[b"a", b"bc"], &proof));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn secret_is_found_in_variable_file_or_home() {
        let dir = scratch("found");
        let with = |set: &[(&str, &str)]| {
            SecretSource::of(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        let given = with(&[("VILA_JOB_SECRET", " 0123456789abcdef\n")]).and_then(|source| source.read());
        assert_eq!(given.expect("given").text(), "0123456789abcdef");
        let short = with(&[("VILA_JOB_SECRET", "hunter2")]).expect_err("short").to_string();
        assert!(short.contains("7 characters") && !short.contains("hunter2"), "{short}");

        let home = dir.to_str().expect("UTF-8");
        let own = with(&[("HOME", home)]).expect("home");
        let made = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..8).map(|_| scope.spawn(|| own.read().expect("made"))).collect();
            ranks.into_iter().map(|rank| rank.join().expect("rank")).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|secret| *secret == made[0]) && made[0].text().len() == 64);
        let file = dir.join(".config/vila/job-secret");
        assert_eq!(std::fs::metadata(&file).expect("file").mode() & 0o777, 0o600);

        let named = with(&[("VILA_JOB_SECRET_FILE", file.to_str().expect("UTF-8"))]).expect("named");
        assert_eq!(named.read().expect("the same"), made[0]);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("mode");
        let open = named.read().expect_err("open to others").to_string();
        assert!(open.contains("chmod 600") && open.contains("VILA_JOB_SECRET"), "{open}");
        let none = with(&[]).and_then(|source| source.read()).expect_err("no home").to_string();
        assert!(none.contains("VILA_JOB_SECRET"), "{none}");
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
