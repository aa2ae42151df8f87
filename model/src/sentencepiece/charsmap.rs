//! The precompiled character map: a double array (darts-clone) from source strings to places in a list of strings.

use super::{Fault, Outcome};

const FIELD: &str = "normalizer_spec.precompiled_charsmap";

/// The package looks at no more source strings than this, short ones first.
const MOST_PREFIXES: usize = 32;

/// A checked map; no look-up can leave it.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    /// Replacements, each ended by a zero byte.
    replacements: String,
}

impl Charsmap {
    /// Reads `<size of the array in bytes: u32><array><replacements>`.
    pub(super) fn parse(blob: &[u8]) -> Outcome<Self> {
        let Some((size, rest)) = blob.split_first_chunk::<4>() else {
            return Err(broken("is shorter than its header"));
        };
        let size = u32::from_le_bytes(*size);
        let split = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size));
        let Some((array, replacements)) = split else {
            return Err(broken(format!("claims an array of {size} bytes where {} are left", rest.len())));
        };
        // An array has whole blocks of 256 units: so a step by one byte never leaves it once its block is inside.
        if array.is_empty() || !array.len().is_multiple_of(1024) {
            return Err(broken(format!("has an array of {size} bytes, not a multiple of 1024")));
        }
        let units = array.chunks_exact(4).map(|unit| unit.iter().rev().fold(0, |sum, &b| sum << 8 | u32::from(b)));
        let replacements =
            std::str::from_utf8(replacements).map_err(|_| broken("has replacements that are no UTF-8"))?;
        if !replacements.ends_with('\0') {
            return Err(broken("ends inside a replacement"));
        }
        let map = Charsmap { units: units.collect(), replacements: replacements.to_string() };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Outcome<()> {
        for (at, &unit) in self.units.iter().enumerate() {
            if is_leaf(unit) {
                if !self.replacements.is_char_boundary(place(unit)) || place(unit) >= self.replacements.len() {
                    return Err(broken(format!(
                        "points at replacement {} of {}",
                        place(unit),
                        self.replacements.len()
                    )));
                }
            } else {
                let target = self.units.get(at ^ offset(unit));
                if target.is_none() {
                    return Err(broken(format!("unit {at} points outside the array of {}", self.units.len())));
                }
                if has_leaf(unit) && !target.is_some_and(|&target| is_leaf(target)) {
                    return Err(broken(format!("unit {at} promises a value and has none")));
                }
            }
        }
        Ok(())
    }

    /// Bytes of the longest replacement.
    pub(super) fn longest_replacement(&self) -> usize {
        self.replacements.split('\0').map(str::len).max().unwrap_or(0)
    }

    /// The longest source string that `text` starts with: its length and what replaces it.
    pub(super) fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let (length, place) = self.prefixes(text).take(MOST_PREFIXES).last()?;
        Some((length, self.replacements.get(place..)?.split('\0').next()?))
    }

    fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let steps = text.iter().scan(self.units.first().map(|&root| offset(root)), |at, &byte| {
            let here = (*at)? ^ usize::from(byte);
            let unit = self.units.get(here).copied().filter(|&unit| label(unit) == u32::from(byte));
            *at = unit.map(|unit| here ^ offset(unit));
            Some(if has_leaf(unit?) { self.units.get((*at)?).map(|&leaf| place(leaf)) } else { None })
        });
        steps.enumerate().filter_map(|(i, place)| Some((i + 1, place?)))
    }
}

fn is_leaf(unit: u32) -> bool {
    unit >> 31 == 1
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

fn place(leaf: u32) -> usize {
    (leaf & !(1 << 31)) as usize
}

fn broken(problem: impl std::fmt::Display) -> Fault {
    Fault::new(FIELD, format!("{problem}; the file is damaged: fetch it again"))
}
