//! Work carried to another machine in a bundle, by the real program: commands as the bundle's own words give them, sessions
//! that die, the notebook. What comes back equals what a run here gives.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops where it is wrong, and says what it skipped"
)]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use support::{Done, Project, outputs, planned, statuses};

/// The program in another folder.
fn call_in(dir: &Path, p: &Project, args: &[&str]) -> Done {
    Done::new(args, p.command(args).current_dir(dir).output().unwrap())
}

/// The results in `done` are taken in by the project, and are those of a run.
fn is_as_run_here(p: &Project, done: &Path, stages: &[&str]) {
    p.ok(&["import", done.to_str().unwrap()]).says(&["every file of the bundle has the right hash"]);
    let last = stages.last().unwrap();
    let plan = p.ok(&["plan", "--until", last, "--json"]).json();
    for stage in stages {
        assert_eq!(planned(&plan, stage)["verdict"], "cached", "{plan}");
    }
    p.ok(&["run", "--until", if stages.contains(&"train") { "train" } else { "review" }]);
    let record = p.record();
    let review = if stages.contains(&"review") { "cached" } else { "done" };
    assert_eq!((statuses(&record)["label"].as_str(), statuses(&record)["review"].as_str()), ("cached", review));
    let here = Project::without_sheets();
    for entry in fs::read_dir(p.path("drawings")).unwrap().flatten() {
        fs::copy(entry.path(), here.path("drawings").join(entry.file_name())).unwrap();
    }
    here.ok(&["run", "--until", last]);
    assert_eq!(outputs(&here.record(), stages), outputs(&record, stages));
}

/// The words of a bundle that lie in it under a name.
fn inside(bundle: &Path, name: &str) -> String {
    let out = Command::new("tar").arg("-xOf").arg(bundle).arg(name).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Number of whole records in the logs of items below a folder of runs.
fn items(runs: &Path) -> usize {
    let count = |path: PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        let mut rest = bytes.get(17..).unwrap_or_default();
        let mut n = 0;
        while let Some(after) = rest.first_chunk::<4>().and_then(|l| rest.get(45 + u32::from_le_bytes(*l) as usize..)) {
            (rest, n) = (after, n + 1);
        }
        n
    };
    fs::read_dir(runs.join(".store/items")).into_iter().flatten().flatten().map(|e| count(e.path())).sum()
}

#[test]
fn the_commands_in_the_bundle_do_its_work_on_a_bare_machine() {
    let p = Project::new(3);
    // Where it is carried by hand, nothing is asked of a cluster, whatever the settings say.
    let yaml = support::YAML.replace("scale: { base: 1 }", "scale: { base: 1 }, executor: far, gpu: true");
    let far = "executors:\n  far: { kind: slurm, store: \"s3://nowhere/at-all\", gpus: 1 }\n";
    p.write("pipeline.yaml", (yaml + far).as_bytes());
    let written = p.ok(&["export", "--until", "label", "--out", "work.tar", "--json"]).json();
    assert!(written["to_run"].as_array().unwrap().iter().any(|s| s == "label"), "{written}");
    let bundle = p.path("work.tar");
    let words = inside(&bundle, "README.txt");
    let commands: Vec<&str> = words.lines().filter_map(|l| l.strip_prefix("    ")).collect();
    assert_eq!(
        commands[..2],
        ["tar -xf work.tar bin/pipeline", "./bin/pipeline stage exec --bundle work.tar"],
        "{words}"
    );
    assert!(commands.contains(&"tar -xf work.tar notebook.ipynb"), "{words}");
    assert!(commands.contains(&"pipeline import work.tar.done"), "{words}");

    let far = tempfile::tempdir().unwrap();
    fs::copy(&bundle, far.path().join("work.tar")).unwrap();
    for command in &commands[..2] {
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PIPELINE_")) {
            shell.env_remove(name);
        }
        Done::new(&[command], shell.args(["-c", command]).current_dir(far.path()).output().unwrap()).exits(0);
    }
    // Typed again, it finds everything done, and gives the same file.
    let done = far.path().join("work.tar.done");
    let first = fs::read(&done).unwrap();
    call_in(far.path(), &p, &["stage", "exec", "--bundle", "work.tar"]).exits(0).says(&["label is up to date"]);
    assert!(fs::read(&done).unwrap() == first, "the same results are the same bytes");
    assert!(!inside(&done, "README.txt").contains("stage exec"));
    assert_eq!(items(&far.path().join("work.tar.work/runs")), 3);
    is_as_run_here(&p, &done, &["ontology", "label"]);
}

