//! The official VQA evaluator (v2): percent, rounded to two digits, by question and answer type too.
//!
//! Results and annotations must have the same question ids; of several results or annotations for one question the last
//! counts, as often as there are annotations, as in the evaluator.

use serde_json::{Map, Value, json};

use super::vqa_text::{official_normalize, on_one_line};
use super::{MetricFiles, Report, mean, round2};
use crate::evaluation::files::{ById, Record, Repeated, join, read_records};
use crate::{Error, Result};

/// One human answer. The evaluator compares a human with all records that are not equal to the own one, so equal
/// records vanish together.
#[derive(PartialEq)]
struct Human {
    answer: String,
    rest: Map<String, Value>,
}

/// What humans answered to one question.
pub(crate) struct VqaReference {
    humans: Vec<Human>,
    question_type: String,
    answer_type: String,
}

impl VqaReference {
    pub fn read(annotation: &Record) -> Result<Self> {
        let human = |record: Record| {
            let mut rest = record.fields().clone();
            rest.shift_remove("answer");
            Ok(Human { answer: on_one_line(&record.text(&["answer"])?), rest })
        };
        let humans = annotation.records("answers")?.into_iter().map(human).collect::<Result<Vec<_>>>()?;
        if humans.is_empty() {
            return Err(annotation.error("field `answers` is empty"));
        }
        let kind = |field| annotation.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(VqaReference { humans, question_type: kind("question_type"), answer_type: kind("answer_type") })
    }

    /// Mean over the humans of how many of the others agree with `answer`, three being enough.
    pub fn accuracy(&self, answer: &str) -> f64 {
        let disagree = self.humans.iter().any(|human| human.answer != self.humans[0].answer);
        let normalize = |answer: &str| if disagree { official_normalize(answer) } else { answer.to_owned() };
        let answer = normalize(&on_one_line(answer));
        let normalized = |human: &Human| Human { answer: normalize(&human.answer), rest: human.rest.clone() };
        let humans: Vec<Human> = self.humans.iter().map(normalized).collect();
        let agreement = |human: &Human| {
            let others = humans.iter().filter(|other| *other != human);
            (others.filter(|other| other.answer == answer).count() as f64 / 3.0).min(1.0)
        };
        mean(&humans.iter().map(agreement).collect::<Vec<_>>())
    }
}

/// Accuracies by the value of a key, in order of appearance.
fn percent_by<'a>(rows: impl Iterator<Item = (&'a str, f64)>) -> Map<String, Value> {
    let mut groups: Vec<(&str, Vec<f64>)> = Vec::new();
    for (key, accuracy) in rows {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, accuracies)) => accuracies.push(accuracy),
            None => groups.push((key, vec![accuracy])),
        }
    }
    groups.into_iter().map(|(key, accuracies)| (key.to_owned(), json!(percent(&accuracies)))).collect()
}

/// In the evaluator's order of operations, so that the last bit before rounding is its own.
fn percent(accuracies: &[f64]) -> f64 {
    round2(100.0 * accuracies.iter().sum::<f64>() / accuracies.len() as f64)
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let results = read_records(&files.predictions, &[])?;
    let results = results.iter().map(|result| Ok((result.id(&["question_id"])?, result.text(&["answer"])?)));
    let results = ById::new(results.collect::<Result<Vec<_>>>()?, Repeated::LastWins, &files.predictions)?;
    let annotations = read_records(&files.references, &["annotations"])?;
    let references =
        annotations.iter().map(|annotation| Ok((annotation.id(&["question_id"])?, VqaReference::read(annotation)?)));
    let references = ById::new(references.collect::<Result<Vec<_>>>()?, Repeated::LastWins, &files.references)?;
    if references.is_empty() {
        return Err(Error::Data(format!("{}: there are no annotations", files.references.display())));
    }
    join(&results, &references, files.pair())?;
    // An annotation that is there twice counts twice.
    let row = |annotation: &Record| {
        let id = annotation.id(&["question_id"])?;
        Ok(results.get(&id).zip(references.get(&id)).map(|(answer, reference)| (reference, reference.accuracy(answer))))
    };
    let rows = annotations.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(vqa_report(&rows.into_iter().flatten().collect::<Vec<_>>()))
}

/// The accuracies of answered questions together.
pub(crate) fn vqa_report(rows: &[(impl std::borrow::Borrow<VqaReference>, f64)]) -> Report {
    let accuracies: Vec<f64> = rows.iter().map(|(_, accuracy)| *accuracy).collect();
    let by = |key: fn(&VqaReference) -> &str| {
        percent_by(rows.iter().map(|(reference, accuracy)| (key(reference.borrow()), *accuracy)))
    };
    Report::new("vqa", percent(&accuracies), "percent")
        .with("questions", rows.len())
        .with("per_question_type", by(|reference| &reference.question_type))
        .with("per_answer_type", by(|reference| &reference.answer_type))
}
