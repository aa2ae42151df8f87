//! How VQA evaluators compare answers: punctuation, number words, articles and contractions.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_automata::meta::Regex;

use crate::evaluation::python::{split, strip};

/// In the order in which they are dealt with.
const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// Known by their spelling without apostrophes.
const CONTRACTIONS: &str = "\
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's \
    isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've \
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd \
    there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've \
    when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all \
    you'd you'll you're you've";

/// Known by both spellings that lack one of the two apostrophes.
const DOUBLE_CONTRACTIONS: &str = "couldn't've hadn't've mightn't've shouldn't've wouldn't've he'd've it'd've she'd've \
    somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've you'd've";

/// Entries of the evaluators' table that follow no rule, among them one that is the wrong way round.
const ODD_CONTRACTIONS: [(&str, &str); 9] = [
    ("somebody'd", "somebodyd"),
    ("ow's'at", "'ow's'at"),
    ("'ows'at", "'ow's'at"),
    ("'ow'sat", "'ow's'at"),
    ("yall'll", "y'all'll"),
    ("y'allll", "y'all'll"),
    ("yall'd've", "y'all'd've"),
    ("y'alld've", "y'all'd've"),
    ("y'all'dve", "y'all'd've"),
];

static SPELLINGS: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
    let single = CONTRACTIONS.split_whitespace().map(|whole| (whole.replace('\'', ""), whole));
    let double = DOUBLE_CONTRACTIONS.split_whitespace().flat_map(|whole| {
        let without = |apostrophe: Option<usize>| {
            let at = apostrophe.unwrap_or(whole.len());
            (whole[..at].to_owned() + whole.get(at + 1..).unwrap_or(""), whole)
        };
        [without(whole.find('\'')), without(whole.rfind('\''))]
    });
    let odd = ODD_CONTRACTIONS.into_iter().map(|(broken, whole)| (broken.to_owned(), whole));
    single.chain(double).chain(odd).collect()
});

fn is_digit(c: char) -> bool {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d").expect("a pattern"));
    c.is_ascii_digit() || (!c.is_ascii() && DIGIT.is_match(&*c.encode_utf8(&mut [0; 4])))
}

/// A mark with a space on either side anywhere in the text vanishes, else it becomes a space; so does every mark of a
/// text with a comma between digits.
fn without_punctuation(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let grouped_digits = characters.windows(3).any(|w| w[1] == ',' && is_digit(w[0]) && is_digit(w[2]));
    let mut plain = text.to_owned();
    for mark in PUNCTUATION {
        let beside_space =
            characters.windows(2).any(|w| (w[0] == mark && w[1] == ' ') || (w[0] == ' ' && w[1] == mark));
        plain = plain.replace(mark, if grouped_digits || beside_space { "" } else { " " });
    }
    without_periods(&plain)
}

/// Evaluators hand the flag `re.UNICODE` to the count argument: no more periods are deleted than its value.
const MOST_PERIODS: usize = 32;

/// Deletes periods that no digit follows.
fn without_periods(text: &str) -> String {
    let mut deleted = 0;
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '.' && deleted < MOST_PERIODS && !rest.peek().copied().is_some_and(is_digit) {
            deleted += 1;
        } else {
            kept.push(c);
        }
    }
    kept
}

/// Lower case, number words as digits, no articles, contractions with their apostrophes.
fn without_articles(text: &str) -> String {
    let text = text.to_lowercase();
    let words = split(&text).map(|word| match word {
        "none" => "0".to_owned(),
        _ => NUMBERS.iter().position(|number| *number == word).map_or(word.to_owned(), |n| n.to_string()),
    });
    let words = words.filter(|word| !ARTICLES.contains(&word.as_str()));
    words.map(|word| SPELLINGS.get(&word).map_or(word, |&whole| whole.to_owned())).collect::<Vec<_>>().join(" ")
}

/// Newlines and tabs as spaces, none at the ends: what the official evaluator does to every answer.
pub(super) fn on_one_line(text: &str) -> String {
    strip(&text.replace(['\n', '\t'], " ")).to_owned()
}

/// The official VQA evaluator's normalisation, which it applies where humans disagree.
pub fn official_normalize(text: &str) -> String {
    without_articles(&without_punctuation(text))
}

/// The normalisation of EvalAI and mmf, used for TextVQA, VizWiz and VQAv2 uploads.
pub fn evalai_normalize(text: &str) -> String {
    let words = text.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    official_normalize(&on_one_line(strip(&words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_normalisations() {
        let cases = [
            ("Two dogs.", "2 dogs"),
            ("The  U.S.A.", "usa"),
            ("it's a dog, isnt it?", "it 's dog isn't it"),
            ("10,000", "10000"),
            ("3.5 mph", "3.5 mph"),
            ("T-shirt", "t shirt"),
            ("red/blue", "red blue"),
            ("yes - no", "yes no"),
            ("dont know", "don't know"),
            ("none", "0"),
            ("a an the", ""),
            ("St. Mary's", "st mary 's"),
            ("$5.00!", "$5.00"),
            ("(left)", "left"),
            ("mother-in-law's", "mother in law 's"),
            ("youre right", "you're right"),
            ("12:30 p.m.", "12:30 pm"),
        ];
        for (answer, expected) in cases {
            assert_eq!(evalai_normalize(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn at_most_32_periods_are_deleted() {
        assert_eq!(evalai_normalize(&".".repeat(40)), ".".repeat(8));
    }

    #[test]
    fn the_official_variant_keeps_possessives_and_sees_digit_commas() {
        assert_eq!(official_normalize("Mary's 1,000-mile"), "mary's 1000mile");
    }

    #[test]
    fn doubled_contractions_know_both_broken_spellings() {
        assert_eq!(
            evalai_normalize("couldnt've couldn'tve somebody'd yall'll"),
            "couldn't've couldn't've somebodyd y'all'll"
        );
        assert_eq!(SPELLINGS.len(), 120 - 6, "all but the four that lower case hides and the two that change nothing");
    }
}
