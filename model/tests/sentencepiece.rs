//! SentencePiece models give the ids of the `sentencepiece` package (goldens of `tests/scripts/make_sentencepiece.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use vila_model::tokenizer::Tokenizer;

fn fixtures() -> PathBuf {
    match std::env::var_os("VILA_SENTENCEPIECE_DIR") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sentencepiece"),
    }
}

fn models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).expect("fixtures").map(|entry| entry.expect("entry").path());
    let mut models: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "model")).collect();
    models.sort();
    models
}

/// Text, ids, and sometimes the text of the ids.
fn goldens(path: &Path) -> Vec<(String, Vec<u32>, Option<String>)> {
    let lines = std::fs::read_to_string(path).expect("goldens");
    let parse = |line: &str| {
        let line: Vec<Value> = serde_json::from_str(line).expect("json");
        let ids = line[1].as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect();
        (line[0].as_str().expect("text").to_string(), ids, line.get(2).map(|t| t.as_str().expect("text").to_string()))
    };
    lines.lines().map(parse).collect()
}

/// Compares all goldens of a tokenizer; returns their number.
fn compare(tokenizer: &Tokenizer, path: &Path) -> usize {
    let mut wrong = Vec::new();
    let goldens = goldens(path);
    for (text, ids, decoded) in &goldens {
        let tokens = tokenizer.encode_with_offsets(text).expect("tokenized");
        for (_, span) in &tokens {
            assert!(text.get(span.clone()).is_some(), "{}: {text:?} has no {span:?}", path.display());
        }
        let got: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
        if &got != ids {
            wrong.push(format!("{text:?}: {got:?}, not {ids:?}"));
        }
        if let Some(decoded) = decoded {
            let got = tokenizer.decode(ids).expect("decoded");
            if &got != decoded {
                wrong.push(format!("{ids:?} of {text:?}: {got:?}, not {decoded:?}"));
            }
        }
    }
    let shown = wrong.len().min(5);
    assert!(wrong.is_empty(), "{}: {} differ:\n{}", path.display(), wrong.len(), wrong[..shown].join("\n"));
    goldens.len()
}

#[test]
fn ids_are_those_of_the_package() {
    let mut strings = 0;
    for model in models() {
        let tokenizer = Tokenizer::from_file(&model).expect("model");
        strings += compare(&tokenizer, &model.with_extension("jsonl"));
    }
    println!("{strings} strings give the ids of the package");
    assert!(strings >= 10_000, "{strings} strings");
}

/// What checkpoints and shards keep is a `tokenizer.json`; it must give the same ids.
#[test]
fn a_model_survives_as_tokenizer_json() {
    for model in models() {
        let tokenizer = Tokenizer::from_file(&model).expect("model");
        let again = Tokenizer::from_bytes(tokenizer.file_bytes().to_vec(), Path::new("tokenizer.json")).expect("json");
        assert_eq!(again.fingerprint(), tokenizer.fingerprint());
        assert_eq!(
            (again.bos(), again.eos(), again.vocab_size()),
            (tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size())
        );
        compare(&again, &model.with_extension("jsonl"));
    }
}

fn llama_directories() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(fixtures().join("llama")) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    dirs.sort();
    dirs
}

/// Directories without a `tokenizer.json`, in both `legacy` modes (`tests/scripts/make_llama_tokenizer.py`).
#[test]
fn ids_are_those_of_a_llama_tokenizer() {
    let mut strings = 0;
    for dir in llama_directories() {
        let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json")).expect("directory");
        strings += compare(&tokenizer, &dir.join("ids.jsonl"));
        let again = Tokenizer::from_bytes(tokenizer.file_bytes().to_vec(), Path::new("tokenizer.json")).expect("json");
        compare(&again, &dir.join("ids.jsonl"));
        assert_eq!((again.bos(), again.eos()), (tokenizer.bos(), tokenizer.eos()));
        let named = Tokenizer::from_file(&dir.join("tokenizer.model")).expect("model");
        assert_eq!(named.fingerprint(), tokenizer.fingerprint());
    }
    println!("{strings} strings give the ids of LlamaTokenizer");
    assert!(strings >= 1250, "{strings} strings");
}

