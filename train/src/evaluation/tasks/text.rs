//! Tasks without images, by the conventions of InstructEval.

use std::path::Path;

use serde_json::{Value, json};
use vila_engine::philox::Stream;

use super::{Answer, Item, Outcome, TaskFiles, score};
use crate::evaluation::files::{Record, files_in};
use crate::evaluation::metrics::shared;
use crate::evaluation::python::dumps;
use crate::{Error, Result};

/// Longest prompt in tokens; the last demonstrations are dropped beyond.
pub(crate) const MOST_TOKENS: usize = 2048;

fn item(id: String, group: &str, prompt: Shown, answer: String, record: Value) -> Result<Item> {
    let record = Record::new(id.clone(), record)?;
    let (group, Shown { text, shots }) = (group.to_owned(), prompt);
    Ok(Item { id, images: Vec::new(), question: text.clone(), text, shots, answer: Some(answer), group, record })
}

/// A prompt, and where its demonstrations end.
#[derive(Clone)]
struct Shown {
    text: String,
    shots: Vec<usize>,
}

impl Shown {
    fn new(header: &str, shots: impl Iterator<Item = String>) -> Self {
        let mut shown = Shown { text: header.to_owned(), shots: vec![header.len()] };
        for shot in shots {
            shown.text += &shot;
            shown.text += "\n\n";
            shown.shots.push(shown.text.len());
        }
        shown
    }

    fn asking(&self, question: &str) -> Self {
        Shown { text: format!("{}{question}", self.text), shots: self.shots.clone() }
    }
}

/// An item's prompt with the first `shots` of its demonstrations.
pub(crate) fn with_shots(item: &Item, shots: usize) -> String {
    let part = |number: Option<&usize>| number.copied().unwrap_or(0);
    let (kept, end) = (part(item.shots.get(shots)), part(item.shots.last()));
    format!("{}{}", &item.text[..kept], &item.text[end..])
}

/// A folder with `dev/SUBJECT_dev.csv` and `test/SUBJECT_test.csv`.
pub(super) fn mmlu(files: &TaskFiles, shots: usize) -> Result<Vec<Item>> {
    let demonstrations = if shots == 0 { Vec::new() } else { shared::read_split(&files.data, "dev")? };
    let block = |question: &shared::MmluQuestion| {
        let choices =
            shared::LETTERS.iter().zip(&question.choices).map(|(letter, choice)| format!("\n{letter}. {choice}"));
        format!("{}{}\nAnswer:", question.question, choices.collect::<String>())
    };
    let read = |question: shared::MmluQuestion| {
        // Two spaces stand before the subject in the reference implementation.
        let subject = question.subject.replace('_', " ");
        let header = format!("The following are multiple choice questions (with answers) about  {subject}.\n\n");
        let shown = demonstrations.iter().filter(|shot| shot.subject == question.subject).take(shots);
        let shown = Shown::new(&header, shown.map(|shot| format!("{} {}", block(shot), shot.answer)));
        let record = json!({ "answer": question.answer.to_string() });
        let prompt = shown.asking(&block(&question));
        item(question.id.clone(), &question.subject, prompt, question.answer.to_string(), record)
    };
    shared::read_split(&files.data, "test")?.into_iter().map(read).collect()
}

fn letter(item: &Item) -> char {
    item.answer.as_deref().and_then(|answer| answer.chars().next()).unwrap_or(' ')
}

fn mmlu_row(item: &Item, answer: &Answer) -> shared::MmluRow {
    shared::MmluRow::new(&item.group, letter(item), answer.logprobs.as_ref(), Some(&answer.text))
}

pub(super) fn mmlu_right(item: &Item, answer: &Answer) -> Option<f64> {
    let likeliest = answer.logprobs.as_ref().map(shared::likeliest);
    likeliest.and_then(|likeliest| score(likeliest == letter(item))).or_else(|| prefix_right(item, answer))
}

pub(super) fn finish_mmlu(_: &TaskFiles, answers: &[(&Item, &Answer)]) -> Result<Outcome> {
    let rows: Vec<_> = answers.iter().map(|(item, answer)| mmlu_row(item, answer)).collect();
    let line = |(item, answer): &(&Item, &Answer)| {
        let (id, subject) = (&item.id, &item.group);
        json!({ "id": id, "subject": subject, "logprobs": answer.logprobs, "text": answer.text })
    };
    let lines = answers.iter().map(|pair| dumps(&line(pair)) + "\n").collect::<String>();
    Ok(Outcome {
        report: Some(shared::mmlu_report(&rows)),
        files: vec![("predictions.jsonl".into(), lines.into_bytes())],
    })
}

/// Whether the answer begins with the right one.
pub(super) fn prefix_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(item.answer.as_deref().is_some_and(|right| answer.text.trim().starts_with(right)))
}

