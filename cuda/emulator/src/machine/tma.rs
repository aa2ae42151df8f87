//! Bulk and tensor copies; they run as late as possible.

use super::access::{Target, modify};
use super::block::{AtLane, Block, Res, stop};
use super::trip::Trip;
use super::warp::{Copy, Frame, Warp};
use crate::error::{AccessKind, Fault, FaultKind};
use crate::isa::{Bulk, BulkKind, Rmw};
use crate::tensor_map::{Element, TensorMap};
use crate::types::{Space, Ty};

/// Something to be done when nobody can go on, or when it is waited for.
#[derive(Debug)]
pub(crate) struct Late {
    pub warp: usize,
    pub lane: usize,
    /// Bulk group of the thread; only for copies to device memory.
    pub group: u32,
    pub site: u32,
    pub work: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Device or shared memory to shared memory.
    Load { at: usize, bytes: usize, from: Source, barrier: usize },
    /// Shared memory to device memory.
    Store { at: usize, bytes: usize, to: Source, op: Option<(Rmw, Ty)> },
    /// `cp.async.mbarrier.arrive`: the thread's copies, then an arrival.
    Arrive { barrier: usize, copies: Vec<Copy> },
}

#[derive(Debug)]
pub(crate) enum Source {
    Linear(u64),
    Shared(usize),
    Tensor(Box<TensorMap>, [i64; 5]),
}

/// Elements of a box: offset in shared memory, and address in device memory or `None` outside.
fn elements(map: &TensorMap, start: &[i64; 5], mut f: impl FnMut(usize, Option<u64>) -> Res) -> Res {
    let n = map.dims.len().min(5);
    let size = map.element.bytes();
    let mut count = [1usize; 5];
    for (d, c) in count.iter_mut().enumerate().take(n) {
        *c = map.count(d);
    }
    let total: usize = count.iter().product();
    for i in 0..total {
        let mut rest = i;
        let mut address = Some(map.address);
        for d in 0..n {
            let step = rest % count[d];
            rest /= count[d];
            let at = start[d] + (step * map.step(d) as usize) as i64;
            let stride = if d == 0 { size } else { map.strides[d - 1] };
            address = match address {
                Some(a) if at >= 0 && (at as u64) < map.dims[d] => Some(a.wrapping_add(at as u64 * stride)),
                _ => None,
            };
        }
        f(i * size as usize, address)?;
    }
    Ok(())
}

fn fill_value(map: &TensorMap) -> u64 {
    match map.element {
        _ if !map.nan_fill => 0,
        Element::F16 | Element::Bf16 => 0x7fff,
        Element::F32 => 0x7fff_ffff,
        _ => 0x7fff_ffff_ffff_ffff,
    }
}

fn element_type(e: Element) -> Ty {
    match e {
        Element::U8 => Ty::U8,
        Element::U16 => Ty::U16,
        Element::U32 => Ty::U32,
        Element::I32 => Ty::S32,
        Element::U64 => Ty::U64,
        Element::I64 => Ty::S64,
        Element::F16 => Ty::F16,
        Element::F32 => Ty::F32,
        Element::F64 => Ty::F64,
        Element::Bf16 => Ty::Bf16,
    }
}

