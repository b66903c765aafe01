//! Numbers about a set of annotations. Owns their definitions; what is worrying about them is said by `checks`.

use std::collections::BTreeMap;

use datasets::AnnotationSet;
use serde::{Deserialize, Serialize};

/// Bins of the confidence histogram over 0..=1.
pub const CONFIDENCE_BINS: usize = 20;

/// Mean, spread and range of at least one number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many numbers.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the population (divided by `count`).
    pub std: f64,
    /// Middle number; the mean of the two middle ones when `count` is even.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// Of all finite numbers in `values`; `None` when there is none. Sorts `values`.
    pub fn of(values: &mut Vec<f64>) -> Option<Self> {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let count = values.len();
        let n = count as f64;
        let mean = (values.iter().sum::<f64>() / n).clamp(min, max);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let median = f64::midpoint(values[(count - 1) / 2], values[count / 2]);
        Some(Self { count, mean, std: variance.sqrt(), median, min, max })
    }
}

/// Numbers about one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Class name.
    pub name: String,
    /// Category.
    pub category: String,
    /// False for a class that boxes have and the ontology has not.
    pub listed: bool,
    /// Number of boxes.
    pub boxes: usize,
    /// Share of all boxes, 0..=1; 0 when there are none.
    pub share: f64,
    /// Number of images with a box of the class.
    pub images: usize,
    /// Confidence of the boxes that have one.
    pub confidence: Option<Summary>,
    /// Box area in square pixels.
    pub area_px: Option<Summary>,
}

/// A class and its number of boxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Class name.
    pub name: String,
    /// Number of boxes.
    pub boxes: usize,
}

/// Numbers about a whole set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Images that were looked at (without those left out).
    pub images: usize,
    /// Images with at least one box.
    pub images_with_boxes: usize,
    /// Share of images with a box, 0..=1; none without images.
    pub coverage: Option<f64>,
    /// Images that were left out.
    pub skipped: usize,
    /// Number of boxes.
    pub boxes: usize,
    /// Boxes of an image, over all images, also empty ones.
    pub boxes_per_image: Option<Summary>,
    /// Confidence of the boxes that have one.
    pub confidence: Option<Summary>,
    /// Boxes by confidence, in equal bins over 0..=1.
    pub confidence_bins: Vec<usize>,
    /// The threshold that most boxes had to pass; none when they do not say.
    pub threshold: Option<f64>,
    /// Box area in square pixels.
    pub area_px: Option<Summary>,
    /// Box area as a share of its image's area.
    pub area_share: Option<Summary>,
    /// Longer sides of boxes in pixels, in bins: from, to, count.
    pub side_bins: Vec<(f64, f64, usize)>,
    /// Images by their number of boxes, in bins: from, to, count.
    pub per_image_bins: Vec<(f64, f64, usize)>,
    /// Every class, in index order, then those that the ontology does not list.
    pub classes: Vec<ClassMetrics>,
    /// Number of classes with at least one box.
    pub classes_found: usize,
    /// The class with most boxes (the first in index order of several).
    pub most_common: Option<ClassCount>,
    /// The class with fewest boxes but at least one.
    pub least_common: Option<ClassCount>,
    /// Boxes of the most common class for one of the least common; none without boxes.
    pub imbalance: Option<f64>,
    /// Number of boxes by labeller.
    pub labellers: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Collected {
    boxes: usize,
    images: usize,
    last_image: Option<usize>,
    scores: Vec<f64>,
    areas: Vec<f64>,
}

