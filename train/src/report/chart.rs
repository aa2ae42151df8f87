//! Curves as SVG: axes with ticks, stage boundaries, marks.

use super::format::compact;
use super::series::{Point, thin};
use crate::data::cli::escape;

/// How values become heights.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    FromZero,
    Percent,
    Log,
}

/// How a curve looks.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Look {
    Faint,
    Line,
    Dots,
    /// Filled down to the curve of the next series; values are sums from the bottom.
    Stack,
}

pub(crate) struct Series {
    pub name: String,
    pub points: Vec<Point>,
    pub look: Look,
    /// Index of its colour.
    pub color: usize,
}

/// Where a stage begins, and its name.
pub(crate) struct Begin {
    pub step: f64,
    pub name: String,
}

pub(crate) struct Chart {
    /// What the horizontal axis counts.
    pub over: &'static str,
    pub unit: String,
    pub scale: Scale,
    pub series: Vec<Series>,
    /// Steps to be marked above the curves.
    pub marks: Vec<f64>,
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 34.0;
const PLOT_WIDTH: f64 = WIDTH - LEFT - 10.0;
const PLOT_HEIGHT: f64 = HEIGHT - TOP - 32.0;
/// About the width of a letter of a stage's name.
const LETTER: f64 = 5.8;
/// More dots than this would hide their curve.
const MOST_DOTS: usize = 100;
/// Colours of the style sheet; further curves repeat them dashed.
pub(crate) const COLORS: usize = 8;

/// A range of values and where each lies in it.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// The steps of a run.
    fn steps(first: f64, last: f64) -> Self {
        let (low, high) = if first < last { (first, last) } else { (first - 1.0, first + 1.0) };
        let step = nice((high - low) / 6.0).max(1.0);
        Axis { low, high, log: false, ticks: multiples(low, high, step) }
    }

    fn values(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let (mut low, mut high) = (least(&mut values.clone()), values.clone().fold(f64::NEG_INFINITY, f64::max));
        match scale {
            Scale::Percent => return Axis { low: 0.0, high: 100.0, log: false, ticks: multiples(0.0, 100.0, 25.0) },
            // What is far below the rest must not squeeze it.
            Scale::Log if high > 0.0 => {
                let positive = least(&mut values.filter(|value| *value > 0.0)).max(high * 1e-4);
                return Axis::decades(positive, high);
            }
            Scale::FromZero => low = low.min(0.0),
            _ => {}
        }
        if low >= high {
            let margin = if high == 0.0 { 1.0 } else { high.abs() / 2.0 };
            (low, high) = (if scale == Scale::FromZero { 0.0 } else { low - margin }, high + margin);
        }
        let step = nice((high - low) / 5.0);
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Axis { low, high, log: false, ticks: multiples(low, high, step) }
    }

    fn decades(low: f64, high: f64) -> Self {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let (first, last) = if first < last { (first, last) } else { (first - 1, last + 1) };
        let factors: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ticks = (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        let (low, high) = (10f64.powi(first), 10f64.powi(last));
        Axis { low, high, log: true, ticks: ticks.filter(|tick| *tick <= high * 1.001).collect() }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let map = |value: f64| if self.log { value.max(self.low).ln() } else { value };
        ((map(value) - map(self.low)) / (map(self.high) - map(self.low))).clamp(0.0, 1.0)
    }

    fn label(&self, tick: f64) -> String {
        let step = self.ticks.get(1).map_or(1.0, |second| second - self.ticks[0]);
        let digits = if self.log { 1.0 } else { (self.high.abs().max(self.low.abs()) / step).log10().floor() + 2.0 };
        compact(tick, digits.clamp(1.0, 9.0) as usize)
    }

    fn data(&self) -> String {
        format!("{} {}", self.low, self.high)
    }
}

/// The next greater of 1, 2 and 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|nice| *nice >= step * 0.999).unwrap_or(step)
}

/// Multiples of a step from `low` to `high`.
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-6).ceil();
    let count = ((high / step + 1e-6).floor() - first).clamp(0.0, 20.0) as usize;
    (0..=count).map(|index| (first + index as f64) * step).collect()
}

