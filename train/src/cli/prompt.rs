use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use vila_model::{FinishReason, GenerateOptions, Vila};

use super::{Failure, Outcome, device, print, print_json};

#[derive(Args)]
pub(super) struct GenerateArguments {
    /// A checkpoint directory.
    #[arg(long)]
    model: PathBuf,
    /// The prompt; `<image>` marks where an image goes, with none images come first.
    #[arg(long)]
    prompt: String,
    /// An image file; repeat it for several.
    #[arg(long = "image", value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Most tokens to make.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Draw among the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 1.0, value_parser = probability)]
    top_p: f64,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

fn temperature(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|t: &f64| *t >= 0.0 && t.is_finite()).ok_or("expected a number from 0".into())
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| *p > 0.0 && *p <= 1.0).ok_or("expected a number above 0, at most 1".into())
}

pub(super) fn generate(arguments: GenerateArguments) -> Result<Outcome, Failure> {
    let vila = Vila::load(&arguments.model, device(arguments.device.as_deref())?)?;
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    let made = vila_model::generate(&vila, &arguments.prompt, &arguments.images, &options)?;
    if !arguments.json {
        print(&format!("{}\n", made.text))?;
        return Ok(Outcome::Done);
    }
    print_json(&json!({
        "prompt": arguments.prompt,
        "images": arguments.images,
        "new_ids": made.ids,
        "text": made.text,
        "finish_reason": match made.finish {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        },
    }))?;
    Ok(Outcome::Done)
}

#[derive(Args)]
pub(super) struct ScoreArguments {
    /// A checkpoint directory.
    #[arg(long)]
    model: PathBuf,
    /// JSON lines of {"prompt", "continuation", "images"}.
    #[arg(long)]
    input: PathBuf,
    /// Where results go; stdout if left out.
    #[arg(long)]
    output: Option<PathBuf>,
    /// cpu
    #[arg(long)]
    device: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreLine {
    prompt: String,
    continuation: String,
    #[serde(default)]
    images: Vec<PathBuf>,
}

pub(super) fn score(arguments: ScoreArguments) -> Result<Outcome, Failure> {
    let lines = read_lines(&arguments.input)?;
    let vila = Vila::load(&arguments.model, device(arguments.device.as_deref())?)?;
    let mut results = String::new();
    for (number, line) in lines {
        let score = vila_model::score(&vila, &line.prompt, &line.continuation, &line.images)
            .map_err(|error| format!("{} line {number}: {error}", arguments.input.display()))?;
        let value = json!({
            "logprob": score.logprob,
            "greedy": score.greedy,
            "tokens": score.tokens,
            "token_logprobs": score.token_logprobs,
        });
        match &arguments.output {
            None => print_json(&value)?,
            Some(_) => results += &format!("{value}\n"),
        }
    }
    if let Some(path) = arguments.output {
        // Whole or not at all: an earlier file survives a line that fails.
        let partial = path.with_extension("partial");
        let written = std::fs::write(&partial, results).and_then(|()| std::fs::rename(&partial, &path));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Outcome::Done)
}

fn read_lines(path: &Path) -> Result<Vec<(usize, ScoreLine)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let parsed = serde_json::from_str(line)
                .map_err(|error| format!("{} line {}: {error}", path.display(), index + 1))?;
            Ok((index + 1, parsed))
        })
        .collect()
}
