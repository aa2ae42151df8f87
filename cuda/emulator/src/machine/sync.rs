//! Barriers of blocks and warps.

use super::block::{Block, Res, stop};
use super::exec::{Flow, pred};
use super::warp::{Frame, Split, Wait, Warp};
use crate::error::FaultKind;
use crate::isa::{BarKind, Op, Slot};

/// One of a block's sixteen barriers.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that have come, counted as the hardware does: whole warps for explicit counts.
    arrived: u32,
    /// Explicit number of threads; `None` for all.
    count: Option<u32>,
    /// What those who have come make known.
    clocks: Vec<u32>,
    popc: u32,
    any: bool,
    all: bool,
    /// Results to write when it completes: warp, frame, register, lanes, kind.
    results: Vec<(usize, usize, Slot, u32, BarKind)>,
}

impl Block<'_> {
    /// Faults if not every live lane of the warp is here.
    #[inline(always)]
    pub(crate) fn whole(&mut self, w: &Warp, e: u32, what: &str) -> Res {
        if e == w.all || !self.launch.options.checks.divergence {
            return Ok(());
        }
        let missing = w.all & !e;
        stop(e.trailing_zeros() as usize, FaultKind::Divergent { what: what.into(), mask: w.all, active: e, missing })
    }

    pub(crate) fn bar(&mut self, w: &mut Warp, f: &mut Frame, s: &Split, op: &Op, e: u32) -> Res<Flow> {
        let Op::Bar { kind, id, count, d, p, aligned } = op else { return Ok(Flow::Next) };
        let lane = e.trailing_zeros() as usize;
        if *aligned && e != w.live && self.launch.options.checks.divergence {
            let kind = FaultKind::Divergent { what: "bar.sync".into(), mask: w.live, active: e, missing: w.live & !e };
            return stop(lane, kind);
        }
        let slow = self.slow();
        if slow {
            self.settle_reads(w.id)?;
        }
        let id = f.lane(*id, lane) as usize;
        let count = count.map(|c| f.lane(c, lane) as u32);
        if id > 15 {
            return stop(lane, FaultKind::Invalid(format!("barrier {id}: there are 16")));
        }
        if let Some(c) = count.filter(|c| *c == 0 || c % 32 != 0) {
            return stop(lane, FaultKind::Invalid(format!("barrier {id} for {c} threads, which is no multiple of 32")));
        }
        let votes = p.map_or(0, |p| pred(f, p)) & e;
        let b = &mut self.barriers[id];
        if b.arrived > 0 && b.count != count {
            let what = format!("barrier {id} is waited for by {count:?} and by {:?} threads", b.count);
            return stop(lane, FaultKind::Invalid(what));
        }
        if b.arrived == 0 {
            *b = Barrier { count, all: true, ..Barrier::default() };
        }
        b.arrived += if count.is_some() && e == w.live { 32 } else { e.count_ones() };
        b.popc += votes.count_ones();
        b.any |= votes != 0;
        b.all &= votes == e;
        if slow {
            self.clocks.release(w.id, e, &mut b.clocks);
        }
        if let Some(d) = d {
            b.results.push((w.id, s.frame, *d, e, *kind));
        }
        if *kind == BarKind::Arrive {
            return Ok(Flow::Next);
        }
        Ok(Flow::Wait { wait: Wait::Barrier { id: id as u32 }, again: false })
    }

    /// Lets go those who wait for something that has happened. True if anybody may run now.
    pub(crate) fn settle(&mut self) -> bool {
        let mut freed = false;
        let live: u32 = self.warps.iter().map(|w| w.live.count_ones()).sum();
        let all = if self.launch.options.checks.exited { self.launch.threads as u32 } else { live };
        for id in 0..self.barriers.len() {
            let b = &self.barriers[id];
            if b.arrived > 0 && b.arrived >= b.count.unwrap_or(all) {
                self.complete_barrier(id);
                freed = true;
            }
        }
        if self.cluster_arrived >= live && live > 0 {
            let waits = |w: &Warp| {
                w.splits.iter().filter(|s| s.wait == Wait::Cluster).map(|s| s.mask.count_ones()).sum::<u32>()
            };
            if self.warps.iter().map(waits).sum::<u32>() >= live {
                self.cluster_arrived = 0;
                self.clocks.block_barrier();
                freed |= self.wake(|w| *w == Wait::Cluster);
            }
        }
        freed | self.wake_mbarrier()
    }

    pub(crate) fn wake(&mut self, f: impl Fn(&Wait) -> bool) -> bool {
        let mut any = false;
        for s in self.warps.iter_mut().flat_map(|w| &mut w.splits) {
            if f(&s.wait) {
                s.wait = Wait::Ready;
                any = true;
            }
        }
        any
    }

    fn complete_barrier(&mut self, id: usize) {
        let b = std::mem::take(&mut self.barriers[id]);
        for (warp, frame, slot, mask, kind) in &b.results {
            let Some(f) = self.warps.get_mut(*warp).and_then(|w| w.frames.get_mut(*frame)) else { continue };
            match kind {
                BarKind::Popc => f.put32(*slot, *mask, [b.popc; 32]),
                BarKind::And => f.put_pred(*slot, *mask, if b.all { !0 } else { 0 }),
                _ => f.put_pred(*slot, *mask, if b.any { !0 } else { 0 }),
            }
        }
        let whole = b.count.is_none_or(|c| c as usize >= self.launch.threads);
        if self.slow() {
            if whole {
                self.clocks.block_barrier();
            } else {
                for w in &self.warps {
                    for s in w.splits.iter().filter(|s| s.wait == Wait::Barrier { id: id as u32 }) {
                        self.clocks.acquire(w.id, s.mask, w.live, &b.clocks);
                    }
                }
                self.clocks.tick();
            }
        }
        self.wake(|w| *w == Wait::Barrier { id: id as u32 });
    }

    pub(crate) fn cluster(&mut self, w: &mut Warp, op: &Op, e: u32) -> Res<Flow> {
        if *op == Op::ClusterArrive {
            self.cluster_arrived += e.count_ones();
            return Ok(Flow::Next);
        }
        if self.slow() {
            self.settle_reads(w.id)?;
        }
        Ok(Flow::Wait { wait: Wait::Cluster, again: false })
    }

    pub(crate) fn warp_sync(&mut self, w: &mut Warp, f: &mut Frame, s: &mut Split, mask: Slot, e: u32) -> Res<Flow> {
        let lane = e.trailing_zeros() as usize;
        let mask = f.lane(mask, lane) as u32;
        let needed = mask & w.live;
        if mask >> lane & 1 == 0 {
            let kind = FaultKind::Divergent { what: "bar.warp.sync".into(), mask, active: e, missing: e & !mask };
            return stop(lane, kind);
        }
        let here = w.splits.iter().filter(|s| s.wait == Wait::WarpSync { mask }).fold(e, |m, s| m | s.mask);
        if here & needed != needed && self.launch.options.checks.divergence {
            if e != s.mask {
                let kind = FaultKind::Divergent { what: "bar.warp.sync".into(), mask, active: e, missing: needed & !e };
                return stop(lane, kind);
            }
            return Ok(Flow::Wait { wait: Wait::WarpSync { mask }, again: false });
        }
        if self.slow() {
            self.clocks.warp_sync(w.id, needed, w.live);
        }
        for s in &mut w.splits {
            if s.wait == (Wait::WarpSync { mask }) {
                s.wait = Wait::Ready;
            }
        }
        Ok(Flow::Next)
    }

    pub(crate) fn fence_async(&mut self, w: &Warp, e: u32) {
        self.knowledge.fenced = true;
        if self.slow() {
            for l in (0..32).filter(|l| e >> l & 1 == 1) {
                if let Some(c) = self.shared.fences.get_mut(w.id * 32 + l) {
                    *c = self.clocks.now;
                }
            }
            self.clocks.tick();
        }
    }
}
