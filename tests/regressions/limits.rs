//! Faults that were mended; each test is named after its fault.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::command;
use crate::training::{interrupt, scratch, text, wait_for_steps, world, write_recipe};

/// Exit code and stderr.
fn vila<A: AsRef<OsStr>>(arguments: &[A]) -> (Option<i32>, String) {
    let output = command(arguments).output().expect("child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf")
}

fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images/cat_rgba.png")
}

/// A corpus whose ingestion takes many seconds.
fn long_corpus(dir: &Path) -> PathBuf {
    let path = dir.join("long.jsonl");
    let words = "one two three four five six seven eight nine ten ".repeat(40);
    let record = serde_json::json!({"text": words}).to_string() + "\n";
    std::fs::write(&path, record.repeat(60_000)).expect("corpus");
    path
}

fn wait_for(child: &mut Child, there: impl Fn() -> bool) {
    while !there() && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a folder has an entry that is being written.
fn has_partial(dir: &Path) -> bool {
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name.as_bytes().starts_with(b".") && name.to_string_lossy().contains(".partial-")
    })
}

#[test]
fn ingestion_ignores_sigterm() {
    let dir = scratch("ingest-term");
    let (long, short, out) = (long_corpus(&dir), world().join("text.jsonl"), dir.join("shard"));
    let tokenizer = world().join("tokenizer.json");
    let ingest = |input: &Path| {
        let options = ["--format", "text", "--tokenizer", text(&tokenizer), "--out", text(&out)];
        command(&[&["data", "ingest", "--input", text(input)][..], &options].concat())
    };
    let mut child = ingest(&long).spawn().expect("child");
    wait_for(&mut child, || has_partial(&dir));
    std::thread::sleep(Duration::from_millis(100));
    interrupt(&mut child, "-TERM");
    let start = Instant::now();
    let ended = child.wait_with_output().expect("child");
    assert!(start.elapsed() < Duration::from_secs(20), "stopped after {:?}", start.elapsed());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(143) && said.contains("stopped by signal 15"), "{:?}: {said}", ended.status);
    assert!(!out.exists() && !has_partial(&dir));
    assert!(ingest(&short).status().expect("child").success(), "the same folder can be written afterwards");

    let mut recipe = std::fs::read_to_string(write_recipe(&dir)).expect("recipe");
    recipe = recipe.replace(text(&short), text(&long));
    std::fs::write(dir.join("recipe.toml"), recipe).expect("recipe");
    let run = dir.join("run");
    let mut child = command(&["train", text(&dir.join("recipe.toml")), "--out", text(&run)]).spawn().expect("child");
    wait_for(&mut child, || has_partial(&run.join("shards")));
    interrupt(&mut child, "-INT");
    let start = Instant::now();
    let ended = child.wait_with_output().expect("child");
    assert!(start.elapsed() < Duration::from_secs(20), "stopped after {:?}", start.elapsed());
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn hangups_and_limits_kill_without_saving() {
    let dir = scratch("hangup");
    let recipe = write_recipe(&dir);
    for (signal, code) in [("-HUP", 129), ("-XCPU", 152), ("-XFSZ", 153)] {
        let out = dir.join(signal);
        let mut child = command(&["train", text(&recipe), "--out", text(&out)]).spawn().expect("child");
        wait_for_steps(&out, 3, &mut child);
        interrupt(&mut child, signal);
        let ended = child.wait_with_output().expect("child");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(code) && said.contains("stopped after saving"), "{signal}: {said}");
    }
}

