//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` beside a `tokenizer.model`, read as
//! transformers reads them for a `LlamaTokenizer`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::llama::{AddedToken, Settings};
use super::vocab::Vocab;
use crate::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
/// Ids of added tokens lie below this.
const MOST_IDS: u64 = 1 << 24;
/// Tokens with a role, in the order in which missing ones get ids.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Whether `dir` says how its model is wrapped.
pub(super) fn present(dir: &Path) -> bool {
    [CONFIG, SPECIAL, ADDED].iter().any(|name| dir.join(name).is_file())
}

/// Reads the settings of a directory; what is missing has the values of a `LlamaTokenizer`.
pub(super) fn read(dir: &Path, vocab: &Vocab) -> Result<Settings> {
    let mut reader = Reader { dir, found: BTreeMap::new() };
    let config = Fields::read(dir, CONFIG)?.unwrap_or_else(|| Fields::empty(dir, CONFIG));
    config.check_class()?;
    let decoder = config.value("added_tokens_decoder");
    // Newer configurations hold everything; for others the separate files do.
    let roles = match decoder {
        Some(_) => None,
        None => Fields::read(dir, SPECIAL)?,
    };
    match decoder {
        Some(decoder) => reader.add_decoder(&config, decoder)?,
        None => {
            if let Some(file) = Fields::read(dir, ADDED)? {
                reader.add_encoder(&file)?;
            }
        }
    }
    let named = NamedTokens::read(&config, roles.as_ref())?;
    let added = reader.finish(&named, vocab)?;
    let content = |role: &str| named.content(role).unwrap_or_default().to_string();
    Ok(Settings {
        // Absent as in VILA's own code and transformers 5, both of which take the newer mode.
        legacy: config.flag("legacy")?.unwrap_or(false),
        add_prefix_space: config.flag("add_prefix_space")?.unwrap_or(true),
        add_bos: config.flag("add_bos_token")?.unwrap_or(true),
        unk: content("unk_token"),
        bos: content("bos_token"),
        eos: content("eos_token"),
        added,
    })
}

/// An object of one file.
struct Fields {
    path: PathBuf,
    object: Map<String, Value>,
}

impl Fields {
    fn empty(dir: &Path, name: &str) -> Self {
        Fields { path: dir.join(name), object: Map::new() }
    }

    fn read(dir: &Path, name: &str) -> Result<Option<Self>> {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = vila_files::read(&path, vila_files::MAX_CONFIG).map_err(Error::io(&path))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Some(Fields { path, object })),
            Ok(_) => Err(Error::format(path, "is not a JSON object; save the tokenizer again")),
            Err(error) => Err(Error::format(path, format!("is not JSON ({error}); save the tokenizer again"))),
        }
    }

    /// A field that is neither absent nor null.
    fn value(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &str) -> Result<Option<bool>> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| self.fault(field, "must be true or false"));
        self.value(field).map(read).transpose()
    }

    fn check_class(&self) -> Result<()> {
        let known = ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"];
        match self.value("tokenizer_class") {
            Some(Value::String(class)) if !known.contains(&class.as_str()) => Err(self.fault(
                "tokenizer_class",
                format!("is {class}, but `tokenizer.model` is read as LlamaTokenizer only; supply a tokenizer.json"),
            )),
            _ => Ok(()),
        }
    }

    fn fault(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::Config { path: self.path.clone(), field: field.into(), problem: problem.into() }
    }
}

/// A token as text or as an object.
#[derive(Clone)]
struct Described {
    content: String,
    lstrip: bool,
    rstrip: bool,
    special: bool,
}

impl Described {
    fn plain(content: &str, special: bool) -> Self {
        Described { content: content.to_string(), lstrip: false, rstrip: false, special }
    }

    /// `special` is what a text or an object without the flag is.
    fn parse(file: &Fields, field: &str, value: &Value, special: bool) -> Result<Self> {
        if let Value::String(content) = value {
            return Ok(Described::plain(content, special));
        }
        let Some(content) = value.get("content").and_then(Value::as_str) else {
            return Err(file.fault(field, "must be a text or an object with a `content`"));
        };
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        if flag("single_word").unwrap_or(false) {
            let problem = format!("has `single_word` for {content:?}, which is not supported; supply a tokenizer.json");
            return Err(file.fault(field, problem));
        }
        let (lstrip, rstrip) = (flag("lstrip").unwrap_or(false), flag("rstrip").unwrap_or(false));
        Ok(Described { content: content.into(), lstrip, rstrip, special: flag("special").unwrap_or(special) })
    }
}

/// Tokens with roles.
struct NamedTokens {
    roles: Vec<(&'static str, Described)>,
    additional: Vec<Described>,
}

impl NamedTokens {
    fn read(config: &Fields, map: Option<&Fields>) -> Result<Self> {
        let mut roles = Vec::new();
        for role in ROLES {
            let usual = match role {
                "bos_token" => Some("<s>"),
                "eos_token" => Some("</s>"),
                "unk_token" => Some("<unk>"),
                _ => None,
            };
            let given = map.and_then(|map| map.value(role).map(|value| (map, value)));
            let token = match given.or_else(|| config.value(role).map(|value| (config, value))) {
                Some((file, value)) => Some(Described::parse(file, role, value, true)?),
                None => usual.map(|content| Described::plain(content, true)),
            };
            roles.extend(token.map(|token| (role, token)));
        }
        let mut additional = Vec::new();
        for file in [Some(config), map].into_iter().flatten() {
            for value in file.list("additional_special_tokens")? {
                additional.push(Described::parse(file, "additional_special_tokens", value, true)?);
            }
        }
        Ok(NamedTokens { roles, additional })
    }

