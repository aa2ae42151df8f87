//! Modules and kernels.

use crate::decode::{self, Context, Layout, Symbol, Unsupported};
use crate::error::{Error, LaunchError, Location, MemoryError, ParseError};
use crate::isa::Code;
use crate::launch::{Arg, Dim3, Options};
use crate::machine::{self, Launch, Report, address};
use crate::memory::{Allocation, Memory, module_address};
use crate::parse::{self, Function, Place, Ptx, Var};
use crate::types::Space;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// Unmapped offsets between shared variables, so that an index past the end of one does not hit the next.
const SHARED_GUARD: u64 = 1024;
/// A thread's local variables of one function.
const MAX_LOCAL: u64 = 512 * 1024;

#[derive(Clone, Debug)]
struct Param {
    offset: usize,
    size: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    params: Vec<Param>,
    param_bytes: usize,
    /// Static shared variables.
    shared: Vec<(u32, u32)>,
    static_shared: u64,
    max_threads: Option<u32>,
    required: Option<[u32; 3]>,
    reachable: Vec<usize>,
}

/// What a module consists of; kernels share it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub codes: Vec<Option<Code>>,
    /// Number of the first instruction of each function in the module.
    pub sites: Vec<u32>,
    entries: HashMap<usize, Entry>,
    names: HashMap<String, usize>,
    globals: Vec<Arc<Allocation>>,
    dynamic_shared_at: u64,
    locations: Vec<Vec<Place>>,
    files: HashMap<u32, String>,
    target: String,
}

impl Inner {
    /// A place as the user knows it. The line that counts is the innermost one in the file that the outermost code is
    /// in: where a header's wrapper is called, not inside of it.
    pub(crate) fn location(&self, index: u32, ptx_line: u32) -> Location {
        let chain = self.locations.get(index as usize).map_or(&[][..], |c| c);
        let Some(outer) = chain.last() else { return Location { ptx_line, ..Location::default() } };
        let file = |i: u32| {
            let name = self.files.get(&i).map_or("", |s| s.as_str());
            name.rsplit(['/', '\\']).next().unwrap_or(name).to_string()
        };
        let at = chain.iter().position(|p| p.file == outer.file).unwrap_or(chain.len() - 1);
        let here = chain[at];
        Location {
            file: file(here.file),
            line: here.line,
            column: here.column,
            inlined_at: chain[at + 1..].iter().map(|p| (file(p.file), p.line)).collect(),
            inner: chain.first().filter(|_| at > 0).map(|p| (file(p.file), p.line)),
            ptx_line,
        }
    }
}

/// Kernels and variables of a PTX text.
#[derive(Clone, Debug)]
pub struct Module {
    inner: Arc<Inner>,
}

/// A global or constant variable of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Device address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// A kernel, bound to a device's memory.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    module: Arc<Inner>,
    memory: &'a Memory,
    function: usize,
    options: Options,
}

/// What [`Module::survey`] says of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySummary {
    /// Name.
    pub name: String,
    /// Registers that the PTX uses (not what ptxas allocates).
    pub registers: usize,
    /// Instructions.
    pub instructions: usize,
    /// Bytes of static shared memory.
    pub shared: u64,
    /// Bytes of a thread's local memory.
    pub local: u32,
    /// Sizes of the parameters.
    pub params: Vec<usize>,
    /// What cannot be run.
    pub unsupported: Vec<Unsupported>,
}

fn fail<T>(line: u32, message: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError::new(line, message))
}

/// Gives variables offsets one after the other.
fn place(vars: &[&Var], mut at: u64) -> (Vec<u64>, u64) {
    let mut offsets = Vec::new();
    for v in vars {
        at = at.next_multiple_of(v.align.max(1));
        offsets.push(at);
        at += v.size.unwrap_or(0);
    }
    (offsets, at)
}

/// Shared variables of the module; dynamic ones all start at the same place behind them.
struct SharedLayout {
    /// By function and index of its variable; `None` for the module's own.
    offsets: HashMap<(Option<usize>, usize), u64>,
    common: Vec<(u32, u32)>,
    own: HashMap<usize, Vec<(u32, u32)>>,
    dynamic: u64,
}

