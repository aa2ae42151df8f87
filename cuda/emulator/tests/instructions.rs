//! Every scalar instruction on edge values against a plain definition that is written independently of the machine.

mod common;

use common::Rng;
use ptx_emulator::{Memory, Module};

/// Runs one instruction on triples of values, 64-bit patterns in and out. `types` are result and sources.
fn run(op: &str, types: &[&str], extra: &str, values: &[[u64; 3]]) -> Vec<u64> {
    let bits = |t: &str| t.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse::<u32>().unwrap();
    let mut body = String::new();
    let mut operands = vec!["%y".to_string()];
    for (i, t) in types[1..].iter().enumerate() {
        let b = bits(t);
        body += &format!("  .reg .b{b} %x{i};\n  ld.global.u64 %t, [%in+{}];\n", i * 8);
        body += &if b == 64 { format!("  mov.b64 %x{i}, %t;\n") } else { format!("  cvt.u{b}.u64 %x{i}, %t;\n") };
        operands.push(format!("%x{i}"));
    }
    let b = bits(types[0]);
    // A sequence says itself what it reads.
    let op_text = if op.ends_with(';') { op.to_string() } else { format!("{op} {}{extra};", operands.join(", ")) };
    let out = if b == 64 { "mov.b64 %t, %y".to_string() } else { format!("cvt.u64.u{b} %t, %y") };
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n) {{\n\
         .reg .b64 %in, %out, %t, %i, %o; .reg .b32 %n, %tid, %blk; .reg .pred %p; .reg .b{b} %y;\n\
         ld.param.u64 %in, [a]; ld.param.u64 %out, [b]; ld.param.u32 %n, [n];\n\
         mov.u32 %tid, %tid.x; mov.u32 %blk, %ctaid.x; mad.lo.u32 %tid, %blk, 128, %tid;\n\
         setp.ge.u32 %p, %tid, %n;\n@%p ret;\n\
         mul.wide.u32 %i, %tid, 24; add.u64 %in, %in, %i; mul.wide.u32 %o, %tid, 8; add.u64 %out, %out, %o;\n\
         {body}  {op_text}\n  {out};\n  st.global.u64 [%out], %t;\n  ret;\n}}\n"
    );
    let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{op}: {e}\n{text}"));
    let memory = Memory::new();
    let data: Vec<u8> = values.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (a, b) = (memory.alloc_from(&data).unwrap(), memory.alloc(values.len() * 8).unwrap());
    let blocks = values.len().div_ceil(128) as u32;
    module
        .kernel(&memory, "k")
        .unwrap()
        .launch(blocks, 128, 0, &[a.into(), b.into(), (values.len() as u32).into()])
        .unwrap_or_else(|e| panic!("{op}: {e}"));
    let out = memory.read_vec(b, values.len() * 8).unwrap();
    out.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn check(op: &str, types: &[&str], extra: &str, values: &[[u64; 3]], want: impl Fn([u64; 3]) -> u64) {
    for (v, got) in values.iter().zip(run(op, types, extra, values)) {
        assert_eq!(got, want(*v), "{op} {types:?} of {v:x?}: {got:#x} instead of {:#x}", want(*v));
    }
}

fn triples(edge: &[u64], third: &[u64]) -> Vec<[u64; 3]> {
    let mut out = Vec::new();
    for (i, a) in edge.iter().enumerate() {
        for (j, b) in edge.iter().enumerate() {
            for k in 0..2 {
                out.push([*a, *b, third[(i * 3 + j * 5 + k * 7) % third.len()]]);
            }
        }
    }
    out
}

const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    65,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1234_5678_9abc_def0,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0xfedc_ba98_7654_3210,
];

fn sign(v: u64, bits: u32) -> i128 {
    let v = u128::from(v) & ((1 << bits) - 1);
    if v >> (bits - 1) & 1 == 1 { v as i128 - (1 << bits) } else { v as i128 }
}

fn cut(v: i128, bits: u32) -> u64 {
    (v as u128 & ((1u128 << bits) - 1)) as u64
}

