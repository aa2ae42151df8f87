use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::Args;
use vila_model::template::{Exchange, Template};
use vila_model::tokenizer::{IMAGE_MARK, place_images};
use vila_model::{Draw, Prompt, Vila};

use super::generate::{Sampling, stream, template, trained_template};
use super::model::ModelArguments;
use super::{Failure, Outcome, print};
use crate::say::say;

#[derive(Args)]
pub(super) struct ChatArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Conversation template; that which the checkpoint was trained with if left out, and vicuna_v1 if it names none.
    #[arg(long)]
    template: Option<String>,
    /// System prompt in place of the template's own; empty for none.
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
}

const HELP: &str = "\
/image FILE   show an image with the next question; several stay in order; <image> in the question says where
/reset        forget the conversation
/history      the conversation so far, as the model sees it
/help         this list
/quit         end (or end of input)
";

/// What is said so far.
struct Conversation {
    template: Template,
    history: Vec<Exchange>,
    /// Images of the history, then those of the next question.
    images: Vec<PathBuf>,
    shown: usize,
    /// Answers so far, forgotten ones included: each has random numbers of its own.
    turns: u64,
}

impl Conversation {
    fn ask(&self, question: &str) -> Result<(String, Prompt), vila_model::Error> {
        let question = place_images(question, self.images.len() - self.shown)?;
        let asked = self.template.ask(&self.history, &question);
        let answers = asked.trained.into_iter().map(|answer| answer.start).collect();
        let draw = Draw { prompt: self.turns, sample: 0 };
        Ok((question, Prompt { text: asked.text, images: self.images.clone(), answers, draw }))
    }

    /// Keeps an image for the next question.
    fn show(&mut self, vila: &Vila, image: PathBuf) {
        match vila.processor.load(&image) {
            Ok(_) => self.images.push(image),
            Err(error) => say(format_args!("error: {error}")),
        }
    }

    fn answered(&mut self, question: String, answer: &str) {
        self.history.push(Exchange { question, answer: answer.trim().to_string() });
        self.shown = self.images.len();
        self.turns += 1;
    }

    fn reset(&mut self) {
        self.history.clear();
        self.images.clear();
        self.shown = 0;
    }
}

pub(super) fn chat(arguments: ChatArguments) -> Result<Outcome, Failure> {
    let named = arguments.template.as_deref().map(|name| template(name, None)).transpose()?;
    let mut options = arguments.sampling.options(None)?;
    let vila = arguments.model.load()?;
    let mut template = match named.or_else(|| trained_template(&vila)) {
        Some(template) => template,
        None => template("vicuna_v1", None)?,
    };
    if let Some(system) = &arguments.system {
        template = template.with_system(system);
    }
    options.stop.extend(template.stop().map(String::from));
    let mut conversation = Conversation { template, history: Vec::new(), images: Vec::new(), shown: 0, turns: 0 };
    let input = std::io::stdin();
    let cue = input.is_terminal();
    if cue {
        print(HELP)?;
    }
    let mut lines = input.lock().split(b'\n');
    loop {
        if cue {
            print("> ")?;
        }
        let Some(line) = lines.next() else { break };
        let line = line?;
        if let Some(file) = line.trim_ascii().strip_prefix(b"/image ") {
            conversation.show(&vila, PathBuf::from(OsString::from_vec(file.trim_ascii().to_vec())));
            continue;
        }
        let Ok(line) = std::str::from_utf8(&line) else {
            say("error: this line is not UTF-8 text; set the terminal to UTF-8 and ask again");
            continue;
        };
        match line.trim().split(' ').next().unwrap_or_default() {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => print(HELP)?,
            "/reset" => conversation.reset(),
            "/history" => print(&format!("{}\n", conversation.template.render(&conversation.history).text))?,
            "/image" => say("error: /image needs the path of a file"),
            command if command.starts_with('/') => say(format_args!("{command} is no command; /help lists them")),
            // A turn that fails leaves the conversation as it was.
            _ => match conversation.ask(line.trim()).map_err(Failure::from) {
                Ok((question, prompt)) => match stream(&vila, &prompt, &options) {
                    Ok(answer) => conversation.answered(question, &answer),
                    Err(error) => say(format_args!("error: {error}")),
                },
                Err(error) => say(format_args!("error: {error}; {IMAGE_MARK} stands for an image given with /image")),
            },
        }
    }
    Ok(Outcome::Done)
}
