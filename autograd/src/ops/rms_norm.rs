use vila_engine::ops::{RmsNorm, RmsNormBackward};
use vila_engine::{Backend, Result, Tensor};

use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// RMS norm of `x` (`[T, D]`). Keeps `x` and the reciprocal deviations; its output is cheap to compute again.
    pub fn rms_norm(&mut self, x: &Var<'a>, weight: ParamId, eps: f64) -> Result<Var<'a>> {
        let (_, y) = self.norm(x, None, weight, eps)?;
        Ok(y)
    }

    /// `s = x + residual` and its RMS norm, as `(s, y)`. Keeps `s` and the reciprocal deviations.
    pub fn rms_norm_residual(
        &mut self,
        x: &Var<'a>,
        residual: &Var<'a>,
        weight: ParamId,
        eps: f64,
    ) -> Result<(Var<'a>, Var<'a>)> {
        self.norm(x, Some(residual), weight, eps)
    }

    fn norm(
        &mut self,
        x: &Var<'a>,
        residual: Option<&Var<'a>>,
        weight: ParamId,
        eps: f64,
    ) -> Result<(Var<'a>, Var<'a>)> {
        let w = self.store().weight(weight)?;
        let (rows, cols) = x.tensor().shape();
        let sum = residual.map(|_| self.alloc_like(x.tensor(), rows, cols)).transpose()?;
        let y = self.alloc_like(x.tensor(), rows, cols)?;
        let rstd = self.alloc_stat(x.tensor(), rows, 1)?;
        let (x_tensor, residual_tensor) = (x.tensor(), residual.map(Var::tensor));
        let forward =
            RmsNorm { x: x_tensor, residual: residual_tensor, sum: sum.as_ref(), weight: w, eps, y: &y, rstd: &rstd };
        self.backend().rms_norm(&forward)?;
        let normed = sum.unwrap_or_else(|| x.tensor().clone());
        let inputs: Vec<&Var> = [Some(x), residual].into_iter().flatten().collect();
        if !self.records(&inputs, &[weight]) {
            return Ok((self.constant(normed), self.constant(y)));
        }
        let recompute = {
            let normed = normed.clone();
            move |backend: &dyn Backend| normalize(backend, &normed, w, eps)
        };
        let targets: Vec<_> = inputs.iter().filter_map(|var| var.id()).collect();
        let saved = normed.clone();
        let [sum, y] = self.push_many([normed, y], vec![weight], move |gradients, mut grads| {
            let (dy, dsum) = (grads.pop().flatten(), grads.pop().flatten());
            let Some(dy) = dy else {
                return targets.iter().try_for_each(|&id| dsum.clone().map_or(Ok(()), |dsum| gradients.add(id, dsum)));
            };
            let dx = if targets.is_empty() { None } else { Some(gradients.alloc(dy.dtype(), dy.rows(), dy.cols())?) };
            let dweight = gradients.param(weight);
            gradients.backend.rms_norm_backward(&RmsNormBackward {
                dy: &dy,
                sum: &saved,
                weight: w,
                rstd: &rstd,
                dsum: dsum.as_ref(),
                dx: dx.as_ref(),
                dweight: dweight.as_ref(),
            })?;
            targets.iter().try_for_each(|&id| dx.clone().map_or(Ok(()), |dx| gradients.add(id, dx)))
        });
        let y = self.cheap(y, recompute);
        Ok((sum, y))
    }
}

fn normalize(backend: &dyn Backend, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let y = backend.alloc(x.dtype(), x.rows(), x.cols())?;
    let rstd = backend.alloc(vila_engine::ops::stat_dtype(x.dtype()), x.rows(), 1)?;
    backend.rms_norm(&RmsNorm { x, residual: None, sum: None, weight, eps, y: &y, rstd: &rstd })?;
    Ok(y)
}
