//! Evaluation on questions in JSON lines: exact match of greedy answers, choice by likelihood.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;
use vila_model::{GenerateOptions, Score, Vila, generate, score_all};

use crate::Result;
use crate::data::template::Template;
use crate::records::{folder_of, read_all};

/// One question.
#[derive(Clone, Debug, Deserialize)]
pub struct Question {
    /// Text to continue, for questions without a template.
    #[serde(default)]
    pub prompt: String,
    /// What a user asks, for questions with one.
    #[serde(default)]
    pub question: String,
    /// Whether the conversation template goes around `question`.
    #[serde(default)]
    pub template: bool,
    /// Image files, relative to the question file.
    #[serde(default)]
    pub images: Vec<PathBuf>,
    /// The right answer.
    pub answer: String,
    /// Whether it asks about a pair of digits that training never added.
    #[serde(default)]
    pub held_out_pair: bool,
    /// Answers to choose from.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// Reads a question file; image paths become relative to the working directory.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let folder = folder_of(path);
    let mut questions: Vec<Question> = read_all(path)?.into_iter().map(|(_, question)| question).collect();
    let images = questions.iter_mut().flat_map(|question| &mut question.images);
    images.for_each(|image| *image = folder.join(&image));
    Ok(questions)
}

/// A question and what the model said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The greedy answer.
    pub said: String,
}

impl Answer {
    /// Whether the whole answer is right.
    pub fn right(&self) -> bool {
        self.said == self.question.answer
    }
}

/// Most tokens of a conversational answer.
const ANSWER_TOKENS: usize = 8;

/// Greedy answers; a continued text is cut at the length of the right answer, a conversation ends by itself.
pub fn answer(vila: &Vila, template: &Template, questions: &[Question]) -> Result<Vec<Answer>> {
    questions
        .par_iter()
        .map(|question| {
            let (prompt, max_new_tokens) = if question.template {
                (template.prompt(&[], &question.question), ANSWER_TOKENS)
            } else {
                (question.prompt.clone(), vila.tokenizer.encode(&question.answer)?.len())
            };
            let stop = template.stop().filter(|_| question.template).map(String::from).into_iter().collect();
            let options = GenerateOptions { max_new_tokens, stop, ..GenerateOptions::default() };
            let made = generate(vila, &prompt, &question.images, &options)?;
            Ok(Answer { question: question.clone(), said: made.text.trim().to_string() })
        })
        .collect()
}

/// Share of right answers.
pub fn accuracy(answers: &[Answer]) -> f64 {
    share(answers, Answer::right)
}

/// How the right answer of a question with choices stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// It is the likeliest of the choices.
    pub likeliest: bool,
    /// It is what greedy generation would say, choices or not.
    pub greedy: bool,
}

/// Looks at the right answers among their choices.
pub fn choose(vila: &Vila, questions: &[Question]) -> Result<Vec<Choice>> {
    questions
        .par_iter()
        .map(|question| {
            let scores = score_all(vila, &question.prompt, &question.choices, &question.images)?;
            let likelier = |a: &(&String, &Score), b: &(&String, &Score)| a.1.logprob.total_cmp(&b.1.logprob);
            let best = question.choices.iter().zip(&scores).max_by(likelier);
            let right = question.choices.iter().zip(&scores).find(|(choice, _)| **choice == question.answer);
            let likeliest = best.is_some_and(|(choice, _)| *choice == question.answer);
            Ok(Choice { likeliest, greedy: right.is_some_and(|(_, score)| score.greedy) })
        })
        .collect()
}

/// Share of questions whose right answer is the likeliest of its choices.
pub fn choice_accuracy(vila: &Vila, questions: &[Question]) -> Result<f64> {
    let choices = choose(vila, questions)?;
    Ok(share(&choices, |choice| choice.likeliest))
}

/// Share of those for which something holds.
pub fn share<T>(all: &[T], holds: impl Fn(&T) -> bool) -> f64 {
    all.iter().filter(|one| holds(one)).count() as f64 / all.len().max(1) as f64
}
