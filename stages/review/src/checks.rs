//! What is odd about a set of annotations: images, boxes, pairs of boxes; and which numbers deserve a warning.
//!
//! Owns the rules. Refuses to repair anything: it names what it finds.

use std::collections::BTreeMap;

use artifacts::decisions::box_ids;
use datasets::{AnnotationSet, ImageAnnotations, Skipped};
use report::number::{counted, fixed, percent};
use serde::Serialize;

use crate::metrics::Metrics;
use crate::settings::Settings;

/// At most this many odd boxes are listed; all are counted.
pub const LISTED: usize = 5000;
/// Pixels that a box may reach outside its image without a word (rounding).
const OUTSIDE_PX: f64 = 0.5;

/// What is odd about a box.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "problem")]
pub enum Odd {
    /// Edges that are no numbers, or no area.
    Invalid,
    /// Reaches outside its image.
    OutOfBounds {
        /// By how many pixels at most.
        by_px: f64,
    },
    /// Too small to be learned.
    Tiny {
        /// Shorter side in pixels.
        side_px: f64,
    },
    /// Covers much of its image.
    Huge {
        /// Share of the image's area, 0..=1.
        share: f64,
    },
    /// The same object found twice, as the same class.
    Duplicate {
        /// Position of the other box in its image.
        other: usize,
        /// Intersection over union.
        iou: f64,
    },
    /// Overlaps another box.
    Overlap {
        /// Position of the other box in its image.
        other: usize,
        /// The other box's class.
        class: String,
        /// Intersection over union.
        iou: f64,
    },
    /// A class that the ontology does not list.
    UnknownClass,
}

impl Odd {
    /// Name of the rule, as counted in `Checks::counts`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::Tiny { .. } => "tiny",
            Self::Huge { .. } => "huge",
            Self::Duplicate { .. } => "near_duplicate",
            Self::Overlap { .. } => "overlapping",
            Self::UnknownClass => "unknown_class",
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Invalid => "is no box: its edges enclose nothing".into(),
            Self::OutOfBounds { by_px } => format!("reaches {} px outside the image", fixed(*by_px, 1)),
            Self::Tiny { side_px } => format!("tiny: {} px on its shorter side", fixed(*side_px, 1)),
            Self::Huge { share } => format!("huge: {} of the image", percent(*share)),
            Self::Duplicate { iou, .. } => format!("the same box twice ({} % shared)", fixed(iou * 100.0, 0)),
            Self::Overlap { class, iou, .. } => {
                format!("overlaps {} ({} % shared)", with_article(class), fixed(iou * 100.0, 0))
            }
            Self::UnknownClass => "its class is not in the ontology".into(),
        }
    }
}

fn with_article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// An odd box, as listed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OddBox {
    /// Image name.
    pub image: String,
    /// Box id.
    #[serde(rename = "box")]
    pub id: String,
    /// Class name.
    pub class: String,
    /// What is odd.
    #[serde(flatten)]
    pub odd: Odd,
}

/// Everything odd about a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Checks {
    /// Images without a box, by name.
    pub empty_images: Vec<String>,
    /// Groups of images with the same bytes.
    pub duplicate_images: Vec<Vec<String>>,
    /// Images that were left out, with reasons.
    pub skipped: Vec<Skipped>,
    /// Classes of the ontology that no box has.
    pub classes_without_boxes: Vec<String>,
    /// Odd boxes by rule. A pair of boxes counts once.
    pub counts: BTreeMap<&'static str, usize>,
    /// Odd boxes, at most `LISTED`.
    pub boxes: Vec<OddBox>,
}

