//! Lines for the person at the terminal.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to stderr in one call. Ranks share a terminal: `eprintln!` writes its pieces one by one, those of
/// another rank come between, and it panics when stderr is closed.
pub(crate) fn say(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
