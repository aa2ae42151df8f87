//! MMBench: circular evaluation. A question is asked once per rotation of its options (`index`, `index + 1000000`,
//! ...) and is right if every rotation is. Options are read as the public evaluator does without a judge; an answer
//! that names none is wrong and counted.
//!
//! Predictions are the workbook for the server (XLSX) or JSON records; references the published table (TSV) or JSON records
//! with the same columns. Every row needs a prediction.

use std::path::Path;
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde_json::{Map, Value, json};

use super::{MetricFiles, Report};
use crate::evaluation::files::{ById, Record, Repeated, join, read_records};
use crate::evaluation::python::split;
use crate::evaluation::table::{read_table, read_workbook};
use crate::{Error, Result};

/// Rotations of question `i` have the indices `i + k * ROTATION`.
const ROTATION: u64 = 1_000_000;

const REFUSALS: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];
/// What stands in for an answer that an API did not give.
const NO_ANSWER: &str = "Failed to obtain answer via API";

/// The option that an answer names, as VLMEvalKit reads it without a judge: the only letter among its words if it is one of
/// the last four, else a letter after `answer is`, else the only option whose text it has.
pub fn infer_option(answer: &str, options: &[(char, String)]) -> Option<char> {
    static SENTENCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**").expect("a pattern"));
    if answer.contains(NO_ANSWER) {
        return infer_text(answer, options);
    }
    if REFUSALS.iter().any(|refusal| answer.contains(refusal)) {
        return None;
    }
    let words = answer.replace(['.', '(', ')', '[', ']', ',', ':', ';', '!', '*', '#', '{', '}'], " ");
    let words: Vec<&str> = split(&words).collect();
    let place = |letter: char| words.iter().position(|word| word.chars().eq([letter]));
    let named: Vec<(char, usize)> = options.iter().filter_map(|(letter, _)| Some((*letter, place(*letter)?))).collect();
    match named[..] {
        [(letter, place)] if place + 5 > words.len() => return Some(letter),
        // What the evaluator's judge writes for "none of them".
        [] if words.contains(&"Z") => return None,
        _ => {}
    }
    let group = SENTENCE.captures_iter(answer).next().and_then(|found| found.get_group(1));
    let letter = group.and_then(|group| answer[group.range()].chars().next()).map(|letter| letter.to_ascii_uppercase());
    letter.filter(|letter| options.iter().any(|(known, _)| known == letter)).or_else(|| infer_text(answer, options))
}

/// An answer much longer than the options says too much to name one.
fn infer_text(answer: &str, options: &[(char, String)]) -> Option<char> {
    let answer = answer.to_lowercase();
    let length: usize = options.iter().map(|(_, text)| text.chars().count()).sum();
    if answer.chars().count() > 2 * length {
        return None;
    }
    let mut named = options.iter().filter(|(_, text)| answer.contains(&text.to_lowercase()));
    match (named.next(), named.next()) {
        (Some((letter, _)), None) => Some(*letter),
        _ => None,
    }
}

fn option(record: &Record, letter: char) -> Option<(char, String)> {
    record.text(&[&letter.to_string()]).ok().filter(|text| !is_missing(text)).map(|text| (letter, text))
}

/// The options of a row that a prompt shows: letters from A until the first column that is empty.
pub(crate) fn options(record: &Record) -> Vec<(char, String)> {
    ('A'..='D').map_while(|letter| option(record, letter).filter(|(_, text)| !is_none(text))).collect()
}

/// What pandas, with which the authors read tables, takes for nothing.
pub(crate) fn is_missing(text: &str) -> bool {
    const MISSING: [&str; 19] = [
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
        "NULL", "NaN", "None", "n/a", "nan", "null",
    ];
    MISSING.contains(&text)
}

/// What a prompt leaves out.
pub(crate) fn is_none(text: &str) -> bool {
    is_missing(text) || ["nan", "none"].contains(&text.to_lowercase().as_str())
}

/// Rows of a TSV, XLSX or JSON file.
pub(crate) fn read_rows(path: &Path) -> Result<Vec<Record>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("tsv") => read_table(path, '\t'),
        Some("xlsx") => read_workbook(path),
        _ => read_records(path, &["data"]),
    }
}

