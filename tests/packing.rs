//! How little packing leaves empty on corpora with the paper's statistics.

use vila_engine::philox::Stream;
use vila_train::packing::{first_fit_decreasing, grain, pack};

/// Lengths of one step's documents as in the paper's second stage: as many images from interleaved documents as from pairs,
/// 1,024 elements, of which a pair element is four pairs (spec 4.1).
struct Corpus {
    name: &'static str,
    /// Images of an interleaved document and its text tokens.
    interleaved: fn(&mut Stream) -> (usize, usize),
    /// Text tokens of a pair.
    caption: fn(&mut Stream) -> usize,
}

const TOKENS_PER_IMAGE: usize = 576;
const CONTEXT: usize = 4096;

/// Log-normal with a mean.
fn log_normal(random: &mut Stream, mean: f64, sigma: f64) -> usize {
    (mean.ln() - sigma * sigma / 2.0 + sigma * random.normal()).exp().round() as usize
}

/// A value with a probability in percent.
fn drawn(random: &mut Stream, percent: [usize; 6]) -> usize {
    let mut left = random.below(100);
    let found = percent.iter().position(|&share| {
        let here = left < share;
        left = left.saturating_sub(share);
        here
    });
    1 + found.unwrap_or(5)
}

const CORPORA: [Corpus; 3] = [
    Corpus {
        name: "1 to 6 images, log-normal texts",
        interleaved: |random| (drawn(random, [9, 12, 17, 19, 20, 23]), log_normal(random, 490.0, 0.6)),
        caption: |random| log_normal(random, 22.7, 0.5),
    },
    Corpus {
        name: "mostly 3 to 5 images, texts by sentence",
        interleaved: |random| (drawn(random, [2, 8, 23, 34, 23, 10]), (0..14).map(|_| 5 + random.below(61)).sum()),
        caption: |random| 5 + random.below(36),
    },
    Corpus { name: "all alike", interleaved: |_| (4, 490), caption: |_| 23 },
];

impl Corpus {
    /// Positions of a step's documents, and means of images and texts.
    fn step(&self, seed: u64) -> (Vec<usize>, [f64; 3]) {
        let mut random = Stream::new(seed, 99);
        let (mut lengths, mut sums) = (Vec::new(), [0.0; 3]);
        for _ in 0..512 {
            let (images, text) = (self.interleaved)(&mut random);
            (sums[0], sums[1]) = (sums[0] + images as f64 / 512.0, sums[1] + text as f64 / 512.0);
            lengths.push((images * TOKENS_PER_IMAGE + text).min(CONTEXT));
        }
        for _ in 0..4 * 512 {
            let text = (self.caption)(&mut random).max(1);
            sums[2] += text as f64 / 2048.0;
            lengths.push(TOKENS_PER_IMAGE + text);
        }
        // Order must not matter.
        random.shuffle(&mut lengths);
        (lengths, sums)
    }
}

/// Bins of the packing of spec 4.3: longest first, a document that does not fit closes the bin.
fn next_fit(lengths: &[usize], capacity: usize) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let (mut bins, mut used) = (0, capacity);
    for length in sorted {
        (bins, used) = if used + length > capacity { (bins + 1, length) } else { (bins, used + length) };
    }
    bins
}

/// Every document once, no bin too full, documents in order.
fn check_bins(bins: &[Vec<usize>], lengths: &[usize], capacity: usize) {
    assert!(bins.iter().all(|bin| bin.is_sorted() && bin.iter().map(|&i| lengths[i]).sum::<usize>() <= capacity));
    let mut all = bins.concat();
    all.sort_unstable();
    assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
}

#[test]
fn packing_of_the_papers_mixture_leaves_little_empty() {
    const STEPS: u64 = 8;
    for corpus in CORPORA {
        for (capacity, least) in [(16_384, 0.975), (32_768, 0.99)] {
            let (mut tokens, mut slots) = (0.0, [0.0; 6]);
            for seed in 0..STEPS {
                let (lengths, means) = corpus.step(seed);
                let near = |got: f64, want: f64| (got - want).abs() < 0.06 * want;
                assert!(
                    near(means[0], 4.0) && near(means[1], 490.0) && near(means[2], 22.7),
                    "{}: {means:?}",
                    corpus.name
                );
                let step: usize = lengths.iter().sum();
                let bins = pack(&lengths, capacity);
                check_bins(&bins, &lengths, capacity);
                assert_eq!(bins, pack(&lengths, capacity));
                let used = |bin: &Vec<usize>| bin.iter().map(|&i| lengths[i]).sum::<usize>();
                let eighths: usize = bins.iter().map(|bin| used(bin).next_multiple_of(grain(capacity))).sum();
                let first_fit = first_fit_decreasing(&lengths, capacity).len();
                let bins = [bins.len(), first_fit, next_fit(&lengths, capacity), step.div_ceil(capacity)];
                tokens += step as f64;
                let [ours, first_fit, next_fit, bound] = bins.map(|bins| bins * capacity);
                let each = [ours, first_fit, next_fit, bound, lengths.len() * CONTEXT, eighths];
                slots.iter_mut().zip(each).for_each(|(sum, slots)| *sum += slots as f64);
            }
            let [ours, first_fit, next_fit, bound, padded, eighths] = slots.map(|slots| 100.0 * tokens / slots);
            println!(
                "capacity {capacity}, {}: {eighths:.2} % (next-fit {next_fit:.2} %, padded to {CONTEXT} {padded:.2} %; \
                 with whole micro-batches {ours:.2} %, first-fit-decreasing {first_fit:.2} %, none above {bound:.2} %)",
                corpus.name
            );
            assert!(eighths >= 100.0 * least, "{}: {eighths} % at {capacity}", corpus.name);
            assert!(ours >= bound.min(100.0 * least), "{}: {ours} % at {capacity}", corpus.name);
        }
    }
}
