//! Floating-point formats and roundings that the host does not have.

use crate::isa::Round;

/// NaN of single precision results.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

#[inline(always)]
pub(crate) fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

#[inline(always)]
pub(crate) fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Bits of a single precision result, NaN canonical.
#[inline(always)]
pub(crate) fn bits32(x: f32) -> u64 {
    u64::from(if x.is_nan() { NAN32 } else { x.to_bits() })
}

/// Subnormals become zero of the same sign.
#[inline(always)]
pub(crate) fn flush(x: f32, ftz: bool) -> f32 {
    if ftz && x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Clamps to [0, 1]; NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate(x: f64) -> f64 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// A small format: exponent and mantissa bits, and whether it has infinities (E4M3 has not).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub exponent: u32,
    pub mantissa: u32,
    pub infinite: bool,
}

pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10, infinite: true };
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7, infinite: true };
pub(crate) const TF32: Format = Format { exponent: 8, mantissa: 10, infinite: true };
pub(crate) const E4M3: Format = Format { exponent: 4, mantissa: 3, infinite: false };
pub(crate) const E5M2: Format = Format { exponent: 5, mantissa: 2, infinite: true };
pub(crate) const F32: Format = Format { exponent: 8, mantissa: 23, infinite: true };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn sign(self) -> u32 {
        1 << (self.exponent + self.mantissa)
    }

    /// The canonical NaN, as the hardware writes it.
    fn nan(self) -> u32 {
        self.sign() - 1
    }

    fn infinity(self) -> u32 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// Largest finite magnitude.
    pub(crate) fn largest(self) -> u32 {
        if self.infinite { self.infinity() - 1 } else { self.nan() - 1 }
    }

    pub(crate) fn decode(self, bits: u32) -> f64 {
        let magnitude = bits & (self.sign() - 1);
        let negative = bits & self.sign() != 0;
        let e = (magnitude >> self.mantissa) as i32;
        let m = magnitude & ((1 << self.mantissa) - 1);
        let top = (1 << self.exponent) - 1;
        let v = if self.infinite && e == top {
            if m == 0 { f64::INFINITY } else { f64::NAN }
        } else if !self.infinite && magnitude == self.nan() {
            f64::NAN
        } else if e == 0 {
            f64::from(m) * power(1 - self.bias() - self.mantissa as i32)
        } else {
            f64::from(m | 1 << self.mantissa) * power(e - self.bias() - self.mantissa as i32)
        };
        if negative { -v } else { v }
    }

    /// Rounds once. Values beyond the largest become infinity (NaN where there is none), or the largest with
    /// `satfinite`.
    pub(crate) fn encode(self, x: f64, round: Round, satfinite: bool) -> u32 {
        if x.is_nan() {
            return self.nan();
        }
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        let a = x.abs();
        if a == 0.0 {
            return sign;
        }
        let down = match round {
            Round::Down => sign == 0,
            Round::Up => sign != 0,
            Round::Zero => true,
            _ => false,
        };
        let up = matches!(round, Round::Down | Round::Up) && !down;
        let overflow = |exact_infinity: bool| {
            if satfinite || (down && !exact_infinity) {
                self.largest()
            } else if self.infinite {
                self.infinity()
            } else {
                self.nan()
            }
        };
        if a.is_infinite() {
            return sign | overflow(true);
        }
        // Exponent of the last place, then the number in units of it.
        let e = ((a.to_bits() >> 52) as i32 - 1023).max(1 - self.bias());
        let ulp = e - self.mantissa as i32;
        let scaled = a * power(-ulp / 2) * power(-ulp - -ulp / 2);
        let floor = scaled.floor();
        let rest = scaled - floor;
        let mut n = floor as u64;
        let add = if down {
            false
        } else if up {
            rest > 0.0
        } else {
            rest > 0.5 || (rest == 0.5 && (round == Round::NearestAway || n & 1 == 1))
        };
        n += u64::from(add);
        // In units of the last place the encoding is linear: a carry moves into the exponent.
        let biased = (e + self.bias() - 1) as u64;
        let bits = if n < 1 << self.mantissa { n } else { n + (biased << self.mantissa) };
        if bits > u64::from(self.largest()) { sign | overflow(false) } else { sign | bits as u32 }
    }
}

