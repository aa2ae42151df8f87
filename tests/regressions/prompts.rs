//! Faults that were mended; each test is named after its fault.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vila_engine::CpuBackend;
use vila_model::Vila;
use vila_model::template::{Exchange, Template, names};
use vila_model::tokenizer::Tokenizer;
use vila_train::data::IngestTokenizer;
use vila_train::data::ingest::{Format, FormatOptions, IngestOptions, ingest};
use vila_train::data::shard::ShardReader;

/// What templates end turns with, and what texts begin with.
const SPECIAL: [&str; 10] = [
    "<unk>",
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|im_end|>",
    "<|im_start|>",
];

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("regressions-prompts").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).expect("remove");
    }
    std::fs::create_dir_all(&dir).expect("create");
    dir
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn save(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("write");
}

/// A SentencePiece model as transformers' slow tokenizer reads it.
fn sentencepiece(dir: &Path, model: &str, legacy: bool) -> PathBuf {
    std::fs::create_dir_all(dir).expect("create");
    let path = dir.join("tokenizer.model");
    std::fs::copy(fixtures().join("sentencepiece").join(model), &path).expect("copy");
    let bare = Tokenizer::from_bytes(std::fs::read(&path).expect("model"), &path).expect("model");
    let missing: Vec<&str> = SPECIAL.into_iter().filter(|token| bare.token_id(token).is_none()).collect();
    let added: Map<String, Value> =
        (bare.vocab_size()..).zip(&missing).map(|(id, token)| (token.to_string(), json!(id))).collect();
    save(&dir.join("added_tokens.json"), &Value::Object(added));
    let config = json!({"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "additional_special_tokens": missing});
    save(&dir.join("tokenizer_config.json"), &config);
    path
}

/// The same as other programs' fast tokenizers read it: Llama 2's file if `legacy`, Mistral's if not.
fn fast(dir: &Path, model: &str, legacy: bool) -> PathBuf {
    let slow = Tokenizer::from_file(&sentencepiece(&dir.join("slow"), model, legacy)).expect("model");
    let mut file: Value = serde_json::from_slice(slow.file_bytes()).expect("json");
    file["model"].as_object_mut().expect("model").remove("vila_sentencepiece").expect("the model itself");
    let path = dir.join("tokenizer.json");
    save(&path, &file);
    path
}

/// A byte-level tokenizer with merges across the places where templates end prompts.
fn byte_level(dir: &Path, pre_tokenizer: &Value, post_processor: &Value) -> PathBuf {
    std::fs::create_dir_all(dir).expect("create");
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256..;
    let letter = |byte: u8| if printable(byte) { u32::from(byte) } else { beyond.next().expect("letter") };
    let alphabet = (0..=255u8).map(letter).map(|letter| char::from_u32(letter).expect("letter").to_string());
    let mut entries: Vec<String> = alphabet.collect();
    let merges = [
        ("Ċ", "Ċ"),
        ("ĊĊ", "Ċ"),
        ("Ġ", "Ċ"),
        ("Ġ", "Ġ"),
        ("]", "("),
        ("]", "Ċ"),
        (">", "("),
        (":", "Ċ"),
        (":", ")"),
        ("Ġ", "("),
        ("Ġ", "a"),
        ("Ġ", "1"),
        ("]", "a"),
        ("#", "#"),
        ("##", "#"),
        ("ä", "¸"),
        ("Ċ", "Ġ"),
    ];
    entries.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let vocab: Map<String, Value> = entries.iter().enumerate().map(|(id, entry)| (entry.clone(), json!(id))).collect();
    let token = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    let added: Vec<Value> = (entries.len()..).zip(&SPECIAL).map(token).collect();
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let path = dir.join("tokenizer.json");
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    });
    save(&path, &file);
    path
}

fn llama_3(dir: &Path) -> PathBuf {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let start = json!({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let id = 256 + 17 + 3;
    byte_level(
        dir,
        &json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]}),
        &json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
            {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text, text],
             "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [id], "tokens": ["<|begin_of_text|>"]}}},
        ]}),
    )
}

fn gpt_2(dir: &Path) -> PathBuf {
    let part = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    byte_level(dir, &part, &part)
}

fn tokenizers(dir: &Path) -> Vec<PathBuf> {
    vec![
        sentencepiece(&dir.join("llama-2"), "bpe-llama.model", false),
        sentencepiece(&dir.join("llama-2-legacy"), "bpe-llama.model", true),
        fast(&dir.join("llama-2-fast"), "bpe-llama.model", true),
        fast(&dir.join("mistral"), "bpe-llama.model", false),
        sentencepiece(&dir.join("unigram"), "unigram-bytes.model", false),
        llama_3(&dir.join("llama-3")),
        gpt_2(&dir.join("gpt-2")),
    ]
}

