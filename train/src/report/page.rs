//! The page: head, figures, tables, samples.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use vila_model::image::ImageFormat;

use super::chart::{Begin, Chart, Look, color};
use super::events::events;
use super::format::{compact, count, date, date_of, duration};
use super::panels::Panel;
use super::read::{Row, Run, Sample, Stage};
use super::series::{smooth, span, weighted};
use crate::data::cli::{base64, escape};

const STYLE: &str = include_str!("style.css");
const HOVER: &str = include_str!("hover.js");

/// Listed events.
const MOST_EVENTS: usize = 200;
/// Prompts, and generations of each, that are shown.
const MOST_PROMPTS: usize = 40;
const MOST_TEXTS: usize = 12;
/// Images larger than this are named instead of shown.
const MOST_IMAGE_BYTES: u64 = 256 << 10;
/// Losses behind a stage's last loss, as in the trainer's own report.
const RECENT: usize = 10;

pub(super) fn page(run: &Run, charts: &[Panel], left_out: &[Panel]) -> String {
    let dir = run.dir.canonicalize().unwrap_or_else(|_| run.dir.clone());
    let title = escape(&dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy());
    let mut body = format!("<h1>{title}</h1>\n<p class=\"facts\">{}</p>\n", facts(run));
    body += &tiles(run);
    body += "<section class=\"charts\">\n";
    charts.iter().for_each(|panel| body += &figure(run, panel));
    body += "</section>\n";
    for panel in left_out {
        body += &format!("<p class=\"absent\"><b>{}</b> is left out: {}.</p>\n", panel.title, escape(panel.absent));
    }
    body += &stage_table(run);
    body += &event_table(run);
    body += &checkpoint_table(run);
    body += &samples(run);
    document(&format!("{title} · VILA run"), &body)
}

/// How every page begins. Even text that slipped through could load nothing and run nothing.
const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
    style-src 'unsafe-inline'; script-src 'sha256-";

/// Whether a file is a page that [`document`] made.
pub(crate) fn is_page(path: &Path) -> bool {
    let mut start = vec![0; HEAD.len()];
    let read = vila_files::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == HEAD.as_bytes()
}

/// A page that needs nothing else; title and body are HTML.
pub(crate) fn document(title: &str, body: &str) -> String {
    let script = base64(&Sha256::digest(HOVER));
    format!(
        "{HEAD}{script}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n<script>{HOVER}</script>\n</body>\n</html>\n"
    )
}

fn facts(run: &Run) -> String {
    let times = || run.rows.iter().filter_map(|row| row.wall.time);
    let mut facts = vec![escape(&run.dir.display().to_string())];
    if let (Some(first), Some(last)) = (times().next(), times().next_back()) {
        facts.push(format!("{} to {}", date(first), date(last)));
    }
    facts.extend(run.torn.iter().map(|name| format!("the last line of {name} is torn and was left out")));
    facts.join(" · ")
}

fn sum(rows: &[Row], value: impl Fn(&Row) -> f64) -> f64 {
    rows.iter().map(value).sum()
}

fn total(rows: &[Row], value: impl Fn(&Row) -> u64) -> u64 {
    rows.iter().map(value).fold(0, u64::saturating_add)
}

fn tiles(run: &Run) -> String {
    let rows = &run.rows;
    let loss = smooth(&weighted(run, |row| Some((row.step.loss?, 1.0))), span(run));
    let validation = rows.iter().rev().find_map(|row| row.step.validation_loss);
    let number = |value: Option<f64>| value.map_or("–".into(), |value| compact(value, 4));
    let tiles = [
        ("steps", count(rows.len() as u64)),
        ("loss, smoothed", number(loss.last().map(|point| point.y))),
        ("validation loss", number(validation)),
        ("tokens", count(total(rows, |row| row.step.tokens))),
        ("images", count(total(rows, |row| row.step.images))),
        ("tokens/s", number(speed(rows))),
        ("time in steps", duration(sum(rows, |row| row.wall.seconds.unwrap_or(0.0)))),
        ("updates skipped", count(rows.iter().filter(|row| row.step.skipped.is_some()).count() as u64)),
    ];
    let tile = |(name, value): (&str, String)| format!("<div><b>{value}</b><span>{name}</span></div>\n");
    format!("<section class=\"tiles\">\n{}</section>\n", tiles.map(tile).concat())
}

