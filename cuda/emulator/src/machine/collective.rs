//! Shuffles, votes and their like.

use super::block::{Block, Res, stop};
use super::exec::{Flow, pred};
use super::warp::{Frame, Split, Wait, Warp};
use crate::error::FaultKind;
use crate::isa::{Op, Rmw, Shuffle, Slot, Vote};
use crate::types::Ty;

pub(crate) fn name(op: &Op) -> &'static str {
    match op {
        Op::Shfl { .. } => "shfl.sync",
        Op::Vote { .. } => "vote.sync",
        Op::Match { .. } => "match.sync",
        Op::Redux { .. } => "redux.sync",
        Op::Elect { .. } => "elect.sync",
        _ => "bar.warp.sync",
    }
}

impl Block<'_> {
    /// Runs a collective once all lanes of its mask are at it.
    pub(crate) fn collective(&mut self, w: &mut Warp, f: &mut Frame, s: &mut Split, op: &Op, e: u32) -> Res<Flow> {
        let (Op::Shfl { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. }) = op
        else {
            return Ok(Flow::Next);
        };
        let first = e.trailing_zeros() as usize;
        let mask = f.lane(*mask, first) as u32;
        let divergent = |missing: u32| FaultKind::Divergent { what: name(op).into(), mask, active: e, missing };
        if e & !mask != 0 && self.launch.options.checks.divergence {
            let lane = (e & !mask).trailing_zeros() as usize;
            return stop(lane, divergent(e & !mask));
        }
        let needed = mask & w.live;
        let mut here = e;
        // An exited lane cannot take part; naming it is an error of the kernel.
        let gone = mask & w.all & !w.live;
        if gone != 0 && self.launch.options.checks.divergence && self.launch.options.checks.exited {
            return stop(first, divergent(gone));
        }
        if e & needed != needed && self.launch.options.checks.divergence {
            let wait = Wait::Collective { mask };
            let same = |x: &Split| x.wait == wait && x.pc == s.pc && x.frame == s.frame;
            here = w.splits.iter().filter(|x| same(x)).fold(e, |m, x| m | x.mask);
            if here & needed != needed {
                if e != s.mask {
                    return stop(first, divergent(needed & !e));
                }
                return Ok(Flow::Wait { wait, again: true });
            }
            for x in w.splits.iter_mut().filter(|x| x.wait == wait && x.pc == s.pc && x.frame == s.frame) {
                x.wait = Wait::Ready;
                x.pc += 1;
            }
        }
        perform(f, op, here, mask);
        if here != e {
            // The others' results are written too.
            let writes: Vec<Slot> = match op {
                Op::Shfl { d, p, .. } | Op::Match { d, p, .. } => std::iter::once(*d).chain(*p).collect(),
                Op::Elect { d, p, .. } => d.iter().copied().chain(Some(*p)).collect(),
                Op::Vote { d, .. } | Op::Redux { d, .. } => vec![*d],
                _ => vec![],
            };
            for slot in writes {
                *f.init(slot) |= here;
            }
        }
        if self.launch.options.seed != 0 && self.random(8) == 0 {
            self.give_way = true;
            return Ok(Flow::Wait { wait: Wait::Ready, again: false });
        }
        Ok(Flow::Next)
    }
}

fn perform(f: &mut Frame, op: &Op, e: u32, mask: u32) {
    match op {
        Op::Shfl { k, d, p, a, b, c, .. } => {
            let x = f.r32[a.index()];
            let (b, c) = (f.r32[b.index()], f.r32[c.index()]);
            let mut inside = 0u32;
            let v = std::array::from_fn(|l| {
                let (source, ok) = shuffle(*k, l as i32, b[l] & 31, c[l]);
                inside |= u32::from(ok) << l;
                x[if ok { source } else { l }]
            });
            f.put32(*d, e, v);
            if let Some(p) = p {
                f.put_pred(*p, e, inside);
            }
        }
        Op::Vote { k, d, p, .. } => {
            let yes = pred(f, *p) & e & mask;
            let (all, any) = (yes == e & mask, yes != 0);
            match k {
                Vote::Ballot => f.put32(*d, e, [yes; 32]),
                _ => {
                    let v = match k {
                        Vote::All => all,
                        Vote::Any => any,
                        _ => all || !any,
                    };
                    f.put_pred(*d, e, if v { !0 } else { 0 });
                }
            }
        }
        Op::Match { all, d, p, a, .. } => {
            let x = f.get(*a);
            let group = |l: usize| (0..32).filter(|m| e >> m & 1 == 1 && x[*m] == x[l]).fold(0u32, |g, m| g | 1 << m);
            if *all {
                let same = group(e.trailing_zeros() as usize & 31) == e;
                f.put32(*d, e, [if same { e } else { 0 }; 32]);
                if let Some(p) = p {
                    f.put_pred(*p, e, if same { !0 } else { 0 });
                }
            } else {
                f.put32(*d, e, std::array::from_fn(group));
            }
        }
        Op::Redux { k, ty, d, a, .. } => {
            let x = f.r32[a.index()];
            let mut r: Option<u32> = None;
            for l in (0..32).filter(|l| e >> l & 1 == 1) {
                r = Some(match r {
                    None => x[l],
                    Some(r) => reduce(*k, *ty, r, x[l]),
                });
            }
            f.put32(*d, e, [r.unwrap_or(0); 32]);
        }
        Op::Elect { d, p, .. } => {
            let leader = e.trailing_zeros();
            if let Some(d) = d {
                f.put32(*d, e, [leader; 32]);
            }
            f.put_pred(*p, e, 1u32.checked_shl(leader).unwrap_or(0));
        }
        _ => {}
    }
}

fn reduce(k: Rmw, ty: Ty, a: u32, b: u32) -> u32 {
    super::access::modify(k, ty, a.into(), b.into(), 0) as u32
}

/// Source lane, and whether it is inside the segment.
pub(crate) fn shuffle(k: Shuffle, lane: i32, b: u32, c: u32) -> (usize, bool) {
    let segment = (c >> 8 & 31) as i32;
    let clamp = (c & 31) as i32;
    let b = b as i32;
    let max = (lane & segment) | (clamp & !segment);
    let min = lane & segment;
    let (j, ok) = match k {
        Shuffle::Up => (lane - b, lane - b >= max),
        Shuffle::Down => (lane + b, lane + b <= max),
        Shuffle::Bfly => (lane ^ b, lane ^ b <= max),
        Shuffle::Idx => {
            let j = min | (b & !segment);
            (j, j <= max)
        }
    };
    ((j & 31) as usize, ok)
}