/// What is odd about the boxes of an image: position of the box, and what. The pair of a duplicate or an overlap is
/// reported at the box with the lower score (the later one when equal).
pub fn odd_boxes(image: &ImageAnnotations, settings: &Settings) -> Vec<(usize, Odd)> {
    let mut found = Vec::new();
    let (w, h) = (f64::from(image.width), f64::from(image.height));
    let mut valid = Vec::new();
    for (i, a) in image.annotations.iter().enumerate() {
        let b = &a.bbox;
        if !b.is_valid() {
            found.push((i, Odd::Invalid));
            continue;
        }
        valid.push(i);
        let by_px = [-b.x0, -b.y0, b.x1 - w, b.y1 - h].into_iter().fold(0.0, f64::max);
        if by_px > OUTSIDE_PX {
            found.push((i, Odd::OutOfBounds { by_px }));
        }
        let side_px = b.width().min(b.height());
        if side_px < settings.tiny_px {
            found.push((i, Odd::Tiny { side_px }));
        }
        let share = b.area() / (w * h);
        if w * h > 0.0 && share > settings.huge_share {
            found.push((i, Odd::Huge { share }));
        }
    }
    // Sweep from left to right: only boxes that begin before this one ends can overlap it.
    valid.sort_by(|&i, &j| image.annotations[i].bbox.x0.total_cmp(&image.annotations[j].bbox.x0).then(i.cmp(&j)));
    for (at, &i) in valid.iter().enumerate() {
        let a = &image.annotations[i];
        for &j in valid[at + 1..].iter().take_while(|&&j| image.annotations[j].bbox.x0 < a.bbox.x1) {
            let b = &image.annotations[j];
            let iou = a.bbox.iou(&b.bbox);
            if iou <= 0.0 {
                continue;
            }
            let score = |k: usize| image.annotations[k].score.map_or(1.0, datasets::Score::get);
            let (first, second) = (i.min(j), i.max(j));
            let (doubtful, other) = if score(first) < score(second) { (first, second) } else { (second, first) };
            if a.class == b.class && iou >= settings.duplicate_iou {
                found.push((doubtful, Odd::Duplicate { other, iou }));
            } else if iou >= settings.overlap_iou {
                let class = image.annotations[other].class.clone();
                found.push((doubtful, Odd::Overlap { other, class, iou }));
            }
        }
    }
    found.sort_by_key(|(i, _)| *i);
    found
}

/// Checks a whole set.
pub fn check(set: &AnnotationSet, metrics: &Metrics, settings: &Settings) -> Checks {
    let mut checks = Checks {
        skipped: set.skipped.clone(),
        empty_images: set.images.iter().filter(|i| i.annotations.is_empty()).map(|i| i.image.clone()).collect(),
        classes_without_boxes: metrics.classes.iter().filter(|c| c.boxes == 0).map(|c| c.name.clone()).collect(),
        ..Checks::default()
    };
    let mut by_digest: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for image in set.images.iter().filter(|i| !i.digest.is_empty()) {
        by_digest.entry(&image.digest).or_default().push(image.image.clone());
    }
    checks.duplicate_images = by_digest.into_values().filter(|names| names.len() > 1).collect();
    checks.duplicate_images.sort();
    let unlisted: Vec<&str> = metrics.classes.iter().filter(|c| !c.listed).map(|c| c.name.as_str()).collect();
    for image in &set.images {
        let mut odd = odd_boxes(image, settings);
        if !unlisted.is_empty() {
            let unknown = image.annotations.iter().enumerate().filter(|(_, a)| unlisted.contains(&a.class.as_str()));
            odd.extend(unknown.map(|(i, _)| (i, Odd::UnknownClass)));
        }
        if odd.is_empty() {
            continue;
        }
        let ids = if checks.boxes.len() < LISTED { box_ids(image) } else { Vec::new() };
        for (i, odd) in odd {
            *checks.counts.entry(odd.rule()).or_default() += 1;
            if checks.boxes.len() < LISTED {
                let (image, class) = (image.image.clone(), image.annotations[i].class.clone());
                checks.boxes.push(OddBox { image, id: ids[i].clone(), class, odd });
            }
        }
    }
    checks
}

/// A number that deserves attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it is, in a few words.
    pub title: String,
    /// What it means and what to do.
    pub text: String,
    /// True when there is nothing to train on.
    pub blocking: bool,
}

