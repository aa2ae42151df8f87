//! From corpus files to shards and back, with the corpora of the toy world and with corpora that are wrong.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use vila_train::data::IngestTokenizer;
use vila_train::data::cli;
use vila_train::data::ingest::{
    Format, FormatOptions, IngestError, IngestOptions, IngestReport, OnError, OptionError, Problem, TokenLimit,
    cache_key, ingest,
};
use vila_train::data::shard::{ImageId, ShardError, ShardReader};
use vila_train::data::tokens::{IMAGE_PLACEHOLDER, Span, Tokenize, TokenizeError};
use vila_train::toy::{self, CorpusOptions, Digits, ToyError};

const IMAGE: u32 = IMAGE_PLACEHOLDER;

/// A directory that disappears with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("vila-data-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A grey image of `side` pixels; another level is another image.
    fn image(&self, name: &str, level: u8) {
        let mut png = std::io::Cursor::new(Vec::new());
        image::GrayImage::from_pixel(4, 6, image::Luma([level])).write_to(&mut png, image::ImageFormat::Png).unwrap();
        self.write(name, png.get_ref());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Words at blanks, numbered as listed; `</s>` is a word of its own wherever it stands. Does not know `<image>`.
struct Words(Vec<&'static str>);

impl Words {
    const EOS: u32 = 2;

    fn id(&self, word: &str) -> u32 {
        self.0.iter().position(|&known| known == word).map_or(0, |place| place as u32 + 10)
    }

    fn span(&self, text: &str, range: Range<usize>) -> Span {
        match &text[range.clone()] {
            "</s>" => (Self::EOS, range),
            word => (self.id(word), range),
        }
    }
}

impl Tokenize for Words {
    fn bos(&self) -> Option<u32> {
        Some(1)
    }

    fn eos(&self) -> u32 {
        Self::EOS
    }

    fn image_token(&self) -> Option<u32> {
        None
    }

    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        let mut spans = Vec::new();
        let mut start = None;
        for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
            let ends = character.is_whitespace() || text[at..].starts_with("</s>");
            if let (true, Some(from)) = (ends, start) {
                spans.push(self.span(text, from..at));
                start = None;
            }
            if !character.is_whitespace() && start.is_none() && at < text.len() {
                start = Some(at);
            }
            let from = start.unwrap_or(at);
            if at < text.len() && text[from..=at].ends_with("</s>") {
                spans.push(self.span(text, from..at + 1));
                start = None;
            }
        }
        Ok(spans)
    }

    fn fingerprint(&self) -> String {
        format!("words {:?}", self.0)
    }
}

fn words() -> Words {
    Words(vec!["a", "dog", "s0", "s1", "s2", "USER:", "ASSISTANT:", "q", "r", "yes", "no"])
}

fn format(name: &str, template: Option<&str>) -> Format {
    Format::parse(name, &FormatOptions { template, ..Default::default() }).unwrap()
}

fn mmc4(layout: &str, loss_scope: &str) -> Format {
    Format::parse("mmc4", &FormatOptions { layout: Some(layout), loss_scope: Some(loss_scope), ..Default::default() })
        .unwrap()
}

/// Documents of a shard as (tokens, learned tokens, image names).
fn documents(dir: &Path) -> Vec<(Vec<u32>, Vec<u32>, Vec<String>)> {
    let reader = ShardReader::open(dir).unwrap();
    reader.verify().unwrap();
    let document = |index| {
        let view = reader.sample(index).unwrap();
        let learned = view.tokens.iter().zip(view.loss.iter()).filter_map(|(&token, target)| target.then_some(token));
        let names = view.images.iter().map(|&image| reader.image_name(image).unwrap().to_owned());
        (view.tokens.to_vec(), learned.collect(), names.collect())
    };
    (0..reader.len()).map(document).collect()
}

/// Ingests one file with three images beside it (`i0.png` to `i2.png`, also in `images/`).
struct Corpus {
    scratch: Scratch,
    options: IngestOptions,
}

impl Corpus {
    fn new(format: Format, content: &str) -> Self {
        let scratch = Scratch::new();
        for number in 0..3_u8 {
            scratch.image(&format!("i{number}.png"), 10 * number);
            scratch.image(&format!("images/i{number}.png"), 10 * number);
        }
        let input = scratch.write("corpus.jsonl", content);
        let options = IngestOptions::new(format, vec![input], scratch.path("shard"));
        Self { scratch, options }
    }

