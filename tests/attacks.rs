//! Checkpoint directories that lie: each an error that names what is wrong, before anything of the claimed size is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_engine::philox::Stream;
use vila_model::Vila;
use vila_train::data::IngestTokenizer;
use vila_train::data::ingest::{Format, FormatOptions, IngestOptions, OnError, ingest};
use vila_train::evaluation::metrics::{METRICS, MetricFiles};

use crate::hostile_json::mutate;
use crate::training::{scratch, world};

/// A copy of the small fixture with an edited `config.json`.
fn edited(name: &str, edit: impl Fn(&mut Value)) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attack-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    for file in ["model.safetensors", "tokenizer.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), dir.join(file)).expect("copy");
    }
    let text = std::fs::read_to_string(source.join("config.json")).expect("config");
    let mut config: Value = serde_json::from_str(&text).expect("json");
    edit(&mut config);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("config");
    dir
}

fn message(dir: &Path) -> String {
    match Vila::load(dir, Arc::new(CpuBackend::fast())) {
        Ok(_) => panic!("{} loaded", dir.display()),
        Err(error) => error.to_string(),
    }
}

/// A name, what is changed, and what the message must say.
type Attack = (&'static str, fn(&mut Value), &'static [&'static str]);

#[test]
fn configurations_that_lie_are_refused() {
    let cases: [Attack; 9] = [
        ("layers", |c| c["text_config"]["num_hidden_layers"] = json!(4_000_000_000u64), &["num_hidden_layers"]),
        ("vocabulary", |c| c["text_config"]["vocab_size"] = json!(16_000_000), &["embed_tokens", "512"]),
        ("zero", |c| c["text_config"]["hidden_size"] = json!(0), &["hidden_size", "positive"]),
        ("negative", |c| c["vision_config"]["image_size"] = json!(-3), &["vision_config.image_size"]),
        ("heads", |c| c["text_config"]["num_key_value_heads"] = json!(3), &["num_key_value_heads"]),
        ("family", |c| c["text_config"]["model_type"] = json!("qwen2"), &["model_type", "qwen2"]),
        ("fewer-layers", |c| c["text_config"]["num_hidden_layers"] = json!(2), &["not in the model", "layers.2"]),
        ("rope", |c| c["text_config"]["rope_parameters"]["rope_type"] = json!("yarn"), &["rope_type", "yarn"]),
        ("state", |c| c["vision_feature_layer"] = json!(-9), &["-9"]),
    ];
    for (name, edit, parts) in cases {
        let said = message(&edited(name, edit));
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} is missing in: {said}");
        }
    }
}

#[test]
fn weight_files_that_lie_are_refused() {
    let source = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf/model.safetensors"));
    let whole = source.expect("weights");
    let dir = edited("weights", |_| {});
    let path = dir.join("model.safetensors");
    let mut longer_header = whole.clone();
    longer_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (what, bytes) in [("cut", whole[..whole.len() / 2].to_vec()), ("header", longer_header), ("empty", Vec::new())]
    {
        std::fs::write(&path, bytes).expect("write");
        let said = message(&dir);
        assert!(said.contains("model.safetensors"), "{what}: {said}");
    }
    std::fs::remove_file(&path).expect("remove");
    assert!(message(&dir).contains("model.safetensors"));
}

/// Seconds of a campaign, as in `model/tests/common/fuzz.rs`.
fn seconds() -> Duration {
    let asked = std::env::var("VILA_FUZZ_SECONDS").ok();
    Duration::from_secs(asked.map_or(3, |seconds| seconds.parse().expect("VILA_FUZZ_SECONDS")))
}

/// A JSON file, or JSON lines, with one hostile value or another; sometimes with damaged bytes.
fn hostile(whole: &[u8], random: &mut Stream) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let text = std::str::from_utf8(whole).unwrap_or_default();
    if let Ok(mut value) = serde_json::from_slice::<Value>(whole) {
        mutate(&mut value, &mut |limit| random.below(limit));
        bytes = value.to_string().into_bytes();
    } else if let Some(Ok(mut value)) = text.lines().next().map(serde_json::from_str::<Value>) {
        mutate(&mut value, &mut |limit| random.below(limit));
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        bytes = format!("{value}\n{rest}").into_bytes();
    }
    if random.below(3) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = [0, b'"', b'{', b'\t', b',', 0x80, 0xff][random.below(7)],
            _ => bytes.splice(at..at, [b'"', b'[', b'9'].repeat(1 + random.below(50))).for_each(drop),
        }
    }
    bytes
}

