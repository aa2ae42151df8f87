//! Event files that TensorBoard reads: records framed with checksums, each one `Event` message.
//!
//! The messages have a handful of fields, so they are encoded by hand.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use vila_files::OwnFolder;

use crate::metrics::{StepMetrics, WallMetrics};
use crate::{Error, Result};

/// Folder of the event files in a run's directory.
pub(crate) const FOLDER: &str = "tensorboard";
const VERSION: &str = "brain.Event:2";

/// An event file that is being written; a run that goes on opens another one.
pub struct EventFile {
    path: PathBuf,
    file: File,
    started: bool,
}

impl EventFile {
    /// Creates a new event file in the folder `tensorboard` of a run's directory.
    ///
    /// # Errors
    /// [`Error::Io`] where folder or file cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let folder = dir.join(FOLDER);
        OwnFolder::create(dir).and_then(|dir| dir.folder(FOLDER)).map_err(Error::io(&folder))?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        let (path, file) = create(&folder, time as u64)?;
        let mut events = EventFile { path, file, started: false };
        events.write(&[wall_time(time), bytes(3, VERSION.as_bytes())].concat())?;
        Ok(events)
    }

    /// Appends one value of one step.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn scalar(&mut self, step: u64, wall_time: f64, tag: &str, value: f64) -> Result<()> {
        self.event(step, wall_time, &[(tag.into(), value)])
    }

    /// Appends what a step's metrics say.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn log_step(&mut self, step: &StepMetrics, wall: &WallMetrics) -> Result<()> {
        self.event(step.global_step, wall.time, &scalars(step, wall))
    }

    fn event(&mut self, step: u64, time: f64, scalars: &[(String, f64)]) -> Result<()> {
        let head = [wall_time(time), number(2, step)].concat();
        if !self.started {
            // SessionLog::START: what earlier files hold of this step and later ones is void.
            self.write(&[head.clone(), bytes(7, &number(1, 1))].concat())?;
            self.started = true;
        }
        let values: Vec<u8> = scalars.iter().flat_map(|(tag, value)| bytes(1, &summary_value(tag, *value))).collect();
        self.write(&[head, bytes(5, &values)].concat())
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        self.file.write_all(&record(message)).map_err(Error::io(&self.path))
    }
}

/// Whether an event file has a name that [`EventFile::open`] gives.
pub(crate) fn is_own_name(name: &str) -> bool {
    let number = name.strip_prefix("events.out.tfevents.").and_then(|rest| rest.split_once(".vila."));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    number.is_some_and(|(seconds, number)| digits(seconds) && digits(number))
}

/// TensorBoard reads files in the order of their names; two of the same second are numbered.
fn create(folder: &Path, seconds: u64) -> Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.vila.{number:03}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::io(&path)(error)),
        }
    }
}

fn scalars(step: &StepMetrics, wall: &WallMetrics) -> Vec<(String, f64)> {
    let mut scalars: Vec<(String, f64)> = vec![
        ("train/loss".into(), step.loss),
        ("train/grad_norm".into(), step.grad_norm),
        ("train/lr".into(), step.lr),
        ("throughput/tokens_per_second".into(), wall.tokens_per_second),
        ("throughput/waited".into(), wall.waited),
        ("data/packing".into(), step.packing),
    ];
    scalars.extend(step.validation_loss.map(|loss| ("train/validation_loss".into(), loss)));
    scalars.extend(step.loss_by_source.iter().map(|(source, part)| (format!("loss/{source}"), part.loss)));
    scalars.extend(wall.memory.iter().map(|(owner, bytes)| (format!("memory/{owner}"), *bytes as f64)));
    scalars
}

/// A TFRecord: length, its checksum, data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length)[..], data, &masked_crc(data)].concat()
}

/// CRC32C, rotated and shifted so that a checksum of data that holds checksums is none of them.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// `Summary.Value` with `tag` and `simple_value`.
fn summary_value(tag: &str, value: f64) -> Vec<u8> {
    [bytes(1, tag.as_bytes()), vec![2 << 3 | 5], (value as f32).to_le_bytes().to_vec()].concat()
}

