//! How well a pose fits: the features of a match, its evidence and its confidence.

use std::collections::BTreeMap;

use super::ink::Ink;
use super::pose::{CostMap, Pose};
use super::verify::Likeness;
use super::shape::{NO_SECTOR, Region, Shape, orientation};

/// Distance, pixels, at which a template point's cover has fallen to nothing.
const COVER_RADIUS: f32 = 3.0;
/// Distance from the template's ink, pixels of the drawing, within which ink of the drawing is explained by it.
const EXPLAINED: f32 = 1.7;
/// Fit at which a match says nothing; a worse one speaks against itself.
const NEUTRAL_FIT: f32 = 0.55;

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
    /// Ink of the drawing within the hull that the template lacks, relative to the template's ink, 0 and up.
    pub foreign: f32,
    /// The same as a share of the ink within the hull.
    pub unexplained: f32,
    pub likeness: Likeness,
    pub explained: f32,
    pub scale_off: f32,
    pub stretch: f32,
    /// Ink of the template at its size on the drawing, pixels.
    pub ink: f32,
}

/// The drawing in all the forms that scoring reads.
pub(super) struct Sheet {
    pub ink: Ink,
    pub cost: CostMap,
    /// Smoothed darkness, 0..=255.
    pub darkness: Vec<u8>,
    pub soft: Vec<u8>,
}

impl Sheet {
    pub fn of(ink: Ink) -> Self {
        let darkness = ink.darkness(); let t: Vec<u8> = (0..=255).collect(); let b = |v: &[u8]| super::ink::smooth(v, &t, ink.width, ink.height); let soft = b(&b(&b(&darkness)));
        Self { cost: CostMap::of(&ink), darkness, soft, ink }
    }

    /// Darkness between four pixels; 0 outside the drawing.
    pub fn darkness_at(&self, at: [f32; 2]) -> f32 {
        self.level(&self.darkness, at)
    }

    fn level(&self, plane: &[u8], [x, y]: [f32; 2]) -> f32 {
        let (w, h) = (self.ink.width as i32, self.ink.height as i32);
        let (fx, fy) = ((x - 0.5).floor(), (y - 0.5).floor());
        let (u, v) = (fx as i32, fy as i32);
        if u < 0 || v < 0 || u + 1 >= w || v + 1 >= h {
            return 0.0;
        }
        let (a, b) = (x - 0.5 - fx, y - 0.5 - fy);
        let i = v as usize * w as usize + u as usize;
        let d = |i: usize| f32::from(plane[i]);
        let (top, bottom) = (d(i) + a * (d(i + 1) - d(i)), {
            let j = i + w as usize;
            d(j) + a * (d(j + 1) - d(j))
        });
        top + b * (bottom - top)
    }

    /// Whether there is ink at a place; `None` outside the drawing.
    fn ink_at(&self, [x, y]: [f32; 2]) -> Option<bool> {
        let (u, v) = (x.floor(), y.floor());
        let inside = u >= 0.0 && v >= 0.0 && u < self.ink.width as f32 && v < self.ink.height as f32;
        inside.then(|| self.ink.mask[v as usize * self.ink.width + u as usize] == 1)
    }

