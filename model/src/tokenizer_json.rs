//! Reads a `tokenizer.json` for the `tokenizers` crate, which trusts its files: it allocates, loops and indexes as they say.
//!
//! Limits are checked on the JSON before the crate sees it, growth of texts before it normalizes them; what panics
//! nevertheless becomes an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use serde_json::{Map, Value, json};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer, PostProcessorWrapper};

use crate::sentencepiece::longest_replacement;
use crate::{Error, Result};

/// Bytes of a file; the largest in use have 35 million.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// Values of a file, by its commas and brackets.
const MOST_VALUES: usize = 8 << 20;
/// Entries of a vocabulary.
const MOST_ENTRIES: usize = 1 << 22;
/// Bytes of an entry.
const LONGEST_ENTRY: usize = 8192;
/// Bytes of all entries of a unigram model, which keeps them in a tree.
const MOST_UNIGRAM_BYTES: usize = 6 << 20;
/// Characters of a word that a model looks up part by part.
const LONGEST_WORD: u64 = 1000;
const MOST_ADDED: usize = 1 << 16;
const LONGEST_ADDED: usize = 1024;
/// Bytes of all added tokens, normalized or not.
const MOST_ADDED_BYTES: usize = 8 << 20;
/// Values of a normalizer, a pre-tokenizer, a post-processor or a decoder.
const MOST_PARTS: usize = 4096;
/// Bytes of a pattern or another text in them.
const LONGEST_SETTING: usize = 4096;
/// Bytes of a character map in base64.
const LONGEST_CHARSMAP: usize = 4 << 20;
/// Components inside components.
const DEEPEST: usize = 8;
/// How much a decoder may lengthen a token.
const MOST_DECODED: usize = 1024;
/// Growth of texts that needs no look at each text.
const USUAL_GROWTH: usize = 64;
/// Bytes of a text.
const LONGEST_TEXT: usize = 32 << 20;
/// Bytes that normalizers may make of a short text.
const MOST_NORMALIZED: usize = 4 << 20;

/// What the tokenizer puts in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The file does not say.
    Unsaid,
    Nothing,
    Token(u32),
}

/// A tokenizer that was checked.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) start: Start,
    steps: Vec<Step>,
}

/// A normalizer that contains no other, and how much it may lengthen a text.
#[derive(Clone)]
struct Step {
    normalizer: NormalizerWrapper,
    growth: usize,
}

/// What is wrong, and in which field.
struct Fault {
    field: String,
    problem: String,
}

type Outcome<T> = std::result::Result<T, Fault>;

fn fault<T>(field: impl Into<String>, problem: impl Into<String>) -> Outcome<T> {
    Err(Fault { field: field.into(), problem: problem.into() })
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        Error::Config { path: path.to_path_buf(), field: self.field, problem: self.problem }
    }
}

/// Whether a file is small enough to be parsed.
pub(crate) fn check_size(bytes: &[u8], path: &Path) -> Result<()> {
    let values = bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if bytes.len() as u64 <= MOST_BYTES && values <= MOST_VALUES {
        return Ok(());
    }
    let problem = format!("has {} bytes and {values} values, more than any tokenizer; fetch it again", bytes.len());
    Err(Error::format(path, problem))
}

impl Checked {
    /// Reads the content of a file; `path` names it in messages.
    ///
    /// Truncation and padding have no effect: a text's ids are all of its ids and no others.
    pub(crate) fn read(bytes: &[u8], path: &Path) -> Result<Self> {
        let unreadable = |error: String| Error::format(path, format!("not a tokenizer.json: {error}; fetch it again"));
        let mut file: Value = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        let Some(object) = file.as_object_mut() else { return Err(unreadable("it is not an object".into())) };
        object.retain(|field, _| !["truncation", "padding"].contains(&field.as_str()));
        let steps = guarded(path, || check(object))?.map_err(|fault| fault.at(path))?;
        let made = guarded(path, || {
            let mut inner: tokenizers::Tokenizer = serde_json::from_value(file).map_err(|error| error.to_string())?;
            let start = start(&inner)?;
            // It may only repeat ids and move offsets.
            inner.with_post_processor(None::<PostProcessorWrapper>);
            Ok(Checked { inner, start, steps })
        })?;
        made.map_err(unreadable)
    }