#[test]
fn integers() {
    let values = triples(INTEGERS, INTEGERS);
    for bits in [16u32, 32, 64] {
        for signed in [false, true] {
            let t = format!("{}{bits}", if signed { 's' } else { 'u' });
            let t = t.as_str();
            let v = move |x: u64| if signed { sign(x, bits) } else { cut(i128::from(x), bits) as i128 };
            type F<'a> = Box<dyn Fn(i128, i128, i128) -> i128 + 'a>;
            let two: Vec<(&str, F)> = vec![
                ("add", Box::new(|a, b, _| a + b)),
                ("sub", Box::new(|a, b, _| a - b)),
                ("mul.lo", Box::new(|a, b, _| a.wrapping_mul(b))),
                (
                    "mul.hi",
                    Box::new(move |a, b, _| {
                        if bits == 64 && !signed {
                            ((a as u128).wrapping_mul(b as u128) >> 64) as i128
                        } else {
                            a.wrapping_mul(b) >> bits
                        }
                    }),
                ),
                ("min", Box::new(|a, b, _| a.min(b))),
                ("max", Box::new(|a, b, _| a.max(b))),
                ("div", Box::new(|a, b, _| if b == 0 { -1 } else { a / b })),
                ("rem", Box::new(|a, b, _| if b == 0 { a } else { a % b })),
            ];
            for (op, f) in two {
                check(&format!("{op}.{t}"), &[t, t, t], "", &values, |[a, b, c]| cut(f(v(a), v(b), v(c)), bits));
            }
            check(&format!("mad.lo.{t}"), &[t; 4], "", &values, |[a, b, c]| {
                cut(v(a).wrapping_mul(v(b)).wrapping_add(v(c)), bits)
            });
            check(&format!("sad.{t}"), &[t; 4], "", &values, |[a, b, c]| cut((v(a) - v(b)).abs() + v(c), bits));
            // Shifts past the width give zero, or the sign.
            check(&format!("shr.{t}"), &[t, t, "u32"], "", &values, |[a, b, _]| cut(v(a) >> (b as u32).min(100), bits));
            for (c, g) in [
                ("eq", i128::eq as fn(&i128, &i128) -> bool),
                ("ne", i128::ne),
                ("lt", i128::lt),
                ("le", i128::le),
                ("gt", i128::gt),
                ("ge", i128::ge),
            ] {
                check(&format!("set.{c}.u32.{t}"), &["b32", t, t], "", &values, |[a, b, _]| {
                    if g(&v(a), &v(b)) { 0xffff_ffff } else { 0 }
                });
            }
            if bits < 64 {
                let (w, wt) = (bits * 2, format!("{}{}", if signed { 's' } else { 'u' }, bits * 2));
                check(&format!("mul.wide.{t}"), &[&wt, t, t], "", &values, |[a, b, _]| cut(v(a) * v(b), w));
                check(&format!("mad.wide.{t}"), &[&wt, t, t, &wt], "", &values, |[a, b, c]| {
                    cut(v(a) * v(b) + i128::from(c), w)
                });
            }
            if signed {
                check(&format!("abs.{t}"), &[t, t], "", &values, |[a, ..]| cut(v(a).abs(), bits));
                check(&format!("neg.{t}"), &[t, t], "", &values, |[a, ..]| cut(-v(a), bits));
            }
            if bits > 16 {
                check(&format!("bfind.{t}"), &["u32", t], "", &values, |[a, ..]| {
                    let x = v(a);
                    let x = cut(if x < 0 { !x } else { x }, bits);
                    u64::from(if x == 0 { u32::MAX } else { x.ilog2() })
                });
                check(&format!("bfe.{t}"), &[t, t, "u32", "u32"], "", &values, |[a, b, c]| {
                    let (at, len) = (b & 0xff, c & 0xff);
                    let top = (at + len).saturating_sub(1).min(u64::from(bits) - 1);
                    let fill = signed && len > 0 && a >> top & 1 == 1;
                    let mut r = 0u64;
                    for i in 0..u64::from(bits) {
                        let inside = i < len && at + i < u64::from(bits);
                        let bit = if inside { a >> (at + i) & 1 == 1 } else { fill };
                        r |= u64::from(bit) << i;
                    }
                    r
                });
            }
        }
        let b = format!("b{bits}");
        let b = b.as_str();
        let m = |x: u64| cut(i128::from(x), bits);
        check(&format!("and.{b}"), &[b; 3], "", &values, |[x, y, _]| m(x & y));
        check(&format!("or.{b}"), &[b; 3], "", &values, |[x, y, _]| m(x | y));
        check(&format!("xor.{b}"), &[b; 3], "", &values, |[x, y, _]| m(x ^ y));
        check(&format!("not.{b}"), &[b; 2], "", &values, |[x, ..]| m(!x));
        check(&format!("cnot.{b}"), &[b; 2], "", &values, |[x, ..]| u64::from(m(x) == 0));
        check(
            &format!("shl.{b}"),
            &[b, b, "u32"],
            "",
            &values,
            |[x, n, _]| if n as u32 >= bits { 0 } else { m(x << (n as u32)) },
        );
        if bits > 16 {
            check(&format!("popc.{b}"), &["u32", b], "", &values, |[x, ..]| m(x).count_ones().into());
            check(&format!("clz.{b}"), &["u32", b], "", &values, |[x, ..]| (m(x).leading_zeros() + bits - 64).into());
            check(&format!("brev.{b}"), &[b, b], "", &values, |[x, ..]| {
                (0..bits).fold(0, |r, i| r | (x >> i & 1) << (bits - 1 - i))
            });
            check(&format!("bfi.{b}"), &[b, b, b, "u32"], ", 5", &values, |[x, y, at]| {
                let at = at & 0xff;
                (0..u64::from(bits))
                    .fold(0, |r, i| r | (if i >= at && i < at + 5 { x >> (i - at) & 1 } else { y >> i & 1 }) << i)
            });
        }
    }
    let w = |x: u64| x as u32;
    for (dir, right) in [("l", false), ("r", true)] {
        for (mode, wrap) in [("clamp", false), ("wrap", true)] {
            check(&format!("shf.{dir}.{mode}.b32"), &["b32"; 4], "", &values, |[lo, hi, n]| {
                let n = if wrap { w(n) & 31 } else { w(n).min(32) };
                let both = u64::from(w(hi)) << 32 | u64::from(w(lo));
                u64::from(if right { (u128::from(both) >> n) as u32 } else { ((u128::from(both) << n) >> 32) as u32 })
            });
        }
    }
    check("prmt.b32", &["b32"; 4], "", &values, |[a, b, c]| {
        let bytes: Vec<u8> = w(a).to_le_bytes().into_iter().chain(w(b).to_le_bytes()).collect();
        let pick = |i: u32| {
            let s = w(c) >> (4 * i) & 15;
            let x = bytes[(s & 7) as usize];
            u64::from(if s & 8 == 0 {
                x
            } else if x >= 128 {
                255
            } else {
                0
            })
        };
        pick(0) | pick(1) << 8 | pick(2) << 16 | pick(3) << 24
    });
    for table in [0x00u8, 0x80, 0xca, 0x96, 0xe8, 0xff, 0x1b] {
        check("lop3.b32", &["b32"; 4], &format!(", {table}"), &values, |[a, b, c]| {
            (0..32)
                .fold(0, |r, i| r | u64::from(table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i)
        });
    }
    // Carries through three words.
    check("add.cc.u32 %y, %x0, %x1; addc.u32", &["u32", "u32", "u32"], "", &values, |[a, b, _]| {
        let (_, c) = w(a).overflowing_add(w(b));
        u64::from(w(a).wrapping_add(w(b)).wrapping_add(u32::from(c)))
    });
    check("sub.cc.u32 %y, %x0, %x1; subc.u32", &["u32", "u32", "u32"], "", &values, |[a, b, _]| {
        let (_, c) = w(a).overflowing_sub(w(b));
        u64::from(w(a).wrapping_sub(w(b)).wrapping_sub(u32::from(c)))
    });
    for (op, s) in [("add.sat.s32", 1i64), ("sub.sat.s32", -1)] {
        check(op, &["s32"; 3], "", &values, |[a, b, _]| {
            let r = i64::from(a as i32) + s * i64::from(b as i32);
            u64::from(r.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32)
        });
    }
}

#[test]
fn integer_conversions() {
    let values = triples(INTEGERS, INTEGERS);
    for from in [8u32, 16, 32, 64] {
        for to in [8u32, 16, 32, 64] {
            for (fs, ts) in [(false, false), (false, true), (true, false), (true, true)] {
                let name = |s: bool, b: u32| format!("{}{b}", if s { 's' } else { 'u' });
                let read = |x: u64| if fs { sign(x, from) } else { cut(i128::from(x), from) as i128 };
                // Registers of at least 16 bits; a wider register gets the sign.
                let register = |b: u32| format!("b{}", b.max(16));
                let types = [register(to), register(from)];
                let types = [types[0].as_str(), types[1].as_str()];
                let fit = |v: i128| if ts { cut(sign(cut(v, to), to), to.max(16)) } else { cut(v, to) };
                check(&format!("cvt.{}.{}", name(ts, to), name(fs, from)), &types, "", &values, |[a, ..]| fit(read(a)));
                let (lo, hi) =
                    if ts { (-(1i128 << (to - 1)), (1i128 << (to - 1)) - 1) } else { (0, (1i128 << to) - 1) };
                check(&format!("cvt.sat.{}.{}", name(ts, to), name(fs, from)), &types, "", &values, |[a, ..]| {
                    fit(read(a).clamp(lo, hi))
                });
            }
        }
    }
}

const FLOATS: &[u32] = &[
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
    0xc020_0000,
    0x4060_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4f7f_ffff,
    0x4f80_0000,
    0x5f00_0000,
    0x477f_e000,
    0x477f_f000,
    0x3300_0000,
    0x3300_0001,
    0x3880_0000,
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_1000,
    0x42f7_0000,
    0xc380_0000,
];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn b(x: f32) -> u64 {
    u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}

#[test]
fn single_precision() {
    let edge: Vec<u64> = FLOATS.iter().map(|x| u64::from(*x)).collect();
    let values = triples(&edge, &edge);
    let f32s = ["f32"; 4];
    check("add.f32", &f32s[..3], "", &values, |[x, y, _]| b(f(x) + f(y)));
    check("sub.rn.f32", &f32s[..3], "", &values, |[x, y, _]| b(f(x) - f(y)));
    check("mul.f32", &f32s[..3], "", &values, |[x, y, _]| b(f(x) * f(y)));
    check("div.rn.f32", &f32s[..3], "", &values, |[x, y, _]| b(f(x) / f(y)));
    check("fma.rn.f32", &f32s, "", &values, |[x, y, z]| b(f(x).mul_add(f(y), f(z))));
    check("sqrt.rn.f32", &f32s[..2], "", &values, |[x, ..]| b(f(x).sqrt()));
    check("rcp.rn.f32", &f32s[..2], "", &values, |[x, ..]| b(1.0 / f(x)));
    check("neg.f32", &f32s[..2], "", &values, |[x, ..]| x ^ 0x8000_0000);
    check("abs.f32", &f32s[..2], "", &values, |[x, ..]| x & 0x7fff_ffff);
    let ftz = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    check("add.ftz.f32", &f32s[..3], "", &values, |[x, y, _]| b(ftz(ftz(f(x)) + ftz(f(y)))));
    check("mul.ftz.f32", &f32s[..3], "", &values, |[x, y, _]| b(ftz(ftz(f(x)) * ftz(f(y)))));
    check("add.sat.f32", &f32s[..3], "", &values, |[x, y, _]| {
        let r = f(x) + f(y);
        b(if r.is_nan() || r <= 0.0 { 0.0 } else { r.min(1.0) })
    });
    // A number wins against NaN; +0 is above -0.
    let pick = |x: f32, y: f32, max: bool| {
        if x.is_nan() {
            return y;
        }
        if y.is_nan() {
            return x;
        }
        let less = x < y || (x == y && x.is_sign_negative() && !y.is_sign_negative());
        if less == max { y } else { x }
    };
    check("min.f32", &f32s[..3], "", &values, |[x, y, _]| b(pick(f(x), f(y), false)));
    check("max.f32", &f32s[..3], "", &values, |[x, y, _]| b(pick(f(x), f(y), true)));
    check("max.NaN.f32", &f32s[..3], "", &values, |[x, y, _]| {
        if f(x).is_nan() || f(y).is_nan() { 0x7fff_ffff } else { b(pick(f(x), f(y), true)) }
    });
    for (r, g) in
        [("rni", f32::round_ties_even as fn(f32) -> f32), ("rzi", f32::trunc), ("rmi", f32::floor), ("rpi", f32::ceil)]
    {
        check(&format!("cvt.{r}.f32.f32"), &f32s[..2], "", &values, |[x, ..]| b(g(f(x))));
        check(&format!("cvt.{r}.s32.f32"), &["s32", "f32"], "", &values, |[x, ..]| u64::from(g(f(x)) as i32 as u32));
        check(&format!("cvt.{r}.u32.f32"), &["u32", "f32"], "", &values, |[x, ..]| u64::from(g(f(x)) as u32));
        check(&format!("cvt.{r}.u16.f32"), &["u16", "f32"], "", &values, |[x, ..]| u64::from(g(f(x)) as u16));
    }
    // Directed roundings bracket the result, one step apart if it is not exact.
    for op in ["add", "mul", "div"] {
        let [down, up, zero, near] =
            ["rm", "rp", "rz", "rn"].map(|r| run(&format!("{op}.{r}.f32"), &f32s[..3], "", &values));
        for i in 0..values.len() {
            let (d, u, z, n) = (f(down[i]), f(up[i]), f(zero[i]), f(near[i]));
            if n.is_nan() {
                continue;
            }
            assert!(d <= n && n <= u && (d == u || d.next_up() == u), "{op} {:x?}: {d:e} {n:e} {u:e}", values[i]);
            assert!(
                z == if n < 0.0 || (n == 0.0 && n.is_sign_negative()) { u } else { d } || d == u,
                "{op} {:x?}",
                values[i]
            );
        }
    }
    for (c, g) in [
        ("eq", (|x, y| x == y) as fn(f32, f32) -> bool),
        ("ne", |x, y| !x.is_nan() && !y.is_nan() && x != y),
        ("lt", |x, y| x < y),
        ("le", |x, y| x <= y),
        ("gt", |x, y| x > y),
        ("ge", |x, y| x >= y),
        ("equ", |x, y| x.is_nan() || y.is_nan() || x == y),
        ("neu", |x, y| x != y),
        ("ltu", |x, y| x.is_nan() || y.is_nan() || x < y),
        ("leu", |x, y| x.is_nan() || y.is_nan() || x <= y),
        ("gtu", |x, y| x.is_nan() || y.is_nan() || x > y),
        ("geu", |x, y| x.is_nan() || y.is_nan() || x >= y),
        ("num", |x, y| !x.is_nan() && !y.is_nan()),
        ("nan", |x, y| x.is_nan() || y.is_nan()),
    ] {
        let text: Vec<u64> = run(&format!("set.{c}.u32.f32"), &["u32", "f32", "f32"], "", &values);
        for (v, r) in values.iter().zip(text) {
            assert_eq!(r, if g(f(v[0]), f(v[1])) { 0xffff_ffff } else { 0 }, "set.{c} {v:x?}");
        }
    }
}

/// The nearest value of a small format by search among all of them; ties to the even pattern.
fn nearest(x: f32, table: &[(f64, u32)], largest: f64, infinity: u32, nan: u32, saturate: bool) -> u32 {
    if x.is_nan() {
        return nan;
    }
    let a = f64::from(x.abs());
    if saturate && a >= largest {
        return table.last().unwrap().1;
    }
    let best = table
        .iter()
        .min_by(|p, q| (p.0 - a).abs().total_cmp(&(q.0 - a).abs()).then((p.1 & 1).cmp(&(q.1 & 1))))
        .unwrap();
    let step = table.last().unwrap().0 - table[table.len() - 2].0;
    if a >= largest + step / 2.0 && !saturate { infinity } else { best.1 }
}

#[test]
fn small_formats() {
    // (exponent bits, mantissa bits, bias) -> all finite magnitudes.
    let table = |e: u32, m: u32, top: u32| -> Vec<(f64, u32)> {
        let bias = (1i32 << (e - 1)) - 1;
        (0..top)
            .map(|p| {
                let (x, f) = ((p >> m) as i32, f64::from(p & ((1 << m) - 1)) / f64::from(1u32 << m));
                (if x == 0 { f * 2f64.powi(1 - bias) } else { (1.0 + f) * 2f64.powi(x - bias) }, p)
            })
            .collect()
    };
    let mut edge: Vec<u64> = FLOATS.iter().map(|x| u64::from(*x)).collect();
    edge.extend((0..400u64).map(|i| (0x3300_0000 + i * 0x007a_1357) & 0xffff_ffff));
    let values: Vec<[u64; 3]> = edge.iter().enumerate().map(|(i, x)| [*x, edge[(i * 7 + 3) % edge.len()], 0]).collect();
    for (name, width, e, m, top, infinity, nan, saturate) in [
        ("cvt.rn.f16x2.f32", 16, 5, 10, 0x7c00, 0x7c00, 0x7fff, false),
        ("cvt.rn.bf16x2.f32", 16, 8, 7, 0x7f80, 0x7f80, 0x7fff, false),
        ("cvt.rn.satfinite.e4m3x2.f32", 8, 4, 3, 0x7f, 0, 0x7f, true),
        ("cvt.rn.satfinite.e5m2x2.f32", 8, 5, 2, 0x7c, 0, 0x7f, true),
    ] {
        let t = table(e, m, top);
        let one = |x: u64| {
            let r = nearest(f(x), &t, t.last().unwrap().0, infinity, nan, saturate);
            u64::from(r) | if f(x).is_nan() { 0 } else { u64::from(f(x).is_sign_negative()) << (width - 1) }
        };
        check(name, &[if width == 16 { "b32" } else { "b16" }, "f32", "f32"], "", &values, |[x, y, _]| {
            one(x) << width | one(y)
        });
    }
    // Widening of every 16-bit pattern.
    let all: Vec<[u64; 3]> = (0..0x1_0000u64).step_by(7).map(|x| [x, 0, 0]).collect();
    for (name, e, m) in [("cvt.f32.f16", 5u32, 10u32), ("cvt.f32.bf16", 8, 7)] {
        let t = table(e, m, 0x7fff & !((1 << m) - 1));
        check(name, &["f32", "b16"], "", &all, |[x, ..]| {
            let a = (x & 0x7fff) as usize;
            let v = if a < t.len() {
                t[a].0 as f32
            } else if a == t.len() {
                f32::INFINITY
            } else {
                f32::NAN
            };
            b(if x & 0x8000 != 0 { -v } else { v })
        });
    }
}

#[test]
fn shuffles() {
    // The manual's definition, lane by lane.
    for (mode, code) in [("idx", 0), ("up", 1), ("down", 2), ("bfly", 3)] {
        for c in [0u32, 31, 0x1c1f, 0x1800, 0x181f, 0x1007, 0x1f1f] {
            for by in [0u64, 1, 2, 5, 16, 31] {
                let values: Vec<[u64; 3]> = (0..32).map(|l| [100 + l, by, 0]).collect();
                let got =
                    run(&format!("shfl.sync.{mode}.b32"), &["b32", "b32", "b32"], &format!(", {c}, -1"), &pad(&values));
                for lane in 0..32u32 {
                    let (segment, clamp, b) = (c >> 8 & 31, c & 31, by as u32);
                    let max = (lane & segment) | (clamp & !segment);
                    let (j, ok) = match code {
                        0 => {
                            let j = (lane & segment) | (b & !segment & 31);
                            (j as i32, j <= max)
                        }
                        1 => (lane as i32 - b as i32, lane as i32 - b as i32 >= max as i32),
                        2 => ((lane + b) as i32, lane + b <= max),
                        _ => ((lane ^ b) as i32, lane ^ b <= max),
                    };
                    let want = if ok { 100 + j as u64 } else { 100 + u64::from(lane) };
                    assert_eq!(got[lane as usize], want, "{mode} lane {lane} by {by} c {c:#x}");
                }
            }
        }
    }
}

/// Whole warps, so that no lane of a collective's mask is missing.
fn pad(v: &[[u64; 3]]) -> Vec<[u64; 3]> {
    let mut v = v.to_vec();
    v.resize(v.len().next_multiple_of(128), [0; 3]);
    v
}

#[test]
fn unknown_things_are_refused_by_name_and_line() {
    let kernel = |line: &str| {
        format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %r<9>; .reg .pred %p<3>; .reg .b64 %d<3>;\n{line}\nret;\n}}\n"
        )
    };
    for (line, word) in [
        ("foo.u32 %r1, %r2;", "foo"),
        ("add.u33 %r1, %r2, %r3;", "u33"),
        ("add.rn.zz.u32 %r1, %r2, %r3;", "zz"),
        ("mul.u32 %r1, %r2, %r3;", "u32"),
        ("add.u32 %r1, %r2;", "operands"),
        ("add.u32 %r1, %r2, %r99;", "%r99"),
        ("add.u64 %r1, %d1, %d2;", "%r1"),
        ("bra NOWHERE;", "NOWHERE"),
        ("ld.global.u32 %r1, [nothing];", "nothing"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", "m8n8k4"),
        ("tcgen05.wait::ld.sync.aligned;", "tcgen05"),
        ("setp.ltu.s32 %p1, %r1, %r2;", "unordered"),
        ("cvt.f32.s32 %r1, %r2;", "rounding"),
        ("shfl.down.b32 %r1, %r2, 1, 31;", "sync"),
        ("call nobody, ();", "nobody"),
        ("add.ftz.ftz.f32 %r1, %r2, %r3;", "ftz"),
    ] {
        let e = Module::from_ptx(&kernel(line)).err().unwrap_or_else(|| panic!("{line} was taken"));
        let text = e.to_string();
        assert!(text.starts_with("PTX line 6:") && text.contains(word), "{line}: {text}");
    }
}