    /// Measures a shape at a pose.
    pub fn features(&self, shape: &Shape, pose: &Pose) -> Features {
        let place = pose.placer();
        let (s2, c2) = (2.0 * pose.angle).sin_cos();
        let sign = if pose.mirrored { -1.0 } else { 1.0 };
        let (mut coverage, mut oriented, mut tight) = (0.0, 0.0, 0.0);
        let mut sectors = [[0.0f32; 2]; 16];
        for p in &shape.points {
            let at = place(p.at);
            let d = self.cost.distance(at);
            let cover = (1.0 - (d / COVER_RADIUS).powi(2)).max(0.0);
            coverage += cover;
            tight += f32::from(u8::from(d <= 1.0));
            let mut agreed = cover;
            if p.orientation != [0.0; 2] && cover > 0.0 {
                let [a, b] = [p.orientation[0], p.orientation[1] * sign];
                let wanted = [a * c2 - b * s2, a * s2 + b * c2];
                let (x, y) = (at[0].floor() as i32, at[1].floor() as i32);
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

        let (mut explained, mut foreign) = (0.0f32, 0.0f32);
        for q in shape.samples.iter().filter(|q| q.region == Region::Care) {
            if self.ink_at(place(q.at)) == Some(true) {
                if q.distance * pose.scale <= EXPLAINED { explained += 1.0 } else { foreign += 1.0 }
            }
        }
        let likeness = shape.dense.compare(pose, |at| self.darkness_at(at), |at| self.level(&self.soft, at));
        let own = shape.samples.iter().filter(|q| q.distance == 0.0).count().max(1) as f32;
        Features {
            coverage: coverage / n,
            oriented: oriented / n,
            worst_sector: sector(0),
            second_sector: sector(1),
            tight: tight / n,
            explained: explained * shape.sample_area * pose.scale * pose.scale,
            scale_off: 0.0,
            foreign: foreign / own,
            unexplained: foreign / (foreign + explained + 1.0),
            likeness,
            stretch: pose.stretch.abs(),
            ink: shape.ink.len() as f32 * pose.scale * pose.scale,
        }
    }
}

/// A number that the confidence weighs: a feature by its name in the evidence, and how it is bent.
#[derive(Clone, Copy, Debug)]
pub struct ConfidenceFeature {
    /// Name in [`super::Match::evidence`].
    pub name: &'static str,
    bend: fn(f64) -> f64,
}

impl ConfidenceFeature {
    /// The number, from a match's evidence.
    pub fn of(&self, evidence: &BTreeMap<String, f64>) -> f64 {
        (self.bend)(evidence.get(self.name).copied().unwrap_or(0.0))
    }
}

const FEATURES: usize = 5;

/// What the confidence weighs, in the order of its weights.
pub const CONFIDENCE_FEATURES: [ConfidenceFeature; FEATURES] = [
    ConfidenceFeature { name: "oriented", bend: |v| 10.0 * v },
    ConfidenceFeature { name: "unexplained", bend: |v| v },
    ConfidenceFeature { name: "correlation", bend: |v| v },
    ConfidenceFeature { name: "ink", bend: |v| v.max(1.0).ln() },
    // Without a runner-up, as before the choice between classes, this is 0.
    ConfidenceFeature { name: "margin", bend: |v| v - 1.0 },
];

/// Weights of [`CONFIDENCE_FEATURES`]; the last is the constant. Fitted by ridge logistic regression on generated
/// drawings: `tests/matcher_fit.rs` does it and prints this line.
const CONFIDENCE: [f64; FEATURES + 1] = [1.73, -4.72, 18.36, 1.53, 0.36, -39.33];

impl Features {
    /// The features by name, with the margin over the runner-up, 0..=1.
    pub fn by_name(&self, margin: f32) -> BTreeMap<String, f64> {
        let numbers = [
            ("coverage", self.coverage),
            ("oriented", self.oriented),
            ("worst_sector", self.worst_sector),
            ("second_sector", self.second_sector),
            ("tight", self.tight),
            ("foreign", self.foreign),
            ("unexplained", self.unexplained),
            ("correlation", self.likeness.correlation),("whole", self.likeness.whole),("text", self.likeness.text),("density", self.likeness.density),("residue", self.likeness.residues[0]),("residue2", self.likeness.residues[1]),("stroke", self.likeness.stroke),("own",self.likeness.own),("soft",self.likeness.soft),("letters",self.likeness.letters[0]),("letters_mean",self.likeness.letters[1]),("stretch", self.stretch),("explained",self.explained),("scale_off",self.scale_off),
            ("ink", self.ink),
            ("evidence", self.evidence()),
            ("margin", margin),
        ];
        numbers.map(|(k, v)| (k.to_owned(), f64::from(v))).into()
    }

    /// How much of the drawing the match explains: what decides between classes that fit the same place. Missing ink
    /// of the template costs much, foreign ink little, because pipes cross symbols and text lies in them.
    pub fn evidence(&self) -> f32 {
        let strokes = 0.7 * self.oriented + 0.3 * self.worst_sector - 0.2 * self.foreign;
        self.ink * (f32::midpoint(strokes, self.likeness.correlation) - NEUTRAL_FIT)
    }
}

/// How likely a match with this evidence is right, 0..=1.
pub(super) fn confidence(evidence: &BTreeMap<String, f64>) -> f64 {
    let [weights @ .., constant] = CONFIDENCE;
    let z: f64 = CONFIDENCE_FEATURES.iter().zip(weights).map(|(f, w)| f.of(evidence) * w).sum::<f64>() + constant;
    1.0 / (1.0 + (-z).exp())
}
