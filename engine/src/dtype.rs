use bytemuck::Pod;
use half::bf16;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit float: the reference and gradient checks.
    F64,
    /// 32-bit float.
    F32,
    /// bfloat16: 8 exponent and 7 mantissa bits.
    BF16,
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
            DType::BF16 => 2,
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
element!(f64 => F64, f32 => F32, bf16 => BF16, u8 => U8, u32 => U32, i32 => I32);
