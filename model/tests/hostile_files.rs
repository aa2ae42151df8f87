//! Weight files and indices that lie: each is one error, within a second, and nothing of the claimed size is made.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::hostile_json::mutate;
use common::{NO_HOOKS, Rng, Tensor, Zip, fixtures, folder, int, peak, pickle, safetensors, table, text};
use serde_json::Value;
use vila_engine::CpuBackend;
use vila_model::Vila;
use vila_model::config::Layout;
use vila_model::tokenizer::Tokenizer;
use vila_model::torch_file::FileTensor;
use vila_model::weights::{Checkpoint, parse};

fn read(name: &str, bytes: &[u8]) -> vila_model::Result<Vec<FileTensor>> {
    let began = Instant::now();
    let (result, peak) = peak(|| parse(Path::new(name), bytes));
    assert!(began.elapsed() < Duration::from_secs(1), "{name}: {:?}", began.elapsed());
    // An instruction of one byte makes at most one small object, of which there is a limit.
    assert!(peak < (1 << 20) + 144 * bytes.len().min(1 << 20), "{name}: {peak} bytes for a file of {}", bytes.len());
    result
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], part: &str) {
    let said = match read(name, bytes) {
        Ok(_) => panic!("{part}: accepted"),
        Err(error) => error.to_string(),
    };
    assert!(said.contains(part) && said.contains(name), "{part:?} is missing in: {said}");
    assert!(said.len() < 1000, "{said}");
}

/// A file whose pickle has this body.
fn body(body: &[u8]) -> Vec<u8> {
    Zip::torch(&pickle(body), &[("0", vec![0; 16])]).bytes()
}

#[test]
fn the_hand_made_file_is_a_good_one() {
    for wide in [false, true] {
        let mut zip = Zip::torch(&table(&[("w", Tensor::default().bytes())]), &[("0", (0..16).collect())]);
        zip.wide = wide;
        let file = zip.bytes();
        let tensors = read("w.bin", &file).expect("tensors");
        assert_eq!((tensors[0].name.as_str(), &tensors[0].shape[..]), ("w", &[4][..]));
        assert_eq!(&file[tensors[0].bytes.clone()], &(0..16).collect::<Vec<u8>>()[..]);
    }
}

#[test]
fn pickles_that_call_are_refused_by_name() {
    let argument = text("echo owned");
    let call = |global: &[u8]| body(&[global, b"(", &argument, b"tR"].concat());
    refused("w.bin", &call(b"cos\nsystem\n"), "os.system");
    refused("w.bin", &call(b"cposix\nsystem\n"), "posix.system");
    refused("w.bin", &call(b"c__builtin__\neval\n"), "__builtin__.eval");
    refused("w.bin", &call(&[&text("builtins")[..], &text("exec"), b"\x93"].concat()), "builtins.exec");
    refused("w.bin", &call(b"ctorch\nload\n"), "torch.load");
    refused("w.bin", &call(b"ctorch._utils\n_rebuild_tensor_v3\n"), "torch._utils._rebuild_tensor_v3");
    refused("w.bin", &call(b"ccollections\nOrderedDict.fromkeys\n"), "collections.OrderedDict.fromkeys");
    refused("w.bin", &call(b"cos\x1b[2J\nsystem\n"), "os\\u{1b}[2J.system");
    refused("w.bin", &call(&[b"c", &[b'x'; 100_000][..], b"\ny\n"].concat()), "xxx");
    for code in [b'i', b'o', b'P', 0x81, 0x92, 0x82, 0x83, 0x84, b'I', b'F', b'S', b'2', b'0', 0x8b, 0x8e, 0x97, 0xff] {
        refused("w.bin", &body(&[code, b'N', b'N']), &format!("instruction {code:#04x}"));
    }
}

