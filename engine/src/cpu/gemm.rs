use gemm::Parallelism;

use crate::cpu::CpuBackend;
use crate::cpu::matrix::Matrix;
use crate::ops::Gemm;
use crate::{Result, Tensor};

/// A strided f32 operand: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    pub fn rows(data: &'a [f32], ld: usize) -> Self {
        Strided { data, row_stride: ld, col_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Strided { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// `c = alpha a b + beta c` for row-major `c` with leading dimension `ldc`; `(m, n, k)` are `dims`.
///
/// # Panics
/// If an operand is too short, which the op checks exclude.
pub fn product(
    threads: bool,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: Strided,
    b: Strided,
    beta: f32,
    c: &mut [f32],
    ldc: usize,
) {
    assert!(a.holds(m, k) && b.holds(k, n) && Strided::rows(c, ldc).holds(m, n));
    let parallelism = if threads && m * n * k > 1 << 17 { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: every index that the product reads or writes is inside its slice, by the assertion above; `c` is
    // borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            ldc as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn strided<'a>(data: &'a [f32], tensor: &Tensor, transposed: bool) -> Strided<'a> {
    let plain = Strided::rows(data, tensor.ld());
    if transposed { plain.transposed() } else { plain }
}

pub fn fast(_: &CpuBackend, args: &Gemm) -> Result<()> {
    let (a, b) = (args.a.read::<f32>()?, args.b.read::<f32>()?);
    let mut c = args.c.write::<f32>()?;
    let (a, b) = (strided(a.slice(), args.a, args.trans_a), strided(b.slice(), args.b, args.trans_b));
    product(true, args.dims(), args.alpha as f32, a, b, args.beta as f32, c.slice_mut(), args.c.ld());
    Ok(())
}

pub fn reference(args: &Gemm) -> Result<()> {
    let (a, b) = (Matrix::load(args.a)?, Matrix::load(args.b)?);
    let (m, n, k) = args.dims();
    let mut c = if args.beta == 0.0 { Matrix::zeros(m, n) } else { Matrix::load(args.c)? };
    for i in 0..m {
        for j in 0..n {
            let term = |p| {
                let x = if args.trans_a { a[(p, i)] } else { a[(i, p)] };
                let y = if args.trans_b { b[(j, p)] } else { b[(p, j)] };
                x * y
            };
            c[(i, j)] = args.alpha * (0..k).map(term).sum::<f64>() + args.beta * c[(i, j)];
        }
    }
    c.store(args.c)
}
