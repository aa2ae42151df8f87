//! Benchmarks whose answers must be equal to one text. Every reference needs exactly one prediction.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{MetricFiles, Report};
use crate::Result;
use crate::evaluation::files::{ById, Record, Repeated, join, read_object, read_records};

/// GQA's post-processing: no periods at the end, lower case.
pub(crate) fn gqa_answer(text: &str) -> String {
    text.trim_end_matches('.').to_lowercase()
}

/// Share of right answers, in all and by group.
pub(crate) fn exact_match_report(metric: &str, rows: &[(Vec<String>, bool)]) -> Report {
    let share = |rows: &mut dyn Iterator<Item = bool>| {
        let (right, total) = rows.fold((0, 0), |(right, total), row| (right + usize::from(row), total + 1));
        if total == 0 { 0.0 } else { f64::from(u32::try_from(right).unwrap_or(u32::MAX)) / f64::from(total) }
    };
    let mut groups = Map::new();
    for group in rows.iter().flat_map(|(groups, _)| groups) {
        if !groups.contains_key(group) {
            let of = rows.iter().filter(|(groups, _)| groups.contains(group));
            groups.insert(group.clone(), json!(share(&mut of.map(|(_, right)| *right))));
        }
    }
    Report::new(metric, share(&mut rows.iter().map(|(_, right)| *right)), "fraction")
        .with("questions", rows.len())
        .with("groups", groups)
}

fn report(
    metric: &str,
    files: &MetricFiles,
    predictions: Vec<(String, String)>,
    references: Vec<(String, (String, Vec<String>))>,
) -> Result<Report> {
    let predictions = ById::new(predictions, Repeated::Refused, &files.predictions)?;
    let references = ById::new(references, Repeated::Refused, &files.references)?;
    let joined = join(&predictions, &references, files.pair())?.into_iter();
    let rows: Vec<_> = joined.map(|(_, said, (answer, groups))| (groups.clone(), said == answer)).collect();
    Ok(exact_match_report(metric, &rows))
}

/// Questions of the published object, by id.
pub(crate) fn read_gqa(path: &Path) -> Result<Vec<(String, Record)>> {
    let file = read_object(path)?;
    file.fields().keys().map(|id| Ok((id.clone(), file.record(id)?))).collect()
}

/// A submission's `prediction` counts as it stands, a model's `text` after GQA's post-processing.
pub(super) fn gqa(files: &MetricFiles) -> Result<Report> {
    let predictions = read_records(&files.predictions, &[])?.into_iter().map(|record| {
        let said = match record.get("prediction") {
            Some(_) => record.text(&["prediction"])?,
            None => gqa_answer(&record.text(&["text"])?),
        };
        Ok((record.id(&["questionId", "question_id"])?, said))
    });
    let references = read_gqa(&files.references)?;
    let references = references.into_iter().map(|(id, question)| Ok((id, (question.text(&["answer"])?, Vec::new()))));
    report("gqa", files, predictions.collect::<Result<_>>()?, references.collect::<Result<_>>()?)
}

/// The groups that SEED-Bench reports: image or video, and the question type by name.
pub(crate) fn seed_groups(question: &Record, types: &Map<String, Value>) -> Vec<String> {
    let data = question.get("data_type").and_then(Value::as_str).map(str::to_owned);
    let number = question.get("question_type_id");
    let name = types.iter().find(|(_, id)| number == Some(*id)).map(|(name, _)| name.clone());
    data.into_iter().chain(name).collect()
}

/// The questions of `SEED-Bench.json` and the numbers of its question types.
pub(crate) fn read_seed(path: &Path) -> Result<(Vec<Record>, Map<String, Value>)> {
    let file = read_object(path)?;
    let types = file.get("question_type").and_then(Value::as_object).cloned().unwrap_or_default();
    Ok((file.records("questions")?, types))
}

pub(super) fn seed(files: &MetricFiles) -> Result<Report> {
    let predictions = read_records(&files.predictions, &[])?.into_iter();
    let predictions =
        predictions.map(|record| Ok((record.id(&["question_id"])?, record.text(&["prediction", "text"])?)));
    let (questions, types) = read_seed(&files.references)?;
    let references = questions.into_iter().map(|question| {
        Ok((question.id(&["question_id"])?, (question.text(&["answer"])?, seed_groups(&question, &types))))
    });
    report("seed", files, predictions.collect::<Result<_>>()?, references.collect::<Result<_>>()?)
}
