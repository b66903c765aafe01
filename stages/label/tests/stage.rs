//! The label stage on small drawings: boxes, provenance, bad images, imported labels, determinism.

#![expect(clippy::unwrap_used, reason = "a failing step is a failing test")]

use artifacts::{Annotations, IMAGES, Model, OntologyKind, OntologyValue, Report};
use datasets::{Annotation, AnnotationSet, BBox, ImageAnnotations, Score};
use engine::harness::Harness;
use engine::{Kind, Registry, StageError};
use image::{Rgb, RgbImage};
use label::Label;
use ontologies::{Class, Exemplar, Ontology};
use serde_json::{Value, json};
use vision::yolov8::{Backend, Native, Size, Spec};

/// A cross in a box: `side` pixels wide.
fn symbol(picture: &mut RgbImage, x: u32, y: u32, side: u32) {
    for i in 0..side {
        for d in 0..2 {
            for (u, v) in [(i, d), (i, side - 1 - d), (d, i), (side - 1 - d, i), (i, (i + d).min(side - 1))] {
                picture.put_pixel(x + u, y + v, Rgb([0; 3]));
            }
        }
    }
}

fn png(picture: &RgbImage) -> Vec<u8> {
    datasets::picture::encode_png(picture).unwrap()
}

fn drawing(places: &[(u32, u32)]) -> Vec<u8> {
    let mut picture = RgbImage::from_pixel(300, 200, Rgb([255; 3]));
    for &(x, y) in places {
        symbol(&mut picture, x, y, 40);
    }
    png(&picture)
}

fn ontology() -> OntologyValue {
    let mut picture = RgbImage::from_pixel(48, 48, Rgb([255; 3]));
    symbol(&mut picture, 4, 4, 40);
    let bytes = png(&picture);
    let exemplar = Exemplar { file: "box.png".into(), digest: String::new() };
    let class = Class {
        name: "crossed box".into(),
        category: "Other".into(),
        prompt: "crossed box".into(),
        synonyms: vec![],
        aliases: vec!["xbox".into()],
        color: [200, 0, 0],
        exemplars: vec![exemplar],
        negatives: vec![],
    };
    OntologyValue { ontology: Ontology { classes: vec![class] }, templates: [("box.png".to_owned(), bytes)].into() }
}

fn harness(dir: &std::path::Path, images: &[(&str, &[u8])]) -> Harness {
    Harness::new(dir)
        .unwrap()
        .files("images", IMAGES, images)
        .unwrap()
        .input::<OntologyKind>("ontology", &ontology())
        .unwrap()
}

fn registry() -> Registry {
    Registry::new().add_items(Label)
}

#[test]
fn boxes_with_provenance_and_bad_images_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (two, none) = (drawing(&[(30, 50), (180, 90)]), drawing(&[]));
    let images: [(&str, &[u8]); 4] =
        [("a b/zwei.png", &two), ("broken.png", &two[..200]), ("empty.png", b""), ("none.png", &none)];
    let h = harness(dir.path(), &images);
    let ran = h.run(&registry(), Value::Null).unwrap();
    let set = h.read::<Annotations>(&ran, "annotations").unwrap();
    assert_eq!(set.images.len(), 2);
    assert_eq!(set.skipped.iter().map(|s| s.image.as_str()).collect::<Vec<_>>(), ["broken.png", "empty.png"]);
    assert_eq!(set.images[0].annotations.len(), 2);
    let a = &set.images[0].annotations[0];
    assert!(a.bbox.iou(&BBox::new(30.0, 50.0, 70.0, 90.0)) > 0.85, "{:?}", a.bbox);
    let p = &a.provenance;
    assert_eq!((p.labeller.as_str(), p.source.as_deref(), p.threshold), ("template", Some("box.png"), Some(0.3)));
    assert!(p.version.is_some() && p.device.as_deref() == Some("cpu") && p.evidence.contains_key("coverage"));
    assert!(a.score.unwrap().get() >= 0.3);
    assert_eq!(ran.notes.metrics["boxes"], 2.0);
    let report = h.read::<Report>(&ran, "report").unwrap();
    let section = report::Section::from_json(&report["section.json"]).unwrap();
    assert!(section.body.as_str().contains("crossed box"));
}

