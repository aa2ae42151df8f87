//! POPE: does the model see objects that are not there?
//!
//! Predictions join labels by category and id (ids start again in each category's file), or by id alone: where ids come
//! several times, the n-th answer with an id belongs to the n-th label with it, and answers without ids, as POPE's own
//! script takes them, come in the order of the labels; both must ask the label's question. With a question file, as the
//! authors use it, answers join questions by id, and the n-th question of a category has the n-th label of the category's
//! file. Every label needs an answer.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{MetricFiles, Report, mean};
use crate::evaluation::files::{ById, Record, Repeated, files_in, join, numbered, read_records};
use crate::{Error, Result};

/// Whether an answer counts as yes: unless the text before the first period has the word `No`, `no` or `not`.
pub fn pope_says_yes(answer: &str) -> bool {
    let sentence = answer.split('.').next().unwrap_or("").replace(',', "");
    !sentence.split(' ').any(|word| matches!(word, "No" | "no" | "not"))
}

/// Answers against labels, "yes" being positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Yes, rightly.
    pub true_positives: usize,
    /// Yes, wrongly.
    pub false_positives: usize,
    /// No, rightly.
    pub true_negatives: usize,
    /// No, wrongly.
    pub false_negatives: usize,
}

impl Confusion {
    /// Counts one answer.
    pub fn add(&mut self, said_yes: bool, is_yes: bool) {
        *match (said_yes, is_yes) {
            (true, true) => &mut self.true_positives,
            (true, false) => &mut self.false_positives,
            (false, false) => &mut self.true_negatives,
            (false, true) => &mut self.false_negatives,
        } += 1;
    }

    fn said_yes(&self) -> usize {
        self.true_positives + self.false_positives
    }

    fn total(&self) -> usize {
        self.said_yes() + self.true_negatives + self.false_negatives
    }

    fn precision(&self) -> f64 {
        share(self.true_positives, self.said_yes())
    }

    fn recall(&self) -> f64 {
        share(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// Harmonic mean of precision and recall; 0 where both are.
    pub fn f1(&self) -> f64 {
        let (precision, recall) = (self.precision(), self.recall());
        if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
    }

    fn json(&self) -> Value {
        json!({
            "f1": self.f1(),
            "accuracy": share(self.true_positives + self.true_negatives, self.total()),
            "precision": self.precision(),
            "recall": self.recall(),
            "yes_ratio": share(self.said_yes(), self.total()),
            "tp": self.true_positives,
            "fp": self.false_positives,
            "tn": self.true_negatives,
            "fn": self.false_negatives,
        })
    }
}

/// 0 of nothing, which the official script would divide by.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// One metric per category and their means.
pub(crate) fn pope_report(rows: impl IntoIterator<Item = (String, bool, bool)>) -> Report {
    let mut categories: Vec<(String, Confusion)> = Vec::new();
    for (category, said_yes, is_yes) in rows {
        let place = categories.iter().position(|(known, _)| *known == category).unwrap_or_else(|| {
            categories.push((category, Confusion::default()));
            categories.len() - 1
        });
        categories[place].1.add(said_yes, is_yes);
    }
    let parts: Vec<Value> = categories.iter().map(|(_, confusion)| confusion.json()).collect();
    let mean_of = |field: &str| mean(&parts.iter().filter_map(|part| part[field].as_f64()).collect::<Vec<_>>());
    let report = Report::new("pope", mean_of("f1"), "fraction");
    let report = ["accuracy", "precision", "recall", "f1", "yes_ratio"]
        .iter()
        .fold(report, |report, field| report.with(field, mean_of(field)));
    let by_name: serde_json::Map<String, Value> = categories.into_iter().map(|(name, _)| name).zip(parts).collect();
    report.with("categories", by_name)
}

/// A label: yes or no, in any case.
pub(crate) fn label(record: &Record) -> Result<bool> {
    match record.text(&["label", "answer"])?.trim().to_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(record.error(&format!("label `{other}` is neither yes nor no"))),
    }
}

/// The category that a record or the name of its file (`coco_pope_CATEGORY.json`) says.
pub(crate) fn category(record: &Record, file: &Path) -> Option<String> {
    let of_file = || {
        let stem = file.file_stem()?.to_str()?;
        stem.find("pope_").map(|at| stem[at + "pope_".len()..].to_owned())
    };
    record.get("category").and_then(Value::as_str).map(str::to_owned).or_else(of_file)
}

struct Label {
    category: String,
    id: String,
    yes: bool,
    question: Option<String>,
}

/// The lines of a file or of a folder's files.
fn labels(path: &Path) -> Result<Vec<Label>> {
    let mut labels = Vec::new();
    for file in files_in(path, &["json", "jsonl"])? {
        for record in read_records(&file, &[])? {
            labels.push(Label {
                category: category(&record, &file).unwrap_or_default(),
                id: record.id(&["question_id"])?,
                yes: label(&record)?,
                question: record.text(&["text"]).ok(),
            });
        }
    }
    Ok(labels)
}

/// The id of each question in the order of the labels: the n-th of a category has the category's n-th label.
fn ids_by_order(questions: &Path, labels: &[Label]) -> Result<Vec<String>> {
    let mut queues: HashMap<String, std::collections::VecDeque<String>> = HashMap::new();
    for record in read_records(questions, &[])? {
        let category = category(&record, questions).unwrap_or_default();
        queues.entry(category).or_default().push_back(record.id(&["question_id"])?);
    }
    let ids = labels.iter().map(|Label { category, id, .. }| {
        queues.get_mut(category).and_then(|queue| queue.pop_front()).ok_or_else(|| {
            let file = questions.display();
            Error::Data(format!("{file}: no question for label {id} of category `{category}`"))
        })
    });
    let ids = ids.collect::<Result<Vec<_>>>()?;
    match queues.iter().find(|(_, queue)| !queue.is_empty()) {
        Some((category, _)) => {
            Err(Error::Data(format!("{}: more questions than labels of category `{category}`", questions.display())))
        }
        None => Ok(ids),
    }
}

/// How answers find their labels.
enum Joining<'a> {
    Order,
    Questions(&'a Path),
    Category,
    Id,
}

impl<'a> Joining<'a> {
    fn choose(files: &'a MetricFiles, answers: &[Record]) -> Self {
        let all = |field| answers.iter().all(|record| record.get(field).is_some());
        let none = |field| answers.iter().all(|record| record.get(field).is_none());
        match &files.questions {
            _ if none("question_id") => Joining::Order,
            Some(questions) => Joining::Questions(questions),
            None if all("category") => Joining::Category,
            None => Joining::Id,
        }
    }

