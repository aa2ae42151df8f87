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

/// Bits of a normal number that f16 has exactly.
fn half_bits(x: f64) -> u32 {
    let b = (x as f32).to_bits();
    let bits = b >> 31 << 15 | ((b >> 13 & 0x3_ffff) - (112 << 10));
    assert_eq!(half(bits), x);
    bits
}

#[test]
fn mma_of_every_shape() {
    let shapes: &[(&str, &str, &str, usize)] = &[
        ("bf16", "bf16", "f32", 16),
        ("bf16", "bf16", "f32", 8),
        ("f16", "f16", "f32", 16),
        ("f16", "f16", "f32", 8),
        ("f16", "f16", "f16", 16),
        ("f16", "f16", "f16", 8),
        ("tf32", "tf32", "f32", 8),
        ("tf32", "tf32", "f32", 4),
        ("e4m3", "e4m3", "f32", 32),
        ("e5m2", "e5m2", "f32", 32),
        ("e4m3", "e5m2", "f32", 32),
        ("e5m2", "e4m3", "f16", 32),
        ("e4m3", "e4m3", "f32", 16),
        ("e5m2", "e4m3", "f32", 16),
        ("s8", "s8", "s32", 32),
        ("u8", "u8", "s32", 32),
        ("s8", "u8", "s32", 32),
        ("u8", "s8", "s32", 16),
        ("s8", "s8", "s32", 16),
    ];
    let mut rng = Rng(9);
    for (ta, tb, acc, k) in shapes.iter().copied() {
        let w = width(ta);
        let per = 32 / w;
        let (na, nb) = (16 * k * w / 1024, 8 * k * w / 1024);
        let small = acc == "f16";
        // Registers of accumulators.
        let nc = if small { 2 } else { 4 };
        let list = |n: &str, m: usize| (0..m).map(|i| format!("%{n}{i}")).collect::<Vec<_>>().join(",");
        let load: String = ["a", "b", "c"]
            .iter()
            .zip([na, nb, nc])
            .scan(0, |at, (n, m)| {
                let s: String =
                    (0..m).map(|i| format!("ld.global.b32 %{n}{i}, [%in+{}];\n", (*at + i) * 128)).collect();
                *at += m;
                Some(s)
            })
            .collect();
        let store: String = (0..nc).map(|i| format!("st.global.b32 [%out+{}], %d{i};\n", i * 128)).collect();
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q) {{\n\
             .reg .b32 %a<4>, %b<4>, %c<4>, %d<4>, %t; .reg .b64 %in, %out, %o;\n\
             ld.param.u64 %in, [p]; ld.param.u64 %out, [q]; mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4;\n\
             add.u64 %in, %in, %o; add.u64 %out, %out, %o;\n{load}\
             mma.sync.aligned.m16n8k{k}.row.col.{acc}.{ta}.{tb}.{acc} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n{store}ret;\n}}\n",
            list("d", nc),
            list("a", na),
            list("b", nb),
            list("c", nc)
        );
        let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{ta} {tb} {k}: {e}"));
        // One random product, then every one-hot A against random B.
        for hot in 0..=16 * k {
            let mut a = vec![0u32; 16 * k];
            let b: Vec<u32> = (0..8 * k).map(|_| random(tb, &mut rng)).collect();
            if hot == 0 {
                a.iter_mut().for_each(|x| *x = random(ta, &mut rng));
            } else {
                a[hot - 1] = one(ta);
            }
            let c: Vec<f64> = (0..128)
                .map(|_| match acc {
                    "s32" => (rng.below(2000) as f64) - 1000.0,
                    "f16" => half(random("f16", &mut rng)),
                    _ => f64::from(rng.real()),
                })
                .collect();
            let mut input = vec![0u32; (na + nb + nc) * 32];
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
                    match acc {
                        "s32" => input[(na + nb + i) * 32 + l] = x as i32 as u32,
                        "f16" => input[(na + nb + i / 2) * 32 + l] |= half_bits(x) << (16 * (i % 2)),
                        _ => input[(na + nb + i) * 32 + l] = (x as f32).to_bits(),
                    }
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
                        (0..k).map(|j| value(ta, a[r * k + j]) * value(tb, b[j * 8 + n])).sum::<f64>() + c[r * 8 + n];
                    let got = match acc {
                        "s32" => f64::from(out[i * 32 + l] as i32),
                        "f16" => half(out[i / 2 * 32 + l] >> (16 * (i % 2)) & 0xffff),
                        _ => f64::from(f32::from_bits(out[i * 32 + l])),
                    };
                    let relative = if small { 1.0 / 2048.0 } else { 1e-6 };
                    assert!(
                        (got - sum).abs() <= relative * sum.abs().max(1e-3),
                        "{ta} {tb} k{k} hot {hot} ({r},{n}): {got} instead of {sum}"
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

/// One warpgroup: shared memory, A fragments and accumulators from device memory, one product, accumulators back.
fn wgmma_text(n: usize, k: usize, acc: &str, ta: &str, tb: &str, registers: bool, negate: (bool, bool)) -> String {
    let nd = if acc == "f16" { n / 4 } else { n / 2 };
    let list = |p: &str, m: usize| (0..m).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(",");
    let words = |p: &str, m: usize, at: usize, op: &str| -> String {
        (0..m)
            .map(|i| match op {
                "ld" => format!("ld.global.b32 %{p}{i}, [%in+{}];\n", (at + i) * 512),
                _ => format!("st.global.b32 [%out+{}], %{p}{i};\n", i * 512),
            })
            .collect()
    };
    let scale = |b: bool| if b { -1 } else { 1 };
    let majors = match (width(ta) == 16, registers) {
        (false, _) => "",
        (true, true) => ", 0",
        (true, false) => ", 0, 0",
    };
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 s[];\n\
         .visible .entry k(.param .u64 p, .param .u64 q, .param .u64 da, .param .u64 db) {{\n\
         .reg .b32 %a<4>, %d<{nd}>, %t, %s, %at, %v; .reg .b64 %in, %out, %o, %da, %db, %base; .reg .pred %p;\n\
         ld.param.u64 %in, [p]; ld.param.u64 %out, [q]; ld.param.u64 %da, [da]; ld.param.u64 %db, [db];\n\
         mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4; add.u64 %in, %in, %o; add.u64 %out, %out, %o;\n\
         mov.u32 %s, s; shl.b32 %at, %t, 2; add.u32 %s, %s, %at; mov.u64 %base, %in; mov.u32 %at, 0;\n\
         L: ld.global.b32 %v, [%base]; st.shared.b32 [%s], %v; add.u64 %base, %base, 512; add.u32 %s, %s, 512;\n\
         add.u32 %at, %at, 1; setp.lt.u32 %p, %at, 80; @%p bra L;\n{}{}\
         fence.proxy.async.shared::cta; bar.sync 0;\n\
         mov.u32 %s, s; and.b32 %s, %s, 0x3ffff; shr.u32 %s, %s, 4; cvt.u64.u32 %base, %s;\n\
         add.u64 %da, %da, %base; add.u64 %db, %db, %base; setp.eq.u32 %p, 0, 0; wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{n}k{k}.{acc}.{ta}.{tb} {{{}}}, {}, %db, %p, {}, {}{majors};\n\
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n{}ret;\n}}\n",
        words("a", 4, 80, "ld"),
        words("d", nd, 84, "ld"),
        list("d", nd),
        if registers { "{%a0,%a1,%a2,%a3}" } else { "%da" },
        scale(negate.0),
        scale(negate.1),
        words("d", nd, 0, "st"),
    )
}

#[test]
fn wgmma_of_every_type() {
    let mut rng = Rng(61);
    let types = [
        ("bf16", "bf16", "f32", 16),
        ("f16", "f16", "f32", 16),
        ("f16", "f16", "f16", 16),
        ("tf32", "tf32", "f32", 8),
        ("e4m3", "e4m3", "f32", 32),
        ("e5m2", "e4m3", "f32", 32),
        ("e4m3", "e5m2", "f16", 32),
    ];
    for (ta, tb, acc, k) in types {
        for (n, registers, negate, mode) in [
            (8usize, false, (false, false), 0u64),
            (24, true, (true, false), 0),
            (64, false, (false, true), 1),
            (64, true, (false, false), 1),
            (104, false, (true, true), 2),
            (256, false, (false, false), 3),
        ] {
            let (w, small) = (width(ta), acc == "f16");
            let per = 32 / w;
            let text = wgmma_text(n, k, acc, ta, tb, registers, negate);
            let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{ta} {tb} {acc} n{n}: {e}"));
            let a: Vec<u32> = (0..64 * k).map(|_| random(ta, &mut rng)).collect();
            let b: Vec<u32> = (0..n * k).map(|_| random(tb, &mut rng)).collect();
            let c: Vec<f64> = (0..64 * n)
                .map(|_| if small { half(random("f16", &mut rng)) } else { f64::from(rng.real()) })
                .collect();
            let nd = if small { n / 4 } else { n / 2 };
            let mut input = vec![0u32; (84 + nd) * 128];
            // K-major operands: rows of 32 bytes in the canonical layout of the mode.
            let span = [16usize, 128, 64, 32][mode as usize];
            let mut place = |base: usize, rows: usize, row: usize, q: usize, x: u32| {
                let byte = q * w / 8;
                let at = base
                    + if mode == 0 {
                        row % 8 * 16 + row / 8 * 128 + byte / 16 * rows * 16 + byte % 16
                    } else {
                        row % 8 * span + row / 8 * 8 * span + byte
                    };
                let at = at ^ (((at / 128 % 8) & (span / 16 - 1)) * 16);
                input[at / 4] |= x << (at % 4 * 8);
            };
            for q in 0..k {
                (0..64).for_each(|r| place(0, 64, r, q, a[r * k + q]));
                (0..n).for_each(|r| place(8192, n, r, q, b[r * k + q]));
            }
            for t in 0..128 {
                for i in 0..4 * per {
                    let (row, q) = a_index(w, t % 32, i);
                    input[(80 + i / per) * 128 + t] |= a[(t / 32 * 16 + row) * k + q] << (i % per * w);
                }
            }
            let cell = |t: usize, i: usize| (t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + t % 4 * 2 + i % 2);
            for t in 0..128 {
                for i in 0..n / 2 {
                    let (row, col) = cell(t, i);
                    let x = c[row * n + col];
                    match small {
                        true => input[(84 + i / 2) * 128 + t] |= half_bits(x) << (16 * (i % 2)),
                        false => input[(84 + i) * 128 + t] = (x as f32).to_bits(),
                    }
                }
            }
            let descriptor = |at: u64, rows: u64| {
                let (lead, stride) = if mode == 0 { (rows * 16, 128) } else { (16, 8 * span as u64) };
                at >> 4 | lead >> 4 << 16 | stride >> 4 << 32 | mode << 62
            };
            let memory = Memory::new();
            let (p, q) = (memory.alloc_from(&bytes32(&input)).unwrap(), memory.alloc(nd * 512).unwrap());
            let args = [p.into(), q.into(), descriptor(0, 64).into(), descriptor(8192, n as u64).into()];
            module.kernel(&memory, "k").unwrap().launch(1, 128, 40960, &args).unwrap_or_else(|e| panic!("{e}"));
            let out = words32(&memory.read_vec(q, nd * 512).unwrap());
            let sign = if negate.0 != negate.1 { -1.0 } else { 1.0 };
            for t in 0..128 {
                for i in 0..n / 2 {
                    let (row, col) = cell(t, i);
                    let product: f64 = (0..k).map(|j| value(ta, a[row * k + j]) * value(tb, b[col * k + j])).sum();
                    let want = sign * product + c[row * n + col];
                    let (got, relative) = match small {
                        true => (half(out[i / 2 * 128 + t] >> (16 * (i % 2)) & 0xffff), 1.0 / 2048.0),
                        false => (f64::from(f32::from_bits(out[i * 128 + t])), 1e-6),
                    };
                    assert!(
                        (got - want).abs() <= relative * want.abs().max(1e-3),
                        "{ta} {tb} {acc} n{n} mode {mode} registers {registers} ({row},{col}): {got} instead of {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn tensor_boxes_of_one_to_five_dimensions() {
    let Some(module) = probes("tma.cu") else { return };
    let mut rng = Rng(62);
    type Boxed = (Element, &'static [u64], &'static [u32], Swizzle, bool);
    let maps: &[Boxed] = &[
        (Element::U8, &[100], &[64], Swizzle::None, false),
        (Element::F32, &[77], &[20], Swizzle::None, true),
        (Element::F64, &[9], &[4], Swizzle::None, false),
        (Element::F16, &[24, 7, 5], &[16, 3, 4], Swizzle::None, true),
        (Element::F16, &[24, 7, 5], &[16, 3, 4], Swizzle::B32, false),
        (Element::F32, &[20, 9, 6], &[16, 5, 2], Swizzle::B64, false),
        (Element::U8, &[128, 5, 3, 4], &[128, 2, 2, 3], Swizzle::B128, false),
        (Element::Bf16, &[16, 3, 4, 5], &[8, 2, 3, 2], Swizzle::None, true),
        (Element::U64, &[4, 3, 2, 3, 2], &[2, 2, 2, 2, 2], Swizzle::None, false),
        (Element::F32, &[12, 3, 2, 3, 4], &[8, 2, 1, 3, 2], Swizzle::B32, false),
    ];
    for (element, dims, boxes, swizzle, nan) in maps {
        let size = element.bytes() as usize;
        let total = dims.iter().product::<u64>() as usize;
        let data: Vec<u8> = (0..total * size).map(|_| rng.bits() as u8).collect();
        for case in 0..14 {
            // Inside, over each edge, on the last element, and wholly outside.
            let coords: Vec<i32> = dims
                .iter()
                .zip(*boxes)
                .map(|(d, b)| match case {
                    0 => 0,
                    1 => *d as i32 - 1,
                    2 => 1 - *b as i32,
                    3 => -(*b as i32),
                    4 => *d as i32,
                    5 => *d as i32 - *b as i32,
                    _ => rng.below(d + 2 * u64::from(*b)) as i32 - *b as i32,
                })
                .collect();
            let memory = Memory::new();
            let count: usize = boxes.iter().map(|b| *b as usize).product();
            let bytes = count * size;
            let (p, q) = (memory.alloc_from(&data).unwrap(), memory.alloc(bytes).unwrap());
            let mut map = TensorMap::new(p, *element, dims, boxes, *swizzle).unwrap();
            map.nan_fill = *nan;
            let mut args = vec![p.into(), q.into(), map.into(), (bytes as u32).into()];
            args.extend((0..5).map(|i| coords.get(i).copied().unwrap_or(0).into()));
            let name = format!("tma_load_{}d", dims.len());
            module.kernel(&memory, &name).unwrap().launch(1, 32, bytes as u32, &args).unwrap_or_else(|e| panic!("{e}"));
            let out = memory.read_vec(q, bytes).unwrap();
            for i in 0..count {
                // Place in the box, then in the tensor.
                let (mut rest, mut inside, mut from, mut step) = (i as i64, true, 0i64, 1i64);
                for d in 0..dims.len() {
                    let x = rest % i64::from(boxes[d]) + i64::from(coords[d]);
                    rest /= i64::from(boxes[d]);
                    inside &= x >= 0 && x < dims[d] as i64;
                    from += x * step;
                    step *= dims[d] as i64;
                }
                // Rows of the box follow each other; chunks of 16 bytes change places.
                let chunks = [1usize, 2, 4, 8][*swizzle as usize];
                let at = i * size;
                let at = at ^ (((at / 128) & (chunks - 1)) * 16);
                let got = &out[at..at + size];
                if inside {
                    let from = from as usize * size;
                    assert_eq!(got, &data[from..from + size], "{element:?} {dims:?} {swizzle:?} at {coords:?}, {i}");
                } else if *nan {
                    let v = got.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
                    let is_nan = match element {
                        Element::F16 => v & 0x7fff > 0x7c00,
                        Element::Bf16 => v & 0x7fff > 0x7f80,
                        _ => f32::from_bits(v as u32).is_nan(),
                    };
                    assert!(is_nan, "{element:?} {dims:?} at {coords:?}, {i}: {v:#x}");
                } else {
                    assert!(got.iter().all(|b| *b == 0), "{element:?} {dims:?} {swizzle:?} at {coords:?}, {i}");
                }
            }
        }
    }
}

#[test]
fn boxes_with_element_strides() {
    let Some(module) = probes("tma.cu") else { return };
    let data: Vec<u32> = (0..24 * 12).collect();
    let memory = Memory::new();
    let p = memory.alloc_from(&bytes32(&data)).unwrap();
    let mut map = TensorMap::new(p, Element::F32, &[24, 12], &[8, 5], Swizzle::None).unwrap();
    // The driver ignores the first stride; of five rows every second one makes three.
    map.element_strides = vec![2, 2];
    assert_eq!(map.box_bytes(), 8 * 3 * 4);
    let q = memory.alloc(96).unwrap();
    let args = [p.into(), q.into(), map.into(), 96u32.into(), 20i32.into(), 7i32.into(), 0.into(), 0.into(), 0.into()];
    module.kernel(&memory, "tma_load_2d").unwrap().launch(1, 32, 96, &args).unwrap();
    let out = words32(&memory.read_vec(q, 96).unwrap());
    for (i, got) in out.iter().enumerate() {
        let (x, y) = (20 + i % 8, 7 + i / 8 * 2);
        assert_eq!(*got, if x < 24 && y < 12 { (y * 24 + x) as u32 } else { 0 }, "{i}");
    }
}
