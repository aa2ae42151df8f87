use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Failure, Outcome, Usage, path_json, print, print_json};
use crate::ablate::{AblateOptions, Ablated, ablate};
use crate::open_device;
use crate::run::RunOptions;

/// A set of experiments.
#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// The paper's ablations on handwritten digits.
    Toy,
}

#[derive(Args)]
pub(super) struct AblateArguments {
    /// Which experiments.
    suite: Suite,
    /// About a sixth of it: one seed, half of the steps.
    #[arg(long)]
    quick: bool,
    /// Number of seeds, from 0; 3, or 1 with --quick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// Folder of corpora, stages, results and report; runs/ablate-toy by default. The same command continues after any stop.
    #[arg(long)]
    out: Option<PathBuf>,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Cells that run at a time; as many as there are cores on the CPU, else 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    jobs: Option<u64>,
    /// How many times as wide models are; 1 on the CPU, 4 on cuda.
    #[arg(long, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=64))]
    size: Option<u64>,
    /// Only this cell; may be repeated.
    #[arg(long = "cell", value_name = "NAME")]
    cells: Vec<String>,
    /// Most questions of a task.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    questions: u64,
    /// Overrides of every cell's recipe such as stage.sft.steps=800.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: AblateArguments) -> Result<Outcome, Failure> {
    let Suite::Toy = arguments.suite;
    let default_out = if arguments.quick { "runs/ablate-toy-smoke" } else { "runs/ablate-toy" };
    let name = arguments.device.clone();
    let device = super::device(name.as_deref())?;
    let on_cpu = device.name().starts_with("cpu");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = AblateOptions {
        seeds: (0..arguments.seeds.unwrap_or(if arguments.quick { 1 } else { 3 })).collect(),
        quick: arguments.quick,
        size: arguments.size.map_or(if name_is_cuda(device.name()) { 4 } else { 1 }, |size| size as usize),
        jobs: arguments.jobs.map_or(if on_cpu { cores } else { 1 }, |jobs| jobs as usize),
        cells: arguments.cells,
        sets: arguments.sets,
        questions: usize::try_from(arguments.questions)?,
        command: command_line(),
        run: RunOptions { stop: crate::stop::listen()?, quiet: true, ..RunOptions::default() },
        ..AblateOptions::new(arguments.out.unwrap_or_else(|| default_out.into()))
    };
    let unknown = options.cells.iter().find(|name| !crate::ablate::CELLS.iter().any(|cell| cell.name == **name));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = crate::ablate::CELLS.iter().map(|cell| cell.name).collect();
        return Err(Usage(format!("--cell {unknown}: there are {}", known.join(", "))).into());
    }
    let open = || Ok(open_device(name.as_deref()).map_err(|error| crate::Error::Data(error.to_string()))?.backend);
    let done = ablate(&options, &open)?;
    match arguments.json {
        true => print_json(&summary(&done))?,
        false => print(&text(&done))?,
    }
    Ok(Outcome::Done)
}

fn name_is_cuda(name: &str) -> bool {
    name.starts_with("cuda")
}

/// As it was typed, without the program's folder.
fn command_line() -> String {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    format!("vila {}", arguments.join(" "))
}

fn summary(done: &Ablated) -> serde_json::Value {
    let verdicts = done.verdicts.iter().map(|(finding, verdict)| json!({"finding": finding.title, "verdict": verdict}));
    json!({"page": path_json(&done.page), "json": path_json(&done.json), "verdicts": verdicts.collect::<Vec<_>>()})
}

fn text(done: &Ablated) -> String {
    let line = |(finding, verdict): &(&crate::ablate::Finding, crate::ablate::Verdict)| {
        format!("{:<24}{}\n", verdict.words(), finding.title)
    };
    let lines: String = done.verdicts.iter().map(line).collect();
    format!("{lines}\n{}\n", done.page.display())
}
