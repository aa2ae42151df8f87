//! JSON objects whose errors name file and field.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::keys::{SettingsFile, Usage};
use crate::{Error, Result};

/// A JSON object with its file, for messages.
#[derive(Clone)]
pub(crate) struct Fields {
    path: PathBuf,
    prefix: String,
    pub(super) object: Map<String, Value>,
    /// Whose keys these are, where there is a table of them.
    file: Option<SettingsFile>,
}

impl Fields {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = vila_files::read_to_string(path, vila_files::MAX_CONFIG).map_err(Error::io(path))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::format(path, format!("not valid JSON: {error}; restore the file")))?;
        Self::from_value(path, value).ok_or_else(|| Error::format(path, "expected a JSON object at the top level"))
    }

    /// A value that stands for a part of the file `path`, if it is an object.
    pub(crate) fn from_value(path: &Path, value: Value) -> Option<Self> {
        match value {
            Value::Object(object) => {
                Some(Fields { path: path.to_path_buf(), prefix: String::new(), object, file: None })
            }
            _ => None,
        }
    }

    /// As [`Fields::read`], of a file whose keys are known.
    pub(crate) fn read_as(path: &Path, file: SettingsFile) -> Result<Self> {
        Self::read(path)?.known_as(file)
    }

    /// Refuses keys that would be read over and warns of unknown ones; from then on, only keys that the file's table lists as
    /// read may be read.
    pub(super) fn known_as(self, file: SettingsFile) -> Result<Self> {
        file.check(&self.path, self.entries()).map_err(|(key, problem)| self.error(key, problem))?;
        Ok(Fields { file: Some(file), ..self })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn into_object(self) -> Map<String, Value> {
        self.object
    }

    /// The same object without a field.
    pub(crate) fn without(&self, field: &str) -> Self {
        let mut rest = self.clone();
        rest.object.remove(field);
        rest
    }

    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::Config { path: self.path.clone(), field: format!("{}{field}", self.prefix), problem: problem.into() }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        debug_assert!(
            self.file.is_none_or(|file| file.usage(field) == Some(Usage::Read)),
            "`{field}` is missing in the table of keys that are read"
        );
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.object.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn child(&self, field: &str) -> Result<Option<Fields>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                let prefix = format!("{}{field}.", self.prefix);
                Ok(Some(Fields { path: self.path.clone(), prefix, object: object.clone(), file: None }))
            }
            Some(_) => Err(self.error(field, "must be an object")),
        }
    }

    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(field) else { return Ok(default) };
        // Larger values are a damaged file, not a model; they would only overflow later.
        match value.as_u64() {
            Some(value) if value > 0 && value < 1 << 24 => Ok(value as usize),
            _ => Err(self.error(field, format!("is {value}, expected a positive integer"))),
        }
    }

    pub(crate) fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.error(field, format!("is {value}, expected a number"))),
        }
    }

    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.error(field, format!("is {value}, expected true or false")))
            }
        }
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.error(field, format!("is {value}, expected a string"))),
        }
    }

    pub(super) fn token_ids(&self, field: &str) -> Vec<u32> {
        match self.get(field) {
            Some(Value::Array(ids)) => {
                ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect()
            }
            _ => self.token_id(field).into_iter().collect(),
        }
    }

    pub(super) fn token_id(&self, field: &str) -> Option<u32> {
        self.get(field).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
    }
}

/// Number of blocks; a larger one is a damaged file.
pub(super) fn layer_count(fields: &Fields, default: usize) -> Result<usize> {
    let layers = fields.size_or("num_hidden_layers", default)?;
    if layers <= 1024 {
        Ok(layers)
    } else {
        Err(fields.error("num_hidden_layers", format!("is {layers}, at most 1024")))
    }
}