#[test]
fn models_are_pinned_and_another_bundle_goes_on_from_the_same_items() {
    let p = Project::new(2);
    p.ok(&["export", "--until", "label", "--out", "work.tar", "--without-program"]).says(&["no program is in it"]);
    let index: Value = serde_json::from_str(&inside(&p.path("work.tar"), "bundle.json")).unwrap();
    assert_eq!(index["models"], serde_json::json!({}), "labelling by templates starts from no model");
    let names: Vec<&str> = index["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert!(names.contains(&"notebook.ipynb") && !names.contains(&"bin/pipeline"), "{names:?}");
    p.ok(&["stage", "exec", "--bundle", "work.tar", "--work", "kept", "--out", "first.done"]);
    p.add_sheets(2..3);
    p.ok(&["export", "--until", "train", "--out", "work.tar", "--without-program"]);
    let index: Value = serde_json::from_str(&inside(&p.path("work.tar"), "bundle.json")).unwrap();
    assert_eq!(index["models"]["symbols-n"]["built_in"], true, "{}", index["models"]);
    assert!(inside(&p.path("work.tar"), "README.txt").contains("Model symbols-n: BLAKE3 "));
    p.ok(&["stage", "exec", "--bundle", "work.tar", "--work", "kept", "--out", "second.done"]);
    assert_eq!(items(&p.path("kept/runs")), 3, "only the new sheet was labelled");
    p.write("in-the-way", b"a file");
    p.call(&["stage", "exec", "--bundle", "work.tar", "--work", "in-the-way/kept"]).exits(1).says(&["--work DIR"]);
    is_as_run_here(&p, &p.path("second.done"), &["ontology", "label", "review", "train"]);
}

#[test]
fn a_session_that_dies_at_any_instant_is_gone_on_from() {
    const SHEETS: usize = 30;
    const KILLS: usize = 12;
    let p = Project::new(SHEETS as u64);
    p.ok(&["export", "--until", "label", "--out", "work.tar"]);
    let exec = ["stage", "exec", "--bundle", "work.tar", "--quiet"];
    let runs = p.path("work.tar.work/runs");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut kept, mut cut) = (0, 0);
    for kill in 0..KILLS {
        let mut child = p.command(&exec).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Some sessions die anywhere, others as soon as something new is finished.
        let wait = Duration::from_millis(rng.random_range(1..300));
        let begun = Instant::now();
        let is_time = || if kill % 2 == 0 { begun.elapsed() > wait } else { items(&runs) > kept };
        while !is_time() && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = items(&runs);
        assert!(now >= kept, "finished items are gone: {now} of {kept}");
        cut += usize::from(now > kept && now < SHEETS);
        kept = now;
    }
    assert!(cut >= 1, "no session died within the labelling");
    p.ok(&["stage", "exec", "--bundle", "work.tar"]);
    assert_eq!(items(&runs), SHEETS, "no finished item was done twice");
    is_as_run_here(&p, &p.path("work.tar.done"), &["ontology", "label"]);
}

#[test]
fn two_sessions_on_one_folder_do_the_work_once() {
    let p = Project::new(6);
    p.ok(&["export", "--until", "label", "--out", "work.tar", "--without-program"]);
    let exec = ["stage", "exec", "--bundle", "work.tar"];
    let (a, b) = (p.start(&exec), p.start(&exec));
    Done::wait(&exec, a).exits(0);
    Done::wait(&exec, b).exits(0);
    assert_eq!(items(&p.path("work.tar.work/runs")), 6);
    is_as_run_here(&p, &p.path("work.tar.done"), &["ontology", "label"]);
}

