//! Files mapped read-only. One that is cut, or whose disk fails, while it is in use ends the process with the file's name in
//! place of a bare `SIGBUS`.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Deref;
use std::path::Path;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use memmap2::{Mmap, MmapMut};

use crate::{explain, open, printable};

/// Files of at most this many bytes are copied: nobody can cut them any more.
const COPIED: u64 = 1 << 20;

/// The bytes of a file: mapped, or copied if it is small.
#[derive(Debug)]
pub struct Map {
    /// Dropped first: the addresses may belong to somebody else as soon as they are unmapped.
    _watch: Option<Watch>,
    bytes: Option<Mmap>,
}

/// Maps a regular file at the length that it has now.
///
/// # Errors
/// Those of [`open`]; the file is cut meanwhile, or there is no address space left.
pub fn map(path: &Path) -> io::Result<Map> {
    let file = open(path)?;
    let length = file.metadata().map_err(explain)?.len();
    match length {
        // Nothing cannot be mapped.
        0 => Ok(Map { _watch: None, bytes: None }),
        1..=COPIED => Ok(Map { _watch: None, bytes: Some(copy(file, length as usize)?) }),
        _ => {
            // SAFETY: the map is read-only. What is written to the file meanwhile shows up as other values of plain bytes,
            // which readers check or compute with; what is cut off it is answered by the handler of SIGBUS.
            let bytes = unsafe { Mmap::map(&file) }.map_err(explain)?;
            Ok(Map { _watch: Watch::over(&bytes, path), bytes: Some(bytes) })
        }
    }
}

/// As much memory as a file needs, aligned as a map is, with the file's bytes.
fn copy(mut file: File, length: usize) -> io::Result<Mmap> {
    let mut bytes = MmapMut::map_anon(length)?;
    file.read_exact(&mut bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => io::Error::new(ErrorKind::UnexpectedEof, "was cut while it was read"),
        _ => explain(error),
    })?;
    bytes.make_read_only()
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A mapped range and what to say when it fails. It is never freed: the handler may look at it at any time.
#[derive(Debug)]
struct Range {
    start: usize,
    end: usize,
    message: String,
}

/// The ranges that are mapped now. More than these are mapped all the same, without a message of their own.
static RANGES: [AtomicPtr<Range>; 4096] = [const { AtomicPtr::new(ptr::null_mut()) }; 4096];

/// A place in [`RANGES`], taken until it is dropped.
#[derive(Debug)]
struct Watch(&'static AtomicPtr<Range>);

impl Watch {
    fn over(bytes: &[u8], path: &Path) -> Option<Self> {
        handle_sigbus();
        let start = bytes.as_ptr() as usize;
        let path = path.display().to_string();
        let message = format!("error: {} was cut, or its disk failed, while it was in use\n", printable(&path));
        let range = Box::into_raw(Box::new(Range { start, end: start + bytes.len(), message }));
        let take = |place: &&AtomicPtr<Range>| {
            place.compare_exchange(ptr::null_mut(), range, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        RANGES.iter().find(take).map(Watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Installs the handler, once.
fn handle_sigbus() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`; the handler has the type that SA_SIGINFO asks for and calls only
        // functions that may be called from a handler. On failure the signal keeps its old effect.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    });
}

/// Ends the process with the message of the range that the address lies in; any other address has the signal's own effect.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, whose address is set for SIGBUS. Ranges are never freed. `write`,
    // `_exit` and `sigaction` are async-signal-safe, and nothing here allocates or locks.
    unsafe {
        let address = (*info).si_addr() as usize;
        for place in &RANGES {
            let Some(range) = place.load(Ordering::Acquire).as_ref() else { continue };
            if (range.start..range.end).contains(&address) {
                libc::write(libc::STDERR_FILENO, range.message.as_ptr().cast(), range.message.len());
                libc::_exit(1);
            }
        }
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGBUS, &default, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "VILA_FILES_TEST_CUT";

    #[test]
    fn small_and_empty_files_are_copied() {
        let path = std::env::temp_dir().join(format!("vila-files-small-{}", std::process::id()));
        std::fs::write(&path, b"abc").expect("write");
        let small = map(&path).expect("map");
        std::fs::write(&path, b"").expect("write");
        assert_eq!((&*small, map(&path).expect("map").len()), (&b"abc"[..], 0));
        std::fs::remove_file(&path).expect("remove");
    }

    /// Not a test of its own: with [`CHILD`] set, this process reads a map whose file it has cut.
    #[test]
    fn reads_a_cut_map() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let path = Path::new(&path);
        std::fs::write(path, vec![7; 4 << 20]).expect("write");
        let other = map(Path::new("/proc/self/exe"));
        let bytes = map(path).expect("map");
        File::options().write(true).open(path).and_then(|file| file.set_len(4096)).expect("cut");
        println!("{}", bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        drop(other);
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_mapped_is_named() {
        let path = std::env::temp_dir().join(format!("vila-files-cut\u{1b}-{}", std::process::id()));
        let child = Command::new(std::env::current_exe().expect("test binary"))
            .args(["map::tests::reads_a_cut_map", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .output()
            .expect("child");
        std::fs::remove_file(&path).expect("remove");
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.code(), Some(1), "{said}");
        assert!(said.contains("vila-files-cut\\u{1b}-") && said.contains("was cut, or its disk failed"), "{said}");
    }
}
