//! The text of tokens as they arrive.

use crate::Result;

/// Collects tokens and gives out their text as soon as no later token can change it.
pub(super) struct TextStream {
    ids: Vec<u32>,
    stop: Vec<String>,
    text: String,
    /// Bytes of the text before the last run of byte tokens, which later bytes may turn into other characters.
    firm: usize,
    shown: usize,
}

/// Stands for bytes that are not (yet) a character.
const UNFINISHED: char = '\u{FFFD}';

impl TextStream {
    pub(super) fn new(stop: Vec<String>) -> Self {
        TextStream { ids: Vec::new(), stop, text: String::new(), firm: 0, shown: 0 }
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Takes a token, which may stand for a `byte`; whether a stop text ends the answer.
    pub(super) fn push(&mut self, id: u32, byte: bool, decode: impl Fn(&[u32]) -> Result<String>) -> Result<bool> {
        self.ids.push(id);
        self.text = decode(&self.ids)?;
        if !byte {
            self.firm = self.text.len();
        }
        let found = self.stop.iter().filter_map(|stop| self.text.find(stop)).min();
        if let Some(at) = found {
            self.text.truncate(at);
        }
        Ok(found.is_some())
    }

    /// Text that is new and settled.
    pub(super) fn settled(&mut self) -> String {
        let text = self.text.get(..self.firm).unwrap_or_default().trim_end_matches(UNFINISHED);
        let begins =
            |stop: &String| (1..=stop.len()).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]));
        let held = self.stop.iter().filter_map(begins).max().unwrap_or(0);
        self.show(text.len() - held)
    }

    /// The rest of the text.
    pub(super) fn rest(&mut self) -> String {
        self.show(self.text.len())
    }

    fn show(&mut self, end: usize) -> String {
        let piece = self.text.get(self.shown..end).unwrap_or_default().to_string();
        self.shown += piece.len();
        piece
    }

    /// All of the text.
    pub(super) fn into_parts(self) -> (Vec<u32>, String) {
        (self.ids, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]], stop: &[&str]) -> (Vec<String>, String, bool) {
        let mut stream = TextStream::new(stop.iter().map(|stop| stop.to_string()).collect());
        let bytes = |ids: &[u32]| ids.iter().flat_map(|&id| pieces[id as usize].to_vec()).collect::<Vec<u8>>();
        let decode = |ids: &[u32]| Ok(String::from_utf8_lossy(&bytes(ids)).into_owned());
        let (mut shown, mut stopped) = (Vec::new(), false);
        for id in 0..pieces.len() as u32 {
            stopped = stream.push(id, false, decode).unwrap();
            if stopped {
                break;
            }
            shown.push(stream.settled());
        }
        shown.push(stream.rest());
        let text = stream.into_parts().1;
        assert_eq!(shown.concat(), text);
        (shown, text, stopped)
    }

    #[test]
    fn characters_come_whole() {
        let (shown, text, _) = run(&[b"a\xF0\x9F", b"\x98", b"\x80b"], &[]);
        assert_eq!((shown.as_slice(), text.as_str()), (["a", "", "😀b", ""].map(String::from).as_slice(), "a😀b"));
    }

    #[test]
    fn a_stop_text_ends_the_answer_even_across_tokens_and_what_only_begins_like_one_is_given_out() {
        assert_eq!(
            run(&[b"one#", b"#", b"#two"], &["###"]),
            (["one", "", ""].map(String::from).to_vec(), "one".into(), true)
        );
        assert_eq!(run(&[b"a#", b"b"], &["###", "b!"]).0, ["a", "#", "b"]);
        assert_eq!(run(&[b"xyz"], &["z", "yz"]).1, "x");
    }
}
