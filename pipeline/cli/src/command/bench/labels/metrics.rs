//! How right labels are: at the threshold that was in force, at the best one, and whether the scores mean what they say.
//!
//! Owns the figures of this benchmark and their definitions. Refuses to own counts and kinds of mistakes, which are
//! those of `datasets::eval`.
//!
//! A box is right when it overlaps a truth of its class by [`IOU`]; best score first, each truth is hit once. The figures
//! are taken over all boxes of all sheets, not as means of classes.

use std::collections::BTreeMap;

use datasets::eval::{Counts, EvalInput, Mistakes, Why, operating_point};
use datasets::{AnnotationSet, Score};
use serde::Serialize;

/// Overlap (intersection over union) from which a box is right.
pub const IOU: f64 = 0.5;
/// Precision at which the recall is told.
const SURE: f64 = 0.99;
/// Bins of the score in the calibration error.
const BINS: usize = 10;
/// The definition of [`Quality::calibration_error`], for whoever prints it.
pub const CALIBRATION: &str = "10 bins of the score, each .1 wide, over all boxes with a score of .1 and more, also \
                               those below the threshold; mean over the bins, weighted by their boxes, of |mean score - \
                               share of right boxes|";

/// A box with what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// Score, 0..=1.
    pub score: f64,
    /// Whether it hit a truth of its class.
    pub right: bool,
}

/// What went wrong at the threshold in force. `missed`, `wrong_class` and `badly_located` are truths, the others boxes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Truths without any box.
    pub missed: usize,
    /// Those of them that a box below the threshold would have hit.
    pub below_threshold: usize,
    /// Truths that a box of another class lies on.
    pub wrong_class: usize,
    /// Truths that a box of their class overlaps, but too little.
    pub badly_located: usize,
    /// Boxes where no truth is.
    pub false_boxes: usize,
    /// Boxes more than one on a truth.
    pub doubled: usize,
}

/// A class that was taken for another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confused {
    /// Class of the truth.
    pub truth: String,
    /// Class of the box.
    pub found: String,
    /// How often.
    pub times: usize,
}

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// Counts at the threshold in force, all classes together.
    #[serde(flatten)]
    pub counts: Counts,
    /// Highest F1 over all thresholds.
    pub best_f1: f64,
    /// The threshold that gives it, 0..=1.
    pub best_threshold: f64,
    /// Highest recall over the thresholds at which the precision is at least .99; 0 when there is none.
    pub recall_at_precision_99: f64,
    /// Expected calibration error ([`CALIBRATION`]); `None` without boxes.
    pub calibration_error: Option<f64>,
    /// What went wrong.
    pub errors: Errors,
    /// Classes taken for others, most often first.
    pub confused: Vec<Confused>,
    /// Counts of each class.
    pub per_class: Vec<Counts>,
    /// Single mistakes, picture by picture.
    #[serde(skip)]
    pub mistakes: Vec<Mistakes>,
}

impl Quality {
    /// Compares labels with truth. Each box counts as reported from the threshold in its provenance on.
    pub fn of(truth: &AnnotationSet, found: &AnnotationSet) -> Self {
        let input = EvalInput::from_sets(truth, found);
        let guesses = guesses(&input);
        let total = input.pictures.iter().flat_map(|p| &p.truth).filter(|t| !t.crowd).count();
        let (best_f1, best_threshold) = best(&guesses, total);
        // Classes may have thresholds of their own: scores are moved to either side of one half, in their order.
        let mut sides = found.clone();
        for a in sides.images.iter_mut().flat_map(|i| &mut i.annotations) {
            let score = a.score.map_or(1.0, f64::from);
            let reported = score >= a.provenance.threshold.unwrap_or(0.0);
            a.score = Score::new(f64::midpoint(score, f64::from(u8::from(reported)))).ok();
        }
        let (point, mistakes) = operating_point(&EvalInput::from_sets(truth, &sides), 0.5, IOU);
        let (errors, confused) = errors(&mistakes);
        Self {
            counts: point.all,
            best_f1,
            best_threshold,
            recall_at_precision_99: recall_at(&guesses, total, SURE),
            calibration_error: calibration_error(&guesses),
            errors,
            confused,
            per_class: point.per_class,
            mistakes,
        }
    }
}

