//! What each arithmetic instruction does to one lane.

use crate::float::{
    self, Format, add32, add64, bits32, div32, div64, f32_of, f64_of, flush, fma32, fma64, mul32, mul64,
};
use crate::isa::{Alu, Cmp, Mods, Round, Testp};
use crate::types::Ty;

/// Result of an instruction for one lane, in the low bits.
#[inline(always)]
pub(crate) fn eval(k: Alu, ty: Ty, m: Mods, s: [u64; 4]) -> u64 {
    match ty {
        Ty::F32 => eval32(k, m, s),
        Ty::F64 => eval64(k, m, s),
        Ty::F16 | Ty::Bf16 => small(k, ty, m, s),
        Ty::F16x2 | Ty::Bf16x2 => {
            let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let lo = small(k, half, m, s.map(|x| x & 0xffff));
            let hi = small(k, half, m, s.map(|x| x >> 16 & 0xffff));
            hi << 16 | lo
        }
        Ty::F32x2 => {
            let lo = eval32(k, m, s.map(|x| x & 0xffff_ffff));
            let hi = eval32(k, m, s.map(|x| x >> 32));
            hi << 32 | lo
        }
        _ => integer(k, ty, m, s),
    }
}

#[inline(always)]
fn integer(k: Alu, ty: Ty, m: Mods, s: [u64; 4]) -> u64 {
    let bits = ty.bits();
    let signed = ty.signed();
    // Extended to 64 bits, so that most operations are the same for every width.
    let (x, y, z) = (ty.extend(s[0]), ty.extend(s[1]), ty.extend(s[2]));
    let (a, b) = (x as i64, y as i64);
    let r = match k {
        Alu::Add if m.sat => (a + b).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64,
        Alu::Sub if m.sat => (a - b).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64,
        Alu::Add => x.wrapping_add(y),
        Alu::Sub => x.wrapping_sub(y),
        Alu::Mul => x.wrapping_mul(y),
        Alu::Mad => x.wrapping_mul(y).wrapping_add(z),
        Alu::MulHi => mul_hi(ty, x, y),
        Alu::MadHi if m.sat => (mul_hi(ty, x, y) as i32).saturating_add(z as i32) as u64,
        Alu::MadHi => mul_hi(ty, x, y).wrapping_add(z),
        // The result is twice as wide: no truncation.
        Alu::MulWide => return wide(ty, x.wrapping_mul(y)),
        Alu::MadWide => return wide(ty, x.wrapping_mul(y).wrapping_add(s[2])),
        Alu::Mul24 => mul24(signed, s[0], s[1]),
        Alu::Mul24Hi => mul24_hi(signed, s[0], s[1]),
        Alu::Mad24 => mul24(signed, s[0], s[1]).wrapping_add(z),
        Alu::Mad24Hi => mul24_hi(signed, s[0], s[1]).wrapping_add(z),
        // Division by zero gives all ones on the hardware.
        Alu::Div if y == 0 => !0,
        Alu::Div if signed => a.wrapping_div(b) as u64,
        Alu::Div => x / y,
        Alu::Rem if y == 0 => x,
        Alu::Rem if signed => a.wrapping_rem(b) as u64,
        Alu::Rem => x % y,
        Alu::Abs => a.wrapping_abs() as u64,
        Alu::Neg => a.wrapping_neg() as u64,
        Alu::Min if signed => a.min(b) as u64,
        Alu::Min => x.min(y),
        Alu::Max if signed => a.max(b) as u64,
        Alu::Max => x.max(y),
        Alu::And => x & y,
        Alu::Or => x | y,
        Alu::Xor => x ^ y,
        Alu::Not => !x,
        Alu::Cnot => u64::from(x == 0),
        Alu::Lop3 => lop3(m.aux, s[0], s[1], s[2]),
        Alu::Shl => {
            let n = s[1] as u32;
            if n >= bits { 0 } else { x << n }
        }
        Alu::Shr => {
            let n = (s[1] as u32).min(bits);
            if signed {
                (a >> n.min(63)) as u64
            } else if n >= bits {
                0
            } else {
                x >> n
            }
        }
        Alu::ShfL | Alu::ShfR => {
            let n = if m.aux == 1 { s[2] as u32 & 31 } else { (s[2] as u32).min(32) };
            let pair = (s[1] & 0xffff_ffff) << 32 | (s[0] & 0xffff_ffff);
            if k == Alu::ShfL { if n == 0 { pair >> 32 } else { pair >> (32 - n) } } else { pair >> n }
        }
        Alu::Bfe => {
            let (at, len) = (s[1] as u32 & 0xff, s[2] as u32 & 0xff);
            bfe(ty, s[0], at, len)
        }
        Alu::Bfi => {
            let (at, len) = (s[2] as u32 & 0xff, s[3] as u32 & 0xff);
            let mask = if at >= bits || len == 0 { 0 } else { low_mask(len.min(bits - at)) << at };
            let moved = if at >= bits { 0 } else { s[0] << at };
            (s[1] & !mask) | (moved & mask)
        }
        Alu::Bmsk => {
            let (at, len) = (s[0] as u32, s[1] as u32);
            if m.aux == 1 {
                let (at, len) = (at & 31, len & 31);
                (low_mask(len) as u32).wrapping_shl(at).into()
            } else if at >= 32 {
                0
            } else {
                low_mask(len.min(32)) << at
            }
        }
        Alu::Szext => {
            let n = if m.aux == 1 { s[1] as u32 & 31 } else { (s[1] as u32).min(32) };
            if n == 0 {
                0
            } else if n >= 32 {
                s[0]
            } else if signed {
                (((s[0] << (64 - n)) as i64) >> (64 - n)) as u64
            } else {
                s[0] & low_mask(n)
            }
        }
        Alu::Bfind => {
            // Of a negative number, the highest bit that is not a sign bit.
            let v = if signed && a < 0 { !x } else { x };
            let v = ty.truncate(v);
            let at = if v == 0 { u32::MAX } else { 63 - v.leading_zeros() };
            return u64::from(if m.aux == 1 && at != u32::MAX { bits - 1 - at } else { at });
        }
        Alu::Popc => return u64::from(x.count_ones()),
        Alu::Clz => return u64::from(x.leading_zeros() - (64 - bits)),
        Alu::Brev => x.reverse_bits() >> (64 - bits),
        Alu::Fns => fns(s[0] as u32, s[1] as u32, s[2] as i32),
        Alu::Prmt => prmt(m.aux, s[0], s[1], s[2]),
        Alu::Sad => z.wrapping_add(if signed { a.abs_diff(b) } else { x.abs_diff(y) }),
        Alu::Dp4a => dot(s, m.aux, &[0, 8, 16, 24], &[0, 8, 16, 24], 8),
        Alu::Dp2a if m.aux & 4 == 0 => dot(s, m.aux, &[0, 16], &[0, 8], 16),
        Alu::Dp2a => dot(s, m.aux, &[0, 16], &[16, 24], 16),
        Alu::Slct => slct(m, s),
        _ => 0,
    };
    ty.truncate(r)
}

