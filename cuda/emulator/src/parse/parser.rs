//! Recursive descent over the tokens of a PTX module.

use super::ParseError;
use super::ast::*;
use super::lexer::{Lexer, Token};
use crate::types::{Space, Ty};
use std::collections::HashMap;

type R<T> = Result<T, ParseError>;

/// Initialised or zeroed variables of a module may not be larger than this.
const MAX_VARIABLE: u64 = 1 << 28;
/// Braces inside braces; inline assembly nests two or three deep.
const MAX_NESTING: usize = 64;

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Vec<Option<(Token<'a>, u32)>>,
    line: u32,
    out: Ptx,
    chains: HashMap<Vec<Place>, u32>,
    /// The chain that was last seen to start at a place.
    parents: HashMap<Place, Vec<Place>>,
    location: u32,
}

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> R<Ptx> {
    let mut p = Parser {
        lexer: Lexer::new(text),
        peeked: Vec::new(),
        line: 1,
        out: Ptx { locations: vec![vec![]], ..Ptx::default() },
        chains: HashMap::new(),
        parents: HashMap::new(),
        location: 0,
    };
    while p.peek()?.is_some() {
        p.item()?;
    }
    if p.out.version.is_empty() {
        return Err(ParseError::new(1, "no .version: this is not PTX"));
    }
    Ok(p.out)
}

impl<'a> Parser<'a> {
    fn error<T>(&self, message: impl Into<String>) -> R<T> {
        Err(ParseError::new(self.line, message))
    }