/// `Event.wall_time`.
fn wall_time(seconds: f64) -> Vec<u8> {
    [&[1 << 3 | 1][..], &seconds.to_le_bytes()].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2], &varint(value.len() as u64)[..], value].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut coded = Vec::new();
    while value >= 0x80 {
        coded.push(value as u8 | 0x80);
        value >>= 7;
    }
    coded.push(value as u8);
    coded
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metrics::SourceLoss;

    /// A message's fields: number and payload, varints and fixed ones as little-endian bytes.
    fn fields(mut message: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((&key, rest)) = message.split_first() {
            let (value, rest) = read_varint(rest);
            let (payload, after) = match key & 7 {
                0 => (value.to_le_bytes().to_vec(), rest),
                1 => (message[1..9].to_vec(), &message[9..]),
                5 => (message[1..5].to_vec(), &message[5..]),
                2 => (rest[..value as usize].to_vec(), &rest[value as usize..]),
                kind => panic!("wire type {kind}"),
            };
            all.push((key >> 3, payload));
            message = after;
        }
        all
    }

    fn read_varint(bytes: &[u8]) -> (u64, &[u8]) {
        let length = bytes.iter().position(|byte| byte & 0x80 == 0).map_or(bytes.len(), |last| last + 1);
        let value = bytes[..length].iter().rev().fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        (value, &bytes[length..])
    }

    /// The messages of a file whose checksums all hold.
    fn messages(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[..16 + length], record(&file[12..12 + length]));
            all.push(file[12..12 + length].to_vec());
            file = &file[16 + length..];
        }
        all
    }

    fn tags(message: &[u8]) -> BTreeMap<String, f32> {
        let all = fields(message);
        let (_, summary) = all.iter().find(|(field, _)| *field == 5).unwrap();
        let value = |(_, value): (u8, Vec<u8>)| {
            let parts = fields(&value);
            let number = f32::from_le_bytes(parts[1].1.clone().try_into().unwrap());
            (String::from_utf8(parts[0].1.clone()).unwrap(), number)
        };
        fields(summary).into_iter().map(value).collect()
    }

    fn metrics() -> (StepMetrics, WallMetrics) {
        let step = StepMetrics {
            stage: "align".into(),
            step: 3,
            global_step: 300,
            loss: 1.5,
            grad_norm: 2.0,
            lr: 1e-3,
            documents: 4,
            order: 0,
            tokens: 512,
            supervised: 100,
            images: 4,
            micro_batches: 2,
            validation_loss: Some(1.25),
            loss_by_source: BTreeMap::from([("pairs".into(), SourceLoss { loss: 1.75, supervised: 60 })]),
            packing: 0.5,
            left_out: BTreeMap::new(),
            skipped: None,
        };
        let memory = BTreeMap::from([("peak".into(), 4096)]);
        (step, WallMetrics { seconds: 2.0, waited: 0.5, tokens_per_second: 256.0, time: 1.5e9, memory, saving: 0.0 })
    }

    #[test]
    fn checksums_and_frames_of_the_standard() {
        // "123456789" is the usual check of a CRC: 0xe3069283 for CRC32C.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
        let version = [wall_time(0.0), bytes(3, VERSION.as_bytes())].concat();
        let coded = record(&version);
        assert_eq!(coded[..12], *b"\x18\0\0\0\0\0\0\0\xa3\x7fK\"");
        assert_eq!(coded[12..36], *b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn what_was_written_can_be_read() {
        let dir = std::env::temp_dir().join(format!("vila-events-{}", std::process::id()));
        let (step, wall) = metrics();
        let mut first = EventFile::open(&dir).unwrap();
        first.log_step(&step, &wall).unwrap();
        first.scalar(301, 1.5e9, "x", -1.0).unwrap();
        let second = EventFile::open(&dir).unwrap();
        assert!(second.path > first.path, "a later file comes later in the order of names");
        let all = messages(&std::fs::read(&first.path).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(fields(&all[0])[1], (3, VERSION.as_bytes().to_vec()));
        let step_field = (2, 300u64.to_le_bytes().to_vec());
        assert_eq!(fields(&all[1])[1..], [step_field.clone(), (7, vec![8, 1])]);
        assert_eq!(fields(&all[2])[..2], [(1, 1.5e9f64.to_le_bytes().to_vec()), step_field]);
        let expected = [
            ("data/packing", 0.5),
            ("loss/pairs", 1.75),
            ("memory/peak", 4096.0),
            ("throughput/tokens_per_second", 256.0),
            ("throughput/waited", 0.5),
            ("train/grad_norm", 2.0),
            ("train/loss", 1.5),
            ("train/lr", 1e-3),
            ("train/validation_loss", 1.25),
        ];
        assert_eq!(tags(&all[2]), expected.map(|(tag, value)| (tag.to_string(), value)).into());
        assert_eq!(tags(&all[3]), BTreeMap::from([("x".to_string(), -1.0)]));
        assert_eq!(all.len(), 4);
    }
}
