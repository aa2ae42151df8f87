//! What the paper found, as claims about numbers of the grid, and the rule that judges them. Both stood here before any
//! number did.

use super::result::Summary;

/// A number of the grid: a metric of a cell after a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The cell.
    pub cell: &'static str,
    /// The stage after which it was measured.
    pub stage: &'static str,
    /// The metric.
    pub metric: &'static str,
}

/// What is claimed about numbers.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// The first is higher.
    Higher(Value, Value),
    /// The first is not lower.
    NotLower(Value, Value),
    /// The mean is at least this.
    Reaches(Value, f64),
    /// The mean is at most this.
    Below(Value, f64),
}

/// How a claim or a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It shows.
    ReproducedSmall,
    /// It does not show, or the opposite does.
    NotReproduced,
    /// The difference is within the noise, or there is one seed only.
    UndecidedWithinNoise,
    /// Its cells were not run.
    NotRun,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::ReproducedSmall => "reproduced small",
            Verdict::NotReproduced => "not reproduced",
            Verdict::UndecidedWithinNoise => "undecided within noise",
            Verdict::NotRun => "not run",
        }
    }
}

/// A finding of the paper.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// What it says.
    pub title: &'static str,
    /// The paper's numbers.
    pub paper: &'static str,
    /// What it means here; all must hold.
    pub claims: &'static [Claim],
    /// What of it the toy world has by construction, or cannot show.
    pub caveat: &'static str,
}

/// Differences below this count for nothing.
pub const MARGIN: f64 = 0.03;

/// The rule, for the report.
pub const RULE: &str = "Means over seeds are compared; d is their difference, e its standard error from the pooled spread of the \
    seeds (the root of the summed squared standard errors). \"Higher\" is reproduced if d >= 0.03 and d > 2e, not reproduced if \
    d + 2e < 0.03, else undecided. \"Not lower\" is reproduced if d - 2e > -0.03, not reproduced if d <= -0.03 and d < -2e, else \
    undecided. Thresholds are compared with the mean. A finding is reproduced if all of its claims are, and not reproduced if \
    one is not. With one seed nothing is decided.";

/// A claim with its numbers.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The claim.
    pub claim: Claim,
    /// How it stands.
    pub verdict: Verdict,
    /// The difference, or the mean for thresholds.
    pub difference: Option<f64>,
    /// Its standard error.
    pub error: Option<f64>,
    /// The difference, or the value for thresholds, under each seed. The rule does not look at it: cells share corpora and
    /// first stages under a seed, so that these vary less than the means' errors say.
    pub by_seed: Vec<f64>,
}

/// Applies the rule to a claim.
pub fn judge(claim: Claim, summary: &Summary) -> Judged {
    let (first, second) = match claim {
        Claim::Higher(a, b) | Claim::NotLower(a, b) => (a, b),
        Claim::Reaches(value, _) | Claim::Below(value, _) => (value, value),
    };
    let (Some(a), Some(b)) = (summary.spread(first), summary.spread(second)) else {
        return Judged { claim, verdict: Verdict::NotRun, difference: None, error: None, by_seed: Vec::new() };
    };
    let (d, e) = match claim {
        Claim::Reaches(..) | Claim::Below(..) => (a.mean, a.error()),
        _ => (a.mean - b.mean, a.error().hypot(b.error())),
    };
    let decide = |yes: bool, no: bool| match (yes, no) {
        (true, _) => Verdict::ReproducedSmall,
        (_, true) => Verdict::NotReproduced,
        _ => Verdict::UndecidedWithinNoise,
    };
    let verdict = match claim {
        _ if a.seeds < 2 || b.seeds < 2 => Verdict::UndecidedWithinNoise,
        Claim::Higher(..) => decide(d >= MARGIN && d > 2.0 * e, d + 2.0 * e < MARGIN),
        Claim::NotLower(..) => decide(d - 2.0 * e > -MARGIN, d <= -MARGIN && d < -2.0 * e),
        Claim::Reaches(_, least) => decide(d >= least, d < least),
        Claim::Below(_, most) => decide(d <= most, d > most),
    };
    let (firsts, seconds) = (summary.by_seed(first), summary.by_seed(second));
    let by_seed = match claim {
        Claim::Reaches(..) | Claim::Below(..) => firsts.to_vec(),
        _ => firsts.iter().zip(seconds).map(|(a, b)| a - b).collect(),
    };
    Judged { claim, verdict, difference: Some(d), error: Some(e), by_seed }
}

