//! What becomes of a task's answers: the metric, and the file that its server or judge takes, as the authors'
//! converters write it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Answer, Item, Outcome, TaskFiles, original, readers, score};
use crate::Result;
use crate::data::tokens::hex;
use crate::evaluation::files::Record;
use crate::evaluation::metrics::{
    Report, caption_tokens, cider_d, evalai_normalize, mme_answer, pope_says_yes, shared, soft_accuracy,
};
use crate::evaluation::python::{dumps, dumps_indented};
use crate::evaluation::xlsx::{Cell, workbook};

type Answers<'a> = [(&'a Item, &'a Answer)];

pub(super) fn unknown(_: &Item, _: &Answer) -> Option<f64> {
    None
}

pub(super) fn none(_: &TaskFiles, _: &Answers) -> Result<Outcome> {
    Ok(Outcome { report: None, files: Vec::new() })
}

fn outcome(report: Option<Report>, name: &str, text: String) -> Result<Outcome> {
    Ok(Outcome { report, files: vec![(name.to_owned(), text.into_bytes())] })
}

/// `json.dump(list, file)`.
fn list(values: impl Iterator<Item = Value>) -> String {
    dumps(&Value::Array(values.collect()))
}

pub(super) fn official_vqa(item: &Item, answer: &Answer) -> Option<f64> {
    shared::VqaReference::read(&item.record).ok().map(|reference| reference.accuracy(&answer.text))
}

fn vqa_report(answers: &Answers) -> Result<Option<Report>> {
    if answers.iter().any(|(item, _)| item.record.get("answers").is_none()) {
        return Ok(None);
    }
    let rows = answers.iter().map(|(item, answer)| {
        let reference = shared::VqaReference::read(&item.record)?;
        let accuracy = reference.accuracy(&answer.text);
        Ok((reference, accuracy))
    });
    Ok(Some(shared::vqa_report(&rows.collect::<Result<Vec<_>>>()?)))
}

/// All questions of the upload's split, those that were not asked with an empty answer.
pub(super) fn vqav2(files: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let said: HashMap<&str, &str> =
        answers.iter().map(|(item, answer)| (item.id.as_str(), answer.text.as_str())).collect();
    let entry = |record: &Record| {
        let text = said.get(record.id(&["question_id"])?.as_str()).map(|text| evalai_normalize(text));
        Ok(json!({ "question_id": original(record, &["question_id"]), "answer": text.unwrap_or_default() }))
    };
    let all = readers::vqa_questions(&files.data, true)?;
    let all = all.iter().map(entry).collect::<Result<Vec<_>>>()?;
    outcome(vqa_report(answers)?, "vqav2_submission.json", list(all.into_iter()))
}

pub(super) fn okvqa(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let entry = |(item, answer): &(&Item, &Answer)| {
        let id = original(&item.record, &["question_id"]);
        json!({ "question_id": id, "answer": answer.text })
    };
    outcome(vqa_report(answers)?, "okvqa_results.json", list(answers.iter().map(entry)))
}

pub(super) fn gqa_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(shared::gqa_answer(&answer.text) == *item.answer.as_ref()?)
}

pub(super) fn gqa(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let rows: Option<Vec<_>> =
        answers.iter().map(|(item, answer)| Some((Vec::new(), gqa_right(item, answer)? == 1.0))).collect();
    let entry = |(item, answer): &(&Item, &Answer)| {
        let said = shared::gqa_answer(&answer.text);
        json!({ "questionId": question_id(item), "prediction": said })
    };
    let report = rows.map(|rows| shared::exact_match_report("gqa", &rows));
    outcome(report, "testdev_balanced_predictions.json", list(answers.iter().map(entry)))
}

pub(super) fn soft(item: &Item, answer: &Answer) -> Option<f64> {
    Some(soft_accuracy(&answer.text, &shared::human_answers(&item.record).ok()?))
}

fn soft_report(answers: &Answers) -> Option<Report> {
    let scores: Option<Vec<f64>> = answers.iter().map(|(item, answer)| soft(item, answer)).collect();
    scores.map(|scores| shared::vqa_evalai_report(&scores))
}

pub(super) fn vizwiz(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let entry = |(item, answer): &(&Item, &Answer)| {
        let image = original(&item.record, &["image"]);
        json!({ "image": image, "answer": evalai_normalize(&answer.text) })
    };
    outcome(soft_report(answers), "vizwiz_submission.json", list(answers.iter().map(entry)))
}

