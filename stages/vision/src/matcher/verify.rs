//! The second look at a pose: the drawing's grey levels laid into the template's frame and compared densely.
//!
//! Owns what the dense comparison reads (darkness at several stroke widths, the places where instances carry their own
//! text) and what it measures. What the measurements mean is decided in [`super::score`].

use std::collections::BTreeMap;

use super::ink::smooth;
use super::pose::{Limits, Pose};
use super::score::{Sheet, soften};
use super::shape::Picture;
use super::simd::{self, Affine, Cloud, Plane, Simd};

/// Most samples of a template.
const MAX_SAMPLES: usize = 1600;
/// Samples of a glance.
const GLANCE: usize = 256;
/// Samples that a pose is polished by.
const POLISH: usize = 400;
/// How much more the grey levels may agree in the end than after each sweep of each round of polishing; steps are half
/// as long from round to round.
const LATER_GAIN: [[f32; 2]; 2] = [[0.18, 0.08], [0.05, 0.03]];
/// Margin around the ink's box that is compared too, pixels: the paper around a symbol is part of it.
const MARGIN: f32 = 2.0;
/// Stroke widths that a template is compared at: one pixel thinner, as it is, one and two pixels thicker.
const STROKES: usize = 4;
/// The template's own stroke width.
const OWN: usize = 1;
/// Sectors a side of the grid in which residues are measured.
const SECTORS: usize = 4;
/// Fewest samples of a sector worth judging.
const MIN_SECTOR: f32 = 8.0;
/// Side of the cells over which text is averaged, pixels: its layout counts, not its letters.
const TEXT_CELL: usize = 5;
/// Darkness from which a pixel is a letter's.
const LETTER: u8 = 110;
/// Lowest line of text, pixels.
const MIN_LINE: usize = 4;
/// Most samples of a line of text.
const LINE_SAMPLES: usize = 300;
/// How far text may be shifted against its outline, pixels.
const TEXT_SHIFT: f32 = 1.5;
/// Fewest samples that make a comparison.
const MIN_SAMPLES: usize = 20;

/// Layers of the symbol's levels: smoothed at each stroke width, and at its own width smoothed twice as wide.
const LAYERS: usize = STROKES + 1;
/// The layer that is smoothed twice as wide.
const SOFT: usize = STROKES;

/// A place of the template's frame: offset from the centre, pixels; weight, 0..=1; levels, 0..=255.
#[derive(Clone, Copy, Debug)]
struct Place<const LAYERS: usize> {
    at: [f32; 2],
    weight: f32,
    levels: [f32; LAYERS],
}

/// Places that are compared together.
#[derive(Clone, Debug)]
struct Patch {
    cloud: Cloud,
    /// Of each place; the padding weighs nothing.
    weights: Vec<f32>,
    layers: Vec<Layer>,
}

/// A template's levels at the places of a patch.
#[derive(Clone, Debug)]
struct Layer {
    /// Weight times level.
    weighted: Vec<f32>,
    /// The sums that depend on the template alone.
    sums: Correlation,
}

impl Patch {
    fn of<'a, const N: usize>(places: impl Iterator<Item = &'a Place<N>> + Clone) -> Self {
        let cloud = Cloud::of(places.clone().map(|p| p.at));
        let padded = |values: &mut dyn Iterator<Item = f32>| {
            let mut values: Vec<f32> = values.collect();
            values.resize(cloud.padded(), 0.0);
            values
        };
        let layer = |k: usize| {
            let mut sums = Correlation::default();
            places.clone().for_each(|p| sums.add(p.levels[k], 0.0, p.weight));
            Layer { weighted: padded(&mut places.clone().map(|p| p.weight * p.levels[k])), sums }
        };
        Self { weights: padded(&mut places.clone().map(|p| p.weight)), layers: (0..N).map(layer).collect(), cloud }
    }

    /// The levels of a plane at the places.
    fn levels(&self, simd: Simd, plane: &Plane, pose: &Affine) -> Vec<f32> {
        let mut levels = vec![0.0; self.cloud.padded()];
        simd::between(simd, plane, &self.cloud, pose, &mut levels);
        levels
    }

    /// Compares a layer with what [`Self::levels`] gave.
    fn correlation(&self, simd: Simd, layer: usize, levels: &[f32]) -> Correlation {
        let Layer { weighted, sums } = &self.layers[layer];
        let mut found = [0.0; 3];
        simd::moments(simd, &self.weights, weighted, levels, &mut found);
        let [b, bb, ab] = found.map(f64::from);
        Correlation { b, bb, ab, ..*sums }
    }

    /// The stroke width that agrees best with the levels, and the correlation there.
    fn best_stroke(&self, simd: Simd, levels: &[f32]) -> (usize, f32) {
        let values = std::array::from_fn(|k| self.correlation(simd, k, levels).value());
        best_stroke(&values)
    }
}

