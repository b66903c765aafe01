//! Where ink goes: one byte of coverage a pixel, and the turn of the whole sheet.
//!
//! Owns strokes, fills and text. Coordinates are pixels of the sheet before its turn. Refuses to know what is drawn.

use datasets::{BBox, Pixels};
use ontologies::shape;
use tiny_skia::{FillRule, LineCap, Mask, Path, PathBuilder, Stroke, Transform};

use crate::font;

/// A box in pixels.
pub type Bounds = BBox<Pixels>;
/// A point in pixels.
pub type Point = [f64; 2];

/// The sheet being drawn.
pub struct Canvas {
    mask: Mask,
    turn: Transform,
    /// Number of the ink of each pixel; empty when all ink is the same.
    inks: Vec<u8>,
    ink: u8,
}

impl Canvas {
    /// A blank canvas whose contents are turned about its centre by `degrees`.
    ///
    /// # Panics
    /// When a side is 0.
    pub fn new(width: u32, height: u32, degrees: f64) -> Self {
        let turn = if degrees == 0.0 {
            Transform::identity()
        } else {
            Transform::from_rotate_at(degrees as f32, width as f32 / 2.0, height as f32 / 2.0)
        };
        let mask = Mask::new(width, height).expect("settings allow no empty sheet");
        Self { mask, turn, inks: Vec::new(), ink: 0 }
    }

    /// Remembers from now on which ink a pixel got.
    pub fn with_inks(self) -> Self {
        Self { inks: vec![0; self.mask.data().len()], ..self }
    }

    /// What follows is drawn with ink `number`.
    pub fn ink(&mut self, number: usize) {
        self.ink = number as u8;
    }

    /// Coverage 0..=255 and number of the ink, row by row; no numbers when all ink is the same.
    pub fn into_coverage(self) -> (Vec<u8>, Vec<u8>) {
        (self.mask.take(), self.inks)
    }

    /// Fills a path by the winding rule.
    pub fn fill(&mut self, path: &Path) {
        if self.inks.is_empty() {
            self.mask.fill_path(path, FillRule::Winding, true, self.turn);
        } else {
            self.fill_with_ink(path);
        }
    }

    /// Fills a path beside the sheet first, so that it is known which pixels it covers.
    fn fill_with_ink(&mut self, path: &Path) {
        const INKED: u8 = 96;
        let Some(path) = path.clone().transform(self.turn) else { return };
        let (b, width) = (path.bounds(), self.mask.width());
        let edge = |v: f32, side: u32| v.clamp(0.0, side as f32) as u32;
        let (x0, y0) = (edge(b.left() - 1.0, width), edge(b.top() - 1.0, self.mask.height()));
        let (x1, y1) = (edge(b.right() + 2.0, width), edge(b.bottom() + 2.0, self.mask.height()));
        let (w, h) = (x1.saturating_sub(x0), y1.saturating_sub(y0));
        let Some(mut part) = Mask::new(w, h) else { return };
        let place = Transform::from_translate(-(x0 as f32), -(y0 as f32));
        part.fill_path(&path, FillRule::Winding, true, place);
        for (row, covers) in part.data().chunks_exact(w as usize).enumerate() {
            let from = (y0 as usize + row) * width as usize + x0 as usize;
            let pixels = self.mask.data_mut()[from..].iter_mut().zip(&mut self.inks[from..]);
            for (&cover, (pixel, ink)) in covers.iter().zip(pixels) {
                if cover >= INKED || cover > *pixel {
                    *ink = self.ink;
                }
                *pixel = cover.saturating_add((u16::from(*pixel) * u16::from(255 - cover) / 255) as u8);
            }
        }
    }

    /// The smallest box around paths once the sheet is turned.
    pub fn bounds(&self, paths: &[Path]) -> Option<Bounds> {
        let turned: Vec<Path> = paths.iter().filter_map(|p| p.clone().transform(self.turn)).collect();
        let r = shape::bounds(&turned)?;
        Some(BBox::new(r.left().into(), r.top().into(), r.right().into(), r.bottom().into()))
    }

    /// True where there is ink.
    pub fn is_dark(&self, [x, y]: Point) -> bool {
        let mut p = tiny_skia::Point::from_xy(x as f32, y as f32);
        self.turn.map_point(&mut p);
        let inside = p.x >= 0.0 && p.y >= 0.0 && p.x < self.mask.width() as f32 && p.y < self.mask.height() as f32;
        inside && self.mask.data()[p.y as usize * self.mask.width() as usize + p.x as usize] > 127
    }

