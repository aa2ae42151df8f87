//! Is a file whole? Each format says how long it is; decoders often do not mind when it is not.

use super::decode::ImageFormat;

/// Walks the outer structure of a file to its end mark. The error says what should have followed.
pub(super) fn check(format: ImageFormat, bytes: &[u8]) -> Result<(), &'static str> {
    match format {
        ImageFormat::Png => png(bytes),
        ImageFormat::Jpeg => jpeg(bytes),
        ImageFormat::Gif => gif(bytes),
        ImageFormat::WebP => webp(bytes),
    }
}

/// A reader that can only move forward and only within the file.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|head| head[0])
    }

    fn be16(&mut self) -> Option<usize> {
        self.take(2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
    }
}

fn png(bytes: &[u8]) -> Result<(), &'static str> {
    const MISSING: &str = "no IEND chunk";
    let mut walk = Walk { rest: bytes };
    walk.take(8).ok_or(MISSING)?;
    loop {
        let head = walk.take(8).ok_or(MISSING)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let _data_and_crc = walk.take(length.saturating_add(4)).ok_or(MISSING)?;
        if &head[4..] == b"IEND" {
            return Ok(());
        }
    }
}

fn webp(bytes: &[u8]) -> Result<(), &'static str> {
    const MISSING: &str = "less than its RIFF header announces";
    let size = bytes.get(4..8).ok_or(MISSING)?;
    let announced = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
    if bytes.len() - 8 < announced { Err(MISSING) } else { Ok(()) }
}

fn gif(bytes: &[u8]) -> Result<(), &'static str> {
    const MISSING: &str = "no trailer";
    let mut walk = Walk { rest: bytes };
    let screen = walk.take(13).ok_or(MISSING)?;
    skip_gif_palette(&mut walk, screen[10]).ok_or(MISSING)?;
    loop {
        match walk.byte().ok_or(MISSING)? {
            // An image: descriptor, optional palette, code size, data.
            0x2C => {
                let descriptor = walk.take(9).ok_or(MISSING)?;
                skip_gif_palette(&mut walk, descriptor[8]).ok_or(MISSING)?;
                walk.byte().ok_or(MISSING)?;
                skip_gif_blocks(&mut walk).ok_or(MISSING)?;
            }
            // An extension: label, data.
            0x21 => {
                walk.byte().ok_or(MISSING)?;
                skip_gif_blocks(&mut walk).ok_or(MISSING)?;
            }
            // The trailer, or something the decoder shall judge.
            _ => return Ok(()),
        }
    }
}

fn skip_gif_palette(walk: &mut Walk<'_>, flags: u8) -> Option<()> {
    if flags & 0x80 != 0 {
        walk.take(3 << ((flags & 7) + 1))?;
    }
    Some(())
}

fn skip_gif_blocks(walk: &mut Walk<'_>) -> Option<()> {
    loop {
        match walk.byte()? {
            0 => return Some(()),
            length => walk.take(usize::from(length))?,
        };
    }
}

fn jpeg(bytes: &[u8]) -> Result<(), &'static str> {
    const MISSING: &str = "no end-of-image marker";
    let mut walk = Walk { rest: bytes };
    walk.take(2).ok_or(MISSING)?;
    loop {
        match next_jpeg_marker(&mut walk).ok_or(MISSING)? {
            0xD9 => return Ok(()),
            // Markers that stand alone.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            _ => {
                let length = walk.be16().ok_or(MISSING)?;
                walk.take(length.saturating_sub(2)).ok_or(MISSING)?;
            }
        }
    }
}

/// Skips entropy-coded data, in which 0xFF is always followed by 0x00 or a restart marker, to the next marker.
fn next_jpeg_marker(walk: &mut Walk<'_>) -> Option<u8> {
    loop {
        let at = walk.rest.iter().position(|&byte| byte == 0xFF)?;
        walk.take(at + 1)?;
        let mut code = walk.byte()?;
        while code == 0xFF {
            code = walk.byte()?;
        }
        if !matches!(code, 0x00 | 0xD0..=0xD7) {
            return Some(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_inside_a_segment_does_not_end_a_jpeg() {
        let with_thumbnail = [0xFF, 0xD8, 0xFF, 0xE1, 0x00, 0x06, 0xFF, 0xD8, 0xFF, 0xD9];
        assert!(check(ImageFormat::Jpeg, &with_thumbnail).is_err());
        let ended = [&with_thumbnail[..], &[0xFF, 0xD9]].concat();
        assert!(check(ImageFormat::Jpeg, &ended).is_ok());
    }

    #[test]
    fn stuffed_bytes_and_restarts_do_not_end_a_jpeg() {
        let scan = [0xFF, 0xD8, 0xFF, 0xDA, 0x00, 0x02, 0x12, 0xFF, 0x00, 0xFF, 0xD3, 0x34, 0xFF, 0xFF];
        assert!(check(ImageFormat::Jpeg, &scan).is_err());
        assert!(check(ImageFormat::Jpeg, &[&scan[..], &[0xD9]].concat()).is_ok());
    }

    #[test]
    fn a_gif_needs_its_trailer() {
        let mut gif = b"GIF89a\x01\x00\x01\x00\x00\x00\x00".to_vec();
        gif.extend([0x21, 0xFE, 2, b'h', b'i', 0]);
        assert!(check(ImageFormat::Gif, &gif).is_err());
        gif.push(0x3B);
        assert!(check(ImageFormat::Gif, &gif).is_ok());
    }
}
