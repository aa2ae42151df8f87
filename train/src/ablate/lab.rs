//! Running cells: stages that others made already are taken over.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::de::DeserializeOwned;
use vila_engine::Backend;
use vila_model::Vila;

use super::AblateOptions;
use super::chain::Chain;
use super::grid::Cell;
use super::result::{CellResult, Evaluation, StageResult};
use super::world::World;
use crate::checkpoint::load_state;
use crate::data::shard::ShardReader;
use crate::data::template::Template;
use crate::evaluate::{Question, accuracy, answer, choose, read_questions, share};
use crate::probe::{Alignment, ProbeOptions, probe};
use crate::recipe::Recipe;
use crate::run::train;
use crate::say::say;
use crate::whole_file::write_whole;
use crate::{Error, Result};

/// Changes whenever the same checkpoint would get other numbers.
const VERSION: u32 = 1;
/// As in the recipe's sources.
const TEMPLATE: &str = "vicuna_v1_nosys";
/// Most documents of the alignment probe.
const PROBED: usize = 64;
/// Points of a stage's loss curve.
const LOSSES: usize = 50;

/// A result that an earlier run wrote, if there is one.
///
/// # Errors
/// A file of this name that is no such result: it is somebody's, and would be replaced.
fn read_own<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match vila_files::read(path, vila_files::MAX_CONFIG) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::io(path))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::OutputDirectory {
        path: path.to_path_buf(),
        problem: format!(
            "is no result of this program ({error}), which writes a file of this name; move it, or choose another --out"
        ),
    })
}

/// Everything that cells share.
pub(super) struct Lab<'a> {
    pub(super) options: &'a AblateOptions,
    pub(super) worlds: Vec<World>,
    /// One cell at a time runs a stage; the others wait for it.
    stages: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl<'a> Lab<'a> {
    pub(super) fn new(options: &'a AblateOptions) -> Result<Self> {
        let worlds = options.seeds.iter().map(|&seed| World::open(options, seed)).collect::<Result<_>>()?;
        Ok(Lab { options, worlds, stages: Mutex::default() })
    }

    /// Runs a cell, or takes what an earlier run left of it.
    pub(super) fn run(&self, cell: &Cell, world: &World, backend: &Arc<dyn Backend>) -> Result<CellResult> {
        let chain = Chain::new(cell, world, self.options)?;
        let hash = format!("{}-{VERSION}-{}", chain.keys.last().map_or("", String::as_str), self.options.questions);
        let path = self.options.out.join("cells").join(format!("{}-seed-{}.json", cell.name, world.seed));
        let found: Option<CellResult> = read_own(&path)?;
        if let Some(found) = found.filter(|found| found.hash == hash) {
            return Ok(found);
        }
        let stages =
            (0..chain.keys.len()).map(|stage| self.stage(&chain, stage, world, backend)).collect::<Result<Vec<_>>>()?;
        let result =
            CellResult { cell: cell.name.into(), seed: world.seed, hash, device: backend.name().to_string(), stages };
        write_whole(&path, serde_json::to_string_pretty(&result).unwrap_or_default().as_bytes())?;
        Ok(result)
    }

    fn stage(&self, chain: &Chain, stage: usize, world: &World, backend: &Arc<dyn Backend>) -> Result<StageResult> {
        let key = &chain.keys[stage];
        let own =
            Arc::clone(self.stages.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default());
        let _held = own.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, dir) = (&chain.recipe.stage[stage].name, world.dir.join(chain.folder(stage)));
        let done = dir.join("stage.json");
        let found: Option<StageResult> = read_own(&done)?;
        let asked = |found: &StageResult| {
            let evaluation = found.evaluation.as_ref();
            evaluation.is_none_or(|made| made.version == VERSION && made.questions == self.options.questions)
        };
        if let Some(found) = found.filter(asked) {
            return Ok(found);
        }
        self.options.run.check_stop()?;
        std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let path = dir.join("recipe.toml");
        let text = chain.stage_recipe(stage, world)?;
        write_whole(&path, text.as_bytes())?;
        let recipe = Recipe::parse(&text, &path, &dir, &[])?;
        let run = train(&recipe, &path, Arc::clone(backend), &self.options.run)?;
        if let Some(signal) = run.stopped_by {
            return Err(Error::Interrupted(signal));
        }
        let checkpoint = dir.join("checkpoints").join(name);
        let report = load_state(&checkpoint)?.finished.pop().unwrap_or_default();
        let start = Instant::now();
        let evaluation = self.evaluate(name, &checkpoint, chain, world, backend)?;
        say(format_args!(
            "seed {}, {name} {}: {} steps in {:.0} s to a loss of {:.3}, evaluation {:.0} s",
            world.seed,
            &key[..12],
            report.steps,
            report.seconds,
            report.last_loss,
            start.elapsed().as_secs_f64()
        ));
        let result = StageResult {
            name: name.clone(),
            key: key.clone(),
            steps: report.steps,
            tokens: report.tokens,
            seconds: report.seconds,
            losses: losses(&dir.join("metrics.jsonl"))?,
            evaluation,
        };
        write_whole(&done, serde_json::to_string_pretty(&result).unwrap_or_default().as_bytes())?;
        Ok(result)
    }

    /// What is measured after a stage.
    fn evaluate(
        &self,
        stage: &str,
        checkpoint: &Path,
        chain: &Chain,
        world: &World,
        backend: &Arc<dyn Backend>,
    ) -> Result<Option<Evaluation>> {
        let (continued, asked): (&[_], &[_]) = match stage {
            "text" => (&["text_naming"], &[]),
            "pretrain" => (&["text_naming", "naming_0", "naming_4"], &[]),
            "sft" => (&["text_naming", "naming_0", "naming_4"], &ASKED),
            _ => return Ok(None),
        };
        let vila = Vila::load(checkpoint, Arc::clone(backend))?;
        let examiner = Examiner { lab: self, vila: &vila, world, template: template()? };
        let mut metrics = BTreeMap::new();
        for (metric, task) in [("text", "text_arithmetic"), ("facts", "facts")].iter().chain(asked) {
            let answers = examiner.answers(task)?;
            metrics.insert(metric.to_string(), accuracy(&answers));
            let held_out: Vec<_> = answers.into_iter().filter(|answer| answer.question.held_out_pair).collect();
            if !held_out.is_empty() {
                metrics.insert(format!("{metric}_held_out"), accuracy(&held_out));
            }
        }
        for task in continued {
            let choices = choose(&vila, &examiner.questions(task)?)?;
            metrics.insert(format!("{task}_free"), share(&choices, |choice| choice.greedy));
            metrics.insert(format!("{task}_choice"), share(&choices, |choice| choice.likeliest));
        }
        let alignment = if stage == "sft" { self.alignment(&vila, chain, world)? } else { Vec::new() };
        Ok(Some(Evaluation { version: VERSION, questions: self.options.questions, metrics, alignment }))
    }

    /// Every cell is probed on the same documents as they are, whatever it was trained on.
    fn alignment(&self, vila: &Vila, chain: &Chain, world: &World) -> Result<Vec<Alignment>> {
        let shard = ShardReader::open(world.shard("interleaved", &chain.recipe.sources["interleaved"])?)?;
        probe(vila, &shard, &ProbeOptions { documents: PROBED.min(self.options.questions), ..ProbeOptions::default() })
    }
}

