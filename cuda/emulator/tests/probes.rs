//! The probes of `probes/` on the emulator, compared with what hardware gave (`probes/h100.bin`, if it is there).

mod common;

use common::{Rng, nvrtc, words32};
use ptx_emulator::{Arg, Element, Memory, Module, Options, Swizzle, TensorMap};
use std::collections::HashMap;
use std::path::Path;

const SMALL: &[(&str, u32, [u32; 9])] = &[
    ("bf16", 16, [0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100]),
    ("f16", 16, [0, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700, 0x4800]),
    ("e4m3", 8, [0, 0x38, 0x40, 0x44, 0x48, 0x4a, 0x4c, 0x4e, 0x50]),
    ("e5m2", 8, [0, 0x3c, 0x40, 0x42, 0x44, 0x45, 0x46, 0x47, 0x48]),
    ("f32i", 32, INTEGERS),
    ("tf32", 32, INTEGERS),
];
const INTEGERS: [u32; 9] =
    [0, 0x3f80_0000, 0x4000_0000, 0x4040_0000, 0x4080_0000, 0x40a0_0000, 0x40c0_0000, 0x40e0_0000, 0x4100_0000];
const EDGE: [u64; 32] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
    0x7f80_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4f80_0000,
    0x5f00_0000,
    0x4380_0000,
    0x477f_e000,
    0x477f_f000,
    0x3300_0000,
    0x3380_0000,
    0x3880_0000,
    0xffff_ffff,
    0x7fff_ffff,
    31,
    32,
    33,
];
const EDGE64: [u64; 18] = [
    0,
    1 << 63,
    1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3fe0_0000_0000_0000,
    0x3ff8_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x41e0_0000_0000_0000,
    0x47ef_ffff_e000_0000,
    0x36a0_0000_0000_0000,
];

fn words(kind: &str, n: usize, rng: &mut Rng, out: &mut Vec<u32>) {
    if let Some((_, width, table)) = SMALL.iter().find(|s| s.0 == kind) {
        for _ in 0..n {
            let mut v = 0u32;
            for at in (0..32).step_by(*width as usize) {
                let r = (rng.bits() % 17) as i32;
                let sign = if r < 8 { 1u32 << (width - 1) } else { 0 };
                v |= (table[(r - 8).unsigned_abs() as usize] | sign) << at;
            }
            out.push(v);
        }
        return;
    }
    match kind {
        "bits" => out.extend((0..n).map(|_| (rng.bits() >> 32) as u32)),
        "f32r" => out.extend((0..n).map(|_| 0x3f80_0000 | (rng.bits() >> 41) as u32)),
        "edge" => {
            for _ in 0..n {
                let r = rng.bits();
                let v = match r >> 32 & 3 {
                    0 => EDGE[(r % 32) as usize],
                    1 => rng.bits() >> 32,
                    2 => 0x3e00_0000 + (rng.bits() >> 37),
                    _ => {
                        let low = rng.bits() >> 32 & 0x801f_ffff;
                        low | (0x3f00_0000 + (rng.bits() & 0xf) * 0x0080_0000)
                    }
                };
                out.push(v as u32);
            }
        }
        "edge64" => {
            for _ in 0..n / 2 {
                let r = rng.bits();
                let v = match r >> 32 & 3 {
                    0 => EDGE64[(r % 18) as usize],
                    1 => rng.bits(),
                    2 => 0x3fc0_0000_0000_0000 + (rng.bits() >> 8),
                    _ => {
                        let low = rng.bits() & 0x800f_ffff_ffff_ffff;
                        low | (0x3ff0_0000_0000_0000 + (rng.bits() & 0x1f) * 0x0010_0000_0000_0000)
                    }
                };
                out.extend([v as u32, (v >> 32) as u32]);
            }
        }
        _ => panic!("input kind {kind}"),
    }
}

fn inputs(spec: &str, name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut rng = Rng(seed);
    let mut out = Vec::new();
    for part in spec.split(',') {
        let (kind, n) = part.split_once(':').unwrap();
        words(kind, n.parse().unwrap(), &mut rng, &mut out);
    }
    common::bytes32(&out)
}

fn golden() -> Option<HashMap<String, Vec<u8>>> {
    let data = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("probes/h100.bin")).ok()?;
    let mut out = HashMap::new();
    let mut rest = &data[..];
    let mut take = |n: usize| {
        let (a, b) = rest.split_at(n);
        rest = b;
        a.to_vec()
    };
    let mut left = data.len();
    while left > 0 {
        let n = words32(&take(4))[0] as usize;
        let name = String::from_utf8(take(n)).unwrap();
        let size = words32(&take(4))[0] as usize;
        out.insert(name, take(size));
        left -= 8 + n + size;
    }
    Some(out)
}