    fn ingest(&self) -> Result<IngestReport, IngestError> {
        ingest(&self.options, &words())
    }

    fn documents(&self) -> Vec<(Vec<u32>, Vec<u32>, Vec<String>)> {
        self.ingest().unwrap();
        documents(&self.options.out)
    }

    fn problem(&self) -> (Problem, u64, String) {
        let error = self.ingest().unwrap_err();
        let message = error.to_string();
        assert!(!self.options.out.exists(), "an error must leave no shard");
        assert!(message.contains("corpus.jsonl") && message.contains("--on-error skip"), "{message}");
        match error {
            IngestError::Record { place, problem } => (problem, place.line, message),
            other => panic!("{other}"),
        }
    }
}

fn ids(text: &str) -> Vec<u32> {
    let special = HashMap::from([("<s>", 1), ("</s>", 2), ("IMG", IMAGE)]);
    text.split(' ').map(|word| special.get(word).copied().unwrap_or_else(|| words().id(word))).collect()
}

const THREE_SENTENCES: &str = r#"{"text_list": ["s0", "s1", "s2"], "image_info": [
    {"image_name": "i0.png", "matched_text_index": 2, "matched_sim": 0.3}, {"image_name": "i1.png", "matched_text_index": 0}],
    "url": "u", "similarity_matrix": [[0.1]]}"#;

fn one_line(json: &str) -> String {
    json.replace('\n', " ")
}

#[test]
fn pairs_have_the_layout_of_the_specification() {
    let corpus = Corpus::new(
        format("pairs", None),
        "{\"image\": \"i0.png\", \"text\": \"a dog\"}\n\n{\"caption\": \"a <image> dog\", \"image\": \"i1.png\"}\r\n",
    );
    let documents = corpus.documents();
    assert_eq!(documents[0], (ids("<s> IMG a dog </s>"), ids("a dog </s>"), vec!["i0.png".to_owned()]));
    assert_eq!(documents[1].0, [1, IMAGE, words().id("a"), 0, words().id("dog"), 2], "a mark in the caption is text");
}

#[test]
fn mmc4_has_the_layouts_of_the_specification() {
    let made = |layout, scope| Corpus::new(mmc4(layout, scope), &one_line(THREE_SENTENCES)).documents();
    let native = made("native", "all_text");
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(native, [(ids("<s> IMG s0 s1 IMG s2 </s>"), ids("s0 s1 s2 </s>"), names(["i1.png", "i0.png"]))]);
    let first = made("images-first", "all_text");
    assert_eq!(first, [(ids("<s> IMG IMG s0 s1 s2 </s>"), ids("s0 s1 s2 </s>"), names(["i1.png", "i0.png"]))]);
    let pairs = made("pairs", "all_text");
    assert_eq!(pairs[0], (ids("<s> IMG s2 </s>"), ids("s2 </s>"), vec!["i0.png".to_owned()]));
    assert_eq!(pairs[1], (ids("<s> IMG s0 </s>"), ids("s0 </s>"), vec!["i1.png".to_owned()]));
    let following = made("native", "image_following_text_only");
    assert_eq!((&following[0].0, &following[0].1), (&ids("<s> IMG s0 s1 IMG s2 </s>"), &ids("s0 s2 </s>")));
}

#[test]
fn documents_without_images_are_counted_not_kept() {
    let content = format!("{}\n{{\"text_list\": [\"a\"]}}\n", one_line(THREE_SENTENCES));
    let corpus = Corpus::new(format("mmc4", None), &content);
    let report = corpus.ingest().unwrap();
    assert_eq!((report.records, report.counts.samples), (2, 1));
    assert_eq!(report.skipped.get("without_images"), Some(&1));
    assert!(cli::ingest_text(&report).contains("1 x without images"));
}

const TALK: &str = r#"{"id": "t", "image": "i0.png", "conversations": [{"from": "human", "value": "<image>\nq"},
    {"from": "gpt", "value": "yes"}, {"from": "human", "value": "r"}, {"from": "gpt", "value": "a dog"}]}"#;

