use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use vila_model::template::Template;
use vila_model::{GenerateOptions, Generation, Prompt, Vila};

use super::model::ModelArguments;
use super::{Failure, Outcome, Usage, print, print_json};
use crate::records::{folder_of, read_all};

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
    /// Seed of the draws.
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
        Ok(options)
    }
}

/// The template of that name, with another system prompt if one is given.
pub(super) fn template(name: &str, system: Option<&String>) -> Result<Template, Failure> {
    let template = Template::named(name).map_err(Usage::of)?;
    Ok(match system {
        Some(system) => template.with_system(system),
        None => template,
    })
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
    /// Prompts of --input that run side by side; the answers do not depend on it.
    #[arg(long, default_value_t = 8)]
    batch: usize,
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
    let template = arguments.template.as_ref().map(|name| template(name, arguments.system.as_ref())).transpose()?;
    let options = arguments.sampling.options(template.as_ref())?;
    let wrap = |text: String, images: Vec<PathBuf>| -> Result<Prompt, Failure> {
        let Some(template) = &template else { return Ok(Prompt { text, images }) };
        let text = vila_model::tokenizer::place_images(&text, images.len())?;
        Ok(Prompt { text: template.prompt(&[], &text), images })
    };
    let Some(input) = &arguments.input else {
        let prompt = wrap(arguments.prompt.unwrap_or_default(), arguments.images)?;
        let vila = arguments.model.load()?;
        if arguments.json {
            let made = vila.generate(&prompt.text, &prompt.images, &options)?.finish()?;
            print_json(&answer(&prompt, &made))?;
        } else {
            stream(&vila, &prompt, &options)?;
        }
        return Ok(Outcome::Done);
    };
    let (lines, folder) = (read_all::<PromptLine>(input)?, folder_of(input));
    if arguments.batch == 0 {
        return Err(Usage("--batch must be positive".into()).into());
    }
    let vila = arguments.model.load()?;
    let numbers: Vec<usize> = lines.iter().map(|(number, _)| *number).collect();
    let prompts: Vec<Prompt> =
        lines.into_iter().map(|(_, line)| wrap(line.prompt, placed(&folder, line.images))).collect::<Result<_, _>>()?;
    for (numbers, prompts) in numbers.chunks(arguments.batch).zip(prompts.chunks(arguments.batch)) {
        let explain = |error: vila_model::Error| {
            format!("{} lines {} to {}: {error}", input.display(), numbers[0], numbers[numbers.len() - 1])
        };
        let made = vila.parts().start(prompts, &options).and_then(|batch| batch.finish()).map_err(explain)?;
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
        "images": prompt.images,
        "new_ids": made.ids,
        "text": made.text,
        "finish_reason": made.finish.name(),
    })
}

/// Prints an answer as it is made; returns it.
pub(super) fn stream(vila: &Vila, prompt: &Prompt, options: &GenerateOptions) -> Result<String, Failure> {
    let mut text = String::new();
    for token in vila.generate(&prompt.text, &prompt.images, options)? {
        let piece = token?.text;
        print(&piece)?;
        std::io::stdout().flush()?;
        text += &piece;
    }
    print("\n")?;
    Ok(text)
}
