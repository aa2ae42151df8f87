//! Runs a task: asks every question once, keeps the answers as they come, and scores what is there in the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vila_model::{GenerateOptions, Vila};

use super::few_shot::{Arrangement, Choice, demonstrations, prompt};
use super::files::read_text;
use super::metrics::Report;
use super::results::Results;
use super::tasks::{Answer, Item, Style, Task, TaskFiles, with_shots};
use crate::data::template::Template;
use crate::data::tokens::hex;
use crate::say::say;
use crate::whole_file::{append, write_whole};
use crate::{Error, Result};

/// What answers questions.
pub trait Answerer {
    /// Continues a prompt greedily.
    ///
    /// # Errors
    /// The prompt is too long or an image cannot be used.
    fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<String>;

    /// Log-likelihoods of A, B, C and D as the next word.
    ///
    /// # Errors
    /// As for [`Answerer::generate`].
    fn letters(&self, prompt: &str) -> Result<[f64; 4]>;

    /// Length of a text in tokens.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    fn tokens(&self, text: &str) -> Result<usize>;

    /// Most tokens of a prompt and its answer.
    fn context(&self) -> usize {
        usize::MAX
    }

    /// The conversation template that it was trained with, if it says so.
    fn template(&self) -> Option<Template> {
        None
    }

    /// A hash of everything that decides the answers, which go to the folder `out`.
    ///
    /// # Errors
    /// The model's files cannot be read, or `out` is their folder: the answers would count as files of the model.
    fn fingerprint(&self, out: &Path) -> Result<String>;
}

impl Answerer for Vila {
    fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<String> {
        Ok(vila_model::generate(self, prompt, images, options)?.text)
    }

    fn letters(&self, prompt: &str) -> Result<[f64; 4]> {
        let letters = ["A", "B", "C", "D"].map(|letter| format!(" {letter}"));
        let mut logprobs = [0.0; 4];
        for (logprob, score) in logprobs.iter_mut().zip(vila_model::score_all(self, prompt, &letters, &[])?) {
            *logprob = score.logprob;
        }
        Ok(logprobs)
    }

    fn tokens(&self, text: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(text)?.len())
    }

    fn context(&self) -> usize {
        self.config.llm.max_positions
    }

    fn template(&self) -> Option<Template> {
        self.config.template.clone()
    }

    fn fingerprint(&self, out: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        let real = |path: &Path| std::fs::canonicalize(path).map_err(Error::io(path));
        if real(out)? == real(&self.dir)? {
            let problem = "is the model's own folder; choose another --out".to_string();
            return Err(Error::OutputDirectory { path: out.to_path_buf(), problem });
        }
        hash_folder(&self.dir, &mut hash)?;
        hash.update(format!("{:?}", self.processor));
        Ok(hex(&hash.finalize()))
    }
}

/// Files up to this size are hashed whole, larger ones by size and both ends: weights are not read twice.
const HASHED_WHOLE: u64 = 1 << 20;

/// Of images, which are many.
const HASHED_OF_AN_IMAGE: u64 = 1 << 14;

/// A file's size, and of its content as much, or both ends of it.
fn hash_file(path: &Path, most: u64, hash: &mut Sha256) -> Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    hash.update(size.to_le_bytes());
    let mut ends = Vec::new();
    let end = size.saturating_sub(most / 2).max(most / 2);
    let read = (&mut file).take(most / 2).read_to_end(&mut ends);
    let read = read.and_then(|_| file.seek(SeekFrom::Start(end))).and_then(|_| file.read_to_end(&mut ends));
    read.map_err(Error::io(path))?;
    hash.update(&ends);
    Ok(())
}

/// Of a model's folder, and of those in it that hold parts of a model: answers may lie in others.
fn hash_folder(folder: &Path, hash: &mut Sha256) -> Result<()> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        paths.push(entry.map_err(Error::io(folder))?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "trainer") && holds_weights(&path) {
                hash_folder(&path, hash)?;
            }
            continue;
        }
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash_file(&path, HASHED_WHOLE, hash)?;
    }
    Ok(())
}

fn holds_weights(folder: &Path) -> bool {
    let is_weights = |path: &Path| path.extension().is_some_and(|end| end == "safetensors" || end == "bin");
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join("config.json").is_file() || entries.any(|entry| is_weights(&entry.path()))
}

/// One part of a task's questions, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    fn file_name(self) -> String {
        match self.count {
            1 => "answers.jsonl".into(),
            count => format!("answers-{}-of-{count}.jsonl", self.index),
        }
    }

    fn of<T>(self, items: &[T]) -> &[T] {
        let size = items.len().div_ceil(self.count).max(1);
        items.chunks(size).nth(self.index).unwrap_or(&[])
    }
}

