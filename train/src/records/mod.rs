//! Files of records: JSON lines, JSON arrays, or JSON objects one after the other on as many lines as they like.
//!
//! One reader for every command. It takes UTF-8 and UTF-16, with or without byte order mark, lines that end in LF or CRLF, gzip, and
//! pipes; it reads a file once, hashes what it reads, and never holds more than one record. A record that is no JSON is given
//! out like any other: whoever parses it says what is wrong, and those beside it are untouched.

mod decode;
mod lenient;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::DeserializeOwned;
use sha2::Digest;

use crate::data::tokens::hex;
use crate::{Error, Result};
use decode::Tally;
pub(crate) use lenient::{parse, wrapped};

/// Most bytes of one record.
const MAX_RECORD: usize = 64 << 20;
/// Most bytes of a file that is read as one text.
const MAX_TEXT: u64 = 2 << 30;

/// A file of records cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    /// The operating system refused, or the file is stored in a form that is not read.
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file as a whole has the wrong form.
    #[error("{}: {problem}", path.display())]
    Form { path: PathBuf, problem: String },
}

impl From<RecordsError> for Error {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Unreadable { path, source } => Error::Io { path, source },
            form @ RecordsError::Form { .. } => Error::Data(form.to_string()),
        }
    }
}

/// A record's text and the line it begins on.
pub(crate) struct RawRecord {
    pub(crate) line: u64,
    pub(crate) json: Vec<u8>,
}

/// Streams the records of one file, whichever form it has.
pub(crate) struct RecordReader {
    path: PathBuf,
    bytes: Box<dyn BufRead>,
    tally: Rc<RefCell<Tally>>,
    line: u64,
    form: Form,
    /// Lines that were looked at to find out about the form.
    ahead: VecDeque<RawRecord>,
}

#[derive(Clone, Copy)]
enum Form {
    /// Each line is a record.
    Lines,
    /// Records take several lines, or share one.
    Objects,
    Array {
        first: bool,
    },
    Finished,
}

impl RecordReader {
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, RecordsError> {
        let (bytes, tally) =
            decode::open(path).map_err(|source| RecordsError::Unreadable { path: path.to_owned(), source })?;
        Self::new(path, bytes, tally)
    }

    /// The records of a text; `path` names it in messages.
    fn of_text(text: &str, path: &Path) -> std::result::Result<Self, RecordsError> {
        Self::new(path, Box::new(io::Cursor::new(text.as_bytes().to_vec())), Rc::default())
    }

    fn new(path: &Path, bytes: Box<dyn BufRead>, tally: Rc<RefCell<Tally>>) -> std::result::Result<Self, RecordsError> {
        let ahead = VecDeque::new();
        let mut reader = Self { path: path.to_owned(), bytes, tally, line: 1, form: Form::Lines, ahead };
        reader.form = match reader.peek_past_blanks()? {
            Some(b'[') => {
                reader.next_byte()?;
                Form::Array { first: true }
            }
            Some(_) => reader.form_of_lines()?,
            None => Form::Finished,
        };
        Ok(reader)
    }

    /// Lines are records if the first is a whole object, or the second, in case that the first is broken.
    fn form_of_lines(&mut self) -> std::result::Result<Form, RecordsError> {
        for _ in 0..2 {
            let Some(line) = self.read_line()? else { break };
            let whole = Balance::default().end_in(&line.json) == Some(line.json.trim_ascii_end().len());
            self.ahead.push_back(line);
            if whole {
                return Ok(Form::Lines);
            }
        }
        Ok(Form::Objects)
    }

    /// The next record, or `None` at the end of the file.
    pub(crate) fn next_record(&mut self) -> std::result::Result<Option<RawRecord>, RecordsError> {
        let record = match self.form {
            Form::Finished => return Ok(None),
            Form::Lines => self.next_line()?,
            Form::Objects => self.next_object()?,
            Form::Array { first } => {
                self.form = Form::Array { first: false };
                self.next_element(first)?
            }
        };
        if record.is_none() {
            self.form = Form::Finished;
        }
        Ok(record)
    }

