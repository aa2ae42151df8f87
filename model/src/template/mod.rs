//! Conversation templates: how questions and answers become one text, and which part of it is learned (LLaVA and VILA).

mod texts;

use std::borrow::Cow;
use std::ops::Range;

use crate::tokenizer::IMAGE_MARK;

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
    /// Bytes to be learned: all between a prompt's end and the next question. Each range begins where a prompt ends.
    pub trained: Vec<Range<usize>>,
}

/// How a template joins its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `{system} USER: {q} ASSISTANT: {a}</s>USER: ...`
    Two,
    /// `{system}###Human: {q}###Assistant: {a}###Human: ...`
    Single,
    /// `[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{q} [/INST] {a} </s><s>[INST] ...`
    Llama2,
    /// `[INST] {q} [/INST]{a}</s><s>[INST] ...`
    Mistral,
    /// `<|im_start|>system\n{system}<|im_end|><|im_start|>user\n{q}<|im_end|><|im_start|>assistant\n{a}<|im_end|>`
    Mpt,
    /// `<|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>...`, and `<|end_of_text|>` at the end
    Llama3,
    /// The images, then the answer and a newline; the question is not shown.
    Plain,
}

/// A template as it is named.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    style: Style,
    system: &'static str,
    /// Images stand between `<Image>` and `</Image>`.
    tagged: bool,
    /// Prompts open with the demonstration.
    demonstrates: bool,
}

const fn row(name: &'static str, style: Style, system: &'static str) -> Row {
    Row { name, style, system, tagged: false, demonstrates: false }
}

/// Every template; add a row to add one.
static TEMPLATES: &[Row] = &[
    row("vicuna_v1", Style::Two, texts::USER),
    row("v1", Style::Two, texts::USER),
    row("vicuna_v1_nosys", Style::Two, ""),
    row("llava_v1", Style::Two, texts::HUMAN),
    Row { tagged: true, ..row("v1_mmtag", Style::Two, texts::TAGGED) },
    Row { demonstrates: true, ..row("default", Style::Single, texts::HUMAN) },
    Row { demonstrates: true, ..row("v0", Style::Single, texts::HUMAN) },
    row("llava_v0", Style::Single, texts::HUMAN),
    Row { tagged: true, ..row("v0_mmtag", Style::Single, texts::TAGGED) },
    row("llama_2", Style::Llama2, texts::LLAMA_2),
    row("llava_llama_2", Style::Llama2, texts::LANGUAGE_AND_VISION),
    row("mistral", Style::Mistral, ""),
    row("mpt", Style::Mpt, texts::MPT),
    row("hermes-2", Style::Mpt, texts::HERMES_2),
    row("llama_3", Style::Llama3, texts::LANGUAGE_AND_VISION),
    row("plain", Style::Plain, ""),
];

/// What a name ends with to ask for the released code's behaviour, mistakes included.
const COMPAT: &str = ":compat";

/// A conversation template.
///
/// `NAME:compat` renders and masks as the released code does where that is a mistake: `llama_3` gives the assistant the
/// system's header and ends turns with `<|end_of_text|>`; `llama_3` and `mistral` write the start token into the text, though
/// the tokenizer puts one in front, too; `v0` and its kin train on another text than they prompt with, cues included; of two
/// adjacent image marks in a record, the second has a space before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    row: &'static Row,
    system: Cow<'static, str>,
    compat: bool,
}

/// The name belongs to no template.
#[derive(Debug, thiserror::Error)]
#[error("template `{name}` is unknown; choose one of {}, or one of them with {COMPAT}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownTemplate {
    /// The name given.
    pub name: String,
}

/// The names of all templates.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|row| row.name)
}

impl Template {
    /// The template of that name.
    ///
    /// # Errors
    /// There is none; the message lists those that exist.
    pub fn named(name: &str) -> Result<Self, UnknownTemplate> {
        let (plain, compat) = name.strip_suffix(COMPAT).map_or((name, false), |plain| (plain, true));
        let row = TEMPLATES.iter().find(|row| row.name == plain);
        let row = row.ok_or_else(|| UnknownTemplate { name: name.to_owned() })?;
        Ok(Template { row, system: Cow::Borrowed(row.system), compat })
    }

    /// The same with another system prompt; an empty one is left out.
    pub fn with_system(self, system: impl Into<String>) -> Self {
        Template { system: Cow::Owned(system.into()), ..self }
    }

    /// The name that [`Template::named`] takes.
    pub fn name(&self) -> String {
        format!("{}{}", self.row.name, if self.compat { COMPAT } else { "" })
    }

    /// The system prompt, if it is not the template's own.
    pub fn own_system(&self) -> Option<&str> {
        (self.system != self.row.system).then_some(&self.system)
    }

    /// Whether the text is a caption after its images: a single exchange whose question is not shown.
    pub fn is_plain(&self) -> bool {
        self.row.style == Style::Plain
    }

    /// Whether the released code's mistakes are repeated.
    pub fn is_compat(&self) -> bool {
        self.compat
    }

