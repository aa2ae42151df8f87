//! MME: two yes-or-no questions per image.
//!
//! Predictions are the official tool's folder of `SUBTASK.txt` (image, question, truth and answer between tabs), or
//! JSON lines whose `question_id` is `SUBTASK/FILE` with the question in `prompt`; those join the published folder of
//! `SUBTASK/FILE.txt` by image and question. Every published question needs an answer.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{MetricFiles, Report};
use crate::evaluation::files::{ById, Repeated, files_in, join, read_records, read_text};
use crate::{Error, Result};

const PERCEPTION: [&str; 10] =
    ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"];
const COGNITION: [&str; 4] = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"];

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmeAnswer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Neither, which is wrong.
    Other,
}

impl MmeAnswer {
    /// As the published files write it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            MmeAnswer::Yes => "Yes",
            MmeAnswer::No => "No",
            MmeAnswer::Other => "Other",
        }
    }
}

/// Reads an answer: `yes` or `no`, or one of them within the first four characters, `yes` first.
pub fn mme_answer(text: &str) -> MmeAnswer {
    let start: String = text.to_lowercase().chars().take(4).collect();
    if start.contains("yes") {
        MmeAnswer::Yes
    } else if start.contains("no") {
        MmeAnswer::No
    } else {
        MmeAnswer::Other
    }
}

/// A published question, which ends in ` Please answer yes or no.`
#[derive(Clone, Debug)]
pub(crate) struct MmeQuestion {
    pub subtask: String,
    /// File name of the image without its extension.
    pub image: String,
    pub question: String,
    pub truth: MmeAnswer,
}

pub(crate) const PLEASE: &str = " Please answer yes or no.";
const SHORT: &str = "\nAnswer the question using a single word or phrase.";

/// A question without what surrounds it in prompts and files.
fn bare(question: &str) -> &str {
    let question = question.strip_prefix("<image>\n").unwrap_or(question);
    let question = question.strip_suffix(SHORT).unwrap_or(question).trim();
    question.strip_suffix(PLEASE.trim()).unwrap_or(question).trim()
}

impl MmeQuestion {
    pub fn key(&self) -> String {
        key(&self.subtask, &self.image, &self.question)
    }
}

fn key(subtask: &str, image: &str, question: &str) -> String {
    format!("{subtask}/{image} {:?}", bare(question))
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn truth(text: &str, place: impl Fn() -> String) -> Result<MmeAnswer> {
    match text.trim().to_lowercase().as_str() {
        "yes" => Ok(MmeAnswer::Yes),
        "no" => Ok(MmeAnswer::No),
        other => Err(Error::Data(format!("{}: `{other}` is neither Yes nor No", place()))),
    }
}

/// The questions of the published folder, by subtask and file.
pub(crate) fn read_benchmark(folder: &Path) -> Result<Vec<MmeQuestion>> {
    let mut questions = Vec::new();
    for subtask in PERCEPTION.iter().chain(&COGNITION) {
        let folder = folder.join(subtask);
        let apart = folder.join("questions_answers_YN");
        if !folder.is_dir() {
            continue;
        }
        for file in files_in(if apart.is_dir() { &apart } else { &folder }, &["txt"])? {
            let image = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("").to_owned();
            for (number, line) in read_text(&file)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let place = || format!("{} line {}", file.display(), number + 1);
                let Some((question, answer)) = line.split_once('\t') else {
                    return Err(Error::Data(format!("{}: expected a question, a tab and Yes or No", place())));
                };
                questions.push(MmeQuestion {
                    subtask: (*subtask).to_owned(),
                    image: image.clone(),
                    question: question.to_owned(),
                    truth: truth(answer, place)?,
                });
            }
        }
    }
    if questions.is_empty() {
        return Err(Error::Data(format!("{}: no folder of an MME subtask is here", folder.display())));
    }
    Ok(questions)
}

/// One answered question: subtask, image, and whether it is right.
pub(crate) type MmeRow = (String, String, bool);