/// Runs the code cells of a bundle's notebook one after another, as a hosted notebook does.
fn run_notebook(dir: &Path, bundle: &Path) -> Option<Output> {
    let book: Value = serde_json::from_str(&inside(bundle, "notebook.ipynb")).unwrap();
    let cells = book["cells"].as_array().unwrap().iter().filter(|c| c["cell_type"] == "code");
    let source = |c: &Value| c["source"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect::<String>();
    let cells: Vec<String> = cells.map(source).collect();
    assert_eq!(cells.len(), 4);
    let script =
        format!("for cell in {}:\n    exec(compile(cell, 'cell', 'exec'), globals())\n", serde_json::json!(cells));
    fs::write(dir.join("cells.py"), script).unwrap();
    let mut python = Command::new("python3");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PIPELINE_")) {
        python.env_remove(name);
    }
    match python.arg("cells.py").current_dir(dir).output() {
        Ok(output) => Some(output),
        Err(e) => {
            eprintln!("SKIPPED: the notebook's cells are not run, because there is no python3 ({e})");
            None
        }
    }
}

#[test]
fn the_notebook_installs_the_program_and_does_the_work() {
    let p = Project::new(2);
    p.ok(&["export", "--until", "label", "--out", "a bundle.tar"])
        .says(&["notebook.ipynb", "the program in it is for"]);
    let far = tempfile::tempdir().unwrap();
    let bundle = p.path("a bundle.tar");
    let Some(missing) = run_notebook(far.path(), &bundle) else { return };
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("upload it"), "{missing:?}");
    fs::copy(&bundle, far.path().join("a bundle.tar")).unwrap();
    // The second time as after a session that died.
    for status in ["label  done after", "label  is up to date"] {
        let ran = run_notebook(far.path(), &bundle).unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
        assert!(
            said.contains(status) && said.contains("  pipeline import 'a bundle.tar.done'\n  pipeline run\n"),
            "{said}"
        );
    }
    is_as_run_here(&p, &far.path().join("a bundle.tar.done"), &["ontology", "label"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_notebook_on_a_machine_of_another_kind_says_what_to_do() {
    let p = Project::new(1);
    let binary = Path::new(env!("CARGO_BIN_EXE_pipeline"));
    // The same program, labelled as one for another processor.
    let mut bytes = fs::read(binary).unwrap();
    let (other, number) = if cfg!(target_arch = "aarch64") { ("x86_64", 62u16) } else { ("aarch64", 183) };
    bytes[18..20].copy_from_slice(&number.to_le_bytes());
    fs::write(p.path("other"), bytes).unwrap();
    let written = p.ok(&["export", "--until", "label", "--out", "work.tar", "--program", "other", "--json"]).json();
    assert!(written["program_for"].as_str().unwrap().starts_with(&format!("Linux on {other}")), "{written}");
    let far = tempfile::tempdir().unwrap();
    fs::copy(p.path("work.tar"), far.path().join("work.tar")).unwrap();
    let Some(ran) = run_notebook(far.path(), &p.path("work.tar")) else { return };
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && !far.path().join("work.tar.done").exists());
    let here = format!("This machine is Linux on {}", std::env::consts::ARCH);
    for words in ["does not start here", &here, &format!("is for Linux on {other}"), "cargo install"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // A build of one's own beside the bundle is taken instead.
    fs::copy(binary, far.path().join("pipeline")).unwrap();
    let ran = run_notebook(far.path(), &p.path("work.tar")).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(far.path().join("work.tar.done").is_file());
    p.call(&["export", "--until", "label", "--out", "no.tar", "--program", "pipeline.yaml"])
        .exits(2)
        .says(&["no program"]);
}

/// Machines that the program is sent to have what docs/remote.md says.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_program_needs_no_newer_c_library_than_the_documents_say() {
    let p = Project::new(1);
    let written = p.ok(&["export", "--until", "label", "--out", "work.tar", "--json"]).json();
    let version = |text: &str| {
        let rest = text.split("glibc ").nth(1).unwrap_or_else(|| panic!("no version of glibc in: {text}"));
        let numbers: Vec<u32> = rest.split(|c: char| !c.is_ascii_digit()).take(2).map(|n| n.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    };
    let needed = written["program_for"].as_str().unwrap();
    let promised = include_str!("../docs/remote.md");
    let own = Command::new("getconf").arg("GNU_LIBC_VERSION").output().unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    if version(&own) > (2, 36) {
        // The linker takes the newest version of every function that is there.
        eprintln!("SKIPPED: built with {}, and the promise is about builds with glibc 2.36 or older", own.trim());
        return;
    }
    assert!(version(needed) <= version(promised), "it needs {needed}: call nothing newer, or change docs/remote.md");
}
