//! Plots as inline SVG: lines, histograms, bars, matrices.
//!
//! Owns axes, ticks and marks. Colours come from the page's style (light and dark), with fallbacks, so that a plot also
//! stands alone as a file (`standalone`). The same numbers give the same bytes; values that are not finite are left out.

use std::fmt::Write as _;

use crate::html::{Html, escape};
use crate::number::{self, short};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 280.0;
/// Colours of the series, repeated when there are more series.
const SERIES: [&str; 8] = ["#2f6690", "#b5651d", "#3f7d58", "#8b4a6b", "#6b6f2a", "#5b5ea6", "#a3302a", "#4d7c8a"];
const INK: &str = "fill:var(--ink,#1d2327)";
const SOFT: &str = "fill:var(--soft,#5a646c)";
const GRID: &str = "stroke:var(--line,#e2dfd8);stroke-width:1";

/// Title, labels and ranges of a plot's axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axes {
    /// What the plot shows; also read out by screen readers.
    pub title: String,
    /// Horizontal axis, with unit.
    pub x: String,
    /// Vertical axis, with unit.
    pub y: String,
    /// Range of the horizontal axis; from the data when absent.
    pub x_range: Option<(f64, f64)>,
    /// Range of the vertical axis; from the data (and zero) when absent.
    pub y_range: Option<(f64, f64)>,
}

impl Axes {
    /// Axes with ranges from the data.
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Self {
        Self { title: title.into(), x: x.into(), y: y.into(), x_range: None, y_range: None }
    }

    /// Both axes 0..=1: for precision and recall.
    pub fn unit(mut self) -> Self {
        self.x_range = Some((0.0, 1.0));
        self.y_range = Some((0.0, 1.0));
        self
    }
}

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points `(x, y)` in drawing order.
    pub points: Vec<(f64, f64)>,
    /// Line colour, RGB; from the palette when absent.
    pub color: Option<[u8; 3]>,
}

impl Series {
    /// A line in the palette's next colour.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, color: None }
    }
}

/// A line chart of one or more series.
pub fn lines(axes: &Axes, series: &[Series]) -> Html {
    let finite: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|s| s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect())
        .collect();
    let xs = axes.x_range.unwrap_or_else(|| span(finite.iter().flatten().map(|p| p.0)));
    let ys = axes.y_range.unwrap_or_else(|| {
        let (lo, hi) = span(finite.iter().flatten().map(|p| p.1));
        (lo.min(0.0), hi)
    });
    let mut legend: Vec<(String, String)> = Vec::new();
    let shown = |i: usize, s: &Series| s.color.map_or_else(|| palette(i), |[r, g, b]| format!("rgb({r},{g},{b})"));
    if series.len() > 1 {
        legend = series.iter().enumerate().map(|(i, s)| (s.name.clone(), shown(i, s))).collect();
    }
    let mut canvas = Canvas::new(axes, xs, ys, &legend, false);
    for (i, (s, points)) in series.iter().zip(&finite).enumerate() {
        let color = shown(i, s);
        let path: Vec<String> =
            points.iter().map(|&(x, y)| format!("{},{}", px(canvas.x(x)), px(canvas.y(y)))).collect();
        if let [one] = path.as_slice() {
            let (x, y) = one.split_once(',').expect("written with a comma");
            let _ = write!(canvas.svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" style=\"fill:{color}\"/>");
        } else if !path.is_empty() {
            let _ = write!(
                canvas.svg,
                "<polyline points=\"{}\" style=\"fill:none;stroke:{color};stroke-width:2;stroke-linejoin:round\"/>",
                path.join(" ")
            );
        }
    }
    let desc = series.iter().zip(&finite).map(|(s, p)| match p.last() {
        Some(last) => format!("{}: {} points, last {} at {}.", s.name, p.len(), short(last.1), short(last.0)),
        None => format!("{}: no points.", s.name),
    });
    canvas.finish(&axes.title, &desc.collect::<Vec<_>>().join(" "))
}

