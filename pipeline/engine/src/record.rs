//! Run records: `runs/<id>/run.json`, the truth about what a run did.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    context::Notes,
    digest::Digest,
    machine::Machine,
    result::pretty,
    store::{Store, StoreError},
};

/// How a run or a stage of it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not begun.
    Pending,
    /// Going on.
    Running,
    /// Finished in this run.
    Done,
    /// The result was there already.
    Cached,
    /// An earlier result was used although its key is another, because the run started later in the graph.
    Reused,
    /// A person has to act.
    Waiting,
    /// Ended with an error.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Not run, because a stage before it did not finish.
    Blocked,
    /// Not part of this run.
    Excluded,
}

impl Status {
    /// The word in records and on screen.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cached => "cached",
            Self::Reused => "reused",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Blocked => "blocked",
            Self::Excluded => "excluded",
        }
    }

    /// True when the stage's outputs can be read.
    pub fn has_outputs(self) -> bool {
        matches!(self, Self::Done | Self::Cached | Self::Reused)
    }
}

/// One stage in a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// How it stands.
    pub status: Status,
    /// Name and version of the stage's code.
    pub uses: String,
    /// See `uses`.
    pub version: u32,
    /// The full config.
    pub config: Value,
    /// The key, once its inputs were known.
    #[serde(default)]
    pub key: Option<Digest>,
    /// The log of its items, for a stage of items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_log: Option<Digest>,
    /// Why it ran, in words.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Input artifacts by port.
    #[serde(default)]
    pub inputs: BTreeMap<String, Digest>,
    /// Output artifacts by port.
    #[serde(default)]
    pub outputs: BTreeMap<String, Digest>,
    /// Metrics, messages, devices.
    #[serde(default)]
    pub notes: Notes,
    /// The run whose result this is; another one when cached.
    #[serde(default)]
    pub from_run: Option<String>,
    /// Where it ran.
    #[serde(default)]
    pub executor: String,
    /// Why there, when something had to be decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub placement: String,
    /// Seconds it took; those of the run that made the result when cached.
    #[serde(default)]
    pub seconds: f64,
    /// The error, or what is waited for.
    #[serde(default)]
    pub detail: String,
}

/// One input of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputRecord {
    /// The path as configured.
    pub path: PathBuf,
    /// Digest of the artifact that the scan gave.
    pub artifact: Digest,
    /// Number of files.
    pub files: u64,
    /// Files that were left out, with reasons (the first hundred).
    #[serde(default)]
    pub left_out: Vec<(String, String)>,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Layout of this file.
    pub format: u32,
    /// Name of the run and of its folder.
    pub id: String,
    /// How it stands.
    pub status: Status,
    /// Why the run as a whole ended early, when no stage says it: an input that is not there, say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Version of the program.
    pub program: String,
    /// Process id of the program, on the machine it ran on.
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC; absent while it runs.
    #[serde(default)]
    pub finished_at: Option<String>,
    /// What was asked for: the command line's selection.
    pub selection: Value,
    /// Cores, memory, GPUs.
    pub machine: Machine,
    /// Inputs by name.
    pub inputs: BTreeMap<String, InputRecord>,
    /// Names of the stages, in the order of the graph.
    pub order: Vec<String>,
    /// Stages by name.
    pub stages: BTreeMap<String, StageRecord>,
}

impl RunRecord {
    /// Reads a run's record.
    pub fn load(run_dir: &Path) -> Result<Self, StoreError> {
        let path = run_dir.join("run.json");
        let bytes = fs::read(&path).map_err(StoreError::io("reading", &path, 0))?;
        serde_json::from_slice(&bytes)
            .map_err(|source| StoreError::Json { what: format!("run record `{}`", path.display()), source })
    }

    /// Writes the record, whole or not at all.
    pub fn save(&self, store: &Store, run_dir: &Path) -> Result<(), StoreError> {
        store.write_file(&run_dir.join("run.json"), &pretty(self))
    }

    /// Every key of the run.
    pub fn keys(&self) -> impl Iterator<Item = Digest> {
        self.stages.values().filter_map(|s| s.key)
    }

    /// Every artifact that the run read or wrote.
    pub fn artifacts(&self) -> impl Iterator<Item = Digest> {
        let stages = self.stages.values().flat_map(|s| s.inputs.values().chain(s.outputs.values()).copied());
        stages.chain(self.inputs.values().map(|i| i.artifact))
    }
}

/// The current time, RFC 3339 in UTC, to the millisecond.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Makes the folder of a new run below `runs`; its name is the time of its start, and a number when that is taken.
pub fn new_run_dir(runs: &Path) -> Result<(String, PathBuf), StoreError> {
    let base = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    fs::create_dir_all(runs).map_err(StoreError::io("creating folder", runs, 0))?;
    for n in 1.. {
        let id = if n == 1 { base.clone() } else { format!("{base}-{n}") };
        let dir = runs.join(&id);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((id, dir)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("creating folder", &dir, 0)(e)),
        }
    }
    unreachable!("the loop ends only by returning")
}

/// Ids of all runs below `runs`, oldest first.
pub fn run_ids(runs: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(runs) else { return Vec::new() };
    let mut ids: Vec<String> = entries
        .filter_map(|e| {
            let e = e.ok()?;
            let name = e.file_name().into_string().ok()?;
            let is_run = e.file_type().ok()?.is_dir() && e.path().join("run.json").is_file();
            is_run.then_some(name)
        })
        .collect();
    // `…-2` to `…-10` of one second come in the order of their numbers.
    ids.sort_by_key(|id| {
        let mut parts = id.splitn(3, '-');
        let (day, time) = (parts.next().map(str::to_owned), parts.next().map(str::to_owned));
        (day, time, parts.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(1))
    });
    ids
}