/// How a task is run.
pub struct EvalOptions {
    /// The benchmark.
    pub task: &'static Task,
    /// Its files.
    pub files: TaskFiles,
    /// Demonstrations per question; none given asks as the authors do.
    pub shots: Option<usize>,
    /// Where demonstrations come from: files of the same format.
    pub demonstrations: Option<TaskFiles>,
    /// How they are arranged.
    pub arrangement: Arrangement,
    /// Which of them a question gets.
    pub choice: Choice,
    /// Of the draws.
    pub seed: u64,
    /// The conversation's template; that of the model if none is given, and the authors' if it has none.
    pub template: Option<Template>,
    /// Which part of the questions.
    pub shard: Shard,
    /// What the report says about image preprocessing.
    pub image_mode: String,
}

/// What a run came to.
pub enum Evaluation {
    /// Every question is answered.
    Done {
        /// The metric, where it can be computed here.
        report: Option<Report>,
        /// The files that were written.
        written: Vec<PathBuf>,
    },
    /// Other shards have questions left.
    Waiting {
        /// Answered by any shard.
        answered: usize,
        /// In all.
        questions: usize,
    },
}

/// A question as it is put to the model.
struct Asked<'a> {
    item: &'a Item,
    prompt: String,
    images: Vec<PathBuf>,
    /// What ends an answer in its template.
    stop: Option<&'static str>,
}

fn choose_template(model: &dyn Answerer, options: &EvalOptions, few_shot: bool) -> Result<Template> {
    if let Some(template) = options.template.clone() {
        return Ok(template);
    }
    if let Some(template) = model.template() {
        say(format_args!("template: {}, with which the model was trained", template.name()));
        // Few-shot prompts have no system prompt in any template.
        return Ok(if few_shot { template.with_system("") } else { template });
    }
    let authors = if few_shot { "vicuna_v1_nosys" } else { "vicuna_v1" };
    Template::named(authors).map_err(|error| Error::Data(error.to_string()))
}

fn ask<'a>(model: &dyn Answerer, options: &EvalOptions, items: &'a [Item], pool: &'a [Item]) -> Result<Vec<Asked<'a>>> {
    let style = options.task.style;
    let few_shot =
        matches!(style, Style::Question | Style::Caption) && (options.shots.is_some() || style == Style::Caption);
    let template = choose_template(model, options, few_shot)?;
    let asked = |item: &'a Item| {
        if matches!(style, Style::Text | Style::Letters) {
            return Asked { item, prompt: item.text.clone(), images: Vec::new(), stop: None };
        }
        let shots = options.shots.filter(|_| few_shot).unwrap_or(0);
        let shots = demonstrations(item, pool, shots, options.seed, options.choice);
        let images = shots.iter().flat_map(|shot| shot.images.clone()).chain(item.images.clone()).collect();
        let prompt = match few_shot {
            true => prompt(item, &shots, style, options.arrangement, &template),
            false => {
                let marks = format!("{}\n", vila_model::tokenizer::IMAGE_MARK).repeat(item.images.len());
                template.prompt(&[], &(marks + &item.text))
            }
        };
        Asked { item, prompt, images, stop: template.stop() }
    };
    let marks = |asked: &Asked| asked.prompt.matches(vila_model::tokenizer::IMAGE_MARK).count();
    let asked: Vec<Asked> = items.iter().map(asked).collect();
    match asked.iter().find(|asked| marks(asked) != asked.images.len()) {
        Some(asked) => Err(asked.item.record.error(&format!(
            "the prompt has {} marks `{}` for {} images; take those out of the texts that stand for no image",
            marks(asked),
            vila_model::tokenizer::IMAGE_MARK,
            asked.images.len()
        ))),
        None => Ok(asked),
    }
}

/// Runs or resumes a task.
///
/// # Errors
/// Files are missing or of another format; answers of another model or of other options are in the way; the model
/// fails.
pub fn evaluate(model: &dyn Answerer, options: &EvalOptions) -> Result<Evaluation> {
    let TaskFiles { data, out, .. } = &options.files;
    std::fs::metadata(data).map_err(Error::io(data))?;
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let items = read_items(options)?;
    let pool = read_pool(options)?;
    let asked = ask(model, options, &items, &pool)?;
    let header = header(model, options, &asked)?;
    let path = out.join(options.shard.file_name());
    let answered = open_answers(&path, &header)?;
    let mut file = append(out, &options.shard.file_name())?;
    let mut progress = Progress::new(options.task, options.shard.of(&asked).len());
    for asked in options.shard.of(&asked) {
        if !answered.contains_key(&asked.item.id) {
            // A model's error knows neither file nor record.
            let answer = answer(model, options, asked).map_err(|e| asked.item.record.error(&e.to_string()))?;
            let line = answer_line(&answer) + "\n";
            file.write_all(line.as_bytes()).map_err(Error::io(&path))?;
        }
        progress.count();
    }
    finish(options, &items, &header)
}

