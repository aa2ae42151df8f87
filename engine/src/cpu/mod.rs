//! The CPU backend: a plain reference with f64 accumulators, and a fast f32 path.

mod adamw;
mod attention;
mod dropout;
mod dry;
mod elementwise;
mod extract_patches;
mod gelu;
mod gemm;
mod gradient_gate;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod mapped;
mod math;
mod matrix;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod vision_embed;

use std::sync::Arc;

pub use dry::DryCpu;
use half::{bf16, f16};

use crate::ops::*;
use crate::storage::HostPool;
use crate::{Backend, DType, Error, MappedBytes, Owner, Result, Storage, StorageStats, Tensor};

/// Runs ops on the CPU.
///
/// [`CpuBackend::fast`] uses vectorised, threaded f32 code and falls back to the reference for other
/// element types; [`CpuBackend::reference`] computes every op as its formula reads, in f64, and
/// rounds once to the output's type.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Arc<HostPool>,
    arch: pulp::Arch,
    fast: bool,
}

impl CpuBackend {
    /// The backend for work.
    pub fn fast() -> Self {
        CpuBackend { pool: Arc::default(), arch: pulp::Arch::new(), fast: true }
    }

    /// The backend to compare with.
    pub fn reference() -> Self {
        CpuBackend { fast: false, ..Self::fast() }
    }

    /// Whether the fast path takes these operands.
    fn takes<'a>(&self, operands: impl IntoIterator<Item = Option<&'a Tensor>>) -> bool {
        self.fast && operands.into_iter().flatten().all(|tensor| tensor.dtype() == DType::F32)
    }

    /// Uninitialised f32 working memory.
    fn scratch(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.alloc_for(Owner::Workspace, DType::F32, rows, cols)
    }
}

/// Rows per parallel task: a function of the width alone, so that partial sums have a fixed order.
fn chunk_rows(cols: usize) -> usize {
    (16 * 1024 / cols.max(1)).max(1)
}

