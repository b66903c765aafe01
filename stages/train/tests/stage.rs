//! The stage as a whole, on a few small drawings: outputs, complaints about bad labels, equal bytes.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::{collections::BTreeMap, io::Cursor};

use artifacts::{Annotations, Files, IMAGES, Model, OntologyKind, OntologyValue, Report, WEIGHTS};
use datasets::split::Split::{Test, Train, Val};
use datasets::{Annotation, AnnotationSet, ClassInfo, ImageAnnotations};
use engine::{
    Digest, Level, Registry, StageError,
    harness::{Harness, Ran},
};
use image::{ImageFormat, Rgb, RgbImage};
use ontologies::{Class, Ontology};
use serde_json::json;
use vision::yolov8::{Backend, Native, Size, Spec, State};

const NAMES: [&str; 2] = ["block", "bar"];

/// White pictures of 128 x 96 with a square block and a flat bar each.
fn drawings() -> (Vec<(String, Vec<u8>)>, AnnotationSet) {
    let mut files = Vec::new();
    let mut set = AnnotationSet {
        classes: NAMES.map(|n| ClassInfo { name: n.into(), category: String::new(), color: [200, 0, 0] }).to_vec(),
        ..AnnotationSet::default()
    };
    for i in 0..6_u32 {
        let boxes = [[10 + 9 * i, 10, 34 + 9 * i, 34], [60 - 5 * i, 60, 100 - 5 * i, 72]];
        let inside = |b: &[u32; 4], x, y| x >= b[0] && x < b[2] && y >= b[1] && y < b[3];
        let rgb =
            RgbImage::from_fn(128, 96, |x, y| Rgb([if boxes.iter().any(|b| inside(b, x, y)) { 0 } else { 255 }; 3]));
        let mut bytes = Cursor::new(Vec::new());
        rgb.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let name = format!("sub folder/d{i}.png");
        let digest = Digest::of(bytes.get_ref()).to_string();
        let annotations = boxes.iter().zip(NAMES).map(|(b, n)| Annotation::new(n, b.map(f64::from).into())).collect();
        set.images.push(ImageAnnotations {
            image: name.clone(),
            digest,
            width: 128,
            height: 96,
            split: None,
            annotations,
        });
        files.push((name, bytes.into_inner()));
    }
    (files, set)
}

fn ontology() -> OntologyValue {
    let class = |name: &str| Class {
        name: name.into(),
        category: "Other".into(),
        prompt: name.into(),
        synonyms: vec![],
        aliases: vec![],
        color: [200, 0, 0],
        exemplars: vec![],
        negatives: vec![],
    };
    OntologyValue { ontology: Ontology { classes: NAMES.map(class).to_vec() }, templates: BTreeMap::new() }
}

fn harness(dir: &std::path::Path, files: &[(String, Vec<u8>)], set: &AnnotationSet) -> Harness {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    Harness::new(dir)
        .unwrap()
        .files("images", IMAGES, &files)
        .unwrap()
        .input::<Annotations>("annotations", set)
        .unwrap()
        .input::<OntologyKind>("ontology", &ontology())
        .unwrap()
}

fn train(harness: &Harness) -> Result<Ran, StageError> {
    train_with(harness, &json!({}))
}

/// With settings laid over those of all tests here.
fn train_with(harness: &Harness, over: &serde_json::Value) -> Result<Ran, StageError> {
    let mut config = json!({"epochs": 2, "imgsz": 64, "batch": 2, "tile": "native", "val_fraction": 0.3});
    config.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    harness.run(&Registry::new().add(train::Train), config)
}

/// The files of the model that a training with these settings makes.
fn model_with(over: &serde_json::Value) -> (Files, Ran) {
    let (files, set) = drawings();
    let dir = tempfile::tempdir().unwrap();
    let harness = harness(dir.path(), &files, &set);
    let ran = train_with(&harness, over).unwrap();
    (harness.read::<Model>(&ran, "model").unwrap(), ran)
}

