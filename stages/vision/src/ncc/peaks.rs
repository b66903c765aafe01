//! From correlations to boxes: local maxima, and the choice between those that overlap.

use std::collections::BTreeMap;

use datasets::{BBox, Pixels};
use image::GrayImage;

use super::scan::{Block, Kernel};

/// How far a scanned value may be from the exact one; what is this close to a decision is decided on exact values.
const SLACK: f32 = 1e-3;

/// A window that no neighbouring one correlates better than.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    /// Index of the kernel or of the pose.
    pub of: usize,
    /// Left, top.
    pub at: [usize; 2],
    /// Exact correlation.
    pub score: f64,
}

/// The windows of a block that reach `floor` and may be peaks, with exact scores.
pub(super) fn candidates(drawing: &GrayImage, kernel: &Kernel, block: &Block<'_>, floor: f64) -> Vec<Peak> {
    let low = floor as f32 - SLACK;
    let columns = block.columns;
    let rows = block.values.len() / columns;
    let mut found = Vec::new();
    for (y, row) in block.values.chunks(columns).enumerate() {
        if row.iter().filter(|v| **v >= low).count() == 0 {
            continue;
        }
        for (x, &value) in row.iter().enumerate().filter(|(_, v)| **v >= low) {
            let at = [block.at[0] + x, block.at[1] + y];
            let own = (0..2).all(|i| (block.core[i]..block.core[i + 2]).contains(&at[i]));
            let near = y.saturating_sub(1)..(y + 2).min(rows);
            let beside = x.saturating_sub(1)..(x + 2).min(columns);
            let beaten =
                || near.clone().any(|v| block.values[v * columns..][beside.clone()].iter().any(|n| *n > value + SLACK));
            if own && !beaten() {
                let score = kernel.exact(drawing, at);
                if score >= floor {
                    found.push(Peak { of: block.kernel, at, score });
                }
            }
        }
    }
    found
}

/// Drops candidates with a better one of the same kernel beside them. Equal neighbours stay: a template that fits all
/// along a line gives boxes all along it.
pub(super) fn peaks(candidates: Vec<Peak>) -> Vec<Peak> {
    let scores: BTreeMap<(usize, [usize; 2]), f64> = candidates.iter().map(|p| ((p.of, p.at), p.score)).collect();
    let beaten = |p: &Peak| {
        let [x, y] = p.at;
        let near = (y.saturating_sub(1)..=y + 1).flat_map(|v| (x.saturating_sub(1)..=x + 1).map(move |u| [u, v]));
        near.filter_map(|at| scores.get(&(p.of, at))).any(|s| *s > p.score)
    };
    candidates.into_iter().filter(|p| !beaten(p)).collect()
}

/// A peak that no better one overlaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Winner {
    /// Index of its peak.
    pub peak: usize,
    /// Index of the best peak of another class that it overlaps.
    pub runner_up: Option<usize>,
}

/// Greedy suppression whatever the classes: of boxes that overlap by more than `max_iou` the better correlated stays.
/// Best first; equal scores in the order of the boxes from the top, then of the peaks.
pub(super) fn winners(
    peaks: &[Peak],
    boxes: &[BBox<Pixels>],
    class: impl Fn(usize) -> usize,
    max_iou: f64,
) -> Vec<Winner> {
    let mut order: Vec<usize> = (0..peaks.len()).collect();
    let place = |i: usize| (peaks[i].at[1], peaks[i].at[0], i);
    order.sort_by(|&a, &b| peaks[b].score.total_cmp(&peaks[a].score).then_with(|| place(a).cmp(&place(b))));
    // Boxes that overlap have their centres in neighbouring cells.
    let side = boxes.iter().map(|b| b.width().max(b.height())).fold(1.0, f64::max);
    let cell = |b: &BBox<Pixels>| [b.x0 + b.x1, b.y0 + b.y1].map(|v| (v / 2.0 / side) as i64);
    let mut kept: Vec<Winner> = Vec::new();
    let mut cells: BTreeMap<[i64; 2], Vec<usize>> = BTreeMap::new();
    for i in order {
        let [x, y] = cell(&boxes[i]);
        let near = (y - 1..=y + 1).flat_map(|v| (x - 1..=x + 1).map(move |u| [u, v]));
        let rivals = near.filter_map(|c| cells.get(&c)).flatten().copied();
        // The best of those that overlap it.
        if let Some(k) = rivals.filter(|&k| boxes[kept[k].peak].iou(&boxes[i]) > max_iou).min() {
            if kept[k].runner_up.is_none() && class(kept[k].peak) != class(i) {
                kept[k].runner_up = Some(i);
            }
        } else {
            cells.entry([x, y]).or_default().push(kept.len());
            kept.push(Winner { peak: i, runner_up: None });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak(of: usize, x: usize, score: f64) -> Peak {
        Peak { of, at: [x, 5], score }
    }

    #[test]
    fn neighbours_of_better_ones_are_no_peaks() {
        let some = vec![peak(0, 3, 0.8), peak(0, 4, 0.9), peak(0, 5, 0.9), peak(0, 7, 0.7), peak(1, 3, 0.8)];
        assert_eq!(peaks(some.clone()), [some[1], some[2], some[3], some[4]]);
    }

    #[test]
    fn the_best_of_overlapping_boxes_stays_and_knows_its_rival() {
        let some = [peak(0, 0, 0.8), peak(1, 2, 0.9), peak(0, 40, 0.85), peak(1, 41, 0.85)];
        let boxes: Vec<BBox<Pixels>> =
            some.iter().map(|p| BBox::new(p.at[0] as f64, 5.0, p.at[0] as f64 + 10.0, 15.0)).collect();
        let kept = winners(&some, &boxes, |i| some[i].of, 0.5);
        assert_eq!(kept, [Winner { peak: 1, runner_up: Some(0) }, Winner { peak: 2, runner_up: Some(3) }]);
        assert_eq!(winners(&some, &boxes, |i| some[i].of, 1.0).len(), 4);
        assert!(winners(&[], &[], |i| i, 0.5).is_empty());
    }
}
