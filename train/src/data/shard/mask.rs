//! Loss bits of one document.

/// Which tokens of a document are prediction targets: a view of `len` bits inside `loss.bin`.
#[derive(Debug, Clone, Copy)]
pub struct LossMask<'a> {
    bytes: &'a [u8],
    shift: usize,
    len: usize,
}

impl<'a> LossMask<'a> {
    /// The `len` bits that begin `shift` bits into `bytes`, least significant bit first; `None` if there are not as
    /// many.
    pub fn new(bytes: &'a [u8], shift: usize, len: usize) -> Option<Self> {
        let enough = shift.checked_add(len)?.div_ceil(8) <= bytes.len();
        enough.then_some(Self { bytes, shift, len })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is the document empty?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Is token `index` a target? `false` beyond the end.
    pub fn get(&self, index: usize) -> bool {
        let bit = self.shift + index;
        index < self.len && self.bytes[bit / 8] >> (bit % 8) & 1 == 1
    }

    /// The bits in token order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + 'a {
        let mask = *self;
        (0..mask.len).map(move |index| mask.get(index))
    }

    /// Number of targets.
    pub fn count(&self) -> usize {
        self.iter().filter(|&target| target).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_cross_bytes() {
        let mask = LossMask::new(&[0b1010_0000, 0b0000_0011], 5, 6).unwrap();
        assert_eq!(mask.iter().collect::<Vec<_>>(), [true, false, true, true, true, false]);
        assert_eq!(mask.count(), 4);
        assert!(!mask.get(6));
        assert!(LossMask::new(&[0], 5, 4).is_none());
        assert!(LossMask::new(&[0], usize::MAX, 4).is_none());
    }
}
