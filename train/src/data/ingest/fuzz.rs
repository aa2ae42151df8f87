//! Mutated corpora of every format: an ingestion ends with a shard that verifies or with an error, and never panics.
//! `VILA_FUZZ_SECONDS` and `VILA_FUZZ_SEED` as in `shard/fuzz.rs`.

use std::fs;
use std::time::{Duration, Instant};

use vila_engine::philox::Stream;

use super::*;
use crate::data::shard::ShardReader;
use crate::data::tokens::{Span, Tokenize, TokenizeError};

/// A token a character.
struct Characters;

impl Tokenize for Characters {
    fn bos(&self) -> Option<u32> {
        Some(1)
    }

    fn eos(&self) -> u32 {
        2
    }

    fn image_token(&self) -> Option<u32> {
        None
    }

    fn encode_with_offsets(&self, text: &str) -> Result<Vec<Span>, TokenizeError> {
        Ok(text.char_indices().map(|(at, c)| (u32::from(c), at..at + c.len_utf8())).collect())
    }

    fn fingerprint(&self) -> String {
        "characters".into()
    }
}

const CORPORA: [(&str, &str); 4] = [
    ("text", "{\"text\": \"a dog\"}\n{\"text_list\": [\"a\", \"b\"], \"x\": NaN}\n{\"text\": \"\\ud83d\\ude00\"}\n"),
    (
        "pairs",
        "{\"image\": \"i.png\", \"text\": \"a dog\"}\n{\"images\": [\"i.png\"], \"caption\": \"a <image> cat\"}\n",
    ),
    (
        "mmc4",
        "{\"text_list\": [\"a\", \"b\"], \"image_info\": [{\"image_name\": \"i.png\", \"matched_text_index\": 1}]}\n{\"text_list\": [\"c\"]}\n",
    ),
    (
        "llava",
        "[{\"image\": \"i.png\", \"system\": \"s\", \"conversations\": [{\"from\": \"human\", \"value\": \"<image>q\"}, \
         {\"from\": \"gpt\", \"value\": \"a\"}]},\n{\"conversations\": [{\"from\": \"system\", \"value\": \"t\"}, {\"from\": \"human\", \
         \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}]}]",
    ),
];

const PIECES: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b"\n",
    b"\\ud800",
    b"NaN",
    b"null",
    b"-1",
    b"<image>",
    b"../",
    b"\xEF\xBB\xBF",
    b"\x1F\x8B",
    b"\xFF\xFE",
];

fn mutate(bytes: &mut Vec<u8>, random: &mut Stream) {
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at.max(1)),
            1 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
            2 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            _ => {
                let end = (at + random.below(20)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
}

#[test]
fn mutated_corpora_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let (only, seconds) = (number("VILA_FUZZ_SEED"), number("VILA_FUZZ_SECONDS").unwrap_or(3));
    let dir = std::env::temp_dir().join(format!("vila-corpora-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("images")).expect("scratch");
    for place in ["i.png", "images/i.png"] {
        image::GrayImage::new(4, 4).save(dir.join(place)).expect("image");
    }
    let (start, first) = (Instant::now(), only.unwrap_or(u64::from(std::process::id()) << 32));
    let (mut mutants, mut accepted) = (0u64, 0u64);
    while mutants == 0 || only.is_none() && (mutants < 8 || start.elapsed() < Duration::from_secs(seconds)) {
        let seed = first + mutants;
        let mut random = Stream::new(seed, 0);
        let (name, text) = CORPORA[random.below(CORPORA.len())];
        let mut bytes = text.as_bytes().to_vec();
        mutate(&mut bytes, &mut random);
        let input = dir.join("corpus.jsonl");
        fs::write(&input, &bytes).expect("corpus");
        let template = (name == "llava").then_some("v0");
        let format = Format::parse(name, &FormatOptions { template, ..Default::default() }).expect("format");
        let out = dir.join("shard");
        let options = IngestOptions {
            on_error: [OnError::Skip, OnError::Stop][random.below(2)],
            max_tokens: (random.below(2) == 0).then_some(TokenLimit { tokens: 2 + random.below(40), per_image: 3 }),
            ..IngestOptions::new(format, vec![input], &out)
        };
        let made = std::panic::catch_unwind(|| ingest(&options, &Characters).is_ok());
        let made = made.unwrap_or_else(|_| panic!("VILA_FUZZ_SEED={seed} shows it again: {}", bytes.escape_ascii()));
        if made {
            ShardReader::open(&out)
                .and_then(|reader| reader.verify())
                .unwrap_or_else(|error| panic!("{seed}: {error}"));
            accepted += 1;
        }
        assert_eq!(made, out.exists(), "{seed}");
        let _ = fs::remove_dir_all(&out);
        mutants += 1;
    }
    let _ = fs::remove_dir_all(&dir);
    println!("{mutants} corpora, {accepted} ingested");
    assert!(only.is_some() || accepted > 0);
}