#[test]
fn double_precision() {
    let edge: Vec<u64> = FLOATS
        .iter()
        .map(|x| f64::from(f32::from_bits(*x)))
        .chain([
            5e-324,
            f64::MIN_POSITIVE,
            f64::MAX,
            -f64::MAX,
            0.1,
            1.0 / 3.0,
            4503599627370497.5,
            -2147483648.5,
            9.3e18,
        ])
        .map(f64::to_bits)
        .collect();
    let values = triples(&edge, &edge);
    let d = f64::from_bits;
    let same = |op: &str, types: &[&str], g: &dyn Fn([f64; 3]) -> f64| {
        for (v, got) in values.iter().zip(run(op, types, "", &values)) {
            let want = g(v.map(d));
            assert!(
                got == want.to_bits() || d(got).is_nan() && want.is_nan(),
                "{op} of {v:x?}: {got:#x} instead of {:#x}",
                want.to_bits()
            );
        }
    };
    let t = ["f64"; 4];
    same("add.f64", &t[..3], &|[x, y, _]| x + y);
    same("sub.f64", &t[..3], &|[x, y, _]| x - y);
    same("mul.f64", &t[..3], &|[x, y, _]| x * y);
    same("div.rn.f64", &t[..3], &|[x, y, _]| x / y);
    same("fma.rn.f64", &t, &|[x, y, z]| x.mul_add(y, z));
    same("sqrt.rn.f64", &t[..2], &|[x, ..]| x.sqrt());
    same("rcp.rn.f64", &t[..2], &|[x, ..]| x.recip());
    same("neg.f64", &t[..2], &|[x, ..]| -x);
    same("abs.f64", &t[..2], &|[x, ..]| x.abs());
    same("cvt.rni.f64.f64", &t[..2], &|[x, ..]| x.round_ties_even());
    same("cvt.rmi.f64.f64", &t[..2], &|[x, ..]| x.floor());
    check("cvt.rn.f32.f64", &["f32", "f64"], "", &values, |[x, ..]| b(d(x) as f32));
    check("cvt.f64.f32", &["f64", "f32"], "", &values, |[x, ..]| match f64::from(f(x)) {
        y if y.is_nan() => (x & 0x8000_0000) << 32 | 0x7ff8_0000_0000_0000 | (x & 0x003f_ffff) << 29,
        y => y.to_bits(),
    });
    for op in ["add", "mul", "div"] {
        let [down, up, near] = ["rm", "rp", "rn"].map(|r| run(&format!("{op}.{r}.f64"), &t[..3], "", &values));
        for i in 0..values.len() {
            let (lo, hi, n) = (d(down[i]), d(up[i]), d(near[i]));
            // Errors below the smallest number are not tracked.
            if n.is_finite() && n.abs() > 1e-280 {
                assert!(lo <= n && n <= hi && (lo == hi || lo.next_up() == hi), "{op} {:x?}", values[i]);
            }
        }
    }
    let numbers: Vec<[u64; 3]> = INTEGERS.iter().map(|x| [*x, 0, 0]).collect();
    check("cvt.rn.f64.s64", &["f64", "s64"], "", &numbers, |[x, ..]| (x as i64 as f64).to_bits());
    check("cvt.rn.f64.u64", &["f64", "u64"], "", &numbers, |[x, ..]| (x as f64).to_bits());
    check("cvt.rn.f32.u64", &["f32", "u64"], "", &numbers, |[x, ..]| b(x as f32));
    check("cvt.rn.f32.s32", &["f32", "s32"], "", &numbers, |[x, ..]| b(x as i32 as f32));
    check("cvt.rz.f32.u32", &["f32", "u32"], "", &numbers, |[x, ..]| {
        let exact = x as u32;
        let near = exact as f32;
        b(if f64::from(near) > f64::from(exact) { near.next_down() } else { near })
    });
}

