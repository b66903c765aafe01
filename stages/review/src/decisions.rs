//! What a person's decisions do to a set of annotations.
//!
//! Accepted, corrected and added boxes carry the decision in their provenance; rejected boxes leave the set; a candidate
//! that is accepted becomes a label. Approving the set opens the gate and says nothing about single boxes.
//!
//! A decision holds as long as its image is the same, also when the labels changed: where the id no longer fits, the box
//! of the same class at about the same place is meant. What a person said is right stays in the set even when the
//! labeller no longer finds it, and what was rejected stays out. A decision that fits nothing is reported, never guessed.

use std::collections::BTreeMap;

use artifacts::decisions::{box_ids, parse};
use artifacts::{BoxDecision, Decisions, DecisionsError, SAME_IOU, Seen, Standing, standing};
use datasets::{Annotation, AnnotationSet, Decision, ImageAnnotations};
use serde::Serialize;

use crate::gate::Approval;

/// A rejected box, kept for the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejected {
    /// Image name.
    pub image: String,
    /// Box id.
    #[serde(rename = "box")]
    pub id: String,
    /// The box as it was, with the decision in its provenance.
    pub annotation: Annotation,
}

/// What decisions did to a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Applied {
    /// Boxes accepted one by one.
    pub accepted: usize,
    /// Those of them that had missed their threshold.
    pub candidates: usize,
    /// Boxes moved or renamed.
    pub corrected: usize,
    /// Boxes added.
    pub added: usize,
    /// Boxes taken out.
    pub rejected: Vec<Rejected>,
    /// Decisions whose box has another id now and was told by its class and place.
    pub by_place: usize,
    /// Accepted and corrected boxes that the labeller no longer finds and that are kept all the same.
    pub kept: usize,
    /// Rejected boxes that the labeller no longer finds.
    pub gone: usize,
    /// Boxes that nobody decided about and that gave way to a person's box at their place.
    pub gave_way: usize,
    /// Decisions that fit no box of this set, in words.
    pub problems: Vec<String>,
    /// What was said about the set as a whole.
    pub approval: Approval,
}

impl Applied {
    /// Number of decisions about single boxes that hold.
    pub fn decided(&self) -> usize {
        self.accepted + self.corrected + self.added + self.all_rejected()
    }

    /// Number of rejections that hold, of boxes that are found no longer too.
    pub fn all_rejected(&self) -> usize {
        self.rejected.len() + self.gone
    }

    /// True when the set may not be what it was.
    pub fn changed(&self) -> bool {
        self.decided() + self.gave_way > 0
    }
}

/// A found box on its way into the set, or out of it.
struct Slot {
    annotation: Annotation,
    id: String,
    candidate: bool,
    /// Position of the decision about it, and whether only its place told so.
    fate: Option<(usize, bool)>,
    /// True when a person's box takes its place.
    gives_way: bool,
}

impl Slot {
    fn is_free(&self) -> bool {
        self.fate.is_none() && !self.gives_way
    }
}

/// Applies decisions to labels, whose digest is `digest`, and to their candidates. Of several files the later ones win.
pub fn apply(set: &mut AnnotationSet, candidates: &mut AnnotationSet, digest: &str, files: &[Decisions]) -> Applied {
    let mut applied = Applied { approval: approval_of(files, digest), ..Applied::default() };
    let AnnotationSet { classes, images, .. } = set;
    let known = |class: &str| classes.iter().any(|c| c.name == class);
    let by_name: BTreeMap<String, usize> = images.iter().enumerate().map(|(i, m)| (m.image.clone(), i)).collect();
    let left_out: BTreeMap<String, usize> =
        candidates.images.iter().enumerate().map(|(i, m)| (m.image.clone(), i)).collect();
    for (name, mut held) in standing(files) {
        let Some(&at) = by_name.get(&name) else {
            let n = report::number::counted(held.len(), "decision", "decisions");
            applied.problems.push(format!("image `{name}` is not in this set: {n} not used"));
            continue;
        };
        let image = &mut images[at];
        held.retain(|d| {
            let same = image.digest.is_empty() || d.digest.as_ref().is_none_or(|then| *then == image.digest);
            if !same {
                let which =
                    d.id.as_deref()
                        .map_or_else(|| "a box was added".into(), |id| format!("box `{id}` was decided about"));
                applied.problems.push(format!("image `{name}` changed since {which}: not used"));
            }
            same
        });
        let others = left_out.get(&name).map(|&at| &mut candidates.images[at]);
        apply_to_image(image, others, &held, &known, &mut applied);
    }
    candidates.images.retain(|i| !i.annotations.is_empty());
    applied
}