fn args(model: &Files) -> serde_json::Value {
    serde_json::from_slice(&model["args.json"]).unwrap()
}

#[test]
fn a_training_leaves_everything_and_names_what_it_left_out() {
    let (mut files, mut set) = drawings();
    set.images[0].annotations.push(Annotation::new("pump", [1.0, 1.0, 9.0, 9.0].into()));
    set.images[1].annotations.push(Annotation::new("bar", [500.0, 1.0, 900.0, 9.0].into()));
    files.push(("unlabelled.png".into(), b"never read".to_vec()));
    let dir = tempfile::tempdir().unwrap();
    let harness = harness(dir.path(), &files, &set);
    let ran = train(&harness).unwrap();
    let model: Files = harness.read::<Model>(&ran, "model").unwrap();
    for name in [
        "best.safetensors",
        "last.safetensors",
        "results.csv",
        "args.json",
        "ignored.json",
        "metrics.json",
        "per_class.csv",
        "confusion_matrix.csv",
        "confusion_matrix.svg",
        "confusion_matrix_normalized.svg",
        "PR_curve.svg",
        "F1_curve.svg",
        "P_curve.svg",
        "R_curve.svg",
        "results_loss.svg",
        "results_metrics.svg",
        "train_batch0.jpg",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
    ] {
        assert!(model.get(name).is_some_and(|bytes| !bytes.is_empty()), "{name}");
    }
    assert_eq!(String::from_utf8_lossy(&model["results.csv"]).lines().count(), 3);
    let ignored = String::from_utf8_lossy(&model["ignored.json"]).into_owned();
    for part in ["class `pump` is not in the ontology", "lies outside the picture", "has no labels"] {
        assert!(ignored.contains(part), "{ignored}");
        let said = |(level, text): &(Level, String)| *level == Level::Warn && text.contains(part);
        assert!(ran.notes.messages.iter().any(said), "{part}: {:?}", ran.notes.messages);
    }
    for name in ["mAP50", "mAP50-95", "COCO_AP", "COCO_AP50"] {
        assert!(ran.notes.metrics.contains_key(name), "{name}");
    }
    let section = report::Section::from_json(&harness.read::<Report>(&ran, "report").unwrap()["section.json"]).unwrap();
    assert_eq!(section.headline[0].label, "mAP50");
    // What inference needs to know travels with the weights.
    let detector = vision::detector::YoloV8::from_bytes(&model["best.safetensors"], "").unwrap();
    let names: Vec<&str> = vision::detector::Detector::classes(&detector).iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn the_division_that_a_data_set_tells_is_kept() {
    let (mut files, mut set) = drawings();
    // A drawing for measuring that is trained on under another name.
    files[5].1 = files[2].1.clone();
    set.images[5].annotations = set.images[2].annotations.clone();
    set.images[5].digest = set.images[2].digest.clone();
    for (image, part) in set.images.iter_mut().zip([Val, Train, Train, Test, Train, Val]) {
        image.split = Some(part);
    }
    let dir = tempfile::tempdir().unwrap();
    let harness = harness(dir.path(), &files, &set);
    let measured = |ran: &Ran| {
        let model: Files = harness.read::<Model>(ran, "model").unwrap();
        let metrics: serde_json::Value = serde_json::from_slice(&model["metrics.json"]).unwrap();
        metrics["images"].as_u64().unwrap()
    };
    let says = |ran: &Ran, words: &str| {
        assert!(ran.notes.messages.iter().any(|(_, text)| text.contains(words)), "{words}: {:?}", ran.notes.messages);
    };
    let ran = train(&harness).unwrap();
    says(
        &ran,
        "3 drawings for training and 2 for measuring, as the data set's files divide them, 1 for testing left out",
    );
    says(&ran, "1 drawing for measuring is trained on too, such as `sub folder/d5.png`");
    assert_eq!(measured(&ran), 2);
    let ran = train_with(&harness, &json!({"split": "draw", "val_fraction": 0.4})).unwrap();
    says(&ran, "drawn with val_fraction 0.4 and seed 0, 1 for testing left out");
}

#[test]
fn starting_weights_are_taken_by_class_name_and_their_licence_goes_on() {
    let (files, set) = drawings();
    let spec = Spec { size: Size::N, classes: 2 };
    let mut weights = Native::new(spec, 77).state();
    weights.metadata.insert("classes".into(), json!(["Bar", "pump"]).to_string());
    weights.metadata.insert("licence".into(), json!("AGPL-3.0").to_string());
    let dir = tempfile::tempdir().unwrap();
    let given = [("old.safetensors", &weights.to_bytes().unwrap()[..])];
    let harness = harness(dir.path(), &files, &set).files("weights", WEIGHTS, &given).unwrap();
    let config = json!({"epochs": 1, "imgsz": 64, "batch": 2, "tile": "native", "val_fraction": 0.3, "freeze": 22});
    let ran = harness.run(&Registry::new().add(train::Train), config).unwrap();
    let said = |part: &str| ran.notes.messages.iter().any(|(_, text)| text.contains(part));
    for part in ["291 tensors loaded, 6 adapted, 0 skipped; 1 class kept, 1 new", "AGPL-3.0", "start anew: block"] {
        assert!(said(part), "{part}: {:?}", ran.notes.messages);
    }
    let model: Files = harness.read::<Model>(&ran, "model").unwrap();
    let account: serde_json::Value = serde_json::from_slice(&model["weights.json"]).unwrap();
    assert_eq!(account["classes"], json!({"kept": ["bar"], "new": ["block"], "left": ["pump"]}));
    let trained = State::from_bytes(&model["best.safetensors"]).unwrap();
    assert_eq!(trained.metadata["licence"], json!("AGPL-3.0").to_string());
    assert!(trained.metadata["start"].contains("old.safetensors"));
    // All but the head was frozen.
    for (key, tensor) in trained.tensors.iter().filter(|(key, _)| !key.starts_with("model.22")) {
        assert!(*tensor == weights.tensors[key], "{key}");
    }
    let bytes = harness.read::<Report>(&ran, "report").unwrap();
    let section = report::Section::from_json(&bytes["section.json"]).unwrap();
    assert!(section.body.as_str().contains("Starting weights") && section.body.as_str().contains("AGPL-3.0"));
}

#[test]
fn starting_weights_of_another_size_are_refused_with_the_way_out() {
    let (files, set) = drawings();
    let weights = Native::new(Spec { size: Size::S, classes: 2 }, 1).state().to_bytes().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let harness = harness(dir.path(), &files, &set).files("weights", WEIGHTS, &[("s.safetensors", &weights)]).unwrap();
    match train(&harness) {
        Err(StageError::Input { message, help }) => {
            assert!(message.contains("yolov8s") && help.contains("train.model: yolov8s"), "{message} {help}");
        }
        other => panic!("{:?}", other.map(|r| r.outcome)),
    }
}

#[test]
fn the_cache_changes_no_weight() {
    let weights = |over| model_with(&over).0["last.safetensors"].clone();
    let all = weights(json!({}));
    assert!(weights(json!({"cache": "disk", "cache_mb": 0})) == all, "on disk");
    assert!(weights(json!({"cache_mb": 0})) == all, "compressed");
}

#[test]
fn a_single_class_is_called_object() {
    let (model, ran) = model_with(&json!({"single_cls": true, "rect": true}));
    let detector = vision::detector::YoloV8::from_bytes(&model["best.safetensors"], "").unwrap();
    let names: Vec<String> = vision::detector::Detector::classes(&detector).iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["object"]);
    assert!(String::from_utf8_lossy(&model["per_class.csv"]).contains("object,"));
    assert!(ran.notes.metrics.contains_key("mAP50"));
}

