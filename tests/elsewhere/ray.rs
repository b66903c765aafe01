//! A Ray cluster, with one pretend GPU; within its network.

use std::fs;

use crate::far::{Far, Sheets, script, server, wait_for};

const VARIABLE: &str = "PIPELINE_TEST_RAY";

fn executor(place: &str) -> String {
    let address = fs::read_to_string(format!("{place}/address")).unwrap();
    format!("kind: ray, address: \"{}\", gpus: 1, shard_items: 4, part_seconds: 0.2", address.trim())
}

#[test]
fn labels_and_weights_made_there_are_the_same_bytes() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Sample, &executor(&place));
    far.ends_well();
    assert_eq!(far.nothing_twice(), 0);
}

/// Every job is unknown afterwards.
#[test]
fn a_head_that_is_started_anew_has_forgotten_everything() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let run = far.start();
    far.freeze();
    script("ray", &["stop", &place]);
    let venv = fs::read_to_string(format!("{place}/venv")).unwrap();
    script("ray", &["start", &place, venv.trim()]);
    run.ends_well(&far);
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
}

/// Ray lets a job wait on that was stopped before it began, and begins it.
#[test]
fn stopped_while_tasks_wait() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    // One GPU: the second shard waits for the first, which is stopped there.
    let run = far.start();
    let frozen = far.freeze();
    run.signal("INT");
    run.wait().exits(130);
    let (begun, done) = (far.begun(), far.paths("done").len());
    wait_for("the end of the worker", || far.workers().iter().all(|w| !frozen.contains(w)));
    far.ends_well();
    let told = far.told();
    let attempts: usize = told.iter().map(|s| s.attempts.len()).sum();
    assert_eq!(attempts, begun + told.len() - done, "what was stopped did nothing more: {told:?}");
    far.nothing_twice();
}
