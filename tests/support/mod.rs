//! What the end-to-end tests share: a small project of drawn sheets, and the real binary run in it.
//!
//! Owns how a test project is made and how the program is called. Refuses to know what is right: that is the tests'.
#![allow(dead_code, missing_docs, reason = "each test program uses a part of this")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use synth::SynthSettings;

/// Seed of the drawings.
pub const SEED: u64 = 7;
/// Classes on the drawings.
pub const CLASSES: [&str; 3] = ["ball valve", "field discrete instrument", "globe valve"];

/// Settings under which everything is as small as it can be and still passes through every stage.
pub const YAML: &str = "\
version: 1
inputs:
  images: drawings
  templates: templates
stages:
  label: { scale: { base: 1 } }
  review: { gate: auto, picture_images: 4 }
  train:
    epochs: 2
    imgsz: 96
    batch: 2
    nominal_batch: 2
    val_fraction: 0.34
    tile: \"off\"
    warmup_min_batches: 2
    val_max_det: 50
  infer: { conf: 0.01, max_det: 20, tile: \"off\" }
";

/// Settings of the sheets.
pub fn sheet_settings() -> SynthSettings {
    SynthSettings {
        width: 400,
        height: 320,
        symbols: [5, 7],
        classes: CLASSES.map(str::to_owned).to_vec(),
        symbol_px: 40.0,
        scale: [0.9, 1.1],
        crossing: 0.0,
        distractors: 0.0,
        tags: 0.2,
        ..SynthSettings::clean()
    }
}

/// The file of sheet `index`, as PNG.
pub fn sheet(index: u64) -> Vec<u8> {
    synth::sheet(&sheet_settings(), SEED, index).unwrap().file
}

/// The templates, by file name.
pub fn templates() -> Vec<(String, Vec<u8>)> {
    let settings = sheet_settings();
    synth::symbol::templates(&synth::symbol::symbols(&settings, SEED).unwrap(), &settings)
}

/// A project folder, removed at the end.
pub struct Project {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
}

impl Project {
    /// Only the project file and the templates.
    pub fn without_sheets() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Links in the way to the temporary folder would make paths differ.
        let project = Self { root: dir.path().canonicalize().unwrap().join("project"), _dir: dir };
        project.write("pipeline.yaml", YAML.as_bytes());
        for (file, bytes) in templates() {
            project.write(&format!("templates/{file}"), &bytes);
        }
        fs::create_dir_all(project.root.join("drawings")).unwrap();
        project
    }

    /// With `sheets` drawings.
    pub fn new(sheets: u64) -> Self {
        let project = Self::without_sheets();
        project.add_sheets(0..sheets);
        project
    }

    pub fn add_sheets(&self, indices: std::ops::Range<u64>) {
        for i in indices {
            self.write(&format!("drawings/sheet_{i:04}.png"), &sheet(i));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The program in this folder, with an environment that sets nothing.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command.current_dir(&self.root).args(args).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PIPELINE_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program to its end.
    pub fn call(&self, args: &[&str]) -> Done {
        Done::new(args, self.command(args).output().unwrap())
    }

    /// Runs the program, which has to end well.
    pub fn ok(&self, args: &[&str]) -> Done {
        self.call(args).exits(0)
    }

    /// Starts the program and does not wait for it.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The newest run's record.
    pub fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("runs/latest/run.json")).unwrap()).unwrap()
    }

    /// The labels of the newest run: image -> number of boxes.
    pub fn labels(&self) -> BTreeMap<String, usize> {
        let path = self.path("runs/latest/label/annotations/annotations.jsonl");
        let text = fs::read_to_string(path).unwrap();
        let line = |l: &str| {
            let v: Value = serde_json::from_str(l).unwrap();
            (v["image"].as_str().unwrap().to_owned(), v["annotations"].as_array().unwrap().len())
        };
        text.lines().map(line).collect()
    }

    /// Events of the newest run, of one sort.
    pub fn events(&self, sort: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path("runs/latest/events.jsonl")).unwrap();
        let all = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        all.filter(|e| e["event"] == sort).collect()
    }

    /// Names of left-out images of a stage with the reasons, in the newest run.
    pub fn quarantined(&self, stage: &str) -> BTreeMap<String, String> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let events = self.events("item_quarantined").into_iter().filter(|e| e["stage"] == stage);
        events.map(|e| (text(&e["item"]), text(&e["reason"]))).collect()
    }
}

/// Digests of all outputs of the stages in a record, but for reports (which may tell times).
pub fn outputs(record: &Value, stages: &[&str]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for stage in stages {
        for (port, digest) in record["stages"][stage]["outputs"].as_object().unwrap() {
            out.insert(format!("{stage}.{port}"), digest.as_str().unwrap().to_owned());
        }
    }
    out
}

/// Statuses of the stages in a record.
pub fn statuses(record: &Value) -> BTreeMap<String, String> {
    let stages = record["stages"].as_object().unwrap();
    stages.iter().map(|(name, s)| (name.clone(), s["status"].as_str().unwrap().to_owned())).collect()
}

/// A call of the program that came to its end.
pub struct Done {
    pub args: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn new(args: &[&str], output: Output) -> Self {
        Self {
            args: args.join(" "),
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            err: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    /// Waits for a started program.
    pub fn wait(args: &[&str], child: Child) -> Self {
        Self::new(args, child.wait_with_output().unwrap())
    }

    /// The exit code has to be this one.
    pub fn exits(self, code: i32) -> Self {
        let Self { args, out, err, .. } = &self;
        assert_eq!(self.code, Some(code), "`pipeline {args}`\n--- stdout\n{out}\n--- stderr\n{err}");
        self
    }

    /// All words have to be in what was said, wherever lines were broken.
    pub fn says(self, words: &[&str]) -> Self {
        let flat = flat(&format!("{}\n{}", self.err, self.out));
        for w in words {
            assert!(
                flat.contains(&self::flat(w)),
                "`pipeline {}` does not say {w:?}:\n{}\n{}",
                self.args,
                self.out,
                self.err
            );
        }
        self
    }

    /// Stdout as the one JSON document that it has to be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| {
            panic!("`pipeline {}`: stdout is not one JSON document ({e}):\n{}", self.args, self.out)
        })
    }
}

/// Text without line breaks and the frames of error messages.
fn flat(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !"│╭╰─×├▶·".contains(*c)).collect()
}

/// The plan of a stage in `plan --json`.
pub fn planned<'a>(plan: &'a Value, stage: &str) -> &'a Value {
    plan["stages"].as_array().unwrap().iter().find(|s| s["name"] == stage).unwrap()
}

/// True when the tests may do anything; permissions then stop nobody.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")))
}

/// Mounts a small file system at `dir` until dropped; says so when that is not allowed here.
pub fn mount(dir: &Path, options: &str) -> Option<Mounted> {
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).output();
    if output.is_ok_and(|o| o.status.success()) {
        return Some(Mounted(dir.to_owned()));
    }
    eprintln!("SKIPPED: mounting a file system ({options}) is not allowed here");
    None
}

/// A mounted file system.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
