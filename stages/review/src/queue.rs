//! What a person should look at, the most useful first.
//!
//! A look is worth most where it decides something: nearest to the threshold, above it or below. Boxes that are odd
//! (overlapping, unusually large, ...) come earlier for every reason to look twice. The order depends on nothing but
//! the labels. `queue.json` holds all that a page or a program needs to show the queue and to write decisions.

use std::collections::BTreeMap;

use artifacts::decisions::box_ids;
use datasets::{Annotation, AnnotationSet, BBox, ImageAnnotations, Pixels, Score};
use report::number::fixed;
use serde::Serialize;

use crate::bands::{Band, Bands, SECONDS_PER_LOOK};
use crate::checks::{Odd, odd_boxes};
use crate::explain::explain;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Layout of `queue.json`.
pub const QUEUE_VERSION: u32 = 1;
/// At most this many boxes are in the queue: weeks of work, and the most useful ones of a larger one.
pub const LONGEST: usize = 20_000;
/// Added to the usefulness, 0..=1, by each reason.
const PER_REASON: f64 = 0.25;
/// A score this close to its threshold is a reason.
const CLOSE: f64 = 0.05;
/// A box this many times larger or smaller (in area) than the median of its class is a reason.
const UNUSUAL: f64 = 3.0;
/// Classes with fewer boxes have no usual size.
const USUAL_FROM: usize = 5;
/// Threshold of boxes that do not say theirs, and score of those without one.
const MIDDLE: f64 = 0.5;

/// Labels and what was left out of them, after decisions.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    /// The labels.
    pub set: &'a AnnotationSet,
    /// What missed its threshold.
    pub candidates: &'a AnnotationSet,
}

/// Where a box stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Position of the image in the set.
    pub image: usize,
    /// Position among the candidates' images, for a candidate.
    pub candidates: Option<usize>,
    /// Position of the box in its image.
    pub annotation: usize,
}

impl<'a> Labels<'a> {
    /// The box at a place.
    pub fn at(&self, at: At) -> &'a Annotation {
        &self.image_of(at).annotations[at.annotation]
    }

    /// The list that the box stands in.
    fn image_of(&self, at: At) -> &'a ImageAnnotations {
        at.candidates.map_or(&self.set.images[at.image], |c| &self.candidates.images[c])
    }
}

/// A box in the queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueItem {
    /// Image name.
    pub image: String,
    /// BLAKE3 of the image file.
    pub digest: String,
    /// Box id, for decisions.
    #[serde(rename = "box")]
    pub id: String,
    /// Class name.
    pub class: String,
    /// Edges in pixels: left, top, right, bottom.
    pub bbox: BBox<Pixels>,
    /// Confidence, 0..=1.
    pub score: Option<f64>,
    /// Threshold of the class, 0..=1.
    pub threshold: Option<f64>,
    /// True for a box that missed it and is no label unless a person accepts it.
    pub candidate: bool,
    /// Its band.
    pub band: Band,
    /// How much a look is worth, from 0 on.
    pub usefulness: f64,
    /// Reasons to look twice, in words.
    pub reasons: Vec<String>,
    /// What the confidence rests on, in words.
    pub explanation: Vec<String>,
    /// The same in numbers.
    pub evidence: BTreeMap<String, f64>,
    /// The template that it was found with.
    pub template: Option<String>,
    /// The class that fits the place next best.
    pub runner_up: Option<String>,
    /// Where it stands.
    #[serde(skip)]
    pub at: At,
}

/// The queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    /// The boxes, most useful first.
    pub items: Vec<QueueItem>,
    /// Number of less useful ones that are not listed.
    pub left_out: usize,
}

/// What `queue.json` holds. Pictures are blobs of the artifacts that are named: `images` by image name, `ontology` and
/// `exemplars` by template name.
#[derive(Debug, Serialize)]
pub struct QueueFile<'a> {
    /// Layout: 1.
    pub version: u32,
    /// Digest of the labels before decisions: what a decisions file names.
    pub annotations: &'a str,
    /// Digests of the artifacts with the pictures, by input.
    pub pictures: BTreeMap<&'static str, String>,
    /// Classes in index order.
    pub classes: Vec<QueueClass>,
    /// Boxes by band.
    pub bands: &'a Bands,
    /// Boxes to look at, most useful first.
    pub items: &'a [QueueItem],
    /// Number of less useful ones that are not listed.
    pub left_out: usize,
}

