//! Found before the first step; numbers that are none; messages that help.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use vila_engine::CpuBackend;
use vila_model::{GenerateOptions, Vila};
use vila_train::data::shard::{Sample, ShardMeta, ShardWriter, SourceFile};
use vila_train::plan::{Assume, Document, DryDevice, Plan, PlanOptions, plan};
use vila_train::recipe::Recipe;

use crate::child::command;
use crate::training::{outcome, scratch, text, world, write_recipe};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Exit code, stdout and stderr of a command.
fn vila(arguments: &[&str]) -> (i32, String, String) {
    let output = command(arguments).output().expect("child");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), said(&output.stdout), said(&output.stderr))
}

fn train(recipe: &Path, out: &Path, arguments: &[&str]) -> (i32, String) {
    let (code, _, log) = vila(&[&["train", text(recipe), "--out", text(out)], arguments].concat());
    assert!(!log.contains("panicked"), "{log}");
    (code, log)
}

/// A shard of the world's tokenizer with these tokens and loss masks as documents.
fn shard(dir: &Path, documents: &[(&[u32], &[bool])]) {
    let tokenizer = vila_model::tokenizer::Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    let source = SourceFile { path: "mine.jsonl".into(), bytes: 1, sha256: "0".repeat(64) };
    let meta = ShardMeta {
        tokenizer: tokenizer.fingerprint(),
        tokenizer_json: None,
        sources: vec![source],
        options: serde_json::json!({}),
    };
    let mut writer = ShardWriter::create(dir, meta).expect("writer");
    for (line, (tokens, loss)) in (1..).zip(documents) {
        writer.push(&Sample { tokens, loss, images: &[], source: 0, source_line: line }).expect("push");
    }
    writer.finish().expect("finish");
}

const LEARNED: (&[u32], &[bool]) = (&[1, 5, 6], &[false, true, true]);
const SILENT: (&[u32], &[bool]) = (&[1, 5, 6], &[false; 3]);

/// A source that only the last stage reads, other settings, and what the message must say.
struct Fault {
    source: String,
    sets: &'static [&'static str],
    parts: &'static [&'static str],
    /// Whether it is found before the run's folder is made.
    by_name: bool,
}

