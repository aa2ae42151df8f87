use crate::{DType, Error, Result, Tensor};

/// A dense f64 copy of a tensor, for the reference.
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub fn load(tensor: &Tensor) -> Result<Self> {
        Ok(Matrix { rows: tensor.rows(), cols: tensor.cols(), data: tensor.to_f64()? })
    }

    pub fn store(&self, tensor: &Tensor) -> Result<()> {
        tensor.set_f64(&self.data)
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// Elements in row order; the whole vector of a row or column tensor.
    pub fn flat(&self) -> &[f64] {
        &self.data
    }

    pub fn flat_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }
}

impl std::ops::Index<(usize, usize)> for Matrix {
    type Output = f64;
    fn index(&self, (row, col): (usize, usize)) -> &f64 {
        &self.data[row * self.cols + col]
    }
}

impl std::ops::IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (row, col): (usize, usize)) -> &mut f64 {
        &mut self.data[row * self.cols + col]
    }
}

/// The values of an index tensor, each below `rows` or, if allowed, [`crate::NO_ROW`].
pub fn load_indices(op: &'static str, index: &Tensor, rows: usize, allow_none: bool) -> Result<Vec<u32>> {
    if index.dtype() != DType::U32 {
        return Err(Error::DType { op, what: "index", expected: "U32", got: index.dtype() });
    }
    let values = index.to_vec::<u32>()?;
    let valid = |&value: &u32| (value as usize) < rows || (allow_none && value == crate::NO_ROW);
    match values.iter().position(|value| !valid(value)) {
        Some(at) => Err(Error::Index { op, at, index: values[at], rows }),
        None => Ok(values),
    }
}
