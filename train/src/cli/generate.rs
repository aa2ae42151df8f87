use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use vila_model::template::Template;
use vila_model::{Draw, GenerateOptions, Generation, Prompt, Vila};

use super::model::ModelArguments;
use super::{Failure, Outcome, Usage, path_json, print, print_json};
use crate::records::{folder_of, read_all};
use crate::say::say;

/// How tokens are chosen and when an answer ends.
#[derive(Args)]
pub(super) struct Sampling {
    /// Most tokens to make.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw among this many likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Draw among the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Make tokens that are there already less likely; 1 does nothing.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the draws; lines of a file, samples of a prompt and turns of a conversation draw independently.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A text that ends the answer; repeat it for several.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl Sampling {
    /// The options, with what ends a template's answers.
    pub(super) fn options(&self, template: Option<&Template>) -> Result<GenerateOptions, Failure> {
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self
                .stop
                .iter()
                .map(String::as_str)
                .chain(template.and_then(Template::stop))
                .map(String::from)
                .collect(),
        };
        options.check().map_err(Usage::of)?;
        if self.temperature == 0.0 && (self.top_k > 0 || self.top_p < 1.0) {
            say("--top-k and --top-p change nothing without --temperature: the likeliest token is taken");
        }
        Ok(options)
    }
}

/// The template of that name, with another system prompt if one is given.
pub(super) fn template(name: &str, system: Option<&str>) -> Result<Template, Failure> {
    let template = Template::named(name).map_err(Usage::of)?;
    Ok(match system {
        Some(system) => template.with_system(system),
        None => template,
    })
}

/// The template that a checkpoint says it was trained with; says so.
pub(super) fn trained_template(vila: &Vila) -> Option<Template> {
    let template = vila.config.template.clone()?;
    say(format_args!("template: {}, with which the checkpoint was trained", template.name()));
    Some(template)
}

#[derive(Args)]
pub(super) struct GenerateArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The prompt; `<image>` marks where an image goes, with none images come first.
    #[arg(long, required_unless_present = "input", conflicts_with = "input")]
    prompt: Option<String>,
    /// An image file; repeat it for several.
    #[arg(long = "image", value_name = "FILE", num_args = 1.., conflicts_with = "input")]
    images: Vec<PathBuf>,
    /// JSON lines of {"prompt", "images"} in place of one prompt; the answers are JSON lines in the same order. Image paths
    /// are relative to the file's folder, or else to the working directory.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Answers that run side by side; they do not depend on it.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Answers to each prompt, drawn independently (with --temperature above 0). JSON has one line per answer, `sample`
    /// counts them from 0; text has `[0]`, `[1]` and so on before them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    samples: u64,
    /// Ask the prompt as a question in this conversation template.
    #[arg(long)]
    template: Option<String>,
    /// System prompt in place of the template's own; empty for none.
    #[arg(long, requires = "template")]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptLine {
    prompt: String,
    #[serde(default)]
    images: Vec<PathBuf>,
}

pub(super) fn generate(arguments: GenerateArguments) -> Result<Outcome, Failure> {
    let system = arguments.system.as_deref();
    let template = arguments.template.as_ref().map(|name| template(name, system)).transpose()?;
    let options = arguments.sampling.options(template.as_ref())?;
    if arguments.batch == 0 {
        return Err(Usage("--batch must be positive".into()).into());
    }
    if arguments.samples > 1 && options.temperature == 0.0 {
        let problem = "--samples: without --temperature the likeliest token is taken, and all answers are the same; add \
                       --temperature 1, for example";
        return Err(Usage(problem.into()).into());
    }
    let wrap = |text: String, images: Vec<PathBuf>, prompt: u64| -> Result<Prompt, Failure> {
        let draw = Draw { prompt, sample: 0 };
        let Some(template) = &template else { return Ok(Prompt { text, images, draw, ..Prompt::default() }) };
        let text = vila_model::tokenizer::place_images(&text, images.len())?;
        Ok(Prompt { text: template.prompt(&[], &text), images, draw, ..Prompt::default() })
    };
    let samples = |prompt: Prompt| {
        (0..arguments.samples).map(move |sample| Prompt { draw: Draw { sample, ..prompt.draw }, ..prompt.clone() })
    };
    let Some(input) = &arguments.input else {
        let prompt = wrap(arguments.prompt.unwrap_or_default(), arguments.images, 0)?;
        let vila = arguments.model.load()?;
        for prompt in samples(prompt) {
            if arguments.json {
                print_json(&answer(&prompt, &vila.stream(&prompt, &options)?.finish()?))?;
                continue;
            }
            if arguments.samples > 1 {
                print(&format!("[{}] ", prompt.draw.sample))?;
            }
            stream(&vila, &prompt, &options)?;
        }
        return Ok(Outcome::Done);
    };
    let (lines, folder) = (read_all::<PromptLine>(input)?, folder_of(input));
    if lines.is_empty() {
        return Err(format!("{}: there is no prompt in it", input.display()).into());
    }
    let vila = arguments.model.load()?;
    let mut prompts: Vec<(usize, Prompt)> = Vec::new();
    for (number, line) in lines {
        // The first line draws as a prompt alone.
        let prompt = wrap(line.prompt, placed(&folder, line.images), number.saturating_sub(1) as u64)
            .map_err(|error| format!("{} line {number}: {error}", input.display()))?;
        prompts.extend(samples(prompt).map(|prompt| (number, prompt)));
    }
    for batch in prompts.chunks(arguments.batch) {
        let (numbers, prompts): (Vec<usize>, Vec<Prompt>) = batch.iter().cloned().unzip();
        let explain = |error: vila_model::Error| {
            format!("{} lines {} to {}: {error}", input.display(), numbers[0], numbers[numbers.len() - 1])
        };
        let made = vila.parts().start(&prompts, &options).and_then(|batch| batch.finish()).map_err(explain)?;
        prompts.iter().zip(&made).try_for_each(|(prompt, made)| print_json(&answer(prompt, made)))?;
    }
    Ok(Outcome::Done)
}

/// Image paths of an input file: they start from its folder, or from the working directory where only that has such a file.
pub(super) fn placed(folder: &Path, images: Vec<PathBuf>) -> Vec<PathBuf> {
    let place = |image: PathBuf| {
        let beside = folder.join(&image);
        if beside.exists() || !image.exists() { beside } else { image }
    };
    images.into_iter().map(place).collect()
}

fn answer(prompt: &Prompt, made: &Generation) -> serde_json::Value {
    json!({
        "prompt": prompt.text,
        "images": prompt.images.iter().map(|image| path_json(image)).collect::<Vec<_>>(),
        "sample": prompt.draw.sample,
        "new_ids": made.ids,
        "text": made.text,
        "finish_reason": made.finish.name(),
    })
}

/// Prints an answer as it is made; returns it.
pub(super) fn stream(vila: &Vila, prompt: &Prompt, options: &GenerateOptions) -> Result<String, Failure> {
    let mut text = String::new();
    for token in vila.stream(prompt, options)? {
        let piece = token?.text;
        print(&piece)?;
        text += &piece;
    }
    print("\n")?;
    Ok(text)
}
