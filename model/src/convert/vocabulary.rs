//! The image token that `llava-hf` needs in the vocabulary: its rows in embedding and head, its entry in `tokenizer.json`.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::json_bytes;
use super::source::{Source, TABLES};
use crate::config::Layout;
use crate::sentencepiece::EMBEDDED;
use crate::tokenizer::IMAGE_MARK;
use crate::weights::floats;
use crate::{Error, Result};

/// The field of a `llava-hf` configuration that says what the conversion added.
pub(super) const ADDED: &str = "vila_added";

/// What pads batches in `llava-hf`.
const PAD_MARK: &str = "<pad>";

/// Tables are padded to a multiple of this many rows, as in the public models.
const ROWS: usize = 64;

/// More tokens are a damaged file.
const MOST_TOKENS: usize = 1 << 24;

/// How the vocabulary changes.
#[derive(Default)]
pub(super) struct Change {
    /// Rows that each table gains, or loses if negative.
    pub(super) rows: i64,
    /// Rows afterwards.
    pub(super) vocab_size: usize,
    /// The image token afterwards.
    pub(super) image: Option<u32>,
    /// Tokens that are added, with their ids.
    pub(super) tokens: Vec<(u32, &'static str)>,
    /// Tokens that an earlier conversion added and that go again.
    removed: Vec<String>,
    /// Bytes of the new rows by table.
    added: BTreeMap<&'static str, Vec<u8>>,
}

/// Decides what a conversion does to the vocabulary.
pub(super) fn plan(source: &Source, to: Layout) -> Result<Change> {
    let vocab_size = source.config.llm.vocab_size;
    let own = source.tokenizer.token_id(IMAGE_MARK);
    let same = Change { vocab_size, image: own.or(source.config.image_token), ..Change::default() };
    match (source.layout, to) {
        (Layout::LlavaHf, Layout::LlavaHf) => Ok(same),
        (Layout::LlavaHf, _) if source.root.contains_key(ADDED) => without_added(source),
        (_, Layout::LlavaHf) => match own {
            Some(id) if (id as usize) < vocab_size => Ok(same),
            Some(id) => {
                let problem = format!(
                    "is {vocab_size}, but the tokenizer's {IMAGE_MARK} is {id}: add its row, or remove the token"
                );
                Err(Error::Config { path: source.dir.clone(), field: "vocab_size".into(), problem })
            }
            None => with_image(source),
        },
        _ => Ok(same),
    }
}

fn without_added(source: &Source) -> Result<Change> {
    let added = source.root.get(ADDED).unwrap_or(&Value::Null);
    let rows = added.get("rows").and_then(Value::as_u64).and_then(|rows| usize::try_from(rows).ok());
    let rows = rows.filter(|&rows| rows < source.config.llm.vocab_size);
    let tokens = added.get("tokens").and_then(Value::as_array);
    let tokens = tokens.and_then(|tokens| tokens.iter().map(|token| Some(token.as_str()?.to_string())).collect());
    let (Some(rows), Some(removed)) = (rows, tokens) else {
        let problem =
            format!("is {added}, expected the rows and tokens that the conversion added; restore it or remove it");
        return Err(Error::Config { path: source.dir.join("config.json"), field: ADDED.into(), problem });
    };
    // Below 2^24, as every size of a configuration.
    let change = i64::try_from(rows).unwrap_or_default();
    let vocab_size = source.config.llm.vocab_size - rows;
    Ok(Change { rows: -change, vocab_size, removed, ..Change::default() })
}

fn with_image(source: &Source) -> Result<Change> {
    let vocab_size = source.config.llm.vocab_size;
    let unusable = |problem: &str| Error::format(source.tokenizer.path(), problem);
    let file: Value = serde_json::from_slice(source.tokenizer.file_bytes())
        .map_err(|error| unusable(&format!("not valid JSON: {error}")))?;
    let first = next_id(&file).ok_or_else(|| unusable("has no vocabulary to which an image token could be added"))?;
    let missing = [IMAGE_MARK, PAD_MARK].into_iter().filter(|mark| source.tokenizer.token_id(mark).is_none());
    let tokens: Vec<(u32, &'static str)> = (first..).zip(missing).collect();
    let needed = first as usize + tokens.len();
    if needed >= MOST_TOKENS {
        return Err(unusable(&format!("names token {}, beyond any vocabulary; restore it", first - 1)));
    }
    let rows = if needed <= vocab_size { 0 } else { needed.next_multiple_of(ROWS) - vocab_size };
    let mut added = BTreeMap::new();
    for table in TABLES {
        if let Some((stored, data)) = source.checkpoint.stored(table) {
            let width = stored.shape.last().copied().unwrap_or_default();
            let mean = mean_row(stored.dtype, data, width);
            added.insert(table, mean.repeat(rows));
        }
    }
    let vocab_size = vocab_size + rows;
    // Below 2^25: both are bounded.
    let rows = i64::try_from(rows).unwrap_or_default();
    Ok(Change { rows, vocab_size, image: Some(first), tokens, added, ..Change::default() })
}

/// The id that the `tokenizers` library gives to the next added token.
fn next_id(tokenizer: &Value) -> Option<u32> {
    let vocab = tokenizer.get("model")?.get("vocab")?;
    let entries = vocab.as_object().map(|map| map.len()).or_else(|| Some(vocab.as_array()?.len()))?;
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let last = added.into_iter().flatten().filter_map(|token| token.get("id")?.as_u64()).max();
    u32::try_from(last.map_or(0, |last| last.saturating_add(1)).max(entries as u64)).ok()
}

/// The mean of a table's rows, as bytes of its type.
fn mean_row(dtype: Dtype, data: &[u8], width: usize) -> Vec<u8> {
    let row_bytes = width * dtype.bitsize() / 8;
    let mut sums = vec![0.0f64; width];
    let mut rows = 0.0;
    for row in data.chunks_exact(row_bytes.max(1)) {
        let row = floats(dtype, row).unwrap_or_default();
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(value));
        rows += 1.0;
    }
    let mean = sums.into_iter().map(|sum| (sum / rows) as f32);
    match dtype {
        Dtype::F16 => mean.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => mean.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => mean.flat_map(f32::to_le_bytes).collect(),
    }
}

impl Change {
    /// Shape and bytes of a tensor afterwards.
    pub(super) fn resized<'a>(&'a self, name: &str, shape: &[usize], data: &'a [u8]) -> (Vec<usize>, [&'a [u8]; 2]) {
        let mut shape = shape.to_vec();
        let (Some(table), Some(rows)) = (TABLES.into_iter().find(|table| *table == name), shape.first_mut()) else {
            return (shape, [data, &[]]);
        };
        let kept = (*rows).min(self.vocab_size);
        let data = data.get(..data.len() / (*rows).max(1) * kept).unwrap_or(data);
        *rows = self.vocab_size;
        (shape, [data, self.added.get(table).map_or(&[], Vec::as_slice)])
    }

    /// The content of [`ADDED`], if anything was added.
    pub(super) fn note(&self) -> Option<Value> {
        let tokens: Vec<&str> = self.tokens.iter().map(|(_, token)| *token).collect();
        (!tokens.is_empty()).then(|| json!({"rows": self.rows, "tokens": tokens}))
    }

    pub(super) fn changes_tokens(&self) -> bool {
        !(self.tokens.is_empty() && self.removed.is_empty())
    }

    /// A `tokenizer.json` with the new tokens, or without the old ones.
    pub(super) fn tokenizer_json(&self, source: &Source) -> Result<Vec<u8>> {
        let path = source.tokenizer.path();
        let unusable = |problem: String| Error::format(path, problem);
        let mut file: Value = serde_json::from_slice(source.tokenizer.file_bytes())
            .map_err(|error| unusable(format!("not valid JSON: {error}")))?;
        let object = file.as_object_mut().ok_or_else(|| unusable("is not a JSON object".into()))?;
        let list = object.entry("added_tokens").or_insert(json!([]));
        let list = list.as_array_mut().ok_or_else(|| unusable("`added_tokens` must be a list".into()))?;
        list.retain(|token| !self.removed.iter().any(|removed| token["content"] == **removed));
        list.extend(self.tokens.iter().map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        }));
        if !self.tokens.is_empty() {
            begin_pieces(object);
        }
        if !self.removed.is_empty() {
            restore_pieces(object);
        }
        Ok(json_bytes(&file))
    }
}