#[test]
fn reduce_and_build_make_tensors_and_containers_only() {
    let tensor = Tensor::default().bytes();
    refused("w.bin", &body(b"NNR"), "called that is no function");
    refused("w.bin", &body(&[&text("os")[..], b")R"].concat()), "called that is no function");
    refused("w.bin", &body(b"ccollections\nOrderedDict\nNR"), "no arguments");
    refused("w.bin", &body(b"ccollections\nOrderedDict\n]\x85R"), "arguments of another kind");
    refused("w.bin", &body(b"ctorch\nFloatStorage\n)R"), "arguments of another kind");
    refused("w.bin", &body(b"ctorch\nSize\n]\x85R"), "arguments of another kind");
    refused("w.bin", &body(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "arguments of another kind");
    refused("w.bin", &body(b"ctorch._utils\n_rebuild_parameter\n(N\x88NtR"), "arguments of another kind");
    let hooked = [b"}", &int(1)[..], &int(2), b"s"].concat();
    refused("w.bin", &Tensor { hooks: &hooked, ..Tensor::default() }.file(), "arguments of another kind");
    let negated = [NO_HOOKS, b"}", &text("neg"), b"\x88s"].concat();
    refused("w.bin", &Tensor { hooks: &negated, ..Tensor::default() }.file(), "arguments of another kind");
    refused("w.bin", &Tensor { kind: "Size", ..Tensor::default() }.file(), "no storage");
    refused("w.bin", &body(&[&tensor[..], b"}b"].concat()), "is changed");
    refused("w.bin", &body(b"}}b"), "is changed");
    refused("w.bin", &body(&[NO_HOOKS, b")b"].concat()), "is changed");
    refused("w.bin", &body(b"cc\n"), "middle of an instruction");
    refused("w.bin", &body(b"]NN\x86Q"), "no storage");
    refused("w.bin", &body(&tensor), "one tensor");
    refused("w.bin", &body(b"]"), "a list");
    refused("w.bin", &body(b"N"), "a single value");
    refused("w.bin", &body(b"}NNs"), "without names");
    refused("w.bin", &body(&[b"}", &text("model")[..], b"}s"].concat()), "is no tensor");
    refused("w.bin", &body(b"NN"), "left over");
    refused("w.bin", &body(b"N(t"), "left over");
    refused("w.bin", &body(b"}Ns"), "operands");
    refused("w.bin", &body(b"}(Nu"), "no dictionary");
    refused("w.bin", &body(b"}(s"), "operands");
    refused("w.bin", &body(b"u"), "no beginning");
    refused("w.bin", &body(b"h\x07"), "leads nowhere");
    refused("w.bin", &body(b"\x80\x02N"), "protocols");
    let version = |version| Zip::torch(&[0x80, version, b'}', b'.'], &[]).bytes();
    refused("w.bin", &version(1), "protocols");
    refused("w.bin", &version(5), "protocols");
    assert!(read("w.bin", &version(4)).expect("empty").is_empty());
}

#[test]
fn bombs_do_not_go_off() {
    let many = 3 << 20;
    refused("w.bin", &body(&vec![b'('; many]), "nested lists");
    refused("w.bin", &body(&vec![b']'; many]), "objects at a time");
    refused("w.bin", &body(&[b"N", &vec![0x85; many][..]].concat()), "1,048,576 objects");
    refused("w.bin", &body(&[b"N", &vec![0x94; many][..]].concat()), "references");
    // Deep, but read to its end: nothing here recurses.
    refused("w.bin", &body(&[b"N", &vec![0x85; 1 << 19][..]].concat()), "a list");
    // Each tuple holds the one before twice: 2^100000 values if anything walked them.
    let laughs: Vec<u8> = b"q\x00h\x00\x86".repeat(100_000);
    refused("w.bin", &body(&[b"N", &laughs[..]].concat()), "a list");
    // A table in itself.
    refused("w.bin", &body(&[b"}q\x00", &text("w")[..], b"h\x00s"].concat()), "is no tensor");
    for length in [b"X\xff\xff\xff\xff".to_vec(), [b"\x8d", &u64::MAX.to_le_bytes()[..]].concat(), b"\x8a\xff".to_vec()]
    {
        refused("w.bin", &body(&length), "");
    }
    refused("w.bin", &Zip::torch(&vec![b'N'; (64 << 20) + 1], &[]).bytes(), "64 MiB");
    let names: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let shared: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| (name.as_str(), Tensor { stored: 1 << 20, shape: &[1 << 20], ..Tensor::default() }.bytes()))
        .collect();
    refused("w.bin", &Zip::torch(&table(&shared), &[("0", vec![0; 4 << 20])]).bytes(), "describes 4194304000 bytes");
}

