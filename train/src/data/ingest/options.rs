//! What to ingest, and how.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::template::{Template, UnknownTemplate};

/// Number of images kept per MMC4 document unless told otherwise.
const DEFAULT_MAX_IMAGES: usize = 6;

/// Everything `ingest` needs besides the tokenizer.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Format of the inputs, with what only that format knows.
    pub format: Format,
    /// Input files, in the order in which their documents are stored.
    pub inputs: Vec<PathBuf>,
    /// Folder that image names are relative to; by default each input's own folder (for MMC4 its `images` folder).
    pub image_root: Option<PathBuf>,
    /// Whether images may lie outside their folder: absolute paths, `..`, and links that lead out of it.
    pub images_anywhere: bool,
    /// Longest document in tokens.
    pub max_tokens: Option<TokenLimit>,
    /// What to do with a document that is longer.
    pub too_long: TooLong,
    /// What to do with a record that cannot be used.
    pub on_error: OnError,
    /// The shard directory to create.
    pub out: PathBuf,
}

/// A limit on the length of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimit {
    /// Most tokens of a document.
    pub tokens: usize,
    /// How many of them each image takes.
    pub per_image: usize,
}

/// A corpus format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Interleaved documents: JSON lines with `text_list` and `image_info`.
    Mmc4 {
        /// Where the images stand.
        layout: Layout,
        /// What is learned.
        loss_scope: LossScope,
        /// How many images of a document are kept, in file order.
        max_images: Option<usize>,
    },
    /// One image and its caption: JSON lines with `image` and `text` or `caption`.
    Pairs,
    /// Conversations: a JSON array or JSON lines with `conversations` and `image`.
    Llava {
        /// How they are rendered.
        template: Template,
    },
    /// Text alone: JSON lines with `text` or `text_list`.
    Text,
}

/// Where the images of an interleaved document stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// Before the sentence each belongs to.
    #[default]
    Native,
    /// All in front of the text.
    ImagesFirst,
    /// Each image with its sentence is a document of its own.
    Pairs,
}

/// Which text of an interleaved document is learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LossScope {
    /// All of it.
    #[default]
    AllText,
    /// Only sentences that directly follow an image.
    ImageFollowingTextOnly,
}

/// What to do with a record that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Stop with an error that names it.
    #[default]
    Stop,
    /// Leave it out, count it and list it.
    Skip,
}

/// What to do with a document that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// Keep what fits of its beginning, and images whole; leave it out if that has nothing to learn.
    #[default]
    Cut,
    /// Leave it out and count it.
    Skip,
    /// Stop with an error that names it.
    Stop,
}

/// The format-specific options as they are written on a command line or in a recipe, before they are checked.
#[derive(Debug, Clone, Default)]
pub struct FormatOptions<'a> {
    /// Conversation template (`llava` only, where it is required).
    pub template: Option<&'a str>,
    /// System prompt in place of the template's own; empty for none (`llava` only).
    pub system: Option<&'a str>,
    /// `native`, `images-first` or `pairs` (`mmc4` only).
    pub layout: Option<&'a str>,
    /// `all_text` or `image_following_text_only` (`mmc4` only).
    pub loss_scope: Option<&'a str>,
    /// Images kept per document, 0 for all (`mmc4` only).
    pub max_images: Option<usize>,
}

/// Options that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// A word that is not among the choices.
    #[error("{option} `{found}` is unknown; choose one of {choices}")]
    Unknown {
        /// The option.
        option: &'static str,
        /// The word given.
        found: String,
        /// The words that exist.
        choices: &'static str,
    },
    /// An option that the format does not have.
    #[error("option {option} does not apply to format `{format}`; leave it out")]
    NotForFormat {
        /// The option.
        option: &'static str,
        /// The format.
        format: &'static str,
    },
    /// The conversation format needs a template.
    #[error(
        "format `llava` needs a template, vicuna_v1 for example (`template` in a recipe, --template on the command line)"
    )]
    NoTemplate,
    /// The template does not exist.
    #[error(transparent)]
    Template(#[from] UnknownTemplate),
    /// No input file.
    #[error("no input file; name at least one (`input` in a recipe, --input on the command line)")]
    NoInput,
    /// The limit leaves no room for text.
    #[error("a limit of {tokens} tokens per document leaves no room for text; raise --max-tokens")]
    NoRoom {
        /// The limit.
        tokens: usize,
    },
}

impl Format {
    /// Checks a format's name and options against each other.
    ///
    /// # Errors
    /// An unknown name or choice, an option that the format does not have, or a missing template.
    pub fn parse(name: &str, options: &FormatOptions<'_>) -> Result<Self, OptionError> {
        let given = [
            ("template", options.template.is_some()),
            ("system", options.system.is_some()),
            ("layout", options.layout.is_some()),
            ("loss_scope", options.loss_scope.is_some()),
            ("max_images", options.max_images.is_some()),
        ];
        let (format, known): (Self, &[&str]) = match name {
            "mmc4" => (Self::parse_mmc4(options)?, &["layout", "loss_scope", "max_images"]),
            "pairs" => (Self::Pairs, &[]),
            "text" => (Self::Text, &[]),
            "llava" => {
                let template = options.template.ok_or(OptionError::NoTemplate)?;
                let template = Template::named(template)?;
                let template = options.system.map_or(template.clone(), |system| template.with_system(system));
                (Self::Llava { template }, &["template", "system"])
            }
            _ => {
                return Err(OptionError::Unknown {
                    option: "format",
                    found: name.to_owned(),
                    choices: "mmc4, pairs, llava, text",
                });
            }
        };
        match given.into_iter().find(|(option, given)| *given && !known.contains(option)) {
            Some((option, _)) => Err(OptionError::NotForFormat { option, format: format.name() }),
            None => Ok(format),
        }
    }