    /// The first ink on the way from `from` to `to`.
    pub fn first_ink(&self, from: Point, to: Point) -> Option<Point> {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let steps = (dx.hypot(dy) * 2.0).ceil().max(1.0);
        (0..=steps as u32)
            .map(|i| f64::from(i) / steps)
            .map(|t| [from[0] + dx * t, from[1] + dy * t])
            .find(|&p| self.is_dark(p))
    }

    /// Draws a path with a pen of `width` pixels.
    pub fn stroke(&mut self, path: &Path, width: f64, cap: LineCap) {
        let pen = Stroke { width: width as f32, line_cap: cap, ..Stroke::default() };
        if let Some(outline) = path.stroke(&pen, 1.0) {
            self.fill(&outline);
        }
    }

    /// Draws joined lines.
    pub fn lines(&mut self, points: &[Point], width: f64) {
        if let Some(path) = polyline(points, false) {
            self.stroke(&path, width, LineCap::Square);
        }
    }

    /// Draws a dashed line of dashes and gaps in pixels.
    pub fn dashes(&mut self, from: Point, to: Point, width: f64, [dash, gap]: [f64; 2]) {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = dx.hypot(dy);
        let at = |t: f64| [from[0] + dx * t / length, from[1] + dy * t / length];
        let mut t = 0.0;
        while t < length {
            if let Some(path) = polyline(&[at(t), at((t + dash).min(length))], false) {
                self.stroke(&path, width, LineCap::Butt);
            }
            t += dash + gap;
        }
    }

    /// Draws a closed outline, or fills it when `width` is `None`.
    pub fn polygon(&mut self, points: &[Point], width: Option<f64>) {
        let Some(path) = polyline(points, true) else { return };
        match width {
            Some(width) => self.stroke(&path, width, LineCap::Butt),
            None => self.fill(&path),
        }
    }

    /// Draws the outline of a box.
    pub fn rect(&mut self, b: Bounds, width: f64) {
        self.polygon(&[[b.x0, b.y0], [b.x1, b.y0], [b.x1, b.y1], [b.x0, b.y1]], Some(width));
    }

    /// Writes `text` about its centre, capitals `height` pixels high, turned by `degrees` clockwise.
    pub fn text(&mut self, text: &str, center: Point, height: f64, degrees: f64, pen: f64) {
        let k = height / font::HEIGHT;
        let [w, h] = text_size(text, height);
        let (sin, cos) = sin_cos(degrees);
        let place = |&[x, y]: &Point| {
            let (x, y) = (x * k * CONDENSED - w / 2.0, y * k - h / 2.0);
            [center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]
        };
        for line in font::polylines(text) {
            let points: Vec<Point> = line.iter().map(place).collect();
            if let Some(path) = polyline(&points, false) {
                self.stroke(&path, pen, LineCap::Round);
            }
        }
    }
}

/// Letters are narrower than their grid.
const CONDENSED: f64 = 0.85;

/// Width and height of a text in pixels.
pub fn text_size(text: &str, height: f64) -> [f64; 2] {
    [font::width(text) * height / font::HEIGHT * CONDENSED, height]
}

/// A path through points.
pub fn polyline(points: &[Point], close: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (i, &[x, y]) in points.iter().enumerate() {
        if i == 0 {
            path.move_to(x as f32, y as f32);
        } else {
            path.line_to(x as f32, y as f32);
        }
    }
    if close {
        path.close();
    }
    path.finish()
}

/// Sine and cosine of degrees, exact at quarter turns.
pub fn sin_cos(degrees: f64) -> (f64, f64) {
    match degrees.rem_euclid(360.0) {
        0.0 => (0.0, 1.0),
        90.0 => (1.0, 0.0),
        180.0 => (0.0, -1.0),
        270.0 => (-1.0, 0.0),
        other => other.to_radians().sin_cos(),
    }
}

/// `b` with `by` pixels more on every side.
pub fn grown(b: Bounds, by: f64) -> Bounds {
    BBox::new(b.x0 - by, b.y0 - by, b.x1 + by, b.y1 + by)
}

/// The box around a straight line.
pub fn span(a: Point, b: Point) -> Bounds {
    BBox::new(a[0].min(b[0]), a[1].min(b[1]), a[0].max(b[0]), a[1].max(b[1]))
}
