//! What an op must do at least: each operand read once, each output written once, each product multiplied once.

use crate::ops::*;
use crate::{Backend, Tensor};

/// Bytes that must move through memory, and floating-point operations (a multiply-add counts two).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: f64,
    /// Floating-point operations of matrix products; elementwise arithmetic is not counted.
    pub flops: f64,
}

/// An op's arguments: its name, its cost and how it runs.
pub trait Op {
    /// The backend's method.
    fn name(&self) -> &'static str;

    /// Least work. `documents` gives the values of a boundary tensor, which only the device holds.
    fn cost(&self, documents: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost>;

    /// What it writes.
    fn outputs(&self) -> Vec<&Tensor>;

    /// Runs it.
    fn run(&self, backend: &dyn Backend) -> crate::Result<()>;
}

fn size(tensor: &Tensor) -> f64 {
    (tensor.len() * tensor.dtype().size()) as f64
}

fn sizes<'a>(tensors: impl IntoIterator<Item = Option<&'a Tensor>>) -> f64 {
    tensors.into_iter().flatten().map(size).sum()
}

/// Ops without matrix products: operands that are read, that are written, and that are read and written.
macro_rules! moves {
    ($($op:ident, $method:ident, |$a:ident| [$($read:expr),*], [$($written:expr),*], [$($updated:expr),*];)*) => {
        $(impl Op for $op<'_> {
            fn name(&self) -> &'static str {
                stringify!($method)
            }
            fn cost(&self, _: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
                let $a = self;
                let read = sizes([$($read,)* None]);
                let written = sizes([$($written,)* None]);
                let updated = sizes([$($updated,)* None]);
                Ok(Cost { bytes: read + written + 2.0 * updated, flops: 0.0 })
            }
            fn outputs(&self) -> Vec<&Tensor> {
                let $a = self;
                [$($written,)* $($updated,)* None].into_iter().flatten().collect()
            }
            fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
                backend.$method(self)
            }
        })*
    };
}

moves! {
    BiasGrad, bias_grad, |a| [Some(a.dy)], [], [Some(a.dbias)];
    RmsNorm, rms_norm, |a| [Some(a.x), a.residual, Some(a.weight)], [a.sum, Some(a.y), Some(a.rstd)], [];
    RmsNormBackward, rms_norm_backward,
        |a| [Some(a.dy), Some(a.sum), Some(a.weight), Some(a.rstd), a.dsum], [a.dx], [a.dweight];
    LayerNorm, layer_norm,
        |a| [Some(a.x), Some(a.weight), Some(a.bias)], [Some(a.y), Some(a.mean), Some(a.rstd)], [];
    LayerNormBackward, layer_norm_backward,
        |a| [Some(a.dy), Some(a.x), Some(a.weight), Some(a.mean), Some(a.rstd)], [a.dx], [a.dweight, a.dbias];
    Swiglu, swiglu, |a| [Some(a.gate_up)], [Some(a.y)], [];
    SwigluBackward, swiglu_backward, |a| [Some(a.dy), Some(a.gate_up)], [Some(a.dgate_up)], [];
    Gelu, gelu, |a| [Some(a.x)], [Some(a.y)], [];
    GeluBackward, gelu_backward, |a| [Some(a.dy), Some(a.x)], [Some(a.dx)], [];
    GatherRows, gather_rows, |a| [Some(a.index), Some(a.y)], [Some(a.y)], [];
    ScatterRows, scatter_rows, |a| [Some(a.index), Some(a.x)], [Some(a.x)], [];
    ScatterAddRows, scatter_add_rows, |a| [Some(a.index), Some(a.x)], [], [Some(a.x)];
    VisionEmbed, vision_embed, |a| [Some(a.patches), a.class, Some(a.positions)], [Some(a.y)], [];
    VisionEmbedBackward, vision_embed_backward, |a| [Some(a.dy)], [a.dpatches], [a.dclass, a.dpositions];
    ExtractPatches, extract_patches, |a| [Some(a.y)], [Some(a.y)], [];
    Dropout, dropout, |a| [Some(a.x)], [Some(a.y)], [];
    Add, add, |a| [Some(a.x)], [], [Some(a.y)];
    Copy, copy, |a| [Some(a.x)], [Some(a.y)], [];
    Scale, scale, |a| [], [], [Some(a.y)];
    Fill, fill, |a| [], [Some(a.y)], [];
    SumSquares, sum_squares, |a| [Some(a.x)], [], [Some(a.sum)];
    GradientGate, gradient_gate, |a| [Some(a.sum), a.losses], [Some(a.gate)], [Some(a.updates)];
    AdamW, adamw, |a| [Some(a.grad)], [a.publish], [Some(a.weights), Some(a.m), Some(a.v)];
    Sample, sample, |a| [Some(a.logits)], [Some(a.out)], [];
}

