//! A run's files, read with tolerance: lines of older versions lack fields, values that were not finite are null.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::loader::SourceSummary;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The directory holds no run.
    #[error("{}: no metrics here; give the directory of a run, the `out` of its recipe", path.display())]
    NoRun {
        /// Where the metrics should be.
        path: PathBuf,
    },
    /// The page would replace a file that is none of this program's.
    #[error("{}: is there already and is no page of this program; move it, or choose another name with --output", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The run has not finished a step.
    #[error("{}: no step yet; run the command again when the first one is done", path.display())]
    Empty {
        /// The metrics.
        path: PathBuf,
    },
    /// A line is not what this program writes.
    #[error("{}, line {line}: damaged: {problem}; delete this line and run the command again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

impl ReportError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        |source| ReportError::Io { path, source: vila_files::explain(source) }
    }
}

/// The part of a line of `metrics.jsonl` that does not differ from run to run.
#[derive(Deserialize)]
pub(super) struct Step {
    #[serde(default)]
    pub stage: String,
    pub global_step: u64,
    pub loss: Option<f64>,
    pub grad_norm: Option<f64>,
    pub lr: Option<f64>,
    #[serde(default)]
    pub tokens: u64,
    #[serde(default)]
    pub supervised: u64,
    #[serde(default)]
    pub images: u64,
    pub validation_loss: Option<f64>,
    #[serde(default)]
    pub loss_by_source: BTreeMap<String, SourceLoss>,
    pub packing: Option<f64>,
    #[serde(default)]
    pub left_out: BTreeMap<String, SourceSummary>,
    pub skipped: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SourceLoss {
    pub loss: Option<f64>,
    #[serde(default)]
    pub supervised: u64,
}

/// The part of a line that does.
#[derive(Deserialize, Default)]
pub(super) struct Wall {
    pub seconds: Option<f64>,
    pub waited: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub time: Option<f64>,
    #[serde(default)]
    pub memory: BTreeMap<String, u64>,
    pub saving: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Row {
    pub step: Step,
    #[serde(default)]
    pub wall: Wall,
}

/// A line of `samples.jsonl`.
#[derive(Deserialize)]
pub(super) struct Sample {
    #[serde(default)]
    pub stage: String,
    pub global_step: u64,
    #[serde(default)]
    pub prompt: String,
    #[serde(default)]
    pub images: Vec<PathBuf>,
    #[serde(default)]
    pub text: String,
}

/// Steps of one stage that follow one another.
pub(super) struct Stage {
    pub name: String,
    /// Its rows.
    pub rows: std::ops::Range<usize>,
}

pub(super) struct Checkpoint {
    pub name: String,
    pub written: Option<SystemTime>,
    pub latest: bool,
}

pub(super) struct Run {
    pub dir: PathBuf,
    /// At least one, in the order of their steps.
    pub rows: Vec<Row>,
    pub stages: Vec<Stage>,
    pub samples: Vec<Sample>,
    pub checkpoints: Vec<Checkpoint>,
    /// Files whose last line is torn.
    pub torn: Vec<&'static str>,
}

const METRICS: &str = "metrics.jsonl";
const SAMPLES: &str = "samples.jsonl";

impl Run {
    pub fn open(dir: &Path) -> Result<Self, ReportError> {
        let path = dir.join(METRICS);
        let (rows, torn_metrics) = lines::<Row>(&path)?.ok_or_else(|| ReportError::NoRun { path: path.clone() })?;
        // Where a step stands twice, the later line is what the run went on from.
        let rows: BTreeMap<u64, Row> = rows.into_iter().map(|row| (row.step.global_step, row)).collect();
        let rows: Vec<Row> = rows.into_values().collect();
        if rows.is_empty() {
            return Err(ReportError::Empty { path });
        }
        let (samples, torn_samples) = lines(&dir.join(SAMPLES))?.unwrap_or_default();
        let torn = [(METRICS, torn_metrics), (SAMPLES, torn_samples)];
        Ok(Run {
            dir: dir.to_path_buf(),
            stages: stages(&rows),
            rows,
            samples,
            checkpoints: checkpoints(dir)?,
            torn: torn.into_iter().filter(|(_, torn)| *torn).map(|(name, _)| name).collect(),
        })
    }
}

/// Most bytes of a run's lines: of years of steps.
const MAX_LINES: u64 = 16 << 30;

/// The lines of a file, and whether its last one is torn; nothing if there is no such file.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Option<(Vec<T>, bool)>, ReportError> {
    let bytes = match vila_files::read(path, MAX_LINES) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(ReportError::io(path)(error)),
    };
    let mut all = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(value) => all.push(value),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) if !line.ends_with(b"\n") => return Ok(Some((all, true))),
            Err(error) => {
                let (path, problem) = (path.to_path_buf(), error.to_string());
                return Err(ReportError::Damaged { path, line: index + 1, problem });
            }
        }
    }
    Ok(Some((all, false)))
}

fn stages(rows: &[Row]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match stages.last_mut() {
            Some(stage) if stage.name == row.step.stage => stage.rows.end = index + 1,
            _ => stages.push(Stage { name: row.step.stage.clone(), rows: index..index + 1 }),
        }
    }
    stages
}

/// The run's checkpoints, oldest first.
fn checkpoints(dir: &Path) -> Result<Vec<Checkpoint>, ReportError> {
    let folder = dir.join("checkpoints");
    let latest = fs::read_link(dir.join("latest")).ok();
    let latest = latest.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReportError::io(&folder)(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ReportError::io(&folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What begins with a dot is being written.
        if !name.starts_with('.') && entry.path().is_dir() {
            let written = entry.metadata().and_then(|data| data.modified()).ok();
            all.push(Checkpoint { written, latest: latest.as_ref() == Some(&name), name });
        }
    }
    all.sort_by(|a, b| (a.written, &a.name).cmp(&(b.written, &b.name)));
    Ok(all)
}
