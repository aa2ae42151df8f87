use vila_engine::ops::Dropout;
use vila_engine::{Result, Tensor};

use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// Dropout with probability `p`; keeps nothing, because the mask follows from `(seed, stream)`.
    pub fn dropout(&mut self, x: &Var<'a>, p: f64, seed: u64, stream: u64) -> Result<Var<'a>> {
        let y = self.alloc_like(x.tensor(), x.tensor().rows(), x.tensor().cols())?;
        self.backend().dropout(&Dropout { x: x.tensor(), p, seed, stream, y: &y })?;
        let Some(id) = x.id() else { return Ok(self.constant(y)) };
        Ok(self.push(y, vec![], move |gradients, dy: Tensor| {
            let dx = gradients.alloc(dy.dtype(), dy.rows(), dy.cols())?;
            gradients.backend.dropout(&Dropout { x: &dy, p, seed, stream, y: &dx })?;
            gradients.add(id, dx)
        }))
    }
}