fn lay_out_shared(ptx: &Ptx) -> Result<SharedLayout, ParseError> {
    let mut l = SharedLayout { offsets: HashMap::new(), common: vec![], own: HashMap::new(), dynamic: 0 };
    let mut dynamic_align = 16;
    let mut add = |owner: Option<usize>, i: usize, v: &Var, at: &mut u64, ranges: &mut Vec<(u32, u32)>| {
        let Some(size) = v.size else {
            dynamic_align = dynamic_align.max(v.align);
            return Ok(());
        };
        *at = at.next_multiple_of(v.align.max(16));
        l.offsets.insert((owner, i), *at);
        if *at + size > 1 << 24 {
            return fail(v.line, format!("shared variable `{}` is too large", v.name));
        }
        ranges.push((*at as u32, (*at + size) as u32));
        *at += size + SHARED_GUARD;
        Ok(())
    };
    let mut at = 0;
    let mut common = Vec::new();
    for (i, v) in ptx.vars.iter().enumerate().filter(|(_, v)| v.space == Space::Shared) {
        add(None, i, v, &mut at, &mut common)?;
    }
    let bodies = || ptx.functions.iter().enumerate().filter_map(|(i, f)| f.body.as_ref().map(|b| (i, f, b)));
    for (f, _, b) in bodies().filter(|x| !x.1.entry) {
        for (i, v) in b.vars.iter().enumerate().filter(|(_, v)| v.space == Space::Shared) {
            add(Some(f), i, v, &mut at, &mut common)?;
        }
    }
    let mut end = at;
    let mut own = HashMap::new();
    for (f, _, b) in bodies().filter(|x| x.1.entry) {
        let mut here = at;
        let mut ranges = Vec::new();
        for (i, v) in b.vars.iter().enumerate().filter(|(_, v)| v.space == Space::Shared) {
            add(Some(f), i, v, &mut here, &mut ranges)?;
        }
        end = end.max(here);
        own.insert(f, ranges);
    }
    l.common = common;
    l.own = own;
    l.dynamic = end.next_multiple_of(dynamic_align);
    for (i, v) in ptx.vars.iter().enumerate().filter(|(_, v)| v.space == Space::Shared && v.size.is_none()) {
        let _ = v;
        l.offsets.insert((None, i), l.dynamic);
    }
    for (f, _, b) in bodies() {
        for (i, v) in b.vars.iter().enumerate().filter(|(_, v)| v.space == Space::Shared && v.size.is_none()) {
            let _ = v;
            l.offsets.insert((Some(f), i), l.dynamic);
        }
    }
    Ok(l)
}

fn lay_out(index: usize, f: &Function, shared: &SharedLayout) -> Result<(Layout, Entry), ParseError> {
    let mut layout = Layout::default();
    let mut entry = Entry::default();
    let Some(body) = &f.body else { return Ok((layout, entry)) };
    let mut at = 0u64;
    for (i, v) in body.vars.iter().enumerate() {
        if v.space == Space::Shared {
            layout.vars.push(shared.offsets.get(&(Some(index), i)).copied().unwrap_or(0));
            continue;
        }
        if !matches!(v.space, Space::Local | Space::Param) {
            return fail(v.line, format!("variable `{}` in .{} inside a function", v.name, v.space));
        }
        at = at.next_multiple_of(v.align.max(1));
        layout.vars.push(at);
        at += v.size.unwrap_or(0);
    }
    if f.entry {
        let vars: Vec<&Var> = f.params.iter().collect();
        let (offsets, end) = place(&vars, 0);
        for (v, o) in f.params.iter().zip(offsets) {
            layout.formals.insert(v.name.clone(), o);
            entry.params.push(Param { offset: o as usize, size: v.size.unwrap_or(0) as usize });
        }
        if end > 32768 {
            return fail(f.line, format!("kernel `{}` has {end} bytes of parameters", f.name));
        }
        entry.param_bytes = end as usize;
        entry.required = f.reqntid;
        entry.max_threads = f.maxntid.map(|m| m.iter().fold(1u32, |a, b| a.saturating_mul(*b)));
        entry.shared = shared.own.get(&index).cloned().unwrap_or_default();
        entry.shared.extend_from_slice(&shared.common);
        entry.static_shared = entry.shared.iter().map(|r| u64::from(r.1 - r.0)).sum();
    } else {
        let vars: Vec<&Var> = f.params.iter().chain(&f.returns).collect();
        let (offsets, end) = place(&vars, at);
        at = end;
        for (v, o) in vars.iter().zip(&offsets) {
            layout.formals.insert(v.name.clone(), *o);
        }
        let pair = |(v, o): (&Var, &u64)| (*o as u32, v.size.unwrap_or(0) as u32);
        layout.params = f.params.iter().zip(&offsets).map(pair).collect();
        layout.returns = f.returns.iter().zip(offsets.get(f.params.len()..).unwrap_or(&[])).map(pair).collect();
    }
    if at > MAX_LOCAL {
        return fail(f.line, format!("function `{}` has {at} bytes of local memory", f.name));
    }
    layout.local = at.next_multiple_of(16) as u32;
    Ok((layout, entry))
}

