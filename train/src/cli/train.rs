use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use vila_engine::Backend;

use super::{Failure, Outcome, Usage, device, path_json, print, print_json, shown};
use crate::quickstart::{Quickstart, QuickstartOptions};
use crate::ranks::{self, Joined, Launch};
use crate::recipe::Recipe;
use crate::run::{RunOptions, RunReport, dry_run, train_as, train_on};
use crate::say::say;
use crate::stop;

#[derive(Args)]
pub(super) struct TrainArguments {
    /// The recipe.
    recipe: PathBuf,
    /// Overrides such as stage.sft.lr=1e-5.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Folder of the run, instead of the recipe's `out`; relative to the working directory.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Discard what the output directory holds of an earlier run.
    #[arg(long)]
    restart: bool,
    /// Check recipe and data, and say what would run.
    #[arg(long)]
    dry_run: bool,
    /// Train on this many ranks that are threads of this process: cuda:0, cuda:1 and so on, or one device each of the others.
    /// Processes that torchrun, Open MPI or SLURM started find each other by themselves.
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks: usize,
    /// Save and stop before this much time has passed, as after SIGTERM: seconds, or 90m, 3h50m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    time_limit: Option<Duration>,
    /// Measure the ops of this many steps of each stage; the run's folder gets profile/STAGE/profile.txt and trace.json.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    profile: u64,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct QuickstartArguments {
    /// Folder of the run.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// A folder with digits.png and labels.txt in place of the embedded digits.
    #[arg(long)]
    digits: Option<PathBuf>,
    /// Overrides of the recipe such as stage.sft.steps=100.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Discard what the output directory holds of an earlier run.
    #[arg(long)]
    restart: bool,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn train(arguments: TrainArguments) -> Result<Outcome, Failure> {
    let mut recipe = Recipe::read(&arguments.recipe, &arguments.sets)?;
    if let Some(out) = arguments.out.clone() {
        recipe.out = out;
    }
    let deadline = arguments.time_limit.map(|limit| Instant::now() + limit);
    let launch = ranks::launch(|name| std::env::var(name).ok())?;
    if arguments.ranks == 0 || (arguments.ranks > 1 && launch.is_some()) {
        return Err(
            Usage("--ranks: at least 1, and only where no launcher has started several processes".into()).into()
        );
    }
    if arguments.ranks > ranks::most_threads() {
        let (wanted, most) = (arguments.ranks, ranks::most_threads());
        return Err(Usage(format!(
            "--ranks {wanted}: this machine takes {most} ranks at most, 8 for each of its cores; start more on other machines \
             with torchrun, mpirun or srun"
        ))
        .into());
    }
    if let Some(note) = ranks::batch_script_note(|name| std::env::var(name).ok()) {
        say(note);
    }
    if arguments.dry_run {
        let backend = device(arguments.device.as_deref())?;
        let stages = dry_run(&recipe, &arguments.recipe, backend)?;
        if arguments.json {
            print_json(&json!({"stages": stages}))?;
        } else {
            print(&(stages.join("\n") + "\n"))?;
        }
        return Ok(Outcome::Done);
    }
    let options = RunOptions {
        restart: arguments.restart,
        stop: stop::listen()?,
        deadline,
        profile: arguments.profile,
        quiet: false,
    };
    let report = match launch {
        Some(launch) => train_launched(&recipe, &arguments, &launch, &options)?,
        None => {
            let backends = devices(arguments.device.as_deref(), arguments.ranks)?;
            train_on(&recipe, &arguments.recipe, backends, &options)?
        }
    };
    if arguments.json {
        print_json(&report_json(&report))?;
    }
    match report.stopped_by {
        Some(signal) => {
            say(format_args!("stopped after saving {}; the same command continues", report.checkpoint.display()));
            Ok(Outcome::Stopped(signal))
        }
        None => {
            say(format_args!("done: {}", report.checkpoint.display()));
            Ok(Outcome::Done)
        }
    }
}

/// One rank of those that a launcher started.
fn train_launched(
    recipe: &Recipe,
    arguments: &TrainArguments,
    launch: &Launch,
    options: &RunOptions,
) -> Result<RunReport, Failure> {
    let Launch { rank, world, local_rank, launcher, meeting, .. } = launch;
    let name = match arguments.device.as_deref() {
        Some("cuda") => Some(format!("cuda:{local_rank}")),
        other => other.map(str::to_string),
    };
    let backend = device(name.as_deref())?;
    say(format_args!("rank {rank} of {world}, started by {launcher}, {meeting}"));
    let Joined { collective, label } = ranks::join(launch, recipe, &*backend)?;
    say(format_args!("rank {rank} of {world}: {label}"));
    Ok(train_as(recipe, &arguments.recipe, backend, options, &*collective)?)
}

/// A device for each rank.
fn devices(name: Option<&str>, ranks: usize) -> Result<Vec<Arc<dyn Backend>>, Failure> {
    let name_of = |rank| match name {
        Some("cuda") if ranks > 1 => Some(format!("cuda:{rank}")),
        other => other.map(str::to_string),
    };
    (0..ranks).map(|rank| device(name_of(rank).as_deref())).collect()
}

/// Seconds, or numbers with the units d, h, m and s.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: give seconds, or numbers with d, h, m and s, such as 3h50m");
    let (mut seconds, mut number) = (0.0, String::new());
    for c in text.chars().chain((!text.ends_with(char::is_alphabetic)).then_some('s')) {
        let unit = match c {
            '0'..='9' | '.' => {
                number.push(c);
                continue;
            }
            'd' => 86_400.0,
            'h' => 3600.0,
            'm' => 60.0,
            's' => 1.0,
            _ => return Err(wrong()),
        };
        seconds += std::mem::take(&mut number).parse::<f64>().map_err(|_| wrong())? * unit;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| *limit < Duration::from_secs(1 << 40)).ok_or_else(wrong)
}

