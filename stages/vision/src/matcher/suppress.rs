//! The choice between hypotheses that claim the same place.

use std::collections::BTreeMap;

use super::Role;
use super::search::Hypothesis;
use super::shape::Shape;

/// Share of the smaller box inside the larger one from which one symbol is a part of the other.
const MAX_CONTAINED: f32 = 0.7;
/// How far the sides of two boxes around the same thing are from each other at most, as a share of the longer side.
const MAX_OFF: f32 = 0.1;
/// How far a rank may be below the winner's, as a share of it, for a hypothesis to claim the place about as well.
const RIVAL: f32 = 0.2;
/// Side of the cells of the look-up grid, pixels.
const GRID: f32 = 64.0;

/// A hypothesis that no better one contradicts.
#[derive(Clone, Debug)]
pub(super) struct Winner {
    pub hypothesis: Hypothesis,
    /// Index of the best suppressed shape of another class.
    pub runner_up: Option<usize>,
    /// How far the winner's rank is above the runner-up's, 0..=1; 1 without a runner-up.
    pub margin: f32,
    /// Its box: left, top, right, bottom. Where a confirmed picture of the class fits the same place, that one's, which
    /// a person has seen.
    pub bounds: [f32; 4],
    boxed: bool,
    /// The best of each other class that claims the very same place about as well.
    pub rivals: Vec<Hypothesis>,
}

impl Winner {
    /// A hypothesis that nothing contradicts, with the margin that is given.
    pub fn alone(hypothesis: Hypothesis, margin: f32) -> Self {
        Self { bounds: hypothesis.bounds, boxed: false, rivals: Vec::new(), hypothesis, runner_up: None, margin }
    }
}

/// Keeps the best of hypotheses that overlap by more than `max_iou` or contain one another, whatever their classes.
/// With `max_iou` 1 all are kept. One that a counter-example refutes is not kept; it still stands for those of its class
/// that fit no better, which are the same mistake at a slightly different pose, and for nothing else.
pub(super) fn winners(mut hypotheses: Vec<Hypothesis>, shapes: &[Shape], max_iou: f32) -> Vec<Winner> {
    hypotheses.retain(|h| h.rank > 0.0);
    // Stable: equal ranks stay in the order of the search.
    hypotheses.sort_by(|a, b| b.rank.total_cmp(&a.rank));
    let mut kept: Vec<Winner> = Vec::new();
    let mut grid: BTreeMap<[i32; 2], Vec<usize>> = BTreeMap::new();
    for h in hypotheses {
        let class = |h: &Hypothesis| &shapes[h.shape].class;
        let odds = |h: &Hypothesis| h.features.log_odds(1.0);
        let same_mistake = |k: &Hypothesis, h: &Hypothesis| class(k) == class(h) && odds(h) <= odds(k);
        let against = |&k: &usize| {
            let k = &kept[k].hypothesis;
            (!k.refuted || same_mistake(k, &h)) && contradict(&k.bounds, &h.bounds, max_iou)
        };
        let near = || cells(&h.bounds).filter_map(|c| grid.get(&c)).flatten().copied();
        // The first that was kept is the best.
        let stronger = if max_iou < 1.0 { near().filter(against).min() } else { None };
        let Some(k) = stronger else {
            for c in cells(&h.bounds) {
                grid.entry(c).or_default().push(kept.len());
            }
            kept.push(Winner::alone(h, 1.0));
            continue;
        };
        let w = &mut kept[k];
        let confirmed = |h: &Hypothesis| shapes[h.shape].role == Role::Confirmed;
        let same = class(&w.hypothesis) == class(&h) && one_thing(&w.hypothesis.bounds, &h.bounds);
        if !w.boxed && !confirmed(&w.hypothesis) && confirmed(&h) && same {
            (w.bounds, w.boxed) = (h.bounds, true);
        }
        if h.refuted || class(&w.hypothesis) == class(&h) {
            continue;
        }
        let margin = (1.0 - h.rank / w.hypothesis.rank.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0);
        if w.runner_up.is_none() {
            (w.runner_up, w.margin) = (Some(h.shape), margin);
        }
        let known = w.rivals.iter().any(|r| class(r) == class(&h));
        if margin <= RIVAL && !known && one_thing(&w.hypothesis.bounds, &h.bounds) {
            w.rivals.push(h);
        }
    }
    kept.retain(|w| !w.hypothesis.refuted);
    kept
}