fn read_items(options: &EvalOptions) -> Result<Vec<Item>> {
    let (task, files) = (options.task, &options.files);
    let shots = options.shots.unwrap_or(task.shots);
    let items = task.read(files, shots)?;
    if items.is_empty() {
        return Err(Error::Data(format!("{}: there are no questions of {} here", files.data.display(), task.name)));
    }
    let mut known = std::collections::HashSet::new();
    match items.iter().find(|item| !known.insert(item.id.as_str())) {
        Some(item) => Err(item.record.error(&format!("the id `{}` is there twice", item.id))),
        None => Ok(items),
    }
}

fn read_pool(options: &EvalOptions) -> Result<Vec<Item>> {
    let wanted = match options.task.style {
        Style::Question | Style::Caption => options.shots.unwrap_or(0),
        Style::Chat if options.shots.unwrap_or(0) > 0 => {
            let tasks = "VQA, captioning and text-only tasks do";
            return Err(Error::Data(format!("--shots: {} has no few-shot protocol; {tasks}", options.task.name)));
        }
        _ => 0,
    };
    match (&options.demonstrations, wanted) {
        (Some(_), 0) if options.shots.is_none() => {
            Err(Error::Data("--demonstrations: say with --shots how many each question gets".into()))
        }
        (_, 0) => Ok(Vec::new()),
        (None, _) => Err(Error::Data("--shots: say with --demonstrations where the examples are".into())),
        (Some(files), wanted) => {
            let pool = options.task.read(files, 0)?;
            let usable = pool.iter().filter(|item| item.answer.is_some()).count();
            match usable > wanted {
                true => Ok(pool),
                false => Err(Error::Data(format!(
                    "{}: {usable} examples of the train split have answers, more than {wanted} are needed; VQA's answers \
                     come from --demonstration-annotations",
                    files.data.display()
                ))),
            }
        }
    }
}

/// The first line of an answer file: what the answers depend on.
fn header(model: &dyn Answerer, options: &EvalOptions, asked: &[Asked]) -> Result<Value> {
    let mut prompts = Sha256::new();
    let mut images: HashMap<&Path, Vec<u8>> = HashMap::new();
    for asked in asked {
        prompts.update(json!([asked.item.id, asked.prompt, asked.item.images.len()]).to_string());
        for image in &asked.images {
            if !images.contains_key(image.as_path()) {
                let mut hash = Sha256::new();
                hash_file(image, HASHED_OF_AN_IMAGE, &mut hash)?;
                images.insert(image, hash.finalize().to_vec());
            }
            prompts.update(&images[image.as_path()]);
        }
    }
    let facts = json!({
        "task": options.task.name,
        "model": model.fingerprint(&options.files.out)?,
        "prompts": hex(&prompts.finalize()),
        "max_new_tokens": options.task.max_new_tokens,
        "shots": options.shots.unwrap_or(options.task.shots),
        "seed": options.seed,
        "image_mode": options.image_mode,
    });
    let hash = hex(&Sha256::digest(facts.to_string()));
    Ok(json!({ "header": facts, "hash": hash }))
}

/// Answers that are there already; makes the file if it is not, and cuts a torn last line off.
fn open_answers(path: &Path, header: &Value) -> Result<HashMap<String, Answer>> {
    if !path.exists() {
        write_whole(path, format!("{header}\n").as_bytes())?;
    }
    let text = read_text(path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let answers = read_answers(path, whole, header)?;
    // Only now is it known that the file is an evaluation's.
    if whole.len() < text.len() {
        write_whole(path, whole.as_bytes())?;
    }
    Ok(answers)
}

fn read_answers(path: &Path, text: &str, header: &Value) -> Result<HashMap<String, Answer>> {
    let error = |number: usize, problem: &str| Error::Data(format!("{} line {number}: {problem}", path.display()));
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let first = lines.next().and_then(|(_, line)| serde_json::from_str::<Value>(line).ok());
    if first.as_ref() != Some(header) {
        let problem = "these answers are of another model, data or options; choose another --out or remove the file";
        return Err(error(1, problem));
    }
    let answer = |(number, line): (usize, &str)| {
        let value: Value = serde_json::from_str(line).map_err(|problem| error(number, &problem.to_string()))?;
        let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(id), Some(prompt), Some(text)) = (field("id"), field("prompt"), field("text")) else {
            return Err(error(number, "fields `id`, `prompt` and `text` are needed"));
        };
        let logprobs = value.get("logprobs").filter(|value| !value.is_null()).cloned();
        let logprobs = logprobs.map(serde_json::from_value).transpose().map_err(|e| error(number, &e.to_string()))?;
        Ok((id.clone(), Answer { id, prompt, text, logprobs }))
    };
    lines.map(answer).collect()
}