/// The best of the correlations at each stroke width.
fn best_stroke(values: &[f32; STROKES]) -> (usize, f32) {
    let best = (0..STROKES).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(OWN);
    (best, values[best])
}

/// What residues are measured by: levels at each stroke width, and the sector.
#[derive(Clone, Copy, Debug)]
struct Sectored {
    levels: [u8; STROKES],
    sector: u8,
}

/// A template ready for dense comparison.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// The symbol outside of text, and its sectors.
    symbol: Patch,
    sectors: Vec<Sectored>,
    /// Some of its places, for a glance and for polishing.
    glance: Patch,
    polish: Patch,
    /// The text, and the cell that each of its places is in.
    text: Patch,
    cell_of: Vec<u16>,
    /// Mean darkness of the template in each cell of text.
    cells: Vec<f32>,
    /// The lines of text.
    lines: Vec<Patch>,
}

/// What the dense comparison measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Likeness {
    /// Correlation of grey levels outside of text, at the best stroke width, -1..=1.
    pub correlation: f32,
    /// Correlation at the template's own stroke width.
    pub own: f32,
    /// Correlation of pictures smoothed twice as wide, so that small differences of shape do not count.
    pub soft: f32,
    /// Largest share of the grey levels' variance that a sector leaves unexplained, 0 and up.
    pub residue: f32,
    /// The text, where the template has some.
    pub text: Option<TextLikeness>,
}

/// What was measured where the template has text. Correlations are -1..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TextLikeness {
    /// Correlation of all grey levels, with the text.
    pub whole: f32,
    /// Correlation of the text's layout.
    pub layout: f32,
    /// Absolute logarithm of the ink there relative to the template's.
    pub density: f32,
    /// Correlation of the letters of the line that agrees best, and of all lines on average.
    pub letters: f32,
    pub lines: f32,
}

