//! The alignment probe on models that were made up: states that are copies of one another, and random ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use vila_engine::CpuBackend;
use vila_engine::philox::Stream;
use vila_model::Vila;
use vila_model::tokenizer::Tokenizer;
use vila_train::data::shard::ShardReader;
use vila_train::probe::{Alignment, ProbeOptions, States, csv, probe};
use vila_train::recipe::{Recipe, SourceSpec};
use vila_train::run::{RunOptions, train};
use vila_train::sources::open_source;

use crate::child::command;
use crate::training::{scratch, text, world};

const WIDTH: usize = 64;
/// Visual and textual states of a document.
const PATCHES: usize = 16;
const WORDS: usize = 120;

/// Different words that the toy world's tokenizer knows.
fn words(tokenizer: &Tokenizer) -> Vec<String> {
    let one = |id: u32| tokenizer.decode(&[id]).ok().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
    let known = (4..tokenizer.vocab_size() as u32).filter_map(one).filter(|word| !word.is_empty());
    known.take(WORDS).collect()
}

/// A shard of two documents, each an image and the same text.
fn shard(dir: &Path, text: &str) -> ShardReader {
    let (data, image) = (dir.join("pairs.jsonl"), world().join("images/t0000_v00.png"));
    let lines = ["a", "b"].map(|id| serde_json::json!({"id": id, "image": image, "text": text}).to_string() + "\n");
    std::fs::write(&data, lines.concat()).expect("corpus");
    let spec =
        SourceSpec { format: Some("pairs".into()), input: vec![data], images_anywhere: true, ..SourceSpec::default() };
    let tokenizer = Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    open_source(dir, "pairs", &spec, &tokenizer).expect("shard")
}

/// A checkpoint whose blocks add nothing, so that every layer's states are what the decoder reads.
fn checkpoint(dir: &Path) -> PathBuf {
    let world = world().display();
    let recipe = format!(
        r#"
        out = "run"
        [model]
        tokenizer = "{world}/tokenizer.json"
        projector = "linear"
        llm = {{ hidden_size = {WIDTH}, intermediate_size = 32, layers = 2, heads = 2, max_positions = 256 }}
        vision = {{ family = "siglip", hidden_size = {WIDTH}, intermediate_size = 32, layers = 1, heads = 2, image_size = 16, patch_size = 4, select_layer = -1 }}
        [sources.pairs]
        format = "pairs"
        input = ["{world}/pairs.jsonl"]
        [[stage]]
        name = "none"
        train = ["projector"]
        data = {{ pairs = 1.0 }}
        steps = 1
        documents = 1
        capacity = 256
        lr = 0.0
        "#
    );
    let path = dir.join("recipe.toml");
    let recipe = Recipe::parse(&recipe, &path, dir, &[]).expect("recipe");
    let done = train(&recipe, &path, Arc::new(CpuBackend::fast()), &RunOptions::default()).expect("run");
    for name in ["self_attn.o_proj.weight", "mlp.down_proj.weight"] {
        change(&done.checkpoint.join("llm"), name, |_, values| values.fill(0.0));
    }
    for name in ["self_attn.out_proj.", "mlp.fc2.", "patch_embedding."] {
        change(&done.checkpoint.join("vision_tower"), name, |_, values| values.fill(0.0));
    }
    done.checkpoint
}

/// Rewrites the f32 tensors whose names contain `part`.
fn change(folder: &Path, part: &str, edit: impl Fn(&str, &mut [f32])) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut found = false;
    for (name, view) in tensors.tensors() {
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let chunks = view.data().as_chunks::<4>().0.iter();
        let mut values: Vec<f32> = chunks.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if name.contains(part) {
            edit(&name, &mut values);
            found = true;
        }
        all.push((name, view.shape().to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }
    assert!(found, "no tensor is named {part}");
    let views = all.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("tensor"))
    });
    std::fs::write(&path, serialize(views, None).expect("serialized")).expect("weights");
}

