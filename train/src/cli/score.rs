use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::generate::placed;
use super::model::ModelArguments;
use super::{Failure, Outcome, print_json};
use crate::records::{folder_of, read_all};
use crate::whole_file::write_whole;

#[derive(Args)]
pub(super) struct ScoreArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// JSON lines of {"prompt", "continuation", "images"}. Image paths are relative to the file's folder, or else to
    /// the working directory.
    #[arg(long)]
    input: PathBuf,
    /// Where results go; stdout if left out.
    #[arg(long)]
    output: Option<PathBuf>,
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
    let (lines, folder) = (read_all::<ScoreLine>(&arguments.input)?, folder_of(&arguments.input));
    let vila = arguments.model.load()?;
    let mut results = String::new();
    for (number, line) in lines {
        let score = vila_model::score(&vila, &line.prompt, &line.continuation, &placed(&folder, line.images))
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
        write_whole(&path, results.as_bytes())?;
    }
    Ok(Outcome::Done)
}
