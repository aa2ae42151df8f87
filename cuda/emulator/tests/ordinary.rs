//! Ordinary CUDA C++ for four architectures, against plain Rust.

mod common;

use common::{Rng, floats, nvrtc, words32};
use ptx_emulator::{Dim3, Memory, Module, Options};

type Check = Box<dyn Fn(&[u8])>;

struct Case {
    name: &'static str,
    grid: Dim3,
    block: Dim3,
    input: Vec<u8>,
    output: Vec<u8>,
    n: i32,
    check: Check,
}

fn doubles(v: &[u8]) -> Vec<f64> {
    v.chunks_exact(8).map(|b| f64::from_bits(u64::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn ints(v: &[u8]) -> Vec<i32> {
    words32(v).into_iter().map(|x| x as i32).collect()
}

fn near(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "{i}: {x} instead of {y}");
    }
}

fn near32(a: &[u8], b: Vec<f64>, tolerance: f64) {
    let a: Vec<f64> = floats(a).into_iter().map(f64::from).collect();
    near(&a[..b.len()], &b, tolerance);
}

fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn cases() -> Vec<Case> {
    let mut rng = Rng(77);
    let v: Vec<i32> = (0..1000).map(|_| rng.bits() as i32).collect();
    let f: Vec<f32> = (0..1000).map(|_| rng.real()).collect();
    let vb = common::bytes(&v, i32::to_le_bytes);
    let fb = common::bytes_f32(&f);
    let d: Vec<f64> = f.iter().map(|x| f64::from(*x)).collect();
    let mut out: Vec<Case> = Vec::new();
    let mut add = |name, grid: Dim3, block: Dim3, input: &[u8], words: usize, n: usize, check: Check| {
        out.push(Case { name, grid, block, input: input.to_vec(), output: vec![0; words * 4], n: n as i32, check });
    };
    let one = Dim3::from(1);
    let int_map = |f: Box<dyn Fn(usize) -> i32>, n: usize| -> Check {
        Box::new(move |o| {
            let want: Vec<i32> = (0..n).map(&f).collect();
            assert_eq!(ints(o)[..n], want[..]);
        })
    };
    let x = v.clone();
    add(
        "bitonic_sort",
        one,
        256.into(),
        &vb,
        256,
        256,
        Box::new(move |o| {
            let mut w = x[..256].to_vec();
            w.sort_unstable();
            assert_eq!(ints(o), w);
        }),
    );
    for (name, n) in [("scan_block", 256), ("scan_warp", 250)] {
        let x = v.clone();
        add(
            name,
            one,
            256.into(),
            &vb,
            n,
            n,
            int_map(Box::new(move |i| x[..=i].iter().fold(0i32, |a, b| a.wrapping_add(*b))), n),
        );
    }
    let x = v.clone();
    let bins = move |m: u32| move |x: &[i32], b: usize| x.iter().filter(|v| **v as u32 % m == b as u32).count() as i32;
    add("histogram", 3.into(), 128.into(), &vb, 64, 1000, int_map(Box::new(move |b| bins(64)(&x, b)), 64));
    let x = v.clone();
    add("byte_histogram", one, 64.into(), &vb, 16, 1000, int_map(Box::new(move |b| bins(16)(&x, b)), 16));
    let x = f.clone();
    add(
        "transpose",
        (1, 1).into(),
        (32, 8).into(),
        &fb,
        900,
        30,
        Box::new(move |o| {
            let y = floats(o);
            assert!((0..900).all(|i| y[i] == x[i % 30 * 30 + i / 30]));
        }),
    );
    let x = d.clone();
    add(
        "stencil",
        4.into(),
        256.into(),
        &fb,
        1000,
        1000,
        Box::new(move |o| {
            let want =
                (0..1000i64).map(|i| (i - 3..=i + 3).filter_map(|j| x.get(usize::try_from(j).ok()?)).sum()).collect();
            near32(o, want, 1e-5);
        }),
    );
    let sum: f64 = d.iter().sum();
    add("reduce_float", one, 256.into(), &fb, 1, 1000, Box::new(move |o| near32(o, vec![sum], 1e-4)));
    let x = v.clone();
    add(
        "last_block_sum",
        4.into(),
        256.into(),
        &vb,
        5,
        1000,
        int_map(
            Box::new(move |i| {
                let part = if i == 0 { &x[..] } else { &x[(i - 1) * 256..(i * 256).min(1000)] };
                part.iter().fold(0i32, |a, b| a.wrapping_add(*b))
            }),
            5,
        ),
    );
    let nodes: Vec<i32> = (0..100)
        .flat_map(|i| {
            [i * 13 + 5, if 2 * i + 1 < 100 { 2 * i + 1 } else { -1 }, if 2 * i + 2 < 100 { 2 * i + 2 } else { -1 }]
        })
        .collect();
    add(
        "tree_walk",
        one,
        48.into(),
        &common::bytes(&nodes, i32::to_le_bytes),
        48,
        100,
        int_map(Box::new(|i| (0..100).map(|k| k * 13 + 5).filter(|k| k % 7 != i as i32 % 7).sum()), 48),
    );
    let x = d.clone();
    add(
        "double_math",
        one,
        200.into(),
        &common::bytes(&d, f64::to_le_bytes),
        400,
        200,
        Box::new(move |o| {
            let erf = |x: f64| {
                // series, enough for |x| < 1.6
                let (mut s, mut t) = (0.0, x);
                for k in 0..60 {
                    s += t / (2 * k + 1) as f64;
                    t *= -x * x / (k + 1) as f64;
                }
                s * 2.0 / std::f64::consts::PI.sqrt()
            };
            let want: Vec<f64> = x[..200]
                .iter()
                .map(|&x| {
                    x.sin()
                        + x.cos() * (-x * x).exp()
                        + x.abs().ln_1p()
                        + x.abs().sqrt()
                        + (x.abs() + 1.0).powf(1.7)
                        + x.atan2(2.0)
                        + x.tanh()
                        + erf(x)
                        + x.floor()
                        + x % 0.3
                        + x.cbrt()
                })
                .collect();
            near(&doubles(o), &want, 1e-13);
        }),
    );
    let x = f.clone();
    add(
        "float_math",
        one,
        200.into(),
        &fb,
        200,
        200,
        Box::new(move |o| {
            let erf = |x: f64| {
                let (mut s, mut t) = (0.0, x);
                for k in 0..60 {
                    s += t / (2 * k + 1) as f64;
                    t *= -x * x / (k + 1) as f64;
                }
                s * 2.0 / std::f64::consts::PI.sqrt()
            };
            let want = x[..200]
                .iter()
                .map(|&y| {
                    let x = f64::from(y);
                    f64::from(y * 100.0).sin()
                        + x.cos()
                        + x.tan()
                        + x.exp()
                        + (x.abs() + 1.0).ln()
                        + x.abs().powf(1.3)
                        + x.atan()
                        + (x.abs() + 0.1).sqrt().recip()
                        + f64::from(y % 0.3f32)
                        + f64::from((y * 3.0).round_ties_even())
                        + x.hypot(2.0)
                        + erf(x)
                })
                .collect();
            near32(o, want, 1e-5);
        }),
    );
    let x = v.clone();
    add(
        "switch_table",
        one,
        256.into(),
        &vb,
        256,
        256,
        int_map(
            Box::new(move |i| {
                let v = x[i];
                match v & 15 {
                    0 => v.wrapping_add(3),
                    1 => v.wrapping_mul(5),
                    2 => v ^ 7,
                    3 => v.wrapping_sub(11),
                    4 => v.wrapping_mul(v),
                    5 => v << 3,
                    6 => !v,
                    7 => v / 7,
                    8 => v % 13,
                    9 => v.count_ones() as i32,
                    10 => v.leading_zeros() as i32,
                    11 => v.reverse_bits(),
                    12 => {
                        if v == 0 {
                            0
                        } else {
                            v.trailing_zeros() as i32 + 1
                        }
                    }
                    _ => 1000 / ((v & 3) + 1),
                }
            }),
            256,
        ),
    );
    let longs: Vec<u64> = (0..64).map(|_| rng.bits()).collect();
    add(
        "long_division",
        one,
        64.into(),
        &common::bytes(&longs, u64::to_le_bytes),
        384,
        64,
        Box::new(move |o| {
            let got: Vec<u64> = o.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
            for i in 0..64 {
                let (a, b) = (longs[i], longs[(i + 1) % 64] >> (i % 50) | 1);
                let hi = ((u128::from(a) * u128::from(b)) >> 64) as u64;
                let mixed = ((a as i64).wrapping_div(b as i64) as u64)
                    .wrapping_add(u64::from(a.count_ones()))
                    .wrapping_add(a << i)
                    .wrapping_add(a >> (b & 63));
                assert_eq!(got[3 * i..3 * i + 3], [a / b, (a % b).wrapping_add(hi), mixed], "{i}");
            }
        }),
    );
    let x = v.clone();
    add(
        "recursion",
        one,
        100.into(),
        &vb,
        100,
        100,
        int_map(Box::new(move |i| gcd(x[i] & 0xffff, x[(i + 1) % 100] & 0xff)), 100),
    );
    let x = v.clone();
    add(
        "function_pointers",
        one,
        100.into(),
        &vb,
        100,
        100,
        int_map(
            Box::new(move |i| {
                let y = x[i] & 0xfff;
                1 + match x[i] as u32 % 3 {
                    0 => 2 * y,
                    1 => y * y,
                    _ => -y,
                }
            }),
            100,
        ),
    );
    let x = d.clone();
    add(
        "convolve",
        8.into(),
        128.into(),
        &fb,
        1000,
        1000,
        Box::new(move |o| {
            let w = [0.1, 0.2, 0.4, 0.2, 0.1];
            let want = (0..1000i64)
                .map(|i| (0..5).map(|k| w[k as usize] * x[(i + k - 2).clamp(0, 999) as usize]).sum())
                .collect();
            near32(o, want, 1e-5);
        }),
    );
    let x = v.clone();
    add(
        "compact",
        one,
        256.into(),
        &vb,
        257,
        256,
        Box::new(move |o| {
            let keep: Vec<i32> = x[..256].iter().copied().filter(|v| v & 1 == 1).collect();
            assert_eq!(ints(o)[0] as usize, keep.len());
            assert_eq!(ints(o)[1..=keep.len()], keep[..]);
        }),
    );
    let total: f64 = v.iter().map(|x| f64::from(x & 255)).sum();
    add("cas_loop", 4.into(), 256.into(), &vb, 2, 1000, Box::new(move |o| near(&doubles(o), &[total], 0.0)));
    let x = d.clone();
    add(
        "matmul_tiled",
        (2, 2).into(),
        (16, 16).into(),
        &fb,
        400,
        20,
        Box::new(move |o| {
            let want = (0..400).map(|i| (0..20).map(|k| x[i / 20 * 20 + k] * x[400 + k * 20 + i % 20]).sum()).collect();
            near32(o, want, 1e-5);
        }),
    );
    let x = v.clone();
    add(
        "spin_lock",
        one,
        256.into(),
        &vb,
        1,
        256,
        int_map(Box::new(move |_| (0..8).fold(0i32, |s, w| s.wrapping_add(x[w * 32]))), 1),
    );
    let x = v.clone();
    add(
        "collatz",
        one,
        256.into(),
        &vb,
        256,
        256,
        int_map(
            Box::new(move |i| {
                let (mut v, mut n) = ((x[i] & 0x3ff) + 1, 0);
                while v != 1 {
                    v = if v & 1 == 1 { 3 * v + 1 } else { v >> 1 };
                    n += 1;
                    if n > 500 {
                        break;
                    }
                }
                n
            }),
            256,
        ),
    );
    let x = v.clone();
    add(
        "match_groups",
        one,
        64.into(),
        &vb,
        64,
        64,
        int_map(
            Box::new(move |i| {
                let w = &x[i / 32 * 32..][..32];
                let same = (0..32).filter(|l| w[*l] & 3 == x[i] & 3).fold(0u32, |m, l| m | 1 << l);
                (same.wrapping_mul(2) as i32).wrapping_add(
                    w.iter().map(|v| v & 3).sum::<i32>() + x[..64].iter().filter(|v| *v & 3 == 2).count() as i32,
                )
            }),
            64,
        ),
    );
    let x = d.clone();
    add(
        "struct_fold",
        3.into(),
        128.into(),
        &fb,
        6,
        999,
        Box::new(move |o| {
            let mut want: Vec<f64> = (0..3).map(|c| (0..333).map(|i| x[3 * i + c]).sum()).collect();
            want.extend((0..3).map(|b| (0..333).filter(|i| i / 128 == b).map(|i| x[3 * i]).fold(-1e30, f64::max)));
            near32(o, want, 1e-4);
        }),
    );
    let x = v.clone();
    add(
        "segmented_scan",
        8.into(),
        128.into(),
        &vb,
        1000,
        1000,
        int_map(
            Box::new(move |i| {
                let head = (i / 32 * 32..=i).rev().find(|j| x[*j] & 3 == 0).unwrap_or(i / 32 * 32);
                x[head..=i].iter().fold(0i32, |a, b| a.wrapping_add(*b))
            }),
            1000,
        ),
    );
    let keys: Vec<u64> = (0..101).map(|_| rng.bits() >> 3).collect();
    let kb = common::bytes(&keys, u64::to_le_bytes);
    let x = keys.clone();
    let longs_of =
        |o: &[u8]| -> Vec<u64> { o.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect() };
    add(
        "sort_pairs",
        one,
        64.into(),
        &kb,
        202,
        101,
        Box::new(move |o| {
            let mut w = x.clone();
            w.sort_unstable();
            assert_eq!(longs_of(o), w);
        }),
    );
    let x = v.clone();
    add(
        "compact_grid",
        4.into(),
        256.into(),
        &vb,
        1001,
        1000,
        Box::new(move |o| {
            let mut keep: Vec<i32> = x.iter().copied().filter(|v| *v > 0).collect();
            let mut got = ints(o);
            assert_eq!(got[0] as usize, keep.len());
            got.drain(..1);
            got.truncate(keep.len());
            got.sort_unstable();
            keep.sort_unstable();
            assert_eq!(got, keep);
        }),
    );
    let x = d.clone();
    add(
        "newton",
        one,
        64.into(),
        &common::bytes(&d, f64::to_le_bytes),
        400,
        200,
        Box::new(move |o| {
            let want: Vec<f64> = (0..200)
                .map(|i| {
                    (x[i].abs() + 0.5).powf(1.0 / (2 + i % 4) as f64) + 1.0 / (x[i] + 9.0) + 2f64.sqrt()
                        - (x[i] * x[i] + 1.0)
                })
                .collect();
            near(&doubles(o), &want, 1e-13);
        }),
    );
    let x = keys;
    add(
        "hash_mix",
        2.into(),
        64.into(),
        &kb,
        202,
        101,
        Box::new(move |o| {
            let want: Vec<u64> = (0..101u64)
                .map(|i| {
                    let mut h = 0x9e37_79b9_7f4a_7c15 ^ i;
                    for r in 0..4 {
                        let p = u128::from(h ^ x[(i + r) as usize % 101]) * 0xa076_1d64_78bd_642f;
                        h = (((p >> 64) as u64) ^ p as u64).rotate_left(23);
                    }
                    let signed = ((i128::from(h as i64) * -3) >> 64) as u64;
                    let high = ((h & 0xffff_ffff) * 0xdead_beef) >> 32;
                    let first = if h == 0 { 0 } else { h.trailing_zeros() + 1 };
                    h ^ signed ^ high ^ h.reverse_bits() ^ u64::from((h >> (i & 63)).leading_zeros()) ^ u64::from(first)
                })
                .collect();
            assert_eq!(longs_of(o), want);
        }),
    );
    let x = v.clone();
    add(
        "narrow_vectors",
        one,
        96.into(),
        &vb,
        192,
        96,
        int_map(
            Box::new(move |k| {
                let i = k / 2;
                let b = x[i].to_le_bytes();
                let c = b.map(|v| i32::from(v as i8));
                if k % 2 == 0 {
                    let h = |n: usize| c.iter().filter(|v| (**v & 7) as usize == n).sum::<i32>();
                    let dot = c[0] * 4 + c[1] * 3 + c[2] * 2 + c[3];
                    return h(i & 7) * 1000 + h((i + 3) & 7) + dot + i32::from(b[3]);
                }
                let s = |j: usize| i16::from_le_bytes([b[j], b[j + 1]]);
                let f = (i32::from(s(0)) + i32::from(s(2))) as f32 * 0.5 + 3.0;
                let u = f.to_bits() ^ 0x8000_0000;
                let u = (u & 0x807f_ffff) | (((u >> 23 & 255) + 2) & 255) << 23;
                (((u & !0xff) | u32::from(b[2])) ^ 0x1_0000) as i32
            }),
            192,
        ),
    );
    let x: Vec<u32> = v.iter().map(|x| *x as u32).collect();
    add(
        "grid_cells",
        one,
        96.into(),
        &vb,
        98,
        1000,
        Box::new(move |o| {
            let got = floats(o);
            let mut total = 0;
            for t in 0..32u32 {
                let mine: Vec<u32> = x.iter().copied().filter(|v| v & 31 == t).collect();
                let sum: u32 = mine.iter().map(|v| v >> 5 & 255).sum();
                total += sum;
                let best = mine.iter().map(|v| v >> 8 & 0xffff).max().map_or(-1.0, |m| m as f32);
                let top = x.iter().filter(|v| *v & 3 == t & 3).map(|v| v >> 4).max().unwrap();
                assert_eq!(got[3 * t as usize..][..3], [sum as f32, best, top as f32], "{t}");
            }
            assert_eq!(doubles(&o[384..]), [f64::from(total) * 0.25]);
        }),
    );
    let x: Vec<u32> = v.iter().map(|x| *x as u32).collect();
    add(
        "inline_asm",
        one,
        64.into(),
        &vb,
        64,
        64,
        int_map(
            Box::new(move |i| {
                let (a, b) = (x[i], x[(i + 1) % 64]);
                let field = a >> 5 & 0x7ff;
                let r = (b & !(0x7f << 20)) | (field & 0x7f) << 20;
                let (p, q) = (a.to_le_bytes(), b.to_le_bytes());
                // Selectors 0, 7, 1 and 4, from the lowest byte.
                let s = u32::from_le_bytes([p[0], q[3], p[1], q[0]]);
                let r = a ^ r ^ s;
                let w = (u64::from(a) * u64::from(b)).wrapping_add(u64::from(s) << 7);
                let turned = ((w << (a & 31)) >> 32) as u32;
                let r = if (a as i32) < b as i32 { r.wrapping_add(7) } else { r.wrapping_sub(9) };
                (r ^ turned ^ (w >> 32) as u32) as i32
            }),
            64,
        ),
    );
    let x = v.clone();
    add(
        "deep_calls",
        one,
        64.into(),
        &vb,
        64,
        64,
        int_map(
            Box::new(move |i| if i % 3 == 0 { 2 * (x[i] & 3) + 3 } else { (1 - (x[i] & 1)) * 10 + i as i32 % 2 }),
            64,
        ),
    );
    let x = vb.clone();
    add(
        "private_histogram",
        2.into(),
        128.into(),
        &vb,
        256,
        3999,
        int_map(Box::new(move |b| x[..3999].iter().filter(|v| usize::from(**v) == b).count() as i32), 256),
    );
    let x = d;
    add(
        "virtual_calls",
        one,
        64.into(),
        &fb,
        64,
        64,
        Box::new(move |o| {
            near32(
                o,
                x[..64].iter().map(|x| if *x > 0.0 { x * x } else { 3.0 * (x + 1.0) * (x + 1.0) }).collect(),
                1e-5,
            );
        }),
    );
    out
}

#[test]
fn ordinary_kernels_on_four_architectures() {
    let Some(nvrtc) = nvrtc() else { return };
    let cases = cases();
    assert!(cases.len() >= 20);
    for arch in ["compute_80", "compute_90a", "compute_100a", "compute_120"] {
        let ptx = nvrtc.kernel("ordinary.cu", arch, &[]);
        let module = Module::from_ptx(&ptx).unwrap_or_else(|e| panic!("{arch}: {e}"));
        for c in &cases {
            for seed in 0..10 {
                let memory = Memory::new();
                let input = memory.alloc_from(&c.input).unwrap();
                let output = memory.alloc_from(&c.output).unwrap();
                let kernel = module
                    .kernel(&memory, c.name)
                    .unwrap()
                    .with(Options::default().seed(seed).threads(1 + seed as usize % 3));
                let run = kernel.launch(c.grid, c.block, 0, &[input.into(), output.into(), c.n.into()]);
                run.unwrap_or_else(|e| panic!("{arch} seed {seed}: {e}"));
                eprintln!("{arch} {} seed {seed}", c.name);
                (c.check)(&memory.read_vec(output, c.output.len()).unwrap());
            }
        }
    }
}
