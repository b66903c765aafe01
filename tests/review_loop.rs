//! The loop of labelling and review: what a person confirms is found better afterwards, and what was rejected stays
//! away.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;

use datasets::{BBox, Pixels};
use image::{Rgb, RgbImage, imageops};
use serde_json::{Value, json};
use support::{CLASSES, Project, SEED, outputs, planned, sheet_settings, statuses};

/// The class whose template is poor.
const POOR: &str = CLASSES[0];
const SHEETS: u64 = 4;

/// What is really on the sheets: image, class, box.
fn truth() -> Vec<(String, String, BBox<Pixels>)> {
    let of_sheet = |i: u64| {
        let sheet = synth::sheet(&sheet_settings(), SEED, i).unwrap().annotations;
        sheet.annotations.into_iter().map(move |a| (format!("sheet_{i:04}.png"), a.class, a.bbox))
    };
    (0..SHEETS).flat_map(of_sheet).collect()
}

fn bbox(v: &Value) -> BBox<Pixels> {
    BBox::from(serde_json::from_value::<[f64; 4]>(v.clone()).unwrap())
}

/// The reviewed labels of the newest run.
fn reviewed(p: &Project) -> Vec<(String, Value)> {
    let text = fs::read_to_string(p.path("runs/latest/review/annotations/annotations.jsonl")).unwrap();
    let line = |l: &str| -> Vec<(String, Value)> {
        let v: Value = serde_json::from_str(l).unwrap();
        let name = v["image"].as_str().unwrap().to_owned();
        v["annotations"].as_array().unwrap().iter().map(|a| (name.clone(), a.clone())).collect()
    };
    text.lines().flat_map(line).collect()
}

/// The file of a stage's report in the newest run.
fn report_file(p: &Project, file: &str) -> Value {
    serde_json::from_slice(&fs::read(p.path(&format!("runs/latest/review/report/{file}"))).unwrap()).unwrap()
}

/// Share of the true boxes of a class that labels hold.
fn recall(labels: &[(String, Value)], class: &str) -> f64 {
    let truth: Vec<_> = truth().into_iter().filter(|t| t.1 == class).collect();
    truth.iter().filter(|t| holds(labels, t)).count() as f64 / truth.len() as f64
}

/// Whether labels hold a true box.
fn holds(labels: &[(String, Value)], (image, class, truth): &(String, String, BBox<Pixels>)) -> bool {
    labels.iter().any(|(i, a)| i == image && a["class"] == **class && bbox(&a["bbox"]).iou(truth) >= 0.5)
}

/// The symbol without its middle, as `support` draws templates: file name and picture.
fn poor_template() -> (String, RgbImage) {
    let (file, bytes) = support::templates().into_iter().find(|(f, _)| f.starts_with("ball_valve")).unwrap();
    let mut picture = image::load_from_memory(&bytes).unwrap().into_rgb8();
    let w = picture.width();
    for (x, _, p) in picture.enumerate_pixels_mut() {
        if x > w * 2 / 5 && x < w * 3 / 5 {
            *p = Rgb([255; 3]);
        }
    }
    (file, picture)
}

/// A project whose sheets have a look-alike of the poor class below everything else: the poor template itself.
fn project() -> Project {
    let p = Project::without_sheets();
    let (file, poor) = poor_template();
    p.write(&format!("templates/{file}"), &datasets::picture::encode_png(&poor).unwrap());
    for i in 0..SHEETS {
        let sheet = image::load_from_memory(&support::sheet(i)).unwrap().into_rgb8();
        let mut longer = RgbImage::from_pixel(sheet.width(), sheet.height() + 80, Rgb([255; 3]));
        imageops::replace(&mut longer, &sheet, 0, 0);
        imageops::replace(&mut longer, &poor, 40 + 60 * i as i64, i64::from(sheet.height()) + 10);
        p.write(&format!("drawings/sheet_{i:04}.png"), &datasets::picture::encode_png(&longer).unwrap());
    }
    p
}

fn is_look_alike(a: &Value) -> bool {
    a["class"] == POOR && bbox(&a["bbox"]).y0 >= f64::from(sheet_settings().height)
}

/// Sets the threshold of the poor class so high that half of what is really there misses it.
fn demand(p: &Project) {
    p.ok(&["run", "--until", "review", "--set", "label.thresholds.default=0.1"]);
    let truth = truth();
    let real = |(image, a): &&(String, Value)| {
        let here = |t: &(String, String, BBox<Pixels>)| *image == t.0 && bbox(&a["bbox"]).iou(&t.2) >= 0.5;
        a["class"] == POOR && truth.iter().any(|t| t.1 == POOR && here(t))
    };
    let mut scores: Vec<f64> = reviewed(p).iter().filter(real).map(|(_, a)| a["score"].as_f64().unwrap()).collect();
    scores.sort_by(f64::total_cmp);
    let label = format!("label: {{ thresholds: {{ classes: {{ {POOR}: {} }} }},", scores[scores.len() / 2]);
    p.write("pipeline.yaml", support::YAML.replace("label: {", &label).as_bytes());
}