/// What files say about the set of a digest as a whole.
fn approval_of(files: &[Decisions], digest: &str) -> Approval {
    let mut approval = Approval::Missing;
    for file in files.iter().filter(|f| f.approve) {
        if file.annotations.eq_ignore_ascii_case(digest) {
            approval = Approval::Given { by: file.reviewer.clone().unwrap_or_else(|| "a person".into()) };
        } else if !matches!(approval, Approval::Given { .. }) {
            approval = Approval::Stale { approved: file.annotations.clone() };
        }
    }
    approval
}

fn slots(image: &mut ImageAnnotations, candidate: bool) -> Vec<Slot> {
    let ids = box_ids(image);
    let all = std::mem::take(&mut image.annotations).into_iter().zip(ids);
    all.map(|(annotation, id)| Slot { annotation, id, candidate, fate: None, gives_way: false }).collect()
}

fn apply_to_image(
    image: &mut ImageAnnotations,
    mut others: Option<&mut ImageAnnotations>,
    held: &[Standing],
    known: &dyn Fn(&str) -> bool,
    applied: &mut Applied,
) {
    let mut found = slots(image, false);
    if let Some(others) = &mut others {
        found.extend(slots(others, true));
    }
    settle(&mut found, held, applied);
    let mut missing: Vec<bool> = held.iter().map(|d| d.what != Decision::Added).collect();
    let (mut labels, mut candidates) = (Vec::new(), Vec::new());
    for slot in found {
        if slot.gives_way {
            applied.gave_way += usize::from(!slot.candidate);
            continue;
        }
        let Some((at, by_place)) = slot.fate else {
            let list = if slot.candidate { &mut candidates } else { &mut labels };
            list.push(slot.annotation);
            continue;
        };
        let mut a = slot.annotation;
        let d = &held[at];
        missing[at] = false;
        if d.what == Decision::Rejected {
            a.provenance.decision = Some(d.what);
            applied.rejected.push(Rejected { image: image.image.clone(), id: slot.id, annotation: a });
            continue;
        }
        if let Some(unknown) = d.class.as_deref().filter(|c| !known(c)) {
            applied.problems.push(unknown_class(&image.image, unknown));
            let list = if slot.candidate { &mut candidates } else { &mut labels };
            list.push(a);
            continue;
        }
        if let Some(seen) = d.seen.as_ref().filter(|_| by_place) {
            // A person looked at these edges, not at the new ones.
            a.bbox = seen.bbox;
            a.polygons.clone_from(&seen.polygons);
        }
        applied.candidates += usize::from(slot.candidate && d.what == Decision::Accepted);
        labels.push(made(a, d, applied));
    }
    for (d, _) in held.iter().zip(missing).filter(|(_, missing)| *missing) {
        match (d.what, &d.seen) {
            (Decision::Rejected, Some(_)) => applied.gone += 1,
            (_, None) => {
                let id = d.id.as_deref().unwrap_or_default();
                applied.problems.push(format!(
                    "image `{}` has no box `{id}`: it was relabelled since, or the id is mistyped",
                    image.image
                ));
            }
            (_, Some(seen)) => {
                let class = d.class.as_deref().unwrap_or(&seen.class);
                if known(class) {
                    applied.kept += 1;
                    labels.push(made(seen.clone(), d, applied));
                } else {
                    applied.problems.push(unknown_class(&image.image, class));
                }
            }
        }
    }
    for d in held.iter().filter(|d| d.what == Decision::Added) {
        let Some((class, bbox)) = d.right() else { continue };
        if known(class) {
            let mut a = Annotation::new(class, bbox);
            a.provenance.labeller = "person".into();
            labels.push(made(a, d, applied));
        } else {
            applied.problems.push(unknown_class(&image.image, class));
        }
    }
    image.annotations = labels;
    if let Some(others) = others {
        others.annotations = candidates;
    }
}

