use vila_engine::ops::{Swiglu, SwigluBackward};
use vila_engine::{Backend, Result, Tensor};

use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// `silu(gate) * up`: `[T, 2 F] -> [T, F]`. Keeps its input; its output is cheap to compute again.
    pub fn swiglu(&mut self, gate_up: &Var<'a>) -> Result<Var<'a>> {
        let y = activate(self.backend(), gate_up.tensor())?;
        let Some(id) = gate_up.id() else { return Ok(self.constant(y)) };
        let saved = gate_up.tensor().clone();
        let recompute = {
            let saved = saved.clone();
            move |backend: &dyn Backend| activate(backend, &saved)
        };
        let y = self.push(y, vec![], move |gradients, dy| {
            let dgate_up = gradients.alloc(dy.dtype(), saved.rows(), saved.cols())?;
            gradients.backend.swiglu_backward(&SwigluBackward { dy: &dy, gate_up: &saved, dgate_up: &dgate_up })?;
            gradients.add(id, dgate_up)
        });
        Ok(self.cheap(y, recompute))
    }
}

fn activate(backend: &dyn Backend, gate_up: &Tensor) -> Result<Tensor> {
    let y = backend.alloc(gate_up.dtype(), gate_up.rows(), gate_up.cols() / 2)?;
    backend.swiglu(&Swiglu { gate_up, y: &y })?;
    Ok(y)
}
