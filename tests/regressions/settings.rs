//! Settings of files are obeyed as their owners obey them, and what training writes is what was trained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use vila_engine::CpuBackend;
use vila_model::config::keys::{SettingsFile, Usage, tables};
use vila_model::config::{Layout, ProjectorKind};
use vila_model::convert::{SHARD_BYTES, convert};
use vila_model::image::{ImageProcessor, RgbImage, centre_crop, decode, resize_bicubic};
use vila_model::weights::{RawTensor, parse, write_safetensors};
use vila_model::{Vila, VilaConfig, score};
use vila_train::recipe::Recipe;
use vila_train::run::{RunOptions, train};

use crate::training::{scratch, world};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let path = entry.expect("entry").path();
        let to = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copy");
        }
    }
}

/// A copy of a fixture.
fn copied(fixture: &str, name: &str) -> PathBuf {
    let dir = scratch(name).join("model");
    copy(&fixtures().join(fixture), &dir);
    dir
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).expect("file")).expect("json");
    change(&mut value);
    std::fs::write(path, value.to_string()).expect("write");
}

fn load(dir: &Path) -> Vila {
    Vila::load(dir, Arc::new(CpuBackend::fast())).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(dir: &Path) -> String {
    Vila::load(dir, Arc::new(CpuBackend::fast())).err().expect("refused").to_string()
}

fn scores(dir: &Path) -> Vec<f64> {
    let vila = load(dir);
    let images = ["cat_rgba.png", "wide_900x20.png"].map(|name| fixtures().join("images").join(name));
    let with = score(&vila, "A <image> and <image> show", " a red mat.", &images).expect("score");
    let without = score(&vila, "A rocket", " stands.", &[]).expect("score");
    [with.token_logprobs, without.token_logprobs].concat()
}

fn read_weights(path: &Path) -> std::collections::BTreeMap<String, RawTensor> {
    let bytes = std::fs::read(path).expect("weights");
    let tensors = parse(path, &bytes).expect("weights").into_iter();
    tensors.map(|t| (t.name, RawTensor { dtype: t.dtype, shape: t.shape, data: bytes[t.bytes].to_vec() })).collect()
}

fn edit_weights(path: &Path, change: impl FnOnce(&mut std::collections::BTreeMap<String, RawTensor>)) {
    let mut tensors = read_weights(path);
    change(&mut tensors);
    let mut bytes = Vec::new();
    write_safetensors(&tensors, &mut bytes).expect("weights");
    std::fs::write(path, bytes).expect("write");
}

/// Every committed model, in every layout that it has.
fn models() -> Vec<PathBuf> {
    let own =
        ["tiny-llava-hf", "gqa-tied", "siglip", "layouts/llava-hf", "layouts/vila"].map(|name| fixtures().join(name));
    let cases = ["bias-base", "siglip-tied", "sparse-pad"].into_iter();
    let cases = cases.flat_map(|case| {
        ["llava-hf", "llava", "vila"].map(|layout| fixtures().join("layouts/cases").join(case).join(layout))
    });
    own.into_iter().chain(cases).collect()
}

/// Trains everything at rate 0 and returns the checkpoint.
fn rate_0(model: &Path, dir: &Path, name: &str) -> PathBuf {
    let (world, model) = (world().display(), model.display());
    let text = format!(
        r#"
        out = "{name}"
        [model]
        from = "{model}"
        [sources.pairs]
        format = "pairs"
        input = ["{world}/pairs.jsonl"]
        [[stage]]
        name = "still"
        train = ["vision", "projector", "llm"]
        data = {{ pairs = 1.0 }}
        steps = 1
        documents = 1
        capacity = 512
        lr = 0.0
        "#
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("recipe");
    let recipe = Recipe::read(&path, &[]).expect("recipe");
    let report = train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default());
    report.unwrap_or_else(|error| panic!("{model}: {error}")).checkpoint
}

/// A stage at rate 0 leaves every score as it was, to the bit: in its checkpoint, in one that starts from there, and in every
/// layout, unless the layout is refused by name.
fn assert_still(model: &Path, name: &str) {
    let (dir, before) = (scratch(name), scores(model));
    let first = rate_0(model, &dir, "first");
    assert_eq!(scores(&first), before, "{}", model.display());
    assert_eq!(scores(&rate_0(&first, &dir, "second")), before, "{}", model.display());
    for layout in [Layout::Vila, Layout::Llava, Layout::LlavaHf] {
        let there = dir.join(layout.name());
        match convert(&first, &there, layout, SHARD_BYTES) {
            Ok(made) if made.rows == 0 => assert_eq!(scores(&there), before, "{} {there:?}", model.display()),
            // Rows for an image token are in every sum; without them, scores are what they were.
            Ok(_) => {
                let back = there.with_extension("back");
                convert(&there, &back, Layout::Vila, SHARD_BYTES).expect("convert");
                assert_eq!(scores(&back), before, "{} {there:?}", model.display());
            }
            Err(vila_model::Error::Config { .. }) => {}
            Err(error) => panic!("{}: {error}", model.display()),
        }
    }
}

#[test]
fn rate_0_changes_nothing() {
    for (index, model) in models().iter().enumerate() {
        assert_still(model, &format!("still-{index}"));
    }
}

#[test]
fn select_strategy_forgotten() {
    let dir = copied("siglip", "strategy");
    let full = scores(&dir);
    edit(&dir.join("config.json"), |config| config["vision_feature_select_strategy"] = json!("default"));
    assert_ne!(scores(&dir), full);
    assert_still(&dir, "strategy-still");
}

#[test]
fn image_mode_of_an_uneven_processor_is_kept() {
    let dir = copied("layouts/vila", "uneven");
    let file = dir.join("vision_tower/preprocessor_config.json");
    edit(&file, |file| file["size"] = json!({"shortest_edge": 26}));
    for mode in ["square", "pad", "resize"] {
        edit(&dir.join("config.json"), |config| config["image_aspect_ratio"] = json!(mode));
        assert_still(&dir, &format!("uneven-{mode}"));
    }
}

/// The paths of a tied and an untied decoder's tables are those of the small VILA folder.
fn decoder_file(dir: &Path, table: &str) -> PathBuf {
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.join("llm/model.safetensors.index.json")).expect("index"))
            .expect("json");
    dir.join("llm").join(index["weight_map"][table].as_str().expect("file"))
}

