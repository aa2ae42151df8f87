//! Tokenizer files made to hang, crash or fill memory: each ends soon with a message that names the file and the field.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Rng, fixtures, peak};
use serde_json::{Value, json};
use vila_model::tokenizer::Tokenizer;

/// Ten seconds are promised; a machine that does other work gets more.
const PATIENCE: Duration = Duration::from_secs(30);
const MEMORY: usize = 1 << 30;

fn good() -> Value {
    let text = std::fs::read_to_string(fixtures().join("templates/tokenizer.json")).expect("file");
    serde_json::from_str(&text).expect("json")
}

/// What reading the file and texts with it says.
fn outcome(file: &Value) -> Result<(), String> {
    let bytes = file.to_string().into_bytes();
    let began = Instant::now();
    let (said, used): (Result<(), String>, usize) = peak(|| {
        let tokenizer =
            Tokenizer::from_bytes(bytes, Path::new("some/tokenizer.json")).map_err(|error| error.to_string())?;
        for text in ["", "a", "aaaaaaaa the cat  ﬁ①㍿ abc\u{301}\0\t<s>abab 🍾", &"a b ".repeat(2000)] {
            let ids = tokenizer.encode(text).map_err(|error| error.to_string())?;
            tokenizer.decode(&ids).map_err(|error| error.to_string())?;
        }
        Ok(())
    });
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(used < MEMORY, "{used} bytes");
    if let Err(said) = &said {
        assert!(said.contains("some/tokenizer.json"), "{said}");
    }
    said
}

fn with(edit: impl FnOnce(&mut Value)) -> Value {
    let mut file = good();
    edit(&mut file);
    file
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn sequence(steps: Vec<Value>) -> Value {
    json!({"type": "Sequence", "normalizers": steps})
}

fn added(id: usize, content: String) -> Value {
    let (normalized, special) = (id.is_multiple_of(2), id.is_multiple_of(3));
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": normalized,
           "special": special})
}

