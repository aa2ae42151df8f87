//! `mma.sync`, `ldmatrix`, `stmatrix` and `movmatrix`.

use super::access::Target;
use super::block::{AtLane, Block, Res, stop};
use super::warp::{Frame, Warp};
use crate::error::{AccessKind, FaultKind};
use crate::float::{self, bits32};
use crate::isa::{Addr, Mma, MmaShape, MmaType, Round, Slot};
use crate::types::Space;

/// Largest K of any shape.
pub(crate) const MAX_K: usize = 32;

/// Elements of a 32-bit word, exact in double precision.
#[inline(always)]
pub(crate) fn unpack(ty: MmaType, word: u32, out: &mut [f64]) {
    match ty {
        MmaType::Bf16 => {
            out[0] = f64::from(float::bf16_of(word & 0xffff));
            out[1] = f64::from(float::bf16_of(word >> 16));
        }
        MmaType::F16 => {
            out[0] = f64::from(float::f16_of(word & 0xffff));
            out[1] = f64::from(float::f16_of(word >> 16));
        }
        // The low bits of the mantissa do not take part.
        MmaType::Tf32 => out[0] = f64::from(f32::from_bits(word & !0x1fff)),
        _ => {
            for (i, x) in out.iter_mut().take(4).enumerate() {
                let b = word >> (8 * i) & 0xff;
                *x = match ty {
                    MmaType::E4m3 => float::E4M3.decode(b),
                    MmaType::E5m2 => float::E5M2.decode(b),
                    MmaType::S8 => f64::from(b as u8 as i8),
                    _ => f64::from(b),
                };
            }
        }
    }
}

fn accumulate<const K: usize>(c: &mut [[f64; 8]; 16], a: &[[f64; MAX_K]; 16], b: &[[f64; 8]; MAX_K]) {
    for (c, a) in c.iter_mut().zip(a) {
        let mut sum = *c;
        for k in 0..K {
            for n in 0..8 {
                sum[n] += a[k] * b[k][n];
            }
        }
        *c = sum;
    }
}

/// Operands lie in registers by words: of A, register `q` of lane `4g + t` is row `g` (or `g + 8` for odd `q`), word
/// `t + 4 (q / 2)` of the row; of B, register `q` is column `g`, word `t + 4q`.
#[inline(always)]
pub(crate) fn mma(f: &mut Frame, m: &Mma) {
    let MmaShape { k, a: ta, b: tb, half, .. } = m.shape;
    let k = usize::from(k);
    let per = 4 / ta.bytes();
    let mut a = [[0f64; MAX_K]; 16];
    let mut b = [[0f64; 8]; MAX_K];
    let mut c = [[0f64; 8]; 16];
    let integer = matches!(ta, MmaType::S8 | MmaType::U8);
    for (q, slot) in m.a.iter().enumerate() {
        let v = &f.r32[slot.index()];
        for (l, word) in v.iter().enumerate() {
            let row = l / 4 + (q & 1) * 8;
            let at = (l % 4 + (q >> 1) * 4) * per;
            unpack(ta, *word, &mut a[row & 15][at.min(MAX_K - per)..]);
        }
    }
    let mut e = [0f64; 4];
    for (q, slot) in m.b.iter().enumerate() {
        let v = &f.r32[slot.index()];
        for (l, word) in v.iter().enumerate() {
            unpack(tb, *word, &mut e);
            let at = (l % 4 + q * 4) * per;
            for (i, x) in e.iter().take(per).enumerate() {
                b[(at + i) & 31][l / 4] = *x;
            }
        }
    }
    for (i, slot) in m.c.iter().enumerate() {
        let v = &f.r32[slot.index()];
        for (l, x) in v.iter().enumerate() {
            let (g, t) = (l / 4, l % 4 * 2);
            if half {
                c[g + i * 8][t] = f64::from(float::f16_of(x & 0xffff));
                c[g + i * 8][t + 1] = f64::from(float::f16_of(x >> 16));
            } else if integer {
                c[g + (i >> 1) * 8][t + (i & 1)] = f64::from(*x as i32);
            } else {
                c[g + (i >> 1) * 8][t + (i & 1)] = f64::from(f32::from_bits(*x));
            }
        }
    }
    match k {
        4 => accumulate::<4>(&mut c, &a, &b),
        8 => accumulate::<8>(&mut c, &a, &b),
        16 => accumulate::<16>(&mut c, &a, &b),
        _ => accumulate::<32>(&mut c, &a, &b),
    }
    for (i, slot) in m.d.iter().enumerate() {
        let v = std::array::from_fn(|l| {
            let (g, t) = (l / 4, l % 4 * 2);
            if half {
                pack_half(c[g + i * 8][t], c[g + i * 8][t + 1])
            } else if integer {
                c[g + (i >> 1) * 8][t + (i & 1)] as i64 as u32
            } else {
                bits32(c[g + (i >> 1) * 8][t + (i & 1)] as f32) as u32
            }
        });
        f.put32(*slot, !0, v);
    }
}

