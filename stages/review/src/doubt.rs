//! Which boxes and sheets a person should look at first.
//!
//! Doubt is `1 - score` (0.5 without a score), plus 0.25 for every reason to look twice. The order depends on nothing
//! but the labels.

use std::collections::BTreeMap;

use datasets::{Annotation, AnnotationSet};
use report::number::fixed;

use crate::checks::{Odd, odd_boxes};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Doubt added by each reason.
const PER_REASON: f64 = 0.25;
/// A score this close above its threshold is a reason.
const CLOSE: f64 = 0.05;
/// A box this many times larger or smaller (in area) than the median of its class is a reason.
const UNUSUAL: f64 = 3.0;
/// Classes with fewer boxes have no usual size.
const USUAL_FROM: usize = 5;

/// A box with its doubt.
#[derive(Clone, Debug, PartialEq)]
pub struct Doubtful {
    /// Position of the image in the set.
    pub image: usize,
    /// Position of the box in its image.
    pub annotation: usize,
    /// Doubt, from 0 on.
    pub doubt: f64,
    /// Reasons in words.
    pub reasons: Vec<String>,
}

/// A sheet worth showing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// Position of the image in the set.
    pub image: usize,
    /// Why it is shown.
    pub why: String,
}

/// What is shown of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Sheets in the order they are shown.
    pub sheets: Vec<Sheet>,
    /// The most doubtful boxes of each class, most doubtful first.
    pub boxes: BTreeMap<String, Vec<Doubtful>>,
}

