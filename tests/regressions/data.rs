//! Faults that were mended; each test is named after its fault.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vila_model::image::ImageProcessor;
use vila_model::tokenizer::Tokenizer;
use vila_train::data::cli;
use vila_train::data::ingest::{Format, IngestOptions, TooLong, ingest_cached};
use vila_train::data::shard::{ImageBlob, ImageId, Sample, ShardMeta, ShardReader, ShardWriter, SourceFile};
use vila_train::data::tokens::{Span, Tokenize, TokenizeError};
use vila_train::loader::{Geometry, Share, Source, StageData};
use vila_train::recipe::{Recipe, SourceSpec, StageSpec};
use vila_train::sources::open_source;

use crate::child::command;
use crate::training::{scratch, world};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn tokenizer() -> PathBuf {
    fixture("tiny-llava-hf/tokenizer.json")
}

fn image(path: &Path, width: u32, height: u32, level: u8) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let picture = image::GrayImage::from_pixel(width, height, image::Luma([level]));
    picture.save_with_format(path, image::ImageFormat::Png).expect("an image");
}

fn lines(path: &Path, records: &[Value]) {
    std::fs::write(path, records.iter().map(|record| format!("{record}\n")).collect::<String>()).expect("a file");
}

/// `vila data ingest` of `corpus.jsonl` in `dir` to `dir/NAME`; what it says of the shard, or its error.
fn ingest(dir: &Path, name: &str, arguments: &[&str]) -> Result<Value, String> {
    let (tokenizer, out) = (tokenizer(), dir.join(name));
    let common = ["data", "ingest", "--json", "--tokenizer", text(&tokenizer), "--out", text(&out)];
    let input: &[&str] = if arguments.contains(&"--input") { &[] } else { &["--input", "corpus.jsonl"] };
    let run = command(&[&common, input, arguments].concat()).current_dir(dir).output().expect("vila");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    match run.status.success() {
        true => {
            Ok(serde_json::from_str(&said[said.find('{').expect("a report")..said.rfind('}').expect("its end") + 1])
                .expect("JSON"))
        }
        false => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn talk(more: Value) -> Value {
    let mut record =
        json!({"conversations": [{"from": "human", "value": "what is it ?"}, {"from": "gpt", "value": "a dog"}]});
    record.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
    record
}

const LLAVA: [&str; 4] = ["--format", "llava", "--template", "vicuna_v1"];

#[test]
fn unread_image_field() {
    let dir = scratch("unread-image");
    image(&dir.join("a.png"), 4, 4, 1);
    image(&dir.join("b.png"), 4, 4, 2);
    let good = [talk(json!({"images": ["a.png", "b.png"]})), talk(json!({"images": "a.png", "video": null}))];
    lines(&dir.join("corpus.jsonl"), &good);
    assert_eq!(ingest(&dir, "read", &LLAVA).expect("read")["counts"]["image_uses"], 3);
    lines(&dir.join("corpus.jsonl"), &[json!({"images": ["a.png"], "text": "a dog"})]);
    assert_eq!(ingest(&dir, "pairs", &["--format", "pairs"]).expect("read")["counts"]["image_uses"], 1);
    for (format, record, field) in [
        (&LLAVA[..], talk(json!({"video": "a.mp4"})), "`video`"),
        (&["--format", "text"][..], json!({"text": "a dog", "images": ["a.png"]}), "`images`"),
        (
            &["--format", "mmc4"][..],
            json!({"text_list": ["a"], "image_info": [{"image_base64": "x"}]}),
            "`image_info[].image_base64`",
        ),
    ] {
        lines(&dir.join("corpus.jsonl"), &[record, json!({"text": "a"})]);
        let said = ingest(&dir, "refused", format).expect_err("refused");
        assert!(said.contains(field) && said.contains("line 1"), "{said}");
    }
    lines(&dir.join("corpus.jsonl"), &[talk(json!({"audio": ["a.wav"]})), talk(json!({}))]);
    let report = ingest(&dir, "counted", &[&LLAVA[..], &["--on-error", "skip"]].concat()).expect("read");
    assert_eq!((&report["skipped"]["unread_field"], &report["counts"]["samples"]), (&json!(1), &json!(1)));
}

#[test]
fn system_turn_dropped() {
    let dir = scratch("system-turn");
    let turns = |first: Value| json!({"conversations": [first, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a dog"}]});
    lines(
        &dir.join("corpus.jsonl"),
        &[turns(json!({"from": "system", "value": "be kind"})), talk(json!({"system": "be brave"})), talk(json!({}))],
    );
    ingest(&dir, "shard", &[&LLAVA[..], &["--system", "be quick"]].concat()).expect("read");
    let shown = cli::show(&dir.join("shard"), 3, 0, None).expect("show").text;
    for said in ["be kind USER: q", "be brave USER: what", "be quick USER: what"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}

#[test]
fn cut_leaves_no_answer() {
    let dir = scratch("cut-leaves");
    let long = talk(json!({"system": "a dog ".repeat(200)}));
    lines(&dir.join("corpus.jsonl"), &[talk(json!({})), long]);
    let limit = ["--max-tokens", "120", "--tokens-per-image", "4"];
    let report = ingest(&dir, "cut", &[&LLAVA[..], &["--system", ""], &limit].concat()).expect("read");
    assert_eq!((&report["skipped"], &report["counts"]["samples"]), (&json!({"cut_leaves_no_answer": 1}), &json!(1)));
    let skip = [&LLAVA[..], &["--system", ""], &limit, &["--too-long", "skip"]].concat();
    assert_eq!(ingest(&dir, "skip", &skip).expect("read")["skipped"], json!({"too_long": 1}));
    let stop = [&LLAVA[..], &["--system", ""], &limit, &["--too-long", "stop", "--on-error", "skip"]].concat();
    let said = ingest(&dir, "stop", &stop).expect_err("too long");
    assert!(said.contains("line 2") && said.contains("120") && said.contains("too_long"), "{said}");
}

/// A shard of documents of these tokens (the answer is the last one), and what a stage of a model with a context of 16 makes of it.
fn staged(
    name: &str,
    documents: &[Vec<u32>],
    too_long: TooLong,
    hold_out: u64,
    vocabulary: usize,
) -> Result<StageData, String> {
    let dir = scratch(name);
    let source = SourceFile { path: "c.jsonl".into(), bytes: 0, sha256: String::new() };
    let meta = ShardMeta { sources: vec![source], ..ShardMeta::default() };
    let mut writer = ShardWriter::create(dir.join("shard"), meta).expect("writer");
    for (line, tokens) in (1..).zip(documents) {
        let loss: Vec<bool> = (0..tokens.len()).map(|index| index % 10 == 9).collect();
        writer.push(&Sample { tokens, loss: &loss, images: &[], source: 0, source_line: line }).expect("push");
    }
    writer.note_skipped("missing_image", 3);
    writer.finish().expect("finish");
    let stage: StageSpec = toml::from_str(
        "name = \"sft\"\ntrain = [\"llm\"]\ndata = { talk = 1.0 }\nsteps = 1\ndocuments = 2\ncapacity = 64\nlr = 0.1\n",
    )
    .expect("stage");
    let source = Source {
        name: "talk".into(),
        reader: Arc::new(ShardReader::open(dir.join("shard")).expect("shard")),
        hold_out,
        too_long,
        max_tokens: None,
    };
    let geometry = Geometry { tokens_per_image: 4, max_positions: 16, align: 1, width: 8, vocabulary };
    let processor = ImageProcessor::from_file(fixture("tiny-llava-hf/preprocessor_config.json")).expect("processor");
    StageData::new(1, &stage, vec![source], geometry, Share { rank: 0, world: 1 }, processor)
        .map_err(|error| error.to_string())
}

#[test]
fn too_long_document() {
    // Answers are at the 10th, 20th ... token; the second document has more than 16.
    let documents = [vec![7; 12], vec![7; 40], vec![7; 14], vec![7; 16]];
    let summary = |data: &StageData| data.summaries().next().expect("source").1.clone();
    let cut = staged("too-long-cut", &documents, TooLong::Cut, 1, 100).expect("cut");
    assert_eq!(summary(&cut).cut, BTreeMap::from([("cut_to_fit".to_string(), 1)]));
    let step = cut.step(0).expect("step");
    assert!(step.tokens <= 32 && step.supervised == 2, "{} {}", step.tokens, step.supervised);
    let skip = staged("too-long-skip", &documents, TooLong::Skip, 1, 100).expect("skip");
    assert_eq!(summary(&skip).skipped, BTreeMap::from([("missing_image".to_string(), 3), ("too_long".to_string(), 1)]));
    assert_eq!((summary(&skip).documents, skip.held_out().expect("pack").expect("one").tokens), (3, 16));
    let said = staged("too-long-stop", &documents, TooLong::Stop, 1, 100).err().expect("stops");
    for word in ["stage sft", "source talk", "c.jsonl:2", "40 positions", "max_positions", "too_long"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn skipped_unsaid() {
    let data = staged("skipped-unsaid", &[vec![7; 12], vec![7; 12]], TooLong::Cut, 0, 100).expect("stage");
    let (_, summary) = data.summaries().next().expect("source");
    assert_eq!(summary.to_string(), "2 documents, 3 records skipped (missing image: 3), 0 cut");
    // The run's log, its metrics and its report say it.
    let (dir, world) = (scratch("skipped-run"), world());
    let good = std::fs::read_to_string(world.join("text.jsonl")).expect("text");
    std::fs::write(dir.join("own.jsonl"), good + "not json\n{\"text\": \"\"}\n").expect("own");
    let recipe = format!(
        "out = \"run\"\n[model]\ntokenizer = \"{}/tokenizer.json\"\nprojector = \"mlp_downsample\"\n\
         llm = {{ hidden_size = 32, intermediate_size = 48, layers = 1, heads = 2, kv_heads = 1, max_positions = 256 }}\n\
         vision = {{ family = \"clip\", hidden_size = 16, intermediate_size = 32, layers = 2, heads = 2, image_size = 16, patch_size = 4 }}\n\
         [sources.own]\nformat = \"text\"\ninput = [\"own.jsonl\"]\non_error = \"skip\"\nmax_tokens = 9\n\
         [[stage]]\nname = \"text\"\ntrain = [\"llm\"]\ndata = {{ own = 1.0 }}\nsteps = 2\ndocuments = 4\ncapacity = 64\nlr = 1e-3\n",
        world.display()
    );
    std::fs::write(dir.join("recipe.toml"), recipe).expect("recipe");
    let ended = command(&["train", "recipe.toml"]).current_dir(&dir).output().expect("vila");
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{log}");
    let said = "2 records skipped (empty document: 1, invalid record: 1)";
    assert!(log.contains("text source own: ") && log.contains(said) && log.contains("cut (cut to fit: "), "{log}");
    let metrics = std::fs::read_to_string(dir.join("run/metrics.jsonl")).expect("metrics");
    let steps: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(steps[0]["step"]["left_out"]["own"]["skipped"], json!({"empty_document": 1, "invalid_record": 1}));
    assert!(steps[0]["step"]["left_out"]["own"]["cut"]["cut_to_fit"].as_u64() > Some(0));
    assert!(steps.len() == 2 && steps[1]["step"].get("left_out").is_none());
    let ended = command(&["report", "run"]).current_dir(&dir).output().expect("vila");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(std::fs::read_to_string(dir.join("run/report.html")).expect("report").contains(said));
}

#[test]
fn token_beyond_embedding() {
    let said = staged("token-beyond", &[vec![7; 12], vec![9; 12]], TooLong::Cut, 0, 9).err().expect("refused");
    assert!(
        said.contains("document 1")
            && said.contains("token 9")
            && said.contains("9 rows")
            && said.contains("c.jsonl:2"),
        "{said}"
    );
}

#[test]
fn stale_shard() {
    let dir = scratch("stale");
    image(&dir.join("a.png"), 4, 4, 1);
    let pair = |image: &str| json!({"image": image, "text": "a dog"});
    lines(&dir.join("corpus.jsonl"), &[pair("a.png"), pair("late.png")]);
    let spec = SourceSpec {
        format: Some("pairs".into()),
        input: vec![dir.join("corpus.jsonl")],
        on_error: Some("skip".into()),
        ..SourceSpec::default()
    };
    let tokenizer = Tokenizer::from_file(&tokenizer()).expect("tokenizer");
    let open = || open_source(&dir, "pairs", &spec, &tokenizer).expect("shard");
    let first = open();
    assert_eq!((first.len(), open().dir()), (1, first.dir()), "nothing changed");
    image(&dir.join("late.png"), 4, 4, 2);
    let second = open();
    assert_eq!(second.len(), 2, "an image that appeared");
    image(&dir.join("a.png"), 6, 4, 3);
    let third = open();
    assert!(third.dir() != second.dir(), "an image that was replaced");
    assert_eq!(third.image(ImageId(0)).expect("image"), std::fs::read(dir.join("a.png")).expect("file"));
    lines(&dir.join("corpus.jsonl"), &[pair("a.png")]);
    assert_eq!(open().len(), 1, "another corpus");
}

/// A tokenizer during whose use a source grows: when the key of a shard is known and reading begins.
struct Growing {
    calls: AtomicUsize,
    source: PathBuf,
}

impl Tokenize for Growing {
    fn bos(&self) -> Option<u32> {
        None
    }

    fn eos(&self) -> u32 {
        2
    }

    fn image_token(&self) -> Option<u32> {
        None
    }

    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        Ok(text.char_indices().map(|(at, c)| (u32::from(c), at..at + c.len_utf8())).collect())
    }

    fn fingerprint(&self) -> String {
        if self.calls.fetch_add(1, Ordering::Relaxed) == 1 {
            lines(&self.source, &[json!({"text": "one"}), json!({"text": "two"})]);
        }
        "letters".into()
    }
}

#[test]
fn what_is_hashed_is_what_was_read() {
    let dir = scratch("growing");
    let source = dir.join("corpus.jsonl");
    lines(&source, &[json!({"text": "one"})]);
    let tokenizer = Growing { calls: AtomicUsize::new(0), source: source.clone() };
    let options = IngestOptions::new(Format::Text, vec![source], "");
    let first = ingest_cached(&options, &dir, "text", &tokenizer).expect("shard");
    assert_eq!(ShardReader::open(&first).expect("shard").len(), 2);
    assert_eq!(
        ingest_cached(&options, &dir, "text", &tokenizer).expect("shard"),
        first,
        "the key of what is there now"
    );
}

#[test]
fn special_files_as_images() {
    let dir = scratch("special");
    let corpus = dir.join("corpus");
    std::fs::create_dir_all(corpus.join("folder.png")).expect("a folder");
    image(&corpus.join("sub/good.png"), 4, 4, 1);
    image(&dir.join("outside.png"), 4, 4, 2);
    symlink(dir.join("outside.png"), corpus.join("link.png")).expect("link");
    symlink(corpus.join("sub/good.png"), corpus.join("inner.png")).expect("link");
    symlink("/dev/zero", corpus.join("zero.png")).expect("link");
    symlink("itself.png", corpus.join("itself.png")).expect("link");
    let pipe = std::process::Command::new("mkfifo").arg(corpus.join("pipe.png")).status();
    let outside = dir.join("outside.png");
    let special = ["folder.png", "pipe.png", "/dev/zero", "/dev/full", "zero.png", "itself.png", "a\0b.png", ""];
    let beyond = [text(&outside), "../outside.png", "sub/../../outside.png", "link.png"];
    let names = [&["sub/good.png", "./sub/good.png", "inner.png"], &special[..], &beyond].concat();
    let records: Vec<Value> = names.iter().map(|name| json!({"image": name, "text": "a dog"})).collect();
    lines(&corpus.join("corpus.jsonl"), &records);
    let start = Instant::now();
    let report = ingest(&corpus, "within", &["--format", "pairs", "--on-error", "skip"]).expect("read");
    assert_eq!(report["counts"]["samples"], 3, "{report}");
    let anywhere = ["--format", "pairs", "--on-error", "skip", "--images-anywhere"];
    assert_eq!(ingest(&corpus, "anywhere", &anywhere).expect("read")["counts"]["samples"], 3 + beyond.len());
    assert!(start.elapsed() < Duration::from_secs(30), "{pipe:?}");
    lines(&corpus.join("corpus.jsonl"), &[json!({"image": "../outside.png", "text": "a dog"})]);
    let said = ingest(&corpus, "stop", &["--format", "pairs"]).expect_err("outside");
    assert!(said.contains("--images-anywhere") && said.contains("outside"), "{said}");
}

#[test]
fn thin_image_pad() {
    let dir = scratch("thin");
    image(&dir.join("thin.png"), 20_000, 1, 1);
    lines(&dir.join("corpus.jsonl"), &[json!({"image": "thin.png", "text": "a dog"})]);
    let said = ingest(&dir, "shard", &["--format", "pairs"]).expect_err("refused");
    assert!(said.contains("thin.png") && said.contains("20000"), "{said}");
}

#[test]
fn file_forms() {
    let dir = scratch("forms");
    let records = [json!({"text": "a dog"}), json!({"text": "é 中"})];
    let pretty: String = records.iter().map(|record| format!("{record:#}\r\n")).collect();
    let wide: Vec<u8> = [0xFEFF].into_iter().chain(pretty.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    let documents = |name: &str| {
        let shard = ShardReader::open(dir.join(name)).expect("shard");
        (0..shard.len()).map(|index| shard.sample(index).expect("sample").tokens.to_vec()).collect::<Vec<_>>()
    };
    lines(&dir.join("corpus.jsonl"), &records);
    ingest(&dir, "lines", &["--format", "text"]).expect("lines");
    let odd = "\u{FEFF}{\"text\": \"a dog\", \"score\": NaN}\r\n\r\n{\"text\": \"é 中\", \"x\": \"\\ud800\"}";
    for (name, bytes) in [("pretty", pretty.into_bytes()), ("wide", wide), ("odd", odd.as_bytes().to_vec())] {
        std::fs::write(dir.join("corpus.jsonl"), bytes).expect("a file");
        ingest(&dir, name, &["--format", "text"]).unwrap_or_else(|said| panic!("{name}: {said}"));
        assert_eq!(documents(name), documents("lines"), "{name}");
    }
    for (name, bytes, cure) in [
        ("wrapped", &b"{\"version\": 1,\n\"data\": [{\"text\": \"a\"}]}"[..], "jq -c '.data[]'"),
        ("zipped", &b"PK\x03\x04..."[..], "unpack"),
        ("parquet", &b"PAR1..."[..], "Parquet"),
    ] {
        std::fs::write(dir.join("corpus.jsonl"), bytes).expect("a file");
        let said = ingest(&dir, name, &["--format", "text"]).expect_err(name);
        assert!(said.contains(cure) && said.contains("corpus.jsonl"), "{said}");
    }
    let (tokenizer, out) = (tokenizer(), dir.join("piped"));
    let arguments = [
        "data",
        "ingest",
        "--format",
        "text",
        "--input",
        "/dev/stdin",
        "--tokenizer",
        text(&tokenizer),
        "--out",
        text(&out),
    ];
    let mut child = command(&arguments).stdin(std::process::Stdio::piped()).spawn().expect("vila");
    let piped: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), piped.as_bytes()).expect("write");
    let ended = child.wait_with_output().expect("vila");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(documents("piped"), documents("lines"));
    assert_eq!(ShardReader::open(&out).expect("shard").manifest().sources[0].bytes, piped.len() as u64);
}

#[test]
fn a_bad_record_leaves_its_neighbours() {
    let dir = scratch("neighbours");
    let (good, bad) =
        ("{\"text\": \"a dog\"}", ["{\"text\": \"a", "{\"text\": [1]}", "\u{1}\u{2}", "[]", "{\"text\": \"\"}"]);
    let file: String = bad.iter().map(|bad| format!("{good}\n{bad}\n")).collect();
    std::fs::write(dir.join("corpus.jsonl"), file).expect("a file");
    let report = ingest(&dir, "shard", &["--format", "text", "--on-error", "skip"]).expect("read");
    assert_eq!((&report["records"], &report["counts"]["samples"]), (&json!(10), &json!(5)));
}

#[test]
fn an_endless_line_is_bounded() {
    let dir = scratch("endless");
    std::fs::File::create(dir.join("corpus.jsonl")).and_then(|file| file.set_len(16 << 30)).expect("a sparse file");
    let start = Instant::now();
    let said = ingest(&dir, "shard", &["--format", "text"]).expect_err("too long");
    assert!(said.contains("line 1") && said.contains("64 MiB"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn text_and_caption() {
    let dir = scratch("text-caption");
    image(&dir.join("a.png"), 4, 4, 1);
    let pair = |text: Value, caption: Value| json!({"image": "a.png", "text": text, "caption": caption});
    lines(&dir.join("corpus.jsonl"), &[pair(json!("a dog"), json!("a dog")), pair(Value::Null, json!("a dog"))]);
    assert_eq!(ingest(&dir, "same", &["--format", "pairs"]).expect("read")["counts"]["samples"], 2);
    lines(&dir.join("corpus.jsonl"), &[pair(json!("a dog"), json!("a cat"))]);
    let said = ingest(&dir, "two", &["--format", "pairs"]).expect_err("two texts");
    assert!(said.contains("`text`") && said.contains("`caption`"), "{said}");
}

#[test]
fn generate_input_forms() {
    let dir = scratch("input-forms");
    let model = fixture("tiny-llava-hf");
    std::fs::create_dir_all(dir.join("prompts")).expect("a folder");
    std::fs::copy(fixture("images/cat.jpg"), dir.join("prompts/cat.jpg")).expect("copy");
    let records = [json!({"prompt": "<image>a", "images": ["cat.jpg"]}), json!({"prompt": "b"})];
    let file = dir.join("prompts/in.json");
    let generate = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("a file");
        let arguments =
            ["generate", "--model", text(&model), "--input", text(&file), "--max-new-tokens", "2", "--device", "cpu"];
        let run = command(&arguments).current_dir(&dir).output().expect("vila");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        // The test harness prints before and after.
        let made = &said[said.find("{\"prompt\"").expect("answers")..];
        made.lines().take_while(|line| line.starts_with('{')).map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = generate(records.iter().map(|record| format!("{record}\n")).collect::<String>().as_bytes());
    assert_eq!(plain.len(), 2);
    assert_eq!(generate(format!("\u{FEFF}{:#}", json!(records)).as_bytes()), plain);
    let wide: Vec<u8> = records
        .iter()
        .flat_map(|record| format!("{record}\r\n").encode_utf16().collect::<Vec<_>>())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(generate(&[b"\xFF\xFE", &wide[..]].concat()), plain);
}

#[test]
fn source_name_leaves_out() {
    for name in ["../../../escaped", "/tmp/escaped", "..", "a/b", "-\u{1b}[31m"] {
        let recipe = format!(
            "out = \"run\"\n[model]\nfrom = \"m\"\n[sources.{name:?}]\nformat = \"text\"\ninput = [\"c\"]\n[[stage]]\nname = \"a\"\n\
             train = [\"llm\"]\ndata = {{ {name:?} = 1.0 }}\nsteps = 1\ndocuments = 1\ncapacity = 8\nlr = 0.1\n"
        )
        .replace("\\u{1b}", "\\u001b");
        let error = Recipe::parse(&recipe, Path::new("r.toml"), Path::new("/r"), &[]).expect_err(name).to_string();
        assert!(error.contains("source `") && error.contains("file names"), "{name}: {error}");
    }
}

#[test]
fn showing_many_turns_is_bounded() {
    let dir = scratch("many-turns");
    let definition = std::fs::read(tokenizer()).expect("tokenizer");
    let source = SourceFile { path: "c.jsonl".into(), bytes: 0, sha256: String::new() };
    let meta = ShardMeta { tokenizer_json: Some(definition), sources: vec![source], ..ShardMeta::default() };
    let mut writer = ShardWriter::create(dir.join("shard"), meta).expect("writer");
    let tokens: Vec<u32> = (0..400_000).map(|index| 5 + index % 90).collect();
    let loss: Vec<bool> = (0..400_000).map(|index| index % 4 > 1).collect();
    writer.push(&Sample { tokens: &tokens, loss: &loss, images: &[], source: 0, source_line: 1 }).expect("push");
    writer.finish().expect("finish");
    let start = Instant::now();
    let shown = cli::show(&dir.join("shard"), 1, 0, None).expect("show");
    assert!(shown.text.matches("[[").count() >= 100_000 && start.elapsed() < Duration::from_secs(30));
}

#[test]
fn verify_finds_what_a_new_seal_hides() {
    let dir = scratch("verify");
    image(&dir.join("a.png"), 4, 4, 1);
    lines(&dir.join("corpus.jsonl"), &[json!({"image": "a.png", "text": "a dog"})]);
    ingest(&dir, "shard", &["--format", "pairs"]).expect("read");
    let shard = dir.join("shard");
    cli::verify(&shard).expect("whole");
    let reader = ShardReader::open(&shard).expect("shard");
    let (manifest, old) = (reader.manifest().clone(), reader.sample(0).expect("sample").tokens.to_vec());
    drop(reader);
    // A shard that is whole in itself, with a token that its tokenizer does not have, and one with a picture of another size.
    for (name, token, width, expected) in [("token", 4_000_000, 4, "4000000"), ("picture", old[2], 5, "5 x 4")] {
        let sources = manifest.sources.clone();
        let meta = ShardMeta {
            tokenizer: manifest.tokenizer.clone(),
            tokenizer_json: Some(std::fs::read(tokenizer()).expect("tokenizer")),
            sources,
            options: manifest.options.clone(),
        };
        let mut writer = ShardWriter::create(dir.join(name), meta).expect("writer");
        let bytes = std::fs::read(dir.join("a.png")).expect("image");
        let blob = ImageBlob { bytes: &bytes, name: "a.png", width, height: 4 };
        let image = writer.add_image(blob).expect("image");
        let mut tokens = old.clone();
        tokens[2] = token;
        let loss: Vec<bool> = (0..tokens.len()).map(|index| index > 1).collect();
        writer
            .push(&Sample { tokens: &tokens, loss: &loss, images: &[image], source: 0, source_line: 1 })
            .expect("push");
        writer.finish().expect("finish");
        let said = cli::verify(&dir.join(name)).expect_err(name).to_string();
        assert!(said.contains(expected), "{said}");
    }
}
