use crate::error::ensure;
use crate::ops::{shape, vector};
use crate::{Result, Tensor};

/// Class token and learned positions: image `n` becomes rows `n L .. (n + 1) L`, `L = positions.rows()`.
///
/// `y[n L] = class + positions[0]` if there is a class token; patch `p` follows as
/// `patches[n P + p] + positions[L - P + p]`.
pub struct VisionEmbed<'a> {
    /// `[images * P, D]`.
    pub patches: &'a Tensor,
    /// `[D]`.
    pub class: Option<&'a Tensor>,
    /// `[L, D]`, `L = P + 1` with a class token, else `P`.
    pub positions: &'a Tensor,
    /// *out* `[images * L, D]`.
    pub y: &'a Tensor,
}

impl VisionEmbed<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let images = images("vision_embed", self.patches.rows(), self.class.is_some(), self.positions)?;
        let d = self.patches.cols();
        shape("vision_embed", "positions", self.positions, self.positions.rows(), d)?;
        self.class.map_or(Ok(()), |class| vector("vision_embed", "class", class, d))?;
        shape("vision_embed", "y", self.y, images * self.positions.rows(), d)
    }
}

fn images(op: &'static str, patch_rows: usize, class: bool, positions: &Tensor) -> Result<usize> {
    let patches = positions.rows().saturating_sub(usize::from(class));
    ensure(patches > 0 && patch_rows.is_multiple_of(patches), op, || {
        format!("{patch_rows} patch rows are not a multiple of {patches} patches per image")
    })?;
    Ok(patch_rows / patches)
}

/// Gradient of [`VisionEmbed`]; sums over images in order.
pub struct VisionEmbedBackward<'a> {
    /// `[images * L, D]`.
    pub dy: &'a Tensor,
    /// *out* `[images * P, D]`.
    pub dpatches: Option<&'a Tensor>,
    /// *accumulated* `[D]`.
    pub dclass: Option<&'a Tensor>,
    /// *accumulated* `[L, D]`.
    pub dpositions: Option<&'a Tensor>,
    /// `L`.
    pub rows_per_image: usize,
    /// Whether the first row of an image is the class token.
    pub has_class: bool,
}

impl VisionEmbedBackward<'_> {
    /// Shape check.
    pub fn check(&self) -> Result<()> {
        let (op, (t, d)) = ("vision_embed_backward", self.dy.shape());
        let patches = self.rows_per_image.saturating_sub(usize::from(self.has_class));
        ensure(patches > 0 && t.is_multiple_of(self.rows_per_image), op, || {
            format!("{t} rows are not a multiple of {} rows per image", self.rows_per_image)
        })?;
        self.dpatches.map_or(Ok(()), |x| shape(op, "dpatches", x, t / self.rows_per_image * patches, d))?;
        self.dclass.map_or(Ok(()), |x| vector(op, "dclass", x, d))?;
        self.dpositions.map_or(Ok(()), |x| shape(op, "dpositions", x, self.rows_per_image, d))
    }
}
