use std::path::PathBuf;

use clap::{Args, Subcommand};
use vila_model::Vila;

use super::{Failure, Outcome, device, print};

/// What can be done with low-rank adapters.
#[derive(Subcommand)]
pub(super) enum LoraCommand {
    /// Adds adapters to the weights that they stand beside, and writes the model without them.
    Merge(MergeArguments),
}

#[derive(Args)]
pub(super) struct MergeArguments {
    /// A checkpoint directory; its own adapters are merged.
    #[arg(long)]
    model: PathBuf,
    /// A folder of the peft package, or of LLaVA, merged as well.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The directory to write, in the three-folder layout and f32.
    #[arg(long)]
    to: PathBuf,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
}

pub(super) fn run(command: LoraCommand) -> Result<Outcome, Failure> {
    let LoraCommand::Merge(arguments) = command;
    let mut vila = Vila::load_in_memory(&arguments.model, device(arguments.device.as_deref())?)?;
    if vila.config.lora.is_none() && arguments.adapter.is_none() {
        let problem = "has no adapters of its own; name one with --adapter";
        return Err(format!("{}: {problem}", arguments.model.display()).into());
    }
    arguments.adapter.iter().try_for_each(|dir| vila.merge_adapter(dir))?;
    vila.merge_own_adapters()?;
    vila.save(&arguments.to)?;
    print(&format!("{}\n", arguments.to.display()))?;
    Ok(Outcome::Done)
}
