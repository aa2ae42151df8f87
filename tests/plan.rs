//! The planner against real steps, and recompute policies against one another.

use std::path::Path;
use std::sync::Arc;

use vila_autograd::{ParamStore, Tape};
use vila_engine::ops::{GeluKind, LinearCrossEntropy};
use vila_engine::philox::Stream;
use vila_engine::{Backend, ByOwner, CpuBackend, DType, NO_ROW, Owner};
use vila_model::config::{ProjectorKind, VisionFamily};
use vila_model::{Document, Images, PackedBatch, VilaConfig, VilaModel};
use vila_train::bench::{StepOptions, StepShape, bench_step, planned_step, preset};
use vila_train::plan::{Assume, DryDevice, POLICIES, PlanOptions, StepEstimate, plan};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};

use crate::child::command;
use crate::nvrtc;
use crate::training::{scratch, world};

/// A VILA of a few thousand parameters.
fn tiny(family: VisionFamily, kind: ProjectorKind, tied: bool) -> VilaConfig {
    let mut config = preset("toy").expect("preset");
    let clip = family == VisionFamily::Clip;
    (config.vision.family, config.vision.drop_class) = (family, clip);
    config.vision.act = if clip { GeluKind::Quick } else { GeluKind::Tanh };
    (config.vision.image_size, config.vision.patch_size, config.vision.layers) = (16, 4, 3);
    (config.vision.hidden_size, config.vision.intermediate_size, config.vision.heads) = (32, 64, 2);
    (config.llm.hidden_size, config.llm.intermediate_size, config.llm.layers) = (64, 96, 3);
    (config.llm.vocab_size, config.llm.tied) = (61, tied);
    (config.llm.heads.heads, config.llm.heads.kv_heads, config.llm.heads.head_dim) = (2, 1, 32);
    config.projector.kind = kind;
    config
}

/// Documents of random lengths, some with images, packed as training packs them.
fn random_batch(config: &VilaConfig, seed: u64, align: usize) -> PackedBatch {
    let mut random = Stream::new(seed, 7);
    let mut images = 0;
    let documents: Vec<Document> = (0..2 + random.below(3))
        .map(|_| {
            let mut document = Document::prompt(vec![1]);
            for _ in 0..3 + random.below(20) {
                let image = images < 4 && random.below(6) == 0;
                images += usize::from(image);
                document.tokens.push(if image { NO_ROW } else { random.below(config.llm.vocab_size) as u32 });
            }
            let supervised = document.tokens.iter().enumerate();
            document.supervised =
                supervised.map(|(i, &token)| i > 0 && token != NO_ROW && random.below(4) > 0).collect();
            document
        })
        .collect();
    let pixels = (0..images * 3 * config.vision.image_size.pow(2)).map(|_| random.normal() as f32).collect();
    let images = if images > 0 { Images::Pixels(pixels) } else { Images::None };
    PackedBatch::new(&documents, images, config.tokens_per_image(), align).expect("batch")
}

/// Loss, gradients and activations held before the walk back, under each policy.
fn gradients(
    backend: &dyn Backend,
    config: &VilaConfig,
    dtype: DType,
    batch: &PackedBatch,
    trains: &dyn Fn(&str) -> bool,
) -> Vec<(Vec<f32>, usize)> {
    let specs = VilaModel::specs(config);
    let store = ParamStore::new(backend, specs, dtype, 5, |spec| trains(&spec.name)).expect("store");
    let model = VilaModel::new(backend, config, &store).expect("model");
    let run = |recompute| {
        store.zero_grads(backend).expect("zero");
        let before = backend.memory().held.of(Owner::Activations);
        let mut tape = Tape::new(backend, &store).recompute(recompute);
        let loss = model.loss(&mut tape, batch, 0.1).expect("loss").expect("targets");
        let held = backend.memory().held.of(Owner::Activations) - before;
        tape.backward_loss(&loss).expect("backward");
        let mut values = backend.to_f32(loss.tensor()).expect("loss");
        values.extend(backend.to_f32(store.flat_grads()).expect("gradients"));
        (values, held)
    };
    POLICIES.map(|(recompute, _)| run(recompute)).into()
}