fn faults(dir: &Path) -> Vec<Fault> {
    let write = |name: &str, content: &str| {
        std::fs::write(dir.join(name), content).expect(name);
        dir.join(name).display().to_string()
    };
    let (world, here) = (world().display().to_string(), dir.display().to_string());
    let good = "{\"text\": \"one plus one is two .\"}\n";
    let talk = |from: &str, image: &str| {
        format!("{{\"conversations\": [{{\"from\": \"{from}\", \"value\": \"one\"}}], \"image\": {image}}}\n")
    };
    let broken = write("broken.jsonl", &format!("{good}{{\"text\": \n"));
    let pictures = write("pictures.jsonl", "{\"image\": \"nobody.png\", \"caption\": \"one\"}\n");
    let unanswered = write("unanswered.jsonl", &talk("human", "null"));
    let recipe = write("not-a-folder", good);
    shard(&dir.join("beyond"), &[LEARNED, (&[1, 70_000], &[false, true])]);
    shard(&dir.join("damaged"), &[LEARNED; 9]);
    let tokens = dir.join("damaged/tokens.bin");
    let mut bytes = std::fs::read(&tokens).expect("tokens");
    bytes[40] ^= 4;
    std::fs::write(&tokens, bytes).expect("flip");
    let foreign = fixtures().join("tiny-llava-hf/tokenizer.json");
    let input = format!("{world}/text.jsonl");
    let arguments = ["data", "ingest", "--format", "text", "--input", &input, "--tokenizer", text(&foreign), "--out"];
    let (code, _, log) = vila(&[&arguments[..], &[&format!("{here}/foreign")]].concat());
    assert_eq!(code, 0, "{log}");
    let llava = format!("format = \"llava\", input = [\"{world}/sft_visual.jsonl\"]");
    let fault = |source: String, parts, by_name| Fault { source, sets: &[], parts, by_name };
    vec![
        fault(
            format!("format = \"text\", input = [\"{here}/nowhere.jsonl\"]"),
            &["nowhere.jsonl", "does not exist"],
            true,
        ),
        fault(format!("format = \"text\", input = [\"{here}\"]"), &["is a folder"], true),
        fault(
            format!("format = \"pairs\", input = [\"{world}/pairs.jsonl\"], images = \"{here}/no-images\""),
            &["no-images", "does not exist"],
            true,
        ),
        fault(
            format!("format = \"pairs\", input = [\"{world}/pairs.jsonl\"], images = \"{recipe}\""),
            &["`images`", "not-a-folder", "is a file"],
            true,
        ),
        fault(format!("{llava}, template = \"vicuna_v9\""), &["vicuna_v9", "vicuna_v1"], true),
        fault(llava, &["template"], true),
        fault(format!("format = \"csv\", input = [\"{recipe}\"]"), &["csv", "mmc4, pairs, llava, text"], true),
        fault(
            format!("format = \"mmc4\", input = [\"{world}/mmc4.jsonl\"], layout = \"images_first\""),
            &["images_first", "images-first"],
            true,
        ),
        fault(format!("shard = \"{here}/nowhere\""), &["nowhere", "vila data ingest"], true),
        fault(format!("shard = \"{here}/damaged\""), &["damaged/tokens.bin", "checksum"], false),
        fault(format!("shard = \"{here}/foreign\""), &["foreign", "tokenizer", "ingest the data again"], false),
        fault(
            format!("shard = \"{here}/beyond\""),
            &["document 1", "mine.jsonl:2", "70000", "embedding has", "rows"],
            false,
        ),
        fault(format!("format = \"text\", input = [\"{broken}\"]"), &["broken.jsonl, line 2", "on_error"], false),
        fault(
            format!("format = \"pairs\", input = [\"{pictures}\"]"),
            &["pictures.jsonl, line 1", "nobody.png", "`images` in a recipe", "--images"],
            false,
        ),
        fault(
            format!("format = \"llava\", input = [\"{unanswered}\"], template = \"vicuna_v1\""),
            &["unanswered.jsonl, line 1", "no token to learn"],
            false,
        ),
        fault(
            format!("format = \"text\", input = [\"{world}/text.jsonl\"], hold_out = 200"),
            &["200 documents", "`hold_out`"],
            false,
        ),
        Fault {
            source: format!("format = \"text\", input = [\"{world}/text.jsonl\"]"),
            sets: &["stage.pretrain.train=[\"projector\"]"],
            parts: &["`train` names projector alone", "image"],
            by_name: false,
        },
        Fault {
            source: format!("format = \"mmc4\", input = [\"{world}/mmc4.jsonl\"], max_images = 0, too_long = \"stop\""),
            sets: &["stage.pretrain.capacity=20"],
            parts: &["mmc4.jsonl:1", "positions", "too_long"],
            by_name: false,
        },
    ]
}

#[test]
fn a_fault_in_the_last_stage_is_found_before_the_first_step() {
    let dir = scratch("startup-faults");
    let recipe = write_recipe(&dir);
    let mut slowest = Duration::ZERO;
    for (number, fault) in faults(&dir).into_iter().enumerate() {
        let out = dir.join(format!("run{number}"));
        let source = format!("sources.mine={{ {} }}", fault.source);
        let mut arguments = vec!["--set", &source, "--set", "stage.pretrain.data={ mine = 1.0 }"];
        fault.sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        let start = Instant::now();
        let (code, log) = train(&recipe, &out, &arguments);
        slowest = slowest.max(start.elapsed());
        assert_eq!(code, 1, "{source}\n{log}");
        for part in fault.parts.iter().chain(&["stage pretrain", "mine"]) {
            assert!(log.contains(part), "the message should say {part:?}:\n{log}");
        }
        assert!(!log.contains("os error"), "{log}");
        assert!(!out.join("metrics.jsonl").exists() && !out.join("latest").exists(), "it trained: {source}");
        assert!(!(fault.by_name && out.exists()), "the run left a folder: {source}");
        // The same is seen without running.
        let (code, _) = train(&recipe, &out, &[&arguments[..], &["--dry-run"]].concat());
        assert_eq!(code, 1, "--dry-run accepted {source}");
    }
    // The bound is 2 seconds on an idle machine; other tests run beside this one.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn a_restart_looks_at_every_stage_before_it_discards_a_run() {
    let dir = scratch("startup-restart");
    let (recipe, out) = (write_recipe(&dir), dir.join("run"));
    let short: Vec<&str> = ["stage.text.steps=2", "stage.align.steps=2", "stage.pretrain.steps=2"]
        .iter()
        .flat_map(|set| ["--set", *set])
        .collect();
    let (code, log) = train(&recipe, &out, &short);
    assert_eq!(code, 0, "{log}");
    let before = outcome(&out);
    shard(&dir.join("beyond"), &[(&[1, 70_000], &[false, true])]);
    let set = format!("sources.interleaved={{ shard = \"{}\" }}", dir.join("beyond").display());
    let (code, log) = train(&recipe, &out, &[&short[..], &["--restart", "--set", &set]].concat());
    assert!(code == 1 && log.contains("stage pretrain") && log.contains("70000"), "{log}");
    assert!(before == outcome(&out), "--restart discarded a run for one that cannot train");

    // A recipe that differs from the run's: which keys, and the way on.
    let (code, log) = train(&recipe, &out, &[&short[..], &["--set", "stage.align.lr=0.5", "--set", "seed=3"]].concat());
    assert_eq!(code, 1, "{log}");
    for part in
        ["another recipe", "seed: 0 in the run, 3 here", "stage.align.lr: 0.001 in the run, 0.5 here", "--restart"]
    {
        assert!(log.contains(part), "the message should say {part:?}:\n{log}");
    }
    assert!(!log.contains("sources."), "keys that do not differ are listed:\n{log}");
}

