//! Runs that start from a Llama and a CLIP or SigLIP, each in a directory of its own, with a random projector.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vila_engine::CpuBackend;
use vila_model::config::Layout;
use vila_model::weights::{Checkpoint, to_f32};
use vila_model::{GenerateOptions, Vila, generate};
use vila_train::plan::{Assume, DryDevice, PlanOptions, plan};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};

use crate::training::{scratch, world};

fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/layouts")
}

/// A decoder that has never seen an image: its tokenizer has no mark for one.
fn decoder(dir: &Path) {
    std::fs::create_dir(dir).expect("folder");
    for entry in std::fs::read_dir(layouts().join("vila/llm")).expect("folder") {
        let path = entry.expect("entry").path();
        std::fs::copy(&path, dir.join(path.file_name().expect("name"))).expect("copy");
    }
    let path = dir.join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("tokenizer")).expect("json");
    file["added_tokens"].as_array_mut().expect("tokens").retain(|token| token["content"] != "<image>");
    std::fs::write(&path, file.to_string()).expect("write");
}

fn write_recipe(dir: &Path, vision: &Path) -> PathBuf {
    let (world, vision) = (world().display(), vision.display());
    let text = format!(
        r#"
        out = "run"
        seed = 5
        [model]
        llm_from = "llama"
        vision_from = "{vision}"
        projector = "mlp2x_gelu"
        [model.image]
        mode = "pad"
        [sources.pairs]
        format = "pairs"
        input = ["{world}/pairs.jsonl"]
        [[stage]]
        name = "align"
        train = ["projector"]
        data = {{ pairs = 1.0 }}
        steps = 3
        documents = 2
        capacity = 256
        lr = 1e-2
        "#
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, text).expect("recipe");
    path
}

