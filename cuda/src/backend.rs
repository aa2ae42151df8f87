use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vila_engine::ops::*;
use vila_engine::{Backend, DType, Error, Owner, Result, Storage, StorageStats, Tensor};

use crate::driver::{Access, Arg, Driver, Launch, Matmul, Span, Stream};
use crate::kernels::{self, Library, Source};
use crate::pool::{Block, Pool};
use crate::staging::Staging;
use crate::tuning::{self, Product, Table};
use crate::{engine_error, ops};

/// Name of a device backend in errors.
const DEVICE: &str = "cuda";

/// Runs the op vocabulary on a device; see the [crate documentation](crate).
pub struct CudaBackend {
    name: &'static str,
    driver: Arc<dyn Driver>,
    stream: Stream,
    library: Library,
    staging: Staging,
    /// Measured algorithms of matrix products.
    table: Table,
    products: Mutex<BTreeSet<Product>>,
    /// `IndexFault` of `device.cuh`.
    index_fault: Block,
    may_wait: AtomicBool,
    pool: Arc<Pool>,
}

impl CudaBackend {
    /// A backend on a device with the kernels of this build.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn new(driver: Arc<dyn Driver>) -> Result<Self> {
        Self::with_sources(driver, kernels::sources())
    }

    /// A backend with other kernel sources: edited ones, or broken ones that tests must notice.
    ///
    /// # Errors
    /// As [`CudaBackend::new`].
    pub fn with_sources(driver: Arc<dyn Driver>, sources: Vec<Source>) -> Result<Self> {
        let stream = driver.stream().map_err(|error| engine_error("open", error))?;
        let pool = Pool::new(Arc::clone(&driver), stream);
        let index_fault = pool.alloc(16, Owner::Workspace)?;
        driver.fill(stream, index_fault.span(), 0).map_err(|error| engine_error("open", error))?;
        let staging = Staging::new(Arc::clone(&driver), stream);
        Ok(CudaBackend {
            name: driver.name(),
            driver,
            stream,
            library: Library::new(sources),
            staging,
            table: Table::new(),
            products: Mutex::default(),
            index_fault,
            may_wait: AtomicBool::new(true),
            pool,
        })
    }

    /// Takes the algorithms of matrix products from a table, whose name becomes part of the backend's.
    pub fn with_table(mut self, table: Table, name: &str) -> Self {
        // Once per process in practice, and a name is a few bytes.
        self.name = format!("{}+gemm-{name}", self.driver.name()).leak();
        self.table = table;
        self
    }

    /// All different matrix products so far.
    pub fn products(&self) -> Vec<Product> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// The device.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The stream on which ops run.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Multiprocessors of the device: how many pieces work is cut into.
    pub(crate) fn multiprocessors(&self) -> usize {
        self.driver.info().multiprocessors as usize
    }

    /// Working memory of an op, back in the pool when dropped; safe because the pool follows the stream's order.
    pub(crate) fn workspace(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.alloc_for(Owner::Workspace, dtype, rows, cols)
    }

    /// Where a tensor of this device lies.
    pub(crate) fn span(&self, tensor: &Tensor) -> Result<Span> {
        let (block, span) = Block::of(tensor)?;
        if Arc::ptr_eq(block.pool(), &self.pool) { Ok(span) } else { Err(Error::ForeignDevice(DEVICE)) }
    }

    /// Pointer argument of a kernel that reads `tensor`.
    pub(crate) fn input(&self, tensor: &Tensor) -> Result<Arg> {
        Ok(Arg::Memory(self.span(tensor)?, Access::Read))
    }

    /// Pointer argument of a kernel that writes `tensor`.
    pub(crate) fn output(&self, tensor: &Tensor) -> Result<Arg> {
        Ok(Arg::Memory(self.span(tensor)?, Access::Write))
    }

    /// As [`CudaBackend::input`], or a null pointer.
    pub(crate) fn optional_input(&self, tensor: Option<&Tensor>) -> Result<Arg> {
        tensor.map_or(Ok(Arg::Null), |tensor| self.input(tensor))
    }

    /// As [`CudaBackend::output`], or a null pointer.
    pub(crate) fn optional_output(&self, tensor: Option<&Tensor>) -> Result<Arg> {
        tensor.map_or(Ok(Arg::Null), |tensor| self.output(tensor))
    }

    /// Pointer argument of a kernel that reports indices outside their table.
    pub(crate) fn index_fault(&self) -> Arg {
        Arg::Memory(self.index_fault.span(), Access::Write)
    }

    /// Enqueues kernel `kernel` of `kernels/{file}.cu`; a grid without blocks does nothing.
    ///
    /// # Errors
    /// [`Error::Aliased`] if memory that is written overlaps another argument.
    pub(crate) fn launch(
        &self,
        file: &'static str,
        kernel: &str,
        grid: impl Into<Grid>,
        block: u32,
        shared: usize,
        args: &[Arg],
    ) -> Result<()> {
        let grid = grid.into().0;
        if grid.contains(&0) {
            return Ok(());
        }
        let grid: [u32; 3] = [extent(file, grid[0])?, extent(file, grid[1])?, extent(file, grid[2])?];
        disjoint(args)?;
        let function = self.library.function(&*self.driver, file, kernel).map_err(|error| engine_error(file, error))?;
        let launch = Launch { function, grid, block, shared: extent(file, shared)?, args };
        self.driver.launch(self.stream, &launch).map_err(|error| engine_error(file, error))
    }

    /// Enqueues a matrix product.
    pub(crate) fn matmul(&self, matmul: &Matmul) -> Result<()> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner).insert(Product::of(matmul));
        let algorithm = matmul.algorithm.or_else(|| tuning::choose(&self.table, matmul));
        let matmul = Matmul { algorithm, ..*matmul };
        self.driver.matmul(self.stream, &matmul).map_err(|error| engine_error("gemm", error))
    }

    fn waits(&self, op: &'static str) -> Result<()> {
        if self.may_wait.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::Device {
            op,
            message: "the host waits for the device where it must not, such as inside a step".into(),
        })
    }

    /// The error of the first wrong index since the last call.
    fn take_index_fault(&self) -> Result<()> {
        let mut bytes = [0; 16];
        let fail = |error| engine_error("download", error);
        self.staging.download(self.index_fault.span(), &mut bytes).map_err(fail)?;
        let [op, at, index, rows]: [u32; 4] = bytemuck::cast(bytes);
        if op == 0 {
            return Ok(());
        }
        self.driver.fill(self.stream, self.index_fault.span(), 0).map_err(fail)?;
        Err(Error::Index { op: ops::fault_name(op), at: at as usize, index, rows: rows as usize })
    }
}