fn speed(rows: &[Row]) -> Option<f64> {
    let seconds = sum(rows, |row| row.wall.seconds.unwrap_or(0.0));
    (seconds > 0.0).then(|| total(rows, |row| row.step.tokens) as f64 / seconds)
}

fn figure(run: &Run, panel: &Panel) -> String {
    let step = |row: Option<&Row>| row.map_or(0.0, |row| row.step.global_step as f64);
    let begin = |stage: &Stage| Begin { step: step(run.rows.get(stage.rows.start)), name: stage.name.clone() };
    let begins: Vec<Begin> = run.stages.iter().map(begin).collect();
    let range = (step(run.rows.first()), step(run.rows.last()));
    drawn(panel.title, &panel.note, &panel.chart, range, &begins)
}

/// A chart with its title, its keys with the latest values, and a note.
pub(crate) fn drawn(title: &str, note: &str, chart: &Chart, range: (f64, f64), begins: &[Begin]) -> String {
    let svg = chart.svg(title, range, begins);
    let mut keys = String::new();
    // Stacks are drawn from the top down and listed from the bottom up.
    let (stacks, lines): (Vec<_>, Vec<_>) = chart.series.iter().partition(|series| series.look == Look::Stack);
    let mut below = 0.0;
    for series in stacks.into_iter().rev().chain(lines) {
        let latest = series.points.last().map(|point| point.y).unwrap_or_default();
        let shown = if series.look == Look::Stack { latest - below } else { latest };
        below = latest;
        let (name, look) = (escape(&series.name), if series.look == Look::Faint { " faint" } else { "" });
        keys += &format!("<span><i class=\"{}{look}\"></i>{name} <b>{}</b></span>\n", color(series), compact(shown, 4));
    }
    if !chart.marks.is_empty() {
        keys += "<span><i class=\"mark\"></i>update skipped</span>\n";
    }
    let note = escape(note);
    format!(
        "<figure>\n<figcaption>{title}</figcaption>\n<div class=\"keys\">{keys}</div>\n{svg}<p class=\"note\">{note}</p>\n</figure>\n"
    )
}