#[test]
fn tied_flag_own_head() {
    let dir = copied("layouts/vila", "tied");
    let untied = scores(&dir);
    edit(&dir.join("llm/config.json"), |config| config["tie_word_embeddings"] = json!(true));
    assert_eq!(scores(&dir), untied);
    assert!(!load(&dir).config.llm.tied);
    assert_still(&dir, "tied-still");

    // A copy of the embedding is no head of its own.
    let (embedding, head) = ("model.embed_tokens.weight", "lm_head.weight");
    let table = read_weights(&decoder_file(&dir, embedding)).remove(embedding).expect("table");
    edit_weights(&decoder_file(&dir, head), |tensors| drop(tensors.insert(head.into(), table.clone())));
    assert!(load(&dir).config.llm.tied);
    let tied = scores(&dir);

    // The head alone is the embedding, too.
    edit_weights(&decoder_file(&dir, embedding), |tensors| drop(tensors.remove(embedding)));
    edit(&dir.join("llm/model.safetensors.index.json"), |index| {
        index["weight_map"].as_object_mut().expect("map").remove(embedding);
    });
    assert_eq!(scores(&dir), tied);
    assert_still(&dir, "tied-head-still");
    edit(&dir.join("llm/config.json"), |config| config["tie_word_embeddings"] = json!(false));
    assert!(refused(&dir).contains("missing: llm.model.embed_tokens.weight"));
}

