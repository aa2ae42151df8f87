//! DROP's official exact match and F1: answers as bags of words, aligned one to one, numbers compared as numbers.
//!
//! Every question of the published file counts; one without a prediction scores 0, predictions for others are ignored.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde_json::Value;

use super::{MetricFiles, Report, mean};
use crate::evaluation::files::{Record, read_object, read_records, scalar};
use crate::evaluation::python::{dumps, float, float_repr, split, strip};
use crate::{Error, Result};

/// An answer: one span or several.
pub type DropAnswer = Vec<String>;

fn without_articles(text: &str) -> String {
    static ARTICLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:a|an|the)\b").expect("a pattern"));
    let mut kept = String::new();
    let mut end = 0;
    for found in ARTICLE.find_iter(text) {
        kept.push_str(&text[end..found.start()]);
        kept.push(' ');
        end = found.end();
    }
    kept + &text[end..]
}

/// Lower case, no punctuation, articles or extra spaces; numbers as Python writes floats.
fn normalize(answer: &str) -> String {
    let token = |token: &str| {
        let mut token = token.to_lowercase();
        if float(&token).is_none() {
            token.retain(|c| !c.is_ascii_punctuation());
        }
        let token = float(&token).map_or(token, float_repr);
        split(&without_articles(&token)).collect::<Vec<_>>().join(" ")
    };
    let tokens = answer.split([' ', '-']).map(token).filter(|token| !token.is_empty());
    tokens.collect::<Vec<_>>().join(" ")
}

type Bag = BTreeSet<String>;

fn bag(normalized: &str) -> Bag {
    split(normalized).map(str::to_owned).collect()
}

/// 0 if the gold bag has numbers and none of them is predicted.
fn bag_f1(predicted: &Bag, gold: &Bag) -> f64 {
    let mut numbers = gold.iter().filter(|word| float(word).is_some()).peekable();
    if numbers.peek().is_some() && !numbers.any(|number| predicted.contains(number)) {
        return 0.0;
    }
    let common = gold.intersection(predicted).count() as f64;
    let share = |bag: &Bag| if bag.is_empty() { 1.0 } else { common / bag.len() as f64 };
    let (precision, recall) = (share(predicted), share(gold));
    if precision == 0.0 && recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

/// The largest sum of one score per row, no column twice (Hungarian method); `[rows][columns]`, any shape.
fn best_alignment(scores: &[Vec<f64>]) -> f64 {
    let columns = scores.first().map_or(0, Vec::len);
    if scores.len() > columns {
        let transposed: Vec<Vec<f64>> = (0..columns).map(|j| scores.iter().map(|row| row[j]).collect()).collect();
        return if columns == 0 { 0.0 } else { best_alignment(&transposed) };
    }
    // Row and column 0 are a sentinel; potentials keep reduced costs from being negative.
    let (mut row_potential, mut column_potential) = (vec![0.0; scores.len() + 1], vec![0.0; columns + 1]);
    let mut row_of = vec![0usize; columns + 1];
    for row in 1..=scores.len() {
        row_of[0] = row;
        let (mut least, mut came_from, mut done) =
            (vec![f64::INFINITY; columns + 1], vec![0usize; columns + 1], vec![false; columns + 1]);
        let mut at = 0;
        while row_of[at] != 0 {
            done[at] = true;
            let (here, mut delta, mut next) = (row_of[at], f64::INFINITY, 0);
            for column in (1..=columns).filter(|&column| !done[column]) {
                let cost = -scores[here - 1][column - 1] - row_potential[here] - column_potential[column];
                if cost < least[column] {
                    (least[column], came_from[column]) = (cost, at);
                }
                if least[column] < delta {
                    (delta, next) = (least[column], column);
                }
            }
            for column in 0..=columns {
                if done[column] {
                    row_potential[row_of[column]] += delta;
                    column_potential[column] -= delta;
                } else {
                    least[column] -= delta;
                }
            }
            at = next;
        }
        while at != 0 {
            row_of[at] = row_of[came_from[at]];
            at = came_from[at];
        }
    }
    let mut pairs: Vec<(usize, usize)> =
        (1..=columns).filter(|&j| row_of[j] != 0).map(|j| (row_of[j] - 1, j - 1)).collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(row, column)| scores[row][column]).sum()
}

/// Exact match and F1 of a prediction against one gold answer.
pub fn drop_em_f1(predicted: &[String], gold: &[String]) -> (f64, f64) {
    let spans = |answer: &[String]| answer.iter().map(|span| normalize(span)).collect::<Vec<_>>();
    let (predicted, gold) = (spans(predicted), spans(gold));
    let distinct = |spans: &[String]| spans.iter().cloned().collect::<BTreeSet<_>>();
    let exact = predicted.len() == gold.len() && distinct(&predicted) == distinct(&gold);
    let bags = |spans: &[String]| spans.iter().map(|span| bag(span)).collect::<Vec<_>>();
    let (predicted, gold) = (bags(&predicted), bags(&gold));
    let scores: Vec<Vec<f64>> =
        gold.iter().map(|gold| predicted.iter().map(|predicted| bag_f1(predicted, gold)).collect()).collect();
    let f1 = best_alignment(&scores) / predicted.len().max(gold.len()).max(1) as f64;
    // As NumPy rounds to two digits.
    (f64::from(u8::from(exact)), (f1 * 100.0).round_ties_even() / 100.0)
}

