//! Adapters that the `peft` package wrote (`tests/scripts/make_adapters.py`), merged into layouts of their base.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{copy, fixtures, folder, layouts, score_apart};
use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::{Error, Result, Vila};

fn load(dir: &Path) -> Vila {
    Vila::load_in_memory(dir, Arc::new(CpuBackend::fast())).expect("load")
}

fn adapters() -> PathBuf {
    fixtures().join("adapters")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("file")).expect("json")
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("list").iter().map(|value| value.as_f64().expect("number")).collect()
}

/// The largest distance of a model's scores from those of a golden file's rows.
fn distance(vila: &Vila, rows: &Value) -> f64 {
    let mut worst = 0.0f64;
    for row in rows.as_array().expect("rows") {
        let images = row["images"].as_array().expect("images").iter();
        let images: Vec<PathBuf> = images.map(|i| fixtures().join("images").join(i.as_str().expect("name"))).collect();
        let text = |field: &str| row[field].as_str().expect("text");
        let got = score_apart(vila, text("prompt"), text("continuation"), &images).token_logprobs;
        let want = numbers(&row["token_logprobs"]);
        assert_eq!(got.len(), want.len());
        worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(worst, f64::max);
    }
    worst
}

#[test]
fn merged_adapters_score_as_peft_does() {
    let golden = read_json(&adapters().join("results.json"));
    for layout in ["vila", "llava-hf"] {
        for name in ["plain", "patterns"] {
            let vila = load(&layouts().join(layout));
            assert!(distance(&vila, &golden[name]) > 0.1, "{name} changes nothing");
            vila.merge_adapter(&adapters().join(name)).expect("merge");
            let error = distance(&vila, &golden[name]);
            assert!(error <= 1e-4, "{name} in {layout}: {error:e}");
        }
    }
}

/// An adapter whose configuration was edited.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> PathBuf {
    let dir = folder(name);
    copy(&adapters().join("plain"), &dir);
    let path = dir.join("adapter_config.json");
    let mut config = read_json(&path);
    edit(&mut config);
    std::fs::write(path, config.to_string()).expect("write");
    dir
}

fn refused(result: Result<()>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn adapters_of_other_models_are_refused_and_change_nothing() {
    let golden = read_json(&layouts().join("results.json"));
    let vila = load(&layouts().join("llava-hf"));
    let other = load(&fixtures().join("tiny-llava-hf"));
    let message = refused(other.merge_adapter(&adapters().join("plain")));
    assert!(message.contains("plain") && message.contains("q_proj.weight: lora_A is [4, 32]"), "{message}");
    let base = edited("adapter-base", |config| config["revision"] = json!("vila-base:0123"));
    let message = refused(vila.merge_adapter(&base));
    assert!(message.contains("made for other weights"), "{message}");
    let message = refused(vila.merge_adapter(&edited("adapter-dora", |config| config["use_dora"] = json!(true))));
    assert!(message.contains("adapter_config.json: field `use_dora` is true"), "{message}");
    let cut = edited("adapter-cut", |_| ());
    let file = cut.join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).expect("file");
    std::fs::write(&file, &bytes[..bytes.len() - 10]).expect("write");
    assert!(matches!(vila.merge_adapter(&cut), Err(Error::Format { .. })));
    std::fs::remove_file(&file).expect("remove");
    assert!(refused(vila.merge_adapter(&cut)).contains("adapter_model.safetensors"));
    assert!(distance(&vila, &golden) <= 1e-4);
}

#[test]
fn a_model_is_saved_whole_and_once() {
    let (vila, dir) = (load(&layouts().join("llava-hf")), folder("saved").join("model"));
    vila.save(&dir).expect("save");
    let golden = read_json(&layouts().join("results.json"));
    assert!(distance(&load(&dir), &golden) <= 1e-4);
    assert!(refused(vila.save(&dir)).contains("is there already"));
}
