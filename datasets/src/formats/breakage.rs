//! One small test for each way in which label files break.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::*;
use crate::annotation::Score;
use crate::geometry::BBox;
use crate::split::Split;

/// Files in a folder that goes away.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let all = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            all.put(name, text.as_bytes());
        }
        all
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn picture(&self, name: &str, width: u32, height: u32) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::new(width, height).save(path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, format: Format, name: &str) -> Result<Imported, FormatError> {
        format.read(&self.path(name), &ReadOptions::default())
    }
}

fn yolo(labels: &str) -> Files {
    let files = Files::new(&[("data.yaml", "train: images\nnames: [valve, pump]\n"), ("labels/a.txt", labels)]);
    files.picture("images/a.png", 100, 50);
    files
}

const COCO_HEAD: &str = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
"categories": [{"id": 7, "name": "valve"}],
"annotations": [
"#;

fn coco(annotations: &str) -> Files {
    Files::new(&[("a.json", &format!("{COCO_HEAD}{annotations}\n]}}"))])
}

fn voc(object: &str) -> Files {
    let size = "<size><width>100</width><height>50</height></size>";
    Files::new(&[("a.xml", &format!("<annotation>\n<filename>a.png</filename>{size}\n{object}\n</annotation>"))])
}

fn cvat(image: &str, shapes: &str) -> Files {
    Files::new(&[(
        "a.xml",
        &format!("<annotations>\n<image id=\"0\" name=\"a.png\" {image}>\n{shapes}\n</image></annotations>"),
    )])
}

fn labelme(shapes: &str) -> Files {
    let text =
        format!("{{\"imagePath\": \"a.png\", \"imageWidth\": 100, \"imageHeight\": 50, \"shapes\": [\n{shapes}\n]}}");
    Files::new(&[("a.json", &text)])
}

fn label_studio(regions: &str) -> Files {
    let task = format!("[{{\"data\": {{\"image\": \"a.png\"}}, \"annotations\": [{{\"result\": [\n{regions}\n]}}]}}]");
    Files::new(&[("a.json", &task)])
}

/// The only problem: its line and reason.
fn only_problem(imported: &Imported) -> (usize, &str) {
    let problems = &imported.account.problems;
    assert_eq!(problems.len(), 1, "{}", imported.account);
    assert!(!problems[0].fix.is_empty());
    (problems[0].line.unwrap_or(0), &problems[0].reason)
}

fn boxes(imported: &Imported) -> Vec<BBox<crate::Pixels>> {
    imported.set.images.iter().flat_map(|i| &i.annotations).map(|a| a.bbox).collect()
}

#[test]
fn yolo_bad_lines_have_their_number_and_the_rest_goes_on() {
    let files = yolo("\u{feff}0 .5 .5 .2 .4\r\n\r\n1 .5 x .2 .4\r\n5 .5 .5 .2 .4\r\n1 .5 .5 .2\r\n1 .25 .5 .5 1\r\n");
    let got = files.read(Format::Yolo, "").unwrap();
    let lines: Vec<_> = got.account.problems.iter().map(|p| p.line.unwrap()).collect();
    assert_eq!(lines, [3, 4, 5]);
    assert!(got.account.problems.iter().all(|p| p.file == files.path("labels/a.txt")));
    assert_eq!((got.account.labels, got.account.labels_dropped), (2, 3));
    assert_eq!(boxes(&got), [BBox::new(40.0, 15.0, 60.0, 35.0), BBox::new(0.0, 0.0, 50.0, 50.0)]);
    assert!(got.account.to_string().contains("a.txt:4: class 5 is out of range"), "{}", got.account);
}

#[test]
fn yolo_boxes_at_the_edge_are_cut_and_said_so() {
    let got = yolo("0 0 .5 .2 .4\n0 1.5 .5 .2 .4\n0 .1 .5 .2000001 .4").read(Format::Yolo, "").unwrap();
    assert_eq!(got.account.problems.len(), 2, "{}", got.account);
    assert_eq!(got.account.problems[0].effect, Effect::Repaired);
    assert_eq!(got.account.problems[1].effect, Effect::Lost);
    assert_eq!(boxes(&got)[0], BBox::new(0.0, 15.0, 10.0, 35.0));
    assert_eq!(boxes(&got).len(), 2);
}

#[test]
fn yolo_an_outline_that_leaves_the_image_is_cut() {
    let got = yolo("1 .5 .5 1.5 .5 .5 1.5").read(Format::Yolo, "").unwrap();
    let a = &got.set.images[0].annotations[0];
    assert_eq!(a.bbox, BBox::new(50.0, 25.0, 100.0, 50.0));
    assert_eq!(crate::geometry::polygon_bounds(&a.polygons), Some(a.bbox));
}

#[test]
fn yolo_labels_without_image_use_the_sizes_given_or_are_skipped() {
    let files = Files::new(&[
        ("classes.txt", "valve\n\npump\n"),
        ("labels/sub/b.txt", "2 .5 .5 1 1"),
        ("labels/c.txt", "0 .5 .5 1 1"),
    ]);
    let size = |name: &str| (name == "sub/b.JPG").then_some((30, 10));
    let sizes = ImageSizes { lookup: Some(&size), ..ImageSizes::default() };
    let got = Format::Yolo.read(&files.path(""), &ReadOptions { sizes, ..ReadOptions::default() }).unwrap();
    assert_eq!(got.set.images[0].image, "sub/b.JPG");
    assert_eq!(got.set.images[0].annotations[0].class, "pump");
    assert_eq!(boxes(&got), [BBox::new(0.0, 0.0, 30.0, 10.0)]);
    assert_eq!((got.account.images_skipped, got.account.labels_dropped), (1, 1));
    assert_eq!(got.set.skipped[0].image, "c");
}

#[test]
fn yolo_names_may_be_a_list_or_a_map() {
    for names in [
        "[valve, 1.50, no]",
        "\n  - valve\n  - 1.50\n  - no",
        "{0: valve, 1: 1.50, 2: no}",
        "\n  0: valve\n  1: '1.50'\n  2: no",
    ] {
        let files = Files::new(&[(
            "data.yaml",
            &format!("path: ../elsewhere\ntrain: images\nnames: {names}\nkpt_shape: [1, 2]\n"),
        )]);
        files.picture("images/a.png", 10, 10);
        let got = files.read(Format::Yolo, "data.yaml").unwrap();
        let names: Vec<_> = got.set.classes.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["valve", "1.50", "no"]);
        assert_eq!(got.set.images.len(), 1);
    }
}