/// Blocks of a launch along x, y and z.
pub(crate) struct Grid([usize; 3]);

impl From<usize> for Grid {
    fn from(x: usize) -> Self {
        Grid([x, 1, 1])
    }
}

impl From<(usize, usize)> for Grid {
    fn from((x, y): (usize, usize)) -> Self {
        Grid([x, y, 1])
    }
}

impl From<(usize, usize, usize)> for Grid {
    fn from((x, y, z): (usize, usize, usize)) -> Self {
        Grid([x, y, z])
    }
}

/// An extent as the kernel's 32-bit type.
pub(crate) fn extent(op: &'static str, n: usize) -> Result<u32> {
    let fits = u32::try_from(n).ok().filter(|&n| n <= i32::MAX as u32);
    fits.ok_or_else(|| Error::Argument { op, message: format!("an extent of {n} exceeds 2^31 - 1") })
}

/// An extent as a kernel's `int` argument.
pub(crate) fn int(op: &'static str, n: usize) -> Result<Arg> {
    Ok(Arg::I32(extent(op, n)? as i32))
}

/// A kernel's `double` argument.
pub(crate) fn double(x: f64) -> Arg {
    Arg::U64(x.to_bits())
}

/// A leading dimension as a kernel's `i64` argument.
pub(crate) fn ld(tensor: &Tensor) -> Arg {
    Arg::I64(tensor.ld() as i64)
}

/// The suffix of a kernel's instance for the element type.
pub(crate) fn suffix(op: &'static str, tensor: &Tensor) -> Result<&'static str> {
    match tensor.dtype() {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        got => Err(Error::DType { op, what: "operand", expected: "F32 or BF16 on this device", got }),
    }
}

/// That operands have the expected type.
pub(crate) fn typed<'a>(
    op: &'static str,
    dtype: DType,
    operands: impl IntoIterator<Item = (&'static str, Option<&'a Tensor>)>,
) -> Result<()> {
    for (what, tensor) in operands {
        if let Some(got) = tensor.map(Tensor::dtype).filter(|&got| got != dtype) {
            let expected = match dtype {
                DType::F32 => "F32",
                DType::BF16 => "BF16",
                DType::F64 => "F64",
                _ => "the type of the first operand",
            };
            return Err(Error::DType { op, what, expected, got });
        }
    }
    Ok(())
}

