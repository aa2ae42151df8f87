//! Who has touched device memory during a launch: finds races between blocks.

use super::trip::{Cause, Earlier, Site, Trip};
use crate::error::AccessKind;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Granules of a page of marks.
const PAGE: usize = 1024;

/// A mark: block + 1 in 32 bits, thread in 10, site in 20, strong, several blocks.
#[derive(Clone, Copy)]
struct Mark(u64);

impl Mark {
    fn new(block: u64, thread: usize, site: Site, strong: bool) -> Mark {
        Mark(
            (block + 1) << 32
                | (thread as u64 & 0x3ff) << 22
                | (u64::from(site) & 0xf_ffff) << 2
                | u64::from(strong) << 1,
        )
    }
    fn block(self) -> Option<u64> {
        (self.0 >> 32).checked_sub(1)
    }
    fn strong(self) -> bool {
        self.0 & 2 != 0
    }
    fn many(self) -> bool {
        self.0 & 1 != 0
    }
    fn earlier(self, kind: AccessKind) -> Earlier {
        let thread = (self.0 >> 22 & 0x3ff) as usize;
        Earlier {
            kind,
            thread: Some(thread),
            warp: thread / 32,
            site: (self.0 >> 2 & 0xf_ffff) as Site,
            block: self.block(),
        }
    }
}

#[derive(Debug, Default)]
struct Cell {
    write: AtomicU64,
    read: AtomicU64,
}

/// Marks of one allocation.
#[derive(Debug)]
pub(crate) struct Shadow {
    pages: Vec<OnceLock<Box<[Cell]>>>,
    shift: u32,
}

/// A set of blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks(Vec<u64>);

impl Blocks {
    fn insert(&mut self, b: u64) {
        let i = (b / 64) as usize;
        if self.0.len() <= i {
            self.0.resize(i + 1, 0);
        }
        self.0[i] |= 1 << (b % 64);
    }
    fn contains(&self, b: u64) -> bool {
        self.0.get((b / 64) as usize).is_some_and(|w| w >> (b % 64) & 1 == 1)
    }
    fn join(&mut self, other: &Blocks) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (x, y) in self.0.iter_mut().zip(&other.0) {
            *x |= y;
        }
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the block at hand knows of the others.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    pub block: u64,
    /// Blocks whose accesses are ordered before by atomics and fences.
    known: Blocks,
    /// Has this block executed a fence?
    pub fenced: bool,
    suspects: Vec<(usize, u64, Trip)>,
}

impl Knowledge {
    pub(crate) fn new(block: u64) -> Self {
        Self { block, ..Self::default() }
    }

    /// Plain reads that met atomics of other blocks and were not followed by one.
    pub(crate) fn settle(&mut self, warp: usize) -> Result<(), (usize, Trip)> {
        match self.suspects.iter().position(|s| s.0 / 32 == warp) {
            Some(i) => {
                let s = self.suspects.swap_remove(i);
                Err((s.0 % 32, s.2))
            }
            None => Ok(()),
        }
    }
}

/// What atomics made known, by address.
pub(crate) type Releases = Mutex<HashMap<u64, Blocks>>;

impl Shadow {
    pub(crate) fn new(len: u64, granule: u32) -> Self {
        let shift = granule.min(4).trailing_zeros();
        let n = (len >> shift) as usize / PAGE + 1;
        Self { pages: (0..n).map(|_| OnceLock::new()).collect(), shift }
    }

    fn cell(&self, g: usize) -> Option<&Cell> {
        let page = self.pages.get(g / PAGE)?.get_or_init(|| (0..PAGE).map(|_| Cell::default()).collect());
        page.get(g % PAGE)
    }

    fn race(&self, address: u64, kind: AccessKind, m: Mark, first: AccessKind) -> Trip {
        Trip(Box::new(Cause::Race { shared: false, address, kind, earlier: m.earlier(first) }))
    }

    /// A read of `bytes` at offset `at`, or with `atomic` a read-modify-write's first half.
    #[inline(always)]
    pub(crate) fn read(
        &self,
        k: &mut Knowledge,
        thread: usize,
        site: Site,
        base: u64,
        at: usize,
        bytes: usize,
        strong: bool,
    ) -> Result<(), Trip> {
        let mine = Mark::new(k.block, thread, site, strong);
        let end = (at + bytes - 1) >> self.shift;
        for g in at >> self.shift..=end {
            let Some(c) = self.cell(g) else { continue };
            let w = Mark(c.write.load(Relaxed));
            if let Some(b) = w.block()
                && b != k.block
                && !(strong && w.strong())
                && !k.known.contains(b)
            {
                let address = base + (g << self.shift) as u64;
                if !w.strong() {
                    return Err(self.race(address, AccessKind::Read, w, AccessKind::Write));
                }
                let trip = self.race(address, AccessKind::Read, w, AccessKind::Atomic);
                k.suspects.push((thread, base + at as u64, trip));
            }
            let r = Mark(c.read.load(Relaxed));
            match r.block() {
                Some(b) if b == k.block => {}
                Some(_) if !r.many() => c.read.store(mine.0 | 1, Relaxed),
                Some(_) => {}
                None => c.read.store(mine.0, Relaxed),
            }
        }
        Ok(())
    }

    /// A write, before the bytes change; `same` says whether they will.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        k: &mut Knowledge,
        thread: usize,
        site: Site,
        base: u64,
        at: usize,
        bytes: usize,
        strong: bool,
        atomic: bool,
        same: impl Fn() -> bool,
    ) -> Result<(), Trip> {
        let mine = Mark::new(k.block, thread, site, strong);
        let kind = if atomic { AccessKind::Atomic } else { AccessKind::Write };
        let end = (at + bytes - 1) >> self.shift;
        if atomic && !k.suspects.is_empty() {
            k.suspects.retain(|s| s.0 != thread || s.1 != base + at as u64);
        }
        for g in at >> self.shift..=end {
            let Some(c) = self.cell(g) else { continue };
            let w = Mark(c.write.swap(mine.0, Relaxed));
            let address = base + (g << self.shift) as u64;
            if let Some(b) = w.block()
                && b != k.block
                && !(strong && w.strong())
                && !k.known.contains(b)
                && !same()
            {
                let first = if w.strong() { AccessKind::Atomic } else { AccessKind::Write };
                return Err(self.race(address, kind, w, first));
            }
            let r = Mark(c.read.load(Relaxed));
            if let Some(b) = r.block() {
                let other = b != k.block || r.many();
                let ordered = if r.many() { !k.known.is_empty() } else { k.known.contains(b) };
                let harmless = atomic || ordered || (strong && r.strong());
                if other && !harmless && !same() {
                    return Err(self.race(address, kind, r, AccessKind::Read));
                }
            }
        }
        Ok(())
    }
}

/// An atomic or other strong access orders blocks: it learns what others released there, and releases what came before
/// a fence of its own.
pub(crate) fn synchronise(releases: &Releases, k: &mut Knowledge, address: u64, writes: bool) {
    let mut map = releases.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(b) = map.get(&address) {
        k.known.join(b);
    }
    if writes && k.fenced {
        let b = map.entry(address).or_default();
        b.insert(k.block);
        b.join(&k.known);
    }
}
