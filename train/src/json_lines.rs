//! Files of JSON lines.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The values of a file with their line numbers; blank lines are passed over.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    parse_lines(&std::fs::read_to_string(path).map_err(Error::io(path))?, path)
}

/// As [`read_lines`], of a text; `path` names it in messages.
pub(crate) fn parse_lines<T: DeserializeOwned>(text: &str, path: &Path) -> Result<Vec<(usize, T)>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line)| match serde_json::from_str(line) {
        Ok(value) => Ok((index + 1, value)),
        Err(error) => {
            let (whole, line) = (error.to_string(), index + 1);
            // Its place is within the line.
            let problem = whole.split(" at line 1 column").next().unwrap_or(&whole);
            Err(Error::Data(format!("{} line {line} column {}: {problem}", path.display(), error.column())))
        }
    };
    lines.map(parse).collect()
}
