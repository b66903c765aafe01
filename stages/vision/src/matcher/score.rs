//! How well a pose fits: the features of a hypothesis, its rank among others and its confidence.
//!
//! Owns the meaning of the measurements. The weights were fitted on generated drawings; `tests/matcher_fit.rs` does it
//! and prints them.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::ink::{BAND, Ink, Tally, Usual, smooth};
use super::pose::{CostMap, Pose, UsualScale};
use super::shape::{NO_SECTOR, Shape, orientation};
use super::simd::{Plane, whole};
use super::surround::Surround;
use super::verify::{Likeness, TextLikeness};

/// Distance, pixels, at which a template point's cover has fallen to nothing.
const COVER_RADIUS: f32 = 3.0;
/// Distance from the template's ink, pixels of the drawing, within which ink of the drawing is explained by it.
const EXPLAINED: f32 = 1.7;

/// What was measured at a pose. All are shares of 0..=1 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Features {
    /// Template ink with ink of the drawing near it.
    pub coverage: f32,
    /// The same, counted less where strokes run in another direction.
    pub oriented: f32,
    /// Oriented coverage of the worst and the second worst sector.
    pub worst_sector: f32,
    pub second_sector: f32,
    /// Template ink with ink of the drawing within a pixel.
    pub tight: f32,
    /// Ink of the drawing within the hull that the template lacks, as a share of the ink there.
    pub unexplained: f32,
    /// Length of the strokes of the drawing that the template explains: their ink by the drawing's usual stroke width,
    /// pixels.
    pub length: f32,
    /// Grey levels compared.
    pub likeness: Likeness,
    /// Absolute logarithm of the factor by which width over height differs from the template's.
    pub stretch: f32,
    /// How far from usual the size is on the drawing: see [`UsualScale::off`].
    pub scale_off: f32,
    /// What is around it; nothing until that was looked at.
    pub surround: Surround,
}

/// The drawing in all the forms that scoring reads.
pub(super) struct Sheet {
    pub ink: Ink,
    pub cost: CostMap,
    /// Smoothed darkness, 0..=255.
    pub darkness: Vec<u8>,
    /// The same, smoothed twice as wide.
    pub soft: Vec<u8>,
    /// Usual width of a stroke, pixels.
    pub stroke: f32,
    /// Least and greatest column and row of the places that are looked at: all, but for a part of a larger drawing.
    pub wanted: [[f32; 2]; 2],
}

impl Sheet {
    /// A drawing by itself.
    pub fn of(ink: Ink) -> Self {
        let usual = Tally::of(&ink, 0..ink.height).usual();
        Self::with(ink, &usual)
    }

    /// A part of a drawing on which something is usual.
    pub fn with(ink: Ink, usual: &Usual) -> Self {
        let darkness = ink.darkness(usual);
        let soft = soften(&darkness, ink.width, ink.height);
        let wanted = [[f32::NEG_INFINITY, f32::INFINITY]; 2];
        Self { cost: CostMap::of(&ink), darkness, soft, stroke: usual.stroke, wanted, ink }
    }

    /// Whether a place is looked at.
    pub fn wants(&self, at: [f32; 2]) -> bool {
        self.wanted.iter().zip(at).all(|([low, high], v)| (*low..=*high).contains(&v))
    }