/// Predictions and references that are no such thing: a report or a message, soon.
#[test]
fn mutated_evaluation_files_do_no_harm() {
    let cases = [
        ("okvqa", "vqa", "okvqa_results.json", "mscoco_val2014_annotations.json"),
        ("gqa", "gqa", "testdev_balanced_predictions.json", "testdev_balanced_questions.json"),
        ("textvqa", "vqa-evalai", "answers_submission.jsonl", "TextVQA_0.5.1_val.json"),
        ("seed", "seed", "seed_submission.jsonl", "SEED-Bench.json"),
        ("coco-captions", "cider", "captions_results.json", "data.json"),
    ];
    let (dir, start) = (scratch("fuzz-evaluation"), Instant::now());
    let files = |(task, metric, predictions, references): (&str, &str, &str, &str)| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/benchmarks").join(task);
        let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|_| panic!("{}", path.display()));
        let metric = METRICS.iter().find(|known| known.name == metric).expect("metric");
        let whole = [read(folder.join("expected").join(predictions)), read(folder.join("data").join(references))];
        (metric, whole, [dir.join(predictions), dir.join(references)])
    };
    let cases = cases.map(files);
    let (mut mutants, mut accepted) = (0u64, 0u64);
    while start.elapsed() < seconds() {
        let seed = mutants ^ (u64::from(std::process::id()) << 32);
        let mut random = Stream::new(seed, 0);
        let (metric, whole, paths) = &cases[random.below(cases.len())];
        let hostile_one = random.below(2);
        for (index, (path, whole)) in paths.iter().zip(whole).enumerate() {
            let bytes = if index == hostile_one { hostile(whole, &mut random) } else { whole.clone() };
            std::fs::write(path, bytes).expect("write");
        }
        let [predictions, references] = paths.clone();
        let files = MetricFiles { predictions, references, questions: None, tokenized: false };
        let began = Instant::now();
        let done = std::panic::catch_unwind(|| metric.compute(&files));
        let done = done.unwrap_or_else(|_| panic!("{}: seed {seed}; the files are in {}", metric.name, dir.display()));
        assert!(began.elapsed() < Duration::from_secs(60), "{}: seed {seed}", metric.name);
        accepted += u64::from(done.is_ok());
        mutants += 1;
    }
    assert!(accepted > 0 && accepted < mutants, "{accepted} of {mutants} were accepted");
}

#[test]
fn two_hundred_hostile_records_end_with_a_message() {
    let dir = scratch("hostile-records");
    let tokenizer = IngestTokenizer::from_file(world().join("tokenizer.json")).expect("tokenizer");
    let sources = [("text", "text.jsonl"), ("pairs", "pairs.jsonl"), ("mmc4", "mmc4.jsonl")];
    for seed in 0..200u64 {
        let (format, file) = sources[seed as usize % sources.len()];
        let lines = std::fs::read_to_string(world().join(file)).expect("corpus");
        let few: String = lines.lines().take(3).map(|line| format!("{line}\n")).collect();
        let (input, out) = (dir.join(format!("{seed}.jsonl")), dir.join(format!("{seed}")));
        std::fs::write(&input, hostile(few.as_bytes(), &mut Stream::new(seed, 1))).expect("write");
        let format = Format::parse(format, &FormatOptions::default()).expect("format");
        for on_error in [OnError::Stop, OnError::Skip] {
            let options = IngestOptions {
                image_root: Some(world().to_path_buf()),
                on_error,
                ..IngestOptions::new(format.clone(), vec![input.clone()], out.clone())
            };
            let began = Instant::now();
            let done = ingest(&options, &tokenizer);
            assert!(began.elapsed() < Duration::from_secs(60), "{seed}");
            match done {
                Ok(_) => std::fs::remove_dir_all(&out).expect("shard"),
                Err(error) => assert!(error.to_string().contains(&format!("{seed}.jsonl")), "{seed}: {error}"),
            }
        }
    }
}
