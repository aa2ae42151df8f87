//! Tensor-core instructions.

use super::modifiers::Modifiers;
use super::{Decoder, R};
use crate::isa::*;
use crate::parse::Arg;
use crate::types::{Space, Ty};
use Ty::*;

fn element(s: &str) -> Option<MmaType> {
    Some(match s {
        "f16" => MmaType::F16,
        "bf16" => MmaType::Bf16,
        "tf32" => MmaType::Tf32,
        "e4m3" => MmaType::E4m3,
        "e5m2" => MmaType::E5m2,
        "s8" => MmaType::S8,
        "u8" => MmaType::U8,
        _ => return None,
    })
}

/// `m16n8k16` and its like.
fn shape(s: &str) -> Option<(u16, u16, u16)> {
    let (m, rest) = s.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        if m.opcode == "wgmma" && !m.take("mma_async") {
            return self.wgmma_group(m, a);
        }
        m.need(&[("sync", ())])?;
        m.need(&[("aligned", ())])?;
        match m.opcode {
            "mma" => self.mma(m, a),
            "wgmma" => self.wgmma(m, a),
            "movmatrix" => {
                m.need(&[("m8n8", ())])?;
                m.need(&[("trans", ())])?;
                let ty = m.ty_of(&[B16])?;
                let _ = ty;
                self.count(a, 2..=2)?;
                let s = self.src(self.arg(a, 1)?, B32)?;
                Ok(Op::MovMatrix { d: self.dst(self.arg(a, 0)?, B32)?, a: s })
            }
            _ => {
                m.need(&[("m8n8", ())])?;
                let n = m.need(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
                let trans = m.take("trans");
                let space = m.space();
                if !matches!(space, Space::Shared | Space::Generic) {
                    return m.error(format!("`{}` in .{space}", m.whole));
                }
                m.ty_of(&[B16])?;
                self.granule(16);
                self.count(a, 2..=2)?;
                let load = m.opcode == "ldmatrix";
                let (addr, _) = self.addr(self.arg(a, usize::from(load))?, space)?;
                if load {
                    Ok(Op::LdMatrix { trans, d: self.dst_list(self.arg(a, 0)?, n, B32)?, addr })
                } else {
                    Ok(Op::StMatrix { trans, s: self.src_list(self.arg(a, 1)?, n, B32)?, addr })
                }
            }
        }
    }

    /// Shape, and the types of D, A, B and C.
    fn mma(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let Some((rows, n, k)) = m.parse_one(shape) else { return m.error(format!("`{}` has no shape", m.whole)) };
        m.need(&[("row", ())])?;
        m.need(&[("col", ())])?;
        m.take("satfinite");
        m.take("kind::f8f6f4");
        let acc = m.need(&[("f32", F32), ("f16", F16), ("s32", S32)])?;
        let (Some(ta), Some(tb)) = (m.parse_one(element), m.parse_one(element)) else {
            return m.error(format!("the types of `{}`", m.whole));
        };
        let c = m.need(&[("f32", F32), ("f16", F16), ("s32", S32)])?;
        let fp8 = |t| matches!(t, MmaType::E4m3 | MmaType::E5m2);
        let int8 = |t| matches!(t, MmaType::S8 | MmaType::U8);
        let ok = match (ta, tb) {
            (MmaType::F16, MmaType::F16) => matches!(k, 8 | 16) && acc != S32,
            (MmaType::Bf16, MmaType::Bf16) => matches!(k, 8 | 16) && acc == F32,
            (MmaType::Tf32, MmaType::Tf32) => matches!(k, 4 | 8) && acc == F32,
            (x, y) if fp8(x) && fp8(y) => matches!(k, 16 | 32) && acc != S32,
            (x, y) if int8(x) && int8(y) => matches!(k, 16 | 32) && acc == S32,
            _ => false,
        };
        if !ok || rows != 16 || n != 8 || acc != c {
            return m.error(format!("shape and types of `{}` are not supported", m.whole));
        }
        let shape = MmaShape { n, k: k as u8, a: ta, b: tb, half: acc == F16 };
        let k_bytes = usize::from(k) * ta.bytes();
        let accumulators = if shape.half { 2 } else { 4 };
        self.count(a, 4..=4)?;
        let ra = self.src_list(self.arg(a, 1)?, k_bytes / 8, B32)?;
        let rb = self.src_list(self.arg(a, 2)?, k_bytes / 16, B32)?;
        let rc = self.src_list(self.arg(a, 3)?, accumulators, if acc == F32 { F32 } else { B32 })?;
        let rd = self.dst_list(self.arg(a, 0)?, accumulators, B32)?;
        Ok(Op::Mma(Box::new(Mma { shape, d: rd, a: ra, b: rb, c: rc })))
    }

    fn wgmma_group(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let k = m.need(&[("fence", 0), ("commit_group", 1), ("wait_group", 2)])?;
        m.need(&[("sync", ())])?;
        m.need(&[("aligned", ())])?;
        Ok(match k {
            0 => Op::WgFence,
            1 => Op::WgCommit,
            _ => Op::WgWait { keep: self.int(self.arg(a, 0)?)?.min(u64::from(u32::MAX)) as u32 },
        })
    }

    fn wgmma(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let Some((rows, n, k)) = m.parse_one(shape) else { return m.error(format!("`{}` has no shape", m.whole)) };
        let acc = m.need(&[("f32", F32), ("f16", F16)])?;
        let (Some(ta), Some(tb)) = (m.parse_one(element), m.parse_one(element)) else {
            return m.error(format!("the types of `{}`", m.whole));
        };
        let ok = match (ta, tb) {
            (MmaType::F16, MmaType::F16) => k == 16,
            (MmaType::Bf16, MmaType::Bf16) => k == 16 && acc == F32,
            (MmaType::Tf32, MmaType::Tf32) => k == 8 && acc == F32,
            (MmaType::E4m3 | MmaType::E5m2, MmaType::E4m3 | MmaType::E5m2) => k == 32,
            _ => false,
        };
        if !ok || rows != 64 || n == 0 || n > 256 || n % 8 != 0 {
            return m.error(format!("shape and types of `{}` are not supported", m.whole));
        }
        let half = acc == F16;
        let shape = MmaShape { n, k: k as u8, a: ta, b: tb, half };
        let n = usize::from(n);
        let registers = matches!(self.arg(a, 1)?, Arg::List(_));
        let majors = match (ta.bytes() == 2, registers) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        self.count(a, 6 + majors..=6 + majors)?;
        let source = if registers {
            WgmmaA::Registers(self.src_list(self.arg(a, 1)?, 4, B32)?)
        } else {
            WgmmaA::Descriptor(self.src(self.arg(a, 1)?, B64)?)
        };
        let b = self.src(self.arg(a, 2)?, B64)?;
        let scale_d = self.src_pred(self.arg(a, 3)?)?;
        let scale = |d: &Self, i: usize| -> R<bool> {
            match d.int(d.arg(a, i)?)? as i64 {
                1 => Ok(false),
                -1 => Ok(true),
                _ => d.error("a scale is 1 or -1"),
            }
        };
        let (negate_a, negate_b) = (scale(self, 4)?, scale(self, 5)?);
        let major = |d: &Self, i: usize| -> R<bool> {
            match d.int(d.arg(a, i)?)? {
                0 => Ok(false),
                1 => Ok(true),
                _ => d.error("a transposition is 0 or 1"),
            }
        };
        let transpose_a = majors == 2 && major(self, 6)?;
        let transpose_b = majors > 0 && major(self, 5 + majors)?;
        // Accumulators are read when the group completes; the machine checks them itself.
        let d = self.dst_list(self.arg(a, 0)?, n / if half { 4 } else { 2 }, B32)?;
        self.granule(16);
        Ok(Op::Wgmma(Box::new(Wgmma { shape, d, a: source, b, scale_d, negate_a, negate_b, transpose_a, transpose_b })))
    }
}
