use std::ops::Range;

use vila_engine::ops::{Add, Dropout, Gemm, Linear, Scale};
use vila_engine::{Backend, Result, Tensor};

use crate::{ParamId, Tape, Var};

/// A product of two thin matrices beside a linear layer (LoRA, Hu et al. 2021).
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[R, K]`.
    pub down: ParamId,
    /// `[N, R]`.
    pub up: ParamId,
    /// The `N` columns of the layer's output that it adds to.
    pub cols: Range<usize>,
    /// Factor of the product.
    pub scale: f64,
    /// Probability to drop an input of `down`, on a tape with [noise](Tape::noise).
    pub dropout: f64,
    /// Where in the noise its bits come from.
    pub stream: u64,
}

impl<'a> Tape<'a> {
    /// `y[:, cols] += scale (dropout(x) downᵀ) upᵀ`, in place. Row-invariant, as [`Tape::linear`] is.
    ///
    /// Keeps `x` and `x downᵀ`; the mask follows from the noise. `y` must not be used afterwards.
    pub fn low_rank(&mut self, y: Var<'a>, x: &Var<'a>, adapter: &LowRank) -> Result<Var<'a>> {
        let LowRank { down, up, cols, scale, dropout, stream } = adapter.clone();
        let noise = self.noise_seed().filter(|_| dropout > 0.0);
        let drop = move |backend: &dyn Backend, x: &Tensor| -> Result<Tensor> {
            let Some(seed) = noise else { return Ok(x.clone()) };
            let y = backend.alloc(x.dtype(), x.rows(), x.cols())?;
            backend.dropout(&Dropout { x, p: dropout, seed, stream, y: &y })?;
            Ok(y)
        };
        let (store, backend) = (self.store(), self.backend());
        let (down_weight, up_weight) = (store.weight(down)?, store.weight(up)?);
        let hidden = self.alloc_like(x.tensor(), x.tensor().rows(), down_weight.rows())?;
        backend.linear(&Linear { x: &drop(backend, x.tensor())?, weight: down_weight, bias: None, y: &hidden })?;
        backend.scale(&Scale { y: &hidden, factor: scale })?;
        let delta = self.alloc_like(x.tensor(), x.tensor().rows(), up_weight.rows())?;
        backend.linear(&Linear { x: &hidden, weight: up_weight, bias: None, y: &delta })?;
        backend.add(&Add { x: &delta, y: &y.tensor().slice_cols(cols.clone())? })?;
        if !self.records(&[x], &[down, up]) {
            return Ok(y);
        }
        let saved = store.trains(down).then(|| self.save(x));
        let hidden = store.trains(up).then_some(hidden);
        let (x, y_id) = (x.id(), y.id());
        Ok(self.push(y.tensor().clone(), vec![down, up], move |gradients, dy| {
            let backend = gradients.backend;
            let product = |a: &Tensor, trans_a, b: &Tensor, c: &Tensor, alpha, beta| {
                backend.gemm(&Gemm { a, trans_a, b, trans_b: false, c, alpha, beta })
            };
            let mine = dy.slice_cols(cols)?;
            if let (Some(hidden), Some(dup)) = (hidden, gradients.param(up)) {
                product(&mine, true, &hidden, &dup, 1.0, 1.0)?;
            }
            let dhidden = gradients.alloc(dy.dtype(), dy.rows(), down_weight.rows())?;
            product(&mine, false, up_weight, &dhidden, scale, 0.0)?;
            if let (Some(saved), Some(ddown)) = (saved, gradients.param(down)) {
                product(&dhidden, true, &drop(backend, &saved.get(backend)?)?, &ddown, 1.0, 1.0)?;
            }
            match (x, noise) {
                (None, _) => {}
                (Some(x), None) => gradients.add_product(x, &dhidden, down_weight)?,
                (Some(x), Some(_)) => {
                    let dx = gradients.alloc(dy.dtype(), dy.rows(), down_weight.cols())?;
                    product(&dhidden, false, down_weight, &dx, 1.0, 0.0)?;
                    gradients.add(x, drop(backend, &dx)?)?;
                }
            }
            y_id.map_or(Ok(()), |y| gradients.add(y, dy))
        }))
    }
}
