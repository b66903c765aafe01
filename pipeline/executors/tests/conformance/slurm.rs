//! The suite against Slurm: `tests/servers/slurm start DIR`, then `PIPELINE_TEST_SLURM=DIR`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

mod suite;

use std::path::Path;

use executors::{
    cluster::{Cluster, ClusterError, Resources, TaskState},
    slurm::{Slurm, SlurmSettings},
};
use suite::{Bench, Server};

struct OneNode;

fn settings(place: &str) -> SlurmSettings {
    SlurmSettings {
        config: Some(format!("{place}/slurm.conf")),
        folder: format!("{place}/shared folder"),
        memory_mib: 10,
        ..SlurmSettings::default()
    }
}

impl Server for OneNode {
    const VARIABLE: &'static str = "PIPELINE_TEST_SLURM";
    const REMEMBERS: bool = true;

    fn connect(place: &str, binary: &Path) -> Box<dyn Cluster> {
        Box::new(Slurm::new(settings(place), binary))
    }

    fn narrow() -> Resources {
        Resources { gpus: 1.0, ..Resources::default() }
    }

    fn wide() -> Resources {
        Resources { cores: 1, ..Resources::default() }
    }

    fn stop(place: &str) {
        suite::server("slurm", &["stop-controller", place]);
    }

    fn start(place: &str) {
        suite::server("slurm", &["start-controller", place]);
    }
}

conformance!(OneNode);
conformance!(OneNode, a_new_client_finds_the_batch_again);

/// The server has no accounting, so `sacct` fails there.
#[test]
fn sacct_is_not_needed() {
    let Some(bench) = Bench::new::<OneNode>() else { return };
    let sacct = std::process::Command::new("sacct").env("SLURM_CONF", format!("{}/slurm.conf", bench.place)).output();
    assert!(!sacct.unwrap().status.success(), "the server has accounting, so this shows nothing");
    bench.cluster.submit(&bench.batch([0], "exit 3", OneNode::wide())).unwrap();
    let states = bench.wait_for_end(1);
    assert_eq!(states[&0], TaskState::Failed { exit: Some(3), why: "FAILED".into() });
}

#[test]
fn gpus_are_given_out() {
    let Some(bench) = Bench::new::<OneNode>() else { return };
    let needs = Resources { gpus: 2.0, ..Resources::default() };
    bench.cluster.submit(&bench.batch([0], "echo gpus=$CUDA_VISIBLE_DEVICES", needs)).unwrap();
    bench.wait_for_end(1);
    assert!(bench.log(0, 0).contains("gpus=0,1"), "{}", bench.log(0, 0));
}

#[test]
fn a_time_limit_and_a_prefix_reach_the_job() {
    let Some(bench) = Bench::new::<OneNode>() else { return };
    let settings = SlurmSettings { container: Some("env INSIDE='a b'".into()), ..settings(&bench.place) };
    let cluster = Slurm::new(settings, &bench.binary());
    let time_limit = Some(std::time::Duration::from_secs(3600));
    let script = r#"echo "inside=$INSIDE"; scontrol show job "$SLURM_JOB_ID""#;
    let batch = bench.batch([150], script, Resources { time_limit, ..OneNode::wide() });
    cluster.submit(&batch).unwrap();
    bench.wait_for_end(1);
    let log = bench.log(150, 0);
    for part in ["inside=a b", "TimeLimit=01:00:00", "Requeue=0"] {
        assert!(log.contains(part), "no {part} in {log}");
    }
}

#[test]
fn impossible_wishes_are_refused_at_once() {
    let Some(bench) = Bench::new::<OneNode>() else { return };
    let refused = |settings: SlurmSettings, needs: Resources| {
        let result = Slurm::new(settings, &bench.binary()).submit(&bench.batch([0], "true", needs));
        assert!(matches!(result, Err(ClusterError::Refused { .. })), "{result:?}");
    };
    let good = settings(&bench.place);
    refused(SlurmSettings { partition: Some("nope".into()), ..good.clone() }, OneNode::wide());
    refused(SlurmSettings { constraint: Some("h100".into()), ..good.clone() }, OneNode::wide());
    refused(SlurmSettings { options: vec!["--nonsense".into()], ..good.clone() }, OneNode::wide());
    refused(good, Resources { memory_bytes: 1 << 50, ..OneNode::wide() });
}

/// The same commands through ssh, as from a laptop: the program, the script and the output all travel.
#[test]
fn a_login_node_will_do() {
    let Some(bench) = Bench::new::<OneNode>() else { return };
    if !Path::new("/usr/sbin/sshd").exists() {
        eprintln!("SKIPPED: no sshd; `tests/servers/sshd install` installs it");
        return;
    }
    let login = tempfile::tempdir().unwrap();
    let login = login.path().to_str().unwrap();
    suite::server("sshd", &["start", login, "32022"]);
    let settings = SlurmSettings {
        login: Some("box".into()),
        ssh_options: ["-F", &format!("{login}/ssh_config")].map(str::to_owned).into(),
        // In the server's own home.
        folder: "~/.cache/pipeline".into(),
        ..settings(&bench.place)
    };
    let cluster = Slurm::new(settings, &bench.binary());
    let mut batch = bench.batch([0, 1], r#"printf '%s\n' "$@""#, OneNode::wide());
    batch.arguments.push("it's \"{task}\" $HOME".into());
    let result = cluster.submit(&batch);
    if result.is_ok() {
        bench.wait_for_end(2);
    }
    let log = cluster.log(bench.name(), 1, 0);
    suite::server("sshd", &["stop", login]);
    result.unwrap();
    assert_eq!(String::from_utf8(log.unwrap()).unwrap(), "it's \"1\" $HOME\n");
    assert!(matches!(cluster.states(bench.name()), Err(ClusterError::Unreachable { .. })));
}
