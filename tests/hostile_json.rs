//! JSON made hostile, for tests of every crate.

use serde_json::{Value, json};

/// Puts hostile values in place of a few, or takes a few away.
pub fn mutate(value: &mut Value, below: &mut dyn FnMut(usize) -> usize) {
    for _ in 0..1 + below(3) {
        change(value, below);
    }
}

fn change(value: &mut Value, below: &mut dyn FnMut(usize) -> usize) {
    let inner = match value {
        Value::Object(fields) if !fields.is_empty() => {
            let pick = below(fields.len());
            if below(8) == 0 {
                let name = fields.keys().nth(pick).cloned();
                name.map(|name| fields.remove(&name));
                return;
            }
            fields.values_mut().nth(pick)
        }
        Value::Array(items) if !items.is_empty() => {
            let pick = below(items.len());
            items.get_mut(pick)
        }
        _ => None,
    };
    match inner {
        Some(inner) if below(6) > 0 => change(inner, below),
        _ => *value = hostile(below),
    }
}

fn hostile(below: &mut dyn FnMut(usize) -> usize) -> Value {
    let numbers = [
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(7),
        json!(255),
        json!(1 << 20),
        json!(1u64 << 31),
        json!(1u64 << 32),
        json!(1u64 << 53),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(1e-308),
        json!(0.5),
        json!(-0.0),
    ];
    match below(10) {
        0 => Value::Null,
        1 => json!(below(2) == 0),
        2 => json!(["", "a", "\u{1b}[2J", "../../etc", "\u{0}", "<image>", "NaN"][below(7)]),
        3 => json!("x".repeat(100_000)),
        4 => json!([]),
        5 => json!({}),
        6 => json!(vec![0; 10_000]),
        7 => (0..100).fold(json!(1), |inner, _| json!([inner])),
        _ => numbers[below(numbers.len())].clone(),
    }
}