/// A table with a heading; cells are HTML, and those of the columns from `numbers` on are numbers.
pub(crate) fn table(title: &str, head: &[&str], numbers: usize, rows: &[Vec<String>]) -> String {
    let cell = |kind: &str, (index, text): (usize, String)| {
        let class = if index >= numbers { " class=\"number\"" } else { "" };
        format!("<{kind}{class}>{text}</{kind}>")
    };
    let head: String = head.iter().map(|name| name.to_string()).enumerate().map(|part| cell("th", part)).collect();
    let line = |row: &Vec<String>| {
        let cells: String = row.iter().cloned().enumerate().map(|part| cell("td", part)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = rows.iter().map(line).collect();
    format!(
        "<h2>{title}</h2>\n<div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )
}

fn stage_table(run: &Run) -> String {
    let head =
        ["stage", "steps", "tokens", "supervised", "images", "first loss", "last loss", "time", "tokens/s", "waited"];
    let rows: Vec<Vec<String>> =
        run.stages.iter().map(|stage| stage_row(&run.rows[stage.rows.clone()], stage)).collect();
    let note = format!("<p class=\"note\">Last loss: mean of the last steps, at most {RECENT}.</p>\n");
    table("Stages", &head, 1, &rows) + &note
}

fn stage_row(rows: &[Row], stage: &Stage) -> Vec<String> {
    let losses: Vec<f64> = rows.iter().filter_map(|row| row.step.loss).collect();
    let recent = &losses[losses.len().saturating_sub(RECENT)..];
    let loss = |value: Option<f64>| value.map_or("–".into(), |value| compact(value, 4));
    let seconds = sum(rows, |row| row.wall.seconds.unwrap_or(0.0));
    let waited = sum(rows, |row| row.wall.waited.unwrap_or(0.0));
    vec![
        format!("<b>{}</b>", escape(&stage.name)),
        count(rows.len() as u64),
        count(total(rows, |row| row.step.tokens)),
        count(total(rows, |row| row.step.supervised)),
        count(total(rows, |row| row.step.images)),
        loss(losses.first().copied()),
        loss((!recent.is_empty()).then(|| recent.iter().sum::<f64>() / recent.len() as f64)),
        duration(seconds),
        loss(speed(rows)),
        if seconds > 0.0 { format!("{:.1} %", waited / seconds * 100.0) } else { "–".into() },
    ]
}

fn event_table(run: &Run) -> String {
    let events = events(run);
    if events.is_empty() {
        return "<h2>Skipped steps and events</h2>\n<p class=\"note\">No update was skipped, and the run did not pause.</p>\n".into();
    }
    let row = |event: &super::events::Event| vec![event.step.to_string(), escape(&event.stage), escape(&event.what)];
    let rows: Vec<Vec<String>> = events.iter().take(MOST_EVENTS).map(row).collect();
    let mut text = table("Skipped steps and events", &["step", "stage", "what happened"], 3, &rows);
    if events.len() > MOST_EVENTS {
        text += &format!("<p class=\"note\">The first {MOST_EVENTS} of {} events.</p>\n", events.len());
    }
    text
}

fn checkpoint_table(run: &Run) -> String {
    if run.checkpoints.is_empty() {
        return String::new();
    }
    let row = |checkpoint: &super::read::Checkpoint| {
        let latest = if checkpoint.latest { " (latest)" } else { "" };
        vec![escape(&checkpoint.name) + latest, checkpoint.written.map(date_of).unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = run.checkpoints.iter().map(row).collect();
    table("Checkpoints", &["checkpoint", "written"], 2, &rows)
}

/// What the model said to each prompt as training went on.
fn samples(run: &Run) -> String {
    if run.samples.is_empty() {
        return "<p class=\"absent\"><b>Samples</b> are left out: the run has no samples.jsonl.</p>\n".into();
    }
    let mut groups: Vec<Vec<&Sample>> = Vec::new();
    let mut places = HashMap::new();
    for sample in &run.samples {
        let place = *places.entry((&sample.prompt, &sample.images)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(sample),
            None => groups.push(vec![sample]),
        }
    }
    let mut text = String::from("<h2>Samples</h2>\n<section class=\"samples\">\n");
    groups.iter().take(MOST_PROMPTS).for_each(|group| text += &answers(&run.dir, group));
    text += "</section>\n";
    if groups.len() > MOST_PROMPTS {
        text += &format!("<p class=\"note\">The first {MOST_PROMPTS} of {} prompts.</p>\n", groups.len());
    }
    text
}

fn answers(dir: &Path, group: &[&Sample]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let images: String = first.images.iter().map(|image| picture(dir, image)).collect();
    let mut text =
        format!("<article>\n<div class=\"prompt\">{images}<pre>{}</pre></div>\n<ol>\n", escape(&first.prompt));
    let shown = spread(group.len(), MOST_TEXTS);
    for sample in shown.iter().filter_map(|index| group.get(*index)) {
        let (stage, said) = (escape(&sample.stage), escape(&sample.text));
        text += &format!("<li><span>step {} <i>{stage}</i></span><pre>{said}</pre></li>\n", count(sample.global_step));
    }
    text += "</ol>\n";
    if shown.len() < group.len() {
        text += &format!("<p class=\"note\">{} of {} generations.</p>\n", shown.len(), group.len());
    }
    text + "</article>\n"
}

/// At most `most` indices of `count`, evenly spread, with the first and the last.
fn spread(count: usize, most: usize) -> Vec<usize> {
    let shown = count.min(most);
    (0..shown).map(|index| index * (count - 1) / (shown - 1).max(1)).collect()
}

/// An image inside the page, or its name where it cannot be shown.
fn picture(dir: &Path, image: &Path) -> String {
    let name = escape(&image.display().to_string());
    let small = |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.len() <= MOST_IMAGE_BYTES);
    let found = [image.to_path_buf(), dir.join(image)].into_iter().find(|path| small(path));
    let bytes = found.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
    match ImageFormat::of(&bytes) {
        Some(format) => {
            let (media, data) = (format.media_type(), base64(&bytes));
            format!("<img src=\"data:{media};base64,{data}\" alt=\"{name}\" title=\"{name}\">")
        }
        None => format!("<code>{name}</code> "),
    }
}