/// The warnings that the numbers call for, most serious first.
pub fn warnings(m: &Metrics, checks: &Checks, settings: &Settings) -> Vec<Warning> {
    let mut out = Vec::new();
    let mut warn = |rule, title: String, text: String| out.push(Warning { rule, title, text, blocking: false });
    if let Some(coverage) = m.coverage.filter(|c| *c < settings.min_coverage && m.boxes > 0) {
        warn(
            "coverage",
            format!("Only {} of the images have a box", percent(coverage)),
            format!(
                "{} of {} images are without a single box. Either they show no symbol, or the labeller misses symbols: \
                 compare the templates with the sheets below, or lower the threshold.",
                report::number::count(m.images - m.images_with_boxes),
                report::number::count(m.images)
            ),
        );
    }
    if let Some(c) = m.confidence.filter(|c| c.mean < settings.min_confidence) {
        warn(
            "confidence",
            format!("The mean confidence is {}", fixed(c.mean, 2)),
            format!(
                "That is under {}. Many boxes may be wrong: look at the most doubtful ones of each class and raise the \
                 threshold, or bring better templates.",
                fixed(settings.min_confidence, 2)
            ),
        );
    }
    if let (Some(ratio), Some(most), Some(least)) = (m.imbalance, &m.most_common, &m.least_common)
        && ratio > settings.max_imbalance
    {
        warn(
            "imbalance",
            format!("The classes are uneven: {} to 1", fixed(ratio, 1)),
            format!(
                "“{}” has {}, “{}” has {}. A detector learns rare classes badly: add drawings that show them.",
                most.name,
                counted(most.boxes, "box", "boxes"),
                least.name,
                counted(least.boxes, "box", "boxes")
            ),
        );
    }
    if m.boxes > 0 && !checks.classes_without_boxes.is_empty() {
        let n = checks.classes_without_boxes.len();
        warn(
            "classes_without_boxes",
            format!("{} without a box", counted(n, "class", "classes")),
            "The detector cannot learn what it never sees. Check the templates of these classes, or remove them."
                .into(),
        );
    }
    if !checks.skipped.is_empty() {
        warn(
            "skipped",
            format!("{} left out", counted(checks.skipped.len(), "image was", "images were")),
            "They could not be used; the reasons are listed under Problems.".into(),
        );
    }
    if !checks.duplicate_images.is_empty() {
        let extra: usize = checks.duplicate_images.iter().map(|g| g.len() - 1).sum();
        warn(
            "duplicate_images",
            format!("{} more than once", counted(extra, "image is there", "images are there")),
            "Copies in both training and held-out images make results look better than they are.".into(),
        );
    }
    let rules = [
        ("invalid", "box without extent", "boxes without extent"),
        (
            "unknown_class",
            "box of a class that is not in the ontology",
            "boxes of classes that are not in the ontology",
        ),
        ("out_of_bounds", "box reaches outside its image", "boxes reach outside their images"),
        ("near_duplicate", "box is there twice", "boxes are there twice"),
        ("overlapping", "pair of boxes overlaps", "pairs of boxes overlap"),
        ("tiny", "tiny box", "tiny boxes"),
        ("huge", "huge box", "huge boxes"),
    ];
    for (rule, one, many) in rules {
        if let Some(&n) = checks.counts.get(rule) {
            warn(rule, counted(n, one, many), "They are listed under Problems.".into());
        }
    }
    if m.boxes == 0 {
        let text = "There is nothing to train on. Check that the templates show the symbols of these drawings at about \
                    their size, and lower the labeller's threshold.";
        out.insert(
            0,
            Warning { rule: "no_boxes", title: "No boxes were found".into(), text: text.into(), blocking: true },
        );
    }
    out
}

#[cfg(test)]
pub(crate) mod fixture {
    use datasets::{Annotation, AnnotationSet, BBox, ClassInfo, ImageAnnotations, Score};

    pub fn class(name: &str) -> ClassInfo {
        ClassInfo { name: name.into(), category: "Valves".into(), color: [180, 60, 40] }
    }

    pub fn scored(class: &str, bbox: [f64; 4], score: f64) -> Annotation {
        let mut a = Annotation::new(class, BBox::from(bbox));
        a.score = Some(Score::new(score).unwrap());
        a.provenance.labeller = "template".into();
        a.provenance.threshold = Some(0.4);
        a
    }

    pub fn image(name: &str, width: u32, height: u32, annotations: Vec<Annotation>) -> ImageAnnotations {
        ImageAnnotations { image: name.into(), digest: String::new(), width, height, split: None, annotations }
    }

