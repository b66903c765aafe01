//! The protocol of remote work under faults: whatever breaks off, a rerun ends with what an undisturbed local run gives,
//! and nothing that was left in the store is computed again.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use engine::{Event, StageError};
use executors::{
    cluster::{Batch, Cluster, ClusterError, TaskState},
    objects::{Objects, ObjectsError, Remote},
    remote::{Policy, protocol::Done, worker::Ended},
};

mod support;
use support::*;

const BEHAVE: fn() -> Behave = || Behave { suffix: "?".into(), millis: 0 };

/// A cluster that its caller can reach only while it lives.
#[derive(Debug)]
struct Mortal<'a> {
    inner: &'a Threads,
    fuse: &'a Faulty,
}

impl Mortal<'_> {
    fn alive(&self) -> Result<(), ClusterError> {
        self.fuse.has("cluster").map(drop).map_err(|e| match e {
            ObjectsError::Refused { message, .. } => {
                ClusterError::Refused { system: "test".into(), message, help: String::new() }
            }
            e => ClusterError::Unreachable { system: "test".into(), message: e.to_string() },
        })
    }
}

impl Cluster for Mortal<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
        self.alive()?;
        self.inner.submit(batch)?;
        // Killed after the cluster took it and before anybody noticed is another instant than before.
        self.alive()
    }
    fn states(&self, batch: &str) -> Result<std::collections::BTreeMap<u32, TaskState>, ClusterError> {
        self.alive()?;
        self.inner.states(batch)
    }
    fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
        self.alive()?;
        self.inner.cancel(batch, tasks)
    }
    fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
        self.alive()?;
        self.inner.log(batch, task, from)
    }
}

fn threads(here: &Here, objects: &Arc<Memory>) -> Threads {
    Threads::new(objects.clone(), &here.watch, &here.dir.path().join("workers"))
}

#[test]
fn a_job_by_way_of_a_cluster_gives_what_a_local_run_gives() {
    let here = Here::new();
    let texts = here.texts(43);
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    for stage in ["shout", "sum"] {
        let job = here.job(stage, texts, &BEHAVE());
        let outputs = here.remote(job, &cluster, objects.as_ref(), SMALL).unwrap();
        assert_eq!(outputs, here.local(stage, texts, &BEHAVE()));
        for output in outputs.values() {
            assert!(here.store.verify(*output).is_empty());
        }
    }
    assert!(here.watch.computed.lock().unwrap().values().all(|&n| n == 2), "once by each stage");
    assert_eq!(cluster.started(), 9 + 1);
    let never = executors::remote::protocol::cas(engine::Digest::of(b"never sent"));
    assert!(objects.paths(&never).is_empty(), "what only `finish` reads does not travel");
    let heard = here.heard.text();
    assert!(
        heard.contains("it is bad") && heard.contains("gpu_seconds") || heard.contains("9 shards on thread"),
        "{heard}"
    );
}

#[test]
fn a_folder_serves_as_a_store() {
    let here = Here::new();
    let texts = here.texts(12);
    let folder = here.dir.path().join("shared folder");
    let objects: Arc<dyn Objects> = Arc::new(Remote::open(folder.to_str().unwrap(), &[]).unwrap());
    let cluster = Threads::new(objects.clone(), &here.watch, &here.dir.path().join("workers"));
    let outputs = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
    assert_eq!(outputs, here.local("shout", texts, &BEHAVE()));
    assert!(folder.join("done").is_dir());
}

#[test]
fn the_first_shards_measure_how_large_the_others_are() {
    let here = Here::new();
    let texts = here.texts(400);
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    let policy = Policy { shard_seconds: 0.5, shard_items: None, retries: 0 };
    let behave = Behave { millis: 5, ..BEHAVE() };
    here.remote(here.job("shout", texts, &behave), &cluster, objects.as_ref(), policy).unwrap();
    let done = |generation: &str| -> Vec<Done> {
        let paths = objects.paths("done/").into_iter().filter(|p| p.contains(&format!("/{generation}-")));
        paths.map(|p| serde_json::from_slice(&objects.get(&p).unwrap().unwrap()).unwrap()).collect()
    };
    let pilot = done("0000");
    assert_eq!(pilot.len(), 4);
    let rate =
        pilot.iter().map(|d| d.cost.computed).sum::<u64>() as f64 / pilot.iter().map(|d| d.cost.seconds).sum::<f64>();
    let size = ((rate * policy.shard_seconds) as usize).max(1);
    assert_eq!(done("0001").len(), (400 - 32usize).div_ceil(size), "shards of {size} items");
    // Another time the rate is known.
    here.remote(here.job("shout", here.texts(800), &behave), &cluster, objects.as_ref(), policy).unwrap();
    let spec =
        |generation: &str| objects.paths("jobs/").iter().any(|p| p.ends_with(&format!("{generation}/spec.json")));
    assert!(spec("0002") && !spec("0003"), "no shards to measure with");
}

