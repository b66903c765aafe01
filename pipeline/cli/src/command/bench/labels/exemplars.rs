//! What a person's look gains: a reviewer who knows the truth goes through the matches of some sheets, and the other sheets
//! are labelled again.
//!
//! Owns the simulated reviewer. Refuses to cut templates its own way: the label stage's cutting is used.
//!
//! The reviewer looks at the first sheets only, at each class from its surest box down, below the threshold too, until
//! enough boxes are confirmed. One reviewer does nothing else. Another also rejects as many boxes of a class, those that
//! were reported or came before enough were confirmed, and draws a box anew where it lies on a symbol of its class and
//! is none of its size; such a box counts as confirmed. The figures are of the sheets that were not looked at.

use datasets::{Annotation, AnnotationSet, ImageAnnotations};
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
/// Share of the smaller of a box and a truth of its class inside the other from which the box shows the class itself.
const SHOWN: f64 = 0.5;

/// What a reviewer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reviewer {
    /// Confirms right boxes.
    Confirms,
    /// Rejects and corrects wrong ones, too.
    Corrects,
}

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
    let mut first = quality_row(set.name(), "before", sheets, boxes, &before);
    let cost = &outcome.cost.cpu_s[reviewed..];
    first.push(format!("{:.2}", cost.iter().sum::<f64>() / cost.len() as f64));
    let mut rows = vec![first];
    let mut docs = vec![json!({ "confirmed": 0, "quality": before })];
    let pictures = (0..reviewed as u64).map(|i| Ok((case.sheets)(i)?.image)).collect::<Result<Vec<RgbImage>>>()?;
    for (count, reviewer) in CONFIRMED.into_iter().flat_map(|n| [(n, Reviewer::Confirms), (n, Reviewer::Corrects)]) {
        let looked = (&outcome.truth.images[..reviewed], &outcome.found.images[..reviewed]);
        let lessons = review(looked, &pictures, count, reviewer);
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
        let more = if reviewer == Reviewer::Corrects { ", wrong ones rejected or corrected" } else { "" };
        let mut row = quality_row(set.name(), &format!("{count} a class confirmed{more}"), sheets, boxes, &q);
        row.push(format!("{:.2}", after.cost.per_sheet()));
        rows.push(row);
        docs.push(json!({
            "confirmed": count, "rejected_and_corrected": reviewer == Reviewer::Corrects,
            "templates_confirmed": confirmed, "templates_rejected": rejected, "quality": q, "cost": after.cost,
        }));
    }
    let heading = format!("Set {set} after {reviewed} sheets were reviewed, on the other {sheets}:");
    let doc = Value::Array(docs);
    let head: Vec<&str> = QUALITY_HEAD.into_iter().chain(["CPU s a sheet"]).collect();
    told.table("exemplars", &heading, &head, rows, Value::Null);
    told.doc.remove("exemplars");
    Ok(doc)
}

/// The templates that the reviewer's decisions give.
fn review(
    (truth, found): (&[ImageAnnotations], &[ImageAnnotations]),
    pictures: &[RgbImage],
    count: usize,
    reviewer: Reviewer,
) -> Vec<Template> {
    let mut queue: Vec<(usize, &Annotation)> =
        found.iter().enumerate().flat_map(|(i, f)| f.annotations.iter().map(move |a| (i, a))).collect();
    let score = |a: &Annotation| a.score.map_or(1.0, f64::from);
    queue.sort_by(|a, b| a.1.class.cmp(&b.1.class).then(score(b.1).total_cmp(&score(a.1))));
    let (mut lessons, mut class, mut confirmed, mut rejected) = (Vec::new(), "", 0, 0);
    let mut drawn: Vec<*const Annotation> = Vec::new();
    for (i, a) in queue {
        if class != a.class {
            (class, confirmed, rejected) = (&a.class, 0, 0);
        }
        let enough = confirmed >= count;
        let looked_at = !enough || score(a) >= a.provenance.threshold.unwrap_or(0.0);
        let (role, bbox) = match (meaning(a, &truth[i].annotations), reviewer) {
            (Meaning::Right, _) if !enough => (Role::Confirmed, a.bbox),
            (Meaning::Loose(t), Reviewer::Corrects) if !enough && !drawn.contains(&std::ptr::from_ref(t)) => {
                drawn.push(t);
                (Role::Confirmed, t.bbox)
            }
            (Meaning::Wrong, Reviewer::Corrects) if looked_at && rejected < count => (Role::Negative, a.bbox),
            _ => continue,
        };
        if let Some(Cutout { picture: image, frame }) =
            Lie::of(&a.provenance).and_then(|lie| cut(&pictures[i], &bbox, lie))
        {
            *(if role == Role::Confirmed { &mut confirmed } else { &mut rejected }) += 1;
            let word = if role == Role::Confirmed { "confirmed" } else { "rejected" };
            let name = format!("{word}: {} #{}", truth[i].image, lessons.len());
            lessons.push(Template { class: a.class.clone(), name, image, role, frame });
        }
    }
    lessons
}

