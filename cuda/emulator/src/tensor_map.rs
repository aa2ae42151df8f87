//! Tensor maps: what `cuTensorMapEncodeTiled` makes on the real thing.

/// Element types of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Element {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
}

impl Element {
    /// Size in memory.
    pub fn bytes(self) -> u64 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::U64 | Element::I64 | Element::F64 => 8,
        }
    }

    fn from_code(c: u8) -> Option<Element> {
        use Element::*;
        [U8, U16, U32, I32, U64, I64, F16, F32, F64, Bf16].get(usize::from(c)).copied()
    }
}

/// How 16-byte chunks are permuted in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Address bit 4 changes with bit 7.
    B32,
    /// Bits 4 and 5 with 7 and 8.
    B64,
    /// Bits 4 to 6 with 7 to 9.
    B128,
}

impl Swizzle {
    /// Where an offset in shared memory goes.
    #[inline(always)]
    pub fn apply(self, offset: usize) -> usize {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 0x10,
            Swizzle::B64 => 0x30,
            Swizzle::B128 => 0x70,
        };
        offset ^ (offset >> 3 & mask)
    }

    /// Bytes of a row of the pattern.
    pub fn span(self) -> u64 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    fn from_code(c: u8) -> Option<Swizzle> {
        [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128].get(usize::from(c)).copied()
    }
}

/// A tensor in device memory and the box that one copy moves. Dimensions are innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// Element type.
    pub element: Element,
    /// Elements in each of 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, from the second dimension on; multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of a box in each dimension, at most 256.
    pub box_dims: Vec<u32>,
    /// Step between elements of a box in each dimension, 1 to 8; the first is ignored, as by the driver.
    pub element_strides: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
    /// Elements outside are NaN instead of zero.
    pub nan_fill: bool,
}

/// Why a tensor map is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {0}")]
pub struct TensorMapError(pub String);

const MAGIC: u32 = 0x7e45_0a9b;

impl TensorMap {
    /// A map of a dense tensor.
    pub fn new(
        address: u64,
        element: Element,
        dims: &[u64],
        box_dims: &[u32],
        swizzle: Swizzle,
    ) -> Result<TensorMap, TensorMapError> {
        let mut strides = Vec::new();
        let mut step = element.bytes();
        for d in dims.iter().take(dims.len().saturating_sub(1)) {
            step = step.saturating_mul(*d);
            strides.push(step);
        }
        let map = TensorMap {
            address,
            element,
            dims: dims.to_vec(),
            strides,
            box_dims: box_dims.to_vec(),
            element_strides: vec![1; dims.len()],
            swizzle,
            nan_fill: false,
        };
        map.check()?;
        Ok(map)
    }

    /// What the driver checks.
    pub fn check(&self) -> Result<(), TensorMapError> {
        let bad = |s: String| Err(TensorMapError(s));
        let n = self.dims.len();
        if n == 0 || n > 5 {
            return bad(format!("{n} dimensions"));
        }
        if self.strides.len() != n - 1 || self.box_dims.len() != n || self.element_strides.len() != n {
            return bad("lists of different lengths".into());
        }
        if !self.address.is_multiple_of(16) {
            return bad(format!("address {:#x} is no multiple of 16", self.address));
        }
        if let Some(d) = self.dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
            return bad(format!("dimension of {d} elements"));
        }
        if let Some(s) = self.strides.iter().find(|s| **s % 16 != 0 || **s >= 1 << 40) {
            return bad(format!("stride of {s} bytes is no multiple of 16"));
        }
        if let Some(b) = self.box_dims.iter().find(|b| **b == 0 || **b > 256) {
            return bad(format!("box of {b} elements (1 to 256)"));
        }
        if let Some(e) = self.element_strides.iter().find(|e| **e == 0 || **e > 8) {
            return bad(format!("element stride {e} (1 to 8)"));
        }
        let inner = u64::from(self.box_dims[0]) * self.element.bytes();
        if !inner.is_multiple_of(16) {
            return bad(format!("inner box of {inner} bytes is no multiple of 16"));
        }
        if self.swizzle != Swizzle::None && inner > self.swizzle.span() {
            return bad(format!("inner box of {inner} bytes exceeds the swizzle of {}", self.swizzle.span()));
        }
        if self.nan_fill && !matches!(self.element, Element::F16 | Element::F32 | Element::F64 | Element::Bf16) {
            return bad("NaN fill of an integer type".into());
        }
        Ok(())
    }

    /// Bytes that one copy writes to shared memory.
    pub fn box_bytes(&self) -> usize {
        (0..self.dims.len()).map(|d| self.count(d)).product::<usize>() * self.element.bytes() as usize
    }

    /// Elements that a copy moves in a dimension.
    pub(crate) fn count(&self, d: usize) -> usize {
        let box_dim = self.box_dims.get(d).copied().unwrap_or(1);
        box_dim.div_ceil(self.step(d)) as usize
    }

    /// Step between elements; the innermost one is ignored, as the driver says.
    pub(crate) fn step(&self, d: usize) -> u32 {
        if d == 0 { 1 } else { self.element_strides.get(d).copied().unwrap_or(1).max(1) }
    }

    /// The 128 bytes that a kernel gets; only this crate understands them.
    pub fn encode(&self) -> [u8; 128] {
        let mut out = [0u8; 128];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(d) = out.get_mut(at..at + bytes.len()) {
                d.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&[self.element as u8, self.dims.len() as u8, self.swizzle as u8, u8::from(self.nan_fill)]);
        put(&self.address.to_le_bytes());
        for i in 0..5 {
            put(&self.dims.get(i).copied().unwrap_or(1).to_le_bytes());
        }
        for i in 0..4 {
            put(&self.strides.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        for i in 0..5 {
            put(&(self.box_dims.get(i).copied().unwrap_or(1) as u16).to_le_bytes());
        }
        for i in 0..5 {
            put(&[self.element_strides.get(i).copied().unwrap_or(1) as u8]);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8; 128]) -> Result<TensorMap, TensorMapError> {
        let mut at = 0;
        let mut take = |n: usize| {
            let mut v = [0u8; 8];
            if let (Some(s), Some(d)) = (bytes.get(at..at + n), v.get_mut(..n)) {
                d.copy_from_slice(s);
            }
            at += n;
            u64::from_le_bytes(v)
        };
        let bad = || TensorMapError("these 128 bytes are no tensor map".into());
        if take(4) != u64::from(MAGIC) {
            return Err(bad());
        }
        let element = Element::from_code(take(1) as u8).ok_or_else(bad)?;
        let n = take(1) as usize;
        let swizzle = Swizzle::from_code(take(1) as u8).ok_or_else(bad)?;
        let nan_fill = take(1) == 1;
        let address = take(8);
        let dims: Vec<u64> = (0..5).map(|_| take(8)).collect();
        let strides: Vec<u64> = (0..4).map(|_| take(8)).collect();
        let box_dims: Vec<u32> = (0..5).map(|_| take(2) as u32).collect();
        let element_strides: Vec<u32> = (0..5).map(|_| take(1) as u32).collect();
        if n == 0 || n > 5 {
            return Err(bad());
        }
        let map = TensorMap {
            address,
            element,
            dims: dims[..n].to_vec(),
            strides: strides[..n - 1].to_vec(),
            box_dims: box_dims[..n].to_vec(),
            element_strides: element_strides[..n].to_vec(),
            swizzle,
            nan_fill,
        };
        map.check()?;
        Ok(map)
    }
}