#[test]
fn conversations_learn_answers_and_their_ends() {
    let content = one_line(TALK);
    let list = format!("[{content},\n {content}\n]");
    let lines = format!("{content}\n{content}\n");
    for form in [list, lines] {
        let documents = Corpus::new(format("llava", Some("vicuna_v1_nosys")), &form).documents();
        assert_eq!(documents.len(), 2);
        let tokens = ids("<s> USER: IMG q ASSISTANT: yes </s> USER: r ASSISTANT: a dog </s>");
        assert_eq!(documents[0], (tokens, ids("yes </s> a dog </s>"), vec!["i0.png".to_owned()]));
    }
    let plain = r#"[{"image": "i1.png", "conversations": [{"from": "human", "value": "q\n<image>"}, {"from": "gpt", "value": "a dog"}]}]"#;
    let documents = Corpus::new(format("llava", Some("plain")), plain).documents();
    assert_eq!((&documents[0].0, &documents[0].1), (&ids("<s> IMG a dog"), &ids("a dog")));
}

#[test]
fn a_mask_follows_the_bytes_of_a_real_tokenizer() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf/tokenizer.json");
    let tokenizer = IngestTokenizer::from_file(fixture).unwrap();
    let corpus = Corpus::new(format("llava", Some("vicuna_v1")), &one_line(TALK));
    ingest(&corpus.options, &tokenizer).unwrap();
    let reader = ShardReader::open(&corpus.options.out).unwrap();
    let view = reader.sample(0).unwrap();
    assert_eq!(view.tokens.iter().filter(|&&token| token == IMAGE).count(), 1);
    let learned: Vec<Vec<u32>> = view
        .tokens
        .split(|&token| token == tokenizer.eos())
        .scan(0, |start, part| {
            let learned =
                (*start..*start + part.len()).filter(|&index| view.loss.get(index)).map(|index| view.tokens[index]);
            *start += part.len() + 1;
            Some(learned.collect())
        })
        .collect();
    let text = |ids: &[u32]| tokenizer.inner().decode_all(ids).unwrap().trim().to_owned();
    // This vocabulary has one token for ": a ", which no model can say after a prompt that ends with ":".
    assert_eq!((text(&learned[0]), text(&learned[1])), ("yes".to_owned(), "a dog".to_owned()));
    let ends = view.tokens.iter().enumerate().filter(|(_, token)| **token == tokenizer.eos());
    assert!(ends.map(|(index, _)| index).all(|index| view.loss.get(index)));
    reader.check_tokenizer(&tokenizer.fingerprint()).unwrap();
    let shown = cli::show(&corpus.options.out, 1, 0, None).unwrap();
    assert!(shown.text.contains("<image:i0.png>") && shown.text.contains("[[ yes</s>]]"), "{}", shown.text);
}

#[test]
fn text_is_learned_whole() {
    let documents =
        Corpus::new(format("text", None), "{\"text\": \"a dog\"}\n{\"text_list\": [\"s0\", \"s1\"]}").documents();
    assert_eq!(documents[0], (ids("<s> a dog </s>"), ids("a dog </s>"), vec![]));
    assert_eq!(documents[1].0, ids("<s> s0 s1 </s>"));
}

#[test]
fn long_documents_are_cut_with_whole_images() {
    let mut corpus = Corpus::new(format("mmc4", None), &one_line(THREE_SENTENCES));
    corpus.options.max_tokens = Some(TokenLimit { tokens: 8, per_image: 5 });
    let report = corpus.ingest().unwrap();
    assert_eq!(report.skipped.get("cut_to_max_tokens"), Some(&1));
    assert_eq!(documents(&corpus.options.out), [(ids("<s> IMG s0 s1"), ids("s0 s1"), vec!["i1.png".to_owned()])]);
    assert_eq!(report.counts.images, 1, "an image that was cut off is not stored");
}