    fn parse_mmc4(options: &FormatOptions<'_>) -> Result<Self, OptionError> {
        Ok(Self::Mmc4 {
            layout: options.layout.map_or(Ok(Layout::default()), str::parse)?,
            loss_scope: options.loss_scope.map_or(Ok(LossScope::default()), str::parse)?,
            max_images: match options.max_images {
                None => Some(DEFAULT_MAX_IMAGES),
                Some(0) => None,
                limit => limit,
            },
        })
    }

    /// The name of the format.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mmc4 { .. } => "mmc4",
            Self::Pairs => "pairs",
            Self::Llava { .. } => "llava",
            Self::Text => "text",
        }
    }
}

impl IngestOptions {
    /// Options with every default, for inputs of one format.
    pub fn new(format: Format, inputs: Vec<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            format,
            inputs,
            image_root: None,
            images_anywhere: false,
            max_tokens: None,
            too_long: TooLong::Cut,
            on_error: OnError::Stop,
            out: out.into(),
        }
    }

    /// Everything that decides the content of the shard, except the inputs' content and the tokenizer.
    pub fn to_json(&self) -> Value {
        let mut options = json!({ "format": self.format.name(), "on_error": self.on_error.to_string() });
        match &self.format {
            Format::Mmc4 { layout, loss_scope, max_images } => {
                options["layout"] = json!(layout.to_string());
                options["loss_scope"] = json!(loss_scope.to_string());
                options["max_images"] = json!(max_images);
            }
            Format::Llava { template } => {
                options["template"] = json!(template.name());
                if let Some(system) = template.own_system() {
                    options["system"] = json!(system);
                }
            }
            Format::Pairs | Format::Text => {}
        }
        if let Some(limit) = self.max_tokens {
            options["max_tokens"] = json!({ "tokens": limit.tokens, "per_image": limit.per_image });
        }
        if self.too_long != TooLong::Cut {
            options["too_long"] = json!(self.too_long);
        }
        if self.images_anywhere {
            options["images_anywhere"] = json!(true);
        }
        if let Some(root) = &self.image_root {
            options["image_root"] = json!(root.to_string_lossy());
        }
        options
    }

    pub(super) fn check(&self) -> Result<(), OptionError> {
        match self.max_tokens {
            _ if self.inputs.is_empty() => Err(OptionError::NoInput),
            Some(TokenLimit { tokens: tokens @ 0..=1, .. }) => Err(OptionError::NoRoom { tokens }),
            _ => Ok(()),
        }
    }
}

/// Implements reading and writing an option's words.
macro_rules! words {
    ($type:ty, $option:literal, $choices:literal, $($word:literal => $value:expr),+) => {
        impl FromStr for $type {
            type Err = OptionError;

            fn from_str(word: &str) -> Result<Self, OptionError> {
                match word {
                    $($word => Ok($value),)+
                    _ => Err(OptionError::Unknown { option: $option, found: word.to_owned(), choices: $choices }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if *self == $value { return f.write_str($word); })+
                Ok(())
            }
        }
    };
}

words!(Layout, "layout", "native, images-first, pairs",
    "native" => Layout::Native, "images-first" => Layout::ImagesFirst, "pairs" => Layout::Pairs);
words!(LossScope, "loss_scope", "all_text, image_following_text_only",
    "all_text" => LossScope::AllText, "image_following_text_only" => LossScope::ImageFollowingTextOnly);
words!(TooLong, "too_long", "cut, skip, stop",
    "cut" => TooLong::Cut, "skip" => TooLong::Skip, "stop" => TooLong::Stop);
words!(OnError, "on_error", "stop, skip", "stop" => OnError::Stop, "skip" => OnError::Skip);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_must_fit_the_format() {
        let pairs = Format::parse("pairs", &FormatOptions { layout: Some("native"), ..Default::default() });
        assert!(matches!(pairs, Err(OptionError::NotForFormat { option: "layout", format: "pairs" })));
        assert!(matches!(Format::parse("llava", &FormatOptions::default()), Err(OptionError::NoTemplate)));
        assert!(matches!(Format::parse("csv", &FormatOptions::default()), Err(OptionError::Unknown { .. })));
        let odd = Format::parse("mmc4", &FormatOptions { layout: Some("images_first"), ..Default::default() });
        assert!(odd.is_err_and(|error| error.to_string().contains("images-first")));
    }

    #[test]
    fn mmc4_keeps_six_images_by_default() {
        let format = Format::parse("mmc4", &FormatOptions::default());
        assert!(matches!(format, Ok(Format::Mmc4 { max_images: Some(6), layout: Layout::Native, .. })));
        let all = Format::parse("mmc4", &FormatOptions { max_images: Some(0), ..Default::default() });
        assert!(matches!(all, Ok(Format::Mmc4 { max_images: None, .. })));
    }
}
