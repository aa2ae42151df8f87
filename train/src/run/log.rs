use std::collections::{BTreeMap, VecDeque};

use vila_engine::{Backend, Owner};

use super::folder::CLAIM;
use super::samples;
use super::stage::StageRunner;
use crate::Result;
use crate::checkpoint::{StageReport, TrainerState};
use crate::loader::StageData;
use crate::metrics::{MetricsFile, StepMetrics, WallMetrics};
use crate::progress::Progress;
use crate::tensorboard::EventFile;
use crate::whole_file::write_whole;

/// What rank 0 writes down.
pub(super) struct Log {
    pub(super) metrics: MetricsFile,
    events: EventFile,
    progress: Option<Progress>,
}

impl Log {
    pub(super) fn open(runner: &StageRunner, state: &TrainerState, data: &StageData) -> Result<Self> {
        samples::rewind(&runner.recipe.out, state.global_step)?;
        let log = Log {
            metrics: MetricsFile::open(&runner.recipe.out, state.global_step)?,
            events: EventFile::open(&runner.recipe.out)?,
            progress: (!runner.options.quiet)
                .then(|| Progress::new(&runner.stage.name, state.step, runner.stage.steps)),
        };
        for (name, summary) in data.summaries() {
            if let Some(progress) = &log.progress {
                progress.say(&format!("{} source {name}: {summary}", runner.stage.name));
            }
        }
        Ok(log)
    }

    pub(super) fn write(
        &mut self,
        runner: &StageRunner,
        state: &TrainerState,
        line: &StepMetrics,
        wall: &WallMetrics,
    ) -> Result<()> {
        if line.global_step == 1 {
            write_whole(&runner.recipe.out.join(CLAIM), format!("{}\n", runner.recipe.hash()).as_bytes())?;
        }
        if let (1, Some(progress)) = (line.step, &self.progress) {
            let mib =
                |(owner, bytes): (&String, &u64)| format!("{owner} {:.1} MiB", *bytes as f64 / f64::from(1 << 20));
            let held: Vec<String> = wall.memory.iter().map(mib).collect();
            progress.say(&format!("{} memory: {}", line.stage, held.join(", ")));
        }
        self.metrics.write(line, wall)?;
        self.events.log_step(line, wall)?;
        if let Some(progress) = &mut self.progress {
            progress.show(state.step, state.progress.last_loss, wall.tokens_per_second);
        }
        Ok(())
    }
}

/// Losses behind a stage's `last_loss`.
const RECENT: usize = 10;

/// Bytes that the device holds, by owner, and the most that it ever held.
pub(super) fn memory(backend: &dyn Backend) -> BTreeMap<String, u64> {
    let stats = backend.memory();
    let owners = Owner::ALL.map(|owner| (owner.name().to_string(), stats.held_at_peak.of(owner) as u64));
    owners.into_iter().chain([("peak".to_string(), stats.peak as u64)]).collect()
}

/// Adds a step to a stage's report.
pub(super) fn note(report: &mut StageReport, loss: f64, tokens: u64, seconds: f64) {
    if report.steps == 0 {
        report.first_loss = loss;
    }
    let mut recent: VecDeque<f64> = std::mem::take(&mut report.recent).into();
    recent.push_back(loss);
    if recent.len() > RECENT {
        recent.pop_front();
    }
    report.last_loss = recent.iter().sum::<f64>() / recent.len() as f64;
    report.recent = recent.into();
    report.steps += 1;
    report.tokens += tokens;
    report.seconds += seconds;
}
