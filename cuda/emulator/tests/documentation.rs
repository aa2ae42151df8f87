//! The README's table is the code's.

#[test]
fn readme_lists_what_is_supported() {
    let readme = include_str!("../README.md");
    let table: Vec<String> =
        ptx_emulator::supported_instructions().iter().map(|(op, forms)| format!("| `{op}` | {forms} |")).collect();
    let start = readme.find("|---|---|\n| `abs`").expect("the table") + "|---|---|\n".len();
    assert_eq!(readme[start..].trim_end(), table.join("\n"), "run `ptx-emulator --instructions`");
}
