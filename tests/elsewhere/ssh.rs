//! A machine behind ssh.

use crate::far::{Far, Sheets, processes, server, signal, wait_for};

const VARIABLE: &str = "PIPELINE_TEST_SSH";

fn executor(place: &str) -> String {
    format!(
        "kind: ssh, host: box, options: [-F, \"{place}/ssh_config\"], folder: \"{place}/work\", gpus: 1, shard_items: 4, \
         part_seconds: 0.2"
    )
}

/// A shard that takes much longer than its first part, so that its worker is met at work.
fn long_shards(place: &str) -> String {
    executor(place).replace("shard_items: 4", "shard_items: 24")
}

#[test]
fn labels_and_weights_made_there_are_the_same_bytes() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Sample, &executor(&place));
    far.ends_well();
    assert_eq!(far.nothing_twice(), 0);
}

#[test]
fn a_killed_client_takes_its_worker_with_it_and_the_work_goes_on() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Slow, &long_shards(&place));
    let run = far.start();
    wait_for("a part", || far.paths("attempts").iter().any(|p| p.contains("/part-")));
    let workers = far.workers();
    let is_client = |words: &[String]| words[0] == "ssh" && words.iter().any(|w| w.contains(&far.store));
    let clients: Vec<u32> = processes().into_iter().filter(|(_, w)| is_client(w)).map(|(pid, _)| pid).collect();
    assert!(!clients.is_empty() && !workers.is_empty(), "{clients:?} {workers:?}");
    signal("KILL", &clients);
    wait_for("the end of the worker", || far.workers().iter().all(|w| !workers.contains(w)));
    run.ends_well(&far);
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
}

#[test]
fn a_killed_run_leaves_no_worker_and_the_next_goes_on() {
    let Some((place, _turn)) = server(VARIABLE) else { return };
    let far = Far::new(Sheets::Slow, &long_shards(&place));
    let mut run = far.start();
    wait_for("a part", || far.paths("attempts").iter().any(|p| p.contains("/part-")));
    run.signal("KILL");
    run.child.wait().unwrap();
    wait_for("the end of the workers", || far.workers().is_empty());
    far.ends_well();
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
}
