//! From parsed statements to typed instructions. Whatever is not understood is refused by name and line.

mod arithmetic;
mod convert;
mod matrix;
mod memory;
mod modifiers;
mod operands;
mod sync;

pub(crate) use operands::{Layout, Symbol};

use crate::isa::*;
use crate::parse::{Body, Function, ParseError, Ptx, Stmt};
use crate::types::Ty;
use modifiers::Modifiers;
use std::collections::HashMap;

type R<T> = Result<T, ParseError>;

/// Opcodes and what is understood of each; the README's table is made of it.
pub(crate) const SUPPORTED: &[(&str, &str)] = &[
    ("abs", "s16 s32 s64 f16 f16x2 bf16 bf16x2 f32 f64"),
    ("activemask", "b32"),
    ("add", "integers, f16 f16x2 bf16 bf16x2 f32 f32x2 f64; .cc, .sat, roundings, .ftz"),
    ("addc", "u32 s32 u64 s64; .cc"),
    ("and", "pred b16 b32 b64"),
    ("applypriority", "no effect"),
    (
        "atom",
        "global, shared, generic: add min max and or xor exch cas inc dec; integers, f16 f16x2 bf16 bf16x2 f32 f64, .v2 .v4",
    ),
    ("bar", "sync, arrive, red.popc, red.and, red.or; warp.sync"),
    ("barrier", "the same, aligned or not; cluster.arrive, cluster.wait in a cluster of one"),
    ("bfe", "u32 s32 u64 s64"),
    ("bfi", "b32 b64"),
    ("bfind", "u32 s32 u64 s64; .shiftamt"),
    ("bmsk", "clamp, wrap"),
    ("bra", "with .uni"),
    ("brev", "b32 b64"),
    ("brx", "idx"),
    ("call", "functions, function pointers, __assertfail, vprintf (ignored)"),
    ("clz", "b32 b64"),
    ("cnot", "b16 b32 b64"),
    ("copysign", "f32 f64"),
    ("cos", "f32"),
    (
        "cp",
        "async.ca, async.cg with source size; async.commit_group, wait_group, wait_all, mbarrier.arrive; \
      async.bulk and async.bulk.tensor (1d to 5d, tile mode) between global and shared memory, reduce, prefetch, commit_group, wait_group",
    ),
    ("createpolicy", "fractional; the policy has no effect"),
    (
        "cvt",
        "between all integer and floating types; roundings, .sat, .ftz, .relu, .satfinite; f16x2, bf16x2, e4m3x2, e5m2x2, tf32",
    ),
    ("cvta", "global shared local const param, both ways"),
    ("discard", "no effect"),
    ("div", "integers; f32 approx, full, rn rz rm rp; f64"),
    ("dp2a", "lo, hi"),
    ("dp4a", "u32 s32"),
    ("elect", "sync"),
    ("ex2", "f32 f16 f16x2 bf16 bf16x2, approx"),
    ("exit", ""),
    ("fence", "all scopes; proxy.async, proxy.tensormap, mbarrier_init"),
    ("fma", "f16 f16x2 bf16 bf16x2 f32 f32x2 f64; roundings, .ftz, .sat, .relu"),
    ("fns", "b32"),
    ("griddepcontrol", "no effect"),
    ("isspacep", "global shared local const param"),
    ("ld", "all spaces, vectors of 2, 4 and 8; cache operators and hints have no effect"),
    ("ldmatrix", "m8n8 x1 x2 x4, trans"),
    ("ldu", "as ld"),
    ("lg2", "f32, approx"),
    ("lop3", "b32"),
    ("mad", "integers lo hi wide, .cc, f32, f64"),
    ("mad24", "lo hi"),
    ("madc", "lo hi; .cc"),
    ("mapa", "cluster of one"),
    ("match", "any, all; b32 b64"),
    ("max", "integers, f16 f16x2 bf16 bf16x2 f32 f64; .NaN, .ftz, three operands"),
    ("mbarrier", "init, inval, arrive, arrive_drop, expect_tx, complete_tx, test_wait, try_wait, pending_count is not"),
    ("membar", "cta gl sys"),
    ("min", "as max"),
    (
        "mma",
        "sync.aligned: m16n8k8 and m16n8k16 bf16 f16 (f32 or f16 accumulators), m16n8k4 and m16n8k8 tf32, m16n8k32 and m16n8k16 e4m3 e5m2, \
      m16n8k16 and m16n8k32 s8 u8",
    ),
    ("mov", "registers, immediates, special registers, addresses, packing and unpacking"),
    ("movmatrix", "m8n8 trans b16"),
    ("mul", "integers lo hi wide; f16 f16x2 bf16 bf16x2 f32 f32x2 f64"),
    ("mul24", "lo hi"),
    ("nanosleep", "no effect"),
    ("neg", "s16 s32 s64 f16 f16x2 bf16 bf16x2 f32 f64"),
    ("not", "pred b16 b32 b64"),
    ("or", "pred b16 b32 b64"),
    ("popc", "b32 b64"),
    ("prefetch", "no effect"),
    ("prefetchu", "no effect"),
    ("prmt", "b32; all modes"),
    ("rcp", "f32 approx and rounded, f64"),
    ("red", "as atom"),
    ("redux", "sync: add min max and or xor; u32 s32 b32"),
    ("rem", "integers"),
    ("ret", "with .uni"),
    ("rsqrt", "f32 f64, approx"),
    ("sad", "integers"),
    ("selp", "all types"),
    ("set", "integers and floats into u32 s32 f32"),
    ("setmaxnreg", "no effect"),
    ("setp", "all comparisons and types; and or xor with a predicate; two results"),
    ("shf", "l r; clamp, wrap"),
    ("shfl", "sync: idx up down bfly"),
    ("shl", "b16 b32 b64"),
    ("shr", "all integer types"),
    ("sin", "f32"),
    ("slct", "all types"),
    ("sqrt", "f32 approx and rounded, f64"),
    ("st", "as ld"),
    ("stmatrix", "m8n8 x1 x2 x4, trans"),
    ("sub", "as add"),
    ("subc", "as addc"),
    ("szext", "u32 s32; clamp, wrap"),
    ("tanh", "f32 f16 f16x2 bf16 bf16x2, approx"),
    ("testp", "f32 f64"),
    ("trap", ""),
    ("vote", "sync: all any uni ballot"),
    (
        "wgmma",
        "fence, commit_group, wait_group; mma_async m64n8..256 with k16 bf16 f16, k8 tf32, k32 e4m3 e5m2, A from registers or shared memory",
    ),
    ("xor", "pred b16 b32 b64"),
];

