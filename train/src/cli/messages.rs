//! Commands and options that messages suggest exist.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use super::Arguments;

/// Options of other programs.
const FOREIGN: [&str; 5] = ["--features", "--release", "--gpus", "--mpi", "--bind-to"];
/// Files whose strings are style sheets or options of compilers, not messages.
const NO_MESSAGES: [&str; 4] = ["report/", "html.rs", "nvrtc.rs", "offline.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The string literals of a file before its tests, lines joined.
fn literals(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    let mut chars =
        code.replace("'\"'", "").replace("b'\"'", "").replace("\\\n", "").chars().collect::<Vec<_>>().into_iter();
    while chars.by_ref().any(|c| c == '"') {
        let mut text = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => text.extend(chars.next().map(|c| if c == 'n' { ' ' } else { c })),
                c => text.push(c),
            }
        }
        found.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    found
}

fn has_option(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == option.strip_prefix("--"))
        || command.get_subcommands().any(|command| has_option(command, option))
}

/// The option at the start of a word, without what comes after it.
fn option(word: &str) -> Option<String> {
    let word = word.trim_start_matches(['`', '(', '"']);
    let name: String = word.strip_prefix("--")?.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
    name.starts_with(|c: char| c.is_ascii_lowercase()).then(|| format!("--{name}"))
}

/// What is wrong with the commands and options of a message. `home` is the command whose own file it stands in.
fn problems(text: &str, root: &Command, home: Option<&Command>) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), None);
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        // Without the mark of code it is the program's name in prose.
        if word.trim_start_matches('(') == "`vila" {
            let mut command = root;
            while let Some(next) = words.peek() {
                let name = next.trim_end_matches(|c: char| !c.is_ascii_lowercase());
                let Some(inner) = command.find_subcommand(name) else { break };
                let ends = name != *next;
                (command, at) = (inner, (!ends).then_some(inner));
                words.next();
                if ends {
                    break;
                }
            }
            let missing =
                std::ptr::eq(command, root) || (command.has_subcommands() && command.is_subcommand_required_set());
            if missing {
                found.push(format!("no such command: vila {}", words.peek().unwrap_or(&"")));
            }
            continue;
        }
        if let Some(option) = option(word).filter(|option| !FOREIGN.contains(&option.as_str())) {
            let command = at.or(home).unwrap_or(root);
            if !has_option(command, &option) {
                found.push(format!("`{}` has no option {option}", command.get_name()));
            }
        }
        if word.contains(['`', ')', ';']) {
            at = None;
        }
    }
    found
}

#[test]
fn messages_name_commands_and_options_that_exist() {
    let root = Arguments::command();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    ["train/src", "model/src", "cuda/src"].iter().for_each(|folder| sources(&workspace.join(folder), &mut files));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files.iter().filter(|path| !NO_MESSAGES.iter().any(|name| path.to_string_lossy().contains(name))) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let home =
            path.parent().filter(|folder| folder.ends_with("src/cli")).and_then(|_| root.find_subcommand(&*name));
        for text in literals(&std::fs::read_to_string(path).expect("source")) {
            seen += usize::from(text.contains("--") || text.contains("vila "));
            let found = problems(&text, &root, home).into_iter();
            wrong.extend(found.map(|problem| format!("{}: {problem} in {text:?}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 50, "only {seen} messages were found");
}

#[test]
fn wrong_suggestions_are_noticed() {
    let root = Arguments::command();
    let said = |text: &str| problems(text, &root, None).len();
    assert_eq!(
        ["use --image-root", "run `vila data inspect` on it", "`vila data ingest --markdown`"].map(said),
        [1; 3]
    );
    assert_eq!(
        ["use --images", "run `vila data verify`", "`vila lora merge --model DIR --to DIR` or --restart"].map(said),
        [0; 3]
    );
}