/// Their evaluator looks questions up by image and text: the id in the authors' answer file is the image's.
pub(super) fn textvqa(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let lines = answers.iter().map(|(item, answer)| {
        let image = item.record.get("image_id").cloned();
        answer_line(image.unwrap_or_else(|| question_id(item)), &item.text, item, answer)
    });
    outcome(soft_report(answers), ANSWERS, lines.collect())
}

const ANSWERS: &str = "answers_submission.jsonl";

fn question_id(item: &Item) -> Value {
    item.record.get("question_id").cloned().unwrap_or_else(|| json!(item.id))
}

/// A line of the authors' answer file. The random `answer_id` of theirs is a hash of question and answer here.
fn answer_line(question_id: Value, prompt: &str, item: &Item, answer: &Answer) -> String {
    let id = hex(&Sha256::digest(format!("{}\n{}", item.id, answer.text)));
    dumps(&json!({
        "question_id": question_id,
        "prompt": prompt,
        "text": answer.text,
        "answer_id": id.get(..22),
        "model_id": "vila",
        "metadata": {},
    })) + "\n"
}

pub(super) fn answer_lines(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let line = |(item, answer): &(&Item, &Answer)| answer_line(question_id(item), &item.text, item, answer);
    outcome(None, ANSWERS, answers.iter().map(line).collect())
}

pub(super) fn scienceqa_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(shared::scienceqa_is_right(&answer.text, &item.record).ok()?)
}

/// Their evaluator tells questions with images by the mark in the prompt, which other answer files lack.
pub(super) fn scienceqa(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let known = answers.iter().all(|(item, _)| item.record.get("answer").is_some());
    let mut tally = shared::Tally::default();
    for (item, answer) in answers.iter().filter(|_| known) {
        tally.add(shared::scienceqa_is_right(&answer.text, &item.record)?, !item.images.is_empty());
    }
    let lines = answers.iter().map(|(item, answer)| {
        let mark = if item.images.is_empty() { "" } else { "<image>\n" };
        answer_line(question_id(item), &format!("{mark}{}", item.text), item, answer)
    });
    outcome(known.then(|| tally.report()), ANSWERS, lines.collect())
}

pub(super) fn pope_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(pope_says_yes(&answer.text) == shared::pope_label(&item.record).ok()?)
}

pub(super) fn pope(files: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    // The authors' question file has no labels.
    let known = answers.iter().all(|(item, _)| item.record.any(&["label", "answer"]).is_ok());
    let row = |(item, answer): &(&Item, &Answer)| {
        Ok((item.group.clone(), pope_says_yes(&answer.text), shared::pope_label(&item.record)?))
    };
    let rows = answers.iter().filter(|_| known).map(row).collect::<Result<Vec<_>>>()?;
    Ok(Outcome { report: known.then(|| shared::pope_report(rows)), ..answer_lines(files, answers)? })
}

pub(super) fn mme_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(item.record.text(&["truth"]).ok()? == mme_answer(&answer.text).word())
}

/// A folder for the official tool: `SUBTASK.txt` with image, question, truth and answer between tabs.
pub(super) fn mme(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let mut rows = Vec::new();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (item, answer) in answers {
        let (image, question, truth) =
            (item.record.text(&["image"])?, item.record.text(&["question"])?, item.record.text(&["truth"])?);
        // Tabs and line ends are the format's own.
        let said = answer.text.replace(['\t', '\n'], " ");
        let line = format!("{image}.txt\t{question}\t{truth}\t{said}\n");
        let name = format!("mme_results/{}.txt", item.group);
        match files.iter_mut().find(|(known, _)| *known == name) {
            Some((_, text)) => text.extend(line.into_bytes()),
            None => files.push((name, line.into_bytes())),
        }
        rows.push((item.group.clone(), image, mme_right(item, answer) == Some(1.0)));
    }
    Ok(Outcome { report: Some(shared::mme_report(&rows)), files })
}

pub(super) fn mmbench_right(item: &Item, answer: &Answer) -> Option<f64> {
    item.record.get("answer")?;
    score(shared::MmbenchRow::new(&item.record, &answer.text).ok()?.right)
}

/// What pandas reads as a number; other spellings make a column one of texts.
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "True" | "TRUE" | "true" => Some(true),
        "False" | "FALSE" | "false" => Some(false),
        _ => None,
    }
}

