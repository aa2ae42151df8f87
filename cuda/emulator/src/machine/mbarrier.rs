//! `mbarrier` objects.

use super::access::Target;
use super::block::{AtLane, Block, Res, stop};
use super::exec::Flow;
use super::tma::{Late, Work};
use super::trip::Trip;
use super::warp::{Frame, Wait, Warp};
use crate::error::{AccessKind, FaultKind};
use crate::isa::{Addr, Mbarrier as Kind};
use std::collections::BTreeMap;

/// One object, kept beside the eight bytes that hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    count: u32,
    pending: u32,
    pub phase: u64,
    bytes: i64,
    /// What the completed phase made known, and what the current one collects.
    known: Vec<u32>,
    collecting: Vec<u32>,
    /// Phase up to which those who wait were woken.
    seen: u64,
}

impl State {
    /// Ends the phase if all arrivals and bytes are in.
    fn turn(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.known = std::mem::take(&mut self.collecting);
        }
    }
}

pub(crate) type Mbarriers = BTreeMap<usize, State>;

/// Largest number of arrivals, and of bytes, that an object can count.
const MAX: u32 = (1 << 20) - 1;

fn fault(offset: usize, what: impl Into<String>) -> Trip {
    Trip::new(FaultKind::Mbarrier { offset: offset as u64, what: what.into() })
}

