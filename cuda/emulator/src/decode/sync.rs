//! Barriers, fences, collectives and mbarriers.

use super::modifiers::Modifiers;
use super::{Decoder, R};
use crate::isa::*;
use crate::parse::Arg;
use crate::types::Ty;
use Ty::*;

impl Decoder<'_> {
    pub(super) fn sync(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        match m.opcode {
            "bar" | "barrier" => self.bar(m, a),
            "fence" => {
                if m.take("proxy") {
                    let all = m.need(&[
                        ("async", true),
                        ("async::generic", true),
                        ("tensormap::generic", false),
                        ("alias", false),
                    ])?;
                    m.take("global");
                    m.space();
                    for s in ["acquire", "release", "sync_restrict::shared::cta", "sync_restrict::shared::cluster"] {
                        m.take(s);
                    }
                    m.scope();
                    if let Some(x @ Arg::Mem { .. }) = a.first() {
                        self.addr(x, crate::types::Space::Generic)?;
                    }
                    return Ok(if all { Op::FenceAsync } else { Op::Fence });
                }
                m.one(&[("mbarrier_init", ())]);
                m.one(&[("acq_rel", ()), ("sc", ()), ("acquire", ()), ("release", ())]);
                m.scope();
                Ok(Op::Fence)
            }
            "membar" => {
                m.need(&[("cta", ()), ("gl", ()), ("sys", ())])?;
                Ok(Op::Fence)
            }
            "nanosleep" => {
                m.ty_of(&[U32])?;
                self.src_u32(self.arg(a, 0)?)?;
                Ok(Op::Nop)
            }
            "griddepcontrol" => {
                m.need(&[("wait", ()), ("launch_dependents", ())])?;
                Ok(Op::Nop)
            }
            "setmaxnreg" => {
                m.need(&[("inc", ()), ("dec", ())])?;
                m.need(&[("sync", ())])?;
                m.need(&[("aligned", ())])?;
                m.ty_of(&[U32])?;
                let n = self.int(self.arg(a, 0)?)?;
                if n % 8 != 0 || !(24..=256).contains(&n) {
                    return m.error(format!("setmaxnreg to {n} registers"));
                }
                Ok(Op::Nop)
            }
            "mbarrier" => self.mbarrier(m, a),
            "activemask" => {
                let ty = m.ty_of(&[B32])?;
                self.count(a, 1..=1)?;
                Ok(Op::ActiveMask { d: self.dst(self.arg(a, 0)?, ty)? })
            }
            _ => self.collective(m, a),
        }
    }

    fn bar(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        if m.take("cluster") {
            let arrive = m.need(&[("arrive", true), ("wait", false)])?;
            m.one(&[("release", ()), ("relaxed", ()), ("acquire", ())]);
            m.take("aligned");
            return Ok(if arrive { Op::ClusterArrive } else { Op::ClusterWait });
        }
        if m.take("warp") {
            m.need(&[("sync", ())])?;
            self.count(a, 1..=1)?;
            return Ok(Op::WarpSync { mask: self.src_u32(self.arg(a, 0)?)? });
        }
        m.take("cta");
        let aligned = m.take("aligned") || m.opcode == "bar";
        if m.take("red") {
            let kind = m.need(&[("popc", BarKind::Popc), ("and", BarKind::And), ("or", BarKind::Or)])?;
            let ty = m.ty_of(&[U32, Pred])?;
            if (ty == U32) != (kind == BarKind::Popc) {
                return m.error(format!("type .{ty} in `{}`", m.whole));
            }
            self.count(a, 3..=4)?;
            let id = self.src_u32(self.arg(a, 1)?)?;
            let count = if a.len() == 4 { Some(self.src_u32(self.arg(a, 2)?)?) } else { None };
            let p = Some(self.src_pred(self.arg(a, a.len() - 1)?)?);
            let d = Some(self.dst(self.arg(a, 0)?, ty)?);
            return Ok(Op::Bar { kind, id, count, d, p, aligned });
        }
        let kind = m.need(&[("sync", BarKind::Sync), ("arrive", BarKind::Arrive)])?;
        self.count(a, if kind == BarKind::Arrive { 2..=2 } else { 1..=2 })?;
        let id = self.src_u32(self.arg(a, 0)?)?;
        let count = if a.len() == 2 { Some(self.src_u32(self.arg(a, 1)?)?) } else { None };
        Ok(Op::Bar { kind, id, count, d: None, p: None, aligned })
    }

    fn collective(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        if !m.take("sync") {
            return m.error(format!("`{}` without .sync is not supported", m.whole));
        }
        match m.opcode {
            "shfl" => {
                let k = m.need(&[
                    ("idx", Shuffle::Idx),
                    ("up", Shuffle::Up),
                    ("down", Shuffle::Down),
                    ("bfly", Shuffle::Bfly),
                ])?;
                let ty = m.ty_of(&[B32])?;
                self.count(a, 5..=5)?;
                let x = self.src(self.arg(a, 1)?, ty)?;
                let b = self.src_u32(self.arg(a, 2)?)?;
                let c = self.src_u32(self.arg(a, 3)?)?;
                let mask = self.src_u32(self.arg(a, 4)?)?;
                let (d, p) = self.with_pred(self.arg(a, 0)?, ty)?;
                Ok(Op::Shfl { k, d, p, a: x, b, c, mask })
            }
            "vote" => {
                let k =
                    m.need(&[("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uni), ("ballot", Vote::Ballot)])?;
                let ty = m.ty_of(if k == Vote::Ballot { &[B32] } else { &[Pred] })?;
                self.count(a, 3..=3)?;
                let p = self.src_pred(self.arg(a, 1)?)?;
                let mask = self.src_u32(self.arg(a, 2)?)?;
                Ok(Op::Vote { k, d: self.dst(self.arg(a, 0)?, ty)?, p, mask })
            }
            "match" => {
                let all = m.need(&[("any", false), ("all", true)])?;
                let ty = m.ty_of(&[B32, B64])?;
                self.count(a, 3..=3)?;
                let x = self.src(self.arg(a, 1)?, ty)?;
                let mask = self.src_u32(self.arg(a, 2)?)?;
                let (d, p) = self.with_pred(self.arg(a, 0)?, B32)?;
                Ok(Op::Match { all, d, p, a: x, mask })
            }
            "redux" => {
                let k = m.need(&[
                    ("add", Rmw::Add),
                    ("min", Rmw::Min),
                    ("max", Rmw::Max),
                    ("and", Rmw::And),
                    ("or", Rmw::Or),
                    ("xor", Rmw::Xor),
                ])?;
                let ty = m.ty_of(match k {
                    Rmw::And | Rmw::Or | Rmw::Xor => &[B32],
                    _ => &[U32, S32],
                })?;
                self.count(a, 3..=3)?;
                let x = self.src(self.arg(a, 1)?, ty)?;
                let mask = self.src_u32(self.arg(a, 2)?)?;
                Ok(Op::Redux { k, ty, d: self.dst(self.arg(a, 0)?, ty)?, a: x, mask })
            }
            _ => {
                self.count(a, 2..=2)?;
                let mask = self.src_u32(self.arg(a, 1)?)?;
                let Arg::Pair(d, p) = self.arg(a, 0)? else { return m.error("elect gives a lane and a predicate") };
                let d = if **d == Arg::Sink { None } else { Some(self.dst(d, B32)?) };
                Ok(Op::Elect { d, p: self.dst_pred(p)?, mask })
            }
        }
    }

    fn with_pred(&mut self, a: &Arg, ty: Ty) -> R<(Slot, Option<Slot>)> {
        match a {
            Arg::Pair(d, p) => Ok((self.dst(d, ty)?, Some(self.dst_pred(p)?))),
            d => Ok((self.dst(d, ty)?, None)),
        }
    }

    fn mbarrier(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let k = m.need(&[
            ("init", 0),
            ("inval", 1),
            ("arrive", 2),
            ("arrive_drop", 3),
            ("test_wait", 4),
            ("try_wait", 5),
            ("complete_tx", 7),
        ]);
        let k = match k {
            Ok(2) if m.take("expect_tx") => 8,
            Ok(3) if m.take("expect_tx") => 9,
            Ok(k) => k,
            Err(_) if m.take("expect_tx") => 6,
            Err(e) => return Err(e),
        };
        let parity = matches!(k, 4 | 5) && m.take("parity");
        if matches!(k, 2 | 3) {
            m.take("noComplete");
        }
        m.one(&[("release", ()), ("relaxed", ()), ("acquire", ())]);
        m.scope();
        let space = m.space();
        m.ty_of(&[B64])?;
        self.granule(8);
        let plain = |d: &mut Self, i: usize| -> R<Addr> { Ok(d.addr(d.arg(a, i)?, space)?.0) };
        let (k, addr) = match k {
            0 => {
                self.count(a, 2..=2)?;
                let count = self.src_u32(self.arg(a, 1)?)?;
                (Mbarrier::Init { count }, plain(self, 0)?)
            }
            1 => {
                self.count(a, 1..=1)?;
                (Mbarrier::Inval, plain(self, 0)?)
            }
            6 | 7 => {
                self.count(a, 2..=2)?;
                let bytes = self.src_u32(self.arg(a, 1)?)?;
                (if k == 6 { Mbarrier::ExpectTx { bytes } } else { Mbarrier::CompleteTx { bytes } }, plain(self, 0)?)
            }
            4 | 5 => {
                self.count(a, 3..=4)?;
                let state = self.src(self.arg(a, 2)?, if parity { U32 } else { B64 })?;
                if a.len() == 4 {
                    self.src_u32(self.arg(a, 3)?)?;
                }
                let addr = plain(self, 1)?;
                let done = self.dst_pred(self.arg(a, 0)?)?;
                (Mbarrier::Wait { done, state, parity, blocking: k == 5 }, addr)
            }
            _ => {
                // Without a state register the address comes first.
                let first = usize::from(!matches!(a.first(), Some(Arg::Mem { .. })));
                self.count(a, first + 1..=first + 2)?;
                let addr = plain(self, first)?;
                let extra = match a.get(first + 1) {
                    Some(x) => Some(self.src_u32(x)?),
                    None => None,
                };
                let state = match a.first() {
                    Some(Arg::Name(_)) => Some(self.dst(self.arg(a, 0)?, B64)?),
                    _ => None,
                };
                let drop = matches!(k, 3 | 9);
                if k >= 8 {
                    if extra.is_none() {
                        return m.error("expect_tx without a number of bytes");
                    }
                    (Mbarrier::Arrive { state, count: None, expect: extra, drop }, addr)
                } else {
                    (Mbarrier::Arrive { state, count: extra, expect: None, drop }, addr)
                }
            }
        };
        Ok(Op::Mbarrier { k, addr })
    }
}
