//! Which sheets and which boxes of the queue are shown as pictures.
//!
//! A sheet's doubt is the mean of `1 - score` (0.5 without a score) of its boxes. The choice depends on nothing but the
//! labels.

use std::collections::BTreeMap;

use datasets::{AnnotationSet, Score};

use crate::queue::Queue;
use crate::settings::Settings;

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
    /// Positions in the queue of the boxes that are shown, by class, the most useful first.
    pub boxes: BTreeMap<String, Vec<usize>>,
}

impl Selection {
    /// Positions of all images that are needed, ascending.
    pub fn images(&self, queue: &Queue) -> Vec<usize> {
        let boxes = self.boxes.values().flatten().map(|&i| queue.items[i].at.image);
        let mut all: Vec<usize> = self.sheets.iter().map(|s| s.image).chain(boxes).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Chooses sheets and boxes; `usable` says which images can be shown.
pub fn select(set: &AnnotationSet, queue: &Queue, settings: &Settings, usable: impl Fn(usize) -> bool) -> Selection {
    let mut sheets: Vec<(f64, usize, usize)> = Vec::new();
    for (at, image) in set.images.iter().enumerate().filter(|(at, _)| usable(*at)) {
        let n = image.annotations.len();
        let doubt = image.annotations.iter().map(|a| 1.0 - a.score.map_or(0.5, Score::get));
        sheets.push((if n > 0 { doubt.sum::<f64>() / n as f64 } else { -1.0 }, at, n));
    }
    let sheets = choose_sheets(sheets, settings.sheets.min(settings.picture_images));
    let mut images: Vec<usize> = sheets.iter().map(|s| s.image).collect();
    // Twice as many as are shown: some may lie on images beyond the limit.
    let keep = settings.crops_per_class * 2;
    let mut by_class: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, item) in queue.items.iter().enumerate().filter(|(_, item)| usable(item.at.image)) {
        let list = by_class.entry(&item.class).or_default();
        if list.len() < keep {
            list.push(i);
        }
    }
    // In rounds, so that every class gets its most useful box before any class gets its second.
    let mut boxes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for round in 0..keep {
        for (class, list) in &by_class {
            let Some(&i) = list.get(round) else { continue };
            let image = queue.items[i].at.image;
            let chosen = boxes.entry((*class).to_owned()).or_default();
            let known = images.contains(&image);
            if chosen.len() < settings.crops_per_class && (known || images.len() < settings.picture_images) {
                chosen.push(i);
                if !known {
                    images.push(image);
                }
            }
        }
    }
    boxes.retain(|_, list| !list.is_empty());
    Selection { sheets, boxes }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bands::bands;
    use crate::checks::fixture::{class, image, scored, set};
    use crate::metrics::measure;
    use crate::queue::{Labels, queue};

    fn queue_of(set: &AnnotationSet) -> Queue {
        let (settings, candidates) = (Settings::default(), AnnotationSet::default());
        let mut bands = bands(set, &candidates, &settings.bands);
        queue(Labels { set, candidates: &candidates }, &measure(set), &settings, &mut bands)
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
        let q = queue_of(&set);
        let s = select(&set, &q, &Settings::default(), |_| true);
        assert_eq!(s, select(&set, &q, &Settings::default(), |_| true));
        assert_eq!(s.sheets.len(), 8);
        assert!(s.boxes.values().all(|b| b.len() == 8));
        assert!(s.images(&q).len() <= 40);
        assert!(select(&set, &q, &Settings::default(), |i| i == 7).images(&q) == [7]);
    }

    #[test]
    fn few_images_are_all_shown_and_nothing_is_no_error() {
        let set = set(vec![class("a")], vec![image("i", 9, 9, vec![])]);
        let s = select(&set, &queue_of(&set), &Settings::default(), |_| true);
        assert_eq!((s.sheets.len(), s.sheets[0].why.as_str()), (1, "no boxes"));
        let none = AnnotationSet::default();
        assert_eq!(select(&none, &queue_of(&none), &Settings::default(), |_| true), Selection::default());
    }
}
