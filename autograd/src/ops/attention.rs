use vila_engine::ops::{Attention, AttentionBackward, HeadShape};
use vila_engine::{Result, Tensor};

use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// Self-attention within each document of `cu_seqlens`: `[T, (H + 2 G) C] -> [T, H C]`.
    ///
    /// Keeps its input, its output and the log-sum-exps; scores are scaled by `1 / √C`.
    pub fn attention(&mut self, qkv: &Var<'a>, shape: HeadShape, cu_seqlens: &Tensor, causal: bool) -> Result<Var<'a>> {
        let tokens = qkv.tensor().rows();
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        let o = self.alloc_like(qkv.tensor(), tokens, shape.q_cols())?;
        let lse = self.alloc_stat(qkv.tensor(), tokens, shape.heads)?;
        let (q_end, k_end) = (shape.q_cols(), shape.q_cols() + shape.kv_cols());
        self.backend().attention(&Attention {
            q: &qkv.tensor().slice_cols(0..q_end)?,
            k: &qkv.tensor().slice_cols(q_end..k_end)?,
            v: &qkv.tensor().slice_cols(k_end..shape.qkv_cols())?,
            cu_seqlens_q: cu_seqlens,
            cu_seqlens_k: cu_seqlens,
            shape,
            scale,
            causal,
            o: &o,
            lse: &lse,
        })?;
        let Some(id) = qkv.id() else { return Ok(self.constant(o)) };
        let (qkv, output, cu_seqlens) = (qkv.tensor().clone(), o.clone(), cu_seqlens.clone());
        Ok(self.push(o, vec![], move |gradients, d_o| {
            let dqkv = gradients.alloc(qkv.dtype(), qkv.rows(), qkv.cols())?;
            gradients.backend.attention_backward(&AttentionBackward {
                qkv: &qkv,
                cu_seqlens: &cu_seqlens,
                shape,
                scale,
                causal,
                o: &output,
                lse: &lse,
                d_o: &d_o,
                dqkv: &dqkv,
            })?;
            gradients.add(id, dqkv)
        }))
    }
}