fn bits_are_the_same(backend: &dyn Backend, config: &VilaConfig, dtype: DType, seed: u64, vision: bool) {
    let align = if backend.needs_fixed_shapes() { LinearCrossEntropy::CHUNK } else { 1 };
    let batch = random_batch(config, seed, align);
    let trains = |name: &str| vision || !name.starts_with("vision_tower.");
    let all = gradients(backend, config, dtype, &batch, &trains);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    assert!(all[0].0.iter().all(|value| value.is_finite()) && all[0].0.iter().any(|value| *value != 0.0));
    for (index, (_, name)) in POLICIES.iter().enumerate().skip(1) {
        assert!(bits(&all[index].0) == bits(&all[0].0), "{name} differs, seed {seed}, {dtype:?}, vision {vision}");
    }
    let held: Vec<usize> = all.iter().map(|(_, held)| *held).collect();
    println!("{dtype:?}, vision trains {vision}: activations {held:?} bytes under none, cheap, block");
    assert!(held[0] > held[1] && held[1] > held[2], "{held:?}");
}

const KINDS: [ProjectorKind; 8] = [
    ProjectorKind::Linear,
    ProjectorKind::Mlp { depth: 2 },
    ProjectorKind::Downsample,
    ProjectorKind::MlpDownsample,
    ProjectorKind::MlpDownsample2x2Fix,
    ProjectorKind::MlpDownsample3x3Fix,
    ProjectorKind::Transformer { depth: 1, width: None, heads: None },
    ProjectorKind::Transformer { depth: 2, width: Some(48), heads: Some(3) },
];

#[test]
fn recompute_changes_no_bit_of_a_whole_model() {
    let (fast, reference) = (CpuBackend::fast(), CpuBackend::reference());
    for seed in 0..10 {
        let family = if seed % 2 == 0 { VisionFamily::Clip } else { VisionFamily::Siglip };
        let config = tiny(family, KINDS[seed as usize % KINDS.len()], seed % 3 == 0);
        for vision in [false, true] {
            bits_are_the_same(&fast, &config, DType::F32, seed, vision);
            bits_are_the_same(&reference, &config, DType::BF16, seed, vision);
        }
    }
}

#[test]
fn recompute_changes_no_bit_on_the_device() {
    let Some(device) = nvrtc::device() else { return };
    for (family, dtype, vision) in [
        (VisionFamily::Clip, DType::BF16, true),
        (VisionFamily::Siglip, DType::F32, true),
        (VisionFamily::Clip, DType::F32, false),
    ] {
        bits_are_the_same(&*device, &tiny(family, ProjectorKind::MlpDownsample, false), dtype, 3, vision);
    }
}

/// Prints planned beside measured bytes; their difference is within 5 % in total and in activations.
fn close(what: &str, planned: ByOwner, measured: ByOwner) {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    for owner in Owner::ALL {
        let (planned, measured) = (planned.of(owner), measured.of(owner));
        println!("{what}: {} planned {:.3} MiB, measured {:.3} MiB", owner.name(), mib(planned), mib(measured));
    }
    let within = |planned: usize, measured: usize| (planned as f64 - measured as f64).abs() <= 0.05 * measured as f64;
    let activations = |held: ByOwner| held.of(Owner::Activations);
    assert!(within(planned.total(), measured.total()), "{what}: {} for {}", planned.total(), measured.total());
    assert!(within(activations(planned), activations(measured)), "{what}: activations");
}

/// A measured training step of a preset beside the plan, under every policy.
fn plans_are_right(
    (name, config): (&str, &VilaConfig),
    new: &dyn Fn() -> Arc<dyn Backend>,
    device: DryDevice,
    dtype: DType,
    shape: StepShape,
) {
    let mut activations = Vec::new();
    for (recompute, policy) in POLICIES {
        let options = StepOptions { dtype, recompute, warmup: 0, steps: 1 };
        let measured = bench_step(&new(), config, shape, options).expect("step").held_at_peak;
        let planned: StepEstimate = planned_step(device, config, shape, options).expect("plan");
        close(&format!("{name} on {device:?}, {dtype:?}, {policy}"), planned.held_at_peak, measured);
        let tagged: u64 = planned.activations.iter().map(|(_, holding)| holding.bytes).sum();
        assert_eq!(tagged, planned.held_at_peak.of(Owner::Activations) as u64, "activations by op");
        activations.push(measured.of(Owner::Activations));
    }
    assert!(activations[0] > activations[1] && activations[1] > activations[2], "{activations:?}");
}

#[test]
fn plans_match_steps_on_the_cpu() {
    let new = || Arc::new(CpuBackend::fast()) as Arc<dyn Backend>;
    let [toy, small] = ["toy", "small"].map(|name| (name, preset(name).expect("preset")));
    let shape = StepShape { seq: 256, batch: 4, images: 2 };
    plans_are_right((toy.0, &toy.1), &new, DryDevice::Cpu, DType::F32, shape);
    let shape = StepShape { seq: 160, batch: 1, images: 1 };
    plans_are_right((small.0, &small.1), &new, DryDevice::Cpu, DType::F32, shape);
}

