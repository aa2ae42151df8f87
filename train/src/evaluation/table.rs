//! Tables of values between tabs or commas, with quotes where a value has the separator, quotes or newlines.

use std::fmt::Display;
use std::io::{self, Cursor, Read};
use std::path::Path;

use calamine::{Data, Reader, Xlsx, XlsxError};
use serde_json::{Map, Value};
use zip::ZipArchive;

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

/// Most bytes of a workbook, of its unpacked parts, and of the texts of its cells.
const MAX_WORKBOOK: u64 = 128 << 20;
/// Most places of a sheet between its first and last used cell.
const MAX_CELLS: usize = 4 << 20;

/// Reads the first sheet of a workbook (`.xlsx`), as [`read_table`] reads a text.
pub fn read_workbook(path: &Path) -> Result<Vec<Record>> {
    let bytes = vila_files::read(path, MAX_WORKBOOK).map_err(Error::io(path))?;
    let rows = check_unpacked(&bytes).and_then(|()| first_sheet(&bytes));
    records(path, rows.map_err(|problem| Error::Data(format!("{}: {problem}", path.display())))?)
}

/// A damaged workbook, in the words of whoever noticed.
fn damaged(problem: impl Display) -> String {
    format!("{problem}; is it a whole .xlsx file?")
}

/// Unpacks every part into nothing: what a workbook claims of its size is not what it has.
fn check_unpacked(bytes: &[u8]) -> std::result::Result<(), String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut left = MAX_WORKBOOK;
    for index in 0..archive.len() {
        let part = archive.by_index(index).map_err(damaged)?;
        left -= io::copy(&mut part.take(left), &mut io::sink()).map_err(damaged)?;
        if left == 0 {
            return Err(format!("unpacks to more than {MAX_WORKBOOK} bytes; save the first sheet alone"));
        }
    }
    Ok(())
}

/// The rows of the first sheet, from its first used cell to its last one.
fn first_sheet(bytes: &[u8]) -> std::result::Result<Vec<Vec<String>>, String> {
    let mut workbook = Xlsx::new(Cursor::new(bytes)).map_err(|error: XlsxError| damaged(error))?;
    let name = workbook.sheet_names().first().cloned().ok_or_else(|| damaged("there is no sheet"))?;
    let mut reader = workbook.worksheet_cells_reader(&name).map_err(damaged)?;
    let (mut cells, mut text_bytes) = (Vec::new(), 0);
    while let Some(cell) = reader.next_cell().map_err(damaged)? {
        let (row, column) = cell.get_position();
        let text = Data::from(cell.get_value().clone()).to_string();
        text_bytes += text.len() as u64;
        if text_bytes > MAX_WORKBOOK {
            return Err(format!("has more than {MAX_WORKBOOK} bytes of text; split it"));
        }
        if !text.is_empty() {
            cells.push((row as usize, column as usize, text));
        }
    }
    grid(cells)
}

/// Lays cells out in the rectangle that they span.
fn grid(cells: Vec<(usize, usize, String)>) -> std::result::Result<Vec<Vec<String>>, String> {
    let span = |at: fn(&(usize, usize, String)) -> usize| {
        let first = cells.iter().map(at).min().unwrap_or(0);
        (first, cells.iter().map(|cell| at(cell) + 1 - first).max().unwrap_or(0))
    };
    let ((top, rows), (left, columns)) = (span(|cell| cell.0), span(|cell| cell.1));
    if rows.saturating_mul(columns) > MAX_CELLS {
        let problem = "used cells far from the others; remove them, or save the table as .tsv";
        return Err(format!("spans {rows} rows and {columns} columns, more than {MAX_CELLS} cells: it has {problem}"));
    }
    let mut grid = vec![vec![String::new(); columns]; rows];
    for (row, column, text) in cells {
        grid[row - top][column - left] = text;
    }
    Ok(grid)
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
    use std::io::Write;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::xlsx::{Cell, workbook};
    use super::*;

    #[test]
    fn quotes_and_newlines() {
        let rows = parse("a,b\r\n\"x, \"\"y\"\"\n z\",5\"\n\nlast,", ',').expect("whole");
        assert_eq!(rows, [vec!["a", "b"], vec!["x, \"y\"\n z", "5\""], vec!["last", ""]]);
        assert_eq!(parse("\"open", ','), None);
    }

    /// A workbook whose sheet is `edit`ed, and compressed.
    fn edited(edit: impl Fn(String) -> String) -> Vec<u8> {
        let whole = workbook(&[vec![Cell::Text("index".into())], vec![Cell::Number(7.0)]]);
        let mut parts = ZipArchive::new(Cursor::new(whole)).expect("archive");
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for index in 0..parts.len() {
            let mut part = parts.by_index(index).expect("part");
            let (name, mut text) = (part.name().expect("name").into_owned(), String::new());
            part.read_to_string(&mut text).expect("text");
            archive.start_file(name.as_str(), SimpleFileOptions::default()).expect("part");
            let text = if name.contains("sheet1") { edit(text) } else { text };
            archive.write_all(text.as_bytes()).expect("part");
        }
        archive.finish().expect("archive").into_inner()
    }

    #[test]
    fn workbooks_that_ask_for_more_than_they_hold() {
        let rows = |bytes: &[u8]| check_unpacked(bytes).and_then(|()| first_sheet(bytes));
        assert_eq!(rows(&edited(|sheet| sheet)).expect("whole"), [["index"], ["7"]]);
        let far =
            edited(|sheet| sheet.replace("</sheetData>", "<row><c r=\"XFD1048576\"><v>1</v></c></row></sheetData>"));
        assert!(far.len() < 2000 && rows(&far).expect_err("far").contains("spans 1048576 rows and 16384 columns"));
        let bomb = edited(|sheet| sheet + &" ".repeat(MAX_WORKBOOK as usize));
        assert!(bomb.len() < 1 << 20 && rows(&bomb).expect_err("bomb").contains("unpacks to more than"));
        let text = "x".repeat(1 << 20);
        let cell = format!("<c r=\"A3\" t=\"inlineStr\"><is><t>{text}</t></is></c>");
        let many = edited(|sheet| sheet.replace("</sheetData>", &(cell.repeat(100) + "</sheetData>")));
        assert_eq!(rows(&many).expect("many").len(), 3);
        assert!(rows(&edited(|_| "<worksheet/>".into())).is_err() && rows(b"PK").is_err() && rows(b"").is_err());
    }
}