#[test]
fn rope_scaling_beside_rope_parameters() {
    let dir = copied("layouts/vila", "rope");
    let rope = |keys: Value| {
        edit(&dir.join("llm/config.json"), |config| {
            let config = config.as_object_mut().expect("object");
            config.retain(|key, _| !key.starts_with("rope_"));
            config.extend(keys.as_object().expect("object").clone());
        });
        VilaConfig::read(&dir).map(|(config, _)| (config.llm.rope_theta, config.llm.rope_factor))
    };
    let parameters = json!({"rope_type": "default", "rope_theta": 777.0});
    let linear = json!({"type": "linear", "factor": 2.0});
    assert_eq!(rope(json!({"rope_parameters": parameters})).expect("rope"), (777.0, 1.0));
    assert_eq!(rope(json!({"rope_parameters": parameters, "rope_scaling": linear})).expect("rope"), (10_000.0, 2.0));
    assert_eq!(
        rope(json!({"rope_parameters": parameters, "rope_scaling": linear, "rope_theta": 50.0})).expect("rope"),
        (50.0, 2.0)
    );
    assert_eq!(rope(json!({"rope_parameters": parameters, "rope_scaling": {}})).expect("rope"), (777.0, 1.0));
    for (keys, field) in [
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`rope_scaling.rope_type`"),
        (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor`"),
        (json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "partial_rotary_factor`"),
    ] {
        let said = rope(keys).expect_err("refused").to_string();
        assert!(said.contains(field), "{said}");
    }
}

#[test]
fn im_start_end_ignored() {
    let dir = copied("layouts/vila", "refused");
    let path = dir.join("config.json");
    for (key, value) in [
        ("mm_use_im_start_end", json!(true)),
        ("mm_use_im_patch_token", json!(true)),
        ("s2", json!(true)),
        ("dynamic_s2", json!(true)),
        ("ps3", json!(true)),
        ("mm_vision_select_feature", json!("cls")),
        ("mm_patch_merge_type", json!("spatial_unpad")),
        ("mm_resampler_type", json!("perceiver")),
        ("vision_resolution", json!(448)),
        ("image_encoder", json!({"_target_": "llava.model.encoders.TSPVideoEncoder"})),
        ("image_aspect_ratio", json!("dynamic")),
        ("quantization_config", json!({"quant_method": "awq"})),
    ] {
        let before = std::fs::read(&path).expect("config");
        edit(&path, |config| config[key] = value);
        let said = refused(&dir);
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
        std::fs::write(&path, before).expect("config");
    }
    load(&dir);
}

#[test]
fn patch_on_siglip_drops_the_first_patch() {
    let hf = copied("siglip", "siglip-patch");
    let dir = hf.with_file_name("vila");
    convert(&hf, &dir, Layout::Vila, SHARD_BYTES).expect("convert");
    edit(&dir.join("config.json"), |config| config["mm_vision_select_feature"] = json!("patch"));
    edit(&hf.join("config.json"), |config| config["vision_feature_select_strategy"] = json!("default"));
    assert_eq!(scores(&dir), scores(&hf));
    edit(&dir.join("mm_projector/config.json"), |config| config["mm_projector_type"] = json!("mlp_downsample"));
    let said = VilaConfig::read(&dir).expect_err("refused").to_string();
    assert!(said.contains("`mm_vision_select_feature`") && said.contains("mlp_downsample"), "{said}");
}

#[test]
fn merged_tokens_follow_the_version() {
    let order = |root: &[(&str, Value)], projector: &[(&str, Value)]| {
        let dir = copied("layouts/vila", "order");
        let put = |path: &str, keys: &[(&str, Value)]| {
            edit(&dir.join(path), |config| keys.iter().for_each(|(key, value)| config[*key] = value.clone()));
        };
        edit(&dir.join("llm/config.json"), |config| {
            config.as_object_mut().expect("object").remove("transformers_version");
        });
        put("config.json", root);
        put("mm_projector/config.json", &[("mm_projector_type", json!("mlp_downsample"))]);
        put("mm_projector/config.json", projector);
        VilaConfig::read(&dir).expect("config").0.projector.kind
    };
    let (columns, rows) = (ProjectorKind::MlpDownsample, ProjectorKind::MlpDownsample2x2Fix);
    assert_eq!(order(&[], &[]), columns);
    assert_eq!(order(&[("transformers_version", json!("4.36.2"))], &[]), columns);
    assert_eq!(order(&[("transformers_version", json!("4.46.0"))], &[]), rows);
    assert_eq!(order(&[("min_tiles", json!(1))], &[]), rows);
    assert_eq!(order(&[("min_tiles", json!(1))], &[("token_order", json!("columns"))]), columns);
    assert_eq!(order(&[], &[("token_order", json!("rows"))]), rows);
}

#[test]
fn processors_are_those_of_their_classes() {
    let picture = RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, (x * y) as u8]));
    let read = |config: Value| ImageProcessor::from_json(&config, "preprocessor_config.json");
    let fitted = |config: Value| read(config).expect("processor").geometry(&picture);
    let clip = |more: Value| {
        let mut config = json!({"image_processor_type": "CLIPImageProcessor", "crop_size": 16});
        config.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        config
    };
    // Exactly that size, then the crop.
    let exact = fitted(clip(json!({"size": {"height": 20, "width": 24}})));
    assert_eq!(exact, centre_crop(&resize_bicubic(&picture, 24, 20), 16));
    // CLIP's does not pad.
    let plain = fitted(clip(json!({"size": {"shortest_edge": 16}})));
    assert_eq!(fitted(clip(json!({"size": {"shortest_edge": 16}, "do_pad": true}))), plain);
    // SigLIP's does not crop.
    let siglip = json!({"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16},
                        "do_center_crop": true, "crop_size": {"height": 8, "width": 8}});
    assert_eq!(fitted(siglip.clone()), resize_bicubic(&picture, 16, 16));
    // `square` is what the tower's own processor does.
    let square = read(siglip).expect("processor").with_mode(vila_model::image::GeometryMode::Square);
    assert_eq!(square.geometry(&picture), resize_bicubic(&picture, 16, 16));
    for (config, field) in [
        (json!({"image_processor_type": "LlavaNextImageProcessor", "size": 16}), "image_processor_type"),
        (json!({"image_processor_type": "SiglipImageProcessor", "size": 16}), "size.shortest_edge"),
        (clip(json!({"size": 16, "do_center_crop": false})), "size.shortest_edge"),
        (clip(json!({"size": 16, "do_thumbnail": true})), "do_thumbnail"),
    ] {
        let said = read(config).expect_err("refused").to_string();
        assert!(said.contains(&format!("`{field}`")), "{said}");
    }
}

