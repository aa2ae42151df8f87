use std::path::{Path, PathBuf};

/// What can go wrong in the model crate; messages say what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A configuration file lacks a field or has one with an unusable value.
    #[error("{}: field `{field}` {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, with dots between levels.
        field: String,
        /// What is wrong and what would do.
        problem: String,
    },
    /// A file is not of the format that its name promises.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would do.
        problem: String,
    },
    /// Tensors of a checkpoint do not fit the model that its configuration describes.
    #[error("{}: the weights do not fit the configuration:\n{problems}", path.display())]
    Weights {
        /// The directory.
        path: PathBuf,
        /// One line per tensor.
        problems: String,
    },
    /// An adapter was made for another model.
    #[error("{}: the adapter does not fit the model:\n{problems}", path.display())]
    Adapter {
        /// The adapter's folder.
        path: PathBuf,
        /// One line per tensor.
        problems: String,
    },
    /// A prompt or document cannot be run.
    #[error("{0}")]
    Input(String),
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// An image processor's configuration cannot be used.
    #[error(transparent)]
    Processor(#[from] crate::image::ProcessorError),
    /// An op failed.
    #[error(transparent)]
    Engine(#[from] vila_engine::Error),
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        |source| Error::Io { path, source: vila_files::explain(source) }
    }

    pub(crate) fn format(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), problem: problem.into() }
    }
}

/// Result of a model call.
pub type Result<T> = std::result::Result<T, Error>;