/// What a function needs to know of its module.
pub(crate) struct Context<'a> {
    pub ptx: &'a Ptx,
    pub symbols: &'a HashMap<String, Symbol>,
    pub functions: &'a HashMap<String, usize>,
}

/// An instruction that is not supported, found when a module is only listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Line in the PTX text.
    pub line: u32,
    /// What it is.
    pub message: String,
}

pub(crate) struct Decoder<'a> {
    cx: &'a Context<'a>,
    body: &'a Body,
    function: &'a Function,
    layout: Layout,
    code: Code,
    registers: HashMap<(usize, String), Slot>,
    constants: HashMap<(File, Const), Slot>,
    line: u32,
    scope: usize,
    /// Registers written by the statement at hand.
    writes: Vec<Slot>,
    reads: Vec<Slot>,
}

/// Decodes a function. With `lenient`, unsupported instructions are collected instead of failing.
pub(crate) fn decode(
    cx: &Context<'_>,
    function: &Function,
    body: &Body,
    layout: Layout,
    mut lenient: Option<&mut Vec<Unsupported>>,
) -> R<Code> {
    let mut d = Decoder {
        cx,
        body,
        function,
        code: Code {
            name: function.name.clone(),
            local: layout.local,
            params: layout.params.clone(),
            returns: layout.returns.clone(),
            granule: 16,
            ..Code::default()
        },
        layout,
        registers: HashMap::new(),
        constants: HashMap::new(),
        line: function.line,
        scope: 0,
        writes: Vec::new(),
        reads: Vec::new(),
    };
    for stmt in &body.stmts {
        match d.statement(stmt) {
            Ok(()) => {}
            Err(e) => match lenient.as_deref_mut() {
                Some(list) => {
                    list.push(Unsupported { line: e.line, message: e.message });
                    // Keep label positions right.
                    d.push(Op::Nop, None, stmt);
                }
                None => return Err(e),
            },
        }
    }
    let end = Stmt {
        guard: None,
        op: "ret".into(),
        args: vec![],
        line: body.stmts.last().map_or(function.line, |s| s.line),
        location: body.stmts.last().map_or(0, |s| s.location),
        scope: 0,
    };
    // Only where control gets there: a block that cannot run would count as not covered.
    if crate::cfg::reaches_end(&d.code.insts) {
        d.push(Op::Ret, None, &end);
    }
    d.code.blocks = crate::cfg::analyse(&mut d.code.insts);
    d.code.calls.sort_unstable();
    d.code.calls.dedup();
    d.code.registers = d.registers.len();
    Ok(d.code)
}