/// Two people label at once; one has more images.
#[test]
fn two_programs_plan_and_submit_at_the_same_time() {
    for _ in 0..30 {
        let (one, other) = (Here::new(), Here::new());
        let objects = Arc::<Memory>::default();
        let cluster = threads(&one, &objects);
        let start = std::sync::Barrier::new(2);
        let run = |here: &Here, count| {
            let texts = here.texts(count);
            let job = here.job("shout", texts, &BEHAVE());
            start.wait();
            let outputs = here.remote(job, &cluster, objects.as_ref(), SMALL).unwrap();
            assert_eq!(outputs, here.local("shout", texts, &BEHAVE()));
        };
        std::thread::scope(|scope| {
            scope.spawn(|| run(&one, 23));
            run(&other, 12);
        });
        cluster.settle();
        assert!(objects.paths("differs/").is_empty());
    }
}

#[test]
fn new_images_cost_only_themselves() {
    let here = Here::new();
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    for count in [20, 23] {
        let texts = here.texts(count);
        let outputs = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
        assert_eq!(outputs, here.local("shout", texts, &BEHAVE()));
    }
    assert_eq!(cluster.started(), 4 + 1);
}

#[test]
fn killed_between_any_two_steps_the_next_run_takes_it_up() {
    for stage in ["shout", "sum"] {
        let (mut killed, mut after) = (0, 0);
        loop {
            let here = Here::new();
            let texts = here.texts(12);
            let objects = Arc::<Memory>::default();
            let cluster = threads(&here, &objects);
            let fuse = Faulty::new(objects.clone(), Fault::Death, after);
            let mortal = Mortal { inner: &cluster, fuse: &fuse };
            let first = here.remote(here.job(stage, texts, &BEHAVE()), &mortal, &fuse, SMALL);
            if first.is_err() {
                killed += 1;
                // Some tasks go on without anybody who waits, others have not begun.
                if after % 2 == 0 {
                    cluster.settle();
                }
            }
            let outputs = here.remote(here.job(stage, texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
            assert_eq!(outputs, here.local(stage, texts, &BEHAVE()), "{stage}, killed after {after} steps");
            let computed = here.watch.computed.lock().unwrap().clone();
            assert!(computed.values().all(|&n| n == 1), "{stage}, killed after {after} steps: {computed:?}");
            if first.is_ok() {
                break;
            }
            after += 1;
        }
        println!("{stage}: killed at {killed} places");
        assert!(killed > 20, "{killed}");
    }
}

#[test]
fn a_worker_killed_at_any_step_costs_only_what_it_had_not_left() {
    for stage in ["shout", "sum"] {
        let mut killed = 0;
        for after in 0.. {
            let here = Here::new();
            let texts = here.texts(9);
            let objects = Arc::<Memory>::default();
            let mut cluster = threads(&here, &objects);
            let died = Arc::new(Mutex::new(Vec::<Arc<std::sync::atomic::AtomicI64>>::new()));
            let seen = died.clone();
            cluster.way = Box::new(move |objects, batch, _| {
                // The first attempts die, those of later rounds live.
                if !batch.name.ends_with("-0") {
                    return objects;
                }
                let way = Faulty::new(objects, Fault::Death, after);
                seen.lock().unwrap().push(way.left.clone());
                Arc::new(way)
            });
            let behave = Behave { millis: 1, ..BEHAVE() };
            let outputs = here.remote(here.job(stage, texts, &behave), &cluster, objects.as_ref(), SMALL).unwrap();
            assert_eq!(outputs, here.local(stage, texts, &behave), "{stage}, killed after {after} steps");
            let all_lived = died.lock().unwrap().iter().all(|left| left.load(Ordering::SeqCst) >= 0);
            let most = here.watch.computed.lock().unwrap().values().copied().max().unwrap();
            assert!(most <= 2, "{stage}, killed after {after} steps");
            if all_lived {
                assert_eq!(most, 1);
                break;
            }
            killed += 1;
        }
        println!("{stage}: killed at {killed} places");
        assert!(killed > 5, "{killed}");
    }
}

#[test]
fn parts_of_a_dead_worker_are_not_computed_again() {
    let here = Here::new();
    let texts = here.texts(40);
    let objects = Arc::<Memory>::default();
    let mut cluster = threads(&here, &objects);
    here.watch.deadly.lock().unwrap().insert("00030.txt".into());
    // Dead means dead: the worker cannot leave a word.
    cluster.way = Box::new(|objects, _, _| Arc::new(Silent(objects)));
    let behave = Behave { millis: 10, ..BEHAVE() };
    let policy = Policy { shard_items: Some(40), ..SMALL };
    let job = here.job("shout", texts, &behave);
    let outputs = here.remote(job, &cluster, objects.as_ref(), policy).unwrap();
    // The deadly one is left out, with the reason, and everything else is as it should be.
    let (here_artifact, there) = (outputs["shouts"], here.local("shout", texts, &behave)["shouts"]);
    let manifest = here.store.manifest(here_artifact).unwrap();
    assert_ne!(here_artifact, there);
    let reason = here.store.read_blob(manifest.blob("00030.txt").unwrap()).unwrap();
    let reason = String::from_utf8(reason).unwrap();
    assert!(reason.contains("2 attempts ended without a word while they worked on this file"), "{reason}");
    let computed = here.watch.computed.lock().unwrap().clone();
    assert_eq!(computed["00030.txt"], 3, "once beside others, twice alone");
    assert_eq!(computed["00002.txt"], 1);
    let again = computed.iter().filter(|(n, c)| **c > 1 && *n != "00030.txt").count();
    assert!(again <= 4, "{again} others were in work or not left yet when it died: {computed:?}");
}

#[test]
fn a_whole_stage_is_heard_while_it_works() {
    let here = Here::new();
    let texts = here.texts(30);
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    let job = here.job("sum", texts, &Behave { millis: 20, ..BEHAVE() });
    here.remote(job, &cluster, objects.as_ref(), SMALL).unwrap();
    let heard = here.heard.0.lock().unwrap().clone();
    let at = |found: &dyn Fn(&Event) -> bool| heard.iter().position(found);
    let midway = |e: &Event| matches!(e, Event::Progress { unit, done, .. } if unit == "texts" && *done < 30);
    let last = |e: &Event| matches!(e, Event::Progress { unit, done: 30, detail, .. } if unit == "texts" && detail.starts_with("sum "));
    let midway = at(&midway).expect("progress before the end");
    assert!(midway < at(&last).expect("progress at the end"));
    let steps: Vec<u64> = heard
        .iter()
        .filter_map(
            |e| if let Event::Metric { name, step, .. } = e { (name == "so far").then_some(*step) } else { None },
        )
        .collect();
    assert_eq!(steps, (1..=30).collect::<Vec<u64>>(), "every point of the curve, once");
    let said = |e: &&Event| matches!(e, Event::Message { text, .. } if text == "three were added up");
    assert_eq!(heard.iter().filter(said).count(), 1);
    let noted = here.notes.lock().unwrap().messages.iter().filter(|(_, t)| t == "three were added up").count();
    assert_eq!(noted, 1);
}

#[test]
fn the_account_holds_what_lost_attempts_took() {
    for silent in [false, true] {
        let here = Here::new();
        let texts = here.texts(40);
        let objects = Arc::<Memory>::default();
        let mut cluster = threads(&here, &objects);
        here.watch.deadly.lock().unwrap().insert("00030.txt".into());
        if silent {
            cluster.way = Box::new(|objects, _, _| Arc::new(Silent(objects)));
        }
        let behave = Behave { millis: 10, ..BEHAVE() };
        let job = here.job("shout", texts, &behave);
        // An attempt that says that it failed is not to blame for the item, and in the end none is left.
        let ran = here.remote(job, &cluster, objects.as_ref(), Policy { shard_items: Some(40), ..SMALL });
        assert_eq!(ran.is_ok(), silent, "{ran:?}");
        if !silent {
            here.watch.deadly.lock().unwrap().clear();
            here.remote(here.job("shout", texts, &behave), &cluster, objects.as_ref(), SMALL).unwrap();
        }
        let e = here.notes.lock().unwrap().elsewhere.clone().expect("an account");
        assert!(e.attempts > e.shards, "{e:?}");
        assert!(e.lost_seconds > 0.05 && e.lost_seconds < 10.0, "{e:?}");
        assert_eq!(e.lost_seconds, e.lost_gpu_seconds, "each had one GPU");
        let counted: f64 = e.helpers.values().map(|h| h.gpu_seconds).sum();
        assert_eq!(e.gpu_seconds(), counted + e.lost_gpu_seconds);
    }
}

/// A way on which nobody can leave why it failed.
#[derive(Debug)]
struct Silent(Arc<dyn Objects>);

impl Objects for Silent {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), ObjectsError> {
        if path.ends_with("/failed") || path.ends_with("/spent") { Ok(()) } else { self.0.put(path, bytes) }
    }
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, ObjectsError> {
        self.0.create(path, bytes)
    }
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectsError> {
        self.0.get(path)
    }
    fn has(&self, path: &str) -> Result<bool, ObjectsError> {
        self.0.has(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        self.0.list(folder)
    }
    fn delete(&self, path: &str) -> Result<(), ObjectsError> {
        self.0.delete(path)
    }
}

#[test]
fn a_bad_moment_or_damage_at_any_step_changes_nothing() {
    for fault in [Fault::Answer500, Fault::Damage] {
        // On this side.
        for after in 0.. {
            let here = Here::new();
            let texts = here.texts(7);
            let objects = Arc::<Memory>::default();
            let cluster = threads(&here, &objects);
            let way = Faulty::new(objects.clone(), fault, after);
            let ran = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, &way, SMALL);
            let outputs = match ran {
                Ok(outputs) => outputs,
                // Before anything is under way an answer is an error of the command; it is given again.
                Err(StageError::Transient { .. }) => {
                    here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap()
                }
                Err(e) => panic!("{fault:?} after {after}: {e}"),
            };
            assert_eq!(outputs, here.local("shout", texts, &BEHAVE()), "{fault:?} after {after} steps here");
            if way.left.load(Ordering::SeqCst) >= 0 {
                assert!(after > 10, "{after}");
                break;
            }
        }
        // On the worker's side.
        for after in 0..40 {
            let here = Here::new();
            let texts = here.texts(7);
            let objects = Arc::<Memory>::default();
            let mut cluster = threads(&here, &objects);
            cluster.way = Box::new(move |objects, batch, _| match batch.name.ends_with("-0") {
                true => Arc::new(Faulty::new(objects, fault, after)),
                false => objects,
            });
            let outputs = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
            assert_eq!(outputs, here.local("shout", texts, &BEHAVE()), "{fault:?} after {after} steps there");
        }
    }
}

#[test]
fn an_orphan_that_ends_later_changes_nothing() {
    let here = Here::new();
    let texts = here.texts(10);
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    let behave = Behave { millis: 30, ..BEHAVE() };
    // The cluster says that the tasks failed while they go on: what a node does that lost its network.
    #[derive(Debug)]
    struct Pessimist<'a>(&'a Threads);
    impl Cluster for Pessimist<'_> {
        fn describe(&self) -> String {
            "pessimist".into()
        }
        fn submit(&self, batch: &Batch) -> Result<(), ClusterError> {
            self.0.submit(batch)
        }
        fn states(&self, batch: &str) -> Result<std::collections::BTreeMap<u32, TaskState>, ClusterError> {
            let mut states = self.0.states(batch)?;
            if batch.ends_with("-0") {
                states.values_mut().for_each(|s| *s = TaskState::Failed { exit: None, why: "NODE_FAIL".into() });
            }
            Ok(states)
        }
        fn cancel(&self, batch: &str, tasks: &[u32]) -> Result<(), ClusterError> {
            self.0.cancel(batch, tasks)
        }
        fn log(&self, batch: &str, task: u32, from: u64) -> Result<Vec<u8>, ClusterError> {
            self.0.log(batch, task, from)
        }
    }
    let outputs =
        here.remote(here.job("shout", texts, &behave), &Pessimist(&cluster), objects.as_ref(), SMALL).unwrap();
    assert_eq!(outputs, here.local("shout", texts, &behave));
    cluster.settle();
    let ended = std::mem::take(&mut cluster.state.lock().unwrap().ended);
    let won = ended.iter().filter(|e| **e == Ok(Ended::Won)).count();
    assert_eq!(won, 2, "one result a shard counts: {ended:?}");
    assert!(ended.iter().all(|e| !matches!(e, Ok(Ended::Differs) | Err(_))), "{ended:?}");
}

