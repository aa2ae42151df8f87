//! MMLU: the likeliest of the four letters, or the first letter of what was generated.
//!
//! Predictions are JSON lines with an id and `logprobs` (or `log_likelihoods`; four numbers in the order of the letters, or an
//! object by letter) or `text`. References are records with the same ids, `answer` (a letter or an index) and perhaps
//! `subject`, or the published folder of `SUBJECT_test.csv`, whose ids are `SUBJECT/ROW` from 0. Every question needs
//! a prediction.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{MetricFiles, Report, mean};
use crate::evaluation::files::{ById, Record, Repeated, files_in, join, read_records};
use crate::evaluation::python::strip;
use crate::evaluation::table;
use crate::{Error, Result};

pub(crate) const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

/// A question of a published table.
#[derive(Clone)]
pub(crate) struct MmluQuestion {
    pub id: String,
    pub subject: String,
    pub question: String,
    pub choices: [String; 4],
    pub answer: char,
}

/// The tables `SUBJECT_{split}.csv` of a folder or of its sub-folder of the split's name.
pub(crate) fn read_split(folder: &Path, split: &str) -> Result<Vec<MmluQuestion>> {
    let inner = folder.join(split);
    let suffix = format!("_{split}");
    let mut questions = Vec::new();
    for file in files_in(if inner.is_dir() { &inner } else { folder }, &["csv"])? {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let Some(subject) = stem.strip_suffix(&suffix) else { continue };
        for (row, values) in table::read_rows(&file, ',')?.into_iter().enumerate() {
            let place = || format!("{} row {}", file.display(), row + 1);
            let [question, a, b, c, d, answer] = <[String; 6]>::try_from(values).map_err(|values| {
                Error::Data(format!("{}: {} values; expected question, A, B, C, D, answer", place(), values.len()))
            })?;
            let answer = letter(&Value::String(answer))
                .ok_or_else(|| Error::Data(format!("{}: the answer is none of A, B, C, D", place())))?;
            let (id, subject) = (format!("{subject}/{row}"), subject.to_owned());
            questions.push(MmluQuestion { id, subject, question, choices: [a, b, c, d], answer });
        }
    }
    if questions.is_empty() {
        return Err(Error::Data(format!("{}: there are no files SUBJECT{suffix}.csv", folder.display())));
    }
    Ok(questions)
}

fn letter(value: &Value) -> Option<char> {
    match value {
        Value::String(text) => LETTERS.into_iter().find(|letter| strip(text).chars().eq([*letter])),
        Value::Number(index) => LETTERS.get(usize::try_from(index.as_u64()?).ok()?).copied(),
        _ => None,
    }
}

/// The letter of the largest value, the first among equals.
pub(crate) fn likeliest(logprobs: &[f64; 4]) -> char {
    let best = (1..4).fold(0, |best, index| if logprobs[index] > logprobs[best] { index } else { best });
    LETTERS[best]
}

/// One question's outcome: subject, by likelihood, by generation.
pub(crate) struct MmluRow {
    pub subject: String,
    pub by_likelihood: Option<bool>,
    pub by_text: Option<bool>,
}

impl MmluRow {
    pub fn new(subject: &str, answer: char, logprobs: Option<&[f64; 4]>, text: Option<&str>) -> Self {
        MmluRow {
            subject: subject.to_owned(),
            by_likelihood: logprobs.map(|logprobs| likeliest(logprobs) == answer),
            by_text: text.map(|text| strip(text).starts_with(answer)),
        }
    }

    fn right(&self) -> bool {
        self.by_likelihood.or(self.by_text).unwrap_or(false)
    }
}

/// Micro average; by likelihood where all rows have one.
pub(crate) fn mmlu_report(rows: &[MmluRow]) -> Report {
    let share = |right: &dyn Fn(&MmluRow) -> Option<bool>| {
        let known: Vec<f64> = rows.iter().filter_map(right).map(|right| f64::from(u8::from(right))).collect();
        (known.len() == rows.len()).then(|| mean(&known))
    };
    let mut subjects = Map::new();
    for row in rows {
        let of = rows.iter().filter(|other| other.subject == row.subject);
        let right: Vec<f64> = of.map(|row| f64::from(u8::from(row.right()))).collect();
        subjects.entry(row.subject.clone()).or_insert_with(|| json!(mean(&right)));
    }
    let report = Report::new("mmlu", share(&|row| Some(row.right())).unwrap_or(0.0), "fraction, micro average");
    report
        .with("by_likelihood", share(&|row| row.by_likelihood))
        .with("by_text", share(&|row| row.by_text))
        .with("questions", rows.len())
        .with("subjects", subjects)
}

fn logprobs(record: &Record) -> Result<Option<[f64; 4]>> {
    let Ok(value) = record.any(&["logprobs", "log_likelihoods", "loglikelihoods", "scores"]) else { return Ok(None) };
    let numbers: Option<Vec<f64>> = match value {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).collect(),
        Value::Object(by_letter) => {
            LETTERS.iter().map(|letter| by_letter.get(letter.to_string().as_str())?.as_f64()).collect()
        }
        _ => None,
    };
    let four = numbers.and_then(|numbers| <[f64; 4]>::try_from(numbers).ok());
    four.map(Some).ok_or_else(|| record.error("field `logprobs` must hold four numbers, for A, B, C and D"))
}

const ID: [&str; 2] = ["id", "question_id"];

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let predictions = read_records(&files.predictions, &[])?.into_iter().map(|record| Ok((record.id(&ID)?, record)));
    let predictions = ById::new(predictions.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.predictions)?;
    let references: Vec<(String, (String, char))> = if files.references.is_dir() {
        let questions = read_split(&files.references, "test")?.into_iter();
        questions.map(|question| (question.id, (question.subject, question.answer))).collect()
    } else {
        let records = read_records(&files.references, &["data"])?;
        let reference = |record: &Record| {
            let answer = letter(record.any(&["answer"])?)
                .ok_or_else(|| record.error("field `answer` must be one of A, B, C, D or an index from 0 to 3"))?;
            let subject = record.get("subject").and_then(Value::as_str).unwrap_or("").to_owned();
            Ok((record.id(&ID)?, (subject, answer)))
        };
        records.iter().map(reference).collect::<Result<_>>()?
    };
    let references = ById::new(references, Repeated::Refused, &files.references)?;
    let row = |(_, prediction, (subject, answer)): (&str, &Record, &(String, char))| {
        let (logprobs, text) = (logprobs(prediction)?, prediction.text(&["text", "prediction"]).ok());
        if logprobs.is_none() && text.is_none() {
            return Err(prediction.error("neither `logprobs` nor `text` is here"));
        }
        Ok(MmluRow::new(subject, *answer, logprobs.as_ref(), text.as_deref()))
    };
    let rows = join(&predictions, &references, files.pair())?.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(mmlu_report(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_before_text() {
        let rows = [
            MmluRow::new("law", 'B', Some(&[-3.0, -1.0, -1.0, -2.0]), Some(" C")),
            MmluRow::new("law", 'C', Some(&[-3.0, -1.0, -1.0, -2.0]), Some(" C")),
        ];
        let report = mmlu_report(&rows).json();
        assert_eq!((report["score"].as_f64(), report["by_text"].as_f64()), (Some(0.5), Some(0.5)));
    }
}