    /// The ids and places of a text's tokens.
    pub(crate) fn encode(&self, text: &str, path: &Path) -> Result<tokenizers::Encoding> {
        guarded(path, || fits(&self.steps, text))?.map_err(|fault| fault.at(path))?;
        let encoding = guarded(path, || self.inner.encode(text, false))?;
        encoding.map_err(|error| Error::format(path, format!("cannot tokenize {}: {error}", shown(text))))
    }

    /// The text of ids.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool, path: &Path) -> Result<String> {
        let text = guarded(path, || self.inner.decode(ids, skip_special))?;
        text.map_err(|error| Error::format(path, format!("cannot decode {} ids: {error}", ids.len())))
    }
}

/// The beginning of a text, quoted.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Turns a panic inside the crate into an error, without the usual message.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        let said = said.unwrap_or("no reason given");
        Error::format(path, format!("is inconsistent: the tokenizers library failed on it ({said}); fetch it again"))
    })
}

/// Checks all parts; returns the normalizers in order.
fn check(file: &Map<String, Value>) -> Outcome<Vec<Step>> {
    for part in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        let mut left = MOST_PARTS;
        check_part(part, file.get(part).unwrap_or(&Value::Null), 0, &mut left)?;
    }
    let decoded = steps(file.get("decoder"), "decoders").into_iter().map(growth);
    if decoded.fold(1usize, usize::saturating_mul) > MOST_DECODED {
        return fault("decoder", format!("makes tokens more than {MOST_DECODED} times longer; fetch the file again"));
    }
    let normalizers: Outcome<Vec<Step>> = steps(file.get("normalizer"), "normalizers").into_iter().map(step).collect();
    let normalizers = normalizers?;
    check_model(file.get("model").and_then(Value::as_object))?;
    check_added(file.get("added_tokens"), &normalizers)?;
    Ok(normalizers)
}

/// Sizes of what is inside a component, and settings on which the crate would panic.
fn check_part(field: &str, value: &Value, depth: usize, left: &mut usize) -> Outcome<()> {
    *left = match left.checked_sub(1) {
        Some(left) if depth <= 4 * DEEPEST => left,
        _ => return fault(field, "has too many parts, or parts too deep in each other; fetch the file again"),
    };
    match value {
        Value::String(text) => {
            let most = if field.ends_with(".precompiled_charsmap") { LONGEST_CHARSMAP } else { LONGEST_SETTING };
            match text.len() {
                length if length > most => fault(field, format!("has {length} bytes; at most {most} are read")),
                _ => Ok(()),
            }
        }
        Value::Array(list) => list.iter().try_for_each(|value| check_part(field, value, depth + 1, left)),
        Value::Object(object) => {
            if object.get("length") == Some(&json!(0)) {
                return fault(format!("{field}.length"), "is 0; give a length of at least 1");
            }
            object.iter().try_for_each(|(name, value)| check_part(&format!("{field}.{name}"), value, depth + 1, left))
        }
        _ => Ok(()),
    }
}

/// A component's parts in order, those of sequences one by one.
fn steps<'a>(component: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match component {
        None | Some(Value::Null) => Vec::new(),
        Some(component) => match component.get(list).and_then(Value::as_array) {
            Some(inner) => inner.iter().flat_map(|inner| steps(Some(inner), list)).collect(),
            None => vec![component],
        },
    }
}

