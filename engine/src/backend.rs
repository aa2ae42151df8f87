use crate::ops::*;
use crate::{DType, Element, Error, MappedBytes, Owner, Result, StorageStats, Tensor};

/// A device: memory and the op vocabulary. Every method enqueues its op; host reads wait for it.
///
/// Operands are checked by the op's own `check`; see [`crate::ops`] for shapes and formulas.
pub trait Backend: Send + Sync {
    /// Short name: `cpu`.
    fn name(&self) -> &'static str;

    /// Whether micro-batches should always have the same shape, so that launches repeat.
    fn needs_fixed_shapes(&self) -> bool {
        false
    }

    /// Waits for all enqueued ops.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the host may wait for the device; where it may not, a wait is an error, so that tests find it.
    fn allow_waiting(&self, allowed: bool) {
        let _ = allowed;
    }

    /// A tensor with unspecified contents, counted as `owner`'s.
    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor>;

    /// A weight that the device can read where it lies, in a type of files; nothing where it needs a copy in its own memory.
    ///
    /// Matrices of [`Linear`], [`GatherRows`] and [`VisionEmbed`] may be such tensors on a device that makes them.
    fn map(&self, bytes: MappedBytes, dtype: DType, rows: usize, cols: usize) -> Option<Tensor> {
        let _ = (bytes, dtype, rows, cols);
        None
    }

    /// Bytes held by this backend's allocator.
    fn memory(&self) -> StorageStats;

    /// Copies host bytes (native byte order) into a contiguous tensor.
    fn upload(&self, bytes: &[u8], to: &Tensor) -> Result<()>;

    /// The bytes of a contiguous tensor.
    fn download(&self, from: &Tensor) -> Result<Vec<u8>>;

    /// See [`Gemm`].
    fn gemm(&self, args: &Gemm) -> Result<()>;
    /// See [`Linear`].
    fn linear(&self, args: &Linear) -> Result<()>;
    /// See [`BiasGrad`].
    fn bias_grad(&self, args: &BiasGrad) -> Result<()>;
    /// See [`RmsNorm`].
    fn rms_norm(&self, args: &RmsNorm) -> Result<()>;
    /// See [`RmsNormBackward`].
    fn rms_norm_backward(&self, args: &RmsNormBackward) -> Result<()>;
    /// See [`LayerNorm`].
    fn layer_norm(&self, args: &LayerNorm) -> Result<()>;
    /// See [`LayerNormBackward`].
    fn layer_norm_backward(&self, args: &LayerNormBackward) -> Result<()>;
    /// See [`Rope`].
    fn rope(&self, args: &Rope) -> Result<()>;
    /// See [`Attention`].
    fn attention(&self, args: &Attention) -> Result<()>;
    /// See [`AttentionBackward`].
    fn attention_backward(&self, args: &AttentionBackward) -> Result<()>;
    /// See [`Swiglu`].
    fn swiglu(&self, args: &Swiglu) -> Result<()>;
    /// See [`SwigluBackward`].
    fn swiglu_backward(&self, args: &SwigluBackward) -> Result<()>;
    /// See [`Gelu`].
    fn gelu(&self, args: &Gelu) -> Result<()>;
    /// See [`GeluBackward`].
    fn gelu_backward(&self, args: &GeluBackward) -> Result<()>;
    /// See [`GatherRows`].
    fn gather_rows(&self, args: &GatherRows) -> Result<()>;
    /// See [`ScatterRows`].
    fn scatter_rows(&self, args: &ScatterRows) -> Result<()>;
    /// See [`ScatterAddRows`].
    fn scatter_add_rows(&self, args: &ScatterAddRows) -> Result<()>;
    /// See [`VisionEmbed`].
    fn vision_embed(&self, args: &VisionEmbed) -> Result<()>;
    /// See [`VisionEmbedBackward`].
    fn vision_embed_backward(&self, args: &VisionEmbedBackward) -> Result<()>;
    /// See [`ExtractPatches`].
    fn extract_patches(&self, args: &ExtractPatches) -> Result<()>;
    /// See [`LinearCrossEntropy`].
    fn linear_cross_entropy(&self, args: &LinearCrossEntropy) -> Result<()>;
    /// See [`Dropout`].
    fn dropout(&self, args: &Dropout) -> Result<()>;
    /// See [`Add`].
    fn add(&self, args: &Add) -> Result<()>;
    /// See [`struct@Copy`].
    fn copy(&self, args: &Copy) -> Result<()>;
    /// See [`Scale`].
    fn scale(&self, args: &Scale) -> Result<()>;
    /// See [`Fill`].
    fn fill(&self, args: &Fill) -> Result<()>;
    /// See [`SumSquares`].
    fn sum_squares(&self, args: &SumSquares) -> Result<()>;
    /// See [`GradientGate`].
    fn gradient_gate(&self, args: &GradientGate) -> Result<()>;
    /// See [`AdamW`].
    fn adamw(&self, args: &AdamW) -> Result<()>;
    /// See [`Sample`].
    fn sample(&self, args: &Sample) -> Result<()>;

    /// An activation with unspecified contents.
    fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.alloc_for(Owner::Activations, dtype, rows, cols)
    }

    /// A tensor of zeros, counted as `owner`'s.
    fn zeros_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        let tensor = self.alloc_for(owner, dtype, rows, cols)?;
        self.upload(&vec![0; tensor.len() * dtype.size()], &tensor)?;
        Ok(tensor)
    }

    /// An activation of zeros.
    fn zeros(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.zeros_for(Owner::Activations, dtype, rows, cols)
    }

    /// A tensor with the given elements, in row order.
    fn upload_f32(&self, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor> {
        let tensor = self.alloc(DType::F32, rows, cols)?;
        self.upload(bytemuck::cast_slice(values), &tensor)?;
        Ok(tensor)
    }

    /// A column of indices.
    fn upload_u32(&self, values: &[u32]) -> Result<Tensor> {
        let tensor = self.alloc(DType::U32, values.len(), 1)?;
        self.upload(bytemuck::cast_slice(values), &tensor)?;
        Ok(tensor)
    }
}

impl dyn Backend + '_ {
    /// The elements of a tensor of type `T`.
    pub fn to_vec<T: Element>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        if tensor.dtype() != T::DTYPE {
            let (op, what) = ("download", "tensor");
            return Err(Error::DType { op, what, expected: "the type that is asked for", got: tensor.dtype() });
        }
        let bytes = self.download(tensor)?;
        Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
    }

    /// The elements of a float tensor as f32.
    pub fn to_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        if tensor.dtype() == DType::F32 {
            return self.to_vec(tensor);
        }
        let values = self.alloc(DType::F32, tensor.rows(), tensor.cols())?;
        self.copy(&Copy { x: tensor, y: &values })?;
        self.to_vec(&values)
    }
}
