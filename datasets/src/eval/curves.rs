//! Curves over the confidence, and the metrics as YOLO's validation prints them.
//!
//! Not COCO's numbers: here each prediction turns to the truth of its class that it overlaps most, the most confident of
//! those that turn to one truth is the hit, AP is the area under the linearly interpolated precision envelope (101
//! points, trapezoids), and P and R are read where the mean F1 over the classes, smoothed over the confidence, peaks.
//! Crowds do not exist in this definition: they are left out of the truth, and what was found in one is left out too.

use serde::Serialize;

use super::input::{EvalInput, Truth, by_score, overlap};
use super::iou_thresholds;

/// Points of the confidence axis on which the peak of F1 is sought.
const CONFIDENCES: usize = 1000;
/// Width of the moving mean over the mean F1, as a share of the confidence axis.
const SMOOTHING: f64 = 0.1;
/// Points of each curve that is handed out: 0, .01, ... 1.
const POINTS: usize = 101;

/// The interpolated metrics and the curves. `None` where no class has truth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curves {
    /// What these numbers are, for whoever prints them.
    pub definition: &'static str,
    /// Mean AP at IoU .50 (trapezoids).
    pub map50: Option<f64>,
    /// Mean AP over IoU .50:.05:.95 (trapezoids).
    pub map: Option<f64>,
    /// Mean precision at `confidence`, IoU .50.
    pub precision: Option<f64>,
    /// Mean recall at `confidence`, IoU .50.
    pub recall: Option<f64>,
    /// Mean F1 at `confidence`, IoU .50.
    pub f1: Option<f64>,
    /// The confidence at which the smoothed mean F1 peaks, 0..=1.
    pub confidence: f64,
    /// Each class that has truth, in order.
    pub per_class: Vec<ClassCurves>,
}

/// Curves of one class at IoU .50. Each has 101 points over 0..=1, rounded to four decimals.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassCurves {
    /// Class name.
    pub class: String,
    /// Truth boxes.
    pub truth: usize,
    /// AP at IoU .50 (trapezoids).
    pub ap50: f64,
    /// AP over IoU .50:.05:.95 (trapezoids).
    pub ap: f64,
    /// Precision at the common `confidence`.
    pub precision: f64,
    /// Recall at the common `confidence`.
    pub recall: f64,
    /// F1 at the common `confidence`.
    pub f1: f64,
    /// Precision over confidence.
    pub precision_by_confidence: Vec<f64>,
    /// Recall over confidence.
    pub recall_by_confidence: Vec<f64>,
    /// F1 over confidence.
    pub f1_by_confidence: Vec<f64>,
    /// Precision (envelope) over recall.
    pub precision_by_recall: Vec<f64>,
}

struct ClassResult {
    class: usize,
    truth: usize,
    ap: [f64; 10],
    pr: [f64; POINTS],
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
}

/// Measures by the interpolated definition.
pub fn curves(input: &EvalInput) -> Curves {
    let results: Vec<ClassResult> = (0..input.classes.len()).filter_map(|c| of_class(input, c)).collect();
    let definition = "AP: area under the linearly interpolated precision envelope (101 points, trapezoids); P, R, F1: \
                      means over the classes at the confidence where the smoothed mean F1 peaks, IoU .50";
    if results.is_empty() {
        return Curves { definition, ..Curves::default() };
    }
    let n = results.len() as f64;
    let mean = |of: &dyn Fn(&ClassResult) -> f64| results.iter().map(of).sum::<f64>() / n;
    let f1: Vec<f64> = (0..CONFIDENCES).map(|i| mean(&|r| r.f1[i])).collect();
    let smooth = smoothed(&f1);
    let peak = (0..CONFIDENCES).fold(0, |best, i| if smooth[i] > smooth[best] { i } else { best });
    let all = |r: &ClassResult| r.ap.iter().sum::<f64>() / 10.0;
    let thin = |curve: &[f64]| (0..POINTS).map(|i| rounded(curve[i * (CONFIDENCES - 1) / (POINTS - 1)])).collect();
    Curves {
        definition,
        map50: Some(mean(&|r| r.ap[0])),
        map: Some(mean(&all)),
        precision: Some(mean(&|r| r.precision[peak])),
        recall: Some(mean(&|r| r.recall[peak])),
        f1: Some(f1[peak]),
        confidence: confidence(peak),
        per_class: results
            .iter()
            .map(|r| ClassCurves {
                class: input.classes[r.class].clone(),
                truth: r.truth,
                ap50: r.ap[0],
                ap: all(r),
                precision: r.precision[peak],
                recall: r.recall[peak],
                f1: r.f1[peak],
                precision_by_confidence: thin(&r.precision),
                recall_by_confidence: thin(&r.recall),
                f1_by_confidence: thin(&r.f1),
                precision_by_recall: r.pr.map(rounded).to_vec(),
            })
            .collect(),
    }
}

