//! Shared memory of a block, and who has touched it when.

use super::clocks::Clocks;
use super::trip::{Site, Trip};
use crate::error::AccessKind;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum State {
    #[default]
    Plain,
    /// Atomic, volatile or relaxed.
    Strong,
    /// An asynchronous copy is on its way.
    Flying,
}

/// Last write to a granule.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    clock: u32,
    site: Site,
    thread: u16,
    state: State,
}

/// Last reads of a granule by a warp.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    clock: u32,
    /// Site, with the lane and whether several lanes read.
    what: u32,
}

const MANY: u32 = 1 << 31;

/// A plain read that met an unordered atomic: forgiven if the same thread goes on with an atomic there, as loops around
/// compare-and-swap do.
#[derive(Clone, Debug)]
struct Suspect {
    thread: usize,
    offset: usize,
    trip: Trip,
}

/// Who does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub thread: usize,
    pub site: Site,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub data: Vec<u8>,
    /// Valid offsets; between variables there are gaps.
    pub ranges: Vec<(u32, u32)>,
    last_range: usize,
    shift: u32,
    warps: usize,
    written: Vec<Written>,
    reads: Vec<Read>,
    suspects: Vec<Suspect>,
    /// Clock of each thread's last `fence.proxy.async`.
    pub fences: Vec<u32>,
    /// What strong writes after a fence made known, by offset.
    released: HashMap<usize, Vec<u32>>,
    /// Thread that last issued a copy by the asynchronous engine, by instruction.
    issuers: HashMap<Site, usize>,
    pub check_races: bool,
    pub check_init: bool,
    pub check_proxy: bool,
}

impl Shared {
    /// Prepares for a block.
    pub(crate) fn begin(
        &mut self,
        size: usize,
        ranges: &[(u32, u32)],
        granule: u32,
        threads: usize,
        checked: bool,
        clear: bool,
    ) {
        self.data.clear();
        self.data.resize(size, 0xff);
        self.ranges.clear();
        self.ranges.extend_from_slice(ranges);
        self.last_range = 0;
        self.suspects.clear();
        self.released.clear();
        self.issuers.clear();
        if !checked {
            return;
        }
        self.shift = granule.trailing_zeros();
        self.warps = threads.div_ceil(32);
        let n = (size >> self.shift) + 1;
        if clear {
            self.written.clear();
            self.reads.clear();
        }
        self.written.resize(n, Written::default());
        self.reads.resize(n * self.warps, Read::default());
        self.fences.clear();
        self.fences.resize(threads, 0);
    }

    #[inline(always)]
    pub(crate) fn valid(&mut self, offset: u64, bytes: u64) -> bool {
        let inside = |r: &(u32, u32)| offset >= u64::from(r.0) && offset.saturating_add(bytes) <= u64::from(r.1);
        if self.ranges.get(self.last_range).is_some_and(inside) {
            return true;
        }
        match self.ranges.iter().position(inside) {
            Some(i) => {
                self.last_range = i;
                true
            }
            None => false,
        }
    }

