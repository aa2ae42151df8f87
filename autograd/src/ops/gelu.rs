use vila_engine::ops::{Gelu, GeluBackward, GeluKind};
use vila_engine::{Backend, Result, Tensor};

use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// GELU of `x` (`[T, D]`). Keeps `x`; its output is cheap to compute again.
    pub fn gelu(&mut self, x: &Var<'a>, kind: GeluKind) -> Result<Var<'a>> {
        let y = activate(self.backend(), x.tensor(), kind)?;
        let Some(id) = x.id() else { return Ok(self.constant(y)) };
        let saved = x.tensor().clone();
        let recompute = {
            let saved = saved.clone();
            move |backend: &dyn Backend| activate(backend, &saved, kind)
        };
        let y = self.push(y, vec![], move |gradients, dy| {
            let dx = gradients.alloc(dy.dtype(), dy.rows(), dy.cols())?;
            gradients.backend.gelu_backward(&GeluBackward { kind, dy: &dy, x: &saved, dx: &dx })?;
            gradients.add(id, dx)
        });
        Ok(self.cheap(y, recompute))
    }
}

fn activate(backend: &dyn Backend, x: &Tensor, kind: GeluKind) -> Result<Tensor> {
    let y = backend.alloc(x.dtype(), x.rows(), x.cols())?;
    backend.gelu(&Gelu { kind, x, y: &y })?;
    Ok(y)
}
