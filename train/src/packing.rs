//! Packing of a step's documents into micro-batches.

mod fill;

pub use fill::pack;

/// Bins of indices into `lengths`: every index once, no bin above `capacity` (lengths are at most that).
///
/// Longest first, ties in order; inside a bin documents keep their order, so packing depends on lengths alone.
pub fn first_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in by_length {
        match bins.iter_mut().find(|(used, _)| used + lengths[i] <= capacity) {
            Some((used, bin)) => {
                *used += lengths[i];
                bin.push(i);
            }
            None => bins.push((lengths[i], vec![i])),
        }
    }
    for (_, bin) in &mut bins {
        bin.sort_unstable();
    }
    bins.into_iter().map(|(_, bin)| bin).collect()
}

/// What a micro-batch's length is a multiple of on devices where shapes should repeat: an eighth of the capacity in whole
/// tiles of 128, so that a step's last micro-batch is not mostly empty.
pub fn grain(capacity: usize) -> usize {
    capacity.div_ceil(8).next_multiple_of(128).clamp(1, capacity.max(1))
}

/// The rank of each bin: the costliest first, always to the rank that has least to do (the lower one among equals).
pub fn deal(costs: &[u64], ranks: usize) -> Vec<usize> {
    let mut by_cost: Vec<usize> = (0..costs.len()).collect();
    by_cost.sort_by_key(|&bin| (std::cmp::Reverse(costs[bin]), bin));
    let (mut loads, mut rank_of) = (vec![0u64; ranks.max(1)], vec![0; costs.len()]);
    for bin in by_cost {
        let least = (0..loads.len()).min_by_key(|&rank| (loads[rank], rank)).unwrap_or(0);
        loads[least] += costs[bin];
        rank_of[bin] = least;
    }
    rank_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costly_bins_are_dealt_first() {
        assert_eq!(deal(&[5, 9, 4, 1, 8], 2), [1, 0, 0, 0, 1]);
        assert_eq!(deal(&[3, 3, 3], 4), [0, 1, 2]);
        assert_eq!(deal(&[], 3), Vec::<usize>::new());
    }

    #[test]
    fn documents_go_where_they_fit_first() {
        assert_eq!(first_fit_decreasing(&[900, 500, 450, 400, 350], 900), [vec![0], vec![1, 3], vec![2, 4]]);
        assert_eq!(first_fit_decreasing(&[], 10), Vec::<Vec<usize>>::new());
        assert_eq!(first_fit_decreasing(&[10, 0, 10], 10), [vec![0, 1], vec![2]]);
    }
}
