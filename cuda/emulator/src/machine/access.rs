//! Loads, stores and atomics.

use super::address::{FUNCTION, LOCAL, PARAM, SHARED, WINDOW};
use super::block::{AtLane, Block, Res, stop};
use super::exec::Flow;
use super::global::synchronise;
use super::warp::{Frame, NONE, Warp};
use crate::error::{AccessKind, FaultKind};
use crate::float;
use crate::isa::{Addr, Clock, Rmw, Slot};
use crate::types::{Space, Ty};
use std::sync::atomic::Ordering::Relaxed;

/// Where an address of a lane leads.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// Allocation and offset.
    Global(usize, usize),
    Shared(usize),
    /// Frame (`NONE` for the current one) and byte.
    Local(usize, usize),
    Param(usize),
    /// Out of bounds with the check off.
    Nowhere,
}

impl Block<'_> {
    pub(crate) fn address_of(&self, f: &Frame, addr: Addr, lane: usize) -> u64 {
        f.lane(addr.base, lane).wrapping_add(addr.offset as u64)
    }

    fn out_of_bounds<T>(
        &self,
        lane: usize,
        kind: AccessKind,
        space: Space,
        address: u64,
        bytes: u64,
        detail: String,
        otherwise: T,
    ) -> Res<T> {
        if !self.launch.options.checks.bounds {
            return Ok(otherwise);
        }
        stop(lane, FaultKind::OutOfBounds { kind, space, address, bytes, detail })
    }

    fn aligned(&self, lane: usize, kind: AccessKind, space: Space, address: u64, bytes: u64, align: u64) -> Res {
        if address & (align - 1) != 0 && self.launch.options.checks.alignment {
            return stop(lane, FaultKind::Misaligned { kind, space, address, bytes });
        }
        Ok(())
    }

    /// Resolves an address in device memory.
    #[inline(always)]
    pub(crate) fn global(&mut self, lane: usize, address: u64, bytes: u64, kind: AccessKind) -> Res<Target> {
        if let Some(a) = self.launch.mapping.live.get(self.last_allocation)
            && let Some(at) = a.offset(address, bytes)
            && (!a.read_only || matches!(kind, AccessKind::Read | AccessKind::AsyncRead))
        {
            return Ok(Target::Global(self.last_allocation, at));
        }
        self.find_global(lane, address, bytes, kind)
    }

    #[inline(never)]
    fn find_global(&mut self, lane: usize, address: u64, bytes: u64, kind: AccessKind) -> Res<Target> {
        let mapping = &self.launch.mapping;
        let found = mapping.find(address).and_then(|i| Some((i, mapping.live.get(i)?)));
        if let Some((i, a)) = found
            && let Some(at) = a.offset(address, bytes)
        {
            if a.freed.load(Relaxed) {
                return stop(lane, FaultKind::UseAfterFree { kind, address, bytes });
            }
            if a.read_only && !matches!(kind, AccessKind::Read | AccessKind::AsyncRead) {
                return stop(lane, FaultKind::ReadOnly { address });
            }
            self.last_allocation = i;
            return Ok(Target::Global(i, at));
        }
        if mapping.freed.iter().any(|f| address.wrapping_sub(f.0) < f.1) {
            return stop(lane, FaultKind::UseAfterFree { kind, address, bytes });
        }
        let detail = match found {
            Some((_, a)) => {
                let name = a.name.as_ref().map_or(String::new(), |n| format!(" `{n}`"));
                let past = address.saturating_add(bytes).saturating_sub(a.base + a.len);
                format!("{past} bytes past the end of the allocation{name} of {} bytes at {:#x}", a.len, a.base)
            }
            None => "no allocation is near".to_string(),
        };
        self.out_of_bounds(lane, kind, Space::Global, address, bytes, detail, Target::Nowhere)
    }

    #[inline(always)]
    pub(crate) fn shared_target(&mut self, lane: usize, offset: u64, bytes: u64, kind: AccessKind) -> Res<Target> {
        if self.shared.valid(offset, bytes) {
            return Ok(Target::Shared(offset as usize));
        }
        let ranges: Vec<String> =
            self.shared.ranges.iter().filter(|r| r.0 < r.1).map(|r| format!("{}..{}", r.0, r.1)).collect();
        let detail = format!("shared memory of this block is at offsets [{}]", ranges.join(", "));
        self.out_of_bounds(lane, kind, Space::Shared, offset, bytes, detail, Target::Nowhere)
    }

    fn local_target(
        &self,
        w: &Warp,
        f: &Frame,
        lane: usize,
        address: u64,
        bytes: u64,
        kind: AccessKind,
    ) -> Res<Target> {
        let inside = |f: &Frame| {
            let at = address.wrapping_sub(f.local_base);
            let ok = at < f.local_size as u64 && bytes <= f.local_size as u64 - at;
            ok.then(|| lane * f.local_size + at as usize)
        };
        if let Some(at) = inside(f) {
            return Ok(Target::Local(NONE, at));
        }
        let mut caller = f.caller;
        for _ in 0..w.frames.len() {
            let Some(g) = w.frames.get(caller) else { break };
            if let Some(at) = inside(g) {
                return Ok(Target::Local(caller, at));
            }
            caller = g.caller;
        }
        let detail = format!("this thread's frame is at {}..{}", f.local_base, f.local_base + f.local_size as u64);
        self.out_of_bounds(lane, kind, Space::Local, address, bytes, detail, Target::Nowhere)
    }

    fn param_target(&self, lane: usize, at: u64, bytes: u64, kind: AccessKind) -> Res<Target> {
        let len = self.launch.params.len() as u64;
        if kind == AccessKind::Read && at < len && bytes <= len - at {
            return Ok(Target::Param(at as usize));
        }
        self.out_of_bounds(lane, kind, Space::Param, at, bytes, format!("{len} bytes of arguments"), Target::Nowhere)
    }

    #[inline(always)]
    fn target(
        &mut self,
        w: &Warp,
        f: &Frame,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u64,
        align: u64,
        kind: AccessKind,
    ) -> Res<Target> {
        self.aligned(lane, kind, space, address, bytes, align)?;
        match space {
            Space::Global | Space::Const => self.global(lane, address, bytes, kind),
            Space::Shared => self.shared_target(lane, address, bytes, kind),
            Space::Local => self.local_target(w, f, lane, address, bytes, kind),
            Space::Param => self.param_target(lane, address, bytes, kind),
            Space::Generic => match address {
                a if a.wrapping_sub(SHARED) < WINDOW => self.shared_target(lane, a - SHARED, bytes, kind),
                a if a.wrapping_sub(LOCAL) < WINDOW => self.local_target(w, f, lane, a - LOCAL, bytes, kind),
                a if a.wrapping_sub(PARAM) < WINDOW => self.param_target(lane, a - PARAM, bytes, kind),
                a => self.global(lane, a, bytes, kind),
            },
        }
    }

    #[inline(always)]
    pub(crate) fn load<const CHECK: bool>(
        &mut self,
        w: &Warp,
        f: &mut Frame,
        e: u32,
        space: Space,
        ty: Ty,
        strong: bool,
        d: &[Option<Slot>],
        addr: Addr,
    ) -> Res {
        let size = ty.bytes();
        let total = u64::from(size) * d.len() as u64;
        let mut left = e;
        while left != 0 {
            let l = left.trailing_zeros() as usize;
            left &= left - 1;
            let address = self.address_of(f, addr, l);
            let target = self.target(w, f, l, space, address, total, total, AccessKind::Read)?;
            if CHECK {
                self.check_load(w, l, target, address, total as usize, strong)?;
            }
            for (j, slot) in d.iter().enumerate() {
                let Some(slot) = slot else { continue };
                let step = j * size as usize;
                let v = match target {
                    Target::Global(i, at) => self.launch.mapping.live[i].load(at + step, size),
                    Target::Shared(at) => self.shared.load(at + step, size as usize),
                    Target::Local(NONE, at) => little(&f.local, at + step, size as usize),
                    Target::Local(i, at) => little(&w.frames[i].local, at + step, size as usize),
                    Target::Param(at) => little(&self.launch.params, at + step, size as usize),
                    Target::Nowhere => 0,
                };
                f.put_lane(*slot, l, if ty.signed() { ty.extend(v) } else { v });
            }
        }
        if strong {
            // Loops that poll must let others run.
            self.quantum = self.quantum.saturating_sub(64);
            if self.quantum == 0 {
                self.quantum = 1;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn check_load(&mut self, w: &Warp, l: usize, target: Target, address: u64, total: usize, strong: bool) -> Res {
        match target {
            Target::Shared(at) => {
                if strong {
                    self.shared.acquire_at(&mut self.clocks, w.id, l as u32, w.live, at);
                }
                let who = self.who(w.id, l);
                self.shared.read(&mut self.clocks, who, at, total, strong, AccessKind::Read).lane(l)
            }
            Target::Global(i, at) => {
                let Some(shadow) = self.launch.shadows.get(i) else { return Ok(()) };
                if strong {
                    synchronise(&self.launch.releases, &mut self.knowledge, address, false);
                }
                let a = &self.launch.mapping.live[i];
                if a.read_only {
                    return Ok(());
                }
                let thread = w.id * 32 + l;
                shadow.read(&mut self.knowledge, thread, self.site, a.base, at, total, strong).lane(l)
            }
            _ => Ok(()),
        }
    }

    #[inline(always)]
    pub(crate) fn store<const CHECK: bool>(
        &mut self,
        w: &mut Warp,
        f: &mut Frame,
        e: u32,
        space: Space,
        ty: Ty,
        strong: bool,
        s: &[Slot],
        addr: Addr,
    ) -> Res {
        let size = ty.bytes() as usize;
        let total = size as u64 * s.len() as u64;
        let mut left = e;
        while left != 0 {
            let l = left.trailing_zeros() as usize;
            left &= left - 1;
            let address = self.address_of(f, addr, l);
            let target = self.target(w, f, l, space, address, total, total, AccessKind::Write)?;
            if CHECK {
                self.check_store(w, f, l, target, address, total as usize, strong, ty, s)?;
            }
            for (j, slot) in s.iter().enumerate() {
                let step = j * size;
                let v = f.lane(*slot, l);
                match target {
                    Target::Global(i, at) => self.launch.mapping.live[i].store(at + step, size as u32, v),
                    Target::Shared(at) => self.shared.store(at + step, size, v),
                    Target::Local(NONE, at) => put_little(&mut f.local, at + step, size, v),
                    Target::Local(i, at) => put_little(&mut w.frames[i].local, at + step, size, v),
                    Target::Param(_) | Target::Nowhere => {}
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn check_store(
        &mut self,
        w: &Warp,
        f: &Frame,
        l: usize,
        target: Target,
        address: u64,
        total: usize,
        strong: bool,
        ty: Ty,
        s: &[Slot],
    ) -> Res {
        match target {
            Target::Shared(at) => {
                if strong && self.knowledge.fenced {
                    self.shared.release_at(&mut self.clocks, w.id, l as u32, at);
                }
                let who = self.who(w.id, l);
                let new = if s.len() == 1 { Some(ty.truncate(f.lane(s[0], l))) } else { None };
                self.shared.write(&mut self.clocks, who, at, total, strong, new).lane(l)
            }
            Target::Global(i, at) => {
                let Some(shadow) = self.launch.shadows.get(i) else { return Ok(()) };
                if strong {
                    synchronise(&self.launch.releases, &mut self.knowledge, address, true);
                }
                let a = &self.launch.mapping.live[i];
                let same = || {
                    s.iter()
                        .enumerate()
                        .all(|(j, x)| a.load(at + j * ty.bytes() as usize, ty.bytes()) == ty.truncate(f.lane(*x, l)))
                };
                let thread = w.id * 32 + l;
                shadow.write(&mut self.knowledge, thread, self.site, a.base, at, total, strong, false, same).lane(l)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn atomic<const CHECK: bool>(
        &mut self,
        w: &Warp,
        f: &mut Frame,
        e: u32,
        space: Space,
        k: Rmw,
        ty: Ty,
        d: Option<Slot>,
        addr: Addr,
        s: &[Slot],
        elements: u8,
    ) -> Res {
        let size = ty.bytes();
        let n = usize::from(elements);
        let total = u64::from(size) * n as u64;
        for l in (0..32).filter(|l| e >> l & 1 == 1) {
            let address = self.address_of(f, addr, l);
            let target = self.target(w, f, l, space, address, total, total, AccessKind::Atomic)?;
            if CHECK {
                self.check_atomic(w, l, target, address, total as usize)?;
            }
            for j in 0..n {
                let step = j * size as usize;
                let x = f.lane(s[j], l);
                let y = s.get(n + j).map_or(0, |s| f.lane(*s, l));
                let old = match target {
                    Target::Global(i, at) => {
                        let lock = &self.launch.locks[(address as usize >> 3) % self.launch.locks.len()];
                        let _guard = lock.lock().unwrap_or_else(|e| e.into_inner());
                        let a = &self.launch.mapping.live[i];
                        let old = a.load(at + step, size);
                        a.store(at + step, size, modify(k, ty, old, x, y));
                        old
                    }
                    Target::Shared(at) => {
                        let old = self.shared.load(at + step, size as usize);
                        self.shared.store(at + step, size as usize, modify(k, ty, old, x, y));
                        old
                    }
                    Target::Local(..) | Target::Param(_) => {
                        return stop(l, FaultKind::Invalid("an atomic on local memory".into()));
                    }
                    Target::Nowhere => 0,
                };
                if let Some(d) = d {
                    f.put_lane(d, l, old);
                }
            }
        }
        Ok(())
    }

    fn check_atomic(&mut self, w: &Warp, l: usize, target: Target, address: u64, total: usize) -> Res {
        match target {
            Target::Shared(at) => {
                self.shared.acquire_at(&mut self.clocks, w.id, l as u32, w.live, at);
                if self.knowledge.fenced {
                    self.shared.release_at(&mut self.clocks, w.id, l as u32, at);
                }
                let who = self.who(w.id, l);
                self.shared.atomic(&mut self.clocks, who, at, total).lane(l)
            }
            Target::Global(i, at) => {
                let Some(shadow) = self.launch.shadows.get(i) else { return Ok(()) };
                synchronise(&self.launch.releases, &mut self.knowledge, address, true);
                let base = self.launch.mapping.live[i].base;
                let thread = w.id * 32 + l;
                shadow.write(&mut self.knowledge, thread, self.site, base, at, total, true, true, || false).lane(l)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn maybe_yield(&mut self) -> Flow {
        Flow::Next
    }

    pub(crate) fn fence(&mut self) {
        self.knowledge.fenced = true;
    }

    pub(crate) fn cvta(&mut self, f: &mut Frame, e: u32, to_generic: bool, space: Space, d: Slot, a: Slot) {
        let base = match space {
            Space::Shared => SHARED,
            Space::Local => LOCAL,
            Space::Param => PARAM,
            _ => 0,
        };
        let v = f.get(a).map(|x| if to_generic { x.wrapping_add(base) } else { x.wrapping_sub(base) });
        f.put(d, e, v);
    }

    pub(crate) fn isspacep(&mut self, f: &mut Frame, e: u32, space: Space, d: Slot, a: Slot) {
        let inside = |x: u64, base: u64| x.wrapping_sub(base) < WINDOW;
        let constant = |x: u64| {
            let m = &self.launch.mapping;
            m.find(x).and_then(|i| m.live.get(i)).is_some_and(|a| a.read_only && a.offset(x, 1).is_some())
        };
        let v = f.get(a).map(|x| {
            u64::from(match space {
                Space::Shared => inside(x, SHARED),
                Space::Local => inside(x, LOCAL),
                Space::Param => inside(x, PARAM),
                Space::Const => constant(x),
                _ => ![SHARED, LOCAL, PARAM, FUNCTION].iter().any(|b| inside(x, *b)) && !constant(x),
            })
        });
        f.put(d, e, v);
    }

    pub(crate) fn clock(&mut self, f: &mut Frame, e: u32, which: Clock, d: Slot) {
        // Time passes with instructions, so that runs can be repeated.
        let t = self.warp_instructions.wrapping_mul(8).wrapping_add(u64::from(self.site));
        self.warp_instructions += 1;
        let v = match which {
            Clock::Full | Clock::Timer => t,
            Clock::Low | Clock::TimerLow => t & 0xffff_ffff,
            Clock::High | Clock::TimerHigh => t >> 32,
        };
        f.put(d, e, [v; 32]);
    }
}

pub(crate) fn little(data: &[u8], at: usize, bytes: usize) -> u64 {
    let mut v = [0u8; 8];
    if let (Some(s), Some(d)) = (data.get(at..at + bytes), v.get_mut(..bytes)) {
        d.copy_from_slice(s);
    }
    u64::from_le_bytes(v)
}

fn put_little(data: &mut [u8], at: usize, bytes: usize, v: u64) {
    if let (Some(d), Some(s)) = (data.get_mut(at..at + bytes), v.to_le_bytes().get(..bytes)) {
        d.copy_from_slice(s);
    }
}

/// What a read-modify-write leaves behind.
pub(crate) fn modify(k: Rmw, ty: Ty, old: u64, x: u64, y: u64) -> u64 {
    use super::alu::eval;
    use crate::isa::{Alu, Mods};
    let x = ty.truncate(x);
    match k {
        Rmw::Exch => x,
        Rmw::Cas => {
            if old == x {
                y
            } else {
                old
            }
        }
        Rmw::Inc => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
        Rmw::And => old & x,
        Rmw::Or => old | x,
        Rmw::Xor => old ^ x,
        // Single precision atomics in memory flush nothing here; see the README.
        Rmw::Add if ty == Ty::F32 => float::bits32(float::f32_of(old) + float::f32_of(x)),
        Rmw::Add => eval(Alu::Add, ty, Mods::PLAIN, [old, x, 0, 0]),
        Rmw::Min => eval(Alu::Min, ty, Mods::PLAIN, [old, x, 0, 0]),
        Rmw::Max => eval(Alu::Max, ty, Mods::PLAIN, [old, x, 0, 0]),
    }
}
