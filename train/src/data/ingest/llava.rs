//! LLaVA conversations: a JSON array, or one JSON object a line.

use serde::Deserialize;

use super::super::template::{Exchange, Template};
use super::super::tokens::IMAGE_MARK;
use super::document::{Document, DocumentEnd};
use super::error::Problem;

/// The fields that matter of one object.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    image: Option<OneOrMany>,
    conversations: Vec<Turn>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Turn {
    from: String,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Human,
    Assistant,
}

/// The conversation under `template`; the answers and their ends are learned.
pub(super) fn document(record: Record, template: &Template) -> Result<Document, Problem> {
    let images = match record.image {
        None => Vec::new(),
        Some(OneOrMany::One(image)) => vec![image],
        Some(OneOrMany::Many(images)) => images,
    };
    let mut exchanges = exchanges(record.conversations)?;
    if exchanges.is_empty() {
        return Err(Problem::NoTarget);
    }
    if template.is_plain() && exchanges.len() != 1 {
        return Err(Problem::NotPlain { exchanges: exchanges.len() });
    }
    place_images(&mut exchanges, images.len(), template.is_compat());
    let rendered = template.render(&exchanges);
    let marks = rendered.text.matches(IMAGE_MARK).count();
    if marks != images.len() {
        return Err(Problem::CountMismatch { marks, images: images.len() });
    }
    Ok(Document { text: rendered.text, trained: rendered.trained, end: DocumentEnd::Open, images })
}

/// Pairs up the turns. A first turn that is not the user's is dropped, as is a last question without an answer.
fn exchanges(turns: Vec<Turn>) -> Result<Vec<Exchange>, Problem> {
    let mut exchanges = Vec::with_capacity(turns.len() / 2);
    let mut open: Option<String> = None;
    for (index, turn) in turns.into_iter().enumerate() {
        let expected = if open.is_none() { Speaker::Human } else { Speaker::Assistant };
        match (speaker(&turn.from), expected) {
            (Some(Speaker::Human), Speaker::Human) => open = Some(turn.value),
            (Some(Speaker::Assistant), Speaker::Assistant) => {
                let question = open.take().unwrap_or_default();
                exchanges.push(Exchange { question, answer: turn.value });
            }
            _ if index == 0 => {}
            (_, expected) => {
                let expected = if expected == Speaker::Human { "human" } else { "gpt" };
                return Err(Problem::Roles { turn: index + 1, found: turn.from, expected });
            }
        }
    }
    Ok(exchanges)
}

fn speaker(name: &str) -> Option<Speaker> {
    match name {
        "human" | "user" => Some(Speaker::Human),
        "gpt" | "assistant" => Some(Speaker::Assistant),
        _ => None,
    }
}

/// Puts a newline after every mark; images that nothing refers to go in front of the first question.
fn place_images(exchanges: &mut [Exchange], images: usize, compat: bool) {
    let marked = exchanges.iter().any(|e| e.question.contains(IMAGE_MARK) || e.answer.contains(IMAGE_MARK));
    if let (false, Some(first)) = (marked, exchanges.first_mut()) {
        first.question.insert_str(0, &IMAGE_MARK.repeat(images));
    }
    for exchange in exchanges {
        for value in [&mut exchange.question, &mut exchange.answer] {
            if value.contains(IMAGE_MARK) {
                *value = newline_after_marks(value, compat);
            }
        }
    }
}