/// Where only the start of a text gets a space of its own, has every piece after an image get one, too, as if the pieces
/// between images were tokenized one by one (spec 1.6).
fn begin_pieces(file: &mut Map<String, Value>) {
    let first =
        file.get("pre_tokenizer").is_some_and(|part| part["type"] == "Metaspace" && part["prepend_scheme"] == "first");
    if !first {
        return;
    }
    // A SentencePiece model puts its space before one that is there.
    let added = begin_steps(file.get("model").is_some_and(|model| model.get(EMBEDDED).is_some()));
    let other = file.get("normalizer").cloned().filter(|other| !other.is_null());
    let steps: Vec<Value> = other.into_iter().chain(added).collect();
    let normalizer = json!({"type": "Sequence", "normalizers": steps});
    file.insert("normalizer".into(), normalizer);
    // Found after that change.
    let tokens = file.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten();
    tokens.filter(|token| token["content"] == IMAGE_MARK).for_each(|token| token["normalized"] = json!(true));
}

/// Undoes [`begin_pieces`].
fn restore_pieces(file: &mut Map<String, Value>) {
    let Some(steps) = file.get("normalizer").and_then(|normalizer| normalizer["normalizers"].as_array()) else {
        return;
    };
    let added = [true, false].map(begin_steps).concat();
    let kept = steps.iter().rposition(|step| !added.contains(step)).map_or(0, |last| last + 1);
    let before = match &steps[..kept] {
        _ if kept == steps.len() => return,
        [] => Value::Null,
        [other] => other.clone(),
        _ => return,
    };
    file.insert("normalizer".into(), before);
}