fn answer_line(answer: &Answer) -> String {
    let mut line = json!({ "id": answer.id, "prompt": answer.prompt, "text": answer.text });
    if let Some(logprobs) = answer.logprobs {
        line["logprobs"] = json!(logprobs);
    }
    line.to_string()
}

fn answer(model: &dyn Answerer, options: &EvalOptions, asked: &Asked) -> Result<Answer> {
    let EvalOptions { task, arrangement, .. } = options;
    let mut prompt = asked.prompt.clone();
    if matches!(task.style, Style::Letters | Style::Text) {
        let most = super::tasks::MOST_TOKENS.min(model.context().saturating_sub(task.max_new_tokens + 1));
        for shots in (0..asked.item.shots.len().saturating_sub(1)).rev() {
            if model.tokens(&prompt)? <= most {
                break;
            }
            prompt = with_shots(asked.item, shots);
        }
    }
    let logprobs = if task.style == Style::Letters { Some(model.letters(&prompt)?) } else { None };
    let stop = asked.stop.map(String::from).into_iter().collect();
    let options = GenerateOptions { max_new_tokens: task.max_new_tokens, stop, ..GenerateOptions::default() };
    let text = model.generate(&prompt, &asked.images, &options)?;
    // A text that is continued goes on after its answer.
    let line = match arrangement {
        Arrangement::OpenFlamingo if matches!(task.style, Style::Question | Style::Caption) => {
            text.trim_start().split('\n').next().unwrap_or("")
        }
        _ => &text,
    };
    Ok(Answer { id: asked.item.id.clone(), prompt, text: line.trim().to_owned(), logprobs })
}

/// Scores and writes, if the answers of all shards are there.
fn finish(options: &EvalOptions, items: &[Item], header: &Value) -> Result<Evaluation> {
    let out = &options.files.out;
    let mut answers = HashMap::new();
    for index in 0..options.shard.count {
        let path = out.join(Shard { index, ..options.shard }.file_name());
        if path.exists() {
            let text = read_text(&path)?;
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            answers.extend(read_answers(&path, whole, header)?);
        }
    }
    let pairs: Vec<(&Item, &Answer)> = items.iter().filter_map(|item| Some((item, answers.get(&item.id)?))).collect();
    if pairs.len() < items.len() {
        return Ok(Evaluation::Waiting { answered: pairs.len(), questions: items.len() });
    }
    let outcome = options.task.finish(&options.files, &pairs)?;
    if outcome.report.is_none() {
        let lacks = |(item, answer): &&(&Item, &Answer)| options.task.right(item, answer).is_none();
        let (name, lack, all) = (options.task.name, pairs.iter().filter(lacks).count(), items.len());
        match lack < all {
            true => {
                say(format_args!("{name}: {lack} of {all} questions have no right answer here, so there is no score"))
            }
            false => say(format_args!("{name}: there is no score here; its server or judge takes the submission file")),
        }
    }
    let summary = json!({
        "task": options.task.name,
        "questions": items.len(),
        "run": header,
        "result": outcome.report.as_ref().map(Report::json),
    });
    let report = serde_json::to_string_pretty(&summary).unwrap_or_default() + "\n";
    let files: Vec<_> = outcome.files.into_iter().chain([("report.json".to_owned(), report.into_bytes())]).collect();
    let written = Results::open(out)?.write(&files)?;
    Ok(Evaluation::Done { report: outcome.report, written })
}

/// Lines without a running score: metrics are of all answers, and what holds of some of them need not hold of all.
struct Progress {
    name: &'static str,
    total: usize,
    done: usize,
    started: Instant,
    last_line: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    fn new(task: &'static Task, total: usize) -> Self {
        let now = Instant::now();
        Progress { name: task.name, total, done: 0, started: now, last_line: now }
    }

    fn count(&mut self) {
        self.done += 1;
        if self.done < self.total && self.last_line.elapsed() < LINE_EVERY {
            return;
        }
        self.last_line = Instant::now();
        let left = self.started.elapsed().as_secs_f64() / self.done as f64 * (self.total - self.done) as f64;
        say(format_args!("{} {}/{} left {left:.0} s", self.name, self.done, self.total));
    }
}
