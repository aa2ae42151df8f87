//! Questions about digits that nobody trained on.

use serde::Serialize;

use super::digits::{Digits, HELD_OUT};
use super::documents::{
    AFTER_QUESTION, DIGIT_QUESTION, LARGER_QUESTION, SMALLER_QUESTION, SUM_QUESTION, Writer, count_item,
    fresh_bindings, sum_question, with_marks,
};
use super::rng::Rng;
use super::sentences::Sum;
use super::words::NUMBERS;

/// One line of an evaluation file.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Item {
    /// Completion form: the text the model continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    /// Chat form: what the user asks; the conversation template is put around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    template: bool,
    images: Vec<String>,
    answer: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out_pair: Option<bool>,
}

/// An evaluation file: its name without extension, and its lines.
pub(super) type Task = (&'static str, Vec<Item>);

/// Items in the tasks that draw their digits.
const DRAWN: u64 = 400;
const COUNTED: u64 = 300;
/// Names in one naming prompt.
const NAMES: usize = 4;

/// File name, within the evaluation's image folder, of a held-out tile.
pub(super) fn held_out_name(tile: usize) -> String {
    format!("h{tile:04}.png")
}

/// Every evaluation task of a corpus.
pub(super) fn tasks(digits: &Digits, writer: &Writer, seed: u64) -> Vec<Task> {
    let asker = Asker { digits, tiles: digits.by_label(HELD_OUT), seed };
    let (naming_0, naming_4) = asker.naming();
    vec![
        ("digit_vqa", asker.each_tile(DIGIT_QUESTION, |digit| NUMBERS[digit])),
        ("two_image_sum", asker.sums(writer)),
        ("larger", asker.compared("eval larger", LARGER_QUESTION, usize::max)),
        ("smaller", asker.compared("eval smaller", SMALLER_QUESTION, usize::min)),
        ("count", asker.count()),
        ("after", asker.each_tile(AFTER_QUESTION, |digit| NUMBERS[digit + 1])),
        ("naming_0", naming_0),
        ("naming_4", naming_4),
        ("text_naming", text_naming(seed)),
        ("text_arithmetic", Sum::all().map(|sum| completion(format!("{} is", sum.words()), sum.result())).collect()),
        ("text_arithmetic_chat", Sum::all().map(|sum| chat(sum_question(sum), Vec::new(), sum.result())).collect()),
        ("facts", writer.world.facts.iter().map(|fact| completion(fact.statement.clone(), fact.answer)).collect()),
        (
            "facts_chat",
            writer.world.facts.iter().map(|fact| chat(fact.question.clone(), Vec::new(), fact.answer)).collect(),
        ),
    ]
}

fn completion(prompt: String, answer: &str) -> Item {
    Item { prompt: Some(prompt), answer: answer.to_owned(), ..Item::default() }
}

fn chat(question: String, images: Vec<String>, answer: &str) -> Item {
    Item { question: Some(question), template: true, images, answer: answer.to_owned(), ..Item::default() }
}

/// The naming game with number words in place of images: `seven wug , two dax , ... seven`.
fn text_naming(seed: u64) -> Vec<Item> {
    let item = |index| {
        let rng = &mut Rng::new(seed, "eval text naming", index);
        let bindings = fresh_bindings(NAMES, rng);
        let shown: String = bindings.iter().map(|(digit, name)| format!("{} {name} , ", NUMBERS[*digit])).collect();
        let &(digit, answer) = rng.pick(&bindings);
        let choices = bindings.iter().map(|(_, name)| (*name).to_owned()).collect();
        Item { choices, ..completion(format!("{shown}{}", NUMBERS[digit]), answer) }
    };
    (0..DRAWN).map(item).collect()
}

struct Asker<'a> {
    digits: &'a Digits,
    tiles: [Vec<usize>; 10],
    seed: u64,
}

impl Asker<'_> {
    /// One question about every held-out tile.
    fn each_tile(&self, question: &str, answer: impl Fn(usize) -> &'static str) -> Vec<Item> {
        HELD_OUT.map(|tile| chat(with_marks(1, question), vec![path(tile)], answer(self.digits.label(tile)))).collect()
    }

    /// Every held-out tile with a random other one.
    fn sums(&self, writer: &Writer) -> Vec<Item> {
        let item = |first: usize| {
            let second = HELD_OUT.start + Rng::new(self.seed, "eval sum", first as u64).below(HELD_OUT.len());
            let (a, b) = (self.digits.label(first), self.digits.label(second));
            let images = vec![path(first), path(second)];
            let item = chat(with_marks(2, SUM_QUESTION), images, NUMBERS[a + b]);
            Item { held_out_pair: Some(writer.held_out.contains(a, b)), ..item }
        };
        HELD_OUT.map(item).collect()
    }

    /// Every held-out tile with a random one of another digit.
    fn compared(&self, stream: &str, question: &str, answer: fn(usize, usize) -> usize) -> Vec<Item> {
        let item = |first: usize| {
            let rng = &mut Rng::new(self.seed, stream, first as u64);
            let a = self.digits.label(first);
            let b = (a + rng.from_to(1, 9)) % 10;
            let images = vec![path(first), self.draw(b, rng)];
            chat(with_marks(2, question), images, NUMBERS[answer(a, b)])
        };
        HELD_OUT.map(item).collect()
    }

    fn count(&self) -> Vec<Item> {
        let item = |index| {
            let rng = &mut Rng::new(self.seed, "eval count", index);
            let (digits, question, answer) = count_item(rng);
            let images: Vec<_> = digits.iter().map(|&digit| self.draw(digit, rng)).collect();
            chat(with_marks(images.len(), &question), images, answer)
        };
        (0..COUNTED).map(item).collect()
    }

    /// The same queries without and with one demonstration of each name.
    fn naming(&self) -> (Vec<Item>, Vec<Item>) {
        let item = |index| {
            let rng = &mut Rng::new(self.seed, "eval naming", index);
            let bindings = fresh_bindings(NAMES, rng);
            let demonstrations: String = bindings.iter().map(|(_, name)| format!("<image> {name} , ")).collect();
            let mut images: Vec<_> = bindings.iter().map(|&(digit, _)| self.draw(digit, rng)).collect();
            let &(digit, answer) = rng.pick(&bindings);
            let query = self.draw_other(digit, &images, rng);
            images.push(query.clone());
            let choices: Vec<_> = bindings.iter().map(|(_, name)| (*name).to_owned()).collect();
            let shown = completion(format!("{demonstrations}<image>"), answer);
            let bare = completion("<image>".to_owned(), answer);
            (Item { images: vec![query], choices: choices.clone(), ..bare }, Item { images, choices, ..shown })
        };
        (0..DRAWN).map(item).unzip()
    }

    /// A random held-out image of a digit.
    fn draw(&self, digit: usize, rng: &mut Rng) -> String {
        path(*rng.pick(&self.tiles[digit]))
    }

    /// A random held-out image of a digit that is not among those shown, where there is one.
    fn draw_other(&self, digit: usize, shown: &[String], rng: &mut Rng) -> String {
        let fresh: Vec<_> =
            self.tiles[digit].iter().map(|&tile| path(tile)).filter(|image| !shown.contains(image)).collect();
        if fresh.is_empty() { self.draw(digit, rng) } else { rng.pick(&fresh).clone() }
    }
}

/// Path relative to the evaluation file.
fn path(tile: usize) -> String {
    format!("images/{}", held_out_name(tile))
}
