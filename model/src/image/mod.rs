//! From the bytes of an image file to the pixels a vision tower reads.
//!
//! The path is decode ([`decode`]) → geometry ([`GeometryMode`]) → normalise, and [`ImageProcessor`] walks it with
//! the numbers of a `preprocessor_config.json`. Every step reproduces what Pillow and the Hugging Face processors do,
//! because the public weights were trained on their output: the bicubic filter is Pillow's fixed-point one, bit for
//! bit.
//!
//! Decoding is strict. A file that ends early, lies about itself or is no image at all is an [`ImageError`] that
//! names it, never a picture with a grey lower half.

mod complete;
mod decode;
mod error;
mod geometry;
mod gif;
mod jpeg;
mod processor;
mod processor_config;
mod resample;

pub use ::image::RgbImage;
pub use decode::{ImageFormat, MAX_PIXELS, decode};
pub use error::{ImageError, ProcessorError};
pub use geometry::{GeometryMode, UnknownMode, centre_crop, check_size, pad_to_square};
pub use processor::{ChannelStats, ImageProcessor};
pub use resample::{Window, resize_bicubic, resize_bicubic_window};
