//! The emulated device: kernels run from their PTX, matrix products on the CPU, everything as late as its order allows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Arg as KernelArg, Checks, Coverage, Memory, Module, Options};
use vila_engine::ops::Gemm;
use vila_engine::{Backend, CpuBackend, Tensor};

use super::hazard::{Clock, Order};
use super::{
    Access, Arg, DeviceInfo, DevicePtr, Driver, Error, Event, Function, HostPtr, Launch, Matmul, Matrix, MatrixType,
    Result, Span, Stream, Target,
};

/// How the emulated device behaves.
#[derive(Clone, Copy, Debug)]
pub struct EmulatedOptions {
    /// Bytes of device memory.
    pub memory: u64,
    /// 0 runs a stream only when somebody waits for it, and warps round robin; other seeds interleave streams and warps.
    pub seed: u64,
    /// Whether kernels run with all checks (races, uninitialised values, divergence), or only with those that are free.
    pub checked: bool,
    /// Host threads.
    pub threads: usize,
}

impl Default for EmulatedOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        EmulatedOptions { memory: 8 << 30, seed: 0, checked: false, threads }
    }
}

/// A device without hardware: see the [module documentation](crate).
pub struct Emulated {
    memory: Memory,
    options: EmulatedOptions,
    info: DeviceInfo,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    order: Order,
    queues: BTreeMap<u32, VecDeque<Command>>,
    /// Each event's last record.
    events: Vec<Option<(Clock, Mark)>>,
    /// Number of the last mark that each stream has passed.
    passed: HashMap<u32, u64>,
    marks: u64,
    host: HashMap<u64, Vec<u8>>,
    next_host: u64,
    sizes: HashMap<u64, usize>,
    idle: Vec<Span>,
    modules: HashMap<String, Module>,
    functions: Vec<(String, String)>,
    coverage: BTreeMap<String, Coverage>,
    commands_run: u64,
    failed: Option<String>,
}

/// A point in a stream; later points have larger numbers.
#[derive(Clone, Copy)]
struct Mark {
    stream: u32,
    number: u64,
}

enum Command {
    ToDevice { host: u64, offset: usize, to: Span },
    ToHost { from: Span, host: u64, offset: usize },
    Copy { from: Span, to: Span },
    Fill { span: Span, byte: u8 },
    Launch { function: usize, grid: [u32; 3], block: u32, shared: u32, args: Vec<Arg> },
    Matmul(Box<Matmul>),
    Record(Mark),
    Wait(Mark),
}

/// Host buffers have addresses of their own, far from those of the device.
const HOST_BASE: u64 = 0x1000_0000_0000;

fn fault(error: impl std::fmt::Display) -> Error {
    Error::Fault(error.to_string())
}

impl Emulated {
    /// A device with nothing in its memory.
    pub fn new(options: EmulatedOptions) -> Self {
        let info = DeviceInfo {
            name: "PTX emulator".into(),
            capability: (8, 0),
            multiprocessors: 4,
            memory: options.memory,
            shared_memory: 163 * 1024,
        };
        let state = State { next_host: HOST_BASE, ..State::default() };
        Emulated { memory: Memory::with_limit(options.memory), options, info, state: Mutex::new(state) }
    }

    /// Which basic blocks of each kernel have run so far.
    pub fn coverage(&self) -> BTreeMap<String, Coverage> {
        self.lock().coverage.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, stream: Stream, by: &str, touches: &[(Span, Access)], command: Command) -> Result<()> {
        let mut state = self.lock();
        state.alive()?;
        state.order.advance(stream);
        for &(span, access) in touches {
            if span.bytes == 0 {
                continue;
            }
            if let Some(idle) = state.idle.iter().find(|idle| idle.overlaps(span)) {
                return Err(Error::Hazard(format!(
                    "{by} uses memory at {:#x} that was returned to the pool ({} bytes at {:#x})",
                    span.ptr.0, idle.bytes, idle.ptr.0
                )));
            }
            state.order.touch(stream, span, access, by)?;
        }
        state.queues.entry(stream.0).or_default().push_back(command);
        Ok(())
    }

