//! VQA accuracy as TextVQA and VizWiz compute it (mmf, EvalAI): every answer is normalised, ten humans are left out
//! one by one.
//!
//! Records join by `question_id`, by `image` (VizWiz; in LLaVA's answer files it is the id), or, where a prediction carries
//! its prompt and the reference an `image_id` (TextVQA), by image and question: there each prediction counts, and the last
//! of several references, as LLaVA's evaluator has it. Every reference needs a prediction; elsewhere a second one for the
//! same question is an error.

use std::path::Path;

use super::vqa_text::evalai_normalize;
use super::{MetricFiles, Report, mean, round2};
use crate::evaluation::files::{ById, Record, Repeated, join, read_records, scalar};
use crate::{Error, Result};

/// Score of an answer against what humans said: the mean over all sets of humans with one left out of min(1, matches
/// / 3). An answer that no human gave scores 0.
pub fn soft_accuracy(answer: &str, humans: &[String]) -> f64 {
    let answer = evalai_normalize(answer);
    let matches: Vec<bool> = humans.iter().map(|human| evalai_normalize(human) == answer).collect();
    let all = matches.iter().filter(|matched| **matched).count();
    let agreement = |&own: &bool| ((all - usize::from(own)) as f64 / 3.0).min(1.0);
    mean(&matches.iter().map(agreement).collect::<Vec<_>>())
}

/// The question in a prompt: its first line, or the second where tokens read by OCR come first.
fn question_of(prompt: &str) -> String {
    let prompt = prompt.strip_prefix("<image>\n").unwrap_or(prompt);
    if prompt.starts_with("OCR tokens: ")
        && let Some((_, rest)) = prompt.split_once("Question: ")
        && let Some((question, _)) = rest.split_once(" Short answer:")
    {
        return question.to_lowercase();
    }
    let lines: Vec<&str> = prompt.split('\n').collect();
    let question = match lines[..] {
        [first, second, _] if first.starts_with("Reference OCR token:") => second,
        [first, ..] => first,
        [] => "",
    };
    question.to_lowercase()
}

/// How predictions and references name a question.
#[derive(Clone, Copy)]
enum Key {
    QuestionId,
    Image,
    ImageAndQuestion,
}

impl Key {
    fn choose(prediction: &Record, reference: &Record) -> Self {
        let both = |field| prediction.get(field).is_some() && reference.get(field).is_some();
        if prediction.get("prompt").is_some()
            && reference.get("image_id").is_some()
            && reference.get("question").is_some()
        {
            Key::ImageAndQuestion
        } else if reference.get("image").is_some() && !both("question_id") {
            Key::Image
        } else {
            Key::QuestionId
        }
    }

    fn of_prediction(self, record: &Record) -> Result<String> {
        match self {
            Key::QuestionId => record.id(&["question_id"]),
            Key::Image => record.id(&["image", "question_id"]),
            Key::ImageAndQuestion => {
                Ok(pair(record.id(&["question_id", "image_id"])?, &question_of(&record.text(&["prompt"])?)))
            }
        }
    }

    fn of_reference(self, record: &Record) -> Result<String> {
        match self {
            Key::QuestionId => record.id(&["question_id"]),
            Key::Image => record.id(&["image"]),
            Key::ImageAndQuestion => Ok(pair(record.id(&["image_id"])?, &record.text(&["question"])?.to_lowercase())),
        }
    }
}

fn pair(image: String, question: &str) -> String {
    format!("{image} {question:?}")
}

/// What humans answered: texts, or objects with an `answer`.
pub(crate) fn human_answers(reference: &Record) -> Result<Vec<String>> {
    let answers = reference.list("answers")?;
    let answer = |value: &serde_json::Value| scalar(value.get("answer").unwrap_or(value));
    let answers: Option<Vec<String>> = answers.iter().map(answer).collect();
    match answers {
        Some(answers) if !answers.is_empty() => Ok(answers),
        _ => Err(reference.error("field `answers` must hold texts, or objects with an `answer`, and at least one")),
    }
}

fn first<'a>(records: &'a [Record], path: &Path, what: &str) -> Result<&'a Record> {
    records.first().ok_or_else(|| Error::Data(format!("{}: there are no {what}", path.display())))
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let predictions = read_records(&files.predictions, &["annotations"])?;
    let references = read_records(&files.references, &["annotations", "data"])?;
    let prediction = first(&predictions, &files.predictions, "predictions")?;
    let reference = first(&references, &files.references, "references")?;
    let key = Key::choose(prediction, reference);
    let answers = predictions.iter().map(|record| Ok((key.of_prediction(record)?, record.text(&["answer", "text"])?)));
    let humans = references.iter().map(|record| Ok((key.of_reference(record)?, human_answers(record)?)));
    let said: Vec<(String, String)> = answers.collect::<Result<_>>()?;
    let repeated = if matches!(key, Key::ImageAndQuestion) { Repeated::LastWins } else { Repeated::Refused };
    let answers = ById::new(said.iter().cloned(), repeated, &files.predictions)?;
    let humans = ById::new(humans.collect::<Result<Vec<_>>>()?, repeated, &files.references)?;
    join(&answers, &humans, files.pair())?;
    let score = |(id, answer): &(String, String)| Some(soft_accuracy(answer, humans.get(id)?));
    let scores: Vec<f64> = said.iter().filter_map(score).collect();
    Ok(vqa_evalai_report(&scores))
}

/// The scores of answered questions together.
pub(crate) fn vqa_evalai_report(scores: &[f64]) -> Report {
    Report::new("vqa-evalai", round2(100.0 * mean(scores)), "percent")
        .with("accuracy", mean(scores))
        .with("questions", scores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_one_out() {
        let humans = |agreeing: usize| -> Vec<String> {
            (0..10).map(|index| if index < agreeing { "yes".into() } else { format!("other {index}") }).collect()
        };
        for (agreeing, expected) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            assert!((soft_accuracy("Yes.", &humans(agreeing)) - expected).abs() < 1e-12, "{agreeing}");
        }
        assert_eq!(soft_accuracy("", &vec!["a".into(); 10]), 1.0, "an article is an empty answer");
    }

    #[test]
    fn questions_of_prompts() {
        assert_eq!(question_of("What IS it?\nReference OCR token: A, b\nAnswer shortly."), "what is it?");
        assert_eq!(question_of("Reference OCR token: A\nWhat?\nAnswer"), "what?");
        assert_eq!(question_of("Reference OCR token: z?\nAnswer"), "reference ocr token: z?");
        assert_eq!(question_of("What?"), "what?");
    }
}
