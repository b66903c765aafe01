//! From one machine to another: labels in every format and whole bundles, everything checked on arrival.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use support::{Done, Project, outputs, planned, statuses};

/// Image -> class and box of every label of the newest run, in order of place.
fn boxes(p: &Project) -> BTreeMap<String, Vec<(String, [f64; 4])>> {
    let text = fs::read_to_string(p.path("runs/latest/label/annotations/annotations.jsonl")).unwrap();
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let image: Value = serde_json::from_str(line).unwrap();
        let mut list: Vec<(String, [f64; 4])> = Vec::new();
        for a in image["annotations"].as_array().unwrap() {
            list.push((a["class"].as_str().unwrap().to_owned(), [0, 1, 2, 3].map(|i| a["bbox"][i].as_f64().unwrap())));
        }
        list.sort_by(|a, b| (a.1[1].round(), a.1[0].round()).partial_cmp(&(b.1[1].round(), b.1[0].round())).unwrap());
        out.insert(image["image"].as_str().unwrap().to_owned(), list);
    }
    out
}

#[test]
fn labels_travel_in_every_format_and_the_review_goes_on_from_them() {
    let here = Project::new(2);
    here.ok(&["run", "--until", "review"]);
    let wanted = boxes(&here);
    assert!(wanted.values().map(Vec::len).sum::<usize>() >= 6);
    for (format, out) in [
        ("coco", "labels.json"),
        ("yolo", "yolo labels"),
        ("voc", "voc"),
        ("cvat", "labels.xml"),
        ("label-studio", "tasks.json"),
        ("labelme", "labelme"),
    ] {
        here.ok(&["export", "labels", "--format", format, "--out", out]);
        let there = Project::new(2);
        let from = here.path(out);
        there.ok(&["import", from.to_str().unwrap(), "--format", format]).says(&["--from review"]);
        there.ok(&["run", "--from", "review", "--until", "review"]);
        assert_eq!(statuses(&there.record())["label"], "reused", "{format}");
        there.ok(&["run", "--until", "label"]);
        let got = boxes(&there);
        assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{format}");
        for (image, list) in &wanted {
            let same = list.iter().all(|(class, bbox)| {
                got[image].iter().any(|(c, b)| c == class && b.iter().zip(bbox).all(|(x, y)| (x - y).abs() <= 1.0))
            });
            assert!(same && list.len() == got[image].len(), "{format}, {image}: {list:?}\n{:?}", got[image]);
        }
    }
}

#[test]
fn training_and_inference_go_on_from_imported_labels() {
    let here = Project::new(2);
    here.ok(&["run", "--until", "label"]);
    here.ok(&["export", "labels", "--out", "labels.json"]);
    let there = Project::new(2);
    there.ok(&["import", here.path("labels.json").to_str().unwrap()]);
    let record = there.ok(&["run", "--from", "review", "--json"]).json();
    for stage in ["review", "train", "infer"] {
        assert_eq!(statuses(&record)[stage], "done");
    }
    assert!(there.path("runs/latest/infer/predictions/predictions.json").is_file());
    // What the detector is and what it found leave the project too.
    there.ok(&["export", "model", "--out", "best.safetensors"]);
    let weights = fs::read(there.path("best.safetensors")).unwrap();
    assert_eq!(weights, fs::read(there.path("runs/latest/train/model/best.safetensors")).unwrap());
    there.ok(&["export", "predictions", "--format", "coco", "--out", "found.json"]);
    assert!(
        serde_json::from_slice::<Value>(&fs::read(there.path("found.json")).unwrap()).unwrap()["annotations"]
            .is_array()
    );
}

