//! The grid on one page: verdicts, tables with the paper's numbers beside, figures; and the same as JSON and SVG.

use serde_json::json;

use super::result::{CellResult, Spread, StageResult, Summary};
use super::verdict::{Claim, FINDINGS, Finding, Judged, RULE, Value, judge, overall};
use super::{AblateOptions, Ablated, CELLS};
use crate::Result;
use crate::data::cli::escape;
use crate::probe::{Alignment, curve};
use crate::report::chart::{Chart, Look, Scale, Series};
use crate::report::page::{document, drawn, table};
use crate::report::series::Point;
use crate::whole_file::write_whole;

/// A table of the paper, small.
struct Table {
    title: &'static str,
    /// What the paper's column holds.
    paper: &'static str,
    /// Cell, and the paper's numbers for it.
    rows: &'static [(&'static str, &'static str)],
    /// Heading, stage, metric.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const TASKS: [(&str, &str, &str); 9] = [
    ("digit", "sft", "vqa"),
    ("sum", "sft", "sum"),
    ("unseen sums", "sft", "sum_held_out"),
    ("larger", "sft", "larger"),
    ("0 shots", "sft", "naming_0_choice"),
    ("4 shots", "sft", "naming_4_choice"),
    ("4 shots, free", "sft", "naming_4_free"),
    ("arithmetic", "sft", "text"),
    ("as chat", "sft", "chat"),
];

const TABLES: &[Table] = &[
    Table {
        title: "Table 1 and 11: what trains, and the projector",
        paper: "average at 0 → 4 shots",
        rows: &[
            ("frozen-both", "13.4 → 37.5"),
            ("transformer-frozen", "66.8 → 57.6"),
            ("transformer", "66.8 → 68.8"),
            ("base", "68.7 → 70.9"),
            ("frozen-pretrain", "62.6 → 59.2 (Vicuna)"),
            ("mlp2x-gelu", "not reported"),
            ("no-pretrain", "not reported"),
        ],
        columns: &TASKS,
    },
    Table {
        title: "Table 3: data of pre-training, visual SFT alone",
        paper: "average at 0 / 4 shots; MMLU",
        rows: &[
            ("pairs-visual", "COYO 51.1 / 50.3; 28.8"),
            ("mmc4-pairs-visual", "MMC4-pairs 46.4 / 44.5; 32.4"),
            ("base-visual", "MMC4 68.7 / 70.9; 40.7"),
            ("mix-visual", "MMC4 + COYO 69.0 / 71.3; 40.2"),
        ],
        columns: &TASKS,
    },
    Table {
        title: "After pre-training, before SFT",
        paper: "MMLU after visual SFT",
        rows: &[
            ("pairs-visual", "COYO 28.8"),
            ("mmc4-pairs-visual", "MMC4-pairs 32.4"),
            ("base", "MMC4 40.7"),
            ("mix", "MMC4 + COYO 40.2"),
            ("frozen-pretrain", "not reported"),
            ("images-first", "not reported"),
        ],
        columns: &[
            ("arithmetic before images", "text", "text"),
            ("arithmetic", "pretrain", "text"),
            ("facts", "pretrain", "facts"),
            ("naming in text", "pretrain", "text_naming_free"),
            ("0 shots", "pretrain", "naming_0_choice"),
            ("4 shots", "pretrain", "naming_4_choice"),
            ("4 shots, free", "pretrain", "naming_4_free"),
        ],
    },
    Table {
        title: "Table 4: joint SFT",
        paper: "average at 0 / 4 shots; MMLU",
        rows: &[
            ("base-visual", "MMC4 68.7 / 70.9; 40.7"),
            ("base", "MMC4, joint 71.0 / 72.1; 51.4"),
            ("mix-visual", "MMC4 + COYO 69.0 / 71.3; 40.2"),
            ("mix", "MMC4 + COYO, joint 72.3 / 73.6; 50.9"),
            ("worded", "not reported"),
        ],
        columns: &[
            ("digit", "sft", "vqa"),
            ("sum", "sft", "sum"),
            ("unseen sums", "sft", "sum_held_out"),
            ("4 shots", "sft", "naming_4_choice"),
            ("arithmetic", "sft", "text"),
            ("as chat", "sft", "chat"),
            ("facts as chat", "sft", "facts_chat"),
            ("what comes after ?", "sft", "after"),
            ("which is smaller ?", "sft", "smaller"),
        ],
    },
    Table {
        title: "Table 7: resolution and tokens",
        paper: "OKVQA / TextVQA / COCO",
        rows: &[
            ("low-resolution", "224, 256 tokens: 49.9 / 41.6 / 116.0"),
            ("many-tokens", "336, 576 tokens: 49.7 / 49.8 / 117.7"),
            ("downsample", "336, 144 tokens: 49.3 / 45.6 / 115.7"),
            ("no-pretrain", "not reported"),
        ],
        columns: &[
            ("digit", "sft", "vqa"),
            ("sum", "sft", "sum"),
            ("unseen sums", "sft", "sum_held_out"),
            ("larger", "sft", "larger"),
            ("count", "sft", "count"),
        ],
    },
    Table {
        title: "Table 8: visual expert",
        paper: "average at 0 / 4 shots",
        rows: &[("visual-expert", "67.0 / 64.8"), ("base", "71.0 / 72.1")],
        columns: &TASKS,
    },
    Table {
        title: "Table 9: LoRA",
        paper: "VQAv2, GQA, VizWiz, TextVQA, MMB, LLaVA-W",
        rows: &[("lora", "69.4, 54.3, 48.4, 50.0, 60.3, 51.2"), ("base", "79.9, 62.3, 57.8, 64.4, 68.9, 69.7")],
        columns: &TASKS,
    },
    Table {
        title: "Reformatting: all images in front",
        paper: "average at 0 / 4 shots",
        rows: &[("base", "as it is"), ("images-first", "-4.4 / -37.5")],
        columns: &TASKS,
    },
];

