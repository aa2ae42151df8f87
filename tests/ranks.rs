//! Ranks: the same losses on any number, the same bits whatever travels when, and what happens when one goes away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vila_engine::{Backend, CpuBackend};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, RunReport, train_on};

use crate::child::command;
use crate::nvrtc;
use crate::training::{interrupt, outcome, scratch, text, wait_for_steps, write_recipe};

/// 51 steps in three stages, several micro-batches each; gradients travel in several buckets.
const SHORT: [&str; 5] = [
    "stage.text.steps=17",
    "stage.align.steps=17",
    "stage.pretrain.steps=17",
    "stage.text.capacity=128",
    "ranks.bucket=3000",
];

fn recipe(dir: &Path, sets: &[&str]) -> (Recipe, PathBuf) {
    let path = write_recipe(dir);
    let sets: Vec<String> = SHORT.iter().chain(sets).map(|set| set.to_string()).collect();
    (Recipe::read(&path, &sets).expect("recipe"), path)
}

fn cpus(ranks: usize) -> Vec<Arc<dyn Backend>> {
    (0..ranks).map(|_| Arc::new(CpuBackend::fast()) as Arc<dyn Backend>).collect()
}

/// Runs on ranks that are threads; `out` is a folder of its own.
fn run(dir: &Path, out: &str, ranks: usize, sets: &[&str], options: &RunOptions) -> RunReport {
    let (mut recipe, path) = recipe(dir, sets);
    recipe.out = dir.join(out);
    train_on(&recipe, &path, cpus(ranks), options).expect("run")
}

fn whole(dir: &Path, out: &str, ranks: usize, sets: &[&str]) -> PathBuf {
    run(dir, out, ranks, sets, &RunOptions::default());
    dir.join(out)
}

fn steps(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["step"].clone()).collect()
}

/// A number of every step.
fn numbers(run: &Path, key: &str) -> Vec<f64> {
    steps(run).iter().map(|step| step[key].as_f64().unwrap_or_else(|| panic!("{key} in {step}"))).collect()
}

fn losses_agree(got: &Path, want: &Path, tolerance: f64, what: &str) {
    let (got, want) = (numbers(got, "loss"), numbers(want, "loss"));
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: losses differ by {worst:e}");
}

#[test]
fn losses_do_not_depend_on_the_number_of_ranks() {
    let dir = scratch("ranks-losses");
    for (name, model) in [("plain", vec![]), ("tied", vec!["model.llm.tied=true"])] {
        let alone = whole(&dir, &format!("{name}-1"), 1, &model);
        for ranks in [2, 4] {
            for zero in ["true", "false"] {
                let zero_set = format!("ranks.zero={zero}");
                let sets: Vec<&str> = model.iter().copied().chain([zero_set.as_str()]).collect();
                let shared = whole(&dir, &format!("{name}-{ranks}-{zero}"), ranks, &sets);
                let what = format!("{name}, {ranks} ranks, zero {zero}");
                losses_agree(&shared, &alone, 1e-5, &what);
                assert!(numbers(&shared, "micro_batches").iter().any(|&n| n > 1.0), "{what}: nothing accumulates");
            }
            let parts = ["true", "false"].map(|zero| outcome(&dir.join(format!("{name}-{ranks}-{zero}"))));
            assert!(parts[0] == parts[1], "{name}, {ranks} ranks: ZeRO-1 changes bits");
        }
    }
}

#[test]
fn overlap_changes_no_bit() {
    let dir = scratch("ranks-overlap");
    for (name, model) in [("plain", "model.llm.tied=false"), ("tied", "model.llm.tied=true")] {
        for policy in ["none", "block"] {
            let recompute = format!("model.recompute={policy}");
            let [on, off] = ["true", "false"].map(|overlap| {
                let set = format!("ranks.overlap={overlap}");
                outcome(&whole(&dir, &format!("{name}-{policy}-{overlap}"), 2, &[model, &recompute, &set]))
            });
            assert!(on == off, "{name}, recompute {policy}");
        }
    }
}

#[test]
fn bf16_weights_and_moments_are_shared_and_resumed() {
    let dir = scratch("ranks-bf16");
    let short = ["stage.text.steps=3", "stage.align.steps=3", "stage.pretrain.steps=3"];
    let sets: Vec<&str> = short.into_iter().chain(["model.precision=bf16", "model.moments=bf16"]).collect();
    let [zero, plain] = ["true", "false"].map(|zero| {
        let set = format!("ranks.zero={zero}");
        let sets: Vec<&str> = sets.iter().copied().chain([set.as_str()]).collect();
        outcome(&whole(&dir, &format!("zero-{zero}"), 2, &sets))
    });
    assert!(zero == plain);
    // One step at a time: every stage is resumed at every step.
    one_step_at_a_time(&dir, "stepwise", 2, &sets);
    assert!(outcome(&dir.join("stepwise")) == zero);
}

/// Stops after every step and resumes, until the run is over.
fn one_step_at_a_time(dir: &Path, out: &str, ranks: usize, sets: &[&str]) {
    let stopped = RunOptions { stop: Arc::new(AtomicUsize::new(15)), ..RunOptions::default() };
    for _ in 0..200 {
        if run(dir, out, ranks, sets, &stopped).stopped_by.is_none() {
            return;
        }
    }
    panic!("the run does not end");
}