#[test]
fn yolo_parts_with_the_same_names_stay_apart() {
    let yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [valve]\n";
    let files = Files::new(&[("data.yaml", yaml), ("train/labels/a.txt", "0 .5 .5 1 1")]);
    files.picture("train/images/a.png", 10, 10);
    files.picture("valid/images/a.png", 20, 10);
    let got = files.read(Format::Yolo, "").unwrap();
    let names: Vec<_> = got.set.images.iter().map(|i| (i.image.as_str(), i.annotations.len())).collect();
    assert_eq!(names, [("train/a.png", 1), ("val/a.png", 0)]);
    let parts: Vec<_> = got.set.images.iter().map(|i| i.split).collect();
    assert_eq!(parts, [Some(Split::Train), Some(Split::Val)]);
    assert!(got.account.change("images").unwrap().example.contains("test: ../test/images"));
    assert_eq!(got.files["train/a.png"], files.path("train/images/a.png"));
}

#[test]
fn yolo_a_list_of_images_is_followed() {
    let files = Files::new(&[
        ("data.yaml", "train: train.txt\nval: val.txt\nnames: [valve]\n"),
        ("train.txt", "./images/a b.png\nimages/gone.png\n"),
        ("val.txt", "./images/c.png\n"),
        ("labels/a b.txt", "0 .5 .5 1 1"),
    ]);
    files.picture("images/a b.png", 10, 10);
    files.picture("images/c.png", 10, 10);
    let got = files.read(Format::Yolo, "").unwrap();
    assert_eq!(got.set.images.iter().map(|i| i.image.as_str()).collect::<Vec<_>>(), ["a b.png", "c.png"]);
    assert_eq!(got.set.box_count(), 1);
    assert!(got.account.change("images").unwrap().example.contains("gone.png"));
}

#[test]
fn yolo_without_names_or_with_broken_yaml_is_an_error_with_its_place() {
    let files = Files::new(&[
        ("data.yaml", "train: images\nnames: [valve\nval: x"),
        ("b/data.yaml", "names: 3"),
        ("c/a.txt", ""),
    ]);
    let error = files.read(Format::Yolo, "").unwrap_err();
    assert!(matches!(error, FormatError::Syntax { line: 2..=3, .. }), "{error}");
    assert!(files.read(Format::Yolo, "b").unwrap_err().to_string().contains("neither a list of names nor a map"));
    assert!(files.read(Format::Yolo, "c").unwrap_err().to_string().contains("write the class names"));
}

