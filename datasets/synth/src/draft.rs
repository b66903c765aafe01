//! A sheet while it is drawn: what is where already, and the truth so far.
//!
//! Owns the bookkeeping of space and the stamping of symbols. Refuses to choose places.

use std::collections::BTreeMap;

use datasets::{Annotation, BBox, Provenance};
use ontologies::shape;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tiny_skia::Transform;

use crate::canvas::{Bounds, Canvas, Point, grown, span};
use crate::pipes::Run;
use crate::settings::SynthSettings;
use crate::symbol::{NOMINAL_UNITS, Placement, Role, Symbol};

/// A symbol on the sheet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// Its ink, before the sheet's turn.
    pub bounds: Bounds,
    /// The middle of its view box.
    pub center: Point,
    /// Its ink's reach along and across its axis, in pixels.
    pub reach: Point,
    /// How it is used.
    pub role: Role,
    /// Turn in degrees.
    pub degrees: f64,
    /// Its place in the truth, when it is listed there.
    pub truth: Option<usize>,
}

/// The sheet.
pub(crate) struct Draft<'a> {
    pub s: &'a SynthSettings,
    pub rng: ChaCha8Rng,
    pub canvas: Canvas,
    /// Nominal size of a symbol in pixels: the unit of all distances.
    pub u: f64,
    /// Width of the symbols' lines.
    pub pen: f64,
    /// Where symbols and pipes may be.
    pub inner: Bounds,
    /// Symbols, equipment, blocks of text: nothing is put on them.
    pub solid: Vec<Bounds>,
    pub runs: Vec<Run>,
    pub placed: Vec<Placed>,
    pub truth: Vec<Annotation>,
    /// Names of unlisted symbols that are listed under another name here.
    pub alike: &'a [String],
    /// True when dashed leads would be instances of a listed class.
    pub dashes_are_listed: bool,
}