/// Decides which found box each decision is about, and which boxes give way to what a person made.
fn settle(found: &mut [Slot], held: &[Standing], applied: &mut Applied) {
    let mut settled = vec![false; held.len()];
    for (at, d) in held.iter().enumerate() {
        let Some(id) = &d.id else { continue };
        if let Some(slot) = found.iter_mut().find(|s| s.is_free() && s.id == *id) {
            slot.fate = Some((at, false));
            settled[at] = true;
        }
    }
    for (at, d) in held.iter().enumerate().filter(|(at, _)| !settled[*at]).collect::<Vec<_>>() {
        let Some(seen) = &d.seen else { continue };
        let mut meant: Vec<(f64, usize)> = (0..found.len())
            .filter(|&i| found[i].is_free() && found[i].annotation.class == seen.class)
            .map(|i| (found[i].annotation.bbox.iou(&seen.bbox), i))
            .filter(|(iou, _)| *iou >= SAME_IOU)
            .collect();
        meant.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        // There is one right box; a wrong one may have come back as several.
        let most = if d.what == Decision::Rejected { meant.len() } else { 1 };
        for (_, i) in meant.iter().take(most) {
            found[*i].fate = Some((at, true));
            settled[at] = true;
        }
        applied.by_place += usize::from(settled[at]);
    }
    for (d, settled) in held.iter().zip(settled) {
        let Some((class, bbox)) = d.right() else { continue };
        // Where the labeller now finds something else instead of what a person said is there, the person is right.
        // Beside a box that it still finds, only the same thing found twice is too much.
        let displaced = d.what != Decision::Added && !settled;
        let made = matches!(d.what, Decision::Added | Decision::Corrected);
        for slot in found.iter_mut().filter(|s| s.is_free() && s.annotation.bbox.iou(&bbox) >= SAME_IOU) {
            slot.gives_way = displaced || (made && slot.annotation.class == class) || slot.candidate;
        }
    }
}

/// The box that a decision makes of a found or remembered one.
fn made(mut a: Annotation, d: &Standing, applied: &mut Applied) -> Annotation {
    match d.what {
        Decision::Accepted => applied.accepted += 1,
        Decision::Added => applied.added += 1,
        Decision::Corrected => {
            applied.corrected += 1;
            if let Some(class) = &d.class {
                a.class.clone_from(class);
            }
            if let Some(bbox) = d.bbox {
                a.bbox = bbox;
                // The outline belongs to the old edges.
                a.polygons.clear();
            }
        }
        Decision::Rejected => {}
    }
    a.provenance.decision = Some(d.what);
    a
}

fn unknown_class(image: &str, class: &str) -> String {
    format!("image `{image}`: class `{class}` is not in the ontology, so the decision is not used")
}

/// A decisions file, made whole, and what it would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The file with what the boxes look like filled in.
    pub decisions: Decisions,
    /// What it would do to the labels.
    pub applied: Applied,
}

/// Reads a decisions file, fills in what its boxes look like, and says what it would do to the labels without doing it.
/// `earlier` are the files that hold already: what a person made before can be decided about too.
pub fn preview(
    file: &str,
    bytes: &[u8],
    set: &AnnotationSet,
    candidates: &AnnotationSet,
    digest: &str,
    earlier: &[Decisions],
) -> Result<Preview, DecisionsError> {
    let mut decisions = parse(file, bytes)?;
    let mut reviewed = set.clone();
    apply(&mut reviewed, &mut candidates.clone(), digest, earlier);
    complete(&mut decisions, &[&reviewed, set, candidates]);
    let applied = apply(&mut set.clone(), &mut candidates.clone(), digest, std::slice::from_ref(&decisions));
    Ok(Preview { decisions, applied })
}

