//! What sets a recipe apart from that of a run.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::Recipe;

/// Most keys that a message lists.
const SHOWN: usize = 20;

impl Recipe {
    /// Why this recipe cannot go on with a run whose recipe has another hash; `checkpoint` is the run's newest.
    pub(crate) fn of_another_run(&self, hash: &str, checkpoint: Option<&Path>) -> String {
        let text = checkpoint
            .and_then(|dir| vila_files::read_to_string(&dir.join("trainer/recipe.toml"), vila_files::MAX_CONFIG).ok());
        let keys = text.map_or(Vec::new(), |text| self.differences(&text));
        if keys.is_empty() {
            let short = |hash: &str| hash.chars().take(12).collect::<String>();
            return format!(
                "holds a run of another recipe (hash {}, this one is {}); choose another `out`, or --restart to discard it",
                short(hash),
                short(self.hash())
            );
        }
        let more = keys.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        format!(
            "holds a run of another recipe; the keys that differ:\n{}{more}\nset them as they were to go on with that run, choose \
             another `out` (or --out) for a new one, or discard that run with --restart",
            keys[..keys.len().min(SHOWN)].join("\n")
        )
    }

    /// A line for each key in which a resolved recipe, as checkpoints keep it, differs; nothing if it cannot be read.
    fn differences(&self, resolved: &str) -> Vec<String> {
        let Ok(theirs) = toml::from_str::<Recipe>(resolved) else { return Vec::new() };
        let (theirs, ours) = (flat(&theirs.essentials()), flat(&self.written));
        let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        let shown = |value: Option<&Value>| value.map_or("not set".into(), Value::to_string);
        let line = |key: &String| {
            let (theirs, ours) = (theirs.get(key), ours.get(key));
            let same = theirs.zip(ours).is_some_and(|(theirs, ours)| same(theirs, ours));
            (!same).then(|| format!("  {key}: {} in the run, {} here", shown(theirs), shown(ours)))
        };
        keys.into_iter().filter_map(line).collect()
    }
}

/// Values by key with dots between levels; a stage is addressed by its name, as `--set` does.
fn flat(table: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    table.iter().for_each(|(key, value)| flatten(key.clone(), value, &mut found));
    found
}

fn flatten(key: String, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => table.iter().for_each(|(name, value)| flatten(format!("{key}.{name}"), value, found)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            let names = || items.iter().enumerate().map(|(i, item)| name(item).unwrap_or_else(|| i.to_string()));
            items.iter().zip(names()).for_each(|(item, name)| flatten(format!("{key}.{name}"), item, found));
            // Their order matters, too.
            found.insert(key, Value::Array(names().map(Value::String).collect()));
        }
        value => drop(found.insert(key, value.clone())),
    }
}

fn name(item: &Value) -> Option<String> {
    Some(item.get("name")?.as_str()?.to_string())
}

/// Whether a value of a resolved recipe is that of one whose paths are as they were written.
fn same(resolved: &Value, written: &Value) -> bool {
    match (resolved, written) {
        (Value::String(resolved), Value::String(written)) => {
            let plain: PathBuf = Path::new(written).components().filter(|part| *part != Component::CurDir).collect();
            resolved == written || (!written.is_empty() && Path::new(resolved).ends_with(plain))
        }
        (Value::Array(resolved), Value::Array(written)) => {
            resolved.len() == written.len() && resolved.iter().zip(written).all(|(a, b)| same(a, b))
        }
        (resolved, written) => resolved == written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../recipes/toy.toml");

    fn recipe(text: &str, sets: &[&str]) -> Recipe {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        Recipe::parse(text, Path::new("toy.toml"), Path::new("/some/where"), &sets).expect("recipe")
    }

    fn differences(sets: &[&str]) -> Vec<String> {
        recipe(TEXT, sets).differences(&toml::to_string_pretty(&recipe(TEXT, &[])).expect("TOML"))
    }

    #[test]
    fn keys_that_differ_are_listed_and_no_others() {
        assert_eq!(differences(&[]), [""; 0]);
        // What may change while a run goes on.
        assert_eq!(differences(&["checkpoint.every=3", "out=\"else\"", "max_skipped=1", "loader.workers=0"]), [""; 0]);
        let lines = differences(&["seed=5", "stage.sft.lr=0.5", "stage.sft.projector_lr=0.25"]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("  seed: 0 in the run, 5 here"), "{lines:?}");
        assert!(lines[1].starts_with("  stage.sft.lr: ") && lines[1].ends_with(", 0.5 here"), "{lines:?}");
        assert!(lines[2].ends_with("not set in the run, 0.25 here"), "{lines:?}");
    }

    #[test]
    fn a_recipe_of_another_program_is_no_fault() {
        assert_eq!(recipe(TEXT, &[]).differences("new_key = 1"), [""; 0]);
        assert!(recipe(TEXT, &[]).of_another_run("ab", None).contains("hash ab"));
    }
}
