//! What every format must do: give back the set that was written, name what it cannot carry, and leave other files be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::annotation::{Annotation, ClassInfo, Decision, ImageAnnotations, Provenance, Score, Skipped};
use crate::geometry::{BBox, polygon_bounds};
use crate::split::Split;

/// How far a coordinate may move where a format measures otherwise (fractions, percent, width instead of right edge).
const TOLERANCE: f64 = 1e-8;

fn class(name: &str, category: &str, color: [u8; 3]) -> ClassInfo {
    ClassInfo { name: name.into(), category: category.into(), color }
}

/// A set with everything in it that formats stumble over.
fn rich() -> AnnotationSet {
    let mut plain = Annotation::new("ball valve", BBox::new(10.25, 20.5, 40.125, 60.0));
    plain.provenance = Provenance {
        labeller: "template".into(),
        version: Some("2".into()),
        source: Some("template_ball \"valve\" <1>.png".into()),
        threshold: Some(0.62),
        model: Some("ab".repeat(32)),
        device: Some("cpu".into()),
        decision: Some(Decision::Corrected),
        evidence: BTreeMap::from([("rotation".into(), 90.0), ("coverage".into(), 0.1 + 0.2)]),
    };
    plain.score = Some(Score::new(0.1 + 0.2).unwrap());
    plain.attributes = BTreeMap::from([
        ("difficult".into(), json!(true)),
        ("score".into(), json!("not the score")),
        ("x-score".into(), json!(3)),
        ("text".into(), json!("1.0")),
        ("note".into(), json!("a <b> & \"c\"\nd")),
        ("list".into(), json!([1, null, {"k": "ü"}])),
        ("description".into(), json!("seen twice")),
        ("z_order".into(), json!(4)),
        ("group_id".into(), json!(1)),
    ]);
    let mut outlined = Annotation::new("Pumpe ⌀ 5 µm", BBox::new(100.0, 100.0, 150.0, 140.0));
    outlined.polygons = vec![vec![[100.0, 100.0], [150.0, 110.0], [120.0, 140.0]]];
    let mut split = Annotation::new("Pumpe ⌀ 5 µm", BBox::new(0.0, 0.0, 300.0, 200.0));
    split.polygons = vec![vec![[1.0, 1.0], [9.0, 2.0], [4.0, 9.0]], vec![[50.0, 50.0], [60.0, 50.0], [60.0, 61.5]]];
    let image = |name: &str, annotations| ImageAnnotations {
        image: name.into(),
        digest: "0123".repeat(16),
        width: 300,
        height: 200,
        split: None,
        annotations,
    };
    let mut set = AnnotationSet {
        classes: vec![
            class("Pumpe ⌀ 5 µm", "Machines", [1, 2, 255]),
            class("ball valve", "Valves", [0, 128, 0]),
            class("never seen", "Other", [9, 9, 9]),
        ],
        images: vec![
            image("b.png", vec![plain.clone(), outlined.clone()]),
            image("b.jpg", vec![split]),
            image("B.tif", vec![]),
            image("sub folder/b.png", vec![plain.clone(), plain]),
            image("images/Blatt 1.ä.png", vec![outlined]),
        ],
        skipped: vec![Skipped { image: "broken.png".into(), reason: "truncated; export it again".into() }],
    };
    set.images.sort_by(|a, b| a.image.cmp(&b.image));
    set
}

/// [`rich`] in three parts.
fn divided() -> AnnotationSet {
    let mut set = rich();
    for image in &mut set.images {
        image.split = Some(match image.image.as_str() {
            "b.png" => Split::Val,
            "sub folder/b.png" => Split::Test,
            _ => Split::Train,
        });
    }
    set
}

fn write_read(format: Format, set: &AnnotationSet, name: &str) -> (AnnotationSet, Account, Account) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join(name);
    let written = format.write(set, &target, &WriteOptions::default()).unwrap();
    assert_eq!(Format::detect(&target).unwrap(), format);
    let Imported { set, account, .. } = format.read(&target, &ReadOptions::default()).unwrap();
    (set, written, account)
}