#[test]
fn tensors_outside_of_their_data_are_refused() {
    let refuse = |tensor: Tensor, part: &str| refused("w.bin", &tensor.file(), part);
    let good = Tensor::default;
    refuse(Tensor { stored: 1000, shape: &[1000], ..good() }, "16 bytes");
    refuse(Tensor { stored: 3, shape: &[3], ..good() }, "16 bytes");
    refuse(Tensor { stored: i64::MAX, shape: &[i64::MAX], ..good() }, "16 bytes");
    refuse(Tensor { kind: "DoubleStorage", ..good() }, "16 bytes");
    refuse(Tensor { shape: &[5], ..good() }, "do not fit");
    refuse(Tensor { offset: 1, ..good() }, "do not fit");
    refuse(Tensor { offset: i64::MAX, ..good() }, "do not fit");
    refuse(Tensor { shape: &[1 << 32, 1 << 32, 2], strides: &[2, 1, 1], ..good() }, "impossible");
    refuse(Tensor { shape: &[1 << 62, 4], strides: &[4, 1], ..good() }, "impossible");
    refuse(Tensor { shape: &[i64::MAX, 0], strides: &[1, 1], offset: 5, ..good() }, "do not fit");
    refuse(Tensor { shape: &[2, 2], strides: &[1, 2], ..good() }, "not contiguous");
    refuse(Tensor { shape: &[2, 2], strides: &[0, 0], ..good() }, "not contiguous");
    refuse(Tensor { shape: &[-4], ..good() }, "another kind");
    refuse(Tensor { offset: -1, ..good() }, "another kind");
    refuse(Tensor { stored: -1, ..good() }, "no storage");
    refuse(Tensor { strides: &[], ..good() }, "another kind");
    refuse(Tensor { shape: &[1; 17], strides: &[1; 17], ..good() }, "another kind");
    let no_data = Zip::torch(&table(&[("w", good().bytes())]), &[("1", vec![0; 16])]);
    refused("w.bin", &no_data.bytes(), "lacks the entry \"a/data/0\"");
}

/// A good archive, its directory's start, and the start of the second directory header.
fn archive() -> (Vec<u8>, usize, usize) {
    let bytes = Tensor::default().file();
    let at: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02")).collect();
    (bytes, at[0], at[1])
}

