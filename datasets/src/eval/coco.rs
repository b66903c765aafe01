//! Average precision and recall by COCO's definition (Lin et al., "Microsoft COCO: Common Objects in Context", and its
//! reference implementation pycocotools 2.0): ten IoU thresholds, the precision envelope at 101 recalls, at most 100
//! predictions for each picture and class.

use serde::Serialize;

use super::input::{EvalInput, Found, Truth, by_score, overlap};
use super::iou_thresholds;

/// Bounds of an object's area in square pixels, both included: all, small, medium, large.
pub const AREA_RANGES: [(&str, f64, f64); 4] = [
    ("all", 0.0, 1e10),
    ("small", 0.0, 32.0 * 32.0),
    ("medium", 32.0 * 32.0, 96.0 * 96.0),
    ("large", 96.0 * 96.0, 1e10),
];
const MAX_DETS: [usize; 3] = [1, 10, 100];
const RECALLS: usize = 101;
const IOU_75: usize = 5;

/// COCO's twelve numbers and the numbers of each class. `None` where there is nothing to measure (pycocotools: -1).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CocoMetrics {
    /// Mean AP over IoU .50:.05:.95.
    pub ap: Option<f64>,
    /// Mean AP at IoU .50.
    pub ap50: Option<f64>,
    /// Mean AP at IoU .75.
    pub ap75: Option<f64>,
    /// AP of objects up to 32 x 32 pixels.
    pub ap_small: Option<f64>,
    /// AP of objects from 32 x 32 to 96 x 96 pixels.
    pub ap_medium: Option<f64>,
    /// AP of objects from 96 x 96 pixels.
    pub ap_large: Option<f64>,
    /// Mean recall with one prediction for each picture and class.
    pub ar1: Option<f64>,
    /// Mean recall with ten.
    pub ar10: Option<f64>,
    /// Mean recall with a hundred.
    pub ar100: Option<f64>,
    /// Mean recall (a hundred) of small objects.
    pub ar_small: Option<f64>,
    /// Mean recall (a hundred) of medium objects.
    pub ar_medium: Option<f64>,
    /// Mean recall (a hundred) of large objects.
    pub ar_large: Option<f64>,
    /// Each class, in order.
    pub per_class: Vec<ClassAp>,
}

/// COCO's numbers of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassAp {
    /// Class name.
    pub class: String,
    /// Truth boxes, crowds left out.
    pub truth: usize,
    /// AP over IoU .50:.05:.95.
    pub ap: Option<f64>,
    /// AP at IoU .50.
    pub ap50: Option<f64>,
    /// AP at IoU .75.
    pub ap75: Option<f64>,
    /// AP of small objects.
    pub ap_small: Option<f64>,
    /// AP of medium objects.
    pub ap_medium: Option<f64>,
    /// AP of large objects.
    pub ap_large: Option<f64>,
    /// Recall with a hundred predictions a picture.
    pub ar100: Option<f64>,
}

/// One class and area range: the precision at each IoU threshold and recall, and the recall reached with each maximum of
/// predictions. `None` without truth.
struct Cell {
    precision: [[f64; RECALLS]; 10],
    recall: [[f64; 10]; 3],
}

/// What became of a prediction at each IoU threshold.
#[derive(Clone, Copy)]
struct Fate {
    score: f64,
    /// Its place among the picture's predictions of the class, by score.
    rank: usize,
    hit: [bool; 10],
    ignored: [bool; 10],
}

