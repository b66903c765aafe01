//! A cluster under Slurm: one node with two pretend GPUs, and no accounting.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    sync::MutexGuard,
    thread,
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    far::{Far, SLOW, Sheets, parent, script, server, signal, wait_for},
    support::mount,
};

pub const VARIABLE: &str = "PIPELINE_TEST_SLURM";

/// Two shards of four slow sheets; each takes a GPU.
pub fn executor(place: &str) -> String {
    format!(
        "kind: slurm, config: \"{place}/slurm.conf\", folder: \"{place}/shared folder\", gpus: 1, shard_items: 4, \
         part_seconds: 0.2"
    )
}

/// One of Slurm's own commands.
fn call(place: &str, words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).env("SLURM_CONF", format!("{place}/slurm.conf")).output().unwrap()
}

/// [`server`], with all of its daemons at work and nothing in its queue, whatever a test that failed has left.
fn cluster() -> Option<(String, MutexGuard<'static, ()>)> {
    let (place, turn) = server(VARIABLE)?;
    script("slurm", &["start-controller", &place]);
    call(&place, &["scancel", "--quiet", "--user=root"]);
    script("slurm", &["start-node", &place]);
    Some((place, turn))
}

/// Batches that the controller has not ended yet, with their states.
fn queue(place: &str) -> Vec<String> {
    let out = call(place, &["squeue", "-h", "-o", "%j %T"]).stdout;
    let lines = String::from_utf8(out).unwrap();
    lines.lines().filter(|l| l.starts_with("pl-")).map(str::to_owned).collect()
}

#[test]
fn labels_and_weights_made_there_are_the_same_bytes() {
    let Some((place, _turn)) = cluster() else { return };
    assert!(!call(&place, &["sacct"]).status.success(), "with accounting, nothing here shows that it is not needed");
    let far = Far::new(Sheets::Sample, &executor(&place));
    far.ends_well();
    assert_eq!(far.nothing_twice(), 0);
}

#[test]
fn a_worker_killed_in_mid_shard() {
    let Some((place, _turn)) = cluster() else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let run = far.start();
    signal("KILL", &far.freeze());
    run.ends_well(&far);
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
}

/// The node's daemons die, its workers do not: both attempts at each shard end well.
#[test]
fn a_lost_node_whose_orphans_go_on() {
    let Some((place, _turn)) = cluster() else { return };
    // An attempt that leaves no parts does not look whether it is still wanted, either. GPUs of a lost node stay taken in
    // this Slurm until its controller is restarted.
    let without = executor(&place).replace("part_seconds: 0.2", "part_seconds: 3600").replace("gpus: 1", "gpus: 0");
    let far = Far::new(Sheets::Slow, &without);
    let run = far.start();
    let orphans = far.stop_begun(2);
    let parents: Vec<u32> = orphans.iter().filter_map(|&o| parent(o)).collect();
    let node: u32 = fs::read_to_string(format!("{place}/slurmd.pid")).unwrap().trim().parse().unwrap();
    signal("KILL", &[node]);
    // The system hangs up on processes that are stopped while their parent dies.
    signal("CONT", &orphans);
    signal("KILL", &parents);
    wait_for("the end of the parents", || orphans.iter().all(|&o| parent(o).is_none_or(|p| !parents.contains(&p))));
    signal("STOP", &orphans);
    assert_eq!(far.workers().len(), 2, "the workers were done before they could be stopped");
    wait_for("the loss of the node", || {
        String::from_utf8(call(&place, &["sinfo", "-h", "-o", "%T"]).stdout).unwrap().starts_with("down")
    });
    script("slurm", &["start-node", &place]);
    wait_for("second attempts", || far.begun() == 4);
    // Both pairs work side by side now.
    signal("CONT", &orphans);
    run.ends_well(&far);
    wait_for("the end of the orphans", || far.workers().is_empty());
    far.is_equal();
    for shard in far.told() {
        assert_eq!((shard.attempts.len(), shard.computed), (2, shard.items), "{shard:?}");
    }
    // One word of each of the four workers.
    let told = far.told();
    let batches: BTreeSet<String> =
        told.iter().flat_map(|s| &s.attempts).map(|a| a.split('-').take(4).collect::<Vec<_>>().join("-")).collect();
    let log =
        |batch: &String, task| fs::read_to_string(format!("{place}/shared folder/log/{batch}/{task}.log")).unwrap();
    let said: String = batches.iter().flat_map(|b| [log(b, 0), log(b, 1)]).collect();
    assert_eq!(said.matches("the result is in the store").count(), 2, "{said}");
    assert_eq!(said.matches("another attempt was first, with the same result").count(), 2, "{said}");
}

