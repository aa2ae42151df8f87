//! Every benchmark end to end on ten records in its published format (fixtures by `scripts/make_benchmarks.py`).

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde_json::Value;
use vila_model::GenerateOptions;
use vila_train::Error;
use vila_train::evaluation::few_shot::{Arrangement, Choice};
use vila_train::evaluation::harness::{Answerer, EvalOptions, Evaluation, Shard, evaluate};
use vila_train::evaluation::metrics::{METRICS, MetricFiles};
use vila_train::evaluation::tasks::{TASKS, Task, TaskFiles};

use crate::child::command;

const ANSWERS: [&str; 10] = [
    "Yes",
    "no, it is not",
    "A",
    "Two dogs.",
    "B. north",
    "a \"red\" café\tbus",
    "The answer is B.",
    "10,000",
    "C",
    "Not sure",
];

/// Says the answers one after another and keeps what it was asked.
#[derive(Default)]
struct Scripted {
    said: Cell<usize>,
    asked: RefCell<Vec<(String, usize, usize)>>,
    fails_after: Option<usize>,
}

impl Answerer for Scripted {
    fn generate(&self, prompt: &str, images: &[PathBuf], options: &GenerateOptions) -> Result<String, Error> {
        let turn = self.said.get();
        if self.fails_after == Some(self.asked.borrow().len()) {
            return Err(Error::Data("the power is gone".into()));
        }
        self.said.set(turn + 1);
        assert!(images.iter().all(|image| image.is_file()));
        self.asked.borrow_mut().push((prompt.to_owned(), images.len(), options.max_new_tokens));
        Ok(format!(" {} ", ANSWERS[turn % ANSWERS.len()]))
    }

    fn letters(&self, _: &str) -> Result<[f64; 4], Error> {
        Ok([-2.0, -1.0, -3.0, -4.0])
    }

    fn tokens(&self, text: &str) -> Result<usize, Error> {
        Ok(text.len() / 4)
    }

    fn fingerprint(&self, _: &Path) -> Result<String, Error> {
        Ok("scripted".into())
    }
}

fn sample(task: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/benchmarks").join(task)
}

