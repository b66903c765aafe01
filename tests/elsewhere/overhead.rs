//! What taking work elsewhere costs, when the work itself costs nothing. It measures and judges nothing.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    far::{Far, Sheets, TINY},
    moto,
    proxy::Proxy,
    slurm,
};

/// Commands of Slurm, each of which leaves a line in a file.
fn counted(dir: &Path) {
    for name in ["sbatch", "squeue", "scontrol", "sacct", "scancel"] {
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|d| d.join(name)).find(|p| p.exists());
        let Some(real) = real else { continue };
        let text = format!("#!/bin/sh\necho {name} >>{}/calls\nexec {} \"$@\"\n", dir.display(), real.display());
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Runs it and says when what was seen.
fn measure(name: &str, far: &Far) {
    let shims = tempfile::tempdir().unwrap();
    counted(shims.path());
    let mut command = far.command(far.sheets.command());
    let path = format!("{}:{}", shims.path().display(), std::env::var("PATH").unwrap());
    let start = Instant::now();
    let log = tempfile::NamedTempFile::new().unwrap();
    let out = log.reopen().unwrap();
    let mut child = command.env("PATH", path).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
    let mut seen = [None; 4];
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        for (at, folder) in seen.iter_mut().zip(["cas", "jobs", "attempts", "done"]) {
            if at.is_none() && !far.paths(folder).is_empty() {
                *at = Some(start.elapsed());
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(250));
    };
    let end = start.elapsed();
    assert!(status.success(), "{}", fs::read_to_string(log.path()).unwrap());
    far.is_equal();
    println!("{name}: {TINY} items, 100 shards: {:.1} s", end.as_secs_f64());
    for (at, what) in seen.into_iter().zip(["content arrives", "a plan", "a worker begins", "a result"]) {
        println!("  {:6.1} s  {what}", at.unwrap_or_default().as_secs_f64());
    }
    let calls = fs::read_to_string(shims.path().join("calls")).unwrap();
    for name in ["sbatch", "squeue", "scontrol", "sacct", "scancel"] {
        println!("  {:6} calls of {name}", calls.lines().filter(|l| *l == name).count());
    }
    let busy: f64 = far.costs().iter().map(|c| c["busy"].as_f64().unwrap()).sum();
    let seconds: f64 = far.costs().iter().map(|c| c["seconds"].as_f64().unwrap()).sum();
    println!("  {seconds:6.1} s of workers, {busy:.1} s of them with items");
}

#[test]
#[ignore = "it measures, for minutes"]
fn ten_thousand_items_in_a_hundred_shards() {
    let Some((place, address, _turn)) = moto::servers() else { return };
    let start = Instant::now();
    Sheets::Tiny.expected();
    println!("here: {:.1} s, drawing the pictures included", start.elapsed().as_secs_f64());
    let executor = slurm::executor(&place).replace("gpus: 1, shard_items: 4, part_seconds: 0.2", "shard_items: 100");
    measure("a folder", &Far::new(Sheets::Tiny, &executor));
    let server = address.trim_start_matches("http://");
    let (ours, theirs) = (Proxy::start(server, &[], 0), Proxy::start(server, &[], 0));
    let executor = format!("{executor}, container: \"env AWS_ENDPOINT_URL={}\"", theirs.address);
    let mut far = moto::far(Sheets::Tiny, &executor, &ours.address);
    far.aside = Some(address);
    measure("S3", &far);
    for (side, proxy) in [("this side", ours), ("the workers", theirs)] {
        for (kind, (requests, bytes)) in proxy.traffic.lock().unwrap().iter() {
            println!("  {side}: {requests:6} x {kind:14} {:8.2} MB", *bytes as f64 / 1e6);
        }
    }
}