/// One rotation's outcome.
pub(crate) struct MmbenchRow {
    pub index: u64,
    pub category: String,
    pub named: Option<char>,
    pub right: bool,
}

pub(crate) fn index_of(record: &Record) -> Result<u64> {
    let index = record.id(&["index", "question_id"])?;
    index.parse().map_err(|_| record.error(&format!("index `{index}` is not a whole number")))
}

impl MmbenchRow {
    pub fn new(reference: &Record, answer: &str) -> Result<Self> {
        let options: Vec<_> = ('A'..='Z').filter_map(|letter| option(reference, letter)).collect();
        let named = infer_option(answer, &options);
        let right = reference.text(&["answer"])?;
        let category = reference.get("category").and_then(Value::as_str).unwrap_or("").to_owned();
        let right = named.is_some_and(|named| right.trim().chars().eq([named]));
        Ok(MmbenchRow { index: index_of(reference)?, category, named, right })
    }
}

pub(crate) fn mmbench_report(rows: &[MmbenchRow]) -> Report {
    let mut questions: Vec<(u64, &str, bool)> = Vec::new();
    for row in rows {
        let question = row.index % ROTATION;
        match questions.iter_mut().find(|(known, ..)| *known == question) {
            Some((.., right)) => *right &= row.right,
            None => questions.push((question, &row.category, row.right)),
        }
    }
    let share = |right: usize, total: usize| if total == 0 { 0.0 } else { right as f64 / total as f64 };
    let right = questions.iter().filter(|(.., right)| *right).count();
    let mut categories = Map::new();
    for (_, category, _) in &questions {
        let of = || questions.iter().filter(|(_, other, _)| other == category);
        categories
            .insert((*category).to_owned(), json!(share(of().filter(|(.., right)| *right).count(), of().count())));
    }
    let plain = share(rows.iter().filter(|row| row.right).count(), rows.len());
    Report::new("mmbench", share(right, questions.len()), "fraction of questions right in all rotations")
        .with("questions", questions.len())
        .with("rows", rows.len())
        .with("row_accuracy", plain)
        .with("unread_answers", rows.iter().filter(|row| row.named.is_none()).count())
        .with("categories", categories)
}

/// An answer; an empty cell is what pandas makes of it, so a wrong answer.
fn prediction(record: &Record) -> Result<String> {
    let fields = ["prediction", "text"];
    match record.any(&fields) {
        Err(_) if fields.iter().any(|field| record.fields().contains_key(*field)) => Ok("nan".to_owned()),
        _ => record.text(&fields),
    }
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let answers = read_rows(&files.predictions)?.into_iter();
    let answers = answers.map(|record| Ok((index_of(&record)?.to_string(), prediction(&record)?)));
    let answers = ById::new(answers.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.predictions)?;
    let references = read_rows(&files.references)?.into_iter();
    let references = references.map(|record| Ok((index_of(&record)?.to_string(), record)));
    let references = ById::new(references.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.references)?;
    let rows = join(&answers, &references, files.pair())?.into_iter();
    let rows = rows.map(|(_, answer, reference)| MmbenchRow::new(reference, answer)).collect::<Result<Vec<_>>>()?;
    match rows.is_empty() {
        true => Err(Error::Data(format!("{}: there are no rows", files.references.display()))),
        false => Ok(mmbench_report(&rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_then_texts() {
        let options = [('A', "a dog".to_owned()), ('B', "two cats".to_owned())];
        let cases = [
            ("A", Some('A')),
            ("(B)", Some('B')),
            ("The answer is B.", Some('B')),
            ("A or B", None),
            ("I see Two Cats", Some('B')),
            ("I see a dog and two cats", None),
            ("", None),
        ];
        for (answer, letter) in cases {
            assert_eq!(infer_option(answer, &options), letter, "{answer:?}");
        }
    }

    #[test]
    fn all_rotations_must_be_right() {
        let row = |index, right| MmbenchRow { index, category: "c".into(), named: Some('A'), right };
        let rows = [row(1, true), row(1_000_001, false), row(2, true), row(1_000_002, true)];
        let report = mmbench_report(&rows);
        assert_eq!((report.score(), report.json()["row_accuracy"].as_f64()), (0.5, Some(0.75)));
    }
}
