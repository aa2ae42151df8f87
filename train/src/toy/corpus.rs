//! Writing the toy corpora as files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::augment::{SIDE, augment, enlarge};
use super::digits::{Digits, HELD_OUT, TRAIN, Tile};
use super::documents::Writer;
use super::error::{ToyError, io_at};
use super::evaluation::{held_out_name, tasks};
use super::rng::Rng;

/// Views per tile at which file names would grow a digit.
const MAX_VIEWS: usize = 100;

/// Sizes of the corpora in documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorpusOptions {
    /// Decides everything random.
    pub seed: u64,
    /// Images per train tile: one as it is, the others varied.
    pub views: usize,
    /// Documents of `text_games.jsonl`: naming games as lists.
    pub text_games: u64,
    /// Documents of `text.jsonl`: naming games, arithmetic, facts, stories.
    pub text: u64,
    /// Pairs of `pairs.jsonl`: a digit and a caption.
    pub pairs: u64,
    /// Documents of `mmc4.jsonl`: naming games and stories with several images.
    pub mmc4: u64,
    /// Conversations of `sft_visual.json`.
    pub sft_visual: u64,
    /// Conversations of `sft_text.json`.
    pub sft_text: u64,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            views: 12,
            text_games: 8_000,
            text: 32_000,
            pairs: 60_000,
            mmc4: 24_000,
            sft_visual: 16_000,
            sft_text: 7_000,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusReport {
    /// Documents per training file.
    pub documents: BTreeMap<&'static str, u64>,
    /// Questions per evaluation file.
    pub questions: BTreeMap<&'static str, u64>,
    /// Training images.
    pub train_images: usize,
    /// Held-out images.
    pub held_out_images: usize,
    /// The training files, for [`super::train_tokenizer`].
    pub text_files: Vec<PathBuf>,
}

/// Writes corpora, images and evaluation files into `dir`, replacing files of the same names.
///
/// `text_games.jsonl`, `text.jsonl`, `pairs.jsonl`, `mmc4.jsonl`, `sft_visual.json` and `sft_text.json` refer to
/// `images/`; the files in `eval/` refer to `eval/images/`. Images are 16 x 16 greyscale PNG.
///
/// # Errors
/// The options are impossible, or the disk refuses.
pub fn write_corpus(digits: &Digits, options: &CorpusOptions, dir: impl AsRef<Path>) -> Result<CorpusReport, ToyError> {
    let dir = dir.as_ref();
    if !(1..=MAX_VIEWS).contains(&options.views) {
        return Err(ToyError::Option { field: "views", value: options.views, cure: "choose 1 to 100" });
    }
    let (image_dir, eval_dir) = (dir.join("images"), dir.join("eval"));
    let held_out_dir = eval_dir.join("images");
    for folder in [&image_dir, &held_out_dir] {
        fs::create_dir_all(folder).map_err(io_at(folder, "create the folder"))?;
    }
    write_train_images(digits, options, &image_dir)?;
    write_held_out_images(digits, &held_out_dir)?;

    let writer = Writer::new(digits, options.seed, options.views, corpus_id(digits, options));
    let files = Files { dir };
    let text_files = vec![
        files.lines("text_games.jsonl", options.text_games, |index| writer.text_game(index))?,
        files.lines("text.jsonl", options.text, |index| writer.text(index))?,
        files.lines("pairs.jsonl", options.pairs, |index| writer.pair(index))?,
        files.lines("mmc4.jsonl", options.mmc4, |index| writer.mmc4(index))?,
        files.array("sft_visual.json", options.sft_visual, |index| writer.sft_visual(index))?,
        files.array("sft_text.json", options.sft_text, |index| writer.sft_text(index))?,
    ];
    let mut questions = BTreeMap::new();
    for (name, items) in tasks(digits, &writer, options.seed) {
        let count = items.len() as u64;
        Files { dir: &eval_dir }.lines(&format!("{name}.jsonl"), count, |index| &items[index as usize])?;
        questions.insert(name, count);
    }
    Ok(CorpusReport {
        documents: BTreeMap::from([
            ("text_games", options.text_games),
            ("text", options.text),
            ("pairs", options.pairs),
            ("mmc4", options.mmc4),
            ("sft_visual", options.sft_visual),
            ("sft_text", options.sft_text),
        ]),
        questions,
        train_images: TRAIN.len() * options.views,
        held_out_images: HELD_OUT.len(),
        text_files,
    })
}

