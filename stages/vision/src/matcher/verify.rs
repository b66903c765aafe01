//! The second look at a pose: the drawing's grey levels laid into the template's frame and compared densely.
//!
//! Owns what the dense comparison reads (darkness at several stroke widths, the places where instances carry their own
//! text) and what it measures. What the measurements mean is decided in [`super::score`].

use std::collections::BTreeMap;

use super::ink::smooth;
use super::pose::{Limits, Pose};
use super::score::{Sheet, soften};
use super::shape::Picture;

/// Most samples of a template.
const MAX_SAMPLES: usize = 1600;
/// Samples of a glance.
const GLANCE: usize = 256;
/// Samples that a pose is polished by.
const POLISH: usize = 400;
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

/// A place of the template's frame outside of text.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Offset from the centre, pixels.
    at: [f32; 2],
    /// Smoothed darkness of the template at each stroke width, 0..=255.
    darkness: [f32; STROKES],
    /// The same at its own stroke width, smoothed twice as wide.
    soft: f32,
    /// Weight, 0..=1.
    weight: f32,
    /// Sector of the residue.
    sector: u8,
}

/// A pixel of text: offset from the centre, smoothed darkness, cell.
#[derive(Clone, Copy, Debug)]
struct Letter {
    at: [f32; 2],
    darkness: f32,
    cell: u16,
}

