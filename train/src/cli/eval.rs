use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use vila_model::Vila;
use vila_model::image::GeometryMode;

use super::generate::template;
use super::{Failure, Outcome, device, path_json, print, print_json};
use crate::evaluation::few_shot::{Arrangement, Choice};
use crate::evaluation::harness::{EvalOptions, Evaluation, Shard, evaluate};
use crate::evaluation::tasks::{TASKS, Task, TaskFiles};
use crate::say::say;

#[derive(Args)]
pub(super) struct EvalArguments {
    /// A checkpoint directory.
    #[arg(long)]
    model: PathBuf,
    /// Which benchmark.
    #[arg(long, value_parser = PossibleValuesParser::new(TASKS.iter().map(|task| task.name)))]
    task: String,
    /// The benchmark's published file or folder.
    #[arg(long)]
    data: PathBuf,
    /// Where its images are; the data's folder if left out.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Right answers, where they are published apart from the questions (VQAv2, OKVQA).
    #[arg(long)]
    annotations: Option<PathBuf>,
    /// Answers, report and submission file go here; the same command continues after any stop.
    #[arg(long)]
    out: PathBuf,
    /// Demonstrations before each question; as the authors ask if left out.
    #[arg(long)]
    shots: Option<usize>,
    /// A file of the same format to draw demonstrations from: the train split.
    #[arg(long, value_name = "FILE")]
    demonstrations: Option<PathBuf>,
    /// Where their images are; that file's folder if left out.
    #[arg(long, value_name = "DIR")]
    demonstration_images: Option<PathBuf>,
    /// Their right answers, where they are published apart from the questions; as --annotations if left out.
    #[arg(long, value_name = "FILE")]
    demonstration_annotations: Option<PathBuf>,
    /// How demonstrations are arranged.
    #[arg(long, value_enum, default_value_t)]
    arrangement: Arrangement,
    /// Which demonstrations a question gets.
    #[arg(long, value_enum, default_value_t)]
    choose: Choice,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Conversation template; that which the checkpoint was trained with if left out, and the benchmark's if the
    /// checkpoint names none.
    #[arg(long)]
    template: Option<String>,
    /// Answers only part I of N, from 0; the run that answers the last question writes the results. Processes started
    /// together by torchrun, Open MPI or SLURM share the questions by themselves.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// cpu | cuda[:N] | emulator; by default cuda if it is usable, else cpu
    #[arg(long)]
    device: Option<String>,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
    match parts {
        Some((index, count)) if index < count => Ok(Shard { index, count }),
        _ => Err("expected I/N with I from 0 and below N".into()),
    }
}

pub(super) fn eval(arguments: EvalArguments) -> Result<Outcome, Failure> {
    let task = Task::named(&arguments.task).ok_or("there is no such task")?;
    let beside = |path: &PathBuf| {
        if path.is_dir() { path.clone() } else { path.parent().map(PathBuf::from).unwrap_or_default() }
    };
    let images = arguments.images.unwrap_or_else(|| beside(&arguments.data));
    let demonstrations = arguments.demonstrations.map(|data| TaskFiles {
        images: arguments.demonstration_images.unwrap_or_else(|| beside(&data)),
        annotations: arguments.demonstration_annotations.or_else(|| arguments.annotations.clone()),
        out: arguments.out.clone(),
        data,
        demonstrations: true,
    });
    let template = arguments.template.as_deref().map(|name| template(name, None)).transpose()?;
    let launch = crate::ranks::launch(|name| std::env::var(name).ok())?;
    if let Some(note) = crate::ranks::batch_script_note(|name| std::env::var(name).ok()) {
        say(note);
    }
    let shard = arguments.shard.or(launch.as_ref().map(|launch| Shard { index: launch.rank, count: launch.world }));
    let name = match (arguments.device, &launch) {
        (Some(name), Some(launch)) if name == "cuda" => Some(format!("cuda:{}", launch.local_rank)),
        (name, _) => name,
    };
    let mut vila = Vila::load(&arguments.model, device(name.as_deref())?)?;
    if task.centre_crop {
        vila.processor = vila.processor.with_mode(GeometryMode::Square);
    }
    let options = EvalOptions {
        task,
        files: TaskFiles {
            data: arguments.data,
            images,
            annotations: arguments.annotations,
            out: arguments.out,
            demonstrations: false,
        },
        shots: arguments.shots,
        demonstrations,
        arrangement: arguments.arrangement,
        choice: arguments.choose,
        seed: arguments.seed,
        template,
        shard: shard.unwrap_or(Shard::WHOLE),
        image_mode: format!("{:?}", vila.processor.mode()).to_lowercase(),
    };
    match evaluate(&vila, &options)? {
        Evaluation::Waiting { answered, questions } => {
            say(format_args!("{}: {answered} of {questions} questions are answered; run the other shards", task.name));
            if arguments.json {
                print_json(&serde_json::json!({ "task": task.name, "answered": answered, "questions": questions }))?;
            }
        }
        Evaluation::Done { report, written } => {
            let result = report.map_or(serde_json::Value::Null, |report| report.json());
            if arguments.json {
                let files: Vec<_> = written.iter().map(|path| path_json(path)).collect();
                print_json(&serde_json::json!({ "task": task.name, "result": result, "files": files }))?;
            } else {
                let files: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
                print(&format!("{}\n{files}", serde_json::to_string_pretty(&result)?))?;
            }
        }
    }
    Ok(Outcome::Done)
}
