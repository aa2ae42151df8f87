//! A warp: its frames of registers, and the groups of lanes that are at the same place.

use crate::isa::{Cmp, Code, Const, File, Slot, Special};

pub(crate) type V32 = [u32; 32];
pub(crate) type V64 = [u64; 32];

/// No join, no frame.
pub(crate) const NONE: usize = usize::MAX;

/// Registers and local memory of one function call.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub function: usize,
    pub r32: Vec<V32>,
    pub r64: Vec<V64>,
    pub preds: Vec<u32>,
    /// Lanes that have written each register.
    pub init32: Vec<u32>,
    pub init64: Vec<u32>,
    pub init_pred: Vec<u32>,
    /// Registers of a wgmma that has not been waited for: how many of them.
    pub flying: Vec<u16>,
    pub carry: u32,
    /// Bytes of each lane, one lane after the other.
    pub local: Vec<u8>,
    pub local_size: usize,
    pub local_base: u64,
    /// Join at which its lanes return; `NONE` for the kernel itself.
    pub ret: usize,
    /// Frame of the caller.
    pub caller: usize,
    /// Instruction of the call in the caller's code.
    pub call: usize,
    pub in_use: bool,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn get(&self, s: Slot) -> V64 {
        match s.file() {
            File::R32 => self.r32[s.index()].map(u64::from),
            File::R64 => self.r64[s.index()],
            File::Pred => std::array::from_fn(|l| u64::from(self.preds[s.index()] >> l & 1)),
        }
    }

    #[inline(always)]
    pub(crate) fn lane(&self, s: Slot, l: usize) -> u64 {
        match s.file() {
            File::R32 => u64::from(self.r32[s.index()][l & 31]),
            File::R64 => self.r64[s.index()][l & 31],
            File::Pred => u64::from(self.preds[s.index()] >> (l & 31) & 1),
        }
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, s: Slot, e: u32, v: V64) {
        match s.file() {
            File::R32 => self.put32(s, e, v.map(|x| x as u32)),
            File::R64 => self.put64(s, e, v),
            File::Pred => {
                let mut bits = 0;
                for (l, x) in v.iter().enumerate() {
                    bits |= u32::from(x & 1 == 1) << l;
                }
                self.put_pred(s, e, bits);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put32(&mut self, s: Slot, e: u32, v: V32) {
        let t = &mut self.r32[s.index()];
        if e == !0 {
            *t = v;
        } else {
            for l in 0..32 {
                t[l] = if e >> l & 1 == 1 { v[l] } else { t[l] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put64(&mut self, s: Slot, e: u32, v: V64) {
        let t = &mut self.r64[s.index()];
        if e == !0 {
            *t = v;
        } else {
            for l in 0..32 {
                t[l] = if e >> l & 1 == 1 { v[l] } else { t[l] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put_pred(&mut self, s: Slot, e: u32, v: u32) {
        let t = &mut self.preds[s.index()];
        *t = *t & !e | v & e;
    }

    pub(crate) fn put_lane(&mut self, s: Slot, l: usize, v: u64) {
        match s.file() {
            File::R32 => self.r32[s.index()][l & 31] = v as u32,
            File::R64 => self.r64[s.index()][l & 31] = v,
            File::Pred => self.put_pred(s, 1 << (l & 31), if v & 1 == 1 { !0 } else { 0 }),
        }
    }

    /// Lanes that have written a register.
    #[inline(always)]
    pub(crate) fn init(&mut self, s: Slot) -> &mut u32 {
        match s.file() {
            File::R32 => &mut self.init32[s.index()],
            File::R64 => &mut self.init64[s.index()],
            File::Pred => &mut self.init_pred[s.index()],
        }
    }

    /// Makes the frame ready for a function.
    pub(crate) fn prepare(&mut self, code: &Code, ids: &Ids) {
        self.r32.clear();
        self.r32.resize(code.r32, [!0; 32]);
        self.r64.clear();
        self.r64.resize(code.r64, [!0; 32]);
        self.preds.clear();
        self.preds.resize(code.preds, 0);
        for (v, n) in [(&mut self.init32, code.r32), (&mut self.init64, code.r64), (&mut self.init_pred, code.preds)] {
            v.clear();
            v.resize(n, 0);
        }
        self.flying.clear();
        self.carry = 0;
        self.local_size = code.local as usize;
        self.local.clear();
        self.local.resize(self.local_size * 32, 0xff);
        self.in_use = true;
        for (slot, c) in &code.consts {
            let v = match c {
                Const::Bits(v) => [*v; 32],
                Const::Local(at) => [self.local_base + at; 32],
                Const::LocalGeneric(at) => [super::address::LOCAL + self.local_base + at; 32],
                Const::Special(s) => ids.special(*s),
            };
            self.put(*slot, !0, v);
            *self.init(*slot) = !0;
        }
        for slot in &code.initialised {
            *self.init(*slot) = !0;
        }
    }
}

/// What the special registers of a warp hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ids {
    pub warp: u32,
    pub block: [u32; 3],
    pub block_dim: [u32; 3],
    pub grid_dim: [u32; 3],
    pub dynamic_shared: u32,
    pub total_shared: u32,
}

impl Ids {
    fn special(&self, s: Special) -> V64 {
        let tid = |l: usize, axis: u8| {
            let t = self.warp * 32 + l as u32;
            let [x, y, _] = self.block_dim.map(|d| d.max(1));
            match axis {
                0 => t % x,
                1 => t / x % y,
                _ => t / x / y,
            }
        };
        let axis = |v: [u32; 3], i: u8| v[usize::from(i).min(2)];
        std::array::from_fn(|l| {
            u64::from(match s {
                Special::Tid(i) => tid(l, i),
                Special::Ntid(i) => axis(self.block_dim, i),
                Special::Ctaid(i) => axis(self.block, i),
                Special::Nctaid(i) => axis(self.grid_dim, i),
                Special::LaneId => l as u32,
                Special::WarpId => self.warp,
                Special::NwarpId => self.block_dim.iter().product::<u32>().div_ceil(32),
                Special::LaneMask(Cmp::Eq) => 1 << l,
                Special::LaneMask(Cmp::Lt) => (1 << l) - 1,
                Special::LaneMask(Cmp::Le) => !0 >> (31 - l),
                Special::LaneMask(Cmp::Gt) => !(!0 >> (31 - l)),
                Special::LaneMask(_) => !((1 << l) - 1),
                Special::DynamicShared => self.dynamic_shared,
                Special::TotalShared => self.total_shared,
                Special::Zero => 0,
                Special::One => 1,
            })
        })
    }
}

/// Why lanes do not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Ready,
    Barrier {
        id: u32,
    },
    WarpSync {
        mask: u32,
    },
    /// For the other lanes of a collective's mask.
    Collective {
        mask: u32,
    },
    Mbarrier {
        offset: usize,
    },
    Cluster,
}

/// Lanes at the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub mask: u32,
    pub pc: usize,
    pub frame: usize,
    pub join: usize,
    pub wait: Wait,
}

/// A place where lanes that went apart meet again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// Where they go on; for a call, behind it.
    pub pc: usize,
    pub frame: usize,
    pub expected: u32,
    pub arrived: u32,
    pub parent: usize,
    pub call: bool,
    pub in_use: bool,
}

/// A `cp.async` that has not landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub lane: usize,
    pub at: usize,
    pub from: u64,
    pub size: usize,
    pub source_size: usize,
    pub group: u32,
    pub site: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub id: usize,
    pub live: u32,
    /// Lanes that exist.
    pub all: u32,
    pub splits: Vec<Split>,
    pub joins: Vec<Join>,
    pub frames: Vec<Frame>,
    pub copies: Vec<Copy>,
    pub groups: [u32; 32],
    pub bulk_groups: [u32; 32],
    pub wgmmas: Vec<super::wgmma::Pending>,
    pub wg_group: u32,
    pub wg_fenced: bool,
    /// Where lanes left the kernel, for messages.
    pub exit_pc: (usize, usize),
}

impl Warp {
    pub(crate) fn begin(&mut self, id: usize, lanes: u32, function: usize, code: &Code, ids: &Ids) {
        self.id = id;
        self.live = if lanes >= 32 { !0 } else { (1 << lanes) - 1 };
        self.all = self.live;
        self.joins.clear();
        self.copies.clear();
        self.groups = [0; 32];
        self.bulk_groups = [0; 32];
        self.wgmmas.clear();
        self.wg_group = 0;
        self.wg_fenced = false;
        self.frames.truncate(1);
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let f = &mut self.frames[0];
        f.function = function;
        f.local_base = 0;
        f.ret = NONE;
        f.caller = NONE;
        f.prepare(code, ids);
        self.splits.clear();
        self.splits.push(Split { mask: self.live, pc: 0, frame: 0, join: NONE, wait: Wait::Ready });
    }

    pub(crate) fn add_join(&mut self, j: Join) -> usize {
        if let Some(i) = self.joins.iter().position(|x| !x.in_use) {
            self.joins[i] = j;
            i
        } else {
            self.joins.push(j);
            self.joins.len() - 1
        }
    }

    /// Lanes reach a join. Gives the group that goes on if all are there.
    pub(crate) fn arrive(&mut self, join: usize, mask: u32) -> Option<Split> {
        let j = self.joins.get_mut(join)?;
        j.arrived |= mask;
        self.complete(join)
    }

    fn complete(&mut self, join: usize) -> Option<Split> {
        let j = self.joins.get_mut(join)?;
        if j.arrived != j.expected {
            return None;
        }
        j.in_use = false;
        let j = *j;
        if j.call {
            for f in &mut self.frames {
                if f.in_use && f.ret == join {
                    f.in_use = false;
                }
            }
        }
        if j.expected == 0 {
            return None;
        }
        Some(Split { mask: j.expected, pc: j.pc, frame: j.frame, join: j.parent, wait: Wait::Ready })
    }

    /// Lanes will not come to the joins from `join` up to (without) `stop`. Groups that wait only for them go on.
    pub(crate) fn leave(&mut self, mut join: usize, stop: usize, mask: u32) {
        while join != stop && join != NONE {
            let Some(j) = self.joins.get_mut(join) else { return };
            j.expected &= !mask;
            let parent = j.parent;
            if let Some(s) = self.complete(join) {
                self.splits.push(s);
            }
            join = parent;
        }
    }

    pub(crate) fn exit(&mut self, join: usize, mask: u32, at: (usize, usize)) {
        self.live &= !mask;
        self.exit_pc = at;
        self.leave(join, NONE, mask);
    }
}
