//! What a cell gave, and what all cells gave together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::verdict::Value;
use crate::probe::Alignment;

/// What was measured on a stage's checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// What decides the numbers besides the checkpoint.
    pub version: u32,
    /// Most questions of a task.
    pub questions: usize,
    /// Shares of right answers by metric.
    pub metrics: BTreeMap<String, f64>,
    /// The alignment probe on held-out interleaved documents; empty after stages where it was not run.
    pub alignment: Vec<Alignment>,
}

/// A stage of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageResult {
    /// Its name.
    pub name: String,
    /// Hash of everything that decides its checkpoint.
    pub key: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Positions of all documents seen.
    pub tokens: u64,
    /// Wall time of its steps, in seconds.
    pub seconds: f64,
    /// Mean training loss of consecutive parts of the stage: the middle step of each, and the loss.
    pub losses: Vec<(u64, f64)>,
    /// What was measured, if anything was.
    pub evaluation: Option<Evaluation>,
}

/// A cell under one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellResult {
    /// The cell.
    pub cell: String,
    /// The seed.
    pub seed: u64,
    /// Hash of everything that decides the result.
    pub hash: String,
    /// The device.
    pub device: String,
    /// Its stages in order.
    pub stages: Vec<StageResult>,
}

impl CellResult {
    /// Every number of the result.
    fn numbers(&self) -> impl Iterator<Item = (String, String, f64)> + '_ {
        self.stages.iter().flat_map(|stage| {
            let named = |metric: &str, value: f64| (stage.name.clone(), metric.to_string(), value);
            let evaluation = stage.evaluation.iter();
            let metrics = evaluation.clone().flat_map(|evaluation| &evaluation.metrics);
            let last = evaluation.filter_map(|evaluation| evaluation.alignment.last());
            let tail = &stage.losses[stage.losses.len() - stage.losses.len().div_ceil(10)..];
            let loss = tail.iter().map(|(_, loss)| loss).sum::<f64>() / tail.len() as f64;
            let loss = (!tail.is_empty()).then(|| named("loss", loss));
            metrics
                .map(move |(metric, value)| named(metric, *value))
                .chain(last.map(move |last| named("alignment", last.symmetric.mean)))
                .chain(loss)
        })
    }
}

/// Values over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 0 for one seed.
    pub deviation: f64,
    /// Their number.
    pub seeds: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        (n > 0).then_some(Spread { mean, deviation, seeds: n })
    }

    /// Standard error of the mean.
    pub fn error(&self) -> f64 {
        self.deviation / (self.seeds as f64).sqrt()
    }
}

/// All numbers of the grid, by cell, stage and metric, over seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    values: BTreeMap<(String, String, String), Vec<f64>>,
}

impl Summary {
    /// Of results of any cells and seeds.
    pub fn of(results: &[CellResult]) -> Self {
        let mut summary = Summary::default();
        for result in results {
            for (stage, metric, value) in result.numbers() {
                summary.values.entry((result.cell.clone(), stage, metric)).or_default().push(value);
            }
        }
        summary
    }

    #[cfg(test)]
    pub(super) fn add(&mut self, value: Value, number: f64) {
        let key = (value.cell.into(), value.stage.into(), value.metric.into());
        self.values.entry(key).or_default().push(number);
    }

    /// A number under each seed, in the order of the seeds; none if its cell was not run.
    pub fn by_seed(&self, value: Value) -> &[f64] {
        let key = (value.cell.to_string(), value.stage.to_string(), value.metric.to_string());
        self.values.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Mean and spread of a number, if its cell was run.
    pub fn spread(&self, value: Value) -> Option<Spread> {
        Spread::of(self.by_seed(value))
    }

    /// All numbers for a machine: cell, stage, metric, mean, standard deviation, values.
    pub fn json(&self) -> serde_json::Value {
        let row = |((cell, stage, metric), values): (&(String, String, String), &Vec<f64>)| {
            let spread = Spread::of(values)?;
            let (mean, deviation) = (spread.mean, spread.deviation);
            Some(serde_json::json!({
                "cell": cell, "stage": stage, "metric": metric, "mean": mean, "deviation": deviation, "values": values
            }))
        };
        self.values.iter().filter_map(row).collect()
    }
}
