//! From decisions to templates: what is cut, what is refused, and what labelling makes of it.

#![expect(clippy::unwrap_used, reason = "a failing step is a failing test")]

use artifacts::decisions::{approval, box_id};
use artifacts::{
    Annotations, BoxDecision, Candidates, Decisions, ExemplarSet, Exemplars as ExemplarsKind, FILES, IMAGES, Lesson,
    OntologyKind, OntologyValue, Seen,
};
use datasets::{Annotation, BBox, Pixels};
use engine::harness::{Harness, Ran};
use engine::{Digest, Registry};
use image::{Rgb, RgbImage, imageops};
use label::{Exemplars, Label};
use ontologies::{Class, Exemplar, Ontology};
use serde_json::{Value, json};

/// A box with a thick bar on its left side, a diagonal and a dot: it looks different in every pose.
fn symbol() -> RgbImage {
    RgbImage::from_fn(48, 40, |x, y| {
        let (u, v) = (x as i32 - 4, y as i32 - 4);
        let inside = (0..40).contains(&u) && (0..32).contains(&v);
        let frame = !(2..38).contains(&u) || !(2..30).contains(&v) || u < 6;
        let diagonal = (u * 32 - v * 40).abs() < 60;
        let dot = (u - 30).pow(2) + (v - 8).pow(2) < 14;
        Rgb(if inside && (frame || diagonal || dot) { [0; 3] } else { [255; 3] })
    })
}

/// Three symbols: upright, turned a quarter, and a plain frame that looks a little like them.
fn drawing() -> RgbImage {
    let mut paper = RgbImage::from_pixel(360, 220, Rgb([255; 3]));
    imageops::replace(&mut paper, &symbol(), 26, 36);
    imageops::replace(&mut paper, &imageops::rotate90(&symbol()), 156, 46);
    for i in 0..40 {
        for d in 0..2 {
            for (x, y) in [(i, d), (i, 31 - d), (d, i.min(31)), (39 - d, i.min(31))] {
                paper.put_pixel(260 + x, 120 + y, Rgb([0; 3]));
            }
        }
    }
    paper
}

const UPRIGHT: [f64; 4] = [30.0, 40.0, 70.0, 72.0];
const TURNED: [f64; 4] = [160.0, 50.0, 192.0, 90.0];
const FRAME: [f64; 4] = [260.0, 120.0, 300.0, 152.0];

fn png(picture: &RgbImage) -> Vec<u8> {
    datasets::picture::encode_png(picture).unwrap()
}

fn seen(bbox: [f64; 4], rotation: Option<f64>) -> Seen {
    let mut annotation = Annotation::new("flag", BBox::from(bbox));
    if let Some(turn) = rotation {
        annotation.provenance.evidence = [("rotation_deg".to_owned(), turn), ("scale".to_owned(), 1.0)].into();
    }
    Seen { digest: Digest::of(&png(&drawing())).to_string(), annotation }
}

fn id(class: &str, bbox: [f64; 4]) -> String {
    box_id(&Digest::of(&png(&drawing())).to_string(), class, &BBox::<Pixels>::from(bbox))
}

fn accept(bbox: [f64; 4], rotation: Option<f64>) -> BoxDecision {
    BoxDecision::Accept { image: "a b/1.png".into(), id: id("flag", bbox), seen: Some(seen(bbox, rotation)) }
}

fn reject(bbox: [f64; 4]) -> BoxDecision {
    BoxDecision::Reject { image: "a b/1.png".into(), id: id("flag", bbox), seen: Some(seen(bbox, Some(0.0))) }
}

fn file(boxes: Vec<BoxDecision>, approve: bool) -> Vec<u8> {
    serde_json::to_vec(&Decisions { approve, boxes, ..approval(&"a".repeat(64)) }).unwrap()
}

fn learn(files: &[(&str, &[u8])]) -> (Option<ExemplarSet>, Ran) {
    let dir = tempfile::tempdir().unwrap();
    let h = Harness::new(dir.path()).unwrap();
    let h = h.files("images", IMAGES, &[("a b/1.png", &png(&drawing()))]).unwrap().files("decisions", FILES, files);
    let h = h.unwrap();
    let ran = h.run(&Registry::new().add(Exemplars), Value::Null).unwrap();
    let set = ran.outputs.contains_key("exemplars").then(|| h.read::<ExemplarsKind>(&ran, "exemplars").unwrap());
    (set, ran)
}

