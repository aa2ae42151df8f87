//! `vila ablate` on a grid of two cells and a few steps: what is shared, what is resumed, what the report says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use vila_engine::{Backend, CpuBackend};
use vila_model::config::Layout;
use vila_model::weights::Checkpoint;
use vila_train::Error;
use vila_train::ablate::{AblateOptions, Ablated, FINDINGS, Verdict, ablate};
use vila_train::toy::CorpusOptions;

use crate::child::command;
use crate::training::{scratch, text};

fn options(out: PathBuf) -> AblateOptions {
    let small = |stage: &str| [format!("stage.{stage}.steps=2"), format!("stage.{stage}.documents=4")];
    AblateOptions {
        seeds: vec![5],
        jobs: 2,
        cells: vec!["base".into(), "base-visual".into()],
        sets: ["games", "text", "align", "pretrain", "sft"].into_iter().flat_map(small).collect(),
        questions: 3,
        corpus: CorpusOptions {
            seed: 0,
            views: 1,
            text_games: 40,
            text: 40,
            pairs: 60,
            mmc4: 200,
            sft_visual: 40,
            sft_text: 40,
        },
        worded: 10,
        command: "vila ablate <toy>".into(),
        ..AblateOptions::new(out)
    }
}

fn run(options: &AblateOptions) -> Result<Ablated, Error> {
    ablate(options, &|| Ok(Arc::new(CpuBackend::fast()) as Arc<dyn Backend>))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("file")).expect("JSON")
}

/// Metrics of a cell after a stage.
fn metrics(out: &Path, cell: &str, stage: &str) -> Value {
    let result = json(&out.join(format!("cells/{cell}-seed-5.json")));
    let stages = result["stages"].as_array().expect("stages");
    stages.iter().find(|found| found["name"] == stage).expect("stage")["evaluation"].clone()
}

#[test]
fn a_grid_shares_stages_resumes_cells_and_reports() {
    let out = scratch("ablate");
    let mut options = options(out.clone());
    // A signal before the first stage: nothing is lost, and the same options go on.
    options.run.stop.store(15, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(run(&options), Err(Error::Interrupted(15))));
    options.run.stop.store(0, std::sync::atomic::Ordering::Relaxed);
    let done = run(&options).expect("grid");
    assert_eq!(done.results.len(), 2);

    let stages = names(&out.join("seed-5/stages"));
    let kinds: Vec<&str> = stages.iter().filter_map(|name| name.split('-').next()).collect();
    assert_eq!(kinds, ["align", "games", "pretrain", "sft", "sft", "text"], "shared up to SFT");
    let key =
        |cell: &str, stage: usize| json(&out.join(format!("cells/{cell}-seed-5.json")))["stages"][stage]["key"].clone();
    assert!(key("base", 3) == key("base-visual", 3) && key("base", 4) != key("base-visual", 4));

    let measured = metrics(&out, "base", "sft");
    for metric in ["vqa", "sum", "after", "smaller", "naming_0_choice", "naming_4_free", "text_naming_choice", "chat"] {
        let share = measured["metrics"][metric].as_f64().expect(metric) * 3.0;
        assert!((share - share.round()).abs() < 1e-9 && (0.0..=3.0).contains(&share), "{metric}: {share} of 3");
    }
    assert_eq!(measured["alignment"].as_array().map(Vec::len), Some(4), "the decoder's input and three blocks");

    // Everything is there: no stage runs again.
    let written = |path: &Path| path.metadata().and_then(|data| data.modified()).expect("time");
    let times = |out: &Path| -> Vec<SystemTime> {
        let stages = names(&out.join("seed-5/stages"));
        stages.iter().map(|name| written(&out.join("seed-5/stages").join(name).join("metrics.jsonl"))).collect()
    };
    let before = times(&out);
    run(&options).expect("nothing to do");
    assert_eq!(times(&out), before);

    // A cell whose last stage is gone gets the same numbers again; the others are untouched.
    let numbers = metrics(&out, "base-visual", "sft");
    std::fs::remove_file(out.join("cells/base-visual-seed-5.json")).expect("result");
    let lost = format!("sft-{}", &key_of(&done, "base-visual")[..12]);
    std::fs::remove_dir_all(out.join("seed-5/stages").join(lost)).expect("stage");
    run(&options).expect("resumed");
    assert_eq!(metrics(&out, "base-visual", "sft"), numbers);
    assert_eq!(times(&out).iter().filter(|time| !before.contains(time)).count(), 1);

    let report = json(&out.join("ablation.json"));
    assert_eq!((&report["smoke"], &report["seeds"]), (&Value::Bool(false), &serde_json::json!([5])));
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(FINDINGS.len()));
    let verdict =
        |title: &str| done.verdicts.iter().find(|(finding, _)| finding.title.contains(title)).expect("finding").1;
    assert_eq!(verdict("Text in SFT brings"), Verdict::UndecidedWithinNoise, "one seed decides nothing");
    assert_eq!(verdict("All images in front cost in-context"), Verdict::NotRun);
    let page = std::fs::read_to_string(&done.page).expect("page");
    for part in ["not run", "undecided within noise", "Table 3", "Table 9: LoRA", "vila ablate &lt;toy&gt;", "28.8"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("NaN") && !page.contains("(smoke)") && !page.contains("http://"));
    assert_eq!(page.matches("<svg class=\"chart\"").count(), 2);
    for name in ["figure-3.svg", "figure-5.svg"] {
        let figure = std::fs::read_to_string(out.join(name)).expect("figure");
        assert!(figure.starts_with("<svg xmlns=") && figure.contains("class=\"curve"), "{name}");
    }

    // Fewer steps are another recipe, and say so.
    options.quick = true;
    options.cells = vec!["no-pretrain".into()];
    let quick = run(&options).expect("smoke");
    assert_eq!(quick.results[0].stages.iter().map(|stage| stage.steps).collect::<Vec<_>>(), [1; 4]);
    assert!(std::fs::read_to_string(&quick.page).expect("page").contains("(smoke)"));
    options.corpus.text = 41;
    let refused = run(&options).err().expect("other corpora").to_string();
    assert!(refused.contains("seed-5: holds other corpora; choose another --out"), "{refused}");
}

