//! `metrics.jsonl`: one line per step. What stands under `step` is deterministic, what stands under `wall` is not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::loader::SourceSummary;
use crate::whole_file::{append, write_whole};
use crate::{Error, Result, faults};

/// The deterministic part of a line.
#[derive(Clone, Debug, Serialize)]
pub struct StepMetrics {
    /// Stage name.
    pub stage: String,
    /// Step of the stage, from 1.
    pub step: u64,
    /// Step of the run, from 1.
    pub global_step: u64,
    /// Mean loss of the step's supervised tokens before the update.
    pub loss: f64,
    /// The same for the tokens of each source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub loss_by_source: BTreeMap<String, SourceLoss>,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Documents of the step.
    pub documents: u64,
    /// CRC-32C of which documents they are, in order.
    pub order: u32,
    /// Positions of those documents.
    pub tokens: u64,
    /// Supervised tokens.
    pub supervised: u64,
    /// Images.
    pub images: u64,
    /// Micro-batches.
    pub micro_batches: usize,
    /// Share of the micro-batches' positions that documents fill, where shapes repeat (see [`crate::packing::grain`]).
    pub packing: f64,
    /// Mean loss of held-out documents after the update, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// In the first step of a stage: sources of which records were left out or cut, with how many and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, SourceSummary>,
    /// Why the step was passed over, if it was: the next line has the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// Loss of one source's documents in a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SourceLoss {
    /// Mean of its supervised tokens.
    pub loss: f64,
    /// Their number.
    pub supervised: u64,
}

/// The part of a line that differs from run to run.
#[derive(Clone, Debug, Serialize)]
pub struct WallMetrics {
    /// Seconds of the step.
    pub seconds: f64,
    /// Seconds of it spent waiting for data.
    pub waited: f64,
    /// Positions per second.
    pub tokens_per_second: f64,
    /// Bytes held by each owner at the peak so far, and `peak`.
    pub memory: BTreeMap<String, u64>,
    /// Seconds that a save before this step held up the run.
    pub saving: f64,
    /// Seconds since 1970.
    pub time: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    step: &'a StepMetrics,
    wall: &'a WallMetrics,
}

/// Name of the metrics file in a run's folder.
pub const METRICS: &str = "metrics.jsonl";

/// An open metrics file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file of a run; lines after `global_step` are dropped, because those steps run again.
    pub fn open(out: &Path, global_step: u64) -> Result<Self> {
        let path = out.join(METRICS);
        keep_lines(&path, global_step, step_of)?;
        Ok(MetricsFile { file: append(out, METRICS)?, path })
    }

    /// Appends one step.
    pub fn write(&mut self, step: &StepMetrics, wall: &WallMetrics) -> Result<()> {
        let text = serde_json::to_string(&Line { step, wall }).unwrap_or_default() + "\n";
        let written = faults::pass(faults::METRICS_WRITE).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(Error::io(&self.path))
    }

    /// Makes the lines so far survive a power failure.
    pub fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

/// The step of the run that a line of the metrics is about.
pub(crate) fn step_of(line: &serde_json::Value) -> Option<u64> {
    line["step"]["global_step"].as_u64()
}

/// Rewrites a run's file of JSON lines without those of steps after `global_step`, and without a torn last line.
///
/// # Errors
/// Another line that `step_of` does not know: somebody else wrote it.
pub(crate) fn keep_lines(
    path: &Path,
    global_step: u64,
    step_of: impl Fn(&serde_json::Value) -> Option<u64>,
) -> Result<()> {
    let steps = lines_of_run(path, step_of)?;
    let mut kept = String::new();
    for (_, line) in steps.iter().filter(|(step, _)| *step <= global_step) {
        kept.push_str(line);
        kept.push('\n');
    }
    if path.exists() { write_whole(path, kept.as_bytes()) } else { Ok(()) }
}

/// The lines of a run's file with their steps, but for a torn last line; none if there is no file.
///
/// # Errors
/// Those of [`keep_lines`].
pub(crate) fn lines_of_run(
    path: &Path,
    step_of: impl Fn(&serde_json::Value) -> Option<u64>,
) -> Result<Vec<(u64, String)>> {
    let text = match vila_files::read(path, u64::MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(Error::io(path))?,
    };
    let text = String::from_utf8_lossy(&text);
    let (count, torn) = (text.lines().count(), !text.ends_with('\n'));
    let mut lines = Vec::with_capacity(count);
    for (index, line) in text.lines().enumerate() {
        match serde_json::from_str(line).ok().and_then(|value| step_of(&value)) {
            Some(step) => lines.push((step, line.to_string())),
            None if torn && index + 1 == count && (index > 0 || line.starts_with('{')) => {}
            None => {
                let problem = format!("line {} was not written by the run; move the file, or mend the line", index + 1);
                return Err(Error::OutputDirectory { path: path.to_path_buf(), problem });
            }
        }
    }
    Ok(lines)
}
