//! Which accesses of a block are ordered: vector clocks, kept per warp as long as its lanes know the same.

/// What the lanes of a warp know of the others: for each thread the clock up to which its accesses are ordered before.
#[derive(Debug, Default)]
struct Known {
    base: Vec<u32>,
    /// Set while lanes know different things.
    lanes: Option<Vec<Vec<u32>>>,
}

/// Clocks of a block. One number counts all synchronisation, and goes on over the blocks that a worker runs, so that
/// marks of earlier blocks need no clearing.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    pub now: u32,
    /// Everything up to here is ordered before everything now: the last barrier of the whole block.
    floor: u32,
    /// First clock of this block.
    pub start: u32,
    threads: usize,
    warps: Vec<Known>,
}

fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (x, y) in into.iter_mut().zip(from) {
        *x = (*x).max(*y);
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

impl Clocks {
    /// Begins a block. Returns true if the clock was near its end and marks must be cleared.
    pub(crate) fn begin(&mut self, threads: usize) -> bool {
        let wrap = self.now > u32::MAX / 2;
        if wrap {
            self.now = 0;
        }
        self.now += 1;
        self.floor = self.now;
        self.now += 1;
        self.start = self.now;
        self.threads = threads;
        self.warps.clear();
        self.warps.resize_with(threads.div_ceil(32), Known::default);
        wrap
    }

    /// The asynchronous engine counts as one more thread.
    pub(crate) fn engine(&self) -> usize {
        self.threads
    }

    #[inline(always)]
    pub(crate) fn ordered(&self, thread: usize, other: usize, clock: u32) -> bool {
        clock <= self.floor || thread == other || self.knows(thread, other, clock)
    }

    /// After the last barrier of the whole block.
    #[inline(always)]
    pub(crate) fn recent(&self, clock: u32) -> bool {
        clock > self.floor
    }

    fn knows(&self, thread: usize, other: usize, clock: u32) -> bool {
        let Some(k) = self.warps.get(thread / 32) else { return false };
        let reaches = |v: &[u32]| v.get(other).is_some_and(|c| *c >= clock);
        reaches(&k.base) || k.lanes.as_ref().is_some_and(|l| l.get(thread % 32).is_some_and(|v| reaches(v)))
    }

    pub(crate) fn tick(&mut self) {
        self.now += 1;
    }

    /// All threads of the block have met.
    pub(crate) fn block_barrier(&mut self) {
        self.floor = self.now;
        self.now += 1;
    }

    /// Lanes of a warp have met.
    pub(crate) fn warp_sync(&mut self, warp: usize, mask: u32, live: u32) {
        let (now, size) = (self.now, self.threads + 1);
        self.now += 1;
        let Some(k) = self.warps.get_mut(warp) else { return };
        if mask & live == live {
            if let Some(all) = k.lanes.take() {
                for v in &all {
                    join(&mut k.base, v);
                }
            }
            k.base.resize(size, 0);
            for l in lanes(live) {
                if let Some(x) = k.base.get_mut(warp * 32 + l) {
                    *x = now;
                }
            }
            return;
        }
        let all = k.lanes.get_or_insert_with(|| vec![Vec::new(); 32]);
        let mut v = vec![0; size];
        for l in lanes(mask & live) {
            join(&mut v, &all[l]);
            if let Some(x) = v.get_mut(warp * 32 + l) {
                *x = now;
            }
        }
        for l in lanes(mask & live) {
            all[l].clone_from(&v);
        }
    }

    /// What lanes make known by a release; later accesses of theirs are not part of it.
    pub(crate) fn release(&mut self, warp: usize, mask: u32, into: &mut Vec<u32>) {
        let now = self.now;
        self.now += 1;
        into.resize(self.threads + 1, 0);
        if let Some(k) = self.warps.get(warp) {
            join(into, &k.base);
            if let Some(all) = &k.lanes {
                for l in lanes(mask) {
                    join(into, &all[l]);
                }
            }
        }
        for l in lanes(mask) {
            if let Some(x) = into.get_mut(warp * 32 + l) {
                *x = now;
            }
        }
    }

    /// Lanes learn what a release made known.
    pub(crate) fn acquire(&mut self, warp: usize, mask: u32, live: u32, from: &[u32]) {
        let Some(k) = self.warps.get_mut(warp) else { return };
        if from.is_empty() {
            return;
        }
        if mask & live == live {
            join(&mut k.base, from);
            return;
        }
        let all = k.lanes.get_or_insert_with(|| vec![Vec::new(); 32]);
        for l in lanes(mask & live) {
            join(&mut all[l], from);
        }
    }
}
