use std::ops::Range;

use vila_autograd::{ParamId, ParamStore};

/// Neighbouring parameters whose gradients travel together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Elements of the flat buffers.
    pub range: Range<usize>,
    /// Every parameter inside.
    pub params: Vec<ParamId>,
    /// Elements `range.start + cuts[r] .. range.start + cuts[r + 1]` are rank `r`'s.
    pub cuts: Vec<usize>,
}

impl Bucket {
    /// The elements of a rank.
    pub fn piece(&self, rank: usize) -> Range<usize> {
        self.range.start + self.cuts[rank]..self.range.start + self.cuts[rank + 1]
    }
}

/// How the flat parameters of a store are dealt to ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// In the order in which a backward pass completes them: from the last parameter to the first.
    pub buckets: Vec<Bucket>,
}

/// Pieces start on multiples of this many elements, as tensors do.
const ALIGN: usize = 128;

impl Partition {
    /// Buckets of at least `elements` (but for the last), each cut into one piece for every rank.
    pub fn new(store: &ParamStore, world: usize, elements: usize) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut end = store.flat_grads().cols();
        let mut params = Vec::new();
        for (index, range) in store.ranges().iter().enumerate().rev() {
            if params.last() != Some(&range.param) {
                params.push(range.param);
            }
            // The parts of a fused tensor complete together, so a bucket never ends between them.
            let starts_param = index.checked_sub(1).is_none_or(|before| store.ranges()[before].param != range.param);
            let start = range.range.start;
            if starts_param && (end - start >= elements.max(1) || index == 0) {
                buckets.push(Bucket {
                    range: start..end,
                    params: std::mem::take(&mut params),
                    cuts: cut(end - start, world),
                });
                end = start;
            }
        }
        Partition { buckets }
    }

    /// The elements of a rank, from the first bucket to the last.
    pub fn pieces(&self, rank: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.buckets.iter().map(move |bucket| bucket.piece(rank)).filter(|piece| !piece.is_empty())
    }
}

/// Boundaries of `world` nearly equal pieces.
fn cut(len: usize, world: usize) -> Vec<usize> {
    let piece = len.div_ceil(world).next_multiple_of(ALIGN);
    (0..=world).map(|rank| (rank * piece).min(len)).collect()
}

#[cfg(test)]
mod tests {
    use vila_autograd::ParamSpec;
    use vila_engine::{CpuBackend, DType};

    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        let cpu = CpuBackend::fast();
        let specs = [(3, 50), (1, 7), (200, 9), (1, 1), (64, 64)];
        let specs = specs.iter().enumerate().map(|(i, (rows, cols))| ParamSpec::new(format!("p{i}"), &[*rows, *cols]));
        let store = ParamStore::new(&cpu, specs.collect(), DType::F32, 0, |spec| spec.name != "p3").expect("store");
        for (world, elements) in [(1, 1), (2, 1), (3, 500), (4, 1 << 20), (7, 1000)] {
            let partition = Partition::new(&store, world, elements);
            let mut seen = vec![0; store.flat_grads().cols()];
            for rank in 0..world {
                partition.pieces(rank).flatten().for_each(|at| seen[at] += 1);
            }
            assert!(seen.iter().all(|&count| count == 1), "{world} ranks, buckets of {elements}");
            let mut params: Vec<_> = partition.buckets.iter().flat_map(|bucket| bucket.params.clone()).collect();
            params.reverse();
            assert_eq!(params, store.ids().filter(|&id| store.trains(id)).collect::<Vec<_>>());
        }
    }
}