/// A bin of a histogram: from, to, count.
pub type Bin = (f64, f64, usize);

/// A histogram; `mark` is a vertical line with a name (a threshold).
pub fn histogram(axes: &Axes, bins: &[Bin], mark: Option<(f64, &str)>) -> Html {
    let xs = axes.x_range.unwrap_or_else(|| span(bins.iter().flat_map(|b| [b.0, b.1])));
    let top = bins.iter().map(|b| b.2).max().unwrap_or(0).max(1);
    let ys = axes.y_range.unwrap_or((0.0, top as f64));
    let mut canvas = Canvas::new(axes, xs, ys, &[], true);
    for &(lo, hi, n) in bins.iter().filter(|b| b.2 > 0 && b.0.is_finite() && b.1.is_finite()) {
        let (x0, x1, y) = (canvas.x(lo), canvas.x(hi), canvas.y(n as f64));
        let _ = write!(
            canvas.svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill:{}\"><title>{} to {}: {}</title></rect>",
            px(x0 + 0.5),
            px(y),
            px((x1 - x0 - 1.0).max(0.5)),
            px(canvas.bottom() - y),
            palette(0),
            short(lo),
            short(hi),
            number::count(n)
        );
    }
    if let Some((at, name)) = mark.filter(|m| m.0.is_finite()) {
        let x = canvas.x(at);
        let anchor = if x > WIDTH * 0.7 { "end" } else { "start" };
        let shift = if anchor == "end" { -5.0 } else { 5.0 };
        let _ = write!(
            canvas.svg,
            "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" style=\"stroke:var(--c7,#a3302a);stroke-width:1.5;stroke-dasharray:4 3\"/>\
             <text x=\"{3}\" y=\"{4}\" font-size=\"12\" text-anchor=\"{anchor}\" style=\"fill:var(--c7,#a3302a)\">{5}</text>",
            px(x),
            px(canvas.top),
            px(canvas.bottom()),
            px(x + shift),
            px(canvas.top + 11.0),
            escape(name)
        );
    }
    let total: usize = bins.iter().map(|b| b.2).sum();
    canvas.finish(&axes.title, &format!("{} values in {} bins.", number::count(total), bins.len()))
}

/// A horizontal bar: label, value, colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Label at the left.
    pub label: String,
    /// Length.
    pub value: f64,
    /// Fill, RGB; from the palette when absent.
    pub color: Option<[u8; 3]>,
}

/// Horizontal bars, one below the other, each with its value.
pub fn bars(title: &str, items: &[Bar]) -> Html {
    const ROW: f64 = 22.0;
    let label_width = 18.0 + 7.0 * items.iter().map(|b| b.label.chars().count().min(28)).max().unwrap_or(0) as f64;
    let max = items.iter().map(|b| b.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let room = WIDTH - label_width - 70.0;
    let mut svg = String::new();
    if !title.is_empty() {
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"14\" font-size=\"14\" font-weight=\"600\" style=\"{INK}\">{}</text>",
            escape(title)
        );
    }
    let top = if title.is_empty() { 0.0 } else { 26.0 };
    for (i, bar) in items.iter().enumerate() {
        let y = top + i as f64 * ROW;
        let length = if max > 0.0 && bar.value.is_finite() { bar.value.max(0.0) / max * room } else { 0.0 };
        let color = bar.color.map_or_else(|| palette(0), |[r, g, b]| format!("rgb({r},{g},{b})"));
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"13\" text-anchor=\"end\" style=\"{INK}\">{}</text>\
             <rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"14\" rx=\"1.5\" style=\"fill:{color}\"/>\
             <text x=\"{}\" y=\"{}\" font-size=\"12\" style=\"{SOFT}\">{}</text>",
            px(label_width - 10.0),
            px(y + 15.0),
            escape(&clip(&bar.label, 28)),
            px(label_width),
            px(y + 4.0),
            px(length.max(1.0)),
            px(label_width + length + 7.0),
            px(y + 15.0),
            short(bar.value)
        );
    }
    let desc: Vec<String> = items.iter().map(|b| format!("{} {}", b.label, short(b.value))).collect();
    wrap(&svg, WIDTH, top + items.len() as f64 * ROW + 6.0, title, &desc.join(", "))
}

