use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, Outcome, Usage, print, print_json};
use crate::data::IngestTokenizer;
use crate::data::cli::{info, info_text, ingest_json, ingest_text, show, verify};
use crate::data::ingest::{Format, FormatOptions, IngestOptions, OnError, TokenLimit, ingest};

#[derive(Subcommand)]
pub(super) enum DataCommand {
    /// Ingests raw data into a new shard directory.
    Ingest(Box<IngestArguments>),
    /// Counts and lengths of a shard directory.
    Info {
        /// The shard directory.
        dir: PathBuf,
        /// Machine-readable results on stdout and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Checks every hash and reference of a shard directory.
    Verify {
        /// The shard directory.
        dir: PathBuf,
        /// Machine-readable results on stdout and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Shows documents with their images and what is learned of them.
    Show {
        /// The shard directory.
        dir: PathBuf,
        /// How many documents.
        #[arg(long, default_value_t = 5)]
        count: usize,
        /// Which ones are drawn.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Write one HTML page with the images instead.
        #[arg(long)]
        html: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct IngestArguments {
    /// mmc4 | pairs | llava | text
    #[arg(long)]
    format: String,
    /// Raw files.
    #[arg(long, num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// A tokenizer.json, or a SentencePiece tokenizer.model.
    #[arg(long)]
    tokenizer: PathBuf,
    /// The shard directory to make.
    #[arg(long)]
    out: PathBuf,
    /// Folder of the images; by default beside the raw files.
    #[arg(long, visible_alias = "image-root")]
    images: Option<PathBuf>,
    /// Take images from outside that folder, too: absolute paths, `..`, links that lead out of it.
    #[arg(long)]
    images_anywhere: bool,
    /// Conversation template (llava).
    #[arg(long)]
    template: Option<String>,
    /// System prompt in place of the template's own; empty for none (llava).
    #[arg(long)]
    system: Option<String>,
    /// native | images-first | pairs (mmc4).
    #[arg(long)]
    layout: Option<String>,
    /// all_text | image_following_text_only (mmc4).
    #[arg(long)]
    loss_scope: Option<String>,
    /// Images kept per document, 0 for all (mmc4).
    #[arg(long)]
    max_images: Option<usize>,
    /// Most positions of a document.
    #[arg(long, requires = "tokens_per_image")]
    max_tokens: Option<usize>,
    /// Positions that one image counts for in --max-tokens.
    #[arg(long)]
    tokens_per_image: Option<usize>,
    /// cut | skip | stop, on a document of more positions.
    #[arg(long, requires = "max_tokens", default_value = "cut")]
    too_long: String,
    /// stop | skip, on a record that cannot be used.
    #[arg(long, default_value = "stop")]
    on_error: String,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: DataCommand) -> Result<Outcome, Failure> {
    match command {
        DataCommand::Ingest(arguments) => run_ingest(*arguments)?,
        DataCommand::Info { dir, json } => {
            let facts = info(&dir)?;
            if json { print_json(&facts)? } else { print(&info_text(&facts))? }
        }
        DataCommand::Verify { dir, json } => {
            let facts = verify(&dir)?;
            if json { print_json(&facts)? } else { print(&format!("{}: intact\n", dir.display()))? }
        }
        DataCommand::Show { dir, count, seed, html } => {
            let shown = show(&dir, count, seed, html.as_deref())?;
            match html {
                Some(page) => print(&format!("wrote {}\n", page.display()))?,
                None => print(&shown.text)?,
            }
        }
    }
    Ok(Outcome::Done)
}

fn run_ingest(arguments: IngestArguments) -> Result<(), Failure> {
    let options = FormatOptions {
        template: arguments.template.as_deref(),
        system: arguments.system.as_deref(),
        layout: arguments.layout.as_deref(),
        loss_scope: arguments.loss_scope.as_deref(),
        max_images: arguments.max_images,
    };
    let format = Format::parse(&arguments.format, &options).map_err(Usage::of)?;
    let on_error: OnError = arguments.on_error.parse().map_err(Usage::of)?;
    let limit = arguments.max_tokens.zip(arguments.tokens_per_image);
    let options = IngestOptions {
        image_root: arguments.images,
        images_anywhere: arguments.images_anywhere,
        too_long: arguments.too_long.parse().map_err(Usage::of)?,
        max_tokens: limit.map(|(tokens, per_image)| TokenLimit { tokens, per_image }),
        on_error,
        ..IngestOptions::new(format, arguments.input, arguments.out)
    };
    let tokenizer = IngestTokenizer::from_file(&arguments.tokenizer)?;
    crate::stop::listen()?;
    let report = ingest(&options, &tokenizer).map_err(crate::Error::from)?;
    if arguments.json { print_json(&ingest_json(&report)) } else { print(&ingest_text(&report)) }
}
