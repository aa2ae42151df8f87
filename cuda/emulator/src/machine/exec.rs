//! The main loop: runs a group of lanes until it waits or ends.

use super::block::{Block, Res, stop};
use super::warp::{Frame, Join, NONE, Split, Wait, Warp};
use super::{alu, lanes};
use crate::error::FaultKind;
use crate::isa::{Code, File, Inst, Logic, Op, PredArg, Slot};
use std::sync::atomic::Ordering::Relaxed;

/// What an instruction does to the flow of its group.
pub(crate) enum Flow {
    Next,
    /// The group waits; with `again`, at this very instruction.
    Wait {
        wait: Wait,
        again: bool,
    },
}

/// Runs a group with the best code that the host has.
pub(crate) fn run(b: &mut Block<'_>, w: &mut Warp, s: Split, slow: bool) -> Res {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the host has the features that the function is compiled for.
        return unsafe { run_avx2(b, w, s, slow) };
    }
    if slow { run_split::<true>(b, w, s) } else { run_split::<false>(b, w, s) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(b: &mut Block<'_>, w: &mut Warp, s: Split, slow: bool) -> Res {
    if slow { run_split::<true>(b, w, s) } else { run_split::<false>(b, w, s) }
}

#[inline(always)]
fn run_split<const CHECK: bool>(b: &mut Block<'_>, w: &mut Warp, s: Split) -> Res {
    let mut s = s;
    let mut spent = 0u64;
    // The frame leaves the warp while its code runs, so that both can be changed.
    let mut frame = super::calls::take(w, s.frame);
    let mut code: &Code = b.launch.code_of(frame.function);
    let mut first_site = b.launch.module.sites.get(frame.function).copied().unwrap_or(0);
    let mut rejoin = rejoin_of(w, &s);
    let r = loop {
        if s.pc == rejoin {
            match w.arrive(s.join, s.mask) {
                Some(next) => {
                    s = next;
                    rejoin = rejoin_of(w, &s);
                    continue;
                }
                None => break Ok(()),
            }
        }
        let Some(inst) = code.insts.get(s.pc) else { break stop(0, FaultKind::Trap) };
        b.site = first_site + s.pc as u32;
        spent += 1;
        if inst.leader
            && let Some(x) = b.launch.coverage.get(frame.function).and_then(|c| c.get(inst.block as usize))
            && !x.load(Relaxed)
        {
            x.store(true, Relaxed);
        }
        let e = match inst.guard {
            None => s.mask,
            Some(p) => s.mask & pred(&frame, p),
        };
        b.thread_instructions += u64::from(e.count_ones());
        if CHECK && let Err(x) = check_reads(b, &frame, code, inst, s.mask, e) {
            break Err(x);
        }
        match &inst.op {
            Op::Bra { target } => {
                let taken = e;
                let pc = s.pc + 1;
                if taken == s.mask {
                    s.pc = *target as usize;
                    if s.pc < pc {
                        b.quantum = b.quantum.saturating_sub(spent.min(1 << 20) as u32);
                        if let Err(t) = b.spend(std::mem::take(&mut spent)) {
                            break stop(0, t);
                        }
                        if b.quantum == 0 {
                            b.give_way = true;
                            w.splits.push(s);
                            break Ok(());
                        }
                    }
                } else if taken == 0 {
                    s.pc = pc;
                } else {
                    // The branch's other side waits in the warp's list.
                    let (join, rest) = diverge(w, code, &s, inst);
                    s = Split { join, ..s };
                    w.splits.push(Split { mask: s.mask & !taken, pc, join, ..rest });
                    s.mask = taken;
                    s.pc = *target as usize;
                    rejoin = rejoin_of(w, &s);
                }
                continue;
            }
            Op::BrIdx { index, targets } => match branch_indexed(w, &frame, code, &s, inst, *index, targets, e) {
                Ok(Some(next)) => {
                    s = next;
                    rejoin = rejoin_of(w, &s);
                    continue;
                }
                Ok(None) => break Ok(()),
                Err(x) => break Err(x),
            },
            Op::Ret if frame.ret != NONE => {
                let done = b.return_from(w, &mut frame, &s, e);
                s.mask &= !e;
                let at = s.frame;
                match done {
                    // All lanes of the call are back: the caller goes on.
                    Some(next) if s.mask == 0 => {
                        frame.in_use = false;
                        w.frames[at] = frame;
                        s = next;
                        frame = super::calls::take(w, s.frame);
                        code = b.launch.code_of(frame.function);
                        first_site = b.launch.module.sites.get(frame.function).copied().unwrap_or(0);
                        rejoin = rejoin_of(w, &s);
                        continue;
                    }
                    Some(next) => w.splits.push(next),
                    None if s.mask == 0 => break Ok(()),
                    None => {}
                }
                s.pc += 1;
                continue;
            }
            Op::Ret | Op::Exit => {
                s.mask &= !e;
                w.exit(s.join, e, (frame.function, s.pc));
                if s.mask == 0 {
                    break Ok(());
                }
                s.pc += 1;
                continue;
            }
            Op::Trap if e != 0 => break stop(e.trailing_zeros() as usize, FaultKind::Trap),
            Op::Call(call) if e != 0 => {
                let at = s.frame;
                match b.call(w, &mut frame, call, s, e) {
                    Ok(Some(next)) => {
                        w.frames[at] = frame;
                        s = next;
                        frame = super::calls::take(w, s.frame);
                        code = b.launch.code_of(frame.function);
                        first_site = b.launch.module.sites.get(frame.function).copied().unwrap_or(0);
                        rejoin = rejoin_of(w, &s);
                        continue;
                    }
                    Ok(None) => s.pc += 1,
                    Err(x) => break Err(x),
                }
                continue;
            }
            _ if e == 0 => {
                s.pc += 1;
                continue;
            }
            op => match step::<CHECK>(b, w, &mut frame, &mut s, op, e) {
                Ok(Flow::Next) => {}
                Ok(Flow::Wait { wait, again }) => {
                    s.wait = wait;
                    if !again {
                        s.pc += 1;
                        if CHECK {
                            written(&mut frame, inst, e);
                        }
                    }
                    w.splits.push(s);
                    break Ok(());
                }
                Err(x) => break Err(x),
            },
        }
        if CHECK && !matches!(inst.op, Op::Mov { .. } | Op::Selp { .. }) {
            written(&mut frame, inst, e);
        }
        s.pc += 1;
    };
    if !frame.r32.is_empty() || frame.in_use {
        w.frames[s.frame] = frame;
    }
    b.quantum = b.quantum.saturating_sub(spent.min(1 << 20) as u32);
    if b.quantum == 0 {
        b.give_way = true;
    }
    let budget = b.spend(spent);
    r?;
    match budget {
        Ok(()) => Ok(()),
        Err(t) => stop(0, t),
    }
}

#[inline(always)]
fn written(frame: &mut Frame, inst: &Inst, e: u32) {
    for slot in &inst.writes {
        *frame.init(*slot) |= e;
    }
}

fn rejoin_of(w: &Warp, s: &Split) -> usize {
    match w.joins.get(s.join) {
        Some(j) if !j.call && j.frame == s.frame => j.pc,
        _ => usize::MAX,
    }
}

/// The join of a divergent branch, and the group as it was.
fn diverge(w: &mut Warp, code: &Code, s: &Split, inst: &Inst) -> (usize, Split) {
    let at = inst.rejoin as usize;
    // Where the lanes would only meet to end, they need not meet.
    let ends = code.insts.get(at).is_none_or(|i| matches!(i.op, Op::Exit | Op::Ret) && i.guard.is_none());
    if inst.rejoin == u32::MAX || ends {
        return (s.join, *s);
    }
    let join = w.add_join(Join {
        pc: at,
        frame: s.frame,
        expected: s.mask,
        arrived: 0,
        parent: s.join,
        call: false,
        in_use: true,
    });
    (join, *s)
}

fn branch_indexed(
    w: &mut Warp,
    frame: &Frame,
    code: &Code,
    s: &Split,
    inst: &Inst,
    index: Slot,
    targets: &[u32],
    e: u32,
) -> Res<Option<Split>> {
    let (join, _) = diverge(w, code, s, inst);
    let values = frame.get(index);
    let mut left = e;
    let mut groups: Vec<Split> = Vec::new();
    if s.mask & !e != 0 {
        groups.push(Split { mask: s.mask & !e, pc: s.pc + 1, join, ..*s });
    }
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        let Some(target) = targets.get(values[lane] as usize) else {
            return stop(
                lane,
                FaultKind::Invalid(format!("brx.idx: index {} of {} targets", values[lane], targets.len())),
            );
        };
        let mut mask = 0;
        for (l, v) in values.iter().enumerate() {
            if left >> l & 1 == 1 && *v == values[lane] {
                mask |= 1 << l;
            }
        }
        left &= !mask;
        groups.push(Split { mask, pc: *target as usize, join, ..*s });
    }
    let next = groups.pop();
    w.splits.extend(groups);
    Ok(next)
}

