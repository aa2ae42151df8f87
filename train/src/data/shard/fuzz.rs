//! Mutated shards: no panic, and what is given out lies within the files. `VILA_FUZZ_SECONDS` and `VILA_FUZZ_SEED` as in
//! `model/tests/common/fuzz.rs`; a shard that fails is kept under `tests/fixtures/fuzz/shards`, to be committed with what
//! mends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vila_engine::philox::Stream;

use super::tests::{Scratch, reseal, write};
use super::*;

fn once_failed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/fuzz/shards")
}

/// Changes a few places of a few files, numbers of the manifest among them; makes checksums right again or not.
fn mutate(dir: &Path, random: &mut Stream) {
    for _ in 0..1 + random.below(3) {
        let names: Vec<&str> = CHECKED.into_iter().chain([IMAGES, CHECKSUMS, MANIFEST]).collect();
        let path = dir.join(names[random.below(names.len())]);
        let mut bytes = fs::read(&path).expect("file");
        let at = random.below(bytes.len().max(1));
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.resize(bytes.len() + random.below(64), 0),
            2 => {
                let digits: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
                let numbers = ["0", "1", "255", "4294967295", "18446744073709551615", "-1", "1e99"];
                if path.ends_with(MANIFEST) && !digits.is_empty() {
                    let at = digits[random.below(digits.len())];
                    bytes.splice(at..at + 1, numbers[random.below(numbers.len())].bytes());
                }
            }
            _ => {
                let values = [0, 1, u64::MAX, 1 << 63, 1 << 32, u64::from(random.next_u32())];
                let value = values[random.below(values.len())].to_le_bytes();
                let width = [1, 4, 8][random.below(3)].min(bytes.len() - at.min(bytes.len()));
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
        }
        fs::write(&path, bytes).expect("write");
    }
    if random.below(2) == 0 && Manifest::read(dir).is_ok() {
        reseal(dir, |_| ());
    }
}

/// Whether everything of a shard could be read.
fn read(dir: &Path) -> bool {
    let Ok(reader) = ShardReader::open(dir) else { return false };
    let documents = reader.len().min(64);
    let mut whole = reader.verify().is_ok();
    for index in 0..documents {
        let Ok(sample) = reader.sample(index) else { return false };
        assert_eq!(sample.tokens.len(), sample.loss.iter().count());
        drop(reader.origin(&sample.record));
        for &image in sample.images {
            whole &= reader.image(image).is_ok() && reader.image_name(image).is_ok();
        }
    }
    whole
}

#[test]
fn mutated_shards_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    for entry in fs::read_dir(once_failed()).into_iter().flatten() {
        read(&entry.expect("entry").path());
    }
    let (only, seconds) = (number("VILA_FUZZ_SEED"), number("VILA_FUZZ_SECONDS").unwrap_or(3));
    let scratch = Scratch::new("fuzz");
    let (start, first) = (Instant::now(), only.unwrap_or(u64::from(std::process::id()) << 32));
    let (mut mutants, mut accepted) = (0u64, 0u64);
    while mutants == 0 || only.is_none() && start.elapsed() < Duration::from_secs(seconds) {
        let (seed, dir) = (first + mutants, scratch.0.join(format!("{mutants}")));
        write(&dir);
        mutate(&dir, &mut Stream::new(seed, 0));
        match std::panic::catch_unwind(|| read(&dir)) {
            Ok(whole) => accepted += u64::from(whole),
            Err(_) => {
                let kept = once_failed().join(format!("{seed:x}"));
                fs::create_dir_all(once_failed()).and_then(|()| fs::rename(&dir, &kept)).expect("keep");
                panic!("VILA_FUZZ_SEED={seed} shows it again; the shard is {}", kept.display());
            }
        }
        let _ = fs::remove_dir_all(&dir);
        mutants += 1;
    }
    println!("{mutants} mutants, {accepted} whole");
    assert!(only.is_some() || (accepted > 0 && accepted < mutants));
}