impl Chart {
    /// The chart over the steps `first..=last`, in which stages begin as given.
    pub fn svg(&self, title: &str, (first, last): (f64, f64), begins: &[Begin]) -> String {
        let x = Axis::steps(first, last);
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.y));
        let y = Axis::values(self.scale, values);
        let mut svg = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}, {}\" \
             data-plot=\"{LEFT} {TOP} {PLOT_WIDTH} {PLOT_HEIGHT}\" data-over=\"{}\" data-x=\"{}\" data-y=\"{}\"{}>\n",
            escape(&self.unit),
            self.over,
            x.data(),
            y.data(),
            if y.log { " data-log" } else { "" }
        );
        svg += &axes(&x, &y, self.over, &self.unit);
        svg += &boundaries(&x, begins);
        self.series.iter().for_each(|series| svg += &curve(&x, &y, series));
        for mark in &self.marks {
            let at = LEFT + x.place(*mark) * PLOT_WIDTH;
            svg += &format!("<path class=\"mark\" d=\"M{at:.1} {:.1}l-3.5 -6h7z\"/>\n", TOP + 6.0);
        }
        svg + "</svg>\n"
    }
}

impl Chart {
    /// [`Chart::svg`] as a file of its own.
    pub fn standalone(&self, title: &str, range: (f64, f64)) -> String {
        let svg = self.svg(title, range, &[]);
        let frame = format!("{WIDTH} {}\"", HEIGHT + 14.0 * self.named().count() as f64);
        let style = include_str!("style.css");
        let head = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" ", 2.0 * WIDTH);
        svg.replacen("<svg ", &head, 1).replacen(&format!("{WIDTH} {HEIGHT}\""), &frame, 1).replacen(
            ">\n",
            &format!(">\n<style>{style}</style>\n{}", self.legend()),
            1,
        )
    }

    fn named(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| series.look != Look::Faint)
    }

    /// Names of the curves below the plot, for a file without a page around it.
    fn legend(&self) -> String {
        let line = |(index, series): (usize, &Series)| {
            let (x, y, name) = (LEFT, HEIGHT + 4.0 + 14.0 * index as f64, escape(&series.name));
            format!(
                "<g class=\"{}\"><path class=\"curve\" d=\"M{x} {y}h14\"/></g><text x=\"{}\" y=\"{}\">{name}</text>\n",
                color(series),
                x + 18.0,
                y + 3.5
            )
        };
        self.named().enumerate().map(line).collect()
    }
}

fn axes(x: &Axis, y: &Axis, over: &str, unit: &str) -> String {
    let (bottom, right) = (TOP + PLOT_HEIGHT, LEFT + PLOT_WIDTH);
    let mut svg = String::from("<g class=\"axes\">\n");
    for tick in &y.ticks {
        let at = bottom - y.place(*tick) * PLOT_HEIGHT;
        svg += &format!("<path d=\"M{LEFT} {at:.1}H{right}\"/>");
        svg += &format!("<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>\n", LEFT - 6.0, at + 3.5, y.label(*tick));
    }
    for tick in &x.ticks {
        let at = LEFT + x.place(*tick) * PLOT_WIDTH;
        svg += &format!("<path class=\"tick\" d=\"M{at:.1} {bottom}v4\"/>");
        svg += &format!("<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{}</text>\n", bottom + 15.0, x.label(*tick));
    }
    let (unit, end) = (escape(unit), bottom + 28.0);
    svg + &format!(
        "<text x=\"2\" y=\"11\">{unit}</text><text class=\"y\" x=\"{right}\" y=\"{end}\">{over}</text>\n</g>\n"
    )
}

