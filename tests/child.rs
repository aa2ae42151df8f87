//! The `vila` command as a child process.

use std::process::{Command, Stdio};

/// Arguments of the program that a child process of the test binary runs.
const CHILD: &str = "VILA_TEST_CHILD";
/// Between arguments, because they may hold line breaks.
const SEPARATOR: &str = "\u{1f}";

/// Not a test of its own: with [`CHILD`] set, this process is the `vila` command.
#[test]
fn child_process() {
    if let Ok(arguments) = std::env::var(CHILD) {
        let code = vila_train::cli::process(arguments.split(SEPARATOR).map(Into::into));
        std::process::exit(i32::from(code));
    }
}

/// `vila` with these arguments; on stdout the test harness has a line of its own before it.
pub fn command(arguments: &[&str]) -> Command {
    let module = module_path!().split_once("::").map_or(String::new(), |(_, module)| format!("{module}::"));
    let mut command = Command::new(std::env::current_exe().expect("test binary"));
    command.args([&format!("{module}child_process"), "--exact", "--nocapture"]);
    command.env(CHILD, ["vila"].iter().chain(arguments).copied().collect::<Vec<_>>().join(SEPARATOR));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
