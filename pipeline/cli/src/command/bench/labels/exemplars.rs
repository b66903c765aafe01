//! What a person's look gains: a reviewer who knows the truth confirms a few matches of each class and rejects the wrong
//! ones among them, and the other sheets are labelled again.
//!
//! Owns the simulated reviewer. Refuses to cut templates its own way: the label stage's cutting is used.
//!
//! The reviewer looks at the first sheets only, at each class from its surest box down, below the threshold too, and
//! stops when enough boxes are confirmed. The figures are of the sheets that were not looked at.

use datasets::{AnnotationSet, ImageAnnotations};
use image::RgbImage;
use label::upright::{Cutout, Lie, cut};
use miette::Result;
use serde_json::{Value, json};
use synth::Set;
use vision::matcher::{Role, Template};

use super::case::{self, Case, Outcome, config};
use super::metrics::{IOU, Quality};
use super::{LabelsBench, QUALITY_HEAD, Told, quality_row, sets};

/// Sheets that the reviewer looks at, at most a half of all.
const REVIEWED: u64 = 4;
/// Matches of a class that are confirmed.
const CONFIRMED: [usize; 2] = [3, 5];
/// Boxes of a class that are rejected at most.
const REJECTED: usize = 24;
/// A wrong box that overlaps a truth of its class by this much shows the class itself and is not rejected.
const SHARED: f64 = 0.3;

/// Labels the sheets that were not reviewed, before and after the review.
pub fn run(told: &mut Told<'_>, args: &LabelsBench, set: Set, case: &Case, outcome: &Outcome) -> Result<Value> {
    let reviewed = REVIEWED.min(args.sheets / 2) as usize;
    if reviewed == 0 {
        told.missing.push(format!("set {set} after confirming matches: it takes two sheets or more"));
        return Ok(Value::Null);
    }
    let part = |s: &AnnotationSet, range: std::ops::Range<usize>| AnnotationSet {
        images: s.images[range].to_vec(),
        ..s.clone()
    };
    let n = outcome.truth.images.len();
    let rest = part(&outcome.truth, reviewed..n);
    let before = Quality::of(&rest, &part(&outcome.found, reviewed..n));
    let boxes = rest.box_count();
    let sheets = (n - reviewed) as u64;
    let mut rows = vec![quality_row(set.name(), "before", sheets, boxes, &before)];
    let mut docs = vec![json!({ "confirmed": 0, "quality": before })];
    let pictures = (0..reviewed as u64).map(|i| Ok((case.sheets)(i)?.image)).collect::<Result<Vec<RgbImage>>>()?;
    for count in CONFIRMED {
        let looked = (&outcome.truth.images[..reviewed], &outcome.found.images[..reviewed]);
        let lessons = review(looked, &pictures, count);
        let by = |role: Role| lessons.iter().filter(|l| l.role == role).count();
        let (confirmed, rejected) = (by(Role::Confirmed), by(Role::Negative));
        told.doing(format_args!("{set}: {confirmed} matches confirmed, {rejected} rejected on {reviewed} sheets"));
        let templates: Vec<Template> = case.templates.iter().cloned().chain(lessons).collect();
        let again = Case {
            name: case.name.clone(),
            classes: case.classes.clone(),
            config: config(sets::changes(set), &templates)?,
            templates,
            sheets: Box::new(|i| (case.sheets)(i)),
            range: reviewed as u64..case.range.end,
        };
        let after = case::run(&again, args.threads)?;
        let q = Quality::of(&after.truth, &after.found);
        rows.push(quality_row(set.name(), &format!("{count} a class confirmed"), sheets, boxes, &q));
        docs.push(json!({
            "confirmed": count, "templates_confirmed": confirmed, "templates_rejected": rejected, "quality": q,
            "cost": after.cost,
        }));
    }
    let heading = format!("Set {set} after {reviewed} sheets were reviewed, on the other {sheets}:");
    let doc = Value::Array(docs);
    told.table("exemplars", &heading, &QUALITY_HEAD, rows, Value::Null);
    told.doc.remove("exemplars");
    Ok(doc)
}

/// The templates that the reviewer's decisions give.
fn review(
    (truth, found): (&[ImageAnnotations], &[ImageAnnotations]),
    pictures: &[RgbImage],
    count: usize,
) -> Vec<Template> {
    let mut queue: Vec<(usize, &datasets::Annotation)> =
        found.iter().enumerate().flat_map(|(i, f)| f.annotations.iter().map(move |a| (i, a))).collect();
    let score = |a: &datasets::Annotation| a.score.map_or(1.0, f64::from);
    queue.sort_by(|a, b| a.1.class.cmp(&b.1.class).then(score(b.1).total_cmp(&score(a.1))));
    let (mut lessons, mut class, mut done) = (Vec::new(), "", [0, 0]);
    for (i, a) in queue {
        if class != a.class {
            (class, done) = (&a.class, [0, 0]);
        }
        if done[0] >= count {
            continue;
        }
        let same = truth[i].annotations.iter().filter(|t| t.class == a.class);
        let overlap = same.map(|t| t.bbox.iou(&a.bbox)).fold(0.0, f64::max);
        let role = if overlap >= IOU { Role::Confirmed } else { Role::Negative };
        let enough = role == Role::Negative && (done[1] >= REJECTED || overlap >= SHARED);
        let picture: Option<RgbaImage> =
            Lie::of(&a.provenance).filter(|_| !enough).and_then(|lie| cut(&pictures[i], &a.bbox, lie));
        if let Some(image) = picture {
            done[usize::from(role == Role::Negative)] += 1;
            let word = if role == Role::Confirmed { "confirmed" } else { "rejected" };
            let name = format!("{word}: {} #{}", truth[i].image, lessons.len());
            lessons.push(Template { class: a.class.clone(), name, image, role, frame: None });
        }
    }
    lessons
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use datasets::{Annotation, BBox, Score};
    use image::Rgb;

    use super::*;

    #[test]
    fn the_surest_are_looked_at_first_and_wrong_ones_rejected() {
        let boxed = |x: f64, score: Option<f64>| {
            let mut a = Annotation::new("a", BBox::new(x, 10.0, x + 20.0, 30.0));
            a.score = score.map(|s| Score::new(s).unwrap());
            a.provenance.evidence.insert("rotation_deg".into(), 0.0);
            a
        };
        let image = |annotations| ImageAnnotations {
            image: "s".into(),
            digest: String::new(),
            width: 300,
            height: 60,
            annotations,
        };
        let truth = image((0..4).map(|i| boxed(10.0 + 50.0 * f64::from(i), None)).collect());
        let found = image(vec![
            boxed(10.0, Some(0.5)),
            boxed(60.0, Some(0.9)),
            boxed(240.0, Some(0.8)), // wrong
            boxed(118.0, Some(0.7)), // badly located: neither
            boxed(160.0, Some(0.6)),
        ]);
        let paper = [RgbImage::from_pixel(300, 60, Rgb([255; 3]))];
        let roles = |count| {
            let lessons = review((from_ref(&truth), from_ref(&found)), &paper, count);
            lessons.iter().map(|l| l.role).collect::<Vec<_>>()
        };
        let (yes, no) = (Role::Confirmed, Role::Negative);
        assert_eq!(roles(1), [yes]);
        assert_eq!(roles(3), [yes, no, yes, yes]);
    }
}
