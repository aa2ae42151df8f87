//! Varied views of a digit, and its enlargement to the size that is stored.

use super::digits::{TILE, Tile};
use super::rng::Rng;

/// Side of the stored images in pixels.
pub(super) const SIDE: usize = 16;

/// Points along one side of the grid of warp offsets.
const WARP: usize = 3;

/// Another view of a digit: moved, turned, sheared and bent in one resampling, then with other ink and some noise.
pub(super) fn augment(tile: &Tile, rng: &mut Rng) -> Tile {
    let map = Distortion::draw(rng);
    let ink = rng.uniform(0.8, 1.2);
    std::array::from_fn(|pixel| {
        let (x, y) = map.source(centre(pixel % TILE), centre(pixel / TILE));
        let value = f64::from(sample(tile, x, y)) * ink + 0.05 * rng.normal();
        value.clamp(0.0, 1.0) as f32
    })
}

/// The grey levels of a 16 x 16 image: the tile enlarged bilinearly, pixel centres on pixel centres, edges continued.
pub(super) fn enlarge(tile: &Tile) -> [u8; SIDE * SIDE] {
    let scale = TILE as f32 / SIDE as f32;
    let at = |x: usize, y: usize| tile[y * TILE + x];
    std::array::from_fn(|pixel| {
        let axis = |position: usize| {
            let source = ((position as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = source as usize;
            (low, (low + 1).min(TILE - 1), source - low as f32)
        };
        let ((left, right, u), (top, bottom, v)) = (axis(pixel % SIDE), axis(pixel / SIDE));
        let upper = at(left, top) * (1.0 - u) + at(right, top) * u;
        let lower = at(left, bottom) * (1.0 - u) + at(right, bottom) * u;
        ((upper * (1.0 - v) + lower * v) * 255.0).round() as u8
    })
}

/// Position of a pixel's centre, in half widths from the middle of the tile.
fn centre(index: usize) -> f64 {
    (2 * index + 1) as f64 / TILE as f64 - 1.0
}

/// Where each point of the new view comes from. Lengths are in half widths.
struct Distortion {
    matrix: [[f64; 2]; 2],
    shift: [f64; 2],
    warp: [[[f64; 2]; WARP]; WARP],
}

impl Distortion {
    fn draw(rng: &mut Rng) -> Self {
        let (sin, cos) = rng.uniform(-0.2, 0.2).sin_cos();
        let scale = rng.uniform(0.88, 1.12);
        let shear = rng.uniform(-0.2, 0.2);
        let shift = [rng.uniform(-0.22, 0.22), rng.uniform(-0.12, 0.12)];
        let mut warp = [[[0.0; 2]; WARP]; WARP];
        warp.iter_mut().flatten().flatten().for_each(|offset| *offset = 0.06 * rng.normal());
        let matrix = [[scale * cos, scale * (shear * cos - sin)], [scale * sin, scale * (shear * sin + cos)]];
        Self { matrix, shift, warp }
    }

    fn source(&self, x: f64, y: f64) -> (f64, f64) {
        let bend = self.bend(x, y);
        let coordinate =
            |axis: usize| self.matrix[axis][0] * x + self.matrix[axis][1] * y + self.shift[axis] + bend[axis];
        (coordinate(0), coordinate(1))
    }

    /// The warp grid, stretched over the tile, between its points.
    fn bend(&self, x: f64, y: f64) -> [f64; 2] {
        let axis = |position: f64| {
            let grid = (position + 1.0) / 2.0 * (WARP - 1) as f64;
            let low = (grid as usize).min(WARP - 2);
            (low, grid - low as f64)
        };
        let ((column, u), (row, v)) = (axis(x), axis(y));
        std::array::from_fn(|coordinate| {
            let at = |row: usize, column: usize| self.warp[row][column][coordinate];
            (at(row, column) * (1.0 - u) + at(row, column + 1) * u) * (1.0 - v)
                + (at(row + 1, column) * (1.0 - u) + at(row + 1, column + 1) * u) * v
        })
    }
}

/// Bilinear value at a point in half widths; outside the tile there is no ink.
fn sample(tile: &Tile, x: f64, y: f64) -> f32 {
    let pixel = |position: f64| (position + 1.0) / 2.0 * TILE as f64 - 0.5;
    let (x, y) = (pixel(x), pixel(y));
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = ((x - left) as f32, (y - top) as f32);
    let at = |x: f64, y: f64| {
        let inside = |position: f64| (0.0..TILE as f64).contains(&position);
        if inside(x) && inside(y) { tile[y as usize * TILE + x as usize] } else { 0.0 }
    };
    let upper = at(left, top) * (1.0 - u) + at(left + 1.0, top) * u;
    let lower = at(left, top + 1.0) * (1.0 - u) + at(left + 1.0, top + 1.0) * u;
    upper * (1.0 - v) + lower * v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enlargement_keeps_flat_areas_and_clamps_edges() {
        assert!(enlarge(&[1.0; TILE * TILE]).iter().all(|&level| level == 255));
        let mut ramp = [0.0; TILE * TILE];
        (0..TILE).for_each(|y| ramp[y * TILE + 1] = 1.0);
        let row: Vec<u8> = enlarge(&ramp)[..6].to_vec();
        assert_eq!(row, [0, 64, 191, 191, 64, 0]);
    }

    #[test]
    fn views_differ_but_keep_their_ink() {
        let tile: Tile = std::array::from_fn(|pixel| {
            f32::from((2..6).contains(&(pixel % TILE)) && (2..6).contains(&(pixel / TILE)))
        });
        let ink = |tile: &Tile| tile.iter().sum::<f32>();
        let mut total = 0.0;
        for index in 0..100 {
            let view = augment(&tile, &mut Rng::new(0, "augment", index));
            assert_ne!(view, tile);
            total += ink(&view);
        }
        let mean = total / 100.0 / ink(&tile);
        assert!((0.9..1.2).contains(&mean), "{mean}");
    }
}