#[test]
fn label_files_that_are_wrong_are_named_with_line_and_reason() {
    let p = Project::new(1);
    p.write("labels/classes.txt", b"ball valve\nglobe valve\n");
    p.write(
        "labels/labels/sheet_0000.txt",
        b"0 0.5 0.5 0.1 0.1\n1 0.5 high 0.1 0.1\n9 0.2 0.2 0.1 0.1\n0 1.9 0.5 0.1 0.1\n",
    );
    let done = p.call(&["import", "labels", "--format", "yolo"]);
    let said = format!("{}{}", done.out, done.err);
    assert!(said.contains("sheet_0000.txt"), "{said}");
    assert!(said.contains("high") || said.contains(":2") || said.contains("line 2"), "{said}");
    p.call(&["import", "nowhere.json"]).exits(2).says(&["there is no `nowhere.json`"]);
    p.write("words.json", b"words");
    p.call(&["import", "words.json", "--format", "coco"]).exits(2).says(&["words.json"]);
    // The one good label is there now; a file of which nothing can be used takes its place never.
    let imported = p.path("datasets/labels/imported.json");
    let before = fs::read(&imported).unwrap();
    p.write("labels/labels/sheet_0000.txt", b"9 0.2 0.2 0.1 0.1\n");
    p.call(&["import", "labels", "--format", "yolo"]).exits(2).says(&["nothing was imported"]);
    assert_eq!(fs::read(&imported).unwrap(), before);
    p.write("labels/classes.txt", b"ball valve\nglobe valv\n");
    p.write("labels/labels/sheet_0000.txt", b"0 0.2 0.2 0.1 0.1\n1 0.5 0.5 0.1 0.1\n");
    let said = ["replaces 1 label of 1 image", "lost 1 x class", "the nearest is `globe valve`"];
    p.call(&["import", "labels", "--format", "yolo"]).says(&said);
}

/// Calls the program in any folder.
fn call_in(dir: &Path, p: &Project, args: &[&str]) -> Done {
    Done::new(args, p.command(args).current_dir(dir).output().unwrap())
}

#[test]
fn a_bundle_carries_the_work_over_and_a_damaged_one_is_refused() {
    let here = Project::new(2);
    here.ok(&["run", "--until", "label"]);
    let made = here.record();
    here.ok(&["export", "--until", "label", "--out", "work.bundle"]).says(&["label", "pipeline import"]);
    let bundle = here.path("work.bundle");
    // Each time an empty folder, which becomes the project.
    let import = |file: &Path| {
        let far = tempfile::tempdir().unwrap();
        (call_in(far.path(), &here, &["import", file.to_str().unwrap()]), far)
    };
    let (done, far) = import(&bundle);
    done.exits(0).says(&["label", "next: pipeline run"]);
    let plan = call_in(far.path(), &here, &["plan", "--json"]).exits(0).json();
    assert_eq!(planned(&plan, "label")["verdict"], "cached", "{plan}");
    let record = call_in(far.path(), &here, &["run", "--until", "review", "--json"]).exits(0).json();
    assert_eq!(statuses(&record)["label"], "cached");
    assert_eq!(statuses(&record)["review"], "done");
    assert_eq!(outputs(&record, &["label"]), outputs(&made, &["label"]));

    // Any byte that changed on the way is found, and nothing is taken from the bundle.
    let whole = fs::read(&bundle).unwrap();
    for at in [whole.len() / 3, whole.len() / 2, whole.len() * 2 / 3] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let bad = here.path("bad.bundle");
        fs::write(&bad, &bytes).unwrap();
        let (done, far) = import(&bad);
        if done.code == Some(0) {
            // The byte is of the padding between two files, which carries nothing.
            let plan = call_in(far.path(), &here, &["plan", "--json"]).exits(0).json();
            assert_eq!(planned(&plan, "label")["verdict"], "cached");
            continue;
        }
        assert!(!far.path().join("pipeline.yaml").exists(), "nothing is taken from a damaged bundle");
        assert!(done.code == Some(1) || done.code == Some(2), "{:?} {}", done.code, done.err);
    }
    // One that was cut.
    let cut = here.path("cut.bundle");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let (done, far) = import(&cut);
    assert!(matches!(done.code, Some(1 | 2)), "{}", done.err);
    assert!(!far.path().join("pipeline.yaml").exists());
}