#[test]
fn a_cluster_that_forgets_is_not_trusted() {
    let here = Here::new();
    let texts = here.texts(20);
    let objects = Arc::<Memory>::default();
    let mut cluster = threads(&here, &objects);
    cluster.forgetful = true;
    let outputs = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
    assert_eq!(outputs, here.local("shout", texts, &BEHAVE()));
    assert!(here.watch.computed.lock().unwrap().values().all(|&n| n == 1));
    assert_eq!(cluster.started(), 4, "`done/` is asked before anything is submitted again");
}

#[test]
fn stopping_reaches_pending_tasks_and_those_that_start_all_the_same() {
    for stubborn in [false, true] {
        let here = Here::new();
        let texts = here.texts(10);
        let objects = Arc::<Memory>::default();
        let mut cluster = threads(&here, &objects);
        cluster.holding.store(true, Ordering::SeqCst);
        cluster.stubborn = stubborn;
        let stop = here.cancel.clone();
        let cluster = Arc::new(cluster);
        let waits = cluster.clone();
        let stopper = std::thread::spawn(move || {
            while waits.state.lock().unwrap().tasks.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.cancel();
        });
        let result = here.remote(here.job("shout", texts, &BEHAVE()), cluster.as_ref(), objects.as_ref(), SMALL);
        assert!(matches!(result, Err(StageError::Cancelled)));
        stopper.join().unwrap();
        // Some systems start it after all.
        cluster.release();
        cluster.settle();
        assert!(here.watch.computed.lock().unwrap().is_empty());
        let again = Here { cancel: engine::CancelToken::new(), ..here };
        let outputs =
            again.remote(again.job("shout", texts, &BEHAVE()), cluster.as_ref(), objects.as_ref(), SMALL).unwrap();
        assert_eq!(outputs, again.local("shout", texts, &BEHAVE()));
    }
}