/// The spans of a published answer: its number, else its spans, else its date.
pub(crate) fn gold_spans(answer: &Record) -> Result<DropAnswer> {
    let number = match answer.get("number") {
        Some(Value::String(number)) if !number.is_empty() => Some(number.clone()),
        Some(number @ Value::Number(_)) if number.as_f64() != Some(0.0) => Some(dumps(number)),
        _ => None,
    };
    if let Some(number) = number {
        return Ok(vec![number]);
    }
    let spans = answer.get("spans").and_then(Value::as_array).map(|spans| spans.iter().filter_map(scalar).collect());
    if let Some(spans) = spans.filter(|spans: &DropAnswer| !spans.is_empty()) {
        return Ok(spans);
    }
    let date = answer.record("date")?;
    let part = |field| match date.fields().get(field) {
        // As Python writes it.
        Some(Value::Null) => "None".to_owned(),
        value => value.and_then(scalar).unwrap_or_default(),
    };
    Ok(vec![format!("{} {} {}", part("day"), part("month"), part("year"))])
}

/// Best exact match and best F1 over a question's gold answers, those without text left out.
pub(crate) fn best_em_f1(predicted: &[String], golds: &[DropAnswer]) -> (f64, f64) {
    let golds = golds.iter().filter(|gold| gold.first().is_some_and(|first| !strip(first).is_empty()));
    let scores = golds.map(|gold| drop_em_f1(predicted, gold));
    scores.fold((0.0, 0.0), |(em, f1), (other_em, other_f1)| (f64::max(em, other_em), f64::max(f1, other_f1)))
}

/// A question of the published file.
pub(crate) struct DropQuestion {
    pub id: String,
    pub passage: String,
    pub question: String,
    pub golds: Vec<DropAnswer>,
}

/// The questions of the published file, passage by passage.
pub(crate) fn read_questions(path: &std::path::Path) -> Result<Vec<DropQuestion>> {
    let file = read_object(path)?;
    let mut questions = Vec::new();
    for name in file.fields().keys() {
        let passage = file.record(name)?;
        for pair in passage.records("qa_pairs")? {
            let mut golds = vec![gold_spans(&pair.record("answer")?)?];
            if pair.get("validated_answers").is_some() {
                for answer in pair.records("validated_answers")? {
                    golds.push(gold_spans(&answer)?);
                }
            }
            questions.push(DropQuestion {
                id: pair.id(&["query_id"])?,
                passage: passage.text(&["passage"]).unwrap_or_default(),
                question: pair.text(&["question"]).unwrap_or_default(),
                golds,
            });
        }
    }
    Ok(questions)
}

fn spans(value: &Value, error: impl Fn() -> Error) -> Result<DropAnswer> {
    let value = value.get("answer").unwrap_or(value);
    let spans = match value {
        Value::Array(spans) => spans.iter().map(scalar).collect(),
        other => scalar(other).map(|span| vec![span]),
    };
    spans.ok_or_else(error)
}

/// Answers by query id: the official object, or records with `query_id`.
fn read_predictions(path: &std::path::Path) -> Result<HashMap<String, DropAnswer>> {
    let records = read_records(path, &[])?;
    let mut answers = HashMap::new();
    for record in &records {
        if record.get("query_id").is_some() {
            let value = record.any(&["prediction", "answer", "text"])?;
            answers.insert(record.id(&["query_id"])?, spans(value, || record.error("the answer is no text or list"))?);
            continue;
        }
        for (id, value) in record.fields() {
            let error = || record.error(&format!("the answer of `{id}` is neither a text nor a list of texts"));
            answers.insert(id.clone(), spans(value, error)?);
        }
    }
    Ok(answers)
}

pub(crate) fn drop_report(scores: &[(f64, f64)]) -> Report {
    let part = |pick: fn(&(f64, f64)) -> f64| mean(&scores.iter().map(pick).collect::<Vec<_>>());
    Report::new("drop", part(|score| score.1), "fraction")
        .with("f1", part(|score| score.1))
        .with("em", part(|score| score.0))
        .with("questions", scores.len())
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let answers = read_predictions(&files.predictions)?;
    let questions = read_questions(&files.references)?;
    let answered = questions.iter().filter(|question| answers.contains_key(&question.id)).count();
    if answered == 0 {
        let (predictions, references) = (files.predictions.display(), files.references.display());
        return Err(Error::Data(format!("{predictions}: no query_id of {references} has a prediction here")));
    }
    let score = |question: &DropQuestion| {
        answers.get(&question.id).map_or((0.0, 0.0), |answer| best_em_f1(answer, &question.golds))
    };
    Ok(drop_report(&questions.iter().map(score).collect::<Vec<_>>()).with("missing", questions.len() - answered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spans: &[&str]) -> Vec<String> {
        spans.iter().map(|span| span.to_string()).collect()
    }

    #[test]
    fn numbers_articles_and_bags() {
        assert_eq!(normalize("The 3,000-yard  run!"), "3000.0 yard run");
        assert_eq!(drop_em_f1(&texts(&["5 yards"]), &texts(&["5"])), (0.0, 0.67));
        assert_eq!(drop_em_f1(&texts(&["6 yards"]), &texts(&["5 yards"])), (0.0, 0.0));
        assert_eq!(drop_em_f1(&texts(&["b", "a dog"]), &texts(&["the dog", "B"])), (1.0, 1.0));
        assert_eq!(drop_em_f1(&texts(&["x"]), &texts(&["x", "y"])), (0.0, 0.5));
    }

    #[test]
    fn alignment_is_optimal() {
        assert_eq!(best_alignment(&[vec![0.9, 0.8], vec![0.8, 0.1]]), 1.6);
        assert_eq!(best_alignment(&[vec![0.1], vec![0.7], vec![0.3]]), 0.7);
    }
}