/// Other programs read what checkpoints hold. Without the model inside, ids differ where the `tokenizers` crate cannot
/// do what the package does, as after transformers' own conversion; for a model such as Llama's they do not.
#[test]
fn other_readers_read_the_json() {
    for model in models() {
        let tokenizer = Tokenizer::from_file(&model).expect("model");
        let other = tokenizers::Tokenizer::from_bytes(tokenizer.file_bytes()).expect("a tokenizer.json");
        if model.ends_with("bpe-llama.model") {
            for (text, ids, _) in goldens(&model.with_extension("jsonl")) {
                assert_eq!(other.encode(text.as_str(), false).expect("encoded").get_ids(), ids, "{text:?}");
            }
        }
    }
    for dir in llama_directories() {
        let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json")).expect("directory");
        tokenizers::Tokenizer::from_bytes(tokenizer.file_bytes()).expect("a tokenizer.json");
    }
}

/// Protocol buffers, written by hand.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn piece_of(text: &[u8], score: f32, kind: u64) -> Vec<u8> {
    let score = [varint(2 << 3 | 5), score.to_le_bytes().to_vec()].concat();
    field(1, &[field(1, text), score, number(3, kind)].concat())
}

fn piece(text: &str, kind: u64) -> Vec<u8> {
    piece_of(text.as_bytes(), -1.0, kind)
}

/// A model with a character map.
fn with_charsmap(units: &[u32], replacements: &[u8], claimed: Option<u32>) -> Vec<u8> {
    let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let size = claimed.unwrap_or(array.len() as u32).to_le_bytes();
    let map = [size.as_slice(), &array, replacements].concat();
    [piece("<unk>", 2), piece("a", 1), field(3, &field(2, &map))].concat()
}

fn units(changes: &[(usize, u32)]) -> Vec<u32> {
    let mut units = vec![0; 256];
    changes.iter().for_each(|&(at, unit)| units[at] = unit);
    units
}