    /// Runs queued commands until `done`: with seed 0 those of `stream` and what they wait for, else any, in random order.
    fn run_until(&self, stream: Stream, done: impl Fn(&State) -> bool) -> Result<()> {
        let mut state = self.lock();
        state.alive()?;
        while !done(&state) {
            let Some(next) = state.choose(stream, self.options.seed) else {
                return Err(state.fail("a stream waits for an event that nothing will record".into()));
            };
            let Some(command) = state.queues.get_mut(&next).and_then(VecDeque::pop_front) else { break };
            state.commands_run += 1;
            if let Err(error) = self.execute(&mut state, command) {
                return Err(state.fail(error.to_string()));
            }
        }
        Ok(())
    }

    fn execute(&self, state: &mut State, command: Command) -> Result<()> {
        match command {
            Command::ToDevice { host, offset, to } => {
                let buffer = state.host.get(&host).ok_or_else(|| fault("a copy reads a host buffer that was freed"))?;
                let bytes = buffer.get(offset..offset + to.bytes).ok_or_else(|| fault("copy past a host buffer"))?;
                self.memory.write(to.ptr.0, bytes).map_err(fault)
            }
            Command::ToHost { from, host, offset } => {
                let buffer =
                    state.host.get_mut(&host).ok_or_else(|| fault("a copy writes a host buffer that was freed"))?;
                let bytes =
                    buffer.get_mut(offset..offset + from.bytes).ok_or_else(|| fault("copy past a host buffer"))?;
                self.memory.read(from.ptr.0, bytes).map_err(fault)
            }
            Command::Copy { from, to } => self.memory.copy(from.ptr.0, to.ptr.0, to.bytes).map_err(fault),
            Command::Fill { span, byte } => self.memory.fill(span.ptr.0, byte, span.bytes).map_err(fault),
            Command::Record(mark) => {
                state.passed.insert(mark.stream, mark.number);
                Ok(())
            }
            Command::Wait(_) => Ok(()),
            Command::Launch { function, grid, block, shared, args } => {
                self.run_kernel(state, function, grid, block, shared, &args)
            }
            Command::Matmul(matmul) => self.run_matmul(&matmul),
        }
    }

    fn run_kernel(
        &self,
        state: &mut State,
        function: usize,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        let (module, name) = state.functions.get(function).ok_or_else(|| fault("unknown function"))?;
        let module = state.modules.get(module).ok_or_else(|| fault("unknown module"))?;
        let options = Options {
            checks: if self.options.checked { Checks::ALL } else { Checks::NONE },
            seed: if self.options.seed == 0 { 0 } else { self.options.seed.wrapping_add(state.commands_run) },
            threads: self.options.threads,
            budget: u64::MAX,
            ..Options::default()
        };
        let kernel = module.kernel(&self.memory, name).map_err(fault)?.with(options);
        let before = if self.options.checked { self.read_only(args)? } else { Vec::new() };
        let args: Vec<KernelArg> = args.iter().map(kernel_arg).collect();
        let report = kernel.launch(grid, block, shared, &args).map_err(fault)?;
        for (span, bytes) in before {
            if self.memory.read_vec(span.ptr.0, span.bytes).map_err(fault)? != bytes {
                return Err(fault(format!("{name} writes memory at {:#x} that it was given to read", span.ptr.0)));
            }
        }
        state.coverage.entry(name.clone()).or_default().merge(&report.coverage);
        Ok(())
    }

    /// Contents of what a kernel may only read; large arguments are left out for speed.
    fn read_only(&self, args: &[Arg]) -> Result<Vec<(Span, Vec<u8>)>> {
        let small = args.iter().filter_map(|arg| match arg {
            Arg::Memory(span, Access::Read) if span.bytes <= 1 << 16 => Some(*span),
            _ => None,
        });
        small.map(|span| Ok((span, self.memory.read_vec(span.ptr.0, span.bytes).map_err(fault)?))).collect()
    }