#[test]
fn half_arithmetic() {
    // Exact in double precision, then the nearest of all values of the format.
    for (name, e, m) in [("f16", 5u32, 10u32), ("bf16", 8, 7)] {
        let bias = (1i32 << (e - 1)) - 1;
        let top = ((1u32 << e) - 1) << m;
        let magnitude = |p: u32| {
            let (x, g) = ((p >> m) as i32, f64::from(p & ((1 << m) - 1)) / f64::from(1u32 << m));
            if x == 0 { g * 2f64.powi(1 - bias) } else { (1.0 + g) * 2f64.powi(x - bias) }
        };
        let table: Vec<f64> = (0..top).map(magnitude).collect();
        let read = |x: u64| {
            let p = x as u32 & 0x7fff;
            let v = if p > top {
                f64::NAN
            } else if p == top {
                f64::INFINITY
            } else {
                table[p as usize]
            };
            if x & 0x8000 != 0 { -v } else { v }
        };
        let round = |v: f64| -> u64 {
            if v.is_nan() {
                return 0x7fff;
            }
            let a = v.abs();
            let above = table.partition_point(|t| *t < a).min(table.len() - 1);
            let below = above.saturating_sub(1);
            let (p, q) = (a - table[below], table[above] - a);
            let limit = table[table.len() - 1] + (table[table.len() - 1] - table[table.len() - 2]) / 2.0;
            let r = if a >= limit {
                top as usize
            } else if table[above] < a || q < p || (q == p && above % 2 == 0) {
                above
            } else {
                below
            };
            r as u64 | if v.is_sign_negative() { 0x8000 } else { 0 }
        };
        let mut edge: Vec<u64> = vec![
            0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x7f, 0x80, 0x3c00, 0x3f80, 0x4000, 0xc000, 0x7bff, 0x7c00, 0x7f7f,
            0x7f80, 0xfc00, 0x7fff, 0x3555,
        ];
        edge.extend((0..20u64).map(|i| (i * 3277) & 0xffff));
        let values = triples(&edge, &edge);
        let t = ["b16"; 4];
        check(&format!("add.{name}"), &t[..3], "", &values, |[x, y, _]| round(read(x) + read(y)));
        check(&format!("sub.{name}"), &t[..3], "", &values, |[x, y, _]| round(read(x) - read(y)));
        check(&format!("mul.{name}"), &t[..3], "", &values, |[x, y, _]| round(read(x) * read(y)));
        let pairs: Vec<[u64; 3]> =
            values.iter().map(|v| [v[0] << 16 | v[1], v[1] << 16 | v[2], v[2] << 16 | v[0]]).collect();
        let two = |g: &dyn Fn(f64, f64, f64) -> f64, [x, y, z]: [u64; 3]| {
            let h = |v: u64| v >> 16;
            round(g(read(h(x)), read(h(y)), read(h(z)))) << 16 | round(g(read(x), read(y), read(z)))
        };
        check(&format!("add.{name}x2"), &["b32"; 3], "", &pairs, |v| two(&|x, y, _| x + y, v));
        if name == "f16" {
            // Every f16 product and sum is exact in double precision.
            check("fma.rn.f16x2", &["b32"; 4], "", &pairs, |v| two(&|x, y, z| x * y + z, v));
        }
    }
}

