//! The stage as the engine runs it, with an untrained network: what matters here is the way, not what is found.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use artifacts::{FILES, IMAGES, Model, Predictions};
use datasets::picture::{Limits, decode, encode_png};
use engine::artifact::{ArtifactReader, Kind};
use engine::harness::{Harness, Ran};
use engine::{Registry, StageError};
use image::{Rgb, RgbImage};
use infer::Infer;
use serde_json::{Value, json};
use vision::yolov8::{Backend, Native, Size, Spec};

fn weights() -> Vec<u8> {
    weights_for(64)
}

fn weights_for(input: u32) -> Vec<u8> {
    let mut state = Native::new(Spec { size: Size::N, classes: 2 }, 3).state();
    // Boxes of one cell to each side, so that they differ from place to place.
    for level in 0..3 {
        let bias = state.tensors.get_mut(&format!("model.22.cv2.{level}.2.bias")).unwrap();
        bias.data.iter_mut().enumerate().for_each(|(i, b)| *b = if i % 16 == 1 { 30.0 } else { 0.0 });
    }
    let classes = json!([
        { "name": "ball valve", "category": "Valves", "color": [200, 0, 0] },
        { "name": "gate valve", "category": "Valves", "color": [0, 0, 200] },
    ]);
    state.metadata.insert("class_info".into(), classes.to_string());
    state.metadata.insert("imgsz".into(), input.to_string());
    state.to_bytes().unwrap()
}

fn picture(w: u32, h: u32, seed: u32) -> Vec<u8> {
    let dot = |x: u32, y: u32| if (x / 7 + y / 5 + seed).is_multiple_of(3) { 0 } else { 255 };
    encode_png(&RgbImage::from_fn(w, h, |x, y| Rgb([dot(x, y), dot(y, x), 255]))).unwrap()
}

/// Every box counts, a few of each picture.
fn config() -> Value {
    json!({ "conf": 0.0, "max_det": 6, "iou": 0.99 })
}

fn run(
    dir: &std::path::Path,
    extra: &[(&str, &[u8])],
    truth: Option<&[u8]>,
    config: Value,
) -> (Harness, Result<Ran, StageError>) {
    let (a, b, w) = (picture(150, 100, 0), picture(64, 64, 1), weights());
    let mut images: Vec<(&str, &[u8])> = vec![("sheet 1.png", &a), ("unter ordner/ä.png", &b)];
    images.extend(extra);
    let mut harness = Harness::new(dir)
        .unwrap()
        .files("images", IMAGES, &images)
        .unwrap()
        .files("model", Model::NAME, &[("best.safetensors", &w), ("results.csv", b"")])
        .unwrap();
    if let Some(truth) = truth {
        harness = harness.files("truth", FILES, &[("truth.json", truth)]).unwrap();
    }
    let ran = harness.run(&Registry::new().add_items(Infer), config);
    (harness, ran)
}

fn files(harness: &Harness, ran: &Ran) -> BTreeMap<String, Vec<u8>> {
    Predictions::read(&ArtifactReader::open(&harness.store, ran.outputs["predictions"]).unwrap()).unwrap()
}

#[test]
fn every_form_of_the_predictions_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (harness, ran) = run(dir.path(), &[], None, config());
    let ran = ran.unwrap();
    let files = files(&harness, &ran);
    let coco: Value = serde_json::from_slice(&files["predictions.json"]).unwrap();
    let boxes = coco["annotations"].as_array().unwrap();
    assert_eq!(boxes.len(), 12);
    assert_eq!(coco["images"][1]["file_name"], "unter ordner/ä.png");
    assert_eq!(coco["images"][0]["width"], 150);
    assert_eq!(coco["categories"][1]["name"], "gate valve");
    assert!(boxes.iter().all(|b| b["score"].as_f64().is_some_and(|s| (0.0..=1.0).contains(&s))));
    assert_eq!(boxes[0]["provenance"]["labeller"], "detector");
    assert_eq!(boxes[0]["provenance"]["model"].as_str().unwrap().len(), 64);
    assert_eq!(String::from_utf8(files["predictions.csv"].clone()).unwrap().lines().count(), 13);
    let lines = String::from_utf8(files["labels/unter ordner/ä.txt"].clone()).unwrap();
    assert_eq!(lines.lines().count(), 6);
    assert!(lines.lines().all(|l| l.split(' ').count() == 6));
    let annotated = decode(&files["pictures/sheet 1.jpg"], &Limits::default()).unwrap();
    assert_eq!(annotated.rgb.dimensions(), (150, 100));
    assert_eq!(ran.notes.metrics["boxes"], 12.0);
    let report = ArtifactReader::open(&harness.store, ran.outputs["report"]).unwrap().get("section.json").unwrap();
    let section = report::Section::from_json(&report).unwrap();
    assert!(section.body.as_str().contains("ball valve"));
}

#[test]
fn the_same_work_gives_the_same_bytes_whatever_the_threads() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, a) = run(one.path(), &[], None, config());
    let (a_img, b_img, w) = (picture(150, 100, 0), picture(64, 64, 1), weights());
    let single = Harness::new(two.path())
        .unwrap()
        .threads(1)
        .files("images", IMAGES, &[("sheet 1.png", &a_img), ("unter ordner/ä.png", &b_img)])
        .unwrap()
        .files("model", Model::NAME, &[("best.safetensors", &w), ("results.csv", b"")])
        .unwrap();
    let b = single.run(&Registry::new().add_items(Infer), config()).unwrap();
    assert_eq!(a.unwrap().outputs, b.outputs);
}

