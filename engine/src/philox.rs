//! Philox4x32-10 counter-based random bits (Salmon et al., SC 2011).
//!
//! Word `i` of stream `(seed, stream)` depends on nothing else, so there is no generator state to
//! save and no dependence on the order of draws or the number of workers.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The block of four words at `counter` under `key`.
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let p = u64::from(MULTIPLIERS[0]) * u64::from(a);
        let q = u64::from(MULTIPLIERS[1]) * u64::from(c);
        (a, b, c, d) = ((q >> 32) as u32 ^ b ^ k0, q as u32, (p >> 32) as u32 ^ d ^ k1, p as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

/// Words `4 index .. 4 index + 4` of stream `(seed, stream)`.
pub fn words(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    block(
        [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// Number `index` of those that [`Stream::uniform`] gives when it reads stream `(seed, stream)` from its start.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    let words = words(seed, stream, index / 2);
    let at = 2 * (index % 2) as usize;
    unit(words[at], words[at + 1])
}

/// Uniform in `[0, 1)` from 53 of 64 random bits.
fn unit(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 32) | u64::from(low);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A sequential reader of one stream.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    stream: u64,
    next: u64,
}

impl Stream {
    /// The stream `(seed, stream)` from its start.
    pub fn new(seed: u64, stream: u64) -> Self {
        Stream { seed, stream, next: 0 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let word = words(self.seed, self.stream, self.next / 4)[(self.next % 4) as usize];
        self.next += 1;
        word
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let high = self.next_u32();
        unit(high, self.next_u32())
    }

    /// Uniform in `0..bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.uniform() * bound as f64) as usize
    }

    /// Normal with mean 0 and variance 1 (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_index_are_those_read_in_order() {
        let mut stream = Stream::new(3, 4);
        assert!((0..9).all(|index| uniform(3, 4, index) == stream.uniform()));
    }

    /// Known answers of the Random123 distribution.
    #[test]
    fn philox_known_answers() {
        assert_eq!(block([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(block([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
