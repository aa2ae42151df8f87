//! The whole story small: real handwriting -> public formats -> shards -> stages -> checkpoint -> answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use vila_engine::Backend;
use vila_engine::philox::Stream;
use vila_model::Vila;

use crate::checkpoint::StageReport;
use crate::data::template::Template;
use crate::data::tokens::hex;
use crate::evaluate::{Answer, Question, accuracy, answer, choice_accuracy, read_questions};
use crate::recipe::Recipe;
use crate::run::folder::RunFolder;
use crate::run::{RunOptions, train};
use crate::toy::{CorpusOptions, Digits, WorldFolder, WorldState, train_tokenizer, write_corpus};
use crate::whole_file::write_whole;
use crate::{Error, Result};

/// The recipe of the toy run; its paths are relative to the run's folder.
pub const RECIPE: &str = include_str!("../../recipes/toy.toml");

const RECIPE_FILE: &str = "recipe.toml";
const SUMMARY_FILE: &str = "summary.json";
/// What the files of every quickstart contain.
const RECIPE_MARK: &str = "corpus/tokenizer.json";
const SUMMARY_MARK: &str = "\"heldout_shuffled\"";

/// What to run.
#[derive(Clone, Default)]
pub struct QuickstartOptions {
    /// Folder of the run.
    pub out: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// A folder with `digits.png` and `labels.txt` in place of the embedded ones.
    pub digits: Option<PathBuf>,
    /// `key=value` overrides of the recipe.
    pub sets: Vec<String>,
    /// See [`RunOptions`].
    pub run: RunOptions,
}

/// What came out.
pub struct Quickstart {
    /// Contents of `summary.json`.
    pub summary: Value,
    /// Where it was written.
    pub summary_path: PathBuf,
    /// A few answers about held-out images.
    pub samples: Vec<Answer>,
    /// The final checkpoint.
    pub checkpoint: PathBuf,
    /// The signal that stopped the run before the end, if one did.
    pub stopped_by: Option<usize>,
}

/// The conversation template of the toy run; the recipe's sources name the same.
const TEMPLATE: &str = "vicuna_v1_nosys";

/// Runs or resumes the toy run in `options.out` and evaluates it.
pub fn quickstart(options: &QuickstartOptions, backend: Arc<dyn Backend>) -> Result<Quickstart> {
    let start = Instant::now();
    let corpus = write_world(options)?;
    let recipe_path = options.out.join(RECIPE_FILE);
    write_whole(&recipe_path, RECIPE.as_bytes())?;
    let sets: Vec<String> = [format!("seed={}", options.seed)].into_iter().chain(options.sets.clone()).collect();
    let recipe = Recipe::read(&recipe_path, &sets)?;
    let report = train(&recipe, &recipe_path, Arc::clone(&backend), &options.run)?;
    let summary_path = options.out.join(SUMMARY_FILE);
    if report.stopped_by.is_some() {
        let (summary, stopped_by) = (Value::Null, report.stopped_by);
        return Ok(Quickstart { summary, summary_path, samples: vec![], checkpoint: report.checkpoint, stopped_by });
    }
    let (mut summary, samples) = evaluate(options, &corpus.join("eval"), &backend)?;
    summary["stages"] = report.stages.iter().map(stage_json).collect();
    summary["seed"] = json!(options.seed);
    summary["checkpoint"] = report.checkpoint.to_string_lossy().into();
    summary["seconds"] = json!(start.elapsed().as_secs_f64());
    let text = serde_json::to_string_pretty(&summary).unwrap_or_default() + "\n";
    write_whole(&summary_path, text.as_bytes())?;
    Ok(Quickstart { summary, summary_path, samples, checkpoint: report.checkpoint, stopped_by: None })
}

fn stage_json(stage: &StageReport) -> Value {
    json!({
        "name": stage.name,
        "steps": stage.steps,
        "tokens": stage.tokens,
        "first_loss": stage.first_loss,
        "last_loss": stage.last_loss,
        "seconds": stage.seconds,
    })
}

