//! Hits and mistakes at one confidence.
//!
//! In order of score each prediction takes the free truth of its class that it overlaps most, if by enough. What is left
//! over is a mistake, and its kind is told by what lies nearby.

use serde::Serialize;

use super::input::{EvalInput, Found, Picture, Truth, by_score, overlap};
use crate::geometry::{BBox, Pixels};

/// Overlap from which a box that hits nothing is a badly placed one and not a box on the background.
const NEARBY_IOU: f64 = 0.1;

/// Counts and what follows from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Class name; empty for all together.
    pub class: String,
    /// Predictions that hit.
    pub true_positives: usize,
    /// Predictions that hit nothing.
    pub false_positives: usize,
    /// Truth that no prediction hit.
    pub false_negatives: usize,
    /// Share of the predictions that hit; `None` without predictions.
    pub precision: Option<f64>,
    /// Share of the truth that was hit; `None` without truth.
    pub recall: Option<f64>,
    /// Harmonic mean of both; `None` without predictions and truth.
    pub f1: Option<f64>,
}

impl Counts {
    fn complete(mut self) -> Self {
        let (tp, fp, fal) = (self.true_positives, self.false_positives, self.false_negatives);
        let ratio = |a: usize, b: usize| (b > 0).then(|| a as f64 / b as f64);
        self.precision = ratio(tp, tp + fp);
        self.recall = ratio(tp, tp + fal);
        self.f1 = ratio(2 * tp, 2 * tp + fp + fal);
        self
    }
}

/// Counts at one confidence and overlap.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Lowest confidence that counts.
    pub conf: f64,
    /// Overlap (IoU) from which a prediction hits.
    pub iou: f64,
    /// All classes together.
    pub all: Counts,
    /// Each class, in order.
    pub per_class: Vec<Counts>,
}

/// What lies near a mistake.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// A false positive on truth that a surer prediction has already hit.
    Duplicate,
    /// The other one (truth of a false positive, prediction of a false negative) has another class.
    WrongClass {
        /// The other one's class.
        other: String,
    },
    /// The other one has the same class, but the boxes overlap too little.
    PoorBox {
        /// Overlap.
        iou: f64,
    },
    /// A false negative that a prediction below the confidence would have hit.
    LowScore {
        /// Its score.
        score: f64,
    },
    /// Nothing there: a false positive on the background, or truth that was not seen at all.
    Nothing,
}

/// A prediction that hits nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FalsePositive {
    /// Predicted class.
    pub class: String,
    /// The box.
    pub bbox: BBox<Pixels>,
    /// Confidence.
    pub score: f64,
    /// What lies there.
    #[serde(flatten)]
    pub why: Why,
}

/// Truth that was not hit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FalseNegative {
    /// True class.
    pub class: String,
    /// The box.
    pub bbox: BBox<Pixels>,
    /// What was predicted there.
    #[serde(flatten)]
    pub why: Why,
}

/// The mistakes in one picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Mistakes {
    /// The picture's name.
    pub image: String,
    /// Predictions that hit.
    pub true_positives: usize,
    /// Predictions that hit nothing, surest first.
    pub false_positives: Vec<FalsePositive>,
    /// Truth that was not hit.
    pub false_negatives: Vec<FalseNegative>,
}

/// Counts hits and mistakes; lists the pictures that have mistakes, in order.
pub fn operating_point(input: &EvalInput, conf: f64, iou: f64) -> (OperatingPoint, Vec<Mistakes>) {
    let mut per_class: Vec<Counts> =
        input.classes.iter().map(|c| Counts { class: c.clone(), ..Counts::default() }).collect();
    let mut mistakes = Vec::new();
    for p in &input.pictures {
        let m = picture(p, input, conf, iou, &mut per_class);
        if !m.false_positives.is_empty() || !m.false_negatives.is_empty() {
            mistakes.push(m);
        }
    }
    let sum = |of: fn(&Counts) -> usize| per_class.iter().map(of).sum();
    let all = Counts {
        true_positives: sum(|c| c.true_positives),
        false_positives: sum(|c| c.false_positives),
        false_negatives: sum(|c| c.false_negatives),
        ..Counts::default()
    };
    let per_class = per_class.into_iter().map(Counts::complete).collect();
    (OperatingPoint { conf, iou, all: all.complete(), per_class }, mistakes)
}

