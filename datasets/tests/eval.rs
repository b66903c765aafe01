//! The evaluation equals pycocotools (`fixtures/eval/make.py` wrote what it says), and bad files are named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use datasets::eval::{EvalInput, EvalSettings, FileError, evaluate, from_coco};
use serde_json::{Value, json};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eval").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

const CASES: [&str; 8] = ["plain", "ties", "crowds", "many_classes", "many_detections", "gaps", "exact", "segments"];

/// pycocotools writes -1 where there is nothing to measure.
fn same(got: &Value, want: &Value) -> bool {
    let got = got.as_f64().unwrap_or(-1.0);
    (got - want.as_f64().unwrap()).abs() < 1e-6
}

#[test]
fn equal_to_pycocotools() {
    let mut compared = 0;
    for case in CASES {
        let input = from_coco(&fixture(&format!("{case}.truth.json")), &fixture(&format!("{case}.pred.json"))).unwrap();
        let got = serde_json::to_value(evaluate(&input, &EvalSettings::default())).unwrap();
        let want: Value = serde_json::from_slice(&fixture(&format!("{case}.expected.json"))).unwrap();
        for (name, value) in want["summary"].as_object().unwrap() {
            assert!(same(&got["coco"][name], value), "{case} {name}: {} instead of {value}", got["coco"][name]);
            compared += 1;
        }
        let classes = want["per_class"].as_array().unwrap();
        assert_eq!(got["coco"]["per_class"].as_array().unwrap().len(), classes.len());
        for (k, class) in classes.iter().enumerate() {
            let own = &got["coco"]["per_class"][k];
            assert_eq!(own["class"], class["class"]);
            for name in ["ap", "ap50", "ap75", "ar100", "ap_small"] {
                assert!(same(&own[name], &class[name]), "{case} class {k} {name}: {} / {}", own[name], class[name]);
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn the_matrix_and_the_counts_add_up() {
    for case in CASES {
        let input = from_coco(&fixture(&format!("{case}.truth.json")), &fixture(&format!("{case}.pred.json"))).unwrap();
        let e = evaluate(&input, &EvalSettings::default());
        let p = &e.operating_point;
        assert_eq!(p.all.true_positives + p.all.false_negatives, e.truth, "{case}");
        let background = e.classes.len();
        let columns: usize = e.confusion.counts.iter().map(|row| row[..background].iter().sum::<usize>()).sum();
        assert_eq!(columns, e.truth, "{case}");
        assert_eq!(e.confusion.counts[background][background], 0);
        let listed: usize = e.mistakes.iter().map(|m| m.false_positives.len()).sum();
        assert_eq!(listed, p.all.false_positives, "{case}");
        let listed: usize = e.mistakes.iter().map(|m| m.false_negatives.len()).sum();
        assert_eq!(listed, p.all.false_negatives, "{case}");
        // The two definitions agree about the order of things; with few boxes the straight lines between the points of
        // the interpolated one add up to a good deal.
        let (steps, lines) = (e.coco.ap50.unwrap(), e.curves.map50.unwrap());
        let tolerance = if case == "exact" { 0.25 } else { 0.12 };
        assert!(lines > steps - 0.03 && lines < steps + tolerance, "{case}: {steps} {lines}");
    }
}

/// The results list rewritten as a whole file with other numbers, other order of categories, names in folders.
fn as_file(case: &str, folder: &str) -> (Vec<u8>, Vec<u8>) {
    let truth: Value = serde_json::from_slice(&fixture(&format!("{case}.truth.json"))).unwrap();
    let mut boxes: Value = serde_json::from_slice(&fixture(&format!("{case}.pred.json"))).unwrap();
    for b in boxes.as_array_mut().unwrap() {
        b["image_id"] = json!(1000 - b["image_id"].as_i64().unwrap());
        b["category_id"] = json!(500 - b["category_id"].as_i64().unwrap());
    }
    let images: Vec<Value> = (truth["images"].as_array().unwrap().iter())
        .map(|i| {
            json!({ "id": 1000 - i["id"].as_i64().unwrap(),
                         "file_name": format!("{folder}{}", i["file_name"].as_str().unwrap()) })
        })
        .collect();
    let categories: Vec<Value> = (truth["categories"].as_array().unwrap().iter())
        .map(|c| json!({ "id": 500 - c["id"].as_i64().unwrap(), "name": c["name"] }))
        .collect();
    let file = json!({ "images": images, "categories": categories, "annotations": boxes });
    (fixture(&format!("{case}.truth.json")), serde_json::to_vec(&file).unwrap())
}

#[test]
fn a_whole_file_with_its_own_numbers_gives_the_same() {
    for case in CASES {
        let results =
            from_coco(&fixture(&format!("{case}.truth.json")), &fixture(&format!("{case}.pred.json"))).unwrap();
        for folder in ["", "some folder/"] {
            let (truth, predictions) = as_file(case, folder);
            let file = from_coco(&truth, &predictions).unwrap();
            assert_eq!(file, results, "{case}");
        }
    }
}

fn small() -> (Value, Value) {
    (
        json!({ "images": [{ "id": 1, "file_name": "a.png" }], "categories": [{ "id": 1, "name": "x" }],
                "annotations": [{ "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0 }] }),
        json!([{ "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5 }]),
    )
}

fn compare(truth: &Value, predictions: &Value) -> Result<EvalInput, FileError> {
    from_coco(&serde_json::to_vec(truth).unwrap(), &serde_json::to_vec(predictions).unwrap())
}

#[test]
fn what_the_truth_does_not_know_is_noted() {
    let (truth, mut pred) = small();
    pred.as_array_mut().unwrap().push(json!({ "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5 }));
    pred.as_array_mut().unwrap().push(json!({ "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1], "score": 0.5 }));
    let input = compare(&truth, &pred).unwrap();
    assert_eq!(input.pictures[0].found.len(), 1);
    assert_eq!(input.notes.len(), 2, "{:?}", input.notes);
    assert!((evaluate(&input, &EvalSettings::default()).coco.ap.unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn an_empty_results_list_is_zero() {
    let (truth, _) = small();
    assert_eq!(evaluate(&compare(&truth, &json!([])).unwrap(), &EvalSettings::default()).coco.ap, Some(0.0));
}

fn breaks(change: impl Fn(&mut Value, &mut Value), words: &[&str]) {
    let (mut truth, mut pred) = small();
    change(&mut truth, &mut pred);
    let e = compare(&truth, &pred).unwrap_err().to_string();
    assert!(words.iter().all(|w| e.contains(w)), "{e}: {words:?}");
}

#[test]
fn a_prediction_without_score() {
    breaks(
        |_, p| {
            p[0].as_object_mut().unwrap().remove("score");
        },
        &["predictions", "annotation 0", "score"],
    );
}

#[test]
fn a_box_of_three_numbers() {
    breaks(|_, p| p[0]["bbox"] = json!([1, 2, 3]), &["predictions", "annotation 0", "bbox"]);
}

#[test]
fn a_box_of_negative_width() {
    breaks(|t, _| t["annotations"][0]["bbox"] = json!([1, 2, -3, 4]), &["truth", "annotation 0", "bbox"]);
}

#[test]
fn a_truth_box_on_an_unknown_image() {
    breaks(|t, _| t["annotations"][0]["image_id"] = json!(5), &["truth", "annotation 0", "image 5"]);
}

#[test]
fn a_truth_box_of_an_unknown_class() {
    breaks(|t, _| t["annotations"][0]["category_id"] = json!(5), &["truth", "category 5"]);
}

#[test]
fn two_images_of_one_number() {
    breaks(
        |t, _| t["images"] = json!([{ "id": 1, "file_name": "a" }, { "id": 1, "file_name": "b" }]),
        &["truth", "image id 1", "twice"],
    );
}

#[test]
fn a_truth_without_images() {
    breaks(|t, _| t["images"] = json!([]), &["no images"]);
}

#[test]
fn no_common_image() {
    breaks(
        |_, p| *p = json!({ "images": [{ "id": 1, "file_name": "z.png" }], "annotations": [] }),
        &["none of the 1 images", "z.png", "a.png"],
    );
}

#[test]
fn a_broken_file_says_where() {
    let e = from_coco(b"{\"images\": [", b"[]").unwrap_err();
    assert!(matches!(e, FileError::Json { file: "truth", .. }) && e.to_string().contains("line 1"), "{e}");
}
