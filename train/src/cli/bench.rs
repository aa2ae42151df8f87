use clap::{Args, Subcommand};
use serde_json::json;
use vila_autograd::Recompute;
use vila_engine::{Backend, DType, Owner};
use vila_model::VilaConfig;

use super::{Failure, Outcome, Usage, device, print, print_json};
use crate::bench::kernels::{Bench, Measured, Peaks, cases, sizes};
use crate::bench::{StepOptions, StepShape, bench_decode, bench_step, planned_step, preset};
use crate::plan::DryDevice;
use crate::profile;

#[derive(Subcommand)]
pub(super) enum BenchCommand {
    /// One training step on random weights: frozen tower, projector and decoder trained.
    Step(StepArguments),
    /// Every op by itself, with its share of peaks measured in the same run.
    Kernels(KernelsArguments),
    /// Generation on random weights, one document at a time.
    Decode(DecodeArguments),
    /// Measures algorithms for every matrix product of such a step on a CUDA device, and writes the fastest to a table;
    /// runs use it when VILA_GEMM_TABLE names it.
    #[cfg(feature = "cuda")]
    Tune(super::tune::TuneArguments),
}

#[derive(Args)]
pub(super) struct DecodeArguments {
    /// toy | small | 1b | 7b
    #[arg(long, default_value = "toy")]
    preset: String,
    /// Positions of the prompt.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Tokens to make.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// f32 | bf16; by default f32 on the CPU and bf16 elsewhere.
    #[arg(long)]
    dtype: Option<String>,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct KernelsArguments {
    /// toy | small | 7b
    #[arg(long, default_value = "toy")]
    preset: String,
    /// Only these ops, separated by commas.
    #[arg(long)]
    only: Option<String>,
    /// f32 | bf16; by default f32 on the CPU and bf16 elsewhere.
    #[arg(long)]
    dtype: Option<String>,
    /// Seconds per op.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct StepArguments {
    /// toy | small | 1b | 7b
    #[arg(long, default_value = "toy")]
    preset: String,
    /// f32 | bf16; by default f32 on the CPU and bf16 elsewhere.
    #[arg(long)]
    dtype: Option<String>,
    /// What the backward pass computes again: none | cheap | block
    #[arg(long, default_value = "none")]
    recompute: String,
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
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: BenchCommand) -> Result<Outcome, Failure> {
    match command {
        BenchCommand::Step(arguments) => step(&arguments),
        BenchCommand::Kernels(arguments) => kernels(&arguments),
        BenchCommand::Decode(arguments) => decode(&arguments),
        #[cfg(feature = "cuda")]
        BenchCommand::Tune(arguments) => super::tune::tune(&arguments),
    }
}

fn kernels(arguments: &KernelsArguments) -> Result<Outcome, Failure> {
    let sizes = sizes(&arguments.preset)
        .ok_or_else(|| Usage(format!("--preset {}: there are toy, small and 7b", arguments.preset)))?;
    let backend = device(arguments.device.as_deref())?;
    let dtype = element_type(&*backend, arguments.dtype.as_deref())?;
    let all = cases(&sizes);
    let only: Option<Vec<&str>> = arguments.only.as_ref().map(|only| only.split(',').collect());
    if let Some(unknown) = only.iter().flatten().find(|name| !all.iter().any(|case| case.op == **name)) {
        return Err(
            Usage(format!("--only {unknown}: no such op; there are {}", names(all.iter().map(|c| c.op)))).into()
        );
    }
    let bench = Bench { backend: &*backend, dtype, seconds: arguments.seconds };
    let peaks = bench.peaks(&sizes)?;
    let chosen = all.iter().filter(|case| only.as_ref().is_none_or(|only| only.contains(&case.op)));
    let measured = chosen.map(|case| bench.measure(case)).collect::<Result<Vec<Measured>, _>>()?;
    if arguments.json {
        let ops: Vec<_> = measured.iter().map(|measured| measured.to_json(&peaks)).collect();
        print_json(&json!({
            "device": backend.name(),
            "preset": sizes.name,
            "dtype": format!("{dtype:?}").to_lowercase(),
            "peak_gb_per_s": peaks.bandwidth / 1e9,
            "peak_gflop_per_s": peaks.rate / 1e9,
            "ops": ops,
        }))?;
    } else {
        print(&kernel_table(&measured, &peaks))?;
    }
    Ok(Outcome::Done)
}

fn element_type(backend: &dyn Backend, name: Option<&str>) -> Result<DType, Usage> {
    match name {
        None if backend.name() == "cpu" => Ok(DType::F32),
        None | Some("bf16") => Ok(DType::BF16),
        Some("f32") => Ok(DType::F32),
        Some(other) => Err(Usage(format!("--dtype {other}: there are f32 and bf16"))),
    }
}

fn decode(arguments: &DecodeArguments) -> Result<Outcome, Failure> {
    let config = config(&arguments.preset)?;
    let backend = device(arguments.device.as_deref())?;
    let dtype = element_type(&*backend, arguments.dtype.as_deref())?;
    let times = bench_decode(&backend, &config, dtype, arguments.context, arguments.tokens.max(1))?;
    let bandwidth = times.tokens_per_second * times.weight_bytes as f64 / 1e9;
    if arguments.json {
        print_json(&json!({
            "preset": arguments.preset,
            "device": backend.name(),
            "dtype": format!("{dtype:?}").to_lowercase(),
            "context": arguments.context,
            "tokens": arguments.tokens,
            "prefill_ms": times.prefill * 1e3,
            "tokens_per_s": times.tokens_per_second,
            "weights_gb_per_s": bandwidth,
        }))?;
    } else {
        print(&format!(
            "{}: {:.1} tokens/s after a prompt of {} ({:.1} ms); the decoder's weights are read at {bandwidth:.1} GB/s\n",
            arguments.preset,
            times.tokens_per_second,
            arguments.context,
            times.prefill * 1e3
        ))?;
    }
    Ok(Outcome::Done)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn kernel_table(measured: &[Measured], peaks: &Peaks) -> String {
    let mut text = format!(
        "measured peaks: copy {:.1} GB/s, product {:.1} GFLOP/s\n{:<22}{:<52}{:>10}{:>10}{:>11}{:>8}\n",
        peaks.bandwidth / 1e9,
        peaks.rate / 1e9,
        "op",
        "size",
        "ms",
        "GB/s",
        "GFLOP/s",
        "of peak"
    );
    for row in measured {
        text += &format!(
            "{:<22}{:<52}{:>10.4}{:>10.1}{:>11.1}{:>7.1}%\n",
            row.op,
            row.size,
            row.seconds * 1e3,
            row.bandwidth() / 1e9,
            row.rate() / 1e9,
            100.0 * row.share(peaks)
        );
    }
    text
}

pub(super) fn config(name: &str) -> Result<VilaConfig, Usage> {
    preset(name).ok_or_else(|| Usage(format!("--preset {name}: there are toy, small, 1b and 7b")))
}

fn step(arguments: &StepArguments) -> Result<Outcome, Failure> {
    let config = config(&arguments.preset)?;
    let backend = device(arguments.device.as_deref())?;
    let dtype = element_type(&*backend, arguments.dtype.as_deref())?;
    let recompute = match arguments.recompute.as_str() {
        "none" => Recompute::None,
        "cheap" => Recompute::Cheap,
        "block" => Recompute::Block,
        other => return Err(Usage(format!("--recompute {other}: there are none, cheap and block")).into()),
    };
    let shape = StepShape { seq: arguments.seq, batch: arguments.batch, images: arguments.images };
    let options = StepOptions { dtype, recompute, warmup: arguments.warmup, steps: arguments.steps.max(1) };
    let times = bench_step(&backend, &config, shape, options)?;
    let planned = DryDevice::parse(backend.name().split('+').next().unwrap_or_default());
    let planned = planned.map(|device| planned_step(device, &config, shape, options)).transpose()?;
    let planned = planned.map_or(0, |planned| planned.held_at_peak.total());
    let (median, tokens) = (times.median(), (shape.seq * shape.batch) as f64);
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let memory: serde_json::Map<_, _> =
        Owner::ALL.iter().map(|&owner| (owner.name().into(), json!(mib(times.held_at_peak.of(owner))))).collect();
    let ops: serde_json::Map<_, _> = profile::totals(&times.ops)
        .into_iter()
        .map(|(op, total)| (op.into(), json!({"runs": total.count, "ms": total.seconds * 1e3})))
        .collect();
    let facts = json!({
        "preset": arguments.preset,
        "device": backend.name(),
        "dtype": format!("{dtype:?}").to_lowercase(),
        "recompute": arguments.recompute,
        "batch": shape.batch,
        "seq": shape.seq,
        "images": shape.images,
        "loss": times.loss,
        "step_ms_median": median * 1e3,
        "step_ms_min": times.seconds[0] * 1e3,
        "tokens_per_s": tokens / median,
        "model_gflops": times.model_flops / median / 1e9,
        "share_of_989_tflops": times.model_flops / median / 989e12,
        "peak_mib": mib(times.held_at_peak.total()),
        "planned_peak_mib": mib(planned),
        "held_at_peak_mib": memory,
        "ops": ops,
    });
    if arguments.json {
        print_json(&facts)?;
    } else {
        print(&format!(
            "{}: {:.1} ms per step (median of {}), {:.0} tokens/s, {:.1} model GFLOP/s, peak {:.0} MiB ({}; planned {:.0} MiB)\n\
             model FLOPs: 6 x (decoder without embeddings + projector) x tokens + causal attention at half + 2 x tower x \
             patches; utilisation is their rate over the device's dense peak (989 TFLOP/s in bf16 on H100 and H200)\n\n\
             one more step, each op waited for:\n{}",
            arguments.preset,
            median * 1e3,
            times.seconds.len(),
            tokens / median,
            times.model_flops / median / 1e9,
            mib(times.held_at_peak.total()),
            times.held_at_peak,
            mib(planned),
            profile::table(&times.ops)
        ))?;
    }
    Ok(Outcome::Done)
}
