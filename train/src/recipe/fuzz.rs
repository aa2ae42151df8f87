//! Mutated recipes: refused or read, never a panic. `VILA_FUZZ_SECONDS` and `VILA_FUZZ_SEED` as in
//! `model/tests/common/fuzz.rs`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vila_engine::philox::Stream;

use super::{Recipe, TokenIds};

fn recipes() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("paper"), root.join("paper/ablations")] {
        let files = std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
        files.sort();
        found.extend(files.iter().map(|path| std::fs::read_to_string(path).expect("recipe")));
    }
    found
}

/// What numbers, words and brackets become.
const PIECES: [&str; 30] = [
    "0",
    "-1",
    "1",
    "3",
    "1e308",
    "nan",
    "inf",
    "-0.0",
    "18446744073709551615",
    "9223372036854775807",
    "4294967296",
    "\"\"",
    "\"../..\"",
    "\"\u{0}\"",
    "[]",
    "{}",
    "[[]]",
    "[[stage]]",
    "true",
    "= ",
    ".",
    "\n",
    "\u{feff}",
    "\"\"\"",
    "stage",
    "name",
    "\"mlp_downsample\"",
    "\"lora\"",
    "2023-01-01",
    "#",
];

fn mutate(text: &str, random: &mut Stream) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len().max(1)).min(bytes.len());
        let piece = PIECES[random.below(PIECES.len())].bytes();
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            2 => drop(bytes.splice(at..at, piece)),
            3 => {
                // A line again, somewhere else.
                let lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
                let line = [lines[random.below(lines.len())].clone(), b"\n".to_vec()].concat();
                let start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                drop(bytes.splice(start..start, line));
            }
            4 => {
                let deep = 1 + random.below(3000);
                drop(bytes.splice(at..at, b"[".repeat(deep)));
            }
            _ => {
                // The value behind an equals sign.
                let values: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] == b'=').collect();
                if let Some(&start) = values.get(random.below(values.len().max(1))) {
                    let end = bytes[start..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |n| start + n);
                    drop(bytes.splice(start + 1..end, piece));
                }
            }
        }
    }
    bytes
}

/// Whether a recipe could be read; what is computed of its numbers must not panic either.
fn read(bytes: &[u8], sets: &[String]) -> bool {
    let path = Path::new("recipe.toml");
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(recipe) = Recipe::parse(text, path, Path::new("folder"), sets) else { return false };
    let printed = toml::to_string_pretty(&recipe).unwrap_or_default();
    drop(recipe.of_another_run(&printed, None));
    let ids = TokenIds { bos: Some(1), eos: Some(2), image: None };
    if let Ok((mut config, _)) = recipe.random_model(path, 32_000, ids) {
        for stage in &recipe.stage {
            drop(recipe.model.graft(&mut config, stage));
        }
    }
    true
}

#[test]
fn mutated_recipes_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let (only, seconds) = (number("VILA_FUZZ_SEED"), number("VILA_FUZZ_SECONDS").unwrap_or(3));
    let (start, first) = (Instant::now(), only.unwrap_or(u64::from(std::process::id()) << 32));
    let texts = recipes();
    let (mut mutants, mut accepted) = (0u64, 0u64);
    while mutants == 0 || only.is_none() && start.elapsed() < Duration::from_secs(seconds) {
        let seed = first + mutants;
        let mut random = Stream::new(seed, 0);
        let bytes = mutate(&texts[random.below(texts.len())], &mut random);
        let key = ["stage.sft.lr", "seed", "model.llm.heads", "stage", "sources.x.input", "a.b.c", ".", "stage.sft"];
        let set = format!("{}={}", key[random.below(key.len())], PIECES[random.below(PIECES.len())]);
        let sets = if random.below(3) == 0 { vec![set] } else { Vec::new() };
        let began = Instant::now();
        match std::panic::catch_unwind(|| read(&bytes, &sets)) {
            Ok(whole) => accepted += u64::from(whole),
            Err(_) => panic!("VILA_FUZZ_SEED={seed} shows it again"),
        }
        assert!(began.elapsed() < Duration::from_secs(30), "VILA_FUZZ_SEED={seed} takes {:?}", began.elapsed());
        mutants += 1;
    }
    println!("{mutants} mutants, {accepted} whole");
    assert!(only.is_some() || (accepted > 0 && accepted < mutants));
}
