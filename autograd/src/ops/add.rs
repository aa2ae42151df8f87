use vila_engine::Result;
use vila_engine::ops::{Add, Copy};

use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// `x + y` (`[T, D]`); keeps nothing.
    pub fn add(&mut self, x: &Var<'a>, y: &Var<'a>) -> Result<Var<'a>> {
        let sum = self.alloc_like(x.tensor(), x.tensor().rows(), x.tensor().cols())?;
        self.backend().copy(&Copy { x: x.tensor(), y: &sum })?;
        self.backend().add(&Add { x: y.tensor(), y: &sum })?;
        if !self.records(&[x, y], &[]) {
            return Ok(self.constant(sum));
        }
        let targets = [x.id(), y.id()];
        Ok(self.push(sum, vec![], move |gradients, dy| {
            targets.iter().flatten().try_for_each(|&id| gradients.add(id, dy.clone()))
        }))
    }
}
