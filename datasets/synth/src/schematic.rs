//! Electrical schematics: components in chains, blocks with pins, wires that meet and cross, designators.
//!
//! Owns their layout. Wires run level and upright, pass no symbol and never lie on each other.

use std::ops::Range;

use rand::seq::SliceRandom;

use crate::canvas::{Bounds, Point, grown, sin_cos, span, text_size};
use crate::draft::Draft;
use crate::electrical::{self, Terminal};
use crate::settings::Rotation;
use crate::symbol::{Placement, Role, Symbol};

const TRIES: usize = 60;
const VALUES: [&str; 18] = [
    "10K", "4K7", "100", "1K", "220R", "100N", "10N", "47U", "1U", "22P", "1N4148", "BC547", "5V1", "24V", "2A",
    "74HC", "LM358", "10MH",
];
const NETS: [&str; 16] =
    ["VCC", "+5V", "+24V", "GND", "SDA", "SCL", "RESET", "IN1", "IN2", "OUT", "CLK", "EN", "A0", "D7", "TX", "L1"];

/// Wires and the ends that still want one.
#[derive(Default)]
struct Wiring {
    open: Vec<Terminal>,
    wires: Vec<[Point; 2]>,
    joints: Vec<Point>,
    /// Which of the wires are rails.
    rails: Range<usize>,
}

fn moved([x, y]: Point, [dx, dy]: Point, by: f64) -> Point {
    [x + dx * by, y + dy * by]
}

/// Where a symbol's wires meet it once it lies on the sheet.
fn terminals(symbol: &Symbol, at: &Placement) -> Vec<Terminal> {
    let (sin, cos) = sin_cos(at.degrees);
    let place = |t: &Terminal| {
        let (x, y) = (if at.mirrored { -t.way[0] } else { t.way[0] }, t.way[1]);
        Terminal { at: at.point(t.at), way: [x * cos - y * sin, x * sin + y * cos] }
    };
    symbol.terminals.iter().map(place).collect()
}

fn is_inside(b: &Bounds, x: f64, y: f64) -> bool {
    (b.x0..=b.x1).contains(&x) && (b.y0..=b.y1).contains(&y)
}

impl Wiring {
    /// True when a straight wire would lie on another one, or so near that the eye joins them.
    fn lies_on_another(&self, a: Point, b: Point, near: f64) -> bool {
        let level = a[1] == b[1];
        let s = span(a, b);
        self.wires.iter().any(|w| {
            let o = span(w[0], w[1]);
            if level && w[0][1] == w[1][1] {
                (w[0][1] - a[1]).abs() < near && o.x0 < s.x1 && s.x0 < o.x1
            } else {
                !level && w[0][0] == w[1][0] && (w[0][0] - a[0]).abs() < near && o.y0 < s.y1 && s.y0 < o.y1
            }
        })
    }
}