/// A template ready for dense comparison.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    samples: Vec<Sample>,
    text: Vec<Letter>,
    /// Mean darkness of the template in each cell of text.
    cells: Vec<f32>,
    /// The lines of text, each as its pixels.
    lines: Vec<Vec<Letter>>,
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
        let sample = |&i: &usize| Sample {
            at: offset(i),
            darkness: std::array::from_fn(|k| f32::from(planes[k][i])),
            soft: f32::from(soft[i]),
            weight: f32::from(picture.weight[i]) / 255.0,
            sector: (i / w * SECTORS / h * SECTORS + i % w * SECTORS / w) as u8,
        };
        let mut sums = BTreeMap::<(usize, usize), (u16, f32, f32)>::new();
        let text = text
            .into_iter()
            .map(|i| {
                let (darkness, next) = (f32::from(planes[OWN][i]), sums.len() as u16);
                let sum = sums.entry((i / w / TEXT_CELL, i % w / TEXT_CELL)).or_insert((next, 0.0, 0.0));
                *sum = (sum.0, sum.1 + darkness, sum.2 + 1.0);
                (i, Letter { at: offset(i), darkness, cell: sum.0 })
            })
            .collect::<Vec<_>>();
        let mut cells = vec![0.0; sums.len()];
        for (cell, sum, n) in sums.into_values() {
            cells[usize::from(cell)] = sum / n;
        }
        Self {
            samples: symbol.iter().step_by(stride).map(sample).collect(),
            cells,
            lines: lines(picture, &text),
            text: text.into_iter().map(|(_, letter)| letter).collect(),
        }
    }

    /// Correlation outside of text by some samples at the best stroke width, -1..=1.
    pub fn glance(&self, sheet: &Sheet, pose: &Pose) -> f32 {
        self.best_stroke(sheet, pose, self.samples.len().div_ceil(GLANCE)).1
    }

    /// Index of the best stroke width by every `step`th sample, and the correlation there.
    fn best_stroke(&self, sheet: &Sheet, pose: &Pose, step: usize) -> (usize, f32) {
        let place = pose.placer();
        let mut sums = [Correlation::default(); STROKES];
        for s in self.samples.iter().step_by(step.max(1)) {
            let found = sheet.darkness_at(place(s.at));
            for (sum, &a) in sums.iter_mut().zip(&s.darkness) {
                sum.add(a, found, s.weight);
            }
        }
        let values = sums.map(|s| s.value());
        let best = (0..STROKES).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(OWN);
        (best, values[best])
    }

    /// Moves a pose to where the grey levels agree best.
    pub fn polish(&self, sheet: &Sheet, start: &Pose, limits: &Limits) -> Pose {
        let step = self.samples.len().div_ceil(POLISH).max(1);
        if self.samples.len() < MIN_SAMPLES {
            return *start;
        }
        let (k, mut best) = self.best_stroke(sheet, start, step);
        let value = |pose: &Pose| {
            let place = pose.placer();
            let mut sum = Correlation::default();
            for s in self.samples.iter().step_by(step) {
                sum.add(s.darkness[k], sheet.darkness_at(place(s.at)), s.weight);
            }
            sum.value()
        };
        let mut pose = *start;
        // Pixels to the right and down, share of the scale, logarithm of the stretch, radians.
        let mut steps = [0.6, 0.6, 0.02, 0.03, if limits.free_angle { 0.03 } else { 0.01 }];
        for _ in 0..2 {
            for _ in 0..2 {
                let mut moved = false;
                for (k, step) in steps.iter().enumerate() {
                    for by in [*step, -*step] {
                        let mut p = pose;
                        match k {
                            0 | 1 => p.at[k] += by,
                            2 => p.scale *= 1.0 + by,
                            3 => p.stretch += by,
                            _ => p.angle += by,
                        }
                        let v = value(&p);
                        if v > best + 1e-4 {
                            (best, pose, moved) = (v, p, true);
                            break;
                        }
                    }
                }
                if !moved {
                    break;
                }
            }
            steps = steps.map(|s| 0.5 * s);
        }
        pose
    }

    /// Compares the template at a pose with the drawing.
    pub fn compare(&self, sheet: &Sheet, pose: &Pose) -> Likeness {
        if self.samples.len() < MIN_SAMPLES {
            return Likeness::default();
        }
        let place = pose.placer();
        let mut strokes = [Correlation::default(); STROKES];
        let mut soft = Correlation::default();
        let found: Vec<f32> = self.samples.iter().map(|s| sheet.darkness_at(place(s.at))).collect();
        for (s, &b) in self.samples.iter().zip(&found) {
            for (sum, &a) in strokes.iter_mut().zip(&s.darkness) {
                sum.add(a, b, s.weight);
            }
            soft.add(s.soft, sheet.soft_at(place(s.at)), s.weight);
        }
        let values = strokes.map(|s| s.value());
        let best = (0..STROKES).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(OWN);
        let [gain, bias] = strokes[best].line();
        let mut sectors = [[0.0f32; 2]; SECTORS * SECTORS];
        for (s, &b) in self.samples.iter().zip(&found) {
            let e = b - gain * s.darkness[best] - bias;
            let sum = &mut sectors[usize::from(s.sector)];
            *sum = [sum[0] + s.weight * e * e, sum[1] + s.weight];
        }
        let variance = strokes[best].variance().max(1.0);
        let residues = sectors.iter().filter(|s| s[1] >= MIN_SECTOR).map(|s| s[0] / s[1] / variance);
        Likeness {
            correlation: values[best],
            own: values[OWN],
            soft: soft.value(),
            residue: residues.fold(0.0, f32::max),
            text: (!self.text.is_empty()).then(|| self.compare_text(sheet, pose, strokes[best])),
        }
    }

    /// Compares the text; `symbol` holds the sums outside of it.
    fn compare_text(&self, sheet: &Sheet, pose: &Pose, symbol: Correlation) -> TextLikeness {
        let place = pose.placer();
        let mut whole = symbol;
        let mut found = vec![[0.0f32; 2]; self.cells.len()];
        for letter in &self.text {
            let b = sheet.darkness_at(place(letter.at));
            whole.add(letter.darkness, b, 1.0);
            let cell = &mut found[usize::from(letter.cell)];
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
        let lines: Vec<f32> = self
            .lines
            .iter()
            .map(|line| {
                let shifted = |dx: f32, dy: f32| {
                    let mut sum = Correlation::default();
                    for l in line {
                        sum.add(l.darkness, sheet.darkness_at(place([l.at[0] + dx, l.at[1] + dy])), 1.0);
                    }
                    sum.value()
                };
                shifts.iter().flat_map(|&dy| shifts.map(|dx| shifted(dx, dy))).fold(-1.0, f32::max)
            })
            .collect();
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

/// Rows of text with paper between them.
fn lines(picture: &Picture, text: &[(usize, Letter)]) -> Vec<Vec<Letter>> {
    let w = picture.width;
    let mut inked = vec![false; picture.height];
    for &(i, _) in text.iter().filter(|(i, _)| picture.darkness[*i] > LETTER) {
        inked[i / w] = true;
    }
    let mut lines = Vec::new();
    let mut y = 0;
    while let Some(start) = (y..inked.len()).find(|&y| inked[y]) {
        y = (start..inked.len()).find(|&y| !inked[y]).unwrap_or(inked.len());
        if y - start >= MIN_LINE {
            let rows = start.saturating_sub(1)..=y;
            let line: Vec<Letter> = text.iter().filter(|(i, _)| rows.contains(&(i / w))).map(|(_, l)| *l).collect();
            lines.push(line.iter().step_by(line.len().div_ceil(LINE_SAMPLES)).copied().collect());
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
#[derive(Clone, Copy, Default)]
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