#[test]
fn one_thread_or_two_give_the_same_bytes() {
    let (a, b) = (drawing(&[(30, 50), (180, 90)]), drawing(&[(100, 20)]));
    let images: [(&str, &[u8]); 2] = [("a.png", &a), ("b.png", &b)];
    let digest = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let ran = harness(dir.path(), &images).threads(threads).run(&registry(), Value::Null).unwrap();
        ran.outputs.clone()
    };
    assert_eq!(digest(1), digest(2));
}

#[test]
fn zero_usable_images_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let e = harness(dir.path(), &[]).run(&registry(), Value::Null).err().unwrap();
    assert!(matches!(e, StageError::Input { .. }), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let e = harness(dir.path(), &[("x.png", b"no picture")]).run(&registry(), Value::Null).err().unwrap();
    assert!(e.to_string().contains("x.png"), "{e}");
}

#[test]
fn settings_that_cannot_work() {
    let one = drawing(&[(30, 50)]);
    for (config, part) in [
        (json!({"labeller": "grounded-sam-2"}), "not in this build"),
        (json!({"labeller": "detector"}), "`model`"),
        (json!({"labeller": "imported"}), "`labels`"),
        (json!({"thresholds": {"classes": {"crosed box": 0.5}}}), "did you mean `crossed box`"),
        (json!({"nms_iou": 3}), "nms_iou"),
        (json!({"classes": {"crosed box": {"mirror": false}}}), "did you mean `crossed box`"),
        (json!({"classes": {"crossed box": {"stretch": 9}}}), "classes.crossed box.stretch"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let e = harness(dir.path(), &[("a.png", &one)]).run(&registry(), config).err().unwrap();
        assert!(matches!(e, StageError::Config { .. }) && e.to_string().contains(part), "{e}");
    }
}

#[test]
fn blank_templates_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut o = ontology();
    o.templates.insert("box.png".into(), png(&RgbImage::from_pixel(20, 20, Rgb([255; 3]))));
    let one = drawing(&[(30, 50)]);
    let h = Harness::new(dir.path()).unwrap().files("images", IMAGES, &[("a.png", &one)]).unwrap();
    let e = h.input::<OntologyKind>("ontology", &o).unwrap().run(&registry(), Value::Null).err().unwrap();
    assert!(e.to_string().contains("box.png") && e.to_string().contains("blank"), "{e}");
}

#[test]
fn opencv_numbers_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let one = drawing(&[(30, 50), (180, 90)]);
    let h = harness(dir.path(), &[("a.png", &one)]);
    let ran = h.run(&registry(), json!({"method": "ncc", "scale_steps": 3})).unwrap();
    let set = h.read::<Annotations>(&ran, "annotations").unwrap();
    let boxes: Vec<_> = set.images[0].annotations.iter().map(|a| a.bbox).collect();
    // The box is the template's picture, which has four pixels of paper on every side.
    assert_eq!(boxes, [BBox::new(26.0, 46.0, 74.0, 94.0), BBox::new(176.0, 86.0, 224.0, 134.0)]);
    let a = &set.images[0].annotations[0];
    assert!((a.score.unwrap().get() - 1.0).abs() < 1e-9 && a.attributes["method"] == "ncc", "{a:?}");
    let p = &a.provenance;
    assert_eq!((p.labeller.as_str(), p.source.as_deref(), p.threshold), ("template", Some("box.png"), Some(0.8)));
    assert!(p.version.as_deref() == Some("ncc 1") && p.evidence["scale"] == 1.0 && p.evidence["correlation"] > 0.99);
    // Another name for what `auto` does.
    let bytes = |method: &str| {
        let dir = tempfile::tempdir().unwrap();
        let h = harness(dir.path(), &[("a.png", &one)]);
        let ran = h.run(&registry(), json!({"method": method})).unwrap();
        h.read::<Annotations>(&ran, "annotations").unwrap()
    };
    assert_eq!(bytes("auto"), bytes("symbol"));
}

