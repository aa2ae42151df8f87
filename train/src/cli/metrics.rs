use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{Failure, Outcome, print, print_json};
use crate::evaluation::metrics::{METRICS, MetricFiles};

#[derive(Args)]
pub(super) struct MetricsArguments {
    /// Which metric.
    #[arg(value_parser = PossibleValuesParser::new(METRICS.iter().map(|metric| metric.name)), long_help = names())]
    name: String,
    /// What a model answered, in the benchmark's result format.
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// What is right: the benchmark's published file or folder.
    #[arg(long, value_name = "FILE")]
    references: PathBuf,
    /// The question file whose ids the answers use (POPE).
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Captions are tokens already, with white space between them.
    #[arg(long)]
    tokenized: bool,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

fn names() -> String {
    METRICS.iter().map(|metric| format!("{}: {}\n", metric.name, metric.about)).collect()
}

pub(super) fn metrics(arguments: MetricsArguments) -> Result<Outcome, Failure> {
    let MetricsArguments { name, predictions, references, questions, tokenized, json } = arguments;
    let metric = METRICS.iter().find(|metric| metric.name == name).ok_or("there is no such metric")?;
    let report = metric.compute(&MetricFiles { predictions, references, questions, tokenized })?;
    if json {
        print_json(&report.json())?;
    } else {
        print(&format!("{}\n", serde_json::to_string_pretty(&report.json())?))?;
    }
    Ok(Outcome::Done)
}
