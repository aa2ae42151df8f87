//! What a run survives: kills, full disks, damaged checkpoints, numbers that are not finite. The campaign is long, so `.ci/run`
//! asks for it: `cargo test -p vila-tests faults -- --ignored`. `VILA_DRILL_SEED` draws other moments.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use vila_engine::philox::Stream;
use vila_train::faults;

use crate::child::command;
use crate::training::{interrupt, outcome, scratch, text, wait_for_steps, write_recipe};

/// Three stages in less than a second, saved every five steps.
const DRILL: [&str; 6] = [
    "stage.text.steps=12",
    "stage.align.steps=12",
    "stage.pretrain.steps=12",
    "stage.text.validate_every=6",
    "checkpoint.every=5",
    "checkpoint.permanent=10",
];

struct Drill {
    dir: PathBuf,
    recipe: PathBuf,
    wanted: Vec<(String, Vec<u8>)>,
    runs: usize,
}

impl Drill {
    fn new(name: &str) -> Self {
        let dir = scratch(name);
        let recipe = write_recipe(&dir);
        let mut drill = Drill { dir, recipe, wanted: Vec::new(), runs: 0 };
        let whole = drill.out();
        drill.finishes(&whole);
        drill.wanted = outcome(&whole);
        drill
    }

    /// A folder for one more run.
    fn out(&mut self) -> PathBuf {
        self.runs += 1;
        self.dir.join(format!("run{}", self.runs))
    }

    fn spawn(&self, out: &Path, fault: &str, sets: &[&str]) -> Child {
        let mut arguments = vec!["train", text(&self.recipe), "--out", text(out)];
        DRILL.iter().chain(sets).for_each(|set| arguments.extend(["--set", *set]));
        command(&arguments).env("VILA_FAULT", fault).spawn().expect("child")
    }

