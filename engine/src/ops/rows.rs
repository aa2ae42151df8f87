use crate::ops::{indices, same_dtype, shape};
use crate::{Result, Tensor};

/// `y[i] = table[index[i]]`, zeros where the index is [`crate::NO_ROW`].
pub struct GatherRows<'a> {
    /// `[R, D]`.
    pub table: &'a Tensor,
    /// `[T]` u32, below `R` or [`crate::NO_ROW`].
    pub index: &'a Tensor,
    /// *out* `[T, D]`; in another type than the table only where [`crate::Backend::map`] gives tensors.
    pub y: &'a Tensor,
}

impl GatherRows<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        indices("gather_rows", "index", self.index, self.y.rows())?;
        shape("gather_rows", "y", self.y, self.index.len(), self.table.cols())
    }
}

/// `y[index[i]] = x[i]`; the indices are distinct, other rows of `y` stay.
pub struct ScatterRows<'a> {
    /// `[N, D]`.
    pub x: &'a Tensor,
    /// `[N]` u32, below `T`.
    pub index: &'a Tensor,
    /// *out* `[T, D]`.
    pub y: &'a Tensor,
}

impl ScatterRows<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        indices("scatter_rows", "index", self.index, self.x.rows())?;
        same_dtype("scatter_rows", "y", self.y, self.x.dtype())?;
        shape("scatter_rows", "y", self.y, self.y.rows(), self.x.cols())
    }
}

/// `y[index[i]] += x[i]`, in the order of `i`; [`crate::NO_ROW`] is skipped.
pub struct ScatterAddRows<'a> {
    /// `[N, D]`.
    pub x: &'a Tensor,
    /// `[N]` u32, below `R` or [`crate::NO_ROW`].
    pub index: &'a Tensor,
    /// *accumulated* `[R, D]`.
    pub y: &'a Tensor,
}

impl ScatterAddRows<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        indices("scatter_add_rows", "index", self.index, self.x.rows())?;
        shape("scatter_add_rows", "y", self.y, self.y.rows(), self.x.cols())
    }
}
