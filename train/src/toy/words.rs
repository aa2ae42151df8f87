//! The vocabulary of the toy world.

/// Number words; a word's place is its value.
pub(super) const NUMBERS: [&str; 19] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
];

pub(super) const PEOPLE: [&str; 12] =
    ["tom", "ann", "bob", "eve", "max", "sue", "leo", "mia", "ben", "zoe", "sam", "ida"];
pub(super) const FOODS: [&str; 8] = ["soup", "bread", "rice", "fish", "cake", "cheese", "corn", "salad"];
pub(super) const PLACES: [&str; 8] = ["rome", "paris", "oslo", "cairo", "lima", "tokyo", "delhi", "bern"];
pub(super) const COLOURS: [&str; 8] = ["red", "blue", "green", "black", "white", "brown", "pink", "grey"];

pub(super) const ANIMALS: [&str; 6] = ["dog", "cat", "bird", "horse", "cow", "fox"];
pub(super) const MOVES: [&str; 6] = ["ran", "sat", "slept", "walked", "jumped", "waited"];
pub(super) const NEAR: [&str; 4] = ["by", "near", "behind", "under"];
pub(super) const THINGS: [&str; 8] = ["house", "tree", "river", "wall", "door", "bridge", "hill", "boat"];
pub(super) const LOOKS: [&str; 6] = ["old", "big", "small", "new", "tall", "wide"];
pub(super) const MOODS: [&str; 6] = ["long", "short", "good", "cold", "warm", "dark"];
pub(super) const TIMES: [&str; 4] = ["day", "night", "week", "year"];
pub(super) const PLURALS: [&str; 6] = ["plums", "apples", "pears", "cups", "books", "coins"];

/// Names that mean nothing, one token each.
pub(super) const NONSENSE: [&str; 64] = [
    "blicket", "dax", "wug", "zorp", "fep", "toma", "kiv", "lorp", "gazzer", "mib", "nool", "pim", "quib", "rasp",
    "sarn", "tulk", "ulf", "vash", "wiff", "yad", "zeb", "brilp", "crint", "drosk", "fluss", "glim", "hask", "jorl",
    "klee", "lumf", "mork", "nazz", "opek", "plack", "rilk", "skell", "trum", "usk", "vorn", "womp", "yelt", "zind",
    "bax", "cheem", "dofin", "erk", "frob", "gorp", "hoon", "ilp", "jib", "koba", "lant", "modi", "nift", "ort",
    "prell", "regli", "spoo", "tizz", "vub", "wazzle", "yort", "zav",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_has_two_meanings() {
        let lists: [&[&str]; 14] = [
            &NUMBERS, &PEOPLE, &FOODS, &PLACES, &COLOURS, &ANIMALS, &MOVES, &NEAR, &THINGS, &LOOKS, &MOODS, &TIMES,
            &PLURALS, &NONSENSE,
        ];
        let mut all: Vec<&str> = lists.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
