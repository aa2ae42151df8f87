//! The first frame of a GIF on its screen, as Pillow places it.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::{Rgb, RgbImage};

use super::decode::Decoding;
use super::error::ImageError;

/// Decodes the first frame. A frame smaller than the screen lies at its offset on the transparent color, or on the first
/// color of its palette; the screen grows with a frame that leaves it.
pub(super) fn decode(bytes: &[u8], decoding: Decoding<'_>) -> Result<RgbImage, ImageError> {
    let frame = Frame::first(bytes).ok_or_else(|| decoding.corrupt("it has no frame"))?;
    let mut whole = bytes.to_vec();
    let (width, height) = (frame.screen.0.max(frame.right()), frame.screen.1.max(frame.bottom()));
    decoding.check_size(width.into(), height.into())?;
    if let (Ok(width), Ok(height), Some(screen)) = (u16::try_from(width), u16::try_from(height), whole.get_mut(6..10)) {
        screen[..2].copy_from_slice(&width.to_le_bytes());
        screen[2..].copy_from_slice(&height.to_le_bytes());
    }
    let mut picture = decoding.through(GifDecoder::new(Cursor::new(whole)))?;
    let inside = |x: u32, y: u32| (frame.left..frame.right()).contains(&x) && (frame.top..frame.bottom()).contains(&y);
    for (_, _, pixel) in picture.enumerate_pixels_mut().filter(|(x, y, _)| !inside(*x, *y)) {
        *pixel = frame.ground;
    }
    Ok(picture)
}

/// Where the first frame lies.
struct Frame {
    screen: (u32, u32),
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    /// The color around it.
    ground: Rgb<u8>,
}

impl Frame {
    fn right(&self) -> u32 {
        self.left + self.width
    }

    fn bottom(&self) -> u32 {
        self.top + self.height
    }

    /// Reads the blocks up to the first frame.
    fn first(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(13)?;
        let screen = (u16_at(head, 6)?, u16_at(head, 8)?);
        let global = palette(head[10], &mut rest)?;
        let mut transparent = 0;
        loop {
            let (kind, after) = rest.split_first()?;
            rest = after;
            match kind {
                0x2C => {
                    let (descriptor, after) = rest.split_at_checked(9)?;
                    rest = after;
                    let local = palette(descriptor[8], &mut rest)?;
                    let colors = if local.is_empty() { global } else { local };
                    let number = |at| u16_at(descriptor, at);
                    return Some(Frame {
                        screen,
                        left: number(0)?,
                        top: number(2)?,
                        width: number(4)?,
                        height: number(6)?,
                        ground: color(colors, transparent),
                    });
                }
                0x21 => {
                    let (label, after) = rest.split_first()?;
                    rest = after;
                    let mut block = sub_block(&mut rest)?;
                    if let (0xF9, [flags, _, _, index, ..]) = (label, block) {
                        transparent = if flags & 1 == 1 { *index } else { transparent };
                    }
                    while !block.is_empty() {
                        block = sub_block(&mut rest)?;
                    }
                }
                _ => return None,
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]).into())
}

/// The palette that follows if `flags` say so.
fn palette<'a>(flags: u8, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let (colors, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(colors)
}

/// The next block of an extension; an empty one is its end.
fn sub_block<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first()?;
    let (block, after) = after.split_at_checked(usize::from(*length))?;
    *rest = after;
    Some(block)
}

/// A color of a palette; without one, colors are levels of gray.
fn color(palette: &[u8], index: u8) -> Rgb<u8> {
    match palette.get(3 * usize::from(index)..).and_then(<[u8]>::first_chunk) {
        Some(color) => Rgb(*color),
        None if palette.is_empty() => Rgb([index; 3]),
        None => Rgb([0; 3]),
    }
}
