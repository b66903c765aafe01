//! The commands beside the main job: data sets drawn with truth, single stages without a project, evaluation, what a
//! person decides about labels, work carried out from a bundle, and what the program says about itself.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{CLASSES, Project, statuses};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

#[test]
fn drawn_sheets_are_the_same_for_the_same_seed_and_are_labelled_trained_on_and_measured() {
    let p = Project::without_sheets();
    let classes = CLASSES.join(",");
    let synth = |out: &str, seed: &str| {
        let size = ["--size", "480x420", "--symbols", "5-7", "--classes", &classes];
        p.ok(&[&["synth", "--out", out, "--sheets", "3", "--seed", seed], &size[..]].concat());
    };
    synth("a", "1");
    synth("b", "1");
    synth("c", "2");
    let sheet = |set: &str| fs::read(p.path(set).join("drawings/sheet_0001.png")).unwrap();
    assert_eq!(sheet("a"), sheet("b"));
    assert_ne!(sheet("a"), sheet("c"));
    assert_eq!(json(&p.path("a/truth.json")), json(&p.path("b/truth.json")));
    // The record of a data set draws it again, the whole of it.
    p.ok(&["synth", "--out", "d", "--settings", "a/synth.json"]);
    for file in ["synth.json", "truth.json", "labels/yolo/data.yaml", "labels/yolo/provenance.json"] {
        assert_eq!(fs::read(p.path("d").join(file)).unwrap(), fs::read(p.path("a").join(file)).unwrap(), "{file}");
    }
    assert_eq!(sheet("d"), sheet("a"));
    let small = ["synth", "--out", "a", "--sheets", "1"];
    assert_ne!(p.call(&small).code, Some(0), "nobody's files are overwritten");

    // Labels without a project, measured against the truth.
    p.ok(&["label", "a/drawings", "--templates", "a/templates", "--out", "found"]);
    let args = ["eval", "--pred", "found/annotations.json", "--truth", "a/truth.json"];
    let evaluation = p.ok(&[&args[..], &["--json"]].concat()).json();
    let f1 = &evaluation["operating_point"]["all"]["f1"];
    assert!(f1.as_f64().is_some_and(|f1| f1 >= 0.8), "{evaluation:#}");
    p.ok(&[&args[..], &["--out", "evaluation"]].concat()).says(&["AP"]);
    assert!(p.path("evaluation/index.html").is_file() && p.path("evaluation/eval.json").is_file());
    let swapped = ["eval", "--pred", "a/truth.json", "--truth", "found/annotations.json"];
    p.call(&swapped).exits(2).says(&["is this the truth file?"]);

    // A detector without a project, and what it finds.
    let set = ["--set", "train.imgsz=64", "--set", "train.batch=2", "--set", "train.tile=off"];
    p.ok(&[&["train", "a/drawings", "--labels", "a/truth.json", "--epochs", "1", "--out", "model"], &set[..]].concat());
    assert!(p.path("model/best.safetensors").is_file());
    p.ok(&["infer", "a/drawings", "--model", "model/best.safetensors", "--conf", "0.01", "--out", "seen"]);
    assert!(json(&p.path("seen/predictions.json"))["images"].as_array().unwrap().len() == 3);
    p.call(&["infer", "a/drawings", "--model", "none.safetensors", "--out", "x"]).exits(2).says(&["none.safetensors"]);
    p.call(&["eval", "--pred", "none.json", "--truth", "a/truth.json"]).says(&["none.json"]);
}

