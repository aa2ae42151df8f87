//! The sheet of handwritten digits.

use std::fs;
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};
use vila_model::image::{ImageError, decode};

use super::error::{ToyError, io_at};

/// Indices of the tiles that are trained on.
pub const TRAIN: Range<usize> = 0..1397;
/// Indices of the tiles that only evaluations show.
pub const HELD_OUT: Range<usize> = 1397..1797;

/// Side of a tile in pixels.
pub(super) const TILE: usize = 8;
const TILES_PER_ROW: usize = 60;
const ROWS: usize = 30;
const COUNT: usize = HELD_OUT.end;

const SHEET_FILE: &str = "digits.png";
const LABEL_FILE: &str = "labels.txt";

/// One digit: 8 x 8 grey levels in [0, 1], rows from the top; ink is 1.
pub type Tile = [f32; TILE * TILE];

/// The handwritten digits with their labels.
#[derive(Clone)]
pub struct Digits {
    tiles: Vec<Tile>,
    labels: Vec<usize>,
    fingerprint: [u8; 32],
}

impl Digits {
    /// The digits that come with the program.
    ///
    /// # Errors
    /// Never for an intact program.
    pub fn embedded() -> Result<Self, ToyError> {
        let sheet = include_bytes!("../../assets/digits/digits.png");
        let labels = include_str!("../../assets/digits/labels.txt");
        Self::parse(sheet, labels, Path::new("(embedded)"))
    }

    /// Another sheet and its labels, `digits.png` and `labels.txt` of the same form as the embedded ones.
    ///
    /// # Errors
    /// A file is missing or has another form.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ToyError> {
        let dir = dir.as_ref();
        let (sheet_path, label_path) = (dir.join(SHEET_FILE), dir.join(LABEL_FILE));
        let sheet = fs::read(&sheet_path).map_err(io_at(&sheet_path, "read the sheet of digits"))?;
        let labels = fs::read_to_string(&label_path).map_err(io_at(&label_path, "read the labels"))?;
        Self::parse(&sheet, &labels, dir)
    }

    fn parse(sheet: &[u8], labels: &str, dir: &Path) -> Result<Self, ToyError> {
        let sheet_path = dir.join(SHEET_FILE);
        let tiles = cut(sheet, &sheet_path)?;
        let labels = read_labels(labels, &dir.join(LABEL_FILE))?;
        let mut hash = Sha256::new();
        for (tile, label) in tiles.iter().zip(&labels) {
            hash.update(bytemuck::bytes_of(tile));
            hash.update([*label as u8]);
        }
        Ok(Self { tiles, labels, fingerprint: hash.finalize().into() })
    }

    /// The pixels of tile `index`.
    pub fn tile(&self, index: usize) -> &Tile {
        &self.tiles[index]
    }

    /// What digit tile `index` shows, 0 to 9.
    pub fn label(&self, index: usize) -> usize {
        self.labels[index]
    }

    /// The tiles of a part of the sheet, by the digit they show.
    pub(super) fn by_label(&self, part: Range<usize>) -> [Vec<usize>; 10] {
        let mut tiles: [Vec<usize>; 10] = Default::default();
        for index in part {
            tiles[self.labels[index]].push(index);
        }
        tiles
    }

    /// A hash of pixels and labels.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

fn cut(sheet: &[u8], path: &Path) -> Result<Vec<Tile>, ToyError> {
    let form = |problem: String| ToyError::Form { path: path.to_owned(), problem };
    let picture = decode(sheet, &path.display().to_string()).map_err(|error: ImageError| ToyError::Sheet(error))?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if (width, height) != (TILES_PER_ROW * TILE, ROWS * TILE) {
        return Err(form(format!("the sheet has {width} x {height} pixels")));
    }
    if picture.pixels().any(|pixel| pixel.0[0] != pixel.0[1] || pixel.0[0] != pixel.0[2]) {
        return Err(form("the sheet is coloured".to_owned()));
    }
    let tile = |index: usize| {
        let (left, top) = (index % TILES_PER_ROW * TILE, index / TILES_PER_ROW * TILE);
        std::array::from_fn(|pixel| {
            let (x, y) = (left + pixel % TILE, top + pixel / TILE);
            f32::from(picture.get_pixel(x as u32, y as u32).0[0]) / 255.0
        })
    };
    Ok((0..COUNT).map(tile).collect())
}

fn read_labels(text: &str, path: &Path) -> Result<Vec<usize>, ToyError> {
    let form = |problem: String| ToyError::Form { path: path.to_owned(), problem };
    let characters = text.chars().filter(|character| !character.is_whitespace());
    let labels: Vec<usize> = characters
        .map(|c| c.to_digit(10).map(|digit| digit as usize).ok_or_else(|| form(format!("`{c}` is not a digit"))))
        .collect::<Result<_, _>>()?;
    if labels.len() != COUNT {
        return Err(form(format!("there are {} labels", labels.len())));
    }
    for (part, name) in [(TRAIN, "train"), (HELD_OUT, "held-out")] {
        if let Some(digit) = (0..10).find(|digit| !labels[part.clone()].contains(digit)) {
            return Err(form(format!("no {name} tile shows a {digit}")));
        }
    }
    Ok(labels)
}