#[inline(always)]
fn wide(ty: Ty, r: u64) -> u64 {
    if ty.bytes() == 2 { r & 0xffff_ffff } else { r }
}

#[inline(always)]
fn mul_hi(ty: Ty, x: u64, y: u64) -> u64 {
    match ty {
        Ty::S64 => (i128::from(x as i64).wrapping_mul(i128::from(y as i64)) >> 64) as u64,
        Ty::U64 => ((u128::from(x) * u128::from(y)) >> 64) as u64,
        _ if ty.signed() => ((x as i64).wrapping_mul(y as i64) >> ty.bits()) as u64,
        _ => x.wrapping_mul(y) >> ty.bits(),
    }
}

fn product24(signed: bool, x: u64, y: u64) -> u64 {
    let cut = |v: u64| if signed { ((v << 40) as i64 >> 40) as u64 } else { v & 0xff_ffff };
    cut(x).wrapping_mul(cut(y))
}

fn mul24(signed: bool, x: u64, y: u64) -> u64 {
    product24(signed, x, y) & 0xffff_ffff
}

fn mul24_hi(signed: bool, x: u64, y: u64) -> u64 {
    product24(signed, x, y) >> 16 & 0xffff_ffff
}

fn low_mask(n: u32) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

fn bfe(ty: Ty, v: u64, at: u32, len: u32) -> u64 {
    let bits = ty.bits();
    let v = ty.truncate(v);
    let end = at.saturating_add(len).min(bits);
    let field = if at >= bits { 0 } else { v >> at & low_mask(end - at) };
    if !ty.signed() || len == 0 {
        return field;
    }
    // Filled with the field's top bit, or the number's where the field reaches past it.
    let sign = v >> (at.saturating_add(len) - 1).min(bits - 1) & 1;
    let have = if at >= bits { 0 } else { end - at };
    if sign == 1 { field | !low_mask(have) } else { field }
}