#[test]
fn identical_images_are_stored_once() {
    let corpus = Corpus::new(
        format("pairs", None),
        "{\"image\": \"i0.png\", \"text\": \"a\"}\n{\"image\": \"images/i0.png\", \"text\": \"a\"}\n{\"image\": \"i1.png\", \"text\": \"a\"}\n",
    );
    let counts = corpus.ingest().unwrap().counts;
    assert_eq!((counts.image_uses, counts.images), (3, 2));
    let reader = ShardReader::open(&corpus.options.out).unwrap();
    assert_eq!(reader.image(ImageId(0)).unwrap(), fs::read(corpus.scratch.path("i0.png")).unwrap());
    let record = reader.image_record(ImageId(1)).unwrap();
    assert_eq!((record.width, record.height), (4, 6));
}

#[test]
fn bad_records_name_file_and_line() {
    let good = r#"{"image": "i0.png", "text": "a"}"#;
    let second = |bad: &str| Corpus::new(format("pairs", None), &format!("{good}\n{bad}\n{good}\n"));
    let check = |bad: &str, expected: fn(&Problem) -> bool| {
        let (problem, line, message) = second(bad).problem();
        assert!(line == 2 && expected(&problem) && message.contains("line 2"), "{message}");
    };
    check(r#"{"image": "i0.png", "text": "a""#, |problem| matches!(problem, Problem::Json(_)));
    check(r#"{"image": "i0.png"}"#, |problem| matches!(problem, Problem::Json(_)));
    check(r#"{"image": "i0.png", "text": " "}"#, |problem| matches!(problem, Problem::Empty));
    check(r#"{"image": "absent.png", "text": "a"}"#, |problem| matches!(problem, Problem::MissingImage(_)));
    check(r#"{"image": "corpus.jsonl", "text": "a"}"#, |problem| matches!(problem, Problem::BadImage(_)));

    let cut = second(r#"{"image": "cut.png", "text": "a"}"#);
    let whole = fs::read(cut.scratch.path("i0.png")).unwrap();
    cut.scratch.write("cut.png", &whole[..whole.len() / 2]);
    let (problem, _, message) = cut.problem();
    assert!(
        matches!(problem, Problem::BadImage(_)) && message.contains("cut.png") && message.contains("cut short"),
        "{message}"
    );
}

#[test]
fn bad_documents_and_conversations_name_their_problem() {
    let index = one_line(THREE_SENTENCES).replace("\"matched_text_index\": 2", "\"matched_text_index\": 3");
    let (problem, ..) = Corpus::new(format("mmc4", None), &index).problem();
    assert!(matches!(problem, Problem::SentenceIndex { index: 3, sentences: 3, .. }));
    let vicuna = format("llava", Some("v1"));
    let two_marks = one_line(TALK).replace("\"r\"", "\"<image>r\"");
    let (problem, ..) = Corpus::new(vicuna.clone(), &two_marks).problem();
    assert!(matches!(problem, Problem::CountMismatch { marks: 2, images: 1 }));
    let out_of_turn = one_line(TALK).replacen("gpt", "human", 1);
    let (problem, ..) = Corpus::new(vicuna.clone(), &out_of_turn).problem();
    assert!(matches!(problem, Problem::Roles { turn: 2, .. }));
    let (problem, ..) = Corpus::new(vicuna, r#"{"conversations": [{"from": "human", "value": "q"}]}"#).problem();
    assert!(matches!(problem, Problem::NoTarget));
    let (problem, ..) = Corpus::new(format("text", None), r#"{"text": ""}"#).problem();
    assert!(matches!(problem, Problem::Empty));
    let (problem, ..) = Corpus::new(format("text", None), r#"{"title": "a"}"#).problem();
    assert!(matches!(problem, Problem::Json(_)));
}

#[test]
fn broken_arrays_are_refused() {
    let element = one_line(TALK);
    for (content, expected) in [
        (format!("[{element} {element}]"), "comma"),
        (format!("[{element},"), "cut short"),
        (format!("[{}", &element[..60]), "cut short"),
        (format!("[{element}] {element}"), "after the end"),
        ("[1, 2]".to_owned(), "not an object"),
        (format!("[{element},]"), "not an object"),
    ] {
        let error = Corpus::new(format("llava", Some("v1")), &content).ingest().unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, IngestError::Form { .. }) && message.contains(expected), "{content}: {message}");
    }
}

#[test]
fn offenders_can_be_passed_over() {
    let good = r#"{"image": "i0.png", "text": "a dog"}"#;
    let absent = r#"{"image": "absent.png", "text": "a"}"#;
    let mut corpus = Corpus::new(format("pairs", None), &format!("{good}\n{absent}\nnot json\n{good}\n{absent}\n"));
    corpus.options.on_error = OnError::Skip;
    let report = corpus.ingest().unwrap();
    assert_eq!((report.records, report.counts.samples), (5, 2));
    assert_eq!((report.skipped["missing_image"], report.skipped["invalid_record"]), (2, 1));
    let lines: Vec<_> = report.offenders.iter().map(|offender| (offender.place.line, offender.kind)).collect();
    assert_eq!(lines, [(2, "missing_image"), (3, "invalid_record"), (5, "missing_image")]);
    let reader = ShardReader::open(&corpus.options.out).unwrap();
    assert_eq!(reader.record(1).unwrap().source_line, 4);
    assert_eq!(cli::ingest_json(&report)["offenders"].as_array().unwrap().len(), 3);
}

#[test]
fn nothing_usable_is_an_error() {
    let mut corpus = Corpus::new(format("text", None), "{}\n{}\n");
    corpus.options.on_error = OnError::Skip;
    assert!(matches!(corpus.ingest(), Err(IngestError::Nothing { skipped: 2, .. })));
    assert!(matches!(Corpus::new(format("text", None), "").ingest(), Err(IngestError::Nothing { .. })));
    let mut corpus = Corpus::new(format("text", None), "");
    corpus.options.inputs = vec![corpus.scratch.path("nowhere.jsonl")];
    assert!(matches!(corpus.ingest(), Err(IngestError::Source { .. })));
    corpus.options.inputs.clear();
    assert!(matches!(corpus.ingest(), Err(IngestError::Options(OptionError::NoInput))));
}

#[test]
fn the_cache_key_follows_content_options_and_tokenizer() {
    let corpus = Corpus::new(format("text", None), "{\"text\": \"a\"}\n");
    let key = |options: &IngestOptions, tokenizer: &Words| cache_key(options, tokenizer).unwrap();
    let base = key(&corpus.options, &words());
    assert_eq!(key(&corpus.options, &words()), base);
    let elsewhere = IngestOptions { out: corpus.scratch.path("other"), ..corpus.options.clone() };
    assert_eq!(key(&elsewhere, &words()), base, "where the shard goes does not matter");
    assert_ne!(key(&corpus.options, &Words(vec!["a"])), base);
    let limited = IngestOptions { max_tokens: Some(TokenLimit { tokens: 9, per_image: 1 }), ..corpus.options.clone() };
    assert_ne!(key(&limited, &words()), base);
    corpus.scratch.write("corpus.jsonl", "{\"text\": \"a \"}\n");
    assert_ne!(key(&corpus.options, &words()), base);
}

#[test]
fn another_tokenizer_is_refused() {
    let corpus = Corpus::new(format("text", None), "{\"text\": \"a\"}\n");
    corpus.ingest().unwrap();
    let reader = ShardReader::open(&corpus.options.out).unwrap();
    reader.check_tokenizer(&words().fingerprint()).unwrap();
    let error = reader.check_tokenizer("something else").unwrap_err();
    assert!(
        matches!(error, ShardError::Tokenizer { .. }) && error.to_string().contains("ingest the data again"),
        "{error}"
    );
}

#[test]
fn missing_short_and_damaged_files_are_refused_by_name() {
    let corpus = Corpus::new(format("mmc4", None), &one_line(THREE_SENTENCES));
    corpus.ingest().unwrap();
    let shard = &corpus.options.out;
    let files: Vec<_> = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 9);
    let read = || ShardReader::open(shard).and_then(|reader| reader.verify());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let whole = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let error = read().unwrap_err();
        let missing = matches!(error, ShardError::MissingFile { .. } | ShardError::NotAShard { .. });
        assert!(missing && error.to_string().contains(&name), "{error}");
        // The manifest's last byte is a line end, which means nothing.
        let end = if name == "manifest.json" { 2 } else { 1 };
        fs::write(&file, &whole[..whole.len() - end]).unwrap();
        let error = read().unwrap_err();
        assert!(matches!(error, ShardError::Length { .. }) || name == "manifest.json", "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        fs::write(&file, &flipped).unwrap();
        let error = read().unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
        fs::write(&file, &whole).unwrap();
    }
    read().unwrap();
}

#[test]
fn damage_is_found_when_it_is_read() {
    let corpus = Corpus::new(format("mmc4", None), &one_line(THREE_SENTENCES));
    corpus.ingest().unwrap();
    for (file, read_image) in
        [("tokens.bin", false), ("loss.bin", false), ("images.bin", true), ("image_uses.bin", false)]
    {
        let path = corpus.options.out.join(file);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[0] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let reader = ShardReader::open(&corpus.options.out).unwrap();
        let error = if read_image { reader.image(ImageId(0)).err() } else { reader.sample(0).err() };
        assert!(matches!(&error, Some(ShardError::Damaged { path: at, .. }) if *at == path), "{file}: {error:?}");
        fs::write(&path, &whole).unwrap();
    }
}

fn small() -> CorpusOptions {
    CorpusOptions {
        views: 2,
        text_games: 60,
        text: 300,
        pairs: 200,
        mmc4: 300,
        sft_visual: 300,
        sft_text: 200,
        ..Default::default()
    }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_toy_world_goes_through_the_public_formats() {
    let scratch = Scratch::new();
    let digits = Digits::embedded().unwrap();
    let report = toy::write_corpus(&digits, &small(), &scratch.0).unwrap();
    assert_eq!((report.train_images, report.held_out_images), (2 * 1397, 400));
    let tokenizer_path = scratch.path("tokenizer.json");
    toy::train_tokenizer(&report.text_files, &tokenizer_path).unwrap();
    let tokenizer = IngestTokenizer::from_file(&tokenizer_path).unwrap();
    for (token, id) in [("<unk>", 0), ("<s>", 1), ("</s>", 2), ("<image>", 3)] {
        assert_eq!(tokenizer.inner().token_id(token), Some(id));
    }
    let wide = Format::parse("mmc4", &FormatOptions { max_images: Some(0), ..Default::default() }).unwrap();
    let chat = format("llava", Some("vicuna_v1_nosys"));
    for (file, format) in [
        ("text_games.jsonl", format("text", None)),
        ("text.jsonl", format("text", None)),
        ("pairs.jsonl", format("pairs", None)),
        ("mmc4.jsonl", wide),
        ("sft_visual.json", chat.clone()),
        ("sft_text.json", chat),
    ] {
        let options = IngestOptions::new(format, vec![scratch.path(file)], scratch.path(&format!("shards/{file}")));
        let report = ingest(&options, &tokenizer).unwrap();
        assert!(report.skipped.is_empty(), "{file}: {:?}", report.skipped);
        assert_eq!(report.counts.samples, report.records);
        for (tokens, learned, _) in documents(&options.out) {
            assert!(tokens[0] == 1 && learned.last() == Some(&2) && !tokens.contains(&0), "{file}: {tokens:?}");
        }
    }
    check_layouts(&scratch, &tokenizer);
    check_evaluations(&scratch, &tokenizer);
    check_pages(&scratch);
}

/// A naming document reads `<image> wug , <image> dax , ...`, a conversation ends in its answer.
fn check_layouts(scratch: &Scratch, tokenizer: &IngestTokenizer) {
    let comma = tokenizer.inner().token_id(",").unwrap();
    let interleaved = documents(&scratch.path("shards/mmc4.jsonl"));
    let naming = interleaved.iter().find(|(tokens, ..)| tokens.get(3) == Some(&comma)).unwrap();
    let body = &naming.0[1..naming.0.len() - 1];
    assert!(body.chunks(3).all(|item| item[0] == IMAGE && item[2] == comma), "{body:?}");
    assert_eq!(naming.2.len(), body.len() / 3);
    assert!(interleaved.iter().any(|(tokens, ..)| tokens.windows(2).any(|pair| pair == [IMAGE, IMAGE])));
    assert!(naming.2.iter().all(|name| name.starts_with('t')));
    for (_, learned, images) in documents(&scratch.path("shards/sft_visual.json")) {
        assert!(learned.len() == 2 && (1..=4).contains(&images.len()));
    }
}

/// Held-out digits only, no unknown word, and every file as large as promised.
fn check_evaluations(scratch: &Scratch, tokenizer: &IngestTokenizer) {
    let expected = [
        ("digit_vqa", 400),
        ("two_image_sum", 400),
        ("larger", 400),
        ("smaller", 400),
        ("count", 300),
        ("after", 400),
        ("naming_0", 400),
        ("naming_4", 400),
        ("text_naming", 400),
        ("text_arithmetic", 155),
        ("text_arithmetic_chat", 155),
        ("facts", 36),
        ("facts_chat", 36),
    ];
    for (task, count) in expected {
        let items = lines(&scratch.path(&format!("eval/{task}.jsonl")));
        assert_eq!(items.len(), count, "{task}");
        for item in items {
            let chat = item["template"] == json!(true);
            let text = item[if chat { "question" } else { "prompt" }].as_str().unwrap();
            let images = item["images"].as_array().unwrap();
            assert_eq!(text.matches("<image>").count(), images.len(), "{item}");
            for image in images {
                let image = image.as_str().unwrap();
                assert!(image.starts_with("images/h") && scratch.path("eval").join(image).exists(), "{image}");
            }
            let answer = item["answer"].as_str().unwrap();
            let unknown =
                |text: &str| tokenizer.encode_with_offsets(text).unwrap().iter().any(|(token, _)| *token == 0);
            assert!(!unknown(text) && !unknown(answer), "{item}");
            if let Some(choices) = item["choices"].as_array() {
                let distinct: BTreeSet<_> = choices.iter().map(|choice| choice.as_str().unwrap()).collect();
                assert!(distinct.len() == 4 && distinct.contains(answer));
            }
        }
    }
    let (bare, shown) = (lines(&scratch.path("eval/naming_0.jsonl")), lines(&scratch.path("eval/naming_4.jsonl")));
    for (bare, shown) in bare.iter().zip(&shown) {
        assert_eq!(
            (&bare["answer"], &bare["choices"], &bare["images"][0]),
            (&shown["answer"], &shown["choices"], &shown["images"][4])
        );
    }
}

fn check_pages(scratch: &Scratch) {
    let shard = scratch.path("shards/mmc4.jsonl");
    let info = cli::info(&shard).unwrap();
    assert_eq!(info["counts"]["samples"], 300);
    let text = cli::info_text(&info);
    assert!(text.contains("tokens per document") && text.contains("distinct"), "{text}");
    assert_eq!(cli::verify(&shard).unwrap()["intact"], true);
    let page = scratch.path("page.html");
    let shown = cli::show(&shard, 5, 7, Some(&page)).unwrap();
    assert_eq!(shown.documents, 5);
    assert!(shown.text.contains("<image:t"));
    assert_eq!(cli::show(&shard, 5, 7, None).unwrap().text, shown.text);
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("data:image/png;base64,iVBOR") && html.contains("<mark>") && !html.contains("http"));
}

#[test]
fn a_page_escapes_what_the_data_says() {
    let corpus = Corpus::new(
        format("pairs", None),
        r#"{"image": "i\"><script>.png", "text": "<script>alert('x')</script> & more"}"#,
    );
    corpus.scratch.image("i\"><script>.png", 5);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf/tokenizer.json");
    ingest(&corpus.options, &IngestTokenizer::from_file(fixture).unwrap()).unwrap();
    let page = corpus.scratch.path("page.html");
    cli::show(&corpus.options.out, 1, 0, Some(&page)).unwrap();
    let html = fs::read_to_string(page).unwrap();
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
}

#[test]
fn toy_corpora_are_a_function_of_the_seed() {
    let digits = Digits::embedded().unwrap();
    let written = |options: CorpusOptions| {
        let scratch = Scratch::new();
        toy::write_corpus(&digits, &options, &scratch.0).unwrap();
        let read = |name: &str| fs::read(scratch.path(name)).unwrap();
        let names = [
            "mmc4.jsonl",
            "text.jsonl",
            "sft_visual.json",
            "eval/naming_4.jsonl",
            "images/t0007_v01.png",
            "images/t0007_v00.png",
        ];
        names.map(read)
    };
    let first = written(small());
    assert_eq!(written(small()), first);
    let other = written(CorpusOptions { seed: 1, ..small() });
    assert!(first.iter().zip(&other).take(5).all(|(a, b)| a != b));
    assert_eq!(first[5], other[5], "the plain view is the digit itself");
    let longer = written(CorpusOptions { text: 400, ..small() });
    assert!(longer[1].starts_with(&first[1]), "a document depends on its index, not on how many there are");
}

#[test]
fn held_out_pairs_never_appear_in_training_sums() {
    let scratch = Scratch::new();
    let digits = Digits::embedded().unwrap();
    toy::write_corpus(&digits, &CorpusOptions { sft_visual: 6_000, ..small() }, &scratch.0).unwrap();
    let label = |image: &Value| {
        let name = image.as_str().unwrap().rsplit('/').next().unwrap();
        digits.label(name[1..5].parse().unwrap())
    };
    let records: Vec<Value> = serde_json::from_slice(&fs::read(scratch.path("sft_visual.json")).unwrap()).unwrap();
    let sums = records
        .iter()
        .filter(|record| record["conversations"][0]["value"].as_str().unwrap().ends_with("what is the sum ?"));
    let trained: BTreeSet<_> = sums.map(|record| (label(&record["image"][0]), label(&record["image"][1]))).collect();
    assert_eq!(trained.len(), 80, "20 of the 100 pairs are held out");
    let asked = lines(&scratch.path("eval/two_image_sum.jsonl"));
    for item in &asked {
        let pair = (label(&item["images"][0]), label(&item["images"][1]));
        assert_eq!(item["held_out_pair"].as_bool().unwrap(), !trained.contains(&pair));
    }
    let share = asked.iter().filter(|item| item["held_out_pair"] == true).count();
    assert!((40..140).contains(&share), "{share}");
}

#[test]
fn answers_match_the_labels() {
    let scratch = Scratch::new();
    let digits = Digits::embedded().unwrap();
    toy::write_corpus(&digits, &small(), &scratch.0).unwrap();
    let names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    for (item, tile) in lines(&scratch.path("eval/digit_vqa.jsonl")).iter().zip(1397..) {
        assert_eq!(item["images"][0], format!("images/h{tile}.png"));
        assert_eq!(item["answer"], names[digits.label(tile)]);
    }
    let picture = image::open(scratch.path("eval/images/h1400.png")).unwrap().into_luma8();
    assert_eq!(picture.dimensions(), (16, 16));
    let corner = (digits.tile(1400)[0] * 255.0).round() as u8;
    assert_eq!(picture.get_pixel(0, 0).0[0], corner, "the corner pixel is the corner of the tile");
}

#[test]
fn other_digits_must_have_the_same_form() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../train/assets/digits");
    let scratch = Scratch::new();
    assert!(matches!(Digits::from_dir(&scratch.0), Err(ToyError::Io { .. })));
    let sheet = fs::read(assets.join("digits.png")).unwrap();
    let labels = fs::read_to_string(assets.join("labels.txt")).unwrap();
    scratch.write("digits.png", &sheet);
    scratch.write("labels.txt", &labels);
    let digits = Digits::from_dir(&scratch.0).unwrap();
    assert_eq!(digits.label(1500), Digits::embedded().unwrap().label(1500));
    let refused = |what: &str| {
        let error = Digits::from_dir(&scratch.0).err().unwrap();
        assert!(matches!(error, ToyError::Form { .. }) && error.to_string().contains(what), "{error}");
    };
    scratch.write("labels.txt", &labels.trim()[1..]);
    refused("1796 labels");
    scratch.write("labels.txt", labels.replacen('0', "x", 1));
    refused("`x` is not a digit");
    scratch.write("labels.txt", format!("{}{}", &labels[..1397], "1".repeat(400)));
    refused("no held-out tile shows a 0");
    scratch.write("labels.txt", &labels);
    scratch.image("digits.png", 3);
    refused("4 x 6 pixels");
    scratch.write("digits.png", &sheet[..sheet.len() / 2]);
    assert!(matches!(Digits::from_dir(&scratch.0), Err(ToyError::Sheet(_))));
    let none = CorpusOptions { views: 0, ..small() };
    let error = toy::write_corpus(&Digits::embedded().unwrap(), &none, scratch.path("none")).unwrap_err();
    assert!(matches!(error, ToyError::Option { field: "views", .. }));
}