/// Writes `documents` text conversations into `dir/sft_worded.json`: the questions of `sft_visual.json`, and others that only
/// text asks, with number words in place of images. Their words are all in the corpora of [`write_corpus`].
///
/// # Errors
/// The disk refuses.
pub fn write_worded_text(
    digits: &Digits,
    options: &CorpusOptions,
    documents: u64,
    dir: impl AsRef<Path>,
) -> Result<PathBuf, ToyError> {
    let writer = Writer::new(digits, options.seed, options.views, corpus_id(digits, options));
    Files { dir: dir.as_ref() }.array("sft_worded.json", documents, |index| writer.sft_worded(index))
}

/// Names the corpus in its records: other digits, seed or options give other records.
fn corpus_id(digits: &Digits, options: &CorpusOptions) -> String {
    let mut hash = Sha256::new();
    hash.update(digits.fingerprint());
    hash.update(format!("{options:?}"));
    let hash = hash.finalize();
    format!("digits-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
}

fn write_train_images(digits: &Digits, options: &CorpusOptions, dir: &Path) -> Result<(), ToyError> {
    TRAIN.into_par_iter().try_for_each(|tile| {
        (0..options.views).try_for_each(|view| {
            let original = digits.tile(tile);
            let path = dir.join(Writer::view_name(tile, view));
            if view == 0 {
                return write_png(&path, original);
            }
            let item = (tile * MAX_VIEWS + view) as u64;
            write_png(&path, &augment(original, &mut Rng::new(options.seed, "views", item)))
        })
    })
}

fn write_held_out_images(digits: &Digits, dir: &Path) -> Result<(), ToyError> {
    HELD_OUT.into_par_iter().try_for_each(|tile| write_png(&dir.join(held_out_name(tile)), digits.tile(tile)))
}

fn write_png(path: &Path, tile: &Tile) -> Result<(), ToyError> {
    let mut png = Vec::with_capacity(512);
    // Images this small compress best unfiltered, and fast compression keeps the writing to a second or two.
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::NoFilter);
    encoder
        .write_image(&enlarge(tile), SIDE as u32, SIDE as u32, ExtendedColorType::L8)
        .map_err(std::io::Error::other)
        .and_then(|()| vila_files::create(path)?.write_all(&png))
        .map_err(io_at(path, "write the image"))
}

/// Files of records in one folder.
struct Files<'a> {
    dir: &'a Path,
}

impl Files<'_> {
    /// JSON lines.
    fn lines<T: Serialize>(
        &self,
        name: &str,
        count: u64,
        record: impl Fn(u64) -> T + Sync,
    ) -> Result<PathBuf, ToyError> {
        self.write(name, count, record, ["", "\n", "\n"])
    }

    /// A JSON array with one element a line.
    fn array<T: Serialize>(
        &self,
        name: &str,
        count: u64,
        record: impl Fn(u64) -> T + Sync,
    ) -> Result<PathBuf, ToyError> {
        self.write(name, count, record, ["[\n", ",\n", "\n]\n"])
    }

    /// Records made in parallel, written in order with `[before, between, after]` around them.
    fn write<T: Serialize>(
        &self,
        name: &str,
        count: u64,
        record: impl Fn(u64) -> T + Sync,
        [before, between, after]: [&str; 3],
    ) -> Result<PathBuf, ToyError> {
        let path = self.dir.join(name);
        let made: Result<Vec<String>, _> =
            (0..count).into_par_iter().map(|index| serde_json::to_string(&record(index))).collect();
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(vila_files::create(&path)?);
            file.write_all(before.as_bytes())?;
            for (index, json) in made?.iter().enumerate() {
                if index > 0 {
                    file.write_all(between.as_bytes())?;
                }
                file.write_all(json.as_bytes())?;
            }
            file.write_all(after.as_bytes())?;
            file.flush()
        };
        write().map_err(io_at(&path, "write the corpus"))?;
        Ok(path)
    }
}
