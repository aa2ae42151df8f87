//! Pillow's bicubic resampling of 8-bit RGB, bit for bit.
//!
//! A separable convolution with antialiasing: the kernel (a = -0.5) is stretched by the reduction factor, its weights
//! are rounded to 22 fractional bits, the horizontal pass runs first, and its result is rounded to 8 bits before the
//! vertical pass. A pass whose size does not change is a copy.

use image::RgbImage;

const FRACTION_BITS: u32 = 22;
const HALF: i32 = 1 << (FRACTION_BITS - 1);
const SUPPORT: f64 = 2.0;
const CHANNELS: usize = 3;

/// The part of a resized image that is wanted, in pixels of the resized image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Number of columns.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
}

/// Resizes to `width` x `height` pixels. Both must be at least 1.
pub fn resize_bicubic(source: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize_bicubic_window(source, (width, height), Window { x: 0, y: 0, width, height })
}

/// The `window` of what [`resize_bicubic`] to `size` (width, height) would give, without computing the rest.
///
/// This bounds the work on extreme shapes: a 1 x 60,000 picture cropped to a square never becomes millions of pixels
/// wide. The window is clamped to the resized image; an empty source or window gives an empty image.
pub fn resize_bicubic_window(source: &RgbImage, size: (u32, u32), window: Window) -> RgbImage {
    let window = clamp(window, size);
    if source.width() == 0 || source.height() == 0 || window.width == 0 || window.height == 0 {
        return RgbImage::new(window.width, window.height);
    }
    let rows = Taps::new(source.height(), size.1, window.y, window.height);
    let (first_row, row_count) = rows.source_span();
    let columns = Taps::new(source.width(), size.0, window.x, window.width);
    let wide = horizontal(source, &columns, first_row, row_count);
    let pixels = vertical(&wide, window.width as usize * CHANNELS, &rows, first_row);
    RgbImage::from_raw(window.width, window.height, pixels).unwrap_or_default()
}

fn clamp(window: Window, (width, height): (u32, u32)) -> Window {
    let (x, y) = (window.x.min(width), window.y.min(height));
    Window { x, y, width: window.width.min(width - x), height: window.height.min(height - y) }
}

/// For each wanted position of one axis: which source positions it reads, and with what fixed-point weights.
struct Taps {
    starts: Vec<usize>,
    counts: Vec<usize>,
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    fn new(source: u32, target: u32, first: u32, wanted: u32) -> Self {
        if source == target {
            return Self::copying(first as usize, wanted as usize);
        }
        let scale = f64::from(source) / f64::from(target);
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::with_capacity(wanted as usize),
            counts: Vec::with_capacity(wanted as usize),
            weights: vec![0; stride * wanted as usize],
            stride,
        };
        let mut exact = vec![0.0; stride];
        for (index, fixed) in taps.weights.chunks_exact_mut(stride).enumerate() {
            let centre = (f64::from(first) + index as f64 + 0.5) * scale;
            // Truncation towards zero of a value that may be negative, then clamped: what a C cast does in the
            // original.
            let start = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(i64::from(source));
            let count = (end - start).max(0) as usize;
            let mut total = 0.0;
            for (k, weight) in exact.iter_mut().take(count).enumerate() {
                *weight = bicubic((k as f64 + start as f64 - centre + 0.5) * (1.0 / stretch));
                total += *weight;
            }
            for (fixed, weight) in fixed.iter_mut().zip(&exact).take(count) {
                *fixed = to_fixed(if total == 0.0 { *weight } else { *weight / total });
            }
            taps.starts.push(start as usize);
            taps.counts.push(count);
        }
        taps
    }

    /// The axis keeps its size: every position reads itself.
    fn copying(first: usize, wanted: usize) -> Self {
        Self {
            starts: (first..first + wanted).collect(),
            counts: vec![1; wanted],
            weights: vec![1 << FRACTION_BITS; wanted],
            stride: 1,
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.starts.iter().zip(&self.counts).zip(weights).map(|((&start, &count), weights)| (start, &weights[..count]))
    }

    /// First source position read by any tap, and how many from there on.
    fn source_span(&self) -> (usize, usize) {
        let first = self.starts.first().copied().unwrap_or(0);
        let end = self.starts.iter().zip(&self.counts).map(|(start, count)| start + count).max().unwrap_or(0);
        (first, end.saturating_sub(first))
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << FRACTION_BITS);
    if weight < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Rows `first_row ..` of the source, `row_count` of them, with the columns resampled.
fn horizontal(source: &RgbImage, columns: &Taps, first_row: usize, row_count: usize) -> Vec<u8> {
    let source_stride = source.width() as usize * CHANNELS;
    let target_stride = columns.starts.len() * CHANNELS;
    let rows = &source.as_raw()[first_row * source_stride..(first_row + row_count) * source_stride];
    let mut target = vec![0; row_count * target_stride];
    for (from, to) in rows.chunks_exact(source_stride).zip(target.chunks_exact_mut(target_stride)) {
        for ((start, weights), pixel) in columns.iter().zip(to.chunks_exact_mut(CHANNELS)) {
            let mut sums = [HALF; CHANNELS];
            for (sample, &weight) in from[start * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(sample) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = to_byte(sum);
            }
        }
    }
    target
}

/// Rows of the target from `rows` of `wide`, whose row 0 is row `first_row` of the source. `stride` is a row's length
/// in bytes.
fn vertical(wide: &[u8], stride: usize, rows: &Taps, first_row: usize) -> Vec<u8> {
    let mut target = vec![0; rows.starts.len() * stride];
    let mut sums = vec![0i32; stride];
    for ((start, weights), to) in rows.iter().zip(target.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        let from = &wide[(start - first_row) * stride..];
        for (row, &weight) in from.chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in to.iter_mut().zip(&sums) {
            *value = to_byte(sum);
        }
    }
    target
}
