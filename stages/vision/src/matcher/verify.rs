//! The second look at a hypothesis: the drawing's grey levels laid into the template's frame and compared densely.
//!
//! Owns what the dense comparison reads (darkness at four stroke widths, the places where instances carry their own
//! text) and what it measures. What the measurements mean is decided in [`super::score`].

use super::hull::Hull;
use super::pose::Pose;
use super::shape::Picture;

/// Most samples of a template.
const MAX_SAMPLES: usize = 1600;
/// Margin around the hull that is compared too, pixels: the paper around a symbol is part of it.
const MARGIN: f32 = 2.0;
/// Stroke widths that a template is compared at: one pixel thinner, as it is, one and two pixels thicker.
pub(super) const STROKES: usize = 4;
/// Sectors a side of the grid in which residues are also measured locally.
const SECTORS: usize = 4;
/// Side of the cells over which text is averaged, pixels: its layout counts, not its letters.
const TEXT_CELL: f32 = 5.0;
/// Fewest samples that make a comparison.
const MIN_SAMPLES: usize = 20;

/// A place of the template's frame.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Offset from the centre, pixels.
    at: [f32; 2],
    /// Smoothed darkness of the template at each stroke width, 0..=255.
    darkness: [f32; STROKES],
    soft: f32,
    /// Sector of the local residue.
    sector: u8,
    /// Cell of the text, or [`NO_CELL`] where the symbol itself is drawn.
    cell: u16,
}

const NO_CELL: u16 = u16::MAX;

/// A template ready for dense comparison.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    samples: Vec<Sample>,
    /// Mean darkness of the template in each cell of text.
    text: Vec<f32>,
    /// Lines of text: offset from the centre and smoothed darkness of their pixels.
    lines: Vec<Vec<([f32; 2], f32)>>,
}

/// What the dense comparison measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Likeness {
    /// Correlation of grey levels outside of text, at the best stroke width, -1..=1.
    pub correlation: f32,
    /// The same with the text.
    pub whole: f32,
    /// Correlation of the text's layout, -1..=1; `correlation` where the template has no text.
    pub text: f32,
    /// Ink in the text's place relative to the template's, as the absolute logarithm; 0 without text.
    pub density: f32,
    /// Largest and second largest share of the grey levels' variance that a sector leaves unexplained, 0 and up.
    pub residues: [f32; 2],
    /// Correlation of pictures blurred by twice as much, so that small differences of shape do not count.
    pub soft: f32,
    /// Correlation at the template's own stroke width.
    pub own: f32,
    /// Best and mean correlation of a line of text, letter by letter.
    pub letters: [f32; 2],
    /// Best stroke width, in steps of a pixel to both sides of the template's.
    pub stroke: f32,
}

impl Dense {
    pub fn of(picture: &Picture, hull: &Hull, extent: [f32; 4]) -> Self {
        let (w, h) = (picture.width, picture.height);
        let thin = extreme(&picture.darkness, w, h, u8::min);
        let thick = extreme(&picture.darkness, w, h, u8::max);
        let thicker = extreme(&thick, w, h, u8::max);
        let table: Vec<u8> = (0..=255).collect();
        let planes = [&thin, &picture.darkness, &thick, &thicker].map(|p| super::ink::smooth(p, &table, w, h));
        let soft = blur(&blur(&blur(&blur(&picture.darkness, w, h), w, h), w, h), w, h);
        let offset = |i: usize| [(i % w) as f32 + 0.5 - picture.centre[0], (i / w) as f32 + 0.5 - picture.centre[1]];
        let inside: Vec<usize> =
            (0..w * h).filter(|&i| picture.weight[i] >= 128 && { let [x, y] = offset(i); let _ = hull; x > extent[0] - MARGIN && x < extent[2] + MARGIN && y > extent[1] - MARGIN && y < extent[3] + MARGIN }).collect();
        let stride = inside.len().div_ceil(MAX_SAMPLES).max(1);
        let columns = (w as f32 / TEXT_CELL).ceil() as usize;
        let mut cells = std::collections::BTreeMap::<usize, (u16, f32, f32)>::new();
        let samples = inside
            .iter()
            .step_by(stride)
            .map(|&i| {
                let darkness = std::array::from_fn(|k| f32::from(planes[k][i]));
                let (x, y) = (i % w, i / w);
                let sector = (y * SECTORS / h * SECTORS + x * SECTORS / w) as u8;
                let mut cell = NO_CELL;
                if picture.text[i] == 1 {
                    let key = (y as f32 / TEXT_CELL) as usize * columns + (x as f32 / TEXT_CELL) as usize;
                    let next = cells.len() as u16;
                    let c = cells.entry(key).or_insert((next, 0.0, 0.0));
                    *c = (c.0, c.1 + darkness[1], c.2 + 1.0);
                    cell = c.0;
                }
                Sample { at: offset(i), darkness, soft: f32::from(soft[i]), sector, cell }
            })
            .collect();
        let mut text = vec![0.0; cells.len()];
        for (i, sum, n) in cells.into_values() {
            text[usize::from(i)] = sum / n;
        }
        let lines = text_lines(picture, &planes[1], &offset);
        Self { samples, text, lines }
    }

