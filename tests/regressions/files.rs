//! The program moves and removes only what it made. All of it happens in scratch folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::child::command;
use crate::training::{outcome, scratch, text, write_recipe};

/// Three stages in less than a second, saved every five steps.
const SHORT: [&str; 4] =
    ["stage.text.steps=12", "stage.align.steps=12", "stage.pretrain.steps=12", "checkpoint.every=5"];

struct Run {
    dir: PathBuf,
    recipe: PathBuf,
}

impl Run {
    fn new(name: &str) -> Self {
        let dir = scratch(name);
        let recipe = write_recipe(&dir);
        Run { dir, recipe }
    }

    fn out(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Exit code and stderr.
    fn train(&self, fault: &str, options: &[&str]) -> (Option<i32>, String) {
        self.train_in(&self.out(), fault, options)
    }

    fn train_in(&self, out: &Path, fault: &str, options: &[&str]) -> (Option<i32>, String) {
        let mut arguments = vec!["train", text(&self.recipe), "--out", text(out)];
        SHORT.iter().for_each(|set| arguments.extend(["--set", *set]));
        arguments.extend(options);
        let output = command(&arguments).env("VILA_FAULT", fault).output().expect("child");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn trains(&self, fault: &str, options: &[&str]) -> String {
        let (code, log) = self.train(fault, options);
        assert_eq!(code, if fault.is_empty() { Some(0) } else { None }, "{log}");
        log
    }

    fn refuses(&self, options: &[&str], says: &str) {
        let (code, log) = self.train("", options);
        assert!(code == Some(1) && log.contains(says), "{code:?}, {says:?} is missing in: {log}");
    }
}

/// A folder of somebody's.
fn foreign(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir.join("deep")).expect("folder");
    fs::write(dir.join("notes.txt"), "mine").expect("file");
    fs::write(dir.join("deep/weights.bin"), [7; 100]).expect("file");
    dir.to_path_buf()
}

/// Everything below a folder: files with their bytes, links with their targets.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("folder") {
        let path = entry.expect("entry").path();
        let kind = fs::symlink_metadata(&path).expect("entry").file_type();
        if kind.is_dir() {
            all.extend(contents(&path));
            all.insert(path, Vec::new());
        } else if kind.is_symlink() {
            all.insert(path.clone(), fs::read_link(&path).expect("link").as_os_str().as_encoded_bytes().to_vec());
        } else {
            all.insert(path.clone(), fs::read(&path).expect("file"));
        }
    }
    all
}

fn kept(before: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in before {
        let kind = fs::symlink_metadata(path).unwrap_or_else(|_| panic!("{} is gone", path.display())).file_type();
        let now = match (kind.is_symlink(), kind.is_file()) {
            (true, _) => fs::read_link(path).expect("link").as_os_str().as_encoded_bytes().to_vec(),
            (_, true) => fs::read(path).expect("file"),
            _ => Vec::new(),
        };
        assert!(now == *bytes, "{} has changed", path.display());
    }
}

#[test]
fn checkpoints_folder_deleted() {
    let run = Run::new("files-foreign");
    let out = run.out();
    for name in
        ["checkpoints/base", "checkpoints/mine@5", "checkpoints/.partial-thesis", "tensorboard/mine", "shards/mine"]
    {
        foreign(&out.join(name));
    }
    fs::write(out.join("notes.txt"), "mine").expect("file");
    fs::write(out.join("tensorboard/events.out.tfevents.mine"), "mine").expect("file");
    let before = contents(&out);
    // No run was ever there.
    run.trains("", &["--restart"]);
    kept(&before);
    run.trains("", &[]);
    run.trains("", &["--restart"]);
    kept(&before);
    let checkpoints = || fs::read_dir(out.join("checkpoints")).expect("folder").count();
    let made = checkpoints();
    run.trains("", &["--set", "seed=5", "--restart"]);
    kept(&before);
    assert_eq!(checkpoints(), made, "the old run's checkpoints went, the others stayed");
}

#[test]
fn what_lies_among_a_checkpoints_files_stays() {
    let run = Run::new("files-inside");
    run.trains("save.done#2=kill", &[]);
    let inside = fs::canonicalize(run.out().join("latest")).expect("latest").join("mine");
    let before = contents(&foreign(&inside));
    run.trains("", &[]);
    kept(&before);
    let whole = contents(&run.out());
    run.refuses(&["--restart"], "this program did not write it");
    kept(&whole);
    fs::rename(&inside, run.out().join("mine")).expect("move");
    run.trains("", &["--restart"]);
}

