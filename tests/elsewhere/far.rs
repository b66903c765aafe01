//! A project whose stages run on a server, and what can be seen and done there.
//!
//! Owns how workers are found, stopped and killed and how the store's records are read. Refuses to know any one system.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use executors::objects::{Objects, Remote};
use serde_json::Value;
use synth::SynthSettings;

use crate::support::{Done, Project, YAML, outputs, sheet_settings};

/// Labels, which is what most tests are about.
pub const LABEL: [&str; 3] = ["run", "--until", "label"];
/// Sheets of [`Sheets::Slow`].
pub const SLOW: u64 = 8;
/// Pictures of [`Sheets::Tiny`].
pub const TINY: u32 = 10_000;
/// Time for anything that has to come.
const PATIENCE: Duration = Duration::from_secs(150);

/// What a project labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sheets {
    /// Five small ones, and a training on them.
    Sample,
    /// [`SLOW`] of a few tenths of a second each, so that a worker can be met at its work.
    Slow,
    /// [`TINY`] pictures on which nothing can be found, so that the work itself costs next to nothing.
    Tiny,
}

impl Sheets {
    fn project(self) -> Project {
        static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        match self {
            Self::Sample => Project::new(5),
            Self::Slow => {
                let project = Project::without_sheets();
                // The templates are those of small sheets: the symbols are the same.
                let settings = SynthSettings { width: 4200, height: 3200, ..sheet_settings() };
                let draw =
                    || (0..SLOW).map(|i| synth::sheet(&settings, crate::support::SEED, i).unwrap().file).collect();
                for (i, file) in FILES.get_or_init(draw).iter().enumerate() {
                    project.write(&format!("drawings/sheet_{i:04}.png"), file);
                }
                project
            }
            Self::Tiny => {
                let project = Project::without_sheets();
                for i in 0..TINY {
                    let grey = |x: u32, y: u32| image::Luma([(i >> ((x + 4 * y) % 16)) as u8 & 1]);
                    let mut png = std::io::Cursor::new(Vec::new());
                    image::GrayImage::from_fn(16, 16, grey).write_to(&mut png, image::ImageFormat::Png).unwrap();
                    project.write(&format!("drawings/{i:05}.png"), &png.into_inner());
                }
                project
            }
        }
    }

    /// The command that is run.
    pub fn command(self) -> &'static [&'static str] {
        match self {
            Self::Sample => &["run", "--until", "train"],
            Self::Slow | Self::Tiny => &LABEL,
        }
    }

    fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Sample => &["label", "train"],
            Self::Slow | Self::Tiny => &["label"],
        }
    }

    /// What a run on this machine gives.
    pub fn expected(self) -> &'static BTreeMap<String, String> {
        static SAMPLE: OnceLock<BTreeMap<String, String>> = OnceLock::new();
        static LARGE: OnceLock<BTreeMap<String, String>> = OnceLock::new();
        static SMALL: OnceLock<BTreeMap<String, String>> = OnceLock::new();
        let known = match self {
            Self::Sample => &SAMPLE,
            Self::Slow => &LARGE,
            Self::Tiny => &SMALL,
        };
        known.get_or_init(|| {
            let here = self.project();
            here.ok(self.command());
            outputs(&here.record(), self.stages())
        })
    }
}

/// Where a server runs, and the turn to use it alone; said aloud where none does.
pub fn server(variable: &str) -> Option<(String, MutexGuard<'static, ()>)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let Ok(place) = std::env::var(variable) else {
        eprintln!("SKIPPED: no server; `tests/servers/run` starts one and sets {variable}");
        return None;
    };
    Some((place, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Calls one of the scripts of `tests/servers`.
pub fn script(name: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers").join(name);
    // A daemon that it starts must not hold a pipe of ours open.
    let log = tempfile::NamedTempFile::new().unwrap();
    let status =
        Command::new(&path).args(arguments).stdout(Stdio::null()).stderr(log.reopen().unwrap()).status().unwrap();
    assert!(status.success(), "{} {arguments:?}: {}", path.display(), fs::read_to_string(log.path()).unwrap());
}

/// Waits until `done`.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to processes; one that is over is no error.
pub fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// All processes with their command lines, word by word.
pub fn processes() -> Vec<(u32, Vec<String>)> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
        Some((pid, words.collect()))
    })
    .collect()
}

