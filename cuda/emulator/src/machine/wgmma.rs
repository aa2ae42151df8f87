//! `wgmma`: reads shared memory and writes its accumulators when its group is waited for.

use super::block::{AtLane, Block, Res, stop};
use super::exec::{pred, register_name};
use super::mma::{MAX_K, pack_half, unpack};
use super::trip::Trip;
use super::warp::{Frame, Warp};
use crate::error::{AccessKind, FaultKind};
use crate::float::{self, bits32};
use crate::isa::{MmaType, Wgmma, WgmmaA};
use crate::tensor_map::Swizzle;

/// One that has been issued.
#[derive(Debug)]
pub(crate) struct Pending {
    frame: usize,
    spec: Wgmma,
    /// The A fragment, or its descriptor.
    a: Result<Box<[[u32; 32]; 4]>, u64>,
    b: u64,
    add: bool,
    group: u32,
    site: u32,
}

/// Rows of K.
type Matrix = Vec<[f64; MAX_K]>;

/// A matrix in shared memory.
struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    swizzle: Swizzle,
}

impl Descriptor {
    fn new(d: u64) -> Result<Descriptor, Trip> {
        let field = |at: u32| ((d >> at & 0x3fff) as usize) << 4;
        if d >> 49 & 7 != 0 {
            return Err(Trip::invalid("matrix descriptor with a base offset"));
        }
        let swizzle = match d >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// Offset of the 16 bytes that hold, K-major, elements `16 c / size ..` of row `row`.
    fn k_major(&self, row: usize, c: usize) -> usize {
        let pitch = self.swizzle.span() as usize;
        let chunk = if self.swizzle == Swizzle::None { c * self.leading } else { c * 16 };
        self.swizzle.apply(self.start + row % 8 * pitch + row / 8 * self.stride + chunk)
    }

    /// Offset of the 16 bytes that hold, MN-major, rows `8 c ..` at `k`; elements of two bytes.
    fn mn_major(&self, c: usize, k: usize) -> usize {
        let at = if self.swizzle == Swizzle::None {
            c * self.stride + k % 8 * 16 + k / 8 * self.leading
        } else {
            let chunks = self.swizzle.span() as usize / 16;
            c % chunks * 16 + c / chunks * self.leading + k % 8 * chunks * 16 + k / 8 * self.stride
        };
        self.swizzle.apply(self.start + at)
    }
}

impl Block<'_> {
    pub(crate) fn wgmma(&mut self, w: &mut Warp, f: &mut Frame, frame: usize, g: &Wgmma, e: u32) -> Res {
        self.whole(w, e, "wgmma")?;
        let code = self.launch.code_of(f.function);
        let checks = self.launch.options.checks;
        if checks.wgmma && !w.wg_fenced {
            return stop(0, FaultKind::MissingWgmmaFence);
        }
        let add = pred(f, g.scale_d) & 1 == 1;
        if add && checks.registers {
            for slot in &g.d {
                let flying = f.flying.get(slot.index()).is_some_and(|n| *n > 0);
                if *f.init(*slot) != !0 && !flying {
                    return stop(0, FaultKind::UninitialisedRegister { register: register_name(code, *slot) });
                }
            }
        }
        let a = match &g.a {
            WgmmaA::Descriptor(s) => Err(f.lane(*s, 0)),
            WgmmaA::Registers(r) => {
                let mut v = Box::new([[0; 32]; 4]);
                for (x, s) in v.iter_mut().zip(r) {
                    *x = f.r32[s.index()];
                }
                Ok(v)
            }
        };
        let p = Pending { frame, spec: g.clone(), a, b: f.lane(g.b, 0), add, group: w.wg_group, site: self.site };
        if self.slow() {
            // The data has to be there when it is issued.
            self.operands(w.id, &p)?;
            f.flying.resize(f.r32.len(), 0);
            for slot in &g.d {
                if let Some(n) = f.flying.get_mut(slot.index()) {
                    *n += 1;
                }
            }
        }
        w.wgmmas.push(p);
        Ok(())
    }