macro_rules! dispatch {
    ($($method:ident, $args:ident, $module:ident, $reference:ident, $fast:ident, |$a:ident| [$($operand:expr),*];)*) => {
        $(fn $method(&self, $a: &$args) -> Result<()> {
            $a.check()?;
            if self.takes([$($operand),*]) { $module::$fast(self, $a) } else { $module::$reference($a) }
        })*
    };
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let bytes = crate::tensor::bytes(dtype, rows, cols)?;
        let storage = Arc::new(Storage::Host(self.pool.alloc(bytes, owner)?));
        let tensor = Tensor::from_storage(storage, dtype, rows, cols);
        if cfg!(debug_assertions) {
            poison(&tensor)?;
        }
        Ok(tensor)
    }

    fn map(&self, bytes: MappedBytes, dtype: DType, rows: usize, cols: usize) -> Option<Tensor> {
        Tensor::mapped(bytes, dtype, rows, cols)
    }

    fn memory(&self) -> StorageStats {
        self.pool.stats()
    }

    fn upload(&self, bytes: &[u8], to: &Tensor) -> Result<()> {
        fn put<T: crate::Element>(bytes: &[u8], to: &Tensor) -> Result<()> {
            let mut view = to.write::<T>()?;
            let target: &mut [u8] = bytemuck::cast_slice_mut(view.slice_mut());
            if target.len() != bytes.len() {
                let got = (bytes.len(), 1);
                return Err(Error::Shape { op: "upload", what: "bytes", expected: (target.len(), 1), got });
            }
            target.copy_from_slice(bytes);
            Ok(())
        }
        match to.dtype() {
            DType::F64 => put::<f64>(bytes, to),
            DType::F32 => put::<f32>(bytes, to),
            DType::BF16 => put::<bf16>(bytes, to),
            DType::F16 => put::<f16>(bytes, to),
            DType::U8 => put::<u8>(bytes, to),
            DType::U32 => put::<u32>(bytes, to),
            DType::I32 => put::<i32>(bytes, to),
        }
    }

    fn download(&self, from: &Tensor) -> Result<Vec<u8>> {
        fn get<T: crate::Element>(from: &Tensor) -> Result<Vec<u8>> {
            Ok(bytemuck::cast_slice(&from.to_vec::<T>()?).to_vec())
        }
        match from.dtype() {
            DType::F64 => get::<f64>(from),
            DType::F32 => get::<f32>(from),
            DType::BF16 => get::<bf16>(from),
            DType::F16 => get::<f16>(from),
            DType::U8 => get::<u8>(from),
            DType::U32 => get::<u32>(from),
            DType::I32 => get::<i32>(from),
        }
    }

    dispatch! {
        gemm, Gemm, gemm, reference, fast, |a| [Some(a.a), Some(a.b), Some(a.c)];
        bias_grad, BiasGrad, linear, bias_grad_reference, bias_grad_fast, |a| [Some(a.dy), Some(a.dbias)];
        rms_norm, RmsNorm, rms_norm, reference, fast,
            |a| [Some(a.x), a.residual, a.sum, Some(a.weight), Some(a.y), Some(a.rstd)];
        rms_norm_backward, RmsNormBackward, rms_norm, backward_reference, backward_fast,
            |a| [Some(a.dy), Some(a.sum), Some(a.weight), Some(a.rstd), a.dsum, a.dx, a.dweight];
        layer_norm, LayerNorm, layer_norm, reference, fast,
            |a| [Some(a.x), Some(a.weight), Some(a.bias), Some(a.y), Some(a.mean), Some(a.rstd)];
        layer_norm_backward, LayerNormBackward, layer_norm, backward_reference, backward_fast,
            |a| [Some(a.dy), Some(a.x), Some(a.weight), Some(a.mean), Some(a.rstd), a.dx, a.dweight, a.dbias];
        rope, Rope, rope, reference, fast, |a| [Some(a.x), Some(a.cos), Some(a.sin)];
        attention, Attention, attention, reference, fast,
            |a| [Some(a.q), Some(a.k), Some(a.v), Some(a.o), Some(a.lse)];
        attention_backward, AttentionBackward, attention, backward_reference, backward_fast,
            |a| [Some(a.qkv), Some(a.o), Some(a.lse), Some(a.d_o), Some(a.dqkv)];
        swiglu, Swiglu, swiglu, reference, fast, |a| [Some(a.gate_up), Some(a.y)];
        swiglu_backward, SwigluBackward, swiglu, backward_reference, backward_fast,
            |a| [Some(a.dy), Some(a.gate_up), Some(a.dgate_up)];
        gelu, Gelu, gelu, reference, fast, |a| [Some(a.x), Some(a.y)];
        gelu_backward, GeluBackward, gelu, backward_reference, backward_fast,
            |a| [Some(a.dy), Some(a.x), Some(a.dx)];
        scatter_rows, ScatterRows, rows, scatter_reference, scatter_fast, |a| [Some(a.x), Some(a.y)];
        scatter_add_rows, ScatterAddRows, rows, scatter_add_reference, scatter_add_fast,
            |a| [Some(a.x), Some(a.y)];
        vision_embed, VisionEmbed, vision_embed, reference, fast,
            |a| [Some(a.patches), a.class, Some(a.positions), Some(a.y)];
        vision_embed_backward, VisionEmbedBackward, vision_embed, backward_reference, backward_fast,
            |a| [Some(a.dy), a.dpatches, a.dclass, a.dpositions];
        extract_patches, ExtractPatches, extract_patches, reference, fast, |a| [Some(a.pixels), Some(a.y)];
        linear_cross_entropy, LinearCrossEntropy, linear_cross_entropy, reference, fast,
            |a| [Some(a.hidden), Some(a.weight), Some(a.loss), a.row_loss, a.dhidden, a.dweight];
        dropout, Dropout, dropout, reference, fast, |a| [Some(a.x), Some(a.y)];
        add, Add, elementwise, add_reference, add_fast, |a| [Some(a.x), Some(a.y)];
        sum_squares, SumSquares, elementwise, sum_squares_reference, sum_squares_fast, |a| [Some(a.x)];
        adamw, AdamW, adamw, reference, fast, |a| [Some(a.weights), Some(a.grad)];
        copy, Copy, elementwise, copy_reference, copy_fast, |a| [Some(a.x), Some(a.y)];
    }

    fn linear(&self, a: &Linear) -> Result<()> {
        a.check()?;
        let fast = self.takes([Some(a.x), a.bias, Some(a.y)]);
        match (a.weight.dtype(), &**a.weight.storage()) {
            (DType::F32, Storage::Mapped(_)) if fast => mapped::linear::<f32>(self, a),
            (DType::BF16, Storage::Mapped(_)) if fast => mapped::linear::<bf16>(self, a),
            (DType::F16, Storage::Mapped(_)) if fast => mapped::linear::<f16>(self, a),
            (DType::F32, _) if fast => linear::fast(self, a),
            _ => linear::reference(a),
        }
    }

    fn gather_rows(&self, a: &GatherRows) -> Result<()> {
        a.check()?;
        match a.table.dtype() {
            DType::F32 if self.takes([Some(a.y)]) => rows::gather_fast(self, a),
            DType::BF16 if self.takes([Some(a.y)]) => mapped::gather_rows::<bf16>(a),
            DType::F16 if self.takes([Some(a.y)]) => mapped::gather_rows::<f16>(a),
            _ => rows::gather_reference(a),
        }
    }

    fn gradient_gate(&self, a: &GradientGate) -> Result<()> {
        a.check()?;
        gradient_gate::gate(a)
    }

    fn sample(&self, a: &Sample) -> Result<()> {
        a.check()?;
        sample::sample(a)
    }

    fn scale(&self, a: &Scale) -> Result<()> {
        elementwise::scale(a)
    }

    fn fill(&self, a: &Fill) -> Result<()> {
        elementwise::fill(a)
    }
}

/// NaN patterns in fresh memory, so that a test sees an element that an op failed to write.
fn poison(tensor: &Tensor) -> Result<()> {
    fn ones<T: crate::Element>(tensor: &Tensor) -> Result<()> {
        bytemuck::cast_slice_mut::<T, u8>(tensor.write::<T>()?.slice_mut()).fill(0xFF);
        Ok(())
    }
    match tensor.dtype() {
        DType::F64 => ones::<f64>(tensor),
        DType::F32 => ones::<f32>(tensor),
        DType::BF16 => ones::<bf16>(tensor),
        DType::F16 => ones::<f16>(tensor),
        DType::U8 => ones::<u8>(tensor),
        DType::U32 => ones::<u32>(tensor),
        DType::I32 => ones::<i32>(tensor),
    }
}
