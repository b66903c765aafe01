//! Stages on other machines, by the real program: workers are processes of this machine, and a folder is the store that
//! both ends reach.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/s3.rs"]
mod s3;
#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Done, Project, YAML, outputs, planned, statuses};

const FAR: &str = "executors:\n  far: { kind: process, store: shared, at_once: 2, gpus: 1, shard_items: 2 }\n";

/// A project whose labelling and training go elsewhere.
fn project(sheets: u64) -> Project {
    let project = Project::new(sheets);
    let yaml = YAML
        .replace("label: { scale: { base: 1 } }", "label: { scale: { base: 1 }, executor: far }")
        .replace("    epochs: 2\n", "    epochs: 2\n    gpu: true\n");
    project.write("pipeline.yaml", (yaml + FAR).as_bytes());
    project
}

fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
}

fn each_shard_was_begun_once(p: &Project) {
    for job in fs::read_dir(p.path("shared/attempts")).unwrap().flatten() {
        for shard in fs::read_dir(job.path()).unwrap().flatten() {
            assert_eq!(fs::read_dir(shard.path()).unwrap().count(), 1, "{} was begun once", shard.path().display());
        }
    }
}

#[test]
fn labels_and_weights_made_elsewhere_are_the_same_bytes() {
    let here = Project::new(5);
    here.ok(&["run", "--until", "train"]);
    let p = project(5);
    let plan = p.ok(&["plan", "--until", "train", "--json"]).json();
    assert_eq!(planned(&plan, "label")["executor"], "far");
    assert_eq!(planned(&plan, "train")["executor"], "far", "it needs a GPU, and there is none here");
    assert_eq!(planned(&plan, "review")["executor"], "local");
    let sent = &planned(&plan, "label")["travels"];
    assert!(sent["bytes"].as_u64().is_some_and(|b| b > 10_000), "the images are known: {sent}");
    assert_eq!(sent["and_results_of"], serde_json::json!(["ontology"]));
    assert!(planned(&plan, "review")["travels"].is_null());
    assert!(!p.path("shared").exists(), "a plan opens nothing");
    p.ok(&["plan", "--until", "train"]).says(&["on `far`: it needs a GPU, and none was proven on this machine"]);
    p.ok(&["run", "--until", "train"]);
    let (a, b) = (here.record(), p.record());
    assert_eq!(outputs(&a, &["label", "train"]), outputs(&b, &["label", "train"]));
    assert_eq!(b["stages"]["label"]["executor"], "far");
    assert!(b["stages"]["label"]["notes"]["metrics"]["gpu_seconds"].as_f64().unwrap() > 0.0);
    let messages = b["stages"]["label"]["notes"]["messages"].to_string();
    assert!(messages.contains("3 shards on"), "{messages}");
    // One more drawing costs one.
    p.add_sheets(5..6);
    p.ok(&["run", "--until", "label"]);
    assert_eq!(files(&p.path("shared/done")), 3 + 1 + 1);
}

#[cfg(unix)]
#[test]
fn another_build_can_be_sent() {
    use std::os::unix::fs::PermissionsExt;
    let p = project(2);
    let yaml =
        fs::read_to_string(p.path("pipeline.yaml")).unwrap().replace("at_once: 2", "at_once: 1, send: bin/other");
    p.write("pipeline.yaml", yaml.as_bytes());
    p.call(&["run", "--until", "label"]).exits(1).says(&["executors.send", "no file", "bin/other"]);
    let build =
        format!("#!/bin/sh\n: >\"{}\"\nexec \"{}\" \"$@\"\n", p.path("used").display(), env!("CARGO_BIN_EXE_pipeline"));
    p.write("bin/other", build.as_bytes());
    fs::set_permissions(p.path("bin/other"), fs::Permissions::from_mode(0o755)).unwrap();
    p.ok(&["run", "--until", "label"]);
    assert!(p.path("used").is_file());
    let here = Project::new(2);
    here.ok(&["run", "--until", "label"]);
    assert_eq!(outputs(&here.record(), &["label"]), outputs(&p.record(), &["label"]));
}

/// The table of a sweep, without the times.
fn sweep_table(p: &Project) -> Vec<String> {
    let text = fs::read_to_string(p.path("sweep/sweep.csv")).unwrap();
    let columns: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    let seconds = columns.iter().position(|c| *c == "seconds").unwrap();
    let without = |line: &str| {
        let mut fields: Vec<&str> = line.split(',').collect();
        fields.remove(seconds);
        fields.join(",")
    };
    text.lines().map(without).collect()
}

