//! The dotted parts of an opcode; every one has to be used.

use super::R;
use crate::isa::{Mods, Round};
use crate::parse::ParseError;
use crate::types::{Space, Ty};

pub(crate) struct Modifiers<'a> {
    pub whole: &'a str,
    pub opcode: &'a str,
    parts: Vec<(&'a str, bool)>,
    line: u32,
}

impl<'a> Modifiers<'a> {
    pub(crate) fn new(whole: &'a str, line: u32) -> Self {
        let mut parts = whole.split('.');
        let opcode = parts.next().unwrap_or("");
        Self { whole, opcode, parts: parts.map(|p| (p, false)).collect(), line }
    }

    pub(crate) fn error<T>(&self, message: impl Into<String>) -> R<T> {
        Err(ParseError::new(self.line, message))
    }

    /// Uses a modifier if it is there.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        for p in &mut self.parts {
            if p.0 == name && !p.1 {
                p.1 = true;
                return true;
            }
        }
        false
    }

    /// Uses the first of some modifiers that is there.
    pub(crate) fn one<T: Copy>(&mut self, of: &[(&str, T)]) -> Option<T> {
        of.iter().find(|x| self.take(x.0)).map(|x| x.1)
    }

    pub(crate) fn need<T: Copy>(&mut self, of: &[(&str, T)]) -> R<T> {
        match self.one(of) {
            Some(x) => Ok(x),
            None => {
                let names: Vec<&str> = of.iter().map(|x| x.0).collect();
                self.error(format!("`{}` lacks one of .{}", self.whole, names.join(" .")))
            }
        }
    }

    /// Uses the first unused modifier that is a type.
    pub(crate) fn maybe_ty(&mut self) -> Option<Ty> {
        for p in &mut self.parts {
            if !p.1
                && let Some(t) = Ty::parse(p.0)
            {
                p.1 = true;
                return Some(t);
            }
        }
        None
    }

    pub(crate) fn ty(&mut self) -> R<Ty> {
        match self.maybe_ty() {
            Some(t) => Ok(t),
            None => self.error(format!("`{}` has no type", self.whole)),
        }
    }

    /// A type out of a list.
    pub(crate) fn ty_of(&mut self, allowed: &[Ty]) -> R<Ty> {
        let t = self.ty()?;
        if allowed.contains(&t) { Ok(t) } else { self.error(format!("type .{t} in `{}`", self.whole)) }
    }

    pub(crate) fn space(&mut self) -> Space {
        self.one(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
            ("local", Space::Local),
            ("const", Space::Const),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
        ])
        .unwrap_or(Space::Generic)
    }

    /// Cache operators, eviction hints and prefetch sizes: they have no effect here.
    pub(crate) fn cache_hints(&mut self) {
        for name in ["ca", "cg", "cs", "cv", "lu", "wb", "wt", "nc"] {
            self.take(name);
        }
        self.eviction();
    }

    pub(crate) fn eviction(&mut self) {
        for p in &mut self.parts {
            if p.0.starts_with("L1::") || p.0.starts_with("L2::") {
                p.1 = true;
            }
        }
    }

    pub(crate) fn scope(&mut self) -> bool {
        let a = self.one(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]);
        a.is_some()
    }

    /// Memory ordering; true if the access is a strong one.
    pub(crate) fn ordering(&mut self) -> bool {
        let strong = self
            .one(&[
                ("volatile", true),
                ("relaxed", true),
                ("acquire", true),
                ("release", true),
                ("acq_rel", true),
                ("mmio", true),
                ("weak", false),
            ])
            .unwrap_or(false);
        self.scope();
        strong
    }

    pub(crate) fn rounding(&mut self) -> Option<Round> {
        self.one(&[
            ("rn", Round::Nearest),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
            ("rna", Round::NearestAway),
            ("rni", Round::IntNearest),
            ("rzi", Round::IntZero),
            ("rmi", Round::IntDown),
            ("rpi", Round::IntUp),
        ])
    }

    /// Rounding, `.ftz` and `.sat` of arithmetic.
    pub(crate) fn float_mods(&mut self) -> Mods {
        Mods {
            round: self.rounding().unwrap_or_default(),
            ftz: self.take("ftz"),
            sat: self.take("sat"),
            relu: self.take("relu"),
            ..Mods::PLAIN
        }
    }

    /// Modifiers that nobody used, as they stand.
    pub(crate) fn rest(&self) -> Vec<&'a str> {
        self.parts.iter().filter(|p| !p.1).map(|p| p.0).collect()
    }

    /// Uses the first unused modifier that a function understands.
    pub(crate) fn parse_one<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        for p in &mut self.parts {
            if !p.1
                && let Some(x) = f(p.0)
            {
                p.1 = true;
                return Some(x);
            }
        }
        None
    }

    pub(crate) fn finish(&self) -> R<()> {
        match self.rest().first() {
            Some(p) if Ty::parse(p).is_some() => self.error(format!("type .{p} in `{}`", self.whole)),
            Some(p) => self.error(format!("unknown modifier .{p} in `{}`", self.whole)),
            None => Ok(()),
        }
    }
}
