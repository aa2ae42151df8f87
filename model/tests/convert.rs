//! Conversion between layouts: every tensor to the bit, there and back.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{
    copy, edit_json, fixtures, folder, layouts, llava_apart, llava_embedded, read_json, renamed, write_weights,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::config::Layout;
use vila_model::convert::{self, Conversion, SHARD_BYTES};
use vila_model::weights::{Checkpoint, RawTensor, to_f32};
use vila_model::{Vila, VilaConfig, score};

const ALL: [Layout; 3] = [Layout::Vila, Layout::Llava, Layout::LlavaHf];

fn convert(from: &Path, to: &Path, layout: Layout) -> Conversion {
    convert::convert(from, to, layout, SHARD_BYTES).expect("convert")
}

fn refused(from: &Path, to: &Path, layout: Layout) -> String {
    convert::convert(from, to, layout, SHARD_BYTES).expect_err("refused").to_string()
}

/// Every tensor in the weight files under a folder, by the folder it lies in and its name there.
fn stored(dir: &Path) -> BTreeMap<String, RawTensor> {
    let mut tensors = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            tensors.extend(stored(&path).into_iter().map(|(tensor, raw)| (format!("{name}/{tensor}"), raw)));
        } else if name.ends_with(".safetensors") || name.ends_with(".bin") {
            tensors.extend(renamed(&path, str::to_string));
        }
    }
    tensors
}

fn assert_same(got: &BTreeMap<String, RawTensor>, want: &BTreeMap<String, RawTensor>, what: &str) {
    let names = |tensors: &BTreeMap<String, RawTensor>| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(want), "{what}");
    for (name, raw) in want {
        let other = &got[name];
        assert_eq!((other.dtype, &other.shape), (raw.dtype, &raw.shape), "{what}: {name}");
        assert!(other.data == raw.data, "{what}: {name} has other bytes");
    }
}

