//! Benchmark metrics, equal to the official evaluators'. Each file says which evaluator it follows and what it does
//! with ids that are missing or there twice.

mod bbh;
mod cider;
mod drop;
mod exact_match;
mod mmbench;
mod mme;
mod mmlu;
mod pope;
mod ptb_tokenizer;
mod scienceqa;
mod vqa;
mod vqa_evalai;
mod vqa_text;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Result;

pub use cider::cider_d;
pub use drop::{DropAnswer, drop_em_f1};
pub use mmbench::infer_option;
pub use mme::{MmeAnswer, mme_answer};
pub use pope::{Confusion, pope_says_yes};
pub use ptb_tokenizer::{caption_tokens, ptb_tokens};
pub use scienceqa::scienceqa_answer;
pub use vqa_evalai::soft_accuracy;
pub use vqa_text::{evalai_normalize, official_normalize};

/// What tasks share with the metrics that read files.
pub(crate) mod shared {
    pub(crate) use super::bbh::{bbh_report, read_task};
    pub(crate) use super::cider::{Captioned, IMAGE_ID, captioned};
    pub(crate) use super::drop::{DropQuestion, best_em_f1, drop_report, read_questions as read_drop};
    pub(crate) use super::exact_match::{exact_match_report, gqa_answer, read_gqa, read_seed, seed_groups};
    pub(crate) use super::mmbench::{MmbenchRow, index_of, is_missing, is_none, mmbench_report, options, read_rows};
    pub(crate) use super::mme::{MmeQuestion, PLEASE, mme_report, read_benchmark};
    pub(crate) use super::mmlu::{LETTERS, MmluQuestion, MmluRow, likeliest, mmlu_report, read_split};
    pub(crate) use super::pope::{category as pope_category, label as pope_label, pope_report};
    pub(crate) use super::scienceqa::{Tally, is_right as scienceqa_is_right};
    pub(crate) use super::vqa::{VqaReference, vqa_report};
    pub(crate) use super::vqa_evalai::{human_answers, vqa_evalai_report};
}

/// The files of a metric.
pub struct MetricFiles {
    /// What a model answered.
    pub predictions: PathBuf,
    /// What is right.
    pub references: PathBuf,
    /// The questions, where the references do not say to which of them they belong.
    pub questions: Option<PathBuf>,
    /// Captions are tokens already, with white space between them.
    pub tokenized: bool,
}

impl MetricFiles {
    fn pair(&self) -> (&Path, &Path) {
        (&self.predictions, &self.references)
    }
}

/// A metric's value and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Report(Map<String, Value>);

impl Report {
    /// A report whose headline is `score`, of the kind that `unit` says.
    pub fn new(metric: &str, score: f64, unit: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("metric".into(), json!(metric));
        fields.insert("score".into(), json!(score));
        fields.insert("unit".into(), json!(unit));
        Report(fields)
    }

    /// The report with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The headline.
    pub fn score(&self) -> f64 {
        self.0.get("score").and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// As JSON: `{"metric", "score", "unit", ...}`.
    pub fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

/// A metric of [`METRICS`].
pub struct Metric {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    compute: fn(&MetricFiles) -> Result<Report>,
}

impl Metric {
    /// The value for some files.
    ///
    /// # Errors
    /// A file cannot be read, lacks a field or does not go with the other.
    pub fn compute(&self, files: &MetricFiles) -> Result<Report> {
        (self.compute)(files)
    }
}

/// Every metric; add a row to add one.
pub static METRICS: &[Metric] = &[
    Metric { name: "cider", about: "CIDEr-D of captions (COCO result and annotation files)", compute: cider::report },
    Metric { name: "vqa", about: "accuracy of the official VQA evaluator, percent", compute: vqa::report },
    Metric { name: "vqa-evalai", about: "VQA accuracy of TextVQA and VizWiz, percent", compute: vqa_evalai::report },
    Metric { name: "pope", about: "F1 of object hallucination, mean over categories", compute: pope::report },
    Metric { name: "mme", about: "MME: accuracy and accuracy+, perception and cognition", compute: mme::report },
    Metric { name: "scienceqa", about: "ScienceQA accuracy, of questions with images", compute: scienceqa::report },
    Metric { name: "mmbench", about: "MMBench accuracy, circular", compute: mmbench::report },
    Metric { name: "drop", about: "DROP: F1 and exact match", compute: drop::report },
    Metric { name: "mmlu", about: "MMLU accuracy by log-likelihood or by the first letter", compute: mmlu::report },
    Metric { name: "bbh", about: "BBH prefix match, mean over tasks", compute: bbh::report },
    Metric { name: "gqa", about: "GQA exact match", compute: exact_match::gqa },
    Metric { name: "seed", about: "SEED-Bench exact match of letters", compute: exact_match::seed },
];

/// Rounds as Python's `round(x, 2)`: the exact binary value, ties to even.
fn round2(x: f64) -> f64 {
    format!("{x:.2}").parse().unwrap_or(x)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