#[test]
fn a_broken_file_is_left_out_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (harness, ran) =
        run(dir.path(), &[("broken.jpg", b"\xFF\xD8\xFF\xE0 cut"), ("empty.png", b"")], None, config());
    let ran = ran.unwrap();
    let coco: Value = serde_json::from_slice(&files(&harness, &ran)["predictions.json"]).unwrap();
    assert_eq!(coco["images"].as_array().unwrap().len(), 2);
    let skipped = coco["info"]["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped.iter().any(|s| s["image"] == "empty.png" && s["reason"].as_str().unwrap().contains("0 bytes")));
    assert_eq!(ran.notes.metrics["images_left_out"], 2.0);
}

#[test]
fn tiles_cover_a_big_drawing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, whole) = run(dir.path(), &[], None, config());
    let mut tiled = config();
    tiled["tile"] = json!(64);
    let (_, tiled) = run(dir.path(), &[], None, tiled);
    assert_eq!(whole.unwrap().notes.metrics["tiles"], 2.0);
    // 150 x 100 in tiles of 64 that share 13: three by two; the other picture is one tile.
    assert_eq!(tiled.unwrap().notes.metrics["tiles"], 7.0);
}

#[test]
fn predictions_measured_against_themselves_are_perfect() {
    let dir = tempfile::tempdir().unwrap();
    let (harness, ran) = run(dir.path(), &[], None, config());
    let mut truth: Value = serde_json::from_slice(&files(&harness, &ran.unwrap())["predictions.json"]).unwrap();
    for b in truth["annotations"].as_array_mut().unwrap() {
        b.as_object_mut().unwrap().remove("score");
    }
    let (harness, ran) = run(dir.path(), &[], Some(&serde_json::to_vec(&truth).unwrap()), config());
    let ran = ran.unwrap();
    assert!((ran.notes.metrics["COCO_AP"] - 1.0).abs() < 1e-9, "{:?}", ran.notes.metrics);
    assert_eq!(ran.notes.metrics["f1"], 1.0);
    // One box more in the truth: it is listed as missed.
    let mut more = truth["annotations"][0].clone();
    more["bbox"] = json!([140.0, 90.0, 4.0, 4.0]);
    more["id"] = json!(999);
    truth["annotations"].as_array_mut().unwrap().push(more);
    let (again, ran) = run(dir.path(), &[], Some(&serde_json::to_vec(&truth).unwrap()), config());
    let ran = ran.unwrap();
    let e: Value = serde_json::from_slice(&files(&again, &ran)["evaluation.json"]).unwrap();
    assert_eq!(e["operating_point"]["all"]["false_negatives"], 1);
    assert_eq!(e["mistakes"][0]["false_negatives"].as_array().unwrap().len(), 1);
    drop(harness);
    let report = ArtifactReader::open(&again.store, ran.outputs["report"]).unwrap().get("section.json").unwrap();
    assert!(String::from_utf8(report).unwrap().contains("Against the truth"));
}

fn fails(config: Value, truth: Option<&[u8]>, word: &str) {
    let dir = tempfile::tempdir().unwrap();
    let e = run(dir.path(), &[], truth, config).1.err().expect("this has to fail");
    let mut text = vec![format!("{e:?} {e}")];
    let mut source = std::error::Error::source(&e);
    while let Some(s) = source {
        text.push(s.to_string());
        source = s.source();
    }
    let text = text.join(": ");
    assert!(text.contains(word), "{text}");
}

#[test]
fn wrong_settings_and_inputs_are_named() {
    fails(json!({ "conf": 7 }), None, "conf");
    fails(json!({ "tile": "maybe" }), None, "`off`");
    fails(json!({ "weights": "last" }), None, "last.safetensors");
    fails(config(), Some(b"{\"images\": []"), "truth.json");
    fails(config(), Some(b"{\"images\": [], \"annotations\": []}"), "no images");
}

#[test]
#[ignore = "a measurement: cargo test -p infer --test stage big_drawing -- --ignored --nocapture"]
fn big_drawing() {
    let rgb = RgbImage::from_fn(7000, 5000, |x, y| Rgb([if (x / 70 + y / 50).is_multiple_of(3) { 0 } else { 255 }; 3]));
    let drawing = datasets::picture::encode_jpeg(&rgb, 90).unwrap();
    drop(rgb);
    let (dir, w) = (tempfile::tempdir().unwrap(), weights_for(640));
    let start = std::time::Instant::now();
    decode(&drawing, &Limits::default()).unwrap();
    println!("decoding: {:?}", start.elapsed());
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default().to_owned()
    };
    println!("before: {}", peak());
    let harness = Harness::new(dir.path())
        .unwrap()
        .files("images", IMAGES, &[("big.jpg", &drawing)])
        .unwrap()
        .files("model", Model::NAME, &[("best.safetensors", &w)])
        .unwrap();
    let start = std::time::Instant::now();
    let ran = harness.run(&Registry::new().add_items(Infer), json!({ "tile": 1280 })).unwrap();
    println!("{} tiles in {:?}, after: {}", ran.notes.metrics["tiles"], start.elapsed(), peak());
}