/// Symbols of all variables, and the contents of those in device memory.
type Variables = (HashMap<String, Symbol>, Vec<Arc<Allocation>>);

/// Global and constant variables: their symbols and contents.
fn variables(ptx: &Ptx, shared: &SharedLayout, functions: &HashMap<String, usize>) -> Result<Variables, ParseError> {
    let mut symbols = HashMap::new();
    let mut placed = Vec::new();
    let mut total = 0u64;
    for (i, v) in ptx.vars.iter().enumerate() {
        let at = if v.space == Space::Shared {
            shared.offsets.get(&(None, i)).copied().unwrap_or(0)
        } else {
            let size = v.size.unwrap_or(0);
            total += size;
            if total > 1 << 30 {
                return fail(v.line, "the module's variables are too large");
            }
            let at = module_address(size, v.align);
            placed.push((at, size, v));
            at
        };
        if symbols.insert(v.name.clone(), Symbol { space: v.space, address: at }).is_some() {
            return fail(v.line, format!("`{}` is declared twice", v.name));
        }
    }
    let mut globals = Vec::new();
    for (at, size, v) in placed {
        let a = Allocation::new(at, size, Some(v.name.clone()), v.space == Space::Const, 0);
        a.write(0, &v.init);
        for (offset, name, addend) in &v.relocations {
            let target = match (symbols.get(name), functions.get(name)) {
                (Some(s), _) if s.space == Space::Shared => s.address + address::SHARED,
                (Some(s), _) => s.address,
                (None, Some(f)) => address::FUNCTION + *f as u64 * 16,
                _ => return fail(v.line, format!("`{name}` is not declared")),
            };
            a.write(*offset, &target.wrapping_add(*addend as u64).to_le_bytes());
        }
        globals.push(Arc::new(a));
    }
    Ok((symbols, globals))
}

impl Module {
    /// Parses and decodes a text. Anything that is not understood is an error.
    pub fn from_ptx(text: &str) -> Result<Module, Error> {
        Ok(Self::load(text, None)?)
    }

