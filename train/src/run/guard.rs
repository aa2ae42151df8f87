use super::stage::Tried;
use crate::checkpoint::TrainerState;
use crate::recipe::{LossSpike, OnNonFinite, Recipe, SpikeAction};
use crate::{Error, Result};

/// What a run does about steps that went wrong. Every rank sees the same numbers and decides alike.
pub(super) struct Guard<'a> {
    recipe: &'a Recipe,
}

impl<'a> Guard<'a> {
    pub(super) fn new(recipe: &'a Recipe) -> Self {
        Guard { recipe }
    }

    /// Whether the loss must be known before the update.
    pub(super) fn looks_first(&self) -> bool {
        self.recipe.loss_spike.as_ref().is_some_and(|spike| spike.action == SpikeAction::Skip)
    }

    /// Whether steps can be passed over.
    pub(super) fn skips(&self) -> bool {
        self.recipe.on_nonfinite == OnNonFinite::Skip || self.looks_first()
    }

    /// How far a finite loss stands out, if too far.
    pub(super) fn spike(&self, state: &TrainerState, loss: f64) -> Option<String> {
        let spike = self.recipe.loss_spike.as_ref()?;
        let z = standard_score(&state.window, spike, loss)?;
        let deviations = if z.is_finite() { format!("{z:.1} standard deviations") } else { "far".into() };
        (z > spike.z).then(|| format!("loss {loss} is {deviations} above the last {}", spike.window))
    }

    /// Remembers a loss that was trained on.
    pub(super) fn note(&self, state: &mut TrainerState, loss: f64) {
        let Some(spike) = &self.recipe.loss_spike else { return };
        state.window.push(loss);
        let surplus = state.window.len().saturating_sub(spike.window);
        state.window.drain(..surplus);
    }

    /// What becomes of a step whose loss or gradient is not finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where such a step stops the run.
    pub(super) fn not_finite(&self, tried: &Tried, documents: &str) -> Result<String> {
        let what = format!("loss {}, gradient norm {}", tried.loss, tried.grad_norm);
        if self.recipe.on_nonfinite == OnNonFinite::Skip {
            return Ok(format!("{what} is not finite"));
        }
        Err(Error::NotFinite(format!(
            "{}: {what}; stopped before the update, the last checkpoint is untouched. Documents of the step: {documents}. \
             Lower the learning rate, check these documents with `vila data show`, leave them out with `omit = [{}]` in the \
             stage, or set `on_nonfinite = \"skip\"`",
            tried.place, tried.group
        )))
    }

    /// Passes a step over.
    ///
    /// # Errors
    /// [`Error::NotFinite`] once too many were.
    pub(super) fn skip(&self, state: &mut TrainerState, tried: &Tried, reason: &str, documents: &str) -> Result<()> {
        state.skipped += 1;
        tracing::warn!("{} is skipped: {reason}. Documents: {documents}", tried.place);
        if state.skipped > self.recipe.max_skipped {
            return Err(Error::NotFinite(format!(
                "{}: {reason}; {} steps of the run were skipped, `max_skipped` is {}. Lower the learning rate, or check \
                 these documents with `vila data show`: {documents}",
                tried.place, state.skipped, self.recipe.max_skipped
            )));
        }
        Ok(())
    }
}

/// Standard deviations of `loss` above the mean of a full window.
fn standard_score(window: &[f64], spike: &LossSpike, loss: f64) -> Option<f64> {
    if window.len() < spike.window {
        return None;
    }
    let n = window.len() as f64;
    let mean = window.iter().sum::<f64>() / n;
    let deviation = (window.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // In a window without any spread nothing but more is a spike.
    if loss <= mean { None } else { Some((loss - mean) / deviation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_stands_out_of_a_full_window_only() {
        let spike = LossSpike { window: 4, z: 3.0, action: SpikeAction::Warn };
        assert_eq!(standard_score(&[1.0, 2.0, 3.0], &spike, 9.0), None);
        let z = standard_score(&[1.0, 2.0, 3.0, 2.0], &spike, 2.0 + 3.0 * (2.0f64 / 3.0).sqrt());
        assert!((z.expect("above") - 3.0).abs() < 1e-12);
        assert_eq!(standard_score(&[1.0, 2.0, 3.0, 2.0], &spike, 1.0), None);
        assert_eq!(standard_score(&[1.0; 4], &spike, 1.5), Some(f64::INFINITY));
    }
}
