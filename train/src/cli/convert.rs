use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vila_model::config::Layout;
use vila_model::convert::{self, Conversion, SHARD_BYTES};

use super::{Failure, Outcome, print, print_json};

#[derive(Args)]
pub(super) struct ConvertArguments {
    /// The checkpoint directory to read; its layout is found out.
    #[arg(long)]
    from: PathBuf,
    /// The directory to write; it must not be there, or be empty.
    #[arg(long)]
    to: PathBuf,
    /// `vila` (three folders), `llava` (one folder of LLaVA-1.5) or `llava-hf` (for transformers).
    #[arg(long)]
    layout: Layout,
    /// Bytes of a weight file above which a folder's tensors are spread over several.
    #[arg(long, default_value_t = SHARD_BYTES)]
    shard_bytes: u64,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn convert(arguments: &ConvertArguments) -> Result<Outcome, Failure> {
    let ConvertArguments { from, to, layout, shard_bytes, json } = arguments;
    let Conversion { from, to, tensors, bytes, files, rows } = convert::convert(from, to, *layout, *shard_bytes)?;
    let (from, to) = (from.name(), to.name());
    if *json {
        print_json(&json!({
            "from": from, "to": to, "tensors": tensors, "bytes": bytes, "files": files, "rows": rows,
        }))?;
        return Ok(Outcome::Done);
    }
    let rows = match rows {
        0 => String::new(),
        1.. => format!("; {rows} rows for <image> and <pad> added to the vocabulary"),
        _ => format!("; {} added rows removed from the vocabulary", -rows),
    };
    print(&format!("{from} to {to}: {tensors} tensors, {bytes} bytes, in {files} weight files{rows}\n"))?;
    Ok(Outcome::Done)
}