    /// The special token that ends an answer, which the tokenizer must know.
    pub fn end_token(&self) -> Option<&'static str> {
        match self.row.style {
            Style::Two | Style::Llama2 | Style::Mistral => Some("</s>"),
            Style::Mpt => Some("<|im_end|>"),
            Style::Llama3 => Some(self.turn_end()),
            Style::Single | Style::Plain => None,
        }
    }

    /// What ends an answer when text is made, beside the model's own end.
    pub fn stop(&self) -> Option<&'static str> {
        if self.row.style == Style::Single { Some("###") } else { self.end_token() }
    }

    /// Ends each turn of the styles that end every turn alike.
    fn turn_end(&self) -> &'static str {
        match self.row.style {
            Style::Mpt => "<|im_end|>",
            Style::Llama3 if self.compat => "<|end_of_text|>",
            Style::Llama3 => "<|eot_id|>",
            _ => "###",
        }
    }

    /// The text of a whole conversation and what of it is learned.
    pub fn render(&self, exchanges: &[Exchange]) -> Rendered {
        if self.compat && self.row.style == Style::Single {
            return self.render_signals(exchanges);
        }
        let mut rendered = Rendered::default();
        for (index, exchange) in exchanges.iter().enumerate() {
            self.push(&mut rendered, index, exchange);
        }
        if let (Style::Llama3, false, Some(last)) = (self.row.style, self.compat, rendered.trained.last_mut()) {
            rendered.text += "<|end_of_text|>";
            last.end = rendered.text.len();
        }
        rendered
    }

    /// The text that asks `question` after the `history` and lets the model answer.
    pub fn prompt(&self, history: &[Exchange], question: &str) -> String {
        self.ask(history, question).text
    }

    /// The same as [`Template::prompt`], with the answers of the history.
    pub fn ask(&self, history: &[Exchange], question: &str) -> Rendered {
        let mut rendered = Rendered::default();
        let opening = Exchange { question: texts::ENERGY_QUESTION.into(), answer: texts::ENERGY_ANSWER.into() };
        let opening = self.row.demonstrates.then_some(&opening);
        let before = opening.into_iter().chain(history).enumerate();
        let count = before.map(|(index, exchange)| self.push(&mut rendered, index, exchange)).count();
        rendered.text += &self.opening(count, question);
        rendered
    }

    fn push(&self, rendered: &mut Rendered, index: usize, exchange: &Exchange) {
        let (blank, end) = match self.row.style {
            Style::Two => (" ", "</s>"),
            Style::Single => (" ", self.turn_end()),
            Style::Llama2 => (" ", " </s>"),
            Style::Mistral => ("", "</s>"),
            Style::Mpt | Style::Llama3 => ("", self.turn_end()),
            Style::Plain => ("", "\n"),
        };
        rendered.text += &self.opening(index, &exchange.question);
        // What a prompt does not give must be learned: the blank, too, where it is a token of its own.
        let start = rendered.text.len();
        rendered.text += blank;
        rendered.text += &exchange.answer;
        rendered.text += end;
        rendered.trained.push(start..rendered.text.len());
    }

    /// A question as it is shown.
    fn with_tags<'a>(&self, question: &'a str) -> Cow<'a, str> {
        match self.row.tagged {
            true => question.replace(IMAGE_MARK, &format!("<Image>{IMAGE_MARK}</Image>")).into(),
            false => question.into(),
        }
    }

    /// Everything of exchange `index` that a prompt gives.
    fn opening(&self, index: usize, question: &str) -> String {
        let (first, question, system) = (index == 0, self.with_tags(question), &*self.system);
        // An empty system prompt has no turn, but leaves its separator in the styles without headers, as in training.
        let before = |text: String| if first { text } else { String::new() };
        let turn = |text: String| if first && !system.is_empty() { text } else { String::new() };
        let end = self.turn_end();
        match self.row.style {
            Style::Two => format!("{}USER: {question} ASSISTANT:", before(format!("{system} "))),
            Style::Single => format!("{}Human: {question}{end}Assistant:", before(format!("{system}{end}"))),
            Style::Llama2 | Style::Mistral => {
                let doubled = self.compat && self.row.style == Style::Mistral;
                let begin = if first && !doubled { "" } else { "<s>" };
                format!("{begin}[INST] {}{question} [/INST]", turn(format!("<<SYS>>\n{system}\n<</SYS>>\n\n")))
            }
            Style::Mpt => {
                let system = turn(format!("<|im_start|>system\n{system}{end}"));
                format!("{system}<|im_start|>user\n{question}{end}<|im_start|>assistant\n")
            }
            Style::Llama3 => {
                let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
                let assistant = if self.compat { "system" } else { "assistant" };
                let begin = if self.compat { "<|begin_of_text|>" } else { "" };
                let system = turn(format!("{begin}{}{system}{end}", header("system")));
                format!("{system}{}{question}{end}{}", header("user"), header(assistant))
            }
            Style::Plain => IMAGE_MARK.repeat(question.matches(IMAGE_MARK).count()),
        }
    }

    /// What the released code trains `v0` on: `{system}\n\n### Human: {q}\n### Assistant: {a}\n### `, where all but the
    /// system prompt and the questions after their cue is learned.
    fn render_signals(&self, exchanges: &[Exchange]) -> Rendered {
        const CUE: &str = "### ";
        let mut rendered = Rendered { text: format!("{}\n\n", self.system), trained: Vec::new() };
        for Exchange { question, answer } in exchanges {
            let start = rendered.text.len();
            rendered.trained.push(start..start + CUE.trim_end().len());
            rendered.text += &format!("{CUE}Human: {}\n", self.with_tags(question));
            let start = rendered.text.len();
            rendered.text += &format!("{CUE}Assistant: {answer}\n");
            rendered.trained.push(start..rendered.text.len());
        }
        let start = rendered.text.len();
        rendered.text += CUE;
        rendered.trained.push(start..rendered.text.len());
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_the_known_ones() {
        let message = Template::named("vicuna").unwrap_err().to_string();
        assert!(message.contains("`vicuna`") && message.contains("vicuna_v1_nosys"), "{message}");
    }

    #[test]
    fn every_name_is_found_and_given_back() {
        for name in names().flat_map(|name| [name.to_string(), format!("{name}{COMPAT}")]) {
            assert_eq!(Template::named(&name).unwrap().name(), name);
        }
    }
}