/// What a box is to someone who knows the truth.
enum Meaning<'a> {
    Right,
    /// It lies on a symbol of its class and goes around too much or too little.
    Loose(&'a Annotation),
    Wrong,
}

fn meaning<'a>(a: &Annotation, truth: &'a [Annotation]) -> Meaning<'a> {
    let common = |t: &Annotation| t.bbox.intersection_area(&a.bbox);
    let same = truth.iter().filter(|t| t.class == a.class);
    match same.max_by(|s, t| common(s).total_cmp(&common(t))) {
        Some(t) if t.bbox.iou(&a.bbox) >= IOU => Meaning::Right,
        Some(t) if common(t) > SHOWN * t.bbox.area().min(a.bbox.area()) => Meaning::Loose(t),
        _ => Meaning::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use datasets::{BBox, Score};
    use image::Rgb;

    use super::*;

    #[test]
    fn the_surest_are_looked_at_first_and_wrong_ones_rejected_or_corrected() {
        let boxed = |x: f64, width: f64, score: Option<f64>| {
            let mut a = Annotation::new("a", BBox::new(x, 10.0, x + width, 30.0));
            a.score = score.map(|s| Score::new(s).unwrap());
            a.provenance.evidence.insert("rotation_deg".into(), 0.0);
            a.provenance.threshold = Some(0.4);
            a
        };
        let image = |annotations| ImageAnnotations {
            image: "s".into(),
            digest: String::new(),
            width: 400,
            height: 60,
            split: None,
            annotations,
        };
        let truth = image((0..4).map(|i| boxed(20.0 + 50.0 * f64::from(i), 20.0, None)).collect());
        let found = image(vec![
            boxed(20.0, 20.0, Some(0.6)),
            boxed(70.0, 20.0, Some(0.9)),
            boxed(240.0, 20.0, Some(0.8)), // wrong
            boxed(118.0, 50.0, Some(0.7)), // loose
            boxed(300.0, 20.0, Some(0.5)), // wrong, after enough were confirmed
            boxed(350.0, 20.0, Some(0.3)), // wrong and not reported
        ]);
        let paper = [RgbImage::from_pixel(400, 60, Rgb([255; 3]))];
        let taught = |count, reviewer| {
            let lessons = review((from_ref(&truth), from_ref(&found)), &paper, count, reviewer);
            let width = |t: &Template| t.frame.map(|f| (f[2] - f[0]).round());
            lessons.iter().map(|l| (l.role, width(l))).collect::<Vec<_>>()
        };
        let (yes, no) = ((Role::Confirmed, Some(20.0)), (Role::Negative, Some(20.0)));
        assert_eq!(taught(1, Reviewer::Confirms), [yes]);
        assert_eq!(taught(3, Reviewer::Confirms), [yes, yes]);
        assert_eq!(taught(1, Reviewer::Corrects), [yes, no]);
        assert_eq!(taught(3, Reviewer::Corrects), [yes, no, yes, yes, no], "the loose box got the width of the truth");
    }
}
