//! Generation: the cache, batches and streams give what the plain computation gives, bit for bit.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{fixtures, layouts};
use vila_autograd::Tape;
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, NO_ROW};
use vila_model::{
    Document, FinishReason, GenerateOptions, Generation, Generator, Images, PackedBatch, Parts, Prompt, Vila, generate,
};

fn backend() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::fast())
}

fn mapped() -> Vila {
    Vila::load_mapped(&layouts().join("vila"), backend()).expect("load")
}

/// The same model with weights in memory, as in training.
fn in_memory() -> Vila {
    Vila::load(&layouts().join("vila"), backend()).expect("load")
}

fn image(number: usize) -> PathBuf {
    let names = ["astronaut_small.png", "camera_gray.jpg", "cat.jpg", "coffee.webp", "tiny_3x5.png"];
    fixtures().join("images").join(names[number % names.len()])
}

/// Random ids with up to three images among them.
fn random_document(vila: &Vila, random: &mut Stream, longest: usize) -> (Vec<u32>, Vec<f32>) {
    let length = 1 + random.below(longest);
    let mut tokens: Vec<u32> = (0..length).map(|_| random.below(vila.config.llm.vocab_size) as u32).collect();
    let mut pixels = Vec::new();
    for number in 0..random.below(4) {
        let at = random.below(tokens.len() + 1);
        tokens.insert(at, NO_ROW);
        pixels.extend(vila.processor.load(image(number)).expect("image"));
    }
    (tokens, pixels)
}

fn images(pixels: &[f32]) -> Images {
    if pixels.is_empty() { Images::None } else { Images::Pixels(pixels.to_vec()) }
}

fn packed(vila: &Vila, documents: &[Vec<u32>], pixels: &[f32]) -> PackedBatch {
    let documents: Vec<Document> = documents.iter().cloned().map(Document::prompt).collect();
    PackedBatch::new(&documents, images(pixels), vila.config.tokens_per_image(), 1).expect("batch")
}