fn picture(p: &Picture, input: &EvalInput, conf: f64, iou: f64, counts: &mut [Counts]) -> Mistakes {
    let mut out = Mistakes { image: p.image.clone(), ..Mistakes::default() };
    let mut hit = vec![false; p.truth.len()];
    let mut missed_shots: Vec<&Found> = Vec::new();
    for i in by_score(&p.found, |f| f.score >= conf) {
        let f = &p.found[i];
        let free = |(g, t): &(usize, &Truth)| t.class == f.class && !t.crowd && !hit[*g];
        if let Some((g, _)) = most(p.truth.iter().enumerate().filter(free), |t| overlap(f, t), iou) {
            hit[g] = true;
            out.true_positives += 1;
            counts[f.class].true_positives += 1;
        } else if !p.truth.iter().any(|t| t.crowd && t.class == f.class && overlap(f, t) >= iou) {
            counts[f.class].false_positives += 1;
            missed_shots.push(f);
        }
    }
    for f in &missed_shots {
        let real = || p.truth.iter().enumerate().filter(|(_, t)| !t.crowd);
        let why = if let Some((g, _)) = most(real(), |t| overlap(f, t), iou) {
            let t = &p.truth[g];
            if t.class == f.class { Why::Duplicate } else { Why::WrongClass { other: input.classes[t.class].clone() } }
        } else {
            let same = real().filter(|(_, t)| t.class == f.class);
            most(same, |t| overlap(f, t), NEARBY_IOU).map_or(Why::Nothing, |(_, iou)| Why::PoorBox { iou })
        };
        out.false_positives.push(FalsePositive {
            class: input.classes[f.class].clone(),
            bbox: f.bbox,
            score: f.score,
            why,
        });
    }
    for (t, _) in p.truth.iter().zip(&hit).filter(|(t, hit)| !t.crowd && !**hit) {
        counts[t.class].false_negatives += 1;
        let low = most(
            p.found.iter().enumerate().filter(|(_, f)| f.class == t.class && f.score < conf),
            |f| if overlap(f, t) >= iou { f.score } else { -1.0 },
            0.0,
        );
        let wrong =
            most(missed_shots.iter().copied().enumerate().filter(|(_, f)| f.class != t.class), |f| overlap(f, t), iou);
        let near = most(
            missed_shots.iter().copied().enumerate().filter(|(_, f)| f.class == t.class),
            |f| overlap(f, t),
            NEARBY_IOU,
        );
        let why = match (wrong, near, low) {
            (Some((i, _)), _, _) => Why::WrongClass { other: input.classes[missed_shots[i].class].clone() },
            (_, Some((_, iou)), _) => Why::PoorBox { iou },
            (_, _, Some((_, score))) => Why::LowScore { score },
            _ => Why::Nothing,
        };
        out.false_negatives.push(FalseNegative { class: input.classes[t.class].clone(), bbox: t.bbox, why });
    }
    out
}

/// The first of those with the highest value, if that is at least `least`.
fn most<'a, T: 'a>(
    of: impl Iterator<Item = (usize, &'a T)>,
    value: impl Fn(&T) -> f64,
    least: f64,
) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (i, x) in of {
        let v = value(x);
        if v >= least && best.is_none_or(|b| v > b.1) {
            best = Some((i, v));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbox(x: f64) -> BBox<Pixels> {
        BBox::new(x, 0.0, x + 10.0, 10.0)
    }

    #[test]
    fn every_kind_of_mistake_is_told_apart() {
        let truth = |class, x, crowd| Truth { class, bbox: bbox(x), area: 100.0, crowd };
        let found = |class, x, score| Found { class, bbox: bbox(x), area: 100.0, score };
        let input = EvalInput {
            classes: vec!["a".into(), "b".into()],
            pictures: vec![
                Picture {
                    image: "one".into(),
                    truth: vec![
                        truth(0, 0.0, false),
                        truth(0, 100.0, false),
                        truth(0, 200.0, false),
                        truth(0, 300.0, false),
                        truth(1, 400.0, false),
                        truth(1, 500.0, true),
                    ],
                    found: vec![
                        found(0, 0.0, 0.9),
                        found(0, 1.0, 0.8),
                        found(1, 100.0, 0.7),
                        found(0, 206.0, 0.6),
                        found(0, 300.0, 0.1),
                        found(0, 900.0, 0.5),
                        found(1, 501.0, 0.5),
                    ],
                },
                Picture { image: "two".into(), ..Picture::default() },
            ],
            notes: Vec::new(),
        };
        let (point, mistakes) = operating_point(&input, 0.25, 0.5);
        assert_eq!((point.all.true_positives, point.all.false_positives, point.all.false_negatives), (1, 4, 4));
        assert_eq!((point.all.precision, point.all.recall), (Some(0.2), Some(0.2)));
        assert_eq!(point.per_class[1].false_negatives, 1);
        assert_eq!(mistakes.len(), 1);
        let why: Vec<&Why> = mistakes[0].false_positives.iter().map(|f| &f.why).collect();
        assert_eq!(why[0], &Why::Duplicate);
        assert_eq!(why[1], &Why::WrongClass { other: "a".into() });
        assert!(matches!(why[2], Why::PoorBox { .. }));
        assert_eq!(why[3], &Why::Nothing);
        let why: Vec<&Why> = mistakes[0].false_negatives.iter().map(|f| &f.why).collect();
        assert_eq!(why[0], &Why::WrongClass { other: "b".into() });
        assert!(matches!(why[1], Why::PoorBox { .. }));
        assert_eq!(why[2], &Why::LowScore { score: 0.1 });
        assert_eq!(why[3], &Why::Nothing);
        let json = serde_json::to_value(&mistakes[0].false_positives[1]).unwrap();
        assert_eq!((json["why"].as_str(), json["other"].as_str()), (Some("wrong_class"), Some("a")));
    }

    #[test]
    fn nothing_at_all_has_no_ratios() {
        let (point, mistakes) = operating_point(&EvalInput::default(), 0.25, 0.5);
        assert_eq!((point.all.precision, point.all.recall, point.all.f1, mistakes.len()), (None, None, None, 0));
    }
}
