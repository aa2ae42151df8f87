//! The list beside machine code that was made ahead; also read by the build script.

use std::fmt;

/// One file of machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kernel file without extension.
    pub source: String,
    /// Architecture.
    pub arch: String,
    /// Hash of the source, its header and the compiler's options.
    pub hash: String,
    /// File name.
    pub file: String,
}

/// Name of the list.
pub const FILE: &str = "manifest.txt";

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.source, self.arch, self.hash, self.file)
    }
}

/// The entries of a list, one a line.
///
/// # Errors
/// The first line that is not four words.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let entry = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [source, arch, hash, file] => {
            Ok(Entry { source: source.into(), arch: arch.into(), hash: hash.into(), file: file.into() })
        }
        _ => Err(format!("not `source arch hash file`: {line}")),
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(entry).collect()
}
