use crate::error::ensure;
use crate::ops::shape;
use crate::{Result, Tensor};

/// Cuts images into non-overlapping squares, so that a strided convolution becomes a matrix product.
///
/// Patches in row-major order; within a patch channel, then row, then column, as a convolution's weight `[D, 3, p, p]`.
/// Pixels right of or below the last whole patch are left out, as the convolution does.
pub struct ExtractPatches<'a> {
    /// `[images, 3 * size * size]`, channel-major.
    pub pixels: &'a Tensor,
    /// Side of an image in pixels.
    pub size: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// *out* `[images * (size / patch)², 3 * patch * patch]`.
    pub y: &'a Tensor,
}

impl ExtractPatches<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let op = "extract_patches";
        ensure(self.patch > 0 && self.size >= self.patch, op, || {
            format!("patches of {} do not fit images of {}", self.patch, self.size)
        })?;
        shape(op, "pixels", self.pixels, self.pixels.rows(), 3 * self.size * self.size)?;
        let grid = self.size / self.patch;
        shape(op, "y", self.y, self.pixels.rows() * grid * grid, 3 * self.patch * self.patch)
    }
}
