//! Published benchmark files: JSON, JSON lines and their records, which know where they stand.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::records;
use crate::{Error, Result};

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Record {
    place: String,
    fields: Map<String, Value>,
}

impl Record {
    /// An object that stands at `place`, as messages name it.
    pub fn new(place: String, value: Value) -> Result<Self> {
        match value {
            Value::Object(fields) => Ok(Record { place, fields }),
            other => Err(Error::Data(format!("{place}: expected an object, found {}", kind(&other)))),
        }
    }

    /// A field, if it is there and not null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The first of `fields` that is there.
    pub fn any(&self, fields: &[&str]) -> Result<&Value> {
        let found = fields.iter().find_map(|field| self.get(field));
        found.ok_or_else(|| self.error(&format!("field `{}` is missing", fields.join("` or `"))))
    }

    /// A text; numbers are written out.
    pub fn text(&self, fields: &[&str]) -> Result<String> {
        let value = self.any(fields)?;
        scalar(value).ok_or_else(|| self.expected(fields, "a text", value))
    }

    /// What identifies a record: 7 and "7" are one id.
    pub fn id(&self, fields: &[&str]) -> Result<String> {
        self.text(fields)
    }

    /// An array.
    pub fn list(&self, field: &str) -> Result<&[Value]> {
        let value = self.any(&[field])?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.expected(&[field], "an array", value))
    }

    /// The texts of an array; numbers are written out.
    pub fn texts(&self, field: &str) -> Result<Vec<String>> {
        let text = |value| scalar(value).ok_or_else(|| self.error(&format!("field `{field}` must hold texts")));
        self.list(field)?.iter().map(text).collect()
    }

    /// The objects of an array.
    pub fn records(&self, field: &str) -> Result<Vec<Record>> {
        let place = |index| format!("{} `{field}` item {}", self.place, index + 1);
        self.list(field)?.iter().enumerate().map(|(index, value)| Record::new(place(index), value.clone())).collect()
    }

    /// The object under a field.
    pub fn record(&self, field: &str) -> Result<Record> {
        Record::new(format!("{} `{field}`", self.place), self.any(&[field])?.clone())
    }

    /// All fields, in the file's order.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// An error about this record.
    pub fn error(&self, problem: &str) -> Error {
        Error::Data(format!("{}: {problem}", self.place))
    }

    fn expected(&self, fields: &[&str], wanted: &str, found: &Value) -> Error {
        self.error(&format!("field `{}` is {}, expected {wanted}", fields.join("` or `"), kind(found)))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A text or a number as text.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a text file, in UTF-8 or UTF-16, packed with gzip or not; a byte order mark is not part of it.
pub fn read_text(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Err(Error::Data(format!("{}: is a folder; name a file in it", path.display())));
    }
    records::read_text(path)
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = read_text(path)?;
    if text.trim().is_empty() {
        return Err(Error::Data(format!("{}: the file is empty", path.display())));
    }
    serde_json::from_str(&text).map_err(|error| Error::Data(format!("{}: {error}", path.display())))
}

/// Reads a file that is one JSON object.
pub fn read_object(path: &Path) -> Result<Record> {
    Record::new(path.display().to_string(), read_json(path)?)
}

/// The records of a file: a JSON array, a JSON object that holds an array under one of `lists`, or JSON lines.
pub fn read_records(path: &Path, lists: &[&str]) -> Result<Vec<Record>> {
    let text = read_text(path)?;
    let name = path.display();
    match serde_json::from_str(&text) {
        Ok(Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(index, value)| Record::new(format!("{name} item {}", index + 1), value))
            .collect(),
        Ok(value @ Value::Object(_)) => {
            let whole = Record::new(name.to_string(), value)?;
            match lists.iter().find(|list| whole.get(list).is_some()) {
                Some(list) => whole.records(list),
                None => Ok(vec![whole]),
            }
        }
        // Lines do not begin an array or an object that goes on: its own error says more.
        Err(error) if text.trim_start().starts_with('[') || first_is_cut(&text) => {
            Err(Error::Data(format!("{name}: {error}")))
        }
        _ => records::parse_all(&text, path)?
            .into_iter()
            .map(|(number, value)| Record::new(format!("{name} line {number}"), value))
            .collect(),
    }
}

