//! Bytes of a text file as UTF-8, in whichever of the usual forms it is stored, and the hash of what was read.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

/// Bytes read at once.
const BUFFER: usize = 1 << 18;
/// As many bytes as the longest mark at the beginning of a file has.
const MARK: usize = 6;

/// Length and hash of the bytes of a file so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    pub(super) hash: Sha256,
}

struct Tallied<R> {
    inner: R,
    tally: Rc<RefCell<Tally>>,
}

impl<R: Read> Read for Tallied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut tally = self.tally.borrow_mut();
        tally.hash.update(&buffer[..count]);
        tally.bytes += count as u64;
        Ok(count)
    }
}

/// A tally that a reader and whoever asks for it share.
pub(super) type SharedTally = Rc<RefCell<Tally>>;

/// Opens a file, a pipe among them: a person may give one in place of a file.
pub(super) fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, SharedTally)> {
    let file = File::open(path).map_err(vila_files::explain)?;
    if file.metadata().map_err(vila_files::explain)?.is_dir() {
        return Err(vila_files::explain(ErrorKind::IsADirectory.into()));
    }
    let tally = Rc::new(RefCell::new(Tally::default()));
    let text = decoded(Tallied { inner: file, tally: Rc::clone(&tally) })?;
    Ok((text, tally))
}

/// What is inside compression and encoding, without a byte order mark.
pub(super) fn decoded(raw: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let (mark, raw) = peek(raw)?;
    if mark.starts_with(&[0x1F, 0x8B]) {
        let unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, raw));
        let (mark, unpacked) = peek(unpacked)?;
        return utf8(&mark, unpacked);
    }
    utf8(&mark, raw)
}

/// The first bytes of a stream, and the whole of it.
fn peek<R: Read>(mut stream: R) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut mark = Vec::with_capacity(MARK);
    (&mut stream).take(MARK as u64).read_to_end(&mut mark)?;
    Ok((mark.clone(), Cursor::new(mark).chain(stream)))
}

fn utf8(mark: &[u8], mut bytes: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    if let Some((_, form)) = FOREIGN.iter().find(|(magic, _)| mark.starts_with(magic)) {
        return Err(io::Error::new(ErrorKind::InvalidData, *form));
    }
    let bare = |first: u8, second: u8| matches!((first, second), (b'{' | b'[', 0));
    let (skipped, big) = match *mark {
        [0xEF, 0xBB, 0xBF, ..] => (3, None),
        [0xFF, 0xFE, ..] => (2, Some(false)),
        [0xFE, 0xFF, ..] => (2, Some(true)),
        // JSON begins with one of these, and UTF-16 often has no mark.
        [first, second, ..] if bare(first, second) => (0, Some(false)),
        [first, second, ..] if bare(second, first) => (0, Some(true)),
        _ => (0, None),
    };
    io::copy(&mut (&mut bytes).take(skipped), &mut io::sink())?;
    Ok(match big {
        None => Box::new(BufReader::with_capacity(BUFFER, bytes)),
        Some(big) => Box::new(BufReader::with_capacity(BUFFER, Utf16::new(bytes, big))),
    })
}

/// How files of other kinds begin, and what to do with them.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\xFF\xFE\0\0", "is UTF-32 text; save it as UTF-8"),
    (b"\0\0\xFE\xFF", "is UTF-32 text; save it as UTF-8"),
    (b"PK\x03\x04", "is a zip archive; unpack it and name a file that was in it"),
    (b"\x28\xB5\x2F\xFD", "is compressed with zstd; unpack it with `zstd -d`"),
    (b"BZh", "is compressed with bzip2; unpack it with `bunzip2`"),
    (b"\xFD7zXZ\0", "is compressed with xz; unpack it with `unxz`"),
    (b"PAR1", "is a Parquet file; write its rows as JSON lines (scripts/corpora.py does it for the corpora it knows)"),
    (b"\x89HDF", "is an HDF5 file; write its records as JSON lines"),
];

/// UTF-16 as UTF-8; half a surrogate becomes U+FFFD.
struct Utf16<R> {
    inner: R,
    big: bool,
    /// Bytes that wait for the rest of their character.
    rest: Vec<u8>,
    out: Cursor<Vec<u8>>,
}

impl<R: Read> Utf16<R> {
    fn new(inner: R, big: bool) -> Self {
        Utf16 { inner, big, rest: Vec::new(), out: Cursor::default() }
    }

    /// Decodes the next bytes; false at the end.
    fn refill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1 << 13];
        let count = self.inner.read(&mut chunk)?;
        if count == 0 && self.rest.is_empty() {
            return Ok(false);
        }
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(&chunk[..count]);
        let pairs = bytes.chunks_exact(2);
        let odd = pairs.remainder().to_vec();
        let unit = |pair: &[u8]| if self.big { [pair[0], pair[1]] } else { [pair[1], pair[0]] };
        let mut units: Vec<u16> = pairs.map(|pair| u16::from_be_bytes(unit(pair))).collect();
        if count > 0 {
            // The other half of a pair may come with the next bytes.
            if units.last().is_some_and(|unit| (0xD800..0xDC00).contains(unit)) {
                units.pop();
                self.rest = bytes[units.len() * 2..units.len() * 2 + 2].to_vec();
            }
            self.rest.extend(odd);
        } else if !odd.is_empty() {
            units.push(char::REPLACEMENT_CHARACTER as u16);
        }
        let text: String = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        self.out = Cursor::new(text.into_bytes());
        Ok(true)
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.out.read(buffer)?;
            if count > 0 || buffer.is_empty() || !self.refill()? {
                return Ok(count);
            }
        }
    }
}