/// A finding stands as its worst claim does.
pub fn overall(judged: &[Judged]) -> Verdict {
    let has = |verdict| judged.iter().any(|judged| judged.verdict == verdict);
    let order = [Verdict::NotRun, Verdict::NotReproduced, Verdict::UndecidedWithinNoise];
    order.into_iter().find(|verdict| has(*verdict)).unwrap_or(Verdict::ReproducedSmall)
}

const fn after(stage: &'static str, cell: &'static str, metric: &'static str) -> Value {
    Value { cell, stage, metric }
}

const fn sft(cell: &'static str, metric: &'static str) -> Value {
    after("sft", cell, metric)
}

const fn pretrain(cell: &'static str, metric: &'static str) -> Value {
    after("pretrain", cell, metric)
}

use Claim::{Below, Higher, NotLower, Reaches};

/// Every finding, in the order of the paper's tables.
pub const FINDINGS: &[Finding] = &[
    Finding {
        title: "Interleaved pre-training of the LLM gives in-context learning",
        paper: "Table 1 d: 68.7 at 0 shots, 70.9 at 4",
        claims: &[Reaches(pretrain("base", "naming_4_choice"), 0.8), Below(pretrain("base", "naming_0_choice"), 0.35)],
        caveat: "The four-shot prompt has the form of the corpus's naming documents. Names are bound to digits anew in every \
                 document, so that nothing but the context can tell them; chance is 0.25.",
    },
    Finding {
        title: "Freezing the LLM in pre-training costs in-context learning",
        paper: "Table 1 b to d: 4-shot 57.6 to 70.9; Table 11, Vicuna: 59.2 to 72.8",
        claims: &[Higher(sft("base", "naming_4_choice"), sft("frozen-pretrain", "naming_4_choice"))],
        caveat: "Partly built in: a frozen LLM already plays naming games with words.",
    },
    Finding {
        title: "Freezing the LLM in pre-training leaves 0-shot answers as they are",
        paper: "Table 1 b and c: 66.8 and 66.8 at 0 shots",
        claims: &[
            NotLower(sft("frozen-pretrain", "vqa"), sft("base", "vqa")),
            NotLower(sft("frozen-pretrain", "sum"), sft("base", "sum")),
        ],
        caveat: "",
    },
    Finding {
        title: "Training the projector alone in both stages is not enough",
        paper: "Table 1 a to d: 13.4 to 68.7 at 0 shots",
        claims: &[
            Higher(sft("base", "sum"), sft("frozen-both", "sum")),
            Higher(sft("base", "naming_4_choice"), sft("frozen-both", "naming_4_choice")),
        ],
        caveat: "",
    },
    Finding {
        title: "A linear projector does no worse than a transformer",
        paper: "Table 1 c to d: 66.8 / 68.8 to 68.7 / 70.9",
        claims: &[
            NotLower(sft("base", "vqa"), sft("transformer", "vqa")),
            NotLower(sft("base", "sum"), sft("transformer", "sum")),
            NotLower(sft("base", "naming_4_choice"), sft("transformer", "naming_4_choice")),
        ],
        caveat: "The tower trains with each projector here; the paper's is frozen.",
    },
    Finding {
        title: "Deep layers align better when the LLM trains",
        paper: "Figure 3: rises from configuration b to d in deep layers",
        claims: &[
            Higher(sft("base", "alignment"), sft("transformer-frozen", "alignment")),
            Higher(sft("base", "alignment"), sft("frozen-pretrain", "alignment")),
        ],
        caveat: "Similarity of the last block's states on held-out interleaved documents; three blocks are hardly deep.",
    },
    Finding {
        title: "Pairs alone cost text ability and give no in-context learning",
        paper: "Table 3: COYO 51.1 / 50.3, MMLU 28.8; MMC4 68.7 / 70.9, MMLU 40.7",
        claims: &[
            Higher(pretrain("base-visual", "text"), pretrain("pairs-visual", "text")),
            Higher(sft("base-visual", "naming_4_choice"), sft("pairs-visual", "naming_4_choice")),
        ],
        caveat: "Partly built in: captions hold no other text, and only interleaved documents name by context.",
    },
    Finding {
        title: "Pairs alone cost 0-shot accuracy",
        paper: "Table 3: COYO 51.1, MMC4 68.7 at 0 shots",
        claims: &[Higher(sft("base-visual", "sum"), sft("pairs-visual", "sum"))],
        caveat: "Digits are easy: 0-shot tasks hardly tell corpora apart here.",
    },
    Finding {
        title: "It is the interleaving that helps, not the text: the same data as pairs do not do",
        paper: "Table 3: MMC4-pairs 46.4 / 44.5, MMC4 68.7 / 70.9",
        claims: &[Higher(sft("base-visual", "naming_4_choice"), sft("mmc4-pairs-visual", "naming_4_choice"))],
        caveat: "Built in: a document cut to pairs has no context to learn from.",
    },
    Finding {
        title: "Interleaved documents have a lower loss than their pairs",
        paper: "Figure 5: the training loss on MMC4 is lower than on MMC4-pairs",
        claims: &[Higher(pretrain("mmc4-pairs-visual", "loss"), pretrain("base", "loss"))],
        caveat: "Partly built in: a name repeats inside its document, and cannot be known in a pair. But each pair also has an \
                 end, which is easily known and lowers its mean loss.",
    },
    Finding {
        title: "Mixing pairs into interleaved data does no harm",
        paper: "Table 3: MMC4 68.7 / 70.9, with COYO 69.0 / 71.3",
        claims: &[
            NotLower(sft("mix-visual", "sum"), sft("base-visual", "sum")),
            NotLower(sft("mix-visual", "naming_4_choice"), sft("base-visual", "naming_4_choice")),
        ],
        caveat: "",
    },
    Finding {
        title: "All images in front cost in-context learning",
        paper: "Reformatting: -37.5 at 4 shots",
        claims: &[Higher(sft("base", "naming_4_choice"), sft("images-first", "naming_4_choice"))],
        caveat: "Partly built in: a name no longer follows its image.",
    },
    Finding {
        title: "All images in front cost 0-shot accuracy",
        paper: "Reformatting: -4.4 at 0 shots",
        claims: &[Higher(sft("base", "sum"), sft("images-first", "sum"))],
        caveat: "Digits are easy: 0-shot tasks hardly tell corpora apart here.",
    },
    Finding {
        title: "Text in SFT brings text ability back",
        paper: "Table 4: MMLU 40.7 to 51.4 with joint SFT",
        claims: &[
            Higher(sft("base", "chat"), sft("base-visual", "chat")),
            Higher(sft("base", "facts_chat"), sft("base-visual", "facts_chat")),
        ],
        caveat: "Built in for the form of the questions: text SFT asks them as the test does.",
    },
    Finding {
        title: "Text in SFT helps visual tasks that are trained",
        paper: "Table 4: 68.7 / 70.9 to 71.0 / 72.1 with joint SFT",
        claims: &[Higher(sft("base", "sum_held_out"), sft("base-visual", "sum_held_out"))],
        caveat: "Sums of pairs of digits that no image document adds.",
    },
    Finding {
        title: "Text in SFT teaches visual tasks: an instruction that only text has",
        paper: "Table 4, its explanation: text re-blending also improves visual instructions",
        claims: &[
            Higher(sft("base", "after"), sft("base-visual", "after")),
            Higher(sft("worded", "after"), sft("base-visual", "after")),
            Higher(sft("worded", "smaller"), sft("base-visual", "smaller")),
        ],
        caveat: "\"What comes after ?\" and \"which is smaller ?\" about images are never trained. The last two claims are about \
                 text in the wording of the visual questions.",
    },
    Finding {
        title: "Resolution matters more than the number of tokens",
        paper: "Table 7, OKVQA / TextVQA / COCO: 224 49.9 / 41.6 / 116.0; 336 49.7 / 49.8 / 117.7; 336 merged 49.3 / 45.6 / 115.7",
        claims: &[
            Higher(sft("downsample", "vqa"), sft("low-resolution", "vqa")),
            Higher(sft("downsample", "sum"), sft("low-resolution", "sum")),
            NotLower(sft("downsample", "sum"), sft("many-tokens", "sum")),
        ],
        caveat: "Images of 16 pixels a side are enlarged ones of 8; those of 4 have lost detail.",
    },
    Finding {
        title: "A visual expert does not replace training the LLM",
        paper: "Table 8: 67.0 / 64.8 against 71.0 / 72.1",
        claims: &[
            Higher(sft("base", "naming_4_choice"), sft("visual-expert", "naming_4_choice")),
            NotLower(sft("base", "sum"), sft("visual-expert", "sum")),
        ],
        caveat: "",
    },
    Finding {
        title: "LoRA stays below training all of the LLM",
        paper: "Table 9, VQAv2 / GQA / VizWiz / TextVQA: 69.4 / 54.3 / 48.4 / 50.0 against 79.9 / 62.3 / 57.8 / 64.4",
        claims: &[Higher(sft("base", "sum"), sft("lora", "sum"))],
        caveat: "",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::grid::CELLS;
    use super::*;

    fn summary(a: &[f64], b: &[f64]) -> Summary {
        let mut summary = Summary::default();
        for (cell, values) in [("base", a), ("mix", b)] {
            values.iter().for_each(|&value| summary.add(sft(cell, "vqa"), value));
        }
        summary
    }

    fn verdict(claim: fn(Value, Value) -> Claim, a: &[f64], b: &[f64]) -> Verdict {
        judge(claim(sft("base", "vqa"), sft("mix", "vqa")), &summary(a, b)).verdict
    }

    #[test]
    fn the_rule_follows_difference_and_spread() {
        use Verdict::*;
        let (tight, wide) = ([0.90, 0.91, 0.92], [0.60, 0.75, 0.99]);
        assert_eq!(verdict(Higher, &tight, &[0.50, 0.51, 0.52]), ReproducedSmall);
        assert_eq!(verdict(Higher, &tight, &wide), UndecidedWithinNoise);
        assert_eq!(verdict(Higher, &tight, &tight), NotReproduced);
        assert_eq!(verdict(Higher, &[0.5, 0.51, 0.52], &tight), NotReproduced);
        assert_eq!(verdict(NotLower, &tight, &tight), ReproducedSmall);
        assert_eq!(verdict(NotLower, &wide, &tight), UndecidedWithinNoise);
        assert_eq!(verdict(NotLower, &[0.5, 0.51, 0.52], &tight), NotReproduced);
        assert_eq!(verdict(Higher, &[0.9], &[0.1]), UndecidedWithinNoise);
        assert_eq!(verdict(Higher, &tight, &[]), NotRun);
        let threshold = |claim| judge(claim, &summary(&tight, &[])).verdict;
        assert_eq!(threshold(Reaches(sft("base", "vqa"), 0.9)), ReproducedSmall);
        assert_eq!(threshold(Below(sft("base", "vqa"), 0.9)), NotReproduced);
    }

    #[test]
    fn differences_and_errors_are_those_of_the_rule() {
        let judged = judge(Higher(sft("base", "vqa"), sft("mix", "vqa")), &summary(&[1.0, 3.0], &[0.0, 1.0]));
        assert!((judged.difference.expect("both") - 1.5).abs() < 1e-12);
        assert!((judged.error.expect("both") - 1.25f64.sqrt()).abs() < 1e-12);
        assert_eq!(judged.by_seed, [1.0, 2.0]);
    }

    #[test]
    fn findings_speak_of_cells_that_exist() {
        let names: BTreeSet<&str> = CELLS.iter().map(|cell| cell.name).collect();
        assert_eq!(names.len(), CELLS.len());
        for claim in FINDINGS.iter().flat_map(|finding| finding.claims) {
            let values = match *claim {
                Higher(a, b) | NotLower(a, b) => vec![a, b],
                Reaches(value, _) | Below(value, _) => vec![value],
            };
            assert!(values.iter().all(|value| names.contains(value.cell)), "{claim:?}");
        }
    }
}