#[test]
fn a_run_changes_its_number_of_ranks() {
    let dir = scratch("ranks-resume");
    let alone = whole(&dir, "alone", 1, &[]);
    for ranks in [4, 1] {
        let out = format!("from-2-to-{ranks}");
        let options = RunOptions::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let log = dir.join(&out).join("metrics.jsonl");
                while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 25 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                options.stop.store(15, Ordering::Relaxed);
            });
            assert_eq!(run(&dir, &out, 2, &[], &options).stopped_by, Some(15));
        });
        let done = steps(&dir.join(&out)).len();
        assert!((25..51).contains(&done), "{done} steps on 2 ranks");
        whole(&dir, &out, ranks, &[]);
        losses_agree(&dir.join(&out), &alone, 1e-5, &out);
    }
}

#[test]
fn documents_come_in_one_order() {
    let dir = scratch("ranks-order");
    let short = ["stage.text.steps=6", "stage.align.steps=6", "stage.pretrain.steps=6"];
    let alone = numbers(&whole(&dir, "alone", 1, &short), "order");
    assert_eq!(alone.len(), 18);
    for ranks in [1, 2, 4] {
        for workers in ["0", "1", "4"] {
            let set = format!("loader.workers={workers}");
            let sets: Vec<&str> = short.into_iter().chain([set.as_str()]).collect();
            let what = format!("{ranks}-ranks-{workers}-workers");
            let whole_run = whole(&dir, &what, ranks, &sets);
            assert_eq!(numbers(&whole_run, "order"), alone, "{what}");
            let stepwise = format!("{what}-stepwise");
            one_step_at_a_time(&dir, &stepwise, ranks, &sets);
            assert_eq!(numbers(&dir.join(&stepwise), "order"), alone, "{stepwise}");
            assert!(outcome(&dir.join(&stepwise)) == outcome(&whole_run), "{stepwise}: bits");
        }
    }
}

#[test]
fn ranks_on_emulated_devices_agree_with_the_cpu() {
    let Some(first) = nvrtc::device() else { return };
    let second = nvrtc::device().expect("a second device");
    let dir = scratch("ranks-device");
    let short = ["stage.text.steps=2", "stage.align.steps=2", "stage.pretrain.steps=2"];
    let alone = whole(&dir, "cpu", 1, &short);
    let (mut recipe, path) = recipe(&dir, &short);
    recipe.out = dir.join("devices");
    train_on(&recipe, &path, vec![first, second], &RunOptions::default()).expect("run");
    losses_agree(&recipe.out, &alone, 1e-3, "two emulated devices");
}

/// `vila train` as one of two processes that meet at a file.
fn rank(recipe: &Path, out: &Path, meeting: &Path, rank: usize) -> Child {
    let mut command: Command = command(&["train", text(recipe), "--out", text(out), "--set", "ranks.bucket=3000"]);
    let variables = [("RANK", rank.to_string()), ("WORLD_SIZE", "2".into()), ("LOCAL_RANK", rank.to_string())];
    command.env("LOCAL_WORLD_SIZE", "2");
    command.envs(variables).env("VILA_RENDEZVOUS", meeting).env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("child")
}

fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("child");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_dead_rank_is_named_and_the_same_command_continues() {
    let dir = scratch("ranks-dead");
    let path = write_recipe(&dir);
    let pair = |out: &Path| [0, 1].map(|index| rank(&path, out, &dir.join("meeting"), index));
    let undisturbed = dir.join("undisturbed");
    for child in pair(&undisturbed) {
        let (code, log) = ended(child);
        assert_eq!(code, 0, "{log}");
    }
    let out = dir.join("disturbed");
    let [mut survivor, mut victim] = pair(&out);
    wait_for_steps(&out, 30, &mut survivor);
    interrupt(&mut victim, "-KILL");
    let killed = Instant::now();
    victim.wait().expect("victim");
    let (code, log) = ended(survivor);
    assert!(killed.elapsed() < Duration::from_secs(30), "noticed after {:?}", killed.elapsed());
    assert_eq!(code, 1, "{log}");
    let step = log.split("rank 1 is gone, its last word was in step ").nth(1).unwrap_or_else(|| panic!("{log}"));
    let step: usize = step.split(':').next().and_then(|step| step.parse().ok()).unwrap_or_else(|| panic!("{log}"));
    assert!((30..=120).contains(&step), "{log}");
    let partial = std::fs::read_dir(out.join("checkpoints")).expect("checkpoints");
    let names: Vec<String> = partial.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    for child in pair(&out) {
        let (code, log) = ended(child);
        assert_eq!(code, 0, "{log}");
    }
    assert!(outcome(&out) == outcome(&undisturbed));
}

#[test]
fn a_rank_that_fails_tells_the_others_why() {
    let dir = scratch("ranks-failing");
    let path = write_recipe(&dir);
    let out = dir.join("run");
    let mut children = [0, 1].map(|index| rank(&path, &out, &dir.join("meeting"), index));
    wait_for_steps(&out, 10, &mut children[0]);
    // A checkpoint cannot be written where its folder is a file.
    std::fs::rename(out.join("checkpoints"), out.join("elsewhere")).expect("rename");
    std::fs::write(out.join("checkpoints"), "").expect("file");
    let [(first, own), (second, told)] = children.map(ended);
    assert_eq!((first, second), (1, 1), "{own}\n{told}");
    assert!(own.contains("could not be saved"), "{own}");
    assert!(told.contains("rank 0 is gone") && told.contains("could not be saved"), "{told}");
}
