//! The confusion matrix.
//!
//! Classes do not matter for the matching: each prediction turns to the truth it overlaps most, and each truth takes the
//! prediction that overlaps it most of those that turned to it. Crowds are left out, and predictions inside one too.

use serde::Serialize;

use super::input::{EvalInput, overlap};

/// How often each class was taken for each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Confusion {
    /// Lowest confidence that counts.
    pub conf: f64,
    /// Overlap (IoU) that a pair has to exceed.
    pub iou: f64,
    /// `[predicted][true]`; the last row counts truth that nothing was predicted on, the last column predictions on the
    /// background. One longer than the classes on both sides.
    pub counts: Vec<Vec<usize>>,
}

impl Confusion {
    /// The same, each column (true class) divided by its sum; 0 for an empty column.
    pub fn normalised(&self) -> Vec<Vec<f64>> {
        let sums: Vec<usize> = (0..self.counts.len()).map(|t| self.counts.iter().map(|row| row[t]).sum()).collect();
        let share = |(n, sum): (&usize, &usize)| if *sum > 0 { *n as f64 / *sum as f64 } else { 0.0 };
        self.counts.iter().map(|row| row.iter().zip(&sums).map(share).collect()).collect()
    }
}

/// Counts at `conf` and `iou`.
pub fn confusion(input: &EvalInput, conf: f64, iou: f64) -> Confusion {
    let background = input.classes.len();
    let mut counts = vec![vec![0; background + 1]; background + 1];
    for p in &input.pictures {
        // Truth -> prediction and overlap.
        let mut taken: Vec<Option<(usize, f64)>> = vec![None; p.truth.len()];
        let inside_crowd = |f| p.truth.iter().any(|t| t.crowd && overlap(f, t) > iou);
        let found: Vec<_> = p.found.iter().filter(|f| f.score >= conf).collect();
        for (i, f) in found.iter().enumerate() {
            let mut best: Option<(usize, f64)> = None;
            for (g, t) in p.truth.iter().enumerate().filter(|(_, t)| !t.crowd) {
                let o = overlap(f, t);
                if o > iou && best.is_none_or(|b| o > b.1) {
                    best = Some((g, o));
                }
            }
            let Some((g, o)) = best else { continue };
            let stronger = |(j, p): (usize, f64)| o > p || (o == p && f.score > found[j].score);
            if taken[g].is_none_or(stronger) {
                taken[g] = Some((i, o));
            }
        }
        let mut used = vec![false; found.len()];
        for (t, taken) in p.truth.iter().zip(&taken).filter(|(t, _)| !t.crowd) {
            let row = taken.map_or(background, |(i, _)| {
                used[i] = true;
                found[i].class
            });
            counts[row][t.class] += 1;
        }
        for (f, _) in found.iter().zip(&used).filter(|(f, used)| !**used && !inside_crowd(f)) {
            counts[f.class][background] += 1;
        }
    }
    Confusion { conf, iou, counts }
}

#[cfg(test)]
mod tests {
    use super::super::input::{Found, Picture, Truth};
    use super::*;
    use crate::geometry::BBox;

    #[test]
    fn rows_are_predictions_and_columns_truth() {
        let bbox = |x: f64| BBox::new(x, 0.0, x + 10.0, 10.0);
        let truth = |class, x| Truth { class, bbox: bbox(x), area: 100.0, crowd: false };
        let found = |class, x, score| Found { class, bbox: bbox(x), area: 100.0, score };
        let input = EvalInput {
            classes: vec!["a".into(), "b".into()],
            pictures: vec![Picture {
                image: "p".into(),
                truth: vec![truth(0, 0.0), truth(0, 100.0), truth(1, 200.0)],
                found: vec![
                    found(0, 1.0, 0.9),
                    found(0, 0.0, 0.5), // lies better, so it takes the truth; the other is one too many
                    found(1, 100.0, 0.9),
                    found(1, 300.0, 0.9),
                    found(1, 200.0, 0.2), // below the confidence
                ],
            }],
            notes: Vec::new(),
        };
        let m = confusion(&input, 0.25, 0.45);
        assert_eq!(m.counts, [[1, 0, 1], [1, 0, 1], [0, 1, 0]]);
        assert_eq!(m.normalised(), [[0.5, 0.0, 0.5], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]);
    }
}