/// Measures a set. Boxes without extent or with edges that are no numbers count as boxes and have no area.
pub fn measure(set: &AnnotationSet) -> Metrics {
    let mut by_class: Vec<(String, String, bool, Collected)> =
        set.classes.iter().map(|c| (c.name.clone(), c.category.clone(), true, Collected::default())).collect();
    let mut index: BTreeMap<String, usize> =
        set.classes.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).rev().collect();
    let mut confidence_bins = vec![0; CONFIDENCE_BINS];
    let mut thresholds: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
    let mut labellers: BTreeMap<String, usize> = BTreeMap::new();
    let (mut scores, mut areas, mut shares, mut sides) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut per_image = Vec::with_capacity(set.images.len());
    for (number, image) in set.images.iter().enumerate() {
        per_image.push(image.annotations.len() as f64);
        let image_area = f64::from(image.width) * f64::from(image.height);
        for a in &image.annotations {
            let at = if let Some(&at) = index.get(&a.class) {
                at
            } else {
                index.insert(a.class.clone(), by_class.len());
                by_class.push((a.class.clone(), String::new(), false, Collected::default()));
                by_class.len() - 1
            };
            let class = &mut by_class[at].3;
            class.boxes += 1;
            if class.last_image != Some(number) {
                class.last_image = Some(number);
                class.images += 1;
            }
            if let Some(score) = a.score {
                let score = score.get();
                class.scores.push(score);
                scores.push(score);
                confidence_bins[((score * CONFIDENCE_BINS as f64) as usize).min(CONFIDENCE_BINS - 1)] += 1;
            }
            if a.bbox.is_valid() {
                class.areas.push(a.bbox.area());
                areas.push(a.bbox.area());
                sides.push(a.bbox.width().max(a.bbox.height()));
                if image_area > 0.0 {
                    shares.push(a.bbox.area() / image_area);
                }
            }
            if let Some(t) = a.provenance.threshold.filter(|t| t.is_finite()) {
                thresholds.entry(t.to_bits()).or_insert((t, 0)).1 += 1;
            }
            let labeller = if a.provenance.labeller.is_empty() { "unknown" } else { &a.provenance.labeller };
            *labellers.entry(labeller.to_owned()).or_default() += 1;
        }
    }
    let boxes = per_image.iter().sum::<f64>() as usize;
    let images_with_boxes = per_image.iter().filter(|n| **n > 0.0).count();
    let classes: Vec<ClassMetrics> = by_class
        .into_iter()
        .map(|(name, category, listed, mut c)| ClassMetrics {
            name,
            category,
            listed,
            boxes: c.boxes,
            share: if boxes > 0 { c.boxes as f64 / boxes as f64 } else { 0.0 },
            images: c.images,
            confidence: Summary::of(&mut c.scores),
            area_px: Summary::of(&mut c.areas),
        })
        .collect();
    let count = |c: &ClassMetrics| ClassCount { name: c.name.clone(), boxes: c.boxes };
    let found = || classes.iter().filter(|c| c.boxes > 0);
    let most_common = found().rev().max_by_key(|c| c.boxes).map(count);
    let least_common = found().min_by_key(|c| c.boxes).map(count);
    let imbalance = most_common.as_ref().zip(least_common.as_ref()).map(|(m, l)| m.boxes as f64 / l.boxes as f64);
    let images = set.images.len();
    Metrics {
        images,
        images_with_boxes,
        coverage: (images > 0).then(|| images_with_boxes as f64 / images as f64),
        skipped: set.skipped.len(),
        boxes,
        per_image_bins: count_bins(&per_image),
        boxes_per_image: Summary::of(&mut per_image),
        confidence: Summary::of(&mut scores),
        confidence_bins,
        threshold: thresholds.into_values().max_by_key(|(_, n)| *n).map(|(t, _)| t),
        area_px: Summary::of(&mut areas),
        area_share: Summary::of(&mut shares),
        side_bins: side_bins(&sides),
        classes_found: classes.iter().filter(|c| c.boxes > 0).count(),
        most_common,
        least_common,
        imbalance,
        classes,
        labellers,
    }
}

/// Counts in bins of equal whole width, at most 25 of them, from 0 on.
fn count_bins(values: &[f64]) -> Vec<(f64, f64, usize)> {
    let Some(max) = values.iter().copied().reduce(f64::max) else { return Vec::new() };
    let width = ((max + 1.0) / 25.0).ceil().max(1.0);
    let n = ((max + 1.0) / width).ceil() as usize;
    let mut bins: Vec<_> = (0..n).map(|i| (i as f64 * width, (i + 1) as f64 * width, 0)).collect();
    for v in values {
        bins[((v / width) as usize).min(n - 1)].2 += 1;
    }
    bins
}