#[test]
fn confirmed_boxes_teach_and_rejected_ones_stay_away() {
    let p = project();
    demand(&p);
    p.ok(&["run", "--until", "review"]);
    assert!(!p.record()["stages"].as_object().unwrap().contains_key("exemplars"), "there is nothing to learn from");
    let before = reviewed(&p);
    assert!(recall(&before, POOR) < 1.0, "the template is not poor");
    assert_eq!(before.iter().filter(|(_, a)| is_look_alike(a)).count(), SHEETS as usize);

    // A person goes through the queue: three boxes of the poor class are right, one look-alike is wrong.
    let (queue, truth) = (report_file(&p, "queue.json"), truth());
    let items = queue["items"].as_array().unwrap();
    let right = |i: &&Value| {
        let here = |t: &(String, String, BBox<Pixels>)| i["image"] == t.0 && bbox(&i["bbox"]).iou(&t.2) >= 0.5;
        i["class"] == POOR && truth.iter().any(|t| t.1 == POOR && here(t))
    };
    let (mut confirmed, candidates): (Vec<&Value>, Vec<&Value>) =
        items.iter().filter(right).partition(|i| i["candidate"] == false);
    confirmed.splice(0..0, candidates.iter().copied().take(1));
    confirmed.truncate(3);
    assert_eq!((confirmed.len(), candidates.is_empty()), (3, false), "{items:#?}");
    let wrong = before.iter().find(|(image, a)| image == "sheet_0000.png" && is_look_alike(a)).unwrap();
    let id =
        artifacts::decisions::box_id(blake3_of(&p, "drawings/sheet_0000.png").as_str(), POOR, &bbox(&wrong.1["bbox"]));
    let mut boxes: Vec<Value> =
        confirmed.iter().map(|i| json!({ "decision": "accept", "image": i["image"], "box": i["box"] })).collect();
    boxes.push(json!({ "decision": "reject", "image": "sheet_0000.png", "box": id }));
    let decisions = |boxes: &[Value], approve: bool| {
        let annotations = &report_file(&p, "queue.json")["annotations"];
        let file = json!({ "version": 1, "annotations": annotations, "approve": approve, "boxes": boxes });
        p.write("DECISIONS.json", file.to_string().as_bytes());
    };
    decisions(&boxes, false);
    p.ok(&["review", "apply", "DECISIONS.json"])
        .says(&["3 accepted (1 of them had been left out), 1 rejected", "learns"]);
    let plan = p.ok(&["plan", "--until", "review", "--json"]).json();
    assert_eq!(planned(&plan, "exemplars")["verdict"], "will_run");

    // The labeller has learned: more is found, what was accepted is there, what was rejected is not, nowhere.
    p.ok(&["run", "--until", "review"]);
    let record = p.record();
    assert_eq!(record["stages"]["exemplars"]["notes"]["metrics"], json!({ "exemplars": 3.0, "counterexamples": 1.0 }));
    let after = reviewed(&p);
    assert!(recall(&after, POOR) > recall(&before, POOR), "{} -> {}", recall(&before, POOR), recall(&after, POOR));
    let right = |labels: &[(String, Value)]| {
        let right = |t: &&(String, String, BBox<Pixels>)| holds(labels, t);
        truth.iter().filter(right).count()
    };
    assert!(right(&after) >= right(&before), "what one class gains the others lose");
    let back = |(image, a): &&(String, Value)| image == "sheet_0000.png" && is_look_alike(a);
    assert_eq!(after.iter().filter(back).count(), 0, "{after:#?}");
    let accepted: Vec<&(String, Value)> =
        after.iter().filter(|(_, a)| a["provenance"]["decision"] == "accepted").collect();
    assert_eq!(accepted.len(), 3);
    for c in &confirmed {
        assert!(accepted.iter().any(|(image, a)| c["image"] == **image && a["bbox"] == c["bbox"]), "{c}");
    }
    let still = report_file(&p, "queue.json");
    let asked = |i: &&Value| {
        confirmed.iter().any(|c| c["image"] == i["image"] && bbox(&c["bbox"]).iou(&bbox(&i["bbox"])) > 0.5)
    };
    assert_eq!(still["items"].as_array().unwrap().iter().filter(asked).count(), 0, "what was decided is asked again");

    // What is exported says who decided, and what the box rests on.
    p.ok(&["export", "labels", "--format", "coco", "--out", "labels.json"]);
    let coco = fs::read_to_string(p.path("labels.json")).unwrap();
    assert_eq!(coco.matches("accepted").count(), 3, "{coco}");
    assert!(coco.contains("rotation_deg") && coco.contains("confirmed"));

    // The same again is no work; a mark that comes with an approval corrects the labels and searches nothing.
    p.ok(&["run", "--until", "review"]);
    assert!(statuses(&p.record()).iter().all(|(_, s)| s == "cached" || s == "excluded"), "{:?}", statuses(&p.record()));
    let other = after.iter().find(|(_, a)| a["class"] == CLASSES[2]).unwrap();
    let whole = bbox(&other.1["bbox"]);
    let moved = [whole.x0 - 1.0, whole.y0, whole.x1, whole.y1];
    let id = artifacts::decisions::box_id(&blake3_of(&p, &format!("drawings/{}", other.0)), CLASSES[2], &whole);
    decisions(&[json!({ "decision": "correct", "image": other.0, "box": id, "bbox": moved })], true);
    p.ok(&["review", "apply", "DECISIONS.json"]).says(&["1 corrected", "approved by"]);
    p.ok(&["run", "--until", "review"]);
    let record = p.record();
    assert_eq!(record["stages"]["label"]["status"], "cached");
    assert_eq!(
        outputs(&record, &["label"])["label.annotations"],
        outputs(&p.record(), &["label"])["label.annotations"]
    );
    assert_eq!(reviewed(&p).len(), after.len());

    // Forgetting takes nothing but removing the files.
    fs::remove_dir_all(p.path("reviews")).unwrap();
    p.ok(&["run", "--until", "review"]);
    assert_eq!(reviewed(&p), before);
}

/// The digest by which a drawing is known.
fn blake3_of(p: &Project, file: &str) -> String {
    engine::Digest::of(&fs::read(p.path(file)).unwrap()).to_string()
}