#[inline(always)]
pub(crate) fn pred(frame: &Frame, p: PredArg) -> u32 {
    let v = frame.preds[p.slot.index()];
    if p.negated { !v } else { v }
}

#[inline(always)]
fn check_reads(b: &Block<'_>, frame: &Frame, code: &Code, inst: &Inst, mask: u32, e: u32) -> Res {
    if !frame.flying.is_empty() {
        check_flying(b, frame, code, inst)?;
    }
    // Copies pass on what is not written yet; a use of it is reported where it matters.
    if matches!(inst.op, Op::Mov { .. } | Op::Selp { .. }) {
        return Ok(());
    }
    for slot in &inst.reads {
        let (init, need) = match slot.file() {
            File::R32 => (frame.init32[slot.index()], e),
            File::R64 => (frame.init64[slot.index()], e),
            File::Pred => {
                (frame.init_pred[slot.index()], if inst.guard.is_some_and(|g| g.slot == *slot) { mask } else { e })
            }
        };
        if need & !init != 0 && b.launch.options.checks.registers {
            let lane = (need & !init).trailing_zeros() as usize;
            return stop(lane, FaultKind::UninitialisedRegister { register: register_name(code, *slot) });
        }
    }
    Ok(())
}

fn check_flying(b: &Block<'_>, frame: &Frame, code: &Code, inst: &Inst) -> Res {
    if !b.launch.options.checks.wgmma || matches!(inst.op, Op::Wgmma(_)) {
        return Ok(());
    }
    for slot in inst.reads.iter().chain(&inst.writes) {
        if slot.file() == File::R32 && frame.flying.get(slot.index()).is_some_and(|n| *n > 0) {
            return stop(0, FaultKind::AccumulatorInFlight { register: register_name(code, *slot) });
        }
    }
    Ok(())
}

