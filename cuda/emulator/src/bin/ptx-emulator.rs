//! Lists what a PTX file holds, or the instructions that the emulator understands.

use ptx_emulator::{Module, supported_instructions};
use std::process::ExitCode;

const USAGE: &str = "usage: ptx-emulator FILE.ptx...    entries, registers, shared memory, unsupported instructions
       ptx-emulator --instructions  what is understood, as Markdown";

fn list(file: &str) -> Result<bool, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let entries = Module::survey(&text).map_err(|e| format!("{file}: {e}"))?;
    let mut fine = true;
    for e in &entries {
        println!(
            "{}: {} instructions, {} registers, {} bytes shared, {} bytes local, parameters {:?}",
            e.name, e.instructions, e.registers, e.shared, e.local, e.params
        );
        for u in &e.unsupported {
            println!("  line {}: {}", u.line, u.message);
            fine = false;
        }
    }
    if entries.is_empty() {
        println!("{file}: no entries");
    }
    Ok(fine)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        None | Some("-h" | "--help") => {
            println!("{USAGE}");
            return if args.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
        Some("--instructions") => {
            println!("| opcode | forms |\n|---|---|");
            for (op, forms) in supported_instructions() {
                println!("| `{op}` | {forms} |");
            }
            return ExitCode::SUCCESS;
        }
        Some(a) if a.starts_with("--") => {
            eprintln!("{a} is no option\n{USAGE}");
            return ExitCode::from(2);
        }
        _ => {}
    }
    let mut code = ExitCode::SUCCESS;
    for file in &args {
        match list(file) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::FAILURE,
            Err(e) => {
                eprintln!("{e}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
