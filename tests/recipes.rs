//! The paper's recipes: each is read and planned, its stages add up to the paper's figures, and each ablation changes what
//! its name says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use vila_train::plan::{Assume, DryDevice, Plan, PlanOptions, Totals, plan, trained_parameters};
use vila_train::recipe::Recipe;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/paper")
}

fn planned(name: &str) -> Plan {
    let path = folder().join(name);
    let recipe = Recipe::read(&path, &[]).expect(name);
    let options =
        PlanOptions { device: DryDevice::Cuda, memory: None, ranks: 128, assume: Assume::Formats, vocab: 32_000 };
    plan(&recipe, &path, &options).expect(name)
}

fn totals(plan: &Plan) -> [Totals; 3] {
    let names: Vec<&str> = plan.stages.iter().map(|stage| stage.stage.name.as_str()).collect();
    assert_eq!(names, ["align", "pretrain", "sft"]);
    [0, 1, 2].map(|stage| plan.stages[stage].totals())
}

/// Within two percent: the plan takes the last micro-batch of a step for full.
fn close(name: &str, what: &str, found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 0.02 * wanted.abs(), "{name}: {found:.4e} {what}, not {wanted:.4e}");
}

/// Documents, images and text tokens of the second stage, documents of the third.
fn add_up(name: &str, [documents, images, text, sft]: [f64; 4]) {
    let [align, pretrain, tuning] = totals(&planned(name));
    close(name, "pairs in stage 1", align.documents as f64, 595_000.0);
    close(name, "images in stage 1", align.images, 595_000.0);
    close(name, "documents in stage 2", pretrain.documents as f64, documents);
    close(name, "images in stage 2", pretrain.images, images);
    close(name, "text tokens in stage 2", pretrain.supervised, text);
    close(name, "samples in stage 3", tuning.documents as f64, sft);
}

/// MMC4: 25M images, 4 and 490 text tokens a document. COYO: 25M pairs of 22.7 text tokens.
const MMC4: [f64; 3] = [6.25e6, 25e6, 6.25e6 * 490.0];
const COYO: [f64; 3] = [25e6, 25e6, 25e6 * 22.7];

fn both() -> [f64; 3] {
    [0, 1, 2].map(|i| MMC4[i] + COYO[i])
}

#[test]
fn the_papers_runs_add_up() {
    let with = |[a, b, c]: [f64; 3], sft: f64| [a, b, c, sft];
    for name in ["vila-7b.toml", "vila-13b.toml"] {
        add_up(name, with(both(), 665e3 + 2e6));
    }
    add_up("vila-7b-release.toml", with(both(), 738e3 + 2e6));
    for (name, figures) in [
        ("base", with(MMC4, 1e6)),
        ("table-3-coyo", with(COYO, 1e6)),
        ("table-3-mmc4-coyo", with(both(), 1e6)),
        ("table-4-mmc4", with(MMC4, 2e6)),
        ("table-4-mmc4-coyo", with(both(), 2e6)),
        ("images-first", with(MMC4, 1e6)),
    ] {
        add_up(&format!("ablations/{name}.toml"), figures);
    }
    let pairs = totals(&planned("ablations/table-3-mmc4-pairs.toml"))[1];
    close("table-3-mmc4-pairs", "pairs", pairs.documents as f64, 25e6);
}

#[test]
fn sizes_are_those_of_the_public_weights() {
    // Decoder (spec 1.5), and the tower without its last block and norm, which the features do not pass.
    let block = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024;
    for (name, decoder, projector, pixels) in [
        ("vila-7b.toml", 6_738_415_616u64, 4_198_400u64, 336),
        ("vila-13b.toml", 13_015_864_320, 1024 * 5120 + 5120, 336),
        ("vila-7b-release.toml", 6_738_415_616, 20_979_712, 336),
        ("ablations/base.toml", 6_738_415_616, 4_198_400, 224),
        ("ablations/table-7-336-downsample.toml", 6_738_415_616, 16_781_312, 336),
    ] {
        let plan = planned(name);
        let tower = (if pixels == 336 { 303_507_456 } else { 303_179_776 }) - block - 2 * 1024;
        assert_eq!(plan.parameters, [tower, projector, decoder], "{name}");
        let trained: Vec<u64> =
            plan.stages.iter().map(|stage| trained_parameters(&plan.config, &stage.stage)).collect();
        assert_eq!(trained, [projector, projector + decoder, projector + decoder], "{name}");
    }
}

