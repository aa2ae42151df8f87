//! Tables of values between tabs or commas, with quotes where a value has the separator, quotes or newlines.

use std::path::Path;

use calamine::{Data, Reader, Xlsx, XlsxError, open_workbook};
use serde_json::{Map, Value};

use super::files::{Record, read_text};
use crate::{Error, Result};

/// The rows of a table; nothing if a quote is never closed.
pub fn parse(text: &str, separator: char) -> Option<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut value = String::new();
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                value.push('"');
                rest.next();
            }
            '"' if quoted || value.is_empty() => quoted = !quoted,
            '\r' if !quoted && rest.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut value));
                rows.push(std::mem::take(&mut row));
            }
            c if c == separator && !quoted => row.push(std::mem::take(&mut value)),
            c => value.push(c),
        }
    }
    if !value.is_empty() || !row.is_empty() {
        row.push(value);
        rows.push(row);
    }
    rows.retain(|row| row.iter().any(|value| !value.is_empty()));
    (!quoted).then_some(rows)
}

/// Reads a table without a header.
pub fn read_rows(path: &Path, separator: char) -> Result<Vec<Vec<String>>> {
    parse(&read_text(path)?, separator)
        .ok_or_else(|| Error::Data(format!("{}: a quote is never closed; is the file whole?", path.display())))
}

/// Reads a table whose first row names the columns; empty values are null.
pub fn read_table(path: &Path, separator: char) -> Result<Vec<Record>> {
    records(path, read_rows(path, separator)?)
}

/// Reads the first sheet of a workbook (`.xlsx`), as [`read_table`] reads a text.
pub fn read_workbook(path: &Path) -> Result<Vec<Record>> {
    let explain = |problem: String| Error::Data(format!("{}: {problem}; is it a whole .xlsx file?", path.display()));
    let mut workbook: Xlsx<_> = open_workbook(path).map_err(|error: XlsxError| explain(error.to_string()))?;
    let sheet = workbook.worksheet_range_at(0).ok_or_else(|| explain("there is no sheet".into()))?;
    let sheet = sheet.map_err(|error| explain(error.to_string()))?;
    records(path, sheet.rows().map(|row| row.iter().map(Data::to_string).collect()).collect())
}

fn records(path: &Path, rows: Vec<Vec<String>>) -> Result<Vec<Record>> {
    let mut rows = rows.into_iter();
    let columns = rows.next().ok_or_else(|| Error::Data(format!("{}: the table is empty", path.display())))?;
    rows.enumerate()
        .map(|(index, row)| {
            let place = format!("{} row {}", path.display(), index + 2);
            if row.len() > columns.len() {
                return Err(Error::Data(format!("{place}: {} values for {} columns", row.len(), columns.len())));
            }
            let value = |text: String| if text.is_empty() { Value::Null } else { Value::String(text) };
            let values = row.into_iter().map(value).chain(std::iter::repeat(Value::Null));
            Record::new(place, Value::Object(columns.iter().cloned().zip(values).collect::<Map<_, _>>()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quotes_and_newlines() {
        let rows = parse("a,b\r\n\"x, \"\"y\"\"\n z\",5\"\n\nlast,", ',').expect("whole");
        assert_eq!(rows, [vec!["a", "b"], vec!["x, \"y\"\n z", "5\""], vec!["last", ""]]);
        assert_eq!(parse("\"open", ','), None);
    }
}