fn step(normalizer: &Value) -> Outcome<Step> {
    let charsmap = normalizer.get("precompiled_charsmap");
    let growth = match charsmap.map(|map| map.as_str().unwrap_or_default()).filter(|map| !map.is_empty()) {
        Some(map) => match longest_replacement(map) {
            Ok(longest) => longest.max(1),
            Err(problem) => return fault("normalizer.precompiled_charsmap", problem),
        },
        None => growth(normalizer),
    };
    match serde_json::from_value(normalizer.clone()) {
        Ok(normalizer) => Ok(Step { normalizer, growth }),
        Err(error) => fault("normalizer", format!("cannot be read ({error}); fetch the file again")),
    }
}

/// Most bytes that a byte becomes.
fn growth(part: &Value) -> usize {
    let length = |text: Option<&Value>| text.and_then(Value::as_str).map_or(0, str::len);
    let pattern = part.get("pattern");
    let (content, replaced) = (length(part.get("content")), length(pattern.and_then(|pattern| pattern.get("String"))));
    match part.get("type").and_then(Value::as_str) {
        _ if pattern.is_some() && replaced > 0 => content.div_ceil(replaced).max(1),
        _ if pattern.is_some() => 1 + content,
        Some("Prepend") => 1 + length(part.get("prepend")),
        // A ligature of three bytes has a compatibility form of 33.
        Some("NFD" | "NFKD" | "NFKC" | "NFC" | "Nmt") => 11,
        Some("Bert" | "BertNormalizer" | "Lowercase") => 3,
        Some("ByteLevel") => 2,
        _ => 1,
    }
}

/// Whether normalizers keep a text in bounds; the most bytes that it becomes.
fn fits(steps: &[Step], text: &str) -> Outcome<usize> {
    if text.len() > LONGEST_TEXT {
        return fault("normalizer", format!("gets a text of {} bytes; cut it into parts", text.len()));
    }
    let bound = steps.iter().fold(1usize, |bound, step| bound.saturating_mul(step.growth));
    if bound <= USUAL_GROWTH && text.len().saturating_mul(bound) <= LONGEST_TEXT {
        return Ok(text.len() * bound);
    }
    let most = MOST_NORMALIZED.max(text.len() * USUAL_GROWTH);
    let mut normalized = NormalizedString::from(text);
    for step in steps {
        if normalized.get().len().saturating_mul(step.growth) > most {
            let (before, after) = (text.len(), normalized.get().len());
            let problem = format!(
                "may make more than {most} bytes of a text of {before} ({after} so far); fetch the file again, or cut \
                 the text into parts"
            );
            return fault("normalizer", problem);
        }
        if let Err(error) = step.normalizer.normalize(&mut normalized) {
            return fault("normalizer", format!("fails on {}: {error}", shown(text)));
        }
    }
    Ok(normalized.get().len())
}

fn check_added(added: Option<&Value>, steps: &[Step]) -> Outcome<()> {
    let added = added.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if added.len() > MOST_ADDED {
        return fault("added_tokens", format!("has {} entries; at most {MOST_ADDED} are read", added.len()));
    }
    let mut total = 0;
    for (index, token) in added.iter().enumerate() {
        let field = || format!("added_tokens.{index}.content");
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        if content.len() > LONGEST_ADDED {
            return fault(field(), format!("has {} bytes; tokens have at most {LONGEST_ADDED}", content.len()));
        }
        total += match token.get("normalized") {
            Some(Value::Bool(false)) => content.len(),
            _ => fits(steps, content)?,
        };
        if total > MOST_ADDED_BYTES {
            return fault(field(), format!("ends {total} bytes of tokens; at most {MOST_ADDED_BYTES} are read"));
        }
    }
    Ok(())
}

