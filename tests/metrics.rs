//! Metrics against the official evaluators (fixtures by `scripts/make_metrics.py`).

use std::path::PathBuf;

use serde_json::Value;
use vila_train::evaluation::metrics::{METRICS, MetricFiles, caption_tokens, evalai_normalize};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/metrics").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).expect(name)).expect(name)
}

fn report(metric: &str, predictions: &str, references: &str, tokenized: bool) -> Value {
    let metric = METRICS.iter().find(|known| known.name == metric).expect("a metric");
    let (predictions, references) = (fixture(predictions), fixture(references));
    metric.compute(&MetricFiles { predictions, references, questions: None, tokenized }).expect("a report").json()
}

#[test]
fn cider_equals_coco_caption() {
    let expected = json("captions_expected.json");
    for (tokenized, field) in [(false, "cider"), (true, "cider_tokenized")] {
        let report = report("cider", "captions_results.json", "captions_annotations.json", tokenized);
        let (ours, official) = (report["score"].as_f64().expect("score"), expected[field].as_f64().expect("score"));
        assert!((ours - official).abs() < 1e-9, "{field}: {ours} for {official}");
    }
    let report = report("cider", "captions_results.json", "captions_annotations.json", false);
    let ours = report["per_image"].as_object().expect("images").values();
    let official = expected["per_image"].as_array().expect("images");
    assert_eq!(ours.len(), official.len());
    for (ours, official) in ours.zip(official) {
        assert!((ours.as_f64().expect("score") - official.as_f64().expect("score")).abs() < 1e-9);
    }
}

#[test]
fn captions_are_tokenized_as_by_the_treebank_tokenizer() {
    let cases = json("ptb.json");
    let cases = cases.as_array().expect("cases");
    let texts: Vec<&str> = cases.iter().map(|case| case[0].as_str().expect("a text")).collect();
    for (case, tokens) in cases.iter().zip(caption_tokens(&texts)) {
        assert_eq!(Value::from(tokens), case[1], "{}", case[0]);
    }
}

#[test]
fn vqa_equals_the_official_evaluator() {
    let (report, official) =
        (report("vqa", "vqa_results.json", "vqa_annotations.json", false), &json("vqa_expected.json")["official"]);
    assert_eq!(report["score"], official["overall"]);
    assert_eq!(report["per_question_type"], official["perQuestionType"]);
    assert_eq!(report["per_answer_type"], official["perAnswerType"]);
}

#[test]
fn vqa_evalai_equals_its_processor() {
    let expected = json("vqa_expected.json");
    for case in expected["normalized"].as_array().expect("cases") {
        assert_eq!(Value::from(evalai_normalize(case[0].as_str().expect("a text"))), case[1], "{}", case[0]);
    }
    let report = report("vqa-evalai", "vqa_results.json", "vqa_annotations.json", false);
    let (ours, official) = (report["accuracy"].as_f64().expect("share"), expected["evalai"].as_f64().expect("share"));
    assert!((ours - official).abs() < 1e-12, "{ours} for {official}");
}

#[test]
fn drop_equals_its_official_tool() {
    let (report, expected) =
        (report("drop", "drop_predictions.json", "drop_gold.json", false), json("drop_expected.json"));
    for field in ["em", "f1"] {
        let (ours, official) = (report[field].as_f64().expect("share"), expected[field].as_f64().expect("share"));
        assert!((ours - official).abs() < 1e-12, "{field}: {ours} for {official}");
    }
}

#[test]
fn answers_that_are_missing_are_named() {
    let metric = METRICS.iter().find(|known| known.name == "vqa").expect("a metric");
    let files = MetricFiles {
        predictions: fixture("captions_results.json"),
        references: fixture("vqa_annotations.json"),
        questions: None,
        tokenized: false,
    };
    let message = metric.compute(&files).expect_err("other files").to_string();
    assert!(message.contains("captions_results.json item 1") && message.contains("`question_id`"), "{message}");
}