/// Stages that see no image run once, whatever tower and projector a cell has.
#[test]
fn cells_with_other_towers_and_projectors_share_the_text() {
    let out = scratch("ablate-text");
    let cells = vec!["base".into(), "mlp2x-gelu".into(), "low-resolution".into()];
    let options = AblateOptions { cells, quick: true, ..options(out.clone()) };
    let done = run(&options).expect("grid");
    let stages = names(&out.join("seed-5/stages"));
    let kinds: Vec<&str> = stages.iter().filter_map(|name| name.split('-').next()).collect();
    let expected = ["align", "align", "align", "games", "pretrain", "pretrain", "sft", "sft", "sft", "text"];
    assert_eq!(kinds, expected);
    let weights = |cell: usize, stage: usize| {
        let stage = &done.results[cell].stages[stage];
        let dir = out.join("seed-5/stages").join(format!("{}-{}", stage.name, &stage.key[..12]));
        Checkpoint::open(&dir.join("checkpoints").join(&stage.name), Layout::Vila).expect("checkpoint")
    };
    let text = weights(0, 1);
    for cell in 0..3 {
        let align = weights(cell, 2);
        for (name, ..) in text.tensors().filter(|(name, ..)| name.starts_with("llm.")) {
            assert_eq!(align.raw(name).expect("tensor").data, text.raw(name).expect("tensor").data, "{cell}: {name}");
        }
    }
}

fn key_of(done: &Ablated, cell: &str) -> String {
    let result = done.results.iter().find(|result| result.cell == cell).expect("cell");
    result.stages.last().expect("stage").key.clone()
}

#[test]
fn unknown_cells_are_wrong_usage() {
    let out = scratch("ablate-unknown");
    let output =
        command(&["ablate", "toy", "--cell", "nope", "--device", "cpu", "--out", text(&out)]).output().expect("child");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && stderr.contains("--cell nope: there are base, frozen-pretrain"),
        "{stderr}"
    );
}
