use std::io::Write;
use std::path::Path;

use serde_json::json;
use vila_model::{GenerateOptions, Parts};

use crate::checkpoint::TrainerState;
use crate::metrics::keep_lines;
use crate::recipe::SamplesSpec;
use crate::whole_file::append;
use crate::{Error, Result};

pub(super) const FILE: &str = "samples.jsonl";

/// Drops what steps said that run again.
pub(super) fn rewind(out: &Path, global_step: u64) -> Result<()> {
    keep_lines(&out.join(FILE), global_step, step_of)
}

/// The step of the run that a line is about.
pub(super) fn step_of(line: &serde_json::Value) -> Option<u64> {
    line["global_step"].as_u64()
}

/// Lets the model continue each prompt and appends what it said to `samples.jsonl`.
pub(super) fn write(out: &Path, spec: &SamplesSpec, parts: Parts, stage: &str, state: &TrainerState) -> Result<()> {
    let path = out.join(FILE);
    let mut file = append(out, FILE)?;
    let options = GenerateOptions { max_new_tokens: spec.max_new_tokens, ..GenerateOptions::default() };
    for prompt in &spec.prompts {
        let said = parts.generate(&prompt.text, &prompt.images, &options)?;
        let line = json!({
            "stage": stage,
            "step": state.step,
            "global_step": state.global_step,
            "prompt": prompt.text,
            "images": prompt.images.iter().map(|image| image.to_string_lossy()).collect::<Vec<_>>(),
            "text": said.text,
        });
        writeln!(file, "{line}").map_err(Error::io(&path))?;
    }
    Ok(())
}
