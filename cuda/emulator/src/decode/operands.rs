//! Names, immediates and addresses.

use super::{Decoder, R};
use crate::isa::*;
use crate::machine::address;
use crate::parse::{Arg, Entity};
use crate::types::{Space, Ty};
use std::collections::HashMap;

/// A variable of the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub space: Space,
    /// Device address, or offset in shared memory.
    pub address: u64,
}

/// Where the variables of a function are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Offsets of the body's variables, by index; shared ones are offsets in shared memory.
    pub vars: Vec<u64>,
    /// Kernel parameters: offsets in parameter space. Function parameters: offsets in local memory.
    pub formals: HashMap<String, u64>,
    pub local: u32,
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
}

impl Decoder<'_> {
    pub(super) fn arg<'b>(&self, args: &'b [Arg], i: usize) -> R<&'b Arg> {
        match args.get(i) {
            Some(a) => Ok(a),
            None => self.error(format!("operand {} is missing", i + 1)),
        }
    }

    pub(super) fn count(&self, args: &[Arg], n: std::ops::RangeInclusive<usize>) -> R<()> {
        if n.contains(&args.len()) { Ok(()) } else { self.error(format!("{} operands", args.len())) }
    }

    fn constant(&mut self, file: File, c: Const) -> Slot {
        if let Some(s) = self.constants.get(&(file, c)) {
            return *s;
        }
        let slot = self.fresh(file);
        self.constants.insert((file, c), slot);
        self.code.consts.push((slot, c));
        slot
    }

    pub(super) fn fresh(&mut self, file: File) -> Slot {
        let n = match file {
            File::R32 => &mut self.code.r32,
            File::R64 => &mut self.code.r64,
            File::Pred => &mut self.code.preds,
        };
        *n += 1;
        Slot::new(file, *n - 1)
    }

    pub(super) fn bits(&mut self, ty: Ty, v: u64) -> Slot {
        let file = if ty.bytes() == 8 { File::R64 } else { File::R32 };
        self.constant(file, Const::Bits(ty.truncate(v)))
    }

    pub(super) fn zero(&mut self) -> Slot {
        self.constant(File::R32, Const::Bits(0))
    }

    /// A register by name, with its declared type.
    pub(super) fn register(&mut self, name: &str) -> R<(Slot, Ty)> {
        match self.body.find(self.scope, name) {
            Some((scope, Entity::Reg(ty))) => {
                if let Some(s) = self.registers.get(&(scope, name.to_string())) {
                    return Ok((*s, ty));
                }
                let file = match ty.bytes() {
                    0 => File::Pred,
                    8 => File::R64,
                    16 => return self.error("128-bit registers are not supported"),
                    _ => File::R32,
                };
                let slot = self.fresh(file);
                self.registers.insert((scope, name.to_string()), slot);
                self.code.names.push((slot, name.to_string()));
                // NVRTC leaves the stack pointers unset where nothing needs them.
                if name == "%SP" || name == "%SPL" {
                    self.code.initialised.push(slot);
                }
                Ok((slot, ty))
            }
            Some(_) => self.error(format!("`{name}` is no register")),
            None => self.error(format!("`{name}` is not declared")),
        }
    }

    pub(super) fn pred_register(&mut self, name: &str) -> R<Slot> {
        let (slot, ty) = self.register(name)?;
        if ty != Ty::Pred {
            return self.error(format!("`{name}` is no predicate"));
        }
        if !self.reads.contains(&slot) {
            self.reads.push(slot);
        }
        Ok(slot)
    }

    fn fits(&self, name: &str, declared: Ty, ty: Ty, wider: bool) -> R<()> {
        let (d, t) = (declared.bytes(), ty.bytes());
        if d == t || (wider && d > t && t > 0) || (t == 1 && d == 2) {
            Ok(())
        } else {
            self.error(format!("register `{name}` of type .{declared} where .{ty} is needed"))
        }
    }

    fn dst_any(&mut self, a: &Arg, ty: Ty, wider: bool) -> R<Slot> {
        match a {
            Arg::Name(name) => {
                let (slot, declared) = self.register(name)?;
                self.fits(name, declared, ty, wider)?;
                self.writes.push(slot);
                Ok(slot)
            }
            // The result is thrown away.
            Arg::Sink => Ok(self.fresh(match ty.bytes() {
                0 => File::Pred,
                8 => File::R64,
                _ => File::R32,
            })),
            _ => self.error("a result needs a register"),
        }
    }

    /// A result register.
    pub(super) fn dst(&mut self, a: &Arg, ty: Ty) -> R<Slot> {
        self.dst_any(a, ty, false)
    }

    /// A result register that may be wider than the type, as `ld` and `cvt` allow.
    pub(super) fn dst_wide(&mut self, a: &Arg, ty: Ty) -> R<Slot> {
        self.dst_any(a, ty, true)
    }

    pub(super) fn dst_pred(&mut self, a: &Arg) -> R<Slot> {
        self.dst_any(a, Ty::Pred, false)
    }

    fn read(&mut self, slot: Slot) -> Slot {
        if !self.reads.contains(&slot) {
            self.reads.push(slot);
        }
        slot
    }

    pub(super) fn src(&mut self, a: &Arg, ty: Ty) -> R<Slot> {
        self.src_any(a, ty, false)
    }

    pub(super) fn src_wide(&mut self, a: &Arg, ty: Ty) -> R<Slot> {
        self.src_any(a, ty, true)
    }

    fn src_any(&mut self, a: &Arg, ty: Ty, wider: bool) -> R<Slot> {
        match a {
            Arg::Name(name) => {
                if matches!(self.body.find(self.scope, name), Some((_, Entity::Reg(_)))) {
                    let (slot, declared) = self.register(name)?;
                    self.fits(name, declared, ty, wider)?;
                    return Ok(self.read(slot));
                }
                if let Some(c) = special(name) {
                    if ty.bytes() < 2 {
                        return self.error(format!("`{name}` as .{ty}"));
                    }
                    return Ok(self.constant(if ty.bytes() == 8 { File::R64 } else { File::R32 }, c));
                }
                self.symbol(name, 0, ty)
            }
            Arg::Sum(name, offset) => self.symbol(name, *offset, ty),
            Arg::Int(v) if !ty.float() || ty.bytes() <= 4 && ty != Ty::F32 => Ok(self.bits(ty, *v)),
            Arg::F32(v) if matches!(ty, Ty::F32 | Ty::B32 | Ty::U32 | Ty::S32 | Ty::Tf32) => {
                Ok(self.bits(ty, u64::from(*v)))
            }
            Arg::F64(v) if ty.bytes() == 8 => Ok(self.bits(ty, *v)),
            Arg::F64(v) if ty == Ty::F32 => Ok(self.bits(ty, u64::from((f64::from_bits(*v) as f32).to_bits()))),
            _ => self.error(format!("an operand of type .{ty} is needed")),
        }
    }

    /// A 32-bit or wider unsigned operand such as a mask or count.
    pub(super) fn src_u32(&mut self, a: &Arg) -> R<Slot> {
        self.src(a, Ty::U32)
    }

    fn symbol(&mut self, name: &str, offset: i64, ty: Ty) -> R<Slot> {
        let file = match ty.bytes() {
            4 => File::R32,
            8 => File::R64,
            _ => return self.error(format!("the address of `{name}` as .{ty}")),
        };
        let c = match self.locate(name)? {
            Place::Local(at) => Const::Local(at.wrapping_add(offset as u64)),
            Place::Fixed(at, _) => Const::Bits(at.wrapping_add(offset as u64)),
        };
        let c = match (c, file) {
            (Const::Bits(v), File::R32) => Const::Bits(u64::from(v as u32)),
            (c, _) => c,
        };
        Ok(self.constant(file, c))
    }

    pub(super) fn locate(&mut self, name: &str) -> R<Place> {
        if let Some((_, Entity::Var(i))) = self.body.find(self.scope, name)
            && let (Some(v), Some(at)) = (self.body.vars.get(i), self.layout.vars.get(i))
        {
            return Ok(match v.space {
                Space::Shared => Place::Fixed(*at, Space::Shared),
                Space::Local | Space::Param => Place::Local(*at),
                s => Place::Fixed(*at, s),
            });
        }
        if let Some(at) = self.layout.formals.get(name) {
            return Ok(if self.function.entry { Place::Fixed(*at, Space::Param) } else { Place::Local(*at) });
        }
        if let Some(s) = self.cx.symbols.get(name) {
            return Ok(Place::Fixed(s.address, s.space));
        }
        if let Some(i) = self.cx.functions.get(name) {
            self.code.calls.push(*i);
            return Ok(Place::Fixed(address::FUNCTION + *i as u64 * 16, Space::Generic));
        }
        self.error(format!("`{name}` is not declared"))
    }

    /// An address operand; gives the space too, which a variable may decide for `.param`.
    pub(super) fn addr(&mut self, a: &Arg, space: Space) -> R<(Addr, Space)> {
        let Arg::Mem { base, offset, coords: None } = a else { return self.error("an address in brackets is needed") };
        self.addr_of(base, *offset, space)
    }

    pub(super) fn addr_of(&mut self, base: &Arg, offset: i64, space: Space) -> R<(Addr, Space)> {
        match base {
            Arg::Name(name) => {
                if matches!(self.body.find(self.scope, name), Some((_, Entity::Reg(_)))) {
                    let (slot, ty) = self.register(name)?;
                    if ty.bytes() != 4 && ty.bytes() != 8 {
                        return self.error(format!("`{name}` of type .{ty} is no address"));
                    }
                    let slot = self.read(slot);
                    return Ok((Addr { base: slot, offset }, space));
                }
                let place = self.locate(name)?;
                let (c, space) = match (place, space) {
                    (Place::Local(at), Space::Generic) => (Const::LocalGeneric(at), space),
                    (Place::Local(at), Space::Local | Space::Param) => (Const::Local(at), Space::Local),
                    (Place::Fixed(at, Space::Shared), Space::Generic) => (Const::Bits(at + address::SHARED), space),
                    (Place::Fixed(at, Space::Param), Space::Generic) => (Const::Bits(at + address::PARAM), space),
                    (Place::Fixed(at, s), Space::Generic) if s != Space::Local => (Const::Bits(at), space),
                    (Place::Fixed(at, s), t) if s == t => (Const::Bits(at), space),
                    _ => return self.error(format!("`{name}` is not in .{space}")),
                };
                Ok((Addr { base: self.constant(File::R64, c), offset }, space))
            }
            Arg::Int(v) => Ok((Addr { base: self.bits(Ty::U64, *v), offset }, space)),
            _ => self.error("an address is a register, a symbol or a number"),
        }
    }

    pub(super) fn src_pred(&mut self, a: &Arg) -> R<PredArg> {
        match a {
            Arg::Name(n) if special(n).is_none() => Ok(PredArg { slot: self.pred_register(n)?, negated: false }),
            Arg::Not(n) => Ok(PredArg { slot: self.pred_register(n)?, negated: true }),
            // `%is_explicit_cluster` and constant predicates.
            Arg::Name(_) => Ok(PredArg { slot: self.constant(File::Pred, Const::Bits(0)), negated: false }),
            Arg::Int(v) => {
                Ok(PredArg { slot: self.constant(File::Pred, Const::Bits(u64::from(*v != 0))), negated: false })
            }
            _ => self.error("a predicate is needed"),
        }
    }

    pub(super) fn int(&self, a: &Arg) -> R<u64> {
        match a {
            Arg::Int(v) => Ok(*v),
            _ => self.error("an integer constant is needed"),
        }
    }

    pub(super) fn label(&self, a: &Arg) -> R<u32> {
        let Arg::Name(name) = a else { return self.error("a label is needed") };
        match self.body.find(self.scope, name) {
            Some((_, Entity::Label(at))) => Ok(at as u32),
            _ => self.error(format!("label `{name}` is not declared")),
        }
    }

    /// Registers of a braced list.
    pub(super) fn list<'b>(&self, a: &'b Arg, n: usize) -> R<&'b [Arg]> {
        match a {
            Arg::List(l) if l.len() == n => Ok(l),
            Arg::List(l) => self.error(format!("a list of {n} registers is needed, not {}", l.len())),
            a if n == 1 => Ok(std::slice::from_ref(a)),
            _ => self.error(format!("a list of {n} registers is needed")),
        }
    }

    pub(super) fn dst_list(&mut self, a: &Arg, n: usize, ty: Ty) -> R<Box<[Slot]>> {
        self.list(a, n)?.iter().map(|x| self.dst(x, ty)).collect()
    }

    pub(super) fn src_list(&mut self, a: &Arg, n: usize, ty: Ty) -> R<Box<[Slot]>> {
        self.list(a, n)?.iter().map(|x| self.src(x, ty)).collect()
    }
}

