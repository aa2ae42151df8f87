//! Reading records from files: JSON lines, or one JSON array.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::shard::SourceFile;
use super::super::tokens::hex;
use super::error::IngestError;
use crate::stop;

/// A record's text and the line it begins on.
pub(super) struct RawRecord {
    pub(super) line: u64,
    pub(super) json: Vec<u8>,
}

/// Streams the records of one file, whichever of the two forms it has.
pub(super) struct RecordReader {
    path: PathBuf,
    bytes: BufReader<File>,
    line: u64,
    form: Form,
}

enum Form {
    Lines,
    Array { first: bool },
    Finished,
}

impl RecordReader {
    pub(super) fn open(path: &Path) -> Result<Self, IngestError> {
        let unreadable = |source| IngestError::Source { path: path.to_owned(), source: vila_files::explain(source) };
        let mut bytes = BufReader::with_capacity(1 << 18, File::open(path).map_err(unreadable)?);
        if bytes.fill_buf().map_err(unreadable)?.starts_with(b"\xEF\xBB\xBF") {
            bytes.consume(3);
        }
        let mut reader = Self { path: path.to_owned(), bytes, line: 1, form: Form::Lines };
        match reader.peek_past_blanks()? {
            Some(b'[') => {
                reader.next_byte()?;
                reader.form = Form::Array { first: true };
            }
            Some(_) => {}
            None => reader.form = Form::Finished,
        }
        Ok(reader)
    }

    /// The next record, or `None` at the end of the file.
    pub(super) fn next_record(&mut self) -> Result<Option<RawRecord>, IngestError> {
        let record = match self.form {
            Form::Finished => return Ok(None),
            Form::Lines => self.next_line()?,
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

    fn next_line(&mut self) -> Result<Option<RawRecord>, IngestError> {
        loop {
            let mut json = Vec::new();
            let read = self.bytes.read_until(b'\n', &mut json);
            if read.map_err(|source| self.unreadable(source))? == 0 {
                return Ok(None);
            }
            let line = self.line;
            self.line += 1;
            if !json.trim_ascii().is_empty() {
                return Ok(Some(RawRecord { line, json }));
            }
        }
    }

    fn next_element(&mut self, first: bool) -> Result<Option<RawRecord>, IngestError> {
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
        self.read_object().map(Some)
    }

    /// Copies bytes until the braces of one object are balanced.
    fn read_object(&mut self) -> Result<RawRecord, IngestError> {
        let line = self.line;
        let mut json = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
        loop {
            let Some(byte) = self.next_byte()? else {
                return Err(self.malformed("the array does not end; the file is cut short"));
            };
            if json.is_empty() && byte != b'{' {
                return Err(self.malformed("an element of the array is not an object"));
            }
            json.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(RawRecord { line, json });
            }
        }
    }

    fn next_byte(&mut self) -> Result<Option<u8>, IngestError> {
        let mut byte = [0];
        let read = self.bytes.read(&mut byte).map_err(|source| self.unreadable(source))?;
        if byte[0] == b'\n' {
            self.line += 1;
        }
        Ok((read == 1).then_some(byte[0]))
    }

    /// The next byte that is no blank, left unread.
    fn peek_past_blanks(&mut self) -> Result<Option<u8>, IngestError> {
        loop {
            let next = self.bytes.fill_buf().map(|buffer| buffer.first().copied());
            match next.map_err(|source| self.unreadable(source))? {
                Some(byte) if byte.is_ascii_whitespace() => self.next_byte()?,
                other => return Ok(other),
            };
        }
    }

    fn unreadable(&self, source: io::Error) -> IngestError {
        IngestError::Source { path: self.path.clone(), source: vila_files::explain(source) }
    }

    fn malformed(&self, what: &str) -> IngestError {
        IngestError::Form { path: self.path.clone(), problem: format!("line {}: {what}; repair the JSON", self.line) }
    }
}

/// Length and hash of a source file.
pub(super) fn describe(path: &Path) -> Result<SourceFile, IngestError> {
    let unreadable = |source| IngestError::Source { path: path.to_owned(), source: vila_files::explain(source) };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        stop::check()?;
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
    Ok(SourceFile { path: path.to_string_lossy().into_owned(), bytes, sha256: hex(&hash.finalize()) })
}