    fn matrix(
        &mut self,
        warp: usize,
        desc: u64,
        ty: MmaType,
        first: usize,
        rows: usize,
        k: usize,
        mn_major: bool,
        out: &mut [[f64; MAX_K]],
    ) -> Res {
        let d = Descriptor::new(desc).lane(0)?;
        let per = 16 / ty.bytes();
        let mut e = [0f64; 16];
        let (outer, inner) = if mn_major { (rows / per, k) } else { (rows, k / per) };
        for o in 0..outer {
            for i in 0..inner {
                let at = if mn_major { d.mn_major(first / per + o, i) } else { d.k_major(first + o, i) } & 0x3ffff;
                let target = self.shared_target(0, at as u64, 16, AccessKind::AsyncRead)?;
                let super::access::Target::Shared(at) = target else { continue };
                if self.slow() {
                    let who = self.who(warp, 0);
                    self.shared.read(&mut self.clocks, who, at, 16, false, AccessKind::AsyncRead).lane(0)?;
                }
                let words = 4 / ty.bytes();
                for q in 0..4 {
                    let word = self.shared.load(at + q * 4, 4) as u32;
                    unpack(ty, word, &mut e[q * words..]);
                }
                for (j, x) in e.iter().take(per).enumerate() {
                    let (row, col) = if mn_major { (o * per + j, i) } else { (o, i * per + j) };
                    if let Some(y) = out.get_mut(row).and_then(|r| r.get_mut(col)) {
                        *y = *x;
                    }
                }
            }
        }
        Ok(())
    }

    /// A's sixteen rows of this warp, and all of B, both by rows of K.
    fn operands(&mut self, warp: usize, p: &Pending) -> Res<(Matrix, Matrix)> {
        let g = &p.spec;
        let (n, k) = (usize::from(g.shape.n), usize::from(g.shape.k));
        let mut a = vec![[0f64; MAX_K]; 16];
        let mut b = vec![[0f64; MAX_K]; n];
        let site = std::mem::replace(&mut self.site, p.site);
        match &p.a {
            Ok(v) => {
                let per = 4 / g.shape.a.bytes();
                for (q, v) in v.iter().enumerate() {
                    for (l, word) in v.iter().enumerate() {
                        let at = (l % 4 + (q >> 1) * 4) * per;
                        unpack(g.shape.a, *word, &mut a[l / 4 + (q & 1) * 8][at..]);
                    }
                }
            }
            Err(d) => self.matrix(warp, *d, g.shape.a, warp % 4 * 16, 16, k, g.transpose_a, &mut a)?,
        }
        self.matrix(warp, p.b, g.shape.b, 0, n, k, g.transpose_b, &mut b)?;
        self.site = site;
        Ok((a, b))
    }

    /// Completes all groups but the newest `keep`.
    pub(crate) fn wgmma_wait(&mut self, w: &mut Warp, f: &mut Frame, frame: usize, keep: u32) -> Res {
        let mut i = 0;
        while i < w.wgmmas.len() {
            if w.wgmmas[i].group.saturating_add(keep) >= w.wg_group {
                i += 1;
                continue;
            }
            let p = w.wgmmas.remove(i);
            let (a, b) = self.operands(w.id, &p)?;
            if p.frame == frame {
                finish(f, &p, &a, &b);
            } else if let Some(f) = w.frames.get_mut(p.frame) {
                finish(f, &p, &a, &b);
            }
        }
        if w.wgmmas.is_empty() {
            f.flying.clear();
            w.wg_fenced = false;
        }
        Ok(())
    }
}

fn finish(f: &mut Frame, p: &Pending, a: &[[f64; MAX_K]], b: &[[f64; MAX_K]]) {
    let g = &p.spec;
    let k = usize::from(g.shape.k);
    let sign = if g.negate_a != g.negate_b { -1.0 } else { 1.0 };
    let dot = |row: usize, col: usize| -> f64 {
        match (a.get(row), b.get(col)) {
            (Some(x), Some(y)) => x.iter().zip(y).take(k).map(|(x, y)| x * y).sum::<f64>() * sign,
            _ => 0.0,
        }
    };
    for (j, slot) in g.d.iter().enumerate() {
        let old = f.r32[slot.index()];
        let v = std::array::from_fn(|l| {
            let (row, col) = (l / 4, l % 4 * 2);
            if g.shape.half {
                let (row, col) = (row + (j & 1) * 8, col + (j >> 1) * 8);
                let c = |x: u32| if p.add { f64::from(float::f16_of(x & 0xffff)) } else { 0.0 };
                pack_half(dot(row, col) + c(old[l]), dot(row, col + 1) + c(old[l] >> 16))
            } else {
                let (row, col) = (row + (j >> 1 & 1) * 8, col + (j >> 2) * 8 + (j & 1));
                let c = if p.add { f64::from(f32::from_bits(old[l])) } else { 0.0 };
                bits32((dot(row, col) + c) as f32) as u32
            }
        });
        f.put32(*slot, !0, v);
        *f.init(*slot) = !0;
        if let Some(n) = f.flying.get_mut(slot.index()) {
            *n = n.saturating_sub(1);
        }
    }
}
