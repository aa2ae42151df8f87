//! The documents of the toy corpora, in the public formats.

use serde::Serialize;

use super::digits::{Digits, TRAIN};
use super::rng::Rng;
use super::sentences::{Kind, Sum, World, unequal};
use super::words::{NONSENSE, NUMBERS};

/// A line of a text corpus.
#[derive(Debug, Serialize)]
pub(super) struct TextRecord {
    text: String,
}

/// A line of an image-text pair corpus.
#[derive(Debug, Serialize)]
pub(super) struct PairRecord {
    id: String,
    image: String,
    text: String,
}

/// A line of an MMC4 corpus.
#[derive(Debug, Default, Serialize)]
pub(super) struct Mmc4Record {
    url: String,
    text_list: Vec<String>,
    image_info: Vec<Mmc4Image>,
}

/// An image of an MMC4 document and the sentence it stands before.
#[derive(Debug, Serialize)]
pub(super) struct Mmc4Image {
    image_name: String,
    matched_text_index: usize,
    matched_sim: f64,
}

/// An object of a LLaVA corpus.
#[derive(Debug, Serialize)]
pub(super) struct LlavaRecord {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<OneOrMany>,
    conversations: [Turn; 2],
}

/// One image is a string, several are a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// One side of a conversation.
#[derive(Debug, Serialize)]
pub(super) struct Turn {
    from: &'static str,
    value: String,
}

/// Which pairs of digits never appear in a visual sum, so that evaluation can tell adding from remembering.
pub(super) struct HeldOutPairs([bool; 100]);

impl HeldOutPairs {
    const COUNT: usize = 20;

    pub(super) fn new(seed: u64) -> Self {
        let mut held_out = [false; 100];
        for pair in Rng::new(seed, "held-out pairs", 0).distinct(Self::COUNT, 100) {
            held_out[pair] = true;
        }
        Self(held_out)
    }

    pub(super) fn contains(&self, a: usize, b: usize) -> bool {
        self.0[10 * a + b]
    }
}

/// Everything that the documents of one corpus share.
pub(super) struct Writer {
    seed: u64,
    /// Begins every record's id, so that files of different corpora differ even where their words agree.
    id: String,
    views: usize,
    train: [Vec<usize>; 10],
    pub(super) world: World,
    pub(super) held_out: HeldOutPairs,
}

/// How a naming game is worded.
#[derive(Clone, Copy)]
enum GameStyle {
    List,
    Colon,
    Called,
    Means,
}

impl Writer {
    pub(super) fn new(digits: &Digits, seed: u64, views: usize, id: String) -> Self {
        let (train, world, held_out) = (digits.by_label(TRAIN), World::new(seed), HeldOutPairs::new(seed));
        Self { seed, id, views, train, world, held_out }
    }

    /// File name, within the image folder, of one view of a train tile.
    pub(super) fn view_name(tile: usize, view: usize) -> String {
        format!("t{tile:04}_v{view:02}.png")
    }

    /// A random view of a random train tile that shows `digit`.
    fn image(&self, digit: usize, rng: &mut Rng) -> String {
        let tile = *rng.pick(&self.train[digit]);
        Self::view_name(tile, rng.below(self.views))
    }

    fn image_path(&self, digit: usize, rng: &mut Rng) -> String {
        format!("images/{}", self.image(digit, rng))
    }

    /// Text stage 0a: a list-style naming game.
    pub(super) fn text_game(&self, index: u64) -> TextRecord {
        let rng = &mut Rng::new(self.seed, "text games", index);
        TextRecord { text: text_game(GameStyle::List, 4..=14, rng) }
    }

    /// Text stage 0b: naming games, arithmetic and everything else.
    pub(super) fn text(&self, index: u64) -> TextRecord {
        let rng = &mut Rng::new(self.seed, "text", index);
        let kind = match rng.weighted(&[50.0, 17.5, 32.5]) {
            0 => {
                let style = [GameStyle::List, GameStyle::Colon, GameStyle::Called, GameStyle::Means];
                let style = style[rng.weighted(&[40.0, 20.0, 20.0, 20.0])];
                let further = if matches!(style, GameStyle::List) { 4..=13 } else { 3..=9 };
                return TextRecord { text: text_game(style, further, rng) };
            }
            1 => Kind::Arithmetic,
            _ => {
                let kinds = [Kind::Comparison, Kind::Facts, Kind::Story, Kind::Counting, Kind::Mixed];
                kinds[rng.weighted(&[1.0, 1.0, 1.0, 1.0, 2.0])]
            }
        };
        let count = rng.from_to(3, 6);
        let sentences: Vec<_> = (0..count).map(|_| self.world.sentence(kind, rng)).collect();
        TextRecord { text: sentences.join(" ") }
    }

