//! The suite against an ssh server: `tests/servers/sshd start DIR`, then `PIPELINE_TEST_SSH=DIR`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

mod suite;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use executors::{
    cluster::{Cluster, ClusterError, Resources, TaskState},
    ssh::{Ssh, SshSettings},
};
use suite::{Bench, Server, lines};

struct Machine;

fn settings(place: &str) -> SshSettings {
    SshSettings {
        host: "box".into(),
        options: ["-F", &format!("{place}/ssh_config")].map(str::to_owned).into(),
        folder: format!("{place}/shared folder"),
        tasks: Some(4),
        ..SshSettings::default()
    }
}

impl Server for Machine {
    const VARIABLE: &'static str = "PIPELINE_TEST_SSH";
    const REMEMBERS: bool = true;
    const STATES_FROM_SERVER: bool = false;

    fn connect(place: &str, binary: &Path) -> Box<dyn Cluster> {
        Box::new(Ssh::new(settings(place), binary).unwrap())
    }

    fn narrow() -> Resources {
        Resources { gpus: 1.0, ..Resources::default() }
    }

    fn wide() -> Resources {
        Resources::default()
    }

    fn stop(place: &str) {
        suite::server("sshd", &["stop", place]);
    }

    fn start(place: &str) {
        suite::server("sshd", &["start", place]);
    }
}

conformance!(Machine);

const ALIVE: &str = "while :; do echo x >>'{marks}/alive'; sleep 0.1; done";

/// Waits until a file grows no more.
fn wait_for_silence(bench: &Bench) {
    let start = Instant::now();
    loop {
        let before = lines(&bench.mark("alive")).len();
        thread::sleep(Duration::from_secs(1));
        if lines(&bench.mark("alive")).len() == before {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it runs on");
    }
}

/// Ids of the `ssh` processes whose command line holds this text.
fn clients(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter(|p| {
            let line = fs::read(p.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.starts_with("ssh\0") && line.contains(text)
        })
        .map(|p| p.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_killed_client_leaves_nothing_behind() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    bench.cluster.submit(&bench.batch([0], ALIVE, Machine::wide())).unwrap();
    bench.wait_for_file("alive");
    let clients = clients(bench.folder.path().to_str().unwrap());
    assert_eq!(clients.len(), 1);
    assert!(Command::new("kill").arg("-KILL").args(&clients).status().unwrap().success());
    wait_for_silence(&bench);
    let states = bench.wait_for_end(1);
    assert_eq!(states[&0], TaskState::Failed { exit: None, why: "CONNECTION".into() });
}

#[test]
fn a_dropped_client_leaves_nothing_behind() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    let cluster = Machine::connect(&bench.place, &bench.binary());
    cluster.submit(&bench.batch([0], ALIVE, Machine::wide())).unwrap();
    bench.wait_for_file("alive");
    drop(cluster);
    wait_for_silence(&bench);
    assert!(clients(bench.folder.path().to_str().unwrap()).is_empty());
}

/// A client that is stopped looks like a network that carries nothing.
#[test]
fn a_silent_client_loses_its_lease() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    let cluster = Ssh::new(SshSettings { lease_s: 1, ..settings(&bench.place) }, &bench.binary()).unwrap();
    cluster.submit(&bench.batch([0], ALIVE, Machine::wide())).unwrap();
    bench.wait_for_file("alive");
    let clients = clients(bench.folder.path().to_str().unwrap());
    let signal = |name: &str| assert!(Command::new("kill").arg(name).args(&clients).status().unwrap().success());
    signal("-STOP");
    wait_for_silence(&bench);
    signal("-CONT");
}

#[test]
fn each_task_has_a_gpu_of_its_own_and_full_ones_are_left_alone() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    let gpus = Path::new(&bench.place).join("bin/gpus");
    let script = "echo $CUDA_VISIBLE_DEVICES >>'{marks}/gpus'; while ! [ -e '{marks}/go' ]; do sleep 0.1; done";
    bench.cluster.submit(&bench.batch(0..3, script, Machine::narrow())).unwrap();
    bench.wait("two run", |s| s.values().filter(|s| matches!(s, TaskState::Running { .. })).count() == 2);
    let start = Instant::now();
    while lines(&bench.mark("gpus")).len() < 2 && start.elapsed() < Duration::from_secs(100) {
        thread::sleep(Duration::from_millis(50));
    }
    let mut used = lines(&bench.mark("gpus"));
    used.sort();
    assert_eq!(used, ["0", "1"]);
    // Somebody fills the first one: the third task goes to the other.
    let before = fs::read_to_string(&gpus).unwrap();
    fs::write(&gpus, "0, 100, 24576\n1, 24000, 24576\n").unwrap();
    fs::write(bench.mark("go"), "").unwrap();
    bench.wait_for_end(3);
    fs::write(&gpus, before).unwrap();
    assert_eq!(lines(&bench.mark("gpus"))[2], "1");
}

#[test]
fn a_task_ends_when_its_time_is_over() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    let needs = Resources { time_limit: Some(Duration::from_secs(1)), ..Machine::wide() };
    bench.cluster.submit(&bench.batch([0], "exec sleep 100", needs)).unwrap();
    assert_eq!(bench.wait_for_end(1)[&0], TaskState::Failed { exit: None, why: "TIMEOUT".into() });
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let Some(bench) = Bench::new::<Machine>() else { return };
    let options = ["-F", &format!("{}/ssh_config", bench.place), "-o", "User=nobody-there"].map(str::to_owned).into();
    let result = Ssh::new(SshSettings { options, ..settings(&bench.place) }, &bench.binary())
        .unwrap()
        .submit(&bench.batch([0], "true", Machine::wide()));
    assert!(matches!(result, Err(ClusterError::Refused { .. })), "{result:?}");
}