/// Equality but for rounding of coordinates.
fn assert_same(a: &AnnotationSet, b: &AnnotationSet) {
    assert_eq!(a.classes, b.classes);
    assert_eq!(a.skipped, b.skipped);
    assert_eq!(a.images.len(), b.images.len());
    for (x, y) in a.images.iter().zip(&b.images) {
        assert_eq!(
            (&x.image, &x.digest, x.width, x.height, x.split),
            (&y.image, &y.digest, y.width, y.height, y.split)
        );
        assert_eq!(x.annotations.len(), y.annotations.len(), "{}", x.image);
        for (p, q) in x.annotations.iter().zip(&y.annotations) {
            let close = |a: f64, b: f64| assert!((a - b).abs() <= TOLERANCE, "{a} {b} in {p:?} {q:?}");
            <[f64; 4]>::from(p.bbox).into_iter().zip(<[f64; 4]>::from(q.bbox)).for_each(|(a, b)| close(a, b));
            assert_eq!(
                p.polygons.iter().map(Vec::len).collect::<Vec<_>>(),
                q.polygons.iter().map(Vec::len).collect::<Vec<_>>()
            );
            p.polygons
                .iter()
                .flatten()
                .flatten()
                .zip(q.polygons.iter().flatten().flatten())
                .for_each(|(a, b)| close(*a, *b));
            let strip = |a: &Annotation| Annotation { bbox: BBox::new(0., 0., 1., 1.), polygons: vec![], ..a.clone() };
            assert_eq!(strip(p), strip(q));
        }
    }
}

/// The set as the format can carry it.
fn carried(format: Format, set: &AnnotationSet) -> AnnotationSet {
    let mut set = set.clone();
    if format == Format::Voc {
        set.images.iter_mut().flat_map(|i| &mut i.annotations).for_each(|a| a.polygons.clear());
    }
    set
}

#[test]
fn names_read_back() {
    for f in Format::ALL {
        assert_eq!(f.to_string().parse::<Format>().unwrap(), f);
        assert_eq!(f.codec().format(), f);
        assert_eq!(serde_json::to_value(f).unwrap(), json!(f.name()));
    }
    assert!("pascal".parse::<Format>().unwrap_err().to_string().contains("known: yolo"));
}

#[test]
fn a_folder_gives_back_everything() {
    for format in Format::ALL {
        let set = rich();
        let (back, written, read) = write_read(format, &set, "out folder");
        assert_same(&carried(format, &set), &back);
        assert!(read.is_lossless(), "{read}");
        assert_eq!(written.is_lossless(), !matches!(format, Format::Voc | Format::Yolo), "{written}");
        assert_eq!((written.images, written.labels), (5, 6));
    }
}

#[test]
fn a_division_comes_back_or_is_said_to_be_lost() {
    for format in Format::ALL {
        let (back, written, _) = write_read(format, &divided(), "out");
        if matches!(format, Format::LabelStudio | Format::LabelMe) {
            assert_eq!(written.change("split").unwrap().effect, Effect::Lost);
            assert!(!back.is_divided());
        } else {
            assert!(written.change("split").is_none_or(|c| c.effect != Effect::Lost), "{written}");
            assert_same(&carried(format, &divided()), &back);
        }
    }
}

#[test]
fn losses_are_named() {
    let set = rich();
    let (_, voc, _) = write_read(Format::Voc, &set, "out");
    let lost = voc.change("polygon").unwrap();
    assert_eq!((lost.effect, lost.count), (Effect::Lost, 3));
    let (_, yolo, _) = write_read(Format::Yolo, &set, "out");
    assert_eq!(yolo.change("polygon").unwrap().effect, Effect::Noted);
    assert_eq!(yolo.change("image name").unwrap().effect, Effect::Repaired);
    assert!(yolo.to_string().contains("`B.tif` is `B.tif.tif`"), "{yolo}");
    let (_, tasks, _) = write_read(Format::LabelStudio, &set, "tasks.json");
    assert_eq!(tasks.change("class list").unwrap().count, 3);
    assert_eq!(tasks.change("skipped images").unwrap().count, 1);
}