fn map_of(spec: &str, address: u64) -> (TensorMap, Vec<i32>) {
    let part: Vec<&str> = spec.split(':').collect();
    let ints = |s: &str| -> Vec<i64> { s.split('x').map(|v| v.parse().unwrap()).collect() };
    let element = match part[0] {
        "u8" => Element::U8,
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        _ => Element::F32,
    };
    let dims: Vec<u64> = ints(part[1]).iter().map(|d| *d as u64).collect();
    let boxes: Vec<u32> = ints(part[2]).iter().map(|d| *d as u32).collect();
    let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][part[4].parse::<usize>().unwrap()];
    let mut map = TensorMap::new(address, element, &dims, &boxes, swizzle).unwrap();
    map.element_strides = ints(part[3]).iter().map(|d| *d as u32).collect();
    map.nan_fill = part[5] == "1";
    map.check().unwrap();
    (map, ints(part[6]).iter().map(|c| *c as i32).collect())
}

/// Words that differ: index, ours, theirs.
fn differences(ours: &[u8], theirs: &[u8], mode: &str) -> Vec<(usize, u64, u64)> {
    let width = if mode == "bits64" { 8 } else { 4 };
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
    let close = |a: u64, b: u64| {
        let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        (x - y).abs() <= 1e-5 * x.abs().max(1.0)
    };
    ours.chunks_exact(width)
        .zip(theirs.chunks_exact(width))
        .enumerate()
        .map(|(i, (a, b))| (i, word(a), word(b)))
        .filter(|(_, a, b)| a != b && !(mode == "close" && close(*a, *b)))
        .collect()
}

#[test]
fn emulator_agrees_with_hardware() {
    let Some(nvrtc) = nvrtc() else { return };
    let golden = golden();
    if golden.is_none() {
        eprintln!("probes/h100.bin is not here: the probes are run, but compared with nothing");
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("probes");
    let list = std::fs::read_to_string(dir.join("probes.txt")).unwrap();
    let mut modules: HashMap<String, Module> = HashMap::new();
    let mut failed = Vec::new();
    for line in list.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let f: Vec<&str> = line.split_whitespace().collect();
        let extra: HashMap<&str, &str> = f[8..].iter().filter_map(|x| x.split_once('=')).collect();
        let name = extra.get("name").copied().unwrap_or(f[0]);
        let module = modules.entry(f[1].to_string()).or_insert_with(|| {
            let source = std::fs::read_to_string(dir.join(f[1])).unwrap();
            let ptx = nvrtc.compile(f[1], &source, "compute_90a", &[]).unwrap();
            Module::from_ptx(&ptx).unwrap_or_else(|e| panic!("{}: {e}", f[1]))
        });
        let memory = Memory::new();
        let data = inputs(f[5], name);
        let size: usize = f[6].parse().unwrap();
        let shared: u32 = f[4].parse().unwrap();
        let (input, output) = (memory.alloc_from(&data).unwrap(), memory.alloc_from(&vec![0xee; size]).unwrap());
        let mut args: Vec<Arg> = vec![input.into(), output.into()];
        if let Some(spec) = extra.get("map") {
            let (map, coords) = map_of(spec, if f.contains(&"store") { output } else { input });
            args.push(map.into());
            args.push(shared.into());
            args.extend((0..5).map(|i| Arg::from(coords.get(i).copied().unwrap_or(0))));
        }
        if let Some(list) = extra.get("args") {
            args.extend(list.split(',').map(|v| Arg::from(v.parse::<u32>().unwrap())));
        }
        let run = module.kernel(&memory, f[0]).unwrap().with(Options::default());
        if let Err(e) = run.launch(f[2].parse::<u32>().unwrap(), f[3].parse::<u32>().unwrap(), shared, &args) {
            failed.push(format!("{name}: {e}"));
            continue;
        }
        let ours = memory.read_vec(output, size).unwrap();
        let Some(theirs) = golden.as_ref().and_then(|g| g.get(name)) else { continue };
        let wrong = differences(&ours, theirs, f[7]);
        if f[7] == "report" {
            eprintln!("{name}: {} of {} words differ from hardware", wrong.len(), size / 4);
        } else if !wrong.is_empty() {
            let mut groups: Vec<usize> = wrong.iter().map(|w| w.0 / 256).collect();
            groups.dedup();
            failed.push(format!(
                "{name}: {} words differ, groups of 256 {groups:?}; first {:x?}",
                wrong.len(),
                &wrong[..wrong.len().min(4)]
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
