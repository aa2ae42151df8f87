//! `vila data info`: a shard in numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::super::shard::ShardReader;
use super::DataError;

/// Width of the longest bar of a histogram in characters.
const BAR: u64 = 40;

/// Counts, sources, options, and histograms of document lengths and images per document.
///
/// # Errors
/// The shard cannot be opened, or a record is damaged.
pub fn info(dir: &Path) -> Result<Value, DataError> {
    let reader = ShardReader::open(dir)?;
    let mut lengths = Histogram::default();
    let mut images = Histogram::default();
    for index in 0..reader.len() {
        let record = reader.record(index)?;
        lengths.add(power_of_two(record.token_count), record.token_count);
        images.add(record.image_count, record.image_count);
    }
    let (manifest, counts) = (reader.manifest(), reader.counts());
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Ok(json!({
        "dir": dir.to_string_lossy(),
        "format": manifest.options.get("format"),
        "tokenizer": manifest.tokenizer,
        "counts": counts,
        "supervised_share": share(counts.targets, counts.tokens),
        "tokens_per_document": { "mean": share(counts.tokens, counts.samples), "max": lengths.max, "histogram": lengths.to_json() },
        "images_per_document": { "mean": share(counts.image_uses, counts.samples), "max": images.max, "histogram": images.to_json() },
        "options": manifest.options,
        "sources": manifest.sources,
        "skipped": manifest.skipped,
    }))
}

/// How many documents fall into each bin; a bin is named by its lower end.
#[derive(Default)]
struct Histogram {
    bins: BTreeMap<u32, u64>,
    max: u32,
}

impl Histogram {
    fn add(&mut self, bin: u32, value: u32) {
        *self.bins.entry(bin).or_default() += 1;
        self.max = self.max.max(value);
    }

    fn to_json(&self) -> Value {
        self.bins.iter().map(|(from, documents)| json!({ "from": from, "documents": documents })).collect()
    }
}

fn power_of_two(value: u32) -> u32 {
    value.checked_ilog2().map_or(0, |log| 1 << log)
}

/// What [`info`] found, for people.
pub fn info_text(info: &Value) -> String {
    let text_of = |pointer: &str| match info.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let number = |pointer: &str| info.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<20}{value}");
    };
    row("shard", text_of("/dir"));
    row("format", text_of("/format"));
    row("tokenizer", text_of("/tokenizer"));
    row("documents", text_of("/counts/samples"));
    row(
        "tokens",
        format!(
            "{} ({:.1} per document, most {})",
            text_of("/counts/tokens"),
            number("/tokens_per_document/mean"),
            text_of("/tokens_per_document/max")
        ),
    );
    row("learned tokens", format!("{} ({:.1}%)", text_of("/counts/targets"), 100.0 * number("/supervised_share")));
    row(
        "images",
        format!(
            "{} ({:.1} per document, most {}), {} distinct, {:.1} MB",
            text_of("/counts/image_uses"),
            number("/images_per_document/mean"),
            text_of("/images_per_document/max"),
            text_of("/counts/images"),
            number("/counts/image_bytes") / 1e6
        ),
    );
    row("options", text_of("/options"));
    for source in info["sources"].as_array().into_iter().flatten() {
        row("source", format!("{} ({} bytes)", source["path"].as_str().unwrap_or_default(), source["bytes"]));
    }
    for (reason, count) in info["skipped"].as_object().into_iter().flatten() {
        row("left out or cut", format!("{count} x {}", reason.replace('_', " ")));
    }
    text.push_str("\ntokens per document, from\n");
    text.push_str(&bars(&info["tokens_per_document"]["histogram"]));
    text.push_str("\nimages per document\n");
    text.push_str(&bars(&info["images_per_document"]["histogram"]));
    text
}

fn bars(histogram: &Value) -> String {
    let bins: Vec<(u64, u64)> = histogram
        .as_array()
        .into_iter()
        .flatten()
        .map(|bin| (bin["from"].as_u64().unwrap_or(0), bin["documents"].as_u64().unwrap_or(0)))
        .collect();
    let largest = bins.iter().map(|&(_, documents)| documents).max().unwrap_or(0).max(1);
    let line = |&(from, documents): &(u64, u64)| {
        let bar = "#".repeat((u128::from(documents) * u128::from(BAR)).div_ceil(u128::from(largest)) as usize);
        format!("{from:>10} {documents:>10} {bar}\n")
    };
    bins.iter().map(line).collect()
}
