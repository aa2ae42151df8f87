//! BIG-Bench Hard as InstructEval scores it: an answer is right if it begins with the target; the mean over tasks counts.
//!
//! Predictions are JSON lines of `id` (`TASK/NUMBER`, counted from 0 in the task's file) and `text`; references the folder of
//! `TASK.json`. The first examples of a task demonstrate, so that not every reference needs a prediction.

use std::path::Path;

use serde_json::Value;

use super::exact_match::exact_match_report;
use super::{MetricFiles, Report, mean};
use crate::evaluation::files::{ById, Record, Repeated, files_in, read_object, read_records};
use crate::{Error, Result};

/// Name of a task, and its inputs and targets.
pub(crate) fn read_task(file: &Path) -> Result<(String, Vec<(String, String)>)> {
    let task = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("").to_owned();
    let examples = read_object(file)?.records("examples")?;
    let examples = examples.iter().map(|example| Ok((example.text(&["input"])?, example.text(&["target"])?)));
    Ok((task, examples.collect::<Result<_>>()?))
}

/// Macro average over tasks of rows `(task, right)`.
pub(crate) fn bbh_report(rows: Vec<(String, bool)>) -> Report {
    let rows: Vec<_> = rows.into_iter().map(|(task, right)| (vec![task], right)).collect();
    let micro = exact_match_report("bbh", &rows).json();
    let tasks = micro["groups"].as_object().cloned().unwrap_or_default();
    let shares: Vec<f64> = tasks.values().filter_map(Value::as_f64).collect();
    Report::new("bbh", mean(&shares), "fraction, mean over tasks")
        .with("micro", micro["score"].clone())
        .with("questions", rows.len())
        .with("tasks", tasks)
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let tasks = files_in(&files.references, &["json"])?;
    let tasks = tasks.iter().map(|file| read_task(file)).collect::<Result<Vec<_>>>()?;
    let target = |id: &str| {
        let (task, number) = id.rsplit_once('/')?;
        let (_, examples) = tasks.iter().find(|(name, _)| name == task)?;
        Some((task.to_owned(), examples.get(number.parse::<usize>().ok()?)?.1.as_str()))
    };
    let predictions = read_records(&files.predictions, &[])?.into_iter();
    let predictions = predictions.map(|record| Ok((record.id(&["id", "question_id"])?, record)));
    let predictions = ById::new(predictions.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.predictions)?;
    if predictions.is_empty() {
        return Err(Error::Data(format!("{}: there are no predictions", files.predictions.display())));
    }
    let row = |(id, record): (&str, &Record)| {
        let (task, target) = target(id).ok_or_else(|| {
            record.error(&format!("`{id}` is not TASK/NUMBER of an example in {}", files.references.display()))
        })?;
        Ok((task, record.text(&["text", "prediction"])?.trim().starts_with(target)))
    };
    Ok(bbh_report(predictions.iter().map(row).collect::<Result<_>>()?))
}
