//! Tokenizer and generation files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::json_bytes;
use super::source::Source;
use super::vocabulary::Change;
use crate::config::Layout;
use crate::tokenizer_json::{Checked, Start, check_size, put_start};
use crate::{Error, Result};

/// Files that are copied as they are.
const COPIED: [&str; 5] =
    ["tokenizer.model", "generation_config.json", "chat_template.json", "chat_template.jinja", "merges.txt"];

/// Files of a tokenizer that change on the way to `llava-hf`, and come back unchanged.
const SMALL: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// The tokenizer's small files in a folder.
pub(super) fn small_files(folder: &Path) -> Map<String, Value> {
    let read =
        |name: &str| serde_json::from_slice(&vila_files::read(&folder.join(name), vila_files::MAX_CONFIG).ok()?).ok();
    SMALL.into_iter().filter_map(|name| Some((name.to_string(), read(name)?))).collect()
}

/// Paths in the new directory, and contents.
pub(super) fn files(source: &Source, vocabulary: &Change, to: Layout) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in COPIED {
        let path = source.text.join(name);
        if path.is_file() {
            files.push((name.to_string(), vila_files::read(&path, vila_files::MAX_CONFIG).map_err(Error::io(&path))?));
        }
    }
    if !source.text.join("generation_config.json").exists() {
        let llm = &source.config.llm;
        let content = json!({"_from_model_config": true, "bos_token_id": llm.bos, "eos_token_id": llm.eos});
        files.push(("generation_config.json".into(), json_bytes(&content)));
    }
    let foreign = to == Layout::LlavaHf && source.layout != to;
    if foreign || vocabulary.changes_tokens() {
        let content = vocabulary.tokenizer_json(source)?;
        files.push(("tokenizer.json".into(), if foreign { with_start(source, vocabulary, content)? } else { content }));
    } else if source.text.join("tokenizer.json").is_file() {
        files.push(("tokenizer.json".into(), source.tokenizer.file_bytes().to_vec()));
    }
    let mut small = small_files(&source.text);
    if foreign {
        small = Map::from_iter([("tokenizer_config.json".to_string(), llava_hf_config(source, vocabulary, &small))]);
    } else if let Some(entry) = source.record.of(to) {
        small = entry.tokenizer.clone();
    }
    files.extend(
        small.iter().filter(|(name, _)| SMALL.contains(&name.as_str())).map(|(n, v)| (n.clone(), json_bytes(v))),
    );
    let place = |name: String| if to == Layout::Vila { format!("llm/{name}") } else { name };
    Ok(files.into_iter().map(|(name, content)| (place(name), content)).collect())
}

/// A `tokenizer.json` that puts the start token in front of a text, as this program does.
fn with_start(source: &Source, vocabulary: &Change, content: Vec<u8>) -> Result<Vec<u8>> {
    let unusable = |problem: String| Error::format(source.tokenizer.path(), problem);
    check_size(&content, source.tokenizer.path())?;
    let Checked { inner, start, .. } = Checked::read(&content, source.tokenizer.path())?;
    // The library numbers added tokens one after another, whatever the file says.
    for (id, token) in &vocabulary.tokens {
        if let Some(other) = inner.token_to_id(token).filter(|other| other != id) {
            let problem = format!(
                "has holes among its tokens, which llava-hf cannot express: {token} would be {other}, not {id}; give every \
                 id below it a token"
            );
            return Err(unusable(problem));
        }
    }
    let Some(bos) = source.tokenizer.bos() else { return Ok(content) };
    let Some(token) = inner.id_to_token(bos) else { return Ok(content) };
    if start == Start::Token(bos) {
        return Ok(content);
    }
    let mut file: Map<String, Value> = serde_json::from_slice(&content).map_err(|error| unusable(error.to_string()))?;
    put_start(&mut file, Some((&token, bos)));
    Ok(json_bytes(&Value::Object(file)))
}

/// A `tokenizer_config.json` with which transformers takes `tokenizer.json` as it is.
fn llava_hf_config(source: &Source, vocabulary: &Change, small: &Map<String, Value>) -> Value {
    let part = |name: &str| small.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut config = part("tokenizer_config.json");
    for (token, value) in part("special_tokens_map.json") {
        config.entry(token).or_insert(value);
    }
    // What would have transformers build the tokenizer anew from other files.
    let rebuilding = ["added_tokens_decoder", "add_prefix_space", "auto_map", "legacy", "sp_model_kwargs", "from_slow"];
    config.retain(|field, value| !value.is_null() && !rebuilding.contains(&field.as_str()));
    for value in config.values_mut() {
        // A token with its options, which stand in `tokenizer.json`.
        if let Some(content) = value.get("content").filter(|content| content.is_string()) {
            *value = content.clone();
        }
    }
    let mut put = |field: &str, value: Option<Value>, always: bool| {
        if let Some(value) = value.filter(|_| always || !config.contains_key(field)) {
            config.insert(field.to_string(), value);
        }
    };
    let token = |id: Option<u32>| id.and_then(|id| source.tokenizer.id_to_token(id)).map(Value::String);
    put("tokenizer_class", Some(json!("PreTrainedTokenizerFast")), true);
    put("processor_class", Some(json!("LlavaProcessor")), true);
    put("bos_token", token(source.tokenizer.bos()), false);
    put("eos_token", token(source.tokenizer.eos()), false);
    put("unk_token", source.tokenizer.token_id("<unk>").map(|_| json!("<unk>")), false);
    let pads = vocabulary.tokens.iter().any(|(_, token)| *token == "<pad>");
    put("pad_token", pads.then(|| json!("<pad>")), true);
    put("padding_side", Some(json!("left")), true);
    put("clean_up_tokenization_spaces", Some(json!(false)), false);
    put("model_max_length", Some(json!(source.config.llm.max_positions)), false);
    Value::Object(config)
}
