//! The program killed and stopped at many instants, and run twice at once: finished work is kept, and what comes out is
//! equal, byte for byte, to what an uninterrupted run gives.

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
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Done, Project, outputs, statuses};

/// Stages whose outputs have to be equal. Setup is left out: it describes the machine.
const COMPARED: [&str; 4] = ["label", "review", "train", "infer"];
/// Times the program is killed: first within labelling, then anywhere.
const KILLS: [usize; 2] = [10, 14];

/// The logs of finished items.
fn item_logs(p: &Project) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(p.path("runs/.store/items")) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// Whole records at the head of an item log: `len:u32le key:[32] tag:u8 payload:[len] check:[8]` after a line of 17
/// bytes.
fn whole_records(path: &std::path::Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap_or_default();
    let mut rest = bytes.get(17..).unwrap_or_default();
    let mut records = Vec::new();
    while let Some(head) = rest.first_chunk::<4>() {
        let len = 45 + u32::from_le_bytes(*head) as usize;
        let Some((record, after)) = rest.split_at_checked(len) else { break };
        records.push(record.to_vec());
        rest = after;
    }
    records
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Waits until `done`, for half a minute at most.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_instant_it_goes_on_and_ends_the_same() {
    const SHEETS: u64 = 8;
    // More epochs and larger pictures, so that there are more places to be killed in.
    const RUN: [&str; 6] = ["run", "--quiet", "--set", "train.epochs=6", "--set", "train.imgsz=128"];
    let whole = Project::new(SHEETS);
    let started = Instant::now();
    whole.ok(&RUN);
    let took = started.elapsed();
    let expected = outputs(&whole.record(), &COMPARED);

    let p = Project::new(SHEETS);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut killed, mut told) = (0, false);
    let mut kept: Vec<(PathBuf, Vec<Vec<u8>>)> = Vec::new();
    let mut statuses_seen = Vec::new();
    for attempt in 0..KILLS[0] + KILLS[1] {
        let most =
            if attempt < KILLS[0] { Duration::from_millis(150) } else { (took / 5).max(Duration::from_millis(300)) };
        let wait = Duration::from_micros(rng.random_range(1000..most.as_micros() as u64));
        let mut child = p.start(&RUN);
        thread::sleep(wait);
        if let Some(status) = child.try_wait().unwrap() {
            // It came to its end all the same: compare, and begin anew.
            assert!(status.success(), "{status}");
            assert_eq!(outputs(&p.record(), &COMPARED), expected, "after {killed} kills");
            fs::remove_dir_all(p.path("runs")).unwrap();
            kept.clear();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        // Every item that was whole before is still there, where it was.
        let now: Vec<(PathBuf, Vec<Vec<u8>>)> =
            item_logs(&p).into_iter().map(|f| (f.clone(), whole_records(&f))).collect();
        for (file, records) in &kept {
            let after = &now.iter().find(|(f, _)| f == file).unwrap_or_else(|| panic!("{} is gone", file.display())).1;
            assert!(after.starts_with(records), "kill {killed}: finished items of {} changed", file.display());
        }
        kept = now;
        if let Ok(bytes) = fs::read(p.path("runs/latest/run.json")) {
            // The record is whole at every instant.
            let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            if record["status"] == "running" && !told {
                // Nobody takes a killed run for one that is going on.
                p.ok(&["status"]).says(&["killed"]);
                told = true;
            }
            statuses_seen.push(statuses(&record));
        }
    }
    p.ok(&RUN);
    assert_eq!(outputs(&p.record(), &COMPARED), expected, "after {killed} kills");
    // No finished item was computed a second time: each key is in its log once.
    for file in item_logs(&p) {
        let mut keys: Vec<Vec<u8>> = whole_records(&file).iter().map(|r| r[4..36].to_vec()).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "{} has an item twice", file.display());
        assert_eq!(all as u64, SHEETS);
    }
    let in_stage = |stage: &str| statuses_seen.iter().filter(|s| s[stage] == "running").count();
    println!(
        "{killed} kills: {} in label, {} in train; a whole run takes {took:.1?}",
        in_stage("label"),
        in_stage("train")
    );
    assert!(told, "no kill hit a run whose record was there");
    assert!(killed >= 12, "only {killed} kills hit; the run is too short for this test");
    assert!(in_stage("train") >= 1, "no kill hit the training");
}

#[test]
fn signals_stop_it_with_their_own_exit_code_and_it_goes_on() {
    let p = Project::new(2);
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let args = ["run", "--set", "train.epochs=200"];
        let child = p.start(&args);
        wait_for("training", || {
            let record = fs::read(p.path("runs/latest/run.json")).ok();
            let record = record.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
            record.is_some_and(|r| r["stages"]["train"]["status"] == "running" && r["pid"] == child.id())
        });
        thread::sleep(Duration::from_millis(300));
        signal(&child, name);
        let asked = Instant::now();
        Done::wait(&args, child).exits(code).says(&["stopping; finished work is kept"]);
        assert!(asked.elapsed() < Duration::from_secs(10), "it took {:.1?} to stop", asked.elapsed());
        let record = p.record();
        assert_eq!(
            (record["status"].as_str(), record["stages"]["train"]["status"].as_str()),
            (Some("cancelled"), Some("cancelled"))
        );
    }
    // It is told that the training was interrupted, and a shorter one is done from the same labels.
    p.ok(&["plan", "--set", "train.epochs=200"]).says(&["it was interrupted before it finished"]);
    p.ok(&["run", "--until", "train"]);
    assert_eq!(statuses(&p.record())["label"], "cached");
}

#[test]
fn a_signal_at_the_very_start_is_no_failure_either() {
    let p = Project::new(3);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut stopped = 0;
    for _ in 0..30 {
        let mut child = p.start(&["run", "--until", "ontology", "--force", "ontology"]);
        thread::sleep(Duration::from_micros(rng.random_range(1000..40_000)));
        if child.try_wait().unwrap().is_none() {
            signal(&child, "TERM");
        }
        let output = child.wait_with_output().unwrap();
        // No code: the signal came before the program listened. 0: it came too late.
        let code = output.status.code();
        assert!(matches!(code, None | Some(0 | 143)), "{code:?}: {}", String::from_utf8_lossy(&output.stderr));
        stopped += usize::from(code == Some(143));
    }
    println!("{stopped} of 30 signals stopped a run");
    p.ok(&["run", "--until", "ontology"]);
}

#[test]
fn two_runs_at_once_wait_for_each_other() {
    let p = Project::new(2);
    let args = ["run", "--until", "review"];
    let first = p.start(&args);
    let second = p.start(&args);
    let (first, second) = (Done::wait(&args, first).exits(0), Done::wait(&args, second).exits(0));
    let waited = [&first, &second].into_iter().filter(|d| d.err.contains("waiting for process")).count();
    assert!(waited <= 1, "{}\n{}", first.err, second.err);
    // Whoever came second found everything done.
    let ids: Vec<serde_json::Value> = p.ok(&["runs", "list", "--json"]).json().as_array().unwrap().clone();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|r| r["status"] == "done"));
    let id = ids[1]["id"].as_str().unwrap();
    let record = p.ok(&["runs", "show", id, "--json"]).json();
    assert!(
        ["ontology", "label", "review"].iter().all(|s| statuses(&record)[*s] == "cached"),
        "{:?}",
        statuses(&record)
    );
}
