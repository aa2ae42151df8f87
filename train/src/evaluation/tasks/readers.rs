//! Readers of published question files. All of them also take the authors' own form: JSON lines of `question_id`,
//! `image` and `text` with the suffix inside.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::images::{base64, find};
use super::{Item, TaskFiles};
use crate::evaluation::files::{Record, files_in, numbered, read_object, read_records};
use crate::evaluation::metrics::shared;
use crate::evaluation::results::Results;
use crate::{Error, Result};

pub(super) const SHORT: &str = "Answer the question using a single word or phrase.";
const LETTER: &str = "Answer with the option's letter from the given choices directly.";
const LETTER_CN: &str = "请直接回答选项字母。";
const UNANSWERABLE: &str = "When the provided information is insufficient, respond with 'Unanswerable'.";

fn item(id: String, image: Option<PathBuf>, question: &str, suffix: &[&str], record: Record) -> Item {
    let text = std::iter::once(question).chain(suffix.iter().copied()).collect::<Vec<_>>().join("\n");
    let images = image.into_iter().collect();
    Item {
        id,
        images,
        text,
        shots: Vec::new(),
        question: question.to_owned(),
        answer: None,
        group: String::new(),
        record,
    }
}

/// The authors' question files.
pub(super) fn llava_lines(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    llava_items(files, read_records(&files.data, &["questions"])?)
}

fn llava_items(files: &TaskFiles, records: Vec<Record>) -> Result<Vec<Item>> {
    records.into_iter().map(|record| llava_line(files, record)).collect()
}

/// Whether a file is one of the authors', not the published one.
fn are_llava(records: &[Record]) -> bool {
    records.first().is_some_and(|record| record.get("text").is_some())
}

fn llava_line(files: &TaskFiles, record: Record) -> Result<Item> {
    let text = record.text(&["text"])?;
    let image = record
        .get("image")
        .and_then(Value::as_str)
        .map(|name| find(&files.images, &[name.to_owned()], &record))
        .transpose()?;
    let question = text.split('\n').next().unwrap_or("").to_owned();
    let group = record.get("category").and_then(Value::as_str).unwrap_or("").to_owned();
    Ok(Item { group, question, ..item(record.id(&["question_id"])?, image, &text, &[], record) })
}

/// What most humans answered, the first of equals.
fn majority(humans: &[String]) -> Option<String> {
    let count = |answer: &String| humans.iter().filter(|human| *human == answer).count();
    let best = humans.iter().map(count).max()?;
    humans.iter().find(|human| count(human) == best).cloned()
}

/// Human answers from the annotation file, by question id.
fn annotated(files: &TaskFiles) -> Result<HashMap<String, Record>> {
    let Some(path) = &files.annotations else { return Ok(HashMap::new()) };
    let annotations = read_records(path, &["annotations", "data"])?;
    annotations.into_iter().map(|record| Ok((record.id(&["question_id"])?, record))).collect()
}

/// The questions of VQA. In a folder with both splits of the test, published or the authors', the smaller one is asked, and
/// the larger one covers the upload.
pub(super) fn vqa_questions(data: &Path, whole: bool) -> Result<Vec<Record>> {
    let files = files_in(data, &["json", "jsonl"])?;
    let named = |part: &str| {
        let has = |file: &&PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
        files.iter().filter(has).collect::<Vec<_>>()
    };
    let (dev, all, any) = (named("test-dev2015"), named("test2015"), named("questions"));
    let chosen = match (data.is_file(), dev.is_empty(), whole && !all.is_empty()) {
        (true, ..) => files.iter().collect(),
        (false, false, false) => dev,
        (false, false, true) => all,
        (false, true, _) => any,
    };
    match chosen[..] {
        [file] => read_records(file, &["questions"]),
        [] => Err(Error::Data(format!("{}: there is no file *questions*.json here", data.display()))),
        _ => {
            let names: Vec<_> = chosen.iter().map(|file| file.display().to_string()).collect();
            let names = names.join(", ");
            Err(Error::Data(format!("{}: there are several question files ({names}); name one", data.display())))
        }
    }
}

