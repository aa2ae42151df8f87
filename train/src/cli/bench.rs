use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Outcome, Usage, device, print, print_json};
use crate::bench::{StepShape, bench_step, preset};

#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// One training step on random weights: frozen tower, projector and decoder trained.
    Step(StepArguments),
}

#[derive(Args)]
pub(super) struct StepArguments {
    /// toy | small
    #[arg(long, default_value = "toy")]
    preset: String,
    /// Positions per document.
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// Documents per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Images per document.
    #[arg(long, default_value_t = 2)]
    images: usize,
    /// Measured steps.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps before measuring.
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(BenchCommand::Step(arguments): BenchCommand) -> Result<Outcome, Failure> {
    let config = preset(&arguments.preset)
        .ok_or_else(|| Usage(format!("--preset {}: there are toy and small", arguments.preset)))?;
    let backend = device(arguments.device.as_deref())?;
    let shape = StepShape { seq: arguments.seq, batch: arguments.batch, images: arguments.images };
    let times = bench_step(&backend, &config, shape, arguments.warmup, arguments.steps.max(1))?;
    let (median, tokens) = (times.median(), (shape.seq * shape.batch) as f64);
    let facts = json!({
        "preset": arguments.preset,
        "device": backend.name(),
        "dtype": "f32",
        "batch": shape.batch,
        "seq": shape.seq,
        "images": shape.images,
        "loss": times.loss,
        "step_ms_median": median * 1e3,
        "step_ms_min": times.seconds[0] * 1e3,
        "tokens_per_s": tokens / median,
        "model_gflops": times.model_flops / median / 1e9,
        "peak_mib": times.peak_bytes as f64 / f64::from(1 << 20),
    });
    if arguments.json {
        print_json(&facts)?;
    } else {
        print(&format!(
            "{}: {:.1} ms per step (median of {}), {:.0} tokens/s, {:.1} model GFLOP/s, peak {:.0} MiB\n\
             model FLOPs: 6 x (decoder without embeddings + projector) x tokens + causal attention at half + 2 x tower x patches\n",
            arguments.preset,
            median * 1e3,
            times.seconds.len(),
            tokens / median,
            times.model_flops / median / 1e9,
            times.peak_bytes as f64 / f64::from(1 << 20)
        ))?;
    }
    Ok(Outcome::Done)
}
