//! LLaVA conversations: a JSON array, or one JSON object a line.

use serde::Deserialize;

use super::super::template::{Exchange, Template};
use super::super::tokens::IMAGE_MARK;
use super::document::{Document, DocumentEnd, Parsed};
use super::error::Problem;
use super::media::Names;

/// Key under which greetings before the first question are counted: they answer nothing.
const FIRST_ANSWER: &str = "first_answer_dropped";
/// Key under which last questions are counted that nobody answers.
const LAST_QUESTION: &str = "last_question_dropped";

/// The fields that matter of one object.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    image: Option<Names>,
    images: Option<Names>,
    system: Option<String>,
    conversations: Vec<Turn>,
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
pub(super) fn parse(record: Record, template: &Template) -> Result<Parsed, Problem> {
    let images = Names::of(record.image, record.images)?;
    let mut turns = record.conversations;
    let system = own_system(record.system, &mut turns)?;
    let own = system.map(|system| template.clone().with_system(system));
    let template = own.as_ref().unwrap_or(template);
    let (mut exchanges, notes) = exchanges(turns)?;
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
    let document = Document { text: rendered.text, trained: rendered.trained, end: DocumentEnd::Open, images };
    Ok(Parsed { notes, ..document.into() })
}

/// The record's own system prompt: its field `system`, or a first turn by `system`. Empty ones are none.
fn own_system(field: Option<String>, turns: &mut Vec<Turn>) -> Result<Option<String>, Problem> {
    let turn = turns.first().is_some_and(|turn| turn.from == "system").then(|| turns.remove(0).value);
    let [field, turn] = [field, turn].map(|system| system.filter(|system| !system.trim().is_empty()));
    match (field, turn) {
        (Some(field), Some(turn)) if field != turn => {
            Err(Problem::TwoFields { fields: ["system", "conversations[0]"] })
        }
        (field, turn) => Ok(field.or(turn)),
    }
}

/// Pairs up the turns. A first turn that is the assistant's is dropped, as is a last question without an answer.
fn exchanges(turns: Vec<Turn>) -> Result<(Vec<Exchange>, Vec<&'static str>), Problem> {
    let mut exchanges = Vec::with_capacity(turns.len() / 2);
    let (mut open, mut notes): (Option<String>, _) = (None, Vec::new());
    for (index, turn) in turns.into_iter().enumerate() {
        let expected = if open.is_none() { Speaker::Human } else { Speaker::Assistant };
        match (speaker(&turn.from), expected) {
            (Some(Speaker::Human), Speaker::Human) => open = Some(turn.value),
            (Some(Speaker::Assistant), Speaker::Assistant) => {
                let question = open.take().unwrap_or_default();
                exchanges.push(Exchange { question, answer: turn.value });
            }
            (Some(Speaker::Assistant), Speaker::Human) if index == 0 => notes.push(FIRST_ANSWER),
            (_, expected) => {
                let expected = if expected == Speaker::Human { "human" } else { "gpt" };
                return Err(Problem::Roles { turn: index + 1, found: turn.from, expected });
            }
        }
    }
    notes.extend(open.map(|_| LAST_QUESTION));
    Ok((exchanges, notes))
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
        parse(serde_json::from_str(json)?, &Template::named(template).unwrap())?.documents.remove(0)
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
    fn a_record_may_bring_its_system_prompt() {
        let turn = talk("null", &[("system", "Be kind."), ("human", "a"), ("gpt", "b")]);
        let field = talk("null", &[("human", "a"), ("gpt", "b")]).replacen('{', r#"{"system": "Be kind.", "#, 1);
        for json in [turn.clone(), field, turn.replacen('{', r#"{"system": "Be kind.", "#, 1)] {
            assert!(
                made(&json, "vicuna_v1").is_ok_and(|made| made.text == "Be kind. USER: a ASSISTANT: b</s>"),
                "{json}"
            );
        }
        let two = turn.replacen('{', r#"{"system": "Be cruel.", "#, 1);
        assert!(matches!(made(&two, "v1"), Err(Problem::TwoFields { .. })));
        let empty = talk("null", &[("system", ""), ("human", "a"), ("gpt", "b")]);
        assert!(made(&empty, "vicuna_v1").is_ok_and(|made| made.text.starts_with("A chat between")));
        let late = talk("null", &[("human", "a"), ("gpt", "b"), ("system", "c")]);
        assert!(matches!(made(&late, "v1"), Err(Problem::Roles { turn: 3, .. })));
        let foreign = talk("null", &[("tool", "x"), ("human", "a"), ("gpt", "b")]);
        assert!(matches!(made(&foreign, "v1"), Err(Problem::Roles { turn: 1, .. })));
    }

    #[test]
    fn what_is_dropped_is_noted() {
        let led = talk("null", &[("gpt", "hello"), ("human", "a"), ("gpt", "b"), ("human", "c")]);
        let parsed = parse(serde_json::from_str(&led).unwrap(), &Template::named("v1").unwrap()).unwrap();
        assert_eq!(parsed.notes, [FIRST_ANSWER, LAST_QUESTION]);
    }

    #[test]
    fn plain_drops_the_question() {
        let json = talk(r#""a""#, &[("human", "Describe.\n<image>"), ("gpt", "a dog")]);
        assert!(made(&json, "plain").is_ok_and(|document| document.text == "<image>a dog\n"));
        let long = talk("null", &[("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]);
        assert!(matches!(made(&long, "plain"), Err(Problem::NotPlain { exchanges: 2 })));
    }
}
