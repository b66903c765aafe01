//! What a class was mistaken for: counter-examples laid where the class was found.
//!
//! Owns how a counter-example takes a place from its own class. Refuses to look for counter-examples anywhere else: they
//! take no place from other classes and are never found themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Role;
use super::bank::Twin;
use super::pose::{Limits, Pose};
use super::score::{Features, Sheet};
use super::search::Query;
use super::shape::Shape;

/// Logarithm of the odds by which a counter-example must fit better than the class. A right instance that was rejected
/// by mistake fits other instances about as well as the class's own templates do.
const CLEARLY: f64 = 2.0;
/// Confidence below which nothing is reported, so that nothing needs to be refuted.
const WORTH_REFUTING: f64 = 0.05;

/// The counter-examples among what is looked for, by class, at about the size that they have on the drawing.
pub(super) struct Negatives<'a>(BTreeMap<&'a str, Vec<Arc<Shape>>>);

impl<'a> Negatives<'a> {
    pub fn among(query: &Query<'a>) -> Self {
        let mut of_class: BTreeMap<&str, Vec<Arc<Shape>>> = BTreeMap::new();
        for (i, s) in query.shapes.iter().enumerate().filter(|(_, s)| s.role == Role::Negative) {
            of_class.entry(&s.class).or_default().push((query.sized)(i));
        }
        Self(of_class)
    }

    /// Whether a counter-example of its class clearly fits the place of a shape better, where this was measured.
    pub fn refute(&self, sheet: &Sheet, shape: &Shape, pose: &Pose, measured: &Features, limits: &Limits) -> bool {
        let Some(negatives) = self.0.get(shape.class.as_str()) else { return false };
        let own = measured.log_odds(1.0);
        measured.confidence(1.0) >= WORTH_REFUTING
            && negatives.iter().any(|n| fit(sheet, n, shape, pose, limits) > own + CLEARLY)
    }
}

/// Logarithm of the odds that a counter-example is what lies at the pose of its class's shape. It was cut upright, but
/// a symmetric template does not say how its look-alike lay.
fn fit(sheet: &Sheet, negative: &Shape, shape: &Shape, pose: &Pose, limits: &Limits) -> f64 {
    let size = negative.reduction / shape.reduction;
    let at = middle(shape, pose);
    let lain = |quarters: u8, mirrored: bool| {
        let lain = Pose { at: [0.0; 2], scale: pose.scale * size, ..pose.turned_by(&Twin { quarters, mirrored }) };
        let off = middle(negative, &lain);
        Pose { at: [at[0] - off[0], at[1] - off[1]], ..lain }
    };
    let lies = (0..4).flat_map(|quarters| [false, true].map(|mirrored| lain(quarters, mirrored)));
    let glanced = lies.map(|lie| (negative.dense.glance(sheet, &lie), lie));
    // The first of equally good ones lies as the shape does.
    let best = glanced.reduce(|a, b| if b.0 > a.0 { b } else { a });
    let Some((_, lie)) = best else { return f64::NEG_INFINITY };
    let limits = Limits { usual: limits.usual.map(|u| u.times(size)), ..*limits };
    let aligned = negative.dense.align(sheet, &lie, &limits, f32::NEG_INFINITY).unwrap_or(lie);
    let likeness = negative.dense.compare(sheet, &aligned);
    sheet.features(negative, &aligned, limits.usual, likeness).log_odds(1.0)
}