/// Where a symbol is.
pub(super) enum Place {
    /// In the frame.
    Local(u64),
    Fixed(u64, Space),
}

fn special(name: &str) -> Option<Const> {
    let axis = |rest: &str| match rest {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    let s = if let Some(r) = name.strip_prefix("%tid") {
        Special::Tid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%ntid") {
        Special::Ntid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%ctaid") {
        Special::Ctaid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%nctaid") {
        Special::Nctaid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%clusterid") {
        Special::Ctaid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%nclusterid") {
        Special::Nctaid(axis(r)?)
    } else if let Some(r) = name.strip_prefix("%cluster_ctaid") {
        axis(r)?;
        Special::Zero
    } else if let Some(r) = name.strip_prefix("%cluster_nctaid") {
        axis(r)?;
        Special::One
    } else {
        match name {
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::NwarpId,
            "%lanemask_eq" => Special::LaneMask(Cmp::Eq),
            "%lanemask_lt" => Special::LaneMask(Cmp::Lt),
            "%lanemask_le" => Special::LaneMask(Cmp::Le),
            "%lanemask_gt" => Special::LaneMask(Cmp::Gt),
            "%lanemask_ge" => Special::LaneMask(Cmp::Ge),
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
            "%cluster_ctarank" | "%smid" | "%gridid" | "%is_explicit_cluster" => Special::Zero,
            "%cluster_nctarank" | "%nsmid" => Special::One,
            "WARP_SZ" => return Some(Const::Bits(32)),
            _ => return None,
        }
    };
    Some(Const::Special(s))
}
