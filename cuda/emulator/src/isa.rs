//! The instruction set after decoding: typed operations on register slots.

use crate::types::{Space, Ty};

/// A register of a frame: 32-bit file, 64-bit file, or predicate file.
///
/// Immediates and special registers live in slots of their own that a frame fills when it is made, so an operand is
/// always one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    R32,
    R64,
    Pred,
}

impl Slot {
    pub(crate) fn new(file: File, index: usize) -> Slot {
        let tag = match file {
            File::R32 => 0,
            File::R64 => 1 << 30,
            File::Pred => 2 << 30,
        };
        Slot(tag | index as u32)
    }

    #[inline(always)]
    pub(crate) fn file(self) -> File {
        match self.0 >> 30 {
            0 => File::R32,
            1 => File::R64,
            _ => File::Pred,
        }
    }

    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        (self.0 & 0x3fff_ffff) as usize
    }
}

/// What a constant slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Const {
    Bits(u64),
    /// Offset inside the frame's local memory.
    Local(u64),
    /// The same as a generic address.
    LocalGeneric(u64),
    Special(Special),
}

/// Special registers that do not change while a warp runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    LaneMask(Cmp),
    DynamicShared,
    TotalShared,
    Zero,
    One,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) enum Round {
    #[default]
    Nearest,
    Zero,
    Down,
    Up,
    /// Nearest, ties away from zero.
    NearestAway,
    /// To an integral value: the same four.
    IntNearest,
    IntZero,
    IntDown,
    IntUp,
}

/// Modifiers of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Mods {
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    /// `.NaN` of min and max.
    pub nan: bool,
    pub relu: bool,
    pub satfinite: bool,
    /// `.wrap` (not `.clamp`), `.abs`, `.shiftamt`, the table of `lop3`, the mode of `prmt` and such.
    pub aux: u8,
}

impl Mods {
    pub(crate) const PLAIN: Mods =
        Mods { round: Round::Nearest, ftz: false, sat: false, nan: false, relu: false, satfinite: false, aux: 0 };
}

/// Arithmetic that maps up to four operands of a lane to one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    MulHi,
    MulWide,
    Mad,
    MadHi,
    MadWide,
    Mul24,
    Mul24Hi,
    Mad24,
    Mad24Hi,
    Fma,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    Min3,
    Max3,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Lop3,
    Shl,
    Shr,
    ShfL,
    ShfR,
    Bfe,
    Bfi,
    Bmsk,
    Szext,
    Bfind,
    Popc,
    Clz,
    Brev,
    Fns,
    Prmt,
    Sad,
    Dp4a,
    Dp2a,
    Slct,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Ex2,
    Lg2,
    Tanh,
    Copysign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// True also if unordered.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Testp {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rmw {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Idx,
    Up,
    Down,
    Bfly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Low,
    High,
    Full,
    Timer,
    TimerLow,
    TimerHigh,
}

/// A memory operand: register plus constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addr {
    pub base: Slot,
    pub offset: i64,
}

/// A predicate operand, perhaps negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PredArg {
    pub slot: Slot,
    pub negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