/// Every box with what became of it, best score first.
fn guesses(input: &EvalInput) -> Vec<Guess> {
    let mut out = Vec::new();
    for p in &input.pictures {
        let mut order: Vec<usize> = (0..p.found.len()).collect();
        order.sort_by(|&a, &b| p.found[b].score.total_cmp(&p.found[a].score));
        let mut hit = vec![false; p.truth.len()];
        for i in order {
            let f = &p.found[i];
            let free = (0..p.truth.len()).filter(|&t| !hit[t] && !p.truth[t].crowd && p.truth[t].class == f.class);
            let overlap = |t: usize| p.truth[t].bbox.iou(&f.bbox);
            let best = free.max_by(|&a, &b| overlap(a).total_cmp(&overlap(b))).filter(|&t| overlap(t) >= IOU);
            if let Some(t) = best {
                hit[t] = true;
            }
            out.push(Guess { score: f.score, right: best.is_some() });
        }
    }
    out.sort_by(|a, b| b.score.total_cmp(&a.score));
    out
}

/// The number of boxes, the number of right ones and the score at every threshold that can be told from the next.
fn thresholds(guesses: &[Guess]) -> impl Iterator<Item = (usize, usize, f64)> {
    let mut right = 0;
    guesses.iter().enumerate().filter_map(move |(i, g)| {
        right += usize::from(g.right);
        let last_of_its_score = guesses.get(i + 1).is_none_or(|next| next.score < g.score);
        last_of_its_score.then_some((i + 1, right, g.score))
    })
}

/// Highest F1 and its threshold.
fn best(guesses: &[Guess], truths: usize) -> (f64, f64) {
    let f1 = |(boxes, right, score)| (2.0 * right as f64 / (boxes + truths) as f64, score);
    thresholds(guesses).map(f1).fold((0.0, 1.0), |best, x| if x.0 > best.0 { x } else { best })
}

/// Highest recall at which the precision is at least `precision`.
fn recall_at(guesses: &[Guess], truths: usize, precision: f64) -> f64 {
    let sure = thresholds(guesses).filter(|(boxes, right, _)| *right as f64 >= precision * *boxes as f64);
    sure.map(|(_, right, _)| right as f64 / truths.max(1) as f64).fold(0.0, f64::max)
}

