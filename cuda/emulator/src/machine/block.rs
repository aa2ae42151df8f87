//! A block: its warps, and the order in which they run.

use super::Launch;
use super::clocks::Clocks;
use super::global::Knowledge;
use super::mbarrier::Mbarriers;
use super::shared::{Shared, Who};
use super::sync::Barrier;
use super::tma::Late;
use super::trip::{Site, Trip};
use super::warp::{Ids, Split, Wait, Warp};
use crate::error::{Fault, FaultKind, Waiter};
use std::sync::atomic::Ordering::Relaxed;

/// Instructions after which a warp gives way to the others.
const QUANTUM: u32 = 20_000;
/// Instructions that a block takes from the launch's budget at once.
const ADVANCE: u64 = 1 << 14;

/// A fault with its lane.
#[derive(Debug)]
pub(crate) struct Stop {
    pub lane: usize,
    pub trip: Trip,
    /// Where, if not at the instruction that runs.
    pub site: Option<Site>,
}

pub(crate) type Res<T = ()> = Result<T, Stop>;

pub(crate) trait AtLane<T> {
    fn lane(self, lane: usize) -> Res<T>;
}

impl<T> AtLane<T> for Result<T, Trip> {
    #[inline(always)]
    fn lane(self, lane: usize) -> Res<T> {
        self.map_err(|trip| Stop { lane, trip, site: None })
    }
}

pub(crate) fn stop<T>(lane: usize, trip: impl Into<Trip>) -> Res<T> {
    Err(Stop { lane, trip: trip.into(), site: None })
}

/// What came of a warp's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It could not run.
    Blocked,
    /// It only asked whether something is done.
    Spun,
    Ran,
}

pub(crate) struct Block<'a> {
    pub launch: &'a Launch<'a>,
    pub index: u64,
    pub ids: Ids,
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub clocks: Clocks,
    pub knowledge: Knowledge,
    pub barriers: Vec<Barrier>,
    pub cluster_arrived: u32,
    pub mbarriers: Mbarriers,
    pub late: Vec<Late>,
    pub last_allocation: usize,
    pub quantum: u32,
    pub spun: bool,
    pub give_way: bool,
    /// Where the instruction that runs is; for asynchronous work, where it was issued.
    pub site: Site,
    budget: u64,
    rng: u64,
    pub warp_instructions: u64,
    pub thread_instructions: u64,
}

