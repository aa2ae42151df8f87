//! The sentences of the toy world: arithmetic, comparison, counting, facts, stories.

use super::rng::Rng;
use super::words::{
    ANIMALS, COLOURS, FOODS, LOOKS, MOODS, MOVES, NEAR, NUMBERS, PEOPLE, PLACES, PLURALS, THINGS, TIMES,
};

/// An addition or a subtraction whose result is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    Plus(usize, usize),
    Minus(usize, usize),
}

impl Sum {
    /// Every sum of two digits and every difference that is not negative: 155.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let pairs = || (0..10).flat_map(|a| (0..10).map(move |b| (a, b)));
        let minus = pairs().filter(|(a, b)| a >= b).map(|(a, b)| Self::Minus(a, b));
        pairs().map(|(a, b)| Self::Plus(a, b)).chain(minus)
    }

    pub(super) fn draw(rng: &mut Rng) -> Self {
        let plus = rng.chance(0.6);
        let (a, b) = (rng.below(10), rng.below(10));
        if plus { Self::Plus(a, b) } else { Self::Minus(a.max(b), a.min(b)) }
    }

    /// `three plus four`
    pub(super) fn words(self) -> String {
        match self {
            Self::Plus(a, b) => format!("{} plus {}", NUMBERS[a], NUMBERS[b]),
            Self::Minus(a, b) => format!("{} minus {}", NUMBERS[a], NUMBERS[b]),
        }
    }

    pub(super) fn result(self) -> &'static str {
        match self {
            Self::Plus(a, b) => NUMBERS[a + b],
            Self::Minus(a, b) => NUMBERS[a - b],
        }
    }
}

/// Something that is true of a person for a whole corpus.
pub(super) struct Fact {
    /// The sentence up to the answer: `tom likes`.
    pub(super) statement: String,
    /// The question: `what does tom like ?`.
    pub(super) question: String,
    pub(super) answer: &'static str,
}

/// What is true in one corpus.
pub(super) struct World {
    pub(super) facts: Vec<Fact>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let facts = PEOPLE.iter().enumerate().flat_map(|(index, person)| {
            let mut rng = Rng::new(seed, "world", index as u64);
            let food = Fact {
                statement: format!("{person} likes"),
                question: format!("what does {person} like ?"),
                answer: FOODS[rng.below(FOODS.len())],
            };
            let place = Fact {
                statement: format!("{person} lives in"),
                question: format!("where does {person} live ?"),
                answer: PLACES[rng.below(PLACES.len())],
            };
            let colour = Fact {
                statement: format!("the colour of {person} is"),
                question: format!("what colour is {person} ?"),
                answer: COLOURS[rng.below(COLOURS.len())],
            };
            [food, place, colour]
        });
        Self { facts: facts.collect() }
    }

    fn fact(&self, rng: &mut Rng) -> String {
        let fact = rng.pick(&self.facts);
        if rng.chance(0.5) {
            format!("{} {} .", fact.statement, fact.answer)
        } else {
            format!("{} {} .", fact.question, fact.answer)
        }
    }

    /// A sentence of the given kind.
    pub(super) fn sentence(&self, kind: Kind, rng: &mut Rng) -> String {
        match kind {
            Kind::Arithmetic => arithmetic(rng),
            Kind::Comparison => comparison(rng),
            Kind::Counting => counting(rng),
            Kind::Facts => self.fact(rng),
            Kind::Story => story(rng),
            Kind::Mixed => {
                let kinds = [Kind::Arithmetic, Kind::Comparison, Kind::Counting, Kind::Facts, Kind::Story];
                self.sentence(kinds[rng.weighted(&[4.0, 2.0, 1.0, 3.0, 1.0])], rng)
            }
        }
    }
}

/// A kind of sentence.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Arithmetic,
    Comparison,
    Counting,
    Facts,
    Story,
    Mixed,
}

fn arithmetic(rng: &mut Rng) -> String {
    let sum = Sum::draw(rng);
    if rng.chance(0.6) {
        format!("{} is {} .", sum.words(), sum.result())
    } else {
        format!("what is {} ? {} .", sum.words(), sum.result())
    }
}

/// Two different digits.
pub(super) fn unequal(rng: &mut Rng) -> (usize, usize) {
    let two = rng.distinct(2, 10);
    (two[0], two[1])
}

fn comparison(rng: &mut Rng) -> String {
    let (a, b) = unequal(rng);
    let (low, high) = (NUMBERS[a.min(b)], NUMBERS[a.max(b)]);
    let (a, b) = (NUMBERS[a], NUMBERS[b]);
    match rng.weighted(&[30.0, 20.0, 30.0, 20.0]) {
        0 => format!("{high} is larger than {low} ."),
        1 => format!("{low} is smaller than {high} ."),
        2 => format!("which is larger , {a} or {b} ? {high} ."),
        _ => format!("which is smaller , {a} or {b} ? {low} ."),
    }
}

fn counting(rng: &mut Rng) -> String {
    let length = rng.from_to(3, 6);
    let start = rng.from_to(0, 15 - length);
    let mut numbers: Vec<&str> = NUMBERS[start..start + length].to_vec();
    let up = rng.chance(0.5);
    if !up {
        numbers.reverse();
    }
    format!("count {} : {} .", if up { "up" } else { "down" }, numbers.join(" "))
}

fn story(rng: &mut Rng) -> String {
    match rng.below(6) {
        0 => {
            let (colour, animal) = (rng.pick(&COLOURS), rng.pick(&ANIMALS));
            let (went, near, thing) = (rng.pick(&MOVES), rng.pick(&NEAR), rng.pick(&THINGS));
            format!("the {colour} {animal} {went} {near} the {thing} .")
        }
        1 => format!("it was a {} {} .", rng.pick(&MOODS), rng.pick(&TIMES)),
        2 => format!("the {} is very {} .", rng.pick(&THINGS), rng.pick(&LOOKS)),
        3 => format!("we see {} {} here .", NUMBERS[rng.from_to(2, 9)], rng.pick(&PLURALS)),
        4 => format!("{} went to {} .", rng.pick(&PEOPLE), rng.pick(&PLACES)),
        _ => format!("there was a {} {} that {} .", rng.pick(&LOOKS), rng.pick(&ANIMALS), rng.pick(&MOVES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_155_sums_and_36_facts() {
        assert_eq!(Sum::all().count(), 155);
        assert_eq!(World::new(0).facts.len(), 36);
        assert_eq!(Sum::Minus(9, 2).words(), "nine minus two");
        assert_eq!(Sum::Plus(9, 9).result(), "eighteen");
    }

    #[test]
    fn sentences_end_and_stay_in_range() {
        let world = World::new(5);
        for index in 0..5_000 {
            let sentence = world.sentence(Kind::Mixed, &mut Rng::new(5, "test", index));
            assert!(sentence.ends_with(" ."), "{sentence}");
            assert_eq!(sentence, sentence.to_lowercase());
        }
    }

    #[test]
    fn worlds_differ_by_seed() {
        let answers = |seed| World::new(seed).facts.iter().map(|fact| fact.answer).collect::<Vec<_>>();
        assert_eq!(answers(1), answers(1));
        assert_ne!(answers(1), answers(2));
    }
}