#[test]
fn a_sweep_is_trained_elsewhere_and_goes_on_where_it_was_cut() {
    let here = Project::new(6);
    here.ok(&["run", "--until", "review"]);
    here.ok(&["export", "dataset", "--format", "yolo", "--out", "data"]);
    let data = here.path("data");
    let sweep = ["train", data.to_str().unwrap(), "--epochs", "9", "--sweep", "lr0=0.002,0.01,0.03", "--out", "sweep"];
    here.ok(&sweep);
    let p = project(1);
    let mut killed = p.start(&sweep);
    let begun = Instant::now();
    while files(&p.path("shared/done")) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(240), "no trial ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    p.ok(&sweep);
    assert_eq!(sweep_table(&here), sweep_table(&p));
    let best = |p: &Project| fs::read(p.path("sweep/best/best.safetensors")).unwrap();
    assert!(best(&here) == best(&p), "another model");
    // Three trials, of which one is trained longer; none was trained twice.
    assert_eq!(files(&p.path("shared/done")), 3 + 1);
    each_shard_was_begun_once(&p);
}

#[test]
fn a_killed_run_is_taken_up_while_its_workers_go_on() {
    let p = project(6);
    let mut killed = p.start(&["run", "--until", "label"]);
    let begun = Instant::now();
    // As soon as something was submitted.
    while files(&p.path("runs/.store/processes")) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was submitted");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    p.ok(&["run", "--until", "label"]);
    let here = Project::new(6);
    here.ok(&["run", "--until", "label"]);
    assert_eq!(outputs(&here.record(), &["label"]), outputs(&p.record(), &["label"]));
    each_shard_was_begun_once(&p);
}

#[test]
fn a_worker_that_cannot_work_says_why_here() {
    let p = project(3);
    p.write("shared", b"a file, no folder");
    p.call(&["run", "--until", "label"]).exits(1).says(&["executors.store", "no store"]);
}