    /// Length and SHA-256 of the file as it was read: of the whole, once there is no further record.
    pub(crate) fn described(&self) -> (u64, String) {
        let tally = self.tally.borrow();
        (tally.bytes, hex(&tally.hash.clone().finalize()))
    }

    /// The next line that is not blank.
    fn next_line(&mut self) -> std::result::Result<Option<RawRecord>, RecordsError> {
        match self.ahead.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.read_line(),
        }
    }

    fn peek_line(&mut self) -> std::result::Result<Option<&RawRecord>, RecordsError> {
        if self.ahead.is_empty()
            && let Some(line) = self.read_line()?
        {
            self.ahead.push_back(line);
        }
        Ok(self.ahead.front())
    }

    fn read_line(&mut self) -> std::result::Result<Option<RawRecord>, RecordsError> {
        loop {
            let mut json = Vec::new();
            let read = (&mut self.bytes).take(MAX_RECORD as u64 + 1).read_until(b'\n', &mut json);
            if read.map_err(|source| self.unreadable(source))? == 0 {
                return Ok(None);
            }
            if json.len() > MAX_RECORD {
                return Err(self.too_long());
            }
            let line = self.line;
            self.line += 1;
            if !json.trim_ascii().is_empty() {
                return Ok(Some(RawRecord { line, json }));
            }
        }
    }

    /// An object that may go on over several lines. One that breaks ends before the next line that begins an object.
    fn next_object(&mut self) -> std::result::Result<Option<RawRecord>, RecordsError> {
        let Some(mut record) = self.next_line()? else { return Ok(None) };
        let mut balance = Balance::default();
        let mut end = balance.end_in(&record.json);
        while end.is_none() && balance.goes_on() {
            let fits = MAX_RECORD - record.json.len();
            let Some(next) = self.peek_line()? else { return Ok(Some(record)) };
            if next.json.trim_ascii_start().starts_with(b"{") && !balance.may_open() {
                return Ok(Some(record));
            }
            let Some(next) = self.ahead.pop_front() else { break };
            if next.json.len() > fits {
                return Err(self.too_long());
            }
            let before = record.json.len();
            end = balance.end_in(&next.json).map(|end| before + end);
            record.json.extend(next.json);
        }
        match end {
            Some(end) => {
                let rest = record.json.split_off(end);
                if !rest.trim_ascii().is_empty() {
                    let line = record.line + record.json.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    self.ahead.push_front(RawRecord { line, json: rest.trim_ascii().to_vec() });
                }
            }
            None => {
                // What is left of a broken record belongs to it.
                while self.peek_line()?.is_some_and(|next| !next.json.starts_with(b"{")) {
                    self.ahead.pop_front();
                }
            }
        }
        Ok(Some(record))
    }

    fn next_element(&mut self, first: bool) -> std::result::Result<Option<RawRecord>, RecordsError> {
        match self.peek_past_blanks()? {
            Some(b']') => {
                self.next_byte()?;
                return match self.peek_past_blanks()? {
                    None => Ok(None),
                    Some(_) => Err(self.malformed("there is something after the end of the array")),
                };
            }
            Some(b',') if !first => {
                self.next_byte()?;
                self.peek_past_blanks()?;
            }
            Some(_) if first => {}
            Some(_) => return Err(self.malformed("a comma or the end of the array is missing")),
            None => return Err(self.malformed("the array does not end; the file is cut short")),
        }
        match self.peek_past_blanks()? {
            Some(b'{') => self.read_object().map(Some),
            Some(_) => Err(self.malformed("an element of the array is not an object")),
            None => Err(self.malformed("the array does not end; the file is cut short")),
        }
    }

    /// Copies bytes until the braces of one object are balanced.
    fn read_object(&mut self) -> std::result::Result<RawRecord, RecordsError> {
        let (line, mut json, mut balance) = (self.line, Vec::new(), Balance::default());
        loop {
            let path = &self.path;
            let buffer = self.bytes.fill_buf();
            let buffer = buffer.map_err(|source| RecordsError::Unreadable { path: path.to_owned(), source })?;
            if buffer.is_empty() {
                return Err(self.malformed("the array does not end; the file is cut short"));
            }
            let end = balance.end_in(buffer);
            let taken = end.unwrap_or(buffer.len());
            json.extend_from_slice(&buffer[..taken]);
            self.line += buffer[..taken].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.bytes.consume(taken);
            if json.len() > MAX_RECORD {
                return Err(self.too_long());
            }
            if end.is_some() {
                return Ok(RawRecord { line, json });
            }
        }
    }

    fn next_byte(&mut self) -> std::result::Result<Option<u8>, RecordsError> {
        let next = self.bytes.fill_buf().map(|buffer| buffer.first().copied());
        let next = next.map_err(|source| self.unreadable(source))?;
        if next.is_some() {
            self.bytes.consume(1);
        }
        if next == Some(b'\n') {
            self.line += 1;
        }
        Ok(next)
    }

    /// The next byte that is no blank, left unread.
    fn peek_past_blanks(&mut self) -> std::result::Result<Option<u8>, RecordsError> {
        loop {
            let next = self.bytes.fill_buf().map(|buffer| buffer.first().copied());
            match next.map_err(|source| self.unreadable(source))? {
                Some(byte) if byte.is_ascii_whitespace() => self.next_byte()?,
                other => return Ok(other),
            };
        }
    }

    fn unreadable(&self, source: io::Error) -> RecordsError {
        RecordsError::Unreadable { path: self.path.clone(), source }
    }

    fn malformed(&self, what: &str) -> RecordsError {
        RecordsError::Form { path: self.path.clone(), problem: format!("line {}: {what}; repair the JSON", self.line) }
    }

    fn too_long(&self) -> RecordsError {
        let problem = format!(
            "line {}: a record of more than {} MiB begins here; a file has one record a line, or is an array of them (a list inside \
             one large object must be taken out, for example with jq -c '.data[]')",
            self.line,
            MAX_RECORD >> 20
        );
        RecordsError::Form { path: self.path.clone(), problem }
    }
}

