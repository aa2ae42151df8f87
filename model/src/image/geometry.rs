//! Bringing a picture of any shape to the square a vision tower expects.

use std::fmt;
use std::str::FromStr;

use image::{Rgb, RgbImage, imageops};

use super::decode::MAX_PIXELS;
use super::error::ImageError;

/// How the aspect ratio is dealt with (`image_aspect_ratio` in VILA's configuration).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeometryMode {
    /// Centre on a square canvas of the mean colour first: nothing is cut off or distorted.
    Pad,
    /// What the tower's own processor does: CLIP's resizes the shorter edge and cuts the centre, SigLIP's squashes.
    Square,
    /// Squash to a square first.
    Resize,
}

impl GeometryMode {
    /// The name used in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pad => "pad",
            Self::Square => "square",
            Self::Resize => "resize",
        }
    }
}

impl fmt::Display for GeometryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is none of `pad`, `square`, `resize`.
#[derive(Debug, thiserror::Error)]
#[error("image mode `{0}` is unknown; use pad, square or resize")]
pub struct UnknownMode(String);

impl FromStr for GeometryMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        [Self::Pad, Self::Square, Self::Resize]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// Whether every processor takes a picture of this size: the canvas of [`GeometryMode::Pad`] around it keeps within
/// [`MAX_PIXELS`], which that of a line of pixels does not. `name` appears in the error.
///
/// # Errors
/// [`ImageError::TooLarge`] with the size of the canvas.
pub fn check_size(width: u32, height: u32, name: &str) -> Result<(), ImageError> {
    let side = u64::from(width.max(height));
    if side * side > MAX_PIXELS {
        return Err(ImageError::TooLarge { name: name.to_owned(), width: side, height: side, limit: MAX_PIXELS });
    }
    Ok(())
}

/// Centres a picture on a square canvas of its longer side filled with `fill`; odd remainders go to the right and to
/// the bottom.
pub fn pad_to_square(picture: &RgbImage, fill: [u8; 3]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let side = width.max(height);
    let mut canvas = RgbImage::from_pixel(side, side, Rgb(fill));
    imageops::replace(&mut canvas, picture, i64::from((side - width) / 2), i64::from((side - height) / 2));
    canvas
}

/// Cuts the central `side` x `side` pixels; a picture that is smaller is surrounded with black.
pub fn centre_crop(picture: &RgbImage, side: u32) -> RgbImage {
    let mut square = RgbImage::new(side, side);
    let offset = |length: u32| {
        if length >= side { -i64::from((length - side) / 2) } else { i64::from((side - length).div_ceil(2)) }
    };
    imageops::replace(&mut square, picture, offset(picture.width()), offset(picture.height()));
    square
}

/// Size (width, height) after the shorter edge becomes `short`; the longer one is rounded down.
pub(super) fn shortest_edge_size((width, height): (u32, u32), short: u32) -> (u32, u32) {
    let longer = |long: u32, edge: u32| {
        let scaled = u64::from(short) * u64::from(long) / u64::from(edge.max(1));
        u32::try_from(scaled).unwrap_or(u32::MAX)
    };
    if width <= height { (short, longer(height, width)) } else { (longer(width, height), short) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_specification() {
        assert_eq!(shortest_edge_size((640, 480), 336), (448, 336));
        assert_eq!(shortest_edge_size((641, 480), 336), (448, 336));
        assert_eq!(shortest_edge_size((480, 640), 336), (336, 448));
    }

    #[test]
    fn padding_puts_odd_remainders_last() {
        let picture = RgbImage::from_pixel(480, 641, Rgb([1, 2, 3]));
        let padded = pad_to_square(&picture, [9, 9, 9]);
        assert_eq!(padded.dimensions(), (641, 641));
        assert_eq!(padded.get_pixel(79, 0).0, [9, 9, 9]);
        assert_eq!(padded.get_pixel(80, 0).0, [1, 2, 3]);
        assert_eq!(padded.get_pixel(559, 640).0, [1, 2, 3]);
        assert_eq!(padded.get_pixel(560, 640).0, [9, 9, 9]);
    }

    #[test]
    fn a_crop_larger_than_the_picture_is_black_around_it() {
        let picture = RgbImage::from_pixel(5, 10, Rgb([7, 7, 7]));
        let cropped = centre_crop(&picture, 8);
        let ink: Vec<u32> = (0..8).filter(|&x| cropped.get_pixel(x, 4).0 == [7, 7, 7]).collect();
        assert_eq!(ink, [2, 3, 4, 5, 6]);
        assert!((0..8).all(|y| cropped.get_pixel(3, y).0 == [7, 7, 7]));
    }

    #[test]
    fn modes_have_names() {
        assert_eq!("pad".parse::<GeometryMode>().ok(), Some(GeometryMode::Pad));
        assert!("stretch".parse::<GeometryMode>().is_err_and(|error| error.to_string().contains("stretch")));
    }
}
