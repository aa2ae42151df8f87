//! Arithmetic on all lanes of a warp; common cases compile to straight vector code.

use super::alu::{compare, convert, eval};
use super::exec::pred;
use super::warp::{Frame, V32, V64};
use crate::isa::{Alu, Carry, Cmp, File, Logic, Mods, PredArg, Round, Slot};
use crate::types::Ty;

/// Runs `eval` with constant operation and type for the cases listed, so that the compiler sees through it.
macro_rules! fast {
    ($f:expr, $e:expr, $d:expr, $s:expr, $k:expr, $ty:expr, $m:expr; narrow: $(($nk:ident, $nt:pat, $nc:ident, $n:literal)),*; wide: $(($wk:ident, $wt:pat, $wc:ident, $w:literal)),*) => {
        match ($k, $ty) {
            $((Alu::$nk, $nt) if $m == Mods::PLAIN => {
                let a = $f.r32[$s[0].index()];
                let b = if $n > 1 { $f.r32[$s[1].index()] } else { a };
                let c = if $n > 2 { $f.r32[$s[2].index()] } else { a };
                let v: V32 = std::array::from_fn(|l| eval(Alu::$nk, Ty::$nc, Mods::PLAIN, [a[l].into(), b[l].into(), c[l].into(), 0]) as u32);
                $f.put32($d, $e, v);
                true
            })*
            $((Alu::$wk, $wt) if $m == Mods::PLAIN => {
                let a = $f.r64[$s[0].index()];
                let b = if $w > 1 { $f.r64[$s[1].index()] } else { a };
                let c = if $w > 2 { $f.r64[$s[2].index()] } else { a };
                let v: V64 = std::array::from_fn(|l| eval(Alu::$wk, Ty::$wc, Mods::PLAIN, [a[l], b[l], c[l], 0]));
                $f.put64($d, $e, v);
                true
            })*
            _ => false,
        }
    };
}