/// Edge values and as many random ones.
fn mixed(edge: &[u64], seed: u64) -> Vec<[u64; 3]> {
    let mut rng = Rng(seed);
    let mut v = triples(edge, edge);
    v.extend((0..v.len()).map(|_| [rng.bits(), rng.bits(), rng.bits()]));
    v
}

fn signed_byte(x: u64, signed: bool) -> i64 {
    if signed { i64::from(x as u8 as i8) } else { i64::from(x as u8) }
}

#[test]
fn dot_products() {
    let mut values = mixed(INTEGERS, 21);
    values.extend([0x8080_8080, 0x7f7f_7f7f, 0xffff_ffff, 0x8000_8000, 0x7fff_8001].map(|x| [x, x ^ 0x0f, x]));
    for (ta, sa) in [("u32", false), ("s32", true)] {
        for (tb, sb) in [("u32", false), ("s32", true)] {
            check(&format!("dp4a.{ta}.{tb}"), &["b32"; 4], "", &values, |[a, b, c]| {
                let sum: i64 = (0..4).map(|i| signed_byte(a >> (8 * i), sa) * signed_byte(b >> (8 * i), sb)).sum();
                u64::from((sum + i64::from(c as u32)) as u32)
            });
            for (half, from) in [("lo", 0), ("hi", 16)] {
                check(&format!("dp2a.{half}.{ta}.{tb}"), &["b32"; 4], "", &values, |[a, b, c]| {
                    let word = |x: u64| if sa { i64::from(x as u16 as i16) } else { i64::from(x as u16) };
                    let sum = word(a) * signed_byte(b >> from, sb) + word(a >> 16) * signed_byte(b >> (from + 8), sb);
                    u64::from((sum + i64::from(c as u32)) as u32)
                });
            }
        }
    }
}

#[test]
fn bit_searches_and_masks() {
    // The n-th set bit at or above a position, or at or below it.
    let mut values = Vec::new();
    let mut rng = Rng(22);
    for mask in [0, 1, 0x8000_0000, 0xffff_ffff, 0x8000_0001, 0x5555_5555, 0x00ff_ff00, rng.bits(), rng.bits()] {
        for base in [0, 1, 7, 8, 15, 30, 31] {
            for offset in
                [0i64, 1, -1, 2, -2, 5, -5, 16, -16, 31, 32, -32, 33, i64::from(i32::MAX), i64::from(i32::MIN)]
            {
                values.push([mask, base, offset as u64]);
            }
        }
    }
    check("fns.b32", &["b32"; 4], "", &values, |[mask, base, offset]| {
        let set: Vec<u64> = (0..32).filter(|i| mask >> i & 1 == 1).collect();
        let offset = i64::from(offset as i32);
        let found = match offset {
            0 => set.iter().copied().find(|i| *i == base),
            1.. => set.iter().copied().filter(|i| *i >= base).nth(offset as usize - 1),
            _ => set.iter().rev().copied().filter(|i| *i <= base).nth(offset.unsigned_abs() as usize - 1),
        };
        found.unwrap_or(0xffff_ffff)
    });
    let values = mixed(INTEGERS, 23);
    for wrap in [false, true] {
        let mode = if wrap { "wrap" } else { "clamp" };
        for signed in [false, true] {
            let name = format!("szext.{mode}.{}32", if signed { 's' } else { 'u' });
            check(&name, &["b32"; 3], "", &values, |[a, n, _]| {
                let n = n & 0xffff_ffff;
                let n = if wrap { n % 32 } else { n.min(32) };
                (0..32).fold(0, |r, i| {
                    let bit = if i < n {
                        a >> i & 1
                    } else if signed && n > 0 {
                        a >> (n - 1) & 1
                    } else {
                        0
                    };
                    r | bit << i
                })
            });
        }
        check(&format!("bmsk.{mode}.b32"), &["b32"; 3], "", &values, |[a, n, _]| {
            let (a, n) = (a & 0xffff_ffff, n & 0xffff_ffff);
            let (a, n) = if wrap { (a % 32, n % 32) } else { (a, n) };
            (0..32).filter(|i| *i >= a && i - a < n).fold(0, |r, i| r | 1 << i)
        });
    }
    for bits in [32u32, 64] {
        for signed in [false, true] {
            for shift in [false, true] {
                let t = format!("{}{bits}", if signed { 's' } else { 'u' });
                let name = format!("bfind{}.{t}", if shift { ".shiftamt" } else { "" });
                check(&name, &["u32", &t], "", &values, |[a, ..]| {
                    // The highest bit that differs from the sign, or is set in an unsigned number.
                    let fill = if signed { a >> (bits - 1) & 1 } else { 0 };
                    match (0..bits).rev().find(|i| a >> i & 1 != fill) {
                        None => 0xffff_ffff,
                        Some(i) => u64::from(if shift { bits - 1 - i } else { i }),
                    }
                });
            }
        }
        let b = format!("b{bits}");
        check(&format!("popc.{b}"), &["u32", &b], "", &values, |[a, ..]| (0..bits).map(|i| a >> i & 1).sum());
        check(&format!("clz.{b}"), &["u32", &b], "", &values, |[a, ..]| {
            (0..bits).rev().take_while(|i| a >> i & 1 == 0).count() as u64
        });
        check(&format!("brev.{b}"), &[&b, &b], "", &values, |[a, ..]| (0..bits).fold(0, |r, i| r << 1 | a >> i & 1));
    }
}

