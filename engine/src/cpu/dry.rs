use std::sync::Arc;

use crate::cpu::linear::padded_rows;
use crate::ops::*;
use crate::storage::HostPool;
use crate::{Backend, DType, Error, Owner, Result, Storage, StorageStats, Tensor};

/// [`CpuBackend::fast`](crate::CpuBackend::fast) without memory and arithmetic, to find out what a computation would hold.
///
/// Tensors have shapes and no elements: uploads are dropped, downloads fail. Ops check their operands and count the working
/// memory that they would take, and [`Backend::memory`] tells the bytes that buffers would have.
#[derive(Clone, Default)]
pub struct DryCpu {
    pool: Arc<HostPool>,
}

impl DryCpu {
    fn scratch(&self, rows: usize, cols: usize) -> Result<Tensor> {
        self.alloc_for(Owner::Workspace, DType::F32, rows, cols)
    }

    /// The logits of a chunk, and the padding of a short one.
    fn loss_workspace(&self, args: &LinearCrossEntropy) -> Result<()> {
        let (rows, vocab) = (args.hidden.rows(), args.weight.rows());
        if args.hidden.dtype() != DType::F32 || rows == 0 {
            return Ok(());
        }
        let logits = self.scratch(LinearCrossEntropy::CHUNK.min(rows), vocab)?;
        let last = args.hidden.slice_rows((rows - 1) / LinearCrossEntropy::CHUNK * LinearCrossEntropy::CHUNK..rows)?;
        let logits = logits.slice_rows(0..last.rows())?;
        self.linear(&Linear { x: &last, weight: args.weight, bias: None, y: &logits })
    }
}

macro_rules! checked {
    ($($method:ident, $args:ident;)*) => {
        $(fn $method(&self, args: &$args) -> Result<()> {
            args.check()
        })*
    };
}

impl Backend for DryCpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let phantom = self.pool.count(crate::tensor::bytes(dtype, rows, cols)?, owner)?;
        Ok(Tensor::from_storage(Arc::new(Storage::Device(Box::new(phantom))), dtype, rows, cols))
    }

    fn zeros_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.alloc_for(owner, dtype, rows, cols)
    }

    fn memory(&self) -> StorageStats {
        self.pool.stats()
    }

    fn upload(&self, _: &[u8], _: &Tensor) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &Tensor) -> Result<Vec<u8>> {
        Err(Error::Device { op: "download", message: "a dry run has no values".into() })
    }

    fn linear(&self, args: &Linear) -> Result<()> {
        args.check()?;
        if let (DType::F32, Some(rows)) = (args.x.dtype(), padded_rows(args)) {
            // Both at once, as the op holds them.
            let _padded = (self.scratch(rows, args.x.cols())?, self.scratch(rows, args.y.cols())?);
        }
        Ok(())
    }

    fn linear_cross_entropy(&self, args: &LinearCrossEntropy) -> Result<()> {
        args.check()?;
        self.loss_workspace(args)
    }

    fn scale(&self, _: &Scale) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _: &Fill) -> Result<()> {
        Ok(())
    }

    checked! {
        gemm, Gemm;
        bias_grad, BiasGrad;
        rms_norm, RmsNorm;
        rms_norm_backward, RmsNormBackward;
        layer_norm, LayerNorm;
        layer_norm_backward, LayerNormBackward;
        rope, Rope;
        attention, Attention;
        attention_backward, AttentionBackward;
        swiglu, Swiglu;
        swiglu_backward, SwigluBackward;
        gelu, Gelu;
        gelu_backward, GeluBackward;
        gather_rows, GatherRows;
        scatter_rows, ScatterRows;
        scatter_add_rows, ScatterAddRows;
        vision_embed, VisionEmbed;
        vision_embed_backward, VisionEmbedBackward;
        extract_patches, ExtractPatches;
        dropout, Dropout;
        add, Add;
        copy, Copy;
        sum_squares, SumSquares;
        gradient_gate, GradientGate;
        adamw, AdamW;
        sample, Sample;
    }
}