    fn peek(&mut self) -> R<Option<Token<'a>>> {
        if self.peeked.is_empty() {
            let t = self.lexer.next()?;
            self.peeked.push(t);
        }
        Ok(self.peeked.last().and_then(|t| t.as_ref()).map(|t| t.0.clone()))
    }

    fn next(&mut self) -> R<Token<'a>> {
        let t = match self.peeked.pop() {
            Some(t) => t,
            None => self.lexer.next()?,
        };
        match t {
            Some((t, line)) => {
                self.line = line;
                Ok(t)
            }
            None => self.error("the text ends early"),
        }
    }

    fn push_back(&mut self, t: Token<'a>) {
        self.peeked.push(Some((t, self.line)));
    }

    fn is(&mut self, c: char) -> R<bool> {
        Ok(self.peek()? == Some(Token::Punct(c)))
    }

    fn accept(&mut self, c: char) -> R<bool> {
        let yes = self.is(c)?;
        if yes {
            self.next()?;
        }
        Ok(yes)
    }

    fn expect(&mut self, c: char) -> R<()> {
        match self.next()? {
            Token::Punct(d) if c == d => Ok(()),
            t => self.error(format!("expected `{c}`, found {}", show(&t))),
        }
    }

    fn word(&mut self) -> R<&'a str> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            t => self.error(format!("expected a name, found {}", show(&t))),
        }
    }

    fn name(&mut self) -> R<&'a str> {
        let w = self.word()?;
        if w.starts_with('.') { self.error(format!("expected a name, found directive `{w}`")) } else { Ok(w) }
    }

    fn int(&mut self) -> R<u64> {
        let negative = self.accept('-')?;
        match self.next()? {
            Token::Int(v) => Ok(if negative { v.wrapping_neg() } else { v }),
            t => self.error(format!("expected an integer, found {}", show(&t))),
        }
    }

    fn item(&mut self) -> R<()> {
        let w = self.word()?;
        match w {
            ".version" => {
                self.out.version = match self.next()? {
                    Token::F64(v) => format!("{:.1}", f64::from_bits(v)),
                    Token::Int(v) => v.to_string(),
                    t => return self.error(format!("expected a version, found {}", show(&t))),
                };
            }
            ".target" => {
                self.out.target = self.word()?.to_string();
                while self.accept(',')? {
                    self.word()?;
                }
            }
            ".address_size" => {
                if self.int()? != 64 {
                    return self.error("only .address_size 64 is supported");
                }
            }
            ".file" => self.file()?,
            ".section" => self.section()?,
            ".loc" => self.loc()?,
            ".pragma" => self.pragma()?,
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".entry" => self.function(true)?,
            ".func" => self.function(false)?,
            ".global" | ".const" | ".shared" => {
                let space = match w {
                    ".global" => Space::Global,
                    ".const" => Space::Const,
                    _ => Space::Shared,
                };
                let vars = self.variables(space)?;
                self.out.vars.extend(vars);
            }
            _ => return self.error(format!("unknown directive `{w}`")),
        }
        Ok(())
    }

    fn file(&mut self) -> R<()> {
        let index = self.int()?;
        match self.next()? {
            Token::Str(s) => {
                if let Ok(i) = u32::try_from(index) {
                    self.out.files.insert(i, s.to_string());
                }
            }
            t => return self.error(format!("expected a file name, found {}", show(&t))),
        }
        while self.accept(',')? {
            self.int()?;
        }
        Ok(())
    }

    fn section(&mut self) -> R<()> {
        self.word()?;
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn pragma(&mut self) -> R<()> {
        match self.next()? {
            Token::Str(_) => self.expect(';'),
            t => self.error(format!("expected a string, found {}", show(&t))),
        }
    }

    fn place(&mut self) -> R<Place> {
        let mut n = [0u32; 3];
        for v in &mut n {
            *v = self.int()?.min(u64::from(u32::MAX)) as u32;
        }
        Ok(Place { file: n[0], line: n[1], column: n[2] })
    }

    fn loc(&mut self) -> R<()> {
        let place = self.place()?;
        let mut chain = vec![place];
        while self.accept(',')? {
            match self.word()? {
                "function_name" => {
                    self.name()?;
                    if self.accept('+')? {
                        self.int()?;
                    }
                }
                "inlined_at" => {
                    let at = self.place()?;
                    match self.parents.get(&at) {
                        Some(c) => chain.extend(c.iter().take(30)),
                        None => chain.push(at),
                    }
                }
                w => return self.error(format!("unknown attribute `{w}` of .loc")),
            }
        }
        self.parents.insert(place, chain.clone());
        self.location = match self.chains.get(&chain) {
            Some(i) => *i,
            None => {
                let i = self.out.locations.len() as u32;
                self.out.locations.push(chain.clone());
                self.chains.insert(chain, i);
                i
            }
        };
        Ok(())
    }

    fn ty(&mut self) -> R<Ty> {
        let w = self.word()?;
        match w.strip_prefix('.').and_then(Ty::parse) {
            Some(t) => Ok(t),
            None => self.error(format!("unknown type `{w}`")),
        }
    }

    /// What follows `.shared` and its like, up to and with the semicolon.
    fn variables(&mut self, space: Space) -> R<Vec<Var>> {
        let mut vars = vec![self.variable(space)?];
        while self.accept(',')? {
            let mut next = self.declarator(space, 1, 1)?;
            next.align = vars.last().map_or(1, |v| v.align);
            vars.push(next);
        }
        self.expect(';')?;
        Ok(vars)
    }

    /// Attributes, type and declarator of one variable or parameter.
    fn variable(&mut self, space: Space) -> R<Var> {
        let mut align = None;
        let mut vector = 1;
        loop {
            let w = self.word()?;
            match w {
                ".align" => {
                    let a = self.int()?;
                    if !a.is_power_of_two() || a > 1 << 16 {
                        return self.error(format!("alignment {a} is not a small power of two"));
                    }
                    align = Some(a);
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" => {
                    self.expect('(')?;
                    while !self.accept(')')? {
                        self.next()?;
                    }
                }
                _ => {
                    let Some(ty) = w.strip_prefix('.').and_then(Ty::parse) else {
                        return self.error(format!("unknown type or attribute `{w}`"));
                    };
                    if ty == Ty::Pred {
                        return self.error("predicates have no place in memory");
                    }
                    if space == Space::Param {
                        self.pointer_attributes()?;
                    }
                    let element = u64::from(ty.bytes()) * vector;
                    return self.declarator(space, element, align.unwrap_or(element));
                }
            }
        }
    }

    /// `.ptr .global .align 16` of a kernel parameter.
    fn pointer_attributes(&mut self) -> R<()> {
        while let Some(Token::Word(w)) = self.peek()? {
            match w {
                ".ptr" | ".global" | ".const" | ".local" | ".shared" => {
                    self.next()?;
                }
                ".align" => {
                    self.next()?;
                    self.int()?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn declarator(&mut self, space: Space, element: u64, align: u64) -> R<Var> {
        let name = self.name()?.to_string();
        let line = self.line;
        let mut size = Some(element);
        while self.accept('[')? {
            if self.accept(']')? {
                size = None;
                continue;
            }
            let n = self.int()?;
            self.expect(']')?;
            size = size.and_then(|s| s.checked_mul(n));
            if size.is_none_or(|s| s > MAX_VARIABLE) {
                return self.error(format!("`{name}` is too large"));
            }
        }
        let mut var = Var { name, space, align, size, init: Vec::new(), relocations: Vec::new(), line };
        if self.accept('=')? {
            self.initialiser(&mut var, element, 0)?;
            let n = var.init.len() as u64;
            match var.size {
                Some(s) if n > s => return self.error(format!("`{}` has more initial values than room", var.name)),
                None => var.size = Some(n),
                _ => {}
            }
        }
        Ok(var)
    }

    fn initialiser(&mut self, var: &mut Var, element: u64, depth: usize) -> R<()> {
        if depth > MAX_NESTING {
            return self.error("initial values nest too deep");
        }
        if self.accept('{')? {
            if self.accept('}')? {
                return Ok(());
            }
            loop {
                self.initialiser(var, element, depth + 1)?;
                if !self.accept(',')? {
                    return self.expect('}');
                }
            }
        }
        let negative = self.accept('-')?;
        let bits = match self.next()? {
            Token::Int(v) => v,
            Token::F32(v) => u64::from(v),
            Token::F64(v) if element == 4 => u64::from((f64::from_bits(v) as f32).to_bits()),
            Token::F64(v) => v,
            Token::Word(w) if element == 8 && !w.starts_with('.') => {
                let mut symbol = w;
                if w == "generic" {
                    self.expect('(')?;
                    symbol = self.name()?;
                    self.expect(')')?;
                }
                let addend = if self.accept('+')? { self.int()? as i64 } else { 0 };
                var.relocations.push((var.init.len(), symbol.to_string(), addend));
                0
            }
            t => return self.error(format!("{} is no initial value", show(&t))),
        };
        let bits = if negative { bits.wrapping_neg() } else { bits };
        let n = (element as usize).min(8);
        var.init.extend_from_slice(bits.to_le_bytes().get(..n).unwrap_or(&[]));
        if var.init.len() as u64 > MAX_VARIABLE {
            return self.error("too many initial values");
        }
        Ok(())
    }

    fn params(&mut self) -> R<Vec<Var>> {
        let mut out = Vec::new();
        self.expect('(')?;
        if self.accept(')')? {
            return Ok(out);
        }
        loop {
            let w = self.word()?;
            if w != ".param" {
                return self.error(format!("parameter in `{w}`: only .param is supported"));
            }
            out.push(self.variable(Space::Param)?);
            if !self.accept(',')? {
                self.expect(')')?;
                return Ok(out);
            }
        }
    }

    fn function(&mut self, entry: bool) -> R<()> {
        let line = self.line;
        if let Some(Token::Word(".attribute")) = self.peek()? {
            self.next()?;
            self.expect('(')?;
            while !self.accept(')')? {
                self.next()?;
            }
        }
        let returns = if self.is('(')? { self.params()? } else { vec![] };
        let name = self.name()?.to_string();
        let params = if self.is('(')? { self.params()? } else { vec![] };
        let mut f = Function { name, entry, params, returns, body: None, line, maxntid: None, reqntid: None };
        loop {
            match self.next()? {
                Token::Punct(';') => break,
                Token::Punct('{') => {
                    f.body = Some(self.body()?);
                    break;
                }
                Token::Word(w @ (".maxntid" | ".reqntid" | ".reqnctapercluster")) => {
                    let mut n = [1u32; 3];
                    for (i, v) in n.iter_mut().enumerate() {
                        if i > 0 && !self.accept(',')? {
                            break;
                        }
                        *v = u32::try_from(self.int()?).unwrap_or(u32::MAX);
                    }
                    match w {
                        ".maxntid" => f.maxntid = Some(n),
                        ".reqntid" => f.reqntid = Some(n),
                        _ if n != [1; 3] => return self.error("clusters of more than one block are not supported"),
                        _ => {}
                    }
                }
                Token::Word(".minnctapersm" | ".maxnreg" | ".maxclusterrank") => {
                    self.int()?;
                }
                Token::Word(".noreturn" | ".explicitcluster" | ".blocksareclusters") => {}
                Token::Word(".pragma") => self.pragma()?,
                t => return self.error(format!("unexpected {} in the head of `{}`", show(&t), f.name)),
            }
        }
        match self.out.functions.iter_mut().find(|g| g.name == f.name) {
            None => self.out.functions.push(f),
            Some(g) if g.body.is_none() => *g = f,
            Some(_) if f.body.is_none() => {}
            Some(_) => return self.error(format!("`{}` is defined twice", f.name)),
        }
        Ok(())
    }

    fn body(&mut self) -> R<Body> {
        self.location = 0;
        self.parents.clear();
        let mut body = Body { scopes: vec![Scope::default()], ..Body::default() };
        let mut scope = 0;
        let mut open = vec![0usize];
        loop {
            match self.next()? {
                Token::Punct('{') => {
                    if open.len() >= MAX_NESTING {
                        return self.error("braces nest too deep");
                    }
                    body.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                    scope = body.scopes.len() - 1;
                    open.push(scope);
                }
                Token::Punct('}') => {
                    open.pop();
                    match open.last() {
                        Some(s) => scope = *s,
                        None => return Ok(body),
                    }
                }
                Token::Punct(';') => {}
                Token::Punct('@') => {
                    let negated = self.accept('!')?;
                    let p = self.name()?.to_string();
                    let op = self.name()?;
                    self.statement(&mut body, scope, Some((p, negated)), op)?;
                }
                Token::Word(w) if w.starts_with('.') => self.inner_directive(&mut body, scope, w)?,
                Token::Word(w) => {
                    if self.accept(':')? {
                        self.label(&mut body, scope, w)?;
                    } else {
                        self.statement(&mut body, scope, None, w)?;
                    }
                }
                t => return self.error(format!("unexpected {}", show(&t))),
            }
        }
    }

    fn declare(&mut self, body: &mut Body, scope: usize, name: &str, e: Entity) -> R<()> {
        let Some(s) = body.scopes.get_mut(scope) else { return self.error("no scope") };
        if s.names.insert(name.to_string(), e).is_some() {
            return self.error(format!("`{name}` is declared twice"));
        }
        Ok(())
    }

    fn label(&mut self, body: &mut Body, scope: usize, name: &str) -> R<()> {
        let entity = match self.peek()? {
            Some(Token::Word(".branchtargets")) => {
                self.next()?;
                let mut targets = vec![self.name()?.to_string()];
                while self.accept(',')? {
                    targets.push(self.name()?.to_string());
                }
                self.expect(';')?;
                Entity::Targets(targets)
            }
            Some(Token::Word(".callprototype")) => {
                while !self.accept(';')? {
                    self.next()?;
                }
                Entity::Prototype
            }
            _ => Entity::Label(body.stmts.len()),
        };
        self.declare(body, scope, name, entity)
    }

    fn inner_directive(&mut self, body: &mut Body, scope: usize, w: &str) -> R<()> {
        match w {
            ".reg" => {
                let ty = self.ty()?;
                loop {
                    let name = self.name()?.to_string();
                    if self.accept('<')? {
                        let count = self.int()?;
                        self.expect('>')?;
                        if let Some(s) = body.scopes.get_mut(scope) {
                            s.ranges.insert(name, (count, ty));
                        }
                    } else {
                        self.declare(body, scope, &name, Entity::Reg(ty))?;
                    }
                    if !self.accept(',')? {
                        return self.expect(';');
                    }
                }
            }
            ".shared" | ".local" | ".param" | ".global" | ".const" => {
                let space = match w {
                    ".shared" => Space::Shared,
                    ".local" => Space::Local,
                    ".param" => Space::Param,
                    ".global" => Space::Global,
                    _ => Space::Const,
                };
                for v in self.variables(space)? {
                    let name = v.name.clone();
                    body.vars.push(v);
                    self.declare(body, scope, &name, Entity::Var(body.vars.len() - 1))?;
                }
                Ok(())
            }
            ".loc" => self.loc(),
            ".pragma" => self.pragma(),
            _ => self.error(format!("unknown directive `{w}`")),
        }
    }

    fn statement(&mut self, body: &mut Body, scope: usize, guard: Option<(String, bool)>, op: &str) -> R<()> {
        let line = self.line;
        let mut args = Vec::new();
        if !self.accept(';')? {
            loop {
                args.push(self.arg(0)?);
                match self.next()? {
                    Token::Punct(',') => {}
                    Token::Punct(';') => break,
                    // Inline assembly may leave out the last semicolon before a brace.
                    t @ Token::Punct('}') => {
                        self.push_back(t);
                        break;
                    }
                    t => return self.error(format!("unexpected {} after an operand of `{op}`", show(&t))),
                }
            }
        }
        body.stmts.push(Stmt { guard, op: op.to_string(), args, line, location: self.location, scope });
        Ok(())
    }

    fn list(&mut self, close: char, depth: usize) -> R<Vec<Arg>> {
        let mut out = Vec::new();
        if self.accept(close)? {
            return Ok(out);
        }
        loop {
            out.push(self.arg(depth + 1)?);
            if !self.accept(',')? {
                self.expect(close)?;
                return Ok(out);
            }
        }
    }

    fn arg(&mut self, depth: usize) -> R<Arg> {
        if depth > 4 {
            return self.error("operands nest too deep");
        }
        let a = match self.next()? {
            Token::Punct('{') => Arg::List(self.list('}', depth)?),
            Token::Punct('(') => Arg::Group(self.list(')', depth)?),
            Token::Punct('[') => self.address(depth)?,
            Token::Punct('!') => Arg::Not(self.name()?.to_string()),
            Token::Punct('-') => match self.next()? {
                Token::Int(v) => Arg::Int(v.wrapping_neg()),
                Token::F64(v) => Arg::F64(v ^ 1 << 63),
                t => return self.error(format!("`-` before {}", show(&t))),
            },
            Token::Int(v) => Arg::Int(v),
            Token::F32(v) => Arg::F32(v),
            Token::F64(v) => Arg::F64(v),
            Token::Word("_") => Arg::Sink,
            Token::Word(w) if !w.starts_with('.') => {
                if self.is('+')? {
                    self.next()?;
                    Arg::Sum(w.to_string(), self.int()? as i64)
                } else {
                    Arg::Name(w.to_string())
                }
            }
            t => return self.error(format!("{} is no operand", show(&t))),
        };
        if self.accept('|')? { Ok(Arg::Pair(Box::new(a), Box::new(self.arg(depth + 1)?))) } else { Ok(a) }
    }

    fn address(&mut self, depth: usize) -> R<Arg> {
        let base = match self.arg(depth + 1)? {
            Arg::Sum(name, offset) => {
                self.expect(']')?;
                return Ok(Arg::Mem { base: Box::new(Arg::Name(name)), offset, coords: None });
            }
            b @ (Arg::Name(_) | Arg::Int(_)) => b,
            _ => return self.error("an address is a register, a symbol or a number"),
        };
        let mut offset = 0;
        let mut coords = None;
        match self.next()? {
            Token::Punct(']') => return Ok(Arg::Mem { base: Box::new(base), offset, coords }),
            Token::Punct('+') => offset = self.int()? as i64,
            Token::Punct('-') => offset = (self.int()? as i64).wrapping_neg(),
            Token::Punct(',') => match self.arg(depth + 1)? {
                Arg::List(l) => coords = Some(l),
                _ => return self.error("coordinates are a list in braces"),
            },
            t => return self.error(format!("unexpected {} in an address", show(&t))),
        }
        self.expect(']')?;
        Ok(Arg::Mem { base: Box::new(base), offset, coords })
    }
}

fn show(t: &Token<'_>) -> String {
    match t {
        Token::Word(w) => format!("`{w}`"),
        Token::Int(v) => format!("`{v}`"),
        Token::F32(v) => format!("`0f{v:08X}`"),
        Token::F64(v) => format!("`0d{v:016X}`"),
        Token::Str(s) => format!("{s:?}"),
        Token::Punct(c) => format!("`{c}`"),
    }
}