    /// A column-major matrix is the row-major transpose, so `c = op(a) op(b)` is computed as `cᵀ = op(b)ᵀ op(a)ᵀ`.
    fn run_matmul(&self, args: &Matmul) -> Result<()> {
        let cpu = CpuBackend::fast();
        let (a_rows, a_cols) = if args.a.transposed { (args.m, args.k) } else { (args.k, args.m) };
        let (b_rows, b_cols) = if args.b.transposed { (args.k, args.n) } else { (args.n, args.k) };
        let a = self.load_matrix(&cpu, &args.a, a_rows, a_cols)?;
        let b = self.load_matrix(&cpu, &args.b, b_rows, b_cols)?;
        let product = cpu.alloc(vila_engine::DType::F32, args.n, args.m).map_err(fault)?;
        let gemm = Gemm {
            a: &b,
            trans_a: args.b.transposed,
            b: &a,
            trans_b: args.a.transposed,
            c: &product,
            alpha: f64::from(args.alpha),
            beta: 0.0,
        };
        cpu.gemm(&gemm).map_err(fault)?;
        let mut product = product.to_f32().map_err(fault)?;
        if args.beta != 0.0 {
            let old = self.load_matrix(&cpu, &args.c, args.n, args.m)?.to_f32().map_err(fault)?;
            product.iter_mut().zip(old).for_each(|(new, old)| *new += args.beta * old);
        }
        if let Some(bias) = args.bias {
            let row = Matrix { span: bias, ld: args.m, ..args.c };
            let bias = self.load_matrix(&cpu, &row, 1, args.m)?.to_f32().map_err(fault)?;
            for row in product.chunks_mut(args.m) {
                row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let size = args.c.dtype.size();
        for (index, row) in product.chunks(args.m.max(1)).enumerate() {
            let at = args.c.span.ptr.offset(index * args.c.ld * size);
            self.memory.write(at.0, &to_bytes(row, args.c.dtype)).map_err(fault)?;
        }
        Ok(())
    }

    fn load_matrix(&self, cpu: &CpuBackend, matrix: &Matrix, rows: usize, cols: usize) -> Result<Tensor> {
        let size = matrix.dtype.size();
        let mut values = Vec::with_capacity(rows * cols);
        for row in 0..rows {
            let at = matrix.span.ptr.offset(row * matrix.ld * size);
            let bytes = self.memory.read_vec(at.0, cols * size).map_err(fault)?;
            match matrix.dtype {
                MatrixType::F32 => values.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)),
                MatrixType::Bf16 => values
                    .extend(bytemuck::pod_collect_to_vec::<u8, half::bf16>(&bytes).into_iter().map(half::bf16::to_f32)),
            }
        }
        cpu.upload_f32(rows, cols, &values).map_err(fault)
    }
}