#[test]
fn models_that_lie_are_refused() {
    let good = || [piece("<unk>", 2), piece("a", 1)].concat();
    assert!(Tokenizer::from_bytes(good(), Path::new("good.model")).is_ok());
    assert!(Tokenizer::from_bytes(with_charsmap(&units(&[]), b"x\0", None), Path::new("good.model")).is_ok());
    let bytes: Vec<u8> = (0..255).flat_map(|byte: u8| piece(&format!("<0x{byte:02X}>"), 6)).collect();
    let fallback = field(2, &number(35, 1));
    let leaf = 1u32 << 31;
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", Vec::new(), &["pieces", "empty"]),
        ("text", b"{\"model\": {}}".to_vec(), &["ModelProto"]),
        ("endless number", [&[0x0a][..], &[0xff; 12]].concat(), &["64 bits"]),
        ("cut number", vec![0x0a, 0x80], &["ends inside"]),
        ("length", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2], &["ModelProto", "claims", "2 are left"]),
        ("inner length", field(1, &[0x0a, 0x70, b'a']), &["pieces", "claims 112"]),
        ("field zero", vec![0x02, 0x00], &["numbered 0"]),
        ("group", vec![0x0b, 0x0c], &["wire type 3"]),
        ("wrong type", number(1, 7), &["pieces", "bytes"]),
        ("no unknown", piece("a", 1), &["unknown piece"]),
        ("two unknown", [piece("<unk>", 2), piece("<u>", 2)].concat(), &["two unknown"]),
        ("duplicate", [good(), piece("a", 1)].concat(), &["\"a\"", "twice", "1 and 2"]),
        ("no text", [good(), piece("", 1)].concat(), &["pieces.piece", "entry 2", "empty"]),
        ("zero byte", [good(), piece("b\0", 1)].concat(), &["zero byte"]),
        ("long", [good(), piece(&"a".repeat(8000), 1)].concat(), &["8000 bytes"]),
        ("utf-8", [good(), piece_of(&[0xff, 0xc0], -1.0, 1)].concat(), &["pieces.piece", "UTF-8"]),
        ("nan", [good(), piece_of(b"b", f32::NAN, 1)].concat(), &["pieces.score", "NaN"]),
        ("infinite", [good(), piece_of(b"b", f32::INFINITY, 1)].concat(), &["pieces.score", "inf"]),
        ("type", [good(), piece("b", 9)].concat(), &["pieces.type", "is 9"]),
        ("model type", [good(), field(2, &number(3, 7))].concat(), &["model_type", "is 7"]),
        ("missing byte", [good(), bytes.clone(), fallback.clone()].concat(), &["<0xFF>"]),
        ("byte without fallback", [good(), piece("<0x00>", 6)].concat(), &["byte_fallback"]),
        ("no byte", [good(), fallback, piece("<0xGG>", 6)].concat(), &["<0xGG>"]),
        ("many", [piece("<unk>", 2), piece("a", 1).repeat(200_000)].concat(), &["twice"]),
        ("map header", [good(), field(3, &field(2, &[1, 2]))].concat(), &["charsmap", "header"]),
        ("map size", with_charsmap(&units(&[]), b"x\0", Some(u32::MAX)), &["charsmap", "4294967295"]),
        ("map blocks", with_charsmap(&units(&[])[..255], b"x\0", None), &["1024"]),
        ("map text", with_charsmap(&units(&[]), &[0xff, 0], None), &["UTF-8"]),
        ("map end", with_charsmap(&units(&[]), b"x", None), &["ends inside"]),
        ("map offset", with_charsmap(&units(&[(3, 0x7fff_fc00)]), b"x\0", None), &["unit 3", "outside"]),
        ("map place", with_charsmap(&units(&[(3, leaf | 5)]), b"x\0", None), &["replacement 5 of 2"]),
        ("map boundary", with_charsmap(&units(&[(3, leaf | 1)]), "é\0".as_bytes(), None), &["replacement 1"]),
        ("map promise", with_charsmap(&units(&[(3, 1 << 8)]), b"x\0", None), &["unit 3", "promises"]),
    ];
    for (name, bytes, parts) in cases {
        let start = std::time::Instant::now();
        let said = match Tokenizer::from_bytes(bytes, Path::new("some/tokenizer.model")) {
            Ok(_) => panic!("{name} was read"),
            Err(error) => error.to_string(),
        };
        assert!(start.elapsed().as_secs() < 5, "{name} took {:?}", start.elapsed());
        for part in ["some/tokenizer.model"].iter().chain(parts) {
            assert!(said.contains(part), "{name}: {part:?} is missing in: {said}");
        }
    }
}