#[test]
fn tokenizer_json_panics() {
    let doubling = || sequence(vec![replace("a", "aa"); 60]);
    let junk = |text: &str| json!({"type": "Precompiled", "precompiled_charsmap": text});
    let template = |sequences: usize| {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        json!({"type": "TemplateProcessing", "single": vec![text.clone(); sequences], "pair": [text, text], "special_tokens": {}})
    };
    let refused: Vec<(&str, Value)> = vec![
        ("normalizer", with(|file| file["normalizer"] = doubling())),
        ("normalizer", with(|file| file["normalizer"] = sequence(vec![doubling(), doubling()]))),
        ("normalizer", with(|file| file["normalizer"] = sequence(vec![replace("a", &"a".repeat(4000)); 3]))),
        (
            "normalizer",
            with(|file| {
                file["normalizer"] = doubling();
                file["added_tokens"].as_array_mut().expect("list").push(added(1000, "aaaa".into()));
            }),
        ),
        ("precompiled_charsmap", with(|file| file["normalizer"] = junk("AAAA"))),
        ("precompiled_charsmap", with(|file| file["normalizer"] = junk("?"))),
        ("precompiled_charsmap", with(|file| file["normalizer"] = junk("/////////////////////w=="))),
        ("precompiled_charsmap", with(|file| file["normalizer"] = sequence(vec![junk("AAAAAAAA"), replace(" ", "_")]))),
        ("normalizer.content", with(|file| file["normalizer"] = replace("a", &"b".repeat(5 << 20)))),
        (
            "decoder",
            with(|file| file["decoder"] = json!({"type": "Sequence", "decoders": vec![replace("a", "aa"); 60]})),
        ),
        (
            "added_tokens",
            with(|file| file["added_tokens"] = (0..300_000).map(|id| added(id, format!("<{id}>"))).collect()),
        ),
        ("added_tokens.0.content", with(|file| file["added_tokens"] = json!([added(600, "x".repeat(5 << 20))]))),
        ("model.vocab", with(|file| file["model"]["vocab"]["x".repeat(5 << 20)] = json!(512))),
        ("model.dropout", with(|file| file["model"]["dropout"] = json!(0.5))),
        ("model.merges", with(|file| file["model"]["continuing_subword_prefix"] = json!("##########"))),
        ("pre_tokenizer.length", with(|file| file["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}))),
        (
            "pre_tokenizer",
            with(|file| {
                file["pre_tokenizer"] = (0..40).fold(
                    json!({"type": "Whitespace"}),
                    |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}),
                )
            }),
        ),
        ("post_processor", with(|file| file["post_processor"] = template(100_000))),
        (
            "max_input_chars_per_word",
            with(|file| {
                file["model"] = json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                                   "max_input_chars_per_word": 1_000_000_000u64, "vocab": {"<unk>": 0, "a": 1}});
            }),
        ),
        ("model", with(|file| file["model"] = Value::Null)),
    ];
    for (field, file) in refused {
        let said = outcome(&file).expect_err(field);
        assert!(said.contains(field), "{field}: {said}");
    }
    let padding = json!({"strategy": {"Fixed": 1_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": 1_000_000_000u64,
                         "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    let truncation = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 1_000_000});
    let harmless = [
        with(|file| file["padding"] = padding),
        with(|file| file["truncation"] = truncation),
        with(|file| file["padding"] = json!("nonsense")),
        with(|file| file["post_processor"] = template(500)),
        with(|file| file["added_tokens"] = (0..20_000).map(|id| added(id, format!("<{id}>"))).collect()),
    ];
    for file in harmless {
        outcome(&file).expect("read");
    }
}

/// Values that files use, and values that break things.
fn value(rng: &mut Rng) -> Value {
    let kinds = [
        "Replace",
        "Precompiled",
        "Strip",
        "Prepend",
        "NFKD",
        "Metaspace",
        "ByteLevel",
        "Digits",
        "Split",
        "Sequence",
        "TemplateProcessing",
        "WordPiece",
        "Unigram",
        "BPE",
        "CTC",
        "BPEDecoder",
        "FixedLength",
        "Fuse",
    ];
    let length = [0, 1, 7, 300, 5000, 1 << 20][rng.below(6)];
    match rng.below(10) {
        0 => Value::Null,
        1 => json!([0u64, 1, 255, 1 << 31, u64::from(u32::MAX), u64::MAX][rng.below(6)]),
        2 => json!(-1.5e300),
        3 => json!("a".repeat(length)),
        4 => json!("ab\u{10ffff}".repeat(length.min(5000))),
        5 => json!(vec![json!("a"); length.min(5000)]),
        6 => json!({"type": kinds[rng.below(kinds.len())]}),
        7 => replace("a", &"a".repeat(1 + rng.below(64))),
        8 => sequence(vec![replace("", "b"); 1 + rng.below(30)]),
        _ => {
            json!({"type": kinds[rng.below(kinds.len())], "content": "aa", "pattern": {"Regex": "(a|a)*b|(?=a)"}, "start": 9, "stop": 9,
                    "length": rng.below(2), "prepend_scheme": "first", "replacement": "▁", "prepend": "aa", "behavior": "Isolated"})
        }
    }
}

fn mutate(file: &mut Value, rng: &mut Rng) {
    let chosen = value(rng);
    match file {
        Value::Object(object) if !object.is_empty() && rng.below(8) > 0 => {
            let at = rng.below(object.len());
            if let Some((_, inner)) = object.iter_mut().nth(at) {
                mutate(inner, rng);
            }
        }
        Value::Array(list) if !list.is_empty() && rng.below(8) > 0 => {
            let at = rng.below(list.len());
            mutate(&mut list[at], rng);
        }
        _ => *file = chosen,
    }
}

#[test]
fn two_hundred_hostile_tokenizers() {
    let mut rng = Rng(14);
    let parts =
        ["normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "added_tokens", "padding", "truncation"];
    let (mut read, mut refused) = (0, 0);
    while read + refused < 200 {
        let mut file = good();
        for _ in 0..1 + rng.below(3) {
            let part = parts[rng.below(parts.len())];
            if rng.below(2) == 0 {
                file[part] = value(&mut rng);
            } else {
                mutate(&mut file[part], &mut rng);
            }
        }
        match outcome(&file) {
            Ok(()) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 20 && refused > 20, "{read} read, {refused} refused");
}
