//! Mutated weight files, tokenizer models and images; `common/fuzz.rs` says what must hold. Tensors that are accepted
//! lie within the file.

mod common;

use std::path::Path;

use common::fuzz::Target;
use common::hostile_json::mutate;
use common::{NO_HOOKS, Rng, Tensor, Zip, fixtures, folder, int, layouts, safetensors, table, text};
use serde_json::Value;
use vila_model::VilaModel;
use vila_model::config::VilaConfig;
use vila_model::image::{GeometryMode, ImageProcessor};
use vila_model::tokenizer::Tokenizer;
use vila_model::torch_file::FileTensor;
use vila_model::weights::parse;

const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    17,
    0x7f,
    0xff,
    0x100,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 61,
    (1 << 63) - 1,
    u64::MAX,
];

/// What mutants are made from.
struct Corpus {
    archives: Vec<Zip>,
    safetensors: Vec<Vec<u8>>,
    /// Instructions to insert.
    instructions: Vec<Vec<u8>>,
}

impl Corpus {
    fn new() -> Self {
        let read = |name: &str| std::fs::read(layouts().join(name)).expect("fixture");
        let torch =
            ["files/odd.pt", "files/nested.pt", "files/transposed.pt", "llava/pytorch_model-00003-of-00003.bin"];
        let mut archives: Vec<Zip> = torch.iter().map(|name| unzip(&read(name))).collect();
        let tensor = Tensor::default();
        archives.push(Zip::torch(&table(&[("w", tensor.bytes()), ("v", tensor.bytes())]), &[("0", vec![7; 16])]));
        let mut instructions: Vec<Vec<u8>> = archives.iter().flat_map(|zip| split(&zip.entries[0].1)).collect();
        instructions.extend([b"R", b"Q", b"b", b"u", b"s", b"t", b"(", b"}", b"]", b"."].map(|code| code.to_vec()));
        instructions.extend([b"cos\nsystem\n".to_vec(), NO_HOOKS.to_vec(), tensor.bytes(), tensor.storage()]);
        let header = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        let safetensors = vec![read("vila/mm_projector/model.safetensors"), safetensors(header, &[0; 16])];
        Corpus { archives, safetensors, instructions }
    }

