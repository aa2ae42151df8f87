//! Tensor-core instructions and tensor copies against plain definitions: layouts by index, products in double precision.

mod common;

use common::{Rng, bytes32, floats, nvrtc, words16, words32};
use ptx_emulator::{Element, Memory, Module, Swizzle, TensorMap};

fn half(x: u32) -> f64 {
    let (e, m) = (x >> 10 & 31, f64::from(x & 1023) / 1024.0);
    let v = if e == 0 { m * 2f64.powi(-14) } else { (1.0 + m) * 2f64.powi(e as i32 - 15) };
    if x & 0x8000 != 0 { -v } else { v }
}

fn eight(x: u32, e: u32, m: u32) -> f64 {
    let (q, f) = (x >> m & ((1 << e) - 1), f64::from(x & ((1 << m) - 1)) / f64::from(1u32 << m));
    let bias = (1 << (e - 1)) - 1;
    let v = if q == 0 { f * 2f64.powi(1 - bias) } else { (1.0 + f) * 2f64.powi(q as i32 - bias) };
    if x & 0x80 != 0 { -v } else { v }
}

/// Value of element bits.
fn value(ty: &str, x: u32) -> f64 {
    match ty {
        "bf16" => f64::from(f32::from_bits(x << 16)),
        "f16" => half(x),
        "tf32" => f64::from(f32::from_bits(x)),
        "e4m3" => eight(x, 4, 3),
        "e5m2" => eight(x, 5, 2),
        "s8" => f64::from(x as u8 as i8),
        _ => f64::from(x & 0xff),
    }
}

/// Random finite element bits of moderate size; `one` gives the bits of one.
fn random(ty: &str, rng: &mut Rng) -> u32 {
    match ty {
        "bf16" => u32::from(common::bf16(rng.real())),
        "f16" => ((rng.bits() as u32 & 0x83ff) | (12 + rng.below(4) as u32) << 10) & 0xffff,
        "tf32" => rng.real().to_bits() & !0x1fff,
        "e4m3" => (rng.bits() as u32 & 0x87) | (5 + rng.below(4) as u32) << 3,
        "e5m2" => (rng.bits() as u32 & 0x83) | (13 + rng.below(4) as u32) << 2,
        _ => rng.bits() as u32 & 0xff,
    }
}

fn one(ty: &str) -> u32 {
    match ty {
        "bf16" => 0x3f80,
        "f16" => 0x3c00,
        "tf32" => 0x3f80_0000,
        "e4m3" => 0x38,
        "e5m2" => 0x3c,
        _ => 1,
    }
}

fn width(ty: &str) -> usize {
    match ty {
        "bf16" | "f16" => 16,
        "tf32" => 32,
        _ => 8,
    }
}

/// The manual's fragment tables: row and column of element `i` of lane `l`.
fn a_index(width: usize, l: usize, i: usize) -> (usize, usize) {
    let (g, t) = (l / 4, l % 4);
    let per = 32 / width;
    let (register, part) = (i / per, i % per);
    // Registers alternate between the upper and lower eight rows, then go on along K by 16 bytes.
    let row = g + if register % 2 == 1 { 8 } else { 0 };
    (row, t * per + part + if register >= 2 { 4 * per } else { 0 })
}

fn b_index(width: usize, l: usize, i: usize) -> (usize, usize) {
    let per = 32 / width;
    let (register, part) = (i / per, i % per);
    (l % 4 * per + part + register * 4 * per, l / 4)
}

