//! Curves: values over steps, smoothed, and thinned for drawing.

use super::read::{Row, Run};

/// A curve has at most this many points.
pub(super) const MOST: usize = 1000;

/// What is not below this is a broken value that no axis should follow.
const LARGEST: f64 = 1e30;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub x: f64,
    pub y: f64,
    /// Curves are not joined from part to part: a stage's losses are not those of the stage before.
    pub part: usize,
}

/// The usable values of a run; parts are its stages.
pub(super) fn points(run: &Run, value: impl Fn(&Row) -> Option<f64>) -> Vec<Point> {
    weighted(run, |row| Some((value(row)?, 1.0))).into_iter().map(|(point, _)| point).collect()
}

/// The usable values of a run with their weights.
pub(super) fn weighted(run: &Run, value: impl Fn(&Row) -> Option<(f64, f64)>) -> Vec<(Point, f64)> {
    let mut all = Vec::new();
    for (part, stage) in run.stages.iter().enumerate() {
        for row in run.rows.get(stage.rows.clone()).into_iter().flatten() {
            if let Some((y, weight)) = value(row).filter(|(y, _)| y.abs() < LARGEST) {
                all.push((Point { x: row.step.global_step as f64, y, part }, weight));
            }
        }
    }
    all
}

/// Steps that a moving average of a run looks back on.
pub(super) fn span(run: &Run) -> u64 {
    (run.rows.len() as u64 / 40).clamp(5, 200)
}

/// Exponential moving averages of weighted values; they begin anew with each part, without bias to their first value.
pub(super) fn smooth(points: &[(Point, f64)], span: u64) -> Vec<Point> {
    let decay = 1.0 - 2.0 / (span as f64 + 1.0);
    let (mut sum, mut weights, mut part) = (0.0, 0.0, None);
    let mut average = |&(point, weight): &(Point, f64)| {
        if part != Some(point.part) {
            (sum, weights, part) = (0.0, 0.0, Some(point.part));
        }
        sum = decay * sum + weight * point.y;
        weights = decay * weights + weight;
        (weights > 0.0).then(|| Point { y: sum / weights, ..point })
    };
    points.iter().filter_map(&mut average).collect()
}

/// At most [`MOST`] of the points: the ends, and the least and the greatest of equal shares of the rest, so that no
/// spike is lost.
pub(super) fn thin(points: Vec<Point>) -> Vec<Point> {
    let (Some(first), Some(last), true) = (points.first(), points.last(), points.len() > MOST) else { return points };
    let inner = &points[1..points.len() - 1];
    let mut kept = vec![*first];
    for share in inner.chunks(inner.len().div_ceil(MOST / 2 - 1)) {
        let extreme = |sign: f64| (0..share.len()).max_by(|a, b| (sign * share[*a].y).total_cmp(&(sign * share[*b].y)));
        let (low, high) = (extreme(-1.0).unwrap_or(0), extreme(1.0).unwrap_or(0));
        kept.push(share[low.min(high)]);
        if low != high {
            kept.push(share[low.max(high)]);
        }
    }
    kept.push(*last);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(count: usize) -> Vec<Point> {
        (0..count).map(|x| Point { x: x as f64, y: (x as f64).sin(), part: 0 }).collect()
    }

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        for count in [0, 1, 2, 999, 1000, 1001, 1998, 1999, 123_457] {
            let mut points = line(count);
            if let Some(point) = points.get_mut(count / 3) {
                point.y = 1e6;
            }
            let thinned = thin(points.clone());
            assert!(thinned.len() <= MOST && thinned.len() >= count.min(MOST / 2), "{count}: {}", thinned.len());
            assert_eq!((thinned.first(), thinned.last()), (points.first(), points.last()));
            assert!(thinned.is_sorted_by(|a, b| a.x < b.x) && (count == 0 || thinned.iter().any(|p| p.y == 1e6)));
        }
    }

    #[test]
    fn averages_begin_anew_and_weigh() {
        let point = |y: f64, part: usize, weight: f64| (Point { x: 0.0, y, part }, weight);
        // Span 3 halves the weight of the past at each step.
        let smoothed = smooth(&[point(4.0, 0, 1.0), point(1.0, 0, 1.0), point(9.0, 1, 0.0), point(7.0, 1, 5.0)], 3);
        assert_eq!(smoothed.iter().map(|p| (p.y, p.part)).collect::<Vec<_>>(), [(4.0, 0), (2.0, 0), (7.0, 1)]);
    }
}