/// A file that ends early is an error, or a model if it ends between pieces and needs nothing more.
#[test]
fn truncated_models_are_refused_or_read() {
    let whole = std::fs::read(fixtures().join("bpe-suffix.model")).expect("model");
    let mut refused = 0;
    for length in 0..whole.len() {
        match Tokenizer::from_bytes(whole[..length].to_vec(), Path::new("cut.model")) {
            Ok(tokenizer) => drop(tokenizer.encode("a text").expect("encoded")),
            Err(error) => {
                assert!(error.to_string().contains("cut.model"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > whole.len() * 9 / 10, "{refused} of {}", whole.len());
}

#[test]
fn settings_that_lie_are_refused() {
    let cases: [(&str, &str, &str, &[&str]); 9] = [
        ("json", "tokenizer_config.json", "{", &["tokenizer_config.json", "JSON"]),
        ("list", "tokenizer_config.json", "[]", &["not a JSON object"]),
        ("legacy", "tokenizer_config.json", r#"{"legacy": "yes"}"#, &["legacy", "true or false"]),
        ("class", "tokenizer_config.json", r#"{"tokenizer_class": "T5Tokenizer"}"#, &["T5Tokenizer", "tokenizer.json"]),
        ("id", "tokenizer_config.json", r#"{"added_tokens_decoder": {"4000000000": "x"}}"#, &["4000000000"]),
        ("decoder", "tokenizer_config.json", r#"{"added_tokens_decoder": 3}"#, &["added_tokens_decoder"]),
        ("content", "tokenizer_config.json", r#"{"bos_token": {"lstrip": true}}"#, &["bos_token", "content"]),
        (
            "word",
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"900": {"content": "x", "single_word": true}}}"#,
            &["single_word"],
        ),
        ("same id", "added_tokens.json", r#"{"x": 900, "y": 900}"#, &["added_tokens.json", "900"]),
    ];
    for (name, file, content, parts) in cases {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("spm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        std::fs::copy(fixtures().join("bpe-suffix.model"), dir.join("tokenizer.model")).expect("copy");
        std::fs::write(dir.join(file), content).expect("file");
        let said = match Tokenizer::from_file(&dir.join("tokenizer.json")) {
            Ok(_) => panic!("{name} was read"),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} is missing in: {said}");
        }
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

#[test]
fn a_damaged_model_inside_a_json_is_refused() {
    let whole = Tokenizer::from_file(&fixtures().join("bpe-suffix.model")).expect("model").file_bytes().to_vec();
    let text = String::from_utf8(whole).expect("text");
    for (from, to) in [("\"vila_sentencepiece\":{\"model\":\"", "$0?"), ("\"llama\":null", "\"llama\":{\"legacy\":3}")]
    {
        let broken = text.replacen(from, &to.replace("$0", from), 1);
        assert_ne!(broken, text);
        let said = match Tokenizer::from_bytes(broken.into_bytes(), Path::new("tokenizer.json")) {
            Ok(_) => panic!("{from} was read"),
            Err(error) => error.to_string(),
        };
        assert!(said.contains("vila_sentencepiece") && said.contains("convert"), "{said}");
    }
}

/// Offsets say where a token came from, also where characters were replaced or fell back to bytes.
#[test]
fn offsets_cover_the_text() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("bpe-llama.model")).expect("model");
    let text = "the 🍾 and";
    let bottle = text.find('🍾').expect("bottle");
    let bytes = tokenizer.encode_with_offsets(text).expect("tokens");
    assert_eq!(bytes.iter().filter(|(_, span)| *span == (bottle..bottle + 4)).count(), 4);
    let nfkc = Tokenizer::from_file(&fixtures().join("bpe-nfkc.model")).expect("model");
    let text = "the ①②  of";
    let spans: Vec<_> =
        nfkc.encode_with_offsets(text).expect("tokens").into_iter().map(|(_, span)| &text[span]).collect();
    assert_eq!(spans.concat().replace(' ', ""), text.replace(' ', ""));
}

/// A checkpoint directory that has a `tokenizer.model` only.
#[test]
fn a_checkpoint_with_a_model_only_loads() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llava-hf");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("spm-checkpoint-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    for file in ["model.safetensors", "config.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), dir.join(file)).expect("copy");
    }
    std::fs::copy(fixtures().join("bpe-llama.model"), dir.join("tokenizer.model")).expect("copy");
    let vila = vila_model::Vila::load(&dir, std::sync::Arc::new(vila_engine::CpuBackend::fast())).expect("loaded");
    let ids = vila.tokenizer.encode_prompt("the <image>\nand</s>").expect("encoded");
    // The start token, a text, the image, a text with its own space in front, the end token.
    let image = ids.iter().position(|&id| id == vila_engine::NO_ROW).expect("an image");
    assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&2)));
    assert_eq!(vila.tokenizer.decode(&ids[1..image]).expect("decoded"), "the ");
    assert_eq!(vila.tokenizer.decode(&ids[image + 1..]).expect("decoded"), "\nand");
    std::fs::remove_dir_all(&dir).expect("removed");
}
