//! `recipes/device-test.toml`, every stage of it, on the device beside the CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vila_engine::{Backend, CpuBackend};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};

use crate::nvrtc;
use crate::training::{scratch, world};

/// The recipe with its corpora, ready to run into `dir`.
fn recipe(dir: &Path, precision: &str) -> (Recipe, PathBuf) {
    std::fs::create_dir_all(dir).expect("directory");
    let path = dir.join("recipe.toml");
    std::fs::write(&path, include_str!("../recipes/device-test.toml")).expect("recipe");
    if !dir.join("corpus").exists() {
        std::os::unix::fs::symlink(world(), dir.join("corpus")).expect("corpus");
    }
    (Recipe::read(&path, &[format!("model.precision={precision}")]).expect("recipe"), path)
}

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["step"].clone()).collect()
}

fn run(dir: &Path, precision: &str, backend: Arc<dyn Backend>) -> Vec<f64> {
    let (recipe, path) = recipe(dir, precision);
    train(&recipe, &path, backend, &RunOptions::default()).expect("run");
    lines(dir).iter().map(|step| step["loss"].as_f64().expect("loss")).collect()
}

fn losses_agree(precision: &str, tolerance: f64) {
    let Some(device) = nvrtc::device() else { return };
    let dir = scratch(&format!("device-{precision}"));
    let cpu = run(&dir.join("cpu"), precision, Arc::new(CpuBackend::fast()));
    let ours = run(&dir.join("device"), precision, device);
    assert_eq!((cpu.len(), ours.len()), (15, 15));
    for (index, (got, want)) in ours.iter().zip(&cpu).enumerate() {
        assert!((got - want).abs() <= tolerance * want, "{precision} step {index}: loss {got}, on the CPU {want}");
    }
}

#[test]
fn losses_in_f32_are_those_of_the_cpu() {
    losses_agree("f32", 1e-3);
}

#[test]
fn losses_in_bf16_are_those_of_the_cpu() {
    losses_agree("bf16", 2e-2);
}

/// Weights and moments at the end of a run, and its steps.
fn outcome(dir: &Path) -> Vec<Vec<u8>> {
    let files = ["llm/model.safetensors", "mm_projector/model.safetensors", "trainer/moments.safetensors"];
    let mut all: Vec<Vec<u8>> =
        files.iter().map(|file| std::fs::read(dir.join("latest").join(file)).expect("file")).collect();
    all.push(format!("{:?}", lines(dir)).into_bytes());
    all
}

#[test]
fn a_second_run_and_a_resumed_one_give_the_same_bits() {
    let Some(device) = nvrtc::device() else { return };
    let dir = scratch("device-twice");
    run(&dir.join("first"), "bf16", Arc::clone(&device));
    let wanted = outcome(&dir.join("first"));

    let stopped = dir.join("stopped");
    let (recipe, path) = recipe(&stopped, "bf16");
    let options = RunOptions::default();
    let stop = Arc::clone(&options.stop);
    std::thread::scope(|scope| {
        let watched = stopped.clone();
        scope.spawn(move || {
            let logged =
                || std::fs::read_to_string(watched.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
            while logged() < 7 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            stop.store(15, Ordering::Relaxed);
        });
        let report = train(&recipe, &path, Arc::clone(&device), &options).expect("run");
        assert_eq!(report.stopped_by, Some(15));
    });
    assert!((7..15).contains(&lines(&stopped).len()));
    train(&recipe, &path, device, &RunOptions::default()).expect("resumed");
    assert!(outcome(&stopped) == wanted, "the resumed run differs");
}