#[test]
fn single_files_carry_everything() {
    for (format, name) in [(Format::Coco, "labels.json"), (Format::Cvat, "labels.xml")] {
        let (back, written, read) = write_read(format, &rich(), name);
        assert_same(&rich(), &back);
        assert!(written.is_lossless() && read.is_lossless());
    }
}

#[test]
fn without_its_sidecar_yolo_still_gives_boxes() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let set = rich();
    Format::Yolo.write(&set, &target, &WriteOptions::default()).unwrap();
    fs::remove_file(target.join("provenance.json")).unwrap();
    let known = set.images.iter().map(|i| (i.image.clone(), (i.width, i.height)));
    let mut known: BTreeMap<_, _> = known.collect();
    known.insert("images_/Blatt 1.ä.png".into(), (300, 200));
    for renamed in ["b.jpg.jpg", "b.png.png", "B.tif.tif"] {
        known.insert(renamed.into(), (300, 200));
    }
    let options = ReadOptions { sizes: ImageSizes { known, ..ImageSizes::default() }, ..ReadOptions::default() };
    let back = Format::Yolo.read(&target, &options).unwrap();
    assert_eq!(back.set.box_count(), 6, "{}", back.account);
    let a = &back.set.images.iter().find(|i| i.image == "sub folder/b.png").unwrap().annotations[0];
    assert!(
        a.bbox.iou(&set.images[0].annotations.first().map_or(BBox::new(10.25, 20.5, 40.125, 60.0), |a| a.bbox)) > 0.0
    );
    assert_eq!(a.provenance.labeller, "imported");
    assert!(!back.set.is_divided());
}

#[test]
fn an_edited_yolo_line_loses_only_its_own_provenance() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    Format::Yolo.write(&rich(), &target, &WriteOptions::default()).unwrap();
    let file = target.join("labels/train/sub folder/b.txt");
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[0] = "0 0.5 0.5 0.5 0.5";
    fs::write(&file, lines.join("\r\n")).unwrap();
    let back = Format::Yolo.read(&target, &ReadOptions::default()).unwrap();
    assert_eq!(back.account.change("provenance").unwrap().count, 1);
    let image = back.set.images.iter().find(|i| i.image == "sub folder/b.png").unwrap();
    assert_eq!(image.annotations[0].bbox, BBox::new(75.0, 50.0, 225.0, 150.0));
    assert_eq!(image.annotations[1].provenance.labeller, "template");
}

#[test]
fn trainers_find_images_labels_and_split() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let set = divided();
    let bytes = |name: &str| if name == "B.tif" { Err(io::Error::other("gone")) } else { Ok(name.as_bytes().to_vec()) };
    let options = WriteOptions { images: Some(&bytes), shape: Shape::Polygons };
    let account = Format::Yolo.write(&set, &target, &options).unwrap();
    assert_eq!(account.problems.len(), 1);
    assert!(account.problems[0].reason.contains("gone"));
    for (image, label) in [
        ("images/val/b.png.png", "labels/val/b.png.txt"),
        ("images/train/b.jpg.jpg", "labels/train/b.jpg.txt"),
        ("images/test/sub folder/b.png", "labels/test/sub folder/b.txt"),
        ("images/train/images_/Blatt 1.ä.png", "labels/train/images_/Blatt 1.ä.txt"),
    ] {
        assert!(target.join(image).is_file(), "{image}");
        let text = fs::read_to_string(target.join(label)).unwrap();
        for line in text.lines() {
            assert!(line.split(' ').skip(1).all(|v| (0.0..=1.0).contains(&v.parse::<f64>().unwrap())), "{line}");
        }
    }
    let yaml = fs::read_to_string(target.join("data.yaml")).unwrap();
    for expected in ["train: images/train\n", "val: images/val\n", "test: images/test\n", "  1: \"ball valve\"\n"] {
        assert!(yaml.contains(expected), "{yaml}");
    }
    let back = Format::Yolo.read(&target, &ReadOptions::default()).unwrap();
    assert_same(&set, &back.set);
}

