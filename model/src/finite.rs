//! Numbers that stopped being numbers: found where they appear, and traced to where they come from.

use std::path::Path;

use vila_autograd::Tape;
use vila_engine::Tensor;

use crate::weights::Checkpoint;
use crate::{Error, PackedBatch, Parts, Result, VilaConfig};

/// The first value that is NaN or infinite.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // Without an early exit this runs as fast as memory.
    let largest = values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7FFF_FFFF));
    if largest < f32::INFINITY.to_bits() {
        return None;
    }
    values.iter().position(|value| !value.is_finite())
}

impl Parts<'_> {
    /// Scores on the host, if all of them are finite. `batch` is what they were computed from, where it is still known.
    ///
    /// # Errors
    /// [`Error::NotFiniteWeight`] names the weight that spoiled them, [`Error::NotFinite`] the layer; the scores themselves
    /// where neither is known.
    pub(crate) fn finite_scores(
        &self,
        scores: &Tensor,
        what: impl Fn(usize) -> String,
        batch: Option<&PackedBatch>,
    ) -> Result<Vec<f32>> {
        let values = self.backend.to_f32(scores)?;
        match first_not_finite(&values) {
            None => Ok(values),
            Some(at) => Err(self.culprit(what(at / scores.cols().max(1)), values[at], batch)?),
        }
    }

    /// Where scores that are not finite come from.
    fn culprit(&self, scores: String, value: f32, batch: Option<&PackedBatch>) -> Result<Error> {
        for id in self.store.ids() {
            for (part, values) in self.store.export(self.backend, id)? {
                if let Some(at) = first_not_finite(&values) {
                    return Ok(not_finite_weight(self.dir, &part.name, at, values[at]));
                }
            }
        }
        let states = batch.map(|batch| self.model.layer_states(&mut Tape::inference(self.backend, self.store), batch));
        for (layer, state) in states.transpose()?.iter().flatten().enumerate() {
            if let Some(at) = first_not_finite(state) {
                let place = match layer {
                    0 => "what the first layer of the decoder reads (token embeddings and image features)".into(),
                    layer => format!("the output of layer {layer} of {}", self.model.llm.layers()),
                };
                return Ok(Error::NotFinite { place, value: state[at] });
            }
        }
        Ok(Error::NotFinite { place: scores, value })
    }
}

/// Names the file, where the weights come from one.
fn not_finite_weight(dir: Option<&Path>, name: &str, index: usize, value: f32) -> Error {
    let checkpoint = dir.and_then(|dir| {
        let (_, layout) = VilaConfig::read(dir).ok()?;
        Checkpoint::open(dir, layout).ok()
    });
    match checkpoint {
        Some(checkpoint) => checkpoint.not_finite(name, index, value),
        None => Error::NotFiniteWeight {
            path: dir.unwrap_or(Path::new("the model")).into(),
            name: name.into(),
            index,
            value,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::first_not_finite;

    #[test]
    fn the_first_value_that_is_no_number_is_found() {
        assert_eq!(first_not_finite(&[0.0, -1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE]), None);
        assert_eq!(first_not_finite(&[1.0, f32::NEG_INFINITY, f32::NAN]), Some(1));
        assert_eq!(first_not_finite(&[-f32::NAN]), Some(0));
        assert_eq!(first_not_finite(&[]), None);
    }
}
