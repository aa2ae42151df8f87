//! A model as a `tokenizer.json`: in the form that transformers converts it to, with the model itself inside, so that
//! this program reads back exactly what it had.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::SPACE;
use super::base64;
use super::llama::Settings;
use super::proto::{ModelKind, ModelProto, PieceKind};
use super::settings;

/// Where the model lies in `model`; other readers skip names that they do not know there.
pub(crate) const EMBEDDED: &str = "vila_sentencepiece";

/// Bytes of the longest piece that is written with its merges; keeps the file's size in bounds.
const LONGEST_MERGED: usize = 512;

/// The file's content. Only byte-pair and unigram models have a form that others read as it is.
pub(super) fn tokenizer_json(model: &ModelProto, settings: Option<&Settings>, bytes: &[u8]) -> Value {
    let mut definition = match model.trainer.kind {
        ModelKind::Unigram => unigram(model),
        _ => bpe(model),
    };
    let wrapped = settings.map_or(Value::Null, settings::to_json);
    definition.insert(EMBEDDED.into(), json!({ "model": base64::encode(bytes), "llama": wrapped }));
    let legacy = settings.is_none_or(|settings| settings.legacy);
    let space = settings.map_or(model.normalizer.add_dummy_prefix, |settings| settings.add_prefix_space);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(model, settings),
        "normalizer": normalizer(model, legacy && space),
        "pre_tokenizer": if legacy { Value::Null } else { metaspace(space) },
        "post_processor": post_processor(settings),
        "decoder": decoder(space),
        "model": definition,
    })
}

fn unigram(model: &ModelProto) -> Map<String, Value> {
    let vocab: Vec<Value> = model.pieces.iter().map(|piece| json!([&*piece.text, piece.score])).collect();
    let unknown = model.pieces.iter().position(|piece| piece.kind == PieceKind::Unknown);
    object(json!({
        "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": model.trainer.byte_fallback,
    }))
}

fn bpe(model: &ModelProto) -> Map<String, Value> {
    let vocab: Map<String, Value> =
        (0u32..).zip(&model.pieces).map(|(id, piece)| (piece.text.to_string(), id.into())).collect();
    let unknown = model.pieces.iter().find(|piece| piece.kind == PieceKind::Unknown).map(|piece| &*piece.text);
    object(json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": model.trainer.byte_fallback,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges(model),
    }))
}

/// Every way to make a piece of two, the best piece first. Pieces longer than training makes are left whole.
fn merges(model: &ModelProto) -> Vec<Value> {
    if model.trainer.kind != ModelKind::Bpe {
        return Vec::new();
    }
    let normal = || (0u32..).zip(&model.pieces).filter(|(_, piece)| piece.kind == PieceKind::Normal);
    let ids: HashMap<&str, u32> = normal().map(|(id, piece)| (&*piece.text, id)).collect();
    let mut merges = Vec::new();
    for (_, piece) in normal().filter(|(_, piece)| piece.text.len() <= LONGEST_MERGED) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(&first), Some(&second)) = (ids.get(left), ids.get(right)) {
                merges.push((piece.score, first, second, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    merges.into_iter().map(|(.., left, right)| json!([left, right])).collect()
}

fn added_tokens(model: &ModelProto, settings: Option<&Settings>) -> Vec<Value> {
    let token = |id: u32, content: &str, lstrip: bool, rstrip: bool, special: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": rstrip,
            "normalized": false, "special": special,
        })
    };
    let added = settings.map_or(&[][..], |settings| &settings.added);
    let known: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let pieces = (0u32..).zip(&model.pieces).filter(|(_, piece)| {
        // Text never becomes a control symbol unless the wrapper says so.
        let symbol = piece.kind == PieceKind::UserDefined || piece.kind == PieceKind::Control && settings.is_some();
        symbol && !known.contains(&*piece.text)
    });
    let mut tokens: Vec<(u32, Value)> =
        pieces.map(|(id, p)| (id, token(id, &p.text, false, false, p.kind == PieceKind::Control))).collect();
    tokens.extend(added.iter().map(|t| (t.id, token(t.id, &t.content, t.lstrip, t.rstrip, t.special))));
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

fn normalizer(model: &ModelProto, prepend: bool) -> Value {
    let spec = &model.normalizer;
    let mut steps = Vec::new();
    if !spec.charsmap.is_empty() {
        steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64::encode(&spec.charsmap) }));
    }
    if spec.remove_extra_whitespaces {
        steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
    }
    if prepend {
        steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
    }
    steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE }));
    json!({ "type": "Sequence", "normalizers": steps })
}

fn metaspace(space: bool) -> Value {
    let scheme = if space { "first" } else { "never" };
    json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false })
}

fn decoder(space: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if space {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// Puts the start token in front, as a `LlamaTokenizer` does.
fn post_processor(settings: Option<&Settings>) -> Value {
    let Some(settings) = settings else { return Value::Null };
    if !settings.add_bos {
        let text = |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
        return json!({
            "type": "TemplateProcessing", "single": [text("A", 0)], "pair": [text("A", 0), text("B", 1)], "special_tokens": {},
        });
    }
    let Some(bos) = settings.added.iter().find(|token| token.content == settings.bos) else { return Value::Null };
    let start = json!({ "SpecialToken": { "id": bos.content, "type_id": 0 } });
    let mut special = Map::new();
    special.insert(bos.content.clone(), json!({ "id": bos.content, "ids": [bos.id], "tokens": [bos.content] }));
    json!({
        "type": "TemplateProcessing",
        "single": [start, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [start, { "Sequence": { "id": "A", "type_id": 0 } }, start, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": special,
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