    pub(crate) fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut v = [0u8; 8];
        if let (Some(s), Some(d)) = (self.data.get(at..at + bytes), v.get_mut(..bytes)) {
            d.copy_from_slice(s);
        }
        u64::from_le_bytes(v)
    }

    pub(crate) fn store(&mut self, at: usize, bytes: usize, v: u64) {
        if let (Some(d), Some(s)) = (self.data.get_mut(at..at + bytes), v.to_le_bytes().get(..bytes)) {
            d.copy_from_slice(s);
        }
    }

    fn granules(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        let end = ((at + bytes.max(1) - 1) >> self.shift) + 1;
        at >> self.shift..end.min(self.written.len())
    }

    fn race(&self, clocks: &Clocks, g: usize, kind: AccessKind, w: &Written) -> Trip {
        let first = if w.state == State::Strong { AccessKind::Atomic } else { AccessKind::Write };
        let first = if usize::from(w.thread) == clocks.engine() { AccessKind::AsyncWrite } else { first };
        let thread = self.issuer(w);
        Trip::race(g << self.shift, kind, first, Some(thread), thread / 32, w.site)
    }

    /// The thread to name for a write: of a copy, the one that issued it.
    fn issuer(&self, w: &Written) -> usize {
        match self.issuers.get(&w.site) {
            Some(t) => *t,
            None => w.thread.into(),
        }
    }

    /// A read. `strong` ones (volatile, relaxed) do not race with strong writes.
    pub(crate) fn read(
        &mut self,
        clocks: &mut Clocks,
        who: Who,
        at: usize,
        bytes: usize,
        strong: bool,
        kind: AccessKind,
    ) -> Result<(), Trip> {
        for g in self.granules(at, bytes) {
            let w = self.written[g];
            let uninitialised = w.clock < clocks.start;
            if uninitialised {
                if self.check_init {
                    return Err(Trip::uninitialised(g << self.shift, kind));
                }
            } else if w.state == State::Flying {
                if self.check_races {
                    return Err(Trip::in_flight(at, kind, self.issuer(&w), w.site));
                }
            } else if self.check_races && !clocks.ordered(who.thread, w.thread.into(), w.clock) {
                match (w.state, strong) {
                    (State::Strong, true) => {}
                    (State::Strong, false) => {
                        let trip = self.race(clocks, g, kind, &w);
                        self.suspects.push(Suspect { thread: who.thread, offset: at, trip });
                    }
                    _ => return Err(self.race(clocks, g, kind, &w)),
                }
            }
            if kind == AccessKind::AsyncRead && self.check_proxy && !uninitialised {
                self.proxy(clocks, who, g, &w)?;
            }
            if self.check_races {
                self.mark(clocks, who, g, strong);
            }
        }
        Ok(())
    }

    fn proxy(&self, clocks: &Clocks, who: Who, g: usize, w: &Written) -> Result<(), Trip> {
        let fenced = |t: usize| self.fences.get(t).is_some_and(|c| *c >= w.clock);
        let writer = usize::from(w.thread);
        if writer == clocks.engine() || fenced(writer) || fenced(who.thread) {
            return Ok(());
        }
        Err(Trip::missing_proxy_fence(g << self.shift, writer, w.site))
    }

    #[inline(always)]
    fn mark(&mut self, clocks: &Clocks, who: Who, g: usize, strong: bool) {
        let warp = who.thread / 32;
        let lane = (who.thread % 32) as u32;
        let Some(r) = self.reads.get_mut(g * self.warps + warp) else { return };
        // An earlier read that is ordered before this one needs no memory of its own.
        let before = (r.what >> 24 & 31) as usize;
        let others = clocks.recent(r.clock)
            && (r.what & MANY != 0
                || before != lane as usize && !clocks.ordered(who.thread, warp * 32 + before, r.clock));
        let strong = u32::from(strong) << 29;
        *r = Read {
            clock: clocks.now,
            what: (who.site & 0xff_ffff) | lane << 24 | strong | if others { MANY } else { 0 },
        };
    }

    fn check_write(
        &mut self,
        clocks: &Clocks,
        who: Who,
        at: usize,
        bytes: usize,
        strong: bool,
        new: Option<u64>,
        kind: AccessKind,
    ) -> Result<(), Trip> {
        for g in self.granules(at, bytes) {
            let w = self.written[g];
            if w.clock >= clocks.start
                && !clocks.ordered(who.thread, w.thread.into(), w.clock)
                && !(strong && w.state == State::Strong)
            {
                // Several threads that write the same value do no harm.
                let same = bytes <= 8 && new.is_some_and(|v| v == self.load(at, bytes)) && w.state != State::Flying;
                if !same {
                    return Err(if w.state == State::Flying {
                        Trip::in_flight(at, kind, self.issuer(&w), w.site)
                    } else {
                        self.race(clocks, g, kind, &w)
                    });
                }
            }
            if w.clock >= clocks.start && w.state == State::Flying && usize::from(w.thread) != who.thread {
                return Err(Trip::in_flight(at, kind, self.issuer(&w), w.site));
            }
            for warp in 0..self.warps {
                let r = self.reads[g * self.warps + warp];
                if r.clock < clocks.start || (strong && r.what >> 29 & 1 == 1) {
                    continue;
                }
                let lane = (r.what >> 24 & 31) as usize;
                let unordered = |l: usize| !clocks.ordered(who.thread, warp * 32 + l, r.clock);
                let bad = if r.what & MANY != 0 {
                    (0..32).find(|l| warp * 32 + l < clocks.engine() && unordered(*l))
                } else {
                    Some(lane).filter(|l| unordered(*l))
                };
                if bad.is_some() {
                    // A compare-and-swap loop reads plainly what others change atomically.
                    if kind == AccessKind::Atomic {
                        continue;
                    }
                    let lane = if r.what & MANY != 0 { None } else { Some(warp * 32 + lane) };
                    return Err(Trip::race(g << self.shift, kind, AccessKind::Read, lane, warp, r.what & 0xff_ffff));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, at: usize, bytes: usize, w: Written) {
        let range = self.granules(at, bytes);
        if let Some(cells) = self.written.get_mut(range) {
            cells.fill(w);
        }
    }

    /// A write of a thread, before the bytes change; `new` is the value if it fits eight bytes.
    pub(crate) fn write(
        &mut self,
        clocks: &mut Clocks,
        who: Who,
        at: usize,
        bytes: usize,
        strong: bool,
        new: Option<u64>,
    ) -> Result<(), Trip> {
        if self.check_races {
            self.check_write(clocks, who, at, bytes, strong, new, AccessKind::Write)?;
        }
        let state = if strong { State::Strong } else { State::Plain };
        self.set(at, bytes, Written { clock: clocks.now, site: who.site, thread: who.thread as u16, state });
        Ok(())
    }

    pub(crate) fn atomic(&mut self, clocks: &mut Clocks, who: Who, at: usize, bytes: usize) -> Result<(), Trip> {
        if self.check_init && self.granules(at, bytes).any(|g| self.written[g].clock < clocks.start) {
            return Err(Trip::uninitialised(at, AccessKind::Atomic));
        }
        if self.check_races {
            self.check_write(clocks, who, at, bytes, true, None, AccessKind::Atomic)?;
            self.suspects.retain(|s| s.thread != who.thread || s.offset != at);
        }
        self.set(
            at,
            bytes,
            Written { clock: clocks.now, site: who.site, thread: who.thread as u16, state: State::Strong },
        );
        Ok(())
    }

    /// An asynchronous copy is issued by `who`, and lands later by `by`.
    pub(crate) fn launch_copy(
        &mut self,
        clocks: &mut Clocks,
        who: Who,
        by: usize,
        at: usize,
        bytes: usize,
    ) -> Result<(), Trip> {
        if self.check_races {
            self.check_write(clocks, who, at, bytes, false, None, AccessKind::AsyncWrite)?;
        }
        if by == clocks.engine() {
            self.issuers.insert(who.site, who.thread);
        }
        self.set(at, bytes, Written { clock: clocks.now, site: who.site, thread: by as u16, state: State::Flying });
        Ok(())
    }

    /// The copy lands.
    pub(crate) fn land(&mut self, clocks: &Clocks, by: usize, site: Site, at: usize, bytes: usize) {
        if !self.written.is_empty() {
            self.set(at, bytes, Written { clock: clocks.now, site, thread: by as u16, state: State::Plain });
        }
    }

    /// Plain reads of lanes that met atomics and were not followed by one.
    pub(crate) fn settle(&mut self, warp: usize) -> Result<(), (usize, Trip)> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        match self.suspects.iter().position(|s| s.thread / 32 == warp) {
            Some(i) => {
                let s = self.suspects.swap_remove(i);
                Err((s.thread % 32, s.trip))
            }
            None => Ok(()),
        }
    }

    /// A strong write after a fence makes known what came before it.
    pub(crate) fn release_at(&mut self, clocks: &mut Clocks, warp: usize, lane: u32, at: usize) {
        let v = self.released.entry(at).or_default();
        clocks.release(warp, 1 << lane, v);
    }

    pub(crate) fn acquire_at(&mut self, clocks: &mut Clocks, warp: usize, lane: u32, live: u32, at: usize) {
        if let Some(v) = self.released.get(&at) {
            clocks.acquire(warp, 1 << lane, live, v);
        }
    }
}