#[test]
fn an_export_replaces_an_export_and_nothing_else() {
    for format in Format::ALL {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let write = |set: &AnnotationSet| format.write(set, &target, &WriteOptions::default());
        write(&rich()).unwrap();
        let mut smaller = rich();
        smaller.images.truncate(2);
        write(&smaller).unwrap();
        assert_eq!(format.read(&target, &ReadOptions::default()).unwrap().set.images.len(), 2);
        fs::write(target.join("mine.md"), "keep me").unwrap();
        let refused = write(&rich()).unwrap_err().to_string();
        assert!(refused.contains("`mine.md` was added"), "{refused}");
        fs::remove_file(target.join("mine.md")).unwrap();
        let label = super::text::files_below(&target).unwrap().into_iter().find(|p| !p.ends_with("provenance.json"));
        let label = label.unwrap();
        fs::write(&label, fs::read_to_string(&label).unwrap() + "\n").unwrap();
        let refused = write(&rich()).unwrap_err().to_string();
        assert!(refused.contains("was edited"), "{refused}");
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("a.txt"), "mine").unwrap();
        let refused = format.write(&rich(), &foreign, &WriteOptions::default()).unwrap_err();
        assert!(matches!(refused, FormatError::Occupied { .. }), "{refused}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_single_file_of_another_program_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in [(Format::Coco, "a.json"), (Format::LabelStudio, "b.json"), (Format::Cvat, "c.xml")] {
        let target = dir.path().join(name);
        fs::write(&target, "{\"precious\": 1}").unwrap();
        assert!(matches!(format.write(&rich(), &target, &WriteOptions::default()), Err(FormatError::Occupied { .. })));
        fs::remove_file(&target).unwrap();
        format.write(&rich(), &target, &WriteOptions::default()).unwrap();
        format.write(&rich(), &target, &WriteOptions::default()).unwrap();
    }
}

#[test]
fn writers_repair_what_does_not_fit_and_say_so() {
    let mut set = rich();
    let labels = &mut set.images[0].annotations;
    labels.clear();
    labels.push(Annotation::new("ball valve", BBox::new(-10.0, 0.0, 20.0, 20.0)));
    labels.push(Annotation::new("ball valve", BBox::new(-10.0, 0.0, -5.0, 20.0)));
    labels.push(Annotation::new("ball valve", BBox::new(f64::NAN, 0.0, 5.0, 20.0)));
    labels.push(Annotation::new("unheard of", BBox::new(1.0, 1.0, 5.0, 20.0)));
    set.images[1].image = "../../etc/passwd.png".into();
    for format in Format::ALL {
        let (back, written, _) = write_read(format, &set, "out");
        assert_eq!(written.labels_dropped, 2, "{written}");
        assert_eq!(written.change("class").unwrap().example, "unheard of");
        assert_eq!(back.images.iter().filter(|i| i.image == "etc/passwd.png").count(), 1);
        let kept = &back.images.iter().find(|i| i.image == set.images[0].image).unwrap().annotations;
        assert_eq!(kept.len(), 2);
        assert!((kept[0].bbox.x0).abs() < TOLERANCE);
    }
}

/// Values of attributes.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(|b| json!(b)),
        any::<i32>().prop_map(|n| json!(n)),
        (-1e6..1e6).prop_map(|x: f64| json!(x)),
        "[ -~äß⌀]{0,8}".prop_map(|s| json!(s)),
    ]
}