    fn archive(&self, rng: &mut Rng) -> Vec<u8> {
        let zip = &self.archives[rng.below(self.archives.len())];
        let mut zip = Zip { entries: zip.entries.clone(), wide: rng.below(2) == 0 };
        if rng.below(3) > 0 {
            zip.entries[0].1 = mutate_pickle(&zip.entries[0].1, &self.instructions, rng);
        }
        if rng.below(4) == 0 {
            mutate_entries(&mut zip.entries, rng);
        }
        let mut bytes = zip.bytes();
        if rng.below(2) == 0 {
            mutate_records(&mut bytes, rng);
        }
        bytes
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// Entries of a good archive, the pickle first.
fn unzip(bytes: &[u8]) -> Zip {
    let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02"));
    let mut entries: Vec<(String, Vec<u8>)> = places
        .map(|at| {
            let header = &bytes[at..];
            let name = &header[46..46 + number(&header[28..30])];
            let (size, local) = (number(&header[24..28]), number(&header[42..46]));
            let data = local + 30 + number(&bytes[local + 26..local + 28]) + number(&bytes[local + 28..local + 30]);
            (String::from_utf8(name.to_vec()).expect("name"), bytes[data..data + size].to_vec())
        })
        .collect();
    entries.sort_by_key(|(name, _)| !name.ends_with("data.pkl"));
    Zip { entries, wide: false }
}

/// Cuts a pickle between its instructions, as far as it is one.
fn split(pickle: &[u8]) -> Vec<Vec<u8>> {
    let (mut parts, mut rest) = (Vec::new(), pickle);
    while let Some(code) = rest.first() {
        let line =
            |from: usize| from + rest[from.min(rest.len())..].iter().take_while(|byte| **byte != b'\n').count() + 1;
        let argument = |bytes: usize| number(rest.get(1..1 + bytes).unwrap_or_default());
        let length = match code {
            0x80 | b'K' | b'q' | b'h' => 2,
            b'M' => 3,
            b'J' | b'r' | b'j' => 5,
            b'G' | 0x95 => 9,
            0x8a | 0x8c => 2 + argument(1),
            b'X' => 5 + argument(4),
            b'c' => line(line(1)),
            _ => 1,
        };
        let (part, after) = rest.split_at(length.min(rest.len()));
        parts.push(part.to_vec());
        rest = after;
    }
    parts
}

fn mutate_pickle(pickle: &[u8], pool: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut parts = split(pickle);
    for _ in 0..1 + rng.below(4) {
        let (at, other) = (rng.below(parts.len()), rng.below(parts.len()));
        if parts.is_empty() {
            break;
        }
        match rng.below(9) {
            0 => drop(parts.remove(at)),
            1 => parts.insert(at, parts[other].clone()),
            2 => parts.swap(at, other),
            3 => parts.insert(at, pool[rng.below(pool.len())].clone()),
            4 => parts[at] = pool[rng.below(pool.len())].clone(),
            5 => parts[at] = int(rng.pick(&NUMBERS) as i64),
            6 => {
                // An argument becomes another number.
                let new = rng.pick(&NUMBERS).to_le_bytes();
                let width = parts[at].len().saturating_sub(1).min(rng.pick(&[1, 2, 4, 8]));
                parts[at][1..1 + width].copy_from_slice(&new[..width]);
            }
            7 => {
                let copies = 1 + rng.below(3000);
                let part = parts[at].clone();
                parts.splice(at..at, std::iter::repeat_n(part, copies));
            }
            _ => parts[at] = text(rng.pick(&["storage", "0", "", "state_dict", "\u{0}", "x/../y"])),
        }
    }
    parts.concat()
}

fn mutate_entries(entries: &mut Vec<(String, Vec<u8>)>, rng: &mut Rng) {
    let (at, other) = (rng.below(entries.len()), rng.below(entries.len()));
    match rng.below(5) {
        0 => drop(entries.remove(at)),
        1 => entries.push(entries[at].clone()),
        2 => entries[at].0 = entries[other].0.clone(),
        3 => {
            let length = rng.below(entries[at].1.len() + 8);
            entries[at].1.resize(length, 0);
        }
        _ => entries[at].1 = rng.pick(&[&b"big"[..], b"", b"N.", b"\x80\x02}."]).to_vec(),
    }
}

/// Changes fields of the archive's own records, or cuts it.
fn mutate_records(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let records: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"PK")).collect();
    for _ in 0..1 + rng.below(3) {
        if records.is_empty() || rng.below(20) == 0 {
            bytes.truncate(rng.below(bytes.len()));
            return;
        }
        let at = (records[rng.below(records.len())] + rng.below(56)).min(bytes.len());
        let width = rng.pick(&[1, 2, 4, 8]).min(bytes.len() - at);
        let new = if rng.below(2) == 0 { rng.pick(&NUMBERS) } else { rng.below(bytes.len() + 64) as u64 };
        bytes[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
    }
}

fn mutate_safetensors(file: &[u8], rng: &mut Rng) -> Vec<u8> {
    let length = number(&file[..8]);
    let (mut header, mut data) = (file[8..8 + length].to_vec(), file[8 + length..].to_vec());
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(header.len());
        let digits: Vec<usize> = (0..header.len()).filter(|at| header[*at].is_ascii_digit()).collect();
        match rng.below(6) {
            0 if !digits.is_empty() => {
                let at = digits[rng.below(digits.len())];
                let new = rng.pick(&NUMBERS).to_string();
                header.splice(at..at + 1, new.into_bytes());
            }
            1 => header.truncate(at),
            2 => {
                let end = (at + rng.below(64)).min(header.len());
                let piece = header[at..end].to_vec();
                header.splice(at..at, piece);
            }
            3 if !header.is_empty() => header[at] = rng.pick(b"{}[]\",:-.0e\\ \xff"),
            4 => data.resize(rng.below(data.len() + 32), 0),
            _ => {
                let end = (at + rng.below(16)).min(header.len());
                header.drain(at..end);
            }
        }
    }
    let mut file = [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat();
    if rng.below(8) == 0 {
        file[..8].copy_from_slice(&rng.pick(&NUMBERS).to_le_bytes());
    }
    file
}

/// What must hold for everything that is accepted.
fn check(tensors: &[FileTensor], file: usize) {
    for tensor in tensors {
        let elements = tensor.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let bytes = elements.and_then(|elements| elements.checked_mul(tensor.dtype.bitsize())).map(|bits| bits / 8);
        assert_eq!(bytes, Some(tensor.bytes.len()), "{tensor:?}");
        assert!(tensor.bytes.start <= tensor.bytes.end && tensor.bytes.end <= file, "{tensor:?}");
    }
}

/// One to eight changes at one place or another; most at the end, where the specifications lie.
fn mutate_bytes(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(8) {
        let length = bytes.len().max(1);
        let at = if rng.below(2) == 0 { rng.below(length) } else { length - 1 - rng.below(length.min(400)) };
        let value = [0, 1, 0x7f, 0x80, 0xff, rng.bits() as u8][rng.below(6)];
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

/// Whether a weight file was accepted.
fn read_weights(name: &str, bytes: &[u8]) -> bool {
    let result = parse(Path::new(name), bytes);
    match &result {
        Ok(tensors) => check(tensors, bytes.len()),
        Err(error) => assert!(error.to_string().contains(name)),
    }
    result.is_ok()
}

#[test]
fn safetensors_files() {
    let corpus = Corpus::new();
    let mutant = |rng: &mut Rng| {
        let at = rng.below(corpus.safetensors.len());
        ("mutant.safetensors", mutate_safetensors(&corpus.safetensors[at], rng))
    };
    Target { name: "safetensors", bound: 64 << 20, mutant, read: read_weights }.campaign();
}

#[test]
fn files_of_torch_save() {
    let corpus = Corpus::new();
    let mutant = |rng: &mut Rng| ("mutant.bin", corpus.archive(rng));
    Target { name: "unpickler", bound: 64 << 20, mutant, read: read_weights }.campaign();
}

#[test]
fn sentencepiece_models() {
    let dir = fixtures().join("sentencepiece");
    let names = ["bpe-llama", "bpe-suffix", "unigram-bytes", "unigram-spaces", "bpe-nfkc", "unigram-nfkc-cf"];
    let models = names.map(|name| std::fs::read(dir.join(format!("{name}.model"))).expect("model"));
    let mutant = |rng: &mut Rng| {
        // The small models come first and come more often.
        let pick = rng.below(18);
        let mut bytes = models[if pick < 16 { pick % 4 } else { pick - 12 }].clone();
        mutate_bytes(&mut bytes, rng);
        ("mutant.model", bytes)
    };
    Target { name: "sentencepiece", bound: 64 << 20, mutant, read: read_model }.campaign();
}

const TEXTS: [&str; 4] =
    ["", "the of and 3.14 ▁x▁", "  ﬁ①㍿ abc\u{301}\0\t<s>abab 🍾🇩🇪 각ｶﾞ  ", "====aaaaaaaa ты وت\u{10ffff}"];

/// Whether a tokenizer's model was accepted.
fn read_model(name: &str, bytes: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes.to_vec(), Path::new(name)) else { return false };
    for text in TEXTS {
        let tokens = tokenizer.encode_with_offsets(text).expect("encoded");
        let inside = |(_, span): &(u32, std::ops::Range<usize>)| span.start <= span.end && span.end <= text.len();
        assert!(tokens.iter().all(inside), "{text:?}: {tokens:?}");
        let ids: Vec<u32> = tokens.into_iter().map(|(id, _)| id).collect();
        drop((tokenizer.decode(&ids).expect("decoded"), tokenizer.decode_all(&ids).expect("decoded")));
    }
    true
}

#[test]
fn tokenizer_files() {
    let names = ["templates/tokenizer.json", "tiny-llava-hf/tokenizer.json", "layouts/llava-hf/tokenizer.json"];
    let files = names.map(|name| std::fs::read(fixtures().join(name)).expect("tokenizer"));
    let mutant = |rng: &mut Rng| {
        let mut bytes = files[rng.below(files.len())].clone();
        mutate_bytes(&mut bytes, rng);
        ("mutant.json", bytes)
    };
    Target { name: "tokenizer", bound: 1 << 30, mutant, read: read_tokenizer }.campaign();
}

/// Whether a tokenizer was accepted; some texts it may refuse.
fn read_tokenizer(name: &str, bytes: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes.to_vec(), Path::new(name)) else { return false };
    for text in TEXTS {
        match tokenizer.encode(text) {
            Ok(ids) => drop(tokenizer.decode(&ids)),
            Err(error) => assert!(error.to_string().contains(name), "{error}"),
        }
    }
    true
}

#[test]
fn pictures() {
    let names = [
        "astro_cmyk.jpg",
        "camera_gray.jpg",
        "cat_palette.gif",
        "cat_rgba.png",
        "coffee.webp",
        "rocket_exif6.jpg",
        "rocket_progressive.jpg",
        "tiny_3x5.png",
        "wide_900x20.png",
    ];
    let files = names.map(|name| std::fs::read(fixtures().join("images").join(name)).expect("image"));
    let mutant = |rng: &mut Rng| {
        let mut bytes = files[rng.below(files.len())].clone();
        mutate_bytes(&mut bytes, rng);
        if rng.below(2) == 0 {
            reseal_png(&mut bytes);
        }
        ("mutant.image", bytes)
    };
    // A picture of the most pixels, as it is decoded.
    Target { name: "images", bound: 2 << 30, mutant, read: read_image }.campaign();
}

/// Whether an image was accepted.
fn read_image(name: &str, bytes: &[u8]) -> bool {
    for processor in [ImageProcessor::clip(28), ImageProcessor::siglip(28).with_mode(GeometryMode::Pad)] {
        match processor.decode_and_process(bytes, name) {
            Ok(pixels) => assert!(pixels.len() == 3 * 28 * 28 && pixels.iter().all(|pixel| pixel.is_finite())),
            Err(error) => {
                assert!(error.to_string().contains(name));
                return false;
            }
        }
    }
    true
}

/// Makes the checksums of a PNG's chunks right again, as a careful liar would.
fn reseal_png(bytes: &mut [u8]) {
    let mut at = 8;
    while bytes.starts_with(b"\x89PNG") && at + 12 <= bytes.len() {
        let length = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= bytes.len()) else { return };
        let sum = crc32(&bytes[at + 4..end]).to_be_bytes();
        bytes[end..end + 4].copy_from_slice(&sum);
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(!0, step)
}

/// A file of settings, mutated in its values or in its bytes.
fn mutate_settings(whole: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if rng.below(4) == 0 {
        mutate_bytes(&mut bytes, rng);
        return bytes;
    }
    let mut value: Value = serde_json::from_slice(whole).expect("settings");
    mutate(&mut value, &mut |limit| rng.below(limit));
    value.to_string().into_bytes()
}

#[test]
fn configurations() {
    let names = ["tiny-llava-hf", "gqa-tied", "layouts/llava"];
    let files = names.map(|name| std::fs::read(fixtures().join(name).join("config.json")).expect("configuration"));
    let dir = folder("fuzz-configurations");
    let mutant = |rng: &mut Rng| ("config.json", mutate_settings(&files[rng.below(files.len())], rng));
    let read = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.join("config.json"), bytes).expect("write");
        match VilaConfig::read(&dir) {
            Ok((config, _)) => !VilaModel::specs(&config).is_empty(),
            Err(error) => {
                assert!(error.to_string().contains("config.json"), "{name}: {error}");
                false
            }
        }
    };
    Target { name: "configurations", bound: 256 << 20, mutant, read }.campaign();
}

#[test]
fn image_processors() {
    let names = ["tiny-llava-hf", "siglip"];
    let files =
        names.map(|name| std::fs::read(fixtures().join(name).join("preprocessor_config.json")).expect("settings"));
    let picture = std::fs::read(fixtures().join("images/tiny_3x5.png")).expect("image");
    let mutant = |rng: &mut Rng| ("preprocessor_config.json", mutate_settings(&files[rng.below(files.len())], rng));
    let read = |name: &str, bytes: &[u8]| {
        let Ok(settings) = serde_json::from_slice(bytes) else { return false };
        match ImageProcessor::from_json(&settings, name) {
            Ok(processor) => processor.decode_and_process(&picture, "picture").is_ok(),
            Err(error) => {
                assert!(error.to_string().contains(name), "{error}");
                false
            }
        }
    };
    Target { name: "image-processors", bound: 1 << 30, mutant, read }.campaign();
}