#[test]
fn confirmed_boxes_are_cut_upright_and_rejected_ones_become_counterexamples() {
    let add = BoxDecision::Add {
        image: "a b/1.png".into(),
        class: "frame / empty".into(),
        bbox: FRAME,
        digest: None,
        scale: Some(2.0),
    };
    let boxes = vec![accept(UPRIGHT, Some(0.0)), accept(TURNED, Some(90.0)), reject(FRAME), add];
    let (set, ran) = learn(&[("1.json", &file(boxes, false))]);
    let set = set.unwrap();
    let lessons: Vec<_> = set.list.iter().map(|e| (e.class.as_str(), e.lesson)).collect();
    let flag = |lesson| ("flag", lesson);
    assert_eq!(
        lessons,
        [flag(Lesson::Confirmed), flag(Lesson::Confirmed), flag(Lesson::Rejected), ("frame / empty", Lesson::Added)]
    );
    assert_eq!(set.list[0].name, format!("confirmed: a b/1.png #{}", id("flag", UPRIGHT)));
    let picture = |i: usize| image::load_from_memory(&set.pictures[&set.list[i].file]).unwrap().into_rgba8();
    // The turned symbol looks like the upright one again, pixel by pixel.
    assert_eq!(picture(0).dimensions(), (52, 44));
    assert_eq!(set.list[0].frame, Some([6.0, 6.0, 46.0, 38.0]), "the box in its picture");
    assert_eq!(picture(0), picture(1));
    // What was added has no pose, but its size is undone.
    assert_eq!(picture(3).dimensions(), (26, 22));
    assert_eq!((ran.notes.metrics["exemplars"], ran.notes.metrics["counterexamples"]), (3.0, 1.0));
    assert_eq!(ran.notes.messages.len(), 0, "{:?}", ran.notes.messages);
}

#[test]
fn a_box_that_got_another_class_is_both_an_example_and_a_counterexample() {
    let rename = BoxDecision::Correct {
        image: "a b/1.png".into(),
        id: id("flag", FRAME),
        class: Some("frame".into()),
        bbox: None,
        seen: Some(seen(FRAME, Some(0.0))),
    };
    let set = learn(&[("1.json", &file(vec![rename], false))]).0.unwrap();
    let lessons: Vec<_> = set.list.iter().map(|e| (e.class.as_str(), e.lesson)).collect();
    assert_eq!(lessons, [("flag", Lesson::Rejected), ("frame", Lesson::Added)]);
}

#[test]
fn only_what_teaches_is_an_output() {
    let once = file(vec![accept(UPRIGHT, Some(0.0))], false);
    let (first, ran) = learn(&[("1.json", &once)]);
    // An approval, and marks that come with one, change nothing that a labeller reads.
    let approved = file(vec![accept(UPRIGHT, Some(0.0)), accept(TURNED, Some(90.0))], true);
    let (second, again) = learn(&[("1.json", &once), ("2.json", &approved)]);
    assert_eq!((first.unwrap().list.len(), second.unwrap().list.len()), (1, 1));
    assert_eq!(ran.outputs["exemplars"], again.outputs["exemplars"]);
    assert!(learn(&[("2.json", &approved)]).0.is_none());
}

#[test]
fn what_cannot_be_learned_from_is_said_and_stops_nothing() {
    let blank = [300.0, 10.0, 340.0, 40.0];
    let mut changed = seen(TURNED, Some(90.0));
    changed.digest = "0".repeat(64);
    let image = || "a b/1.png".to_owned();
    let boxes = vec![
        accept(UPRIGHT, None),
        BoxDecision::Accept { image: image(), id: "123456789abc".into(), seen: None },
        BoxDecision::Accept { image: image(), id: id("flag", TURNED), seen: Some(changed) },
        BoxDecision::Accept { image: "gone.png".into(), id: "0".into(), seen: None },
        accept(blank, Some(0.0)),
        // Half of the symbol that is right: its picture would teach that the class is not itself.
        reject([30.0, 40.0, 52.0, 72.0]),
    ];
    let (set, ran) = learn(&[("1.json", &file(boxes, false))]);
    let lessons: Vec<_> = set.unwrap().list.iter().map(|e| e.lesson).collect();
    assert_eq!(lessons, [Lesson::Added], "a box without a pose is taken as it lies");
    let said: Vec<&str> = ran.notes.messages.iter().map(|m| m.1.as_str()).collect();
    for part in ["review apply", "changed since", "`gone.png` is gone", "nothing is drawn there"] {
        assert_eq!(said.iter().filter(|m| m.contains(part)).count(), 1, "{part}: {said:?}");
    }
    assert_eq!(said.len(), 4);
}

