//! Protocol-buffer fields of a message, read without copying and without believing a length.

use super::{Fault, Outcome};

/// The value of one field.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// What is left of a message; `name` says which one in errors.
pub(super) struct Message<'a> {
    rest: &'a [u8],
    name: &'static str,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8], name: &'static str) -> Self {
        Message { rest: bytes, name }
    }

    /// The next field: its number and value.
    pub(super) fn next(&mut self) -> Outcome<Option<(u64, Value<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, kind) = (tag >> 3, tag & 7);
        if number == 0 {
            return Err(self.fault("has a field numbered 0"));
        }
        let value = match kind {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map_err(|_| self.fault("ends inside a number"))?),
            kind => return Err(self.fault(format!("has field {number} of wire type {kind}, which no model uses"))),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else {
                return Err(self.fault("ends inside a number"));
            };
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.fault("has a number of more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Outcome<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((taken, rest)) = split else {
            return Err(self.fault(format!("claims {length} more bytes where {} are left", self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn fault(&self, problem: impl std::fmt::Display) -> Fault {
        Fault::new(self.name, format!("{problem}; the file is damaged or no SentencePiece model: fetch it again"))
    }
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self, field: &'static str) -> Outcome<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(wrong(field, "bytes")),
        }
    }

    pub(super) fn text(self, field: &'static str) -> Outcome<&'a str> {
        let unreadable = |_| Fault::new(field, "is not valid UTF-8; the file is damaged: fetch it again");
        std::str::from_utf8(self.bytes(field)?).map_err(unreadable)
    }

    pub(super) fn flag(self, field: &'static str) -> Outcome<bool> {
        Ok(self.integer(field)? != 0)
    }

    pub(super) fn integer(self, field: &'static str) -> Outcome<u64> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(wrong(field, "an integer")),
        }
    }

    /// A finite number.
    pub(super) fn float(self, field: &'static str) -> Outcome<f32> {
        let Value::Fixed32(bytes) = self else { return Err(wrong(field, "a 32-bit float")) };
        let value = f32::from_le_bytes(bytes);
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Fault::new(field, format!("is {value}; scores must be finite: train the model again")))
        }
    }
}

fn wrong(field: &'static str, expected: &str) -> Fault {
    Fault::new(field, format!("is not {expected}; the file is damaged or no SentencePiece model: fetch it again"))
}
