use vila_engine::ops::{BiasGrad, Gemm, Linear};
use vila_engine::{Result, Tensor};

use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// `x weightᵀ + bias`: `[T, K] -> [T, N]`. Keeps `x`, if the weight trains.
    pub fn linear(&mut self, x: &Var<'a>, weight: ParamId, bias: Option<ParamId>) -> Result<Var<'a>> {
        let store = self.store();
        let parts = store.weight_parts(weight);
        let y = self.alloc_like(x.tensor(), x.tensor().rows(), parts.iter().map(Tensor::rows).sum())?;
        let bias_weight = bias.map(|bias| store.weight(bias)).transpose()?;
        let mut start = 0;
        for weight in parts {
            let columns = start..start + weight.rows();
            start = columns.end;
            let bias = bias_weight.map(|bias| bias.slice_cols(columns.clone())).transpose()?;
            let y = y.slice_cols(columns)?;
            self.backend().linear(&Linear { x: x.tensor(), weight, bias: bias.as_ref(), y: &y })?;
        }
        let params: Vec<ParamId> = [Some(weight), bias].into_iter().flatten().collect();
        if !self.records(&[x], &params) {
            return Ok(self.constant(y));
        }
        let saved = store.trains(weight).then(|| self.save(x));
        let x = x.id();
        Ok(self.push(y, params, move |gradients, dy| {
            if let (Some(saved), Some(dweight)) = (saved, gradients.param(weight)) {
                let x = saved.get(gradients.backend)?;
                let gemm = Gemm { a: &dy, trans_a: true, b: &x, trans_b: false, c: &dweight, alpha: 1.0, beta: 1.0 };
                gradients.backend.gemm(&gemm)?;
            }
            if let Some(dbias) = bias.and_then(|bias| gradients.param(bias)) {
                gradients.backend.bias_grad(&BiasGrad { dy: &dy, dbias: &dbias })?;
            }
            x.map_or(Ok(()), |x| gradients.add_product(x, &dy, store.weight(weight)?))
        }))
    }
}