#[test]
fn a_shard_is_worked_on_by_anybody_who_reaches_the_store() {
    let p = project(3);
    p.ok(&["run", "--until", "label"]);
    let jobs = p.path("shared/jobs");
    let job = fs::read_dir(&jobs).unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
    let store = p.path("shared");
    let shard = |shard: &str| {
        ["stage", "exec", "--spec", store.to_str().unwrap(), "--job", &job, "--generation", "0", "--batch", "by-hand"]
            .into_iter()
            .chain(["--shard", shard])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let call = |args: Vec<String>| p.call(&args.iter().map(String::as_str).collect::<Vec<_>>());
    call(shard("0")).exits(0).says(&["there was a result already"]);
    fs::remove_file(store.join("done").join(&job).join("0000-000000.json")).unwrap();
    call(shard("0")).exits(0).says(&["the result is in the store"]);
    call(shard("9")).exits(1);
    p.call(&["stage", "exec"]).exits(2);
}

#[test]
fn a_stage_without_its_gpu_runs_here_and_says_so_unless_it_must_have_it() {
    let p = Project::new(2);
    let yaml = YAML.replace("scale: { base: 1 }", "scale: { base: 1 }, gpu: { memory_mib: 20000, compute: 8.0 }");
    let far = |settings: &str| format!("{yaml}executors:\n  far: {{ kind: process, store: shared{settings} }}\n");
    p.write("pipeline.yaml", far(", gpus: 1, gpu_memory_mib: 16000, gpu_compute: 7.5").as_bytes());
    let words = ["needs a GPU with 19.5 GiB, compute capability 8.0", "none was proven", "`far` (1 GPU with 15.6 GiB"];
    p.ok(&["plan", "--until", "label"]).says(&words).says(&["on `local`", "it runs here without"]);
    p.ok(&["plan", "--until", "label", "--require"]).says(&words).says(&["cannot run", "take `gpu:` off"]);
    let done = p.call(&["run", "--until", "label", "--require"]).exits(2);
    done.says(&words).says(&["stage `label` has no place to run"]);
    assert!(!p.path("runs/latest").exists(), "nothing was begun");
    p.ok(&["run", "--until", "label"]).says(&["it runs here without"]);
    let record = p.record();
    let label = &record["stages"]["label"];
    assert_eq!(label["executor"], "local");
    assert!(label["placement"].as_str().unwrap().contains("none was proven"), "{label}");
    p.ok(&["runs", "show"]).says(&words);
    let page = fs::read_to_string(p.path("runs/latest/report/index.html")).unwrap();
    assert!(page.contains("Where it ran") && page.contains("it runs here without"));
    // It is there now, so nothing has to be had; and where it can be had, it goes there.
    p.ok(&["run", "--until", "label", "--require"]);
    assert_eq!(statuses(&p.record())["label"], "cached");
    p.write("pipeline.yaml", far(", gpus: 1, gpu_memory_mib: 40000, gpu_compute: 8.0").as_bytes());
    p.ok(&["plan", "--until", "label", "--force", "label", "--require"]).says(&["on `far`: it needs a GPU"]);
    p.write("pipeline.yaml", far(", gpus: 1, gpu_compute: fast").as_bytes());
    p.call(&["plan"]).exits(2).says(&["gpu_compute", "pipeline.yaml:"]);
    p.write("pipeline.yaml", yaml.replace("8.0", "new").as_bytes());
    p.call(&["plan"]).exits(2).says(&["label.gpu.compute must be a capability such as 8.0"]);
}

#[test]
fn the_report_says_where_it_ran_and_what_that_took() {
    let p = project(5);
    let priced = FAR.replace("gpus: 1", "gpus: 1, price_per_gpu_hour: 3600");
    let yaml = fs::read_to_string(p.path("pipeline.yaml")).unwrap().replace(FAR, &priced);
    p.write("pipeline.yaml", yaml.as_bytes());
    // A file that is no picture is left out there as it would be here.
    p.write("drawings/broken.png", b"no picture");
    p.ok(&["run", "--until", "label"]);
    let notes = &p.record()["stages"]["label"]["notes"];
    let e = &notes["elsewhere"];
    assert_eq!((&e["shards"], &e["attempts"], &e["failed"]), (&json!(3), &json!(3), &json!(0)), "{e}");
    let helpers: Vec<&Value> = e["helpers"].as_object().unwrap().values().collect();
    assert_eq!(helpers.len(), 1, "all workers are on this machine");
    assert_eq!((&helpers[0]["shards"], &helpers[0]["items"]), (&json!(3), &json!(6)));
    let gpu_seconds = helpers[0]["gpu_seconds"].as_f64().unwrap();
    assert!((notes["metrics"]["gpu_seconds"].as_f64().unwrap() - gpu_seconds).abs() < 1e-9 && gpu_seconds > 0.0);
    assert_eq!(notes["quarantined"], 1);
    let page = fs::read_to_string(p.path("runs/latest/report/index.html")).unwrap();
    for words in ["Where it ran", "far (", "Cost of the GPUs", "Retried", "Machines"] {
        assert!(page.contains(words), "{words}");
    }
    p.ok(&["runs", "show"]).says(&["label: 3 shards on 1 machine of", "3 attempts begun", "of GPUs, cost "]);
    // A stage that simply runs here needs no such section.
    let here = Project::new(1);
    here.ok(&["run", "--until", "label"]);
    assert!(!fs::read_to_string(here.path("runs/latest/report/index.html")).unwrap().contains("Where it ran"));
}

#[test]
fn review_opens_on_what_has_arrived() {
    const SHEETS: usize = 16;
    let p = project(SHEETS as u64);
    let yaml = fs::read_to_string(p.path("pipeline.yaml")).unwrap().replace("at_once: 2", "at_once: 1");
    p.write("pipeline.yaml", yaml.as_bytes());
    p.call(&["review", "report", "--so-far"]).exits(2);
    let running = p.start(&["run", "--until", "label"]);
    let begun = Instant::now();
    // As soon as the first results are here; which takes longer than the rest would in one go.
    let so_far = loop {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing arrived");
        std::thread::sleep(Duration::from_millis(20));
        let done = p.call(&["review", "report", "--so-far", "--json"]);
        if done.code == Some(0) {
            break done.json();
        }
        assert_eq!(done.code, Some(2), "{}", done.err);
    };
    let ready = so_far["images"].as_u64().unwrap() as usize;
    assert!(ready >= 1 && ready < SHEETS && so_far["of"] == SHEETS, "{so_far}");
    let page = fs::read_to_string(so_far["report"].as_str().unwrap()).unwrap();
    assert!(page.contains(&format!("the {ready} of {SHEETS} images that have results so far")), "{so_far}");
    // The run was not disturbed, and its boxes are those that were looked at.
    Done::wait(&["run"], running).exits(0);
    let boxes = |run: &str| {
        let text = fs::read_to_string(p.path(run).join("label/annotations/annotations.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).collect::<Vec<_>>()
    };
    let (part, all) = (boxes("runs/so-far/latest"), boxes("runs/latest"));
    assert_eq!((part.len(), all.len()), (ready, SHEETS));
    assert!(part.iter().all(|image| all.contains(image)));
    // Decisions about what was looked at hold for the whole.
    let mut decisions: Value =
        serde_json::from_slice(&fs::read(p.path("runs/so-far/latest/report/DECISIONS.json")).unwrap()).unwrap();
    let first = part.iter().find(|i| !i["annotations"].as_array().unwrap().is_empty()).unwrap();
    let (image, a) = (first["image"].as_str().unwrap(), &first["annotations"][0]);
    let content = engine::Digest::of(&fs::read(p.path("drawings").join(image)).unwrap()).to_string();
    let bbox = datasets::BBox::from(serde_json::from_value::<[f64; 4]>(a["bbox"].clone()).unwrap());
    let id = artifacts::decisions::box_id(&content, a["class"].as_str().unwrap(), &bbox);
    decisions["approve"] = json!(false);
    decisions["boxes"] = json!([{ "decision": "reject", "image": image, "box": id }]);
    p.write("DECISIONS.json", decisions.to_string().as_bytes());
    p.ok(&["review", "apply", "DECISIONS.json"]).says(&["1 rejected"]);
    p.call(&["review", "report", "--so-far"]).exits(2).says(&["pipeline review report"]);
}

/// Names of all files below a folder whose bytes hold a text, links not followed.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(holding(&path, text));
        } else if fs::read(&path).is_ok_and(|b| b.windows(text.len()).any(|w| w == text.as_bytes())) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn keys_come_from_the_files_of_aws_and_are_written_nowhere() {
    const SECRETS: [&str; 3] = ["AKIATESTKEYID0001", "s3cr3t/Key+that=nobody/knows", "t0ken-of-a-session"];
    let [id, key, token] = SECRETS;
    let server = s3::S3::start(id, "eu-south-2");
    let p = Project::new(3);
    let yaml = YAML.replace("scale: { base: 1 }", "scale: { base: 1 }, executor: far");
    let far = "executors:\n  far: { kind: process, store: \"s3://bucket/plant\", at_once: 2, shard_items: 2 }\n";
    p.write("pipeline.yaml", (yaml.clone() + far).as_bytes());
    let home = tempfile::tempdir().unwrap();
    let aws = home.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = p.command(&["run", "--until", "label"]);
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.env("HOME", home.path()).env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
        // Variables of other programs that merely sound like settings of a store.
        command.env("STRANGE", <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&[0xff]));
        command.env("TOKEN", "another").env("REGION", "nowhere").env("ENDPOINT", "http://127.0.0.1:1");
        Done::new(&["run"], command.output().unwrap())
    };
    run(&[]).exits(1).says(&["no credentials for S3 were found", "AWS_ACCESS_KEY_ID is not set", "aws configure"]);
    fs::write(
        aws.join("credentials"),
        format!("[lab]\naws_access_key_id = {id}\naws_secret_access_key = {key}\naws_session_token = {token}\n"),
    )
    .unwrap();
    fs::write(aws.join("config"), format!("[profile lab]\nregion = eu-south-2\nendpoint_url = {}\n", server.url))
        .unwrap();
    run(&[("AWS_PROFILE", "lap")]).exits(1).says(&["there is no AWS profile `lap`", "there are: lab"]);
    let done = run(&[("AWS_PROFILE", "lab")]).exits(0);
    let (served, refused) = server.asked();
    assert!(served > 10 && refused == 0, "{served} {refused}");
    let here = Project::new(3);
    here.ok(&["run", "--until", "label"]);
    assert_eq!(outputs(&here.record(), &["label"]), outputs(&p.record(), &["label"]));

    for secret in SECRETS {
        assert!(!done.out.contains(secret) && !done.err.contains(secret));
        assert_eq!(holding(&p.root, secret), Vec::<String>::new());
        for (name, bytes) in server.objects() {
            let plain = zstd::decode_all(bytes.as_slice()).unwrap_or_default();
            let has = |b: &[u8]| b.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!has(&bytes) && !has(&plain) && !name.contains(secret), "{name}");
        }
    }
    assert_eq!(holding(home.path(), key).len(), 1, "the search finds what is there");
    // Nor does an address with a password go anywhere.
    p.write("pipeline.yaml", (yaml + &far.replace("s3://", "s3://me:hidd3n-word@")).as_bytes());
    let done = run(&[("AWS_PROFILE", "lab"), ("PIPELINE_LABEL__NMS_IOU", "0.4")]).exits(1);
    done.says(&["keys belong into the environment"]);
    assert_eq!(holding(&p.path("runs"), "hidd3n-word"), Vec::<String>::new());
}