impl Draft<'_> {
    /// Draws the schematic: the symbols `wanted` of `symbols`, and what goes with them.
    pub fn schematic(&mut self, symbols: &[Symbol], wanted: &[usize]) {
        let mut w = Wiring::default();
        let u = self.u;
        let cells = self.inner.width() * self.inner.height() / (u * u);
        for _ in 0..(cells / 160.0).round() as usize {
            self.block(&mut w);
        }
        let strangers = (wanted.len() as f64 * self.s.distractors).round() as usize;
        let mut order: Vec<Option<usize>> = wanted.iter().map(|&n| Some(n)).collect();
        order.extend(std::iter::repeat_n(None, strangers));
        order.shuffle(&mut self.rng);
        for n in order {
            let others = electrical::unlisted();
            let symbol = match n {
                Some(n) => &symbols[n],
                None => &others[self.below(others.len())],
            };
            let chained = self.chance(0.55) && self.chain(&mut w, symbol, n.is_some());
            if !chained {
                self.scatter(&mut w, symbol, n.is_some());
            }
        }
        self.rails(&mut w);
        self.wire(&mut w);
        let width = self.thin().max(self.pen * 0.8);
        self.canvas.ink(6);
        for (n, ends) in w.wires.iter().enumerate() {
            // A rail that nothing meets would be a stray line.
            let place = grown(span(ends[0], ends[1]), 1.0);
            if w.rails.contains(&n) && !w.joints.iter().any(|&[x, y]| is_inside(&place, x, y)) {
                continue;
            }
            self.canvas.lines(ends, width);
            self.solid.push(place);
        }
        let radius = (1.6 * width).max(0.05 * u);
        for &[x, y] in &w.joints {
            let dot: Vec<Point> = (0..16)
                .map(|i| {
                    let (sin, cos) = sin_cos(f64::from(i) * 22.5);
                    [x + radius * cos, y + radius * sin]
                })
                .collect();
            self.canvas.polygon(&dot, None);
        }
    }

    fn pose(&mut self, symbol: &Symbol) -> Placement {
        let degrees = match self.s.rotation {
            Rotation::None => 0.0,
            Rotation::Quarter => 90.0 * self.below(4) as f64,
            Rotation::Any => self.between(0.0, 360.0),
        };
        let mut at = self.placement(degrees);
        if symbol.role == Role::Balloon {
            (at.degrees, at.mirrored) = (0.0, false);
        }
        at
    }

    fn put(&mut self, w: &mut Wiring, symbol: &Symbol, at: &Placement, listed: bool, taken: Option<usize>) {
        self.stamp(symbol, at, 1, listed);
        let mut ends = terminals(symbol, at);
        if ends.is_empty() {
            // A symbol of no trade: wires meet its ink on its axis.
            let (sin, cos) = sin_cos(at.degrees);
            let half = symbol.reach_at(at)[0] + 1.0;
            for way in [[cos, sin], [-cos, -sin]] {
                ends.extend(
                    self.canvas
                        .first_ink(moved(at.center, way, half), at.center)
                        .map(|point| Terminal { at: point, way }),
                );
            }
        }
        // Slanted wires are not drawn: a symbol at a slant gets none.
        let upright = at.degrees % 90.0 == 0.0;
        let free = ends.iter().enumerate().filter(|(n, _)| Some(*n) != taken && upright).map(|(_, t)| *t);
        // A round symbol has four ends, of which two opposite ones are used.
        let level = self.chance(0.5);
        let four = ends.len() == 4 && symbol.role == Role::Balloon;
        w.open.extend(free.filter(|t| !four || (t.way[0] != 0.0) == level));
        self.designator(symbol, at);
    }

    /// Continues a chain: the symbol's end faces an open one, with a short wire between.
    fn chain(&mut self, w: &mut Wiring, symbol: &Symbol, listed: bool) -> bool {
        if w.open.is_empty() || symbol.terminals.is_empty() || self.s.rotation == Rotation::Any {
            return false;
        }
        for _ in 0..TRIES / 2 {
            let n = self.below(w.open.len());
            let from = w.open[n];
            let mut at = self.pose(symbol);
            let taken = self.below(symbol.terminals.len());
            let end = terminals(symbol, &at)[taken];
            if end.way[0] * from.way[0] + end.way[1] * from.way[1] > -0.99 {
                continue;
            }
            let long = self.between(0.2, 1.1) * self.u;
            let target = moved(from.at, from.way, long);
            at.center = [target[0] - end.at[0], target[1] - end.at[1]];
            let Some(ink) = Self::ink(symbol, &at, 1) else { return false };
            if !self.is_free(ink, 0.14 * self.u)
                || !self.is_clear(from.at, moved(from.at, from.way, long * 0.9))
                || w.lies_on_another(from.at, target, 0.12 * self.u)
                || w.wires.iter().any(|s| span(s[0], s[1]).intersection(&grown(ink, 0.1 * self.u)).is_some())
            {
                continue;
            }
            w.open.swap_remove(n);
            // The chain is level or upright up to rounding; the wire must be exactly so.
            let to = if from.way[0].abs() > 0.5 { [target[0], from.at[1]] } else { [from.at[0], target[1]] };
            w.wires.push([from.at, to]);
            self.put(w, symbol, &at, listed, Some(taken));
            return true;
        }
        false
    }

    fn scatter(&mut self, w: &mut Wiring, symbol: &Symbol, listed: bool) {
        let grid = 0.25 * self.u;
        for _ in 0..2 * TRIES {
            let mut at = self.pose(symbol);
            let [x, y] = self.anywhere(0.4 * self.u);
            at.center = [(x / grid).round() * grid, (y / grid).round() * grid];
            let Some(ink) = Self::ink(symbol, &at, 1) else { return };
            let room = grown(ink, 0.1 * self.u);
            if self.is_free(ink, 0.25 * self.u)
                && !w.wires.iter().any(|s| span(s[0], s[1]).intersection(&room).is_some())
            {
                self.put(w, symbol, &at, listed, None);
                return;
            }
        }
    }

    /// An integrated circuit: a box with names and numbers at its pins.
    fn block(&mut self, w: &mut Wiring) {
        let u = self.u;
        let (pins, wide) = (3 + self.below(6), self.between(1.4, 2.6) * u);
        let step = 0.42 * u;
        let high = step * (pins as f64 + 1.0);
        for _ in 0..TRIES {
            let [x, y] = self.anywhere(u);
            let b = Bounds::from_center(x, y, wide, high);
            if !self.is_free(grown(b, 0.5 * u), 0.6 * u) {
                continue;
            }
            let (pen, lead) = (self.pen, 0.35 * u);
            self.canvas.rect(b, pen);
            for (side, edge) in [(-1.0, b.x0), (1.0, b.x1)] {
                for n in 0..pins {
                    let y = b.y0 + step * (n as f64 + 1.0);
                    self.canvas.lines(&[[edge, y], [edge + side * lead, y]], self.thin());
                    let number = (n + 1 + if side > 0.0 { pins } else { 0 }).to_string();
                    let size = 0.15 * u;
                    self.canvas.text(&number, [edge + side * lead * 0.5, y - 0.13 * u], size, 0.0, self.thin());
                    let name = self.pick(&NETS);
                    let inset = 0.08 * u + text_size(name, size)[0] / 2.0;
                    self.canvas.text(name, [edge - side * inset, y], size, 0.0, self.thin());
                    w.open.push(Terminal { at: [edge + side * lead, y], way: [side, 0.0] });
                }
            }
            self.solid.push(grown(b, 1.0));
            self.solid.push(Bounds::from_center(x, y, wide + 2.0 * lead, high - step));
            let name = format!("U{}", 1 + self.below(40));
            self.write(&name, [x, b.y0 - 0.2 * u], 0.2 * u, 0.0);
            return;
        }
    }

    /// Letter and number of a component, often its value, close beside it.
    fn designator(&mut self, symbol: &Symbol, at: &Placement) {
        if symbol.letters.is_empty() || !self.chance(self.s.tags) {
            return;
        }
        let Some(ink) = Self::ink(symbol, at, 1) else { return };
        let u = self.u;
        let [small, large] = self.s.letters;
        let size = 0.2 * u * self.between(small, large);
        let name = format!("{}{}", symbol.letters, 1 + self.below(99));
        let value = self.pick(&VALUES);
        let both = self.chance(0.6);
        let (cx, cy) = ink.center();
        let gap = self.between(0.03, 0.12) * u;
        let wide = |t: &str| text_size(t, size)[0];
        let w = if both { wide(&name).max(wide(value)) } else { wide(&name) };
        // Above, below, and both lines at the right or the left.
        let pair = |x: f64, y0: f64, y1: f64| [[x, y0], [x, y1]];
        let spots = [
            pair(cx, ink.y0 - gap - size * if both { 1.9 } else { 0.5 }, ink.y0 - gap - size * 0.5),
            pair(cx, ink.y1 + gap + size * 0.5, ink.y1 + gap + size * 1.9),
            pair(ink.x1 + gap + w / 2.0, cy - size * 0.7, cy + size * 0.7),
            pair(ink.x0 - gap - w / 2.0, cy - size * 0.7, cy + size * 0.7),
        ];
        let first = self.below(4);
        for k in 0..4 {
            let [top, low] = spots[(first + k) % 4];
            let rows = if both { size * 1.4 } else { 0.0 };
            let middle = if both { f64::midpoint(top[1], low[1]) } else { top[1] };
            let place = Bounds::from_center(top[0], middle, w, rows + size);
            if self.is_free(place, 0.02 * u) {
                let pen = (size * 0.1).clamp(0.8, self.pen.max(0.8));
                self.canvas.text(&name, top, size, 0.0, pen);
                if both {
                    self.canvas.text(value, low, size, 0.0, pen);
                }
                // Wires run through the edge of a text, and sometimes through all of it.
                if self.chance(0.85) {
                    self.solid.push(grown(place, -0.05 * u));
                }
                return;
            }
        }
    }

    /// Long wires that many ends meet: supplies and busses.
    fn rails(&mut self, w: &mut Wiring) {
        let (u, i) = (self.u, self.inner);
        let count = 6 + (i.width() * i.height() / (60.0 * u * u)) as usize;
        let first = w.wires.len();
        for _ in 0..count {
            for _ in 0..TRIES {
                let level = self.chance(0.6);
                let (from, to, low, high) = if level { (i.x0, i.x1, i.y0, i.y1) } else { (i.y0, i.y1, i.x0, i.x1) };
                let at = self.between(low + 0.2 * u, high - 0.2 * u);
                let long = self.between(3.0 * u, (to - from) * 0.6);
                let start = self.between(from, to - long);
                let point = |t: f64| if level { [t, at] } else { [at, t] };
                let ends = [point(start), point(start + long)];
                let room = grown(span(ends[0], ends[1]), 0.1 * u);
                let blocked = self.solid.iter().any(|s| s.intersection(&room).is_some());
                if !blocked && !w.lies_on_another(ends[0], ends[1], 0.25 * u) {
                    w.wires.push(ends);
                    break;
                }
            }
        }
        w.rails = first..w.wires.len();
    }

    /// Gives every open end a wire: to a wire across its way, to another end, or to the name of a net.
    fn wire(&mut self, w: &mut Wiring) {
        let mut open = std::mem::take(&mut w.open);
        open.shuffle(&mut self.rng);
        while let Some(end) = open.pop() {
            if self.chance(0.6) && self.join(w, end) {
                continue;
            }
            let other = (0..open.len().min(40)).find_map(|n| {
                let route = self.route(w, end, open[n])?;
                Some((n, route))
            });
            if let Some((n, route)) = other {
                open.swap_remove(n);
                w.wires.extend(route.windows(2).map(|p| [p[0], p[1]]).filter(|[a, b]| a != b));
            } else if !self.join(w, end) {
                self.net(w, end);
            }
        }
    }

    /// Runs straight on to one of the next wires across, with a dot where they meet.
    fn join(&mut self, w: &mut Wiring, end: Terminal) -> bool {
        let u = self.u;
        let level = end.way[0].abs() > 0.5;
        let sign = if level { end.way[0] } else { end.way[1] };
        let (along, across) = if level { (0, 1) } else { (1, 0) };
        let mut hits: Vec<f64> = w
            .wires
            .iter()
            .filter(|s| s[0][along] == s[1][along])
            .filter(|s| {
                let (low, high) = (s[0][across].min(s[1][across]), s[0][across].max(s[1][across]));
                low <= end.at[across] && end.at[across] <= high
            })
            .map(|s| (s[0][along] - end.at[along]) * sign)
            .filter(|d| (0.15 * u..8.0 * u).contains(d))
            .collect();
        hits.sort_by(f64::total_cmp);
        hits.truncate(3);
        if hits.is_empty() {
            return false;
        }
        let long = self.pick(&hits);
        let mut to = end.at;
        to[along] += sign * long;
        let ok = self.is_clear(end.at, to) && !w.lies_on_another(end.at, to, 0.12 * u);
        if ok {
            w.wires.push([end.at, to]);
            w.joints.push(to);
        }
        ok
    }

    /// A way from one end to another with at most three corners.
    fn route(&self, w: &Wiring, a: Terminal, b: Terminal) -> Option<Vec<Point>> {
        let u = self.u;
        if (a.at[0] - b.at[0]).hypot(a.at[1] - b.at[1]) > 9.0 * u {
            return None;
        }
        let (p, q) = (moved(a.at, a.way, 0.2 * u), moved(b.at, b.way, 0.2 * u));
        let (mx, my) = (f64::midpoint(p[0], q[0]), f64::midpoint(p[1], q[1]));
        let ways = [vec![[p[0], q[1]]], vec![[q[0], p[1]]], vec![[mx, p[1]], [mx, q[1]]], vec![[p[0], my], [q[0], my]]];
        let clear = |x: Point, y: Point| {
            x == y || self.is_clear(x, y) && !w.lies_on_another(x, y, 0.12 * u) && (x[0] == y[0] || x[1] == y[1])
        };
        ways.into_iter().find_map(|middle| {
            // The two short ends leave their symbols; everything between must be free.
            let inner: Vec<Point> = std::iter::once(p).chain(middle).chain([q]).collect();
            let ok = clear(a.at, p) && clear(b.at, q) && inner.windows(2).all(|s| clear(s[0], s[1]));
            ok.then(|| std::iter::once(a.at).chain(inner).chain([b.at]).collect())
        })
    }

    /// A short wire that ends at the name of a net.
    fn net(&mut self, w: &mut Wiring, end: Terminal) {
        let u = self.u;
        let long = self.between(0.2, 0.6) * u;
        let to = moved(end.at, end.way, long);
        if !self.is_clear(end.at, to) || w.lies_on_another(end.at, to, 0.1 * u) {
            return;
        }
        w.wires.push([end.at, to]);
        let (name, size) = (self.pick(&NETS), 0.17 * u);
        let [wide, _] = text_size(name, size);
        let level = end.way[0].abs() > 0.5;
        let off = if level { wide / 2.0 + 0.06 * u } else { size / 2.0 + 0.06 * u };
        let center = moved(to, end.way, off);
        let place = Self::text_box(name, center, size, 0.0);
        if self.is_free(place, 0.0) {
            self.write(name, center, size, 0.0);
        }
    }
}
