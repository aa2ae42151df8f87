//! Lines for the person at the terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use vila_files::printable;

/// Writes a line to stderr in one call. Ranks share a terminal: `eprintln!` writes its pieces one by one, those of
/// another rank come between, and it panics when stderr is closed. What the line quotes of files and names is made printable.
pub(crate) fn say(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{}\n", printable(&line.to_string())).as_bytes());
}

/// Writes a result to stdout: unchanged where a program reads it, printable where a terminal would obey what models and files
/// put between the words.
///
/// # Errors
/// The system's, when stdout cannot be written.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let written = match stdout.is_terminal() {
        true => stdout.write_all(printable(text).as_bytes()),
        false => stdout.write_all(text.as_bytes()),
    };
    written.and_then(|()| stdout.flush())
}

/// Where the log goes: events, whole lines at a time, as [`say`] writes them.
pub(crate) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        say(String::from_utf8_lossy(line).trim_end_matches('\n'));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
