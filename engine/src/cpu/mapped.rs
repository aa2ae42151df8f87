//! Matrices that stay in the file where they lie: widened a panel at a time where they are used, never whole.
//!
//! Results do not depend on the file's type: the same numbers give the same bits.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::cpu::matrix::load_indices;
use crate::cpu::{CpuBackend, math};
use crate::ops::{GatherRows, Linear};
use crate::{Element, NO_ROW, Read, Result};

/// Rows of a weight that are widened together: small enough to stay in a core's cache while all of `x` passes.
const PANEL: usize = 16;

/// Rows of `x` that share the reading of a weight's row.
const GROUP: usize = 4;

/// A type of stored weights.
pub trait Stored: Element {
    /// The same values in f32, exactly.
    fn widen(row: &[Self], wide: &mut [f32]);
}

impl Stored for bf16 {
    fn widen(row: &[Self], wide: &mut [f32]) {
        for (wide, x) in wide.iter_mut().zip(row) {
            *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

impl Stored for f16 {
    fn widen(row: &[Self], wide: &mut [f32]) {
        row.convert_to_f32_slice(wide);
    }
}

impl Stored for f32 {
    fn widen(row: &[Self], wide: &mut [f32]) {
        wide.copy_from_slice(row);
    }
}

/// Each element is one dot product in a fixed order, so rows do not depend on each other.
pub fn linear<T: Stored>(cpu: &CpuBackend, args: &Linear) -> Result<()> {
    if args.x.cols() == 0 {
        return super::linear::reference(args);
    }
    let (x, weight) = (args.x.read::<f32>()?, args.weight.read::<T>()?);
    let (rows, outputs, depth) = (args.x.rows(), args.weight.rows(), args.x.cols());
    let bias = args.bias.map(|bias| bias.read::<f32>()).transpose()?;
    let panels: Vec<Vec<f32>> = (0..outputs.div_ceil(PANEL))
        .into_par_iter()
        .map_init(
            || vec![0.0; PANEL * depth],
            |wide, panel| {
                let outputs = panel * PANEL..outputs.min((panel + 1) * PANEL);
                let wide = &mut wide[..outputs.len() * depth];
                for (wide, output) in wide.chunks_mut(depth).zip(outputs.clone()) {
                    T::widen(weight.row(output), wide);
                }
                let bias = bias.as_ref().map_or(&[][..], |bias| &bias.slice()[outputs.clone()]);
                let mut y = vec![0.0; rows * outputs.len()];
                cpu.arch.dispatch(Products { x: &x, rows, wide, depth, bias, y: &mut y });
                y
            },
        )
        .collect();
    let mut y = args.y.write::<f32>()?;
    for (panel, values) in panels.iter().enumerate() {
        let (start, width) = (panel * PANEL, PANEL.min(outputs - panel * PANEL));
        for (row, values) in values.chunks(width).enumerate() {
            y.row_mut(row)[start..start + width].copy_from_slice(values);
        }
    }
    Ok(())
}

/// `y = x wideᵀ + bias` for one panel; no bias counts as zero.
struct Products<'a> {
    x: &'a Read<'a, f32>,
    rows: usize,
    wide: &'a [f32],
    depth: usize,
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl pulp::WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Products { x, rows, wide, depth, bias, y } = self;
        let outputs = wide.len() / depth;
        let grouped = rows / GROUP * GROUP;
        for first in (0..grouped).step_by(GROUP) {
            let group: [&[f32]; GROUP] = std::array::from_fn(|r| x.row(first + r));
            products(group, wide, depth, bias, &mut y[first * outputs..]);
        }
        for row in grouped..rows {
            products([x.row(row)], wide, depth, bias, &mut y[row * outputs..]);
        }
    }
}

/// Products of a group of rows with a panel, `[R, panel]`.
#[inline(always)]
fn products<const R: usize>(rows: [&[f32]; R], wide: &[f32], depth: usize, bias: &[f32], y: &mut [f32]) {
    let outputs = wide.len() / depth;
    for (j, wide) in wide.chunks_exact(depth).enumerate() {
        let bias = bias.get(j).copied().unwrap_or(0.0);
        for (r, dot) in math::fused_dots(rows, wide).into_iter().enumerate() {
            y[r * outputs + j] = dot + bias;
        }
    }
}

pub fn gather_rows<T: Stored>(args: &GatherRows) -> Result<()> {
    let index = load_indices("gather_rows", args.index, args.table.rows(), true)?;
    let table = args.table.read::<T>()?;
    let mut y = args.y.write::<f32>()?;
    for (y, &row) in y.rows_mut().zip(&index) {
        if row == NO_ROW { y.fill(0.0) } else { T::widen(table.row(row as usize), y) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::philox::Stream;
    use crate::{Backend, DType, MappedBytes, Tensor};

    fn mapped(dtype: DType, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = match dtype {
            DType::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let range = 0..bytes.len();
        // A vector of bytes lies where it likes; one of f32 is aligned.
        let mut aligned = vec![0f32; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut::<f32, u8>(&mut aligned)[..bytes.len()].copy_from_slice(&bytes);
        struct Owner(Vec<f32>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        let bytes = MappedBytes::new(Arc::new(Owner(aligned)), range).unwrap();
        CpuBackend::fast().map(bytes, dtype, rows, cols).unwrap()
    }

    #[test]
    fn products_and_rows_of_every_type_agree_with_the_reference_row_by_row() {
        let (cpu, reference) = (CpuBackend::fast(), CpuBackend::reference());
        let mut random = Stream::new(1, 0);
        let mut normals = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        for (rows, outputs, depth) in [(1, 1, 1), (3, 17, 33), (4, 16, 64), (9, 70, 5), (6, 40, 1000)] {
            for (dtype, biased) in [(DType::F32, true), (DType::BF16, false), (DType::F16, true)] {
                let weight = mapped(dtype, outputs, depth, &normals(outputs * depth));
                let x = cpu.upload_f32(rows, depth, &normals(rows * depth)).unwrap();
                let bias = biased.then(|| cpu.upload_f32(1, outputs, &normals(outputs)).unwrap());
                let run = |backend: &CpuBackend, x: &Tensor| {
                    let y = backend.alloc(DType::F32, x.rows(), outputs).unwrap();
                    backend.linear(&Linear { x, weight: &weight, bias: bias.as_ref(), y: &y }).unwrap();
                    y.to_f32().unwrap()
                };
                let (got, want) = (run(&cpu, &x), run(&reference, &x));
                let scale = (depth as f32).sqrt();
                assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= 2e-6 * scale.max(want.abs())));
                for row in 0..rows {
                    assert_eq!(run(&cpu, &x.slice_rows(row..row + 1).unwrap()), got[row * outputs..][..outputs]);
                }
                let index = cpu.upload_u32(&[outputs as u32 - 1, NO_ROW, 0]).unwrap();
                let gather = |backend: &CpuBackend| {
                    let y = backend.alloc(DType::F32, 3, depth).unwrap();
                    backend.gather_rows(&GatherRows { table: &weight, index: &index, y: &y }).unwrap();
                    y.to_f32().unwrap()
                };
                assert_eq!(gather(&cpu), gather(&reference));
                assert!(matches!(weight.write::<f32>(), Err(crate::Error::ReadOnly)));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_such_matrix_are_not_mapped() {
        let owner: Arc<Vec<u8>> = Arc::new(vec![0; 64]);
        let map = |range: std::ops::Range<usize>, dtype, rows, cols| {
            MappedBytes::new(Arc::clone(&owner) as Arc<_>, range)
                .and_then(|bytes| Tensor::mapped(bytes, dtype, rows, cols))
        };
        assert!(map(0..64, DType::U8, 8, 8).is_some());
        assert!(map(0..63, DType::U8, 8, 8).is_none());
        assert!(map(32..96, DType::U8, 8, 8).is_none());
        assert!(map(0..64, DType::U8, usize::MAX, 8).is_none());
        assert!(map(0..16, DType::F32, 2, 2).is_some() != map(1..17, DType::F32, 2, 2).is_some());
    }
}