#[inline(always)]
fn lop3(table: u8, a: u64, b: u64, c: u64) -> u64 {
    let mut r = 0;
    for i in 0..8 {
        if table >> i & 1 == 1 {
            let pick = |v: u64, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
            r |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    r
}

fn fns(mask: u32, base: u32, offset: i32) -> u64 {
    let none = u64::from(u32::MAX);
    if base > 31 {
        return none;
    }
    if offset == 0 {
        return if mask >> base & 1 == 1 { base.into() } else { none };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at as u64;
            }
        }
        at += offset.signum();
    }
    none
}

#[inline(always)]
fn prmt(mode: u8, a: u64, b: u64, c: u64) -> u64 {
    let pair = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    let byte = |i: u64| pair >> (8 * (i & 7)) & 0xff;
    let n = c & 3;
    let pick = |i: u64| -> u64 {
        match mode {
            0 => {
                let sel = c >> (4 * i) & 15;
                let v = byte(sel);
                if sel & 8 != 0 { if v & 0x80 != 0 { 0xff } else { 0 } } else { v }
            }
            1 => byte(n + i),
            2 => byte(n.wrapping_sub(i)),
            3 => byte(n),
            4 => byte(i.max(n)),
            5 => byte(i.min(n)),
            _ => byte((n & 1) * 2 + (i & 1)),
        }
    };
    pick(0) | pick(1) << 8 | pick(2) << 16 | pick(3) << 24
}

fn dot(s: [u64; 4], aux: u8, at_a: &[u32], at_b: &[u32], width_a: u32) -> u64 {
    let cut = |v: u64, at: u32, width: u32, signed: bool| {
        let v = v >> at & low_mask(width);
        if signed { ((v << (64 - width)) as i64) >> (64 - width) } else { v as i64 }
    };
    let mut sum = s[2] as i64;
    for (i, j) in at_a.iter().zip(at_b) {
        sum = sum.wrapping_add(cut(s[0], *i, width_a, aux & 1 != 0) * cut(s[1], *j, 8, aux & 2 != 0));
    }
    sum as u64
}

fn slct(m: Mods, s: [u64; 4]) -> u64 {
    let first = if m.aux == 1 { flush(f32_of(s[2]), m.ftz) >= 0.0 } else { s[2] as i32 >= 0 };
    if first { s[0] } else { s[1] }
}

#[inline(always)]
fn min_max32(max: bool, m: Mods, x: f32, y: f32) -> f32 {
    let (a, b) = if m.aux & 1 != 0 { (x.abs(), y.abs()) } else { (x, y) };
    let r = if a.is_nan() || b.is_nan() {
        if m.nan || (a.is_nan() && b.is_nan()) {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        }
    } else if a == b {
        // +0 is the larger of the zeros.
        if (a.is_sign_negative()) == max { b } else { a }
    } else if (a > b) == max {
        a
    } else {
        b
    };
    if m.aux & 2 != 0 { f32::from_bits(r.to_bits() ^ (x.to_bits() ^ y.to_bits()) & 0x8000_0000) } else { r }
}

#[inline(always)]
fn eval32(k: Alu, m: Mods, s: [u64; 4]) -> u64 {
    let x = flush(f32_of(s[0]), m.ftz);
    let y = flush(f32_of(s[1]), m.ftz);
    let z = flush(f32_of(s[2]), m.ftz);
    let r = match k {
        Alu::Add => add32(x, y, m.round),
        Alu::Sub => add32(x, -y, m.round),
        Alu::Mul => mul32(x, y, m.round),
        Alu::Fma => fma32(x, y, z, m.round),
        Alu::Div => div32(x, y, m.round),
        Alu::Abs => return u64::from(x.abs().to_bits()),
        Alu::Neg => return u64::from((-x).to_bits()),
        Alu::Min => min_max32(false, m, x, y),
        Alu::Max => min_max32(true, m, x, y),
        Alu::Min3 => min_max32(false, m, min_max32(false, m, x, y), z),
        Alu::Max3 => min_max32(true, m, min_max32(true, m, x, y), z),
        Alu::Rcp => div32(1.0, x, m.round),
        Alu::Sqrt => float::sqrt32(x, m.round),
        Alu::Rsqrt => (1.0 / f64::from(x).sqrt()) as f32,
        Alu::Sin => f64::from(x).sin() as f32,
        Alu::Cos => f64::from(x).cos() as f32,
        Alu::Ex2 => f64::from(x).exp2() as f32,
        Alu::Lg2 => f64::from(x).log2() as f32,
        Alu::Tanh => f64::from(x).tanh() as f32,
        Alu::Copysign => return u64::from(f32_of(s[1]).copysign(f32_of(s[0])).to_bits()),
        Alu::Slct => return slct(m, s) & 0xffff_ffff,
        _ => return 0,
    };
    let r = flush(r, m.ftz);
    if m.sat { bits32(float::saturate(r.into()) as f32) } else { bits32(r) }
}

