use vila_engine::ops::{Fill, GatherRows, ScatterAddRows, ScatterRows};
use vila_engine::{Result, Tensor};

use crate::tape::argument;
use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// Rows of a value: `y[i] = x[index[i]]`, zeros for [`vila_engine::NO_ROW`]. Keeps the indices.
    pub fn gather_rows(&mut self, x: &Var<'a>, index: &Tensor) -> Result<Var<'a>> {
        let (rows, cols) = x.tensor().shape();
        let y = self.alloc_like(x.tensor(), index.len(), cols)?;
        self.backend().gather_rows(&GatherRows { table: x.tensor(), index, y: &y })?;
        let Some(id) = x.id() else { return Ok(self.constant(y)) };
        let index = index.clone();
        Ok(self.push(y, vec![], move |gradients, dy| {
            let dx = gradients.alloc(dy.dtype(), rows, cols)?;
            gradients.backend.fill(&Fill { y: &dx, value: 0.0 })?;
            gradients.backend.scatter_add_rows(&ScatterAddRows { x: &dy, index: &index, y: &dx })?;
            gradients.add(id, dx)
        }))
    }

    /// Writes rows of `features` over rows `slots` (distinct) of `x`, in place: image features into the token stream.
    ///
    /// The overwritten rows of `x` must come from [`vila_engine::NO_ROW`]: no gradient reaches what stood there.
    pub fn splice(&mut self, x: Var<'a>, features: &Var<'a>, slots: &Tensor) -> Result<Var<'a>> {
        if features.tensor().rows() != slots.len() {
            let message = format!("{} feature rows for {} slots", features.tensor().rows(), slots.len());
            return Err(argument("splice", message));
        }
        self.backend().scatter_rows(&ScatterRows { x: features.tensor(), index: slots, y: x.tensor() })?;
        if !self.records(&[&x, features], &[]) {
            return Ok(x);
        }
        let (x_id, features_id, slots) = (x.id(), features.id(), slots.clone());
        Ok(self.push(x.tensor().clone(), vec![], move |gradients, dy| {
            if let Some(id) = features_id {
                let dfeatures = gradients.alloc(dy.dtype(), slots.len(), dy.cols())?;
                gradients.backend.gather_rows(&GatherRows { table: &dy, index: &slots, y: &dfeatures })?;
                gradients.add(id, dfeatures)?;
            }
            x_id.map_or(Ok(()), |id| gradients.add(id, dy))
        }))
    }

    /// The same elements in rows of another width; keeps nothing.
    pub fn reshape(&mut self, x: &Var<'a>, rows: usize, cols: usize) -> Result<Var<'a>> {
        let y = x.tensor().reshape(rows, cols)?;
        let (old_rows, old_cols) = x.tensor().shape();
        let Some(id) = x.id() else { return Ok(self.constant(y)) };
        Ok(self.push(y, vec![], move |gradients, dy| gradients.add(id, dy.reshape(old_rows, old_cols)?)))
    }
}