/// A matrix of values as a heat map (confusion). `values[row][column]`; zero cells stay blank.
pub fn matrix(
    title: &str,
    row_axis: &str,
    column_axis: &str,
    rows: &[String],
    columns: &[String],
    values: &[Vec<f64>],
) -> Html {
    let longest = |names: &[String]| names.iter().map(|n| n.chars().count().min(24)).max().unwrap_or(0) as f64;
    let cell = (600.0 / columns.len().max(1) as f64).clamp(18.0, 38.0);
    let (left, top) = (34.0 + 6.6 * longest(rows), 46.0 + 5.2 * longest(columns));
    let max = values.iter().flatten().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"14\" font-size=\"14\" font-weight=\"600\" style=\"{INK}\">{}</text>\
         <text x=\"{}\" y=\"30\" font-size=\"12\" style=\"{SOFT}\">{} →</text>\
         <text transform=\"translate(12,{}) rotate(-90)\" font-size=\"12\" text-anchor=\"end\" style=\"{SOFT}\">← {}</text>",
        escape(title),
        px(left),
        escape(column_axis),
        px(top),
        escape(row_axis)
    );
    for (c, name) in columns.iter().enumerate() {
        let _ = write!(
            svg,
            "<text transform=\"translate({},{}) rotate(-50)\" font-size=\"12\" style=\"{INK}\">{}</text>",
            px(left + (c as f64 + 0.6) * cell),
            px(top - 6.0),
            escape(&clip(name, 24))
        );
    }
    for (r, name) in rows.iter().enumerate() {
        let y = top + r as f64 * cell;
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"12\" text-anchor=\"end\" style=\"{INK}\">{}</text>",
            px(left - 8.0),
            px(y + cell / 2.0 + 4.0),
            escape(&clip(name, 24))
        );
        for (c, column) in columns.iter().enumerate() {
            let value = values.get(r).and_then(|row| row.get(c)).copied().filter(|v| v.is_finite()).unwrap_or(0.0);
            let share = if max > 0.0 { (value / max).clamp(0.0, 1.0) } else { 0.0 };
            let x = left + c as f64 * cell;
            let alpha = if value > 0.0 { 0.08 + 0.84 * share } else { 0.0 };
            let _ = write!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" style=\"fill:rgba(var(--heat,47,102,144),{});{GRID}\">\
                 <title>{} / {}: {}</title></rect>",
                px(x),
                px(y),
                number::fixed(alpha, 3),
                escape(name),
                escape(column),
                short(value),
                side = px(cell)
            );
            if value > 0.0 && cell >= 20.0 {
                let ink = if share > 0.55 { "fill:var(--panel,#ffffff)" } else { INK };
                let _ = write!(
                    svg,
                    "<text x=\"{}\" y=\"{}\" font-size=\"11\" text-anchor=\"middle\" style=\"{ink};pointer-events:none\">{}</text>",
                    px(x + cell / 2.0),
                    px(y + cell / 2.0 + 4.0),
                    short(value)
                );
            }
        }
    }
    let width = (left + columns.len() as f64 * cell + 60.0).max(WIDTH);
    let desc = format!("{} rows ({row_axis}), {} columns ({column_axis}).", rows.len(), columns.len());
    wrap(&svg, width, top + rows.len() as f64 * cell + 8.0, title, &desc)
}

/// A plot as an SVG file of its own.
pub fn standalone(plot: &Html) -> String {
    plot.as_str().replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" ", 1)
}