/// Where the braces of an object balance.
#[derive(Default)]
struct Balance {
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// The last byte outside strings that is no blank.
    last: u8,
}

impl Balance {
    /// Takes the next bytes; returns how many of them end the object.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.open.push(byte),
                b'}' | b']' => {
                    self.open.pop();
                }
                _ => {}
            }
            if !byte.is_ascii_whitespace() && !self.in_string {
                self.last = byte;
            }
            if self.open.is_empty() && !byte.is_ascii_whitespace() {
                // What is no object ends nowhere.
                return matches!(byte, b'}' | b']').then_some(at + 1);
            }
        }
        None
    }

    /// Whether an object is open at the end of a line, where no string may be.
    fn goes_on(&self) -> bool {
        !self.open.is_empty() && !self.in_string
    }

    /// Whether an object may begin here.
    fn may_open(&self) -> bool {
        self.last == b':' || self.open.last() == Some(&b'[') && matches!(self.last, b'[' | b',')
    }
}

/// All records of a file with the lines they begin on.
///
/// # Errors
/// The file cannot be read, or the first record that is not a `T`, with its place.
pub(crate) fn read_all<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    collect(RecordReader::open(path)?, path)
}

/// As [`read_all`], of a text; `path` names it in messages.
pub(crate) fn parse_all<T: DeserializeOwned>(text: &str, path: &Path) -> Result<Vec<(usize, T)>> {
    collect(RecordReader::of_text(text, path)?, path)
}

fn collect<T: DeserializeOwned>(mut reader: RecordReader, path: &Path) -> Result<Vec<(usize, T)>> {
    let mut all = Vec::new();
    while let Some(RawRecord { line, json }) = reader.next_record()? {
        let value = parse(&json).map_err(|error| {
            let (whole, place) = (error.to_string(), format!("{} line {line}", path.display()));
            // Its place is within the record.
            let problem = whole.split(" at line 1 column").next().unwrap_or(&whole);
            match error.column() {
                0 => Error::Data(format!("{place}: {problem}")),
                column => Error::Data(format!("{place} column {column}: {problem}")),
            }
        })?;
        all.push((line as usize, value));
    }
    Ok(all)
}

