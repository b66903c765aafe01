//! The choice between hypotheses that claim the same place.

use super::search::Hypothesis;
use super::shape::Shape;

/// Share of the smaller box inside the larger one from which one symbol is a part of the other.
const MAX_CONTAINED: f32 = 0.7;

/// A hypothesis that no better one contradicts.
#[derive(Clone, Debug)]
pub(super) struct Winner {
    pub hypothesis: Hypothesis,
    /// Index of the best suppressed shape of another class.
    pub runner_up: Option<usize>,
    /// How far the winner's rank is above the runner-up's, 0..=1; 1 without a runner-up.
    pub margin: f32,
}

/// Keeps the best of hypotheses that overlap by more than `max_iou` or contain one another, whatever their classes.
/// With `max_iou` 1 all are kept.
pub(super) fn winners(mut hypotheses: Vec<Hypothesis>, shapes: &[Shape], max_iou: f32) -> Vec<Winner> {
    hypotheses.retain(|h| h.rank > 0.0);
    // Stable: equal ranks stay in the order of the search.
    hypotheses.sort_by(|a, b| b.rank.total_cmp(&a.rank));
    let mut kept: Vec<Winner> = Vec::new();
    for h in hypotheses {
        let stronger = if max_iou < 1.0 {
            kept.iter_mut().find(|w| contradict(&w.hypothesis.bounds, &h.bounds, max_iou))
        } else {
            None
        };
        let Some(w) = stronger else {
            kept.push(Winner { hypothesis: h, runner_up: None, margin: 1.0 });
            continue;
        };
        if w.runner_up.is_none() && shapes[w.hypothesis.shape].class != shapes[h.shape].class {
            w.runner_up = Some(h.shape);
            w.margin = (1.0 - h.rank / w.hypothesis.rank.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0);
        }
    }
    kept
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