#[test]
fn an_error_that_will_not_pass_ends_the_stage_with_its_words() {
    let here = Here::new();
    let texts = here.texts(10);
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    here.watch.deadly.lock().unwrap().insert("00003.txt".into());
    let e =
        here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap_err().to_string();
    assert!(e.contains("thread: killed"), "{e}");
    assert!(cluster.started() <= 2, "no further try");
    // What is known of it from then is no judgement on the next run, not even on its only try.
    here.watch.deadly.lock().unwrap().clear();
    let once = Policy { retries: 0, ..SMALL };
    let outputs = here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), once).unwrap();
    assert_eq!(outputs, here.local("shout", texts, &BEHAVE()));
}

#[test]
fn a_stage_that_gives_another_result_each_time_is_told_of() {
    let here = Here::new();
    let objects = Arc::<Memory>::default();
    let cluster = threads(&here, &objects);
    let texts = here.texts(5);
    here.remote(here.job("shout", texts, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
    // A second attempt at a shard whose result counts, which came to something else.
    let done = objects.paths("done/")[0].clone();
    let path = done.replace("done/", "differs/").replace(".json", "/late.json");
    let bytes = objects.get(&done).unwrap().unwrap();
    objects.put(&path, &bytes).unwrap();
    let more = here.texts(6);
    here.remote(here.job("shout", more, &BEHAVE()), &cluster, objects.as_ref(), SMALL).unwrap();
    assert!(here.heard.text().contains("1 attempts gave another result"), "{}", here.heard.text());
}
