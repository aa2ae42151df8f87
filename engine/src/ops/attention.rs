use crate::error::ensure;
use crate::ops::{indices, shape};
use crate::{Result, Tensor};

/// How attention's columns are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads `H`.
    pub heads: usize,
    /// Key/value heads `G`, a divisor of `H`; query head `h` reads key head `h / (H / G)`.
    pub kv_heads: usize,
    /// Head width `C`.
    pub head_dim: usize,
}

impl HeadShape {
    /// Columns of the queries, `H C`.
    pub fn q_cols(self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the keys (or the values), `G C`.
    pub fn kv_cols(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of fused queries, keys and values, `(H + 2 G) C`.
    pub fn qkv_cols(self) -> usize {
        self.q_cols() + 2 * self.kv_cols()
    }

    fn check(self, op: &'static str) -> Result<()> {
        let fits = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) && self.head_dim > 0;
        ensure(fits, op, || format!("{} query heads cannot share {} key heads", self.heads, self.kv_heads))
    }
}

/// Variable-length softmax attention (arXiv 2205.14135): document `i` is rows `cu_seqlens[i]..cu_seqlens[i + 1]`.
///
/// `o = softmax(scale q kᵀ) v` within a document. If `causal`, the last query sees all keys, the one
/// before all but one, and so on. Scores are never stored.
pub struct Attention<'a> {
    /// `[T, H C]`.
    pub q: &'a Tensor,
    /// `[S, G C]`.
    pub k: &'a Tensor,
    /// `[S, G C]`.
    pub v: &'a Tensor,
    /// `[documents + 1]` u32: query boundaries, from 0 to `T`.
    pub cu_seqlens_q: &'a Tensor,
    /// `[documents + 1]` u32: key boundaries, from 0 to at most `S`.
    pub cu_seqlens_k: &'a Tensor,
    /// Division of the columns.
    pub shape: HeadShape,
    /// Factor of the scores.
    pub scale: f64,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// *out* `[T, H C]`.
    pub o: &'a Tensor,
    /// *out* `[T, H]`: natural logarithm of the sum of exponentials of the scores.
    pub lse: &'a Tensor,
}

impl Attention<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (op, t, s) = ("attention", self.q.rows(), self.k.rows());
        self.shape.check(op)?;
        shape(op, "q", self.q, t, self.shape.q_cols())?;
        shape(op, "k", self.k, s, self.shape.kv_cols())?;
        shape(op, "v", self.v, s, self.shape.kv_cols())?;
        shape(op, "o", self.o, t, self.shape.q_cols())?;
        shape(op, "lse", self.lse, t, self.shape.heads)?;
        indices(op, "cu_seqlens_k", self.cu_seqlens_k, self.cu_seqlens_q.len())?;
        indices(op, "cu_seqlens_q", self.cu_seqlens_q, self.cu_seqlens_q.len())
    }
}

/// Gradient of self-attention over fused `q|k|v` columns.
///
/// With `p = exp(scale q kᵀ - lse)` and `delta = rowsum(do * o)`: `dv = pᵀ do`,
/// `ds = scale p * (do vᵀ - delta)`, `dq = ds k`, `dk = dsᵀ q`.
pub struct AttentionBackward<'a> {
    /// `[T, (H + 2 G) C]`.
    pub qkv: &'a Tensor,
    /// `[documents + 1]` u32.
    pub cu_seqlens: &'a Tensor,
    /// Division of the columns.
    pub shape: HeadShape,
    /// Factor of the scores.
    pub scale: f64,
    /// As in the forward pass.
    pub causal: bool,
    /// `[T, H C]`, from the forward pass.
    pub o: &'a Tensor,
    /// `[T, H]`, from the forward pass.
    pub lse: &'a Tensor,
    /// `[T, H C]`.
    pub d_o: &'a Tensor,
    /// *out* `[T, (H + 2 G) C]`.
    pub dqkv: &'a Tensor,
}

impl AttentionBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (op, t) = ("attention_backward", self.qkv.rows());
        self.shape.check(op)?;
        shape(op, "qkv", self.qkv, t, self.shape.qkv_cols())?;
        shape(op, "dqkv", self.dqkv, t, self.shape.qkv_cols())?;
        shape(op, "o", self.o, t, self.shape.q_cols())?;
        shape(op, "do", self.d_o, t, self.shape.q_cols())?;
        shape(op, "lse", self.lse, t, self.shape.heads)?;
        indices(op, "cu_seqlens", self.cu_seqlens, self.cu_seqlens.len())
    }
}