fn any_annotation() -> impl Strategy<Value = Annotation> {
    let numbers = prop::collection::vec(0.0..1.0f64, 4..5);
    let outline = prop::collection::vec(prop::collection::vec([0.0..97.0f64, 0.0..61.0f64], 3..6), 0..3);
    let attributes = prop::collection::btree_map("[a-z]{1,6}[0-9]", any_value(), 0..3);
    let score = prop::option::of(0.0..=1.0f64);
    (0..3usize, numbers, outline, attributes, score, "[ -~é]{0,10}", any::<bool>()).prop_map(
        |(class, v, polygons, attributes, score, source, follows)| {
            let (x, y) = (v[0] * 90.0, v[1] * 55.0);
            let mut bbox = BBox::new(x, y, x + 0.5 + v[2] * (96.0 - x), y + 0.5 + v[3] * (60.0 - y));
            if let Some(bounds) = polygon_bounds(&polygons).filter(|b| follows && b.is_valid()) {
                bbox = bounds;
            }
            let mut a = Annotation::new(["ball valve", "pump <&>", "Größe: 1"][class], bbox);
            a.polygons = polygons;
            a.attributes = attributes;
            a.score = score.map(|s| Score::new(s).unwrap());
            a.provenance = Provenance { labeller: "template".into(), source: Some(source), ..Provenance::default() };
            a
        },
    )
}

fn any_set() -> impl Strategy<Value = AnnotationSet> {
    let name = "([a-cA-C é]{1,2}/){0,2}[a-c][a-cé ]{0,2}\\.(png|jpg)";
    let images = prop::collection::btree_map(name, prop::collection::vec(any_annotation(), 0..4), 0..5);
    images.prop_map(|images| AnnotationSet {
        classes: ["ball valve", "pump <&>", "Größe: 1"].map(|c| class(c, "Things", [1, 2, 3])).into(),
        images: images
            .into_iter()
            .map(|(image, annotations)| ImageAnnotations {
                image,
                digest: String::new(),
                width: 97,
                height: 61,
                split: None,
                annotations,
            })
            .collect(),
        skipped: Vec::new(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_set_comes_back(set in any_set()) {
        for format in Format::ALL {
            let (back, _, read) = write_read(format, &set, "out");
            assert_same(&carried(format, &set), &back);
            prop_assert!(read.is_lossless(), "{}", read);
        }
    }

    #[test]
    fn what_is_read_lies_inside(boxes in prop::collection::vec([-50.0..150.0f64, -50.0..150.0, -50.0..150.0, -50.0..150.0], 0..8)) {
        let rows: Vec<Value> = boxes.iter().map(|b| json!({"id": 1, "image_id": 1, "category_id": 1, "bbox": b})).collect();
        let text = json!({"images": [{"id": 1, "file_name": "a.png", "width": 97, "height": 61}], "annotations": rows,
            "categories": [{"id": 1, "name": "valve"}]});
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, text.to_string()).unwrap();
        let back = Format::Coco.read(&path, &ReadOptions::default()).unwrap();
        prop_assert_eq!(back.set.box_count() + back.account.labels_dropped, boxes.len());
        for a in &back.set.images[0].annotations {
            prop_assert!(a.bbox.is_valid() && a.bbox.x0 >= 0.0 && a.bbox.y0 >= 0.0 && a.bbox.x1 <= 97.0 && a.bbox.y1 <= 61.0);
        }
    }
}

#[test]
fn an_empty_set_comes_back() {
    for format in Format::ALL {
        let (back, written, read) = write_read(format, &AnnotationSet::default(), "out");
        assert_eq!(back, AnnotationSet::default());
        assert!(written.is_lossless() && read.is_lossless());
    }
}

#[test]
fn aliases_rename_classes() {
    let dir = tempfile::tempdir().unwrap();
    let aliases = BTreeMap::from([("ball valve".to_owned(), "valve".to_owned())]);
    for format in Format::ALL {
        let target = dir.path().join(format.name());
        format.write(&rich(), &target, &WriteOptions::default()).unwrap();
        let options = ReadOptions { aliases: aliases.clone(), ..ReadOptions::default() };
        let back = format.read(Path::new(&target), &options).unwrap().set;
        assert_eq!(back.classes[1].name, "valve");
        assert!(back.class_index("ball valve").is_none());
        assert_eq!(back.images.iter().flat_map(|i| &i.annotations).filter(|a| a.class == "valve").count(), 3);
    }
}