    /// Smoothed darkness, 0..=255.
    pub fn darkness(&self) -> Plane<'_> {
        self.plane(&self.darkness)
    }

    /// The same, smoothed twice as wide.
    pub fn soft(&self) -> Plane<'_> {
        self.plane(&self.soft)
    }

    fn plane<'a>(&self, bytes: &'a [u8]) -> Plane<'a> {
        Plane { bytes, width: self.ink.width, height: self.ink.height }
    }

    /// Measures a shape at a pose where grey levels were compared; `usual` is the scale of the drawing's symbols, where
    /// it is known.
    pub fn features(&self, shape: &Shape, pose: &Pose, usual: Option<UsualScale>, likeness: Likeness) -> Features {
        let (s2, c2) = (2.0 * pose.angle).sin_cos();
        let sign = if pose.mirrored { -1.0 } else { 1.0 };
        let (mut coverage, mut oriented, mut tight) = (0.0, 0.0, 0.0);
        let mut sectors = [[0.0f32; 2]; 16];
        let (place, at) = (pose.placer(), pose.affine());
        for (p, cost) in shape.points.iter().zip(self.cost.under(&shape.cloud, &at)) {
            // Costs are squared distances in thirds of a pixel.
            let cover = (1.0 - cost / (9.0 * COVER_RADIUS * COVER_RADIUS)).max(0.0);
            coverage += cover;
            tight += f32::from(u8::from(cost <= 9.0));
            let mut agreed = cover;
            if p.orientation != [0.0; 2] && cover > 0.0 {
                let [a, b] = [p.orientation[0], p.orientation[1] * sign];
                let wanted = [a * c2 - b * s2, a * s2 + b * c2];
                let [x, y] = place(p.at).map(whole);
                let found = orientation(&self.ink.grey, self.ink.width, self.ink.height, x, y);
                // Opposite double angles are perpendicular strokes; no gradient says nothing.
                agreed *= f32::midpoint(wanted[0] * found[0] + wanted[1] * found[1], 1.0);
            }
            oriented += agreed;
            if p.sector != NO_SECTOR {
                let s = &mut sectors[usize::from(p.sector)];
                *s = [s[0] + agreed, s[1] + 1.0];
            }
        }
        let n = shape.points.len().max(1) as f32;
        let mut local: Vec<f32> = sectors[..shape.sectors].iter().map(|s| s[0] / s[1]).collect();
        local.sort_by(f32::total_cmp);
        let sector = |k: usize| local.get(k).or(local.last()).copied().unwrap_or(oriented / n);

        let (mut explained, mut foreign) = (0u32, 0u32);
        for (distance, cost) in shape.care_distances.iter().zip(self.cost.under(&shape.care, &at)) {
            // No distance to ink is ink; there is none outside the drawing.
            let (ink, near) = (cost == 0.0, distance * pose.scale <= EXPLAINED);
            explained += u32::from(ink & near);
            foreign += u32::from(ink & !near);
        }
        let (explained, foreign) = (explained as f32, foreign as f32);
        Features {
            coverage: coverage / n,
            oriented: oriented / n,
            worst_sector: sector(0),
            second_sector: sector(1),
            tight: tight / n,
            unexplained: foreign / (foreign + explained + 1.0),
            length: explained * shape.care_area * pose.scale * pose.scale / self.stroke,
            likeness,
            stretch: pose.stretch.abs(),
            scale_off: usual.map_or(0.0, |usual| usual.off(pose.scale)),
            surround: Surround::default(),
        }
    }
}

/// Smooths a smoothed plane again, to twice the width.
pub(super) fn soften(plane: &[u8], width: usize, height: usize) -> Vec<u8> {
    /// Times that a plane is smoothed, and how far that reaches.
    const TIMES: usize = 3;
    const REACH: usize = 2 * TIMES;
    let same: Vec<u8> = (0..=255).collect();
    let mut out = vec![0; plane.len()];
    // By bands, so that what lies between the passes stays in the cache.
    out.par_chunks_mut((BAND * width).max(1)).enumerate().for_each(|(band, out)| {
        let first = band * BAND;
        let rows = out.len() / width;
        let (top, bottom) = (first.saturating_sub(REACH), (first + rows + REACH).min(height));
        let part = &plane[top * width..bottom * width];
        let smoothed =
            (1..TIMES).fold(smooth(part, &same, width, bottom - top), |v, _| smooth(&v, &same, width, bottom - top));
        out.copy_from_slice(&smoothed[(first - top) * width..][..rows * width]);
    });
    out
}