#[test]
fn flat_templates_are_refused_by_ncc() {
    let dir = tempfile::tempdir().unwrap();
    let mut o = ontology();
    o.templates.insert("box.png".into(), png(&RgbImage::from_pixel(20, 20, Rgb([255; 3]))));
    let one = drawing(&[(30, 50)]);
    let h = Harness::new(dir.path()).unwrap().files("images", IMAGES, &[("a.png", &one)]).unwrap();
    let h = h.input::<OntologyKind>("ontology", &o).unwrap();
    let e = h.run(&registry(), json!({"method": "ncc"})).err().unwrap();
    assert!(e.to_string().contains("box.png") && e.to_string().contains("one grey level"), "{e}");
}

#[test]
fn poses_of_a_single_class() {
    let one = drawing(&[(30, 50)]);
    for method in ["symbol", "ncc"] {
        let count = |classes: Value| {
            let dir = tempfile::tempdir().unwrap();
            let h = harness(dir.path(), &[("a.png", &one)]);
            let ran = h.run(&registry(), json!({"method": method, "scale": {"base": 1}, "classes": classes})).unwrap();
            h.read::<Annotations>(&ran, "annotations").unwrap().box_count()
        };
        assert_eq!(count(json!({})), 1, "{method}");
        assert_eq!(count(json!({"crossed box": {"scale": {"min": 2, "max": 3}}})), 0, "{method}");
    }
}

#[test]
fn a_high_threshold_of_a_class_drops_its_boxes() {
    let dir = tempfile::tempdir().unwrap();
    let one = drawing(&[(30, 50)]);
    let h = harness(dir.path(), &[("a.png", &one)]);
    let ran = h.run(&registry(), json!({"thresholds": {"classes": {"crossed box": 1.0}}})).unwrap();
    assert_eq!(h.read::<Annotations>(&ran, "annotations").unwrap().box_count(), 0);
}

fn imported(image: &str, class: &str, score: Option<f64>) -> ImageAnnotations {
    let mut a = Annotation::new(class, BBox::new(10.0, 10.0, 50.0, 60.0));
    a.score = score.map(|s| Score::new(s).unwrap());
    ImageAnnotations {
        image: image.into(),
        digest: String::new(),
        width: 300,
        height: 200,
        split: None,
        annotations: vec![a],
    }
}

#[test]
fn imported_labels_by_name_or_stem() {
    let dir = tempfile::tempdir().unwrap();
    let picture = drawing(&[]);
    let labels = AnnotationSet {
        images: vec![
            imported("a.png", "crossed box", None),
            imported("b.jpg", "XBOX", Some(0.4)),
            imported("gone.png", "crossed box", None),
            imported("s.png", "crosed box", None),
            ImageAnnotations { annotations: vec![], ..imported("empty.png", "", None) },
        ],
        ..AnnotationSet::default()
    };
    let names = ["a.png", "empty.png", "sub/b.png", "s.png", "z.png"];
    let images = names.map(|n| (n, picture.as_slice()));
    let h = harness(dir.path(), &images).input::<Annotations>("labels", &labels).unwrap();
    let ran = h.run(&registry(), Value::Null).unwrap();
    let set = h.read::<Annotations>(&ran, "annotations").unwrap();
    let counts: Vec<(&str, usize)> = set.images.iter().map(|i| (i.image.as_str(), i.annotations.len())).collect();
    assert_eq!(counts, [("a.png", 1), ("empty.png", 0), ("s.png", 0), ("sub/b.png", 1)]);
    // Nothing is known of an image that no label file names; one that is named without boxes is empty.
    assert_eq!(set.skipped.iter().map(|s| s.image.as_str()).collect::<Vec<_>>(), ["z.png"]);
    assert_eq!(ran.notes.metrics["images_left_out"], 1.0);
    let b = &set.images[3].annotations[0];
    assert_eq!((b.class.as_str(), b.provenance.labeller.as_str()), ("crossed box", "imported"));
    assert_eq!(b.provenance.source.as_deref(), Some("b.jpg"));
    let said: Vec<&str> = ran.notes.messages.iter().map(|m| m.1.as_str()).collect();
    assert!(said.iter().any(|m| m.contains("gone.png")), "{said:?}");
    assert!(said.iter().any(|m| m.contains("`crosed box`") && m.contains("if `crossed box` is meant")), "{said:?}");
    assert!(said.iter().any(|m| m.contains("no label file names is left out") && m.contains("z.png")), "{said:?}");
}