#[test]
fn latest_to_a_foreign_folder() {
    let run = Run::new("files-latest");
    let theirs = foreign(&run.dir.join("theirs"));
    let before = contents(&theirs);
    run.trains("save.done#2=kill", &[]);
    fs::remove_file(run.out().join("latest")).expect("link");
    symlink(&theirs, run.out().join("latest")).expect("link");
    let log = run.trains("", &[]);
    assert!(log.contains("no checkpoint of this run"), "{log}");
    kept(&before);
    assert!(fs::read_link(run.out().join("latest")).expect("link").starts_with("checkpoints"));
}

#[test]
fn latest_as_folder() {
    let run = Run::new("files-copied");
    run.trains("", &[]);
    let wanted = outcome(&run.out());
    for (at, whole) in [(2, true), (4, true), (3, false)] {
        let (first, copy) = (run.dir.join(format!("first{at}")), run.dir.join(format!("copy{at}")));
        assert_eq!(run.train_in(&first, &format!("save.done#{at}=kill"), &[]).0, None);
        let status = std::process::Command::new("cp").arg("-rL").args([&first, &copy]).status().expect("cp");
        assert!(status.success() && fs::symlink_metadata(copy.join("latest")).expect("latest").is_dir());
        if !whole {
            fs::remove_dir_all(copy.join("checkpoints")).expect("remove");
        }
        let (code, log) = run.train_in(&copy, "", &[]);
        assert_eq!(code, Some(0), "{log}");
        assert!(outcome(&copy) == wanted, "the copy went on otherwise");
    }
}

#[test]
fn latest_is_a_directory() {
    let run = Run::new("files-latest-folder");
    let before = contents(&foreign(&run.out().join("latest")));
    run.refuses(&[], "keeps a link to its newest checkpoint");
    kept(&before);
}

#[test]
fn a_stage_named_as_a_foreign_folder() {
    let run = Run::new("files-stage-name");
    let before = contents(&foreign(&run.out().join("checkpoints/pretrain")));
    run.refuses(&[], "is not a checkpoint of this run, but stage `pretrain` would be saved there");
    run.refuses(&["--restart"], "is not a checkpoint of this run");
    kept(&before);
    assert!(!run.out().join("metrics.jsonl").exists(), "it has trained");
}

#[test]
fn links_among_a_runs_files() {
    for name in [".lock", "metrics.jsonl", "samples.jsonl", "checkpoints", "shards", "tensorboard"] {
        let run = Run::new(&format!("files-link-{name}"));
        let theirs = foreign(&run.dir.join("theirs"));
        let is_folder = !name.contains('.');
        let target = if is_folder { theirs.clone() } else { theirs.join("notes.txt") };
        fs::create_dir_all(run.out()).expect("folder");
        symlink(target, run.out().join(name)).expect("link");
        let before = contents(&run.dir);
        for options in [&[][..], &["--restart"]] {
            let (code, log) = run.train("", options);
            assert!(code == Some(1) && log.contains(name), "{name}: {log}");
            kept(&before);
        }
    }
}

#[test]
fn files_of_others_under_a_runs_names() {
    let run = Run::new("files-names");
    fs::create_dir_all(run.out()).expect("folder");
    fs::write(run.out().join("metrics.jsonl"), "{\"mine\": 1}\n").expect("file");
    let before = contents(&run.out());
    run.refuses(&[], "was there before the run");
    run.refuses(&["--restart"], "was there before the run");
    kept(&before);
}

#[test]
fn foreign_files_in_the_place_of_a_runs_own() {
    let run = Run::new("files-replaced");
    run.trains("save.done#1=kill", &[]);
    for (name, text) in [
        ("metrics.jsonl", "mine\n"),
        ("metrics.jsonl", "{\"mine\": 1}\n"),
        ("samples.jsonl", "mine\nmine too\n"),
        ("recipe.hash", "mine\n"),
    ] {
        let path = run.out().join(name);
        let own = fs::read(&path).ok();
        fs::write(&path, text).expect("file");
        let before = contents(&run.out());
        run.refuses(&[], name);
        run.refuses(&["--restart"], name);
        kept(&before);
        own.map_or_else(|| fs::remove_file(&path), |own| fs::write(&path, own)).expect("own file");
    }
    run.trains("", &[]);
}