#[test]
fn yolo_a_zero_byte_image_is_skipped_and_its_labels_counted() {
    let files = yolo("0 .5 .5 1 1");
    files.put("images/a.png", b"");
    let got = files.read(Format::Yolo, "").unwrap();
    assert_eq!((got.set.images.len(), got.account.labels_dropped), (0, 1));
    assert!(only_problem(&got).1.contains("a.png"));
}

#[test]
fn coco_bad_annotations_have_their_line_and_the_rest_goes_on() {
    let files = coco(
        r#"{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]},
{"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, NaN, 3, 4]},
{"id": 3, "image_id": 1, "category_id": 7, "bbox": [1, -Infinity, 3]},
{"id": 4, "image_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4]},
{"id": 5, "image_id": 1, "category_id": 8, "bbox": [1, 2, 3, 4]},
{"id": 6, "image_id": 1,
  "category_id": 7, "bbox": "wide"},
{"id": 7, "image_id": 1, "category_id": 7, "bbox": [1, 2, 0, 4]},
{"id": 8, "image_id": 1, "category_id": 7, "bbox": [1, 2, 1e999, 4]},
{"id": 9, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1.5},
{"id": 10, "image_id": 1, "category_id": 7},
{"id": 11, "image_id": 1, "category_id": 7, "bbox": [5, 6, 7, 8], "name": "NaN \" \\"}"#,
    );
    let got = files.read(Format::Coco, "a.json").unwrap();
    assert_eq!(boxes(&got), [BBox::new(1.0, 2.0, 4.0, 6.0), BBox::new(5.0, 6.0, 12.0, 14.0)]);
    let lines: Vec<_> = got.account.problems.iter().map(|p| p.line.unwrap()).collect();
    assert_eq!(lines, [5, 6, 7, 8, 10, 11, 12, 13, 14], "{}", got.account);
    assert!(got.account.problems[0].reason.contains("[1, no number, 3, 4]"), "{}", got.account);
    assert_eq!(got.set.images[0].annotations[1].attributes["name"], "NaN \" \\");
}

#[test]
fn coco_masks_are_lost_and_named() {
    let mask = r#"{"size": [50, 100], "counts": [5, 3]}"#;
    let text = r#"{"size": [50, 100], "counts": "PYi0"}"#;
    let row = |s: &str| {
        format!(
            r#"{{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1, "area": 3.5, "segmentation": {s}}}"#
        )
    };
    let got = coco(&[row(mask), row(text), row("[[1, 2, 3]]")].join(",\n")).read(Format::Coco, "").unwrap();
    assert_eq!(got.account.change("mask").unwrap().count, 2);
    assert!(only_problem(&got).1.contains("outline"));
    let a = &got.set.images[0].annotations[0];
    assert_eq!((a.attributes["iscrowd"].as_u64(), a.attributes["area"].as_f64()), (Some(1), Some(3.5)));
    assert_eq!(got.account.labels, 3);
}

#[test]
fn coco_an_outline_alone_has_a_box() {
    let got = coco(r#"{"image_id": 1, "category_id": 7, "segmentation": [[1, 2, 30, 2, 30, 40]]}"#);
    assert_eq!(boxes(&got.read(Format::Coco, "").unwrap()), [BBox::new(1.0, 2.0, 30.0, 40.0)]);
}

#[test]
fn coco_truncated_or_empty_or_utf16_is_an_error_with_its_place() {
    let files = Files::new(&[
        ("a.json", &format!("{COCO_HEAD}{{\"image_id\": 1")),
        ("b.json", " \n"),
        ("c.json", "[1, 2]"),
        ("d.json", "\u{feff}{}"),
    ]);
    files.put("e.json", &[0xff, 0xfe, b'{', 0]);
    files.put("f.json", b"{\"a\":\n \"\xff\"}");
    let error = files.read(Format::Coco, "a.json").unwrap_err();
    assert!(matches!(error, FormatError::Syntax { line: 4, .. }), "{error}");
    assert!(error.to_string().contains("cut off"), "{error}");
    assert!(files.read(Format::Coco, "b.json").unwrap_err().to_string().contains("the file is empty"));
    assert!(matches!(files.read(Format::Coco, "c.json"), Err(FormatError::Syntax { .. })));
    assert!(files.read(Format::Coco, "d.json").unwrap_err().to_string().contains("missing field `images`"));
    assert!(files.read(Format::Coco, "e.json").unwrap_err().to_string().contains("UTF-16"));
    let error = files.read(Format::Coco, "f.json").unwrap_err();
    assert!(matches!(error, FormatError::Syntax { line: 2, column: 3, .. }), "{error}");
    assert!(matches!(files.read(Format::Coco, "none.json"), Err(FormatError::Io { .. })));
}

#[test]
fn coco_doubled_names_and_ids_are_entered() {
    let text = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50},
{"id": 2, "file_name": "./a.png", "width": 100, "height": 50},
{"id": 2, "file_name": "b.png", "width": 100, "height": 50},
{"id": "x", "file_name": "C:\\data\\c.png", "width": 100, "height": 50},
{"id": 5, "file_name": "zero.png", "width": 0, "height": 50}],
"categories": [{"id": 7, "name": "valve"}, {"id": 7, "name": "pump"}],
"annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}, {"image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4]},
{"image_id": 2, "category_id": 7, "bbox": [2, 2, 3, 4]}, {"image_id": 5, "category_id": 7, "bbox": [2, 2, 3, 4]}]}"#;
    let got = Files::new(&[("a.json", text)]).read(Format::Coco, "").unwrap();
    assert_eq!(got.set.images.iter().map(|i| i.image.as_str()).collect::<Vec<_>>(), ["a.png", "data/c.png"]);
    assert_eq!((got.account.labels, got.account.labels_dropped, got.account.images_skipped), (2, 2, 2));
    assert_eq!(got.account.change("image name").unwrap().example, "`C:\\data\\c.png` is `data/c.png`");
    assert_eq!(got.set.classes.len(), 1);
}