impl<'a> Block<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>) -> Self {
        Self {
            launch,
            index: 0,
            ids: Ids::default(),
            warps: Vec::new(),
            shared: Shared::default(),
            clocks: Clocks::default(),
            knowledge: Knowledge::default(),
            barriers: Vec::new(),
            cluster_arrived: 0,
            mbarriers: Mbarriers::default(),
            late: Vec::new(),
            last_allocation: 0,
            quantum: 0,
            spun: false,
            give_way: false,
            site: 0,
            budget: 0,
            rng: 0,
            warp_instructions: 0,
            thread_instructions: 0,
        }
    }

    pub(crate) fn slow(&self) -> bool {
        self.launch.options.checks.slow()
    }

    pub(crate) fn who(&self, warp: usize, lane: usize) -> Who {
        Who { thread: warp * 32 + lane, site: self.site }
    }

    /// A number below `n`.
    pub(crate) fn random(&mut self, n: usize) -> usize {
        self.rng = self.rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.rng >> 33) % n.max(1) as u64) as usize
    }

    fn begin(&mut self, index: u64) {
        let launch = self.launch;
        let options = launch.options;
        self.index = index;
        self.rng = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index;
        self.ids = Ids {
            warp: 0,
            block: launch.coordinates(index),
            block_dim: launch.block,
            grid_dim: launch.grid,
            dynamic_shared: launch.dynamic_shared,
            total_shared: launch.total_shared,
        };
        let clear = self.clocks.begin(launch.threads);
        self.shared.check_races = options.checks.shared_races;
        self.shared.check_init = options.checks.shared_init;
        self.shared.check_proxy = options.checks.proxy_fences;
        let slow = options.checks.slow();
        self.shared.begin(launch.shared_size, &launch.shared_ranges, launch.granule, launch.threads, slow, clear);
        self.knowledge = Knowledge::new(index);
        self.barriers.clear();
        self.barriers.resize_with(16, Barrier::default);
        self.cluster_arrived = 0;
        self.mbarriers.clear();
        self.late.clear();
        let warps = launch.threads.div_ceil(32);
        self.warps.resize_with(warps, Warp::default);
        for (i, w) in self.warps.iter_mut().enumerate() {
            let ids = Ids { warp: i as u32, ..self.ids };
            w.begin(i, (launch.threads - i * 32) as u32, launch.function, launch.code, &ids);
        }
    }

    /// Runs a block to its end.
    pub(crate) fn run(&mut self, index: u64) -> Result<(), Box<Fault>> {
        self.begin(index);
        let n = self.warps.len();
        let mut order: Vec<usize> = (0..n).collect();
        let mut rounds = 0u64;
        loop {
            if self.launch.stop.load(Relaxed) {
                return Ok(());
            }
            if self.launch.options.seed != 0 {
                for i in (1..n).rev() {
                    let j = self.random(i + 1);
                    order.swap(i, j);
                }
            }
            let mut best = Turn::Blocked;
            for &i in &order {
                let turn = self.turn(i)?;
                if turn == Turn::Ran || best == Turn::Blocked {
                    best = turn;
                }
                if turn != Turn::Blocked && self.settle() {
                    best = Turn::Ran;
                }
            }
            if self.warps.iter().all(|w| w.live == 0) {
                return self.finish();
            }
            rounds += 1;
            let stuck = best != Turn::Ran;
            if stuck || rounds.is_multiple_of(64) {
                if !self.late.is_empty() {
                    let i = if self.launch.options.seed == 0 { 0 } else { self.random(self.late.len()) };
                    self.run_late(i)?;
                    self.settle();
                } else if best == Turn::Blocked && !self.settle() {
                    return Err(self.deadlock());
                }
            }
        }
    }

    fn finish(&mut self) -> Result<(), Box<Fault>> {
        while !self.late.is_empty() {
            self.run_late(0)?;
        }
        Ok(())
    }

    pub(crate) fn dress(&self, s: Stop, warp: usize) -> Box<Fault> {
        Box::new(self.launch.fault(s.trip, self.index, warp, s.lane, s.site.unwrap_or(self.site)))
    }

    fn turn(&mut self, i: usize) -> Result<Turn, Box<Fault>> {
        let Some(w) = self.warps.get_mut(i) else { return Ok(Turn::Blocked) };
        if !w.splits.iter().any(|s| s.wait == Wait::Ready) {
            return Ok(Turn::Blocked);
        }
        let mut w = std::mem::take(w);
        self.quantum = QUANTUM;
        self.spun = false;
        self.give_way = false;
        let r = self.turn_of(&mut w);
        let turn = if self.spun { Turn::Spun } else { Turn::Ran };
        let r = r.map_err(|s| self.dress(s, i));
        self.warps[i] = w;
        r.map(|()| turn)
    }

    fn turn_of(&mut self, w: &mut Warp) -> Res {
        let slow = self.slow();
        while !self.give_way {
            let Some(at) = w.splits.iter().rposition(|s| s.wait == Wait::Ready) else { break };
            let split = w.splits.remove(at);
            super::exec::run(self, w, split, slow)?;
        }
        if w.live == 0 && slow {
            self.settle_reads(w.id)?;
        }
        self.stranded(w)
    }

    /// Faults on plain reads that met atomics.
    pub(crate) fn settle_reads(&mut self, warp: usize) -> Res {
        let r = self.shared.settle(warp).and_then(|()| self.knowledge.settle(warp));
        r.map_err(|(lane, trip)| Stop { lane, trip, site: None })
    }

    /// A collective whose other lanes wait at a join for this very group never happens.
    fn stranded(&mut self, w: &Warp) -> Res {
        let free = |s: &Split| !matches!(s.wait, Wait::Collective { .. } | Wait::WarpSync { .. });
        if w.splits.iter().any(free) {
            return Ok(());
        }
        let Some(s) = w.splits.first() else { return Ok(()) };
        self.site = self.site_of(w, s);
        let (mask, what) = match s.wait {
            Wait::WarpSync { mask } => (mask, "bar.warp.sync"),
            Wait::Collective { mask } => (mask, "collective"),
            _ => return Ok(()),
        };
        let what = match self.launch.code_of(w.frames[s.frame].function).insts.get(s.pc) {
            Some(i) if what == "collective" => super::collective::name(&i.op),
            _ => what,
        };
        let missing = mask & w.live & !s.mask;
        let lane = s.mask.trailing_zeros() as usize;
        stop(lane, FaultKind::Divergent { what: what.into(), mask, active: s.mask, missing })
    }

    pub(crate) fn site_of(&self, w: &Warp, s: &Split) -> Site {
        let f = w.frames.get(s.frame).map_or(0, |f| f.function);
        // Lanes that wait at a barrier stand behind it already.
        let back = usize::from(matches!(s.wait, Wait::Barrier { .. } | Wait::WarpSync { .. } | Wait::Cluster));
        self.launch.module.sites.get(f).copied().unwrap_or(0) + s.pc.saturating_sub(back) as Site
    }

    /// Takes instructions from the budget.
    pub(crate) fn spend(&mut self, n: u64) -> Result<(), Trip> {
        self.warp_instructions += n;
        while self.budget < n {
            let total = &self.launch.budget;
            let taken = total.fetch_update(Relaxed, Relaxed, |b| Some(b.saturating_sub(ADVANCE)));
            match taken {
                Ok(b) if b > 0 => self.budget += b.min(ADVANCE),
                _ => return Err(FaultKind::Budget { budget: self.launch.options.budget }.into()),
            }
        }
        self.budget -= n;
        Ok(())
    }

    fn deadlock(&mut self) -> Box<Fault> {
        let mut waiting = Vec::new();
        let mut first = None;
        for w in &self.warps {
            for s in &w.splits {
                let site = self.site_of(w, s);
                let what = match s.wait {
                    Wait::Ready => "can run".to_string(),
                    Wait::Barrier { id } => format!("waits at barrier {id}"),
                    Wait::WarpSync { mask } => format!("waits at bar.warp.sync {mask:#010x}"),
                    Wait::Collective { mask } => format!("waits for the lanes {mask:#010x} of a collective"),
                    Wait::Mbarrier { offset, .. } => format!("waits for the mbarrier at shared offset {offset}"),
                    Wait::Cluster => "waits at the cluster barrier".to_string(),
                };
                let lane = s.mask.trailing_zeros() as usize;
                first = first.or(Some((w.id, lane, site)));
                waiting.push(Waiter { warp: w.id as u32, lanes: s.mask, what, location: self.launch.location(site) });
            }
            let gone = w.all & !w.live;
            if gone != 0 {
                let (f, pc) = w.exit_pc;
                let site = self.launch.module.sites.get(f).copied().unwrap_or(0) + pc as Site;
                let what = "exited".to_string();
                waiting.push(Waiter { warp: w.id as u32, lanes: gone, what, location: self.launch.location(site) });
            }
        }
        let (warp, lane, site) = first.unwrap_or((0, 0, 0));
        let trip = Trip::new(FaultKind::Deadlock { waiting });
        Box::new(self.launch.fault(trip, self.index, warp, lane, site))
    }
}