/// Measures by COCO's definition.
pub fn coco(input: &EvalInput) -> CocoMetrics {
    let cells: Vec<[Option<Cell>; 4]> = (0..input.classes.len())
        .map(|class| {
            let pictures = prepare(input, class);
            AREA_RANGES.map(|(_, low, high)| cell(&pictures, low, high))
        })
        .collect();
    let precision = |class: Option<usize>, area: usize, iou: Option<usize>| {
        let of = cells.iter().enumerate().filter(|(c, _)| class.is_none_or(|k| k == *c));
        mean(of.filter_map(|(_, areas)| areas[area].as_ref()).flat_map(|cell| {
            match iou {
                Some(t) => &cell.precision[t..=t],
                None => &cell.precision[..],
            }
            .iter()
            .flatten()
            .copied()
        }))
    };
    let recall = |class: Option<usize>, area: usize, most: usize| {
        let of = cells.iter().enumerate().filter(|(c, _)| class.is_none_or(|k| k == *c));
        mean(of.filter_map(|(_, areas)| areas[area].as_ref()).flat_map(|cell| cell.recall[most]))
    };
    CocoMetrics {
        ap: precision(None, 0, None),
        ap50: precision(None, 0, Some(0)),
        ap75: precision(None, 0, Some(IOU_75)),
        ap_small: precision(None, 1, None),
        ap_medium: precision(None, 2, None),
        ap_large: precision(None, 3, None),
        ar1: recall(None, 0, 0),
        ar10: recall(None, 0, 1),
        ar100: recall(None, 0, 2),
        ar_small: recall(None, 1, 2),
        ar_medium: recall(None, 2, 2),
        ar_large: recall(None, 3, 2),
        per_class: input
            .classes
            .iter()
            .enumerate()
            .map(|(c, name)| ClassAp {
                class: name.clone(),
                truth: input.pictures.iter().flat_map(|p| &p.truth).filter(|t| t.class == c && !t.crowd).count(),
                ap: precision(Some(c), 0, None),
                ap50: precision(Some(c), 0, Some(0)),
                ap75: precision(Some(c), 0, Some(IOU_75)),
                ap_small: precision(Some(c), 1, None),
                ap_medium: precision(Some(c), 2, None),
                ap_large: precision(Some(c), 3, None),
                ar100: recall(Some(c), 0, 2),
            })
            .collect(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_usize), |(s, n), v| (s + v, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Truth, predictions (best first, at most 100) and their overlaps, of one class in one picture.
struct Prepared<'a> {
    truth: Vec<&'a Truth>,
    found: Vec<&'a Found>,
    /// `[prediction][truth]`
    overlaps: Vec<Vec<f64>>,
}

fn prepare(input: &EvalInput, class: usize) -> Vec<Prepared<'_>> {
    let of_class = input.pictures.iter().filter_map(|p| {
        let truth: Vec<&Truth> = p.truth.iter().filter(|t| t.class == class).collect();
        let mut order = by_score(&p.found, |f| f.class == class);
        order.truncate(MAX_DETS[2]);
        let found: Vec<&Found> = order.into_iter().map(|i| &p.found[i]).collect();
        let overlaps = found.iter().map(|f| truth.iter().map(|t| overlap(f, t)).collect()).collect();
        (!truth.is_empty() || !found.is_empty()).then_some(Prepared { truth, found, overlaps })
    });
    of_class.collect()
}

fn cell(pictures: &[Prepared<'_>], low: f64, high: f64) -> Option<Cell> {
    let outside = |area: f64| area < low || area > high;
    let mut all = Vec::new();
    let mut positives = 0;
    for p in pictures {
        let ignored: Vec<bool> = p.truth.iter().map(|t| t.crowd || outside(t.area)).collect();
        positives += ignored.iter().filter(|i| !**i).count();
        // Truth that counts comes first: a prediction turns to what is ignored only when nothing else fits.
        let mut order: Vec<usize> = (0..p.truth.len()).collect();
        order.sort_by_key(|&t| ignored[t]);
        all.extend(fates(p, &order, &ignored, &outside));
    }
    if positives == 0 {
        return None;
    }
    // Stable: equal scores keep the order of the pictures.
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut cell = Cell { precision: [[0.0; RECALLS]; 10], recall: [[0.0; 10]; 3] };
    for t in 0..10 {
        for (m, most) in MAX_DETS.into_iter().enumerate() {
            let hits = all.iter().filter(|f| f.rank < most && f.hit[t] && !f.ignored[t]).count();
            cell.recall[m][t] = hits as f64 / positives as f64;
        }
        cell.precision[t] = envelope(&all, t, positives);
    }
    Some(cell)
}

/// Matches one picture at every threshold: in order of score, each prediction takes the free truth it overlaps most.
/// `order` has the truth that counts before the `ignored`.
fn fates(p: &Prepared<'_>, order: &[usize], ignored: &[bool], outside: &impl Fn(f64) -> bool) -> Vec<Fate> {
    let mut fates: Vec<Fate> = (p.found.iter().enumerate())
        .map(|(rank, f)| Fate { score: f.score, rank, hit: [false; 10], ignored: [false; 10] })
        .collect();
    for (t, threshold) in iou_thresholds().into_iter().enumerate() {
        let mut taken = vec![false; p.truth.len()];
        for ((fate, found), overlaps) in fates.iter_mut().zip(&p.found).zip(&p.overlaps) {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut chosen: Option<usize> = None;
            for &g in order {
                if taken[g] && !p.truth[g].crowd {
                    continue;
                }
                if ignored[g] && chosen.is_some_and(|c| !ignored[c]) {
                    break;
                }
                if overlaps[g] >= best {
                    best = overlaps[g];
                    chosen = Some(g);
                }
            }
            if let Some(g) = chosen {
                taken[g] = true;
            }
            fate.hit[t] = chosen.is_some();
            fate.ignored[t] = chosen.map_or_else(|| outside(found.area), |g| ignored[g]);
        }
    }
    fates
}

/// Precision at 101 recalls, each the highest reached at that recall or beyond.
fn envelope(fates: &[Fate], t: usize, positives: usize) -> [f64; RECALLS] {
    let (mut hits, mut misses) = (0.0, 0.0);
    let mut curve: Vec<(f64, f64)> = Vec::with_capacity(fates.len());
    for f in fates {
        // Ignored predictions keep their place on the curve and change nothing.
        if !f.ignored[t] {
            *if f.hit[t] { &mut hits } else { &mut misses } += 1.0;
        }
        curve.push((hits / positives as f64, hits / (hits + misses + f64::EPSILON)));
    }
    for i in (1..curve.len()).rev() {
        curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
    }
    std::array::from_fn(|i| {
        let recall = if i == RECALLS - 1 { 1.0 } else { i as f64 * 0.01 };
        curve.get(curve.partition_point(|(r, _)| *r < recall)).map_or(0.0, |(_, p)| *p)
    })
}