#[test]
fn class_weights_are_settled_said_and_matter() {
    let (plain, _) = model_with(&json!({}));
    let (model, ran) = model_with(&json!({"class_weights": {"bar": 3.0}}));
    let said = |m: &(Level, String)| m.1 == "class weights: block 1.000, bar 3.000";
    assert!(ran.notes.messages.iter().any(said), "{:?}", ran.notes.messages);
    assert!(args(&model)["settled"].to_string().contains("bar 3.000"));
    assert!(model["last.safetensors"] != plain["last.safetensors"]);
    let (files, set) = drawings();
    let dir = tempfile::tempdir().unwrap();
    let wrong = train_with(&harness(dir.path(), &files, &set), &json!({"class_weights": {"tank": 3.0}}));
    let text = wrong.err().map(|e| e.to_string()).unwrap();
    assert!(text.contains("class_weights.tank") && text.contains("block, bar"), "{text}");
}

#[test]
fn an_automatic_batch_is_said_in_message_and_report() {
    let (model, ran) = model_with(&json!({"batch": -1, "nominal_batch": 4, "epochs": 1}));
    let said = |m: &(Level, String)| m.1.starts_with("batch: auto settled to 4 pictures: ") && m.1.contains("60 %");
    assert!(ran.notes.messages.iter().any(said), "{:?}", ran.notes.messages);
    let args = args(&model);
    assert_eq!(args["config"]["batch"], "auto");
    assert!(args["settled"].to_string().contains("auto settled to 4"));
    let table = String::from_utf8_lossy(&model["results.csv"]).into_owned();
    assert!(table.lines().next().unwrap().ends_with(",batch") && table.trim_end().ends_with(",4"), "{table}");
}

