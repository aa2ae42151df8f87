//! JSON as other programs write it.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

/// Fields under which files of one object keep their records.
const WRAPPERS: [&str; 9] =
    ["data", "records", "examples", "items", "rows", "samples", "questions", "prompts", "train"];

/// Parses a record. `NaN` and `Infinity` count as null, half a surrogate as U+FFFD: both are written by common programs, and
/// mostly stand in fields that nobody reads.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let first = match serde_json::from_slice(json) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let repaired = repair(json);
    let error = match &repaired {
        Cow::Borrowed(_) => first,
        Cow::Owned(repaired) => match serde_json::from_slice(repaired) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
    };
    Err(wrapped(&repaired).unwrap_or(error))
}

/// What to say where a whole file came in place of a record.
pub(crate) fn wrapped(json: &[u8]) -> Option<serde_json::Error> {
    let field = wrapper(json)?;
    Some(serde_json::Error::custom(format!(
        "the file is one object with its records under `{field}`; take them out, for example with jq -c '.{field}[]'"
    )))
}

/// The field that holds a list of objects, where a whole file came in place of a record.
fn wrapper(json: &[u8]) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(json) else { return None };
    let lists = |value: &Value| value.as_array().is_some_and(|list| list.first().is_some_and(Value::is_object));
    fields.into_iter().find(|(name, value)| WRAPPERS.contains(&name.as_str()) && lists(value)).map(|(name, _)| name)
}

/// The text with what strict JSON lacks replaced.
fn repair(json: &[u8]) -> Cow<'_, [u8]> {
    let mut made = Vec::new();
    let (mut at, mut copied) = (0, 0);
    while at < json.len() {
        let (found, with): (usize, &[u8]) = match json[at] {
            b'"' => {
                at = string_end(json, at, &mut made, &mut copied);
                continue;
            }
            _ => match ["-Infinity", "Infinity", "NaN"].iter().find(|word| json[at..].starts_with(word.as_bytes())) {
                Some(word) => (word.len(), b"null"),
                None => {
                    at += 1;
                    continue;
                }
            },
        };
        made.extend_from_slice(&json[copied..at]);
        made.extend_from_slice(with);
        at += found;
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    made.extend_from_slice(&json[copied..]);
    Cow::Owned(made)
}

/// Passes over a string that begins at `at`, and replaces halves of surrogates in it; returns what comes after it.
fn string_end(json: &[u8], mut at: usize, made: &mut Vec<u8>, copied: &mut usize) -> usize {
    at += 1;
    while at < json.len() {
        match json[at] {
            b'"' => return at + 1,
            b'\\' => match surrogate(&json[at..]) {
                Some(0xD800..0xDC00)
                    if matches!(surrogate(json.get(at + 6..).unwrap_or_default()), Some(0xDC00..0xE000)) =>
                {
                    at += 12;
                }
                Some(_) => {
                    made.extend_from_slice(&json[*copied..at]);
                    made.extend_from_slice(b"\\uFFFD");
                    at += 6;
                    *copied = at;
                }
                None => at += 2,
            },
            _ => at += 1,
        }
    }
    at
}

/// The value of an escaped surrogate at the beginning of `json`.
fn surrogate(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let value = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..0xE000).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_numbers_are_null_and_halves_are_replaced() {
        let value: Value =
            parse(br#"{"a": NaN, "b": -Infinity, "c": "NaN \ud800 \\ud800 \ud83d\ude00 \"", "d": [1, Infinity]}"#)
                .expect("repaired");
        assert!(value["a"].is_null() && value["b"].is_null() && value["d"][1].is_null());
        assert_eq!(value["c"], "NaN \u{FFFD} \\ud800 \u{1F600} \"");
        assert!(parse::<Value>(b"{\"a\": nan}").is_err());
    }

    #[test]
    fn a_wrapped_list_is_named_with_its_cure() {
        #[derive(Debug, serde::Deserialize)]
        struct Record {
            #[expect(dead_code, reason = "only whether it is there matters")]
            text: String,
        }
        let error = parse::<Record>(br#"{"version": 1, "data": [{"text": "a"}]}"#).expect_err("wrapped").to_string();
        assert!(error.contains("`data`") && error.contains("jq -c '.data[]'"), "{error}");
    }
}
