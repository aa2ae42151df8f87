//! `vila generate`, `chat` and `score` as a person uses them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::template::{Exchange, Template};
use vila_model::tokenizer::Tokenizer;
use vila_model::{GenerateOptions, Prompt, Vila, generate};
use vila_train::evaluate::read_questions;
use vila_train::recipe::SourceSpec;
use vila_train::sources::open_source;

use crate::child::command;
use crate::training::{scratch, world};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn model() -> String {
    fixture("layouts/vila").display().to_string()
}

fn image() -> PathBuf {
    fixture("images/tiny_3x5.png")
}

/// What the command prints, the harness's own lines left out.
fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("start");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("utf-8");
    let stdout = text(output.stdout);
    let own = stdout.split_once("running 1 test\n").map_or(stdout.as_str(), |(_, own)| own);
    (output.status.code(), own.to_string(), text(output.stderr))
}

fn options(template: Option<&Template>) -> GenerateOptions {
    let stop = template.and_then(Template::stop).map(String::from).into_iter().collect();
    GenerateOptions { max_new_tokens: 12, stop, ..GenerateOptions::default() }
}

fn vila() -> Vila {
    Vila::load(&fixture("layouts/vila"), Arc::new(CpuBackend::fast())).expect("load")
}

#[test]
fn a_conversation_keeps_its_history_and_its_images_until_it_is_reset() {
    let template = Template::named("vicuna_v1_nosys").expect("template");
    let vila = vila();
    let said = |history: &[Exchange], question: &str, images: &[PathBuf]| {
        let asked = template.ask(history, question);
        let answers = asked.trained.iter().map(|answer| answer.start).collect();
        let prompt = Prompt { text: asked.text, images: images.to_vec(), answers, ..Prompt::default() };
        vila.stream(&prompt, &options(Some(&template))).and_then(|answer| answer.finish()).expect("generate").text
    };
    let first = said(&[], "<image>\nwhat is this", &[image()]);
    let exchange = |question: &str, answer: &str| Exchange { question: question.into(), answer: answer.trim().into() };
    let history = [exchange("<image>\nwhat is this", &first)];
    let second = said(&history, "and <image> this", &[image(), image()]);
    let fresh = said(&[], "hello", &[]);
    let path = image().display().to_string();
    let input = format!(
        "/image {path}\nwhat is this\n/image {path}\nand <image> this\n/image nothing.png\n/dance\none <image> too many\n/reset\nhello\n/quit\nnever\n"
    );
    let arguments =
        ["chat", "--model", &model(), "--template", "vicuna_v1_nosys", "--max-new-tokens", "12", "--device", "cpu"];
    let (code, stdout, stderr) = run(&arguments, &input);
    assert_eq!((code, stdout), (Some(0), format!("{first}\n{second}\n{fresh}\n")), "{stderr}");
    for part in ["nothing.png", "/dance is no command", "give one image per mark"] {
        assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
    }
}

#[test]
fn a_file_of_prompts_gives_lines_in_the_same_order_whatever_runs_side_by_side() {
    let dir = scratch("prompts");
    let input = dir.join("prompts.jsonl");
    let path = image().display().to_string();
    let lines: Vec<Value> = (0..5)
        .map(|number| json!({"prompt": format!("prompt {number}"), "images": vec![path.clone(); number % 3]}))
        .collect();
    std::fs::write(&input, lines.iter().map(|line| format!("{line}\n\n")).collect::<String>()).expect("write");
    let vila = vila();
    let template = Template::named("vicuna_v1").expect("template");
    for batch in ["1", "3", "64"] {
        let input = input.display().to_string();
        let arguments = [
            "generate",
            "--model",
            &model(),
            "--input",
            &input,
            "--batch",
            batch,
            "--template",
            "vicuna_v1",
            "--max-new-tokens",
            "12",
            "--device",
            "cpu",
        ];
        let (code, stdout, stderr) = run(&arguments, "");
        assert_eq!(code, Some(0), "{stderr}");
        for (number, line) in stdout.lines().enumerate() {
            let answer: Value = serde_json::from_str(line).expect("json");
            let question = "<image>\n".repeat(number % 3) + &format!("prompt {number}");
            let prompt = template.prompt(&[], &question);
            let want =
                generate(&vila, &prompt, &vec![image(); number % 3], &options(Some(&template))).expect("generate");
            assert_eq!((&answer["prompt"], &answer["text"]), (&json!(prompt), &json!(want.text)), "{batch}");
            assert_eq!((&answer["new_ids"], &answer["finish_reason"]), (&json!(want.ids), &json!(want.finish.name())));
        }
        assert_eq!(stdout.lines().count(), 5);
    }
}

