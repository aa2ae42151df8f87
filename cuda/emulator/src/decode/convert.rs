//! `mov` and `cvt`.

use super::modifiers::Modifiers;
use super::{Decoder, R};
use crate::isa::*;
use crate::parse::Arg;
use crate::types::Ty;
use Ty::*;

impl Decoder<'_> {
    pub(super) fn mov(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let ty = m.ty_of(&[Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64])?;
        self.count(a, 2..=2)?;
        let (d, s) = (self.arg(a, 0)?, self.arg(a, 1)?);
        if ty == Pred {
            let s = self.src_pred(s)?;
            return Ok(Op::MovPred { d: self.dst_pred(d)?, a: s });
        }
        match (d, s) {
            (d, Arg::List(parts)) => {
                let part = self.part(ty, parts.len())?;
                let s = parts.iter().map(|p| self.src(p, part)).collect::<R<_>>()?;
                Ok(Op::Pack { bits: part.bits(), d: self.dst(d, ty)?, s })
            }
            (Arg::List(parts), s) => {
                let part = self.part(ty, parts.len())?;
                let s = self.src(s, ty)?;
                let d = parts
                    .iter()
                    .map(|p| if *p == Arg::Sink { Ok(None) } else { self.dst(p, part).map(Some) })
                    .collect::<R<_>>()?;
                Ok(Op::Unpack { bits: part.bits(), d, a: s })
            }
            (d, Arg::Name(n)) if n.starts_with("%clock") && !n.starts_with("%clusterid") || is_timer(s) => {
                let Arg::Name(n) = s else { return m.error("a special register is needed") };
                let (which, needs) = match n.as_str() {
                    "%clock" | "%clock_lo" => (Clock::Low, 4),
                    "%clock_hi" => (Clock::High, 4),
                    "%clock64" => (Clock::Full, 8),
                    "%globaltimer" => (Clock::Timer, 8),
                    "%globaltimer_lo" => (Clock::TimerLow, 4),
                    "%globaltimer_hi" => (Clock::TimerHigh, 4),
                    _ => return m.error(format!("`{n}` is not declared")),
                };
                if ty.bytes() != needs {
                    return m.error(format!("`{n}` as .{ty}"));
                }
                Ok(Op::Clock { which, d: self.dst(d, ty)? })
            }
            _ => {
                let s = self.src(s, ty)?;
                Ok(Op::Mov { d: self.dst(d, ty)?, a: s })
            }
        }
    }

    fn part(&self, ty: Ty, n: usize) -> R<Ty> {
        match (ty.bytes(), n) {
            (4, 2) => Ok(B16),
            (8, 2) => Ok(B32),
            (8, 4) => Ok(B16),
            (2, 2) | (4, 4) => Ok(B8),
            _ => self.error(format!("a .{ty} has no {n} parts")),
        }
    }

    pub(super) fn cvt(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let round = m.rounding();
        let mods = Mods {
            round: round.unwrap_or_default(),
            ftz: m.take("ftz"),
            relu: m.take("relu"),
            satfinite: m.take("satfinite"),
            sat: m.take("sat"),
            ..Mods::PLAIN
        };
        let (to, from) = (m.ty()?, m.ty()?);
        if [to, from].iter().any(|t| matches!(t, Pred | B8 | B16 | B32 | B64 | B128 | F32x2)) {
            return m.error(format!("cvt.{to}.{from}"));
        }
        let packed = matches!((to, from), (F16x2 | Bf16x2 | E4m3x2 | E5m2x2, F32));
        if packed {
            self.count(a, 3..=3)?;
            if round.is_none() {
                return m.error(format!("`{}` has no rounding", m.whole));
            }
            let hi = self.src(self.arg(a, 1)?, from)?;
            let lo = self.src(self.arg(a, 2)?, from)?;
            return Ok(Op::CvtPack { to, m: mods, d: self.dst(self.arg(a, 0)?, to)?, a: hi, b: lo });
        }
        let known = match (to, from) {
            (F16x2 | Bf16x2, E4m3x2 | E5m2x2) | (E4m3x2 | E5m2x2, F16x2) => true,
            (Tf32, F32) => matches!(mods.round, Round::Nearest | Round::NearestAway | Round::Zero) && round.is_some(),
            _ => {
                let scalar = |t: Ty| t.integer() || matches!(t, F16 | Bf16 | F32 | F64);
                scalar(to) && scalar(from)
            }
        };
        if !known {
            return m.error(format!("cvt.{to}.{from}"));
        }
        // A narrowing to a float, or integer to float, has to say how it rounds; float to integer too.
        let loses = (from.float() != to.float()) || (from.float() && to.float() && to.bytes() < from.bytes());
        if loses && round.is_none() {
            return m.error(format!("`{}` has no rounding", m.whole));
        }
        let integral = matches!(mods.round, Round::IntNearest | Round::IntZero | Round::IntDown | Round::IntUp);
        if !to.float() && from.float() && !integral {
            return m.error(format!("`{}` needs an integer rounding", m.whole));
        }
        if to.float() && integral && !(from == to) {
            return m.error(format!("integer rounding in `{}`", m.whole));
        }
        self.count(a, 2..=2)?;
        let s = self.src_wide(self.arg(a, 1)?, from)?;
        let d = self.dst_wide(self.arg(a, 0)?, to)?;
        Ok(Op::Cvt { to, from, m: mods, d, a: s })
    }
}

fn is_timer(a: &Arg) -> bool {
    matches!(a, Arg::Name(n) if n.starts_with("%globaltimer"))
}