/// VQAv2 and OKVQA: `{"questions": [{"question_id", "image_id", "question"}]}`.
pub(super) fn vqa(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let annotations = annotated(files)?;
    let read = |record: Record| {
        if record.get("text").is_some() {
            return llava_line(files, record);
        }
        let (id, number) = (record.id(&["question_id"])?, record.id(&["image_id"])?);
        let names = ["test2015", "val2014", "train2014"].map(|split| format!("COCO_{split}_{number:0>12}.jpg"));
        let nested =
            ["test2015", "val2014", "train2014"].map(|split| format!("{split}/COCO_{split}_{number:0>12}.jpg"));
        let image = find(&files.images, &[names.as_slice(), nested.as_slice()].concat(), &record)?;
        let question = record.text(&["question"])?;
        let mut item = item(id, Some(image), &question, &[SHORT], record);
        if let Some(annotation) = annotations.get(&item.id) {
            item.answer = majority(&shared::human_answers(annotation)?);
            item.record = annotation.clone();
        }
        Ok(item)
    };
    let items: Vec<Item> = vqa_questions(&files.data, false)?.into_iter().map(read).collect::<Result<_>>()?;
    let lacking: Vec<&Item> = items.iter().filter(|item| !annotations.contains_key(&item.id)).collect();
    match (&files.annotations, lacking.first()) {
        (Some(path), Some(item)) if !files.demonstrations => {
            let (lack, all) = (lacking.len(), items.len());
            let problem = format!("has no annotation for {lack} of {all} questions ({}, ...)", item.id);
            let data = files.data.display();
            Err(Error::Data(format!("{}: {problem} of {data}; are both of one split?", path.display())))
        }
        _ => Ok(items),
    }
}

/// `{id: {"question", "imageId", "answer"}}`.
pub(super) fn gqa(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let records = read_records(&files.data, &[])?;
    if are_llava(&records) {
        return llava_items(files, records);
    }
    shared::read_gqa(&files.data)?
        .into_iter()
        .map(|(id, record)| {
            let (image, question) = (record.text(&["imageId"])?, record.text(&["question"])?);
            let image = find(&files.images, &[image.clone(), format!("images/{image}")], &record)?;
            let answer = record.text(&["answer"]).ok();
            Ok(Item { answer, ..item(id, Some(image), &question, &[SHORT], record) })
        })
        .collect()
}

/// `[{"image", "question", "answers"?}]`.
pub(super) fn vizwiz(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let read = |record: Record| {
        let name = record.text(&["image"])?;
        if record.get("text").is_some() {
            return llava_line(files, record);
        }
        let question = record.text(&["question"])?;
        let image = find(&files.images, &[name.clone(), format!("test/{name}"), format!("val/{name}")], &record)?;
        let answer = record
            .get("answers")
            .map(|_| shared::human_answers(&record))
            .transpose()?
            .and_then(|humans| majority(&humans));
        Ok(Item { answer, ..item(name, Some(image), &question, &[UNANSWERABLE, SHORT], record) })
    };
    read_records(&files.data, &["data", "questions"])?.into_iter().map(read).collect()
}

/// TextVQA 0.5.1: `{"data": [{"question_id", "image_id", "question", "answers", "ocr_tokens"?}]}`.
pub(super) fn textvqa(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let records = read_records(&files.data, &["data", "questions"])?;
    if are_llava(&records) {
        let mut items = llava_items(files, records)?;
        // Here the id is the image's: several questions have the same, some of them in the same words.
        let ids = numbered(items.iter().map(|item| format!("{} {}", item.id, item.question)));
        items.iter_mut().zip(ids).for_each(|(item, id)| item.id = id);
        return Ok(items);
    }
    let read = |record: Record| {
        let (id, question, name) =
            (record.id(&["question_id"])?, record.text(&["question"])?, record.text(&["image_id"])?);
        let image = find(&files.images, &[name.clone(), format!("train_images/{name}")], &record)?;
        let tokens = record.get("ocr_tokens").map(|_| record.texts("ocr_tokens")).transpose()?;
        let tokens = tokens.map(|tokens| format!("Reference OCR token: {}", tokens.join(", ")));
        let suffix: Vec<&str> = tokens.as_deref().into_iter().chain([SHORT]).collect();
        let answer = record
            .get("answers")
            .map(|_| shared::human_answers(&record))
            .transpose()?
            .and_then(|humans| majority(&humans));
        Ok(Item { answer, ..item(id, Some(image), &question, &suffix, record) })
    };
    records.into_iter().map(read).collect()
}