/// The cells of the look-up grid that a box touches.
fn cells(bounds: &[f32; 4]) -> impl Iterator<Item = [i32; 2]> + use<> {
    let [left, top, right, bottom] = bounds.map(|v| (v / GRID).floor() as i32);
    (top..=bottom).flat_map(move |y| (left..=right).map(move |x| [x, y]))
}

/// Whether two boxes go around the same thing, tightly or not.
fn one_thing(a: &[f32; 4], b: &[f32; 4]) -> bool {
    let longer = |r: &[f32; 4]| (r[2] - r[0]).max(r[3] - r[1]);
    let size = longer(a).max(longer(b));
    (0..4).all(|k| (a[k] - b[k]).abs() <= MAX_OFF * size)
}

fn contradict(a: &[f32; 4], b: &[f32; 4], max_iou: f32) -> bool {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    if width <= 0.0 || height <= 0.0 {
        return false;
    }
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let common = width * height;
    common / (area(a) + area(b) - common) > max_iou || common / area(a).min(area(b)) > MAX_CONTAINED
}

#[cfg(test)]
mod tests {
    use image::{Rgba, RgbaImage};

    use super::super::Template;
    use super::super::pose::Pose;
    use super::super::score::Features;
    use super::super::verify::Likeness;
    use super::*;

    fn shape(class: &str) -> Shape {
        let level =
            |x: u32, y: u32| if (4..36).contains(&x) && (4..36).contains(&y) && (x + y) % 8 < 3 { 0 } else { 255 };
        let image = RgbaImage::from_fn(40, 40, |x, y| Rgba([level(x, y), level(x, y), level(x, y), 255]));
        let template = Template { class: class.into(), name: class.into(), image, role: Role::Given, frame: None };
        Shape::of(&template, 1.0).unwrap()
    }

    fn hypothesis(shapes: &[Shape], shape: usize, rank: f32, left: f32) -> Hypothesis {
        let (pose, bounds) = (Pose::upright(1.0), [left, 0.0, left + 40.0, 40.0]);
        let features = Features::at_best(Likeness::default(), &shapes[shape], &pose, None);
        Hypothesis { shape, scale: 1.0, bounds, rank, refuted: false, pose, features }
    }

    #[test]
    fn rivals_claim_the_very_same_place_about_as_well() {
        let shapes = ["a", "a", "b", "c", "d"].map(shape);
        let found = |shape, rank, left| hypothesis(&shapes, shape, rank, left);
        let found = [
            found(0, 10.0, 0.0),
            found(1, 9.9, 1.0),
            found(2, 9.8, 1.0),
            found(2, 9.7, 0.0),
            found(3, 9.6, 8.0),
            found(4, 7.9, 0.0),
            found(4, 7.0, 200.0),
        ];
        let won = winners(found.to_vec(), &shapes, 0.3);
        let ranks = |all: &[Hypothesis]| all.iter().map(|h| h.rank).collect::<Vec<_>>();
        assert_eq!(ranks(&won.iter().map(|w| w.hypothesis.clone()).collect::<Vec<_>>()), [10.0, 7.0]);
        // The other picture of `a` is no rival, `c` lies beside it, `d` fits worse.
        assert_eq!(ranks(&won[0].rivals), [9.8]);
        assert!(won[1].rivals.is_empty() && won[0].runner_up == Some(2));
    }
}
