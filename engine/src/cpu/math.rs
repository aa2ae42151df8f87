//! Branch-free f32 functions that vectorise, and sums with a fixed order over 16 lanes.

const LANES: usize = 16;

/// eˣ for `x` in [-86.6, 88.7], clamped outside; relative error below 2e-7. NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that sits in the low bits: no float-to-int conversion is needed.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HI: f32 = 0.693_145_75;
    const LN2_LO: f32 = 1.428_606_8e-6;
    let x = x.clamp(-86.6, 88.7);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r * r + r) + 1.0;
    // Two factors, because 2¹²⁸ (reached just below the upper clamp) is not a float.
    let half = f32::from_bits(shifted.to_bits().wrapping_add(126) << 23);
    p * half * 2.0
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh through the sigmoid; absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Complementary error function: Chebyshev fit of Numerical Recipes, fractional error below 1.2e-7.
#[inline(always)]
pub fn erfc(x: f32) -> f32 {
    const C: [f32; 10] = [
        -1.265_512_2,
        1.000_023_7,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_204,
        1.488_515_9,
        -0.822_152_23,
        0.170_872_77,
    ];
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = C[9];
    let mut i = 9;
    while i > 0 {
        i -= 1;
        p = p * t + C[i];
    }
    let tail = t * exp(-z * z + p);
    if x >= 0.0 { tail } else { 2.0 - tail }
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    let mut lanes = lanes;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_lanes.zip(b_lanes) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    fold(lanes) + rest
}

/// Products of several vectors with one, each with the same bits whatever the others are.
///
/// Only for code that is sure to be inlined where fused multiply-add is enabled ([`pulp::WithSimd`]): elsewhere it is a slow
/// function.
#[inline(always)]
pub fn fused_dots<const R: usize>(rows: [&[f32]; R], b: &[f32]) -> [f32; R] {
    let whole = b.len() / LANES * LANES;
    let rows = rows.map(|row| row.split_at(whole));
    let (b, b_rest) = b.split_at(whole);
    let mut lanes = [[0.0; LANES]; R];
    for (at, y) in b.chunks_exact(LANES).enumerate() {
        for (lanes, (row, _)) in lanes.iter_mut().zip(&rows) {
            let x = &row[at * LANES..(at + 1) * LANES];
            for i in 0..LANES {
                lanes[i] = x[i].mul_add(y[i], lanes[i]);
            }
        }
    }
    std::array::from_fn(|r| fold(lanes[r]) + rows[r].1.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>())
}

#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    fold(lanes) + rest
}

#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(rest, |m, &x| m.max(x))
}

#[inline(always)]
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, range: std::ops::Range<f32>) -> f64 {
        let steps = 200_000;
        (0..=steps)
            .map(|i| {
                let x = range.start + (range.end - range.start) * i as f32 / steps as f32;
                let want = exact(f64::from(x));
                (f64::from(f(x)) - want).abs() / want.abs().max(1e-30)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_and_erfc_are_accurate_over_their_range() {
        assert!(worst(exp, f64::exp, -86.5..88.7) < 3e-7);
        assert!(worst(erfc, libm::erfc, -4.0..4.0) < 3e-6);
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) < 1e-37);
    }
}