/// `coco_pope_{random,popular,adversarial}.json`: lines of `question_id`, `image`, `text`, `label`.
pub(super) fn pope(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for file in files_in(&files.data, &["json", "jsonl"])? {
        for record in read_records(&file, &[])? {
            let (name, text) = (record.text(&["image"])?, record.text(&["text"])?);
            let image = find(&files.images, &[name.clone(), format!("val2014/{name}")], &record)?;
            let group = shared::pope_category(&record, &file).unwrap_or_default();
            let id = format!("{group}/{}", record.id(&["question_id"])?);
            let suffix: &[&str] = if text.ends_with(SHORT) { &[] } else { &[SHORT] };
            // The authors' question file has no labels; wrong ones are refused before anything is asked.
            if record.any(&["label", "answer"]).is_ok() {
                shared::pope_label(&record)?;
            }
            items.push(Item { group, ..item(id, Some(image), &text, suffix, record) });
        }
    }
    Ok(items)
}

/// The published folder of `SUBTASK/FILE.txt`.
pub(super) fn mme(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let read = |question: shared::MmeQuestion| {
        let place = |folder: &str| format!("{}{folder}/{}", question.subtask, question.image);
        let asked = question.question.replace(shared::PLEASE, "").trim_end().to_owned();
        let record = Record::new(
            format!("{} {}", files.data.display(), question.key()),
            serde_json::json!({
                "image": question.image,
                "question": question.question,
                "truth": question.truth.word(),
            }),
        )?;
        let image = find(&files.images, &[place(""), place("/images")], &record)?;
        let group = question.subtask.clone();
        Ok(Item { group, ..item(question.key(), Some(image), &asked, &[SHORT], record) })
    };
    shared::read_benchmark(&files.data)?.into_iter().map(read).collect()
}

pub(super) fn mmbench(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    mmbench_with(files, LETTER)
}

pub(super) fn mmbench_cn(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    mmbench_with(files, LETTER_CN)
}

/// The published table; images are written out as files.
fn mmbench_with(files: &TaskFiles, suffix: &str) -> Result<Vec<Item>> {
    let rows = shared::read_rows(&files.data)?;
    let folder = files.out.join("images");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let (mut items, mut owners, mut pictures) = (Vec::new(), HashSet::new(), Vec::new());
    for record in rows {
        let index = shared::index_of(&record)?;
        let image = record.text(&["image"])?;
        // A rotation may name the row that has its image.
        let owner = image.parse().unwrap_or(index);
        let path = folder.join(owner.to_string());
        if owner == index {
            let bytes = base64(&image, &record)?;
            pictures.push((format!("images/{owner}"), bytes));
            owners.insert(path.clone());
        }
        let lines = shared::options(&record).into_iter().map(|(letter, text)| format!("{letter}. {text}"));
        let hint = record.text(&["hint"]).ok().filter(|hint| !shared::is_none(hint));
        let lines: Vec<String> = hint.into_iter().chain([record.text(&["question"])?]).chain(lines).collect();
        items.push(item(index.to_string(), Some(path), &lines.join("\n"), &[suffix], record));
    }
    // Those of another table, or of one that was mended, may lie there.
    Results::open(&files.out)?.write(&pictures)?;
    match items.iter().find(|item| !item.images.iter().all(|image| owners.contains(image))) {
        Some(item) => Err(item.record.error("field `image` names a row that is not in the table")),
        None => Ok(items),
    }
}

/// `SEED-Bench.json`, or the authors' question file, with the other beside it for the answers.
pub(super) fn seed(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let records = read_records(&files.data, &["questions"])?;
    if are_llava(&records) {
        let mut items = llava_items(files, records)?;
        let published = files.data.with_file_name("SEED-Bench.json");
        if published.is_file() {
            let (questions, types) = shared::read_seed(&published)?;
            let question = |record: Record| Ok((record.id(&["question_id"])?, record));
            let questions: HashMap<_, _> = questions.into_iter().map(question).collect::<Result<_>>()?;
            for item in &mut items {
                if let Some(record) = questions.get(&item.id) {
                    item.group = shared::seed_groups(record, &types).join("\n");
                    item.record = record.clone();
                }
            }
        }
        return Ok(items);
    }
    let (questions, types) = shared::read_seed(&files.data)?;
    let read = |record: Record| {
        let (id, data) = (record.id(&["question_id"])?, record.text(&["data_id"])?);
        let names = [format!("SEED-Bench-image/{data}"), format!("SEED-Bench-video-image/{id}"), data, id.clone()];
        let image = find(&files.images, &names, &record)?;
        let choice = |letter: char| record.text(&[&format!("choice_{}", letter.to_ascii_lowercase())]);
        let choices =
            ('A'..='D').map(|letter| Ok(format!("{letter}. {}", choice(letter)?))).collect::<Result<Vec<_>>>()?;
        let lines = [vec![record.text(&["question"])?], choices].concat();
        let group = shared::seed_groups(&record, &types).join("\n");
        Ok(Item { group, ..item(id, Some(image), &lines.join("\n"), &[LETTER], record) })
    };
    questions.into_iter().map(read).collect()
}

