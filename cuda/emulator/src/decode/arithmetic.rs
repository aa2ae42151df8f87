//! Arithmetic, comparison, selection and control flow.

use super::modifiers::Modifiers;
use super::{Decoder, R};
use crate::isa::*;
use crate::parse::{Arg, Entity};
use crate::types::Ty;
use Ty::*;

const INT: &[Ty] = &[U16, U32, U64, S16, S32, S64];
const WORDS: &[Ty] = &[B16, B32, B64];
const WIDE: &[Ty] = &[B32, B64];
const FLOAT: &[Ty] = &[F16, F16x2, Bf16, Bf16x2, F32, F32x2, F64];
const SIGNED_OR_FLOAT: &[Ty] = &[S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64];

fn join(a: &[Ty], b: &[Ty]) -> Vec<Ty> {
    [a, b].concat()
}

fn cmp(s: &str) -> Option<Cmp> {
    Some(match s {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" | "lo" => Cmp::Lt,
        "le" | "ls" => Cmp::Le,
        "gt" | "hi" => Cmp::Gt,
        "ge" | "hs" => Cmp::Ge,
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// Result and `n` sources of the same type.
    fn alu(&mut self, k: Alu, ty: Ty, m: Mods, a: &[Arg], n: usize) -> R<Op> {
        self.alu_typed(k, ty, m, a, ty, &[ty; 4][..n])
    }

    fn alu_typed(&mut self, k: Alu, ty: Ty, m: Mods, a: &[Arg], to: Ty, from: &[Ty]) -> R<Op> {
        self.count(a, from.len() + 1..=from.len() + 1)?;
        let mut s = [self.zero(); 4];
        for (i, t) in from.iter().enumerate() {
            s[i] = self.src(self.arg(a, i + 1)?, *t)?;
        }
        let d = self.dst(self.arg(a, 0)?, to)?;
        Ok(Op::Alu { k, ty, m, d, s })
    }

    pub(super) fn arithmetic(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        match m.opcode {
            "add" | "sub" => {
                let k = if m.opcode == "add" { Alu::Add } else { Alu::Sub };
                if m.take("cc") {
                    return self.carry(m, a, false, true);
                }
                let mods = m.float_mods();
                let ty = m.ty_of(&join(INT, FLOAT))?;
                if mods.sat && ty.integer() && ty != S32 {
                    return m.error("integer .sat is for .s32");
                }
                self.alu(k, ty, mods, a, 2)
            }
            "addc" | "subc" => {
                let cc = m.take("cc");
                self.carry(m, a, true, cc)
            }
            "mul" | "mad" | "madc" => self.multiply(m, a),
            "mul24" | "mad24" => {
                let hi = m.need(&[("lo", false), ("hi", true)])?;
                let ty = m.ty_of(&[U32, S32])?;
                match (m.opcode, hi) {
                    ("mul24", false) => self.alu(Alu::Mul24, ty, Mods::PLAIN, a, 2),
                    ("mul24", true) => self.alu(Alu::Mul24Hi, ty, Mods::PLAIN, a, 2),
                    (_, false) => self.alu(Alu::Mad24, ty, Mods::PLAIN, a, 3),
                    (_, true) => self.alu(Alu::Mad24Hi, ty, Mods::PLAIN, a, 3),
                }
            }
            "fma" => {
                let mods = m.float_mods();
                let ty = m.ty_of(FLOAT)?;
                self.alu(Alu::Fma, ty, mods, a, 3)
            }
            "div" => {
                let aux = u8::from(m.take("approx") || m.take("full"));
                let mods = Mods { aux, ..m.float_mods() };
                let ty = m.ty_of(&join(INT, &[F32, F64]))?;
                self.alu(Alu::Div, ty, mods, a, 2)
            }
            "rem" => {
                let ty = m.ty_of(INT)?;
                self.alu(Alu::Rem, ty, Mods::PLAIN, a, 2)
            }
            "abs" | "neg" => {
                let mods = m.float_mods();
                let ty = m.ty_of(SIGNED_OR_FLOAT)?;
                self.alu(if m.opcode == "abs" { Alu::Abs } else { Alu::Neg }, ty, mods, a, 1)
            }
            "min" | "max" => {
                let mut mods = m.float_mods();
                mods.nan = m.take("NaN");
                mods.aux = u8::from(m.take("xorsign")) * 2;
                mods.aux |= u8::from(m.take("abs"));
                let ty = m.ty_of(&join(INT, &[F16, F16x2, Bf16, Bf16x2, F32, F64]))?;
                let min = m.opcode == "min";
                if a.len() == 4 && ty == F32 {
                    return self.alu(if min { Alu::Min3 } else { Alu::Max3 }, ty, mods, a, 3);
                }
                self.alu(if min { Alu::Min } else { Alu::Max }, ty, mods, a, 2)
            }
            "and" | "or" | "xor" => {
                let ty = m.ty_of(&[Pred, B16, B32, B64])?;
                let (k, l) = match m.opcode {
                    "and" => (Alu::And, Logic::And),
                    "or" => (Alu::Or, Logic::Or),
                    _ => (Alu::Xor, Logic::Xor),
                };
                if ty != Pred {
                    return self.alu(k, ty, Mods::PLAIN, a, 2);
                }
                self.count(a, 3..=3)?;
                let x = self.src_pred(self.arg(a, 1)?)?;
                let y = self.src_pred(self.arg(a, 2)?)?;
                Ok(Op::Logic { k: l, d: self.dst_pred(self.arg(a, 0)?)?, a: x, b: y })
            }
            "not" => {
                let ty = m.ty_of(&[Pred, B16, B32, B64])?;
                if ty != Pred {
                    return self.alu(Alu::Not, ty, Mods::PLAIN, a, 1);
                }
                self.count(a, 2..=2)?;
                let x = self.src_pred(self.arg(a, 1)?)?;
                Ok(Op::MovPred { d: self.dst_pred(self.arg(a, 0)?)?, a: PredArg { negated: !x.negated, ..x } })
            }
            "cnot" => {
                let ty = m.ty_of(WORDS)?;
                self.alu(Alu::Cnot, ty, Mods::PLAIN, a, 1)
            }
            "lop3" => {
                let ty = m.ty_of(&[B32])?;
                self.count(a, 5..=5)?;
                let table = self.int(self.arg(a, 4)?)?;
                self.alu(Alu::Lop3, ty, Mods { aux: table as u8, ..Mods::PLAIN }, &a[..4], 3)
            }
            "shl" | "shr" => {
                let (k, ty) = if m.opcode == "shl" {
                    (Alu::Shl, m.ty_of(WORDS)?)
                } else {
                    (Alu::Shr, m.ty_of(&join(WORDS, INT))?)
                };
                self.alu_typed(k, ty, Mods::PLAIN, a, ty, &[ty, U32])
            }
            "shf" => {
                let k = m.need(&[("l", Alu::ShfL), ("r", Alu::ShfR)])?;
                let aux = m.need(&[("clamp", 0), ("wrap", 1)])?;
                let ty = m.ty_of(&[B32])?;
                self.alu(k, ty, Mods { aux, ..Mods::PLAIN }, a, 3)
            }
            "bfe" => {
                let ty = m.ty_of(&[U32, U64, S32, S64])?;
                self.alu_typed(Alu::Bfe, ty, Mods::PLAIN, a, ty, &[ty, U32, U32])
            }
            "bfi" => {
                let ty = m.ty_of(WIDE)?;
                self.alu_typed(Alu::Bfi, ty, Mods::PLAIN, a, ty, &[ty, ty, U32, U32])
            }
            "bmsk" | "szext" => {
                let aux = m.need(&[("clamp", 0), ("wrap", 1)])?;
                let mods = Mods { aux, ..Mods::PLAIN };
                if m.opcode == "bmsk" {
                    let ty = m.ty_of(&[B32])?;
                    self.alu(Alu::Bmsk, ty, mods, a, 2)
                } else {
                    let ty = m.ty_of(&[U32, S32])?;
                    self.alu_typed(Alu::Szext, ty, mods, a, ty, &[ty, U32])
                }
            }
            "bfind" => {
                let aux = u8::from(m.take("shiftamt"));
                let ty = m.ty_of(&[U32, U64, S32, S64])?;
                self.alu_typed(Alu::Bfind, ty, Mods { aux, ..Mods::PLAIN }, a, U32, &[ty])
            }
            "popc" | "clz" => {
                let ty = m.ty_of(WIDE)?;
                self.alu_typed(if m.opcode == "popc" { Alu::Popc } else { Alu::Clz }, ty, Mods::PLAIN, a, U32, &[ty])
            }
            "brev" => {
                let ty = m.ty_of(WIDE)?;
                self.alu(Alu::Brev, ty, Mods::PLAIN, a, 1)
            }
            "fns" => {
                let ty = m.ty_of(&[B32])?;
                self.alu(Alu::Fns, ty, Mods::PLAIN, a, 3)
            }
            "prmt" => {
                let ty = m.ty_of(&[B32])?;
                let aux =
                    m.one(&[("f4e", 1), ("b4e", 2), ("rc8", 3), ("ecl", 4), ("ecr", 5), ("rc16", 6)]).unwrap_or(0);
                self.alu(Alu::Prmt, ty, Mods { aux, ..Mods::PLAIN }, a, 3)
            }
            "sad" => {
                let ty = m.ty_of(INT)?;
                let result = match ty {
                    S16 => U16,
                    t => t,
                };
                self.alu_typed(Alu::Sad, ty, Mods::PLAIN, a, result, &[ty, ty, result])
            }
            "dp4a" | "dp2a" => {
                let (k, hi) =
                    if m.opcode == "dp4a" { (Alu::Dp4a, 0) } else { (Alu::Dp2a, m.need(&[("lo", 0u8), ("hi", 4)])?) };
                let (x, y) = (m.ty_of(&[U32, S32])?, m.ty_of(&[U32, S32])?);
                let aux = hi | u8::from(x.signed()) | u8::from(y.signed()) << 1;
                self.alu(k, B32, Mods { aux, ..Mods::PLAIN }, a, 3)
            }
            "slct" => {
                let ftz = m.take("ftz");
                let ty = m.ty_of(&join(&join(WORDS, INT), &[F32, F64]))?;
                let by = m.ty_of(&[S32, F32])?;
                let mods = Mods { ftz, aux: u8::from(by == F32), ..Mods::PLAIN };
                self.alu_typed(Alu::Slct, ty, mods, a, ty, &[ty, ty, by])
            }
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "ex2" | "lg2" | "tanh" => self.transcendental(m, a),
            "copysign" => {
                let ty = m.ty_of(&[F32, F64])?;
                self.alu(Alu::Copysign, ty, Mods::PLAIN, a, 2)
            }
            "testp" => {
                let k = m.need(&[
                    ("finite", Testp::Finite),
                    ("infinite", Testp::Infinite),
                    ("number", Testp::Number),
                    ("notanumber", Testp::NotANumber),
                    ("normal", Testp::Normal),
                    ("subnormal", Testp::Subnormal),
                ])?;
                let ty = m.ty_of(&[F32, F64])?;
                self.count(a, 2..=2)?;
                let x = self.src(self.arg(a, 1)?, ty)?;
                Ok(Op::Testp { k, ty, d: self.dst_pred(self.arg(a, 0)?)?, a: x })
            }
            "setp" | "set" => self.compare(m, a),
            "selp" => {
                let ty = m.ty_of(&join(&join(WORDS, INT), &[F32, F64]))?;
                self.count(a, 4..=4)?;
                let x = self.src(self.arg(a, 1)?, ty)?;
                let y = self.src(self.arg(a, 2)?, ty)?;
                let p = self.src_pred(self.arg(a, 3)?)?;
                Ok(Op::Selp { d: self.dst(self.arg(a, 0)?, ty)?, a: x, b: y, p })
            }
            _ => m.error(format!("unknown instruction `{}`", m.whole)),
        }
    }

    fn transcendental(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let aux = u8::from(m.take("approx"));
        let mods = Mods { aux, ..m.float_mods() };
        let (k, types): (_, &[Ty]) = match m.opcode {
            "rcp" => (Alu::Rcp, &[F32, F64]),
            "sqrt" => (Alu::Sqrt, &[F32, F64]),
            "rsqrt" => (Alu::Rsqrt, &[F32, F64]),
            "sin" => (Alu::Sin, &[F32]),
            "cos" => (Alu::Cos, &[F32]),
            "lg2" => (Alu::Lg2, &[F32]),
            "ex2" => (Alu::Ex2, &[F32, F16, F16x2, Bf16, Bf16x2]),
            _ => (Alu::Tanh, &[F32, F16, F16x2, Bf16, Bf16x2]),
        };
        let ty = m.ty_of(types)?;
        self.alu(k, ty, mods, a, 1)
    }

    fn multiply(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let mul = m.opcode == "mul";
        let half = m.one(&[("lo", 0), ("hi", 1), ("wide", 2)]);
        let cc = m.take("cc");
        let mods = m.float_mods();
        if cc || m.opcode == "madc" {
            let ty = m.ty_of(&[U32, S32, U64, S64])?;
            let k = match half {
                Some(0) => Carry::MadLo,
                Some(1) => Carry::MadHi,
                _ => return m.error(format!("`{}` needs .lo or .hi", m.whole)),
            };
            let carry_in = m.opcode == "madc";
            self.count(a, 4..=4)?;
            let s = [self.src(self.arg(a, 1)?, ty)?, self.src(self.arg(a, 2)?, ty)?, self.src(self.arg(a, 3)?, ty)?];
            return Ok(Op::Carry { k, ty, carry_in, carry_out: cc, d: self.dst(self.arg(a, 0)?, ty)?, s });
        }
        match half {
            Some(2) => {
                let ty = m.ty_of(&[U16, S16, U32, S32])?;
                let to = match ty {
                    U16 => U32,
                    S16 => S32,
                    U32 => U64,
                    _ => S64,
                };
                if mul {
                    self.alu_typed(Alu::MulWide, ty, Mods::PLAIN, a, to, &[ty, ty])
                } else {
                    self.alu_typed(Alu::MadWide, ty, Mods::PLAIN, a, to, &[ty, ty, to])
                }
            }
            Some(h) => {
                let ty = m.ty_of(INT)?;
                if mods.sat && (mul || h == 0 || ty != S32) {
                    return m.error(".sat is for mad.hi.s32");
                }
                match (mul, h) {
                    (true, 0) => self.alu(Alu::Mul, ty, mods, a, 2),
                    (true, _) => self.alu(Alu::MulHi, ty, mods, a, 2),
                    (false, 0) => self.alu(Alu::Mad, ty, mods, a, 3),
                    (false, _) => self.alu(Alu::MadHi, ty, mods, a, 3),
                }
            }
            None if mul => {
                let ty = m.ty_of(FLOAT)?;
                self.alu(Alu::Mul, ty, mods, a, 2)
            }
            None => {
                let ty = m.ty_of(&[F32, F64])?;
                self.alu(Alu::Fma, ty, mods, a, 3)
            }
        }
    }

    fn carry(&mut self, m: &mut Modifiers<'_>, a: &[Arg], carry_in: bool, carry_out: bool) -> R<Op> {
        let k = if m.opcode.starts_with("add") { Carry::Add } else { Carry::Sub };
        let ty = m.ty_of(&[U32, S32, U64, S64])?;
        self.count(a, 3..=3)?;
        let zero = self.zero();
        let s = [self.src(self.arg(a, 1)?, ty)?, self.src(self.arg(a, 2)?, ty)?, zero];
        Ok(Op::Carry { k, ty, carry_in, carry_out, d: self.dst(self.arg(a, 0)?, ty)?, s })
    }

    fn compare(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        let Some(c) = m.parse_one(cmp) else { return m.error(format!("`{}` has no comparison", m.whole)) };
        let logic = m.one(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        let ftz = m.take("ftz");
        let to = if m.opcode == "set" { Some(m.ty_of(&[U32, S32, F32])?) } else { None };
        let ty = m.ty_of(&join(&join(WORDS, INT), &[F16, F16x2, Bf16, Bf16x2, F32, F64]))?;
        if !ty.float() && !matches!(c, Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge) {
            return m.error(format!("an unordered comparison of .{ty}"));
        }
        if ty.untyped() && !matches!(c, Cmp::Eq | Cmp::Ne) {
            return m.error(format!("an order among .{ty}"));
        }
        self.count(a, if logic.is_some() { 4..=4 } else { 3..=3 })?;
        let x = self.src(self.arg(a, 1)?, ty)?;
        let y = self.src(self.arg(a, 2)?, ty)?;
        let with = match logic {
            Some(l) => Some((l, self.src_pred(self.arg(a, 3)?)?)),
            None => None,
        };
        if let Some(to) = to {
            return Ok(Op::Set { cmp: c, ty, to, ftz, d: self.dst(self.arg(a, 0)?, to)?, a: x, b: y, with });
        }
        let (d, other) = match self.arg(a, 0)? {
            Arg::Pair(d, o) => (self.dst_pred(d)?, Some(self.dst_pred(o)?)),
            d => (self.dst_pred(d)?, None),
        };
        if matches!(ty, F16x2 | Bf16x2) && other.is_none() {
            return m.error("packed comparison needs two results");
        }
        Ok(Op::Setp { cmp: c, ty, ftz, d, other, a: x, b: y, with })
    }

    pub(super) fn control(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        match m.opcode {
            "bra" => {
                m.take("uni");
                self.count(a, 1..=1)?;
                Ok(Op::Bra { target: self.label(self.arg(a, 0)?)? })
            }
            "brx" => {
                m.need(&[("idx", ())])?;
                m.take("uni");
                self.count(a, 2..=2)?;
                let index = self.src(self.arg(a, 0)?, U32)?;
                let Arg::Name(list) = self.arg(a, 1)? else { return m.error("brx needs a list of targets") };
                let Some((_, Entity::Targets(names))) = self.body.find(self.scope, list) else {
                    return m.error(format!("`{list}` is no list of targets"));
                };
                let targets: R<Box<[u32]>> = names.iter().map(|n| self.label(&Arg::Name(n.clone()))).collect();
                Ok(Op::BrIdx { index, targets: targets? })
            }
            "ret" => {
                m.take("uni");
                self.count(a, 0..=0)?;
                Ok(Op::Ret)
            }
            "exit" => Ok(Op::Exit),
            "trap" => Ok(Op::Trap),
            _ => self.call(m, a),
        }
    }

    fn call(&mut self, m: &mut Modifiers<'_>, a: &[Arg]) -> R<Op> {
        m.take("uni");
        let (returns, rest): (&[Arg], &[Arg]) = match a.split_first() {
            Some((Arg::Group(r), rest)) => (r, rest),
            _ => (&[], a),
        };
        let Some((Arg::Name(name), rest)) = rest.split_first() else { return m.error("call without a function") };
        let args: &[Arg] = match rest.first() {
            Some(Arg::Group(g)) => g,
            _ => &[],
        };
        let slots = |d: &Self, list: &[Arg]| -> R<Box<[(u32, u32)]>> {
            list.iter()
                .map(|x| {
                    let Arg::Name(n) = x else { return d.error("arguments are .param variables") };
                    match d.body.find(d.scope, n) {
                        Some((_, Entity::Var(i))) => match (d.body.vars.get(i), d.layout.vars.get(i)) {
                            (Some(v), Some(at)) => Ok((*at as u32, v.size.unwrap_or(0) as u32)),
                            _ => d.error(format!("`{n}` is not declared")),
                        },
                        _ => match d.layout.formals.get(n) {
                            Some(at) => {
                                match d.layout.params.iter().chain(&d.layout.returns).find(|p| u64::from(p.0) == *at) {
                                    Some(p) => Ok(*p),
                                    None => d.error(format!("`{n}` is no .param variable")),
                                }
                            }
                            None => d.error(format!("`{n}` is not declared")),
                        },
                    }
                })
                .collect()
        };
        let (args, returns) = (slots(self, args)?, slots(self, returns)?);
        let callee = match self.cx.functions.get(name.as_str()) {
            _ if matches!(self.body.find(self.scope, name), Some((_, Entity::Reg(_)))) => {
                self.code.indirect_calls = true;
                Callee::Pointer(self.src(&Arg::Name(name.clone()), U64)?)
            }
            Some(i) => {
                self.code.calls.push(*i);
                if let Some(f) = self.cx.ptx.functions.get(*i) {
                    if f.params.len() != args.len() || f.returns.len() != returns.len() {
                        return m.error(format!("`{name}` is called with the wrong number of arguments"));
                    }
                    if f.entry {
                        return m.error(format!("`{name}` is a kernel: it cannot be called"));
                    }
                    if f.body.is_none() {
                        match name.as_str() {
                            "__assertfail" => {
                                return Ok(Op::Call(Box::new(Call { callee: Callee::AssertFail, args, returns })));
                            }
                            "vprintf" => return Ok(Op::Call(Box::new(Call { callee: Callee::Printf, args, returns }))),
                            _ => return m.error(format!("function `{name}` has no body")),
                        }
                    }
                }
                Callee::Function(*i)
            }
            None => return m.error(format!("function `{name}` is not declared")),
        };
        Ok(Op::Call(Box::new(Call { callee, args, returns })))
    }
}