/// What `nohup` asks for stays so.
#[test]
fn an_ignored_hangup_stops_nothing() {
    let dir = scratch("nohup");
    let recipe = write_recipe(&dir);
    let out = dir.join("run");
    let vila = command(&["train", text(&recipe), "--out", text(&out)]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(vila.get_program()).args(vila.get_args());
    shell.envs(vila.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("child");
    wait_for_steps(&out, 3, &mut child);
    interrupt(&mut child, "-HUP");
    interrupt(&mut child, "-TERM");
    assert_eq!(child.wait_with_output().expect("child").status.code(), Some(143));
}

#[test]
fn a_limit_on_file_sizes_is_a_write_error() {
    let dir = scratch("xfsz");
    let recipe = write_recipe(&dir);
    let out = dir.join("run");
    let train = |limit: &str| {
        let vila = command(&["train", text(&recipe), "--out", text(&out)]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -f {limit}; exec \"$0\" \"$@\"")]);
        shell.arg(vila.get_program()).args(vila.get_args());
        shell.envs(vila.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = shell.output().expect("child");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = train("40");
    assert!(code == Some(1) && said.contains("ulimit -f"), "{code:?}: {said}");
    let (code, said) = train("unlimited");
    assert_eq!(code, Some(0), "{said}");
}

/// A name that is not UTF-8.
fn bytes(name: &str) -> OsString {
    OsStr::from_bytes(&[name.as_bytes(), b"-\xff\xfe"].concat()).to_owned()
}

fn copy_dir(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp").success());
}

#[test]
fn names_that_are_not_utf_8() {
    let dir = scratch("names").join(bytes("dir"));
    std::fs::create_dir(&dir).expect("folder");
    let path = |name: &str| dir.join(bytes(name)).into_os_string();
    copy_dir(&model(), Path::new(&path("model")));
    std::fs::copy(picture(), path("image")).expect("image");
    std::fs::copy(world().join("text.jsonl"), path("text")).expect("corpus");
    std::fs::copy(world().join("tokenizer.json"), path("tokenizer")).expect("tokenizer");
    std::fs::copy(write_recipe(&scratch("names-recipe")), path("recipe")).expect("recipe");
    std::fs::write(path("prompts"), "{\"prompt\": \"cat\"}\n").expect("prompts");
    std::fs::write(path("scores"), "{\"prompt\": \"cat\", \"continuation\": \" mat\"}\n").expect("lines");
    let benchmark = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/benchmarks/mmlu/data");
    copy_dir(&benchmark, Path::new(&path("mmlu")));
    let few = ["text", "align", "pretrain"].map(|stage| format!("stage.{stage}.steps=2"));
    let commands: &[&str] = &[
        "inspect @model",
        "inspect @model --json",
        "convert --from @model --to @converted --layout vila --json",
        "generate --model @model --prompt cat --image @image --max-new-tokens 2",
        "generate --model @model --prompt cat --image @image --max-new-tokens 2 --json",
        "generate --model @model --input @prompts --max-new-tokens 2",
        "score --model @model --input @scores --output @scored",
        "eval --model @model --task mmlu --data @mmlu --out @answers --json",
        "data ingest --format text --input @text --tokenizer @tokenizer --out @shard --on-error skip --json",
        "data info @shard",
        "data verify @shard --json",
        "data show @shard --html @page",
        "plan @recipe",
        "train @recipe --out @run --dry-run --json",
        "train @recipe --out @run --json",
        "train @recipe --out @run --json",
        "report @run --output @report --json",
    ];
    for line in commands {
        let mut arguments: Vec<OsString> = Vec::new();
        for word in line.split(' ') {
            arguments.push(word.strip_prefix('@').map_or_else(|| word.into(), &path));
        }
        if line.contains("@recipe") {
            few.iter().for_each(|set| arguments.extend(["--set".into(), set.into()]));
        }
        let (code, said) = vila(&arguments);
        assert!(code == Some(0) && !said.contains("panicked"), "{line}: {code:?}: {said}");
    }
    let recipe = std::fs::read_to_string(Path::new(&path("run")).join("latest/trainer/recipe.toml")).expect("recipe");
    assert!(recipe.contains("[model]"), "{recipe}");
    for line in ["metrics pope --predictions @none --references @none", "lora merge --model @none --to @merged"] {
        let words = line.split(' ');
        let arguments: Vec<OsString> =
            words.map(|word| word.strip_prefix('@').map_or_else(|| word.into(), &path)).collect();
        let (code, said) = vila(&arguments);
        assert!(code == Some(1) && said.contains("none-"), "{line}: {code:?}: {said}");
    }
}

#[test]
fn terminal_escapes() {
    let dir = scratch("escapes");
    let name = dir.join("a\u{1b}[31m\u{9b}2J\u{202e}b");
    let (code, said) = vila(&["generate", "--model", text(&model()), "--input", text(&name)]);
    assert!(code == Some(1) && said.contains("a\\u{1b}[31m\\u{9b}2J\\u{202e}b"), "{said:?}");
    // On a terminal, what a shard holds is shown without being obeyed; in a pipe its bytes are its own.
    let (corpus, shard, tokenizer) = (dir.join("\u{1b}[31m.jsonl"), dir.join("shard"), world().join("tokenizer.json"));
    std::fs::write(&corpus, "{\"text\": \"red\"}\n").expect("corpus");
    let ingest = ["data", "ingest", "--format", "text", "--input", text(&corpus), "--out", text(&shard)];
    assert_eq!(vila(&[&ingest[..], &["--tokenizer", text(&tokenizer)]].concat()).0, Some(0));
    let show = command(&["data", "show", text(&shard)]);
    let piped = command(&["data", "show", text(&shard)]).output().expect("child").stdout;
    assert!(String::from_utf8_lossy(&piped).contains('\u{1b}'));
    let words: Vec<&str> =
        std::iter::once(show.get_program()).chain(show.get_args()).filter_map(OsStr::to_str).collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &words.join(" "), "/dev/null"]);
    terminal.envs(show.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    // Not every machine has `script`.
    let Ok(shown) = terminal.output() else { return };
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}[31m"), "{shown:?}");
}

#[test]
fn missing_files_say_os_error_2() {
    let dir = scratch("missing");
    let (model, gone, folder) = (model(), dir.join("gone"), dir.clone());
    let (model, gone, folder) = (text(&model), text(&gone), text(&folder));
    let commands: &[&[&str]] = &[
        &["generate", "--model", gone, "--prompt", "x"],
        &["generate", "--model", model, "--prompt", "x", "--image", gone],
        &["generate", "--model", model, "--prompt", "x", "--image", folder],
        &["generate", "--model", model, "--input", gone],
        &["generate", "--model", model, "--input", folder],
        &["score", "--model", model, "--input", gone],
        &["score", "--model", model, "--input", folder],
        &["eval", "--model", model, "--task", "pope", "--data", gone, "--out", gone],
        &["metrics", "pope", "--predictions", gone, "--references", gone],
        &["metrics", "mmbench", "--predictions", folder, "--references", folder],
        &["convert", "--from", gone, "--to", gone, "--layout", "vila"],
        &["inspect", gone],
        &["report", gone],
        &["data", "info", gone],
        &["data", "ingest", "--format", "text", "--input", gone, "--tokenizer", gone, "--out", gone],
        &["train", gone],
        &["train", folder],
        &["plan", gone],
    ];
    for arguments in commands {
        let (code, said) = vila(arguments);
        assert!(code == Some(1), "{arguments:?}: {code:?}: {said}");
        assert!(!said.contains("os error"), "{arguments:?}: {said}");
    }
}

#[test]
fn special_files_as_images() {
    let dir = scratch("special");
    let fifo = dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let sparse = dir.join("sparse.png");
    std::fs::File::create(&sparse).and_then(|file| file.set_len(1 << 40)).expect("sparse");
    let model = model();
    for (image, kind) in [
        (Path::new("/dev/zero"), "a device"),
        (Path::new("/dev/full"), "a device"),
        (&fifo, "a pipe"),
        (&dir, "a folder"),
        (&sparse, "more than the"),
    ] {
        let line = serde_json::json!({"prompt": "x", "continuation": "y", "images": [image]}).to_string();
        let input = dir.join("input.jsonl");
        std::fs::write(&input, line).expect("input");
        let start = Instant::now();
        let generate = ["generate", "--model", text(&model), "--prompt", "x", "--image", text(image)];
        for arguments in [&generate[..], &["score", "--model", text(&model), "--input", text(&input)]] {
            let (code, said) = vila(arguments);
            assert!(code == Some(1) && said.contains(kind), "{arguments:?}: {code:?}: {said}");
        }
        let mut chat = command(&["chat", "--model", text(&model)]).stdin(Stdio::piped()).spawn().expect("child");
        let mut input = chat.stdin.take().expect("stdin");
        std::io::Write::write_all(&mut input, format!("/image {}\n", image.display()).as_bytes()).expect("write");
        drop(input);
        let said = String::from_utf8_lossy(&chat.wait_with_output().expect("child").stderr).into_owned();
        assert!(said.contains(kind), "chat: {said}");
        assert!(start.elapsed() < Duration::from_secs(30), "{image:?} took {:?}", start.elapsed());
    }
}
