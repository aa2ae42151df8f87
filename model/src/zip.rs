//! Zip archives as `torch.save` writes them: entries are stored, not compressed, so that each is a byte range of the file.
//!
//! The central directory is the only authority. Whatever lets two readers see two different archives is refused:
//! overlapping entries, names used twice, local headers that say something else, bytes after the end.

use std::collections::BTreeMap;
use std::ops::Range;

/// Why an archive is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ZipError {
    #[error("the archive has no end record; the file was cut off or is no zip archive")]
    NoEnd,
    #[error("the archive's {0} lies outside of the file")]
    Outside(&'static str),
    #[error("the archive's {0} contradicts the rest of the archive")]
    Contradiction(&'static str),
    #[error("the archive claims {0} entries, more than its directory has room for")]
    Count(u64),
    #[error("the archive spans several files")]
    Spanned,
    #[error("an entry's name is not valid text")]
    Name,
    #[error("entry {0:?}: {1}")]
    Entry(String, &'static str),
}

/// Entries by name, with the ranges of their contents.
pub(crate) type Entries<'a> = BTreeMap<&'a str, Range<usize>>;

const END: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: usize = 22;
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;
const END_64: [u8; 4] = *b"PK\x06\x06";
const END_64_BYTES: usize = 56;
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const CENTRAL_BYTES: usize = 46;
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
const ENCRYPTED: u16 = 1;
/// Sizes follow the data, so the local header need not have them.
const SIZES_FOLLOW: u16 = 8;
const MAX_ENTRIES: u64 = 1 << 20;

/// Bytes `at..at + N`, if they exist.
pub(crate) fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    fixed(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    fixed(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    fixed(bytes, at).map(u64::from_le_bytes)
}

/// Reads the directory of an archive and checks every entry.
pub(crate) fn entries(bytes: &[u8]) -> Result<Entries<'_>, ZipError> {
    let directory = Directory::find(bytes)?;
    let mut cursor = directory.range.start;
    let mut entries = Entries::new();
    let mut taken: Vec<Range<usize>> = Vec::new();
    for _ in 0..directory.entries {
        let header = bytes.get(cursor..directory.range.end).ok_or(ZipError::Outside("directory"))?;
        let central = Central::read(header)?;
        cursor += central.bytes;
        let whole = central.locate(bytes, directory.range.start)?;
        let data = whole.end - central.size..whole.end;
        if entries.insert(central.name, data).is_some() {
            return Err(ZipError::Entry(central.name.into(), "occurs twice"));
        }
        taken.push(whole);
    }
    if cursor != directory.range.end {
        return Err(ZipError::Contradiction("number of entries"));
    }
    refuse_overlaps(taken)?;
    Ok(entries)
}

fn refuse_overlaps(mut taken: Vec<Range<usize>>) -> Result<(), ZipError> {
    taken.sort_by_key(|range| (range.start, range.end));
    let apart = taken.windows(2).all(|pair| matches!(pair, [a, b] if a.end <= b.start));
    if apart { Ok(()) } else { Err(ZipError::Contradiction("list of entries (two overlap)")) }
}

/// Where the central directory lies.
struct Directory {
    range: Range<usize>,
    entries: u64,
}

impl Directory {
    fn find(bytes: &[u8]) -> Result<Self, ZipError> {
        let end = bytes.len().checked_sub(END_BYTES).ok_or(ZipError::NoEnd)?;
        let record = bytes.get(end..).filter(|record| record.starts_with(&END)).ok_or(ZipError::NoEnd)?;
        let short = |at| u16_at(record, at).unwrap_or(0);
        let long = |at| u64::from(u32_at(record, at).unwrap_or(0));
        if short(20) != 0 {
            return Err(ZipError::Contradiction("end record"));
        }
        if short(4) != 0 || short(6) != 0 || short(8) != short(10) {
            return Err(ZipError::Spanned);
        }
        let small = End { at: end, entries: u64::from(short(10)), size: long(12), start: long(16) };
        let wide = end_64(bytes, end)?;
        if wide.as_ref().is_some_and(|wide| !small.agrees(wide)) {
            return Err(ZipError::Contradiction("end record"));
        }
        let End { at: limit, entries, size, start } = wide.unwrap_or(small);
        let range = range_within(start, size, limit).ok_or(ZipError::Outside("directory"))?;
        // Bytes between directory and end record would belong to nothing.
        if range.end != limit {
            return Err(ZipError::Contradiction("directory size"));
        }
        if entries > MAX_ENTRIES || entries > size / CENTRAL_BYTES as u64 {
            return Err(ZipError::Count(entries));
        }
        Ok(Directory { range, entries })
    }
}

/// What an end record says about the directory.
struct End {
    /// Where the record itself starts.
    at: usize,
    entries: u64,
    size: u64,
    start: u64,
}

impl End {
    /// Whether the 64-bit record `wide` says the same; all ones stand for what this one has no room for.
    fn agrees(&self, wide: &End) -> bool {
        let same = |small: u64, unknown: u64, wide: u64| small == unknown || small == wide;
        same(self.entries, u64::from(u16::MAX), wide.entries)
            && same(self.size, u64::from(u32::MAX), wide.size)
            && same(self.start, u64::from(u32::MAX), wide.start)
    }
}

/// The 64-bit end record before the one at `end`, if there is one.
fn end_64(bytes: &[u8], end: usize) -> Result<Option<End>, ZipError> {
    let Some(locator_at) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let locator = bytes.get(locator_at..end).unwrap_or_default();
    if !locator.starts_with(&LOCATOR) {
        return Ok(None);
    }
    let outside = || ZipError::Outside("64-bit end record");
    let at = u64_at(locator, 8).and_then(|at| usize::try_from(at).ok()).ok_or_else(outside)?;
    if at.checked_add(END_64_BYTES) != Some(locator_at) {
        return Err(outside());
    }
    let record = bytes.get(at..locator_at).filter(|record| record.starts_with(&END_64)).ok_or_else(outside)?;
    let field = |at| u64_at(record, at).unwrap_or(0);
    if u64_at(record, 16) != Some(0) || u32_at(locator, 4) != Some(0) || field(24) != field(32) {
        return Err(ZipError::Spanned);
    }
    Ok(Some(End { at, entries: field(32), size: field(40), start: field(48) }))
}

/// `start..start + size` if it ends at `limit` at the latest.
fn range_within(start: u64, size: u64, limit: usize) -> Option<Range<usize>> {
    let end = usize::try_from(start.checked_add(size)?).ok().filter(|end| *end <= limit)?;
    Some(usize::try_from(start).ok()?..end)
}

/// A header of the central directory.
struct Central<'a> {
    name: &'a str,
    size: usize,
    local: usize,
    /// Bytes of the header itself.
    bytes: usize,
}

impl<'a> Central<'a> {
    fn read(header: &'a [u8]) -> Result<Self, ZipError> {
        if !header.starts_with(&CENTRAL) {
            return Err(ZipError::Contradiction("directory"));
        }
        let short = |at| u16_at(header, at).map(usize::from).ok_or(ZipError::Outside("directory"));
        let long = |at| u32_at(header, at).map(u64::from).ok_or(ZipError::Outside("directory"));
        let (name, extra, comment) = (short(28)?, short(30)?, short(32)?);
        let bytes = CENTRAL_BYTES + name + extra + comment;
        let tail = header.get(CENTRAL_BYTES..bytes).ok_or(ZipError::Outside("directory"))?;
        let (name, tail) = tail.split_at(name);
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty()).ok_or(ZipError::Name)?;
        let refuse = |problem| ZipError::Entry(name.into(), problem);
        check_storage(short(8)? as u16, short(10)? as u16).map_err(refuse)?;
        let extra = tail.get(..extra).unwrap_or_default();
        let (size, packed, local) =
            wide_fields(extra, [long(24)?, long(20)?, long(42)?]).ok_or_else(|| refuse("has a damaged size"))?;
        if size != packed {
            return Err(refuse("is compressed; save the file again with torch.save, which stores"));
        }
        let fits = |value: u64| usize::try_from(value).map_err(|_| refuse("lies outside of the file"));
        Ok(Central { name, size: fits(size)?, local: fits(local)?, bytes })
    }

    /// The bytes of local header and data, which must lie before the directory.
    fn locate(&self, file: &[u8], limit: usize) -> Result<Range<usize>, ZipError> {
        let refuse = |problem| ZipError::Entry(self.name.into(), problem);
        let outside = || refuse("lies outside of the file");
        let header = file.get(self.local..limit).ok_or_else(outside)?;
        if !header.starts_with(&LOCAL) {
            return Err(refuse("has no local header where the directory says"));
        }
        let short = |at| u16_at(header, at).ok_or_else(outside);
        let long = |at| u32_at(header, at).ok_or_else(outside);
        check_storage(short(6)?, short(8)?).map_err(refuse)?;
        let name_end = LOCAL_BYTES + usize::from(short(26)?);
        if header.get(LOCAL_BYTES..name_end) != Some(self.name.as_bytes()) {
            return Err(refuse("has another name in its local header"));
        }
        let follows = short(6)? & SIZES_FOLLOW != 0;
        let agrees = |size: u32| size == u32::MAX || (follows && size == 0) || size as usize == self.size;
        if !agrees(long(18)?) || !agrees(long(22)?) {
            return Err(refuse("has another size in its local header"));
        }
        let data = name_end + usize::from(short(28)?);
        let end = data.checked_add(self.size).filter(|end| *end <= header.len()).ok_or_else(outside)?;
        Ok(self.local..self.local + end)
    }
}

fn check_storage(flags: u16, method: u16) -> Result<(), &'static str> {
    match (flags & ENCRYPTED, method) {
        (0, 0) => Ok(()),
        (0, _) => Err("is compressed; save the file again with torch.save, which stores"),
        _ => Err("is encrypted"),
    }
}

/// Takes those of (size, stored size, offset) that do not fit 32 bits from the 64-bit extra field.
fn wide_fields(extra: &[u8], narrow: [u64; 3]) -> Option<(u64, u64, u64)> {
    let mut wide = extra_field(extra, 1)?.chunks_exact(8);
    let mut take = |value: u64| {
        if value == u64::from(u32::MAX) { wide.next().and_then(|wide| u64_at(wide, 0)) } else { Some(value) }
    };
    let [size, packed, local] = narrow;
    Some((take(size)?, take(packed)?, take(local)?))
}

/// The content of the extra field `wanted`, empty without one; nothing if the list of fields is damaged.
fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    while !extra.is_empty() {
        let (id, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let content = extra.get(4..4 + length)?;
        if id == wanted {
            return Some(content);
        }
        extra = extra.get(4 + length..)?;
    }
    Some(&[])
}
