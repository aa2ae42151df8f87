use vila_engine::ops::Rope;
use vila_engine::{Result, Tensor};

use crate::tape::argument;
use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// Rotates the first `heads * head_dim` columns of `x` in place, at `positions` (`[T]`) of the tables `cos`, `sin`.
    ///
    /// Keeps nothing but the tables: the gradient rotates back. `x` must not be used afterwards.
    pub fn rope(
        &mut self,
        x: Var<'a>,
        heads: usize,
        head_dim: usize,
        (cos, sin): (&Tensor, &Tensor),
        positions: &Tensor,
    ) -> Result<Var<'a>> {
        if heads * head_dim > x.tensor().cols() {
            return Err(argument("rope", "more columns to rotate than there are"));
        }
        let rotate =
            |x: &Tensor, inverse| self.backend().rope(&Rope { x, heads, head_dim, cos, sin, positions, inverse });
        rotate(x.tensor(), false)?;
        let Some(id) = x.id() else { return Ok(x) };
        let (cos, sin, positions) = (cos.clone(), sin.clone(), positions.clone());
        Ok(self.push(x.tensor().clone(), vec![], move |gradients, dy| {
            let dy = gradients.owned(dy)?;
            let back = Rope { x: &dy, heads, head_dim, cos: &cos, sin: &sin, positions: &positions, inverse: true };
            gradients.backend.rope(&back)?;
            gradients.add(id, dy)
        }))
    }
}
