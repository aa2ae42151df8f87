use std::path::PathBuf;

use clap::Args;
use vila_model::Vila;

use super::{Failure, device};

/// A model to run.
#[derive(Args)]
pub(super) struct ModelArguments {
    /// A checkpoint directory.
    #[arg(long)]
    model: PathBuf,
    /// A folder with low-rank adapters (LoRA) of the peft package, to add to its weights.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
}

impl ModelArguments {
    pub(super) fn load(&self) -> Result<Vila, Failure> {
        let device = device(self.device.as_deref())?;
        let Some(adapter) = &self.adapter else { return Ok(Vila::load(&self.model, device)?) };
        let vila = Vila::load_in_memory(&self.model, device)?;
        vila.merge_adapter(adapter)?;
        Ok(vila)
    }
}