/// Whether the first line of several is the beginning of a value.
fn first_is_cut(text: &str) -> bool {
    let first = text.trim_start().split_once('\n').map(|(first, _)| serde_json::from_str::<Value>(first));
    first.is_some_and(|first| first.is_err_and(|error| error.is_eof()))
}

/// Records in the file's order, found by id.
pub struct ById<T> {
    items: Vec<(String, T)>,
    places: HashMap<String, usize>,
}

/// What a second record of the same id means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// The files contradict each other.
    Refused,
    /// It replaces the first, as in a table that is filled line by line.
    LastWins,
}

impl<T> ById<T> {
    /// An index of `items`; `path` names the file in messages.
    pub fn new(items: impl IntoIterator<Item = (String, T)>, repeated: Repeated, path: &Path) -> Result<Self> {
        let mut index = ById { items: Vec::new(), places: HashMap::new() };
        for (id, item) in items {
            match index.places.get(&id) {
                Some(_) if repeated == Repeated::Refused => {
                    return Err(Error::Data(format!("{}: id {id} is there twice; keep one of them", path.display())));
                }
                Some(&place) => index.items[place].1 = item,
                None => {
                    index.places.insert(id.clone(), index.items.len());
                    index.items.push((id, item));
                }
            }
        }
        Ok(index)
    }

    /// The record of an id.
    pub fn get(&self, id: &str) -> Option<&T> {
        self.places.get(id).map(|&place| &self.items[place].1)
    }

    /// Ids and records.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.items.iter().map(|(id, item)| (id.as_str(), item))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Ids that are all different: with how many of the same there were so far, from the second on.
pub fn numbered(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let number = |id: String| {
        let so_far = seen.entry(id.clone()).or_default();
        *so_far += 1;
        if *so_far == 1 { id } else { format!("{id} (number {so_far})") }
    };
    ids.into_iter().map(number).collect()
}

/// Predictions and references side by side, in the order of the references.
///
/// # Errors
/// No reference at all; a reference without a prediction or a prediction without a reference: three of the ids are named.
pub fn join<'a, P, R>(
    predictions: &'a ById<P>,
    references: &'a ById<R>,
    files: (&Path, &Path),
) -> Result<Vec<(&'a str, &'a P, &'a R)>> {
    let missing: Vec<&str> = references.iter().map(|(id, _)| id).filter(|id| predictions.get(id).is_none()).collect();
    if !missing.is_empty() {
        return Err(Error::Data(format!(
            "{}: no prediction for {} of {}'s ids ({}); every reference needs one",
            files.0.display(),
            missing.len(),
            files.1.display(),
            some(&missing)
        )));
    }
    if references.is_empty() {
        return Err(Error::Data(format!("{}: there are no references", files.1.display())));
    }
    let unknown: Vec<&str> = predictions.iter().map(|(id, _)| id).filter(|id| references.get(id).is_none()).collect();
    if !unknown.is_empty() {
        return Err(Error::Data(format!(
            "{}: {} ids ({}) are not in {}; are these the references of the same split?",
            files.0.display(),
            unknown.len(),
            some(&unknown),
            files.1.display()
        )));
    }
    Ok(references.iter().filter_map(|(id, reference)| Some((id, predictions.get(id)?, reference))).collect())
}

fn some(ids: &[&str]) -> String {
    let shown = ids.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    if ids.len() > 3 { shown + ", ..." } else { shown }
}

/// The files of a folder with one of the `extensions`, by name; a file is itself.
pub fn files_in(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