#[test]
fn coco_results_need_their_truth() {
    let truth = format!("{COCO_HEAD}]}}");
    let results = "[{\"image_id\": 1, \"category_id\": 7, \"bbox\": [-5, 2, 8, 0], \"score\": 0.5},\n{\"image_id\": 1, \"category_id\": 7, \"bbox\": [1, 2, 3, 4]}]";
    let files = Files::new(&[("truth.json", &truth), ("results.json", results)]);
    let options = ReadOptions { bounds: Bounds::Keep, ..ReadOptions::default() };
    let got = read_coco_results(&files.path("results.json"), &files.path("truth.json"), &options).unwrap();
    assert_eq!(boxes(&got), [BBox::new(-5.0, 2.0, 3.0, 2.0)]);
    assert_eq!(only_problem(&got), (2, "the result has no `score`"));
    let whole = read_coco_results(&files.path("truth.json"), &files.path("truth.json"), &options).unwrap();
    assert_eq!(whole.set.images.len(), 1);
}

#[test]
fn voc_bad_objects_have_their_line_and_the_rest_goes_on() {
    let b = |x: &str| format!("<bndbox><xmin>{x}</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>");
    let object =
        |name: &str, x: &str| format!("<object><name> {name}\n</name><difficult>1</difficult>{}</object>", b(x));
    let text = [
        object("valve", "1"),
        object("valve", "one"),
        object("valve", "NaN"),
        object("", "1"),
        object("valve", "50"),
        "<object><name>x</name></object>".into(),
    ];
    let got = voc(&text.join("\n")).read(Format::Voc, "").unwrap();
    // Each name ends in a line break, so that each object but the last takes two lines.
    let lines: Vec<_> = got.account.problems.iter().map(|p| p.line.unwrap()).collect();
    assert_eq!(lines, [5, 7, 9, 11, 13], "{}", got.account);
    assert_eq!(got.account.problems[3].effect, Effect::Repaired);
    assert_eq!(boxes(&got), [BBox::new(1.0, 2.0, 30.0, 40.0), BBox::new(30.0, 2.0, 50.0, 40.0)]);
    assert_eq!(got.set.images[0].annotations[0].attributes["difficult"], true);
}

