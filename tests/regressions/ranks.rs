//! Ranks that differ, meet the wrong ones, or are too many.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vila_engine::{Backend, CpuBackend};
use vila_train::ranks::threads;
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train_as};

use crate::child::command;
use crate::training::{scratch, text, write_recipe};

const SHORT: [&str; 4] = ["stage.text.steps=2", "stage.align.steps=2", "stage.pretrain.steps=2", "ranks.bucket=3000"];

/// Trains on two ranks whose recipes differ by `sets` of rank 1; what each ends with.
fn differing(dir: &Path, sets: &[&str]) -> Vec<String> {
    let path = write_recipe(dir);
    let read = |sets: &[&str]| {
        let sets: Vec<String> = SHORT.iter().chain(sets).map(|set| set.to_string()).collect();
        let mut recipe = Recipe::read(&path, &sets).expect("recipe");
        recipe.out = dir.join("run");
        recipe
    };
    let recipes = [read(&[]), read(sets)];
    std::thread::scope(|scope| {
        let ranks: Vec<_> = threads(2)
            .expect("ranks")
            .into_iter()
            .zip(&recipes)
            .map(|(rank, recipe)| {
                let path = &path;
                scope.spawn(move || {
                    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::fast());
                    train_as(recipe, path, cpu, &RunOptions::default(), &rank)
                        .map_or_else(|e| e.to_string(), |_| "".into())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

#[test]
fn ranks_of_other_recipes() {
    let dir = scratch("regressions-ranks-recipes");
    for (set, key) in [
        ("stage.text.lr=0.5", "stage.text.lr"),
        ("seed=7", "seed"),
        ("stage.align.weight_decay=0.3", "stage.align.weight_decay"),
        ("stage.text.betas=[0.8, 0.9]", "stage.text.betas"),
        ("stage.text.data={ pairs = 1.0 }", "stage.text.data.pairs"),
        ("sources.text.hold_out=3", "sources.text.hold_out"),
        ("model.llm.hidden_size=64", "model.llm.hidden_size"),
        ("ranks.bucket=5000", "ranks.bucket"),
        ("ranks.zero=false", "ranks.zero"),
        ("model.precision=bf16", "model.precision"),
        ("model.moments=bf16", "model.moments"),
        ("checkpoint.every=1", "checkpoint.every"),
    ] {
        for said in differing(&dir, &[set]) {
            assert!(said.starts_with("rank 1 has ") && said.contains(key), "{set}: {said}");
            assert!(said.contains("rank 0 has "), "{set}: {said}");
        }
        let checkpoints = dir.join("run").join("checkpoints");
        assert!(!checkpoints.exists(), "{set}: something was trained");
    }
    assert_eq!(differing(&dir, &["loader.workers=3"]), ["", ""]);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port").port()
}

/// `vila train` as one of two processes that meet at `port` of this machine; `home` keeps the secret.
fn rank(recipe: &Path, out: &Path, home: &Path, port: u16, rank: usize, sets: &[&str]) -> Child {
    rank_in(Path::new("."), recipe, out, home, port, rank, sets)
}

fn rank_in(folder: &Path, recipe: &Path, out: &Path, home: &Path, port: u16, rank: usize, sets: &[&str]) -> Child {
    let mut arguments = vec!["train", text(recipe), "--out", text(out), "--device", "cpu"];
    arguments.extend(SHORT.iter().chain(sets).flat_map(|set| ["--set", set]));
    let mut command = command(&arguments);
    // The port after `MASTER_PORT` is used.
    let (rank, port) = (rank.to_string(), (port - 1).to_string());
    command.current_dir(folder).env_remove("XDG_CONFIG_HOME").env("HOME", home).env("RAYON_NUM_THREADS", "1");
    command.envs([("RANK", rank.as_str()), ("WORLD_SIZE", "2"), ("LOCAL_RANK", &rank)]);
    command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("child")
}

/// The exit code and what was said, or a failure after a minute.
fn ended(mut child: Child) -> (i32, String) {
    let start = Instant::now();
    while child.try_wait().expect("child").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("child");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn prepared(name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let dir = scratch(name);
    let recipe = write_recipe(&dir);
    let home = dir.join("home");
    std::fs::create_dir_all(&home).expect("home");
    (dir, recipe, home)
}

#[test]
fn processes_with_another_rate_name_it() {
    let (dir, recipe, home) = prepared("regressions-ranks-rate");
    let (out, port) = (dir.join("run"), free_port());
    let rates: [&[&str]; 2] = [&[], &["stage.text.lr=0.5"]];
    let children = [0, 1].map(|index| rank(&recipe, &out, &home, port, index, rates[index]));
    for (code, said) in children.map(ended) {
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("rank 1 has stage.text.lr = 0.5, rank 0 has "), "{said}");
    }
}

/// Each machine has a folder of its own, with the same recipe in it.
#[test]
fn ranks_of_other_data() {
    let (dir, recipe, home) = prepared("regressions-ranks-data");
    let written = std::fs::read_to_string(&recipe).expect("recipe");
    let line = written.lines().find(|line| line.contains("/text.jsonl")).expect("a source").trim();
    let documents = line.split('"').nth(1).expect("a path");
    let lines = std::fs::read_to_string(documents).expect("documents");
    let (out, port) = (dir.join("run"), free_port());
    let children = [0, 1].map(|index| {
        let machine = dir.join(format!("machine{index}"));
        std::fs::create_dir_all(&machine).expect("folder");
        std::fs::write(machine.join("recipe.toml"), written.replace(documents, "text.jsonl")).expect("recipe");
        let own: String = lines.lines().skip(index).map(|line| format!("{line}\n")).collect();
        std::fs::write(machine.join("text.jsonl"), own).expect("documents");
        rank_in(&machine, Path::new("recipe.toml"), &out, &home, port, index, &[])
    });
    for (code, said) in children.map(ended) {
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("rank 1 has the data of sources.text, whose hash = "), "{said}");
    }
}

#[test]
fn ranks_of_other_weights() {
    let (dir, recipe, home) = prepared("regressions-ranks-weights");
    let written = std::fs::read_to_string(&recipe).expect("recipe");
    let (before, rest) = written.split_once("[model]").expect("a model");
    let (_, after) = rest.split_once("[sources.text]").expect("sources");
    let from = format!("{before}[model]\nfrom = \"base\"\n[sources.text]{after}");
    let (out, port) = (dir.join("run"), free_port());
    let children = [0, 1].map(|index| {
        let machine = dir.join(format!("machine{index}"));
        std::fs::create_dir_all(&machine).expect("folder");
        let sets: Vec<String> = SHORT.iter().map(|set| set.to_string()).chain([format!("seed={index}")]).collect();
        let mut trained = Recipe::read(&recipe, &sets).expect("recipe");
        trained.out = machine.join("trained");
        let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::fast());
        let report = vila_train::run::train(&trained, &recipe, cpu, &RunOptions::default()).expect("a base model");
        std::fs::rename(report.checkpoint, machine.join("base")).expect("base");
        std::fs::write(machine.join("recipe.toml"), &from).expect("recipe");
        rank_in(&machine, Path::new("recipe.toml"), &out, &home, port, index, &[])
    });
    for (code, said) in children.map(ended) {
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("rank 1 has weights ") && said.contains("whose checksum = "), "{said}");
    }
}

#[test]
fn ranks_of_two_jobs_on_one_port() {
    let (dir, recipe, home) = prepared("regressions-ranks-jobs");
    let (first, second, port) = (dir.join("first"), dir.join("second"), free_port());
    let children =
        [rank(&recipe, &first, &home, port, 0, &[]), rank(&recipe, &second, &home, port, 1, &["stage.text.lr=0.5"])];
    for (code, said) in children.map(ended) {
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(text(&first)) && said.contains(text(&second)), "{said}");
    }
    assert!(!first.join("checkpoints").exists() && !second.join("checkpoints").exists());
}

#[test]
fn rendezvous_strangers() {
    let (dir, recipe, home) = prepared("regressions-ranks-strangers");
    let (out, port) = (dir.join("run"), free_port());
    let mut first = rank(&recipe, &out, &home, port, 0, &[]);
    let mut silent = Vec::new();
    let start = Instant::now();
    while silent.len() < 45 {
        assert!(first.try_wait().expect("child").is_none() && start.elapsed() < Duration::from_secs(60));
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => silent.push(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    let mut loud = TcpStream::connect(("127.0.0.1", port)).expect("call");
    loud.write_all(b"vilaRNK1").expect("eight public bytes");
    let second = rank(&recipe, &out, &home, port, 1, &[]);
    for (code, said) in [first, second].map(ended) {
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn too_many_ranks() {
    let (dir, recipe, _) = prepared("regressions-ranks-many");
    let out = dir.join("run");
    let run = |ranks: &str, variables: &[(&str, &str)]| {
        let start = Instant::now();
        let mut command = command(&["train", text(&recipe), "--out", text(&out), "--device", "cpu", "--ranks", ranks]);
        let child = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().expect("child");
        let (code, said) = ended(child);
        assert!(code != 0 && start.elapsed() < Duration::from_secs(60), "{:?}: {said}", start.elapsed());
        said
    };
    let most = (8 * std::thread::available_parallelism().expect("cores").get()).to_string();
    for ranks in [vila_train::ranks::most_threads() + 1, 100_000_000_000] {
        let said = run(&ranks.to_string(), &[]);
        assert!(said.contains(&format!("--ranks {ranks}")) && said.contains(&most), "{said}");
    }
    let address = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];
    for (rank, world) in [("0", "100000000000"), ("5", "2"), ("x", "2"), ("0", "two")] {
        let said = run("1", &[&[("RANK", rank), ("WORLD_SIZE", world)][..], &address].concat());
        assert!(said.contains("RANK") || said.contains("WORLD_SIZE"), "{said}");
    }
    assert!(!out.exists());
}

#[test]
fn slurm_batch_step() {
    let (dir, recipe, _) = prepared("regressions-ranks-slurm");
    let out = dir.join("run");
    let mut arguments = vec!["train", text(&recipe), "--out", text(&out), "--device", "cpu"];
    arguments.extend(SHORT.iter().flat_map(|set| ["--set", set]));
    let mut command = command(&arguments);
    command.envs([("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")]);
    command.env_remove("SLURM_STEP_ID").env_remove("SLURM_STEPID");
    let (code, said) = ended(command.stderr(Stdio::piped()).spawn().expect("child"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("SLURM has 4 tasks") && said.contains("one process"), "{said}");
}
