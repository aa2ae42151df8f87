//! The `vila` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vila_train::cli::main()
}
