//! The benchmarks: how each is read, asked, scored and submitted. Add a row to [`TASKS`] to add one.

mod finish;
mod images;
mod readers;
mod text;

use std::path::PathBuf;

use serde_json::Value;

use super::files::Record;
use super::metrics::Report;
use crate::Result;

pub(crate) use text::{MOST_TOKENS, with_shots};

/// One question.
#[derive(Clone, Debug)]
pub struct Item {
    /// Unique within the task; answers are found by it.
    pub id: String,
    /// Image files, in the order of their marks.
    pub images: Vec<PathBuf>,
    /// What the user is asked, marks of images left out: for text-only tasks the whole prompt.
    pub text: String,
    /// Where demonstrations end in that prompt, after where the first begins; empty if there are none.
    pub shots: Vec<usize>,
    /// The bare question, for few-shot prompts.
    pub question: String,
    /// What a demonstration answers.
    pub answer: Option<String>,
    /// What the question belongs to: subtask, category or subject.
    pub group: String,
    /// The published record.
    pub record: Record,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// [`Item::id`].
    pub id: String,
    /// What was asked, images marked.
    pub prompt: String,
    /// The answer without white space at its ends.
    pub text: String,
    /// Log-likelihoods of the letters A to D, for multiple choice without images.
    pub logprobs: Option<[f64; 4]>,
}

/// Where a task's files are.
#[derive(Clone, Debug)]
pub struct TaskFiles {
    /// The published file or folder.
    pub data: PathBuf,
    /// Where images are; the data's folder if not given.
    pub images: PathBuf,
    /// Right answers, where they are published apart from the questions.
    pub annotations: Option<PathBuf>,
    /// For files that are made on the way.
    pub out: PathBuf,
    /// Whether examples are read from them, not questions: the train split of files that have several.
    pub demonstrations: bool,
}

/// How a task is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A question about images: answered in a few words, by letter, or freely.
    Chat,
    /// A question about an image that few-shot prompts can demonstrate.
    Question,
    /// A caption; asked as a few-shot prompt without demonstrations.
    Caption,
    /// A text to continue.
    Text,
    /// A text to continue whose answer is one of four letters.
    Letters,
}

/// What an answer file of a task is worth.
pub struct Outcome {
    /// The metric, where it can be computed here.
    pub report: Option<Report>,
    /// Submission files: names below the output folder and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Metric and submission files of all answers.
type Finish = fn(&TaskFiles, &[(&Item, &Answer)]) -> Result<Outcome>;

/// A benchmark.
pub struct Task {
    /// What the command line calls it.
    pub name: &'static str,
    /// How it is asked.
    pub style: Style,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Whether the authors crop images to their centre here instead of padding them.
    pub centre_crop: bool,
    /// Demonstrations unless asked otherwise, for text-only tasks.
    pub shots: usize,
    read: fn(&TaskFiles, usize) -> Result<Vec<Item>>,
    right: fn(&Item, &Answer) -> Option<f64>,
    finish: Finish,
}

impl Task {
    /// The task of that name.
    pub fn named(name: &str) -> Option<&'static Task> {
        TASKS.iter().find(|task| task.name == name)
    }

    /// Reads the published files; `shots` counts demonstrations of text-only tasks.
    ///
    /// # Errors
    /// A file is missing, is of another format, or lacks a field.
    pub fn read(&self, files: &TaskFiles, shots: usize) -> Result<Vec<Item>> {
        (self.read)(files, shots)
    }

    /// How right an answer is, from 0 to 1, where that can be said of one answer.
    pub fn right(&self, item: &Item, answer: &Answer) -> Option<f64> {
        (self.right)(item, answer)
    }

    /// The metric and the submission files of all answers.
    ///
    /// # Errors
    /// References cannot be read.
    pub fn finish(&self, files: &TaskFiles, answers: &[(&Item, &Answer)]) -> Result<Outcome> {
        (self.finish)(files, answers)
    }
}

