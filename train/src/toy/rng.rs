//! Random choices that are a function of (seed, stream, index).

/// A SplitMix64 generator. Two generators with different coordinates are independent for all purposes here.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator for item `index` of a named stream.
    pub fn new(seed: u64, stream: &str, index: u64) -> Self {
        let named = stream
            .bytes()
            .fold(mix(seed.wrapping_add(GOLDEN)), |state, byte| mix(state ^ u64::from(byte)).wrapping_add(GOLDEN));
        Self { state: mix(named ^ mix(index.wrapping_add(GOLDEN))) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number below `bound`, which must not be 0 (0 gives 0).
    pub fn below(&mut self, bound: usize) -> usize {
        // The multiply-shift reduction; its bias is below 2^-50 for the bounds used here.
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A whole number from `low` to `high`, both included.
    pub fn from_to(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A nearly normal number: the sum of twelve uniform ones, which is the same on every machine.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// One of the items, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// An index with probability proportional to its weight.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut point = self.uniform(0.0, weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            point -= weight;
            if point < 0.0 {
                return index;
            }
        }
        weights.len() - 1
    }

    /// `count` different numbers below `bound`, in random order.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..bound).collect();
        for index in 0..count.min(bound) {
            let other = self.from_to(index, bound - 1);
            all.swap(index, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_decide() {
        let draw = |seed, stream, index| Rng::new(seed, stream, index).bits();
        assert_eq!(draw(1, "a", 2), draw(1, "a", 2));
        let others = [draw(2, "a", 2), draw(1, "b", 2), draw(1, "a", 3), draw(1, "", 2)];
        assert!(others.iter().all(|&other| other != draw(1, "a", 2)));
    }

    #[test]
    fn choices_are_even() {
        let mut rng = Rng::new(0, "test", 0);
        let mut counts = [0; 5];
        (0..10_000).for_each(|_| counts[rng.below(5)] += 1);
        assert!(counts.iter().all(|count| (1_850..2_150).contains(count)), "{counts:?}");
        let mean = (0..10_000).map(|_| rng.normal()).sum::<f64>() / 10_000.0;
        let variance = (0..10_000).map(|_| rng.normal().powi(2)).sum::<f64>() / 10_000.0;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let third = (0..10_000).filter(|_| rng.weighted(&[1.0, 1.0, 1.0]) == 2).count();
        assert!((3_100..3_570).contains(&third), "{third}");
    }

    #[test]
    fn distinct_numbers_are_distinct() {
        let mut drawn = Rng::new(3, "test", 1).distinct(10, 10);
        assert_ne!(drawn, (0..10).collect::<Vec<_>>());
        drawn.sort_unstable();
        assert_eq!(drawn, (0..10).collect::<Vec<_>>());
    }
}
