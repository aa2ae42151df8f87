//! The `vila` command as a child process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command, Stdio};

/// Arguments of the program that a child process of the test binary runs.
const CHILD: &str = "VILA_TEST_CHILD";
/// Between arguments, because they may hold line breaks.
const SEPARATOR: u8 = 0x1f;

/// Not a test of its own: with [`CHILD`] set, this process is the `vila` command.
#[test]
fn child_process() {
    if let Some(arguments) = std::env::var_os(CHILD) {
        let arguments = arguments.as_bytes().split(|byte| *byte == SEPARATOR);
        let code = vila_train::cli::process(arguments.map(|argument| OsString::from_vec(argument.to_vec())));
        std::process::exit(i32::from(code));
    }
}

/// `vila` with these arguments; on stdout the test harness has a line of its own before it.
pub fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let module = module_path!().split_once("::").map_or(String::new(), |(_, module)| format!("{module}::"));
    let mut command = Command::new(std::env::current_exe().expect("test binary"));
    command.args([&format!("{module}child_process"), "--exact", "--nocapture"]);
    let mut all = OsString::from("vila");
    for argument in arguments {
        all.push(OsStr::from_bytes(&[SEPARATOR]));
        all.push(argument);
    }
    command.env(CHILD, all);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
