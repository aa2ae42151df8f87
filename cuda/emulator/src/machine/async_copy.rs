//! `cp.async`: data lands when its thread waits, not before.

use super::access::Target;
use super::block::{AtLane, Block, Res, stop};
use super::exec::pred;
use super::warp::{Copy, Frame, Warp};
use crate::error::{AccessKind, FaultKind};
use crate::isa::{Addr, PredArg, Slot};
use crate::types::Space;

impl Block<'_> {
    pub(crate) fn cp_async<const CHECK: bool>(
        &mut self,
        w: &mut Warp,
        f: &Frame,
        e: u32,
        size: u32,
        dst: Addr,
        src: Addr,
        src_size: Option<Slot>,
        ignore: Option<PredArg>,
    ) -> Res {
        let size = size as usize;
        let ignored = ignore.map_or(0, |p| pred(f, p));
        for l in (0..32).filter(|l| e >> l & 1 == 1) {
            let to = self.address_of(f, dst, l);
            let from = self.address_of(f, src, l);
            let mut n = src_size.map_or(size, |s| f.lane(s, l) as usize);
            if ignored >> l & 1 == 1 {
                n = 0;
            }
            if n > size {
                return stop(l, FaultKind::Invalid(format!("cp.async of {n} bytes into {size}")));
            }
            for (space, kind, address) in
                [(Space::Shared, AccessKind::AsyncWrite, to), (Space::Global, AccessKind::Read, from)]
            {
                if address % size as u64 != 0 && self.launch.options.checks.alignment {
                    return stop(l, FaultKind::Misaligned { kind, space, address, bytes: size as u64 });
                }
            }
            let Target::Shared(at) = self.shared_target(l, to, size as u64, AccessKind::AsyncWrite)? else { continue };
            if n > 0 {
                if let Target::Global(i, offset) = self.global(l, from, n as u64, AccessKind::Read)? {
                    if CHECK {
                        self.check_read_global(w.id, l, i, offset, n)?;
                    }
                } else {
                    n = 0;
                }
            }
            if CHECK {
                let who = self.who(w.id, l);
                self.shared.launch_copy(&mut self.clocks, who, who.thread, at, size).lane(l)?;
                if let Some(d) = self.shared.data.get_mut(at..at + size) {
                    d.fill(0xff);
                }
            }
            w.copies.push(Copy { lane: l, at, from, size, source_size: n, group: w.groups[l], site: self.site });
        }
        Ok(())
    }

    pub(crate) fn check_read_global(
        &mut self,
        warp: usize,
        lane: usize,
        allocation: usize,
        at: usize,
        bytes: usize,
    ) -> Res {
        let Some(shadow) = self.launch.shadows.get(allocation) else { return Ok(()) };
        let base = self.launch.mapping.live[allocation].base;
        shadow.read(&mut self.knowledge, warp * 32 + lane, self.site, base, at, bytes, false).lane(lane)
    }

    /// Lands the copies of lanes `e` except those of the newest `keep` groups; `None`: committed or not.
    pub(crate) fn cp_wait(&mut self, w: &mut Warp, e: u32, keep: Option<u32>) -> Res {
        let slow = self.slow();
        let mut copies = std::mem::take(&mut w.copies);
        let mut result = Ok(());
        copies.retain(|c| {
            let due = e >> c.lane & 1 == 1
                && match keep {
                    Some(k) => c.group.saturating_add(k) < w.groups[c.lane],
                    None => true,
                };
            if due {
                let r = self.land(w.id, c, slow);
                if result.is_ok() {
                    result = r;
                }
            }
            !due
        });
        w.copies = copies;
        result
    }

    fn land(&mut self, warp: usize, c: &Copy, slow: bool) -> Res {
        let mut data = [0u8; 16];
        if c.source_size > 0
            && let Target::Global(i, at) = self.global(c.lane, c.from, c.source_size as u64, AccessKind::Read)?
        {
            let a = &self.launch.mapping.live[i];
            if c.source_size == 16 {
                data[..8].copy_from_slice(&a.load(at, 8).to_le_bytes());
                data[8..].copy_from_slice(&a.load(at + 8, 8).to_le_bytes());
            } else if let Some(d) = data.get_mut(..c.source_size) {
                a.read(at, d);
            }
        }
        if slow {
            self.shared.land(&self.clocks, warp * 32 + c.lane, c.site, c.at, c.size);
        }
        if let (Some(d), Some(s)) = (self.shared.data.get_mut(c.at..c.at + c.size), data.get(..c.size)) {
            d.copy_from_slice(s);
        }
        Ok(())
    }
}
