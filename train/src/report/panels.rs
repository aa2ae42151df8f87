//! Which charts a report has.

use std::collections::BTreeSet;

use super::chart::{Chart, Look, Scale, Series};
use super::read::{Row, Run};
use super::series::{MOST, Point, points, smooth, span, weighted};

/// A chart with its words.
pub(super) struct Panel {
    pub title: &'static str,
    /// What is to be known about it.
    pub note: String,
    /// Why it is left out when there is nothing to draw.
    pub absent: &'static str,
    pub chart: Chart,
}

impl Panel {
    pub fn has_data(&self) -> bool {
        self.chart.series.iter().any(|series| !series.points.is_empty())
    }
}

const OLD: &str = "the metrics do not have it: older runs and some devices do not measure it";

/// All charts, with or without data.
pub(super) fn panels(run: &Run) -> Vec<Panel> {
    let mut panels = vec![loss(run), sources(run), validation(run), rate(run), gradients(run), throughput(run)];
    panels.extend([packing(run), memory(run), waiting(run), waiting_share(run)]);
    let skipped = run.rows.iter().filter(|row| row.step.skipped.is_some());
    let marks: Vec<f64> = skipped.map(|row| row.step.global_step as f64).take(MOST).collect();
    for panel in panels.iter_mut().filter(|panel| ["Loss", "Gradient norm"].contains(&panel.title)) {
        panel.chart.marks = marks.clone();
    }
    panels
}

fn panel(
    title: &'static str,
    note: impl Into<String>,
    absent: &'static str,
    unit: &str,
    scale: Scale,
    series: Vec<Series>,
) -> Panel {
    let unit = format!("{unit}{}", if scale == Scale::Log { ", log scale" } else { "" });
    let chart = Chart { over: "step", unit, scale, series, marks: Vec::new() };
    Panel { title, note: note.into(), absent, chart }
}

fn series(name: impl Into<String>, points: Vec<Point>, look: Look, color: usize) -> Series {
    Series { name: name.into(), points, look, color }
}

fn averaged(run: &Run) -> String {
    format!("Smoothed: exponential moving average over {} steps, begun anew in each stage.", span(run))
}

/// Every step faintly, and the moving average.
fn raw_and_smooth(run: &Run, value: impl Fn(&Row) -> Option<f64>) -> Vec<Series> {
    let values = weighted(run, |row| Some((value(row)?, 1.0)));
    let smoothed = smooth(&values, span(run));
    let raw = values.into_iter().map(|(point, _)| point).collect();
    vec![series("each step", raw, Look::Faint, 0), series("smoothed", smoothed, Look::Line, 0)]
}

fn loss(run: &Run) -> Panel {
    let series = raw_and_smooth(run, |row| row.step.loss);
    panel("Loss", averaged(run), "no step has a finite loss", "nats per supervised token", Scale::Linear, series)
}

fn sources(run: &Run) -> Panel {
    let names: BTreeSet<&String> = run.rows.iter().flat_map(|row| row.step.loss_by_source.keys()).collect();
    let curve = |(index, name): (usize, &String)| {
        let part = |row: &Row| {
            let part = row.step.loss_by_source.get(name)?;
            Some((part.loss?, part.supervised as f64))
        };
        series(name, smooth(&weighted(run, part), span(run)), Look::Line, index)
    };
    let note = format!("{} Each step weighs as its supervised tokens.", averaged(run));
    let curves = names.into_iter().enumerate().map(curve).collect();
    panel("Loss by source", note, OLD, "nats per supervised token", Scale::Linear, curves)
}

fn validation(run: &Run) -> Panel {
    let curve = points(run, |row| row.step.validation_loss);
    panel(
        "Validation loss",
        "Documents that are not trained on; each stage has its own.",
        "no step measured it: set `validate_every` in a stage and `hold_out` in one of its sources",
        "nats per supervised token",
        Scale::Linear,
        vec![series("held out", curve, Look::Dots, 2)],
    )
}

fn rate(run: &Run) -> Panel {
    let curve = points(run, |row| row.step.lr);
    let mut peaks = vec![0.0f64; run.stages.len()];
    curve.iter().for_each(|point| peaks[point.part] = peaks[point.part].max(point.y));
    let highest = peaks.iter().copied().fold(0.0, f64::max);
    let spread = peaks.iter().any(|peak| *peak > 0.0 && *peak * 20.0 < highest);
    let scale = if spread { Scale::Log } else { Scale::FromZero };
    let curve = vec![series("learning rate", curve, Look::Line, 4)];
    panel("Learning rate", "", "no step has one", "per update", scale, curve)
}

