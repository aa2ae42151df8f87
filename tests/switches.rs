//! The paper's switches of the model: what is frozen stays frozen, low-rank adapters, visual experts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use vila_autograd::{ParamStore, Recompute, Tape};
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, NO_ROW};
use vila_model::config::ProjectorKind;
use vila_model::expert::{self, ExpertConfig};
use vila_model::lora::{self, LoraConfig, Scaling, Target};
use vila_model::weights::Component;
use vila_model::{Document, GenerateOptions, Generator, Images, PackedBatch, Vila, VilaConfig, VilaModel};
use vila_train::bench::preset;
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train, train_on};

use crate::child::command;
use crate::nvrtc;
use crate::training::{recipe_text, scratch, text};

/// A decoder of two blocks with grouped heads.
fn tiny() -> VilaConfig {
    let mut config = preset("toy").expect("preset");
    (config.vision.image_size, config.vision.patch_size, config.vision.layers) = (16, 4, 2);
    (config.vision.hidden_size, config.vision.intermediate_size, config.vision.heads) = (32, 48, 2);
    (config.llm.hidden_size, config.llm.intermediate_size, config.llm.layers) = (32, 48, 2);
    (config.llm.vocab_size, config.llm.tied) = (61, false);
    (config.llm.heads.heads, config.llm.heads.kv_heads, config.llm.heads.head_dim) = (2, 1, 16);
    config.projector.kind = ProjectorKind::Downsample;
    config
}

fn with_adapters(config: &VilaConfig, dropout: f64) -> VilaConfig {
    let scaling = Scaling { alpha: 6.0, rank_stabilized: true, alpha_pattern: [("k_proj".into(), 3.0)].into() };
    let (rank_pattern, targets) = ([("1.mlp.up_proj".into(), 5)].into(), Target::ALL.to_vec());
    VilaConfig { lora: Some(LoraConfig { rank: 3, rank_pattern, scaling, dropout, targets }), ..config.clone() }
}

fn with_experts(config: &VilaConfig, last_as_text: bool) -> VilaConfig {
    VilaConfig { expert: Some(ExpertConfig { last_as_text }), ..config.clone() }
}

struct Model {
    backend: CpuBackend,
    store: ParamStore,
    model: VilaModel,
}

impl Model {
    fn new(config: &VilaConfig) -> Self {
        let backend = CpuBackend::fast();
        let store = ParamStore::new(&backend, VilaModel::specs(config), DType::F32, 5, |_| true).expect("store");
        let model = VilaModel::new(&backend, config, &store).expect("model");
        Model { backend, store, model }
    }

    /// Adds noise to the parameters under a prefix.
    fn disturb(&self, prefix: &str, size: f64) {
        let mut random = Stream::new(3, 1);
        for id in self.store.ids().filter(|&id| self.store.spec(id).name.starts_with(prefix)) {
            let values = self.store.weight(id).expect("whole").to_f32().expect("weight");
            let values: Vec<f32> = values.iter().map(|x| x + (size * random.normal()) as f32).collect();
            self.store.set(&self.backend, id, &values).expect("set");
        }
    }

    fn hidden(&self, batch: &PackedBatch) -> Vec<f32> {
        let mut tape = Tape::inference(&self.backend, &self.store);
        self.model.hidden(&mut tape, batch).expect("hidden").tensor().to_f32().expect("f32")
    }

    /// Loss and gradients.
    fn gradients(&self, batch: &PackedBatch, recompute: Recompute, noise: u64) -> Vec<f32> {
        self.store.zero_grads(&self.backend).expect("zero");
        let mut tape = Tape::new(&self.backend, &self.store).recompute(recompute).noise(noise);
        let loss = self.model.loss(&mut tape, batch, 0.1).expect("loss").expect("targets");
        tape.backward_loss(&loss).expect("backward");
        let mut values = loss.tensor().to_f32().expect("loss");
        values.extend(self.store.flat_grads().to_f32().expect("gradients"));
        values
    }

    fn gradient(&self, name: &str) -> Vec<f32> {
        let id = self.store.id(name).expect("parameter");
        self.store.grad(id).expect("trains").to_f32().expect("gradient")
    }
}

