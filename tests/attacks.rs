//! Checkpoint directories that lie: each an error that names what is wrong, before anything of the claimed size is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::Vila;

/// A copy of the small fixture with an edited `config.json`.
fn edited(name: &str, edit: impl Fn(&mut Value)) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attack-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    for file in ["model.safetensors", "tokenizer.json", "preprocessor_config.json"] {
        std::fs::copy(source.join(file), dir.join(file)).expect("copy");
    }
    let text = std::fs::read_to_string(source.join("config.json")).expect("config");
    let mut config: Value = serde_json::from_str(&text).expect("json");
    edit(&mut config);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("config");
    dir
}

fn message(dir: &Path) -> String {
    match Vila::load(dir, Arc::new(CpuBackend::fast())) {
        Ok(_) => panic!("{} loaded", dir.display()),
        Err(error) => error.to_string(),
    }
}

/// A name, what is changed, and what the message must say.
type Attack = (&'static str, fn(&mut Value), &'static [&'static str]);

#[test]
fn configurations_that_lie_are_refused() {
    let cases: [Attack; 9] = [
        ("layers", |c| c["text_config"]["num_hidden_layers"] = json!(4_000_000_000u64), &["num_hidden_layers"]),
        ("vocabulary", |c| c["text_config"]["vocab_size"] = json!(16_000_000), &["embed_tokens", "512"]),
        ("zero", |c| c["text_config"]["hidden_size"] = json!(0), &["hidden_size", "positive"]),
        ("negative", |c| c["vision_config"]["image_size"] = json!(-3), &["vision_config.image_size"]),
        ("heads", |c| c["text_config"]["num_key_value_heads"] = json!(3), &["num_key_value_heads"]),
        ("family", |c| c["text_config"]["model_type"] = json!("qwen2"), &["model_type", "qwen2"]),
        ("fewer-layers", |c| c["text_config"]["num_hidden_layers"] = json!(2), &["not in the model", "layers.2"]),
        ("rope", |c| c["text_config"]["rope_parameters"]["rope_type"] = json!("yarn"), &["rope_type", "yarn"]),
        ("state", |c| c["vision_feature_layer"] = json!(-9), &["-9"]),
    ];
    for (name, edit, parts) in cases {
        let said = message(&edited(name, edit));
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} is missing in: {said}");
        }
    }
}

#[test]
fn weight_files_that_lie_are_refused() {
    let source = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llava-hf/model.safetensors"));
    let whole = source.expect("weights");
    let dir = edited("weights", |_| {});
    let path = dir.join("model.safetensors");
    let mut longer_header = whole.clone();
    longer_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (what, bytes) in [("cut", whole[..whole.len() / 2].to_vec()), ("header", longer_header), ("empty", Vec::new())]
    {
        std::fs::write(&path, bytes).expect("write");
        let said = message(&dir);
        assert!(said.contains("model.safetensors"), "{what}: {said}");
    }
    std::fs::remove_file(&path).expect("remove");
    assert!(message(&dir).contains("model.safetensors"));
}