fn to_bytes(values: &[f32], dtype: MatrixType) -> Vec<u8> {
    match dtype {
        MatrixType::F32 => bytemuck::cast_slice(values).to_vec(),
        MatrixType::Bf16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn kernel_arg(arg: &Arg) -> KernelArg {
    match *arg {
        Arg::Memory(span, _) => span.ptr.0.into(),
        Arg::Null => 0u64.into(),
        Arg::I32(x) => x.into(),
        Arg::U32(x) => x.into(),
        Arg::I64(x) => x.into(),
        Arg::U64(x) => x.into(),
        Arg::F32(x) => x.into(),
    }
}

impl State {
    fn alive(&self) -> Result<()> {
        self.failed.as_ref().map_or(Ok(()), |first| Err(fault(first)))
    }

    /// As on hardware, nothing works after a fault.
    fn fail(&mut self, message: String) -> Error {
        self.failed = Some(message.clone());
        self.queues.clear();
        Error::Fault(message)
    }

    fn has_passed(&self, mark: Mark) -> bool {
        self.passed.get(&mark.stream).is_some_and(|&number| number >= mark.number)
    }

    /// The last record of an event, if there was one.
    fn recorded(&self, event: Event) -> Result<Option<(Clock, Mark)>> {
        self.events.get(event.0 as usize).cloned().ok_or_else(|| fault("unknown event"))
    }

    fn ready(&self, stream: u32) -> bool {
        match self.queues.get(&stream).and_then(VecDeque::front) {
            None => false,
            Some(Command::Wait(mark)) => self.has_passed(*mark),
            Some(_) => true,
        }
    }

    /// The stream whose next command runs.
    fn choose(&self, wanted: Stream, seed: u64) -> Option<u32> {
        if seed == 0 {
            if self.ready(wanted.0) {
                return Some(wanted.0);
            }
            let Some(Command::Wait(mark)) = self.queues.get(&wanted.0)?.front() else { return None };
            return self.choose(Stream(mark.stream), seed);
        }
        let ready: Vec<u32> = self.queues.keys().copied().filter(|&stream| self.ready(stream)).collect();
        let word = vila_engine::philox::words(seed, 0, self.commands_run)[0] as usize;
        ready.get(word % ready.len().max(1)).copied()
    }
}

impl Driver for Emulated {
    fn name(&self) -> &'static str {
        "emulator"
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn target(&self) -> Target {
        Target::Ptx("compute_80".into())
    }

    fn exact_allocations(&self) -> bool {
        true
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let ptr = self.memory.alloc(bytes).map_err(|_| Error::OutOfMemory { requested: bytes })?;
        self.lock().sizes.insert(ptr, bytes);
        Ok(DevicePtr(ptr))
    }

    fn free(&self, ptr: DevicePtr) -> Result<()> {
        let mut state = self.lock();
        let bytes = *state.sizes.get(&ptr.0).ok_or_else(|| fault(format!("{:#x} is no allocation", ptr.0)))?;
        let span = Span { ptr, bytes };
        if let Some(by) = state.order.pending(span, Access::Write) {
            return Err(Error::Hazard(format!("memory at {:#x} is freed while {by} may still use it", ptr.0)));
        }
        state.sizes.remove(&ptr.0);
        state.idle.retain(|idle| !idle.overlaps(span));
        self.memory.free(ptr.0).map_err(fault)
    }

    fn acquired(&self, stream: Stream, span: Span) -> Result<()> {
        self.lock().idle.retain(|idle| *idle != span);
        let poison = Command::Fill { span, byte: 0xFF };
        self.enqueue(stream, "the pool's new owner", &[(span, Access::Write)], poison)
    }

    fn released(&self, span: Span) {
        self.lock().idle.push(span);
    }

    fn alloc_host(&self, bytes: usize) -> Result<HostPtr> {
        let mut state = self.lock();
        let host = state.next_host;
        state.next_host += (bytes as u64).next_multiple_of(4096) + 4096;
        state.host.insert(host, vec![0xFF; bytes]);
        Ok(HostPtr(host))
    }

    fn free_host(&self, host: HostPtr) -> Result<()> {
        let mut state = self.lock();
        let bytes = state.host.get(&host.0).map(Vec::len).ok_or_else(|| fault("unknown host buffer"))?;
        if let Some(by) = state.order.pending(Span { ptr: DevicePtr(host.0), bytes }, Access::Write) {
            return Err(Error::Hazard(format!("a host buffer is freed while {by} may still use it")));
        }
        state.host.remove(&host.0);
        Ok(())
    }

    fn write_host(&self, host: HostPtr, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let span = Span { ptr: DevicePtr(host.0).offset(offset), bytes: bytes.len() };
        if let Some(by) = state.order.pending(span, Access::Write) {
            return Err(Error::Hazard(format!("the host writes a buffer while {by} may still use it")));
        }
        let buffer = state.host.get_mut(&host.0).and_then(|buffer| buffer.get_mut(offset..offset + bytes.len()));
        buffer.ok_or_else(|| fault("write past a host buffer"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn read_host(&self, host: HostPtr, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let state = self.lock();
        let span = Span { ptr: DevicePtr(host.0).offset(offset), bytes: bytes.len() };
        if let Some(by) = state.order.pending(span, Access::Read) {
            return Err(Error::Hazard(format!("the host reads a buffer while {by} may still write it")));
        }
        let buffer = state.host.get(&host.0).and_then(|buffer| buffer.get(offset..offset + bytes.len()));
        bytes.copy_from_slice(buffer.ok_or_else(|| fault("read past a host buffer"))?);
        Ok(())
    }

    fn stream(&self) -> Result<Stream> {
        let mut state = self.lock();
        let stream = state.queues.len() as u32;
        state.queues.insert(stream, VecDeque::new());
        Ok(Stream(stream))
    }

    fn event(&self) -> Result<Event> {
        let mut state = self.lock();
        state.events.push(None);
        Ok(Event(state.events.len() as u32 - 1))
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        let mut state = self.lock();
        state.alive()?;
        state.marks += 1;
        let mark = Mark { stream: stream.0, number: state.marks };
        let clock = state.order.now(stream);
        *state.events.get_mut(event.0 as usize).ok_or_else(|| fault("unknown event"))? = Some((clock, mark));
        state.queues.entry(stream.0).or_default().push_back(Command::Record(mark));
        Ok(())
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        let mut state = self.lock();
        state.alive()?;
        let Some((clock, mark)) = state.recorded(event)? else { return Ok(()) };
        state.order.wait(stream, &clock);
        state.queues.entry(stream.0).or_default().push_back(Command::Wait(mark));
        Ok(())
    }

    fn is_done(&self, event: Event) -> Result<bool> {
        let mut state = self.lock();
        state.alive()?;
        let Some((clock, mark)) = state.recorded(event)? else { return Ok(true) };
        let done = state.has_passed(mark);
        if done {
            state.order.host_waited(&clock);
        }
        Ok(done)
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        // Before the queue runs: what another thread enqueues meanwhile is not waited for.
        let clock = self.lock().order.now(stream);
        self.run_until(stream, |state| state.queues.get(&stream.0).is_none_or(VecDeque::is_empty))?;
        self.lock().order.host_waited(&clock);
        Ok(())
    }

    fn synchronize_event(&self, event: Event) -> Result<()> {
        let Some((clock, mark)) = self.lock().recorded(event)? else { return Ok(()) };
        self.run_until(Stream(mark.stream), |state| state.has_passed(mark))?;
        self.lock().order.host_waited(&clock);
        Ok(())
    }

    fn copy_to_device(&self, stream: Stream, host: HostPtr, offset: usize, to: Span) -> Result<()> {
        let from = Span { ptr: DevicePtr(host.0).offset(offset), bytes: to.bytes };
        let command = Command::ToDevice { host: host.0, offset, to };
        self.enqueue(stream, "a copy to the device", &[(from, Access::Read), (to, Access::Write)], command)
    }

    fn copy_to_host(&self, stream: Stream, from: Span, host: HostPtr, offset: usize) -> Result<()> {
        let to = Span { ptr: DevicePtr(host.0).offset(offset), bytes: from.bytes };
        let command = Command::ToHost { from, host: host.0, offset };
        self.enqueue(stream, "a copy to the host", &[(from, Access::Read), (to, Access::Write)], command)
    }

    fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<()> {
        let command = Command::Copy { from, to };
        self.enqueue(stream, "a copy", &[(from, Access::Read), (to, Access::Write)], command)
    }

    fn fill(&self, stream: Stream, span: Span, byte: u8) -> Result<()> {
        self.enqueue(stream, "a fill", &[(span, Access::Write)], Command::Fill { span, byte })
    }

    fn load(&self, module: &str, code: &[u8], kernel: &str) -> Result<Function> {
        let mut state = self.lock();
        if !state.modules.contains_key(module) {
            let text = std::str::from_utf8(code).map_err(fault)?;
            let parsed = Module::from_ptx(text).map_err(|error| fault(format!("{module}: {error}")))?;
            state.modules.insert(module.to_string(), parsed);
        }
        if !state.modules.get(module).is_some_and(|loaded| loaded.kernels().contains(&kernel)) {
            return Err(Error::NoKernel { module: module.into(), kernel: kernel.into() });
        }
        state.functions.push((module.to_string(), kernel.to_string()));
        Ok(Function(state.functions.len() as u32 - 1))
    }

    fn launch(&self, stream: Stream, launch: &Launch) -> Result<()> {
        let name = self.lock().functions.get(launch.function.0 as usize).map(|(_, name)| name.clone());
        let name = name.ok_or_else(|| fault("unknown function"))?;
        let touches: Vec<(Span, Access)> = launch.args.iter().filter_map(Arg::memory).collect();
        let command = Command::Launch {
            function: launch.function.0 as usize,
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            args: launch.args.to_vec(),
        };
        self.enqueue(stream, &name, &touches, command)
    }

    fn matmul(&self, stream: Stream, matmul: &Matmul) -> Result<()> {
        let operands = [(matmul.a.span, Access::Read), (matmul.b.span, Access::Read), (matmul.c.span, Access::Write)];
        let extra = matmul.bias.map(|span| (span, Access::Read)).into_iter();
        let extra = extra.chain(matmul.workspace.map(|span| (span, Access::Write)));
        let touches: Vec<(Span, Access)> = operands.into_iter().chain(extra).collect();
        self.enqueue(stream, "a matrix product", &touches, Command::Matmul(Box::new(*matmul)))
    }

    fn elapsed_ms(&self, _start: Event, _end: Event) -> Result<f32> {
        Err(Error::Unavailable("the emulator has no clock; time on a device or with --device cpu".into()))
    }
}
