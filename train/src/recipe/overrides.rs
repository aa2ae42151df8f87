use toml::{Table, Value};

/// Sets `a.b.c=value`; a stage is addressed by its name.
pub(super) fn apply(table: &mut Table, set: &str) -> Result<(), String> {
    let (key, text) = set.split_once('=').ok_or_else(|| format!("--set {set}: expected key=value"))?;
    let value = parse_value(text.trim());
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut parts = parts.into_iter();
    let mut at = table;
    while let Some(part) = parts.next() {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = match entry {
            Value::Table(table) => table,
            Value::Array(items) => {
                let name = parts.next().unwrap_or(last);
                let known: Vec<String> =
                    items.iter().filter_map(|item| Some(item.get("name")?.as_str()?.into())).collect();
                let item = items.iter_mut().find(|item| item.get("name").and_then(Value::as_str) == Some(name));
                let item = item.and_then(Value::as_table_mut);
                item.ok_or_else(|| format!("--set {set}: no {part} is named {name}; there are {}", known.join(", ")))?
            }
            _ => return Err(format!("--set {set}: {part} is not a table")),
        };
    }
    at.insert(last.to_string(), value);
    Ok(())
}

/// A TOML value, or the text itself where it is none.
fn parse_value(text: &str) -> Value {
    let table: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    table.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_string()))
}

/// The message of a parse error, with the nearest known key for an unknown one.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let message = error.to_string();
    let Some(rest) = error.message().strip_prefix("unknown field `") else { return message.trim_end().to_string() };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
    format!("{}{}", message.trim_end(), nearest(unknown, &known))
}

/// `; did you mean `x`?` for the nearest of the known names, if one is near.
pub(super) fn nearest(name: &str, known: &[&str]) -> String {
    let best = known.iter().map(|known| (distance(name, known), known)).min();
    match best {
        Some((distance, known)) if distance <= 1 + name.chars().count() / 3 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