/// Puts a word's start behind an image mark, unless another mark or nothing follows. A space that is there is `doubled`, as
/// at the start of the text, or serves.
fn begin_steps(doubled: bool) -> Vec<Value> {
    let pattern = if doubled { r"<image>(?!<image>|\z)" } else { r"<image>(?!<image>|\z|[ ▁])" };
    let replace =
        |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    let image = replace(pattern, "<image>\u{2581}");
    // `Metaspace` puts none in front of a space.
    let start = doubled.then(|| replace(r"\A▁", "\u{2581}\u{2581}"));
    std::iter::once(image).chain(start).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vila_engine::NO_ROW;

    use super::*;
    use crate::tokenizer::Tokenizer;

    /// Of programs that read the file without the SentencePiece model in it.
    #[test]
    fn an_exported_tokenizer_gives_the_ids_of_training() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sentencepiece/llama");
        let own = Tokenizer::from_file(&fixtures.join("newer/tokenizer.model")).unwrap();
        let mut file: Map<String, Value> = serde_json::from_slice(own.file_bytes()).unwrap();
        let image = json!({"id": 5000, "content": IMAGE_MARK, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true});
        file["added_tokens"].as_array_mut().unwrap().push(image);
        begin_pieces(&mut file);
        file["model"].as_object_mut().unwrap().remove(EMBEDDED);
        let other = tokenizers::Tokenizer::from_bytes(Value::Object(file).to_string()).unwrap();
        let mark = other.token_to_id(IMAGE_MARK).unwrap();
        for text in [
            "USER: what ASSISTANT: 7</s>USER: why ASSISTANT: 中</s>",
            " USER: <image>\nwhat is it ASSISTANT: a dog</s>USER: <image>\n<image> is ASSISTANT: \nyes</s>",
            "<image>7",
            "<image><image> a",
            "  two",
            "",
        ] {
            let ids = own.encode(text).unwrap().into_iter().map(|id| if id == NO_ROW { mark } else { id });
            assert_eq!(other.encode(text, false).unwrap().get_ids(), ids.collect::<Vec<_>>(), "{text:?}");
        }
    }
}
