//! What happened to a run besides steps.

use super::format::{compact, date, duration};
use super::read::{Row, Run};

pub(super) struct Event {
    pub step: u64,
    pub stage: String,
    pub what: String,
}

/// Pauses between steps that are worth a line.
const PAUSE_SECONDS: f64 = 30.0;
const PAUSE_STEPS: f64 = 10.0;

/// Records left out, skipped updates and pauses, in order.
pub(super) fn events(run: &Run) -> Vec<Event> {
    let mut seconds: Vec<f64> = run.rows.iter().filter_map(|row| row.wall.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let usual = seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
    let mut events = Vec::new();
    let mut before: Option<&Row> = None;
    for row in &run.rows {
        let pause = before.and_then(|before| pause(before, row)).filter(|pause| *pause > PAUSE_STEPS * usual);
        for what in pause.map(|pause| paused(pause, row)).into_iter().chain(left_out(row)).chain(skipped(row)) {
            events.push(Event { step: row.step.global_step, stage: row.step.stage.clone(), what });
        }
        before = Some(row);
    }
    events
}

/// What is missing of the stage's sources.
fn left_out(row: &Row) -> impl Iterator<Item = String> {
    row.step.left_out.iter().map(|(source, summary)| format!("source {source}: {summary}"))
}

/// Seconds between two steps, if there are many.
fn pause(before: &Row, row: &Row) -> Option<f64> {
    let begin = row.wall.time? - row.wall.seconds?;
    Some(begin - before.wall.time?).filter(|pause| *pause > PAUSE_SECONDS)
}

fn paused(pause: f64, row: &Row) -> String {
    let until = row.wall.time.map(date).unwrap_or_default();
    format!("no step for {} before this one ({until}): stopped and resumed, or preparing a stage", duration(pause))
}

fn skipped(row: &Row) -> Option<String> {
    let reason = row.step.skipped.as_ref()?;
    let shown = |value: Option<f64>| value.map_or("not finite".into(), |value| compact(value, 4));
    let (loss, norm) = (shown(row.step.loss), shown(row.step.grad_norm));
    Some(format!("update skipped: {reason} (loss {loss}, gradient norm {norm})"))
}