#[test]
fn voc_one_damaged_file_of_many_is_skipped() {
    let files = voc("");
    files.put("Annotations/none", b"");
    fs::remove_dir_all(files.path("Annotations")).unwrap();
    files.put("b.xml", b"<annotation><filename>b.png</filename>");
    let got = files.read(Format::Voc, "").unwrap();
    assert_eq!((got.set.images.len(), got.account.images_skipped), (1, 1));
    assert!(only_problem(&got).1.contains("is not closed"), "{}", got.account);
    let error = files.read(Format::Voc, "b.xml").unwrap_err();
    assert!(matches!(error, FormatError::Syntax { line: 1, .. }), "{error}");
}

#[test]
fn voc_images_of_one_name_in_two_folders_stay_two() {
    let text = |w| {
        format!(
            "<annotation><folder>x</folder><filename>a.png</filename><size><width>{w}</width><height>5</height></size></annotation>"
        )
    };
    let files = Files::new(&[("Annotations/one/a.xml", &text(10)), ("Annotations/two/a.xml", &text(20))]);
    let got = files.read(Format::Voc, "").unwrap();
    assert_eq!(got.set.images.iter().map(|i| i.image.as_str()).collect::<Vec<_>>(), ["one/a.png", "two/a.png"]);
}

#[test]
fn xml_entities_are_never_expanded() {
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY l \"lol\"><!ENTITY m \"&l;&l;&l;&l;\">]>\n<annotation><filename>&m;</filename></annotation>";
    let file = "<!DOCTYPE a SYSTEM \"file:///etc/passwd\">\n<annotation><filename>&passwd;</filename></annotation>";
    let attribute = "<annotations>\n<image name=\"&m;\"/></annotations>";
    let deep = "<annotation>".repeat(100_000);
    let files = Files::new(&[("a.xml", bomb), ("b.xml", file), ("c.xml", attribute), ("d.xml", &deep)]);
    assert!(files.read(Format::Voc, "a.xml").unwrap_err().to_string().contains("declares entities"));
    let error = files.read(Format::Voc, "b.xml").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("`&passwd;` is not expanded"), "{error}");
    assert!(files.read(Format::Cvat, "c.xml").unwrap_err().to_string().contains("line 2"));
    assert!(files.read(Format::Voc, "d.xml").unwrap_err().to_string().contains("deep"));
}