/// A folder of `TASK.json`: `{"examples": [{"input", "target"}]}`; the first ones demonstrate.
pub(super) fn bbh(files: &TaskFiles, shots: usize) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for file in files_in(&files.data, &["json"])? {
        let (task, examples) = shared::read_task(&file)?;
        if examples.len() <= shots {
            let problem = format!("{} examples, of which {shots} demonstrate; use fewer --shots", examples.len());
            return Err(Error::Data(format!("{}: {problem}", file.display())));
        }
        let shown = examples.iter().take(shots).map(|(input, target)| format!("{input}\nAnswer: {target}"));
        let shown = Shown::new("", shown);
        for (number, (input, target)) in examples.iter().enumerate().skip(shots) {
            let prompt = shown.asking(&format!("{input}\nAnswer:"));
            items.push(item(format!("{task}/{number}"), &task, prompt, target.clone(), json!({ "target": target }))?);
        }
    }
    Ok(items)
}

pub(super) fn finish_bbh(_: &TaskFiles, answers: &[(&Item, &Answer)]) -> Result<Outcome> {
    let row = |(item, answer): &(&Item, &Answer)| (item.group.clone(), prefix_right(item, answer) == Some(1.0));
    let report = shared::bbh_report(answers.iter().map(row).collect());
    let line = |(item, answer): &(&Item, &Answer)| json!({ "id": item.id, "task": item.group, "text": answer.text });
    let lines = answers.iter().map(|pair| dumps(&line(pair)) + "\n").collect::<String>();
    Ok(Outcome { report: Some(report), files: vec![("predictions.jsonl".into(), lines.into_bytes())] })
}

/// The published dev file; questions whose gold spans are all the same are asked.
pub(super) fn drop(files: &TaskFiles, shots: usize) -> Result<Vec<Item>> {
    let mut questions = kept_questions(&files.data)?;
    if questions.is_empty() {
        let problem = "there is no question on whose answer all agree";
        return Err(Error::Data(format!("{}: {problem}; is it DROP's published file?", files.data.display())));
    }
    let mut draws = Stream::new(0, 0);
    let mut shown = Vec::new();
    let mut passages = Vec::new();
    for _ in 0..shots {
        let left: Vec<&(shared::DropQuestion, String)> =
            questions.iter().filter(|(question, _)| !passages.contains(&question.passage)).collect();
        let Some((question, answer)) = (!left.is_empty()).then(|| left[draws.below(left.len())]) else { break };
        shown.push(format!("{} {answer}", asked(question)));
        passages.push(question.passage.clone());
    }
    questions.retain(|(question, _)| !passages.contains(&question.passage));
    if questions.is_empty() {
        let problem = "no question is left beside the demonstrations' passages; use fewer --shots";
        return Err(Error::Data(format!("{}: {problem}", files.data.display())));
    }
    let shown = Shown::new("", shown.into_iter());
    let read = |(question, answer): (shared::DropQuestion, String)| {
        let prompt = shown.asking(&asked(&question));
        item(question.id, "", prompt, answer, json!({ "golds": question.golds }))
    };
    questions.into_iter().map(read).collect()
}

fn asked(question: &shared::DropQuestion) -> String {
    format!("{} {}\nAnswer:", question.passage.trim(), question.question.trim())
}

fn kept_questions(data: &Path) -> Result<Vec<(shared::DropQuestion, String)>> {
    let same = |question: &shared::DropQuestion| {
        let mut spans = question.golds.iter().flatten();
        let first = spans.next()?.trim().to_owned();
        (!first.is_empty() && spans.all(|span| span.trim() == first)).then_some(first)
    };
    let questions = shared::read_drop(data)?.into_iter();
    Ok(questions.filter_map(|question| same(&question).map(|answer| (question, answer))).collect())
}

pub(super) fn finish_drop(_: &TaskFiles, answers: &[(&Item, &Answer)]) -> Result<Outcome> {
    let golds = |item: &Item| -> Vec<Vec<String>> {
        let golds = item.record.get("golds").cloned().unwrap_or_default();
        serde_json::from_value(golds).unwrap_or_default()
    };
    let scores: Vec<(f64, f64)> = answers
        .iter()
        .map(|(item, answer)| shared::best_em_f1(std::slice::from_ref(&answer.text), &golds(item)))
        .collect();
    let prefix: f64 = answers.iter().filter_map(|(item, answer)| prefix_right(item, answer)).sum();
    let report = shared::drop_report(&scores).with("prefix_match", prefix / answers.len().max(1) as f64);
    let predictions: serde_json::Map<String, Value> =
        answers.iter().map(|(item, answer)| (item.id.clone(), json!(answer.text))).collect();
    let text = dumps(&Value::Object(predictions));
    Ok(Outcome { report: Some(report), files: vec![("predictions.json".into(), text.into_bytes())] })
}
