//! Mutated SentencePiece models: no panic, no hang, no memory beyond a bound. Runs for VILA_SENTENCEPIECE_FUZZ_SECONDS
//! (5 if unset); VILA_SENTENCEPIECE_FUZZ_SEED replays one mutant.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use vila_model::tokenizer::Tokenizer;

/// Counts what is allocated.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(used, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that one mutant may take, at most.
const BOUND: usize = 64 << 20;
/// Time that one mutant may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const TEXTS: [&str; 4] =
    ["", "the of and 3.14 ▁x▁", "  ﬁ①㍿ abc\u{301}\0\t<s>abab 🍾🇩🇪 각ｶﾞ  ", "====aaaaaaaa ты وت\u{10ffff}"];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sentencepiece");
    let names = ["bpe-llama", "bpe-suffix", "unigram-bytes", "unigram-spaces", "bpe-nfkc", "unigram-nfkc-cf"];
    names.iter().map(|name| std::fs::read(dir.join(format!("{name}.model"))).expect("model")).collect()
}

/// One to eight changes at one place or another; most at the end, where the specifications lie.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(8) {
        let length = bytes.len().max(1);
        let at = if rng.below(2) == 0 { rng.below(length) } else { length - 1 - rng.below(length.min(400)) };
        let value = [0, 1, 0x7f, 0x80, 0xff, rng.next() as u8][rng.below(6)];
        match rng.below(12) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), value),
            2 => {
                let end = (at + rng.below(40)).min(bytes.len());
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                let place = rng.below(bytes.len() + 1);
                bytes.splice(place..place, part);
            }
            3 => {
                let end = (at + rng.below(40)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if rng.below(2) == 0 { value } else { *byte ^ 1 << rng.below(8) };
                }
            }
        }
    }
}

/// Reads one mutant and uses it; says whether it could be read.
fn run(seed: u64, corpus: &[Vec<u8>]) -> bool {
    let mut rng = Rng(seed);
    // The small models come first and come more often.
    let pick = rng.below(18);
    let mut bytes = corpus[if pick < 16 { pick % 4 } else { pick - 12 }].clone();
    mutate(&mut bytes, &mut rng);
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("mutant.model")) else { return false };
    for text in TEXTS {
        let tokens = tokenizer.encode_with_offsets(text).expect("encoded");
        assert!(
            tokens.iter().all(|(_, span)| span.start <= span.end && span.end <= text.len()),
            "{text:?}: {tokens:?}"
        );
        let ids: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
        drop((tokenizer.decode(&ids).expect("decoded"), tokenizer.decode_all(&ids).expect("decoded")));
    }
    true
}

#[test]
fn mutated_models_do_no_harm() {
    let corpus = corpus();
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let (only, seconds) = (number("VILA_SENTENCEPIECE_FUZZ_SEED"), number("VILA_SENTENCEPIECE_FUZZ_SECONDS"));
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(5));
    let first = only.unwrap_or(0);
    let (mut seed, mut read) = (first, 0);
    while seed == first || only.is_none() && Instant::now() < end {
        let (start, before) = (Instant::now(), USED.load(Relaxed));
        PEAK.store(before, Relaxed);
        match std::panic::catch_unwind(|| run(seed, &corpus)) {
            Ok(usable) => read += usize::from(usable),
            Err(_) => panic!("seed {seed} panics: VILA_SENTENCEPIECE_FUZZ_SEED={seed} replays it"),
        }
        let taken = PEAK.load(Relaxed).saturating_sub(before);
        assert!(taken < BOUND, "seed {seed} takes {taken} bytes");
        assert!(start.elapsed() < PATIENCE, "seed {seed} takes {:?}", start.elapsed());
        seed += 1;
    }
    println!("{} mutants, {read} of them models", seed - first);
}