const IMAGE: u32 = NO_ROW;
const ILLUSTRATED: &[&[u32]] =
    &[&[1, IMAGE, 5, 6, 7], &[1, 8, 9], &[3, IMAGE, IMAGE, 4, 5, IMAGE], &[IMAGE, 2, 2, 30, 31, 32, 33]];
const TEXT: &[&[u32]] = &[&[1, 5, 6, 7, 20], &[1, 8, 9]];

fn batch(config: &VilaConfig, documents: &[&[u32]]) -> PackedBatch {
    let document = |tokens: &&[u32]| Document {
        tokens: tokens.to_vec(),
        supervised: tokens.iter().enumerate().map(|(i, &token)| i > 0 && token != IMAGE).collect(),
    };
    let documents: Vec<Document> = documents.iter().map(document).collect();
    let images: usize = documents.iter().map(Document::images).sum();
    let mut random = Stream::new(8, 0);
    let pixels = (0..images * 3 * config.vision.image_size.pow(2)).map(|_| random.normal() as f32).collect();
    let images = if images > 0 { Images::Pixels(pixels) } else { Images::None };
    PackedBatch::new(&documents, images, config.tokens_per_image(), 1).expect("batch")
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn adapters_that_were_not_trained_change_no_bit() {
    let (base, adapted) = (Model::new(&tiny()), Model::new(&with_adapters(&tiny(), 0.3)));
    for documents in [ILLUSTRATED, TEXT] {
        let batch = batch(&tiny(), documents);
        assert!(base.hidden(&batch) == adapted.hidden(&batch));
    }
    adapted.disturb("lora.", 0.1);
    assert!(worst(&base.hidden(&batch(&tiny(), TEXT)), &adapted.hidden(&batch(&tiny(), TEXT))) > 1e-2);
}

#[test]
fn merged_adapters_compute_what_they_did() {
    let config = with_adapters(&tiny(), 0.3);
    let (model, batch) = (Model::new(&config), batch(&config, ILLUSTRATED));
    model.disturb("lora.", 0.1);
    let apart = model.hidden(&batch);
    lora::merge(&model.backend, &config, &model.store, 5).expect("merge");
    let error = worst(&apart, &model.hidden(&batch));
    assert!(error <= 1e-5, "{error:e}");
    // What is left adds nothing and starts as it did.
    let fresh = Model::new(&config);
    for id in fresh.store.ids().filter(|&id| fresh.store.spec(id).name.starts_with("lora.")) {
        let values = |model: &Model| model.store.weight(id).expect("whole").to_f32().expect("weight");
        assert!(values(&model) == values(&fresh), "{}", fresh.store.spec(id).name);
    }
}

#[test]
fn experts_start_as_the_decoder_and_leave_text_alone() {
    for last_as_text in [false, true] {
        let (base, routed) = (Model::new(&tiny()), Model::new(&with_experts(&tiny(), last_as_text)));
        expert::copy_from_base(&routed.backend, &routed.store).expect("copy");
        let (illustrated, text) = (batch(&tiny(), ILLUSTRATED), batch(&tiny(), TEXT));
        assert!(base.hidden(&illustrated) == routed.hidden(&illustrated));
        assert!(base.hidden(&text) == routed.hidden(&text));
        routed.disturb("visual_expert.", 0.1);
        assert!(worst(&base.hidden(&illustrated), &routed.hidden(&illustrated)) > 1e-2);
        assert!(base.hidden(&text) == routed.hidden(&text));
        // The document without an image among illustrated ones is text, too.
        let (d, rows) = (tiny().llm.hidden_size, 8..11);
        let of_text = |hidden: Vec<f32>| hidden[rows.start * d..rows.end * d].to_vec();
        assert_eq!(illustrated.ids[rows.clone()], [1, 8, 9]);
        assert!(of_text(base.hidden(&illustrated)) == of_text(routed.hidden(&illustrated)));
    }
}

#[test]
fn gradients_of_decoder_and_experts_add_up_to_those_of_the_base() {
    let (base, routed) = (Model::new(&tiny()), Model::new(&with_experts(&tiny(), false)));
    expert::copy_from_base(&routed.backend, &routed.store).expect("copy");
    let batch = batch(&tiny(), ILLUSTRATED);
    base.gradients(&batch, Recompute::None, 0);
    routed.gradients(&batch, Recompute::None, 0);
    for name in ["layers.0.qkv.weight", "layers.1.gate_up.weight", "layers.1.mlp.down_proj.weight"] {
        let (mine, theirs) =
            (routed.gradient(&format!("llm.model.{name}")), routed.gradient(&format!("visual_expert.{name}")));
        let sum: Vec<f32> = mine.iter().zip(&theirs).map(|(a, b)| a + b).collect();
        let wanted = base.gradient(&format!("llm.model.{name}"));
        let size = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(worst(&sum, &wanted) <= 1e-5 * size.max(1e-3), "{name}");
        assert!(mine.iter().any(|x| *x != 0.0) && theirs.iter().any(|x| *x != 0.0), "{name}");
    }
}

#[test]
fn dropout_of_adapters_follows_the_noise_and_no_recompute_policy() {
    let config = with_adapters(&with_experts(&tiny(), true), 0.4);
    let (model, batch) = (Model::new(&config), batch(&config, ILLUSTRATED));
    model.disturb("lora.", 0.1);
    let wanted = model.gradients(&batch, Recompute::None, 7);
    for recompute in [Recompute::Cheap, Recompute::Block] {
        assert!(model.gradients(&batch, recompute, 7) == wanted, "{recompute:?}");
    }
    assert!(model.gradients(&batch, Recompute::None, 8) != wanted);
}

#[test]
fn cached_generation_computes_what_a_whole_document_does() {
    let config = with_adapters(&with_experts(&tiny(), false), 0.4);
    let model = Model::new(&config);
    model.disturb("lora.", 0.1);
    model.disturb("visual_expert.", 0.1);
    let mut tokens = vec![1, IMAGE, 5, IMAGE, IMAGE, 6];
    let prompt = batch(&config, &[&tokens]);
    let mut generator = Generator::new(&model.backend, &model.store, &model.model, &prompt, &[64]).expect("generator");
    for _ in 0..6 {
        let token = generator.sample(&GenerateOptions::default()).expect("sample");
        generator.advance(&token).expect("advance");
        let backend: &dyn Backend = &model.backend;
        tokens.push(backend.to_vec::<u32>(&token).expect("token")[0]);
    }
    // The whole document would choose the same tokens.
    let whole = batch(&config, &[&tokens]);
    let mut tape = Tape::inference(&model.backend, &model.store);
    let hidden = model.model.hidden(&mut tape, &whole).expect("hidden");
    let logits = model.model.logits(&mut tape, &hidden).expect("logits").to_f32().expect("f32");
    let likeliest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a token") as u32;
    let rows: Vec<u32> = logits.chunks(config.llm.vocab_size).map(likeliest).collect();
    assert_eq!(rows[rows.len() - 7..rows.len() - 1], tokens[tokens.len() - 6..]);
}

const PARTS: [(&str, Component); 5] = [
    ("vision", Component::Vision),
    ("projector", Component::Projector),
    ("llm", Component::Llm),
    ("lora", Component::Lora),
    ("expert", Component::Expert),
];

/// A recipe that goes on from a checkpoint, or starts one, with one stage.
fn one_stage(from: Option<&Path>, parts: &[&str], stage: &str) -> String {
    let whole = recipe_text();
    let (head, rest) = whole.split_once("[sources.text]").expect("sources");
    let (sources, _) = rest.split_once("[[stage]]").expect("stages");
    let model = match from {
        Some(from) => format!("out = \"run\"\n[model]\nfrom = \"{}\"\n", from.display()),
        None => head.to_string(),
    };
    format!(
        "{model}
        visual_expert = true
        [model.lora]
        rank = 2
        alpha = 4
        dropout = 0.1
        [sources.text]{sources}
        [[stage]]
        name = \"only\"
        train = {parts:?}
        data = {{ interleaved = 0.6, pairs = 0.2, text = 0.2 }}
        documents = 4
        capacity = 200
        lr = 1e-2
        {stage}
        [checkpoint]
        every = 2
        "
    )
}

fn run(recipe: &str, dir: &Path) -> PathBuf {
    let path = dir.join("recipe.toml");
    let recipe = Recipe::parse(recipe, &path, dir, &[]).expect("recipe");
    train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run").checkpoint
}

/// A checkpoint with experts and adapters.
fn everything() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let parts = PARTS.map(|(name, _)| name);
        run(&one_stage(None, &parts, "steps = 3"), &scratch("switches-base"))
    })
}

