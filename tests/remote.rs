//! Stages on other machines, by the real program: workers are processes of this machine, and a folder is the store that
//! both ends reach.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use support::{Project, YAML, outputs, planned};

const FAR: &str = "executors:\n  far: { kind: process, store: shared, at_once: 2, gpus: 1, shard_items: 2 }\n";

/// A project whose labelling and training go elsewhere.
fn project(sheets: u64) -> Project {
    let project = Project::new(sheets);
    let yaml = YAML
        .replace("label: { scale: { base: 1 } }", "label: { scale: { base: 1 }, executor: far }")
        .replace("    epochs: 2\n", "    epochs: 2\n    gpu: true\n");
    project.write("pipeline.yaml", (yaml + FAR).as_bytes());
    project
}

fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
}

#[test]
fn labels_and_weights_made_elsewhere_are_the_same_bytes() {
    let here = Project::new(5);
    here.ok(&["run", "--until", "train"]);
    let p = project(5);
    let plan = p.ok(&["plan", "--until", "train", "--json"]).json();
    assert_eq!(planned(&plan, "label")["executor"], "far");
    assert_eq!(planned(&plan, "train")["executor"], "far", "it needs a GPU, and there is none here");
    assert_eq!(planned(&plan, "review")["executor"], "local");
    assert!(!p.path("shared").exists(), "a plan opens nothing");
    p.ok(&["plan", "--until", "train"]).says(&["on `far`: it needs a GPU, and none was proven on this machine"]);
    p.ok(&["run", "--until", "train"]);
    let (a, b) = (here.record(), p.record());
    assert_eq!(outputs(&a, &["label", "train"]), outputs(&b, &["label", "train"]));
    assert_eq!(b["stages"]["label"]["executor"], "far");
    assert!(b["stages"]["label"]["notes"]["metrics"]["gpu_seconds"].as_f64().unwrap() > 0.0);
    let messages = b["stages"]["label"]["notes"]["messages"].to_string();
    assert!(messages.contains("3 shards on"), "{messages}");
    // One more drawing costs one.
    p.add_sheets(5..6);
    p.ok(&["run", "--until", "label"]);
    assert_eq!(files(&p.path("shared/done")), 3 + 1 + 1);
}

#[test]
fn a_killed_run_is_taken_up_while_its_workers_go_on() {
    let p = project(6);
    let mut killed = p.start(&["run", "--until", "label"]);
    let begun = Instant::now();
    // As soon as something was submitted.
    while files(&p.path("runs/.store/processes")) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was submitted");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    p.ok(&["run", "--until", "label"]);
    let here = Project::new(6);
    here.ok(&["run", "--until", "label"]);
    assert_eq!(outputs(&here.record(), &["label"]), outputs(&p.record(), &["label"]));
    let attempts = fs::read_dir(p.path("shared/attempts")).unwrap().flatten().next().unwrap().path();
    for shard in fs::read_dir(attempts).unwrap().flatten() {
        assert_eq!(fs::read_dir(shard.path()).unwrap().count(), 1, "{} was begun once", shard.path().display());
    }
}

#[test]
fn a_worker_that_cannot_work_says_why_here() {
    let p = project(3);
    p.write("shared", b"a file, no folder");
    p.call(&["run", "--until", "label"]).exits(1).says(&["executors.store", "no store"]);
}

#[test]
fn a_shard_is_worked_on_by_anybody_who_reaches_the_store() {
    let p = project(3);
    p.ok(&["run", "--until", "label"]);
    let jobs = p.path("shared/jobs");
    let job = fs::read_dir(&jobs).unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
    let store = p.path("shared");
    let shard = |shard: &str| {
        ["stage", "exec", "--spec", store.to_str().unwrap(), "--job", &job, "--generation", "0", "--batch", "by-hand"]
            .into_iter()
            .chain(["--shard", shard])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let call = |args: Vec<String>| p.call(&args.iter().map(String::as_str).collect::<Vec<_>>());
    call(shard("0")).exits(0).says(&["there was a result already"]);
    fs::remove_file(store.join("done").join(&job).join("0000-000000.json")).unwrap();
    call(shard("0")).exits(0).says(&["the result is in the store"]);
    call(shard("9")).exits(1);
    p.call(&["stage", "exec"]).exits(2);
}