#[inline(always)]
pub(crate) fn alu(f: &mut Frame, e: u32, k: Alu, ty: Ty, m: Mods, d: Slot, s: &[Slot; 4]) {
    let done = fast!(f, e, d, s, k, ty, m;
        narrow:
            (Add, Ty::U32 | Ty::S32, U32, 2), (Sub, Ty::U32 | Ty::S32, U32, 2), (Mul, Ty::U32 | Ty::S32, U32, 2),
            (Mad, Ty::U32 | Ty::S32, U32, 3), (And, Ty::B32, U32, 2), (Or, Ty::B32, U32, 2), (Xor, Ty::B32, U32, 2),
            (Not, Ty::B32, U32, 1), (Shl, Ty::B32, U32, 2), (Shr, Ty::U32 | Ty::B32, U32, 2), (Shr, Ty::S32, S32, 2),
            (Min, Ty::S32, S32, 2), (Max, Ty::S32, S32, 2), (Min, Ty::U32, U32, 2), (Max, Ty::U32, U32, 2),
            (Add, Ty::F32, F32, 2), (Sub, Ty::F32, F32, 2), (Mul, Ty::F32, F32, 2), (Fma, Ty::F32, F32, 3),
            (Min, Ty::F32, F32, 2), (Max, Ty::F32, F32, 2), (Neg, Ty::F32, F32, 1), (Abs, Ty::F32, F32, 1),
            (Div, Ty::F32, F32, 2), (Sqrt, Ty::F32, F32, 1), (Rcp, Ty::F32, F32, 1);
        wide:
            (Add, Ty::U64 | Ty::S64, U64, 2), (Sub, Ty::U64 | Ty::S64, U64, 2), (Mul, Ty::U64 | Ty::S64, U64, 2),
            (And, Ty::B64, U64, 2), (Or, Ty::B64, U64, 2), (Xor, Ty::B64, U64, 2), (Mad, Ty::U64 | Ty::S64, U64, 3),
            (Add, Ty::F64, F64, 2), (Sub, Ty::F64, F64, 2), (Mul, Ty::F64, F64, 2), (Fma, Ty::F64, F64, 3)
    );
    if done {
        return;
    }
    match (k, ty) {
        (Alu::MulWide, Ty::U32) => {
            let (a, b) = (f.r32[s[0].index()], f.r32[s[1].index()]);
            f.put64(d, e, std::array::from_fn(|l| u64::from(a[l]) * u64::from(b[l])));
        }
        (Alu::MulWide, Ty::S32) => {
            let (a, b) = (f.r32[s[0].index()], f.r32[s[1].index()]);
            f.put64(d, e, std::array::from_fn(|l| (i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64));
        }
        (Alu::Shl, Ty::B64) => {
            let (a, b) = (f.r64[s[0].index()], f.get(s[1]));
            f.put64(d, e, std::array::from_fn(|l| if b[l] > 63 { 0 } else { a[l] << b[l] }));
        }
        (Alu::Ex2, Ty::F32) => {
            let a = f.r32[s[0].index()];
            let v = std::array::from_fn(|l| if e >> l & 1 == 1 { ex2(a[l], m) } else { 0 });
            f.put32(d, e, v);
        }
        _ => slow(f, e, k, ty, m, d, s),
    }
}

fn ex2(x: u32, m: Mods) -> u32 {
    use crate::float::{bits32, flush};
    let x = flush(f32::from_bits(x), m.ftz);
    // Rounded from double precision, as the others.
    bits32(flush(f64::from(x).exp2() as f32, m.ftz)) as u32
}

#[inline(never)]
fn slow(f: &mut Frame, e: u32, k: Alu, ty: Ty, m: Mods, d: Slot, s: &[Slot; 4]) {
    let [a, b, c, x] = s.map(|s| f.get(s));
    let mut v = [0; 32];
    for (l, v) in v.iter_mut().enumerate() {
        if e >> l & 1 == 1 {
            *v = eval(k, ty, m, [a[l], b[l], c[l], x[l]]);
        }
    }
    f.put(d, e, v);
}

#[inline(always)]
pub(crate) fn mov(f: &mut Frame, e: u32, d: Slot, a: Slot) {
    match (d.file(), a.file()) {
        (File::R32, File::R32) => {
            let v = f.r32[a.index()];
            f.put32(d, e, v);
        }
        (File::R64, File::R64) => {
            let v = f.r64[a.index()];
            f.put64(d, e, v);
        }
        _ => {
            let v = f.get(a);
            f.put(d, e, v);
        }
    }
}

#[inline(always)]
fn bits(test: impl Fn(usize) -> bool) -> u32 {
    let mut v = 0;
    for l in 0..32 {
        v |= u32::from(test(l)) << l;
    }
    v
}

#[inline(always)]
fn compare_lanes(f: &Frame, cmp: Cmp, ty: Ty, ftz: bool, a: Slot, b: Slot) -> u32 {
    macro_rules! by {
        ($x:ident, $y:ident, $t:ident, $conv:expr) => {{
            let g = $conv;
            match cmp {
                Cmp::Eq => bits(|l| g($x[l]) == g($y[l])),
                Cmp::Ne => bits(|l| g($x[l]) != g($y[l])),
                Cmp::Lt => bits(|l| g($x[l]) < g($y[l])),
                Cmp::Le => bits(|l| g($x[l]) <= g($y[l])),
                Cmp::Gt => bits(|l| g($x[l]) > g($y[l])),
                _ => bits(|l| g($x[l]) >= g($y[l])),
            }
        }};
    }
    match ty {
        Ty::S32 => {
            let (x, y) = (&f.r32[a.index()], &f.r32[b.index()]);
            by!(x, y, i32, |v: u32| v as i32)
        }
        Ty::U32 | Ty::B32 => {
            let (x, y) = (&f.r32[a.index()], &f.r32[b.index()]);
            by!(x, y, u32, |v: u32| v)
        }
        Ty::F32 if !ftz && cmp == Cmp::Gt => {
            let (x, y) = (&f.r32[a.index()], &f.r32[b.index()]);
            bits(|l| f32::from_bits(x[l]) > f32::from_bits(y[l]))
        }
        Ty::F32 if !ftz && cmp == Cmp::Lt => {
            let (x, y) = (&f.r32[a.index()], &f.r32[b.index()]);
            bits(|l| f32::from_bits(x[l]) < f32::from_bits(y[l]))
        }
        Ty::U64 | Ty::B64 => {
            let (x, y) = (&f.r64[a.index()], &f.r64[b.index()]);
            by!(x, y, u64, |v: u64| v)
        }
        _ => {
            let (x, y) = (f.get(a), f.get(b));
            bits(|l| compare(cmp, ty, ftz, x[l], y[l]))
        }
    }
}

fn combine(f: &Frame, v: u32, with: Option<(Logic, PredArg)>) -> u32 {
    match with {
        None => v,
        Some((Logic::And, p)) => v & pred(f, p),
        Some((Logic::Or, p)) => v | pred(f, p),
        Some((Logic::Xor, p)) => v ^ pred(f, p),
    }
}

#[inline(always)]
pub(crate) fn setp(
    f: &mut Frame,
    e: u32,
    cmp: Cmp,
    ty: Ty,
    ftz: bool,
    d: Slot,
    other: Option<Slot>,
    a: Slot,
    b: Slot,
    with: Option<(Logic, PredArg)>,
) {
    let v = compare_lanes(f, cmp, ty, ftz, a, b);
    let r = combine(f, v, with);
    if let Some(o) = other {
        // Packed types compare their upper halves into the second result; others give the complement.
        let w = if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            let (x, y) = (f.get(a), f.get(b));
            bits(|l| compare(cmp, ty, ftz, x[l] >> 16, y[l] >> 16))
        } else {
            !v
        };
        let w = combine(f, w, with);
        f.put_pred(o, e, w);
    }
    f.put_pred(d, e, r);
}