#[inline(always)]
fn eval64(k: Alu, m: Mods, s: [u64; 4]) -> u64 {
    let (x, y, z) = (f64_of(s[0]), f64_of(s[1]), f64_of(s[2]));
    let r = match k {
        Alu::Add => add64(x, y, m.round),
        Alu::Sub => add64(x, -y, m.round),
        Alu::Mul => mul64(x, y, m.round),
        Alu::Fma => fma64(x, y, z, m.round),
        Alu::Div => div64(x, y, m.round),
        Alu::Abs => x.abs(),
        Alu::Neg => -x,
        Alu::Min | Alu::Max => {
            let max = k == Alu::Max;
            if x.is_nan() {
                y
            } else if y.is_nan() {
                x
            } else if x == y {
                if x.is_sign_negative() == max { y } else { x }
            } else if (x > y) == max {
                x
            } else {
                y
            }
        }
        // The approximate forms give 20 bits and flush; an exact result is within their bounds.
        Alu::Rcp if m.aux == 1 => f64::from_bits(approximate64(1.0 / x) & !0xffff_ffff),
        Alu::Rsqrt => f64::from_bits(approximate64(1.0 / x.sqrt()) & !0xffff_ffff),
        Alu::Rcp => div64(1.0, x, m.round),
        Alu::Sqrt => float::sqrt64(x, m.round),
        Alu::Copysign => y.copysign(x),
        Alu::Slct => return slct(m, s),
        _ => return 0,
    };
    r.to_bits()
}

fn approximate64(x: f64) -> u64 {
    if x.is_subnormal() { x.to_bits() & 1 << 63 } else { x.to_bits() }
}

fn format_of(ty: Ty) -> Format {
    match ty {
        Ty::F16 => float::F16,
        Ty::Bf16 => float::BF16,
        Ty::E4m3 => float::E4M3,
        Ty::E5m2 => float::E5M2,
        _ => float::F32,
    }
}

/// f16 and bf16: computed in double precision, where every product and sum of two is exact, and rounded once.
fn small(k: Alu, ty: Ty, m: Mods, s: [u64; 4]) -> u64 {
    let f = format_of(ty);
    let flush16 = |v: f64| if m.ftz && ty == Ty::F16 && v.abs() < 6.103515625e-5 { 0.0f64.copysign(v) } else { v };
    let d = |i: usize| flush16(f.decode(s[i] as u32 & 0xffff));
    let (x, y, z) = (d(0), d(1), d(2));
    let r = match k {
        Alu::Add => x + y,
        Alu::Sub => x - y,
        Alu::Mul => x * y,
        Alu::Fma => {
            let p = x * y;
            let t = p + z;
            // A bf16 sum can span more than 53 bits.
            let v = t - p;
            let e = (p - (t - v)) + (z - v);
            if e == 0.0 || !e.is_finite() || t.to_bits() & 1 == 1 {
                t
            } else if (e > 0.0) == (t > 0.0) {
                f64::from_bits(t.to_bits() + 1)
            } else {
                f64::from_bits(t.to_bits().wrapping_sub(1))
            }
        }
        Alu::Abs => return s[0] & 0x7fff,
        Alu::Neg => return (s[0] ^ 0x8000) & 0xffff,
        Alu::Min | Alu::Max => {
            let max = k == Alu::Max;
            f64::from(min_max32(max, m, x as f32, y as f32))
        }
        Alu::Ex2 => x.exp2(),
        Alu::Tanh => x.tanh(),
        _ => return 0,
    };
    let r = flush16(r);
    let r = if m.sat { float::saturate(r) } else { r };
    let r = if m.relu && (r < 0.0) { 0.0 } else { r };
    u64::from(f.encode(r, Round::Nearest, false))
}