/// A measured number by its name in [`super::Match::evidence`], as the models read it.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Name of the number.
    pub name: &'static str,
    /// Sign that its weight may have: 1 when more of it speaks for a match, -1 when it speaks against, 0 for either.
    pub sign: i8,
    of: fn(&Features) -> f32,
}

impl Term {
    /// The number, from a match's evidence.
    pub fn read(&self, evidence: &BTreeMap<String, f64>) -> f64 {
        read(evidence, self.name)
    }
}

/// A number of a match's evidence; 0 where it is not there.
pub(super) fn read(evidence: &BTreeMap<String, f64>, name: &str) -> f64 {
    evidence.get(name).copied().unwrap_or(0.0)
}

/// The probability that belongs to the logarithm of odds.
pub(super) fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// The logarithm of the odds that belong to a probability.
pub(super) fn log_odds(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

macro_rules! terms {
    ($($name:literal $sign:literal $of:expr),* $(,)?) => { [$(Term { name: $name, sign: $sign, of: $of }),*] };
}

const TERMS: usize = 25;

/// All that is measured, in the order of the weights.
pub const CONFIDENCE_TERMS: [Term; TERMS] = terms![
    "coverage" 1 |f| f.coverage,
    "oriented" 1 |f| f.oriented,
    "worst_sector" 1 |f| f.worst_sector,
    "second_sector" 1 |f| f.second_sector,
    "tight" 1 |f| f.tight,
    "unexplained" -1 |f| f.unexplained,
    "correlation" 1 |f| f.likeness.correlation,
    "soft_correlation" 1 |f| f.likeness.soft,
    "stroke_mismatch" -1 |f| f.likeness.correlation - f.likeness.own,
    "residue" -1 |f| f.likeness.residue.min(2.0),
    "stretch_off" -1 |f| f.stretch,
    "scale_off" -1 |f| f.scale_off,
    "log_length" 1 |f| f.length.max(1.0).ln(),
    "has_text" 0 |f| f32::from(u8::from(f.likeness.text.is_some())),
    "text_layout" 1 |f| f.likeness.text.map_or(0.0, |t| t.layout),
    "text_density_off" -1 |f| f.likeness.text.map_or(0.0, |t| t.density.min(1.5)),
    "text_letters" 1 |f| f.likeness.text.map_or(0.0, |t| t.letters),
    "text_lines" 1 |f| f.likeness.text.map_or(0.0, |t| t.lines),
    "text_whole" 1 |f| f.likeness.text.map_or(0.0, |t| t.whole - f.likeness.correlation),
    "ink_near" -1 |f| f.surround.near,
    "ink_far" -1 |f| f.surround.far,
    "ink_at_corners" -1 |f| f.surround.corners,
    "leads" 1 |f| f.surround.leads,
    "ink_beside" -1 |f| f.surround.beside,
    "constant" 0 |_| 1.0,
];

/// Weights of [`CONFIDENCE_TERMS`] in the rank, which is their sum times the root of the length and the exponential of
/// [`RANK_CORRELATION`] times the correlation.
const RANK: [f32; TERMS] = [
    0.000, 0.401, 0.129, 0.118, 0.259, -0.551, 0.581, 0.069, -1.095, 0.000, -0.092, 0.000, 0.000, 0.000, 0.000, 0.000,
    0.000, 0.000, 0.978, 0.000, 0.000, 0.000, 0.000, 0.000, -0.014,
];
/// What the correlation of grey levels counts in the logarithm of the rank: of two symbols that explain a place about as
/// well, the one that looks more like it is right.
pub const RANK_CORRELATION: f32 = 0.7;
/// Weights of [`CONFIDENCE_TERMS`] in the confidence, and of the margin over the runner-up.
const CONFIDENCE: [f64; TERMS + 1] = [
    0.000, 1.819, 0.000, 1.585, 2.255, 0.000, 29.970, 0.000, -31.069, 0.000, -6.194, -6.608, 2.214, -4.326, 3.522,
    0.000, 0.000, 0.000, 3.057, 0.000, 0.000, 0.000, 0.000, 0.000, -40.101, 0.000,
];

impl Features {
    /// The features by name, with the margin over the runner-up, 0..=1.
    pub fn by_name(&self, margin: f32) -> BTreeMap<String, f64> {
        let terms = CONFIDENCE_TERMS.iter().map(|t| (t.name, (t.of)(self)));
        let more = [("length", self.length), ("rank", self.rank()), ("margin", margin)];
        terms.chain(more).map(|(k, v)| (k.to_owned(), f64::from(v))).collect()
    }

    /// How much of the drawing the hypothesis explains, and how well: what decides between classes that fit the same
    /// place. Negative when it fits worse than nothing.
    pub fn rank(&self) -> f32 {
        let fit: f32 = CONFIDENCE_TERMS.iter().zip(RANK).map(|(t, w)| (t.of)(self) * w).sum();
        fit * self.length.max(1.0).sqrt() * (RANK_CORRELATION * self.likeness.correlation).exp()
    }

    /// How likely the hypothesis is right when it won its place with a margin of 0..=1 over the runner-up.
    pub fn confidence(&self, margin: f32) -> f64 {
        probability(self.log_odds(margin))
    }

    /// The logarithm of the odds that the hypothesis is right.
    pub fn log_odds(&self, margin: f32) -> f64 {
        let [weights @ .., last] = &CONFIDENCE;
        let z: f64 = CONFIDENCE_TERMS.iter().zip(weights).map(|(t, w)| f64::from((t.of)(self)) * w).sum();
        z + last * f64::from(margin)
    }

    /// The best that can still come of a pose where grey levels agree this well.
    pub fn at_best(likeness: Likeness, shape: &Shape, pose: &Pose, usual: Option<UsualScale>) -> Self {
        /// The length on the drawing by the template's: strokes may be wider than usual, and others touch.
        const LONGER: f32 = 1.4;
        /// What alignment may still change of a logarithm of the size or the stretch.
        const ALIGNED: f32 = 0.08;
        let off = |logarithm: f32| (logarithm.abs() - ALIGNED).max(0.0);
        Self {
            coverage: 1.0,
            oriented: 1.0,
            worst_sector: 1.0,
            second_sector: 1.0,
            tight: 1.0,
            unexplained: 0.0,
            length: LONGER * shape.length * pose.scale,
            likeness,
            stretch: off(pose.stretch),
            scale_off: usual.map_or(0.0, |usual| off(usual.off(pose.scale))),
            surround: Surround::default(),
        }
    }

    /// The least correlation with which a confidence may be reached, if all else is as good as can be.
    pub fn needed_correlation(confidence: f64, shape: &Shape, pose: &Pose, usual: Option<UsualScale>) -> f32 {
        /// How much better all grey levels may agree than those outside of text.
        const TEXT_GAIN: f32 = 0.2;
        let evidence = |correlation: f32| {
            let whole = correlation + TEXT_GAIN;
            let text = TextLikeness { whole, layout: 1.0, density: 0.0, letters: 1.0, lines: 1.0 };
            let text = shape.dense.has_text().then_some(text);
            let likeness = Likeness { correlation, own: correlation, soft: 1.0, residue: 0.0, text };
            Self::at_best(likeness, shape, pose, usual).log_odds(1.0)
        };
        let (none, gain) = (evidence(0.0), evidence(1.0) - evidence(0.0));
        if gain > 0.0 { ((log_odds(confidence) - none) / gain) as f32 } else { f32::NEG_INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softening_by_bands_is_smoothing_three_times() {
        let same: Vec<u8> = (0..=255).collect();
        for [w, h] in [[0, 0], [1, 1], [5, 200], [37, 64], [20, 129], [31, 70]] {
            let plane: Vec<u8> = (0..w * h).map(|i| (i * i % 251) as u8 ^ (i >> 3) as u8).collect();
            let whole = (0..3).fold(plane.clone(), |v, _| smooth(&v, &same, w, h));
            assert_eq!(soften(&plane, w, h), whole, "{w}x{h}");
        }
    }
}
