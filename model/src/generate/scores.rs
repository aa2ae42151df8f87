//! Changes to scores before a token is chosen; on the host, since they need the history.

use std::collections::BTreeSet;

use super::GenerateOptions;

/// Whether scores are changed at all.
pub(super) fn changes(options: &GenerateOptions) -> bool {
    options.repetition_penalty != 1.0 || (options.top_k > 0 && options.temperature > 0.0)
}

/// Changes one document's scores; `history` are the tokens of its prompt and answer.
pub(super) fn change(scores: &mut [f32], history: &[u32], options: &GenerateOptions) {
    let penalty = options.repetition_penalty as f32;
    for token in history.iter().collect::<BTreeSet<_>>() {
        if let Some(score) = scores.get_mut(*token as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
    if (1..scores.len()).contains(&options.top_k) {
        keep_likeliest(scores, options.top_k);
    }
}

fn keep_likeliest(scores: &mut [f32], count: usize) {
    let mut order: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    if count > order.len() {
        return;
    }
    let (_, &mut least, _) = order.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalty_applies_once_and_away_from_the_token() {
        let options = GenerateOptions { repetition_penalty: 2.0, ..GenerateOptions::default() };
        let mut scores = [4.0, -4.0, 1.0];
        change(&mut scores, &[0, 1, 1, 0, 7], &options);
        assert_eq!(scores, [2.0, -8.0, 1.0]);
    }

    #[test]
    fn top_k_keeps_ties_and_never_counts_nan() {
        let options = GenerateOptions { top_k: 2, temperature: 1.0, ..GenerateOptions::default() };
        let mut scores = [1.0, 3.0, f32::NAN, 2.0, 2.0];
        change(&mut scores, &[], &options);
        assert_eq!(scores.map(f32::is_finite), [false, true, false, true, true]);
        let mut few = [1.0, f32::NAN];
        change(&mut few, &[], &GenerateOptions { top_k: 1, temperature: 1.0, ..options });
        assert_eq!(few[0], 1.0);
    }
}