fn weights(checkpoint: &Path, component: Component) -> Vec<u8> {
    std::fs::read(checkpoint.join(component.file())).expect("weights")
}

/// Each run begins with the checkpoint and shares no file with it, so all weights are written from memory.
#[test]
fn what_is_frozen_stays_the_same_to_the_byte_in_every_combination() {
    let (base, dir) = (everything(), scratch("switches-frozen"));
    for mask in 1..1u32 << PARTS.len() {
        let trains = |i: usize| mask >> i & 1 == 1;
        let parts: Vec<&str> = (0..PARTS.len()).filter(|&i| trains(i)).map(|i| PARTS[i].0).collect();
        let mut recipe = one_stage(Some(base), &parts, "steps = 2");
        // A recipe may ask for nothing that no stage trains.
        if !parts.contains(&"expert") {
            recipe = recipe.replace("visual_expert = true", "");
        }
        if !parts.contains(&"lora") {
            let (head, tail) = recipe.split_once("[model.lora]").expect("lora");
            recipe = format!("{head}[sources{}", tail.split_once("[sources").expect("sources").1);
        }
        let checkpoint = run(&recipe, &dir.join(format!("{mask}")));
        for (i, (name, component)) in PARTS.into_iter().enumerate() {
            let same = weights(base, component) == weights(&checkpoint, component);
            assert_eq!(same, !trains(i), "{name}, while {parts:?} trained");
        }
        std::fs::remove_dir_all(dir.join(format!("{mask}"))).expect("remove");
    }
}