impl Dense {
    /// From a template's picture; `extent` is the box of its ink as offsets from the centre.
    pub fn of(picture: &Picture, extent: [f32; 4]) -> Self {
        let (w, h) = (picture.width, picture.height);
        let thin = extreme(&picture.darkness, w, h, u8::min);
        let thick = extreme(&picture.darkness, w, h, u8::max);
        let thicker = extreme(&thick, w, h, u8::max);
        let same: Vec<u8> = (0..=255).collect();
        let planes = [&thin, &picture.darkness, &thick, &thicker].map(|p| smooth(p, &same, w, h));
        let soft = soften(&planes[OWN], w, h);
        let offset = |i: usize| [(i % w) as f32 + 0.5 - picture.centre[0], (i / w) as f32 + 0.5 - picture.centre[1]];
        let inside = |i: &usize| {
            let [x, y] = offset(*i);
            let near =
                x > extent[0] - MARGIN && x < extent[2] + MARGIN && y > extent[1] - MARGIN && y < extent[3] + MARGIN;
            near && picture.weight[*i] > 0
        };
        let (text, symbol): (Vec<usize>, Vec<usize>) = (0..w * h).filter(inside).partition(|&i| picture.text[i] == 1);
        let stride = symbol.len().div_ceil(MAX_SAMPLES).max(1);
        let symbol: Vec<usize> = symbol.into_iter().step_by(stride).collect();
        let place = |&i: &usize| Place {
            at: offset(i),
            weight: f32::from(picture.weight[i]) / 255.0,
            levels: std::array::from_fn::<_, LAYERS, _>(|k| f32::from(if k == SOFT { soft[i] } else { planes[k][i] })),
        };
        let sectored = |&i: &usize| Sectored {
            levels: std::array::from_fn(|k| planes[k][i]),
            sector: (i / w * SECTORS / h * SECTORS + i % w * SECTORS / w) as u8,
        };
        let places: Vec<Place<LAYERS>> = symbol.iter().map(place).collect();
        let some = |most: usize| Patch::of(places.iter().step_by(places.len().div_ceil(most).max(1)));
        let mut sums = BTreeMap::<(usize, usize), (u16, f32, f32)>::new();
        let letters: Vec<Place<1>> =
            text.iter().map(|&i| Place { at: offset(i), weight: 1.0, levels: [f32::from(planes[OWN][i])] }).collect();
        let cell_of = text.iter().zip(&letters).map(|(i, letter)| {
            let next = sums.len() as u16;
            let sum = sums.entry((i / w / TEXT_CELL, i % w / TEXT_CELL)).or_insert((next, 0.0, 0.0));
            *sum = (sum.0, sum.1 + letter.levels[0], sum.2 + 1.0);
            sum.0
        });
        let cell_of = cell_of.collect();
        let mut cells = vec![0.0; sums.len()];
        for (cell, sum, n) in sums.into_values() {
            cells[usize::from(cell)] = sum / n;
        }
        Self {
            symbol: Patch::of(places.iter()),
            sectors: symbol.iter().map(sectored).collect(),
            glance: some(GLANCE),
            polish: some(POLISH),
            lines: lines(picture, &text, &letters),
            text: Patch::of(letters.iter()),
            cell_of,
            cells,
        }
    }

    /// Whether the symbol holds text.
    pub fn has_text(&self) -> bool {
        !self.cell_of.is_empty()
    }

    /// Correlation outside of text by some samples at the best stroke width, -1..=1.
    pub fn glance(&self, sheet: &Sheet, pose: &Pose) -> f32 {
        let simd = Simd::chosen();
        let mut levels = vec![0.0; self.glance.cloud.padded()];
        // The plane is smooth: the nearest pixel says enough.
        simd::nearest(simd, &sheet.darkness(), 0, &self.glance.cloud, &pose.affine(), &mut levels);
        self.glance.best_stroke(simd, &levels).1
    }

    /// The same with the text, which tells turned copies of an outline from one another.
    pub fn glance_with_text(&self, sheet: &Sheet, pose: &Pose) -> f32 {
        let (simd, plane, at) = (Simd::chosen(), sheet.darkness(), pose.affine());
        let symbol = self.glance.levels(simd, &plane, &at);
        let (stroke, _) = self.glance.best_stroke(simd, &symbol);
        let text = self.text.levels(simd, &plane, &at);
        let text = self.text.correlation(simd, 0, &text);
        self.glance.correlation(simd, stroke, &symbol).with(&text).value()
    }

    /// Moves a pose to where the grey levels agree best; `None` once it is clear that they will not agree as well as
    /// `needed`.
    pub fn polish(&self, sheet: &Sheet, start: &Pose, limits: &Limits, needed: f32) -> Option<Pose> {
        if self.polish.cloud.len() < MIN_SAMPLES {
            return Some(*start);
        }
        let (simd, plane) = (Simd::chosen(), sheet.darkness());
        let mut levels = self.polish.levels(simd, &plane, &start.affine());
        let (stroke, mut best) = self.polish.best_stroke(simd, &levels);
        let mut value = |at: &Affine| {
            simd::between(simd, &plane, &self.polish.cloud, at, &mut levels);
            self.polish.correlation(simd, stroke, &levels).value()
        };
        let (mut pose, mut placed) = (*start, start.affine());
        // Pixels to the right and down, share of the scale, logarithm of the stretch, radians.
        let mut steps = [0.6, 0.6, 0.02, 0.03, if limits.free_angle { 0.03 } else { 0.01 }];
        let mut direction = [1.0f32; 5];
        for gains in LATER_GAIN {
            // Parameters since the last move: once none of them moves the pose, all are at their best.
            let mut still = 0;
            for gain in gains {
                for k in 0..steps.len() {
                    if still == steps.len() {
                        break;
                    }
                    still += 1;
                    for sign in [direction[k], -direction[k]] {
                        let (mut p, by) = (pose, sign * steps[k]);
                        match k {
                            0 | 1 => p.at[k] += by,
                            2 => p.scale *= 1.0 + by,
                            3 => p.stretch += by,
                            _ => p.angle += by,
                        }
                        // Sines and exponentials are dear, and a shift changes none.
                        let at = if k < 2 { Affine { at: p.at, ..placed } } else { p.affine() };
                        let v = value(&at);
                        if v > best + 1e-4 {
                            (best, pose, placed, direction[k], still) = (v, p, at, sign, 0);
                            break;
                        }
                    }
                }
                if best + gain < needed {
                    return None;
                }
            }
            steps = steps.map(|s| 0.5 * s);
        }
        Some(pose)
    }