#[test]
fn a_controller_that_is_away_for_a_while() {
    let Some((place, _turn)) = cluster() else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let run = far.start();
    let workers = far.freeze();
    script("slurm", &["stop-controller", &place]);
    wait_for("a word about it", || run.said().contains("trying again"));
    signal("CONT", &workers);
    script("slurm", &["start-controller", &place]);
    run.ends_well(&far);
    for shard in far.told() {
        assert_eq!(shard.attempts.len(), 1, "{shard:?}");
    }
}

/// It lost its state folder: no job is known any more, whatever runs.
#[test]
fn a_controller_that_has_forgotten_everything() {
    let Some((place, _turn)) = cluster() else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let run = far.start();
    far.freeze();
    script("slurm", &["stop-controller", &place]);
    script("slurm", &["forget", &place]);
    script("slurm", &["start-controller", &place]);
    run.ends_well(&far);
    wait_for("the end of the workers", || far.workers().is_empty());
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
}

#[test]
fn stopped_while_everything_waits() {
    let Some((place, _turn)) = cluster() else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let others =
        ["sbatch", "--parsable", "--gres=gpu:2", "--mem=1M", "--chdir=/", "--output=/dev/null", "--wrap=sleep 600"];
    let out = call(&place, &others).stdout;
    let others = String::from_utf8(out).unwrap().trim().to_owned();
    let run = far.start();
    wait_for("a batch that waits", || queue(&place).iter().any(|l| l.ends_with("PENDING")));
    run.signal("INT");
    run.wait().exits(130);
    assert_eq!(queue(&place), Vec::<String>::new());
    assert_eq!(far.begun(), 0);
    call(&place, &["scancel", &others]);
    far.ends_well();
    for shard in far.told() {
        assert_eq!(shard.attempts.len(), 1, "{shard:?}");
    }
}

/// As on two machines of one team.
#[test]
fn two_programs_submit_the_same_work_at_once() {
    let Some((place, _turn)) = cluster() else { return };
    let first = Far::new(Sheets::Slow, &executor(&place));
    let second = Far::at(Sheets::Slow, &executor(&place), first.store.clone(), Vec::new());
    let runs = [first.start(), second.start()];
    for (run, far) in runs.into_iter().zip([&first, &second]) {
        run.ends_well(far);
    }
    for shard in first.told() {
        assert_eq!(shard.attempts.len(), 1, "{shard:?}");
    }
}

#[test]
fn the_submitting_program_killed_again_and_again() {
    let Some((place, _turn)) = cluster() else { return };
    let far = Far::new(Sheets::Slow, &executor(&place));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..8 {
        let mut run = far.start();
        thread::sleep(Duration::from_millis(rng.random_range(50..1500)));
        run.signal("KILL");
        run.child.wait().unwrap();
    }
    far.ends_well();
    let told = far.told();
    assert_eq!(told.iter().map(|s| s.items).sum::<u64>(), SLOW);
    for shard in told {
        assert_eq!((shard.attempts.len(), shard.computed), (1, shard.items), "{shard:?}");
    }
}

#[test]
fn a_worker_whose_clock_is_wrong() {
    let Some((place, _turn)) = cluster() else { return };
    if Command::new("faketime").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no `faketime`");
        return;
    }
    for wrong in ["-400d", "+400d"] {
        // The monotonic clock is right on such machines, too.
        let clock =
            format!("{}, container: \"env FAKETIME_DONT_FAKE_MONOTONIC=1 faketime -f {wrong}\"", executor(&place));
        let far = Far::new(Sheets::Slow, &clock);
        let run = far.start();
        // The next attempt has to find out what came before.
        let workers = far.freeze();
        for worker in &workers {
            let loaded = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
            assert!(loaded.contains("libfaketime"), "the clock of worker {worker} is right");
        }
        signal("KILL", &workers);
        run.ends_well(&far);
        assert!(far.nothing_twice() > 0, "nothing was left to be kept");
    }
}

#[test]
fn a_worker_whose_disk_is_full() {
    let Some((place, _turn)) = cluster() else { return };
    let disk = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(disk.path(), "size=8m") else { return };
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![0; (8 << 20) - (100 << 10)]).unwrap();
    let small = format!("{}, retries: 0, container: \"env TMPDIR={}\"", executor(&place), disk.path().display());
    let far = Far::new(Sheets::Slow, &small);
    far.start().wait().exits(1).says(&["No space left on device"]);
    fs::remove_file(filler).unwrap();
    far.ends_well();
    far.nothing_twice();
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0, "workers leave nothing behind");
}
