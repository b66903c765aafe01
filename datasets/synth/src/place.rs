//! Where symbols go: valves in pipes, balloons beside them, signals from balloons.
//!
//! Owns the choice of places. A symbol that finds none after many tries is left out.

use rand::RngExt;

use crate::canvas::{Point, sin_cos};
use crate::draft::Draft;
use crate::settings::Rotation;
use crate::symbol::{Placement, Role, Symbol};

const TRIES: usize = 150;
/// The four ways out of a symbol: right, down, left, up.
const WAYS: [Point; 4] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];

impl Draft<'_> {
    /// Puts a symbol where its role allows; false when there is no room.
    pub fn place(&mut self, symbol: &Symbol, listed: bool) -> bool {
        match symbol.role {
            Role::Inline => self.place_inline(symbol, listed) || self.place_free(symbol, listed, 2),
            Role::Balloon => self.place_balloon(symbol, listed),
            Role::Line => self.place_line(symbol, listed) || self.place_free(symbol, listed, 0),
            Role::Free => {
                // Drawn in any case, so that what follows is the same.
                let any = self.below(3);
                // The same on every sheet: it follows from the name.
                let of_class = symbol.name.bytes().map(usize::from).sum::<usize>() % 3;
                let leads = if self.s.leads { of_class } else { any };
                self.place_free(symbol, listed, leads)
            }
        }
    }

    fn any_turn(&mut self) -> f64 {
        match self.s.rotation {
            Rotation::None => 0.0,
            Rotation::Quarter => 90.0 * self.below(4) as f64,
            Rotation::Any => self.between(0.0, 360.0),
        }
    }

    fn place_inline(&mut self, symbol: &Symbol, listed: bool) -> bool {
        if self.s.rotation == Rotation::Any && self.chance(0.6) {
            return false;
        }
        let u = self.u;
        for _ in 0..TRIES {
            if self.runs.is_empty() {
                return false;
            }
            let n = self.below(self.runs.len());
            let run = self.runs[n].clone();
            if self.s.rotation == Rotation::None && !run.horizontal {
                continue;
            }
            let back = if self.s.rotation != Rotation::None && self.chance(0.5) { 180.0 } else { 0.0 };
            let mut at = self.placement(if run.horizontal { back } else { 90.0 + back });
            let half = symbol.reach_at(&at)[0];
            let room = [run.ends[0] + half + 0.35 * u, run.ends[1] - half - 0.35 * u];
            if room[0] >= room[1] {
                continue;
            }
            let t = self.between(room[0], room[1]);
            at.center = run.point(t);
            let Some(ink) = Self::ink(symbol, &at, 1) else { return false };
            if self.is_free(ink, 0.18 * u) && self.is_off_pipes(crate::canvas::grown(ink, 0.12 * u), Some(n)) {
                // The ink may be shifted against the middle of the drawing; the pipe ends where the ink does.
                let gap = if run.horizontal { [ink.x0, ink.x1] } else { [ink.y0, ink.y1] };
                self.runs[n].gaps.push([gap[0] + at.pen / 2.0, gap[1] - at.pen / 2.0]);
                self.stamp(symbol, &at, 1, listed);
                return true;
            }
        }
        false
    }

    /// Anywhere free, with up to two leads along its axis.
    fn place_free(&mut self, symbol: &Symbol, listed: bool, leads: usize) -> bool {
        let u = self.u;
        for _ in 0..2 * TRIES {
            let degrees = self.any_turn();
            let mut at = self.placement(degrees);
            at.center = self.anywhere(u * 0.3);
            let Some(ink) = Self::ink(symbol, &at, 1) else { return false };
            if !self.is_free(ink, 0.2 * u) || !self.is_off_pipes(crate::canvas::grown(ink, 0.15 * u), None) {
                continue;
            }
            self.stamp(symbol, &at, 1, listed);
            let half = symbol.reach_at(&at)[0];
            let (sin, cos) = sin_cos(at.degrees);
            for side in [-1.0, 1.0].into_iter().take(leads) {
                let (along, long) = ([cos * side, sin * side], self.between(0.5, 1.8) * u);
                let point = |d: f64| [at.center[0] + along[0] * d, at.center[1] + along[1] * d];
                // A drawing may have no ink on its axis: then there is nothing to lead to.
                let Some(start) = self.canvas.first_ink(point(half + 1.0), point(0.0)) else { continue };
                // A lead that is looked for from beyond the symbol's own box meets that box, unless the symbol is turned.
                let from = half + if self.s.leads { 0.0 } else { 2.0 };
                for long in [long, 0.3 * u] {
                    if self.is_clear(point(from), point(half + long)) {
                        self.canvas.lines(&[start, point(half + long)], self.pen);
                        self.take_lead(start, point(half + long));
                        break;
                    }
                }
            }
            return true;
        }
        false
    }

    fn place_balloon(&mut self, symbol: &Symbol, listed: bool) -> bool {
        let u = self.u;
        for n in 0..2 * TRIES {
            let degrees = if self.s.rotation == Rotation::Any { self.any_turn() } else { 0.0 };
            let mut at = self.placement(degrees);
            let [rx, ry] = symbol.reach_at(&at);
            if n >= TRIES {
                at.center = self.anywhere(u * 0.3);
                if self.fits_off_pipes(symbol, &at) {
                    self.balloon(symbol, &at, listed);
                    return true;
                }
                continue;
            }
            let Some((start, way)) = self.tap() else { continue };
            // A turned symbol's edge is where its circle would be.
            let half =
                if self.s.rotation == Rotation::Any { rx.min(ry) } else { (way[0] * rx).abs() + (way[1] * ry).abs() };
            let lead = self.between(0.35, 1.6) * u;
            let point = |d: f64| [start[0] + way[0] * d, start[1] + way[1] * d];
            at.center = point(lead + half);
            if self.fits_off_pipes(symbol, &at) && self.is_clear(start, point(lead)) {
                if !self.dashes_are_listed && self.chance(0.4) {
                    self.canvas.dashes(start, point(lead), self.thin(), [0.13 * u, 0.08 * u]);
                    self.take_lead(start, point(lead));
                } else {
                    self.lead(start, point(lead));
                }
                self.balloon(symbol, &at, listed);
                return true;
            }
        }
        false
    }

    fn fits_off_pipes(&self, symbol: &Symbol, at: &Placement) -> bool {
        let pad = 0.15 * self.u;
        Self::ink(symbol, at, 1)
            .is_some_and(|ink| self.is_free(ink, pad) && self.is_off_pipes(crate::canvas::grown(ink, pad), None))
    }

    /// A point to measure at, and the way from it: on a pipe, at a valve, at another balloon.
    fn tap(&mut self) -> Option<(Point, Point)> {
        let what = self.between(0.0, 1.0);
        if what < 0.5 && !self.runs.is_empty() {
            let n = self.below(self.runs.len());
            let run = self.runs[n].clone();
            let t = self.between(run.ends[0], run.ends[1]);
            let side = if self.chance(0.5) { 1.0 } else { -1.0 };
            let on_symbol = run.gaps.iter().any(|g| (g[0] - 3.0..g[1] + 3.0).contains(&t));
            let way = if run.horizontal { [0.0, side] } else { [side, 0.0] };
            return (!on_symbol).then_some((run.point(t), way));
        }
        if self.placed.is_empty() {
            return None;
        }
        let n = self.below(self.placed.len());
        let placed = self.placed[n];
        if placed.degrees % 90.0 != 0.0 || placed.role == Role::Line || (what < 0.75) != (placed.role == Role::Inline) {
            return None;
        }
        let way = self.pick(&WAYS);
        let (_, cos) = sin_cos(placed.degrees);
        let along_axis = (way[0] != 0.0) == (cos != 0.0);
        if along_axis && placed.role == Role::Inline {
            return None;
        }
        let b = placed.bounds;
        let start = [
            if way[0] == 0.0 {
                placed.center[0]
            } else if way[0] > 0.0 {
                b.x1
            } else {
                b.x0
            },
            if way[1] == 0.0 {
                placed.center[1]
            } else if way[1] > 0.0 {
                b.y1
            } else {
                b.y0
            },
        ];
        // From the ink itself: a valve is narrower in its middle than its box.
        Some((self.canvas.first_ink(start, placed.center).unwrap_or(start), way))
    }

    /// Draws the symbol and its letters.
    fn balloon(&mut self, symbol: &Symbol, at: &Placement, listed: bool) {
        const LETTERS: [&str; 20] = [
            "PT", "TT", "FT", "LT", "PI", "TI", "FI", "LI", "PIC", "TIC", "FIC", "LIC", "PDI", "TE", "FE", "HS", "LSH",
            "PSL", "ZS", "AE",
        ];
        self.stamp(symbol, at, 1, listed);
        let turn = if at.degrees % 180.0 > 90.0 { at.degrees - 180.0 } else { at.degrees };
        if let Some(writing) = &symbol.writing {
            let [small, large] = self.s.letters;
            // The classes' texts fill their outlines, so they grow little.
            let grow = self.between(small, large).min(1.15);
            let (sin, cos) = sin_cos(turn);
            for line in writing {
                let text = line.text(&mut self.rng);
                let (y, height) = (line.y * at.scale, line.height * at.scale * grow);
                let center = [at.center[0] - y * sin, at.center[1] + y * cos];
                let pen = (self.pen * 0.6).clamp(0.9, (height * 0.12 + 0.5).max(0.9));
                self.canvas.text(&text, center, height, turn, pen);
            }
            return;
        }
        if self.chance(0.06) {
            return;
        }
        let letters = self.pick(&LETTERS);
        let number = format!("{}", self.rng.random_range(101..=989));
        let size = at.scale * 84.0;
        // In a diamond there is less room at top and bottom.
        let (apart, height) = if symbol.name.contains("plc") { (0.14, 0.125) } else { (0.2, 0.165) };
        let field = symbol.name.starts_with("field");
        let [small, large] = self.s.letters;
        let height = height * self.between(small, large);
        for (text, y) in [(letters, -apart), (number.as_str(), if field { apart * 0.8 } else { apart })] {
            let (sin, cos) = sin_cos(turn);
            let y = y * size;
            let center = [at.center[0] - y * sin, at.center[1] + y * cos];
            let pen = (self.pen * 0.55).clamp(0.9, size * 0.03 + 0.9);
            self.canvas.text(text, center, height * size, turn, pen);
        }
    }

    /// A stretch of a signal from a balloon.
    fn place_line(&mut self, symbol: &Symbol, listed: bool) -> bool {
        let u = self.u;
        let [low, high] = self.s.signal_repeats;
        let repeats = self.rng.random_range(low..=high);
        for _ in 0..2 * TRIES {
            let balloons: Vec<_> =
                self.placed.iter().filter(|p| p.role == Role::Balloon && p.degrees == 0.0).copied().collect();
            if balloons.is_empty() || self.s.rotation == Rotation::Any && self.chance(0.02) {
                return false;
            }
            let from = self.pick(&balloons);
            let way = if self.s.rotation == Rotation::None { WAYS[0] } else { self.pick(&WAYS) };
            let degrees = sin_degrees(way);
            let mut at = self.placement(degrees);
            let half = symbol.reach_at(&at)[0] * f64::from(repeats);
            let edge = (way[0] * from.reach[0]).abs() + (way[1] * from.reach[1]).abs();
            let point = |d: f64| [from.center[0] + way[0] * d, from.center[1] + way[1] * d];
            let lead = 0.16 * u;
            at.center = point(edge + lead + half);
            let Some(ink) = Self::ink(symbol, &at, repeats) else { return false };
            if !self.is_free(ink, 0.12 * u) || !self.is_clear(point(edge), point(edge + lead + 2.0 * half)) {
                continue;
            }
            self.lead(point(edge), point(edge + lead));
            let end = point(edge + lead + 2.0 * half);
            let side = if self.chance(0.5) { 1.0 } else { -1.0 };
            let long = self.between(0.5, 1.6) * u;
            let turned = [end[0] - way[1] * side * long, end[1] + way[0] * side * long];
            let clear = self.is_clear(end, turned);
            self.stamp(symbol, &at, repeats, listed);
            if clear {
                self.lead(end, turned);
                self.arrow(turned, [-way[1] * side, way[0] * side]);
            }
            return true;
        }
        false
    }
}

/// Degrees of one of the four ways.
fn sin_degrees(way: Point) -> f64 {
    90.0 * WAYS.iter().position(|&w| w == way).unwrap_or_default() as f64
}
