//! Conversation templates: how questions and answers become one text, and which part of it is learned.

use std::ops::Range;

/// A question and its answer. Images are marked by `<image>` inside the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What the user says.
    pub question: String,
    /// What the assistant answers.
    pub answer: String,
}

/// A conversation as text, with the byte ranges that are prediction targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, without the token that begins a document.
    pub text: String,
    /// Bytes to be learned: each answer with the mark that ends it.
    pub trained: Vec<Range<usize>>,
}

/// How a template joins its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `{system} USER: {q} ASSISTANT: {a}</s>USER: ...`
    Roles { user: &'static str, assistant: &'static str },
    /// `[INST] {q} [/INST] {a} </s><s>[INST] ...`
    Llama2,
    /// The images, then the answer and a newline; the question is not shown.
    Plain,
}

/// A named conversation template.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    name: &'static str,
    system: &'static str,
    style: Style,
}

/// Ends an answer in every style that has an end.
const END: &str = "</s>";
/// Begins an exchange after the first in the Llama-2 style; the tokenizer adds the first one.
const BEGIN: &str = "<s>";

const VICUNA: Style = Style::Roles { user: "USER", assistant: "ASSISTANT" };

/// Every template; add a row to add one.
static TEMPLATES: &[Template] = &[
    Template { name: "vicuna_v1", system: VICUNA_SYSTEM, style: VICUNA },
    Template { name: "v1", system: VICUNA_SYSTEM, style: VICUNA },
    Template { name: "vicuna_v1_nosys", system: "", style: VICUNA },
    Template { name: "llava_v1", system: LLAVA_SYSTEM, style: VICUNA },
    Template { name: "llama_2", system: LLAMA_2_SYSTEM, style: Style::Llama2 },
    Template { name: "llava_llama_2", system: LANGUAGE_AND_VISION_SYSTEM, style: Style::Llama2 },
    Template { name: "plain", system: "", style: Style::Plain },
];

const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                             detailed, and polite answers to the user's questions.";
const LLAVA_SYSTEM: &str = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
                            detailed, and polite answers to the human's questions.";
const LANGUAGE_AND_VISION_SYSTEM: &str = "You are a helpful language and vision assistant. You are able to understand the visual content \
                                          that the user provides, and assist the user with a variety of tasks using natural language.";
const LLAMA_2_SYSTEM: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being \
                              safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or \
                              illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a \
                              question does not make any sense, or is not factually coherent, explain why instead of answering \
                              something not correct. If you don't know the answer to a question, please don't share false information.";

/// The name belongs to no template.
#[derive(Debug, thiserror::Error)]
#[error("template `{name}` is unknown; choose one of {}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownTemplate {
    /// The name given.
    pub name: String,
}

/// The names of all templates.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|template| template.name)
}

impl Template {
    /// The template of that name.
    ///
    /// # Errors
    /// There is none; the message lists those that exist.
    pub fn named(name: &str) -> Result<&'static Self, UnknownTemplate> {
        TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| UnknownTemplate { name: name.to_owned() })
    }

    /// The template's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether an answer ends with `</s>`, so that the tokenizer must know it.
    pub fn ends_answers(&self) -> bool {
        self.style != Style::Plain
    }

    /// The text of a whole conversation and what of it is learned.
    pub fn render(&self, exchanges: &[Exchange]) -> Rendered {
        let mut rendered = Rendered::default();
        for (index, exchange) in exchanges.iter().enumerate() {
            rendered.text.push_str(&self.opening(index, &exchange.question));
            let start = match self.style {
                Style::Plain => rendered.text.len(),
                _ => rendered.push(" "),
            };
            rendered.text.push_str(&exchange.answer);
            rendered.text.push_str(match self.style {
                Style::Roles { .. } => END,
                Style::Llama2 => " </s>",
                Style::Plain => "\n",
            });
            rendered.trained.push(start..rendered.text.len());
        }
        rendered
    }

    /// The text that asks `question` after the `history` and lets the model answer.
    pub fn prompt(&self, history: &[Exchange], question: &str) -> String {
        let mut text = self.render(history).text;
        text.push_str(&self.opening(history.len(), question));
        text
    }

    /// Everything of exchange `index` up to where the answer (or the space before it) begins.
    fn opening(&self, index: usize, question: &str) -> String {
        let first = index == 0;
        match self.style {
            Style::Roles { user, assistant } => {
                let system = if first { format!("{} ", self.system) } else { String::new() };
                format!("{system}{user}: {question} {assistant}:")
            }
            Style::Llama2 if first => format!("[INST] <<SYS>>\n{}\n<</SYS>>\n\n{question} [/INST]", self.system),
            Style::Llama2 => format!("{BEGIN}[INST] {question} [/INST]"),
            Style::Plain => super::tokens::IMAGE_MARK.repeat(question.matches(super::tokens::IMAGE_MARK).count()),
        }
    }
}

impl Rendered {
    /// Appends and returns the new length.
    fn push(&mut self, text: &str) -> usize {
        self.text.push_str(text);
        self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(question: &str, answer: &str) -> Exchange {
        Exchange { question: question.to_owned(), answer: answer.to_owned() }
    }

    fn learned(rendered: &Rendered) -> Vec<&str> {
        rendered.trained.iter().map(|range| &rendered.text[range.clone()]).collect()
    }

    #[test]
    fn roles_style() {
        let template = Template::named("vicuna_v1_nosys").unwrap();
        let rendered = template.render(&[exchange("<image>\nq1", "a1"), exchange("q2", "a2")]);
        assert_eq!(rendered.text, " USER: <image>\nq1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>");
        assert_eq!(learned(&rendered), ["a1</s>", "a2</s>"]);
        assert_eq!(template.prompt(&[], "q"), " USER: q ASSISTANT:");
        assert_eq!(template.prompt(&[exchange("q", "a")], "r"), " USER: q ASSISTANT: a</s>USER: r ASSISTANT:");
    }

    #[test]
    fn llama_2_style() {
        let rendered = Template::named("llava_llama_2").unwrap().render(&[exchange("q1", "a1"), exchange("q2", "a2")]);
        assert!(rendered.text.starts_with("[INST] <<SYS>>\nYou are a helpful language and vision assistant."));
        assert!(rendered.text.ends_with("\n<</SYS>>\n\nq1 [/INST] a1 </s><s>[INST] q2 [/INST] a2 </s>"));
        assert_eq!(learned(&rendered), ["a1 </s>", "a2 </s>"]);
    }

    #[test]
    fn plain_style_shows_images_only() {
        let rendered = Template::named("plain").unwrap().render(&[exchange("<image>\nDescribe it.", "a dog")]);
        assert_eq!(rendered.text, "<image>a dog\n");
        assert_eq!(learned(&rendered), ["a dog\n"]);
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let message = Template::named("vicuna").unwrap_err().to_string();
        assert!(message.contains("`vicuna`") && message.contains("vicuna_v1_nosys"), "{message}");
    }
}
