//! Draws of prompts, the template that a checkpoint was trained with, progress lines, messages about paths.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::VilaConfig;
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};

use crate::child::command;
use crate::training::{scratch, text, world};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Exit code, stdout without the harness's own lines, stderr.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("start");
    let _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("output");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = stdout.split_once("running 1 test\n").map_or(stdout.as_str(), |(_, own)| own).to_string();
    (output.status.code().unwrap_or(-1), own, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn generated(arguments: &[&str]) -> Vec<Value> {
    let model = fixture("layouts/vila").display().to_string();
    let common = ["generate", "--model", &model, "--device", "cpu", "--max-new-tokens", "8", "--temperature", "2"];
    let (code, stdout, stderr) = run(&[&common, arguments].concat(), "");
    assert_eq!(code, 0, "{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

#[test]
fn prompts_of_one_file_draw_independently() {
    let dir = scratch("draws");
    let input = dir.join("prompts.jsonl");
    std::fs::write(&input, "{\"prompt\": \"the same\"}\n".repeat(5)).expect("write");
    let input = text(&input);
    let ids = |lines: &[Value]| lines.iter().map(|line| line["new_ids"].clone()).collect::<Vec<_>>();
    let alone = ids(&generated(&["--input", input, "--batch", "1"]));
    for (index, one) in alone.iter().enumerate() {
        assert!(!alone[..index].contains(one), "line {} draws as one before", index + 1);
    }
    assert_eq!(ids(&generated(&["--input", input, "--batch", "4"])), alone);
    assert_eq!(ids(&generated(&["--prompt", "the same", "--json"])), alone[..1]);
    assert_ne!(ids(&generated(&["--input", input, "--seed", "1"])), alone);
}

#[test]
fn a_prompt_has_as_many_samples_as_asked() {
    let dir = scratch("samples");
    let input = dir.join("prompts.jsonl");
    std::fs::write(&input, "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n").expect("write");
    let made = generated(&["--input", text(&input), "--samples", "3", "--batch", "4"]);
    let told: Vec<_> = made.iter().map(|line| (line["prompt"].clone(), line["sample"].clone())).collect();
    let wanted: Vec<_> = ["one", "two"].into_iter().flat_map(|p| [0, 1, 2].map(|s| (json!(p), json!(s)))).collect();
    assert_eq!(told, wanted);
    // The first sample is what there is without the option; the others are their own.
    let first = generated(&["--input", text(&input)]);
    assert_eq!([&made[0], &made[3]], [&first[0], &first[1]]);
    assert!(made[0]["new_ids"] != made[1]["new_ids"] && made[1]["new_ids"] != made[2]["new_ids"]);
    let same = ["generate", "--model", text(&dir), "--prompt", "x", "--samples", "2"];
    let (code, _, stderr) = run(&same, "");
    assert!(code == 2 && stderr.contains("--temperature"), "{stderr}");
}

/// The model of the fixtures, as if it had been trained with that template.
fn trained_with(name: &str, template: &Value) -> PathBuf {
    let dir = scratch(name).join("model");
    let (from, to) = (fixture("layouts/vila").display().to_string(), dir.display().to_string());
    let (code, _, stderr) = run(&["convert", "--from", &from, "--to", &to, "--layout", "vila"], "");
    assert_eq!(code, 0, "{stderr}");
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("config")).expect("json");
    config["vila_template"] = template.clone();
    std::fs::write(&path, config.to_string()).expect("write");
    dir
}

#[test]
fn chat_takes_the_template_that_the_checkpoint_was_trained_with() {
    let own = json!({"name": "vicuna_v1_nosys", "system": "be brief"});
    let model = trained_with("chat-template", &own);
    let history = |model: &Path, arguments: &[&str]| {
        let common = ["chat", "--model", text(model), "--device", "cpu", "--max-new-tokens", "4"];
        let (code, stdout, stderr) = run(&[&common, arguments].concat(), "hello\n/history\n");
        assert_eq!(code, 0, "{stderr}");
        (stdout, stderr)
    };
    let (stdout, stderr) = history(&model, &[]);
    assert!(stdout.contains("be brief USER: hello ASSISTANT:"), "{stdout}");
    assert!(stderr.contains("template: vicuna_v1_nosys"), "{stderr}");
    let (stdout, _) = history(&model, &["--template", "llama_2", "--system", ""]);
    assert!(stdout.contains("[INST] hello [/INST]"), "{stdout}");
    let (stdout, _) = history(&model, &["--system", "be kind"]);
    assert!(stdout.contains("be kind USER: hello ASSISTANT:"), "{stdout}");
    let (stdout, _) = history(&fixture("layouts/vila"), &[]);
    assert!(stdout.contains("A chat between a curious user"), "{stdout}");
    // Every layout has room for it.
    let template = VilaConfig::read(&model).expect("config").0.template;
    assert!(template.is_some());
    for layout in ["llava", "llava-hf"] {
        let to = model.with_file_name(layout);
        let (code, _, stderr) = run(&["convert", "--from", text(&model), "--to", text(&to), "--layout", layout], "");
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(VilaConfig::read(&to).expect("config").0.template, template, "{layout}");
        let back = model.with_file_name(format!("{layout}-back"));
        let (code, _, stderr) = run(&["convert", "--from", text(&to), "--to", text(&back), "--layout", "vila"], "");
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(VilaConfig::read(&back).expect("config").0.template, template, "{layout} and back");
    }
}

#[test]
fn eval_takes_the_template_that_the_checkpoint_was_trained_with() {
    let model = trained_with("eval-template", &json!({"name": "llama_2", "system": ""}));
    let data = fixture("benchmarks/pope/data");
    let prompts = |name: &str, arguments: &[&str]| {
        let out = model.with_file_name(name);
        let common = ["eval", "--task", "pope", "--device", "cpu", "--model", text(&model), "--data", text(&data)];
        let (code, _, stderr) = run(&[&common[..], &["--out", text(&out)], arguments].concat(), "");
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("pope 10/10") && !stderr.contains("score"), "a score of its own: {stderr}");
        std::fs::read_to_string(out.join("answers.jsonl")).expect("answers")
    };
    assert!(prompts("own", &[]).contains("[INST] <image>"));
    assert!(prompts("other", &["--template", "vicuna_v1"]).contains("A chat between a curious user"));
    let out = model.with_file_name("typo");
    let arguments = [
        "eval",
        "--task",
        "pope",
        "--model",
        text(&model),
        "--data",
        text(&data),
        "--out",
        text(&out),
        "--template",
        "x",
    ];
    let (code, _, stderr) = run(&arguments, "");
    assert!(code == 2 && stderr.contains("template `x` is unknown") && !out.exists(), "{stderr}");
}

#[test]
fn a_checkpoint_names_the_template_of_its_data() {
    let (dir, world) = (scratch("trained-template"), world().display());
    let chat = |name: &str, template: &str| {
        format!("[sources.{name}]\nformat = \"llava\"\ninput = [\"{world}/sft_visual.json\"]\n{template}\n")
    };
    let stage = |name: &str, train: &str, data: &str| {
        format!(
            "[[stage]]\nname = \"{name}\"\ntrain = [\"{train}\"]\ndata = {data}\nsteps = 1\ndocuments = 2\n\
             capacity = 256\nlr = 1e-4\n"
        )
    };
    let recipe = format!(
        "out = \"run\"\n[model]\ntokenizer = \"{world}/tokenizer.json\"\nprojector = \"linear\"\n\
         llm = {{ hidden_size = 32, intermediate_size = 48, layers = 1, heads = 2, max_positions = 256 }}\n\
         vision = {{ family = \"clip\", hidden_size = 16, intermediate_size = 32, layers = 2, heads = 2, image_size = 16, \
         patch_size = 4 }}\n\
         {}{}[sources.pairs]\nformat = \"pairs\"\ninput = [\"{world}/pairs.jsonl\"]\n{}{}",
        chat("few", "template = \"vicuna_v1\""),
        chat("many", "template = \"vicuna_v1_nosys\"\nsystem = \"be brief\""),
        stage("sft", "llm", "{ few = 0.2, many = 0.8 }"),
        stage("captions", "projector", "{ pairs = 1.0 }"),
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, recipe).expect("recipe");
    let recipe = Recipe::read(&path, &[]).expect("recipe");
    train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");
    // A stage without conversations leaves it as it was.
    let template = VilaConfig::read(&dir.join("run/latest")).expect("config").0.template.expect("template");
    assert_eq!((template.name().as_str(), template.own_system()), ("vicuna_v1_nosys", Some("be brief")));
}

#[test]
fn missing_files_and_folders_in_place_of_files_have_a_cure() {
    let (dir, model) = (scratch("paths"), fixture("layouts/vila").display().to_string());
    let (file, gone) = (dir.join("file"), dir.join("gone").display().to_string());
    std::fs::write(&file, "{}").expect("write");
    let (dir, file) = (text(&dir), text(&file));
    let pope = fixture("benchmarks/pope/data").display().to_string();
    let eval =
        |data, out| ["eval", "--model", &model, "--task", "pope", "--data", data, "--out", out, "--device", "cpu"];
    let cases: &[(&[&str], &str)] = &[
        (&["generate", "--model", &gone, "--prompt", "x", "--device", "cpu"], "does not exist; check the path"),
        (&["generate", "--model", file, "--prompt", "x", "--device", "cpu"], "is a file, not a folder"),
        (&["generate", "--model", &model, "--input", &gone, "--device", "cpu"], "does not exist; check the path"),
        (&["generate", "--model", &model, "--input", dir, "--device", "cpu"], "is a folder, not a file"),
        (&["chat", "--model", &gone, "--device", "cpu"], "does not exist; check the path"),
        (&eval(&gone, &gone), "does not exist; check the path"),
        (&eval(&pope, file), "choose another path"),
    ];
    for (arguments, cure) in cases {
        let (code, _, stderr) = run(arguments, "");
        assert_eq!(code, 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains(cure) && !stderr.contains("os error"), "{arguments:?}: {stderr}");
    }
    assert!(!Path::new(&gone).exists(), "a command that fails at once leaves no folder");
}

#[test]
fn options_that_change_nothing_and_files_without_prompts_are_named() {
    let (dir, model) = (scratch("nothing"), fixture("layouts/vila").display().to_string());
    let common = ["generate", "--model", &model, "--device", "cpu", "--max-new-tokens", "1"];
    let (code, _, stderr) = run(&[&common[..], &["--prompt", "x", "--top-p", "0.5"]].concat(), "");
    assert!(code == 0 && stderr.contains("change nothing without --temperature"), "{stderr}");
    let empty = dir.join("empty.jsonl");
    std::fs::write(&empty, "\n\n").expect("write");
    let (code, _, stderr) = run(&[&common[..], &["--input", text(&empty)]].concat(), "");
    assert!(code == 1 && stderr.contains("there is no prompt in it"), "{stderr}");
}