/// `mm-vet.json`: `{"v1_0": {"imagename", "question"}}`.
pub(super) fn mm_vet(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let records = read_records(&files.data, &[])?;
    if are_llava(&records) {
        return llava_items(files, records);
    }
    let file = read_object(&files.data)?;
    let read = |id: &String| {
        let record = file.record(id)?;
        let (name, question) = (record.text(&["imagename"])?, record.text(&["question"])?);
        let image = find(&files.images, &[name.clone(), format!("images/{name}")], &record)?;
        Ok(item(id.strip_prefix("v1_").unwrap_or(id).to_owned(), Some(image), &question, &[], record))
    };
    file.fields().keys().map(read).collect()
}

/// ScienceQA: `problems.json` (questions of its test split), asked in the form context, question, options; or the authors'
/// file of conversations in that form, with `problems.json` beside it for the answers.
pub(super) fn scienceqa(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let path = if files.data.is_dir() { files.data.join("problems.json") } else { files.data.clone() };
    let lines = read_records(&path, &[])?;
    if lines.first().is_some_and(|line| line.get("conversations").is_some()) {
        let problems = path.with_file_name("problems.json");
        let problems = problems.is_file().then(|| read_object(&problems)).transpose()?;
        return lines.into_iter().map(|line| scienceqa_line(files, line, problems.as_ref())).collect();
    }
    let problems = read_object(&path)?;
    let splits = path.with_file_name("pid_splits.json");
    let ids: Vec<String> = match splits.is_file() {
        true => read_object(&splits)?.texts("test")?,
        false => problems.fields().keys().cloned().collect(),
    };
    let mut items = Vec::new();
    for id in ids {
        let record = problems.record(&id)?;
        let hint = record.text(&["hint"]).unwrap_or_default();
        let hint = if hint.trim().is_empty() { "N/A" } else { hint.trim() };
        let choices = record.list("choices")?.iter().filter_map(Value::as_str);
        let options: Vec<String> =
            ('A'..).zip(choices).map(|(letter, choice)| format!("({letter}) {choice}")).collect();
        let question =
            format!("Context: {hint}\nQuestion: {}\nOptions: {}", record.text(&["question"])?, options.join(" "));
        let image = record.get("image").and_then(Value::as_str);
        let image =
            image.map(|name| find(&files.images, &[format!("test/{id}/{name}"), format!("{id}/{name}")], &record));
        items.push(item(id, image.transpose()?, question.replace("  ", " ").trim(), &[LETTER], record));
    }
    Ok(items)
}

fn scienceqa_line(files: &TaskFiles, line: Record, problems: Option<&Record>) -> Result<Item> {
    let conversation = line.records("conversations")?;
    let asked = conversation.first().ok_or_else(|| line.error("field `conversations` is empty"))?.text(&["value"])?;
    let (id, image) = (line.id(&["id"])?, line.get("image").and_then(Value::as_str));
    let image = image.map(|name| find(&files.images, &[name.to_owned(), format!("test/{name}")], &line)).transpose()?;
    let record = problems.map(|problems| problems.record(&id)).transpose()?.unwrap_or(line);
    Ok(item(id, image, asked.replace("<image>", "").trim(), &[LETTER], record))
}

/// COCO annotations, or the `dataset_*.json` of the Karpathy splits, of which the test split is asked and the train split
/// demonstrates.
pub(super) fn captions(files: &TaskFiles, _: usize) -> Result<Vec<Item>> {
    let file = read_object(&files.data)?;
    file.list("images")?;
    let mut items = Vec::new();
    let splits: &[&str] = if files.demonstrations { &["train", "restval"] } else { &["test"] };
    for shared::Captioned { id, image, captions } in shared::captioned(&file, splits)? {
        let Some(image) = image else { continue };
        let name = image.text(&["file_name", "filename"])?;
        let mut names = vec![name.clone()];
        names.extend(image.text(&["filepath"]).ok().map(|path| format!("{path}/{name}")));
        let path = find(&files.images, &names, &image)?;
        let record = Record::new(
            format!("{} image {id}", files.data.display()),
            serde_json::json!({ "image_id": image.any(&shared::IMAGE_ID)?, "captions": captions }),
        )?;
        let answer = captions.first().map(|caption| caption.trim().to_owned());
        items.push(Item { answer, ..item(id, Some(path), "", &[], record) });
    }
    Ok(items)
}