    /// Lists the kernels of a text with what they need, and the instructions that are not supported.
    pub fn survey(text: &str) -> Result<Vec<EntrySummary>, Error> {
        let mut missing = Vec::new();
        let module = Self::load(text, Some(&mut missing))?;
        let inner = &module.inner;
        let mut out = Vec::new();
        for (i, e) in &inner.entries {
            let Some(code) = inner.codes.get(*i).and_then(Option::as_ref) else { continue };
            let unsupported = missing.iter().filter(|(f, _)| e.reachable.contains(f)).map(|(_, u)| u.clone()).collect();
            out.push(EntrySummary {
                name: code.name.clone(),
                registers: code.registers,
                instructions: code.insts.len(),
                shared: e.static_shared,
                local: code.local,
                params: e.params.iter().map(|p| p.size).collect(),
                unsupported,
            });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn load(text: &str, mut missing: Option<&mut Vec<(usize, Unsupported)>>) -> Result<Module, ParseError> {
        let ptx = parse::parse(text)?;
        let shared = lay_out_shared(&ptx)?;
        let names: HashMap<String, usize> =
            ptx.functions.iter().enumerate().map(|(i, f)| (f.name.clone(), i)).collect();
        let (symbols, globals) = variables(&ptx, &shared, &names)?;
        let cx = Context { ptx: &ptx, symbols: &symbols, functions: &names };
        let mut codes = Vec::new();
        let mut sites = Vec::new();
        let mut entries = HashMap::new();
        let mut site = 0u32;
        for (i, f) in ptx.functions.iter().enumerate() {
            let (layout, entry) = lay_out(i, f, &shared)?;
            sites.push(site);
            let Some(body) = &f.body else {
                codes.push(None);
                continue;
            };
            let mut list = Vec::new();
            let code = decode::decode(&cx, f, body, layout, missing.is_some().then_some(&mut list))?;
            if let Some(m) = missing.as_deref_mut() {
                m.extend(list.into_iter().map(|u| (i, u)));
            }
            site = site.saturating_add(code.insts.len() as u32);
            codes.push(Some(code));
            if f.entry {
                entries.insert(i, entry);
            }
        }
        for (i, e) in &mut entries {
            e.reachable = reachable(&codes, *i);
        }
        Ok(Module {
            inner: Arc::new(Inner {
                codes,
                sites,
                entries,
                names,
                globals,
                dynamic_shared_at: shared.dynamic,
                locations: ptx.locations,
                files: ptx.files,
                target: ptx.target,
            }),
        })
    }

    /// The architecture that the text was compiled for, such as `sm_90a`.
    pub fn target(&self) -> &str {
        &self.inner.target
    }

    /// Names of the kernels, sorted.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .inner
            .entries
            .keys()
            .filter_map(|i| self.inner.codes.get(*i)?.as_ref())
            .map(|c| c.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// A kernel by name, to run on a device's memory.
    pub fn kernel<'a>(&self, memory: &'a Memory, name: &str) -> Result<Kernel<'a>, Error> {
        match self.inner.names.get(name) {
            Some(i) if self.inner.entries.contains_key(i) => {
                Ok(Kernel { module: self.inner.clone(), memory, function: *i, options: Options::default() })
            }
            _ => Err(LaunchError::NoKernel { name: name.to_string(), known: self.kernels().join(", ") }.into()),
        }
    }

    /// A global or constant variable by name.
    pub fn variable(&self, name: &str) -> Option<Variable> {
        let a = self.inner.globals.iter().find(|a| a.name.as_deref() == Some(name))?;
        Some(Variable { address: a.base, size: a.len })
    }

    /// Writes a variable, constant ones too.
    pub fn write_variable(&self, name: &str, offset: usize, data: &[u8]) -> Result<(), MemoryError> {
        let Some(a) = self.inner.globals.iter().find(|a| a.name.as_deref() == Some(name)) else {
            return Err(MemoryError::NotAllocated { address: 0 });
        };
        match a.offset(a.base.saturating_add(offset as u64), data.len() as u64) {
            Some(at) => {
                a.write(at, data);
                Ok(())
            }
            None => Err(MemoryError::OutOfBounds {
                address: a.base + offset as u64,
                bytes: data.len() as u64,
                base: a.base,
                len: a.len,
            }),
        }
    }

    /// Lets a memory read and write the module's variables by address.
    pub fn attach(&self, memory: &Memory) {
        memory.attach(&self.inner.globals);
    }
}

/// Functions that a kernel can reach, itself first.
fn reachable(codes: &[Option<Code>], from: usize) -> Vec<usize> {
    let mut out = vec![from];
    let mut seen: BTreeSet<usize> = out.iter().copied().collect();
    let mut next = 0;
    while let Some(&i) = out.get(next) {
        next += 1;
        let Some(Some(code)) = codes.get(i) else { continue };
        let all: Vec<usize> = if code.indirect_calls { (0..codes.len()).collect() } else { vec![] };
        for &c in code.calls.iter().chain(&all) {
            if codes.get(c).is_some_and(Option::is_some) && seen.insert(c) {
                out.push(c);
            }
        }
    }
    out
}

impl Kernel<'_> {
    /// The same kernel with other options.
    pub fn with(self, options: Options) -> Self {
        Kernel { options, ..self }
    }

    /// Name.
    pub fn name(&self) -> &str {
        self.module.codes.get(self.function).and_then(Option::as_ref).map_or("", |c| &c.name)
    }

    /// Sizes of the parameters.
    pub fn params(&self) -> Vec<usize> {
        self.module.entries.get(&self.function).map_or(vec![], |e| e.params.iter().map(|p| p.size).collect())
    }

