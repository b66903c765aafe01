//! The scale of a drawing: the size at which most classes are found on it.

use std::collections::{BTreeMap, BTreeSet};

use super::pose::Worth;
use super::score::Sheet;
use super::search::hypotheses;
use super::tiles::View;
use super::{CoarsePoses, Matcher, Role, Wanted, reach, suppress};

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
/// How far a size may lie outside of the wanted ones and belong to the drawing, as a logarithm.
const BEYOND: f32 = 0.017;
/// Share of the best support from which a base is as good.
const AS_GOOD: f32 = 0.99;
/// Step between windows, as a logarithm.
const STEP: f32 = 0.04;
/// Overlap above which the weaker match does not vote.
const VOTE_IOU: f32 = 0.3;

/// A match's say in the vote.
struct Vote {
    log_scale: f32,
    shape: usize,
    weight: f32,
    /// Logarithms of the smallest and the largest size that are wanted of it, relative to the base.
    reach: [f32; 2],
}

impl Vote {
    /// Whether the size is one of those that are wanted with a base.
    fn is_inside(&self, base: f32) -> bool {
        (self.reach[0] - BEYOND..=self.reach[1] + BEYOND).contains(&(self.log_scale - base))
    }
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
            let worth = Worth::all_from(VOTING_CONFIDENCE);
            let wanted = Wanted { scale, usual: None, free_angle: false, stretch: 0.0, worth };
            (asked.contains(&i) && scale[0] <= scale[1]).then_some(wanted)
        };
        let vote = |w: &suppress::Winner| {
            let p = w.hypothesis.features.confidence(w.margin);
            let (log_scale, shape) = (w.hypothesis.scale.ln(), w.hypothesis.shape);
            let reach = reach(self.config.poses_of(&shapes[shape].class));
            (p >= VOTING_CONFIDENCE).then_some(Vote { log_scale, shape, weight: p as f32, reach })
        };
        let found = self.hypotheses(wanted, CoarsePoses::Plain, |query| hypotheses(sheet, query));
        suppress::winners(found, shapes, VOTE_IOU).iter().filter_map(vote).collect()
    }
}

/// The base with which most shapes have a wanted size; many matches of one shape count less than one of many. Of equal
/// ones the one next to the mean size.
fn elect(votes: &[Vote]) -> Option<f32> {
    let inside = |base: f32| votes.iter().filter(move |v| v.is_inside(base));
    let support = |base: f32| {
        let mut shapes: BTreeMap<usize, f32> = BTreeMap::new();
        for v in inside(base) {
            *shapes.entry(v.shape).or_default() += v.weight;
        }
        shapes.values().map(|w| w.sqrt()).sum::<f32>()
    };
    let steps = (RANGE[0].ln() / STEP) as i32..=(RANGE[1].ln() / STEP) as i32;
    let bases: Vec<(f32, f32)> = steps.map(|i| i as f32 * STEP).map(|b| (b, support(b))).collect();
    // Of equal ones the one nearer to the templates' own size.
    let nearer = |a: f32, b: f32| b.abs().total_cmp(&a.abs());
    let (best, most) = bases.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1).then(nearer(a.0, b.0)))?;
    let weight: f32 = inside(best).map(|v| v.weight).sum();
    let mean = inside(best).map(|v| v.weight * v.log_scale).sum::<f32>() / weight;
    // The mean is finer than the steps, but it may leave out sizes at the ends of a wide range.
    let good = bases.iter().filter(|b| b.1 >= AS_GOOD * most).map(|b| b.0);
    let nearest = good.min_by(|a, b| (a - mean).abs().total_cmp(&(b - mean).abs()))?;
    (weight > 0.0).then_some(mean.clamp(nearest - 0.5 * STEP, nearest + 0.5 * STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(scale: f32, shape: usize) -> Vote {
        Vote { log_scale: scale.ln(), shape, weight: 0.9, reach: [0.8f32.ln(), 1.25f32.ln()] }
    }

    #[test]
    fn many_shapes_outvote_one() {
        let mut votes: Vec<Vote> = (0..6).map(|s| vote(0.5, s)).collect();
        votes.extend((0..20).map(|_| vote(1.7, 7)));
        assert!((elect(&votes).unwrap().exp() - 0.5).abs() < 0.02);
    }

    #[test]
    fn a_wide_range_of_sizes_is_covered() {
        let reach = [0.5f32.ln(), 1.5f32.ln()];
        let at = |i: usize| 2.0 * (0.5 + 1.0 * i as f32 / 19.0);
        let votes: Vec<Vote> = (0..20).map(|i| Vote { reach, ..vote(at(i), i) }).collect();
        let base = elect(&votes).unwrap().exp();
        assert!((1.9..2.1).contains(&base), "{base}");
    }

    #[test]
    fn without_votes_there_is_no_scale() {
        assert!(elect(&[]).is_none());
    }
}