#[test]
fn resize_beside_a_clip_that_does_not_crop() {
    let dir = copied("layouts/vila", "squash");
    edit(&dir.join("config.json"), |config| config["image_aspect_ratio"] = json!("resize"));
    edit(&dir.join("vision_tower/preprocessor_config.json"), |file| {
        file["do_center_crop"] = json!(false);
        file["size"] = file["crop_size"].clone();
    });
    assert!(refused(&dir).contains("`do_center_crop`"));
    edit(&dir.join("config.json"), |config| config["image_aspect_ratio"] = json!("square"));
    load(&dir);
}

#[test]
fn old_checkpoints_that_pad_still_pad() {
    let dir = copied("layouts/vila", "old-pad");
    edit(&dir.join("config.json"), |config| config["image_aspect_ratio"] = json!("pad"));
    let want = scores(&dir);
    edit(&dir.join("config.json"), |config| config["image_aspect_ratio"] = Value::Null);
    edit(&dir.join("vision_tower/preprocessor_config.json"), |file| file["do_pad"] = json!(true));
    assert_eq!(scores(&dir), want);
}

/// A GIF of a 4 x 3 screen with a frame of 2 x 1 at (1, 1), whose pixels are colors 1 and 2.
fn small_frame(transparent: Option<u8>, local: bool) -> Vec<u8> {
    let palette = |first: u8| (first..first + 12).collect::<Vec<u8>>();
    let mut gif = b"GIF89a\x04\0\x03\0\xF1\x03\0".to_vec();
    gif.extend(palette(10));
    if let Some(index) = transparent {
        gif.extend([0x21, 0xF9, 4, 1, 0, 0, index, 0]);
    }
    gif.extend([0x2C, 1, 0, 1, 0, 2, 0, 1, 0, if local { 0x81 } else { 0 }]);
    if local {
        gif.extend(palette(100));
    }
    // Codes of three bits: clear, 1, 2, end.
    let codes: u16 = 4 | 1 << 3 | 2 << 6 | 5 << 9;
    gif.extend([2, 2]);
    gif.extend(codes.to_le_bytes());
    gif.extend([0, 0x3B]);
    gif
}

/// As Pillow 12.
#[test]
fn frames_smaller_than_their_screen() {
    for (transparent, local, ground, left, right) in [
        (None, false, [10, 11, 12], [13, 14, 15], [16, 17, 18]),
        (Some(3), false, [19, 20, 21], [13, 14, 15], [16, 17, 18]),
        (None, true, [100, 101, 102], [103, 104, 105], [106, 107, 108]),
    ] {
        let picture = decode(&small_frame(transparent, local), "small.gif").expect("gif");
        assert_eq!(picture.dimensions(), (4, 3));
        for (x, y, pixel) in picture.enumerate_pixels() {
            let want = match (x, y) {
                (1, 1) => left,
                (2, 1) => right,
                _ => ground,
            };
            assert_eq!(pixel.0, want, "{transparent:?} {local} {x} {y}");
        }
    }
}

#[test]
fn the_table_of_keys_is_documented() {
    let docs =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md")).expect("docs");
    assert!(docs.ends_with(&tables()), "docs/settings.md does not end with these tables:\n{}", tables());
    assert_eq!(SettingsFile::Vila.usage("s2"), Some(Usage::Off));
    assert_eq!(SettingsFile::Decoder.usage("rope_scaling"), Some(Usage::Read));
    assert_eq!(SettingsFile::Decoder.usage("mixture"), None);
    // Nothing that this program writes is unknown to it.
    for model in models() {
        for (path, file) in [("config.json", SettingsFile::Vila), ("llm/config.json", SettingsFile::Decoder)] {
            let dir = scratch("keys").join("vila");
            convert(&model, &dir, Layout::Vila, SHARD_BYTES).expect("convert");
            let written: Value = serde_json::from_slice(&std::fs::read(dir.join(path)).expect("file")).expect("json");
            for key in written.as_object().expect("object").keys() {
                assert!(file.usage(key).is_some(), "{}: {path}: {key}", model.display());
            }
        }
    }
}

#[test]
fn class_embedding_is_decayed() {
    let (config, _) = VilaConfig::read(&fixtures().join("tiny-llava-hf")).expect("config");
    let decayed = |name: &str| {
        let specs = vila_model::VilaModel::specs(&config);
        specs.iter().find(|spec| spec.name.ends_with(name)).expect("parameter").decay
    };
    assert!(decayed("class_embedding") && decayed("position_embedding.weight"));
    assert!(!decayed("pre_layrnorm.weight") && !decayed("pre_layrnorm.bias"));
}