/// Metrics and tasks in the conversation's form.
const ASKED: [(&str, &str); 8] = [
    ("vqa", "digit_vqa"),
    ("sum", "two_image_sum"),
    ("larger", "larger"),
    ("count", "count"),
    ("after", "after"),
    ("smaller", "smaller"),
    ("chat", "text_arithmetic_chat"),
    ("facts_chat", "facts_chat"),
];

fn template() -> Result<Template> {
    Template::named(TEMPLATE).map_err(|error| Error::Data(error.to_string()))
}

struct Examiner<'a> {
    lab: &'a Lab<'a>,
    vila: &'a Vila,
    world: &'a World,
    template: Template,
}

impl Examiner<'_> {
    fn questions(&self, task: &str) -> Result<Vec<Question>> {
        self.lab.options.run.check_stop()?;
        let mut questions = read_questions(&self.world.questions(task))?;
        questions.truncate(self.lab.options.questions);
        Ok(questions)
    }

    fn answers(&self, task: &str) -> Result<Vec<crate::evaluate::Answer>> {
        answer(self.vila, &self.template, &self.questions(task)?)
    }
}

/// Mean losses of at most [`LOSSES`] equal parts of a stage.
fn losses(metrics: &Path) -> Result<Vec<(u64, f64)>> {
    let text = std::fs::read_to_string(metrics).map_err(Error::io(metrics))?;
    let steps: Vec<(u64, f64)> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| Some((line["step"]["step"].as_u64()?, line["step"]["loss"].as_f64()?)))
        .collect();
    let parts = steps.chunks(steps.len().div_ceil(LOSSES).max(1));
    Ok(parts
        .map(|part| (part[part.len() / 2].0, part.iter().map(|(_, loss)| loss).sum::<f64>() / part.len() as f64))
        .collect())
}