pub(crate) fn register_name(code: &Code, slot: Slot) -> String {
    code.names.iter().find(|n| n.0 == slot).map_or_else(|| "?".into(), |n| n.1.clone())
}

/// One instruction that does not branch.
#[inline(always)]
fn step<const CHECK: bool>(
    b: &mut Block<'_>,
    w: &mut Warp,
    f: &mut Frame,
    s: &mut Split,
    op: &Op,
    e: u32,
) -> Res<Flow> {
    match op {
        Op::Alu { k, ty, m, d, s } => lanes::alu(f, e, *k, *ty, *m, *d, s),
        Op::Mov { d, a } => {
            lanes::mov(f, e, *d, *a);
            if CHECK {
                let from = *f.init(*a);
                let to = f.init(*d);
                *to = *to & !e | from & e;
            }
        }
        Op::Setp { cmp, ty, ftz, d, other, a, b, with } => {
            lanes::setp(f, e, *cmp, *ty, *ftz, *d, *other, *a, *b, *with)
        }
        Op::Selp { d, a, b: y, p } => {
            let p = pred(f, *p);
            if CHECK {
                let from = *f.init(*a) & p | *f.init(*y) & !p;
                let to = f.init(*d);
                *to = *to & !e | from & e;
            }
            lanes::selp(f, e, *d, *a, *y, p);
        }
        Op::Logic { k, d, a, b } => {
            let (x, y) = (pred(f, *a), pred(f, *b));
            let v = match k {
                Logic::And => x & y,
                Logic::Or => x | y,
                Logic::Xor => x ^ y,
            };
            f.put_pred(*d, e, v);
        }
        Op::MovPred { d, a } => {
            let v = pred(f, *a);
            f.put_pred(*d, e, v);
        }
        Op::Cvt { to, from, m, d, a } => lanes::cvt(f, e, *to, *from, *m, *d, *a),
        Op::CvtPack { to, m, d, a, b } => {
            let (x, y) = (f.r32[a.index()], f.r32[b.index()]);
            let v = std::array::from_fn(|l| alu::convert_pack(*to, *m, x[l].into(), y[l].into()) as u32);
            f.put32(*d, e, v);
        }
        Op::Ld { space, ty, strong, d, addr } => b.load::<CHECK>(w, f, e, *space, *ty, *strong, d, *addr)?,
        Op::St { space, ty, strong, s, addr } => b.store::<CHECK>(w, f, e, *space, *ty, *strong, s, *addr)?,
        Op::Mma(m) => {
            b.whole(w, e, "mma.sync")?;
            super::mma::mma(f, m);
        }
        Op::LdMatrix { trans, d, addr } => {
            b.whole(w, e, "ldmatrix")?;
            b.ldmatrix::<CHECK>(w, f, *trans, d, *addr)?;
        }
        Op::CpAsync { size, dst, src, src_size, ignore } => {
            b.cp_async::<CHECK>(w, f, e, *size, *dst, *src, *src_size, *ignore)?;
        }
        op => return rare::<CHECK>(b, w, f, s, op, e),
    }
    Ok(Flow::Next)
}