/// Operand formats of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MmaType {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl MmaType {
    pub(crate) fn bytes(self) -> usize {
        match self {
            MmaType::F16 | MmaType::Bf16 => 2,
            MmaType::Tf32 => 4,
            _ => 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmaShape {
    pub n: u16,
    pub k: u8,
    pub a: MmaType,
    pub b: MmaType,
    /// Accumulators are f16, two in a register.
    pub half: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mma {
    pub shape: MmaShape,
    pub d: Box<[Slot]>,
    pub a: Box<[Slot]>,
    pub b: Box<[Slot]>,
    pub c: Box<[Slot]>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WgmmaA {
    Registers(Box<[Slot]>),
    Descriptor(Slot),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wgmma {
    pub shape: MmaShape,
    pub d: Box<[Slot]>,
    pub a: WgmmaA,
    pub b: Slot,
    pub scale_d: PredArg,
    pub negate_a: bool,
    pub negate_b: bool,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mbarrier {
    Init {
        count: Slot,
    },
    Inval,
    Arrive {
        state: Option<Slot>,
        count: Option<Slot>,
        expect: Option<Slot>,
        drop: bool,
    },
    ExpectTx {
        bytes: Slot,
    },
    CompleteTx {
        bytes: Slot,
    },
    /// `try_wait` may block; `test_wait` may not.
    Wait {
        done: Slot,
        state: Slot,
        parity: bool,
        blocking: bool,
    },
    /// `cp.async.mbarrier.arrive`
    CpAsync {
        noinc: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BulkKind {
    /// Completes on the mbarrier.
    GlobalToShared {
        barrier: Addr,
    },
    SharedToShared {
        barrier: Addr,
    },
    /// Completes with the thread's bulk group.
    SharedToGlobal,
    /// The same with `add` and its like.
    Reduce {
        op: Rmw,
        ty: Ty,
    },
    Prefetch,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bulk {
    pub kind: BulkKind,
    pub shared: Addr,
    /// Address in device memory (plain), or of the tensor map.
    pub global: Addr,
    pub size: Option<Slot>,
    /// Coordinates of a tensor copy, innermost first.
    pub coords: Option<Box<[Slot]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callee {
    Function(usize),
    Pointer(Slot),
    AssertFail,
    Printf,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub callee: Callee,
    /// Offset and size in the caller's local memory.
    pub args: Box<[(u32, u32)]>,
    pub returns: Box<[(u32, u32)]>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Nop,
    Alu {
        k: Alu,
        ty: Ty,
        m: Mods,
        d: Slot,
        s: [Slot; 4],
    },
    Carry {
        k: Carry,
        ty: Ty,
        carry_in: bool,
        carry_out: bool,
        d: Slot,
        s: [Slot; 3],
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        d: Slot,
        other: Option<Slot>,
        a: Slot,
        b: Slot,
        with: Option<(Logic, PredArg)>,
    },
    /// `set`: all ones or 1.0 into a register.
    Set {
        cmp: Cmp,
        ty: Ty,
        to: Ty,
        ftz: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        with: Option<(Logic, PredArg)>,
    },
    Testp {
        k: Testp,
        ty: Ty,
        d: Slot,
        a: Slot,
    },
    Selp {
        d: Slot,
        a: Slot,
        b: Slot,
        p: PredArg,
    },
    Logic {
        k: Logic,
        d: Slot,
        a: PredArg,
        b: PredArg,
    },
    Mov {
        d: Slot,
        a: Slot,
    },
    MovPred {
        d: Slot,
        a: PredArg,
    },
    Cvt {
        to: Ty,
        from: Ty,
        m: Mods,
        d: Slot,
        a: Slot,
    },
    /// Two sources into one packed register, the first one high.
    CvtPack {
        to: Ty,
        m: Mods,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Pack {
        bits: u32,
        d: Slot,
        s: Box<[Slot]>,
    },
    Unpack {
        bits: u32,
        d: Box<[Option<Slot>]>,
        a: Slot,
    },
    Clock {
        which: Clock,
        d: Slot,
    },
    Ld {
        space: Space,
        ty: Ty,
        strong: bool,
        d: Box<[Option<Slot>]>,
        addr: Addr,
    },
    St {
        space: Space,
        ty: Ty,
        strong: bool,
        s: Box<[Slot]>,
        addr: Addr,
    },
    Atom {
        space: Space,
        k: Rmw,
        ty: Ty,
        d: Option<Slot>,
        addr: Addr,
        s: Box<[Slot]>,
        elements: u8,
    },
    Cvta {
        to_generic: bool,
        space: Space,
        d: Slot,
        a: Slot,
    },
    IsSpace {
        space: Space,
        d: Slot,
        a: Slot,
    },
    Bra {
        target: u32,
    },
    BrIdx {
        index: Slot,
        targets: Box<[u32]>,
    },
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Bar {
        kind: BarKind,
        id: Slot,
        count: Option<Slot>,
        d: Option<Slot>,
        p: Option<PredArg>,
        aligned: bool,
    },
    ClusterArrive,
    ClusterWait,
    WarpSync {
        mask: Slot,
    },
    Shfl {
        k: Shuffle,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
        mask: Slot,
    },
    Vote {
        k: Vote,
        d: Slot,
        p: PredArg,
        mask: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Match {
        all: bool,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        mask: Slot,
    },
    Redux {
        k: Rmw,
        ty: Ty,
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    Elect {
        d: Option<Slot>,
        p: Slot,
        mask: Slot,
    },
    Fence,
    /// `fence.proxy.async`: orders generic writes to shared memory before later asynchronous reads.
    FenceAsync,
    CpAsync {
        size: u32,
        dst: Addr,
        src: Addr,
        src_size: Option<Slot>,
        ignore: Option<PredArg>,
    },
    CpCommit,
    /// Groups that may stay; `None`: everything this thread has started is awaited.
    CpWait {
        keep: Option<u32>,
    },
    LdMatrix {
        trans: bool,
        d: Box<[Slot]>,
        addr: Addr,
    },
    StMatrix {
        trans: bool,
        s: Box<[Slot]>,
        addr: Addr,
    },
    Mma(Box<Mma>),
    MovMatrix {
        d: Slot,
        a: Slot,
    },
    Wgmma(Box<Wgmma>),
    WgFence,
    WgCommit,
    WgWait {
        keep: u32,
    },
    Mbarrier {
        k: Mbarrier,
        addr: Addr,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        keep: u32,
    },
}

impl Op {
    /// Control does not simply go on behind it.
    pub(crate) fn ends_block(&self) -> bool {
        matches!(self, Op::Bra { .. } | Op::BrIdx { .. } | Op::Ret | Op::Exit | Op::Trap)
    }
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Option<PredArg>,
    pub reads: Box<[Slot]>,
    pub writes: Box<[Slot]>,
    /// Where divergent lanes meet again; only for branches.
    pub rejoin: u32,
    pub block: u32,
    /// First instruction of its basic block.
    pub leader: bool,
    /// Line in the PTX text.
    pub line: u32,
    pub location: u32,
}

/// A decoded kernel or function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    pub name: String,
    pub insts: Vec<Inst>,
    pub blocks: u32,
    pub r32: usize,
    pub r64: usize,
    pub preds: usize,
    pub consts: Vec<(Slot, Const)>,
    /// Names for messages.
    pub names: Vec<(Slot, String)>,
    /// Slots that count as written from the start.
    pub initialised: Vec<Slot>,
    /// Bytes of local memory of a frame.
    pub local: u32,
    /// Offset and size of formal parameters and results in local memory.
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
    /// Smallest access that may touch shared or global memory, as a power of two up to 16.
    pub granule: u32,
    pub calls: Vec<usize>,
    pub indirect_calls: bool,
    pub registers: usize,
}