#[test]
fn a_finished_stage_needs_its_data_no_more() {
    let dir = scratch("startup-gone");
    let (recipe, out) = (write_recipe(&dir), dir.join("run"));
    let own = dir.join("own.jsonl");
    std::fs::copy(world().join("text.jsonl"), &own).expect("copy");
    let source = format!("sources.own={{ format = \"text\", input = [\"{}\"] }}", own.display());
    let sets = ["--set", &source, "--set", "stage.text.data={ own = 1.0 }", "--set", "stage.text.steps=2"];
    // The second stage fails at its first step.
    let wrong = [&sets[..], &["--set", "stage.align.lr=1e38", "--set", "stage.align.clip=0"]].concat();
    let (code, log) = train(&recipe, &out, &wrong);
    assert!(code == 1 && log.contains("stage align"), "{log}");
    std::fs::remove_file(&own).expect("remove");
    let (code, log) = train(&recipe, &out, &wrong);
    assert!(code == 1 && log.contains("stage align, step"), "{log}");
}

#[test]
fn a_step_without_supervised_token_is_found_before_the_first_step() {
    let dir = scratch("startup-silent");
    let recipe = write_recipe(&dir);
    let mut documents = vec![LEARNED; 30];
    documents.insert(17, SILENT);
    shard(&dir.join("silent"), &documents);
    let source = format!("sources.mine={{ shard = \"{}\" }}", dir.join("silent").display());
    let sets = |documents: &'static str| {
        ["--set", &source, "--set", "stage.pretrain.data={ mine = 1.0 }", "--set", documents, "--dry-run"]
            .map(String::from)
    };
    let run = |documents| {
        let sets = sets(documents);
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let train_llm = ["--set", "stage.pretrain.train=[\"llm\"]", "--set", "stage.pretrain.feature_bank=false"];
        train(&recipe, &dir.join("run"), &[&sets[..], &train_llm].concat())
    };
    let (code, log) = run("stage.pretrain.documents=1");
    assert!(code == 1 && log.contains("stage pretrain, step") && log.contains("mine.jsonl:18"), "{log}");
    assert_eq!(run("stage.pretrain.documents=2").0, 0);
}

#[test]
fn validation_without_a_supervised_token_has_no_value() {
    let dir = scratch("startup-validation");
    let (recipe, out) = (write_recipe(&dir), dir.join("run"));
    shard(&dir.join("shard"), &[[LEARNED; 8], [SILENT; 8]].concat());
    let source = format!("sources.text={{ shard = \"{}\", hold_out = 8 }}", dir.join("shard").display());
    let mut sets = vec!["--set", &source, "--set", "stage.text.validate_every=1", "--set", "stage.pretrain.steps=2"];
    sets.extend(["--set", "stage.text.steps=2", "--set", "stage.align.steps=2"]);
    let (code, log) = train(&recipe, &out, &sets);
    assert_eq!(code, 0, "{log}");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json"));
    assert!(lines.take(2).all(|line| line["step"]["validation_loss"].is_null()), "{metrics}");
}