#[test]
fn mma_of_every_shape() {
    let shapes: &[(&str, usize)] = &[
        ("bf16", 16),
        ("bf16", 8),
        ("f16", 16),
        ("f16", 8),
        ("tf32", 8),
        ("tf32", 4),
        ("e4m3", 32),
        ("e5m2", 32),
        ("e4m3", 16),
        ("s8", 32),
        ("u8", 32),
        ("s8", 16),
    ];
    let mut rng = Rng(9);
    for (ty, k) in shapes.iter().copied() {
        let w = width(ty);
        let per = 32 / w;
        let (na, nb) = (16 * k * w / 1024, 8 * k * w / 1024);
        let integer = ty.ends_with('8');
        let acc = if integer { "s32" } else { "f32" };
        let list = |n: &str, m: usize| (0..m).map(|i| format!("%{n}{i}")).collect::<Vec<_>>().join(",");
        let load: String = ["a", "b", "c"]
            .iter()
            .zip([na, nb, 4])
            .scan(0, |at, (n, m)| {
                let s: String =
                    (0..m).map(|i| format!("ld.global.b32 %{n}{i}, [%in+{}];\n", (*at + i) * 128)).collect();
                *at += m;
                Some(s)
            })
            .collect();
        let store: String = (0..4).map(|i| format!("st.global.b32 [%out+{}], %d{i};\n", i * 128)).collect();
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q) {{\n\
             .reg .b32 %a<4>, %b<4>, %c<4>, %d<4>, %t; .reg .b64 %in, %out, %o;\n\
             ld.param.u64 %in, [p]; ld.param.u64 %out, [q]; mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4;\n\
             add.u64 %in, %in, %o; add.u64 %out, %out, %o;\n{load}\
             mma.sync.aligned.m16n8k{k}.row.col.{acc}.{ty}.{ty}.{acc} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n{store}ret;\n}}\n",
            list("d", 4),
            list("a", na),
            list("b", nb),
            list("c", 4)
        );
        let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{ty} {k}: {e}"));
        // One random product, then every one-hot A against random B.
        for hot in 0..=16 * k {
            let mut a = vec![0u32; 16 * k];
            let b: Vec<u32> = (0..8 * k).map(|_| random(ty, &mut rng)).collect();
            if hot == 0 {
                a.iter_mut().for_each(|x| *x = random(ty, &mut rng));
            } else {
                a[hot - 1] = one(ty);
            }
            let c: Vec<f64> = (0..128)
                .map(|_| if integer { (rng.below(2000) as f64) - 1000.0 } else { f64::from(rng.real()) })
                .collect();
            let mut input = vec![0u32; (na + nb + 4) * 32];
            for l in 0..32 {
                for i in 0..na * per {
                    let (r, q) = a_index(w, l, i);
                    input[i / per * 32 + l] |= a[r * k + q] << (i % per * w);
                }
                for i in 0..nb * per {
                    let (q, n) = b_index(w, l, i);
                    input[(na + i / per) * 32 + l] |= b[q * 8 + n] << (i % per * w);
                }
                for i in 0..4 {
                    let x = c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2];
                    input[(na + nb + i) * 32 + l] = if integer { x as i32 as u32 } else { (x as f32).to_bits() };
                }
            }
            let memory = Memory::new();
            let (p, q) = (memory.alloc_from(&bytes32(&input)).unwrap(), memory.alloc(512).unwrap());
            module.kernel(&memory, "k").unwrap().launch(1, 32, 0, &[p.into(), q.into()]).unwrap();
            let out = words32(&memory.read_vec(q, 512).unwrap());
            for l in 0..32 {
                for i in 0..4 {
                    let (r, n) = (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2);
                    let sum: f64 =
                        (0..k).map(|j| value(ty, a[r * k + j]) * value(ty, b[j * 8 + n])).sum::<f64>() + c[r * 8 + n];
                    let got = if integer {
                        f64::from(out[i * 32 + l] as i32)
                    } else {
                        f64::from(f32::from_bits(out[i * 32 + l]))
                    };
                    assert!(
                        (got - sum).abs() <= 1e-6 * sum.abs().max(1e-3),
                        "{ty} k{k} hot {hot} ({r},{n}): {got} instead of {sum}"
                    );
                }
            }
        }
    }
}