#[test]
fn what_the_recipe_leaves_to_the_model_is_in_the_arguments() {
    let (model, _) = model_with(&json!({"epochs": 1, "augment": {"mixup": 0.3, "copy_paste": 0.5}}));
    let args = args(&model);
    assert_eq!((&args["config"]["augment"]["scale"], &args["config"]["augment"]["mixup"]), (&json!(0.5), &json!(0.3)));
}

#[test]
fn one_drawing_is_trained_on_and_said_not_to_be_measured() {
    let (mut files, mut set) = drawings();
    files.truncate(1);
    set.images.truncate(1);
    let dir = tempfile::tempdir().unwrap();
    let harness = harness(dir.path(), &files, &set);
    let ran = train(&harness).unwrap();
    assert!(!ran.notes.metrics.contains_key("mAP50"));
    let said =
        |m: &(Level, String)| m.0 == Level::Warn && m.1.contains("nothing is measured") && m.1.contains("one labelled");
    assert!(ran.notes.messages.iter().any(said), "{:?}", ran.notes.messages);
    let section = report::Section::from_json(&harness.read::<Report>(&ran, "report").unwrap()["section.json"]).unwrap();
    assert!(section.body.as_str().contains("Not measured"));
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let (files, set) = drawings();
    let digest = |threads| {
        let dir = tempfile::tempdir().unwrap();
        train(&harness(dir.path(), &files, &set).threads(threads)).unwrap().outputs["model"]
    };
    assert_eq!(digest(1), digest(5));
}

#[test]
fn nothing_to_train_on_is_an_error_with_the_way_out() {
    let (files, mut set) = drawings();
    set.images.iter_mut().for_each(|i| i.annotations.clear());
    let dir = tempfile::tempdir().unwrap();
    match train(&harness(dir.path(), &files, &set)) {
        Err(StageError::Input { message, help }) => {
            assert!(message.contains("nothing to train on") && help.contains("thresholds"), "{message} {help}");
        }
        other => panic!("{:?}", other.map(|r| r.outcome)),
    }
}