impl Block<'_> {
    fn tensor_map(&mut self, l: usize, address: u64) -> Res<TensorMap> {
        let mut bytes = [0u8; 128];
        let param = address.wrapping_sub(super::address::PARAM);
        if !address.is_multiple_of(64) {
            return stop(l, Trip::invalid(format!("tensor map at {address:#x}, which is no multiple of 64")));
        }
        if param < super::address::WINDOW {
            let range = usize::try_from(param).ok().and_then(|p| self.launch.params.get(p..p.checked_add(128)?));
            match range {
                Some(r) => bytes.copy_from_slice(r),
                None => return stop(l, Trip::invalid("a tensor map outside of the arguments")),
            }
        } else if let Target::Global(i, at) = self.global(l, address, 128, AccessKind::Read)? {
            self.launch.mapping.live[i].read(at, &mut bytes);
        }
        TensorMap::decode(&bytes).map_err(|e| Trip::invalid(e.to_string())).lane(l)
    }

    fn shared_offset(&mut self, l: usize, address: u64, bytes: u64, align: u64, kind: AccessKind) -> Res<usize> {
        let address =
            if address >= super::address::SHARED { address.wrapping_sub(super::address::SHARED) } else { address };
        if address % align != 0 && self.launch.options.checks.alignment {
            return stop(l, FaultKind::Misaligned { kind, space: Space::Shared, address, bytes });
        }
        match self.shared_target(l, address, bytes, kind)? {
            Target::Shared(at) => Ok(at),
            _ => stop(l, Trip::invalid("a copy outside of shared memory")),
        }
    }

    pub(crate) fn bulk(&mut self, w: &Warp, f: &Frame, bulk: &Bulk, e: u32) -> Res {
        for l in (0..32).filter(|l| e >> l & 1 == 1) {
            let shared = self.address_of(f, bulk.shared, l);
            let global = self.address_of(f, bulk.global, l);
            let (place, bytes, align) = match &bulk.coords {
                Some(c) => {
                    let map = self.tensor_map(l, global)?;
                    if map.dims.len() != c.len() {
                        let what = format!("{} coordinates for a tensor map of {} dimensions", c.len(), map.dims.len());
                        return stop(l, Trip::invalid(what));
                    }
                    let mut start = [0i64; 5];
                    for (s, c) in start.iter_mut().zip(c) {
                        *s = i64::from(f.lane(*c, l) as i32);
                    }
                    let bytes = map.box_bytes();
                    (Source::Tensor(Box::new(map), start), bytes, 128)
                }
                None => {
                    let bytes = bulk.size.map_or(0, |s| f.lane(s, l) as usize);
                    if !bytes.is_multiple_of(16) {
                        return stop(
                            l,
                            Trip::invalid(format!("a bulk copy of {bytes} bytes, which is no multiple of 16")),
                        );
                    }
                    if let BulkKind::SharedToShared { .. } = bulk.kind {
                        (
                            Source::Shared(self.shared_offset(l, global, bytes as u64, 16, AccessKind::AsyncRead)?),
                            bytes,
                            16,
                        )
                    } else {
                        if !global.is_multiple_of(16) && self.launch.options.checks.alignment {
                            let (kind, space) = (AccessKind::Read, Space::Global);
                            return stop(
                                l,
                                FaultKind::Misaligned { kind, space, address: global, bytes: bytes as u64 },
                            );
                        }
                        (Source::Linear(global), bytes, 16)
                    }
                }
            };
            if bytes == 0 {
                continue;
            }
            match bulk.kind {
                BulkKind::GlobalToShared { barrier } | BulkKind::SharedToShared { barrier } => {
                    let at = self.shared_offset(l, shared, bytes as u64, align, AccessKind::AsyncWrite)?;
                    let barrier = self.address_of(f, barrier, l);
                    let barrier = self.shared_offset(l, barrier, 8, 8, AccessKind::Atomic)?;
                    if !self.mbarriers.contains_key(&barrier) {
                        let what = "a copy completes on it, without mbarrier.init".to_string();
                        return stop(l, FaultKind::Mbarrier { offset: barrier as u64, what });
                    }
                    self.check_source(w.id, l, &place, bytes)?;
                    if self.slow() {
                        let (who, engine) = (self.who(w.id, l), self.clocks.engine());
                        self.shared.launch_copy(&mut self.clocks, who, engine, at, bytes).lane(l)?;
                        if let Some(d) = self.shared.data.get_mut(at..at + bytes) {
                            d.fill(0xff);
                        }
                    }
                    let work = Work::Load { at, bytes, from: place, barrier };
                    self.late.push(Late { warp: w.id, lane: l, group: u32::MAX, site: self.site, work });
                }
                BulkKind::SharedToGlobal | BulkKind::Reduce { .. } => {
                    let at = self.shared_offset(l, shared, bytes as u64, align, AccessKind::AsyncRead)?;
                    if self.slow() {
                        let who = self.who(w.id, l);
                        self.shared.read(&mut self.clocks, who, at, bytes, false, AccessKind::AsyncRead).lane(l)?;
                    }
                    let op = match (bulk.kind, &place) {
                        (BulkKind::Reduce { op, .. }, Source::Tensor(m, _)) => Some((op, element_type(m.element))),
                        (BulkKind::Reduce { op, ty }, _) => Some((op, ty)),
                        _ => None,
                    };
                    self.check_destination(l, &place, bytes)?;
                    let work = Work::Store { at, bytes, to: place, op };
                    self.late.push(Late { warp: w.id, lane: l, group: w.bulk_groups[l], site: self.site, work });
                }
                BulkKind::Prefetch => {}
            }
        }
        Ok(())
    }

    fn check_source(&mut self, warp: usize, l: usize, from: &Source, bytes: usize) -> Res {
        match from {
            Source::Linear(a) => {
                if let Target::Global(i, at) = self.global(l, *a, bytes as u64, AccessKind::Read)? {
                    self.check_read_global(warp, l, i, at, bytes)?;
                }
                Ok(())
            }
            Source::Shared(at) => {
                if self.slow() {
                    let who = self.who(warp, l);
                    self.shared.read(&mut self.clocks, who, *at, bytes, false, AccessKind::AsyncRead).lane(l)?;
                }
                Ok(())
            }
            Source::Tensor(map, start) => {
                let size = map.element.bytes();
                elements(map, start, |_, a| {
                    if let Some(a) = a
                        && let Target::Global(i, at) = self.global(l, a, size, AccessKind::Read)?
                    {
                        self.check_read_global(warp, l, i, at, size as usize)?;
                    }
                    Ok(())
                })
            }
        }
    }

    fn check_destination(&mut self, l: usize, to: &Source, bytes: usize) -> Res {
        match to {
            Source::Linear(a) => self.global(l, *a, bytes as u64, AccessKind::Write).map(|_| ()),
            Source::Shared(_) => Ok(()),
            Source::Tensor(map, start) => elements(map, start, |_, a| {
                if let Some(a) = a {
                    self.global(l, a, map.element.bytes(), AccessKind::Write)?;
                }
                Ok(())
            }),
        }
    }

    /// Does one piece of late work.
    pub(crate) fn run_late(&mut self, i: usize) -> Result<(), Box<Fault>> {
        if i >= self.late.len() {
            return Ok(());
        }
        let late = self.late.remove(i);
        self.site = late.site;
        let (warp, lane) = (late.warp, late.lane);
        self.perform(late).map_err(|mut s| {
            s.lane = lane;
            self.dress(s, warp)
        })
    }

    fn perform(&mut self, late: Late) -> Res {
        let l = late.lane;
        match late.work {
            Work::Load { at, bytes, from, barrier } => {
                let mut data = vec![0u8; bytes];
                let mut swizzle = crate::tensor_map::Swizzle::None;
                match &from {
                    Source::Linear(a) => {
                        if let Target::Global(i, offset) = self.global(l, *a, bytes as u64, AccessKind::Read)? {
                            self.launch.mapping.live[i].read(offset, &mut data);
                        }
                    }
                    Source::Shared(s) => {
                        if let Some(src) = self.shared.data.get(*s..*s + bytes) {
                            data.copy_from_slice(src);
                        }
                    }
                    Source::Tensor(map, start) => {
                        swizzle = map.swizzle;
                        let size = map.element.bytes() as usize;
                        elements(map, start, |offset, a| {
                            let v = match a {
                                Some(a) => match self.global(l, a, size as u64, AccessKind::Read)? {
                                    Target::Global(i, at) => self.launch.mapping.live[i].load(at, size as u32),
                                    _ => 0,
                                },
                                None => fill_value(map),
                            };
                            if let Some(d) = data.get_mut(offset..offset + size) {
                                d.copy_from_slice(&v.to_le_bytes()[..size]);
                            }
                            Ok(())
                        })?;
                    }
                }
                for (c, chunk) in data.chunks(16).enumerate() {
                    let to = swizzle.apply(at + c * 16);
                    if let Some(d) = self.shared.data.get_mut(to..to + chunk.len()) {
                        d.copy_from_slice(chunk);
                    }
                }
                self.clocks.tick();
                let engine = self.clocks.engine();
                if self.slow() {
                    self.shared.land(&self.clocks, engine, late.site, at, bytes);
                }
                let now = self.clocks.now;
                self.complete_bytes(l, barrier, bytes as i64, Some(now))
            }
            Work::Store { at, bytes, to, op } => self.store_bulk(late.warp, l, at, bytes, &to, op),
            Work::Arrive { barrier, copies } => {
                let mut w = Warp { id: late.warp, copies, ..Warp::default() };
                self.cp_wait(&mut w, 1 << l, None)?;
                self.site = late.site;
                self.arrive(late.warp, l, barrier, 1, None, false).map(|_| ())
            }
        }
    }

    fn store_bulk(
        &mut self,
        warp: usize,
        l: usize,
        at: usize,
        bytes: usize,
        to: &Source,
        op: Option<(Rmw, Ty)>,
    ) -> Res {
        let mut pieces: Vec<(usize, u64, usize)> = Vec::new();
        let mut swizzle = crate::tensor_map::Swizzle::None;
        match to {
            Source::Linear(a) => {
                let step = op.map_or(4, |o| o.1.bytes() as usize);
                pieces.extend((0..bytes / step).map(|i| (i * step, a + (i * step) as u64, step)));
            }
            Source::Shared(_) => {}
            Source::Tensor(map, start) => {
                swizzle = map.swizzle;
                let size = map.element.bytes() as usize;
                elements(map, start, |offset, a| {
                    if let Some(a) = a {
                        pieces.push((offset, a, size));
                    }
                    Ok(())
                })?;
            }
        }
        for (offset, a, size) in pieces {
            let v = self.shared.load(swizzle.apply(at + offset), size);
            let Target::Global(i, to) = self.global(l, a, size as u64, AccessKind::Write)? else { continue };
            let memory = &self.launch.mapping.live[i];
            if let Some(shadow) = self.launch.shadows.get(i) {
                let (thread, atomic) = (warp * 32 + l, op.is_some());
                let same = || memory.load(to, size as u32) == v;
                shadow
                    .write(&mut self.knowledge, thread, self.site, memory.base, to, size, atomic, atomic, same)
                    .lane(l)?;
            }
            match op {
                None => memory.store(to, size as u32, v),
                Some((k, ty)) => {
                    let lock = &self.launch.locks[(a as usize >> 3) % self.launch.locks.len()];
                    let _guard = lock.lock().unwrap_or_else(|e| e.into_inner());
                    memory.store(to, size as u32, modify(k, ty, memory.load(to, size as u32), v, 0));
                }
            }
        }
        Ok(())
    }

    /// `cp.async.bulk.wait_group`: the thread's committed groups but the newest `keep`.
    pub(crate) fn bulk_wait(&mut self, w: &Warp, e: u32, keep: u32) -> Res {
        let site = self.site;
        let mut i = 0;
        while i < self.late.len() {
            let x = &self.late[i];
            let mine = x.warp == w.id && e >> x.lane & 1 == 1 && x.group != u32::MAX;
            if mine && x.group.saturating_add(keep) < w.bulk_groups[x.lane] {
                let late = self.late.remove(i);
                self.site = late.site;
                self.perform(late)?;
            } else {
                i += 1;
            }
        }
        self.site = site;
        Ok(())
    }
}