#[test]
fn byte_permutations() {
    // The manual's table: source bytes of the result from the highest, for selectors 0 to 3.
    let tables: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    let mut rng = Rng(24);
    let values: Vec<[u64; 3]> =
        (0..256).map(|i| [rng.bits(), rng.bits(), if i < 8 { i } else { rng.bits() }]).collect();
    for (mode, table) in tables {
        check(&format!("prmt.b32.{mode}"), &["b32"; 4], "", &values, |[a, b, c]| {
            let byte = |i: u64| if i < 4 { a >> (8 * i) & 255 } else { b >> (8 * (i - 4)) & 255 };
            table[(c & 3) as usize].iter().fold(0, |r, i| r << 8 | byte(*i))
        });
    }
}

#[test]
fn classes_and_signs() {
    let mut edge: Vec<u64> = FLOATS.iter().map(|x| u64::from(*x)).collect();
    edge.extend([0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x807f_ffff, 0x8080_0000]);
    let singles = mixed(&edge, 25);
    let doubles: Vec<[u64; 3]> = mixed(
        &[
            0,
            1 << 63,
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0xfff8_0000_0000_0000,
            0x3ff0_0000_0000_0000,
        ],
        26,
    );
    for (t, bits, mantissa, values) in [("f32", 32u32, 23u32, &singles), ("f64", 64, 52, &doubles)] {
        let b = format!("b{bits}");
        for class in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            let op = format!("testp.{class}.{t} %p, %x0; selp.b32 %y, 1, 0, %p;");
            check(&op, &["b32", &b], "", values, |[x, ..]| {
                let (e, m) = (x >> mantissa & ((1 << (bits - 1 - mantissa)) - 1), x & ((1 << mantissa) - 1));
                let top = (1 << (bits - 1 - mantissa)) - 1;
                u64::from(match class {
                    "finite" => e != top,
                    "infinite" => e == top && m == 0,
                    "number" => e != top || m == 0,
                    "notanumber" => e == top && m != 0,
                    // The manual counts both zeros as normal.
                    "normal" => e != top && (e != 0 || m == 0),
                    _ => e == 0 && m != 0,
                })
            });
        }
        let sign = 1u64 << (bits - 1);
        let mask = sign | (sign - 1);
        check(&format!("copysign.{t}"), &[&b, &b, &b], "", values, |[x, y, _]| (x & sign) | (y & mask & !sign));
    }
}

#[test]
fn half_minimum_and_maximum() {
    for (name, infinity, smallest) in [("f16", 0x7c00u64, 0x400u64), ("bf16", 0x7f80, 0x80)] {
        let edge = [
            0,
            0x8000,
            1,
            0x8001,
            smallest - 1,
            smallest,
            0x8000 | (smallest - 1),
            0x3c00,
            0xbc00,
            0x3f80,
            infinity - 1,
            infinity,
            infinity | 0x8000,
            infinity + 1,
            0x7fff,
            0xffff,
        ];
        let values = mixed(&edge, 27);
        for max in [false, true] {
            for modifiers in ["", ".NaN", ".ftz", ".ftz.NaN", ".xorsign.abs", ".NaN.xorsign.abs"] {
                if name == "bf16" && modifiers.contains("ftz") {
                    continue;
                }
                let one = |x: u64, y: u64| -> u64 {
                    let flush = |x: u64| {
                        let x = x & 0xffff;
                        if modifiers.contains("ftz") && x & 0x7fff < smallest { x & 0x8000 } else { x }
                    };
                    let (x, y) = (flush(x), flush(y));
                    let abs = modifiers.contains("abs");
                    let (p, q) = if abs { (x & 0x7fff, y & 0x7fff) } else { (x, y) };
                    let nan = |v: u64| v & 0x7fff > infinity;
                    // Signed magnitudes in order, with -0 below +0.
                    let key = |v: u64| if v & 0x8000 != 0 { -1 - (v as i32 & 0x7fff) } else { v as i32 };
                    let r = match (nan(p), nan(q)) {
                        (true, true) => return 0x7fff,
                        (true, false) | (false, true) if modifiers.contains("NaN") => return 0x7fff,
                        (true, false) => q,
                        (false, true) => p,
                        _ if (key(p) > key(q)) == max => p,
                        _ => q,
                    };
                    if abs { r | ((x ^ y) & 0x8000) } else { r }
                };
                let op = format!("{}{modifiers}.{name}", if max { "max" } else { "min" });
                check(&op, &["b16"; 3], "", &values, |[x, y, _]| one(x, y));
                let pairs: Vec<[u64; 3]> = values
                    .iter()
                    .map(|v| [(v[0] & 0xffff) << 16 | v[1] & 0xffff, (v[1] & 0xffff) << 16 | v[2] & 0xffff, 0])
                    .collect();
                check(&format!("{op}x2"), &["b32"; 3], "", &pairs, |[x, y, _]| one(x >> 16, y >> 16) << 16 | one(x, y));
            }
        }
    }
}

#[test]
fn carry_chains() {
    let values = mixed(INTEGERS, 28);
    let w = |x: u64| u128::from(x as u32);
    let words = |[a, b, c]: [u64; 3]| (w(c) << 64 | w(b) << 32 | w(a), w(a) << 64 | w(c) << 32 | w(b));
    for (op, subtract) in [("add", false), ("sub", true)] {
        // Three words: (x2, x1, x0) and (x0, x2, x1).
        for part in 0..3 {
            let text = format!(
                "{{ .reg .b32 %r<3>; {op}.cc.u32 %r0, %x0, %x1; {op}c.cc.u32 %r1, %x1, %x2; {op}c.u32 %r2, %x2, %x0; \
                 mov.b32 %y, %r{part}; }} mov.b32 %y, %y;"
            );
            check(&text, &["b32"; 4], "", &values, |v| {
                let (x, y) = words(v);
                let r = if subtract { x.wrapping_sub(y) } else { x.wrapping_add(y) };
                u64::from((r >> (32 * part)) as u32)
            });
        }
        let text = format!("{op}.cc.s64 %y, %x0, %x1; {op}c.u64 %y, %x2, %x1;");
        check(&text, &["b64"; 4], "", &values, |[a, b, c]| {
            let (x, y) = (u128::from(c) << 64 | u128::from(a), u128::from(b) << 64 | u128::from(b));
            ((if subtract { x.wrapping_sub(y) } else { x.wrapping_add(y) }) >> 64) as u64
        });
        // What the carry itself is.
        let text = format!("{op}.cc.u32 %y, %x0, %x1; {op}c.u32 %y, 0, 0;");
        check(&text, &["b32"; 3], "", &values, |[a, b, _]| match subtract {
            true => u64::from(if w(a) < w(b) { u32::MAX } else { 0 }),
            false => u64::from(w(a) + w(b) > 0xffff_ffff),
        });
    }
    // A product and a sum of two words, with the carry out of the upper one.
    for part in 0..3 {
        let text = format!(
            "mad.lo.cc.u32 %y, %x0, %x1, %x2; {}{}",
            if part > 0 { "madc.hi.cc.u32 %y, %x0, %x1, %x0; " } else { "" },
            if part > 1 { "addc.u32 %y, 0, 0;" } else { "" }
        );
        check(text.trim_end(), &["b32"; 4], "", &values, |[a, b, c]| {
            let r = w(a) * w(b) + (w(a) << 32 | w(c));
            u64::from((r >> (32 * part)) as u32)
        });
    }
    check("mad.lo.cc.u64 %y, %x0, %x1, %x2; madc.hi.u64 %y, %x0, %x1, %x2;", &["b64"; 4], "", &values, |[a, b, c]| {
        let p = u128::from(a) * u128::from(b);
        let carry = u64::from((p as u64).overflowing_add(c).1);
        ((p >> 64) as u64).wrapping_add(c).wrapping_add(carry)
    });
    check("mad.lo.cc.s32 %y, %x0, %x1, %x2; madc.hi.s32 %y, %x0, %x1, %x2;", &["b32"; 4], "", &values, |[a, b, c]| {
        let p = i64::from(a as i32) * i64::from(b as i32);
        let carry = u32::from((p as u32).overflowing_add(c as u32).1);
        u64::from(((p >> 32) as u32).wrapping_add(c as u32).wrapping_add(carry))
    });
    check("mad.hi.sat.s32", &["s32"; 4], "", &values, |[a, b, c]| {
        let hi = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
        u64::from((hi + i64::from(c as i32)).clamp(i32::MIN.into(), i32::MAX.into()) as u32)
    });
    for (signed, t) in [(false, "u32"), (true, "s32")] {
        let v24 = |x: u64| if signed { ((x as i32) << 8 >> 8).into() } else { (x & 0xff_ffff) as i64 };
        for (half, by) in [("lo", 0), ("hi", 16)] {
            check(&format!("mul24.{half}.{t}"), &[t; 3], "", &values, |[a, b, _]| {
                u64::from(((v24(a) * v24(b)) >> by) as u32)
            });
            check(&format!("mad24.{half}.{t}"), &[t; 4], "", &values, |[a, b, c]| {
                u64::from((((v24(a) * v24(b)) >> by) as u32).wrapping_add(c as u32))
            });
        }
    }
}