#[test]
fn what_is_streamed_is_what_json_says_and_wrong_options_are_usage_errors() {
    let common = [
        "generate",
        "--model",
        &model(),
        "--prompt",
        "a prompt",
        "--device",
        "cpu",
        "--max-new-tokens",
        "20",
        "--temperature",
        "2.5",
        "--top-k",
        "50",
        "--repetition-penalty",
        "1.2",
        "--seed",
        "5",
    ];
    let (code, streamed, stderr) = run(&common, "");
    assert_eq!(code, Some(0), "{stderr}");
    let (_, line, _) = run(&[&common[..], &["--json"]].concat(), "");
    let answer: Value = serde_json::from_str(&line).expect("json");
    assert_eq!(streamed, format!("{}\n", answer["text"].as_str().expect("text")));
    for wrong in
        [["--top-p", "0"], ["--temperature", "-1"], ["--repetition-penalty", "0"], ["--stop", ""], ["--template", "x"]]
    {
        let arguments = [&common[..5], &wrong[..]].concat();
        let (code, stdout, stderr) = run(&arguments, "");
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{wrong:?}: {stderr}");
    }
}

/// A k-shot prompt and its answer are, id by id and image by image, the interleaved document that says the same.
#[test]
fn a_few_shot_prompt_is_an_interleaved_document() {
    let dir = scratch("few-shot-layout");
    let tokenizer = Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    let questions = read_questions(&world().join("eval/naming_4.jsonl")).expect("questions");
    let document = |(number, question): (usize, &vila_train::evaluate::Question)| {
        let names: Vec<String> =
            question.choices.iter().chain([&question.answer]).map(|name| format!("{name} ,")).collect();
        let images = question.images.iter().enumerate();
        let images: Vec<Value> = images
            .map(|(index, image)| json!({"image_name": image, "matched_text_index": index, "matched_sim": 0.3}))
            .collect();
        json!({"url": number.to_string(), "text_list": names, "image_info": images}).to_string() + "\n"
    };
    let corpus = dir.join("mmc4.jsonl");
    std::fs::write(&corpus, questions.iter().enumerate().map(document).collect::<String>()).expect("corpus");
    let spec = SourceSpec {
        format: Some("mmc4".into()),
        input: vec![corpus],
        images: Some(world().join("eval")),
        ..SourceSpec::default()
    };
    let shard = open_source(&dir, "interleaved", &spec, &tokenizer).expect("shard");
    assert_eq!(shard.len() as usize, questions.len());
    for (index, question) in (0..).zip(&questions) {
        let sample = shard.sample(index).expect("document");
        let mut ids = tokenizer.encode_prompt(&question.prompt).expect("prompt");
        assert_eq!(ids.iter().filter(|&&id| id == vila_engine::NO_ROW).count(), 5);
        ids.extend(tokenizer.encode(&format!(" {} ,", question.answer)).expect("answer"));
        ids.extend(tokenizer.eos());
        assert_eq!(sample.tokens, ids, "{}", question.prompt);
        let shown: Vec<&str> = sample.images.iter().map(|&image| shard.image_name(image).expect("name")).collect();
        let asked: Vec<String> = question.images.iter().map(|image| image.display().to_string()).collect();
        assert!(shown.iter().zip(&asked).all(|(shown, asked)| asked.ends_with(shown)), "{shown:?} for {asked:?}");
    }
}