/// Ticks at round numbers (1, 2, 5 times a power of ten), at most `most` steps, inside `lo..=hi`.
pub fn ticks(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    let span = hi - lo;
    if !span.is_finite() || span <= 0.0 || most == 0 {
        return vec![lo];
    }
    let raw = span / most as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * (1.0 - 1e-9)).unwrap_or(raw);
    let (first, last) = ((lo / step - 1e-9).ceil() as i64, (hi / step + 1e-9).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

/// Drawing area with axes.
struct Canvas {
    svg: String,
    left: f64,
    top: f64,
    xs: (f64, f64),
    ys: (f64, f64),
}

impl Canvas {
    /// `counts`: the vertical axis counts things, so its ticks are whole numbers.
    fn new(axes: &Axes, xs: (f64, f64), ys: (f64, f64), legend: &[(String, String)], counts: bool) -> Self {
        let (xs, ys) = (widened(xs), widened(ys));
        let mut y_ticks = ticks(ys.0, ys.1, 5);
        if counts {
            y_ticks.retain(|t| t.fract() == 0.0);
        }
        let longest = y_ticks.iter().map(|t| tick(*t).chars().count()).max().unwrap_or(1) as f64;
        let mut svg = String::new();
        let mut top = 30.0;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"14\" font-size=\"14\" font-weight=\"600\" style=\"{INK}\">{}</text>",
            escape(&axes.title)
        );
        let mut x = 0.0;
        for (i, (name, color)) in legend.iter().enumerate() {
            let name = clip(name, 26);
            let width = 28.0 + 6.8 * name.chars().count() as f64;
            if i == 0 || x + width > WIDTH {
                x = 0.0;
                top += 18.0;
            }
            let y = top - 22.0;
            let _ = write!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"3\" style=\"fill:{color}\"/>\
                 <text x=\"{}\" y=\"{}\" font-size=\"12\" style=\"{SOFT}\">{}</text>",
                px(x),
                px(y),
                px(x + 17.0),
                px(y + 5.5),
                escape(&name)
            );
            x += width;
        }
        let mut canvas = Self { svg, left: 30.0 + 7.0 * longest, top, xs, ys };
        for t in y_ticks {
            let y = canvas.y(t);
            let _ = write!(
                canvas.svg,
                "<line x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" style=\"{GRID}\"/>\
                 <text x=\"{}\" y=\"{}\" font-size=\"12\" text-anchor=\"end\" style=\"{SOFT}\">{}</text>",
                px(canvas.left),
                px(WIDTH - 8.0),
                px(canvas.left - 6.0),
                px(y + 4.0),
                tick(t),
                y = px(y)
            );
        }
        for t in ticks(canvas.xs.0, canvas.xs.1, 7) {
            let x = px(canvas.x(t));
            let _ = write!(
                canvas.svg,
                "<text x=\"{x}\" y=\"{}\" font-size=\"12\" text-anchor=\"middle\" style=\"{SOFT}\">{}</text>",
                px(canvas.bottom() + 17.0),
                tick(t)
            );
        }
        let _ = write!(
            canvas.svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"12\" text-anchor=\"end\" style=\"{SOFT}\">{}</text>\
             <text transform=\"translate(11,{}) rotate(-90)\" font-size=\"12\" text-anchor=\"end\" style=\"{SOFT}\">{}</text>",
            px(WIDTH - 8.0),
            px(canvas.bottom() + 34.0),
            escape(&axes.x),
            px(canvas.top),
            escape(&axes.y)
        );
        canvas
    }

    fn bottom(&self) -> f64 {
        self.top + HEIGHT - 78.0
    }

    fn x(&self, v: f64) -> f64 {
        let share = ((v - self.xs.0) / (self.xs.1 - self.xs.0)).clamp(0.0, 1.0);
        self.left + share * (WIDTH - 8.0 - self.left)
    }

    fn y(&self, v: f64) -> f64 {
        let share = ((v - self.ys.0) / (self.ys.1 - self.ys.0)).clamp(0.0, 1.0);
        self.bottom() - share * (self.bottom() - self.top)
    }

    fn finish(self, title: &str, desc: &str) -> Html {
        let height = self.bottom() + 42.0;
        wrap(&self.svg, WIDTH, height, title, desc)
    }
}