#[test]
fn archives_that_lie_are_refused() {
    let patched = |at: usize, new: &[u8]| {
        let mut bytes = archive().0;
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let (good, directory, second) = archive();
    let end = good.len() - 22;
    for length in 0..good.len() {
        refused("w.bin", &good[..length], "");
    }
    refused("w.bin", &[&good[..], b"tail"].concat(), "no end record");
    refused("w.bin", &patched(directory + 10, &[8]), "compressed");
    refused("w.bin", &patched(8, &[8]), "compressed");
    refused("w.bin", &patched(directory + 8, &[1]), "encrypted");
    refused("w.bin", &patched(directory + 24, &[0xff, 0xff]), "compressed");
    refused("w.bin", &patched(directory + 20, &[0xff; 8]), "damaged size");
    refused("w.bin", &patched(18, &[9]), "another size");
    refused("w.bin", &patched(30, b"b"), "another name");
    refused("w.bin", &patched(0, b"PKxx"), "no local header");
    refused("w.bin", &patched(directory, b"PKxx"), "directory");
    refused("w.bin", &patched(directory + 42, &[0xff, 0xff, 0xff, 0x7f]), "outside");
    refused("w.bin", &patched(directory + 46, &[0xff]), "not valid text");
    refused("w.bin", &patched(end + 8, &[4, 0, 4, 0]), "directory");
    refused("w.bin", &patched(end + 8, &[2, 0, 2, 0]), "number of entries");
    refused("w.bin", &patched(end + 8, &[0xff; 4]), "claims 65535 entries");
    refused("w.bin", &patched(end + 4, &[1]), "several files");
    refused("w.bin", &patched(end + 12, &[0xff; 4]), "outside");
    refused("w.bin", &patched(end + 16, &[0; 4]), "directory size");
    refused("w.bin", &patched(end + 20, &[1]), "end record");
    // The second entry lies over the first.
    let over = [&good[..second + 42], &good[directory + 42..directory + 46], &good[second + 46..]].concat();
    refused("w.bin", &over, "another name");
    let mut zip = Zip::torch(b"N.", &[]);
    zip.entries.push(zip.entries[0].clone());
    refused("w.bin", &zip.bytes(), "occurs twice");
    // An entry that holds another entry whole, header and all.
    let inner = Zip::torch(b"N.", &[]).bytes();
    let outer = Zip { entries: vec![("a/data.pkl".into(), inner.clone())], wide: false }.bytes();
    let nested = overlapping(&outer);
    refused("w.bin", &nested, "two overlap");
    for (what, said) in
        [("a/data.pkl", "one data.pkl"), ("b/data.pkl", "one data.pkl"), ("a/byteorder", "little-endian")]
    {
        let mut zip = Zip::torch(b"N.", &[]);
        match what {
            "a/data.pkl" => drop(zip.entries.remove(0)),
            "a/byteorder" => zip.entries[1].1 = b"big".to_vec(),
            name => zip.entries.push((name.into(), b"N.".to_vec())),
        }
        refused("w.bin", &zip.bytes(), said);
    }
    refused("w.bin", b"\x80\x02}.", "before PyTorch 1.6");
    refused("w.bin", b"not a model", "torch.save");
}

/// Lists the entry inside of the only entry too.
fn overlapping(outer: &[u8]) -> Vec<u8> {
    let find = |what: &[u8]| (0..outer.len()).rfind(|at| outer[*at..].starts_with(what)).expect("record");
    let (directory, end) = (find(b"PK\x01\x02"), find(b"PK\x05\x06"));
    let within = outer[30..].windows(4).position(|four| four == b"PK\x03\x04").expect("inner") + 30;
    let name = "a/byteorder".as_bytes();
    let at = within + outer[within + 1..].windows(4).position(|four| four == b"PK\x03\x04").expect("inner") + 1;
    let size = &outer[at + 18..at + 26];
    let lengths = [name.len() as u8, 0, 0, 0];
    let header =
        [b"PK\x01\x02\0\0\0\0", &[0; 12][..], size, &lengths, &[0; 10], &(at as u32).to_le_bytes(), name].concat();
    let directory_bytes = [&outer[directory..end], &header].concat();
    let size = (directory_bytes.len() as u32).to_le_bytes();
    let start = (directory as u32).to_le_bytes();
    [&outer[..directory], &directory_bytes, b"PK\x05\x06\0\0\0\0\x02\0\x02\0", &size, &start, &[0; 2]].concat()
}

#[test]
fn wide_archives_that_lie_are_refused() {
    let mut zip = Zip::torch(b"}.", &[]);
    zip.wide = true;
    let good = zip.bytes();
    assert!(read("w.bin", &good).is_ok());
    let record = good.len() - 22 - 20 - 56;
    for field in [24, 32, 40, 48] {
        for value in [u64::MAX, 1 << 63, 1 << 40, 0, 3] {
            let mut bytes = good.clone();
            bytes[record + field..record + field + 8].copy_from_slice(&value.to_le_bytes());
            refused("w.bin", &bytes, "");
        }
    }
    for value in [u64::MAX, 0, record as u64 + 1] {
        let mut bytes = good.clone();
        bytes[record + 56 + 8..record + 56 + 16].copy_from_slice(&value.to_le_bytes());
        refused("w.bin", &bytes, "64-bit end record");
    }
}

#[test]
fn safetensors_that_lie_are_refused() {
    let one = |shape: &str, offsets: &str| {
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        safetensors(&header, &[0; 16])
    };
    assert!(read("w.safetensors", &one("[4]", "[0,16]")).is_ok());
    for (shape, offsets) in [
        ("[5]", "[0,16]"),
        ("[4]", "[0,20]"),
        ("[4]", "[4,20]"),
        ("[4]", "[16,0]"),
        ("[4]", "[-1,15]"),
        ("[4294967296,4294967296,4]", "[0,16]"),
        ("[4611686018427387904,4]", "[0,18446744073709551615]"),
        ("[99999999999999999999999]", "[0,16]"),
        ("[3]", "[0,12]"),
    ] {
        refused("w.safetensors", &one(shape, offsets), "not a whole safetensors file");
    }
    // Eight tensors of 2^61 - 1 bytes end where a sum of offsets overflows.
    let width = (1u64 << 61) - 1;
    let tensors: Vec<String> = (0..8)
        .map(|i| {
            format!(r#""{i}":{{"dtype":"U8","shape":[{width}],"data_offsets":[{},{}]}}"#, i * width, (i + 1) * width)
        })
        .collect();
    refused("w.safetensors", &safetensors(&format!("{{{}}}", tensors.join(",")), &[]), "beyond any file");
    for length in [u64::MAX, 1 << 40, 17, 0] {
        refused("w.safetensors", &[&length.to_le_bytes()[..], b"{}"].concat(), "not a whole safetensors file");
    }
    let twice = |first: &str, second: &str| {
        let entry = |fields: &str| format!(r#""w":{{"dtype":{fields}}}"#);
        safetensors(&format!("{{{},{}}}", entry(first), entry(second)), &[0; 16])
    };
    for (first, second) in [
        (r#""F32","shape":[4],"data_offsets":[0,16]"#, r#""I32","shape":[4],"data_offsets":[0,16]"#),
        (r#""F32","shape":[2],"data_offsets":[0,8]"#, r#""F32","shape":[2],"data_offsets":[8,16]"#),
    ] {
        refused("w.safetensors", &twice(first, second), "w comes twice");
    }
    let overlapping = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[3],"data_offsets":[4,16]}}"#;
    refused("w.safetensors", &safetensors(overlapping, &[0; 16]), "not a whole safetensors file");
    refused("w.safetensors", &safetensors(&"[".repeat(1 << 20), &[]), "not a whole safetensors file");
    refused("w.safetensors", b"", "not a whole safetensors file");
}

/// What opening a folder with this index and the two shards `a` and `b` of one tensor each says.
fn opened(name: &str, index: &str) -> String {
    let dir = folder(&format!("index-{name}"));
    let shard = |name: &str| Zip::torch(&table(&[(name, Tensor::default().bytes())]), &[("0", vec![0; 16])]).bytes();
    std::fs::write(dir.join("pytorch_model.bin.index.json"), index).expect("index");
    std::fs::write(dir.join("a.bin"), shard("model.a")).expect("shard");
    std::fs::write(dir.join("b.bin"), shard("model.b")).expect("shard");
    std::fs::write(dir.join("again.bin"), shard("model.a")).expect("shard");
    match Checkpoint::open(&dir, Layout::LlavaHf) {
        Ok(checkpoint) => checkpoint.tensors().map(|(name, ..)| name).collect::<Vec<_>>().join(","),
        Err(error) => error.to_string(),
    }
}

#[test]
fn indices_that_lie_are_refused() {
    assert_eq!(opened("good", r#"{"weight_map":{"model.a":"a.bin","model.b":"b.bin"}}"#), "llm.model.a,llm.model.b");
    for (i, path) in
        ["../a.bin", "/a.bin", "/", "..", ".", "", "x/a.bin", "x\\\\a.bin", "./a.bin", "a.bin/"].iter().enumerate()
    {
        let said = opened(&format!("path{i}"), &format!(r#"{{"weight_map":{{"model.a":"{path}"}}}}"#));
        assert!(said.contains("weight_map.model.a") && said.contains("same folder"), "{path}: {said}");
    }
    let cases = [
        ("number", r#"{"weight_map":{"model.a":7}}"#, vec!["same folder"]),
        ("none", r#"{"weight_map":{}}"#, vec!["names no file"]),
        ("map", "{}", vec!["weight_map", "missing"]),
        ("json", "{", vec!["not valid JSON"]),
        ("shard", r#"{"weight_map":{"model.a":"a.bin","x":"c.bin","y":"d.bin"}}"#, vec!["not there", "c.bin", "d.bin"]),
        (
            "other",
            r#"{"weight_map":{"model.a":"b.bin","model.b":"a.bin"}}"#,
            vec!["model.a: listed in b.bin, is in a.bin", "model.b: listed in a.bin, is in b.bin"],
        ),
        (
            "nowhere",
            r#"{"weight_map":{"model.a":"a.bin","model.c":"a.bin"}}"#,
            vec!["model.c: listed in a.bin, is nowhere"],
        ),
        (
            "twice",
            r#"{"weight_map":{"model.a":"a.bin","model.b":"again.bin"}}"#,
            vec!["same tensor", "again.bin", "a.bin"],
        ),
    ];
    for (name, index, parts) in cases {
        let said = opened(name, index);
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} is missing in: {said}");
        }
    }
}

#[test]
fn a_tensor_twice_in_a_table_is_refused() {
    let dir = folder("twice");
    let tensor = Tensor::default().bytes();
    let entries = [("model.a", tensor.clone()), ("model.a", tensor)];
    let file = Zip::torch(&table(&entries), &[("0", vec![0; 16])]).bytes();
    std::fs::write(dir.join("pytorch_model.bin"), file).expect("file");
    let said = Checkpoint::open(&dir, Layout::LlavaHf).err().expect("refused").to_string();
    assert!(said.contains("model.a"), "{said}");
}

#[test]
fn a_vocabulary_with_a_hole_is_refused() {
    let path = fixtures().join("templates/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("file")).expect("json");
    let read =
        |json: &serde_json::Value| Tokenizer::from_bytes(json.to_string().into_bytes(), Path::new("tokenizer.json"));
    assert!(read(&json).is_ok());
    let merges = json["model"]["merges"].to_string();
    let vocabulary = json["model"]["vocab"].as_object_mut().expect("vocabulary");
    // A byte that no merge uses.
    let name =
        vocabulary.keys().find(|name| name.chars().count() == 1 && !merges.contains(*name)).expect("a byte").clone();
    let id = vocabulary.remove(&name).expect("id");
    vocabulary.insert("far away".into(), u32::MAX.into());
    let said = read(&json).err().expect("refused").to_string();
    assert!(said.contains("tokenizer.json") && said.contains(&format!("the id {id}")), "{said}");
}

#[test]
fn two_hundred_hostile_configurations_end_with_a_message() {
    let (whole, dir) = (fixtures().join("tiny-llava-hf"), folder("hostile-configurations"));
    let settings = ["config.json", "preprocessor_config.json", "generation_config.json"];
    for name in settings.into_iter().chain(["model.safetensors", "tokenizer.json"]) {
        std::fs::copy(whole.join(name), dir.join(name)).expect("copy");
    }
    let mut refused = 0;
    for seed in 0..200 {
        let (mut rng, name) = (Rng(seed), settings[seed as usize % settings.len()]);
        let good = std::fs::read(whole.join(name)).expect("settings");
        let mut value: Value = serde_json::from_slice(&good).expect("settings");
        mutate(&mut value, &mut |limit| rng.below(limit));
        std::fs::write(dir.join(name), value.to_string()).expect("write");
        let began = Instant::now();
        let (loaded, peak) = peak(|| Vila::load(&dir, Arc::new(CpuBackend::fast())));
        assert!(began.elapsed() < Duration::from_secs(60) && peak < 1 << 30, "{seed}: {peak} bytes");
        if let Err(error) = loaded {
            refused += 1;
            assert!(error.to_string().len() < 200_000, "{seed}");
        }
        std::fs::write(dir.join(name), good).expect("write");
    }
    assert!(refused > 50, "{refused} of 200 were refused");
}
