//! What holds of all decisions, taken together: later ones replace earlier ones about the same box.
//!
//! A box is the same when its id is, or, from one file to the next, when its class is and its edges are about the same: a
//! labeller that learned something may move a box by a pixel, and that gives it another id.

use std::collections::BTreeMap;

use datasets::{Annotation, BBox, Decision, Pixels};

use crate::decisions::{BoxDecision, Decisions, box_id};

/// Intersection over union from which two boxes of a class in an image are the same.
pub const SAME_IOU: f64 = 0.5;

/// A decision that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What was decided.
    pub what: Decision,
    /// Id of the box that was decided about; none for one that was added.
    pub id: Option<String>,
    /// That box as it was, when the file says so.
    pub seen: Option<Annotation>,
    /// BLAKE3 of the image file then, when the file says so.
    pub digest: Option<String>,
    /// The class that a person gave.
    pub class: Option<String>,
    /// The edges that a person gave, pixels.
    pub bbox: Option<BBox<Pixels>>,
    /// For one that was added: size of the image's symbols relative to their templates.
    pub scale: Option<f64>,
    /// True when a labeller may learn from it.
    pub teaches: bool,
    /// Rises with the time of the decision.
    pub order: usize,
    /// Position of its file.
    file: usize,
}

impl Standing {
    /// The box that is right according to this decision: class and edges, as far as they are known.
    pub fn right(&self) -> Option<(&str, BBox<Pixels>)> {
        if self.what == Decision::Rejected {
            return None;
        }
        let class = self.class.as_deref().or(self.seen.as_ref().map(|s| s.class.as_str()))?;
        Some((class, self.bbox.or(self.seen.as_ref().map(|s| s.bbox))?))
    }

    /// The box that is not what it was taken for: one that was rejected or got another class.
    pub fn wrong(&self) -> Option<&Annotation> {
        let seen = self.seen.as_ref()?;
        let renamed = self.what == Decision::Corrected && self.class.as_ref().is_some_and(|c| *c != seen.class);
        (self.what == Decision::Rejected || renamed).then_some(seen)
    }

    /// The id of the box that is right; none where the image's digest or the box is not known.
    fn right_id(&self) -> Option<String> {
        let (class, bbox) = self.right()?;
        Some(box_id(self.digest.as_deref()?, class, &bbox))
    }

    fn is_about(&self, later: &Self) -> bool {
        let same_id = self.id.is_some() && self.id == later.id;
        if same_id || self.file == later.file {
            // Of one file all boxes were seen side by side, so two ids are two boxes.
            return same_id;
        }
        matches!((&self.seen, &later.seen), (Some(a), Some(b)) if alike(&a.class, a.bbox, &b.class, b.bbox))
    }

    /// True when a person made the box of this decision, and `later` is about what was made.
    fn made(&self, later: &Self) -> bool {
        if !matches!(self.what, Decision::Corrected | Decision::Added) {
            return false;
        }
        let place = later.seen.as_ref().map(|s| (s.class.as_str(), s.bbox)).or(match later.what {
            Decision::Added => later.right(),
            _ => None,
        });
        let at_the_place = match (self.right(), place) {
            (Some((c, b)), Some((d, e))) => alike(c, b, d, e),
            _ => false,
        };
        at_the_place || (later.id.is_some() && self.right_id() == later.id)
    }
}

fn alike(class: &str, bbox: BBox<Pixels>, other: &str, at: BBox<Pixels>) -> bool {
    class == other && bbox.iou(&at) >= SAME_IOU
}

/// The decisions that hold, by image name, in the order they were made.
pub fn standing(files: &[Decisions]) -> BTreeMap<String, Vec<Standing>> {
    let mut all: BTreeMap<String, Vec<Standing>> = BTreeMap::new();
    let mut order = 0;
    for (number, file) in files.iter().enumerate() {
        for decision in &file.boxes {
            order += 1;
            let new = Standing { teaches: !file.approve, order, file: number, ..one(decision) };
            add(all.entry(decision.image().to_owned()).or_default(), new);
        }
    }
    all
}