impl Op for Rope<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cost(&self, _: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let rotated = (self.x.rows() * self.heads * self.head_dim * self.x.dtype().size()) as f64;
        Ok(Cost { bytes: 2.0 * rotated + size(self.positions), flops: 0.0 })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        vec![self.x]
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.rope(self)
    }
}

impl Op for Gemm<'_> {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn cost(&self, _: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let (m, n, k) = self.dims();
        let passes = if self.beta == 0.0 { 1.0 } else { 2.0 };
        let bytes = size(self.a) + size(self.b) + passes * size(self.c);
        Ok(Cost { bytes, flops: 2.0 * m as f64 * n as f64 * k as f64 })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        vec![self.c]
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.gemm(self)
    }
}

impl Op for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cost(&self, _: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let flops = 2.0 * self.y.len() as f64 * self.x.cols() as f64;
        Ok(Cost { bytes: sizes([Some(self.x), Some(self.weight), self.bias, Some(self.y)]), flops })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        vec![self.y]
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.linear(self)
    }
}

impl Op for LinearCrossEntropy<'_> {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn cost(&self, _: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let product = 2.0 * self.hidden.len() as f64 * self.weight.rows() as f64;
        let products = 1.0 + [self.dhidden, self.dweight].into_iter().flatten().count() as f64;
        let read = size(self.hidden) + size(self.weight);
        let bytes = read + sizes([self.dhidden, self.row_loss]) + 2.0 * sizes([self.dweight]);
        Ok(Cost { bytes, flops: products * product })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        [Some(self.loss), self.row_loss, self.dhidden, self.dweight].into_iter().flatten().collect()
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.linear_cross_entropy(self)
    }
}

/// Pairs of a query and a key that it sees, over all documents.
fn visible_pairs(q: &[u32], k: &[u32], causal: bool) -> f64 {
    let documents = q.windows(2).zip(k.windows(2));
    let pairs = documents.map(|(q, k)| {
        let (q, k) = (f64::from(q[1].saturating_sub(q[0])), f64::from(k[1].saturating_sub(k[0])));
        if !causal {
            return q * k;
        }
        let seeing = q.min(k);
        seeing * k - seeing * (seeing - 1.0) / 2.0
    });
    pairs.sum()
}

impl Op for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cost(&self, documents: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let pairs = visible_pairs(&documents(self.cu_seqlens_q)?, &documents(self.cu_seqlens_k)?, self.causal);
        let bytes = sizes([Some(self.q), Some(self.k), Some(self.v), Some(self.o), Some(self.lse)]);
        Ok(Cost { bytes, flops: 4.0 * pairs * self.shape.q_cols() as f64 })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        vec![self.o, self.lse]
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.attention(self)
    }
}

impl Op for AttentionBackward<'_> {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn cost(&self, documents: &dyn Fn(&Tensor) -> crate::Result<Vec<u32>>) -> crate::Result<Cost> {
        let bounds = documents(self.cu_seqlens)?;
        let pairs = visible_pairs(&bounds, &bounds, self.causal);
        let bytes = sizes([Some(self.qkv), Some(self.o), Some(self.lse), Some(self.d_o), Some(self.dqkv)]);
        Ok(Cost { bytes, flops: 10.0 * pairs * self.shape.q_cols() as f64 })
    }

    fn outputs(&self) -> Vec<&Tensor> {
        vec![self.dqkv]
    }

    fn run(&self, backend: &dyn Backend) -> crate::Result<()> {
        backend.attention_backward(self)
    }
}

#[cfg(test)]
mod tests {
    use super::visible_pairs;

    #[test]
    fn causal_pairs_follow_the_bottom_right_corner() {
        assert_eq!(visible_pairs(&[0, 4], &[0, 4], true), 10.0);
        assert_eq!(visible_pairs(&[0, 4], &[0, 4], false), 16.0);
        assert_eq!(visible_pairs(&[0, 1, 3], &[0, 50, 300], true), 50.0 + 249.0 + 250.0);
        assert_eq!(visible_pairs(&[0, 4], &[0, 2], true), 3.0);
    }
}
