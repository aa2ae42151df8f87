//! Parity with transformers on small models: every directory of the golden form under `tests/fixtures/` and in
//! `VILA_GOLDEN_DIRS` (colon separated), on the CPU and on the emulated device.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::nvrtc;
use safetensors::SafeTensors;
use serde_json::Value;
use vila_autograd::{ParamSpec, ParamStore, Tape};
use vila_engine::ops::{AdamW, GradientGate, SumSquares};
use vila_engine::{Backend, CpuBackend, DType, NO_ROW};
use vila_model::weights::canonical_name;
use vila_model::{Document, GenerateOptions, Images, PackedBatch, Vila, VilaModel};

/// Where and how exactly a golden is computed.
struct Target {
    backend: Arc<dyn Backend>,
    dtype: DType,
    /// Relative error of features and logits.
    forward: f64,
    /// Relative error of the loss.
    loss: f64,
    /// Relative error of a gradient, and of the losses of a trajectory.
    gradient: f64,
    /// Size of a gradient, of all, that is zero but for rounding.
    vanishing: f64,
    /// Errors of a gradient count relative to at least this share of all gradients: sums that nearly cancel lose their bits.
    floor: f64,
}

impl Target {
    fn cpu() -> Self {
        Self::exact(Arc::new(CpuBackend::fast()))
    }

    fn exact(backend: Arc<dyn Backend>) -> Self {
        Target { backend, dtype: DType::F32, forward: 1e-4, loss: 1e-5, gradient: 1e-3, vanishing: 1e-6, floor: 0.0 }
    }

    /// bf16 keeps 8 bits: 0.4 % per rounding, a dozen of them on the way to a logit. The gradients of queries and keys are small
    /// differences, so a tensor's error counts relative to all gradients together.
    fn bf16(backend: Arc<dyn Backend>) -> Self {
        Target { backend, dtype: DType::BF16, forward: 4e-2, loss: 1e-2, gradient: 6e-2, vanishing: 1e-3, floor: 1.0 }
    }
}

struct Golden {
    dir: PathBuf,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    ints: HashMap<String, (Vec<usize>, Vec<i32>)>,
    facts: Value,
}

/// The folder of this package; another one where the test binary runs elsewhere.
fn root() -> PathBuf {
    let elsewhere = std::env::var_os("VILA_TEST_ROOT").map(|root| PathBuf::from(root).join("tests"));
    elsewhere.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}

fn directories() -> Vec<PathBuf> {
    let fixtures = root().join("fixtures");
    let own = std::fs::read_dir(fixtures).expect("fixtures").map(|entry| entry.expect("entry").path());
    let named = std::env::var("VILA_GOLDEN_DIRS").unwrap_or_default();
    let named = named.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect::<Vec<_>>();
    let mut all: Vec<PathBuf> = own.filter(|dir| dir.join("golden.json").exists()).collect();
    all.sort();
    all.extend(named);
    assert!(!all.is_empty());
    all
}

