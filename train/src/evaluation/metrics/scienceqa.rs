//! ScienceQA as LLaVA's evaluator reads answers.
//!
//! References are the published `problems.json`, with `pid_splits.json` beside it the ids of its `test` split, else
//! all. A question without a prediction is wrong, as there; predictions for other questions are ignored, the last of
//! several for one question counts. Questions with images are those whose prompt has `<image>`; of predictions without a
//! prompt, those whose problem has an image.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex_automata::meta::Regex;
use serde_json::Value;

use super::{MetricFiles, Report};
use crate::evaluation::files::{ById, Record, Repeated, read_object, read_records};
use crate::{Error, Result};

/// The letters of the options.
pub(crate) const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// The option that an answer names: a letter alone, a letter and `. `, or one sentence `The answer is LETTER` with
/// something behind it.
pub fn scienceqa_answer(text: &str) -> Option<char> {
    static SENTENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"The answer is ([A-Z]).").expect("a pattern"));
    let first = text.chars().next().filter(|letter| LETTERS.contains(&letter.to_string().as_str()));
    if let Some(letter) = first
        && (text.len() == 1 || text[1..].starts_with(". "))
    {
        return Some(letter);
    }
    let mut found = SENTENCE.captures_iter(text);
    match (found.next(), found.next()) {
        (Some(one), None) => text[one.get_group(1)?.range()].chars().next(),
        _ => None,
    }
}

/// Counts of right answers.
#[derive(Default)]
pub(crate) struct Tally {
    right: usize,
    total: usize,
    image_right: usize,
    image_total: usize,
}

impl Tally {
    pub fn add(&mut self, right: bool, with_image: bool) {
        self.total += 1;
        self.right += usize::from(right);
        self.image_total += usize::from(with_image);
        self.image_right += usize::from(right && with_image);
    }

    pub fn report(&self) -> Report {
        let share = |right: usize, total: usize| if total == 0 { 0.0 } else { right as f64 / total as f64 };
        Report::new("scienceqa", share(self.image_right, self.image_total), "fraction of questions with an image")
            .with("accuracy", share(self.right, self.total))
            .with("image_accuracy", share(self.image_right, self.image_total))
            .with("questions", self.total)
            .with("image_questions", self.image_total)
    }
}

/// Whether an answer names the right one of a problem's choices.
pub(crate) fn is_right(text: &str, problem: &Record) -> Result<bool> {
    let right = problem.any(&["answer"])?.as_u64().ok_or_else(|| problem.error("field `answer` is not an index"))?;
    let choices = problem.list("choices")?.len().min(LETTERS.len()) as u64;
    let named = scienceqa_answer(text).and_then(|letter| u64::from(letter).checked_sub(u64::from('A')));
    Ok(named.is_some_and(|named| named < choices && named == right))
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let beside = |name| match files.references.is_dir() {
        true => files.references.join(name),
        false => files.references.with_file_name(name),
    };
    let problems_file = if files.references.is_dir() { beside("problems.json") } else { files.references.clone() };
    let problems = read_object(&problems_file)?;
    let splits = beside("pid_splits.json");
    let ids: Vec<String> = if splits.is_file() {
        let splits = read_object(&splits)?;
        let mut seen = HashSet::new();
        splits.texts("test")?.into_iter().filter(|id| seen.insert(id.clone())).collect()
    } else {
        problems.fields().keys().cloned().collect()
    };
    let answers = read_records(&files.predictions, &["results"])?.into_iter().map(|record| {
        let prompt = record.get("prompt").and_then(Value::as_str).map(str::to_owned);
        Ok((record.id(&["question_id"])?, (record.text(&["text", "answer", "prediction"])?, prompt)))
    });
    let answers = ById::new(answers.collect::<Result<Vec<_>>>()?, Repeated::LastWins, &files.predictions)?;
    if ids.iter().all(|id| answers.get(id).is_none()) {
        let (predictions, references) = (files.predictions.display(), problems_file.display());
        return Err(Error::Data(format!("{predictions}: not one question_id is among the problems of {references}")));
    }
    let mut tally = Tally::default();
    for id in &ids {
        let problem = problems.record(id)?;
        match answers.get(id) {
            Some((text, prompt)) => {
                let in_problem = || problem.get("image").is_some_and(|image| image != "");
                let with_image = prompt.as_ref().map_or_else(in_problem, |prompt| prompt.contains("<image>"));
                tally.add(is_right(text, &problem)?, with_image);
            }
            None => tally.add(false, false),
        }
    }
    Ok(tally.report())
}

#[cfg(test)]
mod tests {
    use super::scienceqa_answer;

    #[test]
    fn parsing_order() {
        let cases = [
            ("B", Some('B')),
            ("B. north", Some('B')),
            ("B.", None),
            ("F", None),
            ("B: The answer is C.", Some('C')),
            ("The answer is C", None),
            ("The answer is G.", Some('G')),
            ("The answer is A. The answer is B.", None),
            ("A. The answer is B.", Some('A')),
            ("", None),
        ];
        for (text, letter) in cases {
            assert_eq!(scienceqa_answer(text), letter, "{text:?}");
        }
    }
}
