//! Runs of small recipes: packing, resuming after signals and kills, and input that cannot be trained on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vila_autograd::{ParamStore, Tape};
use vila_engine::philox::Stream;
use vila_engine::{CpuBackend, DType, NO_ROW};
use vila_model::image::GeometryMode;
use vila_model::{Document, Images, PackedBatch, Vila, VilaConfig, VilaModel, score};
use vila_train::data::shard::{Sample, ShardMeta, ShardReader, ShardWriter};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};
use vila_train::toy::{CorpusOptions, Digits, train_tokenizer, write_corpus};

use crate::child::command;

pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("scratch directory");
    dir
}

/// Small corpora, written once.
pub fn world() -> &'static Path {
    static WORLD: OnceLock<PathBuf> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = scratch("world");
        let sizes = CorpusOptions {
            seed: 1,
            views: 1,
            text_games: 100,
            text: 200,
            pairs: 300,
            mmc4: 120,
            sft_visual: 60,
            sft_text: 60,
        };
        let report = write_corpus(&Digits::embedded().expect("digits"), &sizes, &dir).expect("corpus");
        train_tokenizer(&report.text_files, dir.join("tokenizer.json")).expect("tokenizer");
        dir
    })
}

/// Every kind of stage in a few seconds.
pub fn recipe_text() -> String {
    let world = world().display();
    format!(
        r#"
        out = "run"
        [model]
        tokenizer = "{world}/tokenizer.json"
        projector = "mlp_downsample"
        llm = {{ hidden_size = 32, intermediate_size = 48, layers = 2, heads = 2, kv_heads = 1, max_positions = 256 }}
        vision = {{ family = "clip", hidden_size = 16, intermediate_size = 32, layers = 2, heads = 2, image_size = 16, patch_size = 4 }}
        [sources.text]
        format = "text"
        input = ["{world}/text.jsonl"]
        hold_out = 10
        [sources.pairs]
        format = "pairs"
        input = ["{world}/pairs.jsonl"]
        [sources.interleaved]
        format = "mmc4"
        input = ["{world}/mmc4.jsonl"]
        max_images = 0
        [[stage]]
        name = "text"
        train = ["llm"]
        data = {{ text = 1.0 }}
        steps = 40
        documents = 6
        capacity = 256
        lr = 1e-3
        validate_every = 20
        [[stage]]
        name = "align"
        train = ["vision", "projector"]
        data = {{ pairs = 1.0 }}
        steps = 40
        documents = 8
        capacity = 128
        lr = 1e-3
        weight_decay = 0.1
        [[stage]]
        name = "pretrain"
        train = ["projector", "llm"]
        data = {{ interleaved = 0.7, pairs = 0.2, text = 0.1 }}
        steps = 40
        documents = 5
        capacity = 200
        lr = 1e-3
        projector_lr = 2e-3
        feature_bank = true
        [checkpoint]
        every = 7
        "#
    )
}

pub fn write_recipe(dir: &Path) -> PathBuf {
    let path = dir.join("recipe.toml");
    std::fs::write(&path, recipe_text()).expect("recipe");
    path
}

/// Exit code and stderr of a whole run.
fn vila(arguments: &[&str]) -> (i32, String) {
    let output = command(arguments).output().expect("child");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8 path")
}

/// Weights and moments of the newest checkpoint and the deterministic part of the metrics.
pub fn outcome(run: &Path) -> Vec<(String, Vec<u8>)> {
    let latest = run.join("latest");
    let files = [
        "llm/model.safetensors",
        "vision_tower/model.safetensors",
        "mm_projector/model.safetensors",
        "trainer/moments.safetensors",
    ];
    let mut all: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|file| (file.to_string(), std::fs::read(latest.join(file)).expect("checkpoint file")))
        .collect();
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let steps = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["step"].to_string() + "\n");
    all.push(("metrics".into(), steps.collect::<String>().into_bytes()));
    all
}

pub fn interrupt(child: &mut Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(status.success() || child.try_wait().expect("wait").is_some());
}