/// An untrained network of input 64 that was trained on whole drawings at full size.
fn weights(classes: [&str; 2]) -> Vec<u8> {
    let mut state = Native::new(Spec { size: Size::N, classes: 2 }, 3).state();
    let info = classes.map(|name| json!({ "name": name, "category": "", "color": [0, 0, 0] }));
    state.metadata.insert("class_info".into(), json!(info).to_string());
    state.metadata.insert("imgsz".into(), "64".into());
    state.metadata.insert("scale".into(), "1.0".into());
    state.to_bytes().unwrap()
}

fn with_model(dir: &std::path::Path, weights: &[u8]) -> Harness {
    let (big, small) = (drawing(&[(30, 50)]), png(&RgbImage::from_pixel(64, 64, Rgb([255; 3]))));
    let images: [(&str, &[u8]); 2] = [("big.png", &big), ("small.png", &small)];
    harness(dir, &images).files("model", Model::NAME, &[("best.safetensors", weights)]).unwrap()
}

#[test]
fn a_detector_labels_with_provenance() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = weights(["pump", "crossed box"]);
    let config = json!({"labeller": "detector", "thresholds": {"default": 0.0}});
    let h = with_model(dir.path(), &bytes);
    let ran = h.run(&registry(), config.clone()).unwrap();
    let set = h.read::<Annotations>(&ran, "annotations").unwrap();
    assert!(set.images.iter().all(|i| !i.annotations.is_empty()), "{:?}", ran.notes.metrics);
    for image in &set.images {
        for (i, a) in image.annotations.iter().enumerate() {
            assert_eq!(a.class, "crossed box");
            let p = &a.provenance;
            assert_eq!(
                (p.labeller.as_str(), p.source.as_deref(), p.threshold),
                ("detector", Some("yolov8n"), Some(0.0))
            );
            assert_eq!(p.model, Some(engine::Digest::of(&bytes).to_string()));
            assert!(image.annotations[..i].iter().all(|b| a.bbox.iou(&b.bbox) <= 0.5));
        }
    }
    // A drawing that would be shrunk far below the size of training is cut: boxes of one input span 64 pixels at most.
    let widest = set.images[0].annotations.iter().map(|a| a.bbox.x1).fold(0.0, f64::max);
    assert!(widest > 200.0, "{widest}");
    let said: Vec<&str> = ran.notes.messages.iter().map(|m| m.1.as_str()).collect();
    assert!(said.iter().any(|m| m.contains("class `pump` is not in the ontology")), "{said:?}");
    let again = tempfile::tempdir().unwrap();
    let ran2 = with_model(again.path(), &bytes).threads(1).run(&registry(), config).unwrap();
    assert_eq!(ran.outputs, ran2.outputs);
}

#[test]
fn what_to_do_without_boxes_depends_on_the_labeller() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"labeller": "detector", "thresholds": {"default": 1.0}});
    let ran = with_model(dir.path(), &weights(["pump", "crossed box"])).run(&registry(), config).unwrap();
    let warned = |ran: &engine::harness::Ran, word: &str| {
        ran.notes.messages.iter().any(|m| m.1.starts_with("not one box was found") && m.1.contains(word))
    };
    assert!(warned(&ran, "training") && !warned(&ran, "templates"), "{:?}", ran.notes.messages);
    let dir = tempfile::tempdir().unwrap();
    let picture = drawing(&[]);
    let ran = harness(dir.path(), &[("a.png", &picture)]).run(&registry(), Value::Null).unwrap();
    assert!(warned(&ran, "templates"));
}

#[test]
fn a_model_of_other_classes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let e = with_model(dir.path(), &weights(["pump", "fan"])).run(&registry(), json!({"labeller": "detector"}));
    let e = e.err().unwrap().to_string();
    assert!(e.contains("none of the ontology's classes"), "{e}");
}