fn report_json(report: &RunReport) -> Value {
    json!({"checkpoint": path_json(&report.checkpoint), "stages": report.stages, "stopped_by": report.stopped_by})
}

pub(super) fn quickstart(arguments: QuickstartArguments) -> Result<Outcome, Failure> {
    let default_out = match (arguments.seed, &arguments.digits) {
        (0, None) => PathBuf::from("runs/quickstart"),
        (seed, None) => PathBuf::from(format!("runs/quickstart-{seed}")),
        (seed, Some(_)) => PathBuf::from(format!("runs/quickstart-{seed}-own-digits")),
    };
    let backend = device(arguments.device.as_deref())?;
    let options = QuickstartOptions {
        out: arguments.out.unwrap_or(default_out),
        seed: arguments.seed,
        digits: arguments.digits,
        sets: arguments.sets,
        run: RunOptions { restart: arguments.restart, stop: stop::listen()?, ..RunOptions::default() },
    };
    let result = crate::quickstart::quickstart(&options, backend)?;
    if let Some(signal) = result.stopped_by {
        say(format_args!("stopped after saving {}; the same command continues", result.checkpoint.display()));
        return Ok(Outcome::Stopped(signal));
    }
    if arguments.json {
        print_json(&result.summary)?
    } else {
        print(&table(&result))?
    }
    Ok(Outcome::Done)
}

/// What was measured and a few answers, for people.
fn table(result: &Quickstart) -> String {
    let summary = &result.summary;
    let number = |path: &str| summary.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let mut text = String::from("\nstage        steps     tokens  first loss  last loss  seconds\n");
    for stage in summary["stages"].as_array().into_iter().flatten() {
        let field = |name: &str| stage[name].as_f64().unwrap_or(f64::NAN);
        text += &format!(
            "{:<10} {:>7} {:>10} {:>11.3} {:>10.3} {:>8.1}\n",
            stage["name"].as_str().unwrap_or_default(),
            field("steps"),
            field("tokens"),
            field("first_loss"),
            field("last_loss"),
            field("seconds")
        );
    }
    text += "\non held-out digits, greedy answers from the saved checkpoint\n";
    for (what, path) in [
        ("which digit is it", "/heldout/digit_vqa"),
        ("  the same, images permuted", "/heldout_shuffled/digit_vqa"),
        ("sum of two digits", "/heldout/two_image_sum"),
        ("larger of two digits", "/heldout/larger"),
        ("how many show a digit", "/heldout/count"),
        ("new names, 0 shots, choice of 4", "/naming/0/choice"),
        ("new names, 4 shots, choice of 4", "/naming/4/choice"),
        ("new names, 4 shots, free", "/naming/4/free"),
        ("arithmetic in text, before images", "/text_arithmetic/after_text"),
        ("arithmetic in text, after pretraining", "/text_arithmetic/after_pretrain"),
        ("arithmetic in text, as chat, at the end", "/text_arithmetic/after_sft"),
    ] {
        text += &format!("{what:<42} {:>6.3}\n", number(path));
    }
    text += "\na few answers\n";
    for answer in &result.samples {
        let question = answer.question.question.replace('\n', " ");
        let verdict = if answer.right() { "right" } else { "wrong" };
        text += &format!("{}  {question}  {} ({verdict})\n", shown(&answer.question.images), answer.said);
    }
    text += &format!(
        "\n{:.0} seconds; summary in {}, model in {}\n",
        number("/seconds"),
        result.summary_path.display(),
        result.checkpoint.display()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn times_are_read() {
        let seconds = |text| duration(text).map(|time| time.as_secs_f64());
        assert_eq!(
            ["90", "1.5m", "3h50m", "1d2s"].map(|text| seconds(text).expect(text)),
            [90.0, 90.0, 13800.0, 86402.0]
        );
        assert!(["", "x", "5x", "h", "-1", "1e400", "99999999999999d"].iter().all(|text| seconds(text).is_err()));
    }
}
