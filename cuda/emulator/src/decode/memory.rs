//! Loads, stores, atomics, addresses and asynchronous copies.

use super::modifiers::Modifiers;
use super::{Decoder, R};
use crate::isa::*;
use crate::parse::Arg;
use crate::types::{Space, Ty};
use Ty::*;

const MEMORY: &[Ty] = &[B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, Bf16, F16x2, Bf16x2, F32, F64];

impl Decoder<'_> {
    pub(super) fn memory(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        match m.opcode {
            "ld" | "ldu" | "st" => self.load_store(m, a),
            "atom" | "red" => self.atomic(m, a),
            "cvta" => {
                let to_generic = !m.take("to");
                let space = m.space();
                if space == Space::Generic {
                    return m.error(format!("`{}` names no space", m.whole));
                }
                let ty = m.ty_of(&[U64])?;
                self.count(a, 2..=2)?;
                let s = self.src(self.arg(a, 1)?, ty)?;
                Ok(Op::Cvta { to_generic, space, d: self.dst(self.arg(a, 0)?, ty)?, a: s })
            }
            "isspacep" => {
                let space = m.space();
                if space == Space::Generic {
                    return m.error(format!("`{}` names no space", m.whole));
                }
                self.count(a, 2..=2)?;
                let s = self.src(self.arg(a, 1)?, U64)?;
                Ok(Op::IsSpace { space, d: self.dst_pred(self.arg(a, 0)?)?, a: s })
            }
            // In a cluster of one the peer is the block itself.
            "mapa" => {
                m.space();
                let ty = m.ty_of(&[U32, U64])?;
                self.count(a, 3..=3)?;
                let s = self.src(self.arg(a, 1)?, ty)?;
                self.src_u32(self.arg(a, 2)?)?;
                Ok(Op::Mov { d: self.dst(self.arg(a, 0)?, ty)?, a: s })
            }
            "createpolicy" => {
                m.need(&[("fractional", ())])?;
                m.eviction();
                let ty = m.ty_of(&[B64])?;
                let s = self.bits(ty, 0);
                Ok(Op::Mov { d: self.dst(self.arg(a, 0)?, ty)?, a: s })
            }
            _ => {
                let space = m.space();
                m.eviction();
                m.one(&[("L1", ()), ("L2", ()), ("tensormap", ()), ("128", ())]);
                if let Some(x @ Arg::Mem { .. }) = a.first() {
                    self.addr(x, space)?;
                }
                Ok(Op::Nop)
            }
        }
    }

    fn load_store(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let store = m.opcode == "st";
        m.cache_hints();
        let strong = m.ordering();
        let space = m.space();
        m.eviction();
        let hint = m.take("unified");
        let n = m.one(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let ty = m.ty_of(MEMORY)?;
        let bytes = ty.bytes() * n as u32;
        if bytes > 32 {
            return m.error(format!("an access of {bytes} bytes"));
        }
        let policy = a.len() == 3 && !hint;
        self.count(a, 2..=if policy { 3 } else { 2 })?;
        let (value, address) = if store { (1, 0) } else { (0, 1) };
        let (addr, space) = self.addr(self.arg(a, address)?, space)?;
        if matches!(space, Space::Shared | Space::Global | Space::Generic) {
            self.access(ty, n);
        }
        let value = self.arg(a, value)?;
        if (n > 1) != matches!(value, Arg::List(_)) {
            return m.error(format!("`{}` and its list of registers differ", m.whole));
        }
        let list = self.list(value, n)?;
        if store {
            if matches!(space, Space::Const) {
                return m.error("a store to constant memory");
            }
            let s = list.iter().map(|x| self.src_wide(x, ty)).collect::<R<_>>()?;
            Ok(Op::St { space, ty, strong, s, addr })
        } else {
            let d = list
                .iter()
                .map(|x| if *x == Arg::Sink { Ok(None) } else { self.dst_wide(x, ty).map(Some) })
                .collect::<R<_>>()?;
            Ok(Op::Ld { space, ty, strong, d, addr })
        }
    }

    fn atomic(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let returns = m.opcode == "atom";
        m.ordering();
        let space = m.space();
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return m.error(format!("`{}` in .{space}", m.whole));
        }
        m.eviction();
        m.take("noftz");
        let n = m.one(&[("v2", 2u8), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let k = m.need(&[
            ("add", Rmw::Add),
            ("min", Rmw::Min),
            ("max", Rmw::Max),
            ("and", Rmw::And),
            ("or", Rmw::Or),
            ("xor", Rmw::Xor),
            ("exch", Rmw::Exch),
            ("cas", Rmw::Cas),
            ("inc", Rmw::Inc),
            ("dec", Rmw::Dec),
        ])?;
        m.take("noftz");
        let ty = m.ty_of(match k {
            Rmw::Add => &[U32, S32, U64, S64, F16, F16x2, Bf16, Bf16x2, F32, F64],
            Rmw::Min | Rmw::Max => &[U32, S32, U64, S64, F16, F16x2, Bf16, Bf16x2, F32],
            Rmw::And | Rmw::Or | Rmw::Xor => &[B32, B64],
            Rmw::Exch => &[B32, B64],
            Rmw::Cas => &[B16, B32, B64],
            Rmw::Inc | Rmw::Dec => &[U32],
        })?;
        let first = usize::from(returns);
        let operands = if k == Rmw::Cas { 2 } else { 1 };
        self.count(a, first + 1 + operands..=first + 2 + operands)?;
        let (addr, _) = self.addr(self.arg(a, first)?, space)?;
        self.access(ty, usize::from(n));
        let mut s = Vec::new();
        for i in 0..operands {
            let x = self.arg(a, first + 1 + i)?;
            for y in self.list(x, usize::from(n))? {
                s.push(self.src(y, ty)?);
            }
        }
        if n > 1 && returns {
            return m.error("vector atomics are supported as `red` only");
        }
        let d = match a.first() {
            Some(Arg::Sink) | None => None,
            Some(d) if returns => Some(self.dst(d, ty)?),
            _ => None,
        };
        Ok(Op::Atom { space, k, ty, d, addr, s: s.into(), elements: n })
    }

    pub(super) fn copy(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let reduce = m.take("reduce");
        m.need(&[("async", ())])?;
        if m.take("bulk") {
            return self.bulk(m, a, reduce);
        }
        if m.take("commit_group") {
            return Ok(Op::CpCommit);
        }
        if m.take("wait_group") {
            let keep = self.int(self.arg(a, 0)?)?;
            return Ok(Op::CpWait { keep: Some(keep.min(u64::from(u32::MAX)) as u32) });
        }
        if m.take("wait_all") {
            return Ok(Op::CpWait { keep: None });
        }
        if m.take("mbarrier") {
            m.need(&[("arrive", ())])?;
            let noinc = m.take("noinc");
            let space = m.space();
            m.ty_of(&[B64])?;
            let (addr, _) = self.addr(self.arg(a, 0)?, space)?;
            self.granule(8);
            return Ok(Op::Mbarrier { k: Mbarrier::CpAsync { noinc }, addr: self.barrier(addr, space) });
        }
        let cg = m.need(&[("ca", false), ("cg", true)])?;
        m.eviction();
        if !(m.take("shared") || m.take("shared::cta") || m.take("shared::cluster")) || !m.take("global") {
            return m.error(format!("`{}` does not copy from .global to .shared", m.whole));
        }
        m.eviction();
        self.count(a, 3..=5)?;
        let size = self.int(self.arg(a, 2)?)?;
        if !(size == 16 || !cg && matches!(size, 4 | 8)) {
            return m.error(format!("a copy of {size} bytes by `{}`", m.whole));
        }
        let (dst, _) = self.addr(self.arg(a, 0)?, Space::Shared)?;
        let (src, _) = self.addr(self.arg(a, 1)?, Space::Global)?;
        self.granule(size as u32);
        let (mut src_size, mut ignore) = (None, None);
        match a.get(3) {
            None => {}
            Some(Arg::Not(_)) => ignore = Some(self.src_pred(self.arg(a, 3)?)?),
            Some(Arg::Name(n)) if matches!(self.register(n), Ok((_, Pred))) => {
                ignore = Some(self.src_pred(self.arg(a, 3)?)?)
            }
            Some(x) => src_size = Some(self.src_u32(x)?),
        }
        Ok(Op::CpAsync { size: size as u32, dst, src, src_size, ignore })
    }

    /// An mbarrier's address; a generic one is told by its window.
    pub(super) fn barrier(&mut self, addr: Addr, _space: Space) -> Addr {
        addr
    }

    fn bulk(&mut self, m: &mut Modifiers<'_>, a: &[Arg], reduce: bool) -> R<Op> {
        if m.take("commit_group") {
            return Ok(Op::BulkCommit);
        }
        if m.take("wait_group") {
            m.take("read");
            let keep = self.int(self.arg(a, 0)?)?;
            return Ok(Op::BulkWait { keep: keep.min(u64::from(u32::MAX)) as u32 });
        }
        let prefetch = m.take("prefetch");
        let tensor = m.take("tensor");
        let rank = if tensor { m.need(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])? } else { 0 };
        if prefetch {
            m.take("L2");
            m.take("tile");
        }
        let spaces: Vec<&str> = m
            .rest()
            .into_iter()
            .filter(|p| matches!(*p, "global" | "shared::cta" | "shared::cluster" | "shared"))
            .collect();
        for s in &spaces {
            m.take(s);
        }
        m.take("tile");
        let barrier = m.take("mbarrier::complete_tx::bytes");
        m.take("bulk_group");
        let hint = m.take("L2::cache_hint");
        let op = if reduce {
            m.take("noftz");
            Some(m.need(&[
                ("add", Rmw::Add),
                ("min", Rmw::Min),
                ("max", Rmw::Max),
                ("inc", Rmw::Inc),
                ("dec", Rmw::Dec),
                ("and", Rmw::And),
                ("or", Rmw::Or),
                ("xor", Rmw::Xor),
            ])?)
        } else {
            None
        };
        let ty = match op {
            Some(_) if !tensor => m.ty_of(&[U32, S32, U64, S64, F16, Bf16, F32, F64, B32, B64])?,
            _ => F32,
        };
        self.granule(16);
        let hint = usize::from(hint);
        let (to_shared, kind) = match (spaces.as_slice(), prefetch) {
            (["global"], true) => return Ok(Op::Nop),
            ([d, "global"], false) if d.starts_with("shared") && barrier && !reduce => (true, None),
            (["shared::cluster", "shared::cta"], false) if barrier && !tensor && !reduce => (true, None),
            (["global", s], false) if s.starts_with("shared") => {
                let k = match op {
                    Some(op) => BulkKind::Reduce { op, ty },
                    None => BulkKind::SharedToGlobal,
                };
                (false, Some(k))
            }
            _ => return m.error(format!("the spaces of `{}`", m.whole)),
        };
        let tensor_arg = |d: &mut Self, x: &Arg| -> R<(Addr, Box<[Slot]>)> {
            let Arg::Mem { base, offset, coords: Some(c) } = x else {
                return d.error("a tensor map and coordinates in brackets are needed");
            };
            if c.len() != rank {
                return d.error(format!("{} coordinates of a {rank}-dimensional tensor", c.len()));
            }
            let coords = c.iter().map(|y| d.src(y, S32)).collect::<R<_>>()?;
            Ok((d.addr_of(base, *offset, Space::Generic)?.0, coords))
        };
        if to_shared {
            let between = spaces.last() == Some(&"shared::cta");
            let (shared, _) = self.addr(self.arg(a, 0)?, Space::Shared)?;
            let n = if tensor { 3 } else { 4 };
            self.count(a, n..=n + hint)?;
            let (barrier, _) = self.addr(self.arg(a, n - 1)?, Space::Shared)?;
            let (global, coords, size) = if tensor {
                let (map, c) = tensor_arg(self, self.arg(a, 1)?)?;
                (map, Some(c), None)
            } else {
                let space = if between { Space::Shared } else { Space::Global };
                let size = self.src_u32(self.arg(a, 2)?)?;
                (self.addr(self.arg(a, 1)?, space)?.0, None, Some(size))
            };
            let kind =
                if between { BulkKind::SharedToShared { barrier } } else { BulkKind::GlobalToShared { barrier } };
            return Ok(Op::Bulk(Box::new(Bulk { kind, shared, global, size, coords })));
        }
        let n = if tensor { 2 } else { 3 };
        self.count(a, n..=n + hint)?;
        let (shared, _) = self.addr(self.arg(a, 1)?, Space::Shared)?;
        let (global, coords, size) = if tensor {
            let (map, c) = tensor_arg(self, self.arg(a, 0)?)?;
            (map, Some(c), None)
        } else {
            let size = self.src_u32(self.arg(a, 2)?)?;
            (self.addr(self.arg(a, 0)?, Space::Global)?.0, None, Some(size))
        };
        let kind = kind.unwrap_or(BulkKind::Prefetch);
        Ok(Op::Bulk(Box::new(Bulk { kind, shared, global, size, coords })))
    }
}
