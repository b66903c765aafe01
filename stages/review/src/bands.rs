//! Bands of confidence: what is accepted outright, what a person should look at, what is left out.
//!
//! Owns where the bands lie and how many boxes are in each. Refuses to move a box: labels stay labels and candidates
//! stay candidates until a person decides.

use std::collections::BTreeMap;

use datasets::{Annotation, AnnotationSet, Score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Confidence from which a box is accepted outright: of calibrated ones, fewer than one in fifty is wrong.
pub const ACCEPT: f64 = 0.98;
/// Confidence from which a box is worth a look, whether it became a label or not.
pub const QUEUE: f64 = 0.1;
/// What one look takes, seconds: a guess for the estimate of the whole.
pub const SECONDS_PER_LOOK: f64 = 3.0;

/// Where the bands lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BandSettings {
    /// Labels of this confidence and more are accepted outright, 0..=1. Default 0.98.
    pub accept: f64,
    /// Boxes of this confidence and more are queued for a person, 0..=1. Default 0.1.
    pub queue: f64,
}

impl Default for BandSettings {
    fn default() -> Self {
        Self { accept: ACCEPT, queue: QUEUE }
    }
}

/// What is done with a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// A person decided about it.
    Decided,
    /// A label that needs no look; one without a confidence, such as a person's, too.
    Accept,
    /// A person should look at it.
    Queue,
    /// Left out without a look.
    Reject,
}

impl BandSettings {
    /// The band of a box; a candidate is one that did not become a label.
    pub fn of(&self, a: &Annotation, candidate: bool) -> Band {
        let score = a.score.map(Score::get);
        match score {
            _ if a.provenance.decision.is_some() => Band::Decided,
            None if !candidate => Band::Accept,
            Some(s) if !candidate && s >= self.accept => Band::Accept,
            // A label under the queue is one because a threshold was set lower still.
            Some(s) if !candidate || s >= self.queue => Band::Queue,
            _ => Band::Reject,
        }
    }
}

/// Boxes of a class by band.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassBands {
    /// Class name.
    pub class: String,
    /// Labels that a person decided about.
    pub decided: usize,
    /// Labels accepted outright.
    pub accept: usize,
    /// Labels worth a look.
    pub queue_labels: usize,
    /// Boxes worth a look that did not become labels.
    pub queue_candidates: usize,
    /// Boxes left out without a look.
    pub reject: usize,
}

impl ClassBands {
    fn add(&mut self, band: Band, candidate: bool) {
        *match (band, candidate) {
            (Band::Decided, _) => &mut self.decided,
            (Band::Accept, _) => &mut self.accept,
            (Band::Queue, false) => &mut self.queue_labels,
            (Band::Queue, true) => &mut self.queue_candidates,
            (Band::Reject, _) => &mut self.reject,
        } += 1;
    }

    /// All boxes.
    pub fn total(&self) -> usize {
        self.decided + self.accept + self.queue_labels + self.queue_candidates + self.reject
    }
}

/// Boxes of a set by band.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bands {
    /// Where the bands lie.
    pub settings: BandSettings,
    /// All classes together; its name is empty.
    pub all: ClassBands,
    /// The classes that have boxes, in index order, then unlisted ones by name.
    pub classes: Vec<ClassBands>,
    /// Boxes in the queue: those of the band, and accepted ones with something odd about them.
    pub to_look_at: usize,
    /// About how long looking at them takes, seconds.
    pub seconds: f64,
}

/// Sorts labels and candidates into bands. The queue's length is filled in by who makes the queue.
pub fn bands(set: &AnnotationSet, candidates: &AnnotationSet, settings: &BandSettings) -> Bands {
    let mut all = ClassBands::default();
    let mut by_class: BTreeMap<(usize, &str), ClassBands> = BTreeMap::new();
    let index: BTreeMap<&str, usize> = set.classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
    for (images, candidate) in [(&set.images, false), (&candidates.images, true)] {
        for a in images.iter().flat_map(|i| &i.annotations) {
            let band = settings.of(a, candidate);
            let at = index.get(a.class.as_str()).copied().unwrap_or(usize::MAX);
            let class = by_class.entry((at, &a.class)).or_default();
            class.add(band, candidate);
            all.add(band, candidate);
        }
    }
    let named = |((_, name), bands): ((usize, &str), ClassBands)| ClassBands { class: name.to_owned(), ..bands };
    let classes = by_class.into_iter().map(named).collect();
    Bands { settings: *settings, all, classes, to_look_at: 0, seconds: 0.0 }
}

#[cfg(test)]
mod tests {
    use datasets::Decision;

    use super::*;
    use crate::checks::fixture::{class, image, scored, set};

    #[test]
    fn bands_at_their_edges() {
        let s = BandSettings::default();
        let of = |score: f64, candidate| s.of(&scored("a", [0.0, 0.0, 9.0, 9.0], score), candidate);
        assert_eq!([of(1.0, false), of(0.98, false), of(0.979, false)], [Band::Accept, Band::Accept, Band::Queue]);
        assert_eq!([of(0.1, true), of(0.099, true), of(0.05, false)], [Band::Queue, Band::Reject, Band::Queue]);
        assert_eq!(of(0.99, true), Band::Queue, "a class with a threshold above the band");
        let mut a = scored("a", [0.0, 0.0, 9.0, 9.0], 0.5);
        a.provenance.decision = Some(Decision::Accepted);
        assert_eq!(s.of(&a, false), Band::Decided);
        a.score = None;
        a.provenance.decision = None;
        assert_eq!((s.of(&a, false), s.of(&a, true)), (Band::Accept, Band::Reject));
    }

    #[test]
    fn classes_are_counted_in_index_order() {
        let at = [0.0, 0.0, 9.0, 9.0];
        let boxes = vec![scored("b", at, 0.99), scored("a", at, 0.5), scored("zz", at, 0.99)];
        let labels = set(vec![class("b"), class("a")], vec![image("i", 99, 99, boxes)]);
        let candidates = set(labels.classes.clone(), vec![image("i", 99, 99, vec![scored("a", at, 0.2)])]);
        let b = bands(&labels, &candidates, &BandSettings::default());
        let rows: Vec<_> =
            b.classes.iter().map(|c| (c.class.as_str(), c.accept, c.queue_labels, c.queue_candidates)).collect();
        assert_eq!(rows, [("b", 1, 0, 0), ("a", 0, 1, 1), ("zz", 1, 0, 0)]);
        assert_eq!((b.all.accept, b.all.total()), (2, 4));
    }
}