/// Fills in what boxes look like, from the first of the sets that has them.
fn complete(decisions: &mut Decisions, sets: &[&AnnotationSet]) {
    let mut images: BTreeMap<&str, Vec<(&ImageAnnotations, Vec<String>)>> = BTreeMap::new();
    let wanted: std::collections::BTreeSet<&str> = decisions.boxes.iter().map(BoxDecision::image).collect();
    for image in sets.iter().flat_map(|s| &s.images).filter(|i| wanted.contains(i.image.as_str())) {
        images.entry(&image.image).or_default().push((image, box_ids(image)));
    }
    let mut completed = decisions.boxes.clone();
    for decision in &mut completed {
        let all = images.get(decision.image()).map_or(&[][..], Vec::as_slice);
        if let BoxDecision::Add { digest, scale, .. } = decision {
            let Some((image, _)) = all.first() else { continue };
            *digest = Some(image.digest.clone()).filter(|d| !d.is_empty());
            *scale = scale.or_else(|| usual_scale(image));
            continue;
        }
        let id = decision.id().unwrap_or_default();
        let by_id = all.iter().find_map(|(image, ids)| Some((*image, ids.iter().position(|i| i == id)?)));
        let by_place = || {
            let seen = &decision.seen()?.annotation;
            let same = |a: &Annotation| a.class == seen.class && a.bbox.iou(&seen.bbox) >= SAME_IOU;
            all.iter().find_map(|(image, _)| Some((*image, image.annotations.iter().position(same)?)))
        };
        if let Some((image, at)) = by_id.or_else(by_place) {
            let mut annotation = image.annotations[at].clone();
            annotation.provenance.decision = None;
            decision.set_seen(Seen { digest: image.digest.clone(), annotation });
        }
    }
    decisions.boxes = completed;
}

