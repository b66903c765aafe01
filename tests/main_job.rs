//! The main job in small: from drawings and templates to a trained detector and what it finds, with every way to look
//! at it, to run a part of it, and to run it again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;

use serde_json::Value;
use support::{Done, Project, outputs, planned, statuses};

const STAGES: [&str; 6] = ["setup", "ontology", "label", "review", "train", "infer"];

fn why(plan: &Value, stage: &str) -> String {
    let list = planned(plan, stage)["why"].as_array().unwrap();
    list.iter().map(|w| w.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// No part of the page comes from elsewhere.
fn assert_self_contained(html: &str) {
    for from_elsewhere in ["src=\"http", "href=\"http", "src='http", "url(http", "@import", "<script src", "<link"] {
        assert!(!html.contains(from_elsewhere), "the report loads something: {from_elsewhere}");
    }
    assert!(html.contains("<html") && html.contains("</html>"));
}

#[test]
fn from_drawings_to_a_detector_step_by_step() {
    let p = Project::new(3);

    // Before anything ran.
    let plan = p.ok(&["plan", "--json"]).json();
    assert_eq!(planned(&plan, "label")["verdict"], "will_run");
    assert_eq!(why(&plan, "setup"), "it has not run yet");
    assert!(!p.path("runs/latest").exists(), "a plan is no run");
    p.call(&["status"]).exits(2).says(&["nothing has run yet"]);
    p.ok(&["run", "--dry-run"]).says(&["will run", "it has not run yet"]);
    assert!(!p.path("runs/latest").exists(), "--dry-run runs nothing");
    p.call(&["run", "--from", "train"]).exits(2).says(&["has no result to start from"]);

    // As far as the labels.
    p.ok(&["run", "--until", "label"]).says(&["run", "done", "report/index.html"]);
    let until = statuses(&p.record());
    assert_eq!((until["label"].as_str(), until["review"].as_str()), ("done", "excluded"));
    let labels = p.labels();
    assert_eq!(labels.keys().cloned().collect::<Vec<_>>(), ["sheet_0000.png", "sheet_0001.png", "sheet_0002.png"]);
    assert!(labels.values().all(|&n| n > 0), "{labels:?}");
    assert_self_contained(&fs::read_to_string(p.path("runs/latest/report/index.html")).unwrap());

    // Everything; what is there is not made again. Exactly one JSON document comes, and nothing else on stdout.
    let first = p.ok(&["run", "--json"]).json();
    assert_eq!(first, p.record());
    assert_eq!(first["status"], "done");
    assert_eq!(statuses(&first)["label"], "cached");
    for stage in ["review", "train", "infer"] {
        assert_eq!(statuses(&first)[stage], "done", "{stage}");
    }
    for file in ["train/model/best.safetensors", "train/model/last.safetensors", "infer/predictions/predictions.csv"] {
        assert!(p.path("runs/latest").join(file).metadata().is_ok_and(|m| m.len() > 0), "{file}");
    }
    let coco: Value =
        serde_json::from_slice(&fs::read(p.path("runs/latest/infer/predictions/predictions.json")).unwrap()).unwrap();
    assert_eq!(coco["images"].as_array().unwrap().len(), 3);
    assert!(coco["annotations"].as_array().unwrap().iter().all(|a| a["score"].is_f64()));
    let html = fs::read_to_string(p.path("runs/latest/report/index.html")).unwrap();
    assert_self_contained(&html);
    assert!(html.contains("ball valve") && html.contains("data:image"), "the report shows classes and pictures");
    for line in fs::read_to_string(p.path("runs/latest/events.jsonl")).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["at"].is_string() && event["event"].is_string());
    }

    // Again: nothing runs, and the results are the same.
    let second = p.ok(&["run", "--json", "--quiet"]).json();
    assert!(statuses(&second).values().all(|s| s == "cached"), "{:?}", statuses(&second));
    assert_eq!(outputs(&second, &STAGES), outputs(&first, &STAGES));
    let plan = p.ok(&["plan", "--json"]).json();
    assert!(STAGES.iter().all(|s| planned(&plan, s)["verdict"] == "cached"));

    // A setting that changed is named with both values, for the stage it belongs to and none before it.
    let plan = p.ok(&["plan", "--json", "--set", "infer.conf=0.02"]).json();
    assert_eq!(planned(&plan, "train")["verdict"], "cached");
    assert_eq!(why(&plan, "infer"), "setting `conf` went from 0.01 to 0.02");
    p.ok(&["plan", "--set", "train.epochs=3"]).says(&["setting `epochs` went from 2 to 3"]);
    p.ok(&["run", "--set", "infer.conf=0.02"]);
    assert_eq!(statuses(&p.record())["train"], "cached");
    let other = p.record()["id"].as_str().unwrap().to_owned();

    // Going back is free.
    assert!(statuses(&p.ok(&["run", "--json"]).json()).values().all(|s| s == "cached"));

    // Runs, one by one and side by side.
    let first_id = first["id"].as_str().unwrap();
    p.ok(&["runs", "list"]).says(&[first_id, &other, "done"]);
    assert_eq!(
        p.ok(&["runs", "list", "--json"]).json().as_array().unwrap().len(),
        6,
        "the one that could not start counts too"
    );
    p.ok(&["runs", "show", first_id]).says(&["train", "device", "infer"]);
    assert_eq!(p.ok(&["runs", "show", first_id, "--json"]).json(), first);
    let compared = p.ok(&["runs", "compare", first_id, &other, "--json"]).json();
    let differing: Vec<&str> =
        compared["differing"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(differing.contains(&"infer.conf") && !differing.contains(&"train.epochs"), "{differing:?}");
    p.ok(&["runs", "compare", first_id, &other]).says(&["infer.conf", "0.01", "0.02"]);
    p.ok(&["status"]).says(&["newest run", "done"]);
    assert!(p.ok(&["status", "--json"]).json().is_object());
    p.call(&["runs", "show", "nonsense"]).exits(2).says(&["there is no run `nonsense`"]);

    // Parts of it.
    p.ok(&["run", "--force", "infer"]);
    let record = p.record();
    assert_eq!((statuses(&record)["train"].as_str(), statuses(&record)["infer"].as_str()), ("cached", "done"));
    assert_eq!(outputs(&record, &["infer"])["infer.predictions"], outputs(&first, &["infer"])["infer.predictions"]);
    p.ok(&["run", "--only", "review", "--force", "review"]);
    assert_eq!(statuses(&p.record())["review"], "done");
    assert_eq!(statuses(&p.record())["train"], "excluded");
    assert_eq!(statuses(&p.record())["label"], "reused");
    p.ok(&["run", "--from", "review", "--until", "review"]);
    p.call(&["run", "--from", "train", "--until", "label"]).exits(2).says(&["leave no stage to run"]);
    p.call(&["run", "--until", "tarin"]).exits(2).says(&["there is no stage `tarin`"]);

    // Nothing that is needed goes when old runs are removed.
    p.ok(&["runs", "gc", "--keep", "1"]).says(&["add --yes"]);
    p.ok(&["runs", "gc", "--keep", "1", "--yes"]).says(&["freed"]);
    assert!(statuses(&p.ok(&["run", "--json"]).json()).values().all(|s| s == "cached"));
}

#[test]
fn new_drawings_cost_their_own_labels_only() {
    let p = Project::new(2);
    p.ok(&["run", "--until", "label"]);
    let before = p.labels();
    p.add_sheets(2..5);
    let plan = p.ok(&["plan", "--until", "label", "--json"]).json();
    assert_eq!(planned(&plan, "label")["items"], serde_json::json!({ "all": 5, "todo": 3 }));
    assert!(why(&plan, "label").contains("3 added (sheet_0002.png … sheet_0004.png)"), "{}", why(&plan, "label"));
    p.ok(&["plan", "--until", "label"]).says(&["3 of 5 images to do", "3 added"]);
    p.ok(&["run", "--until", "label"]);
    let done = p.events("progress").into_iter().filter(|e| e["stage"] == "label");
    assert_eq!(done.map(|e| e["total"].as_u64().unwrap()).max(), Some(3));
    let after = p.labels();
    assert_eq!(after.len(), 5);
    assert!(before.iter().all(|(image, n)| after[image] == *n));
    // One that is removed costs nothing.
    fs::remove_file(p.path("drawings/sheet_0001.png")).unwrap();
    let plan = p.ok(&["plan", "--until", "label", "--json"]).json();
    assert_eq!(planned(&plan, "label")["items"], serde_json::json!({ "all": 4, "todo": 0 }));
    // Changed templates concern every drawing.
    fs::remove_file(p.path("templates/globe_valve.png")).unwrap();
    let plan = p.ok(&["plan", "--until", "label", "--json"]).json();
    assert!(why(&plan, "ontology").contains("1 removed (globe_valve.png)"), "{}", why(&plan, "ontology"));
}

#[test]
fn the_gate_waits_for_a_person_and_for_these_labels() {
    let p = Project::new(2);
    p.write("pipeline.yaml", support::YAML.replace("gate: auto", "gate: approve").as_bytes());
    p.call(&["run", "--until", "train"]).exits(3).says(&["waits for a person", "review apply"]);
    let record = p.record();
    assert_eq!((statuses(&record)["review"].as_str(), statuses(&record)["train"].as_str()), ("waiting", "blocked"));
    let page = p.ok(&["review", "report"]).out;
    assert_self_contained(&fs::read_to_string(page.trim()).unwrap());
    p.call(&["run", "--until", "train"]).exits(3);

    // What the report's folder offers, and a box that is not wanted.
    let mut decisions: Value =
        serde_json::from_slice(&fs::read(p.path("runs/latest/report/DECISIONS.json")).unwrap()).unwrap();
    assert_eq!(decisions["approve"], true);
    decisions["reviewer"] = "Ann".into();
    decisions["boxes"] = serde_json::json!([
        { "decision": "add", "image": "sheet_0000.png", "class": "ball valve", "bbox": [5, 5, 45, 40] },
    ]);
    p.write("mine.json", decisions.to_string().as_bytes());
    p.ok(&["review", "apply", "mine.json"]).says(&["1 added", "approved by Ann"]);
    p.ok(&["run", "--until", "train"]);
    let text = fs::read_to_string(p.path("runs/latest/review/annotations/annotations.jsonl")).unwrap();
    let reviewed: usize = text.lines().map(|l| l.matches("\"class\"").count()).sum();
    assert_eq!(reviewed, p.labels().values().sum::<usize>() + 1);

    // Approval is for the labels that were looked at, not for those that come later.
    p.add_sheets(2..3);
    p.call(&["run", "--until", "train"]).exits(3);
    decisions["approve"] = "perhaps".into();
    p.write("mine.json", decisions.to_string().as_bytes());
    p.call(&["review", "apply", "mine.json"]).exits(2).says(&["mine.json", "nothing was applied"]);

    // What cannot be used is refused and not kept.
    let kept = || fs::read_dir(p.path("reviews")).unwrap().count();
    let before = kept();
    decisions["approve"] = true.into();
    p.write("mine.json", decisions.to_string().as_bytes());
    p.call(&["review", "apply", "mine.json"]).exits(2).says(&["other labels than the newest"]);
    decisions["approve"] = false.into();
    decisions["boxes"] =
        serde_json::json!([{ "decision": "reject", "image": "sheet_0000.png", "box": "000000000000" }]);
    p.write("mine.json", decisions.to_string().as_bytes());
    p.call(&["review", "apply", "mine.json"]).exits(2).says(&["nothing in `mine.json` can be used"]);
    assert_eq!(kept(), before);
}

#[test]
fn init_makes_a_project_that_says_what_it_lacks() {
    let p = Project::without_sheets();
    p.ok(&["init", "a new one"]).says(&["datasets/drawings", "pipeline run"]);
    let inside = |args: &[&str]| Done::new(args, p.command(args).current_dir(p.path("a new one")).output().unwrap());
    // Empty folders are an error that names the folder; a data set of nothing is never made.
    inside(&["run"]).exits(2).says(&["input `templates`", "ontologies/templates"]);
    assert!(!p.path("a new one/runs/latest/label").exists());
    p.call(&["init", "a new one"]).exits(2).says(&["there is a project"]);
    p.call(&["init", "pipeline.yaml"]).exits(2).says(&["no folder"]);
    assert_eq!(p.ok(&["--json", "init", "another"]).json()["project"], "another");
    let template = support::templates().remove(0);
    p.write(&format!("a new one/ontologies/templates/{}", template.0), &template.1);
    inside(&["run"]).exits(2).says(&["input `images`", "datasets/drawings"]);
    // With drawings and templates in place it works from any folder below.
    for (file, bytes) in support::templates() {
        p.write(&format!("a new one/ontologies/templates/{file}"), &bytes);
    }
    p.write("a new one/datasets/drawings/one.png", &support::sheet(0));
    let below = p.path("a new one/datasets");
    let args = ["run", "--until", "label", "--json", "--set", "label.scale.base=1"];
    let done = Done::new(&args, p.command(&args).current_dir(below).output().unwrap()).exits(0);
    assert_eq!(statuses(&done.json())["label"], "done");
    assert!(p.path("a new one/runs/latest/label").exists());
}

#[test]
fn settings_come_from_the_file_the_profile_the_environment_and_the_command_line() {
    let p = Project::new(1);
    let yaml = format!("{}profiles:\n  fine:\n    stages:\n      label: {{ nms_iou: 0.2 }}\n", support::YAML);
    p.write("pipeline.yaml", yaml.as_bytes());
    let nms = |args: &[&str], env: Option<&str>| {
        let args: Vec<&str> = [&["run", "--until", "label", "--json"], args].concat();
        let mut command = p.command(&args);
        if let Some(value) = env {
            command.env("PIPELINE_LABEL__NMS_IOU", value);
        }
        let record = Done::new(&args, command.output().unwrap()).exits(0).json();
        record["stages"]["label"]["config"]["nms_iou"].as_f64().unwrap()
    };
    assert_eq!(nms(&[], None), 0.3);
    assert_eq!(nms(&["--profile", "fine"], None), 0.2);
    assert_eq!(nms(&["--profile", "fine"], Some("0.4")), 0.4);
    assert_eq!(nms(&["--profile", "fine", "--set", "label.nms_iou=0.6"], Some("0.4")), 0.6);
    p.call(&["run", "--profile", "fien"]).exits(2).says(&["there is no profile `fien`", "fine"]);
}