/// Runs a probe kernel.
fn probe(
    module: &Module,
    name: &str,
    input: &[u32],
    out_words: usize,
    threads: u32,
    shared: u32,
    extra: &[u32],
) -> Vec<u32> {
    let memory = Memory::new();
    let (p, q) = (memory.alloc_from(&bytes32(input)).unwrap(), memory.alloc(out_words * 4).unwrap());
    let mut args = vec![p.into(), q.into()];
    args.extend(extra.iter().map(|x| (*x).into()));
    module.kernel(&memory, name).unwrap().launch(1, threads, shared, &args).unwrap_or_else(|e| panic!("{e}"));
    words32(&memory.read_vec(q, out_words * 4).unwrap())
}

fn probes(file: &str) -> Option<Module> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("probes").join(file);
    let source = std::fs::read_to_string(path).unwrap();
    Some(Module::from_ptx(&nvrtc()?.compile(file, &source, "compute_90a", &[]).unwrap()).unwrap())
}

#[test]
fn ldmatrix_and_stmatrix_maps() {
    let Some(module) = probes("matrix.cu") else { return };
    let mut rng = Rng(3);
    let memory: Vec<u32> = (0..256).map(|_| rng.bits() as u32).collect();
    // Element (row, column) of the matrix whose rows the lanes 8j.. address; lane l points to row 7 l mod 32.
    let at = |j: usize, row: usize, col: usize| {
        let line = (j * 8 + row) * 7 % 32;
        (line * 4 + col / 2, 16 * (col % 2))
    };
    for n in [1usize, 2, 4] {
        for trans in [false, true] {
            let name = |s: &str| format!("{s}_x{n}{}", if trans { "trans" } else { "" });
            let out = probe(&module, &name("ldmatrix"), &memory, n * 32, 32, 0, &[]);
            let registers: Vec<u32> = (0..n * 32).map(|_| rng.bits() as u32).collect();
            let stored = probe(&module, &name("stmatrix"), &registers, 256, 32, 0, &[]);
            let mut want = vec![0u32; 256];
            for j in 0..n {
                for l in 0..32 {
                    for part in 0..2 {
                        let (r, c) = (l / 4, l % 4 * 2 + part);
                        let (r, c) = if trans { (c, r) } else { (r, c) };
                        let (word, shift) = at(j, r, c);
                        assert_eq!(
                            out[j * 32 + l] >> (16 * part) & 0xffff,
                            memory[word] >> shift & 0xffff,
                            "{n} {trans} {j} {l}"
                        );
                        want[word] |= (registers[j * 32 + l] >> (16 * part) & 0xffff) << shift;
                    }
                }
            }
            assert_eq!(stored, want, "stmatrix x{n} {trans}");
        }
    }
}

#[test]
fn tensor_boxes_over_the_edge() {
    let Some(module) = probes("tma.cu") else { return };
    let mut rng = Rng(4);
    let (width, height) = (96usize, 40usize);
    let data: Vec<u32> = (0..width * height / 2).map(|_| rng.bits() as u32).collect();
    let elements = words16(&bytes32(&data));
    for (swizzle, inner) in [(Swizzle::None, 64usize), (Swizzle::B32, 16), (Swizzle::B64, 32), (Swizzle::B128, 64)] {
        for (x, y) in [(0i32, 0i32), (8, 3), (88, 31), (-8, -5), (200, 0), (95, 39), (-63, 38)] {
            let memory = Memory::new();
            let rows = 16usize;
            let bytes = inner * rows * 2;
            let (p, q) = (memory.alloc_from(&bytes32(&data)).unwrap(), memory.alloc(bytes).unwrap());
            let map =
                TensorMap::new(p, Element::Bf16, &[width as u64, height as u64], &[inner as u32, rows as u32], swizzle)
                    .unwrap();
            let args = [
                p.into(),
                q.into(),
                map.into(),
                (bytes as u32).into(),
                x.into(),
                y.into(),
                0i32.into(),
                0i32.into(),
                0i32.into(),
            ];
            module.kernel(&memory, "tma_load_2d").unwrap().launch(1, 32, bytes as u32, &args).unwrap();
            let out = words16(&memory.read_vec(q, bytes).unwrap());
            for r in 0..rows {
                for c in 0..inner {
                    let (gx, gy) = (x + c as i32, y + r as i32);
                    let inside = (0..width as i32).contains(&gx) && (0..height as i32).contains(&gy);
                    let want = if inside { elements[gy as usize * width + gx as usize] } else { 0 };
                    // Sixteen-byte chunks change places by the number of their 128-byte line.
                    let offset = (r * inner + c) * 2;
                    let (line, chunk, rest) = (offset / 128, offset / 16 % 8, offset % 16);
                    let mask = [0, 1, 3, 7][swizzle as usize];
                    let by = match swizzle {
                        Swizzle::B128 => line % 8,
                        Swizzle::B64 => line % 4,
                        _ => line % 2,
                    } & mask;
                    let to = line * 128 + (chunk ^ by) * 16 + rest;
                    assert_eq!(out[to / 2], want, "{swizzle:?} at ({x},{y}), element ({c},{r})");
                }
            }
        }
    }
}