#[test]
fn the_latest_of_many_are_used() {
    let shifted = |i: u32| accept(UPRIGHT.map(|v| v + f64::from(i) / 100.0), Some(0.0));
    let (set, ran) = learn(&[("1.json", &file((0..40).map(shifted).collect(), false))]);
    let names: Vec<String> = set.unwrap().list.into_iter().map(|e| e.name).collect();
    assert_eq!(names.len(), 24);
    let last = id("flag", UPRIGHT.map(|v| v + 0.39));
    assert!(names.last().unwrap().ends_with(&last), "{names:?}");
    assert!(ran.notes.messages[0].1.contains("16 older decisions are not learned from"), "{:?}", ran.notes.messages);
}

#[test]
fn labels_learn_from_exemplars_and_keep_what_missed_the_threshold() {
    let ontology = || {
        // A poor template: the symbol without its diagonal and dot.
        let mut poor = RgbImage::from_pixel(48, 40, Rgb([255; 3]));
        for (x, y, p) in symbol().enumerate_pixels().filter(|(x, y, _)| *x < 12 || *x > 40 || *y < 7 || *y > 32) {
            poor.put_pixel(x, y, *p);
        }
        let class = Class {
            name: "flag".into(),
            category: "Other".into(),
            prompt: "flag".into(),
            synonyms: vec![],
            aliases: vec![],
            color: [200, 0, 0],
            exemplars: vec![Exemplar { file: "flag.png".into(), digest: String::new() }],
            negatives: vec![],
        };
        let templates = [("flag.png".to_owned(), png(&poor))].into();
        OntologyValue { ontology: Ontology { classes: vec![class] }, templates }
    };
    let label = |set: Option<&ExemplarSet>| {
        let dir = tempfile::tempdir().unwrap();
        let h = Harness::new(dir.path()).unwrap().files("images", IMAGES, &[("a b/1.png", &png(&drawing()))]).unwrap();
        let mut h = h.input::<OntologyKind>("ontology", &ontology()).unwrap();
        if let Some(set) = set {
            h = h.input::<ExemplarsKind>("exemplars", set).unwrap();
        }
        // Nothing passes, so that the order of the scores is all that counts.
        let settings = json!({ "thresholds": { "default": 1.0 }, "scale": { "base": 1 } });
        let ran = h.run(&Registry::new().add_items(Label), settings).unwrap();
        assert_eq!(h.read::<Annotations>(&ran, "annotations").unwrap().box_count(), 0);
        let found = h.read::<Candidates>(&ran, "candidates").unwrap();
        assert_eq!(ran.notes.metrics["candidates"], found.box_count() as f64);
        let score = |bbox: [f64; 4]| {
            let all = found.images.iter().flat_map(|i| &i.annotations);
            let here = all.filter(|a| a.bbox.iou(&BBox::from(bbox)) > 0.5);
            here.map(|a| (a.score.unwrap().get(), a.provenance.source.clone().unwrap()))
                .max_by(|a, b| a.0.total_cmp(&b.0))
        };
        (score(TURNED), score(FRAME))
    };
    let set = learn(&[("1.json", &file(vec![accept(UPRIGHT, Some(0.0)), reject(FRAME)], false))]).0.unwrap();
    let (before, _) = label(None);
    let (after, frame) = label(Some(&set));
    let before = before.map_or(0.0, |b| b.0);
    let after = after.unwrap();
    assert!(after.0 > before && after.0 > 0.9, "{before} -> {after:?}");
    assert!(frame.is_none(), "what was rejected is found no more: {frame:?}");
}