/// The text of a file in any of the forms that records come in.
///
/// # Errors
/// The file cannot be read, is stored in another form, has more than 2 GiB of text, or is not UTF-8 inside.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let (bytes, _) = decode::open(path).map_err(Error::io(path))?;
    let mut text = Vec::new();
    bytes.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(Error::io(path))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::Data(format!(
            "{}: has more than {} GiB of text; divide it",
            path.display(),
            MAX_TEXT >> 30
        )));
    }
    String::from_utf8(text).map_err(|error| {
        Error::Data(format!("{}: not UTF-8 at byte {}", path.display(), error.utf8_error().valid_up_to()))
    })
}

/// The folder that relative paths in an input file start from: its own, or the working directory if it is a pipe, which has none.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        true => path.parent().unwrap_or(Path::new("")).to_owned(),
        false => PathBuf::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line and text of each record of a file of these bytes.
    fn records(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut reader = RecordReader::new(
            Path::new("f"),
            decode::decoded(io::Cursor::new(bytes.to_vec())).expect("decoded"),
            Rc::default(),
        )
        .expect("reader");
        let mut all = Vec::new();
        while let Some(record) = reader.next_record().expect("record") {
            all.push((record.line, String::from_utf8_lossy(&record.json).trim().to_owned()));
        }
        all
    }

    fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn the_forms_of_the_world_are_one() {
        let (one, two) = ("{\"a\": \"é\u{1F600}\"}", "{\"a\": {\"b\": [1, {}]}}");
        let text = format!("{one}\r\n\r\n{two}\r\n");
        let expected = vec![(1, one.to_owned()), (3, two.to_owned())];
        let zipped = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut encoder, text.as_bytes()).expect("zip");
            encoder.finish().expect("zip")
        };
        let marked = |mark: &[u8], text: Vec<u8>| [mark, &text].concat();
        for form in [
            text.clone().into_bytes(),
            marked(b"\xEF\xBB\xBF", text.clone().into_bytes()),
            marked(b"\xFF\xFE", utf16(&text, u16::to_le_bytes)),
            marked(b"\xFE\xFF", utf16(&text, u16::to_be_bytes)),
            utf16(&text, u16::to_le_bytes),
            utf16(&text, u16::to_be_bytes),
            zipped,
            format!("[{one},\n\n{two}]").into_bytes(),
            format!("{one}{two}").replace("}{", "}\n\n{").into_bytes(),
        ] {
            assert_eq!(records(&form), expected, "{form:?}");
        }
    }

    #[test]
    fn objects_may_take_several_lines_and_break_alone() {
        let pretty = |body: &str| format!("{{\n  \"a\": [\n    {{\n      \"b\": {body}\n    }}\n  ]\n}}\n");
        let good = pretty("1");
        let file = format!("{good}{}{}{good}", pretty("\"torn"), &good[..good.len() - 2]);
        let found = records(file.as_bytes());
        let starts: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(starts, [1, 8, 15, 21], "{found:?}");
        assert_eq!((&found[0].1, &found[3].1), (&good.trim().to_owned(), &good.trim().to_owned()));
        assert_eq!(records(b"{\"a\": 1}{\"a\": 2} {\"a\": 3}\n").len(), 3);
    }

    #[test]
    fn a_broken_line_is_alone() {
        for broken in ["{\"a\": [", "not json", "{\"a\": \"x", "}", "{\"a\": 1}}"] {
            let good = "{\"a\": 1}";
            for lines in [[broken, good, good], [good, broken, good]] {
                let found = records(lines.join("\n").as_bytes());
                assert_eq!(found.iter().filter(|(_, json)| json == good).count(), 2, "{lines:?} {found:?}");
                assert_eq!(found.len(), 3, "{lines:?} {found:?}");
            }
        }
    }

    #[test]
    fn other_kinds_of_file_are_named() {
        for (bytes, word) in
            [(&b"PK\x03\x04junk"[..], "zip"), (&b"PAR1junk"[..], "Parquet"), (&b"\xFF\xFE\0\0{"[..], "UTF-32")]
        {
            let error = decode::decoded(bytes).err().expect("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