/// Sizes in 20 bins of equal width from 0 to the 99th percentile (rounded up); larger ones fall into the last bin.
fn side_bins(values: &[f64]) -> Vec<(f64, f64, usize)> {
    const BINS: usize = 20;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(&top) = sorted.get(sorted.len().saturating_sub(1) * 99 / 100) else { return Vec::new() };
    let width = (top / BINS as f64).ceil().max(1.0);
    let mut bins: Vec<_> = (0..BINS).map(|i| (i as f64 * width, (i + 1) as f64 * width, 0)).collect();
    for v in values {
        bins[((v / width) as usize).min(BINS - 1)].2 += 1;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{class, image, scored, set};
    use proptest::prelude::*;

    #[test]
    fn summary_by_hand() {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, population standard deviation 2, median 4.5.
        let s = Summary::of(&mut vec![9.0, 2.0, 4.0, 5.0, 4.0, 7.0, 5.0, 4.0, f64::NAN]).unwrap();
        assert_eq!((s.count, s.mean, s.std, s.median, s.min, s.max), (8, 5.0, 2.0, 4.5, 2.0, 9.0));
        assert_eq!(Summary::of(&mut vec![]), None);
        let one = Summary::of(&mut vec![3.0]).unwrap();
        assert_eq!((one.mean, one.std, one.median), (3.0, 0.0, 3.0));
    }

    #[test]
    fn set_by_hand() {
        let set = set(
            vec![class("ball valve"), class("globe valve"), class("plug valve")],
            vec![
                image(
                    "a.png",
                    100,
                    50,
                    vec![
                        scored("ball valve", [0.0, 0.0, 10.0, 20.0], 0.5),
                        scored("ball valve", [20.0, 0.0, 40.0, 10.0], 1.0),
                        scored("globe valve", [50.0, 0.0, 60.0, 10.0], 0.25),
                    ],
                ),
                image("b.png", 100, 50, vec![]),
                image("c.png", 200, 50, vec![scored("ball valve", [0.0, 0.0, 20.0, 30.0], 0.05)]),
            ],
        );
        let m = measure(&set);
        assert_eq!((m.images, m.images_with_boxes, m.boxes), (3, 2, 4));
        assert_eq!(m.coverage, Some(2.0 / 3.0));
        let per = m.boxes_per_image.unwrap();
        assert_eq!((per.min, per.max, per.mean, per.median), (0.0, 3.0, 4.0 / 3.0, 1.0));
        let c = m.confidence.unwrap();
        assert_eq!((c.mean, c.median, c.min, c.max), (0.45, 0.375, 0.05, 1.0));
        // Deviations .05, .55, -.2, -.4: squares .0025 + .3025 + .04 + .16 = .505; /4 = .12625.
        assert!((c.std - 0.12625f64.sqrt()).abs() < 1e-12);
        let filled: Vec<_> = m.confidence_bins.iter().enumerate().filter(|b| *b.1 > 0).collect();
        assert_eq!(filled, [(1, &1), (5, &1), (10, &1), (19, &1)]);
        let area = m.area_px.unwrap();
        assert_eq!((area.min, area.max, area.mean, area.median), (100.0, 600.0, 275.0, 200.0));
        let share = m.area_share.unwrap();
        assert_eq!((share.min, share.max), (0.02, 0.06));
        assert_eq!(m.classes.iter().map(|c| (c.boxes, c.images)).collect::<Vec<_>>(), [(3, 2), (1, 1), (0, 0)]);
        assert_eq!(m.classes[0].share, 0.75);
        assert_eq!(m.classes_found, 2);
        assert_eq!(m.most_common.as_ref().unwrap().name, "ball valve");
        assert_eq!(m.least_common.as_ref().unwrap().name, "globe valve");
        assert_eq!(m.imbalance, Some(3.0));
        assert_eq!(m.per_image_bins, [(0.0, 1.0, 1), (1.0, 2.0, 1), (2.0, 3.0, 0), (3.0, 4.0, 1)]);
    }

    #[test]
    fn nothing_is_measured_as_nothing() {
        let m = measure(&AnnotationSet::default());
        assert_eq!((m.images, m.boxes, m.classes_found), (0, 0, 0));
        assert_eq!((m.coverage, m.imbalance), (None, None));
        assert!(m.boxes_per_image.is_none() && m.confidence.is_none() && m.area_px.is_none());
        assert!(!serde_json::to_string(&m).unwrap().contains("NaN"));
    }

    #[test]
    fn unlisted_classes_are_counted() {
        let m = measure(&set(vec![class("a")], vec![image("i", 9, 9, vec![scored("zz", [0.0, 0.0, 1.0, 1.0], 0.5)])]));
        assert_eq!((m.classes[1].name.as_str(), m.classes[1].listed, m.classes[1].boxes), ("zz", false, 1));
    }

    proptest! {
        #[test]
        fn counts_add_up(images in prop::collection::vec(
            prop::collection::vec((0usize..4, prop::array::uniform4(prop::num::f64::ANY), 0.0f64..=1.0), 0..6), 0..6)) {
            let images = images.into_iter().enumerate().map(|(i, boxes)| {
                let boxes = boxes.into_iter().map(|(c, b, s)| scored(&format!("c{c}"), b, s)).collect();
                image(&format!("{i}.png"), 64, 48, boxes)
            }).collect();
            let set = set(vec![class("c0"), class("c1")], images);
            let m = measure(&set);
            prop_assert_eq!(m.boxes, set.box_count());
            prop_assert_eq!(m.classes.iter().map(|c| c.boxes).sum::<usize>(), m.boxes);
            prop_assert_eq!(m.confidence_bins.iter().sum::<usize>(), m.boxes);
            prop_assert_eq!(m.per_image_bins.iter().map(|b| b.2).sum::<usize>(), m.images);
            prop_assert_eq!(m.labellers.values().sum::<usize>(), m.boxes);
            let share: f64 = m.classes.iter().map(|c| c.share).sum();
            prop_assert!(m.boxes == 0 || (share - 1.0).abs() < 1e-9);
            prop_assert!(m.coverage.is_none_or(|c| (0.0..=1.0).contains(&c)));
            let c = serde_json::to_value(m.confidence).unwrap();
            prop_assert!(m.boxes == 0 || c["mean"].is_f64() && c["std"].is_f64());
        }
    }
}