/// [`CALIBRATION`].
fn calibration_error(guesses: &[Guess]) -> Option<f64> {
    let mut bins = [(0usize, 0.0, 0usize); BINS];
    for g in guesses.iter().filter(|g| g.score >= 0.1) {
        let bin = &mut bins[((g.score * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += g.score;
        bin.2 += usize::from(g.right);
    }
    let n: usize = bins.iter().map(|b| b.0).sum();
    // A bin's weight is its number of boxes, which its two means are divided by.
    let off: f64 = bins.iter().map(|(_, said, right)| (said - *right as f64).abs()).sum();
    (n > 0).then(|| off / n as f64)
}

fn errors(mistakes: &[Mistakes]) -> (Errors, Vec<Confused>) {
    let mut e = Errors::default();
    let mut confused: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut boxes = 0;
    for m in mistakes {
        for miss in &m.false_negatives {
            match &miss.why {
                Why::WrongClass { other } => {
                    e.wrong_class += 1;
                    *confused.entry((&miss.class, other)).or_default() += 1;
                }
                Why::PoorBox { .. } => e.badly_located += 1,
                why => {
                    e.missed += 1;
                    e.below_threshold += usize::from(matches!(why, Why::LowScore { .. }));
                }
            }
        }
        boxes += m.false_positives.len();
        e.false_boxes += m.false_positives.iter().filter(|f| f.why == Why::Nothing).count();
    }
    e.doubled = boxes.saturating_sub(e.false_boxes + e.wrong_class + e.badly_located);
    let mut list: Vec<Confused> = confused
        .into_iter()
        .map(|((truth, found), times)| Confused { truth: truth.into(), found: found.into(), times })
        .collect();
    list.sort_by_key(|c| std::cmp::Reverse(c.times));
    (e, list)
}

#[cfg(test)]
mod tests {
    use datasets::{Annotation, BBox, ClassInfo, ImageAnnotations};

    use super::*;

    fn guess(score: f64, right: bool) -> Guess {
        Guess { score, right }
    }

    fn boxed(class: &str, x: f64, score: Option<f64>) -> Annotation {
        let mut a = Annotation::new(class, BBox::new(x, 0.0, x + 10.0, 10.0));
        a.score = score.map(|s| Score::new(s).unwrap());
        a.provenance.threshold = score.map(|_| 0.3);
        a
    }

    fn set(annotations: Vec<Annotation>) -> AnnotationSet {
        let classes = ["a", "b"].map(|n| ClassInfo { name: n.into(), category: String::new(), color: [0; 3] });
        let image = ImageAnnotations {
            image: "s".into(),
            digest: String::new(),
            width: 999,
            height: 10,
            split: None,
            annotations,
        };
        AnnotationSet { classes: classes.to_vec(), images: vec![image], skipped: Vec::new() }
    }

    #[test]
    fn calibration_error_is_the_weighted_gap_between_said_and_so() {
        // Four boxes at .75, three right: exact. One at .15 that is right: off by .85. One at .05 does not count.
        let mut all = vec![guess(0.75, true); 3];
        all.extend([guess(0.75, false), guess(0.15, true), guess(0.05, true)]);
        assert!((calibration_error(&all).unwrap() - 0.85 / 5.0).abs() < 1e-12);
        // A score of 1 belongs to the last bin.
        assert_eq!(calibration_error(&[guess(1.0, true)]), Some(0.0));
        assert_eq!(calibration_error(&[]), None);
    }

    #[test]
    fn too_sure_and_not_sure_enough_do_not_cancel_between_bins() {
        let all = [guess(0.9, false), guess(0.1, true)];
        assert!((calibration_error(&all).unwrap() - 0.9).abs() < 1e-12);
    }

    #[test]
    fn recall_at_a_precision_is_the_highest_of_all_thresholds() {
        let mut all = vec![guess(0.99, false)];
        all.extend(vec![guess(0.9, true); 99]);
        all.extend(vec![guess(0.5, false); 5]);
        // At .99 precision 0, at .9 exactly .99, below that less.
        assert!((recall_at(&all, 110, 0.99) - 0.9).abs() < 1e-12);
        assert_eq!(recall_at(&[guess(0.9, false)], 5, 0.99), 0.0);
    }

    #[test]
    fn equal_scores_stand_or_fall_together() {
        // A threshold cannot take the right one of two equal scores.
        let all = [guess(0.8, true), guess(0.5, true), guess(0.5, false), guess(0.5, false)];
        assert_eq!(best(&all, 2), (2.0 / 3.0, 0.8));
        assert_eq!(best(&[], 2), (0.0, 1.0));
    }

    #[test]
    fn the_threshold_of_a_box_decides_what_counts() {
        let truth =
            set(["a", "a", "a", "b", "b"].iter().zip(0..).map(|(c, i)| boxed(c, 100.0 * f64::from(i), None)).collect());
        let found = set(vec![
            boxed("a", 0.0, Some(0.9)),    // right
            boxed("a", 106.0, Some(0.8)),  // badly located
            boxed("a", 200.0, Some(0.2)),  // right, and below the threshold
            boxed("a", 300.0, Some(0.7)),  // a `b` really
            boxed("b", 1.0, Some(0.6)),    // a second box on an `a`
            boxed("b", 900.0, Some(0.5)),  // nothing there
            boxed("z", 400.0, Some(0.95)), // a class that nobody knows
        ]);
        let q = Quality::of(&truth, &found);
        assert_eq!((q.counts.true_positives, q.counts.false_positives, q.counts.false_negatives), (1, 4, 4));
        let want =
            Errors { missed: 2, below_threshold: 1, wrong_class: 1, badly_located: 1, false_boxes: 1, doubled: 1 };
        assert_eq!(q.errors, want);
        assert_eq!(q.confused, [Confused { truth: "b".into(), found: "a".into(), times: 1 }]);
    }
}
