//! Pipes: orthogonal runs that meet, cross and end as on drawings.
//!
//! Owns their layout and drawing. Symbols that sit in a run cut a gap into it.

use datasets::BBox;

use crate::canvas::{Bounds, Point, grown, span};
use crate::draft::Draft;

/// A straight pipe.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// True for a horizontal one.
    pub horizontal: bool,
    /// Its fixed coordinate: y when horizontal, x when vertical.
    pub at: f64,
    /// Where it starts and ends on the other axis, low before high.
    pub ends: [f64; 2],
    /// Width in pixels.
    pub width: f64,
    /// Stretches that are not drawn.
    pub gaps: Vec<[f64; 2]>,
    /// True for an end that meets another pipe or a vessel.
    pub joined: [bool; 2],
}

impl Run {
    /// The point at `t` along the run.
    pub fn point(&self, t: f64) -> Point {
        if self.horizontal { [t, self.at] } else { [self.at, t] }
    }

    /// The box around its centre line.
    pub fn span(&self) -> Bounds {
        span(self.point(self.ends[0]), self.point(self.ends[1]))
    }

    /// Length in pixels.
    pub fn length(&self) -> f64 {
        self.ends[1] - self.ends[0]
    }
}

impl Draft<'_> {
    /// Lays `count` runs (fewer when the sheet is full), the first of them from the `nozzles` of vessels: a point and
    /// the direction away from the vessel.
    pub fn lay_pipes(&mut self, count: usize, nozzles: &[(Point, Point)]) {
        let (u, i) = (self.u, self.inner);
        for &([x, y], [dx, dy]) in nozzles {
            for _ in 0..12 {
                let length = self.between(3.0 * u, 14.0 * u) * (dx + dy);
                let horizontal = dx != 0.0;
                let from = if horizontal { x } else { y };
                let ends = [from.min(from + length), from.max(from + length)];
                let joined = [length > 0.0, length < 0.0];
                if self.try_run(horizontal, if horizontal { y } else { x }, ends, joined) {
                    break;
                }
            }
        }
        for _ in 0..count * 30 {
            if self.runs.len() >= count {
                break;
            }
            let horizontal = self.chance((i.width() / (i.width() + i.height())).clamp(0.35, 0.65));
            let (low, high, from, to) = if horizontal { (i.y0, i.y1, i.x0, i.x1) } else { (i.x0, i.x1, i.y0, i.y1) };
            let at = self.between(low + u, high - u);
            let length = self.between(4.0 * u, (to - from) * 0.95);
            let start = self.between(from, (to - length).max(from));
            self.try_run(horizontal, at, [start, (start + length).min(to)], [false; 2]);
        }
        self.join_ends();
    }

    fn try_run(&mut self, horizontal: bool, at: f64, ends: [f64; 2], joined: [bool; 2]) -> bool {
        let u = self.u;
        let width = if self.chance(0.6) { self.pen * 1.25 } else { self.pen * 0.8 };
        let run = Run { horizontal, at, ends, width, gaps: Vec::new(), joined };
        let place = run.span();
        let i = self.inner;
        let inside = place.x0 >= i.x0 && place.y0 >= i.y0 && place.x1 <= i.x1 && place.y1 <= i.y1;
        let too_near = |r: &Run| {
            r.horizontal == horizontal
                && (r.at - at).abs() < 1.7 * u
                && r.ends[0] < ends[1] + u
                && ends[0] < r.ends[1] + u
        };
        // The end at a vessel touches it, so that its first stretch is not looked at.
        let trim = |end: f64, joined: bool, by: f64| if joined { end + by } else { end };
        let open = [trim(ends[0], joined[0], 0.4 * u), trim(ends[1], joined[1], -0.4 * u)];
        let checked = grown(span(run.point(open[0]), run.point(open[1])), 0.3 * u);
        let blocked = self.solid.iter().any(|s| s.intersection(&checked).is_some());
        let fits = inside && run.length() >= 2.5 * u && !blocked && !self.runs.iter().any(too_near);
        if fits {
            self.runs.push(run);
        }
        fits
    }

    /// Lengthens open ends to a crossing pipe within reach.
    fn join_ends(&mut self) {
        let reach = 4.0 * self.u;
        for n in 0..self.runs.len() {
            for end in 0..2 {
                let run = self.runs[n].clone();
                if run.joined[end] {
                    continue;
                }
                let outward = if end == 0 { -1.0 } else { 1.0 };
                let mut best: Option<f64> = None;
                for other in self.runs.iter().filter(|o| o.horizontal != run.horizontal) {
                    let by = (other.at - run.ends[end]) * outward;
                    let meets = other.ends[0] <= run.at && run.at <= other.ends[1];
                    let near = best.is_none_or(|b| by < (b - run.ends[end]) * outward);
                    if meets && (-0.3 * self.u..reach).contains(&by) && near {
                        best = Some(other.at);
                    }
                }
                let Some(to) = best else { continue };
                let added = grown(span(run.point(run.ends[end]), run.point(to)), 0.3 * self.u);
                if !self.solid.iter().any(|s| s.intersection(&added).is_some()) {
                    self.runs[n].ends[end] = to;
                    self.runs[n].joined[end] = true;
                }
            }
        }
    }

    /// Finishes open ends: a flag to another sheet, an arrow, or a cap.
    pub fn finish_ends(&mut self) {
        let u = self.u;
        for n in 0..self.runs.len() {
            for end in 0..2 {
                let run = self.runs[n].clone();
                if run.joined[end] {
                    continue;
                }
                let outward = if end == 0 { -1.0 } else { 1.0 };
                let tip = run.point(run.ends[end]);
                let along = if run.horizontal { [outward, 0.0] } else { [0.0, outward] };
                let flag = Bounds::from_center(tip[0] + along[0] * 1.3 * u, tip[1], 2.4 * u, 0.5 * u);
                if run.horizontal && self.chance(0.6) && self.is_free(flag, 0.1 * u) && self.is_off_pipes(flag, Some(n))
                {
                    self.flag(tip, outward);
                } else if self.chance(0.5) {
                    self.arrow(tip, along);
                } else {
                    let (a, b) = (0.16 * u * along[1], 0.16 * u * along[0]);
                    self.canvas.lines(&[[tip[0] - a, tip[1] - b], [tip[0] + a, tip[1] + b]], run.width);
                }
            }
        }
    }

    /// A pentagon with the number of another drawing, starting at `tip` to the left (-1) or right (1).
    fn flag(&mut self, [x, y]: Point, outward: f64) {
        let u = self.u;
        let (half, long, nose) = (0.24 * u, 2.3 * u * outward, 0.25 * u * outward);
        let into = self.chance(0.5);
        let points = if into {
            vec![[x, y], [x + nose, y - half], [x + long, y - half], [x + long, y + half], [x + nose, y + half]]
        } else {
            vec![[x, y - half], [x + long - nose, y - half], [x + long, y], [x + long - nose, y + half], [x, y + half]]
        };
        self.canvas.polygon(&points, Some(self.thin()));
        let text = format!("{}-{}", self.pick(&["TO DWG", "FROM", "DWG", "CHW", "SHT"]), 100 + self.below(900));
        self.write(&text, [x + long * 0.5, y], 0.2 * u, 0.0);
        self.solid.push(BBox::new(x.min(x + long), y - half, x.max(x + long), y + half));
    }

    /// A filled arrow head whose tip is at `tip`.
    pub fn arrow(&mut self, tip: Point, along: Point) {
        let size = 0.22 * self.u;
        let corner = |side: f64| {
            [
                tip[0] - along[0] * size - along[1] * side * size * 0.4,
                tip[1] - along[1] * size + along[0] * side * size * 0.4,
            ]
        };
        self.canvas.polygon(&[tip, corner(1.0), corner(-1.0)], None);
    }

    /// Draws all runs with their gaps; at crossings, on some sheets, the vertical one is interrupted.
    pub fn draw_pipes(&mut self) {
        let interrupted = self.chance(0.4);
        for n in 0..self.runs.len() {
            let run = self.runs[n].clone();
            let mut gaps = run.gaps.clone();
            if interrupted && !run.horizontal {
                for other in self.runs.iter().filter(|o| o.horizontal) {
                    let crosses = other.ends[0] + 1.0 < run.at && run.at < other.ends[1] - 1.0;
                    if crosses && run.ends[0] + self.u * 0.3 < other.at && other.at < run.ends[1] - self.u * 0.3 {
                        gaps.push([other.at - 0.1 * self.u, other.at + 0.1 * self.u]);
                    }
                }
            }
            gaps.sort_by(|a, b| a[0].total_cmp(&b[0]));
            self.canvas.ink(5 + n % 3);
            let mut from = run.ends[0];
            for [low, high] in gaps.into_iter().chain([[run.ends[1], run.ends[1]]]) {
                if low > from {
                    let path = crate::canvas::polyline(&[run.point(from), run.point(low)], false);
                    if let Some(path) = path {
                        self.canvas.stroke(&path, run.width, tiny_skia::LineCap::Butt);
                    }
                }
                from = from.max(high);
            }
        }
    }

    /// Draws pipes across the share `crossing` of the listed symbols.
    pub fn cross_symbols(&mut self) {
        for (placed, i) in self.placed.clone().into_iter().filter_map(|p| p.truth.map(|i| (p, i))) {
            if !self.chance(self.s.crossing) {
                continue;
            }
            for _ in 0..6 {
                let b = placed.bounds;
                let upright = self.chance(0.5);
                let (low, high) = if upright { (b.x0, b.x1) } else { (b.y0, b.y1) };
                let at = low + (high - low) * self.between(0.15, 0.85);
                let (before, after) = (self.between(0.4, 2.0) * self.u, self.between(0.4, 2.0) * self.u);
                let ends = if upright {
                    [[at, b.y0 - before], [at, b.y1 + after]]
                } else {
                    [[b.x0 - before, at], [b.x1 + after, at]]
                };
                let path = grown(span(ends[0], ends[1]), 2.0);
                let touched = self.solid.iter().filter(|s| s.intersection(&path).is_some()).count();
                let inside = self.inner.intersection(&path).is_some_and(|i| i == path);
                // The symbol itself and, in a balloon, its letters.
                let own = self.solid.iter().filter(|s| s.intersection(&b).is_some() && s.intersection(&path).is_some());
                if inside && touched == own.count() {
                    let width = self.pen * self.between(0.6, 1.1);
                    self.canvas.lines(&ends, width);
                    self.take_lead(ends[0], ends[1]);
                    self.truth[i].provenance.evidence.insert("crossed".to_owned(), 1.0);
                    break;
                }
            }
        }
    }
}