    /// Compares the template at a pose with the drawing.
    pub fn compare(&self, sheet: &Sheet, pose: &Pose) -> Likeness {
        if self.symbol.cloud.len() < MIN_SAMPLES {
            return Likeness::default();
        }
        let (simd, at) = (Simd::chosen(), pose.affine());
        let found = self.symbol.levels(simd, &sheet.darkness(), &at);
        let strokes: [Correlation; STROKES] = std::array::from_fn(|k| self.symbol.correlation(simd, k, &found));
        let values = strokes.map(|s| s.value());
        let (best, correlation) = best_stroke(&values);
        let [gain, bias] = strokes[best].line();
        let mut sectors = [[0.0f32; 2]; SECTORS * SECTORS];
        for ((s, &b), &weight) in self.sectors.iter().zip(&found).zip(&self.symbol.weights) {
            let e = b - gain * f32::from(s.levels[best]) - bias;
            let sum = &mut sectors[usize::from(s.sector)];
            *sum = [sum[0] + weight * e * e, sum[1] + weight];
        }
        let variance = strokes[best].variance().max(1.0);
        let residues = sectors.iter().filter(|s| s[1] >= MIN_SECTOR).map(|s| s[0] / s[1] / variance);
        let soft = self.symbol.levels(simd, &sheet.soft(), &at);
        Likeness {
            correlation,
            own: values[OWN],
            soft: self.symbol.correlation(simd, SOFT, &soft).value(),
            residue: residues.fold(0.0, f32::max),
            text: (!self.cell_of.is_empty()).then(|| self.compare_text(simd, &sheet.darkness(), &at, strokes[best])),
        }
    }

    /// Compares the text; `symbol` holds the sums outside of it.
    fn compare_text(&self, simd: Simd, plane: &Plane, at: &Affine, symbol: Correlation) -> TextLikeness {
        let levels = self.text.levels(simd, plane, at);
        let whole = symbol.with(&self.text.correlation(simd, 0, &levels));
        let mut found = vec![[0.0f32; 2]; self.cells.len()];
        for (&cell, &b) in self.cell_of.iter().zip(&levels) {
            let cell = &mut found[usize::from(cell)];
            *cell = [cell[0] + b, cell[1] + 1.0];
        }
        let mut layout = Correlation::default();
        let (mut mine, mut theirs) = (0.0, 0.0);
        for (&a, [sum, n]) in self.cells.iter().zip(found) {
            let b = sum / n.max(1.0);
            layout.add(a, b, 1.0);
            (mine, theirs) = (mine + a, theirs + b);
        }
        // Two levels a cell: paper is never quite white.
        let floor = 2.0 * self.cells.len() as f32;
        let shifts = [-TEXT_SHIFT, 0.0, TEXT_SHIFT];
        let shifted = |line: &Patch, dx: f32, dy: f32| {
            let moved = |i: usize| at.at[i] + dx * at.x[i] + dy * at.y[i];
            let levels = line.levels(simd, plane, &Affine { at: [moved(0), moved(1)], ..*at });
            line.correlation(simd, 0, &levels).value()
        };
        let agreement = |line: &Patch| {
            let values = shifts.iter().flat_map(|&dy| shifts.map(|dx| shifted(line, dx, dy)));
            values.fold(-1.0, f32::max)
        };
        let lines: Vec<f32> = self.lines.iter().map(agreement).collect();
        let layout = layout.value();
        TextLikeness {
            whole: whole.value(),
            layout,
            density: ((theirs + floor) / (mine + floor)).ln().abs(),
            letters: lines.iter().copied().reduce(f32::max).unwrap_or(layout),
            lines: if lines.is_empty() { layout } else { lines.iter().sum::<f32>() / lines.len() as f32 },
        }
    }
}