fn one(decision: &BoxDecision) -> Standing {
    let seen = decision.seen();
    let mut s = Standing {
        what: Decision::Accepted,
        id: decision.id().map(str::to_owned),
        seen: seen.map(|s| s.annotation.clone()),
        digest: seen.map(|s| s.digest.clone()).filter(|d| !d.is_empty()),
        class: None,
        bbox: None,
        scale: None,
        teaches: true,
        order: 0,
        file: 0,
    };
    match decision {
        BoxDecision::Accept { .. } => {}
        BoxDecision::Reject { .. } => s.what = Decision::Rejected,
        BoxDecision::Correct { class, bbox, .. } => {
            s.what = Decision::Corrected;
            s.class.clone_from(class);
            s.bbox = bbox.map(BBox::from);
        }
        BoxDecision::Add { class, bbox, digest, scale, .. } => {
            s.what = Decision::Added;
            s.class = Some(class.clone());
            s.bbox = Some(BBox::from(*bbox));
            s.digest.clone_from(digest);
            s.scale = *scale;
        }
    }
    s
}

/// Adds a later decision to those that hold in an image.
fn add(list: &mut Vec<Standing>, mut new: Standing) {
    if let Some(at) = list.iter().rposition(|old| old.is_about(&new)) {
        let old = &mut list[at];
        // Said again: the first time counts, so that nothing is computed anew because of it.
        if old.what == new.what && (&old.class, old.bbox) == (&new.class, new.bbox) {
            old.teaches |= new.teaches;
            old.seen = old.seen.take().or(new.seen);
            old.digest = old.digest.take().or(new.digest);
        } else {
            new.seen = new.seen.or(old.seen.take());
            new.digest = new.digest.or(old.digest.take());
            *old = new;
        }
        return;
    }
    let Some(at) = list.iter().rposition(|old| old.made(&new)) else {
        list.push(new);
        return;
    };
    let old = &mut list[at];
    match new.what {
        Decision::Accepted => old.teaches |= new.teaches,
        Decision::Corrected | Decision::Added => {
            old.class = new.class.or(old.class.take());
            old.bbox = new.bbox.or(old.bbox);
            old.scale = new.scale.or(old.scale);
            (old.teaches, old.order, old.file) = (new.teaches, new.order, new.file);
        }
        Decision::Rejected => {
            let made = old.right().map(|(class, bbox)| Annotation::new(class, bbox));
            new.seen = new.seen.or(made);
            new.digest = new.digest.or(old.digest.clone());
            if old.what == Decision::Added {
                *old = new;
            } else {
                // What was corrected was wrong, and so is what it was corrected to.
                *old = Standing { what: Decision::Rejected, class: None, bbox: None, ..old.clone() };
                list.push(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::{Seen, approval};

    const D: &str = "digest";

    fn seen(class: &str, x: f64) -> Option<Seen> {
        Some(Seen { digest: D.into(), annotation: Annotation::new(class, BBox::new(x, 0.0, x + 20.0, 20.0)) })
    }
    fn accept(class: &str, x: f64) -> BoxDecision {
        let id = box_id(D, class, &BBox::new(x, 0.0, x + 20.0, 20.0));
        BoxDecision::Accept { image: "i".into(), id, seen: seen(class, x) }
    }
    fn reject(class: &str, x: f64) -> BoxDecision {
        let id = box_id(D, class, &BBox::new(x, 0.0, x + 20.0, 20.0));
        BoxDecision::Reject { image: "i".into(), id, seen: seen(class, x) }
    }
    fn rename(class: &str, x: f64, to: &str) -> BoxDecision {
        let id = box_id(D, class, &BBox::new(x, 0.0, x + 20.0, 20.0));
        let class_to = Some(to.to_owned());
        BoxDecision::Correct { image: "i".into(), id, class: class_to, bbox: None, seen: seen(class, x) }
    }
    fn add_box(class: &str, x: f64) -> BoxDecision {
        let bbox = [x, 0.0, x + 20.0, 20.0];
        BoxDecision::Add { image: "i".into(), class: class.into(), bbox, digest: Some(D.into()), scale: None }
    }
    fn hold(boxes: Vec<BoxDecision>) -> Vec<Standing> {
        let files: Vec<Decisions> = boxes
            .into_iter()
            .map(|b| Decisions { approve: false, boxes: vec![b], ..approval(&"a".repeat(64)) })
            .collect();
        standing(&files).remove("i").unwrap_or_default()
    }
    fn words(list: &[Standing]) -> Vec<(Decision, Option<(&str, f64)>)> {
        list.iter().map(|s| (s.what, s.right().map(|(c, b)| (c, b.x0)))).collect()
    }

    #[test]
    fn a_changed_mind_holds_also_when_the_box_moved() {
        assert_eq!(words(&hold(vec![accept("a", 0.0), reject("a", 1.0)])), [(Decision::Rejected, None)]);
        assert_eq!(words(&hold(vec![reject("a", 1.0), accept("a", 0.0)])), [(Decision::Accepted, Some(("a", 0.0)))]);
        // In one file these are two boxes.
        let file =
            Decisions { approve: false, boxes: vec![accept("a", 0.0), reject("a", 1.0)], ..approval(&"a".repeat(64)) };
        assert_eq!(standing(&[file])["i"].len(), 2);
        // Another class at the place, or another place, is another box.
        assert_eq!(hold(vec![accept("a", 0.0), reject("b", 0.0), reject("a", 15.0)]).len(), 3);
    }

    #[test]
    fn what_is_said_twice_counts_once_and_from_the_first_time() {
        let held = hold(vec![accept("a", 0.0), accept("a", 1.0)]);
        assert_eq!((words(&held), held[0].order), (vec![(Decision::Accepted, Some(("a", 0.0)))], 1));
        assert_eq!(hold(vec![add_box("a", 0.0), add_box("a", 1.0)]).len(), 1);
    }

    #[test]
    fn boxes_that_a_person_made_can_be_decided_about() {
        assert_eq!(words(&hold(vec![add_box("a", 0.0), reject("a", 0.0)])), [(Decision::Rejected, None)]);
        assert_eq!(words(&hold(vec![add_box("a", 0.0), rename("a", 0.0, "b")])), [(Decision::Added, Some(("b", 0.0)))]);
        assert_eq!(
            words(&hold(vec![rename("a", 0.0, "b"), accept("b", 0.0)])),
            [(Decision::Corrected, Some(("b", 0.0)))]
        );
        assert_eq!(
            words(&hold(vec![rename("a", 0.0, "b"), rename("b", 0.0, "c")])),
            [(Decision::Corrected, Some(("c", 0.0)))]
        );
        let held = hold(vec![rename("a", 0.0, "b"), reject("b", 0.0)]);
        let wrong: Vec<&str> = held.iter().map(|s| s.wrong().unwrap().class.as_str()).collect();
        assert_eq!(wrong, ["a", "b"], "neither is right");
    }

    #[test]
    fn a_renamed_box_is_one_thing_and_is_not_another() {
        let held = hold(vec![rename("a", 0.0, "b")]);
        assert_eq!((held[0].right().unwrap().0, held[0].wrong().unwrap().class.as_str()), ("b", "a"));
    }

    #[test]
    fn an_approval_teaches_nothing_and_takes_no_lesson_back() {
        let mut files = vec![Decisions { approve: false, boxes: vec![accept("a", 0.0)], ..approval(&"a".repeat(64)) }];
        files.push(Decisions { boxes: vec![accept("a", 0.0), accept("a", 40.0)], ..approval(&"a".repeat(64)) });
        let teaches = |files: &[Decisions]| -> Vec<bool> { standing(files)["i"].iter().map(|s| s.teaches).collect() };
        assert_eq!(teaches(&files), [true, false]);
        // What is taken back teaches no longer.
        files.push(Decisions { boxes: vec![reject("a", 0.0)], ..approval(&"a".repeat(64)) });
        assert_eq!(teaches(&files), [false, false]);
    }
}