/// The median size of what was found on an image, relative to the templates.
fn usual_scale(image: &ImageAnnotations) -> Option<f64> {
    let scale = |a: &Annotation| a.provenance.evidence.get("scale").copied();
    let mut scales: Vec<f64> = image.annotations.iter().filter_map(scale).collect();
    scales.sort_by(f64::total_cmp);
    scales.get(scales.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use artifacts::decisions::approval;
    use datasets::BBox;

    use super::*;
    use crate::checks::fixture::{class, image, scored, set};

    fn two() -> AnnotationSet {
        let boxes = vec![scored("a", [1.0, 2.0, 11.0, 12.0], 0.5), scored("b", [20.0, 2.0, 31.0, 12.0], 0.6)];
        set(vec![class("a"), class("b")], vec![image("i.png", 99, 99, boxes), image("j.png", 99, 99, vec![])])
    }

    fn left_out() -> AnnotationSet {
        let boxes = vec![scored("a", [50.0, 50.0, 60.0, 60.0], 0.3)];
        set(two().classes, vec![image("i.png", 99, 99, boxes)])
    }

    fn file(boxes: &str) -> Decisions {
        let text = format!(r#"{{"version":1,"annotations":"{}","boxes":{boxes}}}"#, "a".repeat(64));
        parse("d.json", text.as_bytes()).unwrap()
    }

    /// The file as `pipeline review apply` keeps it.
    fn kept(boxes: &str, set: &AnnotationSet, candidates: &AnnotationSet) -> Decisions {
        let bytes = serde_json::to_vec(&file(boxes)).unwrap();
        preview("d.json", &bytes, set, candidates, "x", &[]).unwrap().decisions
    }

    fn only_labels(set: &mut AnnotationSet, digest: &str, files: &[Decisions]) -> Applied {
        apply(set, &mut AnnotationSet::default(), digest, files)
    }

    #[test]
    fn every_decision_does_what_it_says() {
        let mut s = two();
        s.images[0].annotations[0].polygons = vec![vec![[1.0, 2.0], [11.0, 2.0], [11.0, 12.0]]];
        let ids = box_ids(&s.images[0]);
        let d = file(&format!(
            r#"[{{"decision":"accept","image":"i.png","box":"{0}"}},
                {{"decision":"correct","image":"i.png","box":"{0}","class":"b","bbox":[0,0,9,9]}},
                {{"decision":"reject","image":"i.png","box":"{1}"}},
                {{"decision":"add","image":"j.png","class":"a","bbox":[5,5,20,20]}}]"#,
            ids[0], ids[1]
        ));
        let applied = only_labels(&mut s, &"b".repeat(64), &[d]);
        // The later decision about a box replaces the earlier one.
        assert_eq!((applied.accepted, applied.corrected, applied.added, applied.rejected.len()), (0, 1, 1, 1));
        assert_eq!(applied.problems, [""; 0]);
        let a = &s.images[0].annotations;
        assert_eq!((a.len(), a[0].class.as_str(), a[0].bbox.x1), (1, "b", 9.0));
        assert_eq!(a[0].provenance.decision, Some(Decision::Corrected));
        assert_eq!(a[0].provenance.labeller, "template");
        assert!(a[0].polygons.is_empty() && a[0].score.is_some());
        let new = &s.images[1].annotations[0];
        assert_eq!((new.provenance.labeller.as_str(), new.provenance.decision), ("person", Some(Decision::Added)));
        assert_eq!(applied.rejected[0].annotation.provenance.decision, Some(Decision::Rejected));
    }

    #[test]
    fn what_fits_nothing_is_reported_and_changes_nothing() {
        let mut s = two();
        let id = box_ids(&s.images[0])[0].clone();
        let d = file(&format!(
            r#"[{{"decision":"reject","image":"i.png","box":"000000000000"}},
                {{"decision":"reject","image":"gone.png","box":"{id}"}},
                {{"decision":"correct","image":"i.png","box":"{id}","class":"zz"}},
                {{"decision":"add","image":"i.png","class":"zz","bbox":[0,0,5,5]}}]"#
        ));
        let applied = only_labels(&mut s, "x", &[d]);
        assert_eq!(applied.problems.len(), 4, "{:?}", applied.problems);
        assert!(!applied.changed());
        assert_eq!(s, two());
    }

    #[test]
    fn approval_is_for_one_digest() {
        let (digest, other) = ("c".repeat(64), "d".repeat(64));
        let of = |files: &[Decisions]| only_labels(&mut two(), &digest, files).approval;
        assert_eq!(of(&[]), Approval::Missing);
        assert_eq!(of(&[approval(&other)]), Approval::Stale { approved: other.clone() });
        assert_eq!(of(&[approval(&digest), approval(&other)]), Approval::Given { by: "a person".into() });
    }

    #[test]
    fn relabelled_the_same_keeps_the_decision() {
        let mut s = two();
        let id = box_ids(&s.images[0])[1].clone();
        s.images[0].annotations.remove(0);
        s.images[0].annotations[0].score = None;
        let d = file(&format!(r#"[{{"decision":"accept","image":"i.png","box":"{id}"}}]"#));
        assert_eq!(only_labels(&mut s, "x", &[d]).accepted, 1);
    }

    #[test]
    fn a_candidate_that_is_accepted_becomes_a_label() {
        let (mut s, mut c) = (two(), left_out());
        let id = box_ids(&c.images[0])[0].clone();
        let applied =
            apply(&mut s, &mut c, "x", &[file(&format!(r#"[{{"decision":"accept","image":"i.png","box":"{id}"}}]"#))]);
        assert_eq!((applied.accepted, applied.candidates, c.box_count()), (1, 1, 0));
        let label = &s.images[0].annotations[2];
        assert_eq!((label.bbox.x0, label.provenance.decision), (50.0, Some(Decision::Accepted)));
        // A rejected one is heard of no more.
        let (mut s, mut c) = (two(), left_out());
        let reject = file(&format!(r#"[{{"decision":"reject","image":"i.png","box":"{id}"}}]"#));
        let applied = apply(&mut s, &mut c, "x", &[reject]);
        assert_eq!((applied.rejected.len(), c.box_count(), s), (1, 0, two()));
    }

    #[test]
    fn decisions_hold_for_boxes_that_moved_came_back_or_went() {
        let s = two();
        let ids = box_ids(&s.images[0]);
        let all = |a: &str, b: &str| {
            format!(
                r#"[{{"decision":"{a}","image":"i.png","box":"{}"}},{{"decision":"{b}","image":"i.png","box":"{}"}}]"#,
                ids[0], ids[1]
            )
        };
        let moved = |dx: f64| {
            let mut s = two();
            for a in &mut s.images[0].annotations {
                a.bbox = a.bbox.translated(dx, 0.0);
                a.score = None;
            }
            s
        };
        let d = kept(&all("accept", "reject"), &s, &AnnotationSet::default());
        // A pixel away it is the same box, with the edges that a person saw.
        let mut near = moved(1.0);
        let applied = only_labels(&mut near, "x", std::slice::from_ref(&d));
        assert_eq!((applied.accepted, applied.rejected.len(), applied.by_place), (1, 1, 2));
        assert_eq!((near.box_count(), near.images[0].annotations[0].bbox.x0), (1, 1.0));
        // Gone or elsewhere: what is right stays, what is wrong is not there to be taken out.
        let mut far = moved(40.0);
        let applied = only_labels(&mut far, "x", std::slice::from_ref(&d));
        assert_eq!((applied.kept, applied.gone, far.box_count()), (1, 1, 3));
        // Another class at the place of a right box gives way to it; at the place of a wrong one it may be right.
        let mut other = two();
        for a in &mut other.images[0].annotations {
            a.class = if a.class == "a" { "b".into() } else { "a".into() };
        }
        let applied = only_labels(&mut other, "x", &[d]);
        assert_eq!((applied.kept, applied.gave_way, applied.gone), (1, 1, 1));
        let classes: Vec<(&str, f64)> =
            other.images[0].annotations.iter().map(|a| (a.class.as_str(), a.bbox.x0)).collect();
        assert_eq!(classes, [("a", 20.0), ("a", 1.0)]);
    }

    #[test]
    fn what_a_person_made_is_not_doubled_by_a_labeller_that_learned_it() {
        let s = two();
        let id = box_ids(&s.images[0])[0].clone();
        let boxes = format!(
            r#"[{{"decision":"add","image":"j.png","class":"a","bbox":[5,5,20,20]}},
                {{"decision":"correct","image":"i.png","box":"{id}","class":"b"}}]"#
        );
        let d = kept(&boxes, &s, &AnnotationSet::default());
        let mut learned = two();
        learned.images[0].annotations[0] = scored("b", [1.0, 3.0, 11.0, 12.0], 0.99);
        learned.images[1].annotations.push(scored("a", [5.0, 5.0, 21.0, 20.0], 0.99));
        let applied = only_labels(&mut learned, "x", &[d]);
        assert_eq!((applied.added, applied.corrected, applied.gave_way, learned.box_count()), (1, 1, 2, 3));
        assert_eq!(learned.images[1].annotations[0].bbox, BBox::new(5.0, 5.0, 20.0, 20.0));
    }

    #[test]
    fn a_kept_file_says_what_its_boxes_look_like() {
        let (mut s, mut c) = (two(), left_out());
        for (i, scale) in [0.5, 0.7].into_iter().enumerate() {
            s.images[0].annotations[i].provenance.evidence.insert("scale".into(), scale);
        }
        s.images[0].digest = "d".into();
        c.images[0].digest = "d".into();
        let ids = box_ids(&s.images[0]);
        let boxes = format!(
            r#"[{{"decision":"accept","image":"i.png","box":"{}"}},
                {{"decision":"reject","image":"i.png","box":"{}"}},
                {{"decision":"add","image":"i.png","class":"a","bbox":[5,5,20,20]}}]"#,
            ids[1],
            box_ids(&c.images[0])[0]
        );
        let d = kept(&boxes, &s, &c);
        assert_eq!(d.boxes[0].seen().unwrap().annotation, s.images[0].annotations[1]);
        assert_eq!(d.boxes[1].seen().unwrap().annotation, c.images[0].annotations[0]);
        assert!(
            matches!(&d.boxes[2], BoxDecision::Add { digest: Some(d), scale: Some(s), .. } if d == "d" && *s == 0.7)
        );
        // What was added can be decided about later, by the id that the report shows.
        let mut reviewed = s.clone();
        only_labels(&mut reviewed, "x", std::slice::from_ref(&d));
        let id = box_ids(&reviewed.images[0]).last().unwrap().clone();
        let later = file(&format!(r#"[{{"decision":"reject","image":"i.png","box":"{id}"}}]"#));
        let bytes = serde_json::to_vec(&later).unwrap();
        let later = preview("d", &bytes, &s, &c, "x", std::slice::from_ref(&d)).unwrap();
        assert_eq!((later.applied.all_rejected(), later.applied.problems.len()), (1, 0));
        let mut both = s.clone();
        assert_eq!(only_labels(&mut both, "x", &[d.clone(), later.decisions]).added, 0);
        // Of another picture under the same name nothing was said.
        s.images[0].digest = "e".into();
        let applied = only_labels(&mut s, "x", &[d]);
        assert_eq!((applied.decided(), applied.problems.len()), (0, 3), "{:?}", applied.problems);
    }
}
