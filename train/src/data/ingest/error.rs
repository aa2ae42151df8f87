//! What can be wrong with a corpus.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::shard::ShardError;
use super::super::tokens::TokenizeError;
use super::options::OptionError;
use crate::stop::Stopped;

/// Ingestion stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The options make no sense together.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// An input file could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file as a whole has the wrong form.
    #[error("{}: {problem}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An image could not be read for a reason that lies outside the data.
    #[error(
        "image {}: the system refused to read it: {source}; the record may be sound, so that it is not passed over: mend the cause and \
         ingest again", path.display()
    )]
    Image {
        /// The image.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A document is longer than it may be, and the policy is to stop.
    #[error(
        "{place}: {problem}; cut such documents with too_long = \"cut\", leave them out with \"skip\", or raise max_tokens"
    )]
    TooLong {
        /// Where it is.
        place: Place,
        /// How long it is.
        problem: Problem,
    },
    /// A record cannot be used, and the policy is to stop.
    #[error(
        "{place}: {problem}; correct the record, or pass over such records (`on_error = \"skip\"` in a recipe, --on-error skip on the command line)"
    )]
    Record {
        /// Where it is.
        place: Place,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The tokenizer lacks what the template writes.
    #[error(
        "template `{template}` ends answers with `{end}`, which the tokenizer does not know as such a token; choose another template or tokenizer"
    )]
    TemplateEnd {
        /// Name of the template.
        template: String,
        /// What ends its answers.
        end: &'static str,
    },
    /// Nothing was left to store.
    #[error("no usable document in {inputs} ({skipped} were passed over); check the format and the input")]
    Nothing {
        /// The input files.
        inputs: String,
        /// How many records were left out.
        skipped: u64,
    },
    /// A signal came; no shard was made, and the same call starts over.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The shard could not be written.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// A place in a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// The line on which the record begins, counted from 1.
    pub line: u64,
}

/// JSON has no place for bytes that are not text.
fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file.display(), self.line)
    }
}

/// A record that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// Where it is.
    pub place: Place,
    /// The kind of problem: the key under which it is counted.
    pub kind: &'static str,
    /// The problem in words.
    pub message: String,
}

/// Why a record cannot become a document.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not a JSON object of the expected form.
    #[error("not a valid record: {0}")]
    Json(#[from] serde_json::Error),
    /// Two fields for one thing say different things.
    #[error("fields `{}` and `{}` are both there and differ; keep the one that is meant", fields[0], fields[1])]
    TwoFields {
        /// The fields.
        fields: [&'static str; 2],
    },
    /// A field has content that would be lost.
    #[error(
        "field `{field}` has content that format `{format}` does not read; remove the field, or choose a format that reads it"
    )]
    UnreadField {
        /// The field.
        field: String,
        /// The format.
        format: &'static str,
    },
    /// A pair of an image and a text has more images.
    #[error("format `pairs` has one image for a text, there are {images}; use the format `llava` or `mmc4`")]
    NotAPair {
        /// Number of images.
        images: usize,
    },
    /// Longer than it may be.
    #[error("the document takes {length} positions, {limit} are allowed")]
    TooLong {
        /// Its positions.
        length: usize,
        /// The most there may be.
        limit: usize,
    },
    /// What is left of a document that is too long has nothing to learn.
    #[error("the document takes {length} positions, and the first {limit} have no token to learn")]
    CutLeavesNoAnswer {
        /// Its positions.
        length: usize,
        /// The most there may be.
        limit: usize,
    },
    /// No text at all.
    #[error("the document has no text")]
    Empty,
    /// No token would be learned.
    #[error("the document has no token to learn (no answer, or everything is masked)")]
    NoTarget,
    /// The text has another number of `<image>` marks than there are images.
    #[error("{marks} <image> marks in the text for {images} images")]
    CountMismatch {
        /// Marks in the text.
        marks: usize,
        /// Images listed.
        images: usize,
    },
    /// An image belongs to a sentence that does not exist.
    #[error("image `{image}` has matched_text_index {index}, but there are {sentences} sentences")]
    SentenceIndex {
        /// The image.
        image: String,
        /// The index given.
        index: i64,
        /// Number of sentences.
        sentences: usize,
    },
    /// A conversation in which somebody speaks out of turn.
    #[error("turn {turn} is by `{found}`, expected {expected}")]
    Roles {
        /// Number of the turn, counted from 1.
        turn: usize,
        /// Who speaks.
        found: String,
        /// Who should.
        expected: &'static str,
    },
    /// The plain template needs exactly one exchange.
    #[error("the plain template needs one question and one answer, there are {exchanges} exchanges")]
    NotPlain {
        /// Number of exchanges.
        exchanges: usize,
    },
    /// An image file is missing.
    #[error("image file {} does not exist; name the folder of the images (`images` in a recipe, --images on the command line)", .0.display())]
    MissingImage(PathBuf),
    /// An image file is there but cannot be used.
    #[error("{0}")]
    BadImage(String),
    /// The tokenizer refused.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}

/// Key under which documents that were too long and left out are counted.
pub(crate) const TOO_LONG: &str = "too_long";
/// Key under which documents are counted whose beginning, as far as it fits, has nothing to learn.
pub(crate) const CUT_LEAVES_NO_ANSWER: &str = "cut_leaves_no_answer";

impl Problem {
    /// Neither `field` nor what may stand in its place is there.
    pub(super) fn missing(field: &str) -> Self {
        Self::Json(serde::de::Error::custom(format!("field {field} is missing")))
    }

    /// The key under which such problems are counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Json(_) => "invalid_record",
            Self::TwoFields { .. } => "contradicting_fields",
            Self::UnreadField { .. } => "unread_field",
            Self::NotAPair { .. } => "not_a_pair",
            Self::TooLong { .. } => TOO_LONG,
            Self::CutLeavesNoAnswer { .. } => CUT_LEAVES_NO_ANSWER,
            Self::Empty => "empty_document",
            Self::NoTarget => "no_target",
            Self::CountMismatch { .. } => "image_count_mismatch",
            Self::SentenceIndex { .. } => "sentence_index",
            Self::Roles { .. } => "roles",
            Self::NotPlain { .. } => "not_plain",
            Self::MissingImage(_) => "missing_image",
            Self::BadImage(_) => "bad_image",
            Self::Tokenize(_) => "tokenizer",
        }
    }
}
