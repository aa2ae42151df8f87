//! The smallest workbook that spreadsheet programs and pandas read: one sheet, values only.

/// A value of a sheet.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// A number.
    Number(f64),
    /// True or false.
    Boolean(bool),
    /// A text.
    Text(String),
}

const CONTENT_TYPES: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/>
<Override PartName="/xl/workbook.xml"
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>
<Override PartName="/xl/worksheets/sheet1.xml"
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>
</Types>"#;
const PACKAGE: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rId1"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="xl/workbook.xml"/>
</Relationships>"#;
const WORKBOOK: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">
<sheets>
<sheet name="Sheet1" sheetId="1" r:id="rId1"/>
</sheets>
</workbook>"#;
const WORKBOOK_PARTS: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="rId1"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"
Target="worksheets/sheet1.xml"/>
</Relationships>"#;

/// The bytes of a workbook with these rows.
pub fn workbook(rows: &[Vec<Cell>]) -> Vec<u8> {
    archive(&[
        ("[Content_Types].xml", CONTENT_TYPES),
        ("_rels/.rels", PACKAGE),
        ("xl/workbook.xml", WORKBOOK),
        ("xl/_rels/workbook.xml.rels", WORKBOOK_PARTS),
        ("xl/worksheets/sheet1.xml", &sheet(rows)),
    ])
}

fn sheet(rows: &[Vec<Cell>]) -> String {
    let mut xml = String::from(r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>"#);
    xml += "\n<worksheet xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\"><sheetData>";
    for (number, row) in rows.iter().enumerate() {
        let number = number + 1;
        xml += &format!("<row r=\"{number}\">");
        for (column, cell) in row.iter().enumerate() {
            let place = column_name(column) + &number.to_string();
            match cell {
                Cell::Empty => {}
                Cell::Number(value) => xml += &format!("<c r=\"{place}\"><v>{value}</v></c>"),
                Cell::Boolean(value) => {
                    xml += &format!("<c r=\"{place}\" t=\"b\"><v>{}</v></c>", u8::from(*value));
                }
                Cell::Text(text) => {
                    let text = escape(text);
                    xml +=
                        &format!("<c r=\"{place}\" t=\"inlineStr\"><is><t xml:space=\"preserve\">{text}</t></is></c>");
                }
            }
        }
        xml += "</row>";
    }
    xml + "</sheetData></worksheet>"
}

/// A, B, ..., Z, AA, ...
fn column_name(mut column: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'A' + (column % 26) as u8));
        if column < 26 {
            return letters.iter().rev().collect();
        }
        column = column / 26 - 1;
    }
}

/// Control characters have no place in XML.
fn escape(text: &str) -> String {
    let allowed = text.chars().filter(|&c| c >= ' ' || matches!(c, '\t' | '\n' | '\r'));
    allowed.collect::<String>().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#13;")
}

/// A zip archive of stored files. Their sizes fit 32 bits: the largest sheet published has some megabytes.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let offset = bytes.len() as u32;
        let (size, crc) = (content.len() as u32, crc32fast::hash(content.as_bytes()));
        let mut entry = Vec::new();
        // Version 2.0, no flags, stored, at the first day that the format knows.
        entry.extend([20u16, 0, 0, 0, 33].iter().flat_map(|word| word.to_le_bytes()));
        entry.extend([crc, size, size].iter().flat_map(|word| word.to_le_bytes()));
        entry.extend([name.len() as u16, 0].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&entry);
        bytes.extend(name.as_bytes());
        bytes.extend(content.as_bytes());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&entry);
        directory.extend([0u8; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (count, start, length) = (files.len() as u16, bytes.len() as u32, directory.len() as u32);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
    bytes.extend([count, count].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([length, start].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([0u8; 2]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::column_name;

    #[test]
    fn column_names() {
        assert_eq!([0, 25, 26, 701, 702].map(column_name), ["A", "Z", "AA", "ZZ", "AAA"]);
    }
}