fn disjoint(args: &[Arg]) -> Result<()> {
    let spans: Vec<(Span, Access)> = args.iter().filter_map(Arg::memory).collect();
    for (index, &(span, access)) in spans.iter().enumerate() {
        for &(other, other_access) in &spans[index + 1..] {
            if (access == Access::Write || other_access == Access::Write) && span.overlaps(other) {
                return Err(Error::Aliased);
            }
        }
    }
    Ok(())
}

macro_rules! dispatch {
    ($($method:ident, $args:ident, $function:path;)*) => {
        $(fn $method(&self, args: &$args) -> Result<()> {
            args.check()?;
            $function(self, args)
        })*
    };
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs_fixed_shapes(&self) -> bool {
        true
    }

    fn allow_waiting(&self, allowed: bool) {
        self.may_wait.store(allowed, Ordering::Relaxed);
    }

    fn synchronize(&self) -> Result<()> {
        self.waits("synchronize")?;
        self.driver.synchronize(self.stream).map_err(|error| engine_error("synchronize", error))
    }

    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let block = self.pool.alloc(vila_engine::bytes(dtype, rows, cols)?, owner)?;
        Ok(Tensor::from_storage(Arc::new(Storage::Device(Box::new(block))), dtype, rows, cols))
    }

    fn zeros_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let tensor = self.alloc_for(owner, dtype, rows, cols)?;
        let span = self.span(&tensor)?;
        if span.bytes > 0 {
            self.driver.fill(self.stream, span, 0).map_err(|error| engine_error("zeros", error))?;
        }
        Ok(tensor)
    }

    fn memory(&self) -> StorageStats {
        self.pool.stats()
    }

    fn upload(&self, bytes: &[u8], to: &Tensor) -> Result<()> {
        let span = self.span(to)?;
        if !to.is_contiguous() || span.bytes != bytes.len() {
            let expected = (to.len() * to.dtype().size(), 1);
            return Err(Error::Shape { op: "upload", what: "bytes", expected, got: (bytes.len(), 1) });
        }
        self.staging.upload(bytes, span).map_err(|error| engine_error("upload", error))
    }

    fn download(&self, from: &Tensor) -> Result<Vec<u8>> {
        self.waits("download")?;
        if !from.is_contiguous() {
            let packed = self.workspace(from.dtype(), from.rows(), from.cols())?;
            self.copy(&Copy { x: from, y: &packed })?;
            return self.download(&packed);
        }
        let mut bytes = vec![0; from.len() * from.dtype().size()];
        if !bytes.is_empty() {
            self.staging.download(self.span(from)?, &mut bytes).map_err(|error| engine_error("download", error))?;
        }
        self.take_index_fault()?;
        Ok(bytes)
    }

    dispatch! {
        attention, Attention, ops::attention::forward;
        attention_backward, AttentionBackward, ops::attention::backward;
        gemm, Gemm, ops::gemm::gemm;
        linear, Linear, ops::gemm::linear;
        bias_grad, BiasGrad, ops::column_sums::bias_grad;
        rms_norm, RmsNorm, ops::rms_norm::forward;
        rms_norm_backward, RmsNormBackward, ops::rms_norm::backward;
        layer_norm, LayerNorm, ops::layer_norm::forward;
        layer_norm_backward, LayerNormBackward, ops::layer_norm::backward;
        rope, Rope, ops::rope::rope;
        swiglu, Swiglu, ops::swiglu::forward;
        swiglu_backward, SwigluBackward, ops::swiglu::backward;
        gelu, Gelu, ops::gelu::forward;
        gelu_backward, GeluBackward, ops::gelu::backward;
        gather_rows, GatherRows, ops::rows::gather;
        scatter_rows, ScatterRows, ops::rows::scatter;
        scatter_add_rows, ScatterAddRows, ops::rows::scatter_add;
        vision_embed, VisionEmbed, ops::vision_embed::forward;
        vision_embed_backward, VisionEmbedBackward, ops::vision_embed::backward;
        extract_patches, ExtractPatches, ops::extract_patches::extract_patches;
        dropout, Dropout, ops::dropout::dropout;
        add, Add, ops::elementwise::add;
        copy, Copy, ops::elementwise::copy;
        linear_cross_entropy, LinearCrossEntropy, ops::linear_cross_entropy::linear_cross_entropy;
        sum_squares, SumSquares, ops::sum_squares::sum_squares;
        gradient_gate, GradientGate, ops::gradient_gate::gate;
        adamw, AdamW, ops::adamw::update;
        sample, Sample, ops::sample::sample;
    }

    fn scale(&self, args: &Scale) -> Result<()> {
        ops::elementwise::scale(self, args)
    }

    fn fill(&self, args: &Fill) -> Result<()> {
        ops::elementwise::fill(self, args)
    }
}