#[test]
fn a_device_computes_adapters_and_experts_as_the_cpu_does() {
    let Some(device) = nvrtc::device() else { return };
    let config = with_adapters(&with_experts(&tiny(), false), 0.4);
    let (cpu, batch) = (Model::new(&config), batch(&config, ILLUSTRATED));
    cpu.disturb("lora.", 0.1);
    let store = ParamStore::new(&*device, VilaModel::specs(&config), DType::F32, 5, |_| true).expect("store");
    for id in store.ids() {
        store.set(&*device, id, &cpu.store.weight(id).expect("whole").to_f32().expect("weight")).expect("set");
    }
    let model = VilaModel::new(&*device, &config, &store).expect("model");
    let wanted = cpu.gradients(&batch, Recompute::None, 7);
    let mut tape = Tape::new(&*device, &store).noise(7);
    let loss = model.loss(&mut tape, &batch, 0.1).expect("loss").expect("targets");
    tape.backward_loss(&loss).expect("backward");
    let mut got = device.to_f32(loss.tensor()).expect("loss");
    got.extend(device.to_f32(store.flat_grads()).expect("gradients"));
    let error = relative(&wanted, &got);
    assert!(error <= 1e-5, "{error:e}");
}

/// A run that makes adapters and experts on its way, merges the adapters, and goes on with new ones.
fn whole_run() -> String {
    let stage = |name: &str, train: &str, more: &str| {
        format!(
            "[[stage]]
            name = \"{name}\"
            train = {train}
            data = {{ interleaved = 0.6, pairs = 0.4 }}
            steps = 4
            documents = 4
            capacity = 200
            lr = 1e-2
            {more}\n"
        )
    };
    let one = one_stage(None, &["llm"], "steps = 3");
    let (head, tail) = one.split_once("[checkpoint]").expect("checkpoint");
    let stages = [
        stage("adapt", r#"["projector", "lora"]"#, ""),
        stage("both", r#"["lora", "expert"]"#, "merge_lora = true"),
        stage("again", r#"["lora"]"#, ""),
    ];
    format!("{head}{}[checkpoint]{tail}keep = 100\n", stages.concat())
}

fn files(checkpoint: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let names = ["trainer/moments.safetensors", "lora/adapter_config.json", "config.json"];
    let read = |name: &'static str| (name, std::fs::read(checkpoint.join(name)).expect(name));
    let parts = PARTS.map(|(name, component)| (name, weights(checkpoint, component)));
    names.into_iter().map(read).chain(parts).collect()
}

#[test]
fn a_run_with_adapters_and_experts_continues_bit_for_bit_from_every_checkpoint() {
    let dir = scratch("switches-resume");
    let last = run(&whole_run(), &dir).canonicalize().expect("checkpoint");
    let wanted = files(&last);
    let all = dir.join("run/checkpoints").canonicalize().expect("checkpoints");
    let steps = |path: &Path| {
        let text = std::fs::read_to_string(path.join("trainer/state.json")).expect("state");
        serde_json::from_str::<serde_json::Value>(&text).expect("json")["global_step"].as_u64().expect("step")
    };
    let paths = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).expect("checkpoints").map(|entry| entry.expect("entry").path()).collect()
    };
    let names = paths(&all).into_iter().filter(|path| *path != last);
    let names: Vec<String> = names.map(|path| text(&path).rsplit('/').next().expect("name").to_string()).collect();
    assert!(["only", "adapt", "both"].iter().all(|stage| names.iter().any(|name| name == stage)), "{names:?}");
    for name in &names {
        let here = steps(&all.join(name));
        let copied = dir.join(name);
        let status = std::process::Command::new("cp").arg("-r").arg(dir.join("run")).arg(&copied).status();
        assert!(status.expect("cp").success());
        for path in
            paths(&copied.join("checkpoints")).iter().filter(|path| steps(path) >= here && !path.ends_with(name))
        {
            std::fs::remove_dir_all(path).expect("remove");
        }
        std::fs::remove_file(copied.join("latest")).expect("latest");
        let recipe = whole_run().replace("out = \"run\"", &format!("out = \"{name}\""));
        let continued = run(&recipe, &dir);
        assert!(continued.starts_with(&copied));
        for ((file, want), (_, got)) in wanted.iter().zip(files(&continued)) {
            assert!(*want == got, "{file} differs, continued from {name}");
        }
        std::fs::remove_dir_all(&copied).expect("remove");
    }
}

fn load(dir: &Path) -> Vila {
    Vila::load_in_memory(dir, Arc::new(CpuBackend::fast())).expect("load")
}

fn hidden(vila: &Vila) -> Vec<f32> {
    let batch = batch(&vila.config, ILLUSTRATED);
    let mut tape = Tape::inference(vila.backend(), &vila.store);
    vila.model.hidden(&mut tape, &batch).expect("hidden").tensor().to_f32().expect("f32")
}

#[test]
fn adapters_of_a_run_are_kept_or_merged() {
    let dir = scratch("switches-merge");
    run(&whole_run(), &dir);
    let at = |name: &str| dir.join("run/checkpoints").join(name);
    // Without adapters there is no folder of them, nor after they were merged.
    assert!(
        !at("only").join("lora").exists() && at("adapt").join("lora").exists() && !at("both").join("lora").exists()
    );
    assert!(weights(&at("only"), Component::Llm) == weights(&at("adapt"), Component::Llm));
    assert!(weights(&at("both"), Component::Llm) != weights(&at("adapt"), Component::Llm));
    // Kept adapters compute what merged ones do, in place and as a folder for another copy of the base.
    let apart = hidden(&load(&at("again")));
    let mut merged = load(&at("again"));
    merged.merge_own_adapters().expect("merge");
    let saved = dir.join("merged");
    merged.save(&saved).expect("save");
    let base = load(&at("both"));
    assert!(worst(&hidden(&base), &apart) > 1e-4);
    base.merge_adapter(&at("again").join("lora")).expect("merge");
    for (what, other) in [("in place", hidden(&merged)), ("saved", hidden(&load(&saved))), ("on a base", hidden(&base))]
    {
        let error = worst(&apart, &other);
        assert!(error <= 1e-5, "{what}: {error:e}");
    }
    assert!(!saved.join("lora").exists() && saved.join("visual_expert").exists());
    // The same by command, which also takes the folder beside a prompt.
    let (kept, adapter, made) = (at("both"), at("again").join("lora"), dir.join("made"));
    let vila = |arguments: &[&str]| {
        let output = command(arguments).output().expect("child");
        let streams = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), streams.concat())
    };
    let merge = ["lora", "merge", "--model", text(&kept), "--adapter", text(&adapter), "--to", text(&made)];
    let (code, said) = vila(&merge);
    assert_eq!(code, Some(0), "{said}");
    assert!(worst(&apart, &hidden(&load(&made))) <= 1e-5);
    let prompt = ["--prompt", "one", "--device", "cpu", "--json", "--max-new-tokens", "8"];
    let of_adapter = vila(&[&["generate", "--model", text(&kept), "--adapter", text(&adapter)], &prompt[..]].concat());
    let of_merged = vila(&[&["generate", "--model", text(&made)], &prompt[..]].concat());
    assert_eq!((of_adapter.0, &of_adapter), (Some(0), &of_merged));
    let (code, said) = vila(&merge);
    assert!(code == Some(1) && said.contains("is there already"), "{said}");
    for (model, part) in [(at("again"), "vila lora merge"), (made.clone(), "visual expert")] {
        let to = dir.join("converted");
        let (code, said) = vila(&["convert", "--from", text(&model), "--to", text(&to), "--layout", "llava"]);
        assert!(code == Some(1) && said.contains(part) && !to.exists(), "{said}");
    }
    // The weights of another time are another base.
    let error = load(&at("adapt")).merge_adapter(&at("again").join("lora")).expect_err("another base").to_string();
    assert!(error.contains("made for other weights"), "{error}");
}