#[test]
fn wgmma_descriptors() {
    let Some(module) = probes("wgmma.cu") else { return };
    let mut rng = Rng(6);
    // Mode, bytes of a row of the swizzle's pattern, and the number that the address bits 7.. are masked with.
    for (mode, span, mask) in [(0u32, 16usize, 0usize), (3, 32, 1), (2, 64, 3), (1, 128, 7)] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let m: Vec<f64> = (0..2 * 64 * 16).map(|_| rng.below(17) as f64 - 8.0).collect();
            let (a, b) = m.split_at(64 * 16);
            let mut shared = vec![0u16; 16384];
            let lead = |t: bool| match (mode, t) {
                (0, false) => 1024u32,
                (0, true) => 1024,
                (_, true) => 16 * span as u32,
                _ => 16,
            };
            let stride = |t: bool| match (mode, t) {
                (0, false) => 128u32,
                (0, true) => 128,
                (_, true) => 8 * span as u32,
                (_, false) => 8 * span as u32,
            };
            // Puts element (i, k) where the canonical layouts of the manual have it.
            let mut place = |base: usize, t: bool, i: usize, k: usize, x: f64| {
                let (l, s) = (lead(t) as usize, stride(t) as usize);
                let at = match (mode, t) {
                    (0, false) => i % 8 * 16 + i / 8 * s + k / 8 * l + k % 8 * 2,
                    (0, true) => i % 8 * 2 + i / 8 * s + k % 8 * 16 + k / 8 * l,
                    (_, false) => i % 8 * span + i / 8 * s + k * 2,
                    (_, true) => {
                        let atom = span / 2;
                        i % atom * 2 + i / atom * l + k % 8 * span + k / 8 * s
                    }
                };
                let at = base + at;
                let at = at ^ ((at >> 7 & mask) << 4);
                shared[at / 2] = common::bf16(x as f32);
            };
            for i in 0..64 {
                for k in 0..16 {
                    place(0, ta, i, k, a[i * 16 + k]);
                    place(16384, tb, i, k, b[i * 16 + k]);
                }
            }
            let words: Vec<u32> = shared.chunks(2).map(|p| u32::from(p[0]) | u32::from(p[1]) << 16).collect();
            let name = format!("wg_bf16_n64_{}{}", u8::from(ta), u8::from(tb));
            let extra = [8192, 16384, lead(ta), stride(ta), lead(tb), stride(tb), mode];
            let out = probe(&module, &name, &words, 32 * 128, 128, 32768, &extra);
            let out = floats(&bytes32(&out));
            for t in 0..128 {
                for i in 0..32 {
                    let (row, col) = (t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + t % 4 * 2 + i % 2);
                    let want: f64 = (0..16).map(|k| a[row * 16 + k] * b[col * 16 + k]).sum();
                    assert_eq!(f64::from(out[i * 128 + t]), want, "mode {mode} {ta} {tb} ({row},{col})");
                }
            }
        }
    }
}