fn rounded(v: f64) -> f64 {
    (v * 1e4).round() / 1e4
}

fn confidence(i: usize) -> f64 {
    i as f64 / (CONFIDENCES - 1) as f64
}

/// `None` without truth.
fn of_class(input: &EvalInput, class: usize) -> Option<ClassResult> {
    let thresholds = iou_thresholds();
    let mut truth = 0;
    let mut found: Vec<(f64, [bool; 10])> = Vec::new();
    for p in &input.pictures {
        let real: Vec<_> = p.truth.iter().filter(|t| t.class == class && !t.crowd).collect();
        truth += real.len();
        let mut taken = vec![[false; 10]; real.len()];
        for i in by_score(&p.found, |f| f.class == class) {
            let f = &p.found[i];
            let mut best: Option<(usize, f64)> = None;
            for (g, t) in real.iter().enumerate() {
                let o = overlap(f, t);
                if o > best.map_or(0.0, |b| b.1) {
                    best = Some((g, o));
                }
            }
            let in_crowd = |t: &Truth| t.crowd && t.class == class && overlap(f, t) >= thresholds[0];
            if best.is_none_or(|(_, o)| o < thresholds[0]) && p.truth.iter().any(in_crowd) {
                continue;
            }
            let mut hit = [false; 10];
            if let Some((g, o)) = best {
                for (t, threshold) in thresholds.iter().enumerate() {
                    hit[t] = o >= *threshold && !taken[g][t];
                    taken[g][t] |= hit[t];
                }
            }
            found.push((f.score, hit));
        }
    }
    if truth == 0 {
        return None;
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut result = ClassResult {
        class,
        truth,
        ap: [0.0; 10],
        pr: [0.0; POINTS],
        precision: vec![0.0; CONFIDENCES],
        recall: vec![0.0; CONFIDENCES],
        f1: vec![0.0; CONFIDENCES],
    };
    if found.is_empty() {
        return Some(result);
    }
    for t in 0..10 {
        let mut hits = 0.0;
        let (recall, precision): (Vec<f64>, Vec<f64>) = (found.iter().enumerate())
            .map(|(i, (_, hit))| {
                hits += f64::from(u8::from(hit[t]));
                (hits / truth as f64, hits / (i + 1) as f64)
            })
            .unzip();
        let curve = envelope(&recall, &precision);
        result.ap[t] = curve.windows(2).map(|w| f64::midpoint(w[0], w[1])).sum::<f64>() / (POINTS - 1) as f64;
        if t == 0 {
            result.pr = curve;
            // Over falling confidence, so that the axis rises.
            let axis: Vec<f64> = found.iter().map(|(s, _)| -s).collect();
            for i in 0..CONFIDENCES {
                let at = -confidence(i);
                let beyond = at < axis[0];
                let (p, r) = if beyond {
                    (1.0, 0.0)
                } else {
                    (interpolated(&axis, &precision, at), interpolated(&axis, &recall, at))
                };
                result.precision[i] = p;
                result.recall[i] = r;
                result.f1[i] = if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 };
            }
        }
    }
    Some(result)
}

/// The precision envelope at 101 recalls. The curve starts at recall 0, precision 1 and ends at recall 1, precision 0.
fn envelope(recall: &[f64], precision: &[f64]) -> [f64; POINTS] {
    let x: Vec<f64> = [0.0].iter().chain(recall).chain(&[1.0]).copied().collect();
    let mut y: Vec<f64> = [1.0].iter().chain(precision).chain(&[0.0]).copied().collect();
    for i in (1..y.len()).rev() {
        y[i - 1] = y[i - 1].max(y[i]);
    }
    std::array::from_fn(|i| interpolated(&x, &y, i as f64 / (POINTS - 1) as f64))
}