/// Rows of the official tool's result folder, which carry their truth.
fn read_results(folder: &Path) -> Result<Vec<MmeRow>> {
    let mut rows = Vec::new();
    for file in files_in(folder, &["txt"])? {
        let subtask = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("").to_owned();
        if !PERCEPTION.iter().chain(&COGNITION).any(|known| *known == subtask) {
            return Err(Error::Data(format!("{}: `{subtask}` is no subtask of MME", file.display())));
        }
        let text = read_text(&file)?;
        let lines: Vec<_> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
        if lines.len() % 2 == 1 {
            let problem = format!("{} lines, but each image has two", lines.len());
            return Err(Error::Data(format!("{}: {problem}; is the file whole?", file.display())));
        }
        for (index, (number, line)) in lines.into_iter().enumerate() {
            let place = || format!("{} line {}", file.display(), number + 1);
            let columns: Vec<&str> = line.split('\t').collect();
            let [_, _, wanted, answer] = columns[..] else {
                let problem = format!("expected 4 columns (image, question, truth, answer), found {}", columns.len());
                return Err(Error::Data(format!("{}: {problem}", place())));
            };
            // The tool takes two lines after each other for an image, whatever their names.
            let image = (index / 2).to_string();
            rows.push((subtask.clone(), image, truth(wanted, place)? == mme_answer(answer)));
        }
    }
    if rows.is_empty() {
        return Err(Error::Data(format!("{}: there are no files SUBTASK.txt with answers", folder.display())));
    }
    Ok(rows)
}

fn join_answers(files: &MetricFiles) -> Result<Vec<MmeRow>> {
    let answers = read_records(&files.predictions, &[])?.into_iter().map(|record| {
        let id = record.id(&["question_id"])?;
        let Some((subtask, file)) = id.split_once('/') else {
            return Err(record.error(&format!("question_id `{id}` is not SUBTASK/FILE")));
        };
        // Some question files keep the published folders: `artwork/images/1.jpg`.
        let image = stem(file.rsplit('/').next().unwrap_or(file));
        Ok((
            key(subtask, image, &record.text(&["prompt", "question"])?),
            record.text(&["text", "answer", "prediction"])?,
        ))
    });
    let answers = ById::new(answers.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.predictions)?;
    let questions = read_benchmark(&files.references)?.into_iter().map(|question| (question.key(), question));
    let questions = ById::new(questions, Repeated::Refused, &files.references)?;
    let joined = join(&answers, &questions, files.pair())?.into_iter();
    Ok(joined.map(|(_, answer, q)| (q.subtask.clone(), q.image.clone(), mme_answer(answer) == q.truth)).collect())
}

/// Scores per subtask: 100 times the share of right answers plus 100 times that of images whose answers are all right.
pub(crate) fn mme_report(rows: &[MmeRow]) -> Report {
    let total = |subtasks: &[&str]| -> (f64, Map<String, Value>) {
        let mut sum = 0.0;
        let mut scores = Map::new();
        for subtask in subtasks {
            let rows: Vec<&MmeRow> = rows.iter().filter(|(of, ..)| of == subtask).collect();
            if rows.is_empty() {
                continue;
            }
            let share = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
            let images: HashSet<&str> = rows.iter().map(|(_, image, _)| image.as_str()).collect();
            let wrong: HashSet<&str> = rows.iter().filter(|row| !row.2).map(|(_, image, _)| image.as_str()).collect();
            let accuracy = share(rows.iter().filter(|row| row.2).count(), rows.len());
            let accuracy_plus = share(images.len() - wrong.len(), images.len());
            sum += accuracy + accuracy_plus;
            let score = accuracy + accuracy_plus;
            scores.insert((*subtask).into(), json!({ "score": score, "acc": accuracy, "acc_plus": accuracy_plus }));
        }
        (sum, scores)
    };
    let (perception, perception_parts) = total(&PERCEPTION);
    let (cognition, cognition_parts) = total(&COGNITION);
    Report::new("mme", perception, "sum over perception subtasks, at most 2000")
        .with("perception", perception)
        .with("cognition", cognition)
        .with("subtasks", perception_parts.into_iter().chain(cognition_parts).collect::<Map<_, _>>())
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let rows = if files.predictions.is_dir() { read_results(&files.predictions)? } else { join_answers(files)? };
    Ok(mme_report(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_parsing() {
        let cases = [
            ("Yes, it is", MmeAnswer::Yes),
            ("No", MmeAnswer::No),
            ("I think yes", MmeAnswer::Other),
            ("not sure", MmeAnswer::No),
            ("", MmeAnswer::Other),
        ];
        assert!(cases.iter().all(|(text, answer)| mme_answer(text) == *answer));
    }

    #[test]
    fn golden_score() {
        let image = |index: usize, right: [bool; 2]| right.map(|right| ("count".to_owned(), index.to_string(), right));
        let rows: Vec<MmeRow> = (0..10).flat_map(|index| image(index, [true, index < 7])).collect();
        assert_eq!(mme_report(&rows).score(), 155.0);
    }
}