impl Selection {
    /// Positions of all images that are needed, ascending.
    pub fn images(&self) -> Vec<usize> {
        let boxes = self.boxes.values().flatten().map(|d| d.image);
        let mut all: Vec<usize> = self.sheets.iter().map(|s| s.image).chain(boxes).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Chooses sheets and boxes. Holds a bounded number of boxes of each class, whatever the size of the set; `usable` says
/// which images can be shown.
pub fn select(
    set: &AnnotationSet,
    metrics: &Metrics,
    settings: &Settings,
    usable: impl Fn(usize) -> bool,
) -> Selection {
    let usual: BTreeMap<&str, f64> = metrics
        .classes
        .iter()
        .filter(|c| c.boxes >= USUAL_FROM)
        .filter_map(|c| Some((c.name.as_str(), c.area_px?.median)))
        .collect();
    // Twice as many as are shown: some may lie on images beyond the limit.
    let keep = settings.crops_per_class * 2;
    let mut by_class: BTreeMap<&str, Vec<Doubtful>> = BTreeMap::new();
    let mut sheets: Vec<(f64, usize, usize)> = Vec::new();
    for (at, image) in set.images.iter().enumerate().filter(|(at, _)| usable(*at)) {
        let mut odd: BTreeMap<usize, Vec<Odd>> = BTreeMap::new();
        for (i, o) in odd_boxes(image, settings) {
            odd.entry(i).or_default().push(o);
        }
        let mut total = 0.0;
        for (i, a) in image.annotations.iter().enumerate() {
            let reasons = reasons(a, odd.get(&i).map_or(&[][..], |o| o), usual.get(a.class.as_str()).copied());
            let doubt = 1.0 - a.score.map_or(0.5, datasets::Score::get) + PER_REASON * reasons.len() as f64;
            total += doubt;
            let list = by_class.entry(&a.class).or_default();
            list.push(Doubtful { image: at, annotation: i, doubt, reasons });
            if list.len() > keep * 4 + 64 {
                shorten(list, keep);
            }
        }
        let n = image.annotations.len();
        sheets.push((if n > 0 { total / n as f64 } else { -1.0 }, at, n));
    }
    let sheets = choose_sheets(sheets, settings.sheets.min(settings.picture_images));
    let mut images: Vec<usize> = sheets.iter().map(|s| s.image).collect();
    for list in by_class.values_mut() {
        shorten(list, keep);
    }
    // In rounds, so that every class gets its most doubtful box before any class gets its second.
    let mut boxes: BTreeMap<String, Vec<Doubtful>> = BTreeMap::new();
    for round in 0..keep {
        for (class, list) in &by_class {
            let Some(d) = list.get(round) else { continue };
            let chosen = boxes.entry((*class).to_owned()).or_default();
            let known = images.contains(&d.image);
            if chosen.len() < settings.crops_per_class && (known || images.len() < settings.picture_images) {
                chosen.push(d.clone());
                if !known {
                    images.push(d.image);
                }
            }
        }
    }
    boxes.retain(|_, list| !list.is_empty());
    Selection { sheets, boxes }
}

fn shorten(list: &mut Vec<Doubtful>, keep: usize) {
    list.sort_by(|a, b| b.doubt.total_cmp(&a.doubt).then((a.image, a.annotation).cmp(&(b.image, b.annotation))));
    list.truncate(keep);
}

/// Half of the sheets by doubt, then others spread evenly over the set, in order of names; empty ones last.
fn choose_sheets(mut sheets: Vec<(f64, usize, usize)>, most: usize) -> Vec<Sheet> {
    if sheets.len() <= most {
        sheets.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        return sheets
            .into_iter()
            .map(|(_, image, n)| Sheet { image, why: if n == 0 { "no boxes" } else { "" }.into() })
            .collect();
    }
    let mut by_doubt = sheets.clone();
    by_doubt.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut chosen: Vec<Sheet> = by_doubt
        .iter()
        .filter(|s| s.2 > 0)
        .take(most.div_ceil(2))
        .map(|s| Sheet { image: s.1, why: "among the most doubtful".into() })
        .collect();
    sheets.retain(|s| s.2 > 0 && chosen.iter().all(|c| c.image != s.1));
    let wanted = (most - chosen.len()).min(sheets.len());
    for k in 0..wanted {
        // The middle of the k-th of `wanted` equal parts.
        let at = (2 * k + 1) * sheets.len() / (2 * wanted);
        chosen.push(Sheet { image: sheets[at].1, why: "as one of many".into() });
    }
    for s in by_doubt.iter().filter(|s| s.2 == 0).take(most - chosen.len()) {
        chosen.push(Sheet { image: s.1, why: "no boxes".into() });
    }
    chosen
}

fn reasons(a: &Annotation, odd: &[Odd], usual_area: Option<f64>) -> Vec<String> {
    let mut reasons: Vec<String> = odd.iter().map(Odd::text).collect();
    if let (Some(score), Some(threshold)) = (a.score, a.provenance.threshold) {
        let score = score.get();
        if score >= threshold && score - threshold <= CLOSE {
            reasons.push(format!("score {} close to threshold {}", fixed(score, 2), fixed(threshold, 2)));
        }
    }
    if let Some(usual) = usual_area.filter(|u| *u > 0.0 && a.bbox.is_valid()) {
        let ratio = a.bbox.area() / usual;
        if ratio > UNUSUAL {
            reasons.push(format!("{} times as large as usual for its class", fixed(ratio, 1)));
        } else if ratio < 1.0 / UNUSUAL {
            reasons.push(format!("{} times smaller than usual for its class", fixed(1.0 / ratio, 1)));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{class, image, scored, set};
    use crate::metrics::measure;

    #[test]
    fn lowest_score_and_odd_boxes_come_first() {
        let set = set(
            vec![class("a")],
            vec![image(
                "i",
                200,
                200,
                vec![
                    scored("a", [0.0, 0.0, 20.0, 20.0], 0.90),
                    scored("a", [40.0, 0.0, 60.0, 20.0], 0.60),
                    scored("a", [0.0, 40.0, 20.0, 60.0], 0.41),
                    scored("a", [80.0, 80.0, 100.0, 85.0], 0.80),
                ],
            )],
        );
        let s = select(&set, &measure(&set), &Settings::default(), |_| true);
        let order: Vec<_> = s.boxes["a"].iter().map(|d| d.annotation).collect();
        // Doubt: .1; .4; .59 + .25; .2 + .25.
        assert_eq!(order, [2, 3, 1, 0]);
        assert_eq!(s.boxes["a"][0].reasons, ["score 0.41 close to threshold 0.40"]);
        assert_eq!(s.boxes["a"][1].reasons, ["tiny: 5.0 px on its shorter side"]);
    }

    #[test]
    fn overlap_names_the_other_class() {
        let set = set(
            vec![class("a")],
            vec![image(
                "i",
                200,
                200,
                vec![
                    scored("globe valve", [0.0, 0.0, 20.0, 20.0], 0.50),
                    scored("ball valve", [1.0, 0.0, 21.0, 20.0], 0.90),
                ],
            )],
        );
        let s = select(&set, &measure(&set), &Settings::default(), |_| true);
        assert_eq!(s.boxes["globe valve"][0].reasons, ["overlaps a ball valve (90 % shared)"]);
        assert!(s.boxes["ball valve"][0].reasons.is_empty());
    }

    #[test]
    fn selection_is_bounded_and_repeatable() {
        let images = (0..500)
            .map(|i| {
                let boxes = (0..3).map(|c| scored(&format!("c{c}"), [0.0, 0.0, 20.0, 20.0], f64::from(i % 97) / 97.0));
                image(&format!("{i:03}"), 99, 99, boxes.collect())
            })
            .collect();
        let set = set((0..3).map(|c| class(&format!("c{c}"))).collect(), images);
        let m = measure(&set);
        let s = select(&set, &m, &Settings::default(), |_| true);
        assert_eq!(s, select(&set, &m, &Settings::default(), |_| true));
        assert_eq!(s.sheets.len(), 8);
        assert!(s.boxes.values().all(|b| b.len() == 8));
        assert!(s.images().len() <= 40);
        assert!(select(&set, &m, &Settings::default(), |i| i == 7).images() == [7]);
    }

    #[test]
    fn few_images_are_all_shown_and_nothing_is_no_error() {
        let set = set(vec![class("a")], vec![image("i", 9, 9, vec![])]);
        let s = select(&set, &measure(&set), &Settings::default(), |_| true);
        assert_eq!((s.sheets.len(), s.sheets[0].why.as_str()), (1, "no boxes"));
        let none = AnnotationSet::default();
        assert_eq!(select(&none, &measure(&none), &Settings::default(), |_| true), Selection::default());
    }
}
