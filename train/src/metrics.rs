//! `metrics.jsonl`: one line per step. What stands under `step` is deterministic, what stands under `wall` is not.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Result};

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
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Documents of the step.
    pub documents: u64,
    /// Positions of those documents.
    pub tokens: u64,
    /// Supervised tokens.
    pub supervised: u64,
    /// Images.
    pub images: u64,
    /// Micro-batches.
    pub micro_batches: usize,
    /// Mean loss of held-out documents after the update, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
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
    /// Seconds since 1970.
    pub time: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    step: &'a StepMetrics,
    wall: &'a WallMetrics,
}

/// An open metrics file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file of a run; lines after `global_step` are dropped, because those steps run again.
    pub fn open(out: &Path, global_step: u64) -> Result<Self> {
        let path = out.join("metrics.jsonl");
        if path.exists() {
            let mut kept = String::new();
            let file = File::open(&path).map_err(Error::io(&path))?;
            for line in BufReader::new(file).lines() {
                let line = line.map_err(Error::io(&path))?;
                // A torn last line is one of those that run again.
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if value["step"]["global_step"].as_u64().is_some_and(|step| step <= global_step) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
            let next = out.join(".metrics.next");
            std::fs::write(&next, kept).map_err(Error::io(&next))?;
            std::fs::rename(&next, &path).map_err(Error::io(&path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        Ok(MetricsFile { path, file })
    }

    /// Appends one step.
    pub fn write(&mut self, step: &StepMetrics, wall: &WallMetrics) -> Result<()> {
        let text = serde_json::to_string(&Line { step, wall }).unwrap_or_default() + "\n";
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}