#[test]
fn recipes_that_ask_for_what_is_not_there_are_refused() {
    let refused = |text: &str| {
        let recipe = Recipe::parse(text, Path::new("r.toml"), Path::new("."), &[]);
        recipe.expect_err("an error").to_string()
    };
    let fine = one_stage(None, &["projector", "lora", "expert"], "steps = 3");
    for (old, new, message) in [
        ("visual_expert = true", "", "`train` names expert; set `model.visual_expert = true`"),
        ("\"lora\", ", "", "asks for lora, which no stage trains"),
        (", \"expert\"", "", "asks for expert, which no stage trains"),
        ("alpha = 4", "alpha = 4\ntargets = [\"q_porj\"]", "`model.lora.targets` has `q_porj`; choose from q_proj"),
        ("dropout = 0.1", "dropout = 1.0", "`dropout` in [0, 1)"),
        ("rank = 2", "rank = 0", "`rank` from 1"),
    ] {
        assert!(fine.contains(old));
        let got = refused(&fine.replacen(old, new, 1));
        assert!(got.contains(message), "{got}");
    }
    let no_lora =
        fine.replace("\"lora\", ", "").replace("[model.lora]", "").replace("rank = 2", "").replace("alpha = 4", "");
    let got = refused(&no_lora.replace("dropout = 0.1", "").replace("steps = 3", "steps = 3\nmerge_lora = true"));
    assert!(got.contains("nothing to merge"), "{got}");
}