impl Draft<'_> {
    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.rng.random::<f64>() < p
    }

    /// A number of `low..high`; `low` when the range is empty.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        if high > low { self.rng.random_range(low..high) } else { low }
    }

    /// A whole number of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n as u64) as usize
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Width of thin lines: leads, small text.
    pub fn thin(&self) -> f64 {
        (self.pen * 0.6).max(1.0)
    }

    /// True when `b` lies inside the sheet and `pad` pixels away from everything solid.
    pub fn is_free(&self, b: Bounds, pad: f64) -> bool {
        let (i, wide) = (self.inner, grown(b, pad));
        b.x0 >= i.x0
            && b.y0 >= i.y0
            && b.x1 <= i.x1
            && b.y1 <= i.y1
            && !self.solid.iter().any(|s| s.intersection(&wide).is_some())
    }

    /// True when no pipe but `except` touches `b`.
    pub fn is_off_pipes(&self, b: Bounds, except: Option<usize>) -> bool {
        let on = |(i, r): (usize, &Run)| Some(i) != except && grown(r.span(), r.width).intersection(&b).is_some();
        !self.runs.iter().enumerate().any(on)
    }

    /// True when the straight line touches nothing solid but boxes around its own start.
    pub fn is_clear(&self, from: Point, to: Point) -> bool {
        let line = grown(span(from, to), self.u * 0.08);
        let [x, y] = from;
        let starts_in = |b: &Bounds| {
            let b = grown(*b, 1.0);
            (b.x0..=b.x1).contains(&x) && (b.y0..=b.y1).contains(&y)
        };
        let i = self.inner;
        line.x0 >= i.x0
            && line.y0 >= i.y0
            && line.x1 <= i.x1
            && line.y1 <= i.y1
            && !self.solid.iter().any(|s| !starts_in(s) && s.intersection(&line).is_some())
    }

    /// A random point of the inner area, `pad` pixels away from its edge.
    pub fn anywhere(&mut self, pad: f64) -> Point {
        let i = self.inner;
        [self.between(i.x0 + pad, i.x1 - pad), self.between(i.y0 + pad, i.y1 - pad)]
    }

    /// A placement at the origin with this sheet's scale and pen drawn anew.
    pub fn placement(&mut self, degrees: f64) -> Placement {
        let [low, high] = self.s.scale;
        let scale = self.between(low, high) * self.u / NOMINAL_UNITS;
        let mirrored = self.chance(self.s.mirror);
        let [thin, thick] = self.s.stroke_spread;
        let pen = self.pen * self.between(thin, thick);
        let [short, long] = self.s.aspect;
        let stretch = self.between(short, long);
        Placement { center: [0.0, 0.0], scale, stretch, degrees, mirrored, pen }
    }

    /// The ink of a symbol before the sheet's turn.
    pub fn ink(symbol: &Symbol, at: &Placement, repeats: u32) -> Option<Bounds> {
        let r = shape::bounds(&symbol.outlines(at, repeats))?;
        Some(BBox::new(r.left().into(), r.top().into(), r.right().into(), r.bottom().into()))
    }

    /// Draws a symbol and writes it down; into the truth when it is `listed`.
    pub fn stamp(&mut self, symbol: &Symbol, at: &Placement, repeats: u32, listed: bool) {
        let redrawn = (self.s.redrawn > 0.0).then(|| self.redrawn(symbol));
        let outlines = redrawn.as_ref().unwrap_or(symbol).outlines(at, repeats);
        self.canvas.ink(2 + symbol.role as usize);
        for path in &outlines {
            self.canvas.fill(path);
        }
        let Some(bounds) = Self::ink(symbol, at, repeats) else { return };
        let reach = symbol.reach_at(at);
        self.solid.push(bounds);
        let whole = self.canvas.bounds(&outlines).and_then(|b| b.clipped(self.s.width, self.s.height));
        let truth = (listed && whole.is_some()).then_some(self.truth.len());
        let (role, degrees) = (symbol.role, at.degrees);
        self.placed.push(Placed { bounds, center: at.center, reach, role, degrees, truth });
        let (true, Some(bbox)) = (listed, whole) else { return };
        let mut evidence = BTreeMap::from([
            ("scale".to_owned(), at.scale * NOMINAL_UNITS / self.s.symbol_px),
            ("rotation".to_owned(), at.degrees),
            ("mirrored".to_owned(), f64::from(u8::from(at.mirrored))),
        ]);
        if at.stretch != 1.0 {
            evidence.insert("aspect".to_owned(), at.stretch);
        }
        let mut annotation = Annotation::new(&symbol.name, bbox);
        annotation.provenance = Provenance {
            labeller: "synth".to_owned(),
            source: Some(symbol.file.clone()),
            evidence,
            ..Provenance::default()
        };
        self.truth.push(annotation);
    }

    /// A symbol whose parts differ a little in size, proportions and place from how they are drawn for the legend.
    fn redrawn(&mut self, symbol: &Symbol) -> Symbol {
        let most = self.s.redrawn;
        let [cx, cy] = [symbol.shape.width / 2.0, symbol.shape.height / 2.0];
        let reach = symbol.reach();
        let shape = symbol.shape.redrawn(|| {
            let mut by = |low: f64| self.between(-low, low) as f32;
            let [sx, sy] = [by(most).exp(), by(most).exp()];
            let [dx, dy] = [by(0.3 * most * reach[0]), by(0.3 * most * reach[1])];
            Transform::from_row(sx, 0.0, 0.0, sy, cx - sx * cx + dx, cy - sy * cy + dy)
        });
        Symbol { shape, ..symbol.clone() }
    }

    /// Draws a thin straight lead; when it is upright or level, its place is taken.
    pub fn lead(&mut self, from: Point, to: Point) {
        self.canvas.lines(&[from, to], self.thin());
        self.take_lead(from, to);
    }

    /// Keeps the place of an upright or level lead free.
    pub fn take_lead(&mut self, from: Point, to: Point) {
        if from[0] == to[0] || from[1] == to[1] {
            self.solid.push(grown(span(from, to), 1.0));
        }
    }

    /// Writes text about a centre and keeps its place free.
    pub fn write(&mut self, text: &str, center: Point, height: f64, degrees: f64) {
        let pen = (height * 0.1).clamp(0.8, self.pen.max(0.8));
        self.canvas.text(text, center, height, degrees, pen);
        self.solid.push(Self::text_box(text, center, height, degrees));
    }

    /// The place that a text takes when it stands (0) or lies (90 or 270 degrees).
    pub fn text_box(text: &str, center: Point, height: f64, degrees: f64) -> Bounds {
        let [w, h] = crate::canvas::text_size(text, height);
        let (w, h) = if degrees.rem_euclid(180.0) == 0.0 { (w, h) } else { (h, w) };
        Bounds::from_center(center[0], center[1], w + height * 0.4, h + height * 0.4)
    }

    /// Writes text when its place is free, off pipes too.
    pub fn try_write(&mut self, text: &str, center: Point, height: f64, degrees: f64) -> bool {
        let place = Self::text_box(text, center, height, degrees);
        let fits = self.is_free(place, self.u * 0.04) && self.is_off_pipes(place, None);
        if fits {
            self.write(text, center, height, degrees);
        }
        fits
    }
}