    pub fn has_text(&self) -> bool { !self.text.is_empty() }

    /// Moves a pose to where the grey levels agree best.
    pub fn polish(&self, start: &Pose, free_angle: bool, at: impl Fn([f32; 2]) -> f32) -> Pose {
        let step = (self.samples.len() / 400).max(1);
        let some: Vec<&Sample> = self.samples.iter().filter(|s| s.cell == NO_CELL).step_by(step).collect();
        if some.len() < MIN_SAMPLES {
            return *start;
        }
        let value = |pose: &Pose, k: usize| {
            let place = pose.placer();
            let mut c = Correlation::default();
            for s in &some {
                c.add(s.darkness[k], at(place(s.at)));
            }
            c.value()
        };
        let (k, mut best) = (0..STROKES).map(|k| (k, value(start, k))).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((1, 0.0));
        let mut pose = *start;
        let mut steps = [0.6f32, 0.6, 0.02, 0.03, if free_angle { 0.03 } else { 0.01 }];
        for _ in 0..2 {
            for _ in 0..2 {
                let mut moved = false;
                for i in 0..5 {
                    for sign in [1.0, -1.0] {
                        let mut p = pose;
                        match i {
                            0 => p.at[0] += sign * steps[0],
                            1 => p.at[1] += sign * steps[1],
                            2 => p.scale *= 1.0 + sign * steps[2],
                            3 => p.stretch += sign * steps[3],
                            _ => p.angle += sign * steps[4],
                        }
                        let v = value(&p, k);
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
            steps = steps.map(|s| s * 0.5);
        }
        pose
    }

    /// Compares the template at a pose with the drawing, whose smoothed darkness `at` gives.
    pub fn compare(&self, pose: &Pose, at: impl Fn([f32; 2]) -> f32, soft_at: impl Fn([f32; 2]) -> f32) -> Likeness {
        if self.samples.len() < MIN_SAMPLES {
            return Likeness::default();
        }
        let place = pose.placer();
        let found: Vec<f32> = self.samples.iter().map(|s| at(place(s.at))).collect();
        let mut strokes = [Correlation::default(); STROKES];
        let mut cells = vec![[0.0f32; 2]; self.text.len()];
        for (s, &b) in self.samples.iter().zip(&found) {
            if s.cell == NO_CELL {
                for (sum, &a) in strokes.iter_mut().zip(&s.darkness) {
                    sum.add(a, b);
                }
            } else {
                let c = &mut cells[usize::from(s.cell)];
                *c = [c[0] + b, c[1] + 1.0];
            }
        }
        let mut soft = Correlation::default();
        for s in self.samples.iter().filter(|s| s.cell == NO_CELL) {
            soft.add(s.soft, soft_at(place(s.at)));
        }
        let values = strokes.map(|s| s.value());
        let k = (0..STROKES).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(1);
        let mut whole = strokes[k];
        for (s, &b) in self.samples.iter().zip(&found).filter(|(s, _)| s.cell != NO_CELL) {
            whole.add(s.darkness[k], b);
        }
        let [gain, bias] = strokes[k].line();
        let mut sectors = [[0.0f32; 2]; SECTORS * SECTORS];
        for (s, &b) in self.samples.iter().zip(&found).filter(|(s, _)| s.cell == NO_CELL) {
            let e = b - gain * s.darkness[k] - bias;
            let c = &mut sectors[usize::from(s.sector)];
            *c = [c[0] + e * e, c[1] + 1.0];
        }
        let variance = strokes[k].variance().max(1.0);
        let mut residues: Vec<f32> =
            sectors.iter().filter(|s| s[1] >= 8.0).map(|s| s[0] / s[1] / variance).collect();
        residues.sort_by(|a, b| b.total_cmp(a));
        let (mut text, mut density) = (values[k], 0.0);
        if !self.text.is_empty() {
            let mut layout = Correlation::default();
            let (mut mine, mut theirs) = (0.0, 0.0);
            for (&a, [sum, n]) in self.text.iter().zip(&cells) {
                let b = sum / n.max(1.0);
                layout.add(a, b);
                (mine, theirs) = (mine + a, theirs + b);
            }
            text = layout.value();
            let floor = 2.0 * self.text.len() as f32;
            density = ((theirs + floor) / (mine + floor)).ln().abs();
        }
        let mut letters = [values[k]; 2];
        if !self.lines.is_empty() {
            let found: Vec<f32> = self.lines.iter().map(|line| {
                let mut best = -1.0f32;
                for dy in [-1.5, 0.0, 1.5] { for dx in [-1.5, 0.0, 1.5] {
                    let mut c = Correlation::default();
                    for &([x, y], a) in line { c.add(a, at(place([x + dx, y + dy]))); }
                    best = best.max(c.value());
                } }
                best
            }).collect();
            letters = [found.iter().copied().fold(-1.0, f32::max), found.iter().sum::<f32>() / found.len() as f32];
        }
        let residue = |i: usize| residues.get(i).copied().unwrap_or(0.0);
        Likeness {
            correlation: values[k],
            whole: whole.value(),
            text,
            density,
            residues: [residue(0), residue(1)],
            own: values[1],
            soft: soft.value(),
            letters,
            stroke: k as f32 - 1.0,
        }
    }
}

fn blur(v: &[u8], w: usize, h: usize) -> Vec<u8> {
    let table: Vec<u8> = (0..=255).collect();
    super::ink::smooth(v, &table, w, h)
}

/// Rows of text that paper separates.
fn text_lines(picture: &Picture, smooth: &[u8], offset: &dyn Fn(usize) -> [f32; 2]) -> Vec<Vec<([f32; 2], f32)>> {
    let (w, h) = (picture.width, picture.height);
    let inked = |y: usize| (0..w).any(|x| picture.text[y * w + x] == 1 && picture.darkness[y * w + x] > 110);
    let mut lines = Vec::new();
    let mut y = 0;
    while y < h {
        if !inked(y) { y += 1; continue; }
        let start = y;
        while y < h && inked(y) { y += 1; }
        if y - start < 4 { continue; }
        let rows = start.saturating_sub(1)..(y + 1).min(h);
        let pixels: Vec<_> = rows.flat_map(|y| (0..w).map(move |x| y * w + x)).filter(|&i| picture.text[i] == 1).collect();
        let stride = pixels.len().div_ceil(300).max(1);
        lines.push(pixels.iter().step_by(stride).map(|&i| (offset(i), f32::from(smooth[i]))).collect());
    }
    lines
}

/// The least or greatest darkness of a pixel and its four neighbours.
fn extreme(v: &[u8], w: usize, h: usize, pick: fn(u8, u8) -> u8) -> Vec<u8> {
    (0..w * h)
        .map(|i| {
            let (x, y) = (i % w, i / w);
            let mut m = v[i];
            if x > 0 {
                m = pick(m, v[i - 1]);
            }
            if x + 1 < w {
                m = pick(m, v[i + 1]);
            }
            if y > 0 {
                m = pick(m, v[i - w]);
            }
            if y + 1 < h {
                m = pick(m, v[i + w]);
            }
            m
        })
        .collect()
}

/// Running sums of a Pearson correlation and of the line through the points.
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
    fn add(&mut self, a: f32, b: f32) {
        let (a, b) = (f64::from(a), f64::from(b));
        self.n += 1.0;
        self.a += a;
        self.b += b;
        self.aa += a * a;
        self.bb += b * b;
        self.ab += a * b;
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