impl Golden {
    fn read(dir: &Path) -> Self {
        let bytes = std::fs::read(dir.join("golden.safetensors")).expect("golden.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let (mut tensors, mut ints) = (HashMap::new(), HashMap::new());
        for (name, view) in file.tensors() {
            let words = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            if view.dtype() == safetensors::Dtype::F32 {
                tensors.insert(name, (view.shape().to_vec(), words.map(f32::from_le_bytes).collect()));
            } else {
                ints.insert(name, (view.shape().to_vec(), words.map(i32::from_le_bytes).collect()));
            }
        }
        let facts = std::fs::read_to_string(dir.join("golden.json")).expect("golden.json");
        Golden { dir: dir.to_path_buf(), tensors, ints, facts: serde_json::from_str(&facts).expect("json") }
    }

    fn load_on(&self, target: &Target, trains: impl Fn(&ParamSpec) -> bool) -> Vila {
        Vila::load_with(&self.dir, Arc::clone(&target.backend), target.dtype, trains).expect("load")
    }

    fn load(&self) -> Vila {
        self.load_on(&Target::cpu(), |_| false)
    }

    /// The unpadded rows as documents, with the golden's image positions folded into placeholders.
    fn documents(&self, vila: &Vila) -> Vec<Document> {
        let (shape, ids) = &self.ints["input_ids"];
        let (mask, labels) = (&self.ints["attention_mask"].1, &self.ints["labels"].1);
        let image = vila.config.image_token.expect("image token") as i32;
        let per_image = vila.config.tokens_per_image();
        (0..shape[0])
            .map(|row| {
                let mut document = Document::default();
                let mut col = 0;
                while col < shape[1] {
                    let at = row * shape[1] + col;
                    if mask[at] == 0 {
                        col += 1;
                    } else if ids[at] == image {
                        document.tokens.push(NO_ROW);
                        document.supervised.push(false);
                        col += per_image;
                    } else {
                        document.tokens.push(ids[at] as u32);
                        document
                            .supervised
                            .push(labels[at] >= 0 && !document.tokens[..document.tokens.len() - 1].is_empty());
                        col += 1;
                    }
                }
                document
            })
            .collect()
    }

    fn batch(&self, vila: &Vila) -> PackedBatch {
        let pixels =
            self.tensors.get("pixel_values").map_or(Images::None, |(_, pixels)| Images::Pixels(pixels.clone()));
        PackedBatch::new(&self.documents(vila), pixels, vila.config.tokens_per_image(), 1).expect("batch")
    }

    fn image(&self, name: &str) -> PathBuf {
        let fixtures = root().join("fixtures/images");
        let candidates = [self.dir.clone(), self.dir.join("images"), self.dir.join("../images"), fixtures.clone()];
        candidates.iter().map(|dir| dir.join(name)).find(|path| path.exists()).unwrap_or(fixtures.join(name))
    }

    fn images(&self, list: &Value) -> Vec<PathBuf> {
        list.as_array()
            .map_or(vec![], |list| list.iter().map(|name| self.image(name.as_str().expect("name"))).collect())
    }
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = want.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / norm).sqrt()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn each_golden(check: impl Fn(&Golden)) {
    for dir in directories() {
        println!("{}", dir.display());
        check(&Golden::read(&dir));
    }
}

fn logits_features_and_loss(target: &Target) {
    each_golden(|golden| {
        let vila = golden.load_on(target, |_| false);
        let batch = golden.batch(&vila);
        let mut tape = Tape::inference(vila.backend(), &vila.store);
        if let Some((_, want)) = golden.tensors.get("image_features") {
            let features = vila.model.image_features(&mut tape, &batch.images).expect("features").expect("images");
            let error = relative(&vila.backend().to_f32(features.tensor()).expect("features"), want);
            assert!(error <= target.forward, "image features are off by {error:e}");
        }
        let hidden = vila.model.hidden(&mut tape, &batch).expect("hidden");
        let logits = vila.model.logits(&mut tape, &hidden).expect("logits");
        let logits = vila.backend().to_f32(&logits).expect("logits");
        let (shape, want) = &golden.tensors["logits"];
        let vocab = shape[2];
        let mask = &golden.ints["attention_mask"].1;
        let want: Vec<f32> = mask
            .iter()
            .zip(want.chunks(vocab))
            .filter(|(live, _)| **live != 0)
            .flat_map(|(_, row)| row.to_vec())
            .collect();
        let error = relative(&logits, &want);
        assert!(error <= target.forward, "logits are off by {error:e}");

        let scale = 1.0 / batch.supervised() as f64;
        let loss = vila.model.loss(&mut tape, &batch, scale).expect("loss").expect("targets");
        let (got, want) = (
            f64::from(vila.backend().to_f32(loss.tensor()).expect("loss")[0]),
            golden.facts["loss"].as_f64().expect("loss"),
        );
        assert!((got - want).abs() <= target.loss * want.abs(), "loss {got}, golden {want}");
    });
}

#[test]
fn golden_logits_features_and_loss() {
    logits_features_and_loss(&Target::cpu());
}

/// Runs forward and backward; returns the loss and the gradients by canonical name.
fn gradients(vila: &Vila, batch: &PackedBatch) -> (f64, HashMap<String, Vec<f32>>) {
    vila.store.zero_grads(vila.backend()).expect("zero");
    let mut tape = Tape::new(vila.backend(), &vila.store);
    let loss = vila.model.loss(&mut tape, batch, 1.0 / batch.supervised() as f64).expect("loss").expect("targets");
    tape.backward_loss(&loss).expect("backward");
    let flat = vila.backend().to_f32(vila.store.flat_grads()).expect("grads");
    let grads =
        vila.store.ranges().iter().map(|range| (range.name.clone(), flat[range.range.clone()].to_vec())).collect();
    (f64::from(vila.backend().to_f32(loss.tensor()).expect("loss")[0]), grads)
}

#[test]
fn golden_gradients() {
    gradients_by_name(&Target::cpu());
}

fn gradients_by_name(target: &Target) {
    each_golden(|golden| {
        let vila = golden.load_on(target, |_| true);
        let (_, ours) = gradients(&vila, &golden.batch(&vila));
        let wanted: HashMap<String, &Vec<f32>> = golden
            .tensors
            .iter()
            .filter_map(|(name, (_, grad))| Some((canonical_name(name.strip_prefix("grad.")?), grad)))
            .collect();
        assert!(!wanted.is_empty());
        let global = wanted.values().map(|grad| norm(grad).powi(2)).sum::<f64>().sqrt();
        for (name, want) in &wanted {
            let Some(got) = ours.get(name) else { panic!("no gradient of {name}") };
            if norm(want) < target.vanishing * global {
                assert!(
                    norm(got) < 2.0 * target.vanishing * global,
                    "{name} should have a vanishing gradient, has {:e}",
                    norm(got)
                );
            } else {
                let error = relative(got, want) * (norm(want) / norm(want).max(target.floor * global));
                assert!(error <= target.gradient, "gradient of {name} is off by {error:e}");
            }
        }
        for (name, got) in ours.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            assert!(norm(got) == 0.0, "{name} has a gradient that the golden lacks");
        }
    });
}

