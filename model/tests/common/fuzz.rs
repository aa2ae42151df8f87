//! Mutation fuzzing on stable Rust: no panic, no hang, no memory beyond a bound.
//!
//! A campaign first reads again what once failed (`tests/fixtures/fuzz/TARGET`), then runs mutants for `VILA_FUZZ_SECONDS`
//! (3 if unset). `VILA_FUZZ_SEED` replays one mutant. An input that fails is written beside the others, to be committed
//! with what mends it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Rng, fixtures, peak};

/// Time that one input may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is fuzzed.
pub struct Target<M, R> {
    /// Folder of what once failed.
    pub name: &'static str,
    /// Memory that one input may take.
    pub bound: usize,
    /// Makes a mutant: the name of a file, and its content.
    pub mutant: M,
    /// Reads it; whether it was accepted. Panics if something is wrong.
    pub read: R,
}

impl<M: Fn(&mut Rng) -> (&'static str, Vec<u8>), R: Fn(&str, &[u8]) -> bool> Target<M, R> {
    pub fn campaign(&self) {
        let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
        for path in self.once_failed() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("name").to_string();
            self.check(&name, &std::fs::read(&path).expect("input"));
        }
        if let Some(seed) = number("VILA_FUZZ_SEED") {
            let (name, bytes) = (self.mutant)(&mut Rng(seed));
            println!("accepted: {}", self.check(name, &bytes));
            return;
        }
        let limit = Duration::from_secs(number("VILA_FUZZ_SECONDS").unwrap_or(3));
        let start = Instant::now();
        let (mut mutants, mut accepted) = (0u64, 0u64);
        while start.elapsed() < limit {
            let seed = mutants ^ (u64::from(std::process::id()) << 32);
            let (name, bytes) = (self.mutant)(&mut Rng(seed));
            let check = std::panic::AssertUnwindSafe(|| self.check(name, &bytes));
            match std::panic::catch_unwind(check) {
                Ok(whole) => accepted += u64::from(whole),
                Err(_) => {
                    let path = self.folder().join(format!("{seed:x}-{name}"));
                    std::fs::create_dir_all(self.folder()).and_then(|()| std::fs::write(&path, bytes)).expect("write");
                    panic!("VILA_FUZZ_SEED={seed} shows it again; the input is {}", path.display());
                }
            }
            mutants += 1;
        }
        println!("{}: {mutants} mutants, {accepted} accepted", self.name);
        assert!(accepted > 0 && accepted < mutants, "{accepted} of {mutants} were accepted");
    }

    fn folder(&self) -> PathBuf {
        fixtures().join("fuzz").join(self.name)
    }

    fn once_failed(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        entries.map(|entry| entry.expect("entry").path()).collect()
    }

    fn check(&self, name: &str, bytes: &[u8]) -> bool {
        let began = Instant::now();
        let (accepted, peak) = peak(|| (self.read)(name, bytes));
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert!(peak < self.bound, "{peak} bytes");
        accepted
    }
}
