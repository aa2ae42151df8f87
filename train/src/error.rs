use std::path::{Path, PathBuf};

use crate::data::ingest::IngestError;
use crate::stop::Stopped;

/// What can stop a run; messages say what, where and what to do.
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
    /// A recipe cannot be run.
    #[error("{}: {problem}", path.display())]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong and what would do.
        problem: String,
    },
    /// The output directory belongs to another run.
    #[error("{}: {problem}", path.display())]
    OutputDirectory {
        /// The directory.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A checkpoint cannot be used.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would do.
        problem: String,
    },
    /// A checkpoint is of another version of this program.
    #[error(
        "{}: has version {version}, this program writes version {own}; go on with the program that wrote it, or --restart to \
         discard the run", path.display()
    )]
    Version {
        /// The trainer's state.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// Ours.
        own: u32,
    },
    /// A checkpoint could not be saved.
    #[error(
        "checkpoint {name} could not be saved: {source}; the checkpoints before it are whole: make room or mend the disk, and \
         the same command continues from the newest"
    )]
    Save {
        /// The checkpoint.
        name: String,
        /// Why.
        source: Box<Error>,
    },
    /// A document cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// A stage of a recipe cannot be run.
    #[error("stage {stage}: {source}")]
    Stage {
        /// The stage.
        stage: String,
        /// Why.
        source: Box<Error>,
    },
    /// A data source of a recipe cannot be used.
    #[error("source `{name}`: {source}")]
    Source {
        /// The source.
        name: String,
        /// Why.
        source: Box<Error>,
    },
    /// A signal of this number asked to stop where nothing is to be saved.
    #[error("stopped by signal {0}")]
    Interrupted(usize),
    /// Ranks could not be started or used.
    #[error("{0}")]
    Ranks(String),
    /// Another rank went away.
    #[error(
        "rank {rank} is gone, its last word was in step {step}: {reason}; this rank stops, checkpoints are whole, and the same \
         command continues from the last one"
    )]
    RankLost {
        /// Which.
        rank: usize,
        /// The last step of the run that it was seen in, from 1.
        step: u64,
        /// How it was noticed.
        reason: String,
    },
    /// Loss or gradients are not finite.
    #[error("{0}")]
    NotFinite(String),
    /// Ingestion failed.
    #[error(transparent)]
    Ingest(IngestError),
    /// A shard cannot be used.
    #[error(transparent)]
    Shard(#[from] crate::data::shard::ShardError),
    /// The toy corpus could not be written.
    #[error(transparent)]
    Toy(#[from] crate::toy::ToyError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] vila_model::Error),
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] vila_model::image::ImageError),
    /// An op failed.
    #[error(transparent)]
    Engine(#[from] vila_engine::Error),
}

impl From<IngestError> for Error {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Stopped(Stopped(signal)) => Error::Interrupted(signal),
            error => Error::Ingest(error),
        }
    }
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        |source| Error::Io { path, source: vila_files::explain(source) }
    }

    /// A save that failed. Tensors that are not finite are no matter of the disk.
    pub(crate) fn save(name: String, source: Error) -> Self {
        match source {
            source @ Error::NotFinite(_) => source,
            source => Error::Save { name, source: Box::new(source) },
        }
    }

    pub(crate) fn recipe(path: &Path, problem: impl Into<String>) -> Self {
        Error::Recipe { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn checkpoint(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.as_ref().to_path_buf(), problem: problem.into() }
    }
}

/// Result of a training call.
pub type Result<T> = std::result::Result<T, Error>;