#[test]
fn plans_match_steps_on_the_emulated_device() {
    let new = || vila_train::open_device(Some("emulator")).expect("emulator").backend;
    if nvrtc::on_hardware() || !nvrtc::available() {
        return;
    }
    let [toy, mut small] = ["toy", "small"].map(|name| preset(name).expect("preset"));
    (small.llm.layers, small.llm.vocab_size, small.llm.intermediate_size, small.vision.layers) = (3, 512, 344, 2);
    let shape = StepShape { seq: 48, batch: 2, images: 1 };
    plans_are_right(("toy", &toy), &new, DryDevice::Emulator, DType::BF16, shape);
    let shape = StepShape { seq: 80, batch: 1, images: 1 };
    plans_are_right(("small, reduced,", &small), &new, DryDevice::Emulator, DType::BF16, shape);
}

const DEVICE_TEST: &str = include_str!("../recipes/device-test.toml");

/// A folder with the device test's recipe and corpora.
fn recipe_folder(name: &str) -> std::path::PathBuf {
    let dir = scratch(name);
    std::fs::write(dir.join("recipe.toml"), DEVICE_TEST).expect("recipe");
    std::os::unix::fs::symlink(world(), dir.join("corpus")).expect("corpus");
    dir
}

#[test]
fn a_plan_of_a_recipe_matches_its_run() {
    let dir = recipe_folder("plan-run");
    let path = dir.join("recipe.toml");
    let recipe = Recipe::read(&path, &[]).expect("recipe");
    let options =
        PlanOptions { device: DryDevice::Cpu, memory: Some(1 << 30), ranks: 1, assume: Assume::Nothing, vocab: 32_000 };
    // Nothing was ingested yet, and planning ingests nothing.
    let assumed = plan(&recipe, &path, &options).expect("plan");
    assert!(assumed.stages.iter().all(|stage| stage.content.from.starts_with("assumed")));
    assert!(!dir.join("shards").exists());

    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::fast());
    train(&recipe, &path, Arc::clone(&backend), &RunOptions::default()).expect("run");
    let measured = backend.memory().peak as u64;
    let planned = plan(&recipe, &path, &options).expect("plan");
    assert!(planned.stages.iter().all(|stage| stage.content.from.starts_with("records")), "{planned:?}");
    let peak = planned.stages.iter().map(|stage| stage.start.max(stage.policies[0].total)).max().expect("stages");
    println!("recipe: planned {peak} bytes, measured {measured}");
    assert!(peak.abs_diff(measured) * 20 <= measured, "planned {peak}, measured {measured}");
    for policy in planned.stages.iter().flat_map(|stage| &stage.policies) {
        assert_eq!(policy.fits, Some(true));
        assert!(policy.largest_capacity.is_some_and(|capacity| capacity.is_multiple_of(128)));
    }
}

#[test]
fn the_largest_capacity_fits_and_the_next_does_not() {
    let dir = recipe_folder("plan-capacity");
    let path = dir.join("recipe.toml");
    let memory = 16 << 20;
    let at = |capacity: usize| {
        let sets = [("align", capacity), ("pretrain", capacity), ("sft", capacity)]
            .map(|(stage, capacity)| format!("stage.{stage}.capacity={capacity}"));
        let recipe = Recipe::read(&path, &sets).expect("recipe");
        let assume = Assume::Document(vila_train::plan::Document { images: 2.0, text: 100.0 });
        let options = PlanOptions { device: DryDevice::Cpu, memory: Some(memory), ranks: 4, assume, vocab: 1000 };
        plan(&recipe, &path, &options).expect("plan").stages.remove(1).policies
    };
    for (index, policy) in at(128).iter().enumerate() {
        let largest = policy.largest_capacity.expect("a capacity");
        assert!(at(largest)[index].total <= memory, "{}: {largest}", policy.name);
        assert!(at(largest + 128)[index].total > memory, "{}: {largest}", policy.name);
    }
}

