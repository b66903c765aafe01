//! What makes a drawing hard to read by machine: look-alikes, notes with leaders, dimensions, clouds, hatching, marks.
//!
//! Owns the dirt that `clutter` and `touching` ask for. Nothing here is in the truth, and nothing here hides a symbol:
//! a person still reads the sheet.

use std::f64::consts::TAU;
use std::sync::LazyLock;

use datasets::BBox;

use crate::canvas::{Bounds, Point, grown, sin_cos, text_size};
use crate::draft::{Draft, Placed};
use crate::symbol::{Role, Symbol};

/// Symbols that contain, or nearly are, one of the library. None is one of the library at another size or turn.
const LOOKALIKES: [(&str, Role, &str); 18] = [
    ("hand valve", Role::Inline, r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M0,0 V-34 M-18,-34 H18"/>"#),
    ("motor valve", Role::Inline, r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M0,0 V-28"/><circle cy="-42" r="14"/>"#),
    (
        "solenoid valve",
        Role::Inline,
        r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M0,0 V-26 M-14,-26 H14 V-52 H-14 Z"/>"#,
    ),
    ("closed valve", Role::Inline, r##"<path d="M-40,-21 L40,21 V-21 L-40,21 Z" fill="#000"/>"##),
    (
        "half closed valve",
        Role::Inline,
        r##"<path d="M-40,-21 L0,0 L-40,21 Z" fill="#000"/><path d="M40,-21 L0,0 L40,21 Z"/>"##,
    ),
    ("three way valve", Role::Inline, r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M0,0 L-21,40 H21 Z"/>"#),
    ("angle valve", Role::Free, r#"<path d="M0,0 L40,-21 V21 Z M0,0 L-21,40 H21 Z M0,0 V-34 M-12,-14 L12,-22"/>"#),
    ("flanged valve", Role::Inline, r#"<path d="M-40,-21 L40,21 V-21 L-40,21 Z M-47,-21 V21 M47,-21 V21"/>"#),
    ("damper", Role::Inline, r#"<path d="M-34,-22 V22 M34,-22 V22 M-34,-22 L34,22"/>"#),
    ("vane", Role::Inline, r#"<path d="M-40,-22 H40 V22 H-40 Z M-40,22 L40,-22"/>"#),
    ("stop", Role::Inline, r#"<path d="M-26,-22 L22,0 L-26,22 Z M26,-22 V22"/>"#),
    ("union", Role::Inline, r#"<circle r="34"/><path d="M-34,-20 L34,20 V-20 L-34,20 Z"/>"#),
    ("crossed circle", Role::Free, r#"<circle r="36"/><path d="M-25,-25 L25,25 M-25,25 L25,-25"/>"#),
    ("ring", Role::Free, r#"<circle r="36"/><circle r="25"/>"#),
    ("exchanger", Role::Inline, r#"<circle r="38"/><path d="M-50,0 H-22 L-8,-20 L8,20 L22,0 H50"/>"#),
    ("eye", Role::Free, r#"<rect x="-36" y="-36" width="72" height="72"/><circle r="16"/>"#),
    ("lozenge", Role::Free, r#"<path d="M-38,0 L0,-38 L38,0 L0,38 Z"/>"#),
    (
        "crossed hexagon",
        Role::Free,
        r#"<path d="M-44,0 L-22,-38 H22 L44,0 L22,38 H-22 Z M-22,-38 L22,38 M-22,38 L22,-38"/>"#,
    ),
];

static LOOKALIKE_SYMBOLS: LazyLock<Vec<Symbol>> =
    LazyLock::new(|| LOOKALIKES.iter().map(|&(name, role, body)| Symbol::drawn(name, role, body)).collect());

/// The look-alikes.
pub(crate) fn lookalikes() -> impl Iterator<Item = &'static Symbol> {
    LOOKALIKE_SYMBOLS.iter()
}

const WORDS: [&str; 24] = [
    "SEE", "NOTE", "3", "7", "TYP", "OF", "4", "FUTURE", "BY", "OTHERS", "HOLD", "MIN", "SLOPE", "1:100", "EL",
    "+4.250", "SET AT", "6.5", "BARG", "FC", "LO", "TO", "SAFE", "AREA",
];

impl Draft<'_> {
    /// Puts `count` look-alikes, in pipes and beside them.
    pub fn lookalikes(&mut self, count: usize) {
        for _ in 0..count {
            let n = self.below(LOOKALIKE_SYMBOLS.len());
            if !self.alike.contains(&LOOKALIKE_SYMBOLS[n].name) {
                self.place(&LOOKALIKE_SYMBOLS[n], false);
            }
        }
    }

    /// Draws `count` pieces of clutter, each where it finds room.
    pub fn clutter(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.junctions();
        for _ in 0..count {
            // Pipes carry what is drawn on them; on schematics there are none.
            let kinds = if self.runs.is_empty() { 9 } else { 12 };
            match self.below(kinds) {
                0..=2 => self.mark(),
                3 | 4 => self.remark(),
                5 => self.dimension(),
                6 => self.cloud(),
                7 => self.schedule(),
                8 => self.stray_line(),
                9 => self.hatching(),
                _ => self.text_on_pipe(),
            }
        }
    }

    /// Writes a tag against its symbol, along the symbol's pipe; false when something else is there.
    pub fn write_touching(&mut self, text: &str, placed: &Placed, height: f64) -> bool {
        let [w, h] = text_size(text, height);
        let upright = placed.degrees.rem_euclid(180.0) == 90.0;
        let b = placed.bounds;
        let (cx, cy) = b.center();
        let gap = self.between(-0.3, 0.6) * height;
        let slide = self.between(-0.3, 0.3) * w;
        let side = if self.chance(0.5) { 1.0 } else { -1.0 };
        let (center, degrees) = if upright {
            let edge = if side > 0.0 { b.x1 } else { b.x0 };
            ([edge + side * (gap + h / 2.0), cy + slide], 270.0)
        } else {
            let edge = if side > 0.0 { b.y1 } else { b.y0 };
            ([cx + slide, edge + side * (gap + h / 2.0)], 0.0)
        };
        let place = Self::text_box(text, center, height, degrees);
        let inside = self.inner.intersection(&place).is_some_and(|i| i == place);
        let others = self.solid.iter().filter(|s| **s != b && s.intersection(&place).is_some()).count();
        if inside && others == 0 {
            self.write(text, center, height, degrees);
        }
        inside && others == 0
    }

    /// Dots where pipes meet, on half of the sheets.
    fn junctions(&mut self) {
        if !self.chance(0.5) {
            return;
        }
        let radius = self.between(0.05, 0.08) * self.u;
        let mut points = Vec::new();
        for run in &self.runs {
            for (end, joined) in run.ends.into_iter().zip(run.joined) {
                if joined {
                    points.push(run.point(end));
                }
            }
        }
        for point in points {
            self.canvas.polygon(&circle(point, radius), None);
        }
    }

    /// A small sign that is no symbol: flag of a note, square, triangle, cross, bars.
    fn mark(&mut self) {
        let (u, pen) = (self.u, self.thin());
        let r = self.between(0.11, 0.16) * u;
        for _ in 0..10 {
            let [x, y] = self.anywhere(0.3 * u);
            let place = Bounds::from_center(x, y, 2.4 * r, 2.4 * r);
            if !self.is_free(place, 0.05 * u) {
                continue;
            }
            match self.below(7) {
                0 => self.canvas.polygon(&circle([x, y], r), Some(pen)),
                1 => {
                    self.canvas.polygon(&circle([x, y], r), Some(pen));
                    let number = (1 + self.below(9)).to_string();
                    self.canvas.text(&number, [x, y], r, 0.0, pen);
                }
                2 => self.canvas.rect(Bounds::from_center(x, y, 1.8 * r, 1.8 * r), pen),
                3 => {
                    let filled = self.chance(0.5);
                    let triangle = [[x - r, y + r], [x, y - r], [x + r, y + r]];
                    self.canvas.polygon(&triangle, (!filled).then_some(pen));
                }
                4 => {
                    self.canvas.lines(&[[x - r, y - r], [x + r, y + r]], pen);
                    self.canvas.lines(&[[x - r, y + r], [x + r, y - r]], pen);
                }
                5 => {
                    for (n, half) in [1.0, 0.65, 0.3].into_iter().enumerate() {
                        let y = y - 0.5 * r + 0.5 * r * n as f64;
                        self.canvas.lines(&[[x - r * half, y], [x + r * half, y]], pen);
                    }
                    self.canvas.lines(&[[x, y - 0.5 * r], [x, y - 1.1 * r]], pen);
                }
                _ => self.canvas.polygon(&circle([x, y], 0.5 * r), None),
            }
            self.solid.push(place);
            return;
        }
    }

    /// Some words with a leader to a pipe or a symbol.
    fn remark(&mut self) {
        let u = self.u;
        let (lines, size) = (1 + self.below(3), self.between(0.14, 0.2) * u);
        let mut texts = Vec::new();
        for _ in 0..lines {
            let words: Vec<&str> = (0..2 + self.below(3)).map(|_| self.pick(&WORDS)).collect();
            texts.push(words.join(" "));
        }
        let w = texts.iter().map(|t| text_size(t, size)[0]).fold(0.0, f64::max);
        let h = 1.7 * size * lines as f64;
        for _ in 0..10 {
            let [x, y] = self.anywhere(0.3 * u);
            let place = Bounds::from_center(x, y, w + 0.1 * u, h);
            if !self.is_free(place, 0.05 * u) || !self.is_off_pipes(place, None) {
                continue;
            }
            for (n, text) in texts.iter().enumerate() {
                let row = y - h / 2.0 + 1.7 * size * (n as f64 + 0.5);
                let pen = (size * 0.1).clamp(0.8, self.pen.max(0.8));
                self.canvas.text(text, [x, row], size, 0.0, pen);
            }
            self.solid.push(place);
            let to = [x + self.between(-2.5, 2.5) * u, y + self.between(-2.0, 2.0) * u];
            let start = [if to[0] < x { place.x0 } else { place.x1 }, y];
            if (to[0] - x).abs() > w / 2.0 + 0.3 * u && self.is_clear(start, to) {
                self.canvas.lines(&[start, to], self.thin());
                let long = (to[0] - start[0]).hypot(to[1] - start[1]);
                self.arrow(to, [(to[0] - start[0]) / long, (to[1] - start[1]) / long]);
            }
            return;
        }
    }

    /// A line number that lies on its pipe instead of beside it.
    fn text_on_pipe(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let (u, n) = (self.u, self.below(self.runs.len()));
        let run = self.runs[n].clone();
        let text = format!("{}\"-{}", 1 + self.below(12), 100 + self.below(9900));
        let size = self.between(0.15, 0.22) * u;
        for _ in 0..6 {
            let t = self.between(run.ends[0], run.ends[1]);
            let off = self.between(-0.1, 0.14) * u;
            let [x, y] = run.point(t);
            let (center, degrees) = if run.horizontal { ([x, y - off], 0.0) } else { ([x - off, y], 270.0) };
            let place = Self::text_box(&text, center, size, degrees);
            if self.is_free(place, 0.03 * u) && self.is_off_pipes(place, Some(n)) {
                self.write(&text, center, size, degrees);
                return;
            }
        }
    }

    /// A length between two ticks.
    fn dimension(&mut self) {
        let u = self.u;
        let level = self.chance(0.5);
        let half = self.between(0.5, 2.0) * u;
        let tick = 0.14 * u;
        for _ in 0..10 {
            let [x, y] = self.anywhere(0.3 * u);
            let place = if level {
                Bounds::from_center(x, y, 2.0 * half, 0.5 * u)
            } else {
                Bounds::from_center(x, y, 0.5 * u, 2.0 * half)
            };
            if !self.is_free(place, 0.05 * u) {
                continue;
            }
            let way = if level { [1.0, 0.0] } else { [0.0, 1.0] };
            let pen = self.thin();
            let ends = [-half, half].map(|d| [x + way[0] * d, y + way[1] * d]);
            self.canvas.lines(&ends, pen);
            for (end, sign) in ends.into_iter().zip([-1.0, 1.0]) {
                let (tx, ty) = (tick * way[1], tick * way[0]);
                self.canvas.lines(&[[end[0] - tx, end[1] - ty], [end[0] + tx, end[1] + ty]], pen);
                self.arrow(end, [way[0] * sign, way[1] * sign]);
            }
            let text = (100 + 5 * self.below(900)).to_string();
            let center = if level { [x, y - 0.14 * u] } else { [x - 0.14 * u, y] };
            self.canvas.text(&text, center, 0.16 * u, if level { 0.0 } else { 270.0 }, pen);
            self.solid.push(place);
            return;
        }
    }

    /// Single strokes across a stretch of pipe, as for insulation.
    fn hatching(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let (u, n) = (self.u, self.below(self.runs.len()));
        let run = self.runs[n].clone();
        let half = self.between(0.8, 2.0) * u;
        let middle = self.between(run.ends[0], run.ends[1]);
        if run.length() < 2.0 * half + u || middle - half < run.ends[0] || middle + half > run.ends[1] {
            return;
        }
        let [x, y] = run.point(middle);
        let (w, h) = if run.horizontal { (2.0 * half, 0.3 * u) } else { (0.3 * u, 2.0 * half) };
        if !self.is_free(Bounds::from_center(x, y, w, h), 0.1 * u) {
            return;
        }
        let (pen, reach) = (self.thin(), 0.12 * u);
        let mut t = middle - half;
        while t < middle + half {
            let [x, y] = run.point(t);
            self.canvas.lines(&[[x - reach, y + reach], [x + reach, y - reach]], pen);
            t += 0.3 * u;
        }
        self.solid.push(Bounds::from_center(x, y, w, h));
    }

    /// A revision cloud around a symbol.
    fn cloud(&mut self) {
        if self.placed.is_empty() {
            return;
        }
        let n = self.below(self.placed.len());
        let b = grown(self.placed[n].bounds, self.between(0.3, 0.6) * self.u);
        let (pen, r) = (self.thin(), 0.16 * self.u);
        // Its edge must not run through a symbol, which nobody could read then.
        let touches = |p: &Placed| {
            p.bounds.intersection(&grown(b, r)).is_some_and(|i| i.intersection(&grown(b, -2.0)) != Some(p.bounds))
        };
        if self.inner.intersection(&b).is_none_or(|i| i != b) || self.placed.iter().any(touches) {
            return;
        }
        let corners = [[b.x0, b.y0], [b.x1, b.y0], [b.x1, b.y1], [b.x0, b.y1], [b.x0, b.y0]];
        for side in corners.windows(2) {
            let (dx, dy) = (side[1][0] - side[0][0], side[1][1] - side[0][1]);
            let long = dx.hypot(dy);
            let scallops = (long / (2.0 * r)).round().max(1.0);
            let (ux, uy, r) = (dx / long, dy / long, long / scallops / 2.0);
            for n in 0..scallops as u32 {
                let at = r * (2.0 * f64::from(n) + 1.0);
                let arc: Vec<Point> = (0..=10)
                    .map(|i| {
                        let (sin, cos) = (f64::from(i) / 20.0 * TAU).sin_cos();
                        let (along, out) = (at - r * cos, r * sin);
                        [side[0][0] + ux * along + uy * out, side[0][1] + uy * along - ux * out]
                    })
                    .collect();
                self.canvas.lines(&arc, pen);
            }
        }
    }

    /// A small table.
    fn schedule(&mut self) {
        let u = self.u;
        let (columns, rows) = (2 + self.below(3), 3 + self.below(4));
        let (w, h) = (1.1 * u, 0.34 * u);
        let (width, height) = (w * columns as f64, h * rows as f64);
        for _ in 0..6 {
            let [x, y] = self.anywhere(0.3 * u);
            let b = Bounds::from_center(x, y, width, height);
            if !self.is_free(b, 0.1 * u) || !self.is_off_pipes(b, None) {
                continue;
            }
            let pen = self.thin();
            for n in 0..=rows {
                let y = b.y0 + h * n as f64;
                self.canvas.lines(&[[b.x0, y], [b.x1, y]], pen);
            }
            for n in 0..=columns {
                let x = b.x0 + w * n as f64;
                self.canvas.lines(&[[x, b.y0], [x, b.y1]], pen);
            }
            for row in 0..rows {
                for column in 0..columns {
                    let text = format!("{}-{}", self.pick(&["HV", "XV", "DN", "PN", "T"]), 10 + self.below(400));
                    let center = [b.x0 + w * (column as f64 + 0.5), b.y0 + h * (row as f64 + 0.5)];
                    self.canvas.text(&text, center, 0.14 * u, 0.0, pen.min(1.2));
                }
            }
            self.solid.push(b);
            return;
        }
    }

    /// A thin slanted line, as leaders and pencil marks are; it may cross pipes, not symbols.
    fn stray_line(&mut self) {
        let u = self.u;
        for _ in 0..10 {
            let from = self.anywhere(0.3 * u);
            let (sin, cos) = sin_cos(self.between(0.0, 360.0));
            let long = self.between(1.0, 4.0) * u;
            let to = [from[0] + cos * long, from[1] + sin * long];
            if self.is_clear(from, to) && self.is_free(BBox::new(from[0], from[1], from[0], from[1]), 2.0) {
                self.canvas.lines(&[from, to], self.thin());
                return;
            }
        }
    }
}

fn circle([x, y]: Point, r: f64) -> Vec<Point> {
    (0..32)
        .map(|i| {
            let (sin, cos) = sin_cos(f64::from(i) * 360.0 / 32.0);
            [x + r * cos, y + r * sin]
        })
        .collect()
}
