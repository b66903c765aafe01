//! The suite against a stand-in for Kubernetes, on loopback within the test: no real cluster has been tried.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

mod stand_in;
mod suite;

use std::{fs, path::Path, sync::OnceLock};

use executors::{
    cluster::{Cluster, ClusterError, Resources, TaskState},
    kubernetes::{Kubernetes, KubernetesSettings},
};
use stand_in::StandIn;
use suite::{Bench, Server};

struct Pretended;

static SERVER: OnceLock<StandIn> = OnceLock::new();

fn stand_in() -> &'static StandIn {
    SERVER.get_or_init(|| {
        let server = StandIn::start();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u, namespace: ns}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
            server.port()
        );
        fs::write(server.folder().join("kubeconfig"), config).unwrap();
        server
    })
}

fn settings(place: &str, binary: &Path) -> KubernetesSettings {
    KubernetesSettings {
        kubeconfig: Some(place.into()),
        image: "stand-in".into(),
        program: binary.to_str().unwrap().into(),
        ..KubernetesSettings::default()
    }
}

impl Server for Pretended {
    const VARIABLE: &'static str = "";
    const REMEMBERS: bool = true;

    fn place() -> Option<String> {
        Some(stand_in().folder().join("kubeconfig").to_str().unwrap().into())
    }

    fn connect(place: &str, binary: &Path) -> Box<dyn Cluster> {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(binary, fs::Permissions::from_mode(0o755)).unwrap();
        Box::new(Kubernetes::new(settings(place, binary)).unwrap())
    }

    fn narrow() -> Resources {
        Resources { gpus: 1.0, ..Resources::default() }
    }

    fn wide() -> Resources {
        Resources { cores: 1, ..Resources::default() }
    }

    fn stop(_place: &str) {
        stand_in().silence();
    }

    fn start(_place: &str) {
        stand_in().listen();
    }
}

conformance!(Pretended);
conformance!(Pretended, a_new_client_finds_the_batch_again);

#[test]
fn it_says_what_it_was_tested_against() {
    let Some(bench) = Bench::new::<Pretended>() else { return };
    assert!(bench.cluster.describe().contains("stand-in"));
}

#[test]
fn numbers_with_gaps_become_indexes_and_back() {
    let Some(bench) = Bench::new::<Pretended>() else { return };
    let mut batch = bench.batch([2, 3, 4, 9, 1000, 1001], "echo $1 >>'{marks}/runs'", Pretended::wide());
    batch.arguments.push("{task}".into());
    bench.cluster.submit(&batch).unwrap();
    let states = bench.wait_for_end(6);
    assert_eq!(states.into_keys().collect::<Vec<_>>(), batch.tasks);
    let mut runs: Vec<u32> = suite::lines(&bench.mark("runs")).iter().map(|l| l.parse().unwrap()).collect();
    runs.sort_unstable();
    assert_eq!(runs, batch.tasks);
}

#[test]
fn what_the_server_forbids_is_refused() {
    let Some(bench) = Bench::new::<Pretended>() else { return };
    let settings =
        KubernetesSettings { namespace: Some("forbidden".into()), ..settings(&bench.place, &bench.binary()) };
    let result = Kubernetes::new(settings).unwrap().submit(&bench.batch([0], "true", Pretended::wide()));
    assert!(matches!(result, Err(ClusterError::Refused { .. })), "{result:?}");
    assert_eq!(bench.states().get(&0), None::<&TaskState>);
}