pub(crate) fn set(
    f: &mut Frame,
    e: u32,
    cmp: Cmp,
    ty: Ty,
    to: Ty,
    ftz: bool,
    d: Slot,
    a: Slot,
    b: Slot,
    with: Option<(Logic, PredArg)>,
) {
    let v = compare_lanes(f, cmp, ty, ftz, a, b);
    let v = combine(f, v, with);
    let yes = if to == Ty::F32 { 1f32.to_bits() } else { !0 };
    f.put32(d, e, std::array::from_fn(|l| if v >> l & 1 == 1 { yes } else { 0 }));
}

#[inline(always)]
pub(crate) fn selp(f: &mut Frame, e: u32, d: Slot, a: Slot, b: Slot, p: u32) {
    if d.file() == File::R32 {
        let (x, y) = (f.r32[a.index()], f.r32[b.index()]);
        f.put32(d, e, std::array::from_fn(|l| if p >> l & 1 == 1 { x[l] } else { y[l] }));
    } else {
        let (x, y) = (f.get(a), f.get(b));
        f.put(d, e, std::array::from_fn(|l| if p >> l & 1 == 1 { x[l] } else { y[l] }));
    }
}

#[inline(always)]
pub(crate) fn cvt(f: &mut Frame, e: u32, to: Ty, from: Ty, m: Mods, d: Slot, a: Slot) {
    let x = f.get(a);
    macro_rules! by {
        ($to:ident, $from:ident, $m:expr) => {{ std::array::from_fn(|l| convert(Ty::$to, Ty::$from, $m, x[l])) }};
    }
    let plain = m == Mods::PLAIN;
    let mut v: V64 = match (to, from) {
        (Ty::U64 | Ty::S64, Ty::U32) if plain => by!(U64, U32, Mods::PLAIN),
        (Ty::U64 | Ty::S64, Ty::S32) if plain => by!(U64, S32, Mods::PLAIN),
        (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64) if plain => by!(U32, U64, Mods::PLAIN),
        (Ty::F32, Ty::S32) if plain => by!(F32, S32, Mods::PLAIN),
        (Ty::S32, Ty::F32) if m.round == Round::IntZero && !m.ftz => {
            by!(S32, F32, Mods { round: Round::IntZero, ..Mods::PLAIN })
        }
        _ => std::array::from_fn(|l| if e >> l & 1 == 1 { convert(to, from, m, x[l]) } else { 0 }),
    };
    // A register that is wider than the type gets the sign.
    if to.signed() {
        v = v.map(|x| to.extend(x));
    }
    f.put(d, e, v);
}

pub(crate) fn pack(f: &mut Frame, e: u32, bits: u32, d: Slot, s: &[Slot]) {
    let mut v = [0u64; 32];
    for (i, slot) in s.iter().enumerate() {
        let x = f.get(*slot);
        for l in 0..32 {
            v[l] |= (x[l] & ((1 << bits) - 1)) << (bits * i as u32);
        }
    }
    f.put(d, e, v);
}

pub(crate) fn unpack(f: &mut Frame, e: u32, bits: u32, d: &[Option<Slot>], a: Slot) {
    let x = f.get(a);
    for (i, slot) in d.iter().enumerate() {
        if let Some(slot) = slot {
            f.put(*slot, e, x.map(|x| x >> (bits * i as u32) & ((1 << bits) - 1)));
        }
    }
}

pub(crate) fn carry(f: &mut Frame, e: u32, k: Carry, ty: Ty, carry_in: bool, carry_out: bool, d: Slot, s: &[Slot; 3]) {
    let bits = ty.bits();
    let [a, b, c] = s.map(|s| f.get(s));
    let mut out = f.carry;
    let mut v = [0u64; 32];
    for l in 0..32 {
        if e >> l & 1 == 0 {
            continue;
        }
        let (x, y, z) = (u128::from(ty.truncate(a[l])), u128::from(ty.truncate(b[l])), u128::from(ty.truncate(c[l])));
        let cin = u128::from(carry_in && f.carry >> l & 1 == 1);
        let mask = (1u128 << bits) - 1;
        let (r, cout) = match k {
            Carry::Add => {
                let r = x + y + cin;
                (r & mask, r >> bits & 1 == 1)
            }
            Carry::Sub => {
                // The carry flag is a borrow here.
                let r = x.wrapping_sub(y).wrapping_sub(cin);
                (r & mask, x < y + cin)
            }
            Carry::MadLo | Carry::MadHi => {
                let p = if ty.signed() {
                    (i128::from(ty.extend(a[l]) as i64).wrapping_mul(i128::from(ty.extend(b[l]) as i64))) as u128
                } else {
                    x * y
                };
                let half = if k == Carry::MadLo { p & mask } else { p >> bits & mask };
                let r = half + z + cin;
                (r & mask, r >> bits & 1 == 1)
            }
        };
        v[l] = r as u64;
        if carry_out {
            out = out & !(1 << l) | u32::from(cout) << l;
        }
    }
    f.carry = out;
    f.put(d, e, v);
}
