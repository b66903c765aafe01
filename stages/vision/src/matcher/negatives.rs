//! What a class was mistaken for: counter-examples laid where the class was found.
//!
//! Owns how a counter-example takes a place from its own class. Refuses to look for counter-examples anywhere else: they
//! take no place from other classes and are never found themselves.

use std::collections::BTreeMap;

use super::Role;
use super::pose::{Limits, Pose};
use super::score::Sheet;
use super::search::Hypothesis;
use super::shape::Shape;

/// Logarithm of the odds by which a counter-example must fit better than the class. A right instance that was rejected
/// by mistake fits other instances about as well as the class's own templates do.
const CLEARLY: f64 = 1.0;
/// Confidence below which nothing is reported, so that nothing needs to be refuted.
const WORTH_REFUTING: f64 = 0.05;

/// The counter-examples among some shapes, by class.
pub(super) struct Negatives<'a> {
    shapes: &'a [Shape],
    of_class: BTreeMap<&'a str, Vec<&'a Shape>>,
}

impl<'a> Negatives<'a> {
    pub fn among(shapes: &'a [Shape]) -> Self {
        let mut of_class: BTreeMap<&str, Vec<&Shape>> = BTreeMap::new();
        for s in shapes.iter().filter(|s| s.role == Role::Negative) {
            of_class.entry(&s.class).or_default().push(s);
        }
        Self { shapes, of_class }
    }

    /// Whether a counter-example of its class clearly fits the place of a hypothesis better.
    pub fn refute(&self, sheet: &Sheet, h: &Hypothesis, limits: &Limits) -> bool {
        let shape = &self.shapes[h.shape];
        let Some(negatives) = self.of_class.get(shape.class.as_str()) else { return false };
        let own = h.features.log_odds(1.0);
        h.features.confidence(1.0) >= WORTH_REFUTING
            && negatives.iter().any(|n| fit(sheet, n, shape, &h.pose, limits) > own + CLEARLY)
    }
}

/// Logarithm of the odds that a counter-example is what lies at the pose of its class's shape. It was cut upright, but
/// a symmetric template does not say how its look-alike lay.
fn fit(sheet: &Sheet, negative: &Shape, shape: &Shape, pose: &Pose, limits: &Limits) -> f64 {
    let size = negative.reduction / shape.reduction;
    let at = middle(shape, pose);
    let lain = |quarter: u8, mirrored: bool| {
        let stretch = if quarter % 2 == 0 { pose.stretch } else { -pose.stretch };
        let angle = pose.angle + f32::from(quarter) * std::f32::consts::FRAC_PI_2;
        let lain = Pose { at: [0.0; 2], scale: pose.scale * size, angle, mirrored, stretch };
        let off = middle(negative, &lain);
        Pose { at: [at[0] - off[0], at[1] - off[1]], ..lain }
    };
    let lies = (0..4).flat_map(|quarter| [pose.mirrored, !pose.mirrored].map(|m| lain(quarter, m)));
    let glanced = lies.map(|lie| (negative.dense.glance(sheet, &lie), lie));
    // The first of equally good ones lies as the shape does.
    let best = glanced.reduce(|a, b| if b.0 > a.0 { b } else { a });
    let Some((_, lie)) = best else { return f64::NEG_INFINITY };
    let limits = Limits { usual: limits.usual.map(|u| u * size), ..*limits };
    let polished = negative.dense.polish(sheet, &lie, &limits);
    sheet.features(negative, &polished, limits.usual).log_odds(1.0)
}

/// Where the middle of a shape's frame lies on the drawing.
fn middle(shape: &Shape, pose: &Pose) -> [f32; 2] {
    let [x0, y0, x1, y1] = shape.frame;
    pose.placer()([f32::midpoint(x0, x1), f32::midpoint(y0, y1)])
}