fn expected(task: &str) -> Value {
    let path = sample(task).join("expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("expected.json")).expect("JSON")
}

fn fresh(name: &str) -> PathBuf {
    let out = std::env::temp_dir().join(format!("vila-benchmarks-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&out);
    out
}

fn options(task: &str, out: &Path) -> EvalOptions {
    let (expected, folder) = (expected(task), sample(task).join("data"));
    let name = |field: &str| expected[field].as_str().map(|name| folder.join(name));
    EvalOptions {
        task: Task::named(task).expect("a task"),
        files: TaskFiles {
            data: name("data").expect("data"),
            images: folder.clone(),
            annotations: name("annotations"),
            out: out.to_path_buf(),
            demonstrations: false,
        },
        shots: expected["shots"].as_u64().map(|shots| shots as usize),
        demonstrations: None,
        arrangement: Arrangement::SingleTurn,
        choice: Choice::PerQuestion,
        seed: 0,
        template: None,
        shard: Shard::WHOLE,
        image_mode: "pad".into(),
    }
}

#[test]
fn every_task_asks_and_submits_as_its_authors_do() {
    for task in TASKS {
        let (out, expected, model) = (fresh(task.name), expected(task.name), Scripted::default());
        let Evaluation::Done { report, .. } = evaluate(&model, &options(task.name, &out)).expect(task.name) else {
            panic!("{}: ten answers are all", task.name);
        };
        let asked = model.asked.borrow();
        for ((prompt, images, tokens), right) in asked.iter().zip(expected["prompts"].as_array().expect("prompts")) {
            assert_eq!(Value::from(prompt.as_str()), *right, "{}", task.name);
            assert_eq!(
                (*images, *tokens as u64),
                (prompt.matches("<image>").count(), expected["max_new_tokens"].as_u64().expect("limit"))
            );
        }
        assert_eq!(asked.len(), 10, "{}", task.name);
        for name in expected["files"].as_array().expect("files").iter().filter_map(Value::as_str) {
            let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}", path.display()));
            assert_eq!(
                read(out.join(name)),
                read(sample(task.name).join("expected").join(name)),
                "{} {name}",
                task.name
            );
        }
        if let Some(score) = expected["score"].as_f64() {
            let ours = report.unwrap_or_else(|| panic!("{} has a metric", task.name)).score();
            assert!((ours - score).abs() < 1e-12, "{}: {ours} for {score}", task.name);
        }
        std::fs::remove_dir_all(&out).expect("removed");
    }
}

/// What a task submits, `vila metrics` reads, with the published file beside it, and gives the same score.
#[test]
fn submissions_are_scored_as_the_task_was() {
    let cases = [
        ("okvqa", "vqa", "okvqa_results.json", "mscoco_val2014_annotations.json"),
        ("gqa", "gqa", "testdev_balanced_predictions.json", "testdev_balanced_questions.json"),
        ("textvqa", "vqa-evalai", "answers_submission.jsonl", "TextVQA_0.5.1_val.json"),
        ("scienceqa-img", "scienceqa", "answers_submission.jsonl", ""),
        ("pope", "pope", "answers_submission.jsonl", ""),
        ("mme", "mme", "mme_results", ""),
        ("mmbench", "mmbench", "mmbench_submission.xlsx", "data.tsv"),
        ("seed", "seed", "seed_submission.jsonl", "SEED-Bench.json"),
        ("coco-captions", "cider", "captions_results.json", "data.json"),
        ("mmlu", "mmlu", "predictions.jsonl", ""),
        ("bbh", "bbh", "predictions.jsonl", ""),
    ];
    // DROP's tool counts the questions that the task leaves out.
    for (task, metric, file, references) in cases {
        let out = fresh(&format!("{task}-score"));
        let done = evaluate(&Scripted::default(), &options(task, &out)).expect(task);
        let Evaluation::Done { report: Some(report), .. } = done else { panic!("{task} has a metric") };
        let metric = METRICS.iter().find(|known| known.name == metric).expect("a metric");
        let (predictions, references) = (out.join(file), sample(task).join("data").join(references));
        let files = MetricFiles { predictions, references, questions: None, tokenized: false };
        assert_eq!(metric.compute(&files).expect(task).json()["score"], report.json()["score"], "{task}");
        std::fs::remove_dir_all(&out).expect("removed");
    }
}

/// The authors' question files: JSON lines whose text has the suffix already, and ScienceQA's conversations.
#[test]
fn question_files_of_the_authors_are_asked_as_they_stand() {
    let files = [
        ("vqav2", "COCO_test2015_000000000007.jpg", "vqav2_submission.json"),
        ("okvqa", "COCO_val2014_000000000005.jpg", "okvqa_results.json"),
        ("gqa", "n0.jpg", "testdev_balanced_predictions.json"),
        ("vizwiz", "VizWiz_test_00000000.jpg", "vizwiz_submission.json"),
        ("textvqa", "train_images/000.jpg", "answers_submission.jsonl"),
        ("pope", "COCO_val2014_000000000001.jpg", "answers_submission.jsonl"),
        ("seed", "SEED-Bench-image/d0", "seed_submission.jsonl"),
        ("llava-bench", "001.jpg", "answers_submission.jsonl"),
        ("mm-vet", "images/v1_0.png", "mm-vet_submission.json"),
        ("scienceqa-img", "test/0/image.png", "answers_submission.jsonl"),
    ];
    for (task, image, submission) in files {
        let (out, model) = (fresh(&format!("{task}-authors")), Scripted::default());
        std::fs::create_dir(&out).expect("folder");
        let text =
            |number: usize| format!("Is there number {number}?\nAnswer the question using a single word or phrase.");
        let data = out.join("questions.jsonl");
        let lines = (0..10).map(|number| {
            let line = match task {
                "scienceqa-img" => serde_json::json!({
                    "id": number.to_string(), "image": image, "conversations": [
                        {"from": "human", "value": format!("<image>\nIs there number {number}?")},
                        {"from": "gpt", "value": "The answer is A."}],
                }),
                _ => serde_json::json!({
                    "question_id": number, "image": image, "text": text(number), "category": "random",
                }),
            };
            line.to_string() + "\n"
        });
        std::fs::write(&data, lines.collect::<String>()).expect("questions");
        let plain = options(task, &out);
        let options = EvalOptions { files: TaskFiles { data, annotations: None, ..plain.files }, ..plain };
        let Evaluation::Done { report, .. } = evaluate(&model, &options).expect(task) else { panic!("{task} is done") };
        assert!(report.is_none(), "{task}: nothing says what is right");
        for (number, (prompt, images, _)) in model.asked.borrow().iter().enumerate() {
            let asked = match task {
                "scienceqa-img" => {
                    let letter = "Answer with the option's letter from the given choices directly.";
                    format!("Is there number {number}?\n{letter}")
                }
                _ => text(number),
            };
            assert!(prompt.ends_with(&format!("USER: <image>\n{asked} ASSISTANT:")), "{task}: {prompt}");
            assert_eq!(*images, 1);
        }
        let submitted = std::fs::read_to_string(out.join(submission)).expect(task);
        let answers: Vec<&str> = submitted.matches("10,000").chain(submitted.matches("10000")).collect();
        assert_eq!(answers.len(), 1, "{task}: {submitted}");
        std::fs::remove_dir_all(&out).expect("removed");
    }
}

/// The cells of a sheet of stored XML.
fn cells(workbook: &Path) -> Vec<Vec<Value>> {
    let bytes = std::fs::read(workbook).expect("a workbook");
    let text = String::from_utf8_lossy(&bytes);
    let unescape = |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let inside = |text: &str, open: &str, close: &str| {
        let start = text.find(open)? + open.len();
        Some(text[start..start + text[start..].find(close)?].to_owned())
    };
    let sheet = inside(&text, "<sheetData>", "</sheetData>").expect("a sheet");
    let row = |row: &str| {
        let mut cells = vec![Value::Null; 8];
        for cell in row.split("<c r=\"").skip(1) {
            let column = usize::from(cell.as_bytes()[0] - b'A');
            cells[column] = match inside(cell, "<v>", "</v>") {
                Some(number) => number.parse::<u64>().expect("a number").into(),
                None => unescape(&inside(cell, "\"preserve\">", "</t>").expect("a text")).into(),
            };
        }
        cells
    };
    sheet.split("</row>").filter(|text| !text.is_empty()).map(row).collect()
}

#[test]
fn the_workbook_of_mmbench_is_right_cell_by_cell() {
    for task in ["mmbench", "mmbench-cn"] {
        let out = fresh(&format!("{task}-cells"));
        evaluate(&Scripted::default(), &options(task, &out)).expect(task);
        assert_eq!(serde_json::json!(cells(&out.join("mmbench_submission.xlsx"))), expected(task)["cells"]);
        std::fs::remove_dir_all(&out).expect("removed");
    }
}

/// Columns without a value stay where they are, and pandas' words for nothing end the options.
#[test]
fn empty_columns_of_mmbench_stay() {
    let out = fresh("mmbench-empty");
    std::fs::create_dir(&out).expect("folder");
    let table = std::fs::read_to_string(sample("mmbench").join("data/data.tsv")).expect("table");
    let image = table.lines().nth(1).and_then(|row| row.rsplit('\t').next()).expect("image");
    let columns = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment";
    let row = |index: usize| format!("{index}\tWhich?\tN/A\tyes\tno\t\tNA\t\tc\t{image}\ts\tl\t\n");
    let data = out.join("data.tsv");
    std::fs::write(&data, format!("{columns}\n{}", (0..10).map(row).collect::<String>())).expect("table");
    let plain = options("mmbench", &out);
    let options = EvalOptions { files: TaskFiles { data, ..plain.files }, ..plain };
    let model = Scripted::default();
    assert!(matches!(evaluate(&model, &options).expect("answers"), Evaluation::Done { report: None, .. }));
    assert!(
        model.asked.borrow()[0].0.contains("USER: <image>\nWhich?\nA. yes\nB. no\nAnswer with"),
        "{:?}",
        model.asked
    );
    let cells = cells(&out.join("mmbench_submission.xlsx"));
    let header = ["index", "question", "A", "B", "C", "D", "prediction", "answer"];
    assert_eq!(cells[0], header.map(Value::from));
    assert_eq!(
        cells[1],
        [0.into(), "Which?".into(), "yes".into(), "no".into(), Value::Null, Value::Null, "Yes".into(), Value::Null]
    );
    std::fs::remove_dir_all(&out).expect("removed");
}

/// As InstructEval: the first demonstrations stay, blank lines in them or not.
#[test]
fn prompts_that_are_too_long_lose_their_last_demonstrations() {
    let out = fresh("bbh-long");
    let data = out.join("tasks");
    std::fs::create_dir_all(&data).expect("folder");
    // A token is four bytes here: two of the demonstrations fit beside the question.
    let input = |name: char| format!("{name}\n\n{}", "x".repeat(3_000));
    let examples: Vec<Value> =
        "pqrstuvwxyzab".chars().map(|name| serde_json::json!({"input": input(name), "target": "t"})).collect();
    std::fs::write(data.join("task.json"), serde_json::json!({"examples": examples}).to_string()).expect("task");
    let plain = options("bbh", &out);
    let options = EvalOptions { files: TaskFiles { data, ..plain.files }, ..plain };
    let model = Scripted::default();
    evaluate(&model, &options).expect("answers");
    let asked = model.asked.borrow();
    assert_eq!(asked[0].0, format!("{}\nAnswer: t\n\n{}\nAnswer:", input('p'), input('s')));
    std::fs::remove_dir_all(&out).expect("removed");
}

#[test]
fn answers_survive_a_stop_and_are_not_asked_again() {
    let (out, path) = (fresh("resumed"), |out: &Path| out.join("answers.jsonl"));
    let broken = Scripted { fails_after: Some(4), ..Scripted::default() };
    evaluate(&broken, &options("gqa", &out)).err().expect("a stop");
    // A line that was being written is asked again.
    let mut torn = std::fs::read(path(&out)).expect("answers");
    torn.truncate(torn.len() - 3);
    std::fs::write(path(&out), torn).expect("written");
    let model = Scripted { said: Cell::new(3), ..Scripted::default() };
    evaluate(&model, &options("gqa", &out)).expect("the rest");
    assert_eq!(model.asked.borrow().len(), 7);
    let name = "testdev_balanced_predictions.json";
    let read = |folder: PathBuf| std::fs::read_to_string(folder.join(name)).expect(name);
    assert_eq!(read(out.clone()), read(sample("gqa").join("expected")));
    let other = EvalOptions { seed: 1, ..options("gqa", &out) };
    let message = evaluate(&model, &other).err().expect("another run's answers").to_string();
    assert!(message.contains("answers.jsonl line 1") && message.contains("--out"), "{message}");
    std::fs::remove_dir_all(&out).expect("removed");
}

#[test]
fn shards_together_are_the_whole() {
    let out = fresh("shards");
    for index in 0..3 {
        let model = Scripted { said: Cell::new(4 * index), ..Scripted::default() };
        let result = evaluate(&model, &EvalOptions { shard: Shard { index, count: 3 }, ..options("gqa", &out) });
        assert_eq!(matches!(result.expect("answers"), Evaluation::Done { .. }), index == 2);
    }
    let name = "testdev_balanced_predictions.json";
    let read = |folder: PathBuf| std::fs::read_to_string(folder.join(name)).expect(name);
    assert_eq!(read(out.clone()), read(sample("gqa").join("expected")));
    std::fs::remove_dir_all(&out).expect("removed");
}

#[test]
fn demonstrations_come_before_the_question_with_their_images() {
    let ask = |arrangement, choice| {
        let (out, model) = (fresh(&format!("shots-{arrangement:?}-{choice:?}")), Scripted::default());
        let plain = options("okvqa", &out);
        let demonstrations = Some(plain.files.clone());
        let options = EvalOptions { shots: Some(2), demonstrations, arrangement, choice, ..plain };
        evaluate(&model, &options).expect("answers");
        std::fs::remove_dir_all(&out).expect("removed");
        model.asked.into_inner()
    };
    let single = ask(Arrangement::SingleTurn, Choice::PerQuestion);
    let (prompt, images, _) = &single[3];
    assert_eq!((*images, prompt.matches("<image>\nQuestion: ").count(), prompt.matches("USER").count()), (3, 3, 1));
    assert!(prompt.starts_with(" USER: <image>\nQuestion: What is number"), "{prompt}");
    let query =
        "\n<image>\nQuestion: What is number 3?\nAnswer the question using a single word or phrase. Answer: ASSISTANT:";
    assert!(prompt.ends_with(query), "{prompt}");
    assert_eq!(prompt.matches("number 3?").count(), 1, "a question does not demonstrate itself");
    assert_eq!(
        single,
        ask(Arrangement::SingleTurn, Choice::PerQuestion),
        "the draws are a function of seed and question"
    );
    let turns = ask(Arrangement::MultiTurn, Choice::Fixed);
    assert_eq!((turns[0].1, turns[0].0.matches("USER: ").count(), turns[0].0.matches("</s>").count()), (3, 3, 2));
    let flamingo = ask(Arrangement::OpenFlamingo, Choice::Fixed);
    assert!(flamingo[0].0.ends_with("\n<image>Question:What is number 0? Short answer:"), "{}", flamingo[0].0);
}

/// The train split demonstrates with its own annotations, and the questions are scored by theirs.
#[test]
fn demonstrations_have_annotations_of_their_own() {
    let out = fresh("shots-annotations");
    std::fs::create_dir(&out).expect("folder");
    let plain = options("okvqa", &out);
    let text =
        std::fs::read_to_string(sample("okvqa").join("data/mscoco_val2014_annotations.json")).expect("annotations");
    let train = out.join("train_annotations.json");
    std::fs::write(&train, text.replace("\"yes\"", "\"trained\"")).expect("annotations");
    let demonstrations = Some(TaskFiles { annotations: Some(train), ..plain.files.clone() });
    let options = EvalOptions { shots: Some(9), demonstrations, ..plain };
    let model = Scripted::default();
    let Evaluation::Done { report: Some(report), .. } = evaluate(&model, &options).expect("answers") else {
        panic!("the questions' own annotations score them")
    };
    assert!(report.score() > 0.0);
    assert!(model.asked.borrow()[3].0.contains(" trained\n"), "{}", model.asked.borrow()[3].0);
    std::fs::remove_dir_all(&out).expect("removed");
}

/// Processes that torchrun started share the questions, and the last one writes what a single one does.
#[test]
fn ranks_share_the_questions() {
    let (model, data) = (sample("../tiny-llava-hf"), sample("pope").join("data"));
    let name = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (model, data) = (name(&model), name(&data));
    let (alone, shared) = (fresh("alone"), fresh("shared"));
    let start = |out: &Path, ranks: Option<(usize, usize)>| {
        let out = name(out);
        let arguments =
            ["eval", "--task", "pope", "--device", "cpu", "--model", &model, "--data", &data, "--out", &out];
        let mut process = command(&arguments);
        if let Some((rank, world)) = ranks {
            process.envs([
                ("RANK", rank.to_string()),
                ("LOCAL_RANK", rank.to_string()),
                ("WORLD_SIZE", world.to_string()),
            ]);
            process.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")]);
        }
        process.spawn().expect("vila")
    };
    let processes = [start(&alone, None), start(&shared, Some((0, 2))), start(&shared, Some((1, 2)))];
    for process in processes {
        let done = process.wait_with_output().expect("vila");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
    assert_eq!(read(&alone, "answers_submission.jsonl"), read(&shared, "answers_submission.jsonl"));
    for part in ["answers-0-of-2.jsonl", "answers-1-of-2.jsonl"] {
        assert_eq!(read(&shared, part).lines().count(), 6, "{part}: a header and five answers");
    }
    [alone, shared].into_iter().for_each(|out| std::fs::remove_dir_all(out).expect("removed"));
}

#[test]
fn a_model_answers_from_the_command_line() {
    let (out, folder) = (fresh("model"), sample("pope").join("data"));
    let model = sample("../tiny-llava-hf");
    let arguments = ["vila", "eval", "--task", "pope", "--device", "cpu", "--json"].map(std::ffi::OsString::from);
    let paths = [("--model", model), ("--data", folder), ("--out", out.clone())];
    let paths = paths.into_iter().flat_map(|(name, path)| [name.into(), path.into_os_string()]);
    assert_eq!(vila_train::cli::run(arguments.into_iter().chain(paths)), 0);
    let answers = std::fs::read_to_string(out.join("answers.jsonl")).expect("answers");
    assert_eq!(answers.lines().count(), 11);
    std::fs::remove_dir_all(&out).expect("removed");
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, content).expect("a file");
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

/// Questions of a task in a folder of its own, with an image `a.jpg` (which no model here looks at).
fn own(task: &str, name: &str, content: &str) -> EvalOptions {
    let out = fresh(&format!("own-{task}"));
    write(&out.join("data").join(name), content);
    for image in ["a.jpg", "b.jpg"] {
        write(&out.join("data").join(image), image);
    }
    let plain = options(task, &out);
    let images = out.join("data");
    let files = TaskFiles { data: images.join(name), images, annotations: None, ..plain.files };
    EvalOptions { files, shots: None, ..plain }
}

fn refused(options: &EvalOptions) -> String {
    match evaluate(&Scripted::default(), options) {
        Ok(_) => panic!("{} is not refused", options.task.name),
        Err(error) => error.to_string(),
    }
}

#[test]
fn answers_about_other_images_are_not_taken_over() {
    let question = serde_json::json!({"image": "a.jpg", "question": "What?"});
    let options = own("vizwiz", "q.json", &serde_json::json!([question]).to_string());
    assert!(evaluate(&Scripted::default(), &options).is_ok() && evaluate(&Scripted::default(), &options).is_ok());
    write(&options.files.images.join("a.jpg"), "another");
    assert!(refused(&options).contains("these answers are of another model, data or options"));
}

#[test]
fn images_of_a_mended_table_replace_those_before() {
    let table = |image: &str| format!("index\timage\tquestion\tA\tB\tanswer\n1\t{image}\tWhat?\tx\ty\tA\n");
    let options = own("mmbench", "t.tsv", &table("YWFh"));
    evaluate(&Scripted::default(), &options).expect("one row");
    write(&options.files.data, table("YmJi"));
    std::fs::remove_file(options.files.out.join("answers.jsonl")).expect("answers");
    evaluate(&Scripted::default(), &options).expect("the other table");
    assert_eq!(std::fs::read(options.files.out.join("images/1")).expect("image"), b"bbb");
}

#[test]
fn captions_are_demonstrated_by_the_train_split() {
    let image = |split: &str, caption: &str| {
        let sentences = serde_json::json!([{"raw": caption}, {"raw": "another"}]);
        serde_json::json!({"imgid": caption, "filename": "a.jpg", "split": split, "sentences": sentences})
    };
    let images = [image("test", "tested"), image("train", "trained\n"), image("restval", "rested"), image("val", "no")];
    let mut options = own("flickr-captions", "d.json", &serde_json::json!({ "images": images }).to_string());
    options.shots = Some(1);
    options.demonstrations = Some(TaskFiles { demonstrations: true, ..options.files.clone() });
    let model = Scripted::default();
    evaluate(&model, &options).expect("a caption");
    let asked = model.asked.borrow();
    assert_eq!(asked.len(), 1, "the test split is asked");
    let (prompt, images, _) = &asked[0];
    assert!(prompt.contains("trained\n<image>") || prompt.contains("rested\n<image>"), "{prompt}");
    assert!(*images == 2 && !prompt.contains("tested") && !prompt.contains("Caption: no"), "{prompt}");
    options.shots = None;
    assert!(refused(&options).contains("--demonstrations: say with --shots"));
}

#[test]
fn the_authors_files_of_both_vqa_splits_fill_the_upload() {
    let question = |id: u64| serde_json::json!({"question_id": id, "image": "a.jpg", "text": "What?"});
    let mut options = own("vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", &lines(&[question(2)]));
    let all = options.files.images.join("llava_vqav2_mscoco_test2015.jsonl");
    write(&all, lines(&[question(1), question(2)]));
    options.files.data = options.files.images.clone();
    evaluate(&Scripted::default(), &options).expect("vqav2");
    let upload = std::fs::read_to_string(options.files.out.join("vqav2_submission.json")).expect("upload");
    assert_eq!(upload, r#"[{"question_id": 1, "answer": ""}, {"question_id": 2, "answer": "yes"}]"#);
    let published = r#"{"questions":[{"question_id":1,"image_id":1,"question":"What?"}]}"#;
    let mut options = own("okvqa", "train_questions.json", published);
    write(&options.files.images.join("val_questions.json"), published);
    options.files.data = options.files.images.clone();
    assert!(refused(&options).contains("there are several question files"));
}

#[test]
fn seed_answers_have_the_published_ids() {
    let published = serde_json::json!({
        "question_type": {"Scene": 1},
        "questions": [{"answer": "A", "question_id": "101", "question_type_id": 1, "data_id": "a.jpg", "data_type": "image",
            "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w", "question": "What?"}],
    });
    let line = serde_json::json!({"question_id": 101, "image": "a.jpg", "text": "What?"});
    let options = own("seed", "llava-seed-bench.jsonl", &lines(&[line]));
    let submission = || std::fs::read_to_string(options.files.out.join("seed_submission.jsonl")).expect("submission");
    let run = || match evaluate(&Scripted::default(), &options).expect("seed") {
        Evaluation::Done { report, .. } => report.is_some(),
        Evaluation::Waiting { .. } => panic!("one question"),
    };
    let scored = run();
    assert_eq!((scored, submission()), (false, "{\"question_id\": \"101\", \"prediction\": \"Yes\"}\n".to_owned()));
    write(&options.files.images.join("SEED-Bench.json"), published.to_string());
    let scored = run();
    assert_eq!((scored, submission()), (true, "{\"question_id\": \"101\", \"prediction\": \"Yes\"}\n".to_owned()));
}

#[test]
fn what_would_give_no_score_or_no_answer_is_refused_before_anything_is_asked() {
    let question = r#"{"questions":[{"question_id":1,"image_id":"a","question":"What?"}]}"#;
    let mut options = own("okvqa", "q_questions.json", question);
    write(&options.files.images.join("COCO_val2014_00000000000a.jpg"), "image");
    let annotations = options.files.images.join("a.json");
    write(&annotations, r#"{"annotations":[{"question_id":7,"answers":[{"answer":"yes"}]}]}"#);
    options.files.annotations = Some(annotations);
    let message = refused(&options);
    assert!(message.contains("a.json: has no annotation for 1 of 1 questions (1, ...)"), "{message}");
    let message = refused(&own("vizwiz", "q.json", r#"[{"image":"a.jpg","question":"Is <image> there?"}]"#));
    assert!(message.contains("q.json item 1: the prompt has 2 marks `<image>` for 1 images"), "{message}");
    let message = refused(&own("vizwiz", "q.json", r#"[{"image":"c.jpg","question":"What?"}]"#));
    assert!(message.contains("q.json item 1: there is no image c.jpg or test/c.jpg"), "{message}");
    let pope = r#"{"question_id":1,"image":"a.jpg","text":"Is it?","label":"maybe"}"#;
    assert!(refused(&own("pope", "coco_pope_random.json", pope)).contains("label `maybe` is neither yes nor no"));
    let cut = "{\n  \"questions\": [\n    {\"question_id\": 1,\n";
    assert!(refused(&own("okvqa", "q.json", cut)).contains("q.json: EOF while parsing"));
    let cut = "{\"image\": \"a.jpg\", \"question\": \"What?\"}\n{\"image\": \"a";
    assert!(refused(&own("vizwiz", "q.json", cut)).contains("q.json line 2 column 12: EOF"));
    assert!(refused(&own("gqa", "q.json", "")).contains("q.json: "));
    let bbh = r#"{"examples":[{"input":"a","target":"b"}]}"#;
    assert!(refused(&own("bbh", "one.json", bbh)).contains("one.json: 1 examples, of which 3 demonstrate"));
    let scienceqa = r#"{"4":{"question":"What?","choices":["x","y"],"answer":0,"image":null,"hint":""}}"#;
    let options = own("scienceqa-img", "problems.json", scienceqa);
    write(&options.files.images.join("pid_splits.json"), r#"{"test":[4]}"#);
    assert!(evaluate(&Scripted::default(), &options).is_ok(), "ids may be numbers");
}