/// What a dry run says of a recipe's stage, with some lines changed.
fn planned(dir: &Path, changes: &[(&str, &str)]) -> String {
    let mut text = one_stage(None, &["projector", "llm"], "steps = 1")
        .replace("visual_expert = true", "")
        .replace("[model.lora]\n        rank = 2\n        alpha = 4\n        dropout = 0.1", "");
    // Room for a dozen images that are not merged.
    text = text.replace("max_positions = 256", "max_positions = 1024").replace("capacity = 200", "capacity = 1024");
    let data = "data = { interleaved = 0.6, pairs = 0.2, text = 0.2 }";
    assert!(text.contains(data));
    text = text.replace(data, "data = { interleaved = 1 }");
    for (line, new) in changes {
        assert_eq!(text.matches(line).count(), 1, "{line}");
        text = text.replace(line, new);
    }
    let path = dir.join("recipe.toml");
    let recipe = Recipe::parse(&text, &path, dir, &[]).expect("recipe");
    vila_train::run::dry_run(&recipe, &path, Arc::new(CpuBackend::fast())).expect("dry run").concat()
}

/// Tokens, supervised tokens and images of the first step.
fn numbers(report: &str) -> [u64; 3] {
    let number = |before: &str| {
        let (start, _) = report.split_once(before).expect("number");
        start.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("number")
    };
    [number(" tokens"), number(" supervised"), number(" images")]
}