/// Where the middle of a shape's frame lies on the drawing.
fn middle(shape: &Shape, pose: &Pose) -> [f32; 2] {
    let [x0, y0, x1, y1] = shape.frame;
    pose.placer()([f32::midpoint(x0, x1), f32::midpoint(y0, y1)])
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    use crate::matcher::{Found, Matcher, MatcherConfig, Role, Template};

    const SIDE: i32 = 44;

    /// Strokes of symbols that look alike: a box with one diagonal; the same with a short thick bar across its middle; a box
    /// with a cross.
    fn stroke(kind: u32, x: i32, y: i32) -> bool {
        let (u, v) = (x - SIDE / 2, y - SIDE / 2);
        let edge = (u.abs().max(v.abs()) - 18).abs() <= 1;
        let inside = u.abs().max(v.abs()) < 18;
        match kind {
            0 => edge || (inside && (u - v).abs() <= 2),
            1 => edge || (inside && (u - v).abs() <= 2) || (v.abs() <= 3 && u.abs() < 11),
            _ => edge || (inside && (u.abs() <= 1 || v.abs() <= 1)),
        }
    }

    fn template(class: &str, kind: u32, role: Role) -> Template {
        let image = RgbaImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
            let level = if stroke(kind, x as i32, y as i32) { 20 } else { 245 };
            Rgba([level, level, level, 255])
        });
        Template { class: class.into(), name: format!("{class} {role:?}"), image, role, frame: None }
    }

    /// Symbols side by side, 80 pixels apart.
    fn drawing(kinds: &[u32]) -> RgbImage {
        RgbImage::from_fn(80 * kinds.len() as u32, 90, |x, y| {
            let (u, v) = ((x % 80) as i32 - 20, y as i32 - 20);
            let within = (0..SIDE).contains(&u) && (0..SIDE).contains(&v);
            let ink = within && stroke(kinds[(x / 80) as usize], u, v);
            Rgb([if ink { 20 } else { 245 }; 3])
        })
    }

    fn find(templates: &[Template], kinds: &[u32]) -> Found {
        Matcher::new(templates, &MatcherConfig::default()).unwrap().find(&drawing(kinds))
    }

    /// The places, counted from the left, where a class is matched.
    fn places(found: &Found, class: &str) -> Vec<u32> {
        let all = found.matches.iter().chain(&found.candidates);
        let mut places: Vec<u32> = all.filter(|m| m.class == class).map(|m| m.bbox.x0 as u32 / 80).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn what_looks_like_a_rejected_box_is_not_found_again() {
        let a = template("a", 0, Role::Given);
        let kinds = [0, 1, 0, 1, 2];
        assert_eq!(places(&find(std::slice::from_ref(&a), &kinds), "a"), [0, 1, 2, 3], "a look-alike is taken for it");
        let taught = find(&[a, template("a", 1, Role::Negative)], &kinds);
        assert_eq!(places(&taught, "a"), [0, 2]);
    }

    #[test]
    fn a_turned_look_alike_is_known_too() {
        let turned = |t: Template| Template { image: image::imageops::rotate90(&t.image), ..t };
        let taught = [template("a", 0, Role::Given), turned(template("a", 1, Role::Negative))];
        assert_eq!(places(&find(&taught, &[0, 1, 0, 1]), "a"), [0, 2]);
    }

    #[test]
    fn other_classes_are_not_concerned() {
        let given = [template("a", 0, Role::Given), template("b", 1, Role::Given)];
        let kinds = [0, 1, 1, 0];
        let before = find(&given, &kinds);
        assert_eq!((places(&before, "a"), places(&before, "b")), (vec![0, 3], vec![1, 2]));
        // What was taken for `a` once is a `b`; and somebody rejected a right `b` as an `a` where no `a` was.
        let taught = [&given[..], &[template("a", 1, Role::Negative)]].concat();
        let after = find(&taught, &kinds);
        assert_eq!((places(&after, "a"), places(&after, "b")), (vec![0, 3], vec![1, 2]));
        assert!(after.matches.iter().filter(|m| m.class == "b").all(|m| m.runner_up.is_none() && m.score > 0.3));
    }

    #[test]
    fn a_right_box_that_was_rejected_takes_nothing_away() {
        let given = [template("a", 0, Role::Given), template("c", 2, Role::Given)];
        let kinds = [0, 2, 0, 2];
        let mistaken = [&given[..], &[template("a", 0, Role::Negative)]].concat();
        let found = find(&mistaken, &kinds);
        assert_eq!((places(&found, "a"), places(&found, "c")), (vec![0, 2], vec![1, 3]));
    }

    #[test]
    fn a_counter_example_is_never_found() {
        let found = find(&[template("a", 2, Role::Given), template("a", 0, Role::Negative)], &[0, 0, 2]);
        assert_eq!(places(&found, "a"), [2]);
        assert!(find(&[template("a", 0, Role::Negative)], &[0, 0]).matches.is_empty());
    }
}
