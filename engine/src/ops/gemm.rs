use crate::error::ensure;
use crate::ops::shape;
use crate::{Result, Tensor};

/// General matrix product: `c = alpha op(a) op(b) + beta c`, where `op` transposes if asked.
///
/// With `beta == 0`, `c` is overwritten whatever it held.
pub struct Gemm<'a> {
    /// `[m, k]`, or `[k, m]` if `trans_a`.
    pub a: &'a Tensor,
    /// Whether `a` is used transposed.
    pub trans_a: bool,
    /// `[k, n]`, or `[n, k]` if `trans_b`.
    pub b: &'a Tensor,
    /// Whether `b` is used transposed.
    pub trans_b: bool,
    /// *out* `[m, n]`; may be f32 when `a` and `b` are bf16.
    pub c: &'a Tensor,
    /// Factor of the product.
    pub alpha: f64,
    /// Factor of the old `c`.
    pub beta: f64,
}

impl Gemm<'_> {
    /// `(m, n, k)` of the product.
    pub fn dims(&self) -> (usize, usize, usize) {
        let (m, k) = if self.trans_a { (self.a.cols(), self.a.rows()) } else { self.a.shape() };
        let n = if self.trans_b { self.b.rows() } else { self.b.cols() };
        (m, n, k)
    }

    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (m, n, k) = self.dims();
        let b_inner = if self.trans_b { self.b.cols() } else { self.b.rows() };
        ensure(b_inner == k, "gemm", || format!("inner sizes differ: {k} of a, {b_inner} of b"))?;
        shape("gemm", "c", self.c, m, n)
    }
}