    fn content(&self, role: &str) -> Option<&str> {
        self.roles.iter().find(|(name, _)| *name == role).map(|(_, token)| token.content.as_str())
    }

    fn all(&self) -> impl Iterator<Item = &Described> {
        self.roles.iter().map(|(_, token)| token).chain(&self.additional).filter(|token| !token.content.is_empty())
    }
}

impl Fields {
    fn list(&self, field: &str) -> Result<&[Value]> {
        match self.value(field) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.fault(field, "must be a list of tokens")),
        }
    }
}

/// Collects added tokens by id.
struct Reader<'a> {
    dir: &'a Path,
    found: BTreeMap<u32, Described>,
}

impl Reader<'_> {
    fn add_decoder(&mut self, config: &Fields, decoder: &Value) -> Result<()> {
        const FIELD: &str = "added_tokens_decoder";
        let Some(decoder) = decoder.as_object() else {
            return Err(config.fault(FIELD, "must be an object from ids to tokens"));
        };
        for (id, token) in decoder {
            let number = id.parse().ok().and_then(checked_id);
            let Some(number) = number else { return Err(config.fault(FIELD, bad_id(id))) };
            self.found.insert(number, Described::parse(config, FIELD, token, false)?);
        }
        Ok(())
    }

    fn add_encoder(&mut self, file: &Fields) -> Result<()> {
        for (content, id) in &file.object {
            let number = id.as_u64().and_then(checked_id);
            let Some(number) = number else { return Err(file.fault(content, bad_id(id))) };
            if let Some(other) = self.found.insert(number, Described::plain(content, false)) {
                let problem = format!("has id {number}, which {:?} has too; give each its own", other.content);
                return Err(file.fault(content, problem));
            }
        }
        Ok(())
    }

    /// Gives ids to named tokens that have none, then puts everything together.
    fn finish(mut self, named: &NamedTokens, vocab: &Vocab) -> Result<Vec<AddedToken>> {
        let beyond = self.found.values().filter(|token| vocab.find(&token.content).is_none()).count();
        let mut next = vocab.pieces().len() + beyond;
        let mut known: HashSet<String> = self.found.values().map(|token| token.content.clone()).collect();
        for token in named.all() {
            if !known.insert(token.content.clone()) {
                continue;
            }
            let id = vocab.find(&token.content).or_else(|| {
                next += 1;
                u32::try_from(next - 1).ok()
            });
            if let Some(id) = id {
                self.found.insert(id, token.clone());
            }
        }
        let names: HashSet<&str> = named.all().map(|token| token.content.as_str()).collect();
        let (mut added, mut seen) = (Vec::new(), HashSet::new());
        for (id, Described { content, lstrip, rstrip, special }) in self.found {
            if content.is_empty() || !seen.insert(content.clone()) {
                let problem = format!("an added token (id {id}) is {content:?}, empty or there twice; remove it");
                return Err(Error::format(self.dir.join(CONFIG), problem));
            }
            let named = names.contains(content.as_str());
            added.push(AddedToken { id, content, lstrip, rstrip, special: special || named, named });
        }
        Ok(added)
    }
}

fn checked_id(id: u64) -> Option<u32> {
    u32::try_from(id).ok().filter(|_| id < MOST_IDS)
}

fn bad_id(id: impl std::fmt::Display) -> String {
    format!("has the id {id}; ids are numbers below {MOST_IDS}")
}

/// The settings as they are kept inside a `tokenizer.json`.
pub(super) fn to_json(settings: &Settings) -> Value {
    let added: Vec<Value> = settings.added.iter().map(added_json).collect();
    let Settings { legacy, add_prefix_space, add_bos, unk, bos, eos, .. } = settings;
    let mut kept = json!({
        "legacy": legacy, "add_prefix_space": add_prefix_space, "unk": unk, "bos": bos, "eos": eos, "added": added,
    });
    if !add_bos {
        kept["add_bos"] = json!(false);
    }
    kept
}

fn added_json(token: &AddedToken) -> Value {
    let AddedToken { id, content, lstrip, rstrip, special, named } = token;
    json!({
        "id": id, "content": content, "lstrip": lstrip, "rstrip": rstrip, "special": special, "named": named,
    })
}

/// Reads what [`to_json`] wrote; none where something is missing.
pub(super) fn from_json(value: &Value) -> Option<Settings> {
    let flag = |name: &str| value.get(name)?.as_bool();
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_string());
    let added = value.get("added")?.as_array()?.iter().map(added_from_json).collect::<Option<Vec<_>>>()?;
    Some(Settings {
        legacy: flag("legacy")?,
        add_prefix_space: flag("add_prefix_space")?,
        // Absent where it is true, so that files of earlier versions stay what they are.
        add_bos: flag("add_bos").unwrap_or(true),
        unk: text("unk")?,
        bos: text("bos")?,
        eos: text("eos")?,
        added,
    })
}

fn added_from_json(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name)?.as_bool();
    Some(AddedToken {
        id: checked_id(value.get("id")?.as_u64()?)?,
        content: value.get("content")?.as_str().filter(|content| !content.is_empty())?.to_string(),
        lstrip: flag("lstrip")?,
        rstrip: flag("rstrip")?,
        special: flag("special")?,
        named: flag("named")?,
    })
}
