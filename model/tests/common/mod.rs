//! What the tests of weight files share: archives and pickles made by hand, folders, memory that is counted.
#![allow(dead_code)]

pub mod fuzz;
#[path = "../../../tests/hostile_json.rs"]
pub mod hostile_json;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vila_model::tokenizer::place_images;
use vila_model::weights::{RawTensor, parse, write_safetensors};
use vila_model::{Score, Vila, score_ids};

/// Counts what the current thread allocates.
pub struct Counting;

thread_local! {
    static USED: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(change: impl Fn(usize) -> usize) {
    // A thread that ends has no counters any more.
    let _ = USED.try_with(|used| {
        used.set(change(used.get()));
        PEAK.try_with(|peak| peak.set(peak.get().max(used.get())))
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|used| used.saturating_add(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(|used| used.saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`; also gives the most that this thread held beyond what it held before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = USED.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get().saturating_sub(before))
}

/// Scores a continuation that is tokenized by itself, as the golden files have it.
pub fn score_apart(vila: &Vila, prompt: &str, continuation: &str, images: &[PathBuf]) -> Score {
    let prompt = place_images(prompt, images.len()).expect("marks");
    let prompt = vila.tokenizer.encode_prompt(&prompt).expect("prompt");
    let tokens = vila.tokenizer.encode(continuation).expect("continuation");
    score_ids(vila, prompt, tokens, vila.load_images(images).expect("images")).expect("score")
}

/// The repository's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The small model in all layouts.
pub fn layouts() -> PathBuf {
    fixtures().join("layouts")
}

/// A new folder of this name.
pub fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("folder");
    dir
}

/// Copies a folder and all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("entry");
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copy");
        }
    }
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("file")).expect("json")
}

pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    std::fs::write(path, value.to_string()).expect("write");
}

/// The tensors of a weight file under other names.
pub fn renamed(path: &Path, rename: impl Fn(&str) -> String) -> BTreeMap<String, RawTensor> {
    let bytes = std::fs::read(path).expect("weights");
    let tensors = parse(path, &bytes).expect("tensors").into_iter();
    let raw = |tensor: vila_model::torch_file::FileTensor| {
        let raw = RawTensor { dtype: tensor.dtype, shape: tensor.shape, data: bytes[tensor.bytes].to_vec() };
        (rename(&tensor.name), raw)
    };
    tensors.map(raw).collect()
}

/// Writes a safetensors file.
pub fn write_weights(path: &Path, tensors: &BTreeMap<String, RawTensor>) {
    let mut bytes = Vec::new();
    write_safetensors(tensors, &mut bytes).expect("safetensors");
    std::fs::write(path, bytes).expect("write");
}

/// The single folder; its tower is embedded, so that of the folder beside only the configuration counts.
pub fn llava_embedded() -> PathBuf {
    let dir = folder("llava-embedded").join("model");
    copy(&layouts().join("llava"), &dir);
    let tower = dir.join("../clip-tiny");
    copy(&layouts().join("parts/clip-tiny"), &tower);
    std::fs::remove_file(tower.join("pytorch_model.bin")).expect("remove");
    dir
}

/// The single folder without tower and projector, which lie beside.
pub fn llava_apart(name: &str) -> PathBuf {
    let dir = folder(name);
    copy(&layouts().join("llava"), &dir);
    std::fs::remove_file(dir.join("pytorch_model-00003-of-00003.bin")).expect("remove");
    std::fs::remove_file(dir.join("preprocessor_config.json")).expect("remove");
    edit_json(&dir.join("pytorch_model.bin.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().expect("map");
        map.retain(|_, shard| !shard.as_str().is_some_and(|shard| shard.contains("00003-of")));
    });
    std::fs::copy(layouts().join("parts/mm_projector.bin"), dir.join("mm_projector.bin")).expect("copy");
    copy(&layouts().join("parts/clip-tiny"), &dir.join("openai/clip-tiny"));
    dir
}

/// A zip archive of stored entries.
pub struct Zip {
    pub entries: Vec<(String, Vec<u8>)>,
    /// With 64-bit fields throughout.
    pub wide: bool,
}

impl Zip {
    /// An archive as of `torch.save` with this pickle and these storages.
    pub fn torch(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Self {
        let mut entries = vec![("a/data.pkl".to_string(), pickle.to_vec()), ("a/byteorder".into(), b"little".to_vec())];
        entries.extend(storages.iter().map(|(key, data)| (format!("a/data/{key}"), data.clone())));
        Zip { entries, wide: false }
    }

    /// A 32-bit field, all ones if the value stands in the extra field.
    fn narrow(&self, value: u64) -> [u8; 4] {
        if self.wide { [0xff; 4] } else { (value as u32).to_le_bytes() }
    }

    /// The extra field of 64-bit values, if there is one.
    fn extra(&self, values: &[u8]) -> Vec<u8> {
        if self.wide { [&[1, 0, values.len() as u8, 0], values].concat() } else { Vec::new() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in &self.entries {
            let (size, local) = (data.len() as u64, file.len() as u64);
            let both = [size.to_le_bytes(); 2].concat();
            let inside = self.extra(&both);
            let outside = self.extra(&[&both[..], &local.to_le_bytes()].concat());
            let common = |extra: &[u8]| {
                let lengths = [(name.len() as u16).to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat();
                [&[0; 12][..], &self.narrow(size), &self.narrow(size), &lengths].concat()
            };
            let place = [&[0; 10][..], &self.narrow(local)].concat();
            directory
                .extend([b"PK\x01\x02\0\0\0\0", &common(&outside)[..], &place, name.as_bytes(), &outside].concat());
            // The local header lacks the version that made it: two bytes fewer in front.
            file.extend([b"PK\x03\x04\0\0", &common(&inside)[..], name.as_bytes(), &inside, data].concat());
        }
        let (start, size, count) = (file.len() as u64, directory.len() as u64, self.entries.len() as u64);
        file.extend(directory);
        if self.wide {
            let at = file.len() as u64;
            let numbers = [count, count, size, start].map(u64::to_le_bytes).concat();
            file.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[0; 12], &numbers].concat());
            file.extend([b"PK\x06\x07", &[0; 4][..], &at.to_le_bytes(), &1u32.to_le_bytes()].concat());
            file.extend([b"PK\x05\x06\0\0\0\0", &[0xff; 12][..], &[0; 2]].concat());
        } else {
            let counts = [(count as u16).to_le_bytes(); 2].concat();
            let places = [(size as u32).to_le_bytes(), (start as u32).to_le_bytes()].concat();
            file.extend([b"PK\x05\x06\0\0\0\0", &counts[..], &places, &[0; 2]].concat());
        }
        file
    }
}

/// A whole pickle of protocol 2.
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn ints(values: &[i64]) -> Vec<u8> {
    [&b"("[..], &values.iter().flat_map(|value| int(*value)).collect::<Vec<_>>(), b"t"].concat()
}

/// A tensor of a table; the default is four floats of storage "0".
pub struct Tensor<'a> {
    pub kind: &'a str,
    pub stored: i64,
    pub offset: i64,
    pub shape: &'a [i64],
    pub strides: &'a [i64],
    /// What stands for the backward hooks, and after them.
    pub hooks: &'a [u8],
}

impl Default for Tensor<'_> {
    fn default() -> Self {
        Tensor { kind: "FloatStorage", stored: 4, offset: 0, shape: &[4], strides: &[1], hooks: NO_HOOKS }
    }
}

pub const NO_HOOKS: &[u8] = b"ccollections\nOrderedDict\n)R";

impl Tensor<'_> {
    pub fn storage(&self) -> Vec<u8> {
        let class = format!("ctorch\n{}\n", self.kind);
        [b"(", &text("storage")[..], class.as_bytes(), &text("0"), &text("cpu"), &int(self.stored), b"tQ"].concat()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let views = [int(self.offset), ints(self.shape), ints(self.strides)].concat();
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &self.storage()[..], &views, b"\x89", self.hooks, b"tR"].concat()
    }

    /// A file with this tensor alone, under the name `w`, and 16 bytes of data.
    pub fn file(&self) -> Vec<u8> {
        Zip::torch(&table(&[("w", self.bytes())]), &[("0", vec![0; 16])]).bytes()
    }
}

/// A pickle of a table.
pub fn table(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    pickle(&[b"}(", &items[..], b"u"].concat())
}

/// A safetensors file with this header.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