#[test]
fn xml_that_is_none_is_an_error_with_its_place() {
    for (text, part) in [
        ("<annotations>\n<image></annotations>", "line 2"),
        ("<annotations/>\n<annotations/>", "second root"),
        ("plain text", "text outside"),
        ("<annotations", "line 1"),
        ("", "empty"),
        ("<!-- nothing -->", "no element"),
        ("<dataset/>", "the root element is `<dataset>`"),
    ] {
        let error = Files::new(&[("a.xml", text)]).read(Format::Cvat, "a.xml").unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn xml_may_have_a_byte_order_mark_and_character_references() {
    let text = "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\r\n<!DOCTYPE annotations>\r\n<annotations><image name=\"a&#32;&amp;.png\" width=\"9\" height=\"9\"/></annotations>";
    let got = Files::new(&[("a.xml", text)]).read(Format::Cvat, "").unwrap();
    assert_eq!(got.set.images[0].image, "a &.png");
}

#[test]
fn cvat_bad_shapes_have_their_line_and_the_rest_goes_on() {
    let shapes = r#"<box label="valve" xtl="1" ytl="2" xbr="30" ybr="40" occluded="1" z_order="2"><attribute name="tag">V-01</attribute></box>
<box label="valve" xtl="1" ytl="x" xbr="30" ybr="40"/>
<box label="valve" xtl="1" xbr="30" ybr="40"/>
<polygon label="valve" points="1,1;5,1"/>
<polygon label="valve" points="1,1;5,1;nan,5"/>
<polyline label="pipe" points="1,1;5,1;9,9"/>
<ellipse label="valve" cx="20" cy="20" rx="5" ry="4"/>
<polygon label="valve" points="1,1;5,1;5,9"/>"#;
    let got = cvat("width=\"100\" height=\"50\"", shapes).read(Format::Cvat, "").unwrap();
    assert_eq!(got.account.problems.iter().map(|p| p.line.unwrap()).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    assert_eq!(
        boxes(&got),
        [BBox::new(1.0, 2.0, 30.0, 40.0), BBox::new(15.0, 16.0, 25.0, 24.0), BBox::new(1.0, 1.0, 5.0, 9.0)]
    );
    let a = &got.set.images[0].annotations[0];
    assert_eq!((a.attributes["occluded"].as_bool(), a.attributes["z_order"].as_i64()), (Some(true), Some(2)));
    assert_eq!(a.attributes["tag"], "V-01");
    assert_eq!(got.account.change("ellipse").unwrap().count, 1);
}

#[test]
fn a_score_that_is_none_is_entered_and_the_label_kept() {
    let b = |score: &str| {
        format!(
            "<box label=\"valve\" xtl=\"1\" ytl=\"2\" xbr=\"30\" ybr=\"40\"><attribute name=\"score\">{score}</attribute></box>"
        )
    };
    let got = cvat("width=\"100\" height=\"50\"", &[b("0.50"), b("1.5")].join("\n")).read(Format::Cvat, "").unwrap();
    let scores: Vec<_> = got.set.images[0].annotations.iter().map(|a| a.score.map(Score::get)).collect();
    assert_eq!(scores, [Some(0.5), None]);
    assert_eq!(only_problem(&got), (4, "the score is 1.5"));
}

#[test]
fn cvat_turned_boxes_become_upright_and_say_so() {
    let shapes = r#"<box label="valve" xtl="40" ytl="15" xbr="60" ybr="35" rotation="45"/>"#;
    let got = cvat("width=\"100\" height=\"50\"", shapes).read(Format::Cvat, "").unwrap();
    let half = 10.0 * 2f64.sqrt();
    assert!((boxes(&got)[0].x0 - (50.0 - half)).abs() < 1e-9);
    assert_eq!(got.account.change("rotation").unwrap().effect, Effect::Lost);
}

#[test]
fn cvat_an_image_without_size_is_skipped_unless_the_size_is_known() {
    let files = cvat("width=\"0\" height=\"50\"", r#"<box label="valve" xtl="1" ytl="2" xbr="30" ybr="40"/>"#);
    let got = files.read(Format::Cvat, "").unwrap();
    assert_eq!((got.set.images.len(), got.account.labels_dropped), (0, 1));
    assert!(only_problem(&got).1.contains("the image's size is 0 x 50"));
    let known = BTreeMap::from([("a.png".to_owned(), (100, 50))]);
    let options = ReadOptions { sizes: ImageSizes { known, ..ImageSizes::default() }, ..ReadOptions::default() };
    let got = Format::Cvat.read(&files.path("a.xml"), &options).unwrap();
    assert_eq!((got.account.labels, got.account.change("image size").unwrap().count), (1, 1));
}

#[test]
fn labels_of_a_picture_of_another_size_are_noted() {
    let files = cvat("width=\"50\" height=\"100\"", "");
    let known = BTreeMap::from([("a.png".to_owned(), (100, 50))]);
    let options = ReadOptions { sizes: ImageSizes { known, ..ImageSizes::default() }, ..ReadOptions::default() };
    let got = Format::Cvat.read(&files.path("a.xml"), &options).unwrap();
    assert!(only_problem(&got).1.contains("is 50 x 100 here, but the image is 100 x 50"));
}

#[test]
fn labelme_bad_shapes_have_their_line_and_the_rest_goes_on() {
    let shapes = r#"{"label": "valve", "points": [[30, 40], [1, 2]], "shape_type": "rectangle", "flags": {"sure": true}},
{"label": "valve", "points": [[1, 2]], "shape_type": "rectangle"},
{"label": "valve", "points": [[1, null], [3, 4]], "shape_type": "rectangle"},
{"label": "valve", "points": [[1, 2], [3, 4]], "shape_type": "line"},
{"label": "valve", "points": [[1, 2], [3, 4]]},
{"label": null, "points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
{"label": "valve", "points": [[20, 20], [20, 25]], "shape_type": "circle"}"#;
    let got = labelme(shapes).read(Format::LabelMe, "").unwrap();
    assert_eq!(got.account.problems.iter().map(|p| p.line.unwrap()).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    assert_eq!(boxes(&got), [BBox::new(1.0, 2.0, 30.0, 40.0), BBox::new(15.0, 15.0, 25.0, 25.0)]);
    assert_eq!(got.set.images[0].annotations[0].attributes["sure"], true);
}

#[test]
fn labelme_groups_are_one_object() {
    let part = |x: u32| {
        format!(
            r#"{{"label": "valve", "group_id": 3, "shape_type": "polygon", "points": [[{x}, 2], [{x}, 9], [20, 9]]}}"#
        )
    };
    let got = labelme(&[part(1), part(30)].join(",")).read(Format::LabelMe, "").unwrap();
    assert_eq!(boxes(&got), [BBox::new(1.0, 2.0, 30.0, 9.0)]);
    assert_eq!(got.set.images[0].annotations[0].polygons.len(), 2);
}

#[test]
fn labelme_one_truncated_file_of_many_is_skipped() {
    let files = labelme("");
    files.put("sub/b.json", b"{\"imagePath\": \"b.png\", \"shapes\": [");
    let got = files.read(Format::LabelMe, "").unwrap();
    assert_eq!((got.set.images.len(), got.account.images_skipped), (1, 1));
    assert_eq!(only_problem(&got).0, 1);
    assert!(matches!(files.read(Format::LabelMe, "sub/b.json"), Err(FormatError::Syntax { line: 1, .. })));
}

#[test]
fn label_studio_bad_regions_have_their_line_and_the_rest_goes_on() {
    let size = r#""original_width": 100, "original_height": 50"#;
    let rectangle = |value: &str| format!(r#"{{"type": "rectanglelabels", {size}, "value": {{{value}}}}}"#);
    let good = r#""x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["valve", "other"]"#;
    let regions = [
        rectangle(good),
        rectangle(r#""x": 10, "y": null, "width": 30, "height": 40, "rectanglelabels": ["valve"]"#),
        rectangle(r#""x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": []"#),
        format!(r#"{{"type": "brushlabels", {size}, "value": {{"rle": [1]}}}}"#),
        format!(
            r#"{{"type": "polygonlabels", {size}, "value": {{"points": [[1, 2], [3, 4]], "polygonlabels": ["valve"]}}}}"#
        ),
        rectangle(r#""x": 50, "y": 50, "width": 20, "height": 20, "rotation": 90, "rectanglelabels": ["valve"]"#),
    ];
    let got = label_studio(&regions.join(",\n")).read(Format::LabelStudio, "").unwrap();
    assert_eq!(
        got.account.problems.iter().map(|p| p.line.unwrap()).collect::<Vec<_>>(),
        [3, 5, 6, 4],
        "{}",
        got.account
    );
    assert_eq!(boxes(&got)[0], BBox::new(10.0, 10.0, 40.0, 30.0));
    let turned = boxes(&got)[1];
    for (edge, expected) in <[f64; 4]>::from(turned).into_iter().zip([40.0, 25.0, 50.0, 45.0]) {
        assert!((edge - expected).abs() < 1e-9, "{turned:?}");
    }
    assert_eq!(got.account.change("rotation").unwrap().count, 1);
    assert_eq!(got.account.change("second class").unwrap().count, 1);
}

#[test]
fn label_studio_names_come_out_of_their_addresses() {
    for (address, name) in [
        ("/data/local-files/?d=sub%20folder/%C3%A4.png", "sub folder/ä.png"),
        ("/data/upload/12/0a1b2c3d-my-sheet.png", "my-sheet.png"),
        ("s3://bucket/a/b.png", "a/b.png"),
        ("https://host/a/b%20c.png?token=1", "a/b c.png"),
        ("plain.png", "plain.png"),
        ("/data/local-files/?d=100%.png", "100%.png"),
    ] {
        let text = format!("[{{\"data\": {{\"image\": \"{address}\"}}, \"meta\": {{\"width\": 5, \"height\": 5}}}}]");
        let got = Files::new(&[("a.json", &text)]).read(Format::LabelStudio, "").unwrap();
        assert_eq!(got.set.images[0].image, name);
    }
}

#[test]
fn folders_of_no_format_are_named() {
    let files = Files::new(&[("readme.txt", "hello"), ("b/data.json", "{}")]);
    assert!(matches!(Format::detect(&files.path("")), Err(FormatError::Unrecognised { .. })));
    assert!(matches!(Format::detect(Path::new("/nowhere/at/all")), Err(FormatError::Io { .. })));
}

#[test]
fn foreign_files_are_recognised() {
    for (format, files) in [
        (Format::Yolo, yolo("")),
        (Format::Coco, coco("")),
        (Format::Voc, voc("")),
        (Format::Cvat, cvat("", "")),
        (Format::LabelMe, labelme("")),
        (Format::LabelStudio, label_studio("")),
    ] {
        assert_eq!(Format::detect(&files.path("")).unwrap(), format);
    }
}
