//! Bins filled one after another, as far as sums of lengths allow.

use std::cmp::Reverse;
use std::ops::Range;

use super::{first_fit_decreasing, grain};

/// Documents among which a bin looks for a sum that fills it.
const CANDIDATES: usize = 64;

/// Bins of indices into `lengths`: every index once, no bin above `capacity` (lengths are at most that).
///
/// [`first_fit_decreasing`], unless filling one bin after another takes fewer bins or, in as many, fewer [`grain`]s: each bin
/// takes the longest document that is left, then those whose sum comes nearest to the room. Depends on lengths alone; inside
/// a bin documents keep their order.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let (first_fit, filled) = (first_fit_decreasing(lengths, capacity), fill_bins(lengths, capacity));
    let grains = |bin: &Vec<usize>| bin.iter().map(|&i| lengths[i]).sum::<usize>().div_ceil(grain(capacity));
    let cost = |bins: &[Vec<usize>]| (bins.len(), bins.iter().map(grains).sum::<usize>());
    if cost(&filled) < cost(&first_fit) { filled } else { first_fit }
}

fn fill_bins(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut left: Vec<usize> = (0..lengths.len()).collect();
    left.sort_by_key(|&i| (Reverse(lengths[i]), i));
    let mut bins = Vec::new();
    while !left.is_empty() {
        let mut bin = vec![left.remove(0)];
        let mut room = capacity.saturating_sub(lengths[bin[0]]);
        loop {
            let fits = left.partition_point(|&i| lengths[i] > room);
            let chosen = nearest_sum(&spread(fits..left.len()), |at| lengths[left[at]], room);
            if chosen.is_empty() {
                break;
            }
            for at in chosen.into_iter().rev() {
                room -= lengths[left[at]];
                bin.push(left.remove(at));
            }
        }
        bin.sort_unstable();
        bins.push(bin);
    }
    bins
}

/// At most [`CANDIDATES`] places of a range, evenly, so that every bin takes of all lengths.
fn spread(range: Range<usize>) -> Vec<usize> {
    let (count, all) = (range.len().min(CANDIDATES), range.len());
    (0..count).map(|k| range.start + k * all / count).collect()
}

/// The places, in order, whose lengths have the largest sum up to `room`.
fn nearest_sum(places: &[usize], length: impl Fn(usize) -> usize, room: usize) -> Vec<usize> {
    if places.iter().map(|&at| length(at)).sum::<usize>() <= room {
        return places.to_vec();
    }
    // Sums that the first k places can have, for every k.
    let mut sums = vec![Sums::none(room)];
    for &at in places {
        let more = sums[sums.len() - 1].with(length(at));
        let full = more.has(room);
        sums.push(more);
        if full {
            break;
        }
    }
    let mut sum = sums[sums.len() - 1].highest();
    let mut chosen = Vec::new();
    for (&at, before) in places.iter().zip(&sums).take(sums.len() - 1).rev() {
        if !before.has(sum) {
            chosen.push(at);
            sum -= length(at);
        }
    }
    chosen.reverse();
    chosen
}

/// A set of numbers from 0 to a limit, one bit each.
struct Sums {
    words: Vec<u64>,
    limit: usize,
}

impl Sums {
    /// The empty sum.
    fn none(limit: usize) -> Self {
        let mut words = vec![0; limit / 64 + 1];
        words[0] = 1;
        Sums { words, limit }
    }

    fn has(&self, number: usize) -> bool {
        self.words[number / 64] >> (number % 64) & 1 == 1
    }

    /// Also with another length.
    fn with(&self, length: usize) -> Self {
        let (skip, bits) = (length / 64, length % 64);
        let mut words = self.words.clone();
        for (at, word) in words.iter_mut().enumerate().skip(skip) {
            let high = if bits > 0 && at > skip { self.words[at - skip - 1] >> (64 - bits) } else { 0 };
            *word |= self.words[at - skip] << bits | high;
        }
        let last = words.len() - 1;
        words[last] &= u64::MAX >> (63 - self.limit % 64);
        Sums { words, limit: self.limit }
    }

    fn highest(&self) -> usize {
        let word = self.words.iter().rposition(|&word| word != 0).unwrap_or(0);
        word * 64 + (63 - (self.words[word] | 1).leading_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_filled_where_first_fit_leaves_gaps() {
        let lengths = [60, 50, 30, 20, 20, 20];
        assert_eq!(first_fit_decreasing(&lengths, 100).len(), 3);
        assert_eq!(pack(&lengths, 100), [vec![0, 3, 4], vec![1, 2, 5]]);
        assert_eq!(pack(&[0, 0], 0).concat(), [0, 1]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn sums_are_the_nearest() {
        let lengths = [130usize, 70, 65, 64, 63, 7];
        for room in 0..=400 {
            let all = (0..1u32 << 6).map(|set| (0..6).filter(|i| set >> i & 1 == 1).map(|i| lengths[i]).sum::<usize>());
            let want = all.filter(|&sum| sum <= room).max();
            let chosen = nearest_sum(&[0, 1, 2, 3, 4, 5], |i| lengths[i], room);
            assert_eq!(Some(chosen.iter().map(|&i| lengths[i]).sum()), want, "{room}");
            assert!(chosen.is_sorted());
        }
    }
}