    /// A digit and a caption.
    pub(super) fn pair(&self, index: u64) -> PairRecord {
        let rng = &mut Rng::new(self.seed, "pairs", index);
        let digit = rng.below(10);
        let name = NUMBERS[digit];
        let text = match rng.below(5) {
            0 => format!("a {name} ."),
            1 => format!("the digit {name} ."),
            2 => format!("number {name} ."),
            3 => format!("photo of a {name} ."),
            _ => format!("{name} ."),
        };
        PairRecord { id: format!("{}-pair-{index}", self.id), image: self.image_path(digit, rng), text }
    }

    /// An interleaved document: a naming game with images, or a story.
    pub(super) fn mmc4(&self, index: u64) -> Mmc4Record {
        let rng = &mut Rng::new(self.seed, "mmc4", index);
        let mut record = Mmc4Record { url: format!("{}-mmc4-{index}", self.id), ..Mmc4Record::default() };
        if rng.chance(0.5) {
            let (count, further) = (rng.from_to(2, 4), rng.from_to(3, 9));
            for (digit, name) in naming_items(count, further, rng) {
                self.add(&mut record, &[digit], format!("{name} ,"), rng);
            }
        } else {
            for _ in 0..rng.from_to(2, 5) {
                self.add_story_group(&mut record, rng);
            }
        }
        record
    }

    fn add_story_group(&self, record: &mut Mmc4Record, rng: &mut Rng) {
        let (first, second) = (rng.below(10), rng.below(10));
        let (one, two) = (NUMBERS[first], NUMBERS[second]);
        match rng.weighted(&[55.0, 25.0, 20.0]) {
            0 => {
                let sentence = match rng.below(4) {
                    0 => format!("this is a {one} ."),
                    1 => format!("here is a {one} ."),
                    2 => format!("this is the digit {one} ."),
                    _ => format!("we see a {one} here ."),
                };
                self.add(record, &[first], sentence, rng);
            }
            1 => {
                let sentence = if rng.chance(0.5) {
                    format!("{one} and {two} make {} .", NUMBERS[first + second])
                } else {
                    format!("here we see {one} and {two} .")
                };
                self.add(record, &[first, second], sentence, rng);
            }
            _ => {
                let unrelated = self.world.sentence(Kind::Mixed, rng);
                self.add(record, &[first], unrelated, rng);
            }
        }
        if rng.chance(0.25) {
            record.text_list.push(self.world.sentence(Kind::Mixed, rng));
        }
    }

    /// Appends a sentence with images of `digits` before it.
    fn add(&self, record: &mut Mmc4Record, digits: &[usize], sentence: String, rng: &mut Rng) {
        for &digit in digits {
            record.image_info.push(Mmc4Image {
                image_name: self.image(digit, rng),
                matched_text_index: record.text_list.len(),
                matched_sim: 0.3,
            });
        }
        record.text_list.push(sentence);
    }

    /// A question about one or several images.
    pub(super) fn sft_visual(&self, index: u64) -> LlavaRecord {
        let rng = &mut Rng::new(self.seed, "sft visual", index);
        let (digits, question, answer) = match rng.weighted(&[40.0, 25.0, 20.0, 15.0]) {
            0 => {
                let digit = rng.below(10);
                (vec![digit], DIGIT_QUESTION.to_owned(), NUMBERS[digit])
            }
            1 => {
                let (a, b) = self.trained_pair(rng);
                (vec![a, b], SUM_QUESTION.to_owned(), NUMBERS[a + b])
            }
            2 => {
                let (a, b) = unequal(rng);
                (vec![a, b], LARGER_QUESTION.to_owned(), NUMBERS[a.max(b)])
            }
            _ => count_item(rng),
        };
        let image: Vec<_> = digits.iter().map(|&digit| self.image_path(digit, rng)).collect();
        let question = with_marks(image.len(), &question);
        self.conversation("sft-visual", index, image, question, answer.to_owned())
    }

    fn trained_pair(&self, rng: &mut Rng) -> (usize, usize) {
        loop {
            let (a, b) = (rng.below(10), rng.below(10));
            if !self.held_out.contains(a, b) {
                return (a, b);
            }
        }
    }

    /// A question without an image.
    pub(super) fn sft_text(&self, index: u64) -> LlavaRecord {
        let rng = &mut Rng::new(self.seed, "sft text", index);
        let (question, answer) = match rng.weighted(&[55.0, 15.0, 10.0, 20.0]) {
            0 => {
                let sum = Sum::draw(rng);
                (sum_question(sum), sum.result())
            }
            1 => {
                let (a, b) = unequal(rng);
                (format!("which is larger , {} or {} ?", NUMBERS[a], NUMBERS[b]), NUMBERS[a.max(b)])
            }
            2 => {
                let number = rng.from_to(0, 12);
                (format!("what comes after {} ?", NUMBERS[number]), NUMBERS[number + 1])
            }
            _ => {
                let fact = rng.pick(&self.world.facts);
                (fact.question.clone(), fact.answer)
            }
        };
        self.conversation("sft-text", index, Vec::new(), question, answer.to_owned())
    }