fn gradients(run: &Run) -> Panel {
    let mut curves = raw_and_smooth(run, |row| row.step.grad_norm);
    curves.iter_mut().for_each(|curve| curve.color = 1);
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.y).filter(|y| *y > 0.0);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let scale = if high > 30.0 * low { Scale::Log } else { Scale::FromZero };
    let note = format!("Before clipping. {}", averaged(run));
    panel("Gradient norm", note, "no step has a finite one", "L2 norm", scale, curves)
}

fn throughput(run: &Run) -> Panel {
    let mut curves = raw_and_smooth(run, |row| row.wall.tokens_per_second);
    curves.iter_mut().for_each(|curve| curve.color = 3);
    panel("Throughput", averaged(run), "no step was timed", "tokens per second", Scale::FromZero, curves)
}

fn packing(run: &Run) -> Panel {
    let mut curves = raw_and_smooth(run, |row| row.step.packing.map(|share| share * 100.0));
    curves.iter_mut().for_each(|curve| curve.color = 5);
    let note = format!("Share of the micro-batches' capacity that documents fill. {}", averaged(run));
    panel("Packing efficiency", note, OLD, "% of capacity", Scale::Percent, curves)
}

const UNITS: [(&str, f64); 4] = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0), ("bytes", 1.0)];
const PEAK: &str = "peak";

fn memory(run: &Run) -> Panel {
    let rows = fullest(run);
    let largest = rows.iter().map(|row| f64::max(total(row), bytes(row, PEAK))).fold(1.0, f64::max);
    let (unit, size) = UNITS.into_iter().find(|(_, size)| largest >= *size).unwrap_or(("bytes", 1.0));
    let curve = |value: &dyn Fn(&Row) -> f64| -> Vec<Point> {
        rows.iter().map(|row| Point { x: row.step.global_step as f64, y: value(row) / size, part: 0 }).collect()
    };
    let names: BTreeSet<&str> = rows.iter().flat_map(|row| row.wall.memory.keys().map(String::as_str)).collect();
    let owners: Vec<&str> = names.iter().copied().filter(|owner| *owner != PEAK).collect();
    // Drawn from the top of the stack down, each over the one before.
    let stack = |index: usize| {
        let sum = |row: &Row| owners[..=index].iter().map(|owner| bytes(row, owner)).sum();
        series(owners[index], curve(&sum), Look::Stack, index)
    };
    let mut curves: Vec<Series> = (0..owners.len()).rev().map(stack).collect();
    if names.contains(PEAK) {
        curves.push(series("peak", curve(&|row| bytes(row, PEAK)), Look::Line, 7));
    }
    panel("Memory by owner", "The peak is the most that was ever in use.", OLD, unit, Scale::FromZero, curves)
}

fn bytes(row: &Row, owner: &str) -> f64 {
    row.wall.memory.get(owner).copied().unwrap_or(0) as f64
}

fn total(row: &Row) -> f64 {
    row.wall.memory.keys().filter(|owner| *owner != PEAK).map(|owner| bytes(row, owner)).sum()
}

/// Of each share of a long run the step with the most memory, so that what is stacked was there at one time.
fn fullest(run: &Run) -> Vec<&Row> {
    let measured: Vec<&Row> = run.rows.iter().filter(|row| !row.wall.memory.is_empty()).collect();
    let shares = measured.chunks(measured.len().div_ceil(MOST).max(1));
    shares.filter_map(|rows| rows.iter().copied().max_by(|a, b| total(a).total_cmp(&total(b)))).collect()
}

fn waiting(run: &Run) -> Panel {
    let mut curves = vec![series("for data", points(run, |row| row.wall.waited), Look::Line, 6)];
    let saving = points(run, |row| row.wall.saving);
    if saving.iter().any(|point| point.y > 0.0) {
        curves.push(series("for saving", saving, Look::Line, 0));
    }
    panel("Time waited", "In each step.", "no step was timed", "seconds", Scale::FromZero, curves)
}

fn waiting_share(run: &Run) -> Panel {
    let share = |row: &Row| Some(row.wall.waited? / row.wall.seconds.filter(|seconds| *seconds > 0.0)? * 100.0);
    let mut curves = raw_and_smooth(run, share);
    curves.iter_mut().for_each(|curve| curve.color = 6);
    let note = format!("Near 0 the device is kept busy. {}", averaged(run));
    panel("Waiting for data, share of the step", note, "no step was timed", "% of the step", Scale::FromZero, curves)
}