/// Keys below `prefix` and their values as text.
fn flatten(prefix: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let named = |item: &Value, index: usize| match item.get("name").and_then(Value::as_str) {
        Some(name) => name.to_string(),
        None => index.to_string(),
    };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&format!("{prefix}.{key}"), value, found)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items
                .iter()
                .enumerate()
                .for_each(|(i, item)| flatten(&format!("{prefix}.{}", named(item, i)), item, found));
        }
        value => drop(found.insert(prefix.trim_start_matches('.').to_string(), value.to_string())),
    }
}

fn keys(path: &Path) -> BTreeMap<String, String> {
    let table: Table = toml::from_str(&std::fs::read_to_string(path).expect("recipe")).expect("TOML");
    let mut found = BTreeMap::new();
    flatten("", &Value::Table(table), &mut found);
    found
}

/// What differs from the base, sources aside: those follow from the stages' data.
fn changes(path: &Path) -> Vec<String> {
    let (base, other) = (keys(&folder().join("ablations/base.toml")), keys(path));
    let all: std::collections::BTreeSet<&String> = base.keys().chain(other.keys()).collect();
    let differs = |key: &&&String| base.get(**key) != other.get(**key) && !key.starts_with("sources.");
    let group = |key: &String| match key.split_once(".data.") {
        Some((stage, _)) => format!("{stage}.data"),
        None => key.clone(),
    };
    let mut changes: Vec<String> = all.iter().filter(differs).map(|key| group(key)).collect();
    changes.dedup();
    changes
}

#[test]
fn each_ablation_changes_what_it_is_about() {
    let pretrain = ["stage.pretrain.data", "stage.pretrain.documents"];
    let mixed = ["stage.pretrain.data", "stage.pretrain.documents", "stage.pretrain.steps"];
    let joint = ["stage.sft.data", "stage.sft.steps"];
    let expected: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("base", vec![]),
        ("table-1a", vec!["stage.pretrain.train", "stage.sft.train"]),
        ("table-1b", vec!["model.projector", "stage.pretrain.train"]),
        ("table-1c", vec!["model.projector"]),
        ("table-3-coyo", pretrain.to_vec()),
        ("table-3-mmc4-pairs", pretrain.to_vec()),
        ("table-3-mmc4-coyo", mixed.to_vec()),
        ("table-4-mmc4", joint.to_vec()),
        ("table-4-mmc4-coyo", [&mixed[..], &joint[..]].concat()),
        ("table-7-336", vec!["model.vision.image_size"]),
        ("table-7-336-downsample", vec!["model.projector", "model.vision.image_size"]),
        (
            "table-8-visual-expert",
            vec!["model.visual_expert", "stage.pretrain.train", "stage.sft.data", "stage.sft.steps", "stage.sft.train"],
        ),
        (
            "table-9-lora",
            vec![
                "model.lora.alpha",
                "model.lora.dropout",
                "model.lora.rank",
                "model.vision.image_size",
                "stage.pretrain.data",
                "stage.pretrain.documents",
                "stage.pretrain.merge_lora",
                "stage.pretrain.steps",
                "stage.pretrain.train",
                "stage.sft.data",
                "stage.sft.steps",
                "stage.sft.train",
            ],
        ),
        ("table-11-vicuna", vec!["model.tokenizer"]),
        ("images-first", vec!["stage.pretrain.data"]),
    ]);
    let files = std::fs::read_dir(folder().join("ablations")).expect("folder");
    let mut seen = 0;
    for file in files {
        let path = file.expect("file").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("name").to_string();
        assert_eq!(
            changes(&path),
            *expected.get(name.as_str()).unwrap_or_else(|| panic!("{name} is unknown")),
            "{name}"
        );
        // Every one can be planned, and the trained parts are those that the table says.
        let plan = planned(&format!("ablations/{name}.toml"));
        let trains_llm = |stage: usize| plan.stages[stage].stage.trains("llm.lm_head.weight");
        let frozen =
            [&["table-1a", "table-1b", "table-8-visual-expert", "table-9-lora"][..], &["table-1a", "table-9-lora"]];
        assert_eq!([1, 2].map(trains_llm), frozen.map(|names| !names.contains(&name.as_str())), "{name}");
        seen += 1;
    }
    assert_eq!(seen, expected.len());
}