fn wrap(svg: &str, width: f64, height: f64, title: &str, desc: &str) -> Html {
    Html::trusted(format!(
        "<svg class=\"plot\" viewBox=\"0 0 {} {}\" style=\"max-width:{}px\" role=\"img\" aria-label=\"{3}\"><title>{3}</title><desc>{4}</desc>{svg}</svg>",
        px(width),
        px(height),
        (width * 1.25).round(),
        escape(title),
        escape(desc)
    ))
}

fn palette(i: usize) -> String {
    let k = i % SERIES.len();
    format!("var(--c{},{})", k + 1, SERIES[k])
}

/// Coordinates with one decimal at most.
fn px(v: f64) -> String {
    let text = number::fixed(v, 1);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn tick(v: f64) -> String {
    short((v * 1e9).round() / 1e9)
}

fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

/// Smallest and largest; `(0, 1)` without values.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|v| v.is_finite())
        .fold(None, |s: Option<(f64, f64)>, v| Some(s.map_or((v, v), |(lo, hi)| (lo.min(v), hi.max(v)))))
        .unwrap_or((0.0, 1.0))
}

/// A range that is not empty, with a top that leaves the highest mark visible.
fn widened((lo, hi): (f64, f64)) -> (f64, f64) {
    if !lo.is_finite() || !hi.is_finite() {
        (0.0, 1.0)
    } else if hi > lo {
        (lo, hi)
    } else {
        (lo, lo + lo.abs().max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(0.0, 49.0, 5), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks(3.0, 3.0, 5), [3.0]);
        assert_eq!(tick(0.6000000000000001), "0.6");
    }

    #[test]
    fn names_are_escaped_and_plots_are_accessible() {
        let html = lines(
            &Axes::new("Loss <a> & \"b\"", "epoch", "loss"),
            &[Series::new("x<y", vec![(0.0, 1.0), (1.0, 0.5)]), Series::new("other", vec![(0.0, 2.0)])],
        );
        let svg = html.as_str();
        assert!(svg.contains("<title>Loss &lt;a&gt; &amp; &quot;b&quot;</title>") && svg.contains("role=\"img\""));
        assert!(svg.contains("x&lt;y") && !svg.contains("x<y") && svg.contains("<desc>"));
        assert!(!svg.contains("http"));
        assert!(standalone(&html).starts_with("<svg xmlns="));
    }

    #[test]
    fn empty_plots_are_plots() {
        for html in [
            lines(&Axes::new("t", "x", "y"), &[]),
            lines(&Axes::new("t", "x", "y"), &[Series::new("a", vec![])]),
            histogram(&Axes::new("t", "x", "y"), &[], None),
            bars("t", &[]),
            matrix("t", "truth", "found", &[], &[], &[]),
        ] {
            assert!(html.as_str().starts_with("<svg") && html.as_str().ends_with("</svg>"));
            assert!(!html.as_str().contains("NaN") && !html.as_str().contains("inf"));
        }
    }

    #[test]
    fn histogram_bars_have_the_right_height() {
        let html = histogram(&Axes::new("t", "x", "y"), &[(0.0, 0.5, 1), (0.5, 1.0, 2)], Some((0.4, "threshold")));
        let svg = html.as_str();
        // The drawing area is 202 high: the fuller bin takes all of it, the other one half.
        assert!(svg.contains("height=\"202\"") && svg.contains("height=\"101\""), "{svg}");
        assert!(svg.contains("threshold"));
    }

    proptest! {
        #[test]
        fn any_number_can_be_plotted(v in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 0..8)) {
            let html = lines(&Axes::new("t", "x", "y"), &[Series::new("a", v.clone())]);
            prop_assert!(!html.as_str().contains("NaN"));
            let cells: Vec<Vec<f64>> = v.iter().map(|p| vec![p.0, p.1]).collect();
            let names: Vec<String> = (0..cells.len()).map(|i| i.to_string()).collect();
            let html = matrix("t", "a", "b", &names, &["x".into(), "y".into()], &cells);
            prop_assert!(!html.as_str().contains("NaN"));
        }
    }
}