/// Linear interpolation on a rising axis; the end values beyond it; of equal places the last.
fn interpolated(x: &[f64], y: &[f64], at: f64) -> f64 {
    let right = x.partition_point(|v| *v <= at);
    if right == 0 {
        return y[0];
    }
    if right == x.len() {
        return y[right - 1];
    }
    let left = right - 1;
    y[left] + (y[right] - y[left]) * (at - x[left]) / (x[right] - x[left])
}

/// Moving mean over `SMOOTHING` of the axis; the ends are continued with their own value.
fn smoothed(curve: &[f64]) -> Vec<f64> {
    let half = (curve.len() as f64 * SMOOTHING / 2.0).round() as isize;
    let last = curve.len() as isize - 1;
    let at = |i: isize| curve[i.clamp(0, last) as usize];
    (0..=last).map(|i| (i - half..=i + half).map(at).sum::<f64>() / (2 * half + 1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::super::input::{Found, Picture};
    use super::*;
    use crate::geometry::BBox;

    fn input(found: &[(f64, f64)]) -> EvalInput {
        let bbox = |x: f64| BBox::new(x, 0.0, x + 10.0, 10.0);
        EvalInput {
            classes: vec!["a".into(), "never there".into()],
            pictures: vec![Picture {
                image: "p".into(),
                truth: [0.0, 100.0].map(|x| Truth { class: 0, bbox: bbox(x), area: 100.0, crowd: false }).to_vec(),
                found: found.iter().map(|&(x, score)| Found { class: 0, bbox: bbox(x), area: 100.0, score }).collect(),
            }],
            notes: Vec::new(),
        }
    }

    #[test]
    fn all_found_at_once_is_nearly_one() {
        let c = curves(&input(&[(0.0, 0.9), (100.0, 0.8)]));
        // The trapezoid to the end point (1, 0) costs the last half step.
        assert!((c.map50.unwrap() - 0.995).abs() < 1e-12 && (c.map.unwrap() - 0.995).abs() < 1e-12);
        assert_eq!((c.precision, c.recall, c.f1), (Some(1.0), Some(1.0), Some(1.0)));
        assert!(c.confidence < 0.8 && c.per_class.len() == 1);
    }

    #[test]
    fn half_found_with_a_miss_before() {
        // Miss at .9, hit at .5: precision 0, then .5 at recall .5; the envelope starts at 1 and falls to .5.
        let c = curves(&input(&[(50.0, 0.9), (0.0, 0.5)]));
        let k = &c.per_class[0];
        assert_eq!((k.precision_by_recall[0], k.precision_by_recall[50]), (0.5, 0.5));
        assert!((c.recall.unwrap() - 0.5).abs() < 1e-12 && (c.precision.unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(k.precision_by_confidence[95], 1.0);
        assert_eq!(k.recall_by_confidence[95], 0.0);
        assert_eq!(k.precision_by_confidence[0], 0.5);
    }

    #[test]
    fn two_on_one_truth_count_once() {
        let c = curves(&input(&[(0.0, 0.9), (1.0, 0.8), (100.0, 0.7)]));
        assert_eq!(c.recall, Some(1.0));
        assert!((c.precision.unwrap() - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_predicted_is_zero_and_nothing_true_is_none() {
        let c = curves(&input(&[]));
        assert_eq!((c.map50, c.precision), (Some(0.0), Some(0.0)));
        let mut none = input(&[(0.0, 0.5)]);
        none.pictures[0].truth.clear();
        assert_eq!(curves(&none).map50, None);
    }

    #[test]
    fn interpolation_follows_numpy() {
        let (x, y) = ([0.0, 1.0, 1.0, 3.0], [0.0, 2.0, 4.0, 8.0]);
        for (at, want) in [(-1.0, 0.0), (0.0, 0.0), (0.5, 1.0), (1.0, 4.0), (2.0, 6.0), (3.0, 8.0), (9.0, 8.0)] {
            assert_eq!(interpolated(&x, &y, at), want, "at {at}");
        }
    }
}