/// Scores of the token after a document, from one pass over all of it.
fn uncached(vila: &Vila, tokens: &[u32], pixels: &[f32]) -> Vec<u32> {
    let batch = packed(vila, &[tokens.to_vec()], pixels);
    let mut tape = Tape::inference(vila.backend(), &vila.store);
    let hidden = vila.model.hidden(&mut tape, &batch).expect("hidden");
    let rows = hidden.tensor().rows();
    let last = tape.input(hidden.tensor().slice_rows(rows - 1..rows).expect("last"), false);
    let logits = vila.model.logits(&mut tape, &last).expect("logits");
    bits(&vila.backend().to_f32(&logits).expect("values"))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_cache_changes_no_bit_of_any_score() {
    for vila in [mapped(), in_memory()] {
        let mut random = Stream::new(6, 0);
        for prompt in 0..50 {
            let (mut tokens, pixels) = random_document(&vila, &mut random, 160);
            let batch = packed(&vila, &[tokens.clone()], &pixels);
            let capacity = batch.ids.len() + 8;
            let mut generator =
                Generator::new(vila.backend(), &vila.store, &vila.model, &batch, &[capacity]).expect("prompt");
            for step in 0..8 {
                let logits = generator.logits().expect("logits");
                let cached = bits(&vila.backend().to_f32(&logits).expect("values"));
                assert_eq!(cached, uncached(&vila, &tokens, &pixels), "prompt {prompt}, step {step}");
                let next = generator.choose(&logits, &GenerateOptions::default(), &[0]).expect("token");
                tokens.extend(vila.backend().to_vec::<u32>(&next).expect("token"));
                generator.advance(&next).expect("advance");
            }
        }
    }
}

fn prompts() -> Vec<Prompt> {
    let prompt = |text: &str, count: usize| Prompt {
        text: text.into(),
        images: (0..count).map(image).collect(),
        ..Prompt::default()
    };
    vec![
        prompt("a", 0),
        prompt("USER: <image>\nwhat is this? ASSISTANT:", 1),
        prompt("<image> one <image> two, three", 2),
        prompt("the same again and again and again, until it is long enough for a second block of keys", 0),
        prompt("no mark", 3),
    ]
}

fn alone(parts: Parts, options: &GenerateOptions) -> Vec<Generation> {
    let one = |prompt: Prompt| parts.generate(&prompt.text, &prompt.images, options).expect("generate");
    prompts().into_iter().map(one).collect()
}

#[test]
fn a_batch_equals_its_members() {
    for vila in [mapped(), in_memory()] {
        for options in [
            GenerateOptions { max_new_tokens: 24, ..Default::default() },
            GenerateOptions { max_new_tokens: 24, temperature: 1.5, top_p: 0.9, seed: 3, ..Default::default() },
            GenerateOptions {
                max_new_tokens: 24,
                temperature: 2.0,
                top_k: 40,
                repetition_penalty: 1.3,
                stop: vec!["e".into()],
                ..Default::default()
            },
        ] {
            let together = vila.parts().start(&prompts(), &options).expect("start").finish().expect("finish");
            assert_eq!(together, alone(vila.parts(), &options), "{options:?}");
        }
    }
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let vila = mapped();
    let options = GenerateOptions { max_new_tokens: 40, temperature: 3.0, seed: 1, ..Default::default() };
    for Prompt { text, images, .. } in prompts() {
        let tokens: Vec<_> =
            vila.generate(&text, &images, &options).expect("start").map(|token| token.expect("token")).collect();
        let whole = generate(&vila, &text, &images, &options).expect("generate");
        assert_eq!(tokens.iter().map(|token| token.text.as_str()).collect::<String>(), whole.text);
        assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), whole.ids);
        assert_eq!(tokens.last().expect("a token").finish, Some(whole.finish));
        assert!(tokens.iter().rev().skip(1).all(|token| token.finish.is_none()));
    }
}

#[test]
fn a_stop_text_cuts_the_answer_before_it() {
    let vila = mapped();
    let free = GenerateOptions { max_new_tokens: 60, temperature: 3.0, seed: 2, ..Default::default() };
    let whole = generate(&vila, "a prompt", &[], &free).expect("generate").text;
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let options = GenerateOptions { stop: vec![middle.clone(), "never said".into()], ..free };
    let cut = generate(&vila, "a prompt", &[], &options).expect("generate");
    assert_eq!((cut.text.as_str(), cut.finish), (whole.split(&middle).next().expect("part"), FinishReason::Stop));
}

#[test]
fn sampling_options_restrict_and_penalise() {
    let vila = mapped();
    let greedy = GenerateOptions { max_new_tokens: 30, ..Default::default() };
    let hot = GenerateOptions { temperature: 5.0, top_k: 1, ..greedy.clone() };
    let ids = |options: &GenerateOptions| generate(&vila, "a prompt", &[], options).expect("generate").ids;
    assert_eq!(ids(&hot), ids(&greedy));
    // With an immense penalty no token comes twice, unless all scores of the others are worse still.
    let fresh = ids(&GenerateOptions { repetition_penalty: 1e6, ..greedy.clone() });
    let mut distinct = fresh.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), fresh.len());
    for wrong in [
        GenerateOptions { top_p: 0.0, ..greedy.clone() },
        GenerateOptions { temperature: f64::NAN, ..greedy.clone() },
        GenerateOptions { repetition_penalty: 0.0, ..greedy.clone() },
        GenerateOptions { stop: vec![String::new()], ..greedy.clone() },
    ] {
        assert!(generate(&vila, "a", &[], &wrong).is_err(), "{wrong:?}");
    }
    let none = generate(&vila, "a", &[], &GenerateOptions { max_new_tokens: 0, ..greedy }).expect("nothing");
    assert_eq!((none.ids.len(), none.finish), (0, FinishReason::Length));
}