#[test]
fn a_page_of_documents_in_the_place_of_a_foreign_file() {
    let run = Run::new("files-page");
    run.trains("", &[]);
    let shard = fs::read_dir(run.out().join("shards")).expect("shards").next().expect("a shard").expect("entry").path();
    let page = run.dir.join("page.html");
    let show =
        || command(&["data", "show", text(&shard), "--html", text(&page)]).output().expect("child").status.code();
    assert_eq!((show(), show()), (Some(0), Some(0)));
    fs::write(&page, "mine").expect("file");
    assert_eq!((show(), fs::read(&page).expect("page")), (Some(1), b"mine".to_vec()));
}

/// Flips a bit in the middle of a file where it lies, in all its names.
fn flip(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("file");
    let (middle, mut byte) = (file.metadata().expect("file").len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).expect("read");
    file.write_all_at(&[byte[0] ^ 4], middle).expect("write");
}

#[test]
fn frozen_weights_one_bit() {
    let run = Run::new("files-frozen");
    run.trains("", &[]);
    let wanted = outcome(&run.out());
    let out = run.dir.join("damaged");
    // Saved at the end of the first stage, in which the tower is frozen.
    assert_eq!(run.train_in(&out, "save.done#1=kill", &["--set", "checkpoint.every=0"]).0, None);
    flip(&out.join("latest/vision_tower/model.safetensors"));
    let (code, log) = run.train_in(&out, "", &["--set", "checkpoint.every=0"]);
    assert!(code == Some(0) && log.contains("was damaged and is repaired"), "{log}");
    assert!(outcome(&out) == wanted, "the repaired run went on otherwise");
}

#[test]
fn a_run_never_starts_again_by_itself() {
    let run = Run::new("files-all-damaged");
    run.trains("save.done#3=kill", &[]);
    for entry in fs::read_dir(run.out().join("checkpoints")).expect("folder") {
        flip(&entry.expect("entry").path().join("trainer/moments.safetensors"));
    }
    let before = contents(&run.out());
    run.refuses(&[], "no checkpoint of the run is whole, and none was changed or removed");
    kept(&before);
    run.trains("", &["--restart"]);
}

#[test]
fn a_report_in_the_place_of_a_foreign_page() {
    let run = Run::new("files-report");
    run.trains("", &[]);
    let page = run.out().join("report.html");
    let report = || command(&["report", text(&run.out())]).output().expect("child").status.code();
    fs::write(&page, "<html>mine</html>").expect("file");
    assert_eq!((report(), fs::read(&page).expect("page")), (Some(1), b"<html>mine</html>".to_vec()));
    run.trains("", &["--restart"]);
    assert_eq!(fs::read(&page).expect("page"), b"<html>mine</html>");
    fs::rename(&page, run.dir.join("theirs.html")).expect("move");
    symlink(run.dir.join("theirs.html"), &page).expect("link");
    assert_eq!(
        (report(), fs::read(run.dir.join("theirs.html")).expect("page")),
        (Some(1), b"<html>mine</html>".to_vec())
    );
    fs::remove_file(&page).expect("link");
    assert_eq!((report(), report()), (Some(0), Some(0)));
    run.trains("", &["--restart"]);
    assert!(!page.exists(), "a report of the run before");
}

#[test]
fn a_quickstart_among_foreign_files() {
    for (name, says) in [("corpus/mine.txt", "holds no corpora"), ("recipe.toml", "not written by a quickstart")] {
        let dir = scratch(&format!("files-quickstart-{}", name.len()));
        fs::create_dir_all(dir.join(name).parent().expect("parent")).expect("folder");
        fs::write(dir.join(name), "mine").expect("file");
        let before = contents(&dir);
        for options in [&[][..], &["--restart"]] {
            let arguments = [&["quickstart", "--device", "cpu", "--out", text(&dir)][..], options].concat();
            let output = command(&arguments).output().expect("child");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && log.contains(says), "{log}");
            kept(&before);
        }
    }
}

#[test]
fn conversions_beside_foreign_folders() {
    let dir = scratch("files-convert");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf");
    let to = dir.join("model");
    for name in ["model.partial", ".model.partial-mine"] {
        foreign(&dir.join(name));
    }
    let before = contents(&dir);
    let convert = |to: &Path| {
        let arguments = ["convert", "--from", text(&model), "--to", text(to), "--layout", "vila"];
        command(&arguments).output().expect("child").status.code()
    };
    assert_eq!(convert(&to), Some(0));
    kept(&before);
    let made = contents(&to);
    assert_eq!(convert(&to), Some(1));
    symlink(foreign(&dir.join("theirs")), dir.join("link")).expect("link");
    assert_eq!(convert(&dir.join("link")), Some(1));
    kept(&made);
    kept(&before);
}
