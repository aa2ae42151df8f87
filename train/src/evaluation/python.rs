//! What Python's standard library writes and reads, where files must be the same to the byte.

use serde_json::Value;

/// White space of Python's `str.split` and `str.strip`.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `text.split()`.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Python's `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `float(text)`.
pub fn float(text: &str) -> Option<f64> {
    let text = strip(text);
    if !text.contains('_') {
        return text.parse().ok();
    }
    // Underscores may stand between digits.
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let between = (0..bytes.len()).filter(|&i| bytes[i] == b'_').all(|i| digit(i.checked_sub(1)) && digit(Some(i + 1)));
    if between { text.replace('_', "").parse().ok() } else { None }
}

/// Python's `repr(x)`.
pub fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan".into()
        } else if x > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent if x != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// Python's `json.dumps(value)`: a space behind commas and colons, nothing beyond ASCII.
pub fn dumps(value: &Value) -> String {
    let mut text = String::new();
    write(value, None, &mut text);
    text
}

/// Python's `json.dumps(value, indent=indent)`.
pub fn dumps_indented(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    write(value, Some((indent, 0)), &mut text);
    text
}

/// `indent` is the step and the depth, if lines are broken.
fn write(value: &Value, indent: Option<(usize, usize)>, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Number(number) if number.is_f64() => out.push_str(&float_repr(number.as_f64().unwrap_or(f64::NAN))),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => enclose('[', ']', items.iter(), indent, out, |item, indent, out| {
            write(item, indent, out);
        }),
        Value::Object(fields) => enclose('{', '}', fields.iter(), indent, out, |(name, value), indent, out| {
            write_text(name, out);
            out.push_str(": ");
            write(value, indent, out);
        }),
    }
}

fn enclose<T>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = T>,
    indent: Option<(usize, usize)>,
    out: &mut String,
    item: impl Fn(T, Option<(usize, usize)>, &mut String),
) {
    out.push(open);
    let empty = items.len() == 0;
    let inner = indent.map(|(step, depth)| (step, depth + 1));
    for (index, value) in items.enumerate() {
        match inner {
            Some(inner) => {
                out.push_str(if index > 0 { "," } else { "" });
                new_line(inner, out);
            }
            None => out.push_str(if index > 0 { ", " } else { "" }),
        }
        item(value, inner, out);
    }
    if let Some(indent) = indent.filter(|_| !empty) {
        new_line(indent, out);
    }
    out.push(close);
}

fn new_line((step, depth): (usize, usize), out: &mut String) {
    out.push('\n');
    out.push_str(&" ".repeat(step * depth));
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if !(' '..='\u{7e}').contains(&c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn floats() {
        let cases = [
            (3000.0, "3000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
        ];
        assert!(cases.iter().all(|(x, text)| float_repr(*x) == *text));
        assert_eq!((float("1_000"), float("1__0"), float(" 2. "), float("x")), (Some(1000.0), None, Some(2.0), None));
    }

    #[test]
    fn texts_and_indents() {
        let value = json!({"a": [1, 2.5], "b": "é\u{1f600}\"\u{7f}", "c": [], "d": {}});
        assert_eq!(dumps(&value), r#"{"a": [1, 2.5], "b": "\u00e9\ud83d\ude00\"\u007f", "c": [], "d": {}}"#);
        let indented = "{\n  \"a\": [\n    1\n  ],\n  \"c\": []\n}";
        assert_eq!(dumps_indented(&json!({"a": [1], "c": []}), 2), indented);
    }
}