/// 200 answers that begin with every class of character.
fn answers() -> Vec<String> {
    let starts = [
        "7",
        "0",
        "12,",
        "1.5",
        "a",
        "The",
        "é",
        "ß",
        "Ω",
        "я",
        "中",
        "一二",
        "日本",
        "한",
        "ท",
        "ا",
        "א",
        "न",
        "\u{301}",
        "🍾",
        "🇩🇪",
        "👩\u{200d}🚀",
        "①",
        "７",
        "ﬁ",
        "½",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " ",
        "  ",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}",
        "\u{feff}",
        "▁",
        "(",
        ")",
        "[",
        "]",
        "{",
        "<",
        ">",
        ":",
        ";",
        ".",
        "...",
        ",",
        "!",
        "?",
        "#",
        "###",
        "-",
        "–",
        "*",
        "/",
        "\\",
        "\"",
        "'",
        "`",
        "@",
        "$",
        "%",
        "&",
        "+",
        "=",
        "~",
        "^",
        "_",
        "|",
        "</",
        "<s",
        "\u{1}",
        "\u{7f}",
        "\u{10ffff}",
    ];
    let ends = ["", "a dog", " 7 (b)\n\nc"];
    let all = ends.iter().flat_map(|end| starts.iter().map(move |start| format!("{start}{end}")));
    let mut all: Vec<String> = all.filter(|answer| !answer.trim().is_empty()).collect();
    all.truncate(200);
    assert_eq!(all.len(), 200);
    all
}

fn exchange(question: &str, answer: &str) -> Exchange {
    Exchange { question: question.into(), answer: answer.into() }
}

/// Single questions, and conversations of three turns about an image.
fn conversations(plain: bool) -> Vec<Vec<Exchange>> {
    let answers = answers();
    if plain {
        return answers.iter().map(|answer| vec![exchange("<image>", answer)]).collect();
    }
    let single = answers.iter().map(|answer| vec![exchange("what is it", answer)]);
    let long = answers.chunks(3).filter(|three| three.len() == 3).map(|three| {
        vec![exchange("<image>\nwhat", &three[0]), exchange("why\n", &three[1]), exchange("(so", &three[2])]
    });
    single.chain(long).collect()
}

/// Ids and loss of conversations, as ingestion makes them.
fn ingested(
    dir: &Path,
    tokenizer: &IngestTokenizer,
    template: &str,
    all: &[Vec<Exchange>],
) -> Vec<(Vec<u32>, Vec<bool>)> {
    let image = fixtures().join("images/tiny_3x5.png");
    let record = |exchanges: &Vec<Exchange>| {
        let images = exchanges.iter().map(|exchange| exchange.question.matches("<image>").count()).sum();
        let turns: Vec<Value> = exchanges
            .iter()
            .flat_map(|Exchange { question, answer }| {
                [json!({"from": "human", "value": question}), json!({"from": "gpt", "value": answer})]
            })
            .collect();
        json!({"image": vec![&image; images], "conversations": turns}).to_string() + "\n"
    };
    let input = dir.join("input.jsonl");
    std::fs::write(&input, all.iter().map(record).collect::<String>()).expect("write");
    let out = dir.join("shard");
    if out.exists() {
        std::fs::remove_dir_all(&out).expect("remove");
    }
    let format = Format::parse("llava", &FormatOptions { template: Some(template), ..FormatOptions::default() });
    let options = IngestOptions::new(format.expect("format"), vec![input], out.clone());
    ingest(&IngestOptions { images_anywhere: true, ..options }, tokenizer).expect("ingest");
    let reader = ShardReader::open(&out).expect("shard");
    let sample = |index: usize| {
        let view = reader.sample(index as u64).expect("document");
        (view.tokens.to_vec(), (0..view.tokens.len()).map(|at| view.loss.get(at)).collect())
    };
    (0..all.len()).map(sample).collect()
}

