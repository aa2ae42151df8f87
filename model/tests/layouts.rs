//! One model in every layout that is read (made by `tests/scripts/make_layouts.py`): the same results from each.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    copy, edit_json, fixtures, folder, layouts, llava_apart, llava_embedded, read_json, renamed, score_apart,
    write_weights,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::config::Layout;
use vila_model::convert::convert;
use vila_model::weights::{Checkpoint, RawTensor, parse, to_f32};
use vila_model::{GenerateOptions, Vila, VilaConfig, generate};

fn load(dir: &Path) -> Vila {
    Vila::load(dir, Arc::new(CpuBackend::fast())).expect("load")
}

fn refused(dir: &Path) -> String {
    match Vila::load(dir, Arc::new(CpuBackend::fast())) {
        Ok(_) => panic!("{} loaded", dir.display()),
        Err(error) => error.to_string(),
    }
}

fn list<T>(values: &Value, item: impl FnMut(&Value) -> Option<T>) -> Vec<T> {
    values.as_array().expect("list").iter().map(item).collect::<Option<_>>().expect("items")
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Compares scores and greedy continuations with those of transformers; returns the scores.
fn compare(dir: &Path, layout: Layout) -> Vec<Vec<f64>> {
    compare_with(dir, layout, &read_json(&layouts().join("results.json")))
}

/// With weights in memory, then where they lie in the files.
fn compare_with(dir: &Path, layout: Layout, golden: &Value) -> Vec<Vec<f64>> {
    let mapped = Vila::load_mapped(dir, Arc::new(CpuBackend::fast())).expect("load");
    assert_eq!(mapped.layout, layout);
    [load(dir), mapped].iter().flat_map(|vila| compare_model(vila, dir, golden)).collect()
}

fn compare_model(vila: &Vila, dir: &Path, golden: &Value) -> Vec<Vec<f64>> {
    let mut scores = Vec::new();
    for row in golden.as_array().expect("rows") {
        let prompt = row["prompt"].as_str().expect("prompt");
        let image = |name: &Value| Some(fixtures().join("images").join(name.as_str()?));
        let images: Vec<PathBuf> = list(&row["images"], image);
        let got = score_apart(vila, prompt, row["continuation"].as_str().expect("continuation"), &images);
        assert_eq!(got.tokens, list(&row["tokens"], id));
        for (got, want) in got.token_logprobs.iter().zip(list(&row["token_logprobs"], Value::as_f64)) {
            assert!((got - want).abs() <= 1e-4, "{}: {got}, golden {want}", dir.display());
        }
        let want = list(&row["new_ids"], id);
        let options = GenerateOptions { max_new_tokens: want.len(), ..GenerateOptions::default() };
        let made = generate(vila, prompt, &images, &options).expect("generate").ids;
        // Goldens end where the choice is close, and some keep the token that ends a text.
        let ends = |id: &u32| vila.config.llm.eos.contains(id);
        let want = want.split_last().filter(|(last, _)| ends(last)).map_or(&want[..], |(_, rest)| rest);
        assert_eq!(made[..want.len().min(made.len())], *want, "{}: {prompt}", dir.display());
        scores.push(got.token_logprobs);
    }
    scores
}

/// `llava-hf` with the names of newer versions, and towers with `vision_model.`.
fn llava_hf_new() -> PathBuf {
    let dir = folder("llava-hf-new");
    copy(&layouts().join("llava-hf"), &dir);
    let path = dir.join("model.safetensors");
    let renamed = renamed(&path, |name| match name.split_once('.') {
        Some(("language_model", rest)) => match rest.strip_prefix("model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => rest.to_string(),
        },
        Some(("vision_tower", rest)) => format!("model.vision_tower.vision_model.{rest}"),
        _ => format!("model.{name}"),
    });
    write_weights(&path, &renamed);
    dir
}

#[test]
fn every_layout_gives_the_same_results() {
    let hf = compare(&layouts().join("llava-hf"), Layout::LlavaHf);
    for (dir, layout) in [
        (llava_hf_new(), Layout::LlavaHf),
        (layouts().join("vila"), Layout::Vila),
        (llava_embedded(), Layout::Llava),
        (llava_apart("llava-apart"), Layout::Llava),
    ] {
        // The weights are the same to the bit, so the results are.
        assert_eq!(compare(&dir, layout), hf, "{}", dir.display());
    }
}

/// Made by `tests/scripts/make_layout_cases.py`: SigLIP and CLIP, tied or not, with and without biases, kinds of files and of
/// configurations, a vocabulary without an image token, images on a canvas.
#[test]
fn models_of_every_kind_give_what_transformers_gives() {
    for entry in std::fs::read_dir(layouts().join("cases")).expect("cases") {
        let case = entry.expect("entry").path();
        let golden = read_json(&case.join("results.json"));
        for layout in [Layout::LlavaHf, Layout::Llava, Layout::Vila] {
            let (dir, golden) = (case.join(layout.name()), &golden[layout.name()]);
            let scores = compare_with(&dir, layout, golden);
            let out = folder("layouts-cases");
            for to in [Layout::LlavaHf, Layout::Llava, Layout::Vila] {
                let made = out.join(to.name());
                let rows = convert(&dir, &made, to, 20_000).expect("convert").rows;
                // More rows, other sums: what they are is tested elsewhere.
                if rows == 0 {
                    assert_eq!(compare_with(&made, to, golden), scores, "{} {}", dir.display(), to.name());
                }
            }
        }
    }
}

/// Newer versions of transformers write one file for the whole processor, names of states as lists, and flags elsewhere.
#[test]
fn files_of_newer_versions_are_read() {
    let dir = folder("layouts-newer");
    copy(&layouts().join("llava-hf"), &dir);
    let processor = read_json(&dir.join("preprocessor_config.json"));
    std::fs::remove_file(dir.join("preprocessor_config.json")).expect("remove");
    let whole = json!({"processor_class": "LlavaProcessor", "image_processor": processor});
    std::fs::write(dir.join("processor_config.json"), whole.to_string()).expect("write");
    edit_json(&dir.join("config.json"), |config| config["vision_feature_layer"] = json!([-2]));
    compare(&dir, Layout::LlavaHf);
    edit_json(&dir.join("config.json"), |config| config["vision_feature_layer"] = json!([-2, -1]));
    assert!(refused(&dir).contains("several states"));
    edit_json(&dir.join("config.json"), |config| {
        config["vision_feature_layer"] = json!(-2);
        config["tie_word_embeddings"] = json!(true);
    });
    // A head that is no copy of the embedding wins over the flag.
    assert!(!load(&dir).config.llm.tied);
    let path = dir.join("model.safetensors");
    let mut tensors = renamed(&path, str::to_string);
    tensors.retain(|name, _| !name.ends_with("lm_head.weight"));
    write_weights(&path, &tensors);
    assert!(load(&dir).config.llm.tied);
}

#[test]
fn wrappers_of_training_libraries_are_taken_off() {
    let dir = llava_embedded();
    for (i, prefix) in ["model.", "base_model.model."].into_iter().enumerate() {
        let mut all = BTreeMap::new();
        for shard in 1..=3 {
            let path = layouts().join(format!("llava/pytorch_model-{shard:05}-of-00003.bin"));
            all.extend(renamed(&path, |name| format!("{prefix}{name}")));
        }
        // A single safetensors file comes before shards of torch.save.
        write_weights(&dir.join("model.safetensors"), &all);
        let names: Vec<String> =
            Checkpoint::open(&dir, Layout::Llava).expect("open").tensors().map(|(name, ..)| name.to_string()).collect();
        let plain = Checkpoint::open(&layouts().join("llava"), Layout::Llava).expect("open");
        assert_eq!(names, plain.tensors().map(|(name, ..)| name.to_string()).collect::<Vec<_>>(), "{i}");
    }
}

#[test]
fn a_projector_may_leave_out_its_container() {
    let dir = folder("vila-bare-projector");
    copy(&layouts().join("vila"), &dir);
    let path = dir.join("mm_projector/model.safetensors");
    write_weights(&path, &renamed(&path, |name| name.strip_prefix("layers.").unwrap_or(name).to_string()));
    load(&dir);
}

#[test]
fn parts_that_are_not_there_are_named_with_the_paths_that_were_looked_for() {
    let dir = llava_apart("llava-parts");
    std::fs::remove_dir_all(dir.join("openai")).expect("remove");
    let said = refused(&dir);
    for part in ["openai/clip-tiny", "../clip-tiny", "vision_tower", "preprocessor_config.json", "put it (config.json"]
    {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    // A public tower's sizes are known, its weights are not.
    edit_json(&dir.join("config.json"), |config| {
        config["mm_vision_tower"] = json!("openai/clip-vit-large-patch14-336")
    });
    let (config, layout) = VilaConfig::read(&dir).expect("config");
    assert_eq!((config.vision.image_size, config.vision.layers, config.tokens_per_image()), (336, 24, 576));
    assert_eq!(layout.name(), "llava");
    assert!(refused(&dir).contains("clip-vit-large-patch14-336"));

    let dir = llava_apart("llava-projector");
    std::fs::remove_file(dir.join("mm_projector.bin")).expect("remove");
    let said = refused(&dir);
    assert!(said.contains("mm_projector.bin") && said.contains("put the projector there"), "{said}");

    let dir = llava_apart("llava-weights");
    std::fs::remove_file(dir.join("pytorch_model.bin.index.json")).expect("remove");
    let said = refused(&dir);
    assert!(said.contains("has no weights") && said.contains("pytorch_model.bin.index.json"), "{said}");

    edit_json(&dir.join("config.json"), |config| config["mm_vision_tower"] = Value::Null);
    assert!(refused(&dir).contains("mm_vision_tower"));
    edit_json(&dir.join("config.json"), |config| config["model_type"] = json!("mpt"));
    assert!(refused(&dir).contains("LLaVA-1.5"));
}

#[test]
fn all_tensors_that_do_not_fit_are_listed_with_the_nearest_name() {
    let dir = folder("llava-hf-wrong");
    copy(&layouts().join("llava-hf"), &dir);
    let path = dir.join("model.safetensors");
    let mut tensors = renamed(&path, |name| name.replace("layers.1.mlp.up_proj", "layers.1.mlp.up_projection"));
    tensors.remove("language_model.model.norm.weight");
    if let Some(bias) = tensors.get_mut("multi_modal_projector.linear_1.bias") {
        bias.shape = vec![4, 8];
    }
    let ints = RawTensor { dtype: Dtype::I32, shape: vec![32], data: vec![0; 128] };
    tensors.insert("multi_modal_projector.linear_2.bias".into(), ints);
    write_weights(&path, &tensors);
    let said = refused(&dir);
    for part in [
        "missing: llm.model.layers.1.mlp.up_proj.weight [64, 32] (there is llm.model.layers.1.mlp.up_projection.weight)",
        "missing: llm.model.norm.weight [32]\n",
        "shape of mm_projector.layers.0.bias: file [4, 8], model [32]",
        "type of mm_projector.layers.2.bias: I32",
        "not in the model: llm.model.layers.1.mlp.up_projection.weight",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn files_of_torch_save_hold_what_was_saved() {
    let path = layouts().join("files/odd.pt");
    let tensors = renamed(&path, str::to_string);
    let floats = |name: &str| to_f32(&tensors[name]).expect("floats");
    let base: Vec<f32> = (0..24u8).map(f32::from).collect();
    assert_eq!((floats("view"), &tensors["view"].shape[..]), (base[6..18].to_vec(), &[3, 4][..]));
    assert_eq!((floats("tied"), floats("tied_again")), (base.clone(), base.clone()));
    assert_eq!((floats("one"), &tensors["one"].shape[..]), (vec![3.0], &[1, 1, 1][..]));
    assert_eq!((floats("scalar"), &tensors["scalar"].shape[..]), (vec![-2.5], &[][..]));
    assert_eq!((floats("none"), &tensors["none"].shape[..]), (vec![], &[0, 5][..]));
    assert_eq!((floats("bf16"), floats("parameter")), (vec![1.0, 3.0], vec![0.5]));
    let raw = |name: &str| (tensors[name].dtype, tensors[name].data.clone());
    assert_eq!(raw("f64"), (Dtype::F64, [1.5f64, -2.0].map(f64::to_le_bytes).concat()));
    assert_eq!(raw("i64"), (Dtype::I64, [-1i64, 1 << 40].map(i64::to_le_bytes).concat()));
    assert_eq!(raw("i32"), (Dtype::I32, (-7i32).to_le_bytes().to_vec()));
    assert_eq!(raw("i16"), (Dtype::I16, 300i16.to_le_bytes().to_vec()));
    assert_eq!((raw("i8"), raw("u8")), ((Dtype::I8, vec![0x80, 0x7f]), (Dtype::U8, vec![0xff])));
    assert_eq!(raw("bool"), (Dtype::BOOL, vec![1, 0]));
    assert_eq!(tensors.len(), 15);

    let nested = renamed(&layouts().join("files/nested.pt"), str::to_string);
    assert_eq!((nested.len(), to_f32(&nested["w"])), (1, Some(vec![1.0, 1.0])));
    for (name, part) in [
        ("transposed.pt", ".contiguous()"),
        ("legacy.bin", "before PyTorch 1.6"),
        ("module.pt", "torch.nn.modules.linear.Linear"),
    ] {
        let path = layouts().join("files").join(name);
        let said = parse(&path, &std::fs::read(&path).expect("file")).expect_err("refused").to_string();
        assert!(said.contains(part), "{name}: {said}");
    }
}