/// 2^e for any exponent that a product of two such calls needs.
fn power(e: i32) -> f64 {
    if e >= -1022 { f64::from_bits(((e.min(1023) + 1023) as u64) << 52) } else { 0.0 }
}

#[inline(always)]
pub(crate) fn bf16_of(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[inline(always)]
pub(crate) fn f16_of(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13);
    }
    // Shifted into place the exponent is too small by 112: a product mends that, subnormals included.
    f32::from_bits(sign | magnitude << 13) * f32::from_bits(0x7780_0000)
}

/// Round to nearest even, NaN canonical.
#[inline(always)]
pub(crate) fn bf16_from(x: f32) -> u32 {
    let u = x.to_bits();
    let r = (u.wrapping_add(0x7fff + (u >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fff } else { r }
}

/// The other result of `x + y`: what rounding lost (Knuth).
fn sum_error(x: f64, y: f64, s: f64) -> f64 {
    let v = s - x;
    (x - (s - v)) + (y - v)
}

/// Makes an inexact result odd, so that rounding it again to fewer bits is right in every mode.
fn to_odd(s: f64, error: f64) -> f64 {
    if error == 0.0 || !error.is_finite() || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    if (error > 0.0) == (s > 0.0) {
        f64::from_bits(s.to_bits() + 1)
    } else {
        f64::from_bits(s.to_bits().wrapping_sub(1))
    }
}

/// Single precision from a double, any mode.
pub(crate) fn narrow(x: f64, round: Round) -> f32 {
    match round {
        Round::Nearest => x as f32,
        _ => f32::from_bits(F32.encode(x, round, false)),
    }
}

/// Moves a double precision result that was rounded to nearest to where another mode has it; `error` has the sign of
/// exact minus result.
fn direct(r: f64, error: f64, round: Round) -> f64 {
    if error == 0.0 || error.is_nan() || r.is_nan() {
        return r;
    }
    if r.is_infinite() {
        let finite = match round {
            Round::Zero => true,
            Round::Down => r > 0.0,
            Round::Up => r < 0.0,
            _ => false,
        };
        return if finite { f64::MAX.copysign(r) } else { r };
    }
    match round {
        Round::Down if error < 0.0 => r.next_down(),
        Round::Up if error > 0.0 => r.next_up(),
        Round::Zero if r > 0.0 && error < 0.0 => r.next_down(),
        Round::Zero if r < 0.0 && error > 0.0 => r.next_up(),
        _ => r,
    }
}

fn zero_sum_sign(r: f64, x: f64, y: f64, round: Round) -> f64 {
    if r == 0.0 && x == -y && x != 0.0 && round == Round::Down { -0.0 } else { r }
}

pub(crate) fn add32(x: f32, y: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return x + y;
    }
    let (x, y) = (f64::from(x), f64::from(y));
    let s = x + y;
    narrow(zero_sum_sign(to_odd(s, sum_error(x, y, s)), x, y, round), round)
}

pub(crate) fn mul32(x: f32, y: f32, round: Round) -> f32 {
    if round == Round::Nearest { x * y } else { narrow(f64::from(x) * f64::from(y), round) }
}

pub(crate) fn fma32(x: f32, y: f32, z: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return x.mul_add(y, z);
    }
    let p = f64::from(x) * f64::from(y);
    let z = f64::from(z);
    let s = p + z;
    narrow(zero_sum_sign(to_odd(s, sum_error(p, z, s)), p, z, round), round)
}

pub(crate) fn div32(x: f32, y: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return x / y;
    }
    let (a, b) = (f64::from(x), f64::from(y));
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    narrow(to_odd(q, if b < 0.0 { -rest } else { rest }), round)
}

