//! Basic blocks and immediate post-dominators.

use crate::isa::{Inst, Op};

/// Whether control can run or jump past the last instruction.
pub(crate) fn reaches_end(insts: &[Inst]) -> bool {
    let leaves = |op: &Op| matches!(op, Op::Bra { .. } | Op::BrIdx { .. } | Op::Ret | Op::Exit | Op::Trap);
    let falls = insts.last().is_none_or(|last| last.guard.is_some() || !leaves(&last.op));
    falls || insts.iter().any(|inst| targets(&inst.op).into_iter().any(|target| target as usize == insts.len()))
}

/// Marks leaders, numbers the blocks and gives every branch the place where its lanes meet again.
/// Returns the number of blocks.
pub(crate) fn analyse(insts: &mut [Inst]) -> u32 {
    let n = insts.len();
    let mut leader = vec![false; n];
    if let Some(l) = leader.first_mut() {
        *l = true;
    }
    for (i, inst) in insts.iter().enumerate() {
        for t in targets(&inst.op) {
            if let Some(l) = leader.get_mut(t as usize) {
                *l = true;
            }
        }
        if inst.op.ends_block()
            && let Some(l) = leader.get_mut(i + 1)
        {
            *l = true;
        }
    }
    let mut starts = Vec::new();
    for (i, inst) in insts.iter_mut().enumerate() {
        inst.leader = leader[i];
        if leader[i] {
            starts.push(i);
        }
        inst.block = starts.len() as u32 - 1;
    }
    let blocks = starts.len();
    // One virtual exit after the last block.
    let mut successors = vec![Vec::new(); blocks + 1];
    for (b, out) in successors.iter_mut().enumerate().take(blocks) {
        let last = starts.get(b + 1).copied().unwrap_or(n) - 1;
        let inst = &insts[last];
        for t in targets(&inst.op) {
            if let Some(i) = insts.get(t as usize) {
                out.push(i.block as usize);
            }
        }
        let falls = match inst.op {
            Op::Bra { .. } | Op::BrIdx { .. } | Op::Ret | Op::Exit | Op::Trap => inst.guard.is_some(),
            _ => true,
        };
        if falls {
            out.push(if last + 1 < n { insts[last + 1].block as usize } else { blocks });
        }
        if matches!(inst.op, Op::Ret | Op::Exit | Op::Trap) {
            out.push(blocks);
        }
    }
    let post = post_dominators(&successors);
    for (b, post) in post.iter().enumerate().take(blocks) {
        let last = starts.get(b + 1).copied().unwrap_or(n) - 1;
        insts[last].rejoin = match *post {
            Some(p) if p < blocks => starts[p] as u32,
            _ => u32::MAX,
        };
    }
    blocks as u32
}

fn targets(op: &Op) -> Vec<u32> {
    match op {
        Op::Bra { target } => vec![*target],
        Op::BrIdx { targets, .. } => targets.to_vec(),
        _ => Vec::new(),
    }
}

/// Cooper, Harvey and Kennedy's iteration on the reversed graph; the last node is the exit.
fn post_dominators(successors: &[Vec<usize>]) -> Vec<Option<usize>> {
    let n = successors.len();
    let exit = n - 1;
    let mut predecessors = vec![Vec::new(); n];
    for (b, out) in successors.iter().enumerate() {
        for &s in out {
            predecessors[s].push(b);
        }
    }
    // Post-order of the reversed graph from the exit, without recursion.
    let mut order = Vec::with_capacity(n);
    let mut number = vec![usize::MAX; n];
    let mut seen = vec![false; n];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((b, i)) = stack.pop() {
        if let Some(&p) = predecessors[b].get(i) {
            stack.push((b, i + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
        }
    }
    let mut idom = vec![None; n];
    idom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev() {
            if b == exit {
                continue;
            }
            let mut new: Option<usize> = None;
            for &s in &successors[b] {
                if idom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(mut a) => {
                        let mut c = s;
                        while a != c {
                            while number[a] < number[c] {
                                a = idom[a].unwrap_or(exit);
                            }
                            while number[c] < number[a] {
                                c = idom[c].unwrap_or(exit);
                            }
                        }
                        a
                    }
                });
            }
            if new.is_some() && idom[b] != new {
                idom[b] = new;
                changed = true;
            }
        }
    }
    idom
}

#[cfg(test)]
mod tests {
    use super::post_dominators;

    #[test]
    fn diamond_loop_and_endless_loop() {
        // 0 -> 1 2; 1 -> 3; 2 -> 3; 3 -> 3 4; 4 -> exit (6); 5 -> 5 (never leaves)
        let p = post_dominators(&[vec![1, 2], vec![3], vec![3], vec![3, 4], vec![6], vec![5], vec![]]);
        assert_eq!(p, [Some(3), Some(3), Some(3), Some(4), Some(6), None, Some(6)]);
    }
}
