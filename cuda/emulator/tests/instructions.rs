//! Every scalar instruction on edge values against a plain definition that is written independently of the machine.

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
    let out = if b == 64 { "mov.b64 %t, %y".to_string() } else { format!("cvt.u64.u{b} %t, %y") };
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n) {{\n\
         .reg .b64 %in, %out, %t, %i, %o; .reg .b32 %n, %tid, %blk; .reg .pred %p; .reg .b{b} %y;\n\
         ld.param.u64 %in, [a]; ld.param.u64 %out, [b]; ld.param.u32 %n, [n];\n\
         mov.u32 %tid, %tid.x; mov.u32 %blk, %ctaid.x; mad.lo.u32 %tid, %blk, 128, %tid;\n\
         setp.ge.u32 %p, %tid, %n;\n@%p ret;\n\
         mul.wide.u32 %i, %tid, 24; add.u64 %in, %in, %i; mul.wide.u32 %o, %tid, 8; add.u64 %out, %out, %o;\n\
         {body}  {op} {}{extra};\n  {out};\n  st.global.u64 [%out], %t;\n  ret;\n}}\n",
        operands.join(", ")
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