fn raw(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> RawTensor {
    RawTensor { dtype, shape: shape.to_vec(), data }
}

/// Adds tensors to a safetensors file.
fn add(path: &Path, more: &[(&str, RawTensor)]) {
    let mut tensors = renamed(path, str::to_string);
    tensors.extend(more.iter().map(|(name, raw)| (name.to_string(), raw.clone())));
    write_weights(path, &tensors);
}

/// The small model with tensors that nothing uses, in the three layouts.
fn starts(name: &str) -> Vec<(Layout, PathBuf)> {
    let frequencies = raw(Dtype::F32, &[2], vec![7; 8]);
    let ids = raw(Dtype::I64, &[1, 10], vec![1; 80]);
    let text = raw(Dtype::F16, &[4], vec![3; 8]);
    let scale = raw(Dtype::F32, &[], vec![5; 4]);
    let hf = folder(&format!("{name}-hf"));
    copy(&layouts().join("llava-hf"), &hf);
    let weights = hf.join("model.safetensors");
    add(
        &weights,
        &[
            ("language_model.model.layers.0.self_attn.rotary_emb.inv_freq", frequencies.clone()),
            ("vision_tower.embeddings.position_ids", ids.clone()),
            ("vision_tower.text_model.norm.weight", text.clone()),
            ("image_newline", scale.clone()),
        ],
    );
    let vila = folder(&format!("{name}-vila"));
    copy(&layouts().join("vila"), &vila);
    add(
        &vila.join("vision_tower/model.safetensors"),
        &[
            ("vision_model.embeddings.position_ids", ids),
            ("vision_model.head.probe", text.clone()),
            ("text_model.norm.weight", text),
            ("logit_scale", scale),
        ],
    );
    let shard = vila.join("llm/model-00002-of-00003.safetensors");
    add(&shard, &[("model.layers.0.self_attn.rotary_emb.inv_freq", frequencies)]);
    let llava = folder(&format!("{name}-llava")).join("model");
    copy(&llava_embedded(), &llava);
    copy(&layouts().join("parts/clip-tiny"), &llava.join("../clip-tiny"));
    vec![(Layout::LlavaHf, hf), (Layout::Vila, vila), (Layout::Llava, llava)]
}

fn first_score(dir: &Path) -> Vec<f64> {
    let vila = Vila::load(dir, Arc::new(CpuBackend::fast())).expect("load");
    let image = fixtures().join("images/cat_rgba.png");
    score(&vila, "<image>The cat sits on", " a red mat.", &[image]).expect("score").token_logprobs
}

#[test]
fn every_pair_of_layouts_there_and_back_is_the_same_to_the_bit() {
    let out = folder("convert-pairs");
    for (from, start) in starts("pairs") {
        let want = stored(&start);
        let scores = first_score(&start);
        for to in ALL {
            let there = out.join(format!("{}-{}", from.name(), to.name()));
            let made = convert(&start, &there, to);
            assert_eq!((made.from, made.to, made.tensors, made.rows), (from, to, want.len(), 0));
            assert_eq!(made.bytes, want.values().map(|raw| raw.data.len() as u64).sum::<u64>());
            assert_eq!(VilaConfig::read(&there).expect("config").1, to);
            assert_eq!(first_score(&there), scores, "{}", there.display());
            for via in ALL {
                let (third, back) = (there.with_extension("third"), there.with_extension("back"));
                convert(&there, &third, via);
                convert(&third, &back, from);
                assert_same(&stored(&back), &want, &format!("{} {} {}", from.name(), to.name(), via.name()));
                assert_eq!(first_score(&back), scores);
                [third, back].iter().for_each(|dir| std::fs::remove_dir_all(dir).expect("remove"));
            }
        }
    }
}

#[test]
fn parts_that_lie_beside_are_taken_in_whole() {
    let dir = llava_apart("convert-apart");
    let out = folder("convert-apart-out");
    convert(&dir, &out.join("vila"), Layout::Vila);
    let (made, tower) = (stored(&out.join("vila/vision_tower")), stored(&dir.join("openai/clip-tiny")));
    assert!(tower.contains_key("text_model.final_layer_norm.weight"));
    assert_same(&made, &tower, "tower");
    assert_eq!(first_score(&out.join("vila")), first_score(&dir));
    // The tower's own configuration stays whole, text model and all.
    let config = read_json(&out.join("vila/vision_tower/config.json"));
    assert_eq!(config, read_json(&dir.join("openai/clip-tiny/config.json")));

    convert(&out.join("vila"), &out.join("llava"), Layout::Llava);
    assert_eq!(first_score(&out.join("llava")), first_score(&dir));
    // What LLaVA has in its configuration and others have not comes back.
    let config = read_json(&out.join("llava/config.json"));
    assert_eq!((&config["mm_vision_tower"], &config["use_mm_proj"]), (&json!("openai/clip-tiny"), &json!(true)));
}

#[test]
fn large_folders_are_spread_over_files_with_an_index() {
    let out = folder("convert-shards").join("out");
    let limit = 20_000;
    let source = layouts().join("llava-hf");
    let made = convert::convert(&source, &out, Layout::Vila, limit).expect("convert");
    assert!(made.files > 6, "{made:?}");
    let index = read_json(&out.join("llm/model.safetensors.index.json"));
    let map = index["weight_map"].as_object().expect("map");
    let mut total = 0;
    for path in std::fs::read_dir(out.join("llm")).expect("folder").map(|entry| entry.expect("entry").path()) {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let tensors = renamed(&path, str::to_string);
            let bytes: u64 = tensors.values().map(|raw| raw.data.len() as u64).sum();
            assert!(bytes <= limit || tensors.len() == 1, "{}: {bytes}", path.display());
            total += bytes;
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            assert!(tensors.keys().all(|tensor| map[tensor] == *name));
        }
    }
    assert_eq!(index["metadata"]["total_size"], json!(total));
    assert_eq!(first_score(&out), first_score(&source));
}

