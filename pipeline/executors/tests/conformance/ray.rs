//! The suite against Ray: `tests/servers/ray start DIR VENV`, then within `tests/servers/ray enter DIR` and with
//! `PIPELINE_TEST_RAY=DIR`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it skips and stops where it fails")]

mod suite;

use std::{fs, path::Path};

use executors::{
    cluster::{Cluster, Resources, TaskState},
    ray::{Ray, RaySettings},
};
use suite::{Bench, Server};

struct Head;

fn settings(place: &str) -> RaySettings {
    let address = fs::read_to_string(format!("{place}/address")).unwrap().trim().to_owned();
    RaySettings { address, ..RaySettings::default() }
}

impl Server for Head {
    const VARIABLE: &'static str = "PIPELINE_TEST_RAY";
    const REMEMBERS: bool = false;
    // Each job starts a Python of its own, which takes seconds of computing.
    const WAITED_FOR: usize = 10;

    fn connect(place: &str, binary: &Path) -> Box<dyn Cluster> {
        Box::new(Ray::new(settings(place), binary, |_| None).unwrap())
    }

    fn narrow() -> Resources {
        Resources { gpus: 1.0, ..Resources::default() }
    }

    fn wide() -> Resources {
        Resources::default()
    }

    fn stop(place: &str) {
        suite::server("ray", &["stop", place]);
    }

    fn start(place: &str) {
        let venv = fs::read_to_string(format!("{place}/venv")).unwrap();
        suite::server("ray", &["start", place, venv.trim()]);
    }
}

conformance!(Head);
conformance!(Head, a_new_client_finds_the_batch_again);

#[test]
fn two_halves_share_a_gpu() {
    let Some(bench) = Bench::new::<Head>() else { return };
    let half = Resources { gpus: 0.5, ..Resources::default() };
    let script = "echo gpu=$CUDA_VISIBLE_DEVICES; while ! [ -e '{marks}/go' ]; do sleep 0.1; done";
    bench.cluster.submit(&bench.batch([0, 1], script, half)).unwrap();
    bench.wait("both run", |s| s.values().filter(|s| matches!(s, TaskState::Running { .. })).count() == 2);
    fs::write(bench.mark("go"), "").unwrap();
    bench.wait_for_end(2);
    for task in [0, 1] {
        assert!(bench.log(task, 0).contains("gpu=0"), "{}", bench.log(task, 0));
    }
}

#[test]
fn a_task_ends_when_its_time_is_over() {
    let Some(bench) = Bench::new::<Head>() else { return };
    let needs = Resources { time_limit: Some(std::time::Duration::from_secs(1)), ..Head::wide() };
    bench.cluster.submit(&bench.batch([0], "exec sleep 100", needs)).unwrap();
    assert_eq!(bench.wait_for_end(1)[&0], TaskState::Failed { exit: Some(124), why: "TIMEOUT".into() });
}

/// Ray takes almost any request and fails the job afterwards; its reason has to arrive.
#[test]
fn an_impossible_wish_fails_with_ray_s_reason() {
    let Some(bench) = Bench::new::<Head>() else { return };
    let resources = [("CPU".to_owned(), 1.0)].into();
    let ray = Ray::new(RaySettings { resources, ..settings(&bench.place) }, &bench.binary(), |_| None).unwrap();
    ray.submit(&bench.batch([0], "true", Head::wide())).unwrap();
    let states = bench.wait_for_end(1);
    assert!(matches!(&states[&0], TaskState::Failed { exit: None, why } if why.contains("num_cpus")), "{states:?}");
}