/// A comparison; unordered operands decide as the operator says.
#[inline(always)]
pub(crate) fn compare(c: Cmp, ty: Ty, ftz: bool, x: u64, y: u64) -> bool {
    if ty.float() {
        let (a, b) = match ty {
            Ty::F64 => (f64_of(x), f64_of(y)),
            Ty::F32 => (f64::from(flush(f32_of(x), ftz)), f64::from(flush(f32_of(y), ftz))),
            _ => {
                let f = if matches!(ty, Ty::Bf16 | Ty::Bf16x2) { float::BF16 } else { float::F16 };
                (f.decode(x as u32 & 0xffff), f.decode(y as u32 & 0xffff))
            }
        };
        let nan = a.is_nan() || b.is_nan();
        return match c {
            Cmp::Eq => a == b,
            Cmp::Ne => !nan && a != b,
            Cmp::Lt => a < b,
            Cmp::Le => a <= b,
            Cmp::Gt => a > b,
            Cmp::Ge => a >= b,
            Cmp::Equ => nan || a == b,
            Cmp::Neu => nan || a != b,
            Cmp::Ltu => nan || a < b,
            Cmp::Leu => nan || a <= b,
            Cmp::Gtu => nan || a > b,
            Cmp::Geu => nan || a >= b,
            Cmp::Num => !nan,
            Cmp::Nan => nan,
        };
    }
    let (x, y) = (ty.extend(x), ty.extend(y));
    let order = if ty.signed() { (x as i64).cmp(&(y as i64)) } else { x.cmp(&y) };
    match c {
        Cmp::Eq => order.is_eq(),
        Cmp::Ne => order.is_ne(),
        Cmp::Lt => order.is_lt(),
        Cmp::Le => order.is_le(),
        Cmp::Gt => order.is_gt(),
        _ => order.is_ge(),
    }
}

pub(crate) fn testp(k: Testp, ty: Ty, v: u64) -> bool {
    let class = if ty == Ty::F64 { f64_of(v).classify() } else { f32_of(v).classify() };
    use std::num::FpCategory::*;
    match k {
        Testp::Finite => !matches!(class, Nan | Infinite),
        Testp::Infinite => class == Infinite,
        Testp::Number => class != Nan,
        Testp::NotANumber => class == Nan,
        // The manual counts both zeros as normal.
        Testp::Normal => matches!(class, Normal | Zero),
        Testp::Subnormal => class == Subnormal,
    }
}

/// `cvt` of one value.
#[inline(always)]
pub(crate) fn convert(to: Ty, from: Ty, m: Mods, v: u64) -> u64 {
    match (to, from) {
        (Ty::F16x2 | Ty::Bf16x2, Ty::E4m3x2 | Ty::E5m2x2) => {
            let f = if from == Ty::E4m3x2 { float::E4M3 } else { float::E5M2 };
            let g = if to == Ty::F16x2 { float::F16 } else { float::BF16 };
            let one = |b: u64| {
                let x = f.decode(b as u32 & 0xff);
                u64::from(g.encode(if m.relu && x < 0.0 { 0.0 } else { x }, Round::Nearest, false))
            };
            return one(v >> 8) << 16 | one(v);
        }
        (Ty::E4m3x2 | Ty::E5m2x2, Ty::F16x2) => {
            let (hi, lo) = (float::F16.decode(v as u32 >> 16), float::F16.decode(v as u32 & 0xffff));
            return pack(to, m, hi, lo);
        }
        (Ty::Tf32, _) => {
            let x = f32_of(v);
            let x = if m.relu && x < 0.0 { 0.0 } else { x };
            return u64::from(float::TF32.encode(x.into(), m.round, m.satfinite)) << 13;
        }
        _ => {}
    }
    if !from.float() {
        let x = from.extend(v);
        if !to.float() {
            return to_integer(to, from.signed(), x, m.sat);
        }
        return match (to, m.round) {
            (Ty::F64, Round::Nearest) if from.signed() => (x as i64 as f64).to_bits(),
            (Ty::F64, Round::Nearest) => (x as f64).to_bits(),
            (Ty::F32, Round::Nearest) if from.signed() => u64::from((x as i64 as f32).to_bits()),
            (Ty::F32, Round::Nearest) => u64::from((x as f32).to_bits()),
            _ => integer_to_float(to, from.signed(), x, m),
        };
    }
    let x = match from {
        Ty::F64 => f64_of(v),
        Ty::F32 => f64::from(flush(f32_of(v), m.ftz)),
        _ => format_of(from).decode(v as u32 & 0xffff),
    };
    if !to.float() {
        return float_to_integer(to, from == Ty::F64, x, m.round);
    }
    let mut x = float::integral(x, m.round);
    if m.sat {
        x = float::saturate(x);
    }
    if m.relu && x < 0.0 {
        x = 0.0;
    }
    let round = match m.round {
        Round::IntNearest | Round::IntZero | Round::IntDown | Round::IntUp => Round::Nearest,
        r => r,
    };
    match to {
        Ty::F64 => x.to_bits(),
        Ty::F32 => bits32(flush(float::narrow(x, round), m.ftz)),
        _ => u64::from(format_of(to).encode(x, round, m.satfinite)),
    }
}