#[test]
fn missing_image_of_a_sample_prompt_is_found_before_the_first_step() {
    let dir = scratch("startup-samples");
    let (recipe, out) = (write_recipe(&dir), dir.join("run"));
    let set = "samples={ every = 100, prompts = [{ text = \"<image> one\", images = [\"nobody.png\"] }] }";
    let (code, log) = train(&recipe, &out, &["--set", set]);
    assert!(code == 1 && log.contains("[samples]") && log.contains("nobody.png") && !out.exists(), "{log}");
    let set = "samples={ every = 100, prompts = [{ text = \"<image> one\" }] }";
    let (code, log) = train(&recipe, &out, &["--set", set]);
    assert!(code == 1 && log.contains("[samples]") && log.contains("<image>"), "{log}");
}

#[test]
fn bf16_without_a_gpu_says_what_it_costs() {
    let dir = scratch("startup-bf16");
    let recipe = write_recipe(&dir);
    let run = |set: &str| train(&recipe, &dir.join("run"), &["--device", "cpu", "--dry-run", "--set", set]);
    let (code, log) = run("model.precision=bf16");
    assert!(code == 0 && log.contains("bf16") && log.contains("slow"), "{log}");
    let (code, log) = run("model.precision=f32");
    assert!(code == 0 && !log.contains("bf16"), "{log}");
}

/// Copies a folder and changes the first element of a tensor of its safetensors file, which has to be of f32.
fn spoiled(from: &Path, file: &str, tensor: &str, value: f32, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("fixture") {
        let path = entry.expect("entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("name"))).expect("copy");
    }
    let path = to.join(file);
    let mut bytes = std::fs::read(&path).expect("weights");
    let at = {
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let view = tensors.tensor(tensor).expect(tensor);
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        view.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).expect("spoil");
}

const NORM: &str = "language_model.model.layers.1.input_layernorm.weight";

#[test]
fn nan_weights_are_named_by_file_and_tensor() {
    let dir = scratch("startup-nan");
    let (fixture, model) = (fixtures().join("tiny-llava-hf"), dir.join("model"));
    spoiled(&fixture, "model.safetensors", NORM, f32::NAN, &model);
    let scores = fixture.join("score.jsonl");
    let commands: [&[&str]; 2] = [
        &["generate", "--model", text(&model), "--prompt", "one"],
        &["score", "--model", text(&model), "--input", text(&scores)],
    ];
    for arguments in commands {
        let (code, stdout, log) = vila(arguments);
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("model/model.safetensors") && log.contains(NORM) && log.contains("NaN"), "{log}");
        assert!(!stdout.contains("logprob"), "{stdout}");
    }
    // Weights that stay in their file are looked at when scores show it.
    let mapped = Vila::load_mapped(&model, Arc::new(CpuBackend::fast())).map(|vila| {
        let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
        vila_model::generate(&vila, "one", &[], &options).expect_err("NaN").to_string()
    });
    let said = mapped.unwrap_or_else(|error| error.to_string());
    assert!(said.contains("model/model.safetensors") && said.contains(NORM), "{said}");
    let matrix = "language_model.model.layers.0.mlp.up_proj.weight";
    let model = dir.join("matrix");
    spoiled(&fixture, "model.safetensors", matrix, f32::NEG_INFINITY, &model);
    let mapped = Vila::load_mapped(&model, Arc::new(CpuBackend::fast())).expect("mapped matrices are not read");
    let said = vila_model::score(&mapped, "one", " two", &[]).expect_err("infinite").to_string();
    assert!(said.contains("matrix/model.safetensors") && said.contains(matrix) && said.contains("-inf"), "{said}");

    let adapter = dir.join("adapter");
    let plain = fixtures().join("adapters/plain");
    let bytes = std::fs::read(plain.join("adapter_model.safetensors")).expect("adapter");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let names = tensors.names();
    let name = names.iter().find(|name| name.contains("lora_B")).expect("an adapter");
    spoiled(&plain, "adapter_model.safetensors", name, f32::NAN, &adapter);
    let base = fixtures().join("layouts/llava-hf");
    let arguments = ["generate", "--model", text(&base), "--adapter", text(&adapter), "--prompt", "one"];
    let (code, _, log) = vila(&arguments);
    assert!(code == 1 && log.contains(*name) && log.contains("adapter_model.safetensors"), "{log}");
}