#[test]
fn a_stopped_or_killed_run_continues_bit_for_bit() {
    let dir = scratch("resume");
    let recipe = write_recipe(&dir);
    let run = |out: &Path| vila(&["train", text(&recipe), "--out", text(out)]);
    let (code, log) = run(&dir.join("whole"));
    assert_eq!(code, 0, "{log}");
    let wanted = outcome(&dir.join("whole"));
    let mut random = Stream::new(11, 0);
    for (signal, code) in [("-TERM", Some(143)), ("-KILL", None)] {
        let mut interrupted = 0;
        for attempt in 0..5 {
            let out = dir.join(format!("run{signal}{attempt}"));
            let mut child = command(&["train", text(&recipe), "--out", text(&out)]).spawn().expect("child");
            wait_for_steps(&out, 1 + random.below(100), &mut child);
            interrupt(&mut child, signal);
            let ended = child.wait_with_output().expect("child").status.code();
            interrupted += usize::from(ended != Some(0));
            assert!(ended == code || ended == Some(0), "signal {signal} ended the run with {ended:?}");
            let (code, log) = run(&out);
            assert_eq!(code, 0, "{log}");
            for ((name, want), (_, got)) in wanted.iter().zip(outcome(&out)) {
                assert!(*want == got, "{name} differs after {signal} (attempt {attempt})");
            }
            std::fs::remove_dir_all(&out).expect("remove");
        }
        assert!(interrupted >= 4, "only {interrupted} of 5 runs were still under way when {signal} came");
    }
}