pub(crate) fn sqrt32(x: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return x.sqrt();
    }
    let a = f64::from(x);
    let r = a.sqrt();
    narrow(to_odd(r, (-r).mul_add(r, a)), round)
}

pub(crate) fn add64(x: f64, y: f64, round: Round) -> f64 {
    let s = x + y;
    if round == Round::Nearest { s } else { zero_sum_sign(direct(s, sum_error(x, y, s), round), x, y, round) }
}

pub(crate) fn mul64(x: f64, y: f64, round: Round) -> f64 {
    let p = x * y;
    if round == Round::Nearest {
        return p;
    }
    if p.is_infinite() && x.is_finite() && y.is_finite() {
        return direct(p, -p, round);
    }
    direct(p, x.mul_add(y, -p), round)
}

pub(crate) fn fma64(x: f64, y: f64, z: f64, round: Round) -> f64 {
    let r = x.mul_add(y, z);
    if round == Round::Nearest || !r.is_finite() {
        return r;
    }
    let p = x * y;
    let e = x.mul_add(y, -p);
    let s = p + z;
    let t = sum_error(p, z, s);
    direct(r, (s - r) + (t + e), round)
}

pub(crate) fn div64(x: f64, y: f64, round: Round) -> f64 {
    let q = x / y;
    if round == Round::Nearest || !q.is_finite() {
        return q;
    }
    let rest = (-q).mul_add(y, x);
    direct(q, if y < 0.0 { -rest } else { rest }, round)
}

pub(crate) fn sqrt64(x: f64, round: Round) -> f64 {
    let r = x.sqrt();
    if round == Round::Nearest { r } else { direct(r, (-r).mul_add(r, x), round) }
}

/// To an integral value.
#[inline(always)]
pub(crate) fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::IntNearest => x.round_ties_even(),
        Round::IntZero => x.trunc(),
        Round::IntDown => x.floor(),
        Round::IntUp => x.ceil(),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_number_survives() {
        for f in [F16, BF16, E4M3, E5M2] {
            for bits in 0..=(f.sign() * 2 - 1) {
                let x = f.decode(bits);
                if !x.is_nan() {
                    assert_eq!(f.encode(x, Round::Nearest, false), bits, "{f:?} {bits:#x}");
                }
            }
        }
        for bits in 0..=0xffff_u32 {
            let (a, b) = (f64::from(f16_of(bits)), F16.decode(bits));
            assert!(a == b || a.is_nan() && b.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn roundings_against_neighbours() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = f32::from_bits((state >> 32) as u32);
            if x.is_nan() {
                continue;
            }
            assert_eq!(BF16.encode(f64::from(x), Round::Nearest, false), bf16_from(x));
            for f in [F16, BF16, TF32, E4M3, E5M2] {
                let (down, up) = (f.encode(x.into(), Round::Down, false), f.encode(x.into(), Round::Up, false));
                let (lo, hi) = (f.decode(down), f.decode(up));
                let near = f.decode(f.encode(x.into(), Round::Nearest, false));
                if hi.is_nan() || lo.is_nan() || near.is_nan() {
                    continue;
                }
                assert!(lo <= x.into() && f64::from(x) <= hi, "{f:?} {x:e}");
                assert!(near == lo || near == hi);
                let zero = f.decode(f.encode(x.into(), Round::Zero, false));
                assert_eq!(zero, if x < 0.0 { hi } else { lo });
            }
            let y = f32::from_bits(state as u32);
            for (down, up, near) in [
                (add32(x, y, Round::Down), add32(x, y, Round::Up), x + y),
                (mul32(x, y, Round::Down), mul32(x, y, Round::Up), x * y),
                (div32(x, y, Round::Down), div32(x, y, Round::Up), x / y),
            ] {
                if !near.is_nan() && near.is_finite() {
                    assert!(
                        down <= near && near <= up && (down == up || down.next_up() == up),
                        "{x:e} {y:e} {down:e} {up:e}"
                    );
                }
            }
        }
    }
}