#[test]
fn golden_trajectories() {
    trajectories(&Target::cpu());
}

fn trajectories(target: &Target) {
    each_golden(|golden| {
        for (name, trains) in [("align", &["mm_projector."][..]), ("pretrain", &["mm_projector.", "llm."])] {
            let vila = golden.load_on(target, |spec| trains.iter().any(|prefix| spec.name.starts_with(prefix)));
            let batch = golden.batch(&vila);
            let backend = vila.backend();
            let n = vila.store.flat_weights().cols();
            let moments = [backend.zeros(DType::F32, 1, n).expect("m"), backend.zeros(DType::F32, 1, n).expect("v")];
            let gate = backend.alloc(DType::F32, 1, 4).expect("gate");
            let updates = backend.zeros(DType::U32, 1, 1).expect("updates");
            let steps = golden.facts["trajectories"][name].as_array().expect("steps");
            assert_eq!(steps.len(), 8);
            for (index, step) in steps.iter().enumerate() {
                let fact = |field: &str| step[field].as_f64().expect("number");
                let (loss, _) = gradients(&vila, &batch);
                let sum = backend.zeros(DType::F64, 1, 1).expect("sum");
                backend.sum_squares(&SumSquares { x: vila.store.flat_grads(), sum: &sum }).expect("norm");
                let grad_norm = backend.to_vec::<f64>(&sum).expect("sum")[0].sqrt();
                for (what, got, want) in [("loss", loss, fact("loss")), ("gradient norm", grad_norm, fact("grad_norm"))]
                {
                    assert!(
                        (got - want).abs() <= target.gradient * want,
                        "{name} step {index}: {what} {got}, golden {want}"
                    );
                }
                let args = GradientGate { sum: &sum, losses: None, clip: 1.0, gate: &gate, updates: &updates };
                backend.gradient_gate(&args).expect("gate");
                backend
                    .adamw(&AdamW {
                        weights: vila.store.flat_masters(),
                        m: &moments[0],
                        v: &moments[1],
                        grad: vila.store.flat_grads(),
                        publish: (target.dtype == DType::BF16).then_some(vila.store.flat_weights()),
                        gate: &gate,
                        updates: &updates,
                        lr: fact("lr"),
                        betas: (0.9, 0.999),
                        eps: 1e-8,
                        decay: 0.1,
                        seed: 0,
                        offset: 0,
                    })
                    .expect("adamw");
            }
        }
    });
}

/// Some files keep the token that ended the text, some do not.
fn without_end<'a>(vila: &Vila, ids: &'a [u32]) -> &'a [u32] {
    match ids.split_last() {
        Some((last, rest)) if vila.config.llm.eos.contains(last) => rest,
        _ => ids,
    }
}

#[test]
fn golden_greedy_tokens() {
    greedy_tokens(&Target::cpu());
}

fn greedy_tokens(target: &Target) {
    each_golden(|golden| {
        let vila = golden.load_on(target, |_| false);
        let image = vila.config.image_token.expect("image token");
        let per_image = vila.config.tokens_per_image();
        for case in golden.facts["greedy"].as_array().expect("greedy") {
            let list = |field: &str| -> Vec<u32> {
                case[field].as_array().expect("list").iter().map(|id| id.as_u64().expect("id") as u32).collect()
            };
            let (ids, wanted) = (list("prompt_ids"), list("new_ids"));
            let mut tokens = Vec::new();
            let mut rest = ids.as_slice();
            while let Some((&id, others)) = rest.split_first() {
                tokens.push(if id == image { NO_ROW } else { id });
                rest = if id == image { &rest[per_image..] } else { others };
            }
            let all = golden.tensors.get("pixel_values").map(|(_, pixels)| pixels.as_slice()).unwrap_or_default();
            let width = 3 * vila.config.vision.image_size.pow(2);
            let pixels = list("images").iter().flat_map(|&i| all[i as usize * width..][..width].to_vec()).collect();
            let options = GenerateOptions { max_new_tokens: wanted.len(), ..GenerateOptions::default() };
            let got = vila_model::generate_ids(&vila, tokens, pixels, &options).expect("generate");
            assert_eq!(without_end(&vila, &got.ids), without_end(&vila, &wanted));
        }
    });
}