const BASE: Task = Task {
    name: "",
    style: Style::Chat,
    max_new_tokens: 128,
    centre_crop: false,
    shots: 0,
    read: readers::llava_lines,
    right: finish::unknown,
    finish: finish::none,
};

/// Every benchmark.
pub static TASKS: &[Task] = &[
    Task {
        name: "vqav2",
        style: Style::Question,
        read: readers::vqa,
        right: finish::official_vqa,
        finish: finish::vqav2,
        ..BASE
    },
    Task {
        name: "gqa",
        style: Style::Question,
        read: readers::gqa,
        right: finish::gqa_right,
        finish: finish::gqa,
        ..BASE
    },
    Task {
        name: "vizwiz",
        style: Style::Question,
        read: readers::vizwiz,
        right: finish::soft,
        finish: finish::vizwiz,
        ..BASE
    },
    Task {
        name: "scienceqa-img",
        max_new_tokens: 1024,
        centre_crop: true,
        read: readers::scienceqa,
        right: finish::scienceqa_right,
        finish: finish::scienceqa,
        ..BASE
    },
    Task {
        name: "textvqa",
        style: Style::Question,
        read: readers::textvqa,
        right: finish::soft,
        finish: finish::textvqa,
        ..BASE
    },
    Task { name: "pope", read: readers::pope, right: finish::pope_right, finish: finish::pope, ..BASE },
    Task { name: "mme", read: readers::mme, right: finish::mme_right, finish: finish::mme, ..BASE },
    Task {
        name: "mmbench",
        max_new_tokens: 1024,
        read: readers::mmbench,
        right: finish::mmbench_right,
        finish: finish::mmbench,
        ..BASE
    },
    Task {
        name: "mmbench-cn",
        max_new_tokens: 1024,
        read: readers::mmbench_cn,
        right: finish::mmbench_right,
        finish: finish::mmbench,
        ..BASE
    },
    Task { name: "seed", read: readers::seed, right: finish::seed_right, finish: finish::seed, ..BASE },
    Task {
        name: "llava-bench",
        max_new_tokens: 1024,
        centre_crop: true,
        read: readers::llava_lines,
        finish: finish::answer_lines,
        ..BASE
    },
    Task {
        name: "mm-vet",
        max_new_tokens: 1024,
        centre_crop: true,
        read: readers::mm_vet,
        finish: finish::mm_vet,
        ..BASE
    },
    Task {
        name: "okvqa",
        style: Style::Question,
        read: readers::vqa,
        right: finish::official_vqa,
        finish: finish::okvqa,
        ..BASE
    },
    Task { name: "coco-captions", style: Style::Caption, read: readers::captions, finish: finish::captions, ..BASE },
    Task { name: "flickr-captions", style: Style::Caption, read: readers::captions, finish: finish::captions, ..BASE },
    Task {
        name: "mmlu",
        style: Style::Letters,
        max_new_tokens: 2,
        shots: 5,
        read: text::mmlu,
        right: text::mmlu_right,
        finish: text::finish_mmlu,
        ..BASE
    },
    Task {
        name: "bbh",
        style: Style::Text,
        max_new_tokens: 32,
        shots: 3,
        read: text::bbh,
        right: text::prefix_right,
        finish: text::finish_bbh,
        ..BASE
    },
    Task {
        name: "drop",
        style: Style::Text,
        max_new_tokens: 8,
        shots: 3,
        read: text::drop,
        right: text::prefix_right,
        finish: text::finish_drop,
        ..BASE
    },
];

/// A share of right answers as a number.
fn score(right: bool) -> Option<f64> {
    Some(f64::from(u8::from(right)))
}

/// The value of a field as the file has it, which submissions repeat.
fn original(record: &Record, fields: &[&str]) -> Value {
    record.any(fields).cloned().unwrap_or(Value::Null)
}
