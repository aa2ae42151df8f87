//! What the parser hands to the decoder.

use crate::types::{Space, Ty};
use std::collections::HashMap;

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// A register, symbol, label or special register.
    Name(String),
    /// `!name`
    Not(String),
    Int(u64),
    F32(u32),
    F64(u64),
    /// `_`
    Sink,
    /// `{a, b, ...}`
    List(Vec<Arg>),
    /// `(a, b, ...)`
    Group(Vec<Arg>),
    /// `a|b`
    Pair(Box<Arg>, Box<Arg>),
    /// `[base + offset]`, or `[base, {coordinates}]`
    Mem {
        base: Box<Arg>,
        offset: i64,
        coords: Option<Vec<Arg>>,
    },
    /// `symbol + offset`
    Sum(String, i64),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Stmt {
    /// Guard predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// Opcode with all its modifiers.
    pub op: String,
    pub args: Vec<Arg>,
    /// Line in the PTX text.
    pub line: u32,
    /// Index into [`Ptx::locations`].
    pub location: u32,
    /// Index into [`Body::scopes`].
    pub scope: usize,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: u64,
    /// Size in bytes; `None` for `extern` arrays of unknown size.
    pub size: Option<u64>,
    pub init: Vec<u8>,
    /// Addresses of symbols to be put into `init`: byte offset, symbol, addend.
    pub relocations: Vec<(usize, String, i64)>,
    pub line: u32,
}

/// What a name means in a scope.
#[derive(Clone, Debug)]
pub(crate) enum Entity {
    Reg(Ty),
    Label(usize),
    Var(usize),
    /// A label of a `.branchtargets` list.
    Targets(Vec<String>),
    /// A `.callprototype`.
    Prototype,
}

/// A pair of braces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub parent: Option<usize>,
    pub names: HashMap<String, Entity>,
    /// `%r<12>`: prefix, count, type.
    pub ranges: HashMap<String, (u64, Ty)>,
}

/// Statements of a function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub stmts: Vec<Stmt>,
    pub scopes: Vec<Scope>,
    /// Variables declared inside.
    pub vars: Vec<Var>,
}

impl Body {
    /// Resolves a name from inside a scope, with the scope that declares it.
    pub(crate) fn find(&self, mut scope: usize, name: &str) -> Option<(usize, Entity)> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index = name.get(stem.len()..).unwrap_or("");
        loop {
            let s = self.scopes.get(scope)?;
            if let Some(e) = s.names.get(name) {
                return Some((scope, e.clone()));
            }
            if let Some((count, ty)) = s.ranges.get(stem) {
                let canonical = index == "0" || !index.starts_with('0');
                if canonical && index.parse::<u64>().is_ok_and(|i| i < *count) {
                    return Some((scope, Entity::Reg(*ty)));
                }
            }
            scope = s.parent?;
        }
    }
}

/// A kernel or device function.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: String,
    pub entry: bool,
    pub params: Vec<Var>,
    pub returns: Vec<Var>,
    /// `None`: only declared.
    pub body: Option<Body>,
    pub line: u32,
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
}

/// A place in the source files, as `.loc` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

/// A parsed text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ptx {
    pub version: String,
    pub target: String,
    pub vars: Vec<Var>,
    pub functions: Vec<Function>,
    pub files: HashMap<u32, String>,
    /// Chains of places, innermost first; index 0 is empty.
    pub locations: Vec<Vec<Place>>,
}