/// Keeps each mark where it stands: one newline after it, other blanks around it reduced to one space before it. VILA 1.5
/// puts that space between two adjacent marks, too (`compat`).
fn newline_after_marks(value: &str, compat: bool) -> String {
    let mut placed = String::with_capacity(value.len() + 8);
    let mut chunks = value.split(IMAGE_MARK).map(str::trim).peekable();
    while let Some(chunk) = chunks.next() {
        placed.push_str(chunk);
        if chunks.peek().is_some() {
            if !chunk.is_empty() || compat && !placed.is_empty() {
                placed.push(' ');
            }
            placed.push_str(IMAGE_MARK);
            placed.push('\n');
        }
    }
    placed.truncate(placed.trim_end().len());
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(json: &str, template: &str) -> Result<Document, Problem> {
        document(serde_json::from_str(json)?, &Template::named(template).unwrap())
    }

    fn talk(image: &str, turns: &[(&str, &str)]) -> String {
        let turns: Vec<_> =
            turns.iter().map(|(from, value)| serde_json::json!({"from": from, "value": value})).collect();
        format!(r#"{{"id": 1, "image": {image}, "conversations": {}}}"#, serde_json::json!(turns))
    }

    #[test]
    fn marks_stay_where_they_are() {
        for (value, placed, released) in [
            ("<image>\nwhat ?", "<image>\nwhat ?", "<image>\nwhat ?"),
            ("<image> <image>what ?", "<image>\n<image>\nwhat ?", "<image>\n <image>\nwhat ?"),
            ("is <image> like<image> ?", "is <image>\nlike <image>\n?", "is <image>\nlike <image>\n?"),
            ("what ?\n<image>", "what ? <image>", "what ? <image>"),
            ("<image><image><image>", "<image>\n<image>\n<image>", "<image>\n <image>\n <image>"),
        ] {
            assert_eq!(
                (newline_after_marks(value, false), newline_after_marks(value, true)),
                (placed.into(), released.into())
            );
        }
    }

    #[test]
    fn images_nothing_refers_to_come_first() {
        let json = talk(r#"["a", "b"]"#, &[("human", "same ?"), ("gpt", "yes"), ("human", "sure ?"), ("gpt", "no")]);
        let document = made(&json, "vicuna_v1_nosys").unwrap();
        assert_eq!(document.text, " USER: <image>\n<image>\nsame ? ASSISTANT: yes</s>USER: sure ? ASSISTANT: no</s>");
        assert_eq!(document.images, ["a", "b"]);
        assert_eq!(
            document.trained.iter().map(|r| &document.text[r.clone()]).collect::<Vec<_>>(),
            [" yes</s>", " no</s>"]
        );
    }

    #[test]
    fn counts_must_agree() {
        let none = talk("null", &[("human", "<image> ?"), ("gpt", "a")]);
        assert!(matches!(made(&none, "v1"), Err(Problem::CountMismatch { marks: 1, images: 0 })));
        let two = talk(r#"["a", "b"]"#, &[("human", "<image> ?"), ("gpt", "a")]);
        assert!(matches!(made(&two, "v1"), Err(Problem::CountMismatch { marks: 1, images: 2 })));
    }

    #[test]
    fn turns_must_alternate() {
        let twice = talk("null", &[("human", "a"), ("human", "b"), ("gpt", "c")]);
        assert!(matches!(made(&twice, "v1"), Err(Problem::Roles { turn: 2, expected: "gpt", .. })));
        let led = talk("null", &[("gpt", "hello"), ("human", "a"), ("gpt", "b"), ("human", "c")]);
        assert!(made(&led, "vicuna_v1_nosys").is_ok_and(|document| document.text == " USER: a ASSISTANT: b</s>"));
        assert!(matches!(made(&talk("null", &[("human", "a")]), "v1"), Err(Problem::NoTarget)));
        assert!(matches!(made(&talk("null", &[]), "v1"), Err(Problem::NoTarget)));
    }

    #[test]
    fn plain_drops_the_question() {
        let json = talk(r#""a""#, &[("human", "Describe.\n<image>"), ("gpt", "a dog")]);
        assert!(made(&json, "plain").is_ok_and(|document| document.text == "<image>a dog\n"));
        let long = talk("null", &[("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]);
        assert!(matches!(made(&long, "plain"), Err(Problem::NotPlain { exchanges: 2 })));
    }
}
