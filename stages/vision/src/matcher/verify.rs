//! The second look at a pose: the drawing's grey levels laid into the template's frame and compared densely.
//!
//! Owns what the dense comparison reads (darkness at several stroke widths, the places where instances carry their own
//! text) and what it measures. What the measurements mean is decided in [`super::score`].

use std::collections::BTreeMap;

use super::align;
use super::blank::Blank;
use super::ink::smooth;
use super::patch::{Correlation, LAYERS, OWN, Patch, Place, SOFT, STROKES, best_stroke};
use super::pose::{Limits, Pose};
use super::score::{Sheet, soften};
use super::shape::Picture;
use super::simd::{self, Affine, Plane, Simd};

/// Most samples of a template.
const MAX_SAMPLES: usize = 1600;
/// Samples of a glance.
const GLANCE: usize = 256;
/// Samples that a pose is aligned by.
const ALIGN: usize = 400;
/// Margin around the ink's box that is compared too, pixels: the paper around a symbol is part of it.
const MARGIN: f32 = 2.0;
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
    /// Where instances may have writing, and the symbol with all that weighing nothing.
    blank: Option<(Blank, Patch)>,
    /// Some of its places where there is no writing, for a glance and for alignment.
    glance: Patch,
    align: Patch,
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
    /// From a template's picture; `depths` are those of blank outlines, `extent` is the box of its ink as offsets from the
    /// centre.
    pub fn of(picture: &Picture, depths: &[u8], extent: [f32; 4]) -> Self {
        let (w, h) = (picture.width, picture.height);
        let thin = extreme(&picture.darkness, w, h, u8::min);
        let thick = extreme(&picture.darkness, w, h, u8::max);
        let thicker = extreme(&thick, w, h, u8::max);
        let same: Vec<u8> = (0..=255).collect();
        let planes = [&thin, &picture.darkness, &thick, &thicker].map(|p| smooth(p, &same, w, h));
        let soft = soften(&planes[OWN], w, h);
        let inside = |i: &usize| {
            let [x, y] = picture.offset(*i);
            let near =
                x > extent[0] - MARGIN && x < extent[2] + MARGIN && y > extent[1] - MARGIN && y < extent[3] + MARGIN;
            near && picture.weight[*i] > 0
        };
        let (text, symbol): (Vec<usize>, Vec<usize>) = (0..w * h).filter(inside).partition(|&i| picture.text[i] == 1);
        let stride = symbol.len().div_ceil(MAX_SAMPLES).max(1);
        let symbol: Vec<usize> = symbol.into_iter().step_by(stride).collect();
        let place = |&i: &usize| Place {
            at: picture.offset(i),
            weight: f32::from(picture.weight[i]) / 255.0,
            levels: std::array::from_fn::<_, LAYERS, _>(|k| f32::from(if k == SOFT { soft[i] } else { planes[k][i] })),
        };
        let sectored = |&i: &usize| Sectored {
            levels: std::array::from_fn(|k| planes[k][i]),
            sector: (i / w * SECTORS / h * SECTORS + i % w * SECTORS / w) as u8,
        };
        let places: Vec<Place<LAYERS>> = symbol.iter().map(place).collect();
        let written = || symbol.iter().map(|&i| Blank::holds(depths[i]));
        let blank = Blank::of(picture, depths, extent).map(|blank| {
            let outline =
                places.iter().zip(written()).map(|(p, w)| Place { weight: if w { 0.0 } else { p.weight }, ..*p });
            (blank, Patch::of(outline.collect::<Vec<_>>().iter()))
        });
        let outline: Vec<_> = places.iter().zip(written()).filter(|(_, written)| !written).map(|(p, _)| p).collect();
        let some = |most: usize| Patch::of(outline.iter().copied().step_by(outline.len().div_ceil(most).max(1)));
        let mut sums = BTreeMap::<(usize, usize), (u16, f32, f32)>::new();
        let letters: Vec<Place<1>> = text
            .iter()
            .map(|&i| Place { at: picture.offset(i), weight: 1.0, levels: [f32::from(planes[OWN][i])] })
            .collect();
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
            blank,
            glance: some(GLANCE),
            align: some(ALIGN),
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
    pub fn align(&self, sheet: &Sheet, start: &Pose, limits: &Limits, needed: f32) -> Option<Pose> {
        let enough = self.align.cloud.len() >= MIN_SAMPLES;
        if enough { align::align(&self.align, sheet, start, limits, needed) } else { Some(*start) }
    }

    /// Compares the template at a pose with the drawing.
    pub fn compare(&self, sheet: &Sheet, pose: &Pose) -> Likeness {
        if self.symbol.cloud.len() < MIN_SAMPLES {
            return Likeness::default();
        }
        let (simd, at) = (Simd::chosen(), pose.affine());
        let found = self.symbol.levels(simd, &sheet.darkness(), &at);
        let outline = self.blank.as_ref().filter(|(blank, _)| blank.is_written(sheet, &at)).map(|(_, outline)| outline);
        let symbol = outline.unwrap_or(&self.symbol);
        let strokes: [Correlation; STROKES] = std::array::from_fn(|k| symbol.correlation(simd, k, &found));
        let values = strokes.map(|s| s.value());
        let (best, correlation) = best_stroke(&values);
        let [gain, bias] = strokes[best].line();
        let mut sectors = [[0.0f32; 2]; SECTORS * SECTORS];
        for ((s, &b), &weight) in self.sectors.iter().zip(&found).zip(&symbol.weights) {
            let e = b - gain * f32::from(s.levels[best]) - bias;
            let sum = &mut sectors[usize::from(s.sector)];
            *sum = [sum[0] + weight * e * e, sum[1] + weight];
        }
        let variance = strokes[best].variance().max(1.0);
        let residues = sectors.iter().filter(|s| s[1] >= MIN_SECTOR).map(|s| s[0] / s[1] / variance);
        let soft = symbol.levels(simd, &sheet.soft(), &at);
        Likeness {
            correlation,
            own: values[OWN],
            soft: symbol.correlation(simd, SOFT, &soft).value(),
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
