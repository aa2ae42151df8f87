use bytemuck::Pod;
use half::{bf16, f16};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit float: the reference and gradient checks.
    F64,
    /// 32-bit float.
    F32,
    /// bfloat16: 8 exponent and 7 mantissa bits.
    BF16,
    /// IEEE half: 5 exponent and 10 mantissa bits. A type of weights in files: read, never written or computed in.
    F16,
    /// Unsigned byte.
    U8,
    /// Unsigned 32-bit integer: token ids, positions, row indices.
    U32,
    /// Signed 32-bit integer.
    I32,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::BF16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }
}

/// A Rust type that stores one element of a [`DType`].
pub trait Element: Pod + Send + Sync {
    /// The element type it stores.
    const DTYPE: DType;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {
        $(impl Element for $type { const DTYPE: DType = DType::$dtype; })*
    };
}
element!(f64 => F64, f32 => F32, bf16 => BF16, f16 => F16, u8 => U8, u32 => U32, i32 => I32);

/// Rounds to the nearest bf16, ties to even.
///
/// `half`'s own conversion drops the low bits of an f64 first, and so takes numbers just above a tie for ties.
pub(crate) fn bf16_from_f64(x: f64) -> bf16 {
    let nearest = x as f32;
    if !nearest.is_finite() || f64::from(nearest) == x {
        return bf16::from_f32(nearest);
    }
    // Round to odd: the last bit says that something was cut off, so that rounding once more goes the right way.
    let cut = nearest.to_bits() - u32::from(f64::from(nearest).abs() > x.abs());
    bf16::from_f32(f32::from_bits(cut | 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Stream;

    #[test]
    fn bf16_takes_the_nearest() {
        let mut random = Stream::new(1, 1);
        for _ in 0..20_000 {
            let x = random.normal() * 2f64.powi(random.below(250) as i32 - 130);
            assert_eq!(bf16_from_f64(f64::from(x as f32)), bf16::from_f32(x as f32));
            // The neighbours on both sides are no nearer, and a tie goes to the even one.
            let rounded = bf16_from_f64(x);
            let distance = (rounded.to_f64() - x).abs();
            for other in [rounded.to_bits().wrapping_add(1), rounded.to_bits().wrapping_sub(1)]
                .map(bf16::from_bits)
                .into_iter()
                .filter(|o| o.is_finite())
            {
                assert!((other.to_f64() - x).abs() >= distance, "{x:e}: {rounded:e}, {other:e} is nearer");
            }
        }
        let tie = 1.0 + 2f64.powi(-8);
        let above = f64::from_bits(tie.to_bits() + 1);
        assert_eq!([tie, above, -above].map(|x| bf16_from_f64(x).to_bits()), [0x3f80, 0x3f81, 0xbf81]);
        assert_eq!([0.0, -0.0, 1e300, 1e-300].map(|x| bf16_from_f64(x).to_bits()), [0, 0x8000, 0x7f80, 0]);
        assert!(bf16_from_f64(f64::NAN).is_nan());
    }
}
