use vila_engine::Result;
use vila_engine::ops::{VisionEmbed, VisionEmbedBackward};

use crate::tape::argument;
use crate::{ParamId, Tape, Var};

impl<'a> Tape<'a> {
    /// Class token and learned positions: `[images * P, D] -> [images * L, D]`. Keeps nothing.
    pub fn vision_embed(&mut self, patches: &Var<'a>, class: Option<ParamId>, positions: ParamId) -> Result<Var<'a>> {
        let (store, x) = (self.store(), patches.tensor());
        let rows_per_image = store.weight(positions)?.rows();
        let per_image = rows_per_image - usize::from(class.is_some()).min(rows_per_image);
        if per_image == 0 {
            return Err(argument("vision_embed", "the position table has no row for patches"));
        }
        let y = self.alloc_like(x, x.rows() / per_image * rows_per_image, x.cols())?;
        let class_weight = class.map(|class| store.weight(class)).transpose()?;
        let table = store.weight(positions)?;
        self.backend().vision_embed(&VisionEmbed { patches: x, class: class_weight, positions: table, y: &y })?;
        let params: Vec<ParamId> = [class, Some(positions)].into_iter().flatten().collect();
        if !self.records(&[patches], &params) {
            return Ok(self.constant(y));
        }
        let (target, rows, cols) = (patches.id(), x.rows(), x.cols());
        Ok(self.push(y, params, move |gradients, dy| {
            let dpatches = target.map(|_| gradients.alloc(dy.dtype(), rows, cols)).transpose()?;
            gradients.backend.vision_embed_backward(&VisionEmbedBackward {
                dy: &dy,
                dpatches: dpatches.as_ref(),
                dclass: class.and_then(|class| gradients.param(class)).as_ref(),
                dpositions: gradients.param(positions).as_ref(),
                rows_per_image,
                has_class: class.is_some(),
            })?;
            target.zip(dpatches).map_or(Ok(()), |(id, grad)| gradients.add(id, grad))
        }))
    }
}