fn check_model(model: Option<&Map<String, Value>>) -> Outcome<()> {
    let Some(model) = model else { return fault("model", "is missing; fetch the file again") };
    let text = |field: &str| model.get(field).and_then(Value::as_str).unwrap_or_default();
    if model.get("dropout").and_then(Value::as_f64).is_some_and(|dropout| dropout != 0.0) {
        return fault("model.dropout", "makes ids random, which is not supported; set it to null");
    }
    if let Some(longest) = model.get("max_input_chars_per_word").filter(|n| n.as_u64().is_none_or(|n| n > LONGEST_WORD))
    {
        return fault(
            "model.max_input_chars_per_word",
            format!("is {longest}; give a number of at most {LONGEST_WORD}"),
        );
    }
    let entries: Vec<&str> = match model.get("vocab") {
        Some(Value::Object(vocab)) => vocab.keys().map(String::as_str).collect(),
        Some(Value::Array(vocab)) => vocab.iter().map(|entry| entry[0].as_str().unwrap_or_default()).collect(),
        _ => Vec::new(),
    };
    if entries.len() > MOST_ENTRIES {
        return fault("model.vocab", format!("has {} entries; at most {MOST_ENTRIES} are read", entries.len()));
    }
    if let Some((index, entry)) = entries.iter().enumerate().find(|(_, entry)| entry.len() > LONGEST_ENTRY) {
        let problem = format!("has {} bytes in entry {index}; entries have at most {LONGEST_ENTRY}", entry.len());
        return fault("model.vocab", problem);
    }
    let total: usize = entries.iter().map(|entry| entry.len()).sum();
    if model.get("vocab").is_some_and(Value::is_array) && total > MOST_UNIGRAM_BYTES {
        return fault(
            "model.vocab",
            format!("has {total} bytes in all; unigram models have at most {MOST_UNIGRAM_BYTES}"),
        );
    }
    check_merges(model.get("merges"), text("continuing_subword_prefix"))
}

/// The crate cuts `prefix` off the second part of each merge without looking.
fn check_merges(merges: Option<&Value>, prefix: &str) -> Outcome<()> {
    for merge in merges.and_then(Value::as_array).into_iter().flatten().filter(|_| !prefix.is_empty()) {
        let second = merge.as_str().map_or_else(|| merge[1].as_str(), |merge| merge.split(' ').nth(1));
        if !second.is_some_and(|second| second.starts_with(prefix)) {
            return fault("model.merges", format!("has {merge}, whose second part lacks the prefix {prefix:?}"));
        }
    }
    Ok(())
}

/// What the post-processor puts in front of a text.
fn start(tokenizer: &tokenizers::Tokenizer) -> std::result::Result<Start, String> {
    if tokenizer.get_post_processor().is_none() {
        return Ok(Start::Unsaid);
    }
    // A text that the model cannot cut tells nothing.
    let ids = |special: bool| Some(tokenizer.encode("a", special).ok()?.get_ids().to_vec());
    let (Some(plain), Some(whole)) = (ids(false), ids(true)) else { return Ok(Start::Unsaid) };
    let place = whole.windows(plain.len().max(1)).position(|window| window == plain).unwrap_or(0);
    match whole.get(..place) {
        None | Some([]) => Ok(Start::Nothing),
        Some([token]) => Ok(Start::Token(*token)),
        Some(tokens) => Err(format!("`post_processor` puts {} tokens in front of a text, more than one", tokens.len())),
    }
}

/// Has the post-processor put `token` in front of a text, or nothing.
pub(crate) fn put_start(file: &mut Map<String, Value>, token: Option<(&str, u32)>) {
    let text = |id: &str, kind: u8| json!({"Sequence": {"id": id, "type_id": kind}});
    let start = || token.iter().map(|(name, _)| json!({"SpecialToken": {"id": name, "type_id": 0}}));
    let single: Vec<Value> = start().chain([text("A", 0)]).collect();
    let pair: Vec<Value> = single.iter().cloned().chain(start()).chain([text("B", 1)]).collect();
    let special: Map<String, Value> =
        token.iter().map(|(name, id)| (name.to_string(), json!({"id": name, "ids": [id], "tokens": [name]}))).collect();
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special});
    let put = match file.remove("post_processor") {
        Some(Value::Object(other)) if other.get("type") == Some(&json!("ByteLevel")) => {
            json!({"type": "Sequence", "processors": [other, template]})
        }
        _ => template,
    };
    file.insert("post_processor".into(), put);
}