#[test]
fn golden_tokenizer_ids() {
    each_golden(|golden| {
        let vila = golden.load();
        for (text, ids) in golden.facts["tokenizer"].as_object().expect("texts") {
            let got = vila.tokenizer.encode_prompt(text).expect("encode");
            let got: Vec<u64> = got
                .into_iter()
                .map(|id| u64::from(if id == NO_ROW { vila.config.image_token.unwrap_or(id) } else { id }))
                .collect();
            let ids: Vec<u64> = ids.as_array().expect("ids").iter().map(|id| id.as_u64().expect("id")).collect();
            assert_eq!(got, ids, "{text:?}");
        }
    });
}

#[test]
fn golden_scores() {
    each_golden(|golden| {
        let vila = golden.load();
        let lines = |name: &str| -> Vec<Value> {
            let text = std::fs::read_to_string(golden.dir.join(name)).expect("jsonl");
            text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
        };
        let (inputs, wanted) = (lines("score.jsonl"), lines("score_golden.jsonl"));
        assert_eq!(inputs.len(), wanted.len());
        for (input, want) in inputs.iter().zip(wanted) {
            // The goldens are of a continuation that was tokenized by itself.
            let text = |field: &str| input[field].as_str().expect("text");
            let prompt = vila.tokenizer.encode_prompt(text("prompt")).expect("prompt");
            let tokens = vila.tokenizer.encode(text("continuation")).expect("continuation");
            let pixels = vila.load_images(&golden.images(&input["images"])).expect("images");
            let got = vila_model::score_ids(&vila, prompt, tokens, pixels).expect("score");
            assert_eq!(Value::from(got.tokens), want["tokens"]);
            assert_eq!(Value::from(got.greedy), want["greedy"]);
            let total = want["logprob"].as_f64().expect("number");
            assert!((got.logprob - total).abs() <= 1e-4 * got.token_logprobs.len() as f64, "{} {total}", got.logprob);
            for (got, want) in got.token_logprobs.iter().zip(want["token_logprobs"].as_array().expect("list")) {
                let want = want.as_f64().expect("number");
                assert!((got - want).abs() <= 1e-4, "{got}, golden {want}");
            }
        }
    });
}

#[test]
fn golden_generation_from_files() {
    each_golden(|golden| {
        let vila = golden.load();
        let text = std::fs::read_to_string(golden.dir.join("generate_golden.json")).expect("generate_golden.json");
        for case in serde_json::from_str::<Value>(&text).expect("json").as_array().expect("cases") {
            let list = case["new_ids"].as_array().expect("ids").iter();
            let ids: Vec<u32> = list.map(|id| id.as_u64().expect("id") as u32).collect();
            let options = GenerateOptions { max_new_tokens: ids.len(), ..GenerateOptions::default() };
            let prompt = case["prompt"].as_str().expect("prompt");
            let got = vila_model::generate(&vila, prompt, &golden.images(&case["images"]), &options).expect("generate");
            assert_eq!(without_end(&vila, &got.ids), without_end(&vila, &ids));
            assert_eq!(got.text, case["text"].as_str().expect("text"));
        }
    });
}

#[test]
fn golden_specs_build_without_a_file() {
    each_golden(|golden| {
        let (config, _) = vila_model::VilaConfig::read(&golden.dir).expect("config");
        let cpu = CpuBackend::fast();
        let store = ParamStore::new(&cpu, VilaModel::specs(&config), DType::F32, 3, |_| true).expect("store");
        VilaModel::new(&cpu, &config, &store).expect("model");
    });
}

#[test]
fn golden_on_the_device_in_f32() {
    let Some(backend) = nvrtc::device() else { return };
    let target = Target::exact(backend);
    logits_features_and_loss(&target);
    gradients_by_name(&target);
    trajectories(&target);
    greedy_tokens(&target);
}

#[test]
fn golden_in_bf16() {
    let target = Target::bf16(Arc::new(CpuBackend::fast()));
    logits_features_and_loss(&target);
    gradients_by_name(&target);
    trajectories(&target);
}

#[test]
fn golden_on_the_device_in_bf16() {
    let Some(backend) = nvrtc::device() else { return };
    let target = Target::bf16(backend);
    logits_features_and_loss(&target);
    gradients_by_name(&target);
    trajectories(&target);
}
