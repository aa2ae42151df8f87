//! Row-major products in cuBLASLt's column-major terms: a row-major matrix is its transpose in column-major order with the
//! same leading dimension, so `c = op(a) op(b)` is asked for as `cᵀ = op(b)ᵀ op(a)ᵀ`.

use vila_engine::ops::{Fill, Gemm, Linear, Scale};
use vila_engine::{Backend, DType, Error, Result, Tensor};

use crate::CudaBackend;
use crate::backend::typed;
use crate::driver::{Matmul, Matrix, MatrixType};

const OP: &str = "gemm";

pub fn gemm(cuda: &CudaBackend, args: &Gemm) -> Result<()> {
    product(cuda, args, None)
}

pub fn linear(cuda: &CudaBackend, args: &Linear) -> Result<()> {
    typed("linear", args.x.dtype(), [("bias", args.bias), ("y", Some(args.y))])?;
    let gemm = Gemm { a: args.x, trans_a: false, b: args.weight, trans_b: true, c: args.y, alpha: 1.0, beta: 0.0 };
    product(cuda, &gemm, args.bias)
}

fn product(cuda: &CudaBackend, args: &Gemm, bias: Option<&Tensor>) -> Result<()> {
    let (m, n, k) = args.dims();
    typed(OP, args.a.dtype(), [("b", Some(args.b))])?;
    if args.c.dtype() != args.a.dtype() {
        typed(OP, DType::F32, [("c", Some(args.c))])?;
    }
    let (a, b, c) = (cuda.span(args.a)?, cuda.span(args.b)?, cuda.span(args.c)?);
    if c.overlaps(a) || c.overlaps(b) {
        return Err(Error::Aliased);
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        // cuBLASLt takes no empty product.
        return match args.beta {
            0.0 => cuda.fill(&Fill { y: args.c, value: 0.0 }),
            beta => cuda.scale(&Scale { y: args.c, factor: beta }),
        };
    }
    cuda.matmul(&Matmul {
        m: n,
        n: m,
        k,
        a: matrix(cuda, args.b, args.trans_b)?,
        b: matrix(cuda, args.a, args.trans_a)?,
        c: matrix(cuda, args.c, false)?,
        alpha: args.alpha as f32,
        beta: args.beta as f32,
        bias: bias.map(|bias| cuda.span(bias)).transpose()?,
        workspace: None,
        algorithm: None,
    })
}

fn matrix(cuda: &CudaBackend, tensor: &Tensor, transposed: bool) -> Result<Matrix> {
    let dtype = match tensor.dtype() {
        DType::F32 => MatrixType::F32,
        DType::BF16 => MatrixType::Bf16,
        got => return Err(Error::DType { op: OP, what: "operand", expected: "F32 or BF16 on this device", got }),
    };
    Ok(Matrix { span: cuda.span(tensor)?, dtype, ld: tensor.ld(), transposed })
}
