use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vila_model::Vila;

use super::{Failure, Outcome, device, print, print_json};
use crate::data::shard::ShardReader;
use crate::probe::{self, ProbeOptions, csv};

#[derive(Args)]
pub(super) struct ProbeArguments {
    /// A checkpoint directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A shard of documents with images; the last ones that qualify are used.
    #[arg(long, value_name = "SHARD")]
    data: PathBuf,
    /// Folder for probe.csv and probe.html.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the model in the table; by default that of its directory.
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Documents.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    documents: u64,
    /// Text tokens that a document needs, besides an image.
    #[arg(long, default_value_t = 16)]
    min_text: usize,
    /// Most states of each kind in a document.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    states: u64,
    /// Documents whose states are put together before the most similar ones are looked for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pool: u64,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ProbeArguments) -> Result<Outcome, Failure> {
    let shard = ShardReader::open(&arguments.data)?;
    let vila = Vila::load(&arguments.model, device(arguments.device.as_deref())?)?;
    let options = ProbeOptions {
        documents: usize::try_from(arguments.documents)?,
        min_text: arguments.min_text,
        most_states: usize::try_from(arguments.states)?,
        pool: usize::try_from(arguments.pool)?,
        ..ProbeOptions::default()
    };
    let layers = probe::probe(&vila, &shard, &options)?;
    let name = arguments.model.canonicalize().unwrap_or_else(|_| arguments.model.clone());
    let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let config = arguments.config.clone().unwrap_or(name);
    probe::write(&arguments.out, &config, &layers)?;
    match arguments.json {
        true => print_json(&json!({"config": config, "layers": layers}))?,
        false => print(&csv(&config, &layers))?,
    }
    Ok(Outcome::Done)
}