/// Writes the corpora and their tokenizer, unless this run already has them.
fn write_world(options: &QuickstartOptions) -> Result<PathBuf> {
    let digits = match &options.digits {
        Some(dir) => Digits::from_dir(dir)?,
        None => Digits::embedded()?,
    };
    let corpus_options = CorpusOptions { seed: options.seed, ..CorpusOptions::default() };
    let identity = json!({"digits": hex(digits.fingerprint()), "options": corpus_options});
    let world = WorldFolder { dir: options.out.join("corpus"), identity: format!("{identity:#}\n") };
    match world.state()? {
        WorldState::Same => return Ok(world.dir),
        WorldState::Other if !options.run.restart => {
            let problem = "holds a quickstart with other digits or another seed; choose another --out, or --restart";
            return Err(Error::OutputDirectory { path: options.out.clone(), problem: problem.into() });
        }
        // An old run must not pass for one on the new corpus.
        WorldState::Other => {
            RunFolder::open(&options.out)?.discard()?;
            world.remove()?;
        }
        WorldState::Absent => {}
    }
    // Where the run cannot go on, nothing is written either.
    check_names(&options.out)?;
    world.write(|dir| {
        let report = write_corpus(&digits, &corpus_options, dir)?;
        Ok(train_tokenizer(&report.text_files, dir.join("tokenizer.json"))?)
    })?;
    Ok(world.dir)
}

/// Refuses files of others under the names that a quickstart writes into its folder.
fn check_names(out: &Path) -> Result<()> {
    for (name, own) in [(RECIPE_FILE, RECIPE_MARK), (SUMMARY_FILE, SUMMARY_MARK)] {
        let path = out.join(name);
        let found = vila_files::read_to_string(&path, vila_files::MAX_CONFIG);
        if std::fs::symlink_metadata(&path).is_ok() && !found.is_ok_and(|text| text.contains(own)) {
            let problem =
                "was not written by a quickstart, which writes a file of this name; move it, or choose another --out";
            return Err(Error::OutputDirectory { path, problem: problem.into() });
        }
    }
    Ok(())
}

/// Answers every question file from the checkpoints that the stages left.
fn evaluate(options: &QuickstartOptions, questions: &Path, backend: &Arc<dyn Backend>) -> Result<(Value, Vec<Answer>)> {
    let load = |stage: &str| Vila::load(&options.out.join("checkpoints").join(stage), Arc::clone(backend));
    let template = Template::named(TEMPLATE).map_err(|error| Error::Data(error.to_string()))?;
    let read = |task: &str| read_questions(&questions.join(format!("{task}.jsonl")));
    let answers = |vila: &Vila, task: &str| {
        options.run.check_stop()?;
        answer(vila, &template, &read(task)?)
    };
    let text = accuracy(&answers(&load("text")?, "text_arithmetic")?);
    let pretrained = load("pretrain")?;
    let vila = load("sft")?;
    let vqa = answers(&vila, "digit_vqa")?;
    let sums = answers(&vila, "two_image_sum")?;
    let larger = answers(&vila, "larger")?;
    let shuffled = answer(&vila, &template, &shuffle_images(read("digit_vqa")?))?;
    let naming = |vila: &Vila, shots: &str| -> Result<Value> {
        let task = format!("naming_{shots}");
        Ok(json!({"free": accuracy(&answers(vila, &task)?), "choice": choice_accuracy(vila, &read(&task)?)?}))
    };
    let summary = json!({
        "seconds": 0.0,
        "heldout": {
            "digit_vqa": accuracy(&vqa),
            "two_image_sum": accuracy(&sums),
            "larger": accuracy(&larger),
            "count": accuracy(&answers(&vila, "count")?),
        },
        "heldout_shuffled": {"digit_vqa": accuracy(&shuffled)},
        "naming": {"0": naming(&vila, "0")?, "4": naming(&vila, "4")?, "chance": 0.25},
        "naming_after_pretrain": {"4": naming(&pretrained, "4")?},
        "text_arithmetic": {
            "after_text": text,
            "after_pretrain": accuracy(&answers(&pretrained, "text_arithmetic")?),
            "after_sft": accuracy(&answers(&vila, "text_arithmetic_chat")?),
        },
        "facts": {"after_sft": accuracy(&answers(&vila, "facts_chat")?)},
    });
    let samples = vqa.into_iter().take(3).chain(sums.into_iter().take(2)).chain(larger.into_iter().take(1)).collect();
    Ok((summary, samples))
}

/// The same questions about each other's images: a model that looks must fail.
fn shuffle_images(mut questions: Vec<Question>) -> Vec<Question> {
    let mut images: Vec<Vec<PathBuf>> = questions.iter().map(|question| question.images.clone()).collect();
    Stream::new(1, 0).shuffle(&mut images);
    for (question, images) in questions.iter_mut().zip(images) {
        question.images = images;
    }
    questions
}
