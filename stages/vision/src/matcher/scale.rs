//! The scale of a drawing: the size at which most classes are found on it.

use std::collections::{BTreeMap, BTreeSet};

use super::score::Sheet;
use super::search::hypotheses;
use super::tiles::View;
use super::{CoarsePoses, Matcher, Role, Wanted, suppress};

/// Scales that are looked at, relative to the templates.
const RANGE: [f32; 2] = [0.2, 5.0];
/// Parts of a large drawing that are asked first, and if they say nothing.
const PARTS: [usize; 2] = [6, 12];
/// Shapes that are asked first, those with the most ink.
const FEW_SHAPES: usize = 16;
/// Different shapes whose votes are enough.
const ENOUGH_SHAPES: usize = 3;
/// Smallest and largest symbol that is looked for, pixels across.
const DIAMETERS: [f32; 2] = [22.0, 400.0];
/// Confidence from which a match votes.
const VOTING_CONFIDENCE: f64 = 0.6;
/// Half the width of the window of scales that are one drawing's, as a logarithm.
const HALF_WINDOW: f32 = 0.24;
/// Step between windows, as a logarithm.
const STEP: f32 = 0.04;
/// Overlap above which the weaker match does not vote.
const VOTE_IOU: f32 = 0.3;

/// A match's say in the vote.
struct Vote {
    log_scale: f32,
    shape: usize,
    weight: f32,
}

impl Matcher {
    /// The scale relative to the templates at which most classes are found; `None` when nothing is found well enough.
    /// A few parts of a large drawing and few of many templates are asked first, and more only if that says nothing.
    pub(super) fn drawing_scale(&self, view: &View<'_>) -> Option<f32> {
        let order = self.by_ink();
        let few = &order[..order.len().min(FEW_SHAPES)];
        let ask = |parts: usize, asked: &[usize]| -> Vec<Vote> {
            match view {
                View::Whole(sheet) if !view.is_divided() => self.votes(sheet, asked),
                _ => view.busy_parts(parts).iter().flat_map(|part| self.votes(part, asked)).collect(),
            }
        };
        let mut votes = ask(PARTS[0], few);
        let decided = votes.iter().map(|v| v.shape).collect::<BTreeSet<_>>().len() >= ENOUGH_SHAPES.min(few.len());
        if !decided && (view.is_divided() || few.len() < order.len()) {
            votes = ask(PARTS[1], &order);
        }
        elect(&votes).map(f32::exp)
    }

    /// The given shapes, those with the most ink first. What a person decided changes no drawing's scale.
    fn by_ink(&self) -> Vec<usize> {
        let shapes = &self.own.shapes;
        let mut order: Vec<usize> = (0..shapes.len()).filter(|&i| shapes[i].role == Role::Given).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(shapes[i].ink.len()));
        order
    }

    fn votes(&self, sheet: &Sheet, asked: &[usize]) -> Vec<Vote> {
        let shapes = &self.own.shapes;
        let wanted = |i: usize| {
            // Each shape has its own range, because symbols of few pixels cost much and say little.
            let diameter = shapes[i].diameter * shapes[i].reduction;
            let scale = [RANGE[0].max(DIAMETERS[0] / diameter), RANGE[1].min(DIAMETERS[1] / diameter)];
            let wanted = Wanted { scale, usual: None, free_angle: false, stretch: 0.0, worth: VOTING_CONFIDENCE };
            (asked.contains(&i) && scale[0] <= scale[1]).then_some(wanted)
        };
        let vote = |w: &suppress::Winner| {
            let p = w.hypothesis.features.confidence(w.margin);
            let (log_scale, shape) = (w.hypothesis.scale.ln(), w.hypothesis.shape);
            (p >= VOTING_CONFIDENCE).then_some(Vote { log_scale, shape, weight: p as f32 })
        };
        let found = self.hypotheses(wanted, CoarsePoses::Plain, |query| hypotheses(sheet, query));
        suppress::winners(found, shapes, VOTE_IOU).iter().filter_map(vote).collect()
    }
}

/// The middle of the window in which most shapes are found; many matches of one shape count less than one of many.
fn elect(votes: &[Vote]) -> Option<f32> {
    let inside = |center: f32| votes.iter().filter(move |v| (v.log_scale - center).abs() <= HALF_WINDOW);
    let support = |center: f32| {
        let mut shapes: BTreeMap<usize, f32> = BTreeMap::new();
        for v in inside(center) {
            *shapes.entry(v.shape).or_default() += v.weight;
        }
        shapes.values().map(|w| w.sqrt()).sum::<f32>()
    };
    let steps = (RANGE[0].ln() / STEP) as i32..=(RANGE[1].ln() / STEP) as i32;
    let best = steps.map(|i| i as f32 * STEP).max_by(|&a, &b| {
        // Of equal windows the one nearer to the templates' own size.
        support(a).total_cmp(&support(b)).then(b.abs().total_cmp(&a.abs()))
    })?;
    let weight: f32 = inside(best).map(|v| v.weight).sum();
    let mean = inside(best).map(|v| v.weight * v.log_scale).sum::<f32>() / weight;
    (weight > 0.0).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(scale: f32, shape: usize) -> Vote {
        Vote { log_scale: scale.ln(), shape, weight: 0.9 }
    }

    #[test]
    fn many_shapes_outvote_one() {
        let mut votes: Vec<Vote> = (0..6).map(|s| vote(0.5, s)).collect();
        votes.extend((0..20).map(|_| vote(1.7, 7)));
        assert!((elect(&votes).unwrap().exp() - 0.5).abs() < 0.02);
    }

    #[test]
    fn without_votes_there_is_no_scale() {
        assert!(elect(&[]).is_none());
    }
}
