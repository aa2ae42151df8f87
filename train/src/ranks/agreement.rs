//! What ranks must have alike: compared before they begin, so that none trains along with other numbers.

use std::collections::HashMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Collective;
use super::host::plain;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// Most characters of a value in a message.
const SHOWN: usize = 200;

/// Names and values, in the order in which they are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// With those of another list behind.
    pub fn and(mut self, more: Facts) -> Self {
        self.0.extend(more.0);
        self
    }

    /// What a rank's program is: its version, and a checksum of its file.
    pub fn program() -> Self {
        let build = own_checksum().map_or("unknown".into(), |sum| format!("{sum:08x}"));
        Facts::new().with("program version", env!("CARGO_PKG_VERSION")).with("program build", build)
    }

    /// Every key of a recipe but those of the loader, which change nothing but speed.
    ///
    /// # Errors
    /// The recipe has a path that cannot be sent.
    pub fn recipe(recipe: &Recipe) -> Result<Self> {
        let mut value = serde_json::to_value(recipe)
            .map_err(|error| Error::Ranks(format!("the recipe cannot be told to other ranks: {error}")))?;
        if let Some(keys) = value.as_object_mut() {
            keys.remove("loader");
        }
        let mut facts = Facts::new();
        facts.flatten("", &value);
        Ok(facts)
    }

    /// Keys as `--set` has them: `stage.sft.lr`.
    fn flatten(&mut self, key: &str, value: &Value) {
        let below = |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
        match value {
            Value::Null => {}
            Value::Object(entries) => entries.iter().for_each(|(name, value)| self.flatten(&below(name), value)),
            Value::Array(items) if !items.is_empty() && items.iter().all(|item| item["name"].is_string()) => {
                items.iter().for_each(|item| self.flatten(&below(item["name"].as_str().unwrap_or_default()), item));
            }
            plain => self.0.push((key.into(), plain.to_string())),
        }
    }

    /// The first name whose value differs, with both values.
    fn first_difference<'a>(&'a self, other: &'a Facts) -> Option<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let values = |facts: &'a Facts| facts.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (own, others): (HashMap<_, _>, HashMap<_, _>) = (values(self).collect(), values(other).collect());
        let names = values(self).chain(values(other)).map(|(name, _)| name);
        let mut pairs = names.map(|name| (name, own.get(name).copied(), others.get(name).copied()));
        pairs.find(|(_, own, other)| own != other).or_else(|| {
            // Alike by name; then the order decides, of stages for example.
            let mut places = values(self).zip(values(other));
            places
                .find(|(own, other)| own != other)
                .map(|(own, other)| ("the order of keys", Some(own.0), Some(other.0)))
        })
    }
}

/// Compares what every rank has with what rank 0 has.
///
/// # Errors
/// [`Error::Ranks`], alike on every rank, names the first rank and the first thing that differ, with both values.
pub fn agree_on(collective: &dyn Collective, mine: &Facts) -> Result<()> {
    let all = collective.tell_all(serde_json::to_vec(mine).unwrap_or_default())?;
    let unreadable =
        |rank: usize| Error::Ranks(format!("rank {rank} talks in another way; every rank needs the same program"));
    let read = |(rank, bytes): (usize, &std::sync::Arc<Vec<u8>>)| {
        serde_json::from_slice::<Facts>(bytes).map_err(|_| unreadable(rank))
    };
    let all = all.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
    let Some(first) = all.first() else { return Ok(()) };
    for (rank, facts) in all.iter().enumerate().skip(1) {
        if let Some((name, theirs, wanted)) = facts.first_difference(first) {
            // All must have heard it before the first goes.
            let _ = collective.agree(0);
            return Err(Error::Ranks(format!(
                "rank {rank} has {} = {}, rank 0 has {}; start every rank with the same program, recipe and data",
                plain(name),
                shown(theirs),
                shown(wanted)
            )));
        }
    }
    Ok(())
}

fn own_checksum() -> std::io::Result<u32> {
    let mut file = std::fs::File::open(std::env::current_exe()?)?;
    let (mut sum, mut block) = (0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(sum),
            count => sum = crc32c::crc32c_append(sum, &block[..count]),
        }
    }
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "nothing".into() };
    let text: String = value.chars().take(SHOWN).collect();
    plain(&text) + if text.len() < value.len() { " ..." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::threads;

    /// What each rank hears.
    fn compared(facts: Vec<Facts>) -> Vec<String> {
        let ranks = threads(facts.len()).expect("ranks");
        std::thread::scope(|scope| {
            let ranks: Vec<_> = ranks
                .into_iter()
                .zip(facts)
                .map(|(rank, facts)| {
                    scope.spawn(move || agree_on(&rank, &facts).map_or_else(|e| e.to_string(), |()| "".into()))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().expect("rank")).collect()
        })
    }

    #[test]
    fn first_difference_is_named_by_key_and_rank_on_every_rank() {
        let facts = |rate: &str| Facts::new().with("seed", 1).with("stage.sft.lr", rate).with("stage.sft.clip", rate);
        assert_eq!(compared(vec![facts("1e-5"), facts("1e-5")]), ["", ""]);
        let said = compared(vec![facts("1e-5"), facts("1e-5"), facts("1e-4")]);
        assert!(said.iter().all(|text| *text == said[0]), "{said:?}");
        assert!(said[0].starts_with("rank 2 has stage.sft.lr = 1e-4, rank 0 has 1e-5;"), "{}", said[0]);
        let more = compared(vec![facts("1"), facts("1").with("model.lora.rank", 8)]);
        assert!(more[0].starts_with("rank 1 has model.lora.rank = 8, rank 0 has nothing;"), "{}", more[0]);
        let order = compared(vec![Facts::new().with("a", 1).with("b", 1), Facts::new().with("b", 1).with("a", 1)]);
        assert!(order[0].starts_with("rank 1 has the order of keys = b, rank 0 has a;"), "{}", order[0]);
        let hostile = compared(vec![Facts::new().with("a", 1), Facts::new().with("a", "\u{1b}]0;owned\u{7}")]);
        assert!(!hostile[0].chars().any(char::is_control), "{}", hostile[0]);
    }
}
