//! Names in a recipe that become names of files.

/// Longest name; a file's name may have 255 bytes, of which a hash and a suffix take some.
const LONGEST: usize = 100;

/// Refuses a name that could lead out of the folder that its files lie in.
pub(super) fn check(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!(
            "{what} `{}`: the name becomes part of file names; it may have up to {LONGEST} letters, digits, `-`, `_` and `.`, and does \
             not begin with `.`",
            name.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["a", "coyo-700m", "mmc4_core.v1", "A.b"] {
            check("source", good).expect(good);
        }
        let long = "a".repeat(101);
        for bad in
            ["", ".", "..", "../../../escaped", "/tmp/x", "a/b", ".hidden", "a b", "a\\b", "a\u{1b}[2J", "a\0", &long]
        {
            let error = check("source", bad).expect_err(bad);
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }
}