/// Instructions that need not be fast.
#[inline(never)]
fn rare<const CHECK: bool>(
    b: &mut Block<'_>,
    w: &mut Warp,
    f: &mut Frame,
    s: &mut Split,
    op: &Op,
    e: u32,
) -> Res<Flow> {
    match op {
        Op::Carry { k, ty, carry_in, carry_out, d, s } => lanes::carry(f, e, *k, *ty, *carry_in, *carry_out, *d, s),
        Op::Set { cmp, ty, to, ftz, d, a, b, with } => lanes::set(f, e, *cmp, *ty, *to, *ftz, *d, *a, *b, *with),
        Op::Testp { k, ty, d, a } => {
            let x = f.get(*a);
            let v = (0..32).fold(0, |v, l| v | u32::from(alu::testp(*k, *ty, x[l])) << l);
            f.put_pred(*d, e, v);
        }
        Op::Pack { bits, d, s } => lanes::pack(f, e, *bits, *d, s),
        Op::Unpack { bits, d, a } => lanes::unpack(f, e, *bits, d, *a),
        Op::Clock { which, d } => b.clock(f, e, *which, *d),
        Op::Atom { space, k, ty, d, addr, s, elements } => {
            b.atomic::<CHECK>(w, f, e, *space, *k, *ty, *d, *addr, s, *elements)?;
            return Ok(b.maybe_yield());
        }
        Op::Cvta { to_generic, space, d, a } => b.cvta(f, e, *to_generic, *space, *d, *a),
        Op::IsSpace { space, d, a } => b.isspacep(f, e, *space, *d, *a),
        Op::Bar { .. } => return b.bar(w, f, s, op, e),
        Op::ClusterArrive | Op::ClusterWait => return b.cluster(w, op, e),
        Op::WarpSync { mask } => return b.warp_sync(w, f, s, *mask, e),
        Op::Shfl { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } | Op::Elect { .. } => {
            return b.collective(w, f, s, op, e);
        }
        Op::ActiveMask { d } => f.put32(*d, e, [e; 32]),
        Op::Fence => b.fence(),
        Op::FenceAsync => b.fence_async(w, e),
        Op::CpCommit => {
            for l in 0..32 {
                w.groups[l] = w.groups[l].wrapping_add(e >> l & 1);
            }
        }
        Op::CpWait { keep } => b.cp_wait(w, e, *keep)?,
        Op::StMatrix { trans, s, addr } => {
            b.whole(w, e, "stmatrix")?;
            b.stmatrix::<CHECK>(w, f, *trans, s, *addr)?;
        }
        Op::MovMatrix { d, a } => {
            b.whole(w, e, "movmatrix")?;
            super::mma::movmatrix(f, *d, *a);
        }
        Op::Wgmma(g) => b.wgmma(w, f, s.frame, g, e)?,
        Op::WgFence => {
            b.whole(w, e, "wgmma.fence")?;
            w.wg_fenced = true;
        }
        Op::WgCommit => {
            b.whole(w, e, "wgmma.commit_group")?;
            w.wg_group += 1;
        }
        Op::WgWait { keep } => {
            b.whole(w, e, "wgmma.wait_group")?;
            b.wgmma_wait(w, f, s.frame, *keep)?;
        }
        Op::Mbarrier { k, addr } => return b.mbarrier(w, f, k, *addr, e),
        Op::Bulk(bulk) => b.bulk(w, f, bulk, e)?,
        Op::BulkCommit => {
            for l in 0..32 {
                w.bulk_groups[l] = w.bulk_groups[l].wrapping_add(e >> l & 1);
            }
        }
        Op::BulkWait { keep } => b.bulk_wait(w, e, *keep)?,
        _ => {}
    }
    Ok(Flow::Next)
}