/// Writes `ablation.html`, `ablation.json`, `figure-3.svg` and `figure-5.svg`.
pub(super) fn write(options: &AblateOptions, results: &[CellResult]) -> Result<Ablated> {
    let summary = Summary::of(results);
    let judged: Vec<(&Finding, Vec<Judged>)> = FINDINGS
        .iter()
        .map(|finding| (finding, finding.claims.iter().map(|c| judge(*c, &summary)).collect()))
        .collect();
    let figures = [figure_3(results), figure_5(results)];
    let page = page(options, results, &summary, &judged, &figures);
    let out = |name: &str| options.out.join(name);
    let (html, machine) = (out("ablation.html"), out("ablation.json"));
    write_whole(&html, page.as_bytes())?;
    let json = json(options, results, &summary, &judged);
    write_whole(&machine, (serde_json::to_string_pretty(&json).unwrap_or_default() + "\n").as_bytes())?;
    for figure in &figures {
        write_whole(&out(figure.file), figure.chart.standalone(figure.title, figure.range).as_bytes())?;
    }
    let verdicts = judged.iter().map(|(finding, judged)| (*finding, overall(judged))).collect();
    Ok(Ablated { results: results.to_vec(), verdicts, page: html, json: machine })
}

fn json(
    options: &AblateOptions,
    results: &[CellResult],
    summary: &Summary,
    judged: &[(&Finding, Vec<Judged>)],
) -> serde_json::Value {
    let claim = |judged: &Judged| {
        json!({
            "claim": words(judged.claim), "verdict": judged.verdict,
            "difference": judged.difference, "error": judged.error, "by_seed": judged.by_seed,
        })
    };
    let findings = judged.iter().map(|(finding, judged)| {
        json!({
            "finding": finding.title, "paper": finding.paper, "verdict": overall(judged), "caveat": finding.caveat,
            "claims": judged.iter().map(claim).collect::<Vec<_>>(),
        })
    });
    json!({
        "suite": "toy",
        "smoke": options.quick,
        "program": env!("CARGO_PKG_VERSION"),
        "command": options.command,
        "size": options.size,
        "seeds": options.seeds,
        "questions": options.questions,
        "overrides": options.sets,
        "rule": RULE,
        "findings": findings.collect::<Vec<_>>(),
        "numbers": summary.json(),
        "results": results,
    })
}

fn page(
    options: &AblateOptions,
    results: &[CellResult],
    summary: &Summary,
    judged: &[(&Finding, Vec<Judged>)],
    figures: &[Figure],
) -> String {
    let smoke = if options.quick { " (smoke)" } else { "" };
    let mut body = format!("<h1>The paper's questions, asked of the toy world{smoke}</h1>\n");
    body += &format!("<p class=\"facts\">{}</p>\n", facts(options, results));
    if options.quick {
        body += "<p class=\"absent\"><b>Smoke run:</b> half of the steps. It shows that everything runs, and decides nothing.</p>\n";
    }
    body += &verdicts(judged);
    body += &format!("<p class=\"note\">{}</p>\n", escape(RULE));
    let claims: Vec<Vec<String>> = judged.iter().flat_map(|(_, judged)| judged.iter().map(claim_row)).collect();
    let head = ["claim", "how it stands", "difference or mean", "standard error", "under each seed"];
    body += &prose(&table("Claims behind the verdicts", &head, 2, &claims));
    body += "<p class=\"note\">Under a seed, cells share corpora and first stages: differences under each seed often agree where the \
             means' spread, which the rule goes by, leaves them undecided.</p>\n";
    body += "<h2>Figures</h2>\n<section class=\"charts\">\n";
    for figure in figures {
        body += &drawn(figure.title, figure.note, &figure.chart, figure.range, &[]);
    }
    body += "</section>\n";
    TABLES.iter().for_each(|table| body += &table.html(summary));
    body += "<p class=\"note\">Shares of right answers about held-out digits, mean ± standard deviation over seeds. Naming: the \
             likeliest of the four names, chance 0.25; free: the greedy answer. Unseen sums: of pairs of digits that no image \
             document adds.</p>\n";
    body += &cells(results);
    document(&format!("The paper's ablations on the toy world{smoke} · VILA"), &body)
}