    /// Exit code, if the process was not killed, and stderr.
    fn run(&self, out: &Path, fault: &str, sets: &[&str]) -> (Option<i32>, String) {
        let output = self.spawn(out, fault, sets).wait_with_output().expect("child");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn finishes(&self, out: &Path) {
        let (code, log) = self.run(out, "", &[]);
        assert_eq!(code, Some(0), "{log}");
    }

    /// The same command again must end as the undisturbed run did, byte for byte.
    fn continues(&self, out: &Path, what: &str) {
        self.finishes(out);
        for ((name, want), (_, got)) in self.wanted.iter().zip(outcome(out)) {
            assert!(*want == got, "{name} differs after {what}");
        }
        let leftovers: Vec<String> =
            names(&out.join("checkpoints")).into_iter().filter(|n| n.starts_with('.')).collect();
        assert!(leftovers.is_empty(), "{leftovers:?} after {what}");
        std::fs::remove_dir_all(out).expect("remove");
    }

    /// Runs with a fault; whether it struck.
    fn strike(&mut self, fault: &str, ends: impl Fn(Option<i32>, &str) -> bool) -> bool {
        let out = self.out();
        let (code, log) = self.run(&out, fault, &[]);
        if code == Some(0) {
            std::fs::remove_dir_all(out).expect("remove");
            return false;
        }
        assert!(ends(code, &log), "{fault} ended with {code:?}:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.continues(&out, fault);
        true
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("directory");
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

fn killed(code: Option<i32>, _: &str) -> bool {
    code.is_none()
}

fn disk_full(code: Option<i32>, log: &str) -> bool {
    code == Some(1) && log.contains("no storage space")
}

fn seed() -> u64 {
    std::env::var("VILA_DRILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "long: part of the campaign"]
fn killed_at_every_named_point() {
    let (mut drill, mut random) = (Drill::new("drill-kill"), Stream::new(seed(), 1));
    for point in faults::POINTS {
        let mut times: Vec<usize> = vec![1, 2];
        times.extend((0..3).map(|_| 3 + random.below(if point == faults::SAVE_WRITE { 90 } else { 20 })));
        let struck = times.iter().filter(|at| drill.strike(&format!("{point}#{at}=kill"), killed)).count();
        // Only a run that replaces a checkpoint of the same name comes there.
        assert!(struck > 0 || point == faults::SAVE_DISPLACE, "{point} was never passed");
    }
}

#[test]
#[ignore = "long: part of the campaign"]
fn killed_while_a_checkpoint_is_replaced() {
    let mut drill = Drill::new("drill-displace");
    // Dead before `latest` moved: the next run goes on from the checkpoint before and saves the same name again. At stage ends
    // alone, since a save inside a stage waits until the one before is written.
    let sets = ["checkpoint.every=0"];
    for point in [faults::SAVE_DISPLACE, faults::SAVE_RENAME, faults::SAVE_LATEST] {
        let out = drill.out();
        let (code, log) = drill.run(&out, &format!("{}#2=kill", faults::SAVE_LATEST), &sets);
        assert_eq!(code, None, "{log}");
        let (code, log) = drill.run(&out, &format!("{point}=kill"), &sets);
        assert_eq!(code, None, "{point}: {log}");
        drill.continues(&out, point);
    }
}

#[test]
#[ignore = "long: part of the campaign"]
fn killed_at_seeded_times() {
    let (mut drill, mut random) = (Drill::new("drill-times"), Stream::new(seed(), 2));
    let mut alive = 0;
    for attempt in 0..10 {
        let out = drill.out();
        let mut child = drill.spawn(&out, "", &[]);
        wait_for_steps(&out, random.below(28), &mut child);
        std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
        interrupt(&mut child, "-KILL");
        alive += usize::from(child.wait_with_output().expect("child").status.code().is_none());
        drill.continues(&out, &format!("kill {attempt}"));
    }
    assert!(alive >= 5, "only {alive} of 10 runs were still under way");
}

#[test]
#[ignore = "long: part of the campaign"]
fn disk_full_at_every_write() {
    let mut drill = Drill::new("drill-full");
    for point in faults::POINTS.into_iter().filter(|point| point.starts_with("save") || point.starts_with("metrics")) {
        // Every write of the first saves, then every seventh: until there are no more.
        let mut at = 1;
        while drill.strike(&format!("{point}#{at}=enospc"), disk_full) {
            at += if at < 30 { 1 } else { 7 };
        }
        assert!(at > 1 || point == faults::SAVE_DISPLACE, "{point} was never passed");
    }
}

#[test]
#[ignore = "long: part of the campaign"]
fn newest_checkpoint_damaged() {
    let (mut drill, mut random) = (Drill::new("drill-damage"), Stream::new(seed(), 3));
    let out = drill.out();
    assert_eq!(drill.run(&out, &format!("{}#5=kill", faults::SAVE_DONE), &[]).0, None);
    let newest = std::fs::canonicalize(out.join("latest")).expect("latest");
    let files = files_below(&newest);
    assert!(files.len() >= 12, "{files:?}");
    for file in &files {
        for damage in ["flip", "cut", "remove"] {
            let copy = drill.out();
            copy_dir(&out, &copy);
            let path = copy.join(newest.strip_prefix(std::fs::canonicalize(&out).expect("path")).expect("inside"));
            let path = path.join(file);
            let mut bytes = std::fs::read(&path).expect("file");
            std::fs::remove_file(&path).expect("remove");
            let at = random.below(bytes.len());
            match damage {
                "flip" => bytes[at] ^= 1 << random.below(8),
                "cut" => bytes.truncate(at),
                _ => bytes.clear(),
            }
            if damage != "remove" {
                std::fs::write(&path, bytes).expect("file");
            }
            let (code, log) = drill.run(&copy, "", &[]);
            assert_eq!(code, Some(0), "{log}");
            let what = format!("{damage} of {file}");
            // What other checkpoints hold, too, is repaired from there.
            let noticed =
                ["is damaged and passed over", "was damaged and is repaired"].iter().any(|said| log.contains(said));
            assert!(noticed, "{what} went unnoticed:\n{log}");
            drill.continues(&copy, &what);
        }
    }
    // Damaged while it was written, behind the program's back.
    for at in [3, 20, 40, 36 + random.below(12)] {
        let fault = format!("{}#{at}=damage,{}#4=kill", faults::SAVE_WRITE, faults::SAVE_DONE);
        assert!(drill.strike(&fault, killed), "{fault}");
    }
    // Nothing whole is left: the run begins again only when it is told to.
    let copy = drill.out();
    copy_dir(&out, &copy);
    for checkpoint in names(&copy.join("checkpoints")) {
        let path = copy.join("checkpoints").join(checkpoint).join("trainer/moments.safetensors");
        std::fs::write(path, "nothing").expect("file");
    }
    let (code, log) = drill.run(&copy, "", &[]);
    assert!(code == Some(1) && log.contains("no checkpoint of the run is whole"), "{code:?}: {log}");
    let mut arguments = vec!["train", text(&drill.recipe), "--out", text(&copy), "--restart"];
    DRILL.iter().for_each(|set| arguments.extend(["--set", *set]));
    assert!(command(&arguments).output().expect("child").status.success());
    drill.continues(&copy, "damage to all checkpoints");
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            files.extend(files_below(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            files.push(name);
        }
    }
    files.sort();
    files
}

/// Links as links, and no file shared.
fn copy_dir(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

#[test]
#[ignore = "long: part of the campaign"]
fn stopped_during_a_save() {
    let mut drill = Drill::new("drill-term");
    for at in [2, 14, 40, 61] {
        let out = drill.out();
        let mut child = drill.spawn(&out, &format!("{}#{at}=slow", faults::SAVE_WRITE), &[]);
        let partial = || names(&out.join("checkpoints")).iter().any(|name| name.starts_with(".partial"));
        while child.try_wait().expect("wait").is_none() && !(out.join("checkpoints").exists() && partial()) {
            std::thread::sleep(Duration::from_micros(200));
        }
        interrupt(&mut child, "-TERM");
        let code = child.wait_with_output().expect("child").status.code();
        assert!(code == Some(143) || code == Some(0), "SIGTERM during a save ended the run with {code:?}");
        drill.continues(&out, "SIGTERM during a save");
    }
}

#[test]
fn a_nan_once_costs_nothing() {
    let (mut drill, mut random) = (Drill::new("drill-nan"), Stream::new(seed(), 4));
    for _ in 0..3 {
        let fault = format!("{}#{}=nan", faults::STEP_LOSS, 1 + random.below(36));
        let stopped = |code, log: &str| code == Some(1) && log.contains("stopped before the update");
        assert!(drill.strike(&fault, stopped), "{fault}");
    }
}

/// Steps of the metrics, those passed over apart.
fn lines(out: &Path) -> (Vec<serde_json::Value>, Vec<serde_json::Value>) {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["step"].clone());
    lines.partition(|step| step["skipped"].is_null())
}

#[test]
fn a_skipped_step_is_as_if_its_documents_were_not_there() {
    let mut drill = Drill::new("drill-skip");
    for (fault, sets) in [
        ("step.loss#9=nan,step.loss#20=nan", vec!["on_nonfinite=skip"]),
        (
            "step.loss#9=spike,step.loss#20=spike",
            vec!["loss_spike.window=4", "loss_spike.z=50.0", "loss_spike.action=skip"],
        ),
    ] {
        let (skipping, omitting) = (drill.out(), drill.out());
        let (code, log) = drill.run(&skipping, fault, &sets);
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.matches("is skipped").count(), 2, "{log}");
        // The ninth of the first stage; with twelve steps and one skipped there, the seventh of the second.
        let (code, log) = drill.run(&omitting, "", &["stage.text.omit=[9]", "stage.align.omit=[7]"]);
        assert_eq!(code, Some(0), "{log}");
        let ((steps, skipped), (wanted, none)) = (lines(&skipping), lines(&omitting));
        assert_eq!((skipped.len(), none.len()), (2, 0));
        assert_eq!(steps, wanted);
        let weights = |out: &Path| outcome(out).into_iter().take(4).collect::<Vec<_>>();
        assert!(weights(&skipping) == weights(&omitting), "{fault}: weights differ");
        assert!(weights(&skipping) != drill.wanted[..4], "{fault}: nothing was left out");
    }
}

#[test]
fn a_run_that_skips_is_resumed_with_what_it_skipped() {
    let mut drill = Drill::new("drill-skip-resume");
    let sets = ["on_nonfinite=skip"];
    let [whole, stopped] = [drill.out(), drill.out()];
    assert_eq!(drill.run(&whole, "step.loss#4=nan", &sets).0, Some(0));
    // Killed when the skipped step lies before the newest checkpoint.
    let fault = format!("step.loss#4=nan,{}=kill", faults::SAVE_DONE);
    assert_eq!(drill.run(&stopped, &fault, &sets).0, None);
    assert_eq!(drill.run(&stopped, "", &sets).0, Some(0));
    assert!(outcome(&whole)[..4] == outcome(&stopped)[..4]);
    assert_eq!(lines(&stopped).1.len(), 1);
}

#[test]
fn too_many_skipped_steps_stop_the_run() {
    let mut drill = Drill::new("drill-skip-many");
    let out = drill.out();
    let fault: Vec<String> = (3..6).map(|at| format!("step.loss#{at}=nan")).collect();
    let (code, log) = drill.run(&out, &fault.join(","), &["on_nonfinite=skip", "max_skipped=2"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("3 steps of the run were skipped") && log.contains("max_skipped"), "{log}");
}

#[test]
fn a_checkpoint_of_another_version_is_left_alone() {
    let mut drill = Drill::new("drill-version");
    let out = drill.out();
    assert_eq!(drill.run(&out, &format!("{}=kill", faults::SAVE_DONE), &[]).0, None);
    let trainer = out.join("latest/trainer");
    // As the first version wrote it: no manifest.
    std::fs::remove_file(trainer.join("manifest.json")).expect("manifest");
    let state = std::fs::read_to_string(trainer.join("state.json")).expect("state");
    std::fs::write(trainer.join("state.json"), state.replacen("\"version\":2", "\"version\":1", 1)).expect("state");
    let before = files_below(&out);
    let (code, log) = drill.run(&out, "", &[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("has version 1") && log.contains("--restart"), "{log}");
    assert_eq!(files_below(&out), before);
}

#[test]
fn a_loss_spike_is_warned_of() {
    let mut drill = Drill::new("drill-spike");
    let out = drill.out();
    let (code, log) = drill.run(&out, "step.loss#8=spike", &["loss_spike.window=4", "loss_spike.z=50.0"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("standard deviations above the last 4"), "{log}");
    assert_eq!(lines(&out).0.len(), 36);
}

#[test]
fn a_time_limit_saves_in_time() {
    let mut drill = Drill::new("drill-limit");
    let out = drill.out();
    let mut arguments = vec!["train", text(&drill.recipe), "--out", text(&out), "--time-limit", "4s"];
    let sets = [&DRILL[1..], &["stage.text.steps=1000000"]].concat();
    sets.iter().for_each(|set| arguments.extend(["--set", *set]));
    let output = command(&arguments).output().expect("child");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(143), "{log}");
    let state = vila_train::checkpoint::load_state(&out.join("latest")).expect("state");
    assert!(state.step > 10, "{state:?}");
}