    fn of_labels(&self, labels: &[Label]) -> Result<Vec<String>> {
        Ok(match self {
            Joining::Order => in_order(labels.len()),
            Joining::Questions(questions) => ids_by_order(questions, labels)?,
            Joining::Category => labels.iter().map(|label| format!("{} {}", label.category, label.id)).collect(),
            Joining::Id => numbered(labels.iter().map(|label| label.id.clone())),
        })
    }

    fn of_answers(&self, answers: &[Record]) -> Result<Vec<String>> {
        let id = |record: &Record| record.id(&["question_id"]);
        let named = |record: &Record| Ok(format!("{} {}", record.text(&["category"])?, id(record)?));
        match self {
            Joining::Order => Ok(in_order(answers.len())),
            Joining::Questions(_) => answers.iter().map(id).collect(),
            Joining::Category => answers.iter().map(named).collect(),
            Joining::Id => Ok(numbered(answers.iter().map(id).collect::<Result<Vec<_>>>()?)),
        }
    }
}

fn in_order(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("number {number}")).collect()
}

/// Whether an answer's own question, if it has one, is the label's.
fn check_question(answer: &Record, label: &Label) -> Result<()> {
    let asked = answer.text(&["prompt", "question"]).ok();
    match (asked, &label.question) {
        (Some(asked), Some(question)) if !asked.to_lowercase().contains(&question.to_lowercase()) => {
            let Label { category, id, .. } = label;
            Err(answer.error(&format!("does not ask {question:?}, which is question {id} of `{category}`")))
        }
        _ => Ok(()),
    }
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let labels = labels(&files.references)?;
    let predictions = read_records(&files.predictions, &[])?;
    let joining = Joining::choose(files, &predictions);
    let (keys, said) = (joining.of_labels(&labels)?, joining.of_answers(&predictions)?);
    let by_order = match joining {
        Joining::Order => true,
        Joining::Id => labels.iter().zip(&keys).any(|(label, key)| *key != label.id),
        _ => false,
    };
    let answers = ById::new(said.into_iter().zip(&predictions), Repeated::Refused, &files.predictions)?;
    let labels = ById::new(keys.into_iter().zip(labels), Repeated::Refused, &files.references)?;
    let row = |(_, answer, label): (&str, &&Record, &Label)| {
        if by_order {
            check_question(answer, label)?;
        }
        let said_yes = pope_says_yes(&answer.text(&["text", "answer", "prediction"])?);
        Ok((label.category.clone(), said_yes, label.yes))
    };
    let rows = join(&answers, &labels, files.pair())?.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(pope_report(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_parsing() {
        let cases = [
            ("No.", false),
            ("no, there is not", false),
            ("Yes. No doubt", true),
            ("There is nothing", true),
            ("NO", true),
            ("Not at all", true),
        ];
        assert!(cases.iter().all(|(answer, yes)| pope_says_yes(answer) == *yes));
    }

    #[test]
    fn nothing_positive_is_no_division_by_zero() {
        let report = pope_report([("random".to_owned(), false, false)]).json();
        assert_eq!((report["score"].as_f64(), report["accuracy"].as_f64()), (Some(0.0), Some(1.0)));
    }
}
