use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Failure, Outcome, path_json, print, print_json};
use crate::report;

#[derive(Args)]
pub(super) struct ReportArguments {
    /// A run's directory: the `out` of its recipe.
    run: PathBuf,
    /// The page to write; by default report.html in the run's directory.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn report(arguments: &ReportArguments) -> Result<Outcome, Failure> {
    let output = arguments.output.clone().unwrap_or_else(|| arguments.run.join(report::FILE));
    let written = report::write(&arguments.run, &output)?;
    if arguments.json {
        print_json(&json!({
            "report": path_json(&output),
            "steps": written.steps,
            "charts": written.charts,
            "left_out": written.left_out,
            "samples": written.samples,
        }))?;
    } else {
        print(&format!("{}: {} steps, {} charts\n", output.display(), written.steps, written.charts.len()))?;
    }
    Ok(Outcome::Done)
}