/// Rows of text with paper between them; `text` are indices of the letters' pixels.
fn lines(picture: &Picture, text: &[usize], letters: &[Place<1>]) -> Vec<Patch> {
    let w = picture.width;
    let mut inked = vec![false; picture.height];
    for &i in text.iter().filter(|&&i| picture.darkness[i] > LETTER) {
        inked[i / w] = true;
    }
    let mut lines = Vec::new();
    let mut y = 0;
    while let Some(start) = (y..inked.len()).find(|&y| inked[y]) {
        y = (start..inked.len()).find(|&y| !inked[y]).unwrap_or(inked.len());
        if y - start >= MIN_LINE {
            let rows = start.saturating_sub(1)..=y;
            let line = text.iter().zip(letters).filter(|(i, _)| rows.contains(&(*i / w))).map(|(_, letter)| letter);
            let step = line.clone().count().div_ceil(LINE_SAMPLES).max(1);
            lines.push(Patch::of(line.step_by(step)));
        }
    }
    lines
}

/// The least or greatest darkness of a pixel and its four neighbours.
fn extreme(v: &[u8], w: usize, h: usize, pick: fn(u8, u8) -> u8) -> Vec<u8> {
    let neighbours = |i: usize| {
        let (x, y) = (i % w, i / w);
        let near =
            [(x > 0).then(|| i - 1), (x + 1 < w).then(|| i + 1), (y > 0).then(|| i - w), (y + 1 < h).then(|| i + w)];
        near.into_iter().flatten().fold(v[i], |m, j| pick(m, v[j]))
    };
    (0..w * h).map(neighbours).collect()
}

/// Running sums of a weighted Pearson correlation and of the line through the points.
#[derive(Clone, Copy, Debug, Default)]
struct Correlation {
    n: f64,
    a: f64,
    b: f64,
    aa: f64,
    bb: f64,
    ab: f64,
}

impl Correlation {
    fn add(&mut self, a: f32, b: f32, weight: f32) {
        let (a, b, weight) = (f64::from(a), f64::from(b), f64::from(weight));
        self.n += weight;
        self.a += weight * a;
        self.b += weight * b;
        self.aa += weight * a * a;
        self.bb += weight * b * b;
        self.ab += weight * a * b;
    }

    /// With the points of another.
    fn with(&self, other: &Self) -> Self {
        Self {
            n: self.n + other.n,
            a: self.a + other.a,
            b: self.b + other.b,
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            ab: self.ab + other.ab,
        }
    }

    /// The correlation, -1..=1; 0 where one side does not vary.
    fn value(&self) -> f32 {
        let n = self.n.max(1.0);
        let spread = (self.aa - self.a * self.a / n) * (self.bb - self.b * self.b / n);
        if spread <= 1.0 { 0.0 } else { ((self.ab - self.a * self.b / n) / spread.sqrt()) as f32 }
    }

    /// Gain and bias of the line that gives `b` from `a` with the least squares.
    fn line(&self) -> [f32; 2] {
        let n = self.n.max(1.0);
        let spread = self.aa - self.a * self.a / n;
        let gain = if spread <= 1.0 { 0.0 } else { (self.ab - self.a * self.b / n) / spread };
        [gain as f32, ((self.b - gain * self.a) / n) as f32]
    }

    /// Variance of `b`.
    fn variance(&self) -> f32 {
        let n = self.n.max(1.0);
        ((self.bb - self.b * self.b / n) / n) as f32
    }
}