    pub fn set(classes: Vec<ClassInfo>, images: Vec<ImageAnnotations>) -> AnnotationSet {
        AnnotationSet { classes, images, skipped: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::*;
    use super::*;
    use crate::metrics::measure;
    use proptest::prelude::*;

    fn odd(boxes: Vec<datasets::Annotation>) -> Vec<(usize, &'static str)> {
        let odd = odd_boxes(&image("i", 100, 100, boxes), &Settings::default());
        odd.into_iter().map(|(i, o)| (i, o.rule())).collect()
    }

    #[test]
    fn each_rule_finds_its_box() {
        assert_eq!(odd(vec![scored("a", [10.0, 10.0, 30.0, 30.0], 0.9)]), []);
        assert_eq!(odd(vec![scored("a", [-5.0, 10.0, 30.0, 30.0], 0.9)]), [(0, "out_of_bounds")]);
        assert_eq!(odd(vec![scored("a", [90.0, 90.0, 100.4, 100.4], 0.9)]), []);
        assert_eq!(odd(vec![scored("a", [10.0, 10.0, 17.0, 30.0], 0.9)]), [(0, "tiny")]);
        assert_eq!(odd(vec![scored("a", [0.0, 0.0, 60.0, 60.0], 0.9)]), [(0, "huge")]);
        assert_eq!(odd(vec![scored("a", [30.0, 10.0, 10.0, 30.0], 0.9)]), [(0, "invalid")]);
        assert_eq!(odd(vec![scored("a", [f64::NAN, 10.0, 10.0, 30.0], 0.9)]), [(0, "invalid")]);
    }

    #[test]
    fn pairs_are_reported_once_at_the_weaker_box() {
        // Intersection 19 x 20 = 380, union 420: IoU .905.
        let pair = |class: &str| {
            vec![scored("a", [10.0, 10.0, 30.0, 30.0], 0.4), scored(class, [11.0, 10.0, 31.0, 30.0], 0.9)]
        };
        assert_eq!(odd(pair("a")), [(0, "near_duplicate")]);
        assert_eq!(odd(pair("b")), [(0, "overlapping")]);
        // Touching boxes do not overlap.
        assert_eq!(odd(vec![scored("a", [0.0, 0.0, 20.0, 20.0], 0.4), scored("a", [20.0, 0.0, 40.0, 20.0], 0.4)]), []);
    }

    #[test]
    fn set_checks_by_hand() {
        let mut images = vec![
            image("a.png", 100, 100, vec![scored("x", [10.0, 10.0, 30.0, 30.0], 0.2)]),
            image("b.png", 100, 100, vec![]),
            image("c.png", 100, 100, vec![]),
        ];
        images[0].digest = "d".into();
        images[2].digest = "d".into();
        let set = set(vec![class("x"), class("y")], images);
        let settings = Settings::default();
        let m = measure(&set);
        let checks = check(&set, &m, &settings);
        assert_eq!(checks.empty_images, ["b.png", "c.png"]);
        assert_eq!(checks.duplicate_images, [["a.png", "c.png"]]);
        assert_eq!(checks.classes_without_boxes, ["y"]);
        let rules: Vec<_> = warnings(&m, &checks, &settings).into_iter().map(|w| (w.rule, w.blocking)).collect();
        assert_eq!(
            rules,
            [("coverage", false), ("confidence", false), ("classes_without_boxes", false), ("duplicate_images", false)]
        );
    }

    #[test]
    fn warnings_begin_beyond_the_limit_not_at_it() {
        let settings = Settings::default();
        let at = |per_class: [usize; 2], score: f64, empty: usize| {
            let mut images: Vec<_> = per_class
                .iter()
                .enumerate()
                .flat_map(|(c, &n)| {
                    (0..n).map(move |i| {
                        let b = vec![scored(&format!("c{c}"), [10.0, 10.0, 30.0, 30.0], score)];
                        image(&format!("{c}-{i}"), 100, 100, b)
                    })
                })
                .collect();
            images.extend((0..empty).map(|i| image(&format!("e{i}"), 100, 100, vec![])));
            let set = set(vec![class("c0"), class("c1")], images);
            let m = measure(&set);
            let list = warnings(&m, &check(&set, &m, &settings), &settings);
            list.into_iter().map(|w| w.rule).collect::<Vec<_>>()
        };
        assert_eq!(at([10, 1], 0.5, 11), [""; 0]);
        assert_eq!(at([11, 1], 0.5, 0), ["imbalance"]);
        assert_eq!(at([1, 1], 0.5, 3), ["coverage"]);
        assert_eq!(at([1, 1], 0.25, 0), ["confidence"]);
        assert_eq!(at([0, 0], 0.5, 3), ["no_boxes"]);
    }

    #[test]
    fn ids_follow_content_not_position() {
        let a = image("i", 9, 9, vec![scored("a", [1.0, 2.0, 3.0, 4.0], 0.5), scored("b", [1.0, 2.0, 3.0, 4.0], 0.5)]);
        let b = image("i", 9, 9, vec![scored("b", [1.0, 2.0, 3.0, 4.0], 0.9)]);
        assert_eq!(box_ids(&a)[1], box_ids(&b)[0]);
        assert_ne!(box_ids(&a)[0], box_ids(&a)[1]);
        let twice = image("i", 9, 9, vec![a.annotations[0].clone(), a.annotations[0].clone()]);
        assert_eq!(box_ids(&twice)[1], format!("{}-2", box_ids(&twice)[0]));
    }

    proptest! {
        #[test]
        fn sweep_finds_what_all_pairs_find(boxes in prop::collection::vec(
            (0.0f64..80.0, 0.0f64..80.0, 1.0f64..30.0, 1.0f64..30.0, 0u8..2), 0..14)) {
            let settings = Settings::default();
            let boxes: Vec<_> = boxes.into_iter()
                .map(|(x, y, w, h, c)| scored(&format!("c{c}"), [x, y, x + w, y + h], 0.5)).collect();
            let mut pairs = 0;
            for i in 0..boxes.len() {
                for j in i + 1..boxes.len() {
                    let iou = boxes[i].bbox.iou(&boxes[j].bbox);
                    pairs += usize::from(iou >= settings.overlap_iou);
                }
            }
            let found = odd_boxes(&image("i", 200, 200, boxes), &settings);
            let found = found.iter().filter(|o| matches!(o.1, Odd::Duplicate { .. } | Odd::Overlap { .. })).count();
            prop_assert_eq!(found, pairs);
        }
    }
}
