//! Finding the image files of a benchmark.

use std::path::{Component, Path, PathBuf};

use crate::Result;
use crate::evaluation::files::Record;

const EXTENSIONS: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// The image of a record: the first of `names` below `root` that is a file; names without an extension are tried with
/// several.
pub(super) fn find(root: &Path, names: &[String], record: &Record) -> Result<PathBuf> {
    let candidates = names.iter().flat_map(|name| {
        let plain = root.join(name);
        let with = EXTENSIONS.iter().map(|extension| root.join(format!("{name}.{extension}"))).collect::<Vec<_>>();
        std::iter::once(plain).chain(with)
    });
    let mut candidates = candidates.collect::<Vec<_>>().into_iter();
    candidates.find(|path| path.is_file() && is_below(path, root)).ok_or_else(|| {
        let names = names.join(" or ");
        record.error(&format!("there is no image {names} in {}; say with --images where they are", root.display()))
    })
}

/// Whether a path leads into a folder by its words; links in the folder may lead wherever its owner wants.
fn is_below(path: &Path, root: &Path) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    path.strip_prefix(root).is_ok_and(|rest| rest.components().all(plain))
}

/// Decodes base64, line breaks allowed.
pub(super) fn base64(text: &str, record: &Record) -> Result<Vec<u8>> {
    let damaged = || record.error("field `image` is not base64");
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes().filter(|c| !c.is_ascii_whitespace()) {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(damaged()),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    if bytes.is_empty() { Err(damaged()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_in_their_folder() {
        let below = |root: &str, name: &str| is_below(&Path::new(root).join(name), Path::new(root));
        assert!(below("../coco", "val/1.jpg") && below("", "1.jpg") && below("/", "/etc/1.jpg"));
        assert!(!below("coco", "../1.jpg") && !below("", "/etc/1.jpg") && !below("/coco", "a/../../1.jpg"));
    }
}
