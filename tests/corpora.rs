//! `scripts/corpora.py` on small files in the published forms, into shards.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::child::command;
use crate::training::scratch;

/// Runs the script; nothing where Python is not installed, which CI refuses.
fn corpora(arguments: &[&str], folder: &Path) -> Option<String> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/corpora.py");
    let run = Command::new("python3").arg(script).args(arguments).current_dir(folder).output();
    let Ok(run) = run else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "Python is not here");
        eprintln!("Python is not here: the script was not run");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(String::from_utf8(run.stdout).expect("UTF-8"))
}

fn write_lines(path: &Path, records: &[Value]) {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n") + "\n").expect("a file");
}

fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What `vila data ingest` makes of a file and `out/images`: how many documents and images.
fn ingest(folder: &Path, format: &[&str], name: &str) -> (u64, u64) {
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-llava-hf/tokenizer.json");
    let files = ["--input", name, "--images", "out/images", "--tokenizer", tokenizer, "--out", "shard"];
    let arguments = [&["data", "ingest", "--json", "--on-error", "skip"], format, &files].concat();
    let run = command(&arguments).current_dir(folder).output().expect("vila");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8(run.stdout).expect("UTF-8");
    let counts = said.find('{').and_then(|start| serde_json::Deserializer::from_str(&said[start..]).into_iter().next());
    let counts: Value = counts.expect("a report").expect("JSON");
    let count = |field: &str| counts["counts"][field].as_u64().unwrap_or_else(|| panic!("{field} in {counts}"));
    (count("samples"), count("image_uses"))
}

#[test]
fn documents_of_mmc4_come_with_all_their_images_or_not_at_all() {
    let folder = scratch("corpora-mmc4");
    let url = |name: &str| format!("file://{}", folder.join(name).display());
    for level in 0..8u8 {
        let image = image::GrayImage::from_pixel(4, 6, image::Luma([level]));
        image.save_with_format(folder.join(level.to_string()), image::ImageFormat::Png).expect("an image");
    }
    std::fs::write(folder.join("page"), "<html>").expect("a page");
    let document = |names: &[&str]| {
        let images = names.iter().enumerate().map(|(sentence, name)| {
            json!({"image_name": "x.jpg", "raw_url": url(name), "matched_text_index": sentence, "matched_sim": 0.3})
        });
        let sentences: Vec<String> = (0..names.len()).map(|number| format!("sentence {number} .")).collect();
        json!({"text_list": sentences, "image_info": images.collect::<Vec<_>>(), "similarity_matrix": [[0.1]]})
    };
    let eight = ["0", "1", "2", "3", "4", "5", "6", "gone"];
    let documents = [document(&eight), document(&["7", "gone"]), document(&[]), document(&["7", "page"])];
    write_lines(&folder.join("docs.jsonl"), &documents);
    let Some(said) = corpora(&["mmc4", "docs.jsonl", "--out", "out"], &folder) else { return };
    assert!(said.contains("2 of 4 records"), "{said}");
    let again = corpora(&["mmc4", "docs.jsonl", "--out", "out"], &folder);
    assert!(again.is_some_and(|said| said.contains("done before")));
    let kept = read_lines(&folder.join("out/docs.jsonl"));
    assert_eq!(kept[0]["image_info"].as_array().map(Vec::len), Some(6), "the first six");
    // The page is no image; its document is passed over when it is read.
    assert_eq!(ingest(&folder, &["--format", "mmc4"], "out/docs.jsonl"), (1, 6));
}

#[test]
fn records_of_m3it_become_conversations() {
    let folder = scratch("corpora-m3it");
    // One pixel.
    let pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let dialog = "Image Descriptions: a room\nQuestion: is it red?\nAnswer: yes\nQuestion: is it big?\nAnswer: ";
    let record = |inputs: &str, outputs: &str, images: Value| {
        let instruction = "Look. ";
        json!({"instruction": instruction, "inputs": inputs, "outputs": outputs, "image_base64_str": images})
    };
    let records = [
        record("What <image> is it?", "a dot \n", json!([pixel, pixel])),
        record(dialog, "no", json!(pixel)),
        record("Say hello.", "hello", json!([])),
    ];
    for set in ["vqa", "other"] {
        std::fs::create_dir(folder.join(set)).expect("a folder");
        write_lines(&folder.join(set).join("train.jsonl"), &records);
    }
    let inputs = ["m3it", "vqa/train.jsonl", "other/train.jsonl", "--out", "out"];
    if corpora(&inputs, &folder).is_none() {
        return;
    }
    let turns = |record: &Value| {
        let turns = record["conversations"].as_array().expect("turns").iter();
        turns.map(|turn| turn["value"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    let made = read_lines(&folder.join("out/vqa-train.jsonl"));
    assert_eq!(turns(&made[0]), ["<image>\n<image>\nLook. What  is it?", "a dot"]);
    assert_eq!(turns(&made[1]), ["<image>\nis it red?", "yes", "is it big?", "no"]);
    assert_eq!(turns(&made[2]), ["Look. Say hello.", "hello"]);
    assert_eq!(made[2].get("image"), None);
    let llava = ["--format", "llava", "--template", "vicuna_v1_nosys"];
    assert_eq!(ingest(&folder, &llava, "out/vqa-train.jsonl"), (3, 3));
}

#[test]
fn corpora_bad_record_and_urls() {
    let folder = scratch("corpora-bad");
    let picture = image::GrayImage::from_pixel(4, 6, image::Luma([9]));
    for name in ["a b.png", "\u{e9}t\u{e9}.png", "c.png"] {
        picture.save_with_format(folder.join(name), image::ImageFormat::Png).expect("an image");
    }
    let document = |info: Value| json!({"text_list": ["a sentence"], "image_info": [info]});
    let url =
        |name: &str| json!({"raw_url": format!("file://{}", folder.join(name).display()), "matched_text_index": 0});
    let pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let good = [
        document(url("a b.png")),
        document(url("\u{e9}t\u{e9}.png")),
        document(url("a%20b.png")),
        document(json!({"image_base64": pixel, "matched_text_index": 0, "image_name": "x.png"})),
        json!({"text_list": ["half \u{1F600}"], "image_info": [url("c.png")]}),
    ];
    let bad = [
        "{\"text_list\": [",
        "[1]",
        "{\"image_info\": [{\"matched_text_index\": 0}]}",
        "{\"text_list\": [], \"image_info\": 7}",
    ];
    let mut lines: Vec<String> = good.iter().map(Value::to_string).collect();
    lines[4] = lines[4].replace("\u{1F600}", "\\ud83d");
    for (place, bad) in bad.into_iter().enumerate() {
        lines.insert(2 * place, bad.to_owned());
    }
    std::fs::write(folder.join("docs.jsonl"), "\u{FEFF}".to_owned() + &lines.join("\r\n")).expect("a file");
    let Some(said) = corpora(&["mmc4", "docs.jsonl", "--out", "out"], &folder) else { return };
    assert!(said.contains("5 of 9 records; 4 could not be read"), "{said}");
    assert_eq!(ingest(&folder, &["--format", "mmc4"], "out/docs.jsonl"), (5, 5));
}