#[test]
fn a_run_starts_from_a_llama_and_a_tower() {
    let dir = scratch("parts");
    decoder(&dir.join("llama"));
    let start = Checkpoint::open(&layouts().join("vila"), Layout::Vila).expect("open");
    // A whole CLIP as torch.save wrote it, and a vision model alone.
    for (name, vision) in [("whole", layouts().join("parts/clip-tiny")), ("alone", layouts().join("vila/vision_tower"))]
    {
        let path = write_recipe(&dir, &vision);
        let mut recipe = Recipe::read(&path, &[]).expect("recipe");
        recipe.out = dir.join(name);
        let options =
            PlanOptions { device: DryDevice::Cpu, memory: None, ranks: 1, assume: Assume::Nothing, vocab: 32_000 };
        let planned = plan(&recipe, &path, &options).expect("plan");
        let report = train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");

        let vila = Vila::load(&report.checkpoint, Arc::new(CpuBackend::fast())).expect("load");
        assert_eq!((vila.config.llm.vocab_size, vila.config.image_token), (512, None));
        assert_eq!(vila.processor.mode(), vila_model::image::GeometryMode::Pad);
        let mut planned = planned.config;
        (planned.image_token, planned.aspect) = (vila.config.image_token, vila.config.aspect);
        assert_eq!(planned, vila.config);
        let made = Checkpoint::open(&report.checkpoint, Layout::Vila).expect("open");
        let values = |checkpoint: &Checkpoint, name: &str| to_f32(&checkpoint.raw(name).expect(name)).expect("floats");
        let (mut frozen, mut trained) = (0, 0);
        for (name, _, shape) in made.tensors() {
            assert!(!name.contains("text_model") && !name.contains("logit_scale"), "{name}");
            if name.starts_with("mm_projector.") {
                trained += 1;
                assert!(start.tensors().any(|(other, _, same)| other == name && same == shape), "{name}");
                assert_ne!(values(&made, name), values(&start, name));
            } else if !name.ends_with("position_ids") {
                frozen += 1;
                assert_eq!(values(&made, name), values(&start, name), "{name}");
            }
        }
        assert_eq!((trained, frozen), (4, start.tensors().count() - 4));
        let images = [Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images/cat_rgba.png")];
        let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
        assert!(!generate(&vila, "A <image> is", &images, &options).expect("generate").ids.is_empty());
    }
    // The same seed gives the same projector, whatever the tower's file looks like.
    let weights = |name: &str| {
        std::fs::read(dir.join(name).join("checkpoints/align/mm_projector/model.safetensors")).expect("weights")
    };
    assert_eq!(weights("whole"), weights("alone"));
}

#[test]
fn a_run_starts_from_a_llama_with_a_random_tower() {
    let dir = scratch("parts-random");
    decoder(&dir.join("llama"));
    let path = write_recipe(&dir, Path::new("replaced"));
    let text = std::fs::read_to_string(&path).expect("recipe");
    let sizes = "vision = { family = \"siglip\", hidden_size = 16, intermediate_size = 32, layers = 1, heads = 2, \
                 image_size = 8, patch_size = 4, select_layer = -1 }";
    let text =
        text.replace("vision_from = \"replaced\"", sizes).replace("[\"projector\"]", "[\"vision\", \"projector\"]");
    std::fs::write(&path, text).expect("recipe");
    let recipe = Recipe::read(&path, &[]).expect("recipe");
    let report = train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");
    let vila = Vila::load(&report.checkpoint, Arc::new(CpuBackend::fast())).expect("load");
    assert_eq!((vila.config.vision.hidden_size, vila.config.tokens_per_image()), (16, 4));
    let start = Checkpoint::open(&layouts().join("vila"), Layout::Vila).expect("open");
    let made = Checkpoint::open(&report.checkpoint, Layout::Vila).expect("open");
    let decoder: Vec<&str> = start.tensors().map(|(name, ..)| name).filter(|name| name.starts_with("llm.")).collect();
    assert!(decoder.len() > 10);
    for name in decoder {
        let values = |checkpoint: &Checkpoint| to_f32(&checkpoint.raw(name).expect(name)).expect("floats");
        assert_eq!(values(&made), values(&start), "{name}");
    }
    for set in ["model.vision_from=llama", "model.select_layer=-1", "model.vision.heads=3", "model.projector=identity"]
    {
        let recipe = Recipe::read(&path, &[set.into(), "out=refused".into()]);
        let refused =
            recipe.and_then(|recipe| train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()));
        let said = refused.expect_err(set).to_string();
        assert!(
            ["`llm_from` and `vision` sizes", "heads must divide", "does not fit"]
                .iter()
                .any(|part| said.contains(part)),
            "{said}"
        );
    }
}

#[test]
fn parts_that_contradict_or_are_not_there_are_refused() {
    let dir = scratch("parts-refused");
    decoder(&dir.join("llama"));
    let path = write_recipe(&dir, &layouts().join("vila/vision_tower"));
    let refused = |set: &str| {
        let recipe = Recipe::read(&path, &[set.to_string()]);
        let backend = Arc::new(CpuBackend::fast());
        let result = recipe.and_then(|recipe| train(&recipe, &path, backend, &RunOptions::default()));
        result.expect_err(set).to_string()
    };
    for (set, part) in [
        ("model.from=elsewhere", "`from` alone"),
        ("model.llm={hidden_size=32,intermediate_size=64,layers=2,heads=4}", "`llm_from` and `vision_from`"),
        ("model.projector=mlp3", "`model.projector` is mlp3"),
        ("model.select_layer=-9", "names no hidden state"),
        ("model.vision_from=nowhere", "nowhere/config.json"),
        ("model.vision_from=llama", "llama/config.json: field `model_type` is llama"),
        ("model.image.mode=round", "`model.image.mode`"),
        ("model.llm_form=llama", "llm_from"),
    ] {
        let said = refused(set);
        assert!(said.contains(part), "{set} should say {part:?}:\n{said}");
    }
}