/// The three folders with a decoder that has no image token: the last row of its tables is gone.
fn without_image_token(name: &str) -> PathBuf {
    let dir = folder(name);
    copy(&layouts().join("vila"), &dir);
    for shard in 1..=3 {
        let path = dir.join(format!("llm/model-{shard:05}-of-00003.safetensors"));
        let mut tensors = renamed(&path, str::to_string);
        for table in ["model.embed_tokens.weight", "lm_head.weight"] {
            if let Some(raw) = tensors.get_mut(table) {
                raw.data.truncate(raw.data.len() / 512 * 511);
                raw.shape[0] = 511;
            }
        }
        write_weights(&path, &tensors);
    }
    edit_json(&dir.join("llm/config.json"), |config| config["vocab_size"] = json!(511));
    edit_json(&dir.join("llm/tokenizer.json"), |file| {
        let tokens = file["added_tokens"].as_array_mut().expect("tokens");
        tokens.retain(|token| token["content"] != "<image>");
    });
    std::fs::write(dir.join("llm/tokenizer_config.json"), r#"{"legacy": false, "unk_token": "<unk>"}"#).expect("write");
    dir
}

#[test]
fn an_image_token_gets_rows_that_go_again() {
    let dir = without_image_token("convert-rows");
    let out = folder("convert-rows-out");
    let hf = out.join("hf");
    assert_eq!(convert(&dir, &hf, Layout::LlavaHf).rows, 65);
    let (before, after) = (stored(&dir.join("llm")), stored(&hf));
    for table in ["model.embed_tokens.weight", "lm_head.weight"] {
        let (old, new) = (&before[table], &after[&format!("language_model.{table}")]);
        assert_eq!((new.dtype, &new.shape[..]), (Dtype::BF16, &[576, 32][..]));
        assert_eq!(new.data[..old.data.len()], old.data);
        let (old, new) = (to_f32(old).expect("floats"), to_f32(new).expect("floats"));
        for (column, value) in new[511 * 32..].iter().enumerate() {
            let sum: f64 = old.iter().skip(column % 32).step_by(32).map(|x| f64::from(*x)).sum();
            let mean = half::bf16::from_f32((sum / 511.0) as f32).to_f32();
            assert_eq!(*value, mean, "{table}, element {column} of the new rows");
        }
    }
    let config = read_json(&hf.join("config.json"));
    assert_eq!((&config["image_token_index"], &config["pad_token_id"]), (&json!(511), &json!(512)));
    assert_eq!(config["text_config"]["vocab_size"], json!(576));
    assert_eq!(config["vila_added"], json!({"rows": 65, "tokens": ["<image>", "<pad>"]}));
    let settings = read_json(&hf.join("tokenizer_config.json"));
    assert_eq!((&settings["pad_token"], settings.get("legacy")), (&json!("<pad>"), None));
    // With the image token in its vocabulary, the program reads the same prompts.
    let vila = Vila::load(&hf, Arc::new(CpuBackend::fast())).expect("load");
    let plain = Vila::load(&dir, Arc::new(CpuBackend::fast())).expect("load");
    assert_eq!((vila.tokenizer.image_token(), plain.tokenizer.image_token()), (Some(511), None));
    let prompt = "USER: <image>\nWhat <image>is it?";
    let ids = |vila: &Vila| vila.tokenizer.encode_prompt(prompt).expect("ids");
    assert_eq!(ids(&vila), ids(&plain));

    for (via, name) in [(Layout::Vila, "vila"), (Layout::Llava, "llava"), (Layout::LlavaHf, "again")] {
        let (third, back) = (out.join(name), out.join(format!("{name}-back")));
        let rows = convert(&hf, &third, via).rows;
        assert_eq!(rows, if via == Layout::LlavaHf { 0 } else { -65 });
        convert(&third, &back, Layout::Vila);
        assert_same(&stored(&back), &stored(&dir), name);
        let text = |dir: &Path, file: &str| read_json(&dir.join("llm").join(file));
        assert_eq!(text(&back, "tokenizer.json")["added_tokens"], text(&dir, "tokenizer.json")["added_tokens"]);
        assert_eq!(text(&back, "tokenizer_config.json"), text(&dir, "tokenizer_config.json"));
        assert_eq!(text(&back, "config.json")["vocab_size"], json!(511));
        assert_eq!(first_score(&back), first_score(&dir));
    }

    edit_json(&hf.join("config.json"), |config| config["vila_added"]["rows"] = json!(576));
    let said = refused(&hf, &out.join("wrong"), Layout::Vila);
    assert!(said.contains("`vila_added`") && said.contains("576"), "{said}");
}

/// With the image token in the vocabulary, a text is tokenized as a whole; what stood between images must not notice.
#[test]
fn pieces_between_images_keep_a_start_of_their_own() {
    let dir = without_image_token("convert-pieces");
    edit_json(&dir.join("llm/tokenizer.json"), |file| {
        file["normalizer"] = Value::Null;
        file["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    });
    let out = folder("convert-pieces-out");
    convert(&dir, &out.join("hf"), Layout::LlavaHf);
    convert(&out.join("hf"), &out.join("back"), Layout::Vila);
    let load = |dir: &Path| Vila::load(dir, Arc::new(CpuBackend::fast())).expect("load");
    let (plain, hf) = (load(&dir), load(&out.join("hf")));
    for prompt in ["USER: <image>\nWhat <image><image> is</s>it?<image>", "<image>The cat", "A rocket", "<image>"] {
        let ids = |vila: &Vila| vila.tokenizer.encode_prompt(prompt).expect("ids");
        assert_eq!(ids(&hf), ids(&plain), "{prompt}");
    }
    let file = |dir: &Path| read_json(&dir.join("llm/tokenizer.json"));
    assert_eq!(file(&out.join("back")), file(&dir));
}

#[test]
fn spare_rows_serve_for_the_image_token() {
    let dir = folder("convert-spare");
    copy(&layouts().join("vila"), &dir);
    edit_json(&dir.join("llm/tokenizer.json"), |file| {
        file["added_tokens"].as_array_mut().expect("tokens").retain(|token| token["content"] != "<image>");
        file["model"]["vocab"].as_object_mut().expect("vocab").retain(|_, id| id.as_u64() < Some(500));
        let known = file["model"]["vocab"].clone();
        let pair = |merge: &Value| -> Option<String> {
            let parts: Vec<&str> = match merge {
                Value::String(text) => text.split(' ').collect(),
                list => list.as_array()?.iter().filter_map(Value::as_str).collect(),
            };
            Some(parts.concat())
        };
        let merges = file["model"]["merges"].as_array_mut().expect("merges");
        merges.retain(|merge| pair(merge).is_some_and(|made| known.get(&made).is_some()));
    });
    let out = folder("convert-spare-out");
    assert_eq!(convert(&dir, &out.join("hf"), Layout::LlavaHf).rows, 0);
    let config = read_json(&out.join("hf/config.json"));
    assert_eq!((&config["image_token_index"], &config["text_config"]["vocab_size"]), (&json!(500), &json!(512)));
    convert(&out.join("hf"), &out.join("back"), Layout::Vila);
    assert_same(&stored(&out.join("back")), &stored(&dir), "back");
    let vila = Vila::load(&out.join("back"), Arc::new(CpuBackend::fast())).expect("load");
    assert_eq!((vila.tokenizer.image_token(), vila.tokenizer.vocab_size()), (None, 500));
}

#[test]
fn what_a_layout_cannot_express_is_refused_with_a_cure() {
    let out = folder("convert-refused");
    let dir = folder("convert-downsample");
    copy(&layouts().join("vila"), &dir);
    edit_json(&dir.join("mm_projector/config.json"), |config| {
        config["mm_projector_type"] = json!("downsample");
        config["bias"] = json!(true);
    });
    write_weights(
        &dir.join("mm_projector/model.safetensors"),
        &BTreeMap::from([
            ("layers.1.weight".to_string(), raw(Dtype::BF16, &[32, 64], vec![0; 4096])),
            ("layers.1.bias".to_string(), raw(Dtype::BF16, &[32], vec![0; 64])),
        ]),
    );
    for layout in [Layout::LlavaHf, Layout::Llava] {
        let said = refused(&dir, &out.join("new"), layout);
        assert!(said.contains("is downsample") && said.contains("convert to vila"), "{said}");
    }
    convert(&dir, &out.join("same"), Layout::Vila);
    assert_same(&stored(&out.join("same")), &stored(&dir), "vila to vila");

    let siglip = folder("convert-siglip");
    copy(&fixtures().join("siglip"), &siglip);
    std::fs::remove_file(siglip.join("golden.safetensors")).expect("remove");
    convert(&siglip, &out.join("siglip"), Layout::Vila);
    // A first patch that is dropped stays dropped.
    edit_json(&siglip.join("config.json"), |config| config["vision_feature_select_strategy"] = json!("default"));
    for layout in [Layout::Llava, Layout::Vila] {
        let there = folder("convert-siglip-default").join(layout.name());
        convert(&siglip, &there, layout);
        assert_eq!(first_score(&there), first_score(&siglip), "{}", layout.name());
    }

    let start = layouts().join("llava-hf");
    let said = refused(&start, &out, Layout::Vila);
    assert!(said.contains("is not empty"), "{said}");
    let inside = out.join("siglip");
    let said = refused(&inside, &inside.join("llm"), Layout::LlavaHf);
    assert!(said.contains("lies inside the directory"), "{said}");

    let holes = without_image_token("convert-holes");
    edit_json(&holes.join("llm/tokenizer.json"), |file| {
        let tokens = file["added_tokens"].as_array_mut().expect("tokens");
        let mut far = tokens[0].clone();
        (far["id"], far["content"]) = (json!(600), json!("<far>"));
        tokens.push(far);
    });
    let said = refused(&holes, &out.join("new"), Layout::LlavaHf);
    assert!(said.contains("holes among its tokens") && said.contains("<image> would be 512, not 601"), "{said}");

    // Incomplete sources are told of before anything is written.
    let broken = folder("convert-broken");
    copy(&start, &broken);
    let mut tensors = renamed(&broken.join("model.safetensors"), str::to_string);
    tensors.remove("language_model.model.norm.weight");
    write_weights(&broken.join("model.safetensors"), &tensors);
    let said = refused(&broken, &out.join("new"), Layout::Vila);
    assert!(said.contains("missing: llm.model.norm.weight"), "{said}");

    std::fs::write(inside.join("vila_conversion.json"), r#"{"llava-hf": {"names": {"llm.model.norm.weight": 3}}}"#)
        .expect("write");
    let said = refused(&inside, &out.join("new"), Layout::LlavaHf);
    assert!(said.contains("llava-hf.names.llm.model.norm.weight") && said.contains("remove it"), "{said}");
    assert!(!out.join("new").exists());
    // Nothing half done is left behind.
    let left = std::fs::read_dir(&out).expect("folder").map(|entry| entry.expect("entry").file_name());
    let mut left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, ["same", "siglip"]);
    assert_eq!("llava-hf".parse(), Ok(Layout::LlavaHf));
    assert!("hf".parse::<Layout>().is_err());
}

#[test]
fn names_in_a_record_cannot_lead_elsewhere() {
    let out = folder("convert-record");
    convert(&layouts().join("llava-hf"), &out.join("vila"), Layout::Vila);
    edit_json(&out.join("vila/vila_conversion.json"), |record| {
        record["llava-hf"]["names"] = json!({
            "llm.model.norm.weight": "language_model.lm_head.weight",
            "llm.lm_head.weight": "model.language_model.norm.weight",
        });
    });
    convert(&out.join("vila"), &out.join("back"), Layout::LlavaHf);
    let open = |dir: &Path| Checkpoint::open(dir, Layout::LlavaHf).expect("open");
    let (start, back) = (open(&layouts().join("llava-hf")), open(&out.join("back")));
    for (name, dtype, shape) in start.tensors() {
        let raw = back.raw(name).expect("tensor");
        assert_eq!((raw.dtype, &raw.shape[..], &raw.data), (dtype, shape, &start.raw(name).expect("tensor").data));
    }
}
