//! What can go wrong in the toy world.

use std::io;
use std::path::{Path, PathBuf};

use vila_model::image::ImageError;

/// The toy corpus could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ToyError {
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The sheet of digits is no usable image.
    #[error(transparent)]
    Sheet(#[from] ImageError),
    /// Sheet or labels do not have the form of the embedded ones.
    #[error("{}: {problem}; the form is a greyscale sheet of 30 rows of 60 tiles of 8 x 8 pixels and 1,797 labels 0 to 9", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The options ask for something impossible.
    #[error("toy corpus: {field} is {value}; {cure}")]
    Option {
        /// The option.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What to do.
        cure: &'static str,
    },
    /// The tokenizer could not be trained.
    #[error("tokenizer: {reason}; check that the corpus files are those that the toy world wrote")]
    Tokenizer {
        /// What the library said.
        reason: String,
    },
}

/// Attaches path and action to an I/O error.
pub(super) fn io_at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> ToyError {
    let path = path.to_owned();
    move |source| ToyError::Io { path, action, source: vila_files::explain(source) }
}
