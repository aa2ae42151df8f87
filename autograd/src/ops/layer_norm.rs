use vila_engine::ops::{LayerNorm, LayerNormBackward, stat_dtype};
use vila_engine::{Backend, Result, Tensor};

use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// Layer norm of `x` (`[T, D]`). Keeps `x`, means and reciprocal deviations; its output is cheap to compute again.
    pub fn layer_norm(&mut self, x: &Var<'a>, weight: ParamId, bias: ParamId, eps: f64) -> Result<Var<'a>> {
        let (w, b) = (self.store().weight(weight)?, self.store().weight(bias)?);
        let (y, mean, rstd) = normalize(self.backend(), x.tensor(), w, b, eps)?;
        if !self.records(&[x], &[weight, bias]) {
            return Ok(self.constant(y));
        }
        let (saved, target) = (x.tensor().clone(), x.id());
        let recompute = {
            let saved = saved.clone();
            move |backend: &dyn Backend| Ok(normalize(backend, &saved, w, b, eps)?.0)
        };
        let y = self.push(y, vec![weight, bias], move |gradients, dy| {
            let dx = target.map(|_| gradients.alloc(dy.dtype(), dy.rows(), dy.cols())).transpose()?;
            let (dweight, dbias) = (gradients.param(weight), gradients.param(bias));
            gradients.backend.layer_norm_backward(&LayerNormBackward {
                dy: &dy,
                x: &saved,
                weight: w,
                mean: &mean,
                rstd: &rstd,
                dx: dx.as_ref(),
                dweight: dweight.as_ref(),
                dbias: dbias.as_ref(),
            })?;
            target.zip(dx).map_or(Ok(()), |(id, dx)| gradients.add(id, dx))
        });
        Ok(self.cheap(y, recompute))
    }
}

fn normalize(
    backend: &dyn Backend,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let y = backend.alloc(x.dtype(), x.rows(), x.cols())?;
    let mean = backend.alloc(stat_dtype(x.dtype()), x.rows(), 1)?;
    let rstd = backend.alloc(stat_dtype(x.dtype()), x.rows(), 1)?;
    backend.layer_norm(&LayerNorm { x, weight, bias, eps, y: &y, mean: &mean, rstd: &rstd })?;
    Ok((y, mean, rstd))
}
