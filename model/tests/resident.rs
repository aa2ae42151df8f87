//! A model larger than memory opens in little of it: alone in its process, because it measures that.

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use common::{copy, folder, layouts};
use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::config::Layout;
use vila_model::weights::Checkpoint;
use vila_model::{Vila, VilaConfig, VilaModel};

/// Writes a folder's tensors without content: a header, and a hole where the bytes would be.
fn sparse(path: &Path, dtype: &str, tensors: &[(String, Vec<usize>)]) -> u64 {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = std::fs::File::create(path).expect("file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("length");
    file.write_all(header.as_bytes()).expect("header");
    let size = 8 + header.len() as u64 + end as u64;
    file.set_len(size).expect("size");
    size
}

fn write_json(path: &Path, edit: &Value) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).expect("file")).expect("json");
    value.as_object_mut().expect("object").extend(edit.as_object().expect("object").clone());
    std::fs::write(path, value.to_string()).expect("write");
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("number").parse::<usize>().expect("number") << 10
}

#[test]
fn a_model_of_seven_billion_parameters_opens_with_less_than_a_gigabyte() {
    for dtype in ["BF16", "F16"] {
        let dir = folder("seven-billion");
        copy(&layouts().join("vila"), &dir);
        for shard in 1..=3 {
            std::fs::remove_file(dir.join(format!("llm/model-0000{shard}-of-00003.safetensors"))).expect("remove");
        }
        std::fs::remove_file(dir.join("llm/model.safetensors.index.json")).expect("remove");
        write_json(
            &dir.join("llm/config.json"),
            &json!({"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096}),
        );
        let tower = json!({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14});
        write_json(&dir.join("vision_tower/config.json"), &tower);
        let processor = json!({"crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336}});
        write_json(&dir.join("vision_tower/preprocessor_config.json"), &processor);
        write_json(&dir.join("config.json"), &json!({"hidden_size": 4096, "mm_hidden_size": 1024}));
        let (config, layout) = VilaConfig::read(&dir).expect("config");
        assert_eq!(layout, Layout::Vila);
        let mut size = 0;
        for (part, prefix) in [("llm", "llm."), ("vision_tower", "vision_tower."), ("mm_projector", "mm_projector.")] {
            let parts = VilaModel::specs(&config).into_iter().flat_map(|spec| spec.parts);
            let named = parts.filter_map(|part| Some((part.name.strip_prefix(prefix)?.to_string(), part.shape)));
            size += sparse(&dir.join(part).join("model.safetensors"), dtype, &named.collect::<Vec<_>>());
        }
        assert!(size > 13_500_000_000, "{size}");
        let before = resident();
        let vila = Vila::load(&dir, Arc::new(CpuBackend::fast())).expect("load");
        let grown = resident().saturating_sub(before);
        assert!(grown < 1 << 30, "{grown} bytes became resident");
        drop(vila);
        assert!(Checkpoint::open(&dir, layout).expect("open").tensors().count() > 600);
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