/// A class as a page needs it.
#[derive(Debug, Serialize)]
pub struct QueueClass {
    /// Class name.
    pub name: String,
    /// Display colour, RGB.
    pub color: [u8; 3],
    /// Its templates: file names below `templates/` of the ontology.
    pub templates: Vec<String>,
}

/// A box on its way into the queue.
struct Entry {
    usefulness: f64,
    at: At,
    reasons: Vec<String>,
}

/// Makes the queue and fills its length into `bands`.
pub fn queue(labels: Labels<'_>, metrics: &Metrics, settings: &Settings, bands: &mut Bands) -> Queue {
    let usual: BTreeMap<&str, f64> = metrics
        .classes
        .iter()
        .filter(|c| c.boxes >= USUAL_FROM)
        .filter_map(|c| Some((c.name.as_str(), c.area_px?.median)))
        .collect();
    let left_out: BTreeMap<&str, usize> =
        labels.candidates.images.iter().enumerate().map(|(i, m)| (m.image.as_str(), i)).collect();
    let (mut entries, mut total): (Vec<Entry>, usize) = (Vec::new(), 0);
    for (number, image) in labels.set.images.iter().enumerate() {
        let mut odd: BTreeMap<usize, Vec<Odd>> = BTreeMap::new();
        for (i, o) in odd_boxes(image, settings) {
            odd.entry(i).or_default().push(o);
        }
        let candidates = left_out.get(image.image.as_str()).copied();
        let places = (0..image.annotations.len()).map(|annotation| (None, annotation));
        let others = candidates.into_iter().flat_map(|c| {
            (0..labels.candidates.images[c].annotations.len()).map(move |annotation| (Some(c), annotation))
        });
        for (candidates, annotation) in places.chain(others) {
            let at = At { image: number, candidates, annotation };
            let a = labels.at(at);
            let odd = if candidates.is_none() { odd.get(&annotation).map_or(&[][..], |o| o) } else { &[] };
            let reasons = reasons(a, odd, usual.get(a.class.as_str()).copied());
            let wanted = match settings.bands.of(a, candidates.is_some()) {
                Band::Queue => true,
                Band::Accept => !reasons.is_empty(),
                Band::Decided | Band::Reject => false,
            };
            if wanted {
                total += 1;
                let usefulness = nearness(a) + PER_REASON * reasons.len() as f64;
                entries.push(Entry { usefulness, at, reasons });
            }
        }
        if entries.len() > 2 * LONGEST {
            shorten(&mut entries);
        }
    }
    shorten(&mut entries);
    bands.to_look_at = total;
    bands.seconds = total as f64 * SECONDS_PER_LOOK;
    let left_out = total - entries.len();
    let mut ids: BTreeMap<(usize, Option<usize>), Vec<String>> = BTreeMap::new();
    let items = entries.into_iter().map(|e| {
        let ids = ids.entry((e.at.image, e.at.candidates)).or_insert_with(|| box_ids(labels.image_of(e.at)));
        item(labels, e, ids, settings)
    });
    Queue { items: items.collect(), left_out }
}

fn item(labels: Labels<'_>, e: Entry, ids: &[String], settings: &Settings) -> QueueItem {
    let (image, a, candidate) = (&labels.set.images[e.at.image], labels.at(e.at), e.at.candidates.is_some());
    QueueItem {
        image: image.image.clone(),
        digest: image.digest.clone(),
        id: ids[e.at.annotation].clone(),
        class: a.class.clone(),
        bbox: a.bbox,
        score: a.score.map(Score::get),
        threshold: a.provenance.threshold,
        candidate,
        band: settings.bands.of(a, candidate),
        usefulness: e.usefulness,
        reasons: e.reasons,
        explanation: explain(a),
        evidence: a.provenance.evidence.clone(),
        template: a.provenance.source.clone(),
        runner_up: a.attributes.get("runner_up").and_then(|v| v.as_str()).map(str::to_owned),
        at: e.at,
    }
}

fn shorten(entries: &mut Vec<Entry>) {
    entries.sort_by(|a, b| b.usefulness.total_cmp(&a.usefulness).then(a.at.cmp(&b.at)));
    entries.truncate(LONGEST);
}

