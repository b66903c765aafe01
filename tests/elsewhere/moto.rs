//! S3 as the store: shards run under Slurm, or by hand.

use std::{
    fs,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    far::{Far, Sheets, server, signal, wait_for},
    proxy::{Fault, Proxy},
    slurm,
    support::Done,
};

const VARIABLE: &str = "PIPELINE_TEST_MOTO";

/// A project with a bucket as its store, which is reached at `address`.
pub fn far(sheets: Sheets, executor: &str, address: &str) -> Far {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let store = format!("s3://bucket/{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    let environment = [
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-from-everybody"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ];
    Far::at(sheets, executor, store, environment.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec())
}

/// Addresses of both servers.
pub fn servers() -> Option<(String, String, std::sync::MutexGuard<'static, ()>)> {
    let slurm = std::env::var(slurm::VARIABLE).ok();
    let (place, turn) = server(VARIABLE)?;
    let Some(slurm) = slurm else {
        eprintln!("SKIPPED: no Slurm; `tests/servers/run` starts it and sets {}", slurm::VARIABLE);
        return None;
    };
    Some((slurm, fs::read_to_string(format!("{place}/address")).unwrap().trim().to_owned(), turn))
}

#[test]
fn labels_and_weights_come_through_a_bucket() {
    let Some((slurm, address, _turn)) = servers() else { return };
    let far = far(Sheets::Sample, &slurm::executor(&slurm), &address);
    far.ends_well();
    assert_eq!(far.nothing_twice(), 0);
    for path in far.paths("").iter().filter(|p| !p.starts_with("cas/")) {
        let bytes = executors::objects::Objects::get(&far.objects(), path).unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("hidden-from-everybody"), "{path}");
    }
}

/// Both ends meet every fault again and again, and a worker dies besides.
#[test]
fn a_bucket_that_fails_cuts_off_and_lies() {
    let Some((slurm, address, _turn)) = servers() else { return };
    let all = &[Fault::Answer500, Fault::CutOff, Fault::Damaged, Fault::NoAnswer];
    let proxy = Proxy::start(address.trim_start_matches("http://"), all, 5);
    let mut far = far(Sheets::Slow, &slurm::executor(&slurm), &proxy.address);
    far.aside = Some(address);
    let run = far.start();
    signal("KILL", &far.freeze());
    run.ends_well(&far);
    assert!(far.nothing_twice() > 0, "nothing was left to be kept");
    let faults = proxy.faults.load(Ordering::SeqCst);
    assert!(faults >= 20, "{faults} faults");
    eprintln!("{faults} answers of the bucket went wrong");
}

/// Content that lies damaged in the bucket is found by its reader, removed and made or sent again.
#[test]
fn content_that_lies_damaged_in_the_bucket() {
    use executors::objects::Objects as _;
    let Some((slurm, address, _turn)) = servers() else { return };
    let far = far(Sheets::Slow, &slurm::executor(&slurm), &address);
    let run = far.start();
    let workers = far.freeze();
    let objects = far.objects();
    for path in far.paths("cas") {
        let mut bytes = objects.get(&path).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 0x55;
        objects.put(&path, &bytes).unwrap();
    }
    signal("KILL", &workers);
    run.ends_well(&far).says(&["damaged"]);
}

#[test]
fn attempts_race_for_one_result() {
    let Some((slurm, address, _turn)) = servers() else { return };
    let far = far(Sheets::Sample, &slurm::executor(&slurm), &address);
    far.ends_well();
    let results = far.paths("done");
    let labels = results.iter().find(|p| p.ends_with("0000-000001.json")).unwrap();
    let job = labels.split('/').nth(1).unwrap();
    executors::objects::Objects::delete(&far.objects(), labels).unwrap();
    let racers: Vec<_> = (0..4)
        .map(|n| {
            let batch = format!("racer-{n}");
            let words = ["stage", "exec", "--spec", &far.store, "--job", job, "--generation", "0", "--shard", "1"];
            // A racer that sees another one's result while it works gives up; none looks.
            let words = [&words[..], &["--batch", &batch, "--part-seconds", "3600"]].concat();
            far.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let said: Vec<String> = racers.into_iter().map(|r| Done::wait(&["stage", "exec"], r).exits(0).err).collect();
    let won = said.iter().filter(|s| s.contains("the result is in the store")).count();
    assert_eq!(won, 1, "{said:?}");
    assert_eq!(far.paths("differs"), Vec::<String>::new());
    wait_for("the result", || far.paths("done") == results);
    far.project.write("drawings/sheet_0004.png", &crate::support::sheet(4));
    far.ends_well();
}