impl Decoder<'_> {
    fn error<T>(&self, message: impl Into<String>) -> R<T> {
        Err(ParseError::new(self.line, message))
    }

    fn push(&mut self, op: Op, guard: Option<PredArg>, s: &Stmt) {
        let reads = std::mem::take(&mut self.reads).into_boxed_slice();
        let writes = std::mem::take(&mut self.writes).into_boxed_slice();
        self.code.insts.push(Inst {
            op,
            guard,
            reads,
            writes,
            rejoin: u32::MAX,
            block: 0,
            leader: false,
            line: s.line,
            location: s.location,
        });
    }

    fn statement(&mut self, s: &Stmt) -> R<()> {
        self.line = s.line;
        self.scope = s.scope;
        self.reads.clear();
        self.writes.clear();
        let guard = match &s.guard {
            Some((name, negated)) => Some(PredArg { slot: self.pred_register(name)?, negated: *negated }),
            None => None,
        };
        let mut m = Modifiers::new(&s.op, self.line);
        let op = self.operation(s, &mut m)?;
        m.finish()?;
        self.push(op, guard, s);
        Ok(())
    }

    fn operation(&mut self, s: &Stmt, m: &mut Modifiers<'_>) -> R<Op> {
        let known = SUPPORTED.binary_search_by(|x| x.0.cmp(m.opcode)).is_ok();
        if !known {
            return self.error(format!("unknown instruction `{}`", s.op));
        }
        let a = &s.args[..];
        match m.opcode {
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "mapa" | "prefetch" | "prefetchu"
            | "discard" | "applypriority" | "createpolicy" => self.memory(m, a),
            "cp" => self.copy(m, a),
            "mov" => self.mov(m, a),
            "cvt" => self.cvt(m, a),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" => self.control(m, a),
            "bar" | "barrier" | "fence" | "membar" | "shfl" | "vote" | "activemask" | "match" | "redux" | "elect"
            | "mbarrier" | "nanosleep" | "griddepcontrol" | "setmaxnreg" => self.sync(m, a),
            "mma" | "wgmma" | "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix(m, a),
            _ => self.arithmetic(m, a),
        }
    }

    fn access(&mut self, ty: Ty, count: usize) {
        self.granule(ty.bytes().saturating_mul(count as u32));
    }

    /// Notes the size of an access that shared or global memory may see.
    fn granule(&mut self, bytes: u32) {
        self.code.granule = self.code.granule.min(1 << bytes.trailing_zeros().min(4));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn table_is_sorted_and_unique() {
        assert!(super::SUPPORTED.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