#[test]
fn earlier_runs_are_listed_compared_explained_and_cleaned_up() {
    let p = Project::new(2);
    p.call(&["run", "--until", "label", "--jobs", "0"]).exits(2);
    p.ok(&["run", "--until", "review"]);
    let first = p.record()["id"].as_str().unwrap().to_owned();
    assert!(p.path("runs/latest/report/DECISIONS.json").is_file(), "also where the gate is open");
    p.ok(&["run", "--until", "review", "--set", "label.nms_iou=0.2"]);
    let second = p.record()["id"].as_str().unwrap().to_owned();
    p.ok(&["status"]).says(&[&second]);
    // Work on other files leaves the newest run of the project what it is.
    p.ok(&["label", "drawings/sheet_0000.png"]);
    assert_eq!(p.record()["id"], second.as_str());
    p.ok(&["status"]).says(&[&second]);

    let list = p.ok(&["runs", "list", "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!((&list[1]["of_project"], &list[2]["of_project"]), (&true.into(), &false.into()));
    assert_eq!(list[0]["stages"]["label"], "done");
    assert!(list[0]["metrics"]["label.boxes"].as_f64().is_some_and(|n| n > 0.0), "{list:#}");
    p.ok(&["runs", "list"]).says(&["label.boxes", "review.mean_confidence"]);
    let compared = p.ok(&["runs", "compare", &first, &second]).out;
    assert!(compared.contains("label.nms_iou") && !compared.contains(".status") && !compared.contains("gflops"));
    p.ok(&["runs", "provenance", "latest", "sheet_0000.png", "1"]).says(&["template", "blake3"]);

    p.call(&["runs", "gc", "--keep", "0"]).exits(2).says(&["--keep 1"]);
    let plan = p.ok(&["runs", "gc", "--keep", "1", "--json"]).json();
    assert_eq!((&plan["removed"], &plan["freed"]), (&serde_json::json!([first]), &0.into()));
    assert!(
        plan["run_folders_bytes"].as_u64().unwrap() > 0 && plan["bytes"].as_u64() > plan["run_folders_bytes"].as_u64()
    );
    p.ok(&["runs", "gc", "--keep", "1"]).says(&["1 is removed", "run folders", "add --yes"]);
    let done = p.ok(&["runs", "gc", "--keep", "1", "--yes", "--json"]).json();
    assert_eq!(done["freed"], plan["bytes"]);
    assert!(!p.path("runs").join(&first).exists() && p.path("runs/latest/run.json").is_file());
    p.ok(&["runs", "gc"]).says(&["there is nothing to remove"]);
}

#[test]
fn a_data_set_leaves_in_the_layout_that_trainers_read() {
    let p = Project::new(3);
    p.ok(&["run", "--until", "label"]);
    p.ok(&["export", "dataset", "--format", "yolo", "--out", "dataset"]);
    let mut files = Vec::new();
    let mut folders = vec![p.path("dataset")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let count = |end: &str| files.iter().filter(|f| f.to_string_lossy().ends_with(end)).count();
    assert_eq!(count(".png"), 3, "{files:?}");
    assert!(count(".txt") >= 3 && count(".yaml") == 1, "{files:?}");
    p.call(&["export", "model", "--out", "m.safetensors"]).exits(2).says(&["pipeline run --until train"]);
}

#[test]
fn a_model_leaves_as_onnx_finds_the_same_there_and_is_a_start() {
    let p = Project::new(3);
    p.ok(&["run", "--until", "train"]);
    let onnx = ["export", "model", "--format", "onnx"];
    let exported = |more: &[&str]| p.call(&[&onnx[..], more].concat());
    exported(&["--out", "m.onnx"]).exits(0);
    let doc = exported(&["--out", "again.onnx", "--json"]).exits(0).json();
    assert_eq!(doc["input"], serde_json::json!([1, 3, 96, 96]));
    assert!(doc["closeness"]["raw"].as_f64().unwrap() < 1e-4, "{doc}");
    assert!(fs::read(p.path("m.onnx")).unwrap() == fs::read(p.path("again.onnx")).unwrap());
    exported(&["--dynamic", "--head", "nms", "--conf", "0.1", "--out", "nms.onnx"]).exits(0);
    exported(&["--int8", "--calibrate", "drawings", "--out", "small.onnx"]).exits(0);
    let size = |file: &str| fs::metadata(p.path(file)).unwrap().len();
    assert!(size("small.onnx") * 3 < size("m.onnx"));
    exported(&["--int8", "--calibrate", "nowhere", "--out", "x.onnx"]).exits(2).says(&["no folder `nowhere`"]);
    exported(&["--int8", "--out", "x.onnx"]).exits(2).says(&["--calibrate"]);
    exported(&["--imgsz", "100", "--out", "x.onnx"]).exits(2).says(&["multiples of 32"]);
    p.call(&["export", "labels", "--half", "--out", "x.json"]).exits(2).says(&["pipeline export model"]);
    assert!(!p.path("x.onnx").exists());

    p.ok(&["export", "model", "--out", "m.safetensors"]);
    let best = |model: &str| {
        p.ok(&["infer", "drawings", "--model", model, "--conf", "0.001", "--out", "found"]);
        let found = json(&p.path("found/predictions.json"));
        let scores = found["annotations"].as_array().unwrap().iter().filter_map(|a| a["score"].as_f64());
        scores.fold(0.0, f64::max)
    };
    let (a, b) = (best("m.safetensors"), best("m.onnx"));
    assert!(a > 0.0 && (a - b).abs() < 1e-4, "{a} {b}");

    let start = ["run", "--until", "train", "--set", "train.weights=m.onnx", "--set", "train.freeze=10"];
    p.ok(&start).says(&["starts from `m.onnx` (ONNX, yolov8n, 3 classes): 297 tensors loaded", "3 classes kept"]);
    p.ok(&start).says(&["cached"]);
    fs::copy(p.path("nms.onnx"), p.path("m.onnx")).unwrap();
    p.ok(&["plan", "--set", "train.weights=m.onnx", "--set", "train.freeze=10"]).says(&["input `weights`"]);
    p.call(&["plan", "--set", "train.weights=gone.pt"]).says(&["gone.pt"]);
}

#[test]
fn a_bundle_is_worked_on_elsewhere_and_its_results_come_back() {
    let p = Project::new(2);
    p.ok(&["run", "--until", "ontology"]);
    p.ok(&["export", "--until", "label", "--out", "work.bundle"]);
    let far = tempfile::tempdir().unwrap();
    let bundle = p.path("work.bundle");
    let args = ["stage", "exec", "--bundle", bundle.to_str().unwrap(), "--out", "results.bundle"];
    support::Done::new(&args, p.command(&args).current_dir(far.path()).output().unwrap()).exits(0);
    p.ok(&["import", far.path().join("results.bundle").to_str().unwrap()]);
    let record = p.ok(&["run", "--until", "review", "--json"]).json();
    assert_eq!(statuses(&record)["label"], "cached");
}

#[test]
fn the_program_tells_about_itself_and_the_machine() {
    let p = Project::without_sheets();
    let doctor = p.ok(&["doctor", "--json"]).json();
    assert_eq!(doctor["found"]["cpu"]["correct"], true);
    let args = ["doctor"];
    let wrong = p.command(&args).env("PIPELINE_FORCE_CPU", "banana").output().unwrap();
    support::Done::new(&args, wrong).exits(2).says(&["PIPELINE_FORCE_CPU is `banana`"]);
    p.ok(&["doctor"]).says(&["AVX"][..usize::from(cfg!(target_arch = "x86_64"))]);
    let licenses = p.ok(&["licenses", "--json"]).json();
    assert!(licenses["crates"].as_array().unwrap().len() > 50);
    let copyleft = ["GPL", "AGPL", "LGPL"];
    for c in licenses["crates"].as_array().unwrap() {
        let license = c["license"].as_str().unwrap();
        // A choice between licences is as free as its freest.
        let free = license.split(" OR ").any(|l| !copyleft.iter().any(|g| l.contains(g)));
        assert!(free, "{}: {license}", c["name"]);
    }
    p.ok(&["completions", "bash"]).says(&["_pipeline()"]);
    p.ok(&["--version"]).says(&[env!("CARGO_PKG_VERSION")]);
    for command in [
        "init",
        "run",
        "plan",
        "status",
        "runs",
        "export",
        "import",
        "eval",
        "review",
        "label",
        "train",
        "infer",
        "synth",
        "doctor",
        "stage",
        "licenses",
        "completions",
        "bench",
    ] {
        p.ok(&[command, "--help"]).says(&["Usage: pipeline", command]);
    }
}

#[test]
fn the_engine_benchmark_finds_that_nothing_changed_and_labels_ten_new_files() {
    let p = Project::without_sheets();
    let rows = p.ok(&["bench", "engine", "--files", "300", "--json"]).json();
    let row = |i: usize, key: &str| rows[i][key].as_f64().unwrap();
    assert_eq!((row(0, "labelled"), row(0, "stages_cached")), (300.0, 0.0));
    assert_eq!((row(1, "labelled"), row(1, "inferred"), row(1, "stages_cached")), (0.0, 0.0, 6.0));
    assert_eq!(row(2, "labelled"), 10.0);
}

#[test]
fn ten_thousand_unchanged_files_cost_little_time_and_memory() {
    let p = Project::without_sheets();
    let rows = p.ok(&["bench", "engine", "--json"]).json();
    let nothing = &rows[1];
    let (Some(cpu_s), Some(peak_mb)) = (nothing["cpu_s"].as_f64(), nothing["peak_mb"].as_f64()) else {
        eprintln!("SKIPPED: this system does not tell CPU time and memory of processes");
        return;
    };
    println!("10,000 files, 6 stages, nothing changed: {cpu_s:.3} CPU s, {peak_mb:.1} MB");
    assert!(peak_mb <= 40.0, "{peak_mb} MB");
}