#[test]
fn each_switch_of_the_data_is_one_line() {
    let dir = scratch("switches-data");
    let run = |line: &str, new: &str| numbers(&planned(&dir, &[(line, new)]));
    let [tokens, supervised, images] = numbers(&planned(&dir, &[]));
    // The layout moves images and learns the same text.
    let mmc4 = "max_images = 0";
    assert_eq!(run(mmc4, "max_images = 0\nlayout = \"images-first\""), [tokens, supervised, images]);
    let scoped = run(mmc4, "max_images = 0\nloss_scope = \"image_following_text_only\"");
    assert!(scoped[0] == tokens && scoped[1] < supervised, "{scoped:?}");
    let [pair_tokens, _, pair_images] = run(mmc4, "max_images = 0\nlayout = \"pairs\"");
    assert!(pair_images == 4 && pair_tokens < tokens, "four documents of an image each: {pair_images}");
    let data = "data = { interleaved = 1 }";
    assert_eq!(run(data, "data = { pairs = 1 }")[2], 4);
    assert_eq!(run(data, "data = { text = 1 }")[2], 0);
    assert!(run(data, "data = { interleaved = 1, pairs = 1, text = 0.5 }")[2] > 0);
    // Resolution and down-sampling change what an image takes: 4x4 patches merged or not, then 6x6.
    assert_eq!(run("projector = \"mlp_downsample\"", "projector = \"linear\"")[0], tokens + 12 * images);
    assert_eq!(run("image_size = 16", "image_size = 24")[0], tokens + 5 * images);
    assert_eq!(run("projector = \"mlp_downsample\"", "projector = \"mlp_downsample_3x3_fix\"")[0], tokens);
}

/// The difference of two vectors over the length of the first.
fn relative(wanted: &[f32], got: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut wanted.iter().zip(got).map(|(a, b)| a - b));
    difference / norm(&mut wanted.iter().copied())
}

#[test]
fn ranks_merge_the_same_adapters() {
    let recipe = whole_run().replace("visual_expert = true", "visual_expert = true\nprecision = \"bf16\"");
    let [one, two] = [1, 2].map(|ranks| {
        let dir = scratch(&format!("switches-ranks{ranks}"));
        let path = dir.join("recipe.toml");
        let recipe = Recipe::parse(&recipe, &path, &dir, &[]).expect("recipe");
        let backends = (0..ranks).map(|_| Arc::new(CpuBackend::fast()) as Arc<dyn Backend>).collect();
        train_on(&recipe, &path, backends, &RunOptions::default()).expect("run");
        let weights = |stage: &str| {
            let vila = load(&dir.join("run/checkpoints").join(stage));
            let id = vila.store.id("llm.model.layers.1.mlp.down_proj.weight").expect("weight");
            vila.store.weight(id).expect("whole").to_f32().expect("f32")
        };
        let (before, after) = (weights("adapt"), weights("both"));
        after.iter().zip(&before).map(|(after, before)| after - before).collect::<Vec<f32>>()
    });
    assert!(one.iter().any(|x| *x != 0.0));
    // bf16 rounds differently when sums do.
    let error = relative(&one, &two);
    assert!(error <= 0.1, "{error}");
}
