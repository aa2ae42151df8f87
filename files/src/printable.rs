//! Text of files, names and models, made fit for a terminal.

use std::borrow::Cow;

/// The text with every character that a terminal would obey, or that changes the order of what is read, written out as
/// `\u{1b}`; line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Control characters, marks of writing direction, and separators that some terminals take for line breaks.
fn obeyed(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown() {
        assert_eq!(printable("a\n\tb é 漢 👩\u{200d}🚀"), "a\n\tb é 漢 👩\u{200d}🚀");
        assert_eq!(printable("\u{1b}[2J\u{9b}31m\r\u{7}"), "\\u{1b}[2J\\u{9b}31m\\u{d}\\u{7}");
        assert_eq!(printable("\u{202e}txt.exe\u{2066}\u{7f}"), "\\u{202e}txt.exe\\u{2066}\\u{7f}");
    }
}