/// Waits until a run has logged that many steps, or ended.
pub fn wait_for_steps(out: &Path, steps: usize, child: &mut Child) {
    let logged = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while logged() < steps && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A model with every part, random weights.
fn model() -> (vila_model::VilaConfig, Recipe) {
    let recipe = Recipe::parse(&recipe_text(), Path::new("recipe.toml"), Path::new("."), &[]).expect("recipe");
    let tokenizer = vila_model::tokenizer::Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    let ids =
        vila_train::recipe::TokenIds { bos: tokenizer.bos(), eos: tokenizer.eos(), image: tokenizer.image_token() };
    let (config, _) = recipe.random_model(Path::new("recipe.toml"), tokenizer.vocab_size(), ids).expect("config");
    (config, recipe)
}

fn random_documents(random: &mut Stream, vocab: usize) -> Vec<Document> {
    (0..7)
        .map(|_| {
            let mut document = Document { tokens: vec![1], supervised: vec![false] };
            for _ in 0..1 + random.below(40) {
                let image = random.below(8) == 0;
                document.tokens.push(if image { NO_ROW } else { random.below(vocab) as u32 });
                document.supervised.push(!image && random.below(3) > 0);
            }
            document
        })
        .collect()
}

#[test]
fn a_packed_step_equals_its_documents_one_by_one() {
    let (config, _) = model();
    let cpu = CpuBackend::fast();
    let store = ParamStore::new(&cpu, VilaModel::specs(&config), DType::F32, 5, |_| true).expect("store");
    let model = VilaModel::new(&cpu, &config, &store).expect("model");
    let mut random = Stream::new(3, 3);
    let documents = random_documents(&mut random, config.llm.vocab_size);
    let width = 3 * config.vision.image_size.pow(2);
    let pixels: Vec<Vec<f32>> = documents
        .iter()
        .map(|document| (0..document.images() * width).map(|_| random.normal() as f32).collect())
        .collect();
    let images = |pixels: Vec<f32>| if pixels.is_empty() { Images::None } else { Images::Pixels(pixels) };
    let pack = |documents: &[Document], pixels: Vec<f32>, align| {
        PackedBatch::new(documents, images(pixels), config.tokens_per_image(), align).expect("batch")
    };
    let supervised: usize = documents.iter().flat_map(|document| &document.supervised).filter(|s| **s).count();
    let run = |batches: Vec<PackedBatch>| {
        store.zero_grads(&cpu).expect("zero");
        let mut total = 0.0;
        for batch in &batches {
            let mut tape = Tape::new(&cpu, &store);
            if let Some(loss) = model.loss(&mut tape, batch, 1.0 / supervised as f64).expect("loss") {
                tape.backward_loss(&loss).expect("backward");
                total += f64::from(loss.tensor().to_f32().expect("loss")[0]);
            }
        }
        (total, store.flat_grads().to_f64().expect("grads"))
    };
    let (loss, grads) =
        run(documents.iter().zip(&pixels).map(|(d, p)| pack(std::slice::from_ref(d), p.clone(), 1)).collect());
    for align in [1, 128] {
        let (packed_loss, packed) = run(vec![pack(&documents, pixels.concat(), align)]);
        assert!((packed_loss - loss).abs() <= 1e-5 * loss, "{packed_loss} packed, {loss} alone");
        let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
        let difference = grads.iter().zip(&packed).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!(difference <= 1e-5 * norm, "gradients differ by {:e}", difference / norm);
    }

    // Changing one token of the fourth document changes no bit of another's logits.
    let logits = |documents: &[Document]| {
        let batch = pack(documents, pixels.concat(), 1);
        let mut tape = Tape::inference(&cpu, &store);
        let hidden = model.hidden(&mut tape, &batch).expect("hidden");
        (batch.cu_seqlens, model.logits(&mut tape, &hidden).expect("logits").to_f32().expect("logits"))
    };
    let mut changed = documents.clone();
    let place = changed[3].tokens.iter().rposition(|&token| token != NO_ROW).expect("text");
    changed[3].tokens[place] = (changed[3].tokens[place] + 1) % config.llm.vocab_size as u32;
    let ((bounds, before), (_, after)) = (logits(&documents), logits(&changed));
    let vocab = config.llm.vocab_size;
    for document in 0..documents.len() {
        let range = bounds[document] as usize * vocab..bounds[document + 1] as usize * vocab;
        assert_eq!(before[range.clone()] == after[range], document != 3, "document {document}");
    }
}

#[test]
fn a_run_learns_and_freezes_what_it_should() {
    let dir = scratch("learns");
    let mut recipe = Recipe::read(
        &write_recipe(&dir),
        &["stage.text.steps=150".into(), "stage.text.lr=5e-3".into(), "seed=4".into()],
    )
    .expect("recipe");
    recipe.out = dir.join("run");
    let report =
        train(&recipe, Path::new("recipe.toml"), Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");
    let text = &report.stages[0];
    assert!(text.last_loss < 0.7 * text.first_loss, "{} -> {}", text.first_loss, text.last_loss);
    let bytes = |stage: &str, part: &str| {
        std::fs::read(recipe.out.join("checkpoints").join(stage).join(part).join("model.safetensors")).expect("weights")
    };
    assert_ne!(bytes("text", "vision_tower"), bytes("align", "vision_tower"));
    assert_eq!(bytes("text", "llm"), bytes("align", "llm"));
    assert_ne!(bytes("text", "mm_projector"), bytes("align", "mm_projector"));
    assert_eq!(bytes("align", "vision_tower"), bytes("pretrain", "vision_tower"));
    assert_ne!(bytes("align", "llm"), bytes("pretrain", "llm"));
    // The checkpoint is a model: it loads, and its config says what was trained.
    let vila = Vila::load(&report.checkpoint, Arc::new(CpuBackend::fast())).expect("load");
    assert_eq!(vila.config, VilaConfig { aspect: Some(GeometryMode::Square), ..model().0 });
    // The same recipe again has nothing left to do and changes nothing.
    let before = outcome(&recipe.out);
    train(&recipe, Path::new("recipe.toml"), Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("again");
    assert!(before == outcome(&recipe.out));
}

#[test]
fn recompute_policies_train_to_the_same_bits() {
    let dir = scratch("recompute");
    let mut all = Vec::new();
    for policy in ["none", "cheap", "block"] {
        let sets = ["text", "align", "pretrain"].map(|stage| format!("stage.{stage}.steps=6"));
        let sets: Vec<String> = sets.into_iter().chain([format!("model.recompute={policy}")]).collect();
        let mut recipe = Recipe::read(&write_recipe(&dir), &sets).expect("recipe");
        recipe.out = dir.join(policy);
        train(&recipe, Path::new("recipe.toml"), Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");
        all.push(outcome(&recipe.out));
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
}

/// Runs the recipe with overrides; it must fail with exit code 1 and say all of `parts`.
fn fails(name: &str, sets: &[&str], parts: &[&str]) {
    let dir = scratch(name);
    let recipe = write_recipe(&dir);
    expect_failure(&recipe, sets, parts);
}

fn expect_failure(recipe: &Path, sets: &[&str], parts: &[&str]) {
    let mut arguments = vec!["train", text(recipe)];
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    let (code, log) = vila(&arguments);
    assert_eq!(code, 1, "{log}");
    for part in parts {
        assert!(log.contains(part), "the message should say {part:?}:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn unknown_recipe_key_is_refused_with_the_nearest_known_one() {
    let dir = scratch("unknown");
    let path = write_recipe(&dir);
    std::fs::write(&path, recipe_text().replace("documents = 6", "documnets = 6")).expect("recipe");
    expect_failure(&path, &[], &["recipe.toml", "documnets", "did you mean `documents`?"]);
    fails("unknown-set", &["stage.text.stepz=3"], &["stepz", "did you mean `steps`?"]);
    fails("unknown-stage", &["stage.tetx.steps=3"], &["tetx", "align"]);
    fails("unknown-source", &["stage.text.data={ txt = 1.0 }"], &["txt", "did you mean `text`?"]);
    fails("bad-value", &["stage.text.lr=-1"], &["stage `text`", "lr"]);
    let (code, _) = vila(&["train"]);
    assert_eq!(code, 2);
}

#[test]
fn missing_cut_or_damaged_shard_is_refused() {
    let dir = scratch("shards");
    let recipe = write_recipe(&dir);
    let shard = dir.join("text-shard");
    let ingest = |tokenizer: &Path, out: &Path| {
        vila(&[
            "data",
            "ingest",
            "--format",
            "text",
            "--input",
            text(&world().join("text.jsonl")),
            "--tokenizer",
            text(tokenizer),
            "--out",
            text(out),
        ])
    };
    let (code, log) = ingest(&world().join("tokenizer.json"), &shard);
    assert_eq!(code, 0, "{log}");
    let set = format!("sources.text={{ shard = \"{}\" }}", shard.display());
    let missing = format!("sources.text={{ shard = \"{}\" }}", dir.join("nowhere").display());
    expect_failure(&recipe, &[&missing], &["nowhere"]);

    let tokens = shard.join("tokens.bin");
    let whole = std::fs::read(&tokens).expect("tokens");
    std::fs::write(&tokens, &whole[..whole.len() - 9]).expect("cut");
    expect_failure(&recipe, &[&set], &["tokens.bin"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    std::fs::write(&tokens, &flipped).expect("flip");
    expect_failure(&recipe, &[&set], &["tokens.bin"]);
    std::fs::write(&tokens, &whole).expect("restore");

    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf/tokenizer.json");
    let foreign = dir.join("foreign");
    let (code, log) = ingest(&other, &foreign);
    assert_eq!(code, 0, "{log}");
    let set = format!("sources.text={{ shard = \"{}\" }}", foreign.display());
    expect_failure(&recipe, &[&set], &["tokenizer"]);
}

#[test]
fn image_longer_than_the_context_is_refused() {
    let stop = ["text", "pairs", "interleaved"].map(|source| format!("sources.{source}.too_long=\"stop\""));
    let [text, pairs, interleaved] = stop.each_ref().map(String::as_str);
    let expected = ["stage pretrain", "document", "positions", "capacity"];
    fails("long", &["stage.pretrain.capacity=20", pairs, interleaved], &expected);
    fails("context", &["model.llm.max_positions=16", text, pairs, interleaved], &["max_positions", "document"]);
}

#[test]
fn step_without_supervised_token_is_refused() {
    let dir = scratch("unsupervised");
    let recipe = write_recipe(&dir);
    let reader = |path: &Path| ShardReader::open(path).expect("shard");
    let ingested = dir.join("text");
    let tokenizer = world().join("tokenizer.json");
    let input = world().join("text.jsonl");
    vila(&[
        "data",
        "ingest",
        "--format",
        "text",
        "--input",
        text(&input),
        "--tokenizer",
        text(&tokenizer),
        "--out",
        text(&ingested),
    ]);
    let manifest = reader(&ingested).manifest().clone();
    let shard = dir.join("silent");
    let meta = ShardMeta {
        tokenizer: manifest.tokenizer,
        tokenizer_json: None,
        sources: manifest.sources,
        options: manifest.options,
    };
    let mut writer = ShardWriter::create(&shard, meta).expect("writer");
    for line in 0..20 {
        let sample = Sample { tokens: &[1, 5, 6], loss: &[false; 3], images: &[], source: 0, source_line: line };
        writer.push(&sample).expect("push");
    }
    writer.finish().expect("finish");
    let set = format!("sources.text={{ shard = \"{}\" }}", shard.display());
    expect_failure(
        &recipe,
        &[&set, "stage.text.validate_every=0"],
        &["stage text, step 1", "supervised", "text.jsonl"],
    );
}

#[test]
fn empty_document_is_refused() {
    let dir = scratch("empty");
    let input = dir.join("empty.jsonl");
    std::fs::write(&input, "{\"text\": \"one plus one is two .\"}\n{\"text\": \"\"}\n").expect("input");
    let tokenizer = world().join("tokenizer.json");
    let out = dir.join("out");
    let (code, log) = vila(&[
        "data",
        "ingest",
        "--format",
        "text",
        "--input",
        text(&input),
        "--tokenizer",
        text(&tokenizer),
        "--out",
        text(&out),
    ]);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("empty.jsonl") && log.contains('2'), "{log}");
    assert!(!out.exists());
}

#[test]
fn non_finite_loss_stops_before_the_update() {
    let dir = scratch("nonfinite");
    let recipe = write_recipe(&dir);
    let sets = [
        "stage.text.lr=1e30",
        "stage.text.clip=0",
        "checkpoint.every=1",
        "checkpoint.keep=50",
        "stage.text.warmup=0.05",
    ];
    expect_failure(&recipe, &sets, &["stage text, step", "loss", "stopped before the update", "text.jsonl"]);
    // What was saved last is whole: its state reads back and its weights load.
    let latest = dir.join("run/latest");
    let state = vila_train::checkpoint::load_state(&latest).expect("state");
    assert!(state.global_step > 0);
    Vila::load(&latest, Arc::new(CpuBackend::fast())).expect("last good checkpoint");
}

#[test]
fn output_directory_of_another_run_is_refused() {
    let dir = scratch("other");
    let recipe = write_recipe(&dir);
    let short = ["stage.text.steps=3", "stage.align.steps=3", "stage.pretrain.steps=3"];
    let mut arguments = vec!["train", text(&recipe)];
    short.iter().for_each(|set| arguments.extend(["--set", set]));
    assert_eq!(vila(&arguments).0, 0);
    let before = outcome(&dir.join("run"));
    expect_failure(&recipe, &["stage.text.steps=4", short[1], short[2]], &["another recipe", "--restart"]);
    assert!(before == outcome(&dir.join("run")), "the refused run touched the other's files");
    // A recipe that cannot run does not discard the old one.
    let (code, _) = vila(&["train", text(&recipe), "--restart", "--set", "model.tokenizer=nowhere.json"]);
    assert_eq!(code, 1);
    assert!(before == outcome(&dir.join("run")), "--restart discarded a run for one that cannot start");
    // A directory belongs to its run before the first checkpoint too.
    let young = dir.join("young");
    std::fs::create_dir_all(&young).expect("directory");
    std::fs::write(young.join("recipe.hash"), "0123456789abcdef\n").expect("claim");
    let (code, log) = vila(&["train", text(&recipe), "--out", text(&young)]);
    assert!(code == 1 && log.contains("another recipe"), "{log}");
    arguments.extend(["--set", "stage.text.lr=2e-3", "--restart"]);
    assert_eq!(vila(&arguments).0, 0);
}

#[test]
fn a_stage_goes_on_with_the_data_it_began_with_only() {
    let dir = scratch("data-changes");
    let recipe = write_recipe(&dir);
    let own = dir.join("text.jsonl");
    std::fs::copy(world().join("text.jsonl"), &own).expect("copy");
    let set = format!("sources.text={{ format = \"text\", input = [\"{}\"] }}", own.display());
    // The run ends with an error inside the stage, after a checkpoint.
    let broken = ["stage.text.lr=1e30", "stage.text.clip=0", "checkpoint.every=1"];
    let sets = [set.as_str(), broken[0], broken[1], broken[2]];
    expect_failure(&recipe, &sets, &["stopped before the update"]);
    std::fs::write(&own, "{\"text\": \"one plus one is two .\"}\n").expect("change");
    expect_failure(&recipe, &sets, &["began with other data", "--restart"]);
}

/// The goldens once more, through the command line.
#[test]
fn golden_score_and_generate_from_the_command_line() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let (model, images) = (fixtures.join("tiny-llava-hf"), fixtures.join("images"));
    let read = |path: &Path| std::fs::read_to_string(path).expect("golden");
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("json");
    let dir = scratch("cli-golden");
    let output = dir.join("scores.jsonl");
    let input = model.join("score.jsonl");
    let arguments = ["score", "--model", text(&model), "--input", text(&input), "--output", text(&output)];
    let ended = command(&arguments).current_dir(&images).output().expect("child");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let scores = read(&output);
    assert_eq!(scores.lines().count(), read(&input).lines().count());
    // The library's scores are held to transformers' by the golden tests; the command must give the same.
    let vila = Vila::load(&model, Arc::new(CpuBackend::fast())).expect("model");
    for (got, asked) in scores.lines().map(parse).zip(read(&input).lines().map(parse)) {
        let pictures = asked["images"].as_array().expect("images").iter();
        let pictures: Vec<PathBuf> = pictures.map(|name| images.join(name.as_str().expect("name"))).collect();
        let [prompt, continuation] = ["prompt", "continuation"].map(|key| asked[key].as_str().expect(key));
        let want = score(&vila, prompt, continuation, &pictures).expect("score");
        assert_eq!((&got["tokens"], &got["greedy"]), (&want.tokens.into(), &want.greedy.into()));
        assert_eq!(got["logprob"].as_f64(), Some(want.logprob));
    }
    for case in parse(&read(&model.join("generate_golden.json"))).as_array().expect("cases") {
        let prompt = case["prompt"].as_str().expect("prompt");
        let mut arguments =
            vec!["generate", "--model", text(&model), "--prompt", prompt, "--max-new-tokens", "20", "--json"];
        for image in case["images"].as_array().expect("images") {
            arguments.extend(["--image", image.as_str().expect("name")]);
        }
        let ended = command(&arguments).current_dir(&images).output().expect("child");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
        // The test harness prints lines of its own before.
        let start = stdout.find("{\"").expect("json on stdout");
        let got = parse(stdout[start..].lines().next().expect("line"));
        assert_eq!((&got["new_ids"], &got["text"]), (&case["new_ids"], &case["text"]));
    }
}

#[test]
fn marks_and_images_must_agree() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images/cat.jpg");
    let run = |prompt: &str, images: usize| {
        let mut arguments = vec!["generate", "--model", text(&model), "--max-new-tokens", "3", "--prompt", prompt];
        (0..images).for_each(|_| arguments.extend(["--image", text(&image)]));
        vila(&arguments)
    };
    for (prompt, images) in [("<image><image> two", 1), ("<image> one", 2), ("<image> one", 0)] {
        let (code, log) = run(prompt, images);
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("<image>") && log.contains(&format!("{images} images")), "{log}");
    }
    assert_eq!(run("none marked", 2).0, 0);
    assert_eq!(run("<image> one", 1).0, 0);
    let (code, log) = vila(&["generate", "--model", text(&model), "--prompt", "x", "--device", "abacus"]);
    assert!(code == 2 && log.contains("abacus"), "{log}");
    let (code, log) = vila(&["generate", "--model", "/nowhere/at/all", "--prompt", "x"]);
    assert!(code == 1 && log.contains("/nowhere/at/all"), "{log}");
    let (code, log) = vila(&["generate", "--model", text(&model), "--prompt", &"word ".repeat(2000)]);
    assert!(code == 1 && log.contains("context"), "{log}");
}