fn to_integer(to: Ty, signed: bool, x: u64, sat: bool) -> u64 {
    if !sat {
        return to.truncate(x);
    }
    let wide = if signed { i128::from(x as i64) } else { i128::from(x) };
    let bits = to.bits();
    let (low, high) =
        if to.signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    to.truncate(wide.clamp(low, high) as u64)
}

/// Rounds an integer of up to 64 bits once.
fn integer_to_float(to: Ty, signed: bool, x: u64, m: Mods) -> u64 {
    let negative = signed && (x as i64) < 0;
    let magnitude = if negative { (x as i64).unsigned_abs() } else { x };
    let near = magnitude as f64;
    let error = i128::from(magnitude) - near as i128;
    let sign = |v: f64| if negative { -v } else { v };
    // Odd if inexact, so that the second rounding is the only one that counts.
    let odd = if error == 0 || near.to_bits() & 1 == 1 {
        near
    } else if error > 0 {
        near.next_up()
    } else {
        near.next_down()
    };
    match to {
        Ty::F64 => {
            let up = match m.round {
                Round::Up => !negative,
                Round::Down => negative,
                _ => false,
            };
            let r = match (error.signum(), m.round) {
                (1, Round::Up | Round::Down | Round::Zero) if up => near.next_up(),
                (-1, Round::Up | Round::Down | Round::Zero) if !up => near.next_down(),
                _ => near,
            };
            sign(r).to_bits()
        }
        Ty::F32 => bits32(float::narrow(sign(odd), m.round)),
        _ => u64::from(format_of(to).encode(sign(odd), m.round, m.satfinite)),
    }
}

/// Clamps to the range of the type. NaN becomes 0, but only the top bit of the result if either side has 64 bits.
#[inline(always)]
fn float_to_integer(to: Ty, double: bool, x: f64, round: Round) -> u64 {
    let r = float::integral(x, round);
    if r.is_nan() {
        return if double || to.bits() == 64 { 1 << (to.bits() - 1) } else { 0 };
    }
    to.truncate(match to {
        Ty::S8 => r as i8 as u64,
        Ty::S16 => r as i16 as u64,
        Ty::S32 => r as i32 as u64,
        Ty::S64 => r as i64 as u64,
        Ty::U8 => u64::from(r as u8),
        Ty::U16 => u64::from(r as u16),
        Ty::U32 => u64::from(r as u32),
        _ => r as u64,
    })
}

fn pack(to: Ty, m: Mods, hi: f64, lo: f64) -> u64 {
    let (f, width) = match to {
        Ty::F16x2 => (float::F16, 16),
        Ty::Bf16x2 => (float::BF16, 16),
        Ty::E4m3x2 => (float::E4M3, 8),
        _ => (float::E5M2, 8),
    };
    // The 8-bit formats always saturate.
    let saturate = m.satfinite || width == 8;
    let one = |x: f64| u64::from(f.encode(if m.relu && x < 0.0 { 0.0 } else { x }, m.round, saturate && !x.is_nan()));
    one(hi) << width | one(lo)
}

/// `cvt` of two single precision values into one register.
#[inline(always)]
pub(crate) fn convert_pack(to: Ty, m: Mods, hi: u64, lo: u64) -> u64 {
    if to == Ty::Bf16x2 && m == Mods::PLAIN {
        return u64::from(float::bf16_from(f32_of(hi)) << 16 | float::bf16_from(f32_of(lo)));
    }
    pack(to, m, f32_of(hi).into(), f32_of(lo).into())
}