    /// Runs the kernel on a grid of blocks and waits for its end.
    ///
    /// ```
    /// # let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry fill(.param .u64 p, .param .u32 v) {\n.reg .b32 %r<3>; .reg .b64 %rd<4>;\nld.param.u64 %rd1, [p]; ld.param.u32 %r1, [v]; mov.u32 %r2, %tid.x; mul.wide.u32 %rd2, %r2, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1; ret;\n}";
    /// use ptx_emulator::{Memory, Module};
    /// let memory = Memory::new();
    /// let out = memory.alloc(32 * 4)?;
    /// let fill = Module::from_ptx(ptx)?.kernel(&memory, "fill")?;
    /// fill.launch(1, 32, 0, &[out.into(), 7u32.into()])?;
    /// assert_eq!(memory.read_vec(out + 124, 4)?, [7, 0, 0, 0]);
    /// // One thread too many: the fault names block, warp and lane.
    /// let fault = fill.launch(1, 33, 0, &[out.into(), 7u32.into()]).unwrap_err();
    /// assert_eq!((fault.fault().unwrap().warp, fault.fault().unwrap().lane), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn launch(
        &self,
        grid: impl Into<Dim3>,
        block: impl Into<Dim3>,
        dynamic_shared: u32,
        args: &[Arg],
    ) -> Result<Report, Error> {
        let (grid, block) = (grid.into(), block.into());
        let module = &*self.module;
        let (Some(Some(code)), Some(entry)) = (module.codes.get(self.function), module.entries.get(&self.function))
        else {
            return Err(LaunchError::NoKernel { name: String::new(), known: String::new() }.into());
        };
        let kernel = || code.name.clone();
        let dimensions = |what, d: Dim3| LaunchError::Dimensions { kernel: kernel(), what, x: d.x, y: d.y, z: d.z };
        let threads = [block.x, block.y, block.z].iter().try_fold(1u32, |a, b| a.checked_mul(*b)).unwrap_or(0);
        if threads == 0 || threads > 1024 || block.z > 64 {
            return Err(dimensions("block", block).into());
        }
        if grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fff_ffff || grid.y > 0xffff || grid.z > 0xffff {
            return Err(dimensions("grid", grid).into());
        }
        if u64::from(grid.x) * u64::from(grid.y) * u64::from(grid.z) > 0xffff_fffe {
            return Err(dimensions("grid", grid).into());
        }
        if let Some(r) = entry.required
            && r != [block.x, block.y, block.z]
        {
            let bound = r.iter().fold(1u32, |a, b| a.saturating_mul(*b));
            return Err(LaunchError::LaunchBounds { kernel: kernel(), threads, bound }.into());
        }
        if let Some(bound) = entry.max_threads.filter(|b| threads > *b) {
            return Err(LaunchError::LaunchBounds { kernel: kernel(), threads, bound }.into());
        }
        if args.len() != entry.params.len() {
            return Err(LaunchError::ArgumentCount {
                kernel: kernel(),
                given: args.len(),
                expected: entry.params.len(),
            }
            .into());
        }
        let mut params = vec![0; entry.param_bytes];
        for (index, (a, p)) in args.iter().zip(&entry.params).enumerate() {
            if a.0.len() != p.size {
                return Err(
                    LaunchError::ArgumentSize { kernel: kernel(), index, given: a.0.len(), expected: p.size }.into()
                );
            }
            if let Some(d) = params.get_mut(p.offset..p.offset + p.size) {
                d.copy_from_slice(&a.0);
            }
        }
        let options = &self.options;
        let shared = entry.static_shared + u64::from(dynamic_shared);
        if shared > options.shared_memory {
            return Err(LaunchError::SharedMemory {
                kernel: kernel(),
                requested: shared,
                limit: options.shared_memory,
            }
            .into());
        }
        let shared_size = (module.dynamic_shared_at + u64::from(dynamic_shared)) as usize;
        let warps = u64::from(threads.div_ceil(32));
        let frame = code.r32 as u64 * 128 + code.r64 as u64 * 256 + u64::from(code.local) * 32;
        let requested = warps * frame + shared_size as u64 * if options.checks.slow() { 12 + 8 * warps } else { 1 };
        if requested > options.host_memory {
            return Err(LaunchError::HostMemory { kernel: kernel(), requested, limit: options.host_memory }.into());
        }
        let mut shared_ranges = entry.shared.clone();
        shared_ranges.insert(0, (module.dynamic_shared_at as u32, module.dynamic_shared_at as u32 + dynamic_shared));
        let codes = || entry.reachable.iter().filter_map(|i| module.codes.get(*i)?.as_ref().map(|c| (*i, c)));
        let granule = codes().map(|c| c.1.granule).min().unwrap_or(1);
        let mapping = self.memory.snapshot(&module.globals);
        let shadows = if options.checks.global_races {
            mapping.live.iter().map(|a| machine::shadow(a.len, granule)).collect()
        } else {
            Vec::new()
        };
        let mut coverage: Vec<Vec<AtomicBool>> = (0..module.codes.len()).map(|_| Vec::new()).collect();
        for (i, c) in codes() {
            if let Some(v) = coverage.get_mut(i) {
                v.resize_with(c.blocks as usize, AtomicBool::default);
            }
        }
        machine::run(&Launch {
            module,
            function: self.function,
            code,
            grid: [grid.x, grid.y, grid.z],
            block: [block.x, block.y, block.z],
            threads: threads as usize,
            params,
            shared_size,
            shared_ranges,
            dynamic_shared,
            total_shared: shared as u32,
            granule,
            options,
            mapping,
            shadows,
            releases: Mutex::default(),
            locks: (0..64).map(|_| Mutex::new(())).collect(),
            budget: AtomicU64::new(options.budget),
            stop: AtomicBool::new(false),
            coverage,
            warp_instructions: AtomicU64::new(0),
            thread_instructions: AtomicU64::new(0),
        })
    }
}
