//! Calls and returns.

use super::address::FUNCTION;
use super::block::{Block, Res, stop};
use super::warp::{Frame, Ids, Join, NONE, Split, Wait, Warp};
use crate::error::FaultKind;
use crate::isa::{Call, Callee};

/// Nested calls of a warp, recursion included.
const MAX_DEPTH: usize = 512;

impl Frame {
    fn bytes(&self, lane: usize, at: u32, n: u32) -> Option<&[u8]> {
        let start = lane * self.local_size + at as usize;
        self.local.get(start..start + n as usize)
    }
}

/// Takes a frame out of its warp; its place stays reserved.
pub(crate) fn take(w: &mut Warp, at: usize) -> Frame {
    let f = std::mem::take(&mut w.frames[at]);
    let place = &mut w.frames[at];
    place.in_use = true;
    place.ret = f.ret;
    place.caller = f.caller;
    f
}

impl Block<'_> {
    /// Begins a call by the lanes `e` of a group. `None`: the call is done already.
    pub(crate) fn call(
        &mut self,
        w: &mut Warp,
        frame: &mut Frame,
        call: &Call,
        s: Split,
        e: u32,
    ) -> Res<Option<Split>> {
        let mut groups: Vec<(usize, u32)> = Vec::new();
        match call.callee {
            Callee::Function(i) => groups.push((i, e)),
            Callee::Pointer(slot) => {
                let values = frame.get(slot);
                for l in (0..32).filter(|l| e >> l & 1 == 1) {
                    let address = values[l];
                    let index = (address.wrapping_sub(FUNCTION) / 16) as usize;
                    let codes = &self.launch.module.codes;
                    let code = codes.get(index).and_then(Option::as_ref);
                    let fits = |c: &crate::isa::Code| {
                        c.params.len() == call.args.len() && c.returns.len() == call.returns.len()
                    };
                    if !address.is_multiple_of(16) || !code.is_some_and(fits) {
                        return stop(l, FaultKind::BadCall { address });
                    }
                    match groups.iter_mut().find(|g| g.0 == index) {
                        Some(g) => g.1 |= 1 << l,
                        None => groups.push((index, 1 << l)),
                    }
                }
            }
            Callee::AssertFail => {
                let lane = e.trailing_zeros() as usize;
                let text = self.assertion(frame, call, lane);
                return stop(lane, FaultKind::Assertion(text));
            }
            Callee::Printf => return Ok(None),
        }
        let depth = std::iter::successors(Some(frame.caller), |c| w.frames.get(*c).map(|f| f.caller))
            .take_while(|c| *c != NONE)
            .count();
        let base = frame.local_base + frame.local_size as u64;
        let lane = e.trailing_zeros() as usize;
        let bytes: usize = w.frames.iter().map(|f| f.r32.len() * 128 + f.r64.len() * 256 + f.local.len()).sum();
        if depth > MAX_DEPTH || base > self.launch.options.stack || bytes as u64 > self.launch.options.host_memory / 32
        {
            return stop(lane, FaultKind::StackOverflow);
        }
        let join = w.add_join(Join {
            pc: s.pc + 1,
            frame: s.frame,
            expected: s.mask,
            arrived: s.mask & !e,
            parent: s.join,
            call: true,
            in_use: true,
        });
        let ids = Ids { warp: w.id as u32, ..self.ids };
        let mut last = None;
        for (function, mask) in groups {
            let code = self.launch.code_of(function);
            let at = match w.frames.iter().position(|f| !f.in_use) {
                Some(i) if i != s.frame && i != 0 => i,
                _ => {
                    w.frames.push(Frame::default());
                    w.frames.len() - 1
                }
            };
            let f = &mut w.frames[at];
            f.function = function;
            f.local_base = base;
            f.ret = join;
            f.caller = s.frame;
            f.call = s.pc;
            f.prepare(code, &ids);
            for (from, to) in call.args.iter().zip(&code.params) {
                copy(frame, *from, f, *to, mask);
            }
            if let Some(x) = last.replace(Split { mask, pc: 0, frame: at, join, wait: Wait::Ready }) {
                w.splits.push(x);
            }
        }
        Ok(last)
    }

    /// Lanes `e` return. Gives the caller's group if they are the last.
    pub(crate) fn return_from(&mut self, w: &mut Warp, frame: &mut Frame, s: &Split, e: u32) -> Option<Split> {
        let code = self.launch.code_of(frame.function);
        if let Some(caller) = w.frames.get_mut(frame.caller) {
            let calls = self.launch.code_of(caller.function);
            if let Some(crate::isa::Op::Call(call)) = calls.insts.get(frame.call).map(|i| &i.op) {
                for (from, to) in code.returns.iter().zip(&call.returns) {
                    copy(frame, *from, caller, *to, e);
                }
            }
        }
        w.leave(s.join, frame.ret, e);
        w.arrive(frame.ret, e)
    }

    fn assertion(&self, f: &Frame, call: &Call, lane: usize) -> String {
        let text = |i: usize| -> String {
            let Some((at, 8)) = call.args.get(i).copied() else { return String::new() };
            let Some(b) = f.bytes(lane, at, 8) else { return String::new() };
            let address = super::access::little(b, 0, 8);
            let m = &self.launch.mapping;
            let Some(a) = m.find(address).and_then(|i| m.live.get(i)) else { return String::new() };
            let bytes =
                (0..200).map_while(|k| a.offset(address + k, 1).map(|at| a.load(at, 1) as u8)).take_while(|b| *b != 0);
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        };
        text(0)
    }
}

fn copy(from: &Frame, (a, n): (u32, u32), to: &mut Frame, (b, m): (u32, u32), mask: u32) {
    let n = n.min(m);
    let size = to.local_size;
    for l in (0..32).filter(|l| mask >> l & 1 == 1) {
        let start = l * size + b as usize;
        if let (Some(s), Some(d)) = (from.bytes(l, a, n), to.local.get_mut(start..start + n as usize)) {
            d.copy_from_slice(s);
        }
    }
}