fn run(checkpoint: &Path, shard: &ShardReader) -> Vec<Alignment> {
    let vila = Vila::load(checkpoint, Arc::new(CpuBackend::fast())).expect("model");
    probe(&vila, shard, &ProbeOptions::default()).expect("probe")
}

#[test]
fn copied_states_are_fully_aligned_in_every_layer() {
    let dir = scratch("probe-copied");
    let checkpoint = checkpoint(&dir);
    let tokenizer = Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    let word = words(&tokenizer)[7].clone();
    let id = tokenizer.encode(&word).expect("one token")[0] as usize;
    // Whatever the image, the projector gives the word's embedding.
    let bytes = std::fs::read(checkpoint.join("llm/model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let (_, table) = tensors.tensors().into_iter().find(|(name, _)| name.contains("embed_tokens")).expect("table");
    let row = table.data()[id * WIDTH * 4..(id + 1) * WIDTH * 4].as_chunks::<4>().0;
    let row: Vec<f32> = row.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    change(&checkpoint.join("mm_projector"), "", |name, values| match name.ends_with("bias") {
        true => values.copy_from_slice(&row),
        false => values.fill(0.0),
    });
    let shard = shard(&dir, &[word.as_str(); 20].join(" "));
    let layers = run(&checkpoint, &shard);
    assert_eq!(layers.len(), 3);
    for layer in &layers {
        assert_eq!(layer.documents, 2);
        for mean in [
            layer.symmetric,
            layer.visual_to_text,
            layer.text_to_visual,
            layer.shuffled.unwrap_or_default(),
            layer.pooled,
        ] {
            assert!((mean.mean - 1.0).abs() < 1e-6 && mean.error < 1e-6, "{layer:?}");
        }
    }
    // The command says the same, in the columns of the specification.
    let output = command(&[
        "probe",
        "--model",
        text(&checkpoint),
        "--data",
        text(shard.dir()),
        "--out",
        text(&dir.join("out")),
        "--config",
        "copied",
        "--device",
        "cpu",
    ])
    .output()
    .expect("child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = std::fs::read_to_string(dir.join("out/probe.csv")).expect("table");
    assert_eq!(table, csv("copied", &layers));
    assert!(table.starts_with("layer,c_sym,c_v2t,c_t2v,n_docs,config,") && table.contains("\n2,1.000000,"), "{table}");
    let page = std::fs::read_to_string(dir.join("out/probe.html")).expect("page");
    assert!(page.contains("<svg class=\"chart\"") && page.contains(">layer</text>") && !page.contains("NaN"));
}

/// Expected largest cosine between a vector and `count` independent directions in `width` dimensions.
///
/// One cosine has the density `(1 - x²)^((width - 3) / 2)` up to a factor, whatever the vector; with its distribution function
/// `F` the largest has the mean `1 - ∫ F(x)^count dx` over -1..1.
fn expected_largest(width: usize, count: usize) -> f64 {
    const CELLS: usize = 200_000;
    let step = 2.0 / CELLS as f64;
    let density = |i: usize| (1.0 - (-1.0 + (i as f64 + 0.5) * step).powi(2)).powf((width as f64 - 3.0) / 2.0);
    let total: f64 = (0..CELLS).map(density).sum();
    let (mut below, mut integral) = (0.0, 0.0);
    for i in 0..CELLS {
        let half = density(i) / 2.0;
        integral += ((below + half) / total).powi(count as i32) * step;
        below += 2.0 * half;
    }
    1.0 - integral
}

#[test]
fn the_expected_largest_cosine_is_right_where_it_is_known() {
    // One vector: 0 by symmetry. Three dimensions: cosines are uniform in -1..1, the largest of n has the mean (n - 1) / (n + 1).
    assert!(expected_largest(64, 1).abs() < 1e-6);
    for count in [2, 5, 40] {
        let exact = (count as f64 - 1.0) / (count as f64 + 1.0);
        assert!((expected_largest(3, count) - exact).abs() < 1e-4, "{count}");
    }
}

/// Means that random states must meet: within five of the standard errors that their own spread gives.
fn meets(what: &str, values: &[f64], expected: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let error = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    println!("{what}: {mean:.4} ± {error:.4}, expected {expected:.4}");
    assert!(error < 0.006 && (mean - expected).abs() < 5.0 * error, "{what}: {mean} ± {error}, expected {expected}");
}

#[test]
fn random_states_have_the_alignment_of_chance() {
    let dir = scratch("probe-random");
    let checkpoint = checkpoint(&dir);
    let tokenizer = Tokenizer::from_file(&world().join("tokenizer.json")).expect("tokenizer");
    let words = words(&tokenizer);
    assert_eq!(words.len(), WORDS);
    let shard = shard(&dir, &words.join(" "));
    // The tower gives its positions, the projector passes them on.
    change(&checkpoint.join("mm_projector"), "", |name, values| {
        values.fill(0.0);
        if name.ends_with("weight") {
            values.iter_mut().step_by(WIDTH + 1).for_each(|value| *value = 1.0);
        }
    });
    let [mut visual, mut textual, mut both, mut means] = [const { Vec::new() }; 4];
    for seed in 0..16 {
        let normal = |stream| {
            move |_: &str, values: &mut [f32]| {
                let mut random = Stream::new(seed, stream);
                values.iter_mut().for_each(|value| *value = random.normal() as f32);
            }
        };
        change(&checkpoint.join("vision_tower"), "position_embedding", normal(1));
        change(&checkpoint.join("llm"), "embed_tokens", normal(2));
        let layers = run(&checkpoint, &shard);
        for layer in &layers[1..] {
            assert!((layer.symmetric.mean - layers[0].symmetric.mean).abs() < 1e-6);
        }
        visual.push(layers[2].visual_to_text.mean);
        textual.push(layers[2].text_to_visual.mean);
        both.push(layers[2].symmetric.mean);
        means.push(layers[2].pooled.mean);
    }
    let (of_text, of_images) = (expected_largest(WIDTH, WORDS), expected_largest(WIDTH, PATCHES));
    meets("visual to text", &visual, of_text);
    meets("text to visual", &textual, of_images);
    meets("symmetric", &both, (of_text + of_images) / 2.0);
    // Means of independent states are independent directions: their cosine has the mean 0 and the variance 1 / width.
    let largest = means.iter().map(|mean: &f64| mean.abs()).fold(0.0, f64::max);
    assert!(largest < 5.0 / (WIDTH as f64).sqrt(), "{largest}");
}

#[test]
fn a_shard_without_images_is_refused_with_a_cure() {
    let dir = scratch("probe-none");
    let checkpoint = checkpoint(&dir);
    let shard = shard(&dir, "one two");
    let vila = Vila::load(&checkpoint, Arc::new(CpuBackend::fast())).expect("model");
    let error = probe(&vila, &shard, &ProbeOptions::default()).expect_err("too little text");
    assert!(error.to_string().contains("no document has an image and 16 text tokens; choose another shard"), "{error}");
    let layers = probe(&vila, &shard, &ProbeOptions { min_text: 2, pool: 2, ..ProbeOptions::default() }).expect("pool");
    assert!(layers.iter().all(|layer| layer.documents == shard.len() as usize && layer.shuffled.is_none()));
}

#[test]
fn many_states_of_chance() {
    let mut random = Stream::new(3, 3);
    let mut states = |rows: usize| States::new(32, (0..rows * 32).map(|_| random.normal() as f32).collect());
    let (few, many) = (states(2000), states(50));
    let error = 0.09 / (2000f64).sqrt() + 0.002;
    assert!((few.nearest(&many) - expected_largest(32, 50)).abs() < 5.0 * error);
}