    /// A question of the visual kind, with number words where images would stand; every digit may meet every other.
    pub(super) fn sft_worded(&self, index: u64) -> LlavaRecord {
        let rng = &mut Rng::new(self.seed, "sft worded", index);
        let (a, b) = unequal(rng);
        let (digits, question, answer) = match rng.weighted(&[20.0, 35.0, 15.0, 15.0, 15.0]) {
            0 => (vec![a], DIGIT_QUESTION, NUMBERS[a]),
            1 => {
                let (a, b) = (rng.below(10), rng.below(10));
                (vec![a, b], SUM_QUESTION, NUMBERS[a + b])
            }
            2 => (vec![a, b], LARGER_QUESTION, NUMBERS[a.max(b)]),
            3 => (vec![a, b], SMALLER_QUESTION, NUMBERS[a.min(b)]),
            _ => (vec![a], AFTER_QUESTION, NUMBERS[a + 1]),
        };
        let words: String = digits.into_iter().map(|digit| format!("{} ", NUMBERS[digit])).collect();
        self.conversation("sft-worded", index, Vec::new(), words + question, answer.to_owned())
    }

    fn conversation(
        &self,
        kind: &str,
        index: u64,
        mut images: Vec<String>,
        question: String,
        answer: String,
    ) -> LlavaRecord {
        let image = match images.len() {
            0 => None,
            1 => images.pop().map(OneOrMany::One),
            _ => Some(OneOrMany::Many(images)),
        };
        let conversations = [Turn { from: "human", value: question }, Turn { from: "gpt", value: answer }];
        LlavaRecord { id: format!("{}-{kind}-{index}", self.id), image, conversations }
    }
}

pub(super) const DIGIT_QUESTION: &str = "what digit is this ?";
pub(super) const SUM_QUESTION: &str = "what is the sum ?";
pub(super) const LARGER_QUESTION: &str = "which is larger ?";
pub(super) const SMALLER_QUESTION: &str = "which is smaller ?";
pub(super) const AFTER_QUESTION: &str = "what comes after ?";

/// `what is three plus four ?`
pub(super) fn sum_question(sum: Sum) -> String {
    format!("what is {} ?", sum.words())
}

/// The question with the marks of its images in front.
pub(super) fn with_marks(images: usize, question: &str) -> String {
    format!("{}{question}", "<image>\n".repeat(images))
}

/// Three or four digits, and how many of them show a given one.
pub(super) fn count_item(rng: &mut Rng) -> (Vec<usize>, String, &'static str) {
    let wanted = rng.below(10);
    let count = rng.from_to(3, 4);
    let others: Vec<usize> = (0..10).filter(|&digit| digit != wanted).collect();
    let digits: Vec<usize> = (0..count).map(|_| if rng.chance(0.45) { wanted } else { *rng.pick(&others) }).collect();
    let matching = digits.iter().filter(|&&digit| digit == wanted).count();
    (digits, format!("how many show a {} ?", NUMBERS[wanted]), NUMBERS[matching])
}

/// `count` digits with fresh names: each pair once, then `further` repetitions of random ones.
fn naming_items(count: usize, further: usize, rng: &mut Rng) -> Vec<(usize, &'static str)> {
    let bindings = fresh_bindings(count, rng);
    let repeats: Vec<_> = (0..further).map(|_| *rng.pick(&bindings)).collect();
    [bindings, repeats].concat()
}

/// `count` different digits, each with a different name that means nothing.
pub(super) fn fresh_bindings(count: usize, rng: &mut Rng) -> Vec<(usize, &'static str)> {
    let digits = rng.distinct(count, 10);
    let names = rng.distinct(count, NONSENSE.len());
    digits.into_iter().zip(names.into_iter().map(|name| NONSENSE[name])).collect()
}

fn text_game(style: GameStyle, further: std::ops::RangeInclusive<usize>, rng: &mut Rng) -> String {
    let (count, further) = (rng.from_to(2, 5), rng.from_to(*further.start(), *further.end()));
    let items = naming_items(count, further, rng).into_iter().map(|(digit, name)| {
        let digit = NUMBERS[digit];
        match style {
            GameStyle::List => format!("{digit} {name} ,"),
            GameStyle::Colon => format!("{digit} : {name} ."),
            GameStyle::Called => format!("{digit} is called {name} ."),
            GameStyle::Means => format!("{name} means {digit} ."),
        }
    });
    items.collect::<Vec<_>>().join(" ")
}
