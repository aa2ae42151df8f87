use rayon::prelude::*;

use crate::ops::Sample;
use crate::{Result, philox};

pub fn sample(args: &Sample) -> Result<()> {
    let logits = args.logits.to_f64()?;
    let rows = logits.par_chunks(args.logits.cols()).enumerate();
    let choose = |(row, logits): (usize, &[f64])| {
        if args.temperature <= 0.0 {
            return argmax(logits);
        }
        nucleus(logits, args, philox::uniform(args.seed, 0, args.index.wrapping_add(row as u64)))
    };
    args.out.set(&rows.map(choose).collect::<Vec<u32>>())
}

fn argmax(logits: &[f64]) -> u32 {
    let mut best: Option<usize> = None;
    for (token, &score) in logits.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|best| score > logits[best]) {
            best = Some(token);
        }
    }
    best.unwrap_or(0) as u32
}

fn nucleus(logits: &[f64], args: &Sample, uniform: f64) -> u32 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weight = |score: f64| match score {
        score if score.is_nan() => 0.0,
        score if score == max => 1.0,
        score => ((score - max) / args.temperature).exp(),
    };
    let mut order: Vec<usize> = (0..logits.len()).filter(|&token| !logits[token].is_nan()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b)));
    let target = args.top_p * logits.iter().map(|&score| weight(score)).sum::<f64>();
    let mut before = 0.0;
    let count = order.iter().take_while(|&&token| {
        let more = before < target;
        before += weight(logits[token]);
        more
    });
    order.truncate(count.count().max(1));
    order.sort_unstable();
    let mut left = uniform * order.iter().map(|&token| weight(logits[token])).sum::<f64>();
    let mut chosen = 0;
    // The last token of any weight, should rounding leave something over.
    for token in order.into_iter().filter(|&token| weight(logits[token]) > 0.0) {
        chosen = token;
        if left < weight(logits[token]) {
            break;
        }
        left -= weight(logits[token]);
    }
    chosen as u32
}