pub(crate) fn pack_half(lo: f64, hi: f64) -> u32 {
    let h = |x| float::F16.encode(x, Round::Nearest, false);
    h(hi) << 16 | h(lo)
}

pub(crate) fn movmatrix(f: &mut Frame, d: Slot, a: Slot) {
    let v = f.r32[a.index()];
    let element = |row: usize, col: usize| v[row * 4 + col / 2] >> (16 * (col & 1)) & 0xffff;
    let t = std::array::from_fn(|l| {
        let (row, col) = (l / 4, l % 4 * 2);
        element(col + 1, row) << 16 | element(col, row)
    });
    f.put32(d, !0, t);
}

impl Block<'_> {
    /// Offset of the row that a lane gives the address of.
    fn matrix_row<const CHECK: bool>(&mut self, w: &Warp, f: &Frame, addr: Addr, l: usize, write: bool) -> Res<usize> {
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let mut address = self.address_of(f, addr, l);
        if address >= super::address::SHARED {
            address = address.wrapping_sub(super::address::SHARED);
        }
        if !address.is_multiple_of(16) && self.launch.options.checks.alignment {
            return stop(l, FaultKind::Misaligned { kind, space: Space::Shared, address, bytes: 16 });
        }
        let Target::Shared(at) = self.shared_target(l, address, 16, kind)? else { return Ok(usize::MAX) };
        if CHECK {
            let who = self.who(w.id, l);
            if write {
                self.shared.write(&mut self.clocks, who, at, 16, false, None).lane(l)?;
            } else {
                self.shared.read(&mut self.clocks, who, at, 16, false, kind).lane(l)?;
            }
        }
        Ok(at)
    }

    /// Lanes 8j to 8j+7 give the rows of matrix j; only those addresses count.
    pub(crate) fn ldmatrix<const CHECK: bool>(
        &mut self,
        w: &Warp,
        f: &mut Frame,
        trans: bool,
        d: &[Slot],
        addr: Addr,
    ) -> Res {
        let mut out = [[0u32; 32]; 4];
        for (j, v) in out.iter_mut().enumerate().take(d.len()) {
            let mut rows = [[0u32; 4]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let at = self.matrix_row::<CHECK>(w, f, addr, j * 8 + r, false)?;
                if let Some(bytes) = at.checked_add(16).and_then(|end| self.shared.data.get(at..end)) {
                    for (x, b) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                        *x = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    }
                }
            }
            for (l, x) in v.iter_mut().enumerate() {
                let (g, t) = (l / 4, l % 4);
                *x = if trans {
                    let e = |r: usize| rows[r][g / 2] >> (16 * (g & 1)) & 0xffff;
                    e(t * 2 + 1) << 16 | e(t * 2)
                } else {
                    rows[g][t]
                };
            }
        }
        for (slot, v) in d.iter().zip(out) {
            f.put32(*slot, !0, v);
        }
        Ok(())
    }

    pub(crate) fn stmatrix<const CHECK: bool>(
        &mut self,
        w: &Warp,
        f: &Frame,
        trans: bool,
        s: &[Slot],
        addr: Addr,
    ) -> Res {
        for (j, slot) in s.iter().enumerate() {
            let v = f.r32[slot.index()];
            for r in 0..8 {
                let at = self.matrix_row::<CHECK>(w, f, addr, j * 8 + r, true)?;
                for c in 0..8 {
                    let (row, col) = if trans { (c, r) } else { (r, c) };
                    let x = v[row * 4 + col / 2] >> (16 * (col & 1)) & 0xffff;
                    if at != usize::MAX {
                        self.shared.store(at + c * 2, 2, x.into());
                    }
                }
            }
        }
        Ok(())
    }
}
