//! Prompts with demonstrations: k pairs of image and answer before the question (spec 7.8).

use sha2::{Digest, Sha256};
use vila_engine::philox::Stream;
use vila_model::tokenizer::IMAGE_MARK;

use super::tasks::{Item, Style};
use crate::data::template::{Exchange, Template};

/// How demonstrations are arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrangement {
    /// All in one user turn.
    #[default]
    #[value(name = "single_turn")]
    SingleTurn,
    /// Each in a turn of its own.
    #[value(name = "multi_turn")]
    MultiTurn,
    /// As OpenFlamingo writes them, without a conversation.
    #[value(name = "openflamingo")]
    OpenFlamingo,
}

/// Which demonstrations a question gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Drawn for each question, by seed and the question's id.
    #[default]
    #[value(name = "per_question")]
    PerQuestion,
    /// The same for all questions.
    #[value(name = "fixed")]
    Fixed,
}

/// `shots` of the pool's items that have an answer; never the question itself.
pub fn demonstrations<'a>(item: &Item, pool: &'a [Item], shots: usize, seed: u64, choice: Choice) -> Vec<&'a Item> {
    let mut candidates: Vec<&Item> = pool
        .iter()
        .filter(|other| other.answer.is_some() && (other.images != item.images || other.id != item.id))
        .collect();
    let name = if choice == Choice::Fixed { "" } else { item.id.as_str() };
    let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let stream = hash[..8].iter().fold(0u64, |stream, byte| stream << 8 | u64::from(*byte));
    let mut draws = Stream::new(seed, stream);
    let shots = shots.min(candidates.len());
    for place in 0..shots {
        let drawn = place + draws.below(candidates.len() - place);
        candidates.swap(place, drawn);
    }
    candidates.truncate(shots);
    candidates
}

/// What is asked about one image, up to where the answer goes.
fn request(item: &Item, style: Style, arrangement: Arrangement) -> String {
    let marks = IMAGE_MARK.repeat(item.images.len());
    match (arrangement, style) {
        (Arrangement::OpenFlamingo, Style::Caption) => format!("{marks}Output:"),
        (Arrangement::OpenFlamingo, _) => format!("{marks}Question:{} Short answer:", item.question),
        (_, Style::Caption) => format!("{marks}\nProvide a one-sentence caption. Caption:"),
        _ => {
            format!("{marks}\nQuestion: {}\nAnswer the question using a single word or phrase. Answer:", item.question)
        }
    }
}

/// The prompt of a question after its demonstrations.
pub fn prompt(item: &Item, shots: &[&Item], style: Style, arrangement: Arrangement, template: &Template) -> String {
    let ask = |item: &Item| request(item, style, arrangement);
    let answer = |item: &Item| item.answer.clone().unwrap_or_default();
    let space = if arrangement == Arrangement::OpenFlamingo { "" } else { " " };
    if arrangement == Arrangement::MultiTurn {
        let history: Vec<Exchange> =
            shots.iter().map(|shot| Exchange { question: ask(shot), answer: answer(shot) }).collect();
        return template.prompt(&history, &ask(item));
    }
    let shown: String = shots.iter().map(|shot| format!("{}{space}{}\n", ask(shot), answer(shot))).collect();
    match arrangement {
        Arrangement::OpenFlamingo => shown + &ask(item),
        _ => template.prompt(&[], &(shown + &ask(item))),
    }
}
