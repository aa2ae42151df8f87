//! JPEG through zune-jpeg in strict mode.

use image::RgbImage;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::decode::Decoding;
use super::error::ImageError;

/// Decodes baseline and progressive files with one, three or four components.
///
/// Four components are inverted CMYK (or YCCK), which is what Adobe writes and what Pillow assumes.
pub(super) fn decode(bytes: &[u8], decoding: Decoding<'_>) -> Result<RgbImage, ImageError> {
    let colour = if stores_rgb(bytes) { ColorSpace::YCbCr } else { ColorSpace::RGB };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(colour);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| decoding.corrupt(error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| decoding.corrupt("it has no frame header"))?;
    decoding.check_size(width as u64, height as u64)?;
    let pixels = decoder.decode().map_err(|error| decoding.corrupt(error))?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| decoding.corrupt("the decoded pixels do not fill its size"))
}

/// Does the file hold plain RGB? Without a JFIF or Adobe segment, libjpeg takes components called `R`, `G`, `B` at
/// their word.
///
/// Asking the decoder for the colour space it believes is stored makes it copy such components unchanged.
fn stores_rgb(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xFF, code, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest.get(4..(2 + length).max(4)).unwrap_or_default();
        match code {
            0xE0 if segment.starts_with(b"JFIF\0") => return false,
            0xEE if segment.starts_with(b"Adobe") => return false,
            0xC0..=0xC2 => return component_names(segment) == Some(*b"RGB"),
            0xDA => return false,
            _ => rest = rest.get(2 + length.max(2)..).unwrap_or_default(),
        }
    }
    false
}

fn component_names(frame: &[u8]) -> Option<[u8; 3]> {
    match *frame {
        [_, _, _, _, _, 3, r, _, _, g, _, _, b, ..] => Some([r, g, b]),
        _ => None,
    }
}