/// A float format: exponent and mantissa bits.
type Shape = (u32, u32);

/// Sign, integer and power of two of a finite number; `None` of a NaN or an infinity.
fn parts(x: u64, (e, m): Shape) -> Option<(bool, u128, i32)> {
    let (q, f) = ((x >> m & ((1 << e) - 1)) as i32, u128::from(x & ((1 << m) - 1)));
    let bias = (1 << (e - 1)) - 1;
    if q == (1 << e) - 1 {
        return None;
    }
    let f = if q == 0 { f } else { f | 1 << m };
    Some((x >> (e + m) & 1 == 1, f, q.max(1) - bias - m as i32))
}

/// Rounds `value * 2^exp` with integers only. Modes: n(earest even), a(way), z(ero), m(inus), p(lus).
fn to_units(negative: bool, value: u128, shift: i32, mode: char) -> u128 {
    if shift <= 0 {
        return value << -shift;
    }
    let (whole, rest) = if shift > 126 { (0, value) } else { (value >> shift, value & ((1 << shift) - 1)) };
    let half = if shift > 126 { u128::MAX } else { 1 << (shift - 1) };
    let up = match mode {
        'n' => rest > half || rest == half && whole & 1 == 1,
        'a' => rest >= half,
        'm' => negative && rest > 0,
        'p' => !negative && rest > 0,
        _ => false,
    };
    whole + u128::from(up)
}

fn round_to(negative: bool, value: u128, exp: i32, (e, m): Shape, mode: char) -> u64 {
    let sign = u64::from(negative) << (e + m);
    if value == 0 {
        return sign;
    }
    let bias = (1i32 << (e - 1)) - 1;
    let top = (value.ilog2() as i32 + exp).max(1 - bias);
    let units = to_units(negative, value, top - m as i32 - exp, mode);
    // A carry into the next power of two.
    let (units, top) = if units >> (m + 1) != 0 { (units >> 1, top + 1) } else { (units, top) };
    if top > bias {
        let finite = mode == 'z' || mode == 'm' && !negative || mode == 'p' && negative;
        return sign | ((((1 << e) - 1) << m) - u64::from(finite));
    }
    let exponent = if units >> m == 0 { 0 } else { (top + bias) as u64 };
    sign | exponent << m | (units as u64 & ((1 << m) - 1))
}

/// Any float or infinity to another format; NaN is canonical.
fn refloat(x: u64, from: Shape, to: Shape, mode: char) -> u64 {
    let (e, m) = to;
    match parts(x, from) {
        Some((s, v, p)) => round_to(s, v, p, to, mode),
        None if x & ((1 << from.1) - 1) == 0 => (x >> (from.0 + from.1) & 1) << (e + m) | ((1 << e) - 1) << m,
        None => (1 << (e + m)) - 1,
    }
}

const HALF: Shape = (5, 10);
const BRAIN: Shape = (8, 7);
const SINGLE: Shape = (8, 23);
const DOUBLE: Shape = (11, 52);
const MODES: [(&str, char); 4] = [("rn", 'n'), ("rz", 'z'), ("rm", 'm'), ("rp", 'p')];

fn singles() -> Vec<[u64; 3]> {
    let mut rng = Rng(29);
    let mut v: Vec<[u64; 3]> = FLOATS.iter().map(|x| [u64::from(*x), 0, 0]).collect();
    // Every exponent, with mantissas at and beside the ties of the small formats.
    for exponent in 0..256u64 {
        for mantissa in
            [0, 1, 0x1000, 0x0fff, 0x1001, 0x3000, 0x8000, 0x7fff, 0x8001, 0x1_8000, 0x7f_ffff, rng.bits() & 0x7f_ffff]
        {
            v.push([exponent << 23 | mantissa | (rng.bits() & 1) << 31, 0, 0]);
        }
    }
    v
}

fn wide_floats() -> Vec<[u64; 3]> {
    let mut rng = Rng(30);
    let mut v: Vec<[u64; 3]> = singles().iter().map(|x| [f64::from(f(x[0])).to_bits(), 0, 0]).collect();
    let more: Vec<u64> = v.iter().flat_map(|x| [x[0] ^ 1, x[0] | 1 << 28, x[0].wrapping_add((1 << 28) + 1)]).collect();
    v.extend(more.iter().map(|x| [*x, 0, 0]));
    v.extend((0..2000).map(|_| [rng.bits(), 0, 0]));
    v.extend([1, 1 << 63, 0x7fef_ffff_ffff_ffff, 0x0010_0000_0000_0000].map(|x| [x, 0, 0]));
    v
}