/// Exit code, stdout and stderr of `vila plan`.
fn vila_plan(arguments: &[&str]) -> (i32, String, String) {
    let output = command(&[&["plan"], arguments].concat()).output().expect("child");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The paper's second stage at 7B, of which nothing is on disk.
fn paper_recipe(dir: &Path) -> String {
    let path = dir.join("paper.toml");
    let text = r#"
        out = "run"
        [model]
        tokenizer = "absent.json"
        projector = "linear"
        precision = "bf16"
        recompute = "block"
        llm = { hidden_size = 4096, intermediate_size = 11008, layers = 32, heads = 32 }
        vision = { family = "clip", hidden_size = 1024, intermediate_size = 4096, layers = 24, heads = 16, image_size = 336, patch_size = 14 }
        [sources.mmc4]
        format = "mmc4"
        input = ["absent.jsonl"]
        [sources.coyo]
        format = "pairs"
        input = ["absent.jsonl"]
        [[stage]]
        name = "pretrain"
        train = ["projector", "llm"]
        data = { mmc4 = 0.2, coyo = 0.8 }
        steps = 12000
        documents = 2560
        capacity = 16384
        lr = 5e-5
        "#;
    std::fs::write(&path, text).expect("recipe");
    path.to_str().expect("utf-8").to_string()
}

#[test]
fn a_plan_needs_no_weights_and_no_data() {
    let recipe = paper_recipe(&scratch("plan-paper"));
    let more = ["--ranks", "8", "--device-memory", "141", "--price-per-gpu-hour", "2.5"];
    let (code, text, stderr) = vila_plan(&[&[recipe.as_str()], &more[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    for part in ["decoder 6738415616", "5.1k GPU hours", "largest capacity", "moments / 8", "swiglu", "cost"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let (code, stdout, stderr) = vila_plan(&[&[recipe.as_str(), "--json"], &more[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    let json = stdout.lines().find(|line| line.starts_with('{')).expect("json");
    let plan: serde_json::Value = serde_json::from_str(json).expect("json");
    let policies = plan["stages"][0]["policies"].as_array().expect("policies");
    let flops = |policy: &serde_json::Value, part: &str| policy["flops_per_step"][part].as_f64().expect("number");
    // 2 FLOPs forward and 4 backward for each parameter of the decoder without embeddings and each position.
    let positions = 16384.0 * plan["stages"][0]["content"]["micro_batches_per_step"].as_f64().expect("number");
    let head = 32_000.0 * 4096.0;
    let decoder = 2.0 * (6_738_415_616.0 - 2.0 * head) * positions;
    assert!((1.0..1.15).contains(&(flops(&policies[0], "forward") / decoder)));
    assert!((1.0..1.15).contains(&(flops(&policies[0], "backward") / (2.0 * decoder))));
    assert_eq!(flops(&policies[0], "recompute"), 0.0);
    assert!((0.9..1.1).contains(&(flops(&policies[2], "recompute") / decoder)));
    let hours = plan["a100_hours"].as_f64().expect("number");
    assert!((1000.0..5100.0).contains(&hours), "{hours} A100 hours");
}

#[test]
fn plans_that_cannot_be_made_say_why() {
    let recipe = paper_recipe(&scratch("plan-wrong"));
    let set = |values: &[&str]| {
        let sets = values.iter().flat_map(|value| ["--set", *value]);
        vila_plan(&[recipe.as_str()].into_iter().chain(sets).collect::<Vec<_>>())
    };
    for (values, message) in [
        (&["stage.pretrain.capacity=1000000000000000000"][..], "capacity"),
        (&["stage.pretrain.capacity=500"], "an image takes 576 positions"),
        (&["model.llm.layers=1000000"], "more than 4096 layers"),
        (&["model.llm.hidden_size=1048512", "model.llm.intermediate_size=1048575"], "more than 1e14 parameters"),
        (&["model.vision.image_size=1048572"], "an image takes 5609710404 positions"),
        (&["model.vision.image_size=28", "model.vision.patch_size=28", "stage.pretrain.capacity=1048576"], ""),
        (&["stage.pretrain.documents=0"], "documents"),
        (&["model.projector=none"], "projector"),
    ] {
        let (code, _, stderr) = set(values);
        assert!(code == i32::from(!message.is_empty()) && stderr.contains(message), "{values:?}: {code}, {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    for (arguments, message) in [
        (["--device", "tpu"], "there are cpu, cuda and emulator"),
        (["--device-memory", "much"], "expected GiB"),
        (["--mfu", "0"], "--mfu 0"),
        (["--mfu", "45"], "0.45"),
        (["--ranks", "0"], "--ranks"),
        (["--peak", "0"], "--peak 0"),
        (["--assume=4", "--json"], "4:490"),
    ] {
        let (code, _, stderr) = vila_plan(&[&[recipe.as_str()], &arguments[..]].concat());
        assert!(code == 2 && stderr.contains(message), "{arguments:?}: {code}, {stderr}");
    }
}
