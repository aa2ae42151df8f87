//! The logical order of documents: a function of seed and index, whatever the number of ranks or workers.

use vila_engine::philox;

/// Documents over which shares are met exactly.
const BLOCK: u64 = 1000;

/// Which document comes `index`-th in a mixture of sources.
#[derive(Clone, Debug)]
pub struct MixtureOrder {
    seed: u64,
    lengths: Vec<u64>,
    /// Documents of each source in one block; they sum to the block.
    quotas: Vec<u64>,
}

/// A document's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index of the source.
    pub source: usize,
    /// Index of the document in it.
    pub document: u64,
    /// How many times the source was gone through before.
    pub epoch: u64,
}

impl MixtureOrder {
    /// `sources` are lengths (positive) and shares (positive).
    pub fn new(seed: u64, sources: &[(u64, f64)]) -> Self {
        let total: f64 = sources.iter().map(|(_, share)| share).sum();
        let exact: Vec<f64> = sources.iter().map(|(_, share)| share / total * BLOCK as f64).collect();
        let mut quotas: Vec<u64> = exact.iter().map(|&x| (x as u64).max(1)).collect();
        // Largest remainder: what rounding down left over goes where most was lost.
        while quotas.iter().sum::<u64>() != BLOCK {
            let missing = quotas.iter().sum::<u64>() < BLOCK;
            let lack = |i: &usize| exact[*i] - quotas[*i] as f64;
            let candidates = 0..quotas.len();
            if missing {
                if let Some(i) = candidates.max_by(|a, b| lack(a).total_cmp(&lack(b))) {
                    quotas[i] += 1;
                }
            } else if let Some(i) = candidates.min_by(|a, b| lack(a).total_cmp(&lack(b))) {
                quotas[i] -= 1;
            }
        }
        MixtureOrder { seed, lengths: sources.iter().map(|(length, _)| *length).collect(), quotas }
    }

    /// The documents `start .. start + count` of the order.
    pub fn range(&self, start: u64, count: u64) -> Vec<Pick> {
        let mut picks = Vec::with_capacity(count as usize);
        let mut index = start;
        while index < start + count {
            let block = index / BLOCK;
            let mut drawn: Vec<u64> = self.quotas.iter().map(|quota| block * quota).collect();
            for (offset, source) in self.block(block).into_iter().enumerate() {
                let ordinal = drawn[source];
                drawn[source] += 1;
                let at = block * BLOCK + offset as u64;
                if at >= index && at < start + count {
                    picks.push(self.pick(source, ordinal));
                }
            }
            index = (block + 1) * BLOCK;
        }
        picks
    }

    /// The sources of one block, in order.
    fn block(&self, block: u64) -> Vec<usize> {
        let mut sources: Vec<usize> = Vec::with_capacity(BLOCK as usize);
        for (source, &quota) in self.quotas.iter().enumerate() {
            sources.extend(std::iter::repeat_n(source, quota as usize));
        }
        if self.quotas.len() > 1 {
            philox::Stream::new(self.seed, (1 << 63) | block).shuffle(&mut sources);
        }
        sources
    }

    fn pick(&self, source: usize, ordinal: u64) -> Pick {
        let length = self.lengths[source];
        let epoch = ordinal / length;
        let stream = (source as u64) << 40 | epoch;
        Pick { source, document: permuted(self.seed, stream, ordinal % length, length), epoch }
    }
}

/// CRC-32C of documents in order, for a log.
pub fn digest(picks: &[Pick]) -> u32 {
    let words = picks.iter().flat_map(|pick| [pick.source as u64, pick.document, pick.epoch]);
    words.fold(0, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes()))
}

/// A random permutation of `0..length` without memory: a Feistel network over the next power of four, walked until it
/// lands inside.
fn permuted(seed: u64, stream: u64, index: u64, length: u64) -> u64 {
    let half_bits = (64 - (length - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..6 {
            let key = [seed as u32 ^ round, (seed >> 32) as u32];
            let counter = [right as u32, (right >> 32) as u32, stream as u32, (stream >> 32) as u32];
            let random = u64::from(philox::block(counter, key)[0]);
            (left, right) = (right, left ^ (random & mask));
        }
        value = (left << half_bits) | right;
        if value < length {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutation_visits_every_document_once() {
        for length in [1, 2, 3, 10, 64, 1000, 4097] {
            let mut seen: Vec<u64> = (0..length).map(|i| permuted(5, 9, i, length)).collect();
            assert!(length < 10 || seen != (0..length).collect::<Vec<_>>());
            seen.sort_unstable();
            assert_eq!(seen, (0..length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn order_is_a_function_of_the_index_and_meets_the_shares() {
        let order = MixtureOrder::new(3, &[(700, 0.3), (50, 0.1), (9000, 0.6)]);
        let all = order.range(0, 5000);
        for (start, count) in [(0, 1), (7, 20), (990, 30), (1999, 1002), (4999, 1)] {
            assert_eq!(order.range(start, count), all[start as usize..(start + count) as usize]);
        }
        let count = |source| all.iter().filter(|pick| pick.source == source).count();
        assert_eq!([count(0), count(1), count(2)], [1500, 500, 3000]);
        // A source shorter than its share starts again, in another order.
        let small: Vec<Pick> = all.iter().copied().filter(|pick| pick.source == 1).collect();
        let mut first: Vec<u64> = small[..50].iter().map(|pick| pick.document).collect();
        let second: Vec<u64> = small[50..100].iter().map(|pick| pick.document).collect();
        assert_ne!(first, second);
        assert!(small[50..100].iter().all(|pick| pick.epoch == 1));
        first.sort_unstable();
        assert_eq!(first, (0..50).collect::<Vec<_>>());
    }
}