/// The process that started another one.
pub fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// What became of a shard.
#[derive(Debug)]
pub struct Told {
    pub items: u64,
    /// Items that the attempt whose result counts computed itself.
    pub computed: u64,
    /// Items in the parts of all other attempts.
    pub kept: u64,
    /// Names of all attempts.
    pub attempts: Vec<String>,
}

/// A project with the executor `far`.
pub struct Far {
    pub project: Project,
    pub store: String,
    pub sheets: Sheets,
    environment: Vec<(String, String)>,
    /// Another way to the store, for looking at it.
    pub aside: Option<String>,
}

impl Far {
    /// `executor` are the settings of `far` but for the store, which is a folder of the project.
    pub fn new(sheets: Sheets, executor: &str) -> Self {
        let project = sheets.project();
        let store = project.path("shared").display().to_string();
        Self::with_store(project, sheets, executor, store, Vec::new())
    }

    /// With a store anywhere, and variables that lead there.
    pub fn at(sheets: Sheets, executor: &str, store: String, environment: Vec<(String, String)>) -> Self {
        Self::with_store(sheets.project(), sheets, executor, store, environment)
    }

    fn with_store(
        project: Project,
        sheets: Sheets,
        executor: &str,
        store: String,
        environment: Vec<(String, String)>,
    ) -> Self {
        let yaml = YAML
            .replace("label: { scale: { base: 1 } }", "label: { scale: { base: 1 }, executor: far }")
            .replace("    epochs: 2\n", "    epochs: 2\n    gpu: true\n");
        project.write(
            "pipeline.yaml",
            format!("{yaml}executors:\n  far: {{ {executor}, store: \"{store}\" }}\n").as_bytes(),
        );
        Self { project, store, sheets, environment, aside: None }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.project.command(args);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts the run.
    pub fn start(&self) -> Running {
        let log = tempfile::NamedTempFile::new().unwrap();
        let out = log.reopen().unwrap();
        let mut command = self.command(self.sheets.command());
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Running { child, log }
    }

    /// Runs to the end, which has to be a good one with the bytes of a local run.
    pub fn ends_well(&self) {
        self.start().ends_well(self);
    }

    /// The outputs have to be those of a run on this machine.
    pub fn is_equal(&self) {
        let record = self.project.record();
        assert_eq!(outputs(&record, self.sheets.stages()), *self.sheets.expected());
        assert_eq!(record["stages"]["label"]["executor"], "far");
        assert_eq!(self.paths("differs"), Vec::<String>::new());
    }

    pub fn objects(&self) -> Remote {
        let aside = self.aside.iter().map(|address| ("AWS_ENDPOINT_URL".to_owned(), address.clone()));
        Remote::open(&self.store, &self.environment.iter().cloned().chain(aside).collect::<Vec<_>>()).unwrap()
    }

    /// Paths of the store.
    pub fn paths(&self, folder: &str) -> Vec<String> {
        self.objects().list(folder).unwrap()
    }

    /// Attempts that were begun.
    pub fn begun(&self) -> usize {
        self.paths("attempts").iter().filter(|p| p.ends_with("/begun")).count()
    }

    /// The workers of this project on this machine.
    pub fn workers(&self) -> Vec<u32> {
        let is_worker = |words: &[String]| {
            words.windows(2).any(|w| w[0] == "--spec" && w[1] == self.store) && !words[0].ends_with("faketime")
        };
        processes().into_iter().filter(|(_, words)| is_worker(words)).map(|(pid, _)| pid).collect()
    }

    /// Stops all workers, without their notice, as soon as one of them left a part.
    pub fn freeze(&self) -> Vec<u32> {
        wait_for("a part", || self.paths("attempts").iter().any(|p| p.contains("/part-")));
        let workers = self.workers();
        signal("STOP", &workers);
        assert!(!workers.is_empty(), "the workers were done before they could be met");
        workers
    }

    /// Stops so many workers, each soon after it began.
    pub fn stop_begun(&self, count: usize) -> Vec<u32> {
        let mut workers = Vec::new();
        wait_for("workers that have begun", || {
            workers = self.workers();
            let all_begun = self.begun() >= workers.len();
            if all_begun {
                signal("STOP", &workers);
            }
            all_begun && workers.len() == count
        });
        workers
    }

    /// What became of every shard.
    pub fn told(&self) -> Vec<Told> {
        let objects = self.objects();
        let read = |path: &str| -> Value { serde_json::from_slice(&objects.get(path).unwrap().unwrap()).unwrap() };
        let lists = self.paths("jobs");
        let attempts = self.paths("attempts");
        let mut told = Vec::new();
        for path in self.paths("done") {
            let done = read(&path);
            let (job, shard) = path["done/".len()..].trim_end_matches(".json").split_once('/').unwrap();
            let (generation, number) = shard.split_once('-').unwrap();
            let list = lists.iter().find(|p| {
                p.starts_with(&format!("jobs/{job}/{generation}/")) && p.ends_with(&format!("/{number}.json"))
            });
            let Some(list) = list else { continue };
            let mut of_shard: BTreeMap<&str, u64> = BTreeMap::new();
            for path in attempts.iter().filter_map(|p| p.strip_prefix(&format!("attempts/{job}/{shard}/"))) {
                let (attempt, name) = path.split_once('/').unwrap();
                let count = name.strip_prefix("part-").map_or(0, |n| n.split('-').nth(1).unwrap().parse().unwrap());
                *of_shard.entry(attempt).or_default() += count;
            }
            let winner = done["attempt"].as_str().unwrap();
            told.push(Told {
                items: read(list).as_array().unwrap().len() as u64,
                computed: done["cost"]["computed"].as_u64().unwrap(),
                kept: of_shard.iter().filter(|(name, _)| **name != winner).map(|(_, count)| count).sum(),
                attempts: of_shard.into_keys().map(str::to_owned).collect(),
            });
        }
        assert!(!told.is_empty());
        told
    }

    /// What the attempts whose results count cost.
    pub fn costs(&self) -> Vec<Value> {
        let objects = self.objects();
        let read = |path: &String| -> Value { serde_json::from_slice(&objects.get(path).unwrap().unwrap()).unwrap() };
        self.paths("done").iter().map(|p| read(p)["cost"].clone()).collect()
    }

    /// No item that a dead attempt left in a part was computed again; the number of those that were left.
    pub fn nothing_twice(&self) -> u64 {
        let told = self.told();
        for shard in &told {
            assert_eq!(shard.computed + shard.kept, shard.items, "{shard:?}");
        }
        told.iter().map(|s| s.kept).sum()
    }
}

/// A run under way.
pub struct Running {
    pub child: Child,
    log: tempfile::NamedTempFile,
}

impl Running {
    pub fn signal(&self, name: &str) {
        signal(name, &[self.child.id()]);
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    pub fn wait(mut self) -> Done {
        let start = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("the run does not end:\n{}", self.said());
            }
            thread::sleep(Duration::from_millis(20));
        };
        Done { args: "run".into(), code, out: String::new(), err: self.said() }
    }

    pub fn ends_well(self, far: &Far) -> Done {
        let done = self.wait().exits(0);
        far.is_equal();
        done
    }
}

impl Drop for Running {
    /// A test that failed leaves nothing that is in the way of the next one.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        signal("KILL", &self.workers());
    }
}