#[test]
fn numbers_that_overflow_are_named_by_layer() {
    let dir = scratch("startup-overflow");
    let model = dir.join("model");
    spoiled(&fixtures().join("tiny-llava-hf"), "model.safetensors", "language_model.lm_head.weight", 3.4e38, &model);
    let mut said = Vec::new();
    for prompt in ["one", "two", "one plus one is", "digit"] {
        let (code, _, log) = vila(&["generate", "--model", text(&model), "--prompt", prompt, "--max-new-tokens", "3"]);
        said.push(format!("{code} {log}"));
    }
    assert!(said.iter().any(|log| log.starts_with('1') && log.contains("the scores of token")), "{said:?}");

    let layer = dir.join("layer");
    spoiled(&fixtures().join("tiny-llava-hf"), "model.safetensors", NORM, 3.4e38, &layer);
    let (code, _, log) = vila(&["generate", "--model", text(&layer), "--prompt", "one", "--max-new-tokens", "3"]);
    assert!(code == 1 && log.contains("the output of layer 2 of 3") && log.contains("every weight is finite"), "{log}");
}

/// Commands that are given a file that is not there, or a folder in its place.
#[test]
fn missing_files_are_said_in_words() {
    let dir = scratch("startup-missing");
    let (gone, folder, out) = (dir.join("gone"), dir.join("folder"), dir.join("out"));
    let made = |name: &str| dir.join(name).display().to_string();
    let (converted, ingested) = (made("converted"), made("ingested"));
    std::fs::create_dir_all(&folder).expect("folder");
    let model = fixtures().join("tiny-llava-hf");
    let (model, tokenizer) = (text(&model).to_string(), text(&model.join("tokenizer.json")).to_string());
    let recipe = write_recipe(&dir);
    let mut failed = Vec::new();
    for path in [text(&gone), text(&folder)] {
        let tokenizer_set = format!("model.tokenizer={path}");
        let commands: Vec<Vec<&str>> = vec![
            vec!["train", path],
            vec!["train", text(&recipe), "--out", text(&out), "--set", &tokenizer_set],
            vec!["plan", path],
            vec!["report", path],
            vec!["generate", "--model", path, "--prompt", "x"],
            vec!["generate", "--model", &model, "--input", path],
            vec!["generate", "--model", &model, "--prompt", "x", "--image", path],
            vec!["generate", "--model", &model, "--prompt", "x", "--adapter", path],
            vec!["score", "--model", &model, "--input", path],
            vec!["inspect", path],
            vec!["convert", "--from", path, "--to", &converted, "--layout", "vila"],
            vec!["data", "info", path],
            vec!["data", "verify", path],
            vec!["data", "ingest", "--format", "text", "--input", path, "--tokenizer", &tokenizer, "--out", &ingested],
            vec![
                "data",
                "ingest",
                "--format",
                "text",
                "--input",
                text(&recipe),
                "--tokenizer",
                path,
                "--out",
                &ingested,
            ],
        ];
        for arguments in commands {
            let (code, _, log) = vila(&arguments);
            let named = log.contains(path) || code == 2;
            if !(code == 1 || code == 2) || log.contains("os error") || !named || log.contains("panicked") {
                failed.push(format!("{arguments:?} ended with {code}:\n{log}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn planned(recipe: &Path, memory: u64, capacity: Option<usize>) -> Plan {
    let sets = capacity.map(|n| ["align", "pretrain", "text"].map(|stage| format!("stage.{stage}.capacity={n}")));
    let recipe = Recipe::read(recipe, &sets.map_or(Vec::new(), Vec::from)).expect("recipe");
    let assume = Assume::Document(Document { images: 2.0, text: 100.0 });
    let options = PlanOptions { device: DryDevice::Cpu, memory: Some(memory), ranks: 64, assume, vocab: 1000 };
    plan(&recipe, Path::new("recipe.toml"), &options).expect("plan")
}

#[test]
fn the_largest_capacity_fits_the_start_of_its_stage_too() {
    let dir = scratch("startup-plan");
    let recipe = write_recipe(&dir);
    let start = planned(&recipe, 1 << 40, Some(128)).stages.iter().map(|stage| stage.start).max().expect("stages");
    let mut some = 0;
    for memory in [start - 1, start, start + start / 4, 2 * start, 16 * start] {
        let plan = planned(&recipe, memory, Some(128));
        for (index, stage) in plan.stages.iter().enumerate() {
            for (policy, found) in stage.policies.iter().enumerate() {
                let Some(largest) = found.largest_capacity else { continue };
                let again = &planned(&recipe, memory, Some(largest)).stages[index].policies[policy];
                assert_eq!(again.fits, Some(true), "{} under {} in {memory} bytes", stage.stage.name, found.name);
                some += 1;
            }
            assert!(stage.start <= memory || stage.policies.iter().all(|policy| policy.largest_capacity.is_none()));
        }
    }
    assert!(some > 5, "only {some} capacities were found");
}
