//! Splits PTX text into tokens, each with its line.

use super::ParseError;

/// One lexical element of PTX.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// An identifier, register, opcode with modifiers, or directive; dots belong to it.
    Word(&'a str),
    /// An integer literal, as its 64-bit pattern.
    Int(u64),
    /// A literal `0f...`: bits of a single precision number.
    F32(u32),
    /// A literal `0d...`, or a decimal fraction: bits of a double precision number.
    F64(u64),
    /// A quoted string.
    Str(&'a str),
    /// Punctuation.
    Punct(char),
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.' | b'%')
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        // NVRTC's text ends in NUL.
        Self { text: text.trim_end_matches('\0'), at: 0, line: 1 }
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        let bytes = self.text.as_bytes();
        while let Some(&c) = bytes.get(self.at) {
            if c == b'\n' {
                self.line += 1;
                self.at += 1;
            } else if c.is_ascii_whitespace() {
                self.at += 1;
            } else if c == b'/' && bytes.get(self.at + 1) == Some(&b'/') {
                while bytes.get(self.at).is_some_and(|&c| c != b'\n') {
                    self.at += 1;
                }
            } else if c == b'/' && bytes.get(self.at + 1) == Some(&b'*') {
                let start = self.line;
                self.at += 2;
                loop {
                    match bytes.get(self.at) {
                        None => return Err(ParseError::new(start, "comment without an end")),
                        Some(b'*') if bytes.get(self.at + 1) == Some(&b'/') => break,
                        Some(b'\n') => self.line += 1,
                        Some(_) => {}
                    }
                    self.at += 1;
                }
                self.at += 2;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn take_while(&mut self, f: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.text.as_bytes().get(self.at).is_some_and(|&c| f(c)) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or("")
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        loop {
            self.take_while(word_part);
            let rest = self.text.get(self.at..).unwrap_or("");
            // `shared::cta` is one word, `label:` is not.
            if rest.starts_with("::") && rest.as_bytes().get(2).is_some_and(|&c| word_start(c)) {
                self.at += 2;
            } else {
                return self.text.get(start..self.at).unwrap_or("");
            }
        }
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let line = self.line;
        let bad = |s: &str| ParseError::new(line, format!("malformed number `{s}`"));
        let mut s = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'_');
        let rest = self.text.as_bytes();
        if rest.get(self.at) == Some(&b'.') && rest.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
            let start = self.at - s.len();
            self.at += 1;
            self.take_while(|c| c.is_ascii_alphanumeric());
            s = self.text.get(start..self.at).unwrap_or("");
            return s.parse::<f64>().map(|x| Token::F64(x.to_bits())).map_err(|_| bad(s));
        }
        if let Some(h) = s.strip_prefix("0f").or(s.strip_prefix("0F")) {
            if h.len() != 8 {
                return Err(bad(s));
            }
            return u32::from_str_radix(h, 16).map(Token::F32).map_err(|_| bad(s));
        }
        if let Some(h) = s.strip_prefix("0d").or(s.strip_prefix("0D")) {
            if h.len() != 16 {
                return Err(bad(s));
            }
            return u64::from_str_radix(h, 16).map(Token::F64).map_err(|_| bad(s));
        }
        let t = s.strip_suffix('U').unwrap_or(s);
        let v = if let Some(h) = t.strip_prefix("0x").or(t.strip_prefix("0X")) {
            u64::from_str_radix(h, 16)
        } else if let Some(b) = t.strip_prefix("0b").or(t.strip_prefix("0B")) {
            u64::from_str_radix(b, 2)
        } else if t.len() > 1 && t.starts_with('0') {
            u64::from_str_radix(t, 8)
        } else {
            t.parse::<u64>()
        };
        v.map(Token::Int).map_err(|_| bad(s))
    }

    /// The next token with its line; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(Token<'a>, u32)>, ParseError> {
        self.skip_blank()?;
        let line = self.line;
        let Some(&c) = self.text.as_bytes().get(self.at) else { return Ok(None) };
        let token = if word_start(c) {
            Token::Word(self.word())
        } else if c.is_ascii_digit() {
            self.number()?
        } else if c == b'"' {
            self.at += 1;
            let s = self.take_while(|c| c != b'"' && c != b'\n');
            if self.text.as_bytes().get(self.at) != Some(&b'"') {
                return Err(ParseError::new(line, "string without an end"));
            }
            self.at += 1;
            Token::Str(s)
        } else if c.is_ascii_punctuation() {
            self.at += 1;
            Token::Punct(c as char)
        } else {
            let c = self.text.get(self.at..).and_then(|r| r.chars().next()).unwrap_or('?');
            return Err(ParseError::new(line, format!("character {c:?} has no meaning here")));
        };
        Ok(Some((token, line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(s: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(s);
        std::iter::from_fn(|| lexer.next().unwrap().map(|t| t.0)).collect()
    }

    #[test]
    fn labels_and_qualified_modifiers_differ() {
        assert_eq!(
            all("W: mov.shared::cta.u32 %r1,-0x1F;// x\n0f3F800000 /* \n */ 7 \0"),
            [
                Token::Word("W"),
                Token::Punct(':'),
                Token::Word("mov.shared::cta.u32"),
                Token::Word("%r1"),
                Token::Punct(','),
                Token::Punct('-'),
                Token::Int(31),
                Token::Punct(';'),
                Token::F32(0x3f80_0000),
                Token::Int(7)
            ]
        );
    }

    #[test]
    fn malformed_text_is_refused_with_its_line() {
        for s in ["\n0f12", "\n\"x", "\n/* ", "\n99999999999999999999", "\n\u{e9}"] {
            let mut lexer = Lexer::new(s);
            assert_eq!(lexer.next().unwrap_err().line, 2, "{s:?}");
        }
    }
}
