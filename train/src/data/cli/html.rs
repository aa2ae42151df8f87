//! Documents with their images as one page that needs nothing else.

use std::io::{self, Read};
use std::path::Path;

use vila_model::image::ImageFormat;

use super::super::shard::{ImageId, SampleView, ShardReader};
use super::DataError;
use super::show::Piece;

const STYLE: &str = "
:root { --paper: #fbfaf7; --card: #fff; --ink: #22252b; --soft: #6b7280; --line: #e4e2dc; --learned: #fff0b8; --edge: #e0b100; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181d; --card: #1f2229; --ink: #e6e6e3; --soft: #9aa1ad; --line: #31353e; --learned: #4a3f10; --edge: #c9a227; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.65 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
.facts, .origin { color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }
.facts { margin: 0 0 2rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem 1.25rem 1.25rem; margin: 0 0 1.25rem; }
.origin { display: flex; flex-wrap: wrap; gap: 0 1rem; margin-bottom: .5rem; }
.origin b { color: var(--ink); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--learned); color: inherit; border-bottom: 2px solid var(--edge); border-radius: .2rem; padding: .1rem 0; }
img { vertical-align: middle; margin: .25rem .35rem; border: 1px solid var(--line); border-radius: .35rem; max-width: 100%; height: auto; }
img.tiny { image-rendering: pixelated; }
";

/// Images are shown at most this many pixels wide, and those much smaller are enlarged.
const WIDEST: u32 = 280;
const TINY: u32 = 48;

/// What every page begins with, after its title.
const MARK: &str = "<mark>learned text</mark>";

/// Writes a page; a file that is no such page is left alone.
pub(super) fn write(path: &Path, page: &str) -> io::Result<()> {
    if path.is_file() {
        let mut start = Vec::new();
        vila_files::open(path)?.take(1 << 16).read_to_end(&mut start)?;
        if !String::from_utf8_lossy(&start).contains(MARK) {
            let problem = "is there already and is no page of this program; move it";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
    }
    vila_files::write(path, page.as_bytes())
}

pub(super) fn page(reader: &ShardReader, documents: &[(u64, SampleView<'_>, Vec<Piece>)]) -> Result<String, DataError> {
    let counts = reader.counts();
    let title = escape(&reader.dir().to_string_lossy());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<h1>{title}</h1>\n<p class=\"facts\">{} of {} documents · {} tokens, {} learned · {} images, {} distinct · \
         {MARK}</p>\n",
        documents.len(),
        counts.samples,
        counts.tokens,
        counts.targets,
        counts.image_uses,
        counts.images
    );
    for (index, view, pieces) in documents {
        let record = &view.record;
        page.push_str(&format!(
            "<article>\n<div class=\"origin\"><b>document {index}</b><span>{}</span><span>{} tokens, {} learned, {} images</span></div>\n\
             <div class=\"text\">",
            escape(&reader.origin(record)),
            record.token_count,
            record.target_count,
            record.image_count
        ));
        for piece in pieces {
            match piece {
                Piece::Text { text, learned: false } => page.push_str(&escape(text)),
                Piece::Text { text, learned: true } => page.push_str(&format!("<mark>{}</mark>", escape(text))),
                Piece::Image(image) => page.push_str(&picture(reader, *image)?),
            }
        }
        page.push_str("</div>\n</article>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn picture(reader: &ShardReader, image: ImageId) -> Result<String, DataError> {
    let record = reader.image_record(image)?;
    let bytes = reader.image(image)?;
    let name = escape(reader.image_name(image)?);
    let media = ImageFormat::of(bytes).map_or("application/octet-stream", ImageFormat::media_type);
    let tiny = record.width <= TINY;
    let width = if tiny { record.width.saturating_mul(4) } else { record.width.min(WIDEST) };
    let class = if tiny { " class=\"tiny\"" } else { "" };
    let data = base64(bytes);
    Ok(format!("<img{class} width=\"{width}\" src=\"data:{media};base64,{data}\" alt=\"{name}\" title=\"{name}\">"))
}

pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        assert!(cases.iter().all(|(plain, coded)| base64(plain.as_bytes()) == *coded));
    }

    #[test]
    fn nothing_escapes_the_text() {
        assert_eq!(escape("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }
}