fn facts(options: &AblateOptions, results: &[CellResult]) -> String {
    let seeds: Vec<String> = options.seeds.iter().map(u64::to_string).collect();
    let mut facts = vec![
        format!("{} results", results.len()),
        format!("seeds {}", seeds.join(", ")),
        format!("at most {} questions a task", options.questions),
        format!("vila {}", env!("CARGO_PKG_VERSION")),
    ];
    facts.extend(results.first().map(|result| format!("on {}", escape(&result.device))));
    if options.size > 1 {
        facts.push(format!("models {} times as wide", options.size));
    }
    facts.extend((!options.command.is_empty()).then(|| format!("<code>{}</code>", escape(&options.command))));
    facts.extend(options.sets.iter().map(|set| format!("with <code>{}</code>", escape(set))));
    facts.join(" · ")
}

fn verdicts(judged: &[(&Finding, Vec<Judged>)]) -> String {
    let row = |(finding, judged): &(&Finding, Vec<Judged>)| {
        vec![
            format!("<b>{}</b>", overall(judged).words()),
            escape(finding.title),
            escape(finding.paper),
            escape(finding.caveat),
        ]
    };
    let rows: Vec<Vec<String>> = judged.iter().map(row).collect();
    prose(&table("Findings", &["here", "finding", "paper", "to be known"], 4, &rows))
}

/// A table some of whose cells take several lines.
fn prose(table: &str) -> String {
    table.replacen("class=\"wide\"", "class=\"wide prose\"", 1)
}

fn claim_row(judged: &Judged) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.3}"));
    // Adding zero takes the sign from a negative one.
    let rounded = |value: &f64| format!("{:.2}", (100.0 * value).round() / 100.0 + 0.0);
    let by_seed: Vec<String> = judged.by_seed.iter().map(rounded).collect();
    vec![
        words(judged.claim),
        judged.verdict.words().into(),
        number(judged.difference),
        number(judged.error),
        by_seed.join(", "),
    ]
}

/// A claim as a sentence.
fn words(claim: Claim) -> String {
    let value = |value: Value| format!("{} of {}", value.metric, value.cell);
    let (stage, text) = match claim {
        Claim::Higher(a, b) => (a.stage, format!("{} is higher than {}", value(a), value(b))),
        Claim::NotLower(a, b) => (a.stage, format!("{} is not lower than {}", value(a), value(b))),
        Claim::Reaches(a, least) => (a.stage, format!("{} is at least {least}", value(a))),
        Claim::Below(a, most) => (a.stage, format!("{} is at most {most}", value(a))),
    };
    format!("after {stage}: {text}")
}

fn label(name: &str) -> &'static str {
    CELLS.iter().find(|cell| cell.name == name).map_or("", |cell| cell.label)
}

