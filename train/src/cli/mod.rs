//! The command line: arguments in, exit code out.
//!
//! 0 done; 1 failed; 2 wrong usage; 128 and a signal's number (130, 143) stopped by it after saving. Errors are one paragraph on stderr.

mod ablate;
mod bench;
mod chat;
mod convert;
mod data;
mod doctor;
mod eval;
mod generate;
mod inspect;
#[cfg(feature = "cuda")]
mod kernels;
mod lora;
#[cfg(test)]
mod messages;
mod metrics;
mod model;
mod plan;
mod probe;
mod report;
mod score;
mod train;
#[cfg(feature = "cuda")]
mod tune;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use vila_engine::Backend;

use crate::say::{self, LogLines, say};
use crate::{DeviceError, open_device};

/// Trains and runs VILA, a visual language model, without a deep learning framework.
#[derive(Parser)]
#[command(name = "vila", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole story small, on real handwriting: data, shards, stages, evaluation, answers.
    Quickstart(train::QuickstartArguments),
    /// Makes and looks into shard directories.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Runs or resumes a recipe; the same command continues after any stop.
    Train(train::TrainArguments),
    /// Draws a run's metrics and samples as one page that needs nothing else.
    Report(report::ReportArguments),
    /// Says what a recipe needs before it runs: memory for each recompute policy, FLOPs, hours.
    Plan(plan::PlanArguments),
    /// Continues prompts with images.
    Generate(Box<generate::GenerateArguments>),
    /// A conversation in the terminal, with images.
    Chat(Box<chat::ChatArguments>),
    /// Log-likelihoods of continuations, one JSON line per input line.
    Score(score::ScoreArguments),
    /// Asks the paper's questions: trains a grid of recipes that differ in one thing, and judges its findings.
    Ablate(ablate::AblateArguments),
    /// How similar visual and textual states are, layer by layer.
    Probe(probe::ProbeArguments),
    /// Asks a model a benchmark's questions; writes answers, the metric and the submission file.
    Eval(eval::EvalArguments),
    /// Computes a benchmark's metric from prediction and reference files alone.
    Metrics(metrics::MetricsArguments),
    /// Writes a checkpoint directory in another layout.
    Convert(convert::ConvertArguments),
    /// Low-rank adapters of the decoder.
    #[command(subcommand)]
    Lora(lora::LoraCommand),
    /// Says what a checkpoint directory holds.
    Inspect(inspect::InspectArguments),
    /// Measures.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Compiles the CUDA kernels ahead, or checks them, without a GPU.
    #[cfg(feature = "cuda")]
    #[command(subcommand)]
    Kernels(kernels::KernelsCommand),
    /// Says what this machine offers.
    Doctor(doctor::DoctorArguments),
}

/// How a command ended without failing.
pub(crate) enum Outcome {
    Done,
    /// Stopped by this signal after saving.
    Stopped(usize),
}

/// Why a command failed.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// An argument whose value cannot be used: exit code 2, as for clap's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    fn of(error: impl std::fmt::Display) -> Self {
        Usage(error.to_string())
    }
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    ExitCode::from(process(std::env::args_os()))
}

/// Runs one command line as the work of a whole process, which logs to stderr; returns the exit code.
pub fn process(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogLines).init();
    run(arguments)
}

/// Runs one command line, the program's name first; returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors: clap knows which is which.
            let text = error.render().to_string();
            if error.use_stderr() {
                say(text.trim_end());
            } else {
                // A pipe that nobody reads any more is no failure.
                let _ = say::print(&text);
            }
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let result = match arguments.command {
        Command::Quickstart(arguments) => train::quickstart(arguments),
        Command::Data(command) => data::run(command),
        Command::Train(arguments) => train::train(arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Generate(arguments) => generate::generate(*arguments),
        Command::Chat(arguments) => chat::chat(*arguments),
        Command::Score(arguments) => score::score(arguments),
        Command::Ablate(arguments) => ablate::run(arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Eval(arguments) => eval::eval(arguments),
        Command::Metrics(arguments) => metrics::metrics(arguments),
        Command::Convert(arguments) => convert::convert(&arguments),
        Command::Lora(command) => lora::run(command),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Bench(command) => bench::run(command),
        #[cfg(feature = "cuda")]
        Command::Kernels(command) => kernels::run(command),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
    };
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Stopped(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        Err(error) => {
            if let Some(crate::Error::Interrupted(signal)) = error.downcast_ref::<crate::Error>() {
                say(format_args!("stopped by signal {signal}; nothing was to be saved, and the same command goes on"));
                return u8::try_from(128 + signal).unwrap_or(1);
            }
            say(format_args!("error: {error}"));
            if error.is::<Usage>() { 2 } else { 1 }
        }
    }
}

/// Opens the device and says so in the first line.
fn device(name: Option<&str>) -> Result<Arc<dyn Backend>, Failure> {
    let device = open_device(name).map_err(|error| match error {
        DeviceError::Unknown(_) => Failure::from(Usage::of(error)),
        error @ DeviceError::Unavailable { .. } => error.into(),
    })?;
    say(format_args!("device: {}", device.label));
    Ok(device.backend)
}

/// Prints to stdout; a reader that went away ends the program quietly.
fn print(text: &str) -> Result<(), Failure> {
    match say::print(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value}\n"))
}

/// A path in results; JSON has no place for bytes that are not text.
fn path_json(path: &Path) -> serde_json::Value {
    path.to_string_lossy().into()
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}