/// How near a score is to its threshold: 1 at it, 0 at no and at full confidence.
fn nearness(a: &Annotation) -> f64 {
    let score = a.score.map_or(MIDDLE, Score::get);
    let threshold = a.provenance.threshold.filter(|t| (0.0..=1.0).contains(t)).unwrap_or(MIDDLE);
    let (distance, room) =
        if score < threshold { (threshold - score, threshold) } else { (score - threshold, 1.0 - threshold) };
    if room > 0.0 { 1.0 - distance / room } else { 1.0 }
}

/// Reasons to look twice at a box.
fn reasons(a: &Annotation, odd: &[Odd], usual_area: Option<f64>) -> Vec<String> {
    let mut reasons: Vec<String> = odd.iter().map(Odd::text).collect();
    if let (Some(score), Some(threshold)) = (a.score, a.provenance.threshold) {
        let score = score.get();
        if (score - threshold).abs() <= CLOSE {
            let side = if score < threshold { "just under" } else { "just over" };
            reasons.push(format!("{side} the threshold of {} %", fixed(threshold * 100.0, 0)));
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
    use datasets::Decision;

    use super::*;
    use crate::bands::bands;
    use crate::checks::fixture::{class, image, scored, set};
    use crate::metrics::measure;

    fn of(set: &AnnotationSet, candidates: &AnnotationSet) -> (Queue, Bands) {
        let settings = Settings::default();
        let mut bands = bands(set, candidates, &settings.bands);
        (queue(Labels { set, candidates }, &measure(set), &settings, &mut bands), bands)
    }

    #[test]
    fn nearest_to_the_threshold_and_odd_boxes_come_first() {
        let boxes = vec![
            scored("a", [0.0, 0.0, 20.0, 20.0], 0.90),
            scored("a", [40.0, 0.0, 60.0, 20.0], 0.70),
            scored("a", [0.0, 40.0, 20.0, 60.0], 0.41),
            scored("a", [80.0, 80.0, 100.0, 87.0], 0.76),
            scored("a", [80.0, 0.0, 100.0, 20.0], 0.99),
        ];
        let left = vec![scored("a", [120.0, 0.0, 140.0, 20.0], 0.2), scored("a", [150.0, 0.0, 170.0, 20.0], 0.05)];
        let labels = set(vec![class("a")], vec![image("h", 200, 200, vec![]), image("i", 200, 200, boxes)]);
        let candidates = set(vec![class("a")], vec![image("i", 200, 200, left)]);
        let (q, b) = of(&labels, &candidates);
        let order: Vec<_> = q.items.iter().map(|i| (i.candidate, i.at.annotation)).collect();
        // Nearness: .98 + .25; .4 + .25 (tiny); .5; .5; .17. The sure one and the one under the queue are not in it.
        assert_eq!(order, [(false, 2), (false, 3), (false, 1), (true, 0), (false, 0)]);
        assert_eq!(q.items[0].reasons, ["just over the threshold of 40 %"]);
        assert_eq!(q.items[1].reasons, ["tiny: 7.0 px on its shorter side"]);
        assert_eq!((b.to_look_at, b.seconds, b.all.accept, b.all.reject), (5, 15.0, 1, 1));
        assert_eq!(q.items[3].id, box_ids(&candidates.images[0])[0]);
    }

    #[test]
    fn odd_boxes_are_looked_at_however_sure_and_decided_ones_are_not() {
        let boxes = vec![
            scored("globe valve", [0.0, 0.0, 20.0, 20.0], 0.985),
            scored("ball valve", [1.0, 0.0, 21.0, 20.0], 0.99),
        ];
        let mut labels = set(vec![class("globe valve"), class("ball valve")], vec![image("i", 200, 200, boxes)]);
        let (q, b) = of(&labels, &AnnotationSet::default());
        assert_eq!((q.items.len(), b.to_look_at, b.all.accept), (1, 1, 2));
        assert_eq!(q.items[0].reasons, ["overlaps a ball valve (90 % shared)"]);
        labels.images[0].annotations[0].provenance.decision = Some(Decision::Accepted);
        assert!(of(&labels, &AnnotationSet::default()).0.items.is_empty());
    }

    #[test]
    fn nothing_is_no_error() {
        assert_eq!(of(&AnnotationSet::default(), &AnnotationSet::default()).0, Queue::default());
    }
}
