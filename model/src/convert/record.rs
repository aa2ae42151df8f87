//! What a layout has no place for, kept in a file of the converted directory for the way back.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::shards::Folders;
use super::source::Source;
use super::text;
use crate::Result;
use crate::config::{Fields, Layout};

/// The file.
pub(super) const FILE: &str = "vila_conversion.json";

/// What directories of other layouts had, from which this one came.
#[derive(Clone, Default)]
pub(super) struct Record {
    layouts: BTreeMap<String, Entry>,
}

/// What a directory of one layout had.
#[derive(Clone, Default)]
pub(super) struct Entry {
    /// Its `config.json`.
    pub(super) config: Map<String, Value>,
    /// Its tower's configuration, where that described more than a vision model.
    pub(super) tower: Map<String, Value>,
    /// Small files of its tokenizer.
    pub(super) tokenizer: Map<String, Value>,
    /// Names of tensors that this program would write otherwise, by canonical name.
    pub(super) names: Map<String, Value>,
}

const PARTS: [&str; 4] = ["config", "tower", "tokenizer", "names"];

impl Record {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(Record::default());
        }
        let root = Fields::read(&path)?;
        let mut layouts = BTreeMap::new();
        for (layout, _) in root.entries() {
            let fields = root.child(layout)?.ok_or_else(|| root.error(layout, "must be an object"))?;
            let part =
                |name: &str| -> Result<_> { Ok(fields.child(name)?.map(Fields::into_object).unwrap_or_default()) };
            let [config, tower, tokenizer, names] = PARTS.map(part);
            let names = names?;
            if let Some((name, _)) = names.iter().find(|(_, stored)| !stored.is_string()) {
                let problem = "must be a string; restore the file, or remove it to go on with the usual names";
                return Err(fields.error(&format!("names.{name}"), problem));
            }
            let entry = Entry { config: config?, tower: tower?, tokenizer: tokenizer?, names };
            layouts.insert(layout.to_string(), entry);
        }
        Ok(Record { layouts })
    }

    /// What is known of the directory of this layout from which this one came.
    pub(super) fn of(&self, layout: Layout) -> Option<&Entry> {
        self.layouts.get(layout.name())
    }

    /// The record for a converted directory.
    pub(super) fn after(&self, source: &Source, folders: &Folders<'_>, to: Layout) -> Record {
        let mut record = self.clone();
        for entry in record.layouts.values_mut() {
            entry.names = std::mem::take(&mut entry.names)
                .into_iter()
                .filter_map(|(name, stored)| Some((folders.renamed(&name)?.to_string(), stored)))
                .collect();
        }
        if source.layout != to {
            record.layouts.insert(source.layout.name().to_string(), Entry::of(source, folders));
        }
        record.layouts.remove(to.name());
        record
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let entries = self.layouts.iter().map(|(layout, entry)| {
            let Entry { config, tower, tokenizer, names } = entry;
            (layout.clone(), json!({"config": config, "tower": tower, "tokenizer": tokenizer, "names": names}))
        });
        super::json_bytes(&Value::Object(entries.collect()))
    }
}

impl Entry {
    fn of(source: &Source, folders: &Folders<'_>) -> Self {
        let mut config = source.root.clone();
        config.retain(|field, _| !["text_config", "vision_config", super::vocabulary::ADDED].contains(&field.as_str()));
        let whole = source.tower.contains_key("vision_config");
        Entry {
            config,
            tower: if whole { source.tower.clone() } else { Map::new() },
            tokenizer: text::small_files(&source.text),
            names: folders.unusual_names(source.layout),
        }
    }
}