/// The table without hint, categories, source, comment and image, and with the answers as seventh column.
pub(super) fn mmbench(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    const DROPPED: [&str; 6] = ["hint", "category", "source", "image", "comment", "l2-category"];
    const PREDICTION: usize = 6;
    let mut columns: Vec<&str> = Vec::new();
    for name in answers.iter().flat_map(|(item, _)| item.record.fields().keys()) {
        if !DROPPED.contains(&name.as_str()) && !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let text = |item: &Item, name: &str| item.record.text(&[name]).ok().filter(|text| !shared::is_missing(text));
    let kind = |name: &&str| {
        let all = |is: fn(&str) -> bool| answers.iter().filter_map(|(item, _)| text(item, name)).all(|text| is(&text));
        match (all(|text| number(text).is_some()), all(|text| boolean(text).is_some())) {
            (true, _) => |text: &str| number(text).map(Cell::Number),
            (false, true) => |text: &str| boolean(text).map(Cell::Boolean),
            (false, false) => |text: &str| Some(Cell::Text(text.replace("\r\n", "\n"))),
        }
    };
    let kinds: Vec<fn(&str) -> Option<Cell>> = columns.iter().map(kind).collect();
    let at = PREDICTION.min(columns.len());
    let mut header: Vec<Cell> = columns.iter().map(|name| Cell::Text((*name).to_owned())).collect();
    header.insert(at, Cell::Text("prediction".into()));
    let mut rows = vec![header];
    for (item, answer) in answers {
        let cell = |(name, kind): (&&str, &fn(&str) -> Option<Cell>)| {
            text(item, name).and_then(|text| kind(&text)).unwrap_or(Cell::Empty)
        };
        let mut row: Vec<Cell> = columns.iter().zip(&kinds).map(cell).collect();
        row.insert(at, if answer.text.is_empty() { Cell::Empty } else { Cell::Text(answer.text.clone()) });
        rows.push(row);
    }
    let rated = answers.iter().all(|(item, _)| item.record.get("answer").is_some());
    let judged =
        answers.iter().filter(|_| rated).map(|(item, answer)| shared::MmbenchRow::new(&item.record, &answer.text));
    let judged = judged.collect::<Result<Vec<_>>>()?;
    let report = rated.then(|| shared::mmbench_report(&judged));
    Ok(Outcome { report, files: vec![("mmbench_submission.xlsx".into(), workbook(&rows))] })
}

pub(super) fn seed_right(item: &Item, answer: &Answer) -> Option<f64> {
    score(item.record.text(&["answer"]).ok()? == answer.text)
}

pub(super) fn seed(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let line = |(item, answer): &(&Item, &Answer)| {
        // The published ids, which are texts; the authors' question file has numbers.
        let id = match item.record.get("text") {
            Some(_) => json!(item.id),
            None => original(&item.record, &["question_id"]),
        };
        dumps(&json!({ "question_id": id, "prediction": answer.text })) + "\n"
    };
    let row = |(item, answer): &(&Item, &Answer)| {
        Some((item.group.split('\n').map(str::to_owned).collect(), seed_right(item, answer)? == 1.0))
    };
    let rows: Option<Vec<_>> = answers.iter().map(row).collect();
    let report = rows.map(|rows| shared::exact_match_report("seed", &rows));
    outcome(report, "seed_submission.jsonl", answers.iter().map(line).collect())
}

pub(super) fn mm_vet(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let entry = |(item, answer): &(&Item, &Answer)| (format!("v1_{}", item.id), json!(answer.text));
    let results: Map<String, Value> = answers.iter().map(entry).collect();
    outcome(None, "mm-vet_submission.json", dumps_indented(&Value::Object(results), 2))
}

pub(super) fn captions(_: &TaskFiles, answers: &Answers) -> Result<Outcome> {
    let mut references: Vec<Vec<String>> = Vec::new();
    for (item, _) in answers {
        let captions = item.record.list("captions")?.iter().filter_map(Value::as_str).map(str::to_owned);
        references.push(captions.collect());
    }
    let entry = |(item, answer): &(&Item, &Answer)| {
        let id = original(&item.record, &["image_id"]);
        json!({ "image_id": id, "caption": answer.text })
    };
    let known = references.iter().all(|captions| !captions.is_empty()) && !answers.is_empty();
    let report = known.then(|| caption_report(answers, &references));
    outcome(report, "captions_results.json", list(answers.iter().map(entry)))
}

fn caption_report(answers: &Answers, references: &[Vec<String>]) -> Report {
    let flat: Vec<&str> = references.iter().flatten().map(String::as_str).collect();
    let mut tokens = caption_tokens(&flat).into_iter();
    let said: Vec<&str> = answers.iter().map(|(_, answer)| answer.text.as_str()).collect();
    let images: Vec<_> = caption_tokens(&said)
        .into_iter()
        .zip(references)
        .map(|(hypothesis, captions)| (hypothesis, tokens.by_ref().take(captions.len()).collect()))
        .collect();
    let scores = cider_d(&images);
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    Report::new("cider", mean, "mean, about 0 to 10").with("images", scores.len())
}