impl Table {
    fn html(&self, summary: &Summary) -> String {
        let row = |(name, paper): &(&'static str, &'static str)| {
            let number = |(_, stage, metric): &(&str, &'static str, &'static str)| {
                let spread = summary.spread(Value { cell: name, stage, metric });
                spread.map_or("not run".into(), |Spread { mean, deviation, seeds }| match seeds {
                    1 => format!("{mean:.3}"),
                    _ => format!("{mean:.3}<br><span class=\"note\">±&nbsp;{deviation:.3}</span>"),
                })
            };
            let cell = format!("<b>{name}</b><br><span class=\"note\">{}</span>", label(name));
            let head = [cell, escape(paper)];
            head.into_iter().chain(self.columns.iter().map(number)).collect()
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        let paper = format!("paper: {}", self.paper);
        let head: Vec<&str> =
            ["cell", paper.as_str()].into_iter().chain(self.columns.iter().map(|(name, ..)| *name)).collect();
        prose(&table(self.title, &head, 2, &rows))
    }
}

struct Figure {
    file: &'static str,
    title: &'static str,
    note: &'static str,
    chart: Chart,
    range: (f64, f64),
}

/// Cells of the paper's Figure 3, and others worth seeing beside them.
const ALIGNED: [&str; 5] = ["transformer-frozen", "transformer", "base", "frozen-pretrain", "frozen-both"];
/// Cells of the paper's Figure 5, and the pairs of its Table 3.
const TRAINED: [&str; 3] = ["base", "mmc4-pairs-visual", "images-first"];

fn figure_3(results: &[CellResult]) -> Figure {
    let layers = |result: &CellResult| -> Vec<Alignment> {
        let stages = result.stages.iter().rev();
        stages
            .filter_map(|stage| stage.evaluation.as_ref())
            .map(|made| made.alignment.clone())
            .next()
            .unwrap_or_default()
    };
    let mean = |name: &str, pick: fn(&Alignment) -> f64| -> Vec<(usize, f64)> {
        let runs: Vec<Vec<Alignment>> = of_cell(results, name).map(layers).filter(|run| !run.is_empty()).collect();
        let depth = runs.iter().map(Vec::len).min().unwrap_or(0);
        let over = |layer: usize| runs.iter().map(|run| pick(&run[layer])).sum::<f64>() / runs.len() as f64;
        (0..depth).map(|layer| (layer, over(layer))).collect()
    };
    let mut series: Vec<Series> = Vec::new();
    for (color, name) in ALIGNED.iter().enumerate() {
        series.push(curve(name, color, Look::Dots, mean(name, |layer| layer.symmetric.mean).into_iter()));
        let shuffled = format!("{name}, shuffled");
        series.push(curve(
            &shuffled,
            color,
            Look::Faint,
            mean(name, |layer| layer.shuffled.unwrap_or_default().mean).into_iter(),
        ));
    }
    series.retain(|series| !series.points.is_empty());
    let last = series.iter().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    Figure {
        file: "figure-3.svg",
        title: "Figure 3: similarity of visual and textual states by layer",
        note: "Symmetric Chamfer similarity on held-out interleaved documents, mean over documents and seeds; 0 is what the \
               decoder reads. Faint: with the images of another document, which is what the size of the sets alone gives.",
        chart: Chart { over: "layer", unit: "cosine".into(), scale: Scale::Linear, series, marks: Vec::new() },
        range: (0.0, last),
    }
}

fn figure_5(results: &[CellResult]) -> Figure {
    let losses = |stage: &StageResult| stage.losses.clone();
    let series: Vec<Series> = TRAINED
        .iter()
        .enumerate()
        .filter_map(|(color, name)| {
            let pretrain = |result: &CellResult| result.stages.iter().find(|s| s.name == "pretrain").map(losses);
            let runs: Vec<Vec<(u64, f64)>> = of_cell(results, name).filter_map(pretrain).collect();
            let length = runs.iter().map(Vec::len).min()?;
            let point = |index: usize| Point {
                x: runs[0][index].0 as f64,
                y: runs.iter().map(|run| run[index].1).sum::<f64>() / runs.len() as f64,
                part: 0,
            };
            // The first steps, in which images mean nothing yet, would squeeze the rest.
            let points: Vec<Point> = (usize::from(length > 4)..length).map(point).collect();
            Some(Series { name: name.to_string(), points, look: Look::Line, color })
        })
        .collect();
    let last = series.iter().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
    Figure {
        file: "figure-5.svg",
        title: "Figure 5: loss of pre-training",
        note: "Mean cross-entropy of text tokens in consecutive parts of the stage, mean over seeds. Interleaved documents \
               as they are, cut to pairs, and with all images in front.",
        chart: Chart { over: "step", unit: "nats per token".into(), scale: Scale::Linear, series, marks: Vec::new() },
        range: (0.0, last),
    }
}

fn of_cell<'a>(results: &'a [CellResult], name: &'a str) -> impl Iterator<Item = &'a CellResult> {
    results.iter().filter(move |result| result.cell == name)
}

/// What ran, for whoever wants to run it again.
fn cells(results: &[CellResult]) -> String {
    let row = |cell: &super::Cell| -> Option<Vec<String>> {
        let runs: Vec<&CellResult> = of_cell(results, cell.name).collect();
        let first = runs.first()?;
        let stages: Vec<String> = first.stages.iter().map(|stage| format!("{} {}", stage.name, stage.steps)).collect();
        let changes: Vec<String> = cell.sets.iter().map(|set| format!("<code>{}</code>", escape(set))).collect();
        Some(vec![cell.name.into(), cell.label.into(), stages.join(", "), changes.join("<br>")])
    };
    let rows: Vec<Vec<String>> = CELLS.iter().filter_map(row).collect();
    prose(&table("Cells", &["cell", "what it is", "steps", "changes of recipes/ablate-toy.toml"], 4, &rows))
}