/// A line where a stage begins and, where there is room, its name.
fn boundaries(x: &Axis, begins: &[Begin]) -> String {
    let mut svg = String::from("<g class=\"stages\">\n");
    for (index, begin) in begins.iter().enumerate() {
        let at = LEFT + x.place(begin.step) * PLOT_WIDTH;
        let end = begins.get(index + 1).map_or(1.0, |next| x.place(next.step)) * PLOT_WIDTH + LEFT;
        if index > 0 {
            svg += &format!("<path d=\"M{at:.1} {}V{:.1}\"/>", TOP - 12.0, TOP + PLOT_HEIGHT);
        }
        let name = shortened(&begin.name, ((end - at - 6.0) / LETTER) as usize);
        svg += &format!("<text x=\"{:.1}\" y=\"{}\">{}</text>\n", at + 4.0, TOP - 4.0, escape(&name));
    }
    svg + "</g>\n"
}

fn shortened(name: &str, letters: usize) -> String {
    match letters {
        _ if name.chars().count() <= letters => name.to_string(),
        0..3 => String::new(),
        _ => name.chars().take(letters - 1).chain(['…']).collect(),
    }
}

fn curve(x: &Axis, y: &Axis, series: &Series) -> String {
    let (mut path, mut part) = (String::new(), None);
    let points = if series.look == Look::Stack { series.points.clone() } else { thin(series.points.clone()) };
    for point in &points {
        let (at, height) = (LEFT + x.place(point.x) * PLOT_WIDTH, TOP + (1.0 - y.place(point.y)) * PLOT_HEIGHT);
        let command = if part == Some(point.part) { 'L' } else { 'M' };
        path += &format!("{command}{at:.1} {height:.2}");
        part = Some(point.part);
    }
    if let (Look::Stack, Some(first)) = (series.look, points.first()) {
        path += &format!("V{:.1}H{:.1}z", TOP + PLOT_HEIGHT, LEFT + x.place(first.x) * PLOT_WIDTH);
    }
    let (color, name) = (color(series), escape(&series.name));
    let kind = match series.look {
        Look::Faint => "faint",
        Look::Line | Look::Dots => "line",
        Look::Stack => "stack",
    };
    let mut svg = format!("<path class=\"curve {kind} {color}\" data-name=\"{name}\" d=\"{path}\"/>\n");
    if series.look == Look::Dots && points.len() <= MOST_DOTS {
        let dots: String = path.split(['M', 'L']).skip(1).map(|place| format!("M{place}h0")).collect();
        svg += &format!("<path class=\"dots {color}\" d=\"{dots}\"/>\n");
    }
    svg
}

/// The classes that say a series' colour.
pub(crate) fn color(series: &Series) -> String {
    let dash = if series.color >= COLORS { " dashed" } else { "" };
    format!("c{}{dash}", series.color % COLORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |axis: &Axis| axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>();
        let axis = |scale, values: &[f64]| Axis::values(scale, values.iter().copied());
        assert_eq!(labels(&axis(Scale::Linear, &[0.31, 1.17])), ["0.2", "0.4", "0.6", "0.8", "1", "1.2"]);
        assert_eq!(labels(&axis(Scale::FromZero, &[2e-5, 1e-4])), ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]);
        assert_eq!(labels(&axis(Scale::Log, &[0.0, 0.3, 900.0])), ["0.1", "1", "10", "100", "1000"]);
        assert_eq!(labels(&axis(Scale::Linear, &[3.0, 3.0])), ["1", "2", "3", "4", "5"]);
        assert_eq!(labels(&Axis::steps(1.0, 12_000.0)), ["2000", "4000", "6000", "8000", "10k", "12k"]);
        assert_eq!(labels(&Axis::steps(1.0, 1.0)), ["0", "1", "2"]);
        for values in [vec![], vec![0.0], vec![f64::MAX, f64::MIN], vec![1e-300], vec![-5.0]] {
            for scale in [Scale::Linear, Scale::FromZero, Scale::Log, Scale::Percent] {
                let axis = axis(scale, &values);
                assert!(values.iter().all(|value| (0.0..=1.0).contains(&axis.place(*value)) || value.abs() > 1e300));
            }
        }
    }

    #[test]
    fn names_fit() {
        assert_eq!([shortened("align", 5), shortened("pretrain", 5), shortened("sft", 2)], ["align", "pret…", ""]);
    }
}