#[test]
fn blank_before_answer() {
    let dir = scratch("blank-before-answer");
    for path in tokenizers(&dir) {
        let tokenizer = IngestTokenizer::from_file(&path).expect("tokenizer");
        for name in names().flat_map(|name| [name.to_string(), format!("{name}:compat")]) {
            let template = Template::named(&name).expect("template");
            let released = ["v0", "default", "llava_v0", "v0_mmtag"].map(|name| format!("{name}:compat"));
            if released.contains(&name) {
                // What the released code trains these on is not what it prompts with.
                continue;
            }
            let asks = match name.as_str() {
                // The same without the demonstration, which is not trained.
                "v0" | "default" => Template::named("llava_v0").expect("template"),
                _ => template.clone(),
            };
            let all = conversations(template.is_plain());
            for (exchanges, (ids, loss)) in all.iter().zip(ingested(&dir, &tokenizer, &name, &all)) {
                let what = format!("{} {name} {exchanges:?}", path.display());
                let mut learned = vec![false; ids.len()];
                for (turn, exchange) in exchanges.iter().enumerate() {
                    let asked = asks.ask(&exchanges[..turn], &exchange.question);
                    let answers: Vec<usize> = asked.trained.iter().map(|answer| answer.start).collect();
                    let prompt = tokenizer.inner().encode_conversation(&asked.text, &answers).expect("prompt");
                    assert_eq!(prompt, ids[..prompt.len()], "{what}");
                    // Learned until the next question, which begins where the prompt without an answer would.
                    let end = match exchanges.get(turn + 1) {
                        None => ids.len(),
                        Some(_) => {
                            loss[prompt.len()..].iter().position(|learned| !learned).expect("a question") + prompt.len()
                        }
                    };
                    learned[prompt.len()..end].fill(true);
                    let rest = tokenizer.inner().decode_all(&ids[prompt.len()..end]).expect("text");
                    if let Some(end) = template.end_token() {
                        assert!(rest.contains(end), "{what}: {rest:?}");
                    }
                    if turn == 0 {
                        assert_eq!(tokenizer.inner().encode_prompt(&asked.text).expect("prompt"), prompt, "{what}");
                    }
                }
                assert_eq!(loss, learned, "{what}");
            }
        }
    }
}

#[test]
fn leading_blank_of_a_text_document() {
    let dir = scratch("leading-blank");
    let tokenizer =
        IngestTokenizer::from_file(sentencepiece(&dir.join("llama-2"), "bpe-llama.model", false)).expect("tokenizer");
    let input = dir.join("text.jsonl");
    save(&input, &json!({"text": "7 dogs"}));
    let format = Format::parse("text", &FormatOptions::default()).expect("format");
    ingest(&IngestOptions::new(format, vec![input], dir.join("shard")), &tokenizer).expect("ingest");
    let reader = ShardReader::open(dir.join("shard")).expect("shard");
    let view = reader.sample(0).expect("document");
    let blank = tokenizer.inner().token_id("\u{2581}").expect("blank");
    assert_eq!(view.tokens[1], blank);
    let loss: Vec<bool> = (0..view.tokens.len()).map(|at| view.loss.get(at)).collect();
    assert!(!loss[0] && loss[1..].iter().all(|&learned| learned), "{loss:?}");
}

#[test]
fn released_second_start_token() {
    let dir = scratch("second-start");
    let rendered = |name: &str| Template::named(name).expect("template").render(&[exchange("q", "a")]).text;
    assert!(rendered("mistral:compat").starts_with("<s>[INST]") && rendered("mistral").starts_with("[INST]"));
    assert!(rendered("llama_3:compat").starts_with("<|begin_of_text|><|start_header_id|>system"));
    let tokenizer = Tokenizer::from_file(&llama_3(&dir)).expect("tokenizer");
    let prompt = Template::named("llama_3:compat").expect("template").prompt(&[], "q");
    let bos = tokenizer.token_id("<|begin_of_text|>").expect("start");
    assert_eq!(tokenizer.encode_prompt(&prompt).expect("ids")[..2], [bos, bos]);
}