#[test]
fn float_conversions_in_every_rounding() {
    let (singles, doubles) = (singles(), wide_floats());
    for (name, mode) in MODES {
        for (t, shape) in [("f16", HALF), ("bf16", BRAIN)] {
            check(&format!("cvt.{name}.{t}.f32"), &["b16", "f32"], "", &singles, |[x, ..]| {
                refloat(x, SINGLE, shape, mode)
            });
        }
        check(&format!("cvt.{name}.f32.f64"), &["f32", "f64"], "", &doubles, |[x, ..]| {
            refloat(x, DOUBLE, SINGLE, mode)
        });
        check(&format!("cvt.{name}.f16.f64"), &["b16", "f64"], "", &doubles, |[x, ..]| refloat(x, DOUBLE, HALF, mode));
    }
    for (name, mode) in [("rna", 'a'), ("rn", 'n'), ("rz", 'z')] {
        let values: Vec<[u64; 3]> = singles.iter().copied().filter(|x| !f(x[0]).is_nan()).collect();
        check(&format!("cvt.{name}.tf32.f32"), &["b32", "f32"], "", &values, |[x, ..]| {
            refloat(x, SINGLE, (8, 10), mode) << 13
        });
        for [x, ..] in
            run(&format!("cvt.{name}.tf32.f32"), &["b32", "f32"], "", &[[0x7fc0_0000, 0, 0], [0xffff_ffff, 0, 0]])
                .iter()
                .map(|x| [*x])
        {
            assert!(f(x).is_nan(), "{name}: {x:#x}");
        }
    }
    // Saturation and .relu come before or after the rounding alike.
    let unit = |x: u64| if f(x).is_nan() || f(x) <= 0.0 { 0 } else { u64::from(f(x).min(1.0).to_bits()) };
    check("cvt.sat.f32.f32", &["f32"; 2], "", &singles, |[x, ..]| unit(x));
    check("cvt.rn.sat.f16.f32", &["b16", "f32"], "", &singles, |[x, ..]| refloat(unit(x), SINGLE, HALF, 'n'));
    check("cvt.rn.sat.f32.f64", &["f32", "f64"], "", &doubles, |[x, ..]| {
        let d = f64::from_bits(x);
        let d = if d.is_nan() || d <= 0.0 { 0.0 } else { d.min(1.0) };
        refloat(d.to_bits(), DOUBLE, SINGLE, 'n')
    });
    for (t, shape) in [("f16", HALF), ("bf16", BRAIN)] {
        check(&format!("cvt.rn.relu.{t}.f32"), &["b16", "f32"], "", &singles, |[x, ..]| {
            if f(x) < 0.0 { 0 } else { refloat(x, SINGLE, shape, 'n') }
        });
        check(&format!("cvt.rz.{t}x2.f32"), &["b32", "f32", "f32"], "", &singles, |[x, y, _]| {
            refloat(x, SINGLE, shape, 'z') << 16 | refloat(y, SINGLE, shape, 'z')
        });
    }
    let flushed = |x: u64| if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    check("cvt.rn.ftz.f16.f32", &["b16", "f32"], "", &singles, |[x, ..]| refloat(flushed(x), SINGLE, HALF, 'n'));
    for (r, mode) in [("rni", 'n'), ("rzi", 'z'), ("rmi", 'm'), ("rpi", 'p')] {
        check(&format!("cvt.{r}.f64.f64"), &["f64"; 2], "", &doubles, |[x, ..]| match parts(x, DOUBLE) {
            Some((s, v, p)) if p < 0 => round_to(s, to_units(s, v, -p, mode), 0, DOUBLE, 'n'),
            _ if f64::from_bits(x).is_nan() => x,
            _ => x,
        });
    }
}

#[test]
fn conversions_between_floats_and_integers_in_every_rounding() {
    let (singles, doubles) = (singles(), wide_floats());
    let mut rng = Rng(31);
    let halves: Vec<[u64; 3]> = (0..0x1_0000).step_by(3).map(|x| [x, 0, 0]).collect();
    let mut whole: Vec<[u64; 3]> = INTEGERS.iter().map(|x| [*x, 0, 0]).collect();
    whole.extend((0..64).flat_map(|i| [1u64 << i, (1 << i) - 1, (1 << i) + 1, (3 << i) | 1]).map(|x| [x, 0, 0]));
    whole.extend((0..500).map(|i| [rng.bits() >> (i % 50), 0, 0]));
    for bits in [8u32, 16, 32, 64] {
        for signed in [false, true] {
            let t = format!("{}{bits}", if signed { 's' } else { 'u' });
            let register = format!("b{}", bits.max(16));
            let (lo, hi) =
                if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
            for (ft, shape, values) in [("f16", HALF, &halves), ("f32", SINGLE, &singles), ("f64", DOUBLE, &doubles)] {
                let fb = format!("b{}", 1 + shape.0 + shape.1);
                for (r, mode) in [("rni", 'n'), ("rzi", 'z'), ("rmi", 'm'), ("rpi", 'p')] {
                    check(&format!("cvt.{r}.{t}.{ft}"), &[&register, &fb], "", values, |[x, ..]| {
                        let v = match parts(x, shape) {
                            // Anything that large saturates.
                            Some((s, _, p)) if p > 64 => {
                                if s {
                                    lo
                                } else {
                                    hi
                                }
                            }
                            Some((s, v, p)) => {
                                let v = to_units(s, v, -p, mode) as i128;
                                (if s { -v } else { v }).clamp(lo, hi)
                            }
                            None if x & ((1 << shape.1) - 1) == 0 => {
                                if x >> (shape.0 + shape.1) & 1 == 1 {
                                    lo
                                } else {
                                    hi
                                }
                            }
                            // The manual: zero, but for doubles and 64-bit results only the top bit.
                            None if ft != "f64" && bits < 64 => 0,
                            None => 1 << (bits - 1),
                        };
                        let cut_to = cut(v, bits);
                        if signed { cut(sign(cut_to, bits), bits.max(16)) } else { cut_to }
                    });
                }
                for (r, mode) in MODES {
                    check(&format!("cvt.{r}.{ft}.{t}"), &[&fb, &register], "", &whole, |[x, ..]| {
                        let v = if signed { sign(x, bits) } else { cut(i128::from(x), bits) as i128 };
                        round_to(v < 0, v.unsigned_abs(), 0, shape, mode)
                    });
                }
            }
        }
    }
}

#[test]
fn eight_bit_floats() {
    // Every finite magnitude of a format, in order, by the plain formula.
    let value = |p: u32, (e, m): Shape| {
        let (q, g) = ((p >> m) as i32, f64::from(p & ((1 << m) - 1)) / f64::from(1u32 << m));
        let bias = (1i32 << (e - 1)) - 1;
        if q == 0 { g * 2f64.powi(1 - bias) } else { (1.0 + g) * 2f64.powi(q - bias) }
    };
    let bytes: Vec<[u64; 3]> = (0..0x1_0000u64).step_by(5).map(|x| [x, 0, 0]).collect();
    let halves: Vec<[u64; 3]> = (0..0x1_0000u64).map(|x| [x << 16 | ((x * 7) & 0xffff), 0, 0]).step_by(3).collect();
    for (name, shape, finite) in [("e4m3x2", (4, 3), 0x7eu32), ("e5m2x2", (5, 2), 0x7b)] {
        for relu in [false, true] {
            let r = if relu { ".relu" } else { "" };
            let widen = |b: u64| {
                let p = b as u32 & 0x7f;
                if p > finite {
                    // E5M2 has infinities.
                    let infinity = name == "e5m2x2" && p == 0x7c;
                    return if !infinity {
                        0x7fff
                    } else if b & 0x80 == 0 {
                        0x7c00
                    } else if relu {
                        0
                    } else {
                        0xfc00
                    };
                }
                let negative = b & 0x80 != 0;
                if negative && relu && p != 0 {
                    return 0;
                }
                refloat(value(p, shape).to_bits(), DOUBLE, HALF, 'n') | u64::from(negative) << 15
            };
            check(&format!("cvt.rn{r}.f16x2.{name}"), &["b32", "b16"], "", &bytes, |[x, ..]| {
                widen(x >> 8) << 16 | widen(x)
            });
            let narrow = |h: u64| {
                let magnitude = h & 0x7fff;
                if magnitude > 0x7c00 {
                    return 0x7f;
                }
                if relu && h & 0x8000 != 0 && magnitude != 0 {
                    return 0;
                }
                let a = if magnitude == 0x7c00 { 1e9 } else { f64::from_bits(refloat(magnitude, HALF, DOUBLE, 'n')) };
                let near = |p: &u32| ((value(*p, shape) - a).abs(), p & 1);
                let best = (0..=finite).min_by(|p, q| near(p).partial_cmp(&near(q)).unwrap()).unwrap();
                u64::from(best) | h >> 8 & 0x80
            };
            check(&format!("cvt.rn.satfinite{r}.{name}.f16x2"), &["b16", "b32"], "", &halves, |[x, ..]| {
                narrow(x >> 16 & 0xffff) << 8 | narrow(x & 0xffff)
            });
        }
    }
}
