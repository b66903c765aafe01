//! Places of a template that are compared together with a drawing's grey levels, and the correlation there.
//!
//! Owns the sums. Refuses to choose places and poses.

use super::simd::{self, Affine, Cloud, Plane, Simd};

/// Stroke widths that a template is compared at: one pixel thinner, as it is, one and two pixels thicker.
pub(super) const STROKES: usize = 4;
/// The template's own stroke width.
pub(super) const OWN: usize = 1;
/// Layers of the symbol's levels: smoothed at each stroke width, and at its own width smoothed twice as wide.
pub(super) const LAYERS: usize = STROKES + 1;
/// The layer that is smoothed twice as wide.
pub(super) const SOFT: usize = STROKES;

/// A place of the template's frame: offset from the centre, pixels; weight, 0..=1; levels, 0..=255.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<const LAYERS: usize> {
    pub at: [f32; 2],
    pub weight: f32,
    pub levels: [f32; LAYERS],
}

/// Places that are compared together.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub cloud: Cloud,
    /// Of each place; the padding weighs nothing.
    pub weights: Vec<f32>,
    pub layers: Vec<Layer>,
}

/// A template's levels at the places of a patch.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Weight times level.
    pub weighted: Vec<f32>,
    /// The sums that depend on the template alone.
    pub sums: Correlation,
}

impl Patch {
    pub fn of<'a, const N: usize>(places: impl Iterator<Item = &'a Place<N>> + Clone) -> Self {
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
    pub fn levels(&self, simd: Simd, plane: &Plane, pose: &Affine) -> Vec<f32> {
        let mut levels = vec![0.0; self.cloud.padded()];
        simd::between(simd, plane, &self.cloud, pose, &mut levels);
        levels
    }

    /// Compares a layer with what [`Self::levels`] gave.
    pub fn correlation(&self, simd: Simd, layer: usize, levels: &[f32]) -> Correlation {
        let Layer { weighted, sums } = &self.layers[layer];
        let mut found = [0.0; 3];
        simd::moments(simd, &self.weights, weighted, levels, &mut found);
        let [b, bb, ab] = found.map(f64::from);
        Correlation { b, bb, ab, ..*sums }
    }

    /// The stroke width that agrees best with the levels, and the correlation there.
    pub fn best_stroke(&self, simd: Simd, levels: &[f32]) -> (usize, f32) {
        let values = std::array::from_fn(|k| self.correlation(simd, k, levels).value());
        best_stroke(&values)
    }
}

/// The best of the correlations at each stroke width.
pub(super) fn best_stroke(values: &[f32; STROKES]) -> (usize, f32) {
    let best = (0..STROKES).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(OWN);
    (best, values[best])
}

/// Running sums of a weighted Pearson correlation and of the line through the points.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Correlation {
    pub n: f64,
    pub a: f64,
    pub b: f64,
    pub aa: f64,
    pub bb: f64,
    pub ab: f64,
}

impl Correlation {
    pub fn add(&mut self, a: f32, b: f32, weight: f32) {
        let (a, b, weight) = (f64::from(a), f64::from(b), f64::from(weight));
        self.n += weight;
        self.a += weight * a;
        self.b += weight * b;
        self.aa += weight * a * a;
        self.bb += weight * b * b;
        self.ab += weight * a * b;
    }

    /// With the points of another.
    pub fn with(&self, other: &Self) -> Self {
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
    pub fn value(&self) -> f32 {
        let n = self.n.max(1.0);
        let spread = (self.aa - self.a * self.a / n) * (self.bb - self.b * self.b / n);
        if spread <= 1.0 { 0.0 } else { ((self.ab - self.a * self.b / n) / spread.sqrt()) as f32 }
    }

    /// Gain and bias of the line that gives `b` from `a` with the least squares.
    pub fn line(&self) -> [f32; 2] {
        let n = self.n.max(1.0);
        let spread = self.aa - self.a * self.a / n;
        let gain = if spread <= 1.0 { 0.0 } else { (self.ab - self.a * self.b / n) / spread };
        [gain as f32, ((self.b - gain * self.a) / n) as f32]
    }

    /// Variance of `b`.
    pub fn variance(&self) -> f32 {
        let n = self.n.max(1.0);
        ((self.bb - self.b * self.b / n) / n) as f32
    }
}