impl Block<'_> {
    fn barrier_offset(&mut self, f: &Frame, addr: Addr, lane: usize) -> Res<usize> {
        let mut address = self.address_of(f, addr, lane);
        if address >= super::address::SHARED {
            address = address.wrapping_sub(super::address::SHARED);
        }
        if !address.is_multiple_of(8) {
            let space = crate::types::Space::Shared;
            return stop(lane, FaultKind::Misaligned { kind: AccessKind::Atomic, space, address, bytes: 8 });
        }
        match self.shared_target(lane, address, 8, AccessKind::Atomic)? {
            Target::Shared(at) => Ok(at),
            _ => stop(lane, fault(address as usize, "outside of shared memory")),
        }
    }

    fn object(&mut self, lane: usize, at: usize) -> Res<&mut State> {
        match self.mbarriers.get_mut(&at) {
            Some(m) => Ok(m),
            None => stop(lane, fault(at, "used without mbarrier.init")),
        }
    }

    pub(crate) fn mbarrier(&mut self, w: &mut Warp, f: &mut Frame, k: &Kind, addr: Addr, e: u32) -> Res<Flow> {
        if let Kind::Wait { done, state, parity, blocking } = k {
            return self.mbarrier_wait(w, f, addr, e, *done, *state, *parity, *blocking);
        }
        for l in (0..32).filter(|l| e >> l & 1 == 1) {
            let at = self.barrier_offset(f, addr, l)?;
            match k {
                Kind::Init { count } => self.init(w.id, l, at, f.lane(*count, l) as u32)?,
                Kind::Inval => {
                    self.object(l, at)?;
                    self.mbarriers.remove(&at);
                }
                Kind::Arrive { state, count, expect, drop } => {
                    let n = count.map_or(1, |c| f.lane(c, l) as u32);
                    let bytes = expect.map(|x| f.lane(x, l) as u32);
                    let phase = self.arrive(w.id, l, at, n, bytes, *drop)?;
                    if let Some(s) = state {
                        f.put_lane(*s, l, phase);
                    }
                }
                Kind::ExpectTx { bytes } => {
                    let n = f.lane(*bytes, l) as u32;
                    self.object(l, at)?.bytes += i64::from(n);
                }
                Kind::CompleteTx { bytes } => {
                    let n = f.lane(*bytes, l) as i64;
                    self.complete_bytes(l, at, n, None)?;
                }
                Kind::CpAsync { noinc } => {
                    if !noinc {
                        let m = self.object(l, at)?;
                        m.pending += 1;
                    }
                    self.object(l, at)?;
                    let copies = w.copies.iter().filter(|c| c.lane == l).copied().collect();
                    w.copies.retain(|c| c.lane != l);
                    let work = Work::Arrive { barrier: at, copies };
                    self.late.push(Late { warp: w.id, lane: l, group: u32::MAX, site: self.site, work });
                }
                Kind::Wait { .. } => {}
            }
        }
        Ok(Flow::Next)
    }

    fn init(&mut self, warp: usize, l: usize, at: usize, count: u32) -> Res {
        if count == 0 || count > MAX {
            return stop(l, fault(at, format!("a count of {count}")));
        }
        if self.slow() {
            let who = self.who(warp, l);
            self.shared.write(&mut self.clocks, who, at, 8, false, None).lane(l)?;
        }
        self.mbarriers.insert(at, State { count, pending: count, ..State::default() });
        Ok(())
    }

    /// The initialisation has to be ordered before any use.
    fn check_use(&mut self, warp: usize, l: usize, at: usize) -> Res {
        if self.slow() {
            let who = self.who(warp, l);
            self.shared.read(&mut self.clocks, who, at, 8, true, AccessKind::Atomic).lane(l)?;
        }
        Ok(())
    }

    pub(crate) fn arrive(
        &mut self,
        warp: usize,
        l: usize,
        at: usize,
        n: u32,
        bytes: Option<u32>,
        drop: bool,
    ) -> Res<u64> {
        self.object(l, at)?;
        self.check_use(warp, l, at)?;
        let slow = self.slow();
        let m = match self.mbarriers.get_mut(&at) {
            Some(m) => m,
            None => return stop(l, fault(at, "used without mbarrier.init")),
        };
        if let Some(b) = bytes {
            m.bytes += i64::from(b);
        }
        if n == 0 || n > m.pending {
            return stop(l, fault(at, format!("{n} more arrivals where {} are expected (of {})", m.pending, m.count)));
        }
        if slow {
            self.clocks.release(warp, 1 << l, &mut m.collecting);
        }
        m.pending -= n;
        if drop {
            m.count -= 1.min(m.count);
        }
        let phase = m.phase;
        m.turn();
        Ok(phase)
    }

    /// Bytes of a copy have come; `clock` is when, by the asynchronous engine.
    pub(crate) fn complete_bytes(&mut self, l: usize, at: usize, n: i64, clock: Option<u32>) -> Res {
        let engine = self.clocks.engine();
        let m = self.object(l, at)?;
        m.bytes -= n;
        if let Some(c) = clock {
            m.collecting.resize(engine + 1, 0);
            if let Some(x) = m.collecting.get_mut(engine) {
                *x = (*x).max(c);
            }
        }
        m.turn();
        Ok(())
    }

    fn mbarrier_wait(
        &mut self,
        w: &mut Warp,
        f: &mut Frame,
        addr: Addr,
        e: u32,
        done: crate::isa::Slot,
        state: crate::isa::Slot,
        parity: bool,
        blocking: bool,
    ) -> Res<Flow> {
        let mut passed = 0u32;
        let mut offset = 0;
        for l in (0..32).filter(|l| e >> l & 1 == 1) {
            let at = self.barrier_offset(f, addr, l)?;
            offset = at;
            self.object(l, at)?;
            self.check_use(w.id, l, at)?;
            let wanted = f.lane(state, l);
            let Some(m) = self.mbarriers.get(&at) else { continue };
            // By parity: the phase with this parity is complete when the current one has the other.
            if if parity { m.phase & 1 != wanted & 1 } else { m.phase != wanted } {
                passed |= 1 << l;
            }
        }
        if passed == 0 && blocking {
            return Ok(Flow::Wait { wait: Wait::Mbarrier { offset }, again: true });
        }
        if passed != 0 && self.slow() {
            let at = offset;
            if let Some(m) = self.mbarriers.get(&at) {
                self.clocks.acquire(w.id, passed, w.live, &m.known);
            }
        }
        f.put_pred(done, e, passed);
        if passed == 0 {
            self.spun = true;
            self.give_way = true;
            *f.init(done) |= e;
            return Ok(Flow::Wait { wait: Wait::Ready, again: false });
        }
        self.spun = false;
        Ok(Flow::Next)
    }

    /// Wakes who waits for an mbarrier that has changed.
    pub(crate) fn wake_mbarrier(&mut self) -> bool {
        let mut any = false;
        let turned: Vec<usize> = self.mbarriers.iter().filter(|(_, m)| m.seen != m.phase).map(|(at, _)| *at).collect();
        for at in turned {
            any |= self.wake(|w| *w == Wait::Mbarrier { offset: at });
            if let Some(m) = self.mbarriers.get_mut(&at) {
                m.seen = m.phase;
            }
        }
        any
    }
}