#[test]
fn tokenizer_truncation() {
    let dir = scratch("truncation");
    let path = gpt_2(&dir);
    let text = "a long text that truncation and padding would change ".repeat(20);
    let plain = Tokenizer::from_file(&path).expect("tokenizer").encode(&text).expect("ids");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).expect("file")).expect("json");
    file["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 9});
    file["padding"] = json!({"strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    save(&path, &file);
    assert_eq!(Tokenizer::from_file(&path).expect("tokenizer").encode(&text).expect("ids"), plain);
}

#[test]
fn start_token_is_the_tokenizers_own() {
    let dir = scratch("start");
    let start = |path: &Path| {
        let tokenizer = Tokenizer::from_file(path).expect("tokenizer");
        // A checkpoint keeps the file alone.
        let kept = Tokenizer::from_bytes(tokenizer.file_bytes().to_vec(), Path::new("tokenizer.json")).expect("kept");
        assert_eq!(kept.bos(), tokenizer.bos());
        tokenizer.bos().map(|bos| tokenizer.decode_all(&[bos]).expect("text"))
    };
    let (gpt_2, llama_3) = (gpt_2(&dir.join("gpt-2")), llama_3(&dir.join("llama-3")));
    assert_eq!(start(&gpt_2), None);
    assert_eq!(start(&llama_3).as_deref(), Some("<|begin_of_text|>"));
    save(&gpt_2.with_file_name("tokenizer_config.json"), &json!({"add_bos_token": true, "bos_token": "<s>"}));
    assert_eq!(start(&gpt_2).as_deref(), Some("<s>"));
    save(&llama_3.with_file_name("tokenizer_config.json"), &json!({"add_bos_token": false}));
    assert_eq!(start(&llama_3), None);
    let slow = sentencepiece(&dir.join("slow"), "bpe-llama.model", false);
    assert_eq!(start(&slow).as_deref(), Some("<s>"));
    save(&slow.with_file_name("tokenizer_config.json"), &json!({"add_bos_token": false}));
    assert_eq!(start(&slow), None);
}

#[test]
fn metas_tokenizer_model_names_the_file_that_helps() {
    let path = scratch("tiktoken").join("tokenizer.model");
    std::fs::write(&path, "IQ== 0\nIg== 1\nIw== 2\nJA== 3\n").expect("write");
    let said = Tokenizer::from_file(&path).err().expect("refused").to_string();
    assert!(said.contains("Llama 3") && said.contains("tokenizer.json"), "{said}");
}

#[test]
fn score_joins_pieces() {
    let vila = Vila::load(&fixtures().join("gqa-tied"), Arc::new(CpuBackend::fast())).expect("load");
    let (prompt, continuation) = ("The cat sits on", " a red mat.");
    let whole = vila.tokenizer.encode_prompt(&format!("{prompt}{continuation}")).expect("ids");
    let given = vila.tokenizer.encode_prompt(prompt).expect("ids");
    let one = |prompt: &str, continuation: &str| vila_model::score(&vila, prompt, continuation, &[]).expect("score");
    let score = one(prompt, continuation);
    assert_eq!(score.tokens, whole[given.len()..]);
    assert_ne!(score.tokens, vila.tokenizer.encode(continuation).expect("ids"), "pieces are not joined");
    // A blank belongs to the continuation wherever it was written.
    assert_eq!(one("The cat sits on ", "a red mat."), score);
    // Both in one token: that token.
    let token = whole.iter().find(|&&id| vila.tokenizer.decode(&[id]).expect("text").len() > 2).expect("a long token");
    let text = vila.tokenizer.decode(&[*token]).expect("text");
    let (first, rest) = text.split_at(1);
    assert!(!one(first, rest).tokens.is_empty());
    let all = vila_model::score_all(&vila, prompt, &[continuation.into(), " a".into()], &[]).expect("scores");
    assert_eq!(all[0], score);
}

/// `tests/scripts/make_masks.py` states what LLaVA's and VILA 1.5's functions learn.
#[test]
fn masks_of_the_released_functions() {
    let dir = scratch("released");
    let rows = std::fs::read_to_string(fixtures().join("templates/released.jsonl")).expect("goldens");
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).expect("golden")).collect();
    let with_start = sentencepiece(&dir.join("start"), "bpe-llama.model", false);
    let without = sentencepiece(&dir.join("none"), "bpe-llama.model", false);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(without.with_file_name("tokenizer_config.json")).expect("file"))
            .expect("json");
    config["add_bos_token"] = json!(false);
    save(&without.with_file_name("tokenizer_config.json"), &config);
    for name in ["vicuna_v1", "llava_llama_2", "mistral:compat", "hermes-2", "llama_3:compat", "plain"] {
        let rows: Vec<&Value> = rows.iter().filter(|row| row["template"] == name).collect();
        assert!(!rows.is_empty(), "{name}");
        let path = if rows[0]["start"] == true { &with_start } else { &without };
        let tokenizer = IngestTokenizer::from_file(path).expect("tokenizer");
        let text = |value: &Value| value.as_str().expect("text").to_string();
        let turns = |row: &&Value| -> Vec<Exchange> {
            let turns = row["turns"].as_array().expect("turns").iter();
            turns.map(|turn| exchange(&text(&turn[0]), &text(&turn[1]))).collect()
        };
        let all: Vec<Vec<Exchange>> = rows.iter().map(turns).collect();
        for (row, (ids, loss)) in rows.iter().zip(ingested(&dir, &tokenizer, name, &all)) {
            let ids: Vec<i64> =
                ids.into_iter().map(|id| if id == vila_engine::NO_ROW { -200 } else { id.into() }).collect();
            assert_eq!(json!(ids), row["ids"], "{name} {}", row["turns"]);
            let learned: Vec<usize> = (0..ids.len()).filter(|&at| loss[at]).collect();
            let released = row["learned"].as_array().expect("indices").iter();
            let released: Vec<usize> = released.map(|at| at.as_u64().expect("index") as usize).collect();
            // Of Mistral's prompts the released function also learns the bracket that ends them.
            let bracket = |at: &usize| name == "mistral:compat" && !released.contains(&(at - 1));
            let released: Vec<usize> = released.iter().copied().filter(|at| !bracket(at)).collect();
            assert_eq!(learned, released, "{name} {}", row["turns"]);
        }
    }
}
