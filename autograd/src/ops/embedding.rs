use vila_engine::ops::{GatherRows, ScatterAddRows};
use vila_engine::{Result, Tensor};

use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// Rows of a parameter table: `ids` (`[T]` u32; [`vila_engine::NO_ROW`] gives zeros) `-> [T, D]`. Keeps the ids.
    pub fn embedding(&mut self, table: ParamId, ids: &Tensor) -> Result<Var<'a>> {
        let weight = self.store().weight(table)?;
        let y = self.backend().alloc(self.store().dtype(), ids.len(), weight.cols())?;
        self.backend().gather_rows(&GatherRows { table: weight, index: ids, y: &y })?;
        if !self.records(&[], &[table]) {
            return Ok(self.constant(y));
        }
        let ids = ids.clone();
        Ok(self.push(y, vec![table], move |gradients, dy| {
            gradients.param(table).map_or(Ok(()), |dtable| {
                gradients.backend.scatter_add_rows(&ScatterAddRows { x: &dy, index: &ids, y: &dtable })
            })
        }))
    }
}
