//! Metrics against the official evaluators (fixtures by `scripts/make_metrics.py`).

use std::path::PathBuf;

use serde_json::Value;
use vila_train::evaluation::metrics::{METRICS, MetricFiles, caption_tokens, evalai_normalize, infer_option};

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
    for file in ["ptb.json", "ptb_harder.json"] {
        let cases = json(file);
        let cases = cases.as_array().expect("cases");
        let texts: Vec<&str> = cases.iter().map(|case| case[0].as_str().expect("a text")).collect();
        for (case, tokens) in cases.iter().zip(caption_tokens(&texts)) {
            assert_eq!(Value::from(tokens), case[1], "{}", case[0]);
        }
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

/// Fixtures by `scripts/make_choices.py`.
fn choices(metric: &str, predictions: &str, references: &str, questions: Option<&str>) -> (Value, Value) {
    let file = |name: &str| fixture("../choices").join(metric).join(name);
    let named = METRICS.iter().find(|known| known.name == metric).expect("a metric");
    let (predictions, references) = (file(predictions), file(references));
    let files = MetricFiles { predictions, references, questions: questions.map(file), tokenized: false };
    let expected = std::fs::read_to_string(file("expected.json")).expect("expected");
    (named.compute(&files).expect(metric).json(), serde_json::from_str(&expected).expect("expected"))
}

fn close(ours: &Value, official: &Value, within: f64) {
    let (a, b) = (ours.as_f64().expect("ours"), official.as_f64().expect("official"));
    assert!((a - b).abs() <= within, "{a} for {b}");
}

#[test]
fn pope_equals_llavas_evaluator() {
    let (report, expected) = choices("pope", "answers.jsonl", "labels", Some("questions.jsonl"));
    for (category, expected) in expected.as_object().expect("categories") {
        for (field, official) in expected.as_object().expect("fields") {
            close(&report["categories"][category][field], official, 1e-15);
        }
    }
    let mean =
        ["adversarial", "popular", "random"].iter().filter_map(|name| expected[name]["f1"].as_f64()).sum::<f64>();
    close(&report["score"], &(mean / 3.0).into(), 1e-15);
}

/// Answers in the order of the labels: with the labels' ids, which come again in each category, or with none at all.
#[test]
fn pope_answers_go_by_order_where_ids_do_not_tell() {
    let folder = std::env::temp_dir().join(format!("vila-pope-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("labels")).expect("folder");
    let answers = folder.join("answers.jsonl");
    let mut lines = [String::new(), String::new()];
    for (category, object) in [("popular", "dog"), ("random", "cat")] {
        let label = |id: usize| {
            let yes = ["yes", "no"][id % 2];
            format!("{{\"question_id\": {id}, \"text\": \"Is there a {object} {id}?\", \"label\": \"{yes}\"}}\n")
        };
        std::fs::write(folder.join(format!("labels/coco_pope_{category}.json")), (0..4).map(label).collect::<String>())
            .expect("labels");
        for id in 0..4 {
            let answer = ["Yes", "No"][usize::from(id > 1)];
            lines[0] += &format!(
                "{{\"question_id\": {id}, \"prompt\": \"Is there a {object} {id}?\\nShort.\", \"text\": \"{answer}\"}}\n"
            );
            lines[1] += &format!("{{\"question\": \"is there a {object} {id}?\", \"answer\": \"{answer}\"}}\n");
        }
    }
    let named = METRICS.iter().find(|known| known.name == "pope").expect("a metric");
    let files = MetricFiles {
        predictions: answers.clone(),
        references: folder.join("labels"),
        questions: None,
        tokenized: false,
    };
    for lines in &lines {
        std::fs::write(&answers, lines).expect("answers");
        let report = named.compute(&files).expect("a report").json();
        assert_eq!((report["score"].as_f64(), report["categories"]["random"]["tp"].as_u64()), (Some(0.5), Some(1)));
        // Another order is noticed.
        let turned: Vec<&str> = lines.lines().rev().collect();
        std::fs::write(&answers, turned.join("\n")).expect("answers");
        let said = named.compute(&files).expect_err("another order").to_string();
        assert!(said.contains("does not ask \"Is there a dog 0?\""), "{said}");
    }
    std::fs::write(&answers, lines[1].lines().next().expect("line")).expect("answers");
    assert!(named.compute(&files).expect_err("one answer").to_string().contains("no prediction for 7 of"));
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn scienceqa_equals_llavas_evaluator() {
    let (report, expected) = choices("scienceqa", "answers.jsonl", "problems.json", None);
    close(&report["score"], &expected["image_accuracy"], 1e-15);
    for field in ["accuracy", "image_accuracy", "image_questions"] {
        close(&report[field], &expected[field], 1e-15);
    }
}

#[test]
fn mme_equals_its_tool() {
    let (report, expected) = choices("mme", "results", "results", None);
    close(&report["score"], &expected["perception"], 1e-9);
    close(&report["cognition"], &expected["cognition"], 1e-9);
    for (subtask, score) in expected["subtasks"].as_object().expect("subtasks") {
        close(&report["subtasks"][subtask]["score"], score, 1e-9);
    }
}

#[test]
fn options_of_mmbench_are_read_as_by_vlmevalkit() {
    let cases: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("../choices/mmbench.json")).expect("cases"))
            .expect("cases");
    for case in cases.as_array().expect("cases") {
        let options: Vec<(char, String)> = case[1]
            .as_object()
            .expect("options")
            .iter()
            .map(|(letter, text)| (letter.chars().next().expect("letter"), text.as_str().expect("text").to_owned()))
            .collect();
        let read = infer_option(case[0].as_str().expect("answer"), &options).map(String::from);
        assert_eq!(Value::from(read), case[2], "{case}");
    }
}

#[test]
fn seed_equals_llavas_converter() {
    let (report, expected) = choices("seed", "answers.jsonl", "questions.json", None);
    // It prints percents with two digits.
    close(&report["score"], &(expected["Total"].as_f64().expect("total") / 100.0).into(), 5.1e-5);
    for (group, percent) in expected.as_object().expect("groups").iter().filter(|(name, _)| *name != "Total") {
        close(&report["groups"][group], &(percent.as_f64().expect("percent") / 100.0).into(), 5.1e-5);
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

/// What the official evaluators make of odd files: their values, found by running them.
#[test]
fn odd_files_are_read_as_by_the_official_evaluators() {
    let dir = crate::training::scratch("odd-metric-files");
    let score = |metric: &str, predictions: (&str, &str), references: (&str, &str)| {
        for (name, text) in [predictions, references] {
            std::fs::create_dir_all(dir.join(name).parent().expect("a folder")).expect("a folder");
            std::fs::write(dir.join(name), text).expect("a file");
        }
        let top = |name: &str| dir.join(name.split('/').next().expect("a name"));
        let metric = METRICS.iter().find(|known| known.name == metric).expect("a metric");
        let (predictions, references) = (top(predictions.0), top(references.0));
        metric.compute(&MetricFiles { predictions, references, questions: None, tokenized: false })
    };
    let option_none = r#"[{"index":1,"A":"x","B":"none","answer":"B"},{"index":2,"A":"x","B":"y","answer":"A"}]"#;
    let answers = r#"[{"index":1,"prediction":"B"},{"index":2,"prediction":null}]"#;
    let report = score("mmbench", ("p.json", answers), ("r.json", option_none)).expect("mmbench");
    assert_eq!(report.score(), 0.5, "an option `none`, and an empty answer that is wrong");

    let annotation = |id| format!(r#"{{"question_id":{id},"answers":[{{"answer":"a"}},{{"answer":"a","n":1}}]}}"#);
    let (twice, once) = (annotation(1), annotation(2));
    let annotations = format!("[{twice},{twice},{once}]");
    let results = r#"[{"question_id":1,"answer":"a"},{"question_id":2,"answer":"b"}]"#;
    let report = score("vqa", ("p.json", results), ("r.json", &annotations)).expect("vqa");
    assert_eq!(report.score(), 22.22, "an annotation that is there twice counts twice");

    let gold = r#"{"p":{"passage":"","qa_pairs":[
        {"query_id":"1","question":"","answer":{"number":"","spans":[],"date":{"day":3,"month":"May","year":null}}},
        {"query_id":"2","question":"","answer":{"number":1e-05,"spans":[]}},
        {"query_id":"3","question":"","answer":{"number":"","spans":["x\u001cy"]}}]}}"#;
    let answers = r#"{"1":"3 May None","2":"1e-05","3":"x y"}"#;
    assert_eq!(score("drop", ("p.json", answers), ("r.json", gold)).expect("drop").score(), 1.0);

    let line = |image, answer| format!("{image}\tIs it?\tYes\t{answer}\n");
    let [a, b] = [line("1.jpg", "Yes"), line("1.jpg", "No")];
    let pairs = [a.as_str(), &a, &a, &b].concat();
    let report = score("mme", ("answers/count.txt", &pairs), ("r.json", "")).expect("mme");
    assert_eq!(report.score(), 125.0, "lines belong together by two, whatever image they name");
    let odd = score("mme", ("answers/count.txt", &a), ("r.json", "")).expect_err("half a pair").to_string();
    assert!(odd.contains("count.txt") && odd.contains("each image has two"), "{odd}");

    let images = r#"{"images":[{"id":1},{"id":1},{"id":2}],"annotations":[
        {"image_id":1,"caption":"a dog"},{"image_id":2,"caption":"a cat"}]}"#;
    let captions = r#"[{"image_id":1,"caption":"a dog"},{"image_id":2,"caption":"a cat"}]"#;
    let report = score("cider", ("p.json", captions), ("r.json", images)).expect("an image may be listed twice");
    assert_eq!(report.json()["images"], 2);
}
